//! **A told outcome never changes** (Seata's notes on clients: its TM ignores result codes): whatever a client is told of
//! how a transaction ends, as that client understands it, is what the log says when it is told, and for ever.
//! A saga is told of by who asked to end it only once it has ended; where it stands, which its status and the answers to
//! its own reports tell, is no outcome.

use std::collections::BTreeMap;

use settle_tx::{Direction, GlobalStatus, Tid, TxMachine};

use super::Judge;
use crate::invariants::{Broken, Checked};

const NAME: &str = "a told outcome never changes";

/// What a client wanted to know or done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::tx) enum Asked {
    Commit,
    Rollback,
    /// What the log said when it was asked.
    Status(Option<Direction>),
    /// The client's own saga.
    Report,
}

#[derive(Default)]
pub(in crate::tx) struct Told {
    outcomes: BTreeMap<Tid, Direction>,
    /// Who was told that it began a transaction.
    begun: BTreeMap<Tid, u64>,
    pub(in crate::tx) commits: u64,
    pub(in crate::tx) rollbacks: u64,
    pub(in crate::tx) timeouts: u64,
    pub(in crate::tx) statuses: u64,
    pub(in crate::tx) reports: u64,
}

impl Judge {
    pub(in crate::tx) fn told(&self) -> &Told {
        &self.told
    }

    /// Transfer number `transfer` is told its xid.
    pub(in crate::tx) fn is_begun(&mut self, xid: &str, transfer: u64) -> Checked {
        let Some(tid) = Tid::from_xid(xid) else {
            return Err(Broken::new("a transaction begins once", format!("{xid} is no xid")));
        };
        let first = *self.told.begun.entry(tid).or_insert(transfer);
        if first != transfer || !self.known.contains_key(&tid) {
            let what = format!("{xid} is told to transfer {transfer}, and was to {first}");
            return Err(Broken::new("a transaction begins once", what));
        }
        Ok(())
    }

    /// A client that asked `asked` is told `status`.
    pub(in crate::tx) fn is_told(&mut self, xid: &str, asked: Asked, status: GlobalStatus) -> Checked {
        let tid = Tid::from_xid(xid).expect("the xid was told when it began");
        let decided = self.decided(tid);
        let is_saga = asked == Asked::Report || self.known.get(&tid).is_some_and(|known| known.is_saga);
        let broken = |what: &str| {
            let what = format!("{xid} is told {status} to {asked:?}: {what}; the log says {decided:?}");
            Err(Broken::new(NAME, what))
        };
        if is_saga && !status.is_ended() && status != GlobalStatus::Finished {
            // Where it stands is no outcome: its state machine may still turn it round.
            return match asked {
                Asked::Status(_) | Asked::Report => Ok(()),
                Asked::Commit | Asked::Rollback => broken("it is a saga and has not ended"),
            };
        }
        let Some(believed) = believed(asked, status) else {
            return match asked {
                Asked::Status(None) if status == GlobalStatus::Begin => Ok(()),
                Asked::Report if status == GlobalStatus::Begin => Ok(()),
                Asked::Status(Some(_)) => broken("it was decided before that was asked"),
                _ => broken("that says nothing"),
            };
        };
        if decided != Some(believed) {
            return broken("the client takes it for another outcome");
        }
        let first = *self.told.outcomes.entry(tid).or_insert(believed);
        if first != believed {
            return broken("another client was told otherwise");
        }
        match asked {
            Asked::Commit | Asked::Rollback => {
                self.told.commits += u64::from(believed == Direction::Commit);
                self.told.rollbacks += u64::from(believed == Direction::Rollback);
                self.told.timeouts += u64::from(status.is_timeout());
            }
            Asked::Status(_) => self.told.statuses += 1,
            Asked::Report => self.told.reports += 1,
        }
        Ok(())
    }

    /// All is over: `machine` is what every replica of its group has.
    pub(in crate::tx) fn stands(&self, machine: &TxMachine) -> Checked {
        for (tid, told) in &self.told.outcomes {
            if tid.group().0 != u64::from(machine.config().group) {
                continue;
            }
            let status = machine.outcome(*tid).status();
            if status.direction() != Some(*told) || !status.is_ended() {
                let what = format!("{tid} was told {told:?}, but in the end is {status}");
                return Err(Broken::new(NAME, what));
            }
        }
        Ok(())
    }
}

/// How the client takes it: the Java TM looks at nothing but the status after a commit, and takes each but these five for
/// success (`TransactionalTemplate.commitTransaction`). `None`: it learns nothing.
fn believed(asked: Asked, status: GlobalStatus) -> Option<Direction> {
    use GlobalStatus::*;
    match (asked, status) {
        // It takes this for a failure, but of which kind? We never say it of what was begun.
        (_, Finished) => None,
        (Asked::Commit, TimeoutRollbacking | TimeoutRollbackRetrying | TimeoutRollbacked | TimeoutRollbackFailed) => {
            Some(Direction::Rollback)
        }
        (Asked::Commit, _) => Some(Direction::Commit),
        (_, status) => status.direction(),
    }
}

#[test]
fn a_commit_that_java_would_take_for_done_is_told_only_of_what_is_committed() {
    use GlobalStatus::*;
    let (tid, mut judge) = (Tid::new(1, 1), Judge::default());
    let xid = format!("10.0.0.1:8091:{tid}");
    let decided = |direction| super::Known {
        decided: direction,
        ..super::Known::default()
    };
    judge.known.insert(tid, decided(None));
    for status in [Begin, Committing, Committed, Rollbacked, TimeoutRollbacked, Finished] {
        assert!(
            judge.is_told(&xid, Asked::Commit, status).is_err(),
            "{status} of an undecided one"
        );
    }
    judge.known.insert(tid, decided(Some(Direction::Rollback)));
    for status in [Begin, Committed, Rollbacking, Rollbacked, Finished] {
        assert!(judge.is_told(&xid, Asked::Commit, status).is_err(), "{status}");
    }
    assert!(judge.is_told(&xid, Asked::Commit, TimeoutRollbacked).is_ok());
    assert!(judge.is_told(&xid, Asked::Status(None), Begin).is_ok(), "asked before");
    assert!(
        judge
            .is_told(&xid, Asked::Status(Some(Direction::Rollback)), Begin)
            .is_err()
    );
}

#[test]
fn who_asked_to_end_a_saga_is_told_nothing_before_it_has_ended() {
    use GlobalStatus::*;
    let (tid, mut judge) = (Tid::new(1, 1), Judge::default());
    let xid = format!("10.0.0.1:8091:{tid}");
    let known = super::Known {
        decided: Some(Direction::Rollback),
        is_saga: true,
        ..super::Known::default()
    };
    judge.known.insert(tid, known);
    for asked in [Asked::Commit, Asked::Rollback] {
        assert!(judge.is_told(&xid, asked, TimeoutRollbacking).is_err(), "{asked:?}");
    }
    for asked in [Asked::Status(None), Asked::Report] {
        assert!(judge.is_told(&xid, asked, CommitRetrying).is_ok(), "{asked:?}");
    }
}
