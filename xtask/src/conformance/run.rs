//! Playing one case against the cluster and judging it in SQL.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::bank::{Bank, Event, Transfer};
use super::beside;
use super::cases::{Case, Mode, Place, Plan, Scenario};
use super::cluster::Cluster;
use super::mariadb::{BANKS, MariaDb};
use super::report::Finding;
use super::wait;

const AMOUNT: i64 = 10;
/// The timeout of the transaction that the server is to end by itself.
const SHORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Java's transaction manager waits 30 s per call and calls at most five times.
const TOLD_WITHIN: Duration = Duration::from_secs(240);
/// A transaction that its client gave up lives until its own timeout (60 s by default).
const CLEAN_WITHIN: Duration = Duration::from_secs(150);
const CALL_WITHIN: Duration = Duration::from_secs(60);
/// The timeout of every saga: its client keeps it, not its transaction.
pub const SAGA_TIMEOUT: Duration = Duration::from_secs(20);
/// How long after its timeout a transaction asks for an XA branch that its resource does not know.
const XAER_NOTA_AFTER: Duration = Duration::from_secs(60);
/// Phase-two failures played in the retry cases.
const FAILURES: u32 = 2;

/// Everything a run needs.
pub struct Stage<'a> {
    pub cluster: &'a mut dyn Cluster,
    pub bank: &'a mut Bank,
    pub db: &'a MariaDb,
    /// An account that no other run touches; TCC and sagas use the next one too.
    pub account: u32,
    /// Starts another process of the same application.
    pub another_bank: &'a dyn Fn(&dyn Cluster) -> Result<Bank>,
    /// A client that has lost its only server has to be started again.
    pub is_lost_with_its_server: bool,
    /// Starts a bank in Rust.
    pub rust_bank: &'a dyn Fn(&dyn Cluster) -> Result<Bank>,
    /// Where the undo logs of both go, if anywhere.
    pub record: Option<&'a Path>,
}

/// A transfer that stands still with both branches registered.
struct Open {
    id: String,
    xid: String,
    begun: Instant,
}

/// Which of the two atomic outcomes the databases must show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expect {
    Moved,
    NotMoved,
    /// The client was told nothing; either, but whole.
    Either,
}

/// Two balances, first the debited one.
type Balances = (i64, i64);

impl Stage<'_> {
    /// Plays `plan` and judges it. The cluster may be left with a dead node.
    pub fn play(&mut self, plan: Plan) -> Result<Finding> {
        let played = match plan.case {
            Case::AtTimeout => self.timeout(plan),
            Case::AtLockConflict => self.lock_conflict(plan),
            Case::XaForgotten => self.forgotten(plan),
            Case::SagaAdopted => self.adopted(plan),
            Case::AtBesideRust => beside::play(self),
            _ => self.transfer(plan),
        };
        if plan.case == Case::AtRollbackRetry {
            self.show_undo_log()?;
        }
        self.bank.release()?;
        played
    }

    fn transfer(&mut self, plan: Plan) -> Result<Finding> {
        let before = self.balances(plan.case)?;
        let open = self.register(plan, None)?;
        match plan.case {
            Case::AtRollbackRetry => self.hide_undo_log()?,
            case if case.fails_in_phase_two() => self.bank.fail_next(FAILURES)?,
            _ => {}
        }
        let from = self.end_with_fault(plan, &open)?;
        if plan.case == Case::AtRollbackRetry {
            // A client that gave up leaves the rollback to the server, at the timeout of the transaction.
            let xid = open.xid.clone();
            self.bank
                .wait("a rollback call fails without undo_log", CLEAN_WITHIN, |event| {
                    event.name() == "phase2-answer"
                        && event.text("xid") == xid
                        && event.text("status").contains("Failed")
                })?;
            self.show_undo_log()?;
        }
        let done = self.done(&open.id)?;
        if self.is_lost_with_its_server && plan.place == Place::Killed {
            let again = (self.another_bank)(&*self.cluster)?;
            self.bank.replace(again);
        }
        let (expect, mut note) = judge_told(plan, &done)?;
        let after = self.clean(plan.case, &open.xid, before, expect, 0)?;
        let settled = from.elapsed();
        if plan.case.mode() == Mode::Tcc && plan.case.fails_in_phase_two() {
            let failed = self
                .bank
                .all(|event| event.name() == "business-failed" && event.text("xid") == open.xid)
                .len();
            ensure!(
                failed == FAILURES as usize,
                "the business failed {failed} times, {FAILURES} were asked for"
            );
            note = format!("{note} phase two failed {failed} times first")
                .trim()
                .to_owned();
        }
        let defence_rows = self.check_calls(&open.xid)?;
        Ok(Finding {
            told: done.text("told").to_owned(),
            balances: show(before, after),
            stall: Some(done.at.saturating_duration_since(from)),
            settled: Some(settled),
            defence_rows,
            note,
        })
    }

    /// One of two prepared branches is ended behind the coordinator's back, as by an answer that was lost. Its resource
    /// manager then knows it no more, which counts as done a minute after the timeout and not before.
    fn forgotten(&mut self, plan: Plan) -> Result<Finding> {
        let before = self.balances(plan.case)?;
        let open = self.register(plan, Some(SHORT_TIMEOUT))?;
        for row in self.db.query("XA RECOVER FORMAT='SQL'")? {
            // format, length of the first part, of the second, and both as a literal; the second bank's branch is the later.
            let xid = row.last().map(String::as_str).unwrap_or_default();
            if xid.to_lowercase().contains(&hex(&open.xid)) && self.is_of_bank_b(xid)? {
                self.db.query(&format!("XA COMMIT {xid}"))?;
            }
        }
        let from = Instant::now();
        self.bank.go(&open.id)?;
        let done = self.done(&open.id)?;
        ensure!(done.text("told") == "committed", "told {}", done.text("told"));
        let after = self.clean(plan.case, &open.xid, before, Expect::Moved, 0)?;
        let unknown = |event: &Event| {
            event.name() == "phase2-answer"
                && event.text("xid") == open.xid
                && event.text("status").contains("XAER_NOTA")
        };
        ensure!(!self.bank.all(unknown).is_empty(), "no branch was forgotten");
        let due = open.begun + SHORT_TIMEOUT + XAER_NOTA_AFTER;
        self.cluster.until_ended(&open.xid, due + Duration::from_secs(70))?;
        ensure!(Instant::now() >= due, "it ended before its time");
        Ok(Finding {
            told: done.text("told").to_owned(),
            balances: show(before, after),
            stall: None,
            settled: Some(from.elapsed()),
            defence_rows: 0,
            note: "clean/ms until the forgotten branch counted as done".to_owned(),
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
    fn adopted(&mut self, plan: Plan) -> Result<Finding> {
        let before = self.balances(plan.case)?;
        let open = self.register(plan, None)?;
        self.bank.kill()?;
        if plan.scenario != Scenario::Peace {
            self.kill_leader(plan, &open)?;
        }
        *self.bank = (self.another_bank)(&*self.cluster)?;
        let from = open.begun + SAGA_TIMEOUT;
        let after = self.clean(plan.case, &open.xid, before, Expect::NotMoved, 0)?;
        let settled = Instant::now().saturating_duration_since(from);
        let adopted =
            |event: &Event| event.name() == "phase2-call" && event.text("xid") == open.xid && event.branch() == -1;
        ensure!(!self.bank.all(adopted).is_empty(), "the other client was never called");
        self.cluster.until_ended(&open.xid, Instant::now() + CALL_WITHIN)?;
        self.check_calls(&open.xid)?;
        Ok(Finding {
            told: "-".to_owned(),
            balances: show(before, after),
            stall: None,
            settled: Some(settled),
            defence_rows: 0,
            note: format!("clean/ms counts from the {} s timeout", SAGA_TIMEOUT.as_secs()),
        })
    }

    /// The first transfer holds the row; a second must fail on the global lock; once the first is decided a third succeeds.
    fn lock_conflict(&mut self, plan: Plan) -> Result<Finding> {
        let before = self.balances(plan.case)?;
        let open = self.register(plan, None)?;
        let from;
        if plan.scenario == Scenario::KillRegistered {
            self.kill_leader(plan, &open)?;
            self.must_conflict(&open.id)?;
            from = Instant::now();
            self.bank.go(&open.id)?;
        } else {
            self.must_conflict(&open.id)?;
            from = self.end_with_fault(plan, &open)?;
        }
        let done = self.done(&open.id)?;
        let (expect, note) = judge_told(plan, &done)?;
        let third = format!("{}-third", open.id);
        let tries = self.retry_until(&third, "the row's lock is free again", |event| {
            Ok(event.text("told") == "committed")
        })?;
        let after = self.clean(plan.case, &open.xid, before, expect, AMOUNT)?;
        let settled = from.elapsed();
        let defence_rows = self.check_calls(&open.xid)?;
        Ok(Finding {
            told: done.text("told").to_owned(),
            balances: show(before, after),
            stall: Some(done.at.saturating_duration_since(from)),
            settled: Some(settled),
            defence_rows,
            note: format!("{note} a third transfer committed at try {tries}")
                .trim()
                .to_owned(),
        })
    }

    /// The business stands still beyond the timeout; the server alone must bring the money back.
    fn timeout(&mut self, plan: Plan) -> Result<Finding> {
        let before = self.balances(plan.case)?;
        if plan.scenario == Scenario::KillPhase2 {
            self.bank.hold()?;
        }
        let open = self.register(plan, Some(SHORT_TIMEOUT))?;
        let due = open.begun + SHORT_TIMEOUT;
        let from = match plan.scenario {
            Scenario::Peace => due,
            Scenario::KillRegistered => self.kill_leader(plan, &open)?.max(due),
            Scenario::KillPhase2 => {
                self.held_call(&open)?;
                let killed = self.kill_leader(plan, &open)?;
                self.bank.release()?;
                killed
            }
        };
        let after = self.clean(plan.case, &open.xid, before, Expect::NotMoved, 0)?;
        let settled = Instant::now().saturating_duration_since(from);
        self.bank.go(&open.id)?;
        let done = self.done(&open.id)?;
        ensure!(
            done.text("told") != "committed",
            "the business was told `committed` after the server timed it out"
        );
        let defence_rows = self.check_calls(&open.xid)?;
        Ok(Finding {
            told: done.text("told").to_owned(),
            balances: show(before, after),
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
    fn register(&mut self, plan: Plan, timeout: Option<Duration>) -> Result<Open> {
        for attempt in 1..=200 {
            let id = format!(
                "{}-{}-{}-{attempt}",
                plan.case.name(),
                plan.scenario.name(),
                self.account
            );
            self.bank.transfer(&Transfer {
                id: id.clone(),
                mode: plan.case.mode().name(),
                account: self.account,
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
            // On a busy machine its time may be over before both are.
            let is_overtaken = timeout.is_some_and(|timeout| event.at.elapsed() >= timeout);
            if registered.name() == "done" && is_overtaken {
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

    /// Lets the transfer end, with the leader killed where the plan says; gives the moment from which stalls count.
    fn end_with_fault(&mut self, plan: Plan, open: &Open) -> Result<Instant> {
        match plan.scenario {
            Scenario::Peace => {
                let from = Instant::now();
                self.bank.go(&open.id)?;
                Ok(from)
            }
            Scenario::KillRegistered => {
                let killed = self.kill_leader(plan, open)?;
                self.bank.go(&open.id)?;
                Ok(killed)
            }
            Scenario::KillPhase2 => {
                self.bank.hold()?;
                self.bank.go(&open.id)?;
                self.held_call(open)?;
                let killed = self.kill_leader(plan, open)?;
                self.bank.release()?;
                Ok(killed)
            }
        }
    }

    fn held_call(&mut self, open: &Open) -> Result<()> {
        self.bank
            .wait("the first phase-two call arrives", CALL_WITHIN, |event| {
                event.name() == "phase2-call" && event.text("xid") == open.xid && event.held()
            })?;
        Ok(())
    }

    /// Kills the leader; gives the moment just before: to see that it is gone takes a busy machine as long as an election.
    fn kill_leader(&mut self, plan: Plan, open: &Open) -> Result<Instant> {
        ensure!(
            self.is_placed(plan.place, &open.xid)?,
            "the leader moved before it could be killed"
        );
        let leader = self.cluster.leader()?;
        let killed = Instant::now();
        self.cluster.kill(leader)?;
        Ok(killed)
    }

    fn done(&mut self, id: &str) -> Result<Event> {
        self.bank.wait(&format!("transfer {id} ends"), TOLD_WITHIN, |event| {
            event.name() == "done" && event.text("id") == id
        })
    }

    /// A second transfer over the same rows must fail on the global lock, and never commit.
    fn must_conflict(&mut self, holder: &str) -> Result<()> {
        let id = format!("{holder}-second");
        self.retry_until(&id, "the global lock is seen", |event| {
            ensure!(
                event.text("told") != "committed",
                "a second transfer committed over a held global lock"
            );
            Ok(event.text("detail").to_lowercase().contains("lock"))
        })?;
        Ok(())
    }

    /// Runs transfers over this run's account until `fits` says so; gives the number of tries.
    fn retry_until(&mut self, id: &str, what: &str, fits: impl Fn(&Event) -> Result<bool>) -> Result<u32> {
        let deadline = Instant::now() + CLEAN_WITHIN;
        for attempt in 1.. {
            let id = format!("{id}-{attempt}");
            self.bank.transfer(&Transfer {
                id: id.clone(),
                mode: "at",
                account: self.account,
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

    fn balances(&self, case: Case) -> Result<Balances> {
        let account = self.account;
        if case.mode().is_in_one_bank() {
            let of = |id: u32| {
                self.db
                    .number(&format!("SELECT balance FROM bank_a.tcc_account WHERE id = {id}"))
            };
            return Ok((of(account)?, of(account + 1)?));
        }
        let of = |bank: &str| {
            self.db
                .number(&format!("SELECT balance FROM {bank}.account WHERE id = {account}"))
        };
        Ok((of(BANKS[0])?, of(BANKS[1])?))
    }

    /// Waits until the money is where `expect` says (plus `extra` moved by other transfers), no undo_log row with
    /// log_status 0 is left in either bank, and neither a TCC reservation nor a fence row of `xid` is open.
    fn clean(&self, case: Case, xid: &str, before: Balances, expect: Expect, extra: i64) -> Result<Balances> {
        let moved = |amount: i64| (before.0 - amount, before.1 + amount);
        wait::until("the databases are right and clean", CLEAN_WITHIN, || {
            // Of any transaction: the client deletes the rows of a committed one up to a second later, and a run that ended
            // its client before that would leave those of its side transfers behind.
            let undo = self.db.number(&count_undo("log_status = 0"))?;
            let prepared = self.db.query("XA RECOVER")?.len();
            let open = self.db.number(&format!(
                "SELECT (SELECT SUM(frozen + incoming) FROM bank_a.tcc_account WHERE id IN ({0}, {0} + 1)) \
                 + (SELECT COUNT(*) FROM bank_a.tcc_fence_log WHERE status = 1 AND xid = '{xid}')",
                self.account
            ))?;
            // Read last: with nothing left open the balances are final, and not those of a phase one yet to be undone.
            let now = self.balances(case)?;
            let right = match expect {
                Expect::Moved => now == moved(AMOUNT + extra),
                Expect::NotMoved => now == moved(extra),
                Expect::Either => now == moved(AMOUNT + extra) || now == moved(extra),
            };
            if right && undo == 0 && open == 0 && prepared == 0 {
                return Ok(Ok(now));
            }
            Ok(Err(format!(
                "balances {}, expected {expect:?}; {undo} undo_log rows with log_status 0; {open} in open TCC reservations; \
                 {prepared} prepared XA branches",
                show(before, now)
            )))
        })
    }

    /// No branch of `xid` was told both to commit and to roll back, and each undo_log row with log_status 1 has its reason:
    /// the client writes one when a rollback call finds no undo row, which a repeated call does. Gives their number.
    fn check_calls(&mut self, xid: &str) -> Result<usize> {
        let calls = self
            .bank
            .all(|event| event.name() == "phase2-call" && event.text("xid") == xid);
        let kinds = ["commit", "rollback"].map(|kind| calls.iter().any(|call| call.text("kind") == kind));
        ensure!(kinds != [true, true], "{xid} was told both to commit and to roll back");
        let mut explained = 0;
        for bank in BANKS {
            let sql = format!("SELECT branch_id FROM {bank}.undo_log WHERE xid = '{xid}' AND log_status = 1");
            for row in self.db.query(&sql)? {
                let branch: i64 = row[0].parse()?;
                let rollbacks = calls.iter().filter(|call| call.branch() == branch).count();
                ensure!(
                    rollbacks > 1,
                    "undo_log of {bank} has log_status 1 for branch {branch}, which got {rollbacks} rollback calls"
                );
                explained += 1;
            }
        }
        Ok(explained)
    }

    fn hide_undo_log(&self) -> Result<()> {
        self.db
            .query("RENAME TABLE bank_b.undo_log TO bank_b.undo_log_hidden")?;
        Ok(())
    }

    /// Undoes [`Self::hide_undo_log`]; may be called when nothing is hidden.
    fn show_undo_log(&self) -> Result<()> {
        let hidden = "SELECT COUNT(*) FROM information_schema.tables \
                      WHERE table_schema = 'bank_b' AND table_name = 'undo_log_hidden'";
        if self.db.number(hidden)? == 1 {
            self.db
                .query("RENAME TABLE bank_b.undo_log_hidden TO bank_b.undo_log")?;
        }
        Ok(())
    }
}

/// What the databases must show, given what the business was told; an error when it should have been told otherwise.
fn judge_told(plan: Plan, done: &Event) -> Result<(Expect, String)> {
    let told = done.text("told");
    let detail = done.text("detail");
    let rolled_back = told == "RollbackDone" || told == "Rollbacking";
    if plan.case.refuses() {
        ensure!(told != "committed", "a refused transfer was told `committed`");
        let may_be_pending = plan.case.fails_in_phase_two() || plan.scenario != Scenario::Peace;
        let known = told == "RollbackDone" || (may_be_pending && told == "Rollbacking");
        ensure!(known || plan.place == Place::Killed, "told {told}: {detail}");
        let note = if known {
            String::new()
        } else {
            format!("the client gave up: {detail}")
        };
        return Ok((Expect::NotMoved, note));
    }
    if told == "committed" {
        return Ok((Expect::Moved, String::new()));
    }
    ensure!(plan.place == Place::Killed, "told {told}: {detail}");
    let expect = if rolled_back { Expect::NotMoved } else { Expect::Either };
    Ok((expect, format!("the client gave up: {detail}")))
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// The branch's part of `X'…',X'…',9752`; parts of equal length compare like the numbers they are.
fn branch_part(xid: &str) -> (usize, &str) {
    let part = xid.split(',').nth(1).unwrap_or_default();
    (part.len(), part)
}

/// SQL that counts the undo_log rows of both banks that fit `filter`.
pub fn count_undo(filter: &str) -> String {
    let [a, b] = BANKS.map(|bank| format!("(SELECT COUNT(*) FROM {bank}.undo_log WHERE {filter})"));
    format!("SELECT {a} + {b}")
}

fn show(before: Balances, after: Balances) -> String {
    format!("{}/{} → {}/{}", before.0, before.1, after.0, after.1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judge(case: Case, scenario: Scenario, place: Place, told: &str) -> Option<Expect> {
        let done = Event::made(json!({"event": "done", "told": told}));
        judge_told(Plan { case, scenario, place }, &done)
            .ok()
            .map(|(expect, _)| expect)
    }

    #[test]
    fn what_the_business_was_told_binds_the_balances() {
        let killed = (Scenario::KillRegistered, Place::Killed);
        assert_eq!(
            judge(Case::AtCommit, Scenario::Peace, Place::Any, "committed"),
            Some(Expect::Moved)
        );
        assert_eq!(
            judge(Case::AtCommit, killed.0, killed.1, "RollbackDone"),
            Some(Expect::NotMoved)
        );
        assert_eq!(
            judge(Case::AtCommit, killed.0, killed.1, "CommitFailure"),
            Some(Expect::Either)
        );
        assert_eq!(
            judge(Case::AtRollback, killed.0, killed.1, "RollbackFailure"),
            Some(Expect::NotMoved)
        );
    }

    #[test]
    fn only_a_client_on_the_killed_node_may_give_up() {
        assert_eq!(
            judge(Case::AtCommit, Scenario::Peace, Place::Any, "CommitFailure"),
            None
        );
        assert_eq!(
            judge(Case::AtCommit, Scenario::KillPhase2, Place::Survivor, "CommitFailure"),
            None
        );
        assert_eq!(
            judge(
                Case::TccRollback,
                Scenario::KillPhase2,
                Place::Survivor,
                "RollbackFailure"
            ),
            None
        );
    }

    #[test]
    fn a_refused_transfer_is_never_told_committed() {
        for place in [Place::Any, Place::Survivor, Place::Killed] {
            assert_eq!(
                judge(Case::AtRollback, Scenario::KillRegistered, place, "committed"),
                None
            );
        }
    }
}
