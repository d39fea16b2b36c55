//! How a global transaction stands.

use settle_seata_wire::GlobalStatus;

/// Which way a transaction ends. Decided once, and never turned round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    Commit,
    Rollback,
}

/// How far the branches have come with what was decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Every branch is done.
    Done,
    /// The coordinator is still calling branches, and will until each is done.
    UnderWay,
    /// A branch said that it never will, or the coordinator has given up calling: an operator has to look.
    Stuck,
}

/// A decided transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub decision: Decision,
    pub progress: Progress,
    /// As the coordinator tells it.
    pub status: GlobalStatus,
}

impl Outcome {
    pub fn is_committed(&self) -> bool {
        self.decision == Decision::Commit
    }

    /// Decided because the transaction's time was over.
    pub fn is_by_timeout(&self) -> bool {
        use GlobalStatus::*;
        matches!(
            self.status,
            TimeoutRollbacking | TimeoutRollbackRetrying | TimeoutRollbacked | TimeoutRollbackFailed
        )
    }

    /// None when the status tells of no decision: not taken yet, or not known any more.
    pub fn of(status: GlobalStatus) -> Option<Outcome> {
        use GlobalStatus::*;
        let (decision, progress) = match status {
            Committed => (Decision::Commit, Progress::Done),
            Committing | CommitRetrying | AsyncCommitting => (Decision::Commit, Progress::UnderWay),
            CommitFailed | CommitRetryTimeout | StopCommitOrCommitRetry => (Decision::Commit, Progress::Stuck),
            Rollbacked | TimeoutRollbacked => (Decision::Rollback, Progress::Done),
            Rollbacking | RollbackRetrying | TimeoutRollbacking | TimeoutRollbackRetrying => {
                (Decision::Rollback, Progress::UnderWay)
            }
            RollbackFailed | TimeoutRollbackFailed | RollbackRetryTimeout | StopRollbackOrRollbackRetry => {
                (Decision::Rollback, Progress::Stuck)
            }
            Unknown | Begin | Finished | Deleting => return None,
        };
        Some(Outcome {
            decision,
            progress,
            status,
        })
    }
}

/// What the coordinator tells of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Neither committed nor rolled back yet.
    Open,
    Decided(Outcome),
    /// The coordinator does not know it (any more).
    Forgotten,
}
