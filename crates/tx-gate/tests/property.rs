//! Under random faults every transaction ends one way, and nobody was told or asked anything else. The net checks each
//! answer and each second-phase call at the moment it is given (`net::Net::hear`); this drives it and looks at the end.

mod net;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use net::*;
use settle_base::Prng;
use settle_tx::{BranchStatus, BranchType, CallKind, Direction, GlobalStatus, Tid};
use settle_tx_gate::{ClientAnswer, ClientRequest, GateConfig, GateNote, RequestKey, RmAnswer};

const SEEDS: u64 = 60;
const FAULTY_MS: u64 = 60_000;

/// What a run met; over all seeds nothing may stay at zero.
#[derive(Default, Debug)]
struct Coverage {
    elections: u64,
    cuts: u64,
    committed: u64,
    rolled_back: u64,
    timed_out: u64,
    holds_expired: u64,
    reproposed: u64,
    calls_made: u64,
    calls_failed: u64,
    calls_refused_old_term: u64,
    rm_nonsense: u64,
    late_repeats: u64,
    answered_in_phase_two: u64,
}

/// A transaction as its client sees it.
struct Work {
    tm: Conn,
    xid: Option<String>,
    /// The request that it waits for, and since when.
    asked: Option<(RequestKey, u64)>,
    branches_to_do: u64,
    wants_commit: bool,
    is_over: bool,
}

fn quick() -> GateConfig {
    let mut config = config();
    config.reply_hold_rm = Duration::from_secs(3);
    config.reply_hold_tm = Duration::from_secs(6);
    config.phase_two_wait = Duration::from_secs(2);
    config.call_timeout = Duration::from_secs(2);
    config.fact_hold = Duration::from_secs(10);
    config.driver.call_timeout = Duration::from_secs(3);
    config.driver.backoff_max = Duration::from_secs(4);
    config
}

const RESOURCES: [(&str, BranchType); 3] = [
    ("db", BranchType::At),
    ("action", BranchType::Tcc),
    ("xa", BranchType::Xa),
];

struct World {
    net: Net,
    prng: Prng,
    rms: Vec<(Conn, &'static str)>,
    works: Vec<Work>,
    next_port: u16,
    asked_branches: BTreeMap<String, usize>,
    branch_ids: BTreeSet<i64>,
    coverage: Coverage,
}

impl World {
    fn new(seed: u64) -> World {
        let mut world = World {
            net: Net::with(3, seed, quick()),
            prng: Prng::from_parts(&[seed, 99]),
            rms: Vec::new(),
            works: Vec::new(),
            next_port: 50_000,
            asked_branches: BTreeMap::new(),
            branch_ids: BTreeSet::new(),
            coverage: Coverage::default(),
        };
        for _ in 0..6 {
            world.connect_rm();
        }
        world
    }

    fn connect_rm(&mut self) {
        let (resource, _) = RESOURCES[self.prng.below(3) as usize];
        self.connect_rm_of(resource);
    }

    fn connect_rm_of(&mut self, resource: &'static str) {
        let node = self.prng.below(3) as usize;
        let ip = ["10.0.0.1", "10.0.0.2"][self.prng.below(2) as usize];
        self.next_port += 1;
        let conn = self.net.rm(node, "stock", ip, self.next_port, resource);
        self.rms.push((conn, resource));
    }

    fn disturb(&mut self) {
        let node = self.prng.below(3) as usize;
        let other = (node + 1) % 3;
        match self.prng.below(1_000) {
            0..3 => {
                let told: Vec<usize> = (0..3).filter(|n| *n == node || !self.prng.percent(30)).collect();
                self.net.elect_told(node, &told);
                self.coverage.elections += 1;
            }
            3..5 => self.net.lose_leader(),
            5..10 => (0..3).for_each(|node| self.net.tell_role(node)),
            10..13 => {
                match self.prng.below(3) {
                    0 => self.net.cut(node, other),
                    1 => self.net.hang_up(node, other),
                    _ => self.net.hang_up(other, node),
                }
                self.coverage.cuts += 1;
            }
            13..23 if !self.net.is_joined(node, other) => self.net.join(node, other),
            23..25 => self.net.nodes[node].is_apply_paused = true,
            25..35 => self.net.nodes[node].is_apply_paused = false,
            35..40 if !self.rms.is_empty() => {
                let at = self.prng.below(self.rms.len() as u64) as usize;
                let (conn, _) = self.rms.swap_remove(at);
                self.net.close(conn);
            }
            40..47 if self.rms.len() < 10 => self.connect_rm(),
            _ => {}
        }
        if self.net.leader.is_none() && self.prng.percent(2) {
            self.net.elect(node);
            self.coverage.elections += 1;
        }
    }

    /// Resource managers do, or fail to do, what they are asked.
    fn answer_calls(&mut self, is_healthy: bool) {
        let calls: Vec<SeenCall> = self.net.unanswered().cloned().collect();
        for call in calls {
            if !self.prng.percent(if is_healthy { 100 } else { 5 }) {
                continue;
            }
            let is_commit = call.body.kind == CallKind::Commit;
            let (done, retry, wrong) = match is_commit {
                true => (
                    BranchStatus::PhaseTwoCommitted,
                    BranchStatus::PhaseTwoCommitFailedRetryable,
                    8,
                ),
                false => (
                    BranchStatus::PhaseTwoRollbacked,
                    BranchStatus::PhaseTwoRollbackFailedRetryable,
                    5,
                ),
            };
            match self.prng.below(if is_healthy { 70 } else { 100 }) {
                0..70 => self.net.rm_says(&call, done),
                70..78 => self.net.rm_says(&call, retry),
                78..82 => self
                    .net
                    .rm_says(&call, BranchStatus::try_from(wrong).expect("a status")),
                82..86 => {
                    self.net.rm_says(&call, done);
                    self.net.rm_says(&call, done);
                    self.coverage.late_repeats += 1;
                }
                86..88 => {
                    let (xid, branch) = (call.body.xid.clone(), call.body.branch + 1);
                    self.net.rm_answers(
                        &call,
                        RmAnswer {
                            ok: true,
                            branch_status: Some(done),
                            xid,
                            branch,
                        },
                    );
                }
                88..94 => self.net.close(call.conn),
                // Never: it times out.
                _ => {
                    let same = |seen: &&mut SeenCall| seen.call == call.call && seen.conn == call.conn;
                    self.net.calls.iter_mut().find(same).expect("it was made").is_answered = true;
                }
            }
        }
        let open = &self.net.open;
        self.rms.retain(|(conn, _)| open.contains(conn));
    }

    /// Clients: begin, register some branches, end; asked again on another node when a request stays unanswered.
    fn work(&mut self) {
        if self.works.iter().filter(|work| !work.is_over).count() < 6 && self.prng.percent(5) {
            let tm = self.net.tm(self.prng.below(3) as usize);
            let (branches_to_do, wants_commit) = (self.prng.below(4), self.prng.percent(65));
            self.works.push(Work {
                tm,
                xid: None,
                asked: None,
                branches_to_do,
                wants_commit,
                is_over: false,
            });
        }
        for at in 0..self.works.len() {
            self.work_on(at);
        }
    }

    fn work_on(&mut self, at: usize) {
        let now = self.net.now_ms;
        let work = &mut self.works[at];
        if work.is_over {
            return;
        }
        let Some((key, since)) = work.asked else {
            return self.ask_next(at);
        };
        let Some(told) = self.net.told.get(&key) else {
            // The client's own timeout; then it asks through another node.
            if now - since > 8_000 {
                work.asked = None;
                let node = self.prng.below(3) as usize;
                self.works[at].tm = self.net.tm(node);
            }
            return;
        };
        let told = told.clone();
        work.asked = None;
        match told {
            Told::Answer(ClientAnswer::Begun { xid }) => work.xid = Some(xid),
            Told::Answer(ClientAnswer::BranchRegistered { branch }) => {
                assert!(self.branch_ids.insert(branch), "branch {branch} was given twice");
                work.branches_to_do -= 1;
            }
            Told::Answer(ClientAnswer::Refused(_)) => work.branches_to_do = 0,
            Told::Answer(ClientAnswer::Ended { status }) => {
                work.is_over = true;
                self.coverage.answered_in_phase_two += u64::from((2..8).contains(&status.as_u8()));
            }
            // A begin is not repeated by clients, and a branch whose registration failed makes them roll back.
            Told::Dropped(_) if work.xid.is_none() => work.is_over = true,
            Told::Dropped(_) if work.branches_to_do > 0 => (work.branches_to_do, work.wants_commit) = (0, false),
            Told::Dropped(_) => {}
            Told::Answer(other) => panic!("{other:?} answers nothing that was asked"),
        }
    }

    fn ask_next(&mut self, at: usize) {
        let work = &self.works[at];
        let (conn, body) = match &work.xid {
            None => (work.tm, begin(self.prng.between(2_000, 20_000) as i32)),
            Some(xid) if work.branches_to_do > 0 => {
                if self.rms.is_empty() || !self.prng.percent(10) {
                    return;
                }
                let (rm, resource) = self.rms[self.prng.below(self.rms.len() as u64) as usize];
                let branch_type = RESOURCES
                    .iter()
                    .find(|(name, _)| *name == resource)
                    .expect("one of three")
                    .1;
                *self.asked_branches.entry(xid.clone()).or_default() += 1;
                let row = format!("t:{}", self.prng.below(1_000));
                (rm, registration(xid, branch_type, resource, &row))
            }
            Some(xid) if work.wants_commit => (work.tm, commit(xid)),
            Some(xid) => (work.tm, rollback(xid)),
        };
        let key = self.net.ask(conn, body);
        self.works[at].asked = Some((key, self.net.now_ms));
    }

    fn check_branch_counts(&self) {
        for global in self.net.oracle.globals() {
            let asked = self.asked_branches.get(&global.xid.to_string()).copied().unwrap_or(0);
            assert!(
                global.branches().len() <= asked,
                "{}: a request registered two branches",
                global.xid
            );
        }
    }

    fn heal(&mut self) {
        self.net.faults = Faults::default();
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            self.net.join(a, b);
        }
        for node in 0..3 {
            self.net.nodes[node].is_apply_paused = false;
        }
        let leader = self.prng.below(3) as usize;
        self.net.elect(leader);
        for (resource, _) in RESOURCES {
            self.connect_rm_of(resource);
        }
    }
}

fn run(seed: u64) -> Coverage {
    let mut world = World::new(seed);
    world.net.faults = Faults {
        proposal_lost: 10,
        proposal_twice: 10,
        read_lost: 20,
        call_lost: 10,
        news_lost: 20,
        delay_ms: [0, 100, 1_500][(seed % 3) as usize],
        apply_lag_ms: [0, 60, 400][(seed / 3 % 3) as usize],
    };
    while world.net.now_ms < FAULTY_MS {
        world.disturb();
        world.answer_calls(false);
        world.work();
        world.net.step();
        if world.net.now_ms.is_multiple_of(1_000) {
            world.check_branch_counts();
        }
    }
    world.heal();
    let until = world.net.now_ms + 90_000;
    while world.net.oracle.open_count() > 0 || world.works.iter().any(|work| !work.is_over) {
        assert!(
            world.net.now_ms < until,
            "seed {seed}: {} transactions never end",
            world.net.oracle.open_count()
        );
        world.answer_calls(true);
        for at in 0..world.works.len() {
            world.work_on(at);
        }
        world.net.step();
    }
    world.net.run(30_000);

    let mut coverage = std::mem::take(&mut world.coverage);
    let tm = world.net.tm(0);
    let xids: Vec<String> = world.net.begun.iter().cloned().collect();
    for xid in xids {
        let truth = world.net.oracle.outcome(Tid::from_xid(&xid).expect("ours")).status();
        let expected = match truth.direction() {
            Some(Direction::Commit) => GlobalStatus::Committed,
            _ => GlobalStatus::TimeoutRollbacked,
        };
        assert_eq!(
            world.net.call(tm, commit(&xid)),
            ClientAnswer::Ended { status: expected },
            "seed {seed}: {xid}"
        );
        match truth {
            GlobalStatus::Committed => coverage.committed += 1,
            GlobalStatus::Rollbacked => coverage.rolled_back += 1,
            GlobalStatus::TimeoutRollbacked => coverage.timed_out += 1,
            other => panic!("seed {seed}: {xid} ended as {other}"),
        }
    }
    for (key, (conn, body)) in &world.net.requests {
        let is_registration = matches!(
            body,
            ClientRequest::RegisterTm { .. } | ClientRequest::RegisterRm { .. }
        );
        let is_settled = world.net.told.contains_key(key) || !world.net.open.contains(conn);
        assert!(
            is_registration || is_settled,
            "seed {seed}: {body:?} was neither answered nor dropped"
        );
    }
    world.net.oracle.check_invariants();
    for node in &world.net.nodes {
        let stats = node.gate.stats();
        assert_eq!(
            (
                stats.requests_in_flight,
                stats.commands_pending,
                stats.waiting_for_phase_two,
                stats.calls_outstanding
            ),
            (0, 0, 0, 0),
            "seed {seed}: nothing is left behind"
        );
        coverage.holds_expired += stats.holds_expired_total;
        coverage.reproposed += stats.commands_reproposed_total;
        coverage.calls_failed += stats.calls_failed_total;
        coverage.calls_refused_old_term += stats.calls_refused_old_term_total;
        coverage.rm_nonsense += stats.rm_nonsense_total;
    }
    coverage.calls_made = world.net.calls.len() as u64;
    let contradictions = world
        .net
        .notes
        .iter()
        .filter(|(_, note)| matches!(note, GateNote::FactRefused { .. } | GateNote::ContradictingCall { .. }));
    assert_eq!(contradictions.count(), 0, "seed {seed}: no honest fact is refused");
    coverage
}

#[test]
fn under_random_faults_every_transaction_ends_one_way_and_nobody_is_told_otherwise() {
    let mut sum = Coverage::default();
    for seed in 0..SEEDS {
        let one = run(seed);
        sum.elections += one.elections;
        sum.cuts += one.cuts;
        sum.committed += one.committed;
        sum.rolled_back += one.rolled_back;
        sum.timed_out += one.timed_out;
        sum.holds_expired += one.holds_expired;
        sum.reproposed += one.reproposed;
        sum.calls_made += one.calls_made;
        sum.calls_failed += one.calls_failed;
        sum.calls_refused_old_term += one.calls_refused_old_term;
        sum.rm_nonsense += one.rm_nonsense;
        sum.late_repeats += one.late_repeats;
        sum.answered_in_phase_two += one.answered_in_phase_two;
    }
    let text = format!("{sum:?}");
    println!("{text}");
    assert!(
        !text.contains(": 0,") && !text.contains(": 0 }"),
        "some fault was never met: {text}"
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(format!("{:?}", run(4)), format!("{:?}", run(4)));
}
