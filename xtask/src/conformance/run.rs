//! Playing one case against the cluster and judging it in SQL.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::bank::{Bank, Event, Transfer};
use super::beside;
use super::books::{self, AMOUNT, Balances, CLEAN_WITHIN, Entry, Expect};
use super::cases::{Case, Place, Plan, Scenario};
use super::cluster::Cluster;
use super::mariadb::MariaDb;
use super::report::Finding;
use super::together;
use super::wait;

/// The timeout of the transaction that the server is to end by itself.
const SHORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Java's transaction manager waits 30 s per call and calls at most five times.
const TOLD_WITHIN: Duration = Duration::from_secs(240);
const CALL_WITHIN: Duration = Duration::from_secs(60);
/// The timeout of every saga: its client keeps it, not its transaction.
pub const SAGA_TIMEOUT: Duration = Duration::from_secs(20);
/// How long after its timeout a transaction asks for an XA branch that its resource does not know.
const XAER_NOTA_AFTER: Duration = Duration::from_secs(60);

/// Everything a run needs.
pub struct Stage<'a> {
    pub cluster: &'a mut dyn Cluster,
    pub bank: &'a mut Bank,
    pub db: &'a MariaDb,
    /// Starts another process of the same application.
    pub another_bank: &'a dyn Fn(&dyn Cluster) -> Result<Bank>,
    /// A client that has lost its only server has to be started again.
    pub is_lost_with_its_server: bool,
    /// Starts a bank in Rust.
    pub rust_bank: &'a dyn Fn(&dyn Cluster) -> Result<Bank>,
    /// Where the undo logs of both go, if anywhere.
    pub record: Option<&'a Path>,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub plan: Plan,
    /// An account that no other run touches; TCC and sagas use the next one too.
    pub account: u32,
}

/// A transfer that stands still with both branches registered.
pub struct Open {
    pub id: String,
    pub xid: String,
    pub begun: Instant,
}

impl Stage<'_> {
    /// Plays `parts`, which [`super::cases::share`] put together, and judges each. The cluster may be left with a dead node.
    pub fn play(&mut self, parts: &[Part]) -> Result<Vec<Result<Finding>>> {
        let &[part] = parts else {
            return together::play(self, parts);
        };
        let played = match part.plan.case {
            Case::AtTimeout => self.timeout(part),
            Case::XaForgotten => self.forgotten(part),
            Case::SagaAdopted => self.adopted(part),
            Case::AtBesideRust => beside::play(self, part.account),
            _ => return together::play(self, parts),
        };
        self.bank.release()?;
        Ok(vec![played])
    }

    /// One of two prepared branches is ended behind the coordinator's back, as by an answer that was lost. Its resource
    /// manager then knows it no more, which counts as done a minute after the timeout and not before.
    fn forgotten(&mut self, part: Part) -> Result<Finding> {
        let before = books::balances(self.db, part.plan.case, part.account)?;
        let open = self.register(part, Some(SHORT_TIMEOUT))?;
        for row in self.db.query("XA RECOVER FORMAT='SQL'")? {
            // format, length of the first part, of the second, and both as a literal; the second bank's branch is the later.
            let xid = row.last().map(String::as_str).unwrap_or_default();
            if xid.to_lowercase().contains(&books::hex(&open.xid)) && self.is_of_bank_b(xid)? {
                self.end_behind_its_back(xid)?;
            }
        }
        let from = Instant::now();
        self.bank.go(&open.id)?;
        let done = self.done(&open.id)?;
        ensure!(done.text("told") == "committed", "told {}", done.text("told"));
        let after = self.clean(part, &open, before, Expect::Moved)?;
        let unknown = |event: &Event| {
            event.name() == "phase2-answer"
                && event.text("xid") == open.xid
                && event.text("status").contains("XAER_NOTA")
        };
        let due = open.begun + SHORT_TIMEOUT + XAER_NOTA_AFTER;
        self.cluster.until_ended(&open.xid, due + Duration::from_secs(70))?;
        ensure!(Instant::now() >= due, "it ended before its time");
        // Only now: a bank that lost its connections to the databases may fail for another reason first.
        ensure!(!self.bank.all(unknown).is_empty(), "no branch was forgotten");
        Ok(Finding {
            told: done.text("told").to_owned(),
            balances: books::show(before, after),
            stall: None,
            settled: Some(from.elapsed()),
            defence_rows: 0,
            note: "clean/ms until the forgotten branch counted as done".to_owned(),
        })
    }

    fn end_behind_its_back(&self, xid: &str) -> Result<()> {
        // Some versions keep the branch's connection, and nobody else can end the branch while that lives.
        if self.db.query(&format!("XA COMMIT {xid}")).is_ok() {
            return Ok(());
        }
        self.db.query("KILL USER settle@'127.0.0.1'")?;
        wait::until("the branch has no connection any more", CALL_WITHIN, || {
            let ended = self.db.query(&format!("XA COMMIT {xid}"));
            Ok(ended.map(drop).map_err(|error| format!("{error:#}")))
        })
    }

    /// Branch ids rise in the order of registration: bank b's is the larger of the two.
    fn is_of_bank_b(&self, xid: &str) -> Result<bool> {
        let all = self.db.query("XA RECOVER FORMAT='SQL'")?;
        Ok(all
            .iter()
            .filter_map(|row| row.last())
            .max_by_key(|other| branch_part(other))
            .is_some_and(|last| last == xid))
    }

    /// The client dies with both steps of a saga done; another one of its application undoes them when its time is up.
    fn adopted(&mut self, part: Part) -> Result<Finding> {
        let before = books::balances(self.db, part.plan.case, part.account)?;
        let open = self.register(part, None)?;
        self.bank.kill()?;
        if part.plan.scenario != Scenario::Peace {
            self.check_placed(part.plan.place, &open.xid)?;
            self.kill_leader()?;
        }
        *self.bank = (self.another_bank)(&*self.cluster)?;
        let from = open.begun + SAGA_TIMEOUT;
        let after = self.clean(part, &open, before, Expect::NotMoved)?;
        let settled = Instant::now().saturating_duration_since(from);
        let adopted =
            |event: &Event| event.name() == "phase2-call" && event.text("xid") == open.xid && event.branch() == -1;
        ensure!(!self.bank.all(adopted).is_empty(), "the other client was never called");
        self.cluster.until_ended(&open.xid, Instant::now() + CALL_WITHIN)?;
        books::check_calls(self.bank, self.db, &open.xid)?;
        Ok(Finding {
            told: "-".to_owned(),
            balances: books::show(before, after),
            stall: None,
            settled: Some(settled),
            defence_rows: 0,
            note: format!("clean/ms counts from the {} s timeout", SAGA_TIMEOUT.as_secs()),
        })
    }

    /// The business stands still beyond the timeout; the server alone must bring the money back.
    fn timeout(&mut self, part: Part) -> Result<Finding> {
        let before = books::balances(self.db, part.plan.case, part.account)?;
        if part.plan.scenario == Scenario::KillPhase2 {
            self.bank.hold()?;
        }
        let open = self.register(part, Some(SHORT_TIMEOUT))?;
        let due = open.begun + SHORT_TIMEOUT;
        if part.plan.scenario == Scenario::KillPhase2 {
            self.held_call(&open)?;
        }
        let from = match part.plan.scenario {
            Scenario::Peace => due,
            Scenario::KillRegistered | Scenario::KillPhase2 => {
                self.check_placed(part.plan.place, &open.xid)?;
                self.kill_leader()?.max(due)
            }
        };
        self.bank.release()?;
        let after = self.clean(part, &open, before, Expect::NotMoved)?;
        let settled = Instant::now().saturating_duration_since(from);
        self.bank.go(&open.id)?;
        let done = self.done(&open.id)?;
        ensure!(
            done.text("told") != "committed",
            "the business was told `committed` after the server timed it out"
        );
        let defence_rows = books::check_calls(self.bank, self.db, &open.xid)?;
        Ok(Finding {
            told: done.text("told").to_owned(),
            balances: books::show(before, after),
            stall: None,
            settled: Some(settled),
            defence_rows,
            note: format!(
                "clean/ms counts from the {} s timeout or the kill",
                SHORT_TIMEOUT.as_secs()
            ),
        })
    }

    /// Begins until the xid is where the plan wants it, then lets the transfer register both branches.
    pub fn register(&mut self, part: Part, timeout: Option<Duration>) -> Result<Open> {
        let Part { plan, account } = part;
        for attempt in 1..=200 {
            let id = format!("{}-{}-{account}-{attempt}", plan.case.name(), plan.scenario.name());
            let asked = Instant::now();
            self.bank.transfer(&Transfer {
                id: id.clone(),
                mode: plan.case.mode().name(),
                account,
                amount: AMOUNT,
                refuse: plan.case.refuses(),
                timeout_ms: timeout.map(|timeout| timeout.as_millis() as u64),
                pause: vec!["begun", "registered"],
            })?;
            let event = self.bank.wait("the transaction begins", CALL_WITHIN, |event| {
                event.text("id") == id && (event.name() == "paused" || event.name() == "done")
            })?;
            if event.name() == "done" {
                bail!("begin failed: {} {}", event.text("told"), event.text("detail"));
            }
            let xid = event.text("xid").to_owned();
            if !self.is_placed(plan.place, &xid)? {
                self.bank.abort(&id)?;
                self.done(&id)?;
                continue;
            }
            self.bank.go(&id)?;
            let registered = self.bank.wait("both branches are registered", CALL_WITHIN, |event| {
                event.text("id") == id && (event.text("at") == "registered" || event.name() == "done")
            })?;
            // On a busy machine its time may be over before both are; it began after it was asked for.
            let is_overtaken = timeout.is_some_and(|timeout| asked.elapsed() >= timeout);
            if registered.name() == "done" && is_overtaken {
                // Its rollback may stand still, and with it the rows that the next try wants.
                self.bank.release()?;
                self.cluster.until_ended(&xid, Instant::now() + CALL_WITHIN)?;
                if plan.scenario == Scenario::KillPhase2 {
                    self.bank.hold()?;
                }
                continue;
            }
            if registered.name() == "done" {
                bail!(
                    "phase one failed: {} {}",
                    registered.text("told"),
                    registered.text("detail")
                );
            }
            return Ok(Open {
                id,
                xid,
                begun: event.at,
            });
        }
        bail!("in 200 tries no transaction began on a node that fits {:?}", plan.place)
    }

    fn is_placed(&mut self, place: Place, xid: &str) -> Result<bool> {
        if matches!(place, Place::Any | Place::Spread) {
            return Ok(true);
        }
        let Some(node) = self.cluster.node_of(xid) else {
            bail!(
                "xid {xid} names none of {:?}: cannot place the client",
                self.cluster.addresses()
            );
        };
        Ok((node == self.cluster.leader()?) == (place == Place::Killed))
    }

    /// Fails when the transaction is no longer on such a node.
    pub fn check_placed(&mut self, place: Place, xid: &str) -> Result<()> {
        ensure!(
            self.is_placed(place, xid)?,
            "the leader moved before it could be killed"
        );
        Ok(())
    }

    pub fn held_call(&mut self, open: &Open) -> Result<()> {
        self.bank
            .wait("the first phase-two call arrives", CALL_WITHIN, |event| {
                event.name() == "phase2-call" && event.text("xid") == open.xid && event.held()
            })?;
        Ok(())
    }

    /// Kills the leader; gives the moment just before: to see that it is gone takes a busy machine as long as an election.
    pub fn kill_leader(&mut self) -> Result<Instant> {
        let leader = self.cluster.leader()?;
        let killed = Instant::now();
        self.cluster.kill(leader)?;
        Ok(killed)
    }

    pub fn done(&mut self, id: &str) -> Result<Event> {
        self.bank.wait(&format!("transfer {id} ends"), TOLD_WITHIN, |event| {
            event.name() == "done" && event.text("id") == id
        })
    }

    /// A second transfer over the same rows must fail on the global lock, and never commit.
    pub fn must_conflict(&mut self, holder: &str, account: u32) -> Result<()> {
        let id = format!("{holder}-second");
        self.retry_until(&id, account, "the global lock is seen", |event| {
            ensure!(
                event.text("told") != "committed",
                "a second transfer committed over a held global lock"
            );
            Ok(event.text("detail").to_lowercase().contains("lock"))
        })?;
        Ok(())
    }

    /// Runs transfers over `account` until `fits` says so; gives the number of tries.
    pub fn retry_until(
        &mut self,
        id: &str,
        account: u32,
        what: &str,
        fits: impl Fn(&Event) -> Result<bool>,
    ) -> Result<u32> {
        let deadline = Instant::now() + CLEAN_WITHIN;
        for attempt in 1.. {
            let id = format!("{id}-{attempt}");
            self.bank.transfer(&Transfer {
                id: id.clone(),
                mode: "at",
                account,
                amount: AMOUNT,
                refuse: false,
                timeout_ms: None,
                pause: Vec::new(),
            })?;
            let done = self.done(&id)?;
            if fits(&done)? {
                return Ok(attempt);
            }
            if Instant::now() > deadline {
                bail!(
                    "{what}: not within {} s; last: {}",
                    CLEAN_WITHIN.as_secs(),
                    done.text("detail")
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        unreachable!("the loop ends by a return")
    }

    /// Waits until the databases show that of a transfer alone.
    fn clean(&self, part: Part, open: &Open, before: Balances, expect: Expect) -> Result<Balances> {
        let entry = Entry {
            case: part.plan.case,
            account: part.account,
            xid: &open.xid,
            before,
            expect,
            extra: 0,
        };
        let mut ends = books::until_clean(self.db, &[entry]);
        let (after, _) = ends.pop().context("one transfer has one end")??;
        Ok(after)
    }
}

/// The branch's part of `X'…',X'…',9752`; parts of equal length compare like the numbers they are.
fn branch_part(xid: &str) -> (usize, &str) {
    let part = xid.split(',').nth(1).unwrap_or_default();
    (part.len(), part)
}
