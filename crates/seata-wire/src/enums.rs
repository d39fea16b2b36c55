//! The enumerations that travel as one byte, with the numbering of Seata 2.x
//! (`org.apache.seata.core.model.{BranchType, BranchStatus, GlobalStatus}`, `core.exception.TransactionExceptionCode`).

use crate::error::WireError;

macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident, $kind:literal { $($(#[$vdoc:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$vdoc])* $variant = $value,)+
        }

        impl $name {
            /// Every value, in wire order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The byte on the wire.
            pub const fn as_u8(self) -> u8 {
                self as u8
            }
        }

        impl TryFrom<u8> for $name {
            type Error = WireError;

            fn try_from(value: u8) -> Result<$name, WireError> {
                match value {
                    $($value => Ok($name::$variant),)+
                    _ => Err(WireError::UnknownValue { kind: $kind, value }),
                }
            }
        }
    };
}

wire_enum! {
    /// How a branch is committed and rolled back.
    BranchType, "branch type" {
        At = 0,
        Tcc = 1,
        Saga = 2,
        Xa = 3,
        /// Added after Seata 2.2; older clients cannot decode it.
        SagaAnnotation = 4,
    }
}

wire_enum! {
    /// The state of a global transaction.
    GlobalStatus, "global status" {
        Unknown = 0,
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
        /// The transaction is not known any more; its outcome is not told by this value.
        Finished = 15,
        CommitRetryTimeout = 16,
        RollbackRetryTimeout = 17,
        /// A console action of newer servers. 1.x clients throw on values above 17: never send them these.
        Deleting = 18,
        /// See [`GlobalStatus::Deleting`].
        StopCommitOrCommitRetry = 19,
        /// See [`GlobalStatus::Deleting`].
        StopRollbackOrRollbackRetry = 20,
    }
}

wire_enum! {
    /// The state of a branch, as the resource manager reports it.
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
        /// Added after Seata 2.0: the branch read only and has no second phase.
        PhaseOneReadOnly = 13,
        /// A console action, added after Seata 2.2.
        StopRetry = 14,
    }
}

wire_enum! {
    /// Why the coordinator refused. Travels on success too, as `Unknown` (0).
    ///
    /// Seata 2.0 inserted `NotRaftLeader` in the middle, so that every value from 19 on means something else to a 1.x
    /// client: see [`ExceptionCode::for_client_before_2_0`].
    ExceptionCode, "exception code" {
        Unknown = 0,
        BeginFailed = 1,
        LockKeyConflict = 2,
        Io = 3,
        BranchRollbackFailedRetriable = 4,
        BranchRollbackFailedUnretriable = 5,
        BranchRegisterFailed = 6,
        BranchReportFailed = 7,
        LockableCheckFailed = 8,
        BranchTransactionNotExist = 9,
        GlobalTransactionNotExist = 10,
        GlobalTransactionNotActive = 11,
        GlobalTransactionStatusInvalid = 12,
        FailedToSendBranchCommitRequest = 13,
        FailedToSendBranchRollbackRequest = 14,
        FailedToAddBranch = 15,
        FailedLockGlobalTransaction = 16,
        FailedWriteSession = 17,
        FailedStore = 18,
        NotRaftLeader = 19,
        /// The row is locked by a transaction that is rolling back: the client must not retry.
        LockKeyConflictFailFast = 20,
        TransactionTimeout = 21,
        CommitHeuristic = 22,
        Broken = 23,
    }
}

impl ExceptionCode {
    /// The value to put into a message so that a client older than 2.0 reads `self`: those clients count every code
    /// above `FailedStore` one lower. `NotRaftLeader`, which they lack, becomes `FailedStore`.
    ///
    /// Clients up to 1.5 end at `LockKeyConflictFailFast` and throw on anything above it.
    ///
    /// Source: `TransactionExceptionCode` in `seata-all` 1.5.2, 1.8.0, 2.0.0 and 2.6.0.
    pub const fn for_client_before_2_0(self) -> ExceptionCode {
        match self {
            ExceptionCode::NotRaftLeader => ExceptionCode::FailedStore,
            ExceptionCode::LockKeyConflictFailFast => ExceptionCode::NotRaftLeader,
            ExceptionCode::TransactionTimeout => ExceptionCode::LockKeyConflictFailFast,
            ExceptionCode::CommitHeuristic => ExceptionCode::TransactionTimeout,
            ExceptionCode::Broken => ExceptionCode::CommitHeuristic,
            same => same,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_survives_its_byte_and_the_next_one_is_refused() {
        fn check<E: TryFrom<u8> + Copy + PartialEq + std::fmt::Debug>(all: &[E], as_u8: fn(E) -> u8, count: u8) {
            assert_eq!(all.len(), usize::from(count));
            for (i, value) in all.iter().enumerate() {
                assert_eq!(usize::from(as_u8(*value)), i);
                assert_eq!(E::try_from(as_u8(*value)).ok(), Some(*value));
            }
            assert!(E::try_from(count).is_err());
            assert!(E::try_from(u8::MAX).is_err());
        }
        check(BranchType::ALL, BranchType::as_u8, 5);
        check(GlobalStatus::ALL, GlobalStatus::as_u8, 21);
        check(BranchStatus::ALL, BranchStatus::as_u8, 15);
        check(ExceptionCode::ALL, ExceptionCode::as_u8, 24);
    }

    #[test]
    fn a_1_x_client_reads_fail_fast_as_19() {
        assert_eq!(
            ExceptionCode::LockKeyConflictFailFast.for_client_before_2_0().as_u8(),
            19
        );
        assert_eq!(ExceptionCode::Broken.for_client_before_2_0().as_u8(), 22);
        assert_eq!(ExceptionCode::LockKeyConflict.for_client_before_2_0().as_u8(), 2);
    }
}
