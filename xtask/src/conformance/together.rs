//! Transfers of one bank that are all open when the leader is killed. Each is a case of its own, on accounts of its own,
//! judged by itself; they share the bank's start, the kill, and the wait for what their client gave up.

use std::time::Instant;

use anyhow::{Result, bail, ensure};

use super::bank::Event;
use super::books::{self, AMOUNT, Balances, CLEAN_WITHIN, Entry, Expect};
use super::cases::{Case, Mode, Place, Plan, Scenario};
use super::report::Finding;
use super::run::{Open, Part, Stage};

/// Phase-two failures played in the retry cases.
const FAILURES: u32 = 2;

/// One of them.
struct Running {
    part: Part,
    before: Balances,
    open: Open,
    /// The moment from which stalls count.
    from: Instant,
    end: Option<End>,
}

/// What its business was told.
struct End {
    done: Event,
    expect: Expect,
    /// What other transfers over its account have moved.
    extra: i64,
    note: String,
}

impl Running {
    fn case(&self) -> Case {
        self.part.plan.case
    }
}

/// Plays `parts`, which have scenario and place in common. Fails as a whole when there is nothing to judge any of them by.
pub fn play(stage: &mut Stage<'_>, parts: &[Part]) -> Result<Vec<Result<Finding>>> {
    let played = play_all(stage, parts);
    if parts.iter().any(|part| part.plan.case == Case::AtRollbackRetry) {
        books::show_undo_log(stage.db)?;
    }
    stage.bank.release()?;
    played
}

fn play_all(stage: &mut Stage<'_>, parts: &[Part]) -> Result<Vec<Result<Finding>>> {
    let Some(first) = parts.first() else {
        return Ok(Vec::new());
    };
    let mut all: Vec<Result<Running>> = parts.iter().map(|part| start(stage, *part)).collect();
    each(&mut all, |one| prepare(stage, one));
    match first.plan.scenario {
        Scenario::Peace => each(&mut all, |one| {
            one.from = Instant::now();
            stage.bank.go(&one.open.id)
        }),
        Scenario::KillRegistered => {
            let killed = kill(stage, &mut all)?;
            let holds_lock = |one: &Running| one.case() == Case::AtLockConflict;
            each(&mut all, |one| {
                one.from = killed;
                if holds_lock(one) {
                    return Ok(());
                }
                stage.bank.go(&one.open.id)
            });
            each(&mut all, |one| {
                if !holds_lock(one) {
                    return Ok(());
                }
                stage.must_conflict(&one.open.id, one.part.account)?;
                one.from = Instant::now();
                stage.bank.go(&one.open.id)
            });
        }
        Scenario::KillPhase2 => {
            stage.bank.hold()?;
            each(&mut all, |one| stage.bank.go(&one.open.id));
            each(&mut all, |one| stage.held_call(&one.open));
            let killed = kill(stage, &mut all)?;
            stage.bank.release()?;
            each(&mut all, |one| {
                one.from = killed;
                Ok(())
            });
        }
    }
    each(&mut all, |one| end(stage, one));
    Ok(judge(stage, all))
}

/// Does `step` for each that has not failed.
fn each(all: &mut [Result<Running>], mut step: impl FnMut(&mut Running) -> Result<()>) {
    for one in all {
        if let Ok(running) = one
            && let Err(error) = step(running)
        {
            *one = Err(error);
        }
    }
}

fn start(stage: &mut Stage<'_>, part: Part) -> Result<Running> {
    let before = books::balances(stage.db, part.plan.case, part.account)?;
    let open = stage.register(part, None)?;
    Ok(Running {
        part,
        before,
        open,
        from: Instant::now(),
        end: None,
    })
}

/// What has to be so before it goes on.
fn prepare(stage: &mut Stage<'_>, one: &mut Running) -> Result<()> {
    match one.case() {
        Case::AtRollbackRetry => books::hide_undo_log(stage.db),
        case if case.fails_in_phase_two() => stage.bank.fail_next(&one.open.xid, FAILURES),
        // When it is killed before the decision the next leader is asked.
        Case::AtLockConflict if one.part.plan.scenario != Scenario::KillRegistered => {
            stage.must_conflict(&one.open.id, one.part.account)
        }
        _ => Ok(()),
    }
}

/// Kills the leader; gives the moment just before: to see that it is gone takes a busy machine as long as an election.
fn kill(stage: &mut Stage<'_>, all: &mut [Result<Running>]) -> Result<Instant> {
    each(all, |one| stage.check_placed(one.part.plan.place, &one.open.xid));
    // With nothing left to be played there is nothing to be learnt from it.
    match all.iter().any(Result::is_ok) {
        true => stage.kill_leader(),
        false => Ok(Instant::now()),
    }
}

/// Waits until its business has been told.
fn end(stage: &mut Stage<'_>, one: &mut Running) -> Result<()> {
    let plan = one.part.plan;
    if plan.case == Case::AtRollbackRetry {
        // A client that gave up leaves the rollback to the server, at the timeout of the transaction.
        let xid = one.open.xid.clone();
        stage
            .bank
            .wait("a rollback call fails without undo_log", CLEAN_WITHIN, |event| {
                event.name() == "phase2-answer" && event.text("xid") == xid && event.text("status").contains("Failed")
            })?;
        books::show_undo_log(stage.db)?;
    }
    let done = stage.done(&one.open.id)?;
    if stage.is_lost_with_its_server && plan.place == Place::Killed {
        let again = (stage.another_bank)(&*stage.cluster)?;
        stage.bank.replace(again);
    }
    let (expect, mut note) = judge_told(plan, &done)?;
    let mut extra = 0;
    if plan.case == Case::AtLockConflict {
        let third = format!("{}-third", one.open.id);
        let tries = stage.retry_until(&third, one.part.account, "the row's lock is free again", |event| {
            Ok(event.text("told") == "committed")
        })?;
        note = format!("{note} a third transfer committed at try {tries}");
        extra = AMOUNT;
    }
    one.end = Some(End {
        done,
        expect,
        extra,
        note,
    });
    Ok(())
}

fn judge(stage: &mut Stage<'_>, all: Vec<Result<Running>>) -> Vec<Result<Finding>> {
    let ended = all.iter().flatten().filter_map(|one| Some((one, one.end.as_ref()?)));
    let entries: Vec<Entry<'_>> = ended
        .map(|(one, end)| Entry {
            case: one.case(),
            account: one.part.account,
            xid: &one.open.xid,
            before: one.before,
            expect: end.expect,
            extra: end.extra,
        })
        .collect();
    let mut clean = match entries.is_empty() {
        true => Vec::new(),
        false => books::until_clean(stage.db, &entries),
    }
    .into_iter();
    all.into_iter()
        .map(|one| {
            let one = one?;
            let Some((end, clean)) = one.end.as_ref().zip(clean.next()) else {
                bail!("nobody waited for its end");
            };
            let (after, at) = clean?;
            finding(stage, &one, end, after, at)
        })
        .collect()
}

fn finding(stage: &mut Stage<'_>, one: &Running, end: &End, after: Balances, at: Instant) -> Result<Finding> {
    let (case, xid) = (one.case(), &one.open.xid);
    let mut note = end.note.clone();
    if case.mode() == Mode::Tcc && case.fails_in_phase_two() {
        let failed = stage
            .bank
            .all(|event| event.name() == "business-failed" && event.text("xid") == *xid)
            .len();
        ensure!(
            failed == FAILURES as usize,
            "the business failed {failed} times, {FAILURES} were asked for"
        );
        note = format!("{note} phase two failed {failed} times first");
    }
    Ok(Finding {
        told: end.done.text("told").to_owned(),
        balances: books::show(one.before, after),
        stall: Some(end.done.at.saturating_duration_since(one.from)),
        settled: Some(at.saturating_duration_since(one.from)),
        defence_rows: books::check_calls(stage.bank, stage.db, xid)?,
        note: note.trim().to_owned(),
    })
}

/// What the databases must show, given what the business was told; an error when it should have been told otherwise.
fn judge_told(plan: Plan, done: &Event) -> Result<(Expect, String)> {
    let told = done.text("told");
    let detail = done.text("detail");
    // 1.5 has a name of its own for a rollback that goes on.
    let is_pending = told == "Rollbacking" || told == "RollbackRetrying";
    let rolled_back = told == "RollbackDone" || is_pending;
    if plan.case.refuses() {
        ensure!(told != "committed", "a refused transfer was told `committed`");
        let may_be_pending = plan.case.fails_in_phase_two() || plan.scenario != Scenario::Peace;
        let known = told == "RollbackDone" || (may_be_pending && is_pending);
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
