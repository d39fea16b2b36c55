//! Seata's enumerations with their numbers on the wire (`org.apache.seata.core.model`), and what the coordinator may
//! conclude from each.

/// A number that is no member of the enumeration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{code} is no {what}")]
pub struct UnknownCode {
    pub what: &'static str,
    pub code: u8,
}

macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($variant:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name { $($variant = $code,)* }

        impl $name {
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            /// Its number on Seata's wire.
            pub const fn as_u8(self) -> u8 {
                self as u8
            }
        }

        impl TryFrom<u8> for $name {
            type Error = UnknownCode;

            fn try_from(code: u8) -> Result<$name, UnknownCode> {
                match code {
                    $($code => Ok($name::$variant),)*
                    _ => Err(UnknownCode { what: $what, code }),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(self, f)
            }
        }
    };
}

wire_enum! {
    /// How a branch takes part. `SagaAnnotation`, since Seata 2.3, is an action that is committed in its first phase and
    /// has a compensation.
    BranchType, "branch type" {
        At = 0,
        Tcc = 1,
        Saga = 2,
        Xa = 3,
        SagaAnnotation = 4,
    }
}

wire_enum! {
    /// The status of a global transaction.
    GlobalStatus, "global status" {
        UnKnown = 0,
        Begin = 1,
        Committing = 2,
        CommitRetrying = 3,
        Rollbacking = 4,
        RollbackRetrying = 5,
        TimeoutRollbacking = 6,
        TimeoutRollbackRetrying = 7,
        AsyncCommitting = 8,
        Committed = 9,
        CommitFailed = 10,
        Rollbacked = 11,
        RollbackFailed = 12,
        TimeoutRollbacked = 13,
        TimeoutRollbackFailed = 14,
        Finished = 15,
        CommitRetryTimeout = 16,
        RollbackRetryTimeout = 17,
    }
}

wire_enum! {
    /// The status of a branch.
    BranchStatus, "branch status" {
        Unknown = 0,
        Registered = 1,
        PhaseOneDone = 2,
        PhaseOneFailed = 3,
        PhaseOneTimeout = 4,
        PhaseTwoCommitted = 5,
        PhaseTwoCommitFailedRetryable = 6,
        PhaseTwoCommitFailedUnretryable = 7,
        PhaseTwoRollbacked = 8,
        PhaseTwoRollbackFailedRetryable = 9,
        PhaseTwoRollbackFailedUnretryable = 10,
        PhaseTwoCommitFailedXaerNotaRetryable = 11,
        PhaseTwoRollbackFailedXaerNotaRetryable = 12,
        PhaseOneRdonly = 13,
    }
}

/// Which way a transaction was decided, or a branch was ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Commit,
    Rollback,
}

impl GlobalStatus {
    /// What was decided; `None` while nothing was (and for statuses that the coordinator never gives).
    pub fn direction(self) -> Option<Direction> {
        use GlobalStatus::*;
        match self {
            Committing | CommitRetrying | AsyncCommitting | Committed | CommitFailed | CommitRetryTimeout => {
                Some(Direction::Commit)
            }
            Rollbacking
            | RollbackRetrying
            | TimeoutRollbacking
            | TimeoutRollbackRetrying
            | Rollbacked
            | RollbackFailed
            | TimeoutRollbacked
            | TimeoutRollbackFailed
            | RollbackRetryTimeout => Some(Direction::Rollback),
            UnKnown | Begin | Finished => None,
        }
    }

    /// Nothing more will happen: the transaction is gone and only its outcome is kept.
    pub fn is_ended(self) -> bool {
        use GlobalStatus::*;
        matches!(self, Committed | Rollbacked | TimeoutRollbacked)
    }

    /// A branch failed for good: the transaction stays open for an operator.
    pub fn is_failed(self) -> bool {
        use GlobalStatus::*;
        matches!(self, CommitFailed | RollbackFailed | TimeoutRollbackFailed)
    }

    /// The rollback was decided by the server because the time was up.
    pub fn is_timeout(self) -> bool {
        use GlobalStatus::*;
        matches!(
            self,
            TimeoutRollbacking | TimeoutRollbackRetrying | TimeoutRollbacked | TimeoutRollbackFailed
        )
    }

    /// What a client that asked to commit is told, or `None` when it must not be answered yet.
    ///
    /// Seata's TM ignores the result code and takes every status but 6, 7, 13, 14 and 15 for success
    /// (`TransactionalTemplate.commitTransaction`), so a rollback by anyone is told as a rollback by timeout.
    pub fn commit_answer(self) -> Option<GlobalStatus> {
        use GlobalStatus::*;
        Some(match self {
            Begin => return None,
            Committing => Committing,
            CommitRetrying => CommitRetrying,
            AsyncCommitting | Committed => Committed,
            CommitFailed | CommitRetryTimeout => CommitFailed,
            Rollbacking | TimeoutRollbacking => TimeoutRollbacking,
            RollbackRetrying | TimeoutRollbackRetrying => TimeoutRollbackRetrying,
            Rollbacked | TimeoutRollbacked if settle_base::mutant!("rollback_told_as_it_is") => Rollbacked,
            Rollbacked | TimeoutRollbacked => TimeoutRollbacked,
            RollbackFailed | TimeoutRollbackFailed | RollbackRetryTimeout => TimeoutRollbackFailed,
            UnKnown | Finished => Finished,
        })
    }

    /// What a client that asked to roll back is told, or `None` when it must not be answered yet.
    pub fn rollback_answer(self) -> Option<GlobalStatus> {
        use GlobalStatus::*;
        Some(match self {
            Begin => return None,
            AsyncCommitting | Committed => Committed,
            UnKnown | Finished => Finished,
            standing => standing,
        })
    }
}

impl BranchStatus {
    /// The second phase of the branch is over, and which way.
    pub fn done(self) -> Option<Direction> {
        match self {
            BranchStatus::PhaseTwoCommitted => Some(Direction::Commit),
            BranchStatus::PhaseTwoRollbacked => Some(Direction::Rollback),
            _ => None,
        }
    }

    /// Which decision a phase-two status belongs to; `None` for phase one.
    pub fn direction(self) -> Option<Direction> {
        use BranchStatus::*;
        match self {
            PhaseTwoCommitted
            | PhaseTwoCommitFailedRetryable
            | PhaseTwoCommitFailedUnretryable
            | PhaseTwoCommitFailedXaerNotaRetryable => Some(Direction::Commit),
            PhaseTwoRollbacked
            | PhaseTwoRollbackFailedRetryable
            | PhaseTwoRollbackFailedUnretryable
            | PhaseTwoRollbackFailedXaerNotaRetryable => Some(Direction::Rollback),
            Unknown | Registered | PhaseOneDone | PhaseOneFailed | PhaseOneTimeout | PhaseOneRdonly => None,
        }
    }

    /// The second phase failed and is to be tried again.
    pub fn is_retryable(self) -> bool {
        use BranchStatus::*;
        matches!(
            self,
            PhaseTwoCommitFailedRetryable
                | PhaseTwoRollbackFailedRetryable
                | PhaseTwoCommitFailedXaerNotaRetryable
                | PhaseTwoRollbackFailedXaerNotaRetryable
        )
    }

    /// The second phase failed for good.
    pub fn is_unretryable(self) -> bool {
        matches!(
            self,
            BranchStatus::PhaseTwoCommitFailedUnretryable | BranchStatus::PhaseTwoRollbackFailedUnretryable
        )
    }

    /// The XA resource does not know the branch: it may have ended it before an answer was lost.
    pub fn is_xaer_nota(self) -> bool {
        matches!(
            self,
            BranchStatus::PhaseTwoCommitFailedXaerNotaRetryable | BranchStatus::PhaseTwoRollbackFailedXaerNotaRetryable
        )
    }
}
