//! What an operator should hear of: structured, for the log and the metrics of the runtime.

use std::{sync::Arc, time::Duration};

use settle_base::{GroupId, NodeId, Term};
use settle_tx::{AuditRecord, BranchId, BranchStatus, CallFailure, GlobalStatus, Tid, TxError};

use crate::{CallId, ConnId, message::MessageError};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateNote {
    /// A branch has been tried for so long that somebody should look; it is still tried. Or the client of a decided
    /// Saga has not reported its end for so long.
    Stuck {
        xid: String,
        branch: BranchId,
        resource: String,
        client: String,
    },
    /// A transaction keeps rows locked for so long that somebody should look.
    LockHeldLong {
        xid: String,
        status: GlobalStatus,
        rows: usize,
        age: Duration,
    },
    /// Many more branches have to be called again than a little while ago.
    RetriesRising {
        group: GroupId,
        before: usize,
        now: usize,
        /// Of those: no client is there to be called.
        unreached: usize,
    },
    /// An operator's act changed something; told by the group's leader.
    Operated { record: Arc<AuditRecord> },
    /// The leader asks for a rollback because the transaction's time is up.
    TimedOut { xid: String },
    /// No session of any node can take a branch's call, again; it is tried every second, and noted seldom.
    NoChannel {
        xid: String,
        branch: BranchId,
        resource: String,
        client: String,
        attempt: u32,
    },
    /// A second-phase call came to nothing.
    CallFailed {
        xid: String,
        branch: BranchId,
        why: CallFailure,
    },
    /// A resource manager answered a call that it was not asked, or that is long over. Ignored.
    AnswerIgnored { conn: ConnId, call: CallId },
    /// A resource manager answered with a status that is no answer to the call. Ignored; the call is made again.
    WrongStatus {
        conn: ConnId,
        call: CallId,
        xid: String,
        branch: BranchId,
        status: Option<BranchStatus>,
    },
    /// The machine refused what a resource manager claimed.
    FactRefused {
        tid: Tid,
        branch: BranchId,
        status: BranchStatus,
        error: TxError,
    },
    /// An application wanted to end, join, know or report on what is another's. Refused; noted seldom.
    OfAnother {
        conn: ConnId,
        application: String,
        tid: Tid,
    },
    /// A call came from a leader of an older term than is known here. Refused.
    OldTermRefused {
        from: NodeId,
        group: GroupId,
        term: Term,
        newest: Term,
    },
    /// A peer asked for the other decision of a branch whose call is still out. Refused.
    ContradictingCall { from: NodeId, tid: Tid, branch: BranchId },
    /// A peer's message cannot be read. Ignored.
    BadPeerMessage { from: NodeId, error: MessageError },
    /// A peer has more sessions than this node keeps; calls for the rest will not find them.
    DirectoryFull { node: NodeId, limit: usize },
}

/// Counters since the gate was made, and sizes now. For the metrics; reading them is cheap.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct GateStats {
    pub sessions: usize,
    /// Sessions with resources, of all nodes.
    pub directory_sessions: usize,
    pub requests_in_flight: usize,
    /// Commands proposed and not applied.
    pub commands_pending: usize,
    pub commands_pending_bytes: u64,
    /// Decided transactions whose client waits for the end of phase two.
    pub waiting_for_phase_two: usize,
    pub queries_waiting: usize,
    /// Requests that wait for their service group to be in some group.
    pub waiting_for_service_groups: usize,
    /// Second-phase calls out to this node's resource managers.
    pub calls_outstanding: usize,
    /// Branches that have been retried for too long, of groups that this node leads; so the next three.
    pub branches_stuck: usize,
    /// Branches whose second phase has failed before and is tried again.
    pub branches_retrying: usize,
    /// Of those: branches for which no client is connected.
    pub branches_unreached: usize,
    /// Transactions that have held row locks for longer than they should.
    pub locks_held_long: usize,

    pub requests_total: u64,
    pub refused_total: u64,
    /// Dropped unanswered because the hold ran out.
    pub holds_expired_total: u64,
    /// Dropped unanswered because a limit was met.
    pub dropped_at_limit_total: u64,
    pub commands_reproposed_total: u64,
    pub calls_total: u64,
    pub calls_failed_total: u64,
    pub calls_refused_old_term_total: u64,
    /// Requests about transactions of another application.
    pub strangers_refused_total: u64,
    pub rm_nonsense_total: u64,
    pub peer_messages_bad_total: u64,
    pub connections_closed_total: u64,
}
