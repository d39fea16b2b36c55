use std::sync::Arc;

use crate::{AuditRecord, BranchId, BranchStatus, Ended, GlobalStatus, ReqId, Stage, Tid, TxError};

/// What applying a command makes known. Per command: first what changed, then the reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TxEffect {
    Begun {
        tid: Tid,
    },
    BranchRegistered {
        tid: Tid,
        branch: BranchId,
    },
    /// A fact about the branch was taken in; `status` is the branch's status now. Of [`BranchId::saga_of`]: a saga's
    /// state machine said where it stands, which may be on the other way than before.
    BranchChanged {
        tid: Tid,
        branch: BranchId,
        status: BranchStatus,
    },
    /// The transaction was decided; it may have ended in the same command.
    Decided {
        tid: Tid,
    },
    /// The transaction is gone; its outcome is kept for the retention time.
    Ended {
        tid: Tid,
        status: GlobalStatus,
        details: Ended,
    },
    /// An operator's act changed something. What it decided or ended has its own effect before this one.
    Operated {
        tid: Tid,
        record: Arc<AuditRecord>,
    },
    /// Where service groups begin, or how this group stands to one, has changed or was said to; with the act if it was one.
    ServiceGroups {
        record: Option<Arc<AuditRecord>>,
    },
    /// The last part of a backup was taken in: there are transactions that no effect told of.
    Restored,
    /// The answer to a request, given anew each time that the request is applied.
    Reply {
        req: ReqId,
        result: Result<Reply, TxError>,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    Begun {
        tid: Tid,
        xid: Arc<str>,
    },
    Branch {
        branch: BranchId,
    },
    Reported,
    /// The standing status after the request: of this decision, or of an earlier one. Never `Begin`.
    /// [`GlobalStatus::commit_answer`] and [`GlobalStatus::rollback_answer`] say what the client is told.
    Decided {
        status: GlobalStatus,
    },
    /// The fact about a branch counts.
    Done,
    /// The standing status after an `End`.
    Ended {
        status: GlobalStatus,
    },
    /// The standing status after an operator's act, and whether it changed anything.
    Operated {
        status: GlobalStatus,
        acted: bool,
    },
    /// Parts of a backup that were taken in, and whether that was the last.
    Restored {
        parts: u64,
        is_done: bool,
    },
    /// The move of service groups that is under way, and whether the act changed anything.
    Moving {
        epoch: u64,
        acted: bool,
    },
    /// How the group stands to a move after a step: `None` when a later one has overtaken it, or none was told before. And
    /// the open transactions that were left before it.
    Stepped {
        stage: Option<Stage>,
        left: u64,
    },
}
