use std::fmt;

use settle_base::GroupTime;

use crate::{
    BranchId, BranchStatus, BranchType, GlobalStatus, Tid, Xid,
    names::{LocalNumber, Name},
};

/// A global transaction that has not ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Global {
    pub tid: Tid,
    /// `host:port:tid`, as the client knows it; phase-two calls carry it.
    pub xid: Xid,
    pub application: Name,
    pub service_group: Name,
    pub name: Name,
    pub timeout_ms: u32,
    pub begun_at: GroupTime,
    pub status: GlobalStatus,
    pub(crate) decided_at: Moment,
    /// An operator said that its branches are not to be called. Only of one that is decided.
    pub retry_stopped: bool,
    /// In registration order, which is the order of their ids. Branches that are done stay as tombstones, so that a
    /// repeated fact is told from one about an unknown branch.
    pub(crate) branches: Vec<Branch>,
    pub(crate) open_branches: u32,
    /// Its own part of the digest of open transactions.
    pub(crate) counted: u64,
}

/// A branch of a transaction that has not ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Branch {
    pub id: BranchId,
    pub branch_type: BranchType,
    pub resource: Name,
    /// `application:ip:port` of the client that registered it, see [`crate::ClientId`].
    pub client: Name,
    pub status: BranchStatus,
    /// Handed back to the resource manager in phase two. Empty once the branch is closed.
    pub application_data: Box<str>,
    /// The rows that the branch keeps locked; empty once they are released.
    pub lock_keys: Box<str>,
    /// When its second phase first failed in a retryable way.
    pub retrying_since: Option<GroupTime>,
    /// Since the transaction's begin.
    pub registered_after_ms: u32,
    /// When its second phase was done, since the transaction's begin.
    pub done_after_ms: Option<u32>,
    /// Failures of its second phase that came to the log.
    pub failures: u16,
    pub last_failure: Option<BranchStatus>,
    pub(crate) is_open: bool,
    /// The resource's number in this replica's lock table.
    pub(crate) resource_number: LocalNumber,
    /// Its part of the digest of open transactions.
    pub(crate) counted: u64,
}

/// A time that may be none, in half the room of an `Option`: a million open transactions hold one each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(u64);

impl Moment {
    pub const NONE: Moment = Moment(u64::MAX);

    /// The last moment that there could be, half a billion years from the group's beginning, is none.
    pub fn new(time: Option<GroupTime>) -> Moment {
        time.map_or(Moment::NONE, |time| Moment(time.0))
    }

    pub fn get(self) -> Option<GroupTime> {
        (self != Moment::NONE).then_some(GroupTime(self.0))
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl Global {
    /// When it was decided; `None` while it is `Begin`.
    pub fn decided_at(&self) -> Option<GroupTime> {
        self.decided_at.get()
    }

    /// When the server may decide a rollback by timeout.
    pub fn deadline(&self) -> GroupTime {
        GroupTime(self.begun_at.0.saturating_add(u64::from(self.timeout_ms)))
    }

    /// Takes in the newest branch. Most have one: room for four, which a list takes at once, is memory that a million open
    /// transactions do not use.
    pub(crate) fn push_branch(&mut self, branch: Branch) {
        if self.branches.is_empty() {
            self.branches.reserve_exact(1);
        }
        self.branches.push(branch);
    }

    /// For what is kept of a branch's times.
    pub(crate) fn ms_since_begin(&self, now: GroupTime) -> u32 {
        u32::try_from(now.since(self.begun_at).as_millis()).unwrap_or(u32::MAX)
    }

    /// All branches in registration order, those that are closed too.
    pub fn branches(&self) -> &[Branch] {
        &self.branches
    }

    /// The branches that are still to be ended, in registration order.
    pub fn open_branches(&self) -> impl DoubleEndedIterator<Item = &Branch> {
        self.branches.iter().filter(|branch| branch.is_open)
    }

    pub fn open_branch_count(&self) -> u32 {
        self.open_branches
    }

    pub fn branch(&self, id: BranchId) -> Option<&Branch> {
        self.position(id).map(|at| &self.branches[at])
    }

    pub(crate) fn position(&self, id: BranchId) -> Option<usize> {
        self.branches.binary_search_by_key(&id, |branch| branch.id).ok()
    }

    /// The status that the transaction ends with when all branches are done as decided.
    pub(crate) fn end_status(&self) -> GlobalStatus {
        use GlobalStatus::*;
        match self.status {
            Committing | CommitRetrying | AsyncCommitting | CommitFailed => Committed,
            Rollbacking | RollbackRetrying | RollbackFailed => Rollbacked,
            TimeoutRollbacking | TimeoutRollbackRetrying | TimeoutRollbackFailed => TimeoutRollbacked,
            other => unreachable!("transaction {} is {other} and has no end to go to", self.tid),
        }
    }
}

/// What a branch counts beside its texts: the record itself and its allocations.
const BRANCH_OVERHEAD: u64 = 192;

impl Branch {
    /// What it counts towards the limit of the branches' bytes.
    pub(crate) fn bytes(&self) -> u64 {
        BRANCH_OVERHEAD + self.lock_keys.len() as u64 + self.application_data.len() as u64
    }

    /// What a branch with these texts will count.
    pub(crate) fn bytes_of(lock_keys: &str, application_data: &str) -> u64 {
        BRANCH_OVERHEAD + lock_keys.len() as u64 + application_data.len() as u64
    }

    /// Its second phase is still to be done. Before the decision every branch is open.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Nothing of it is to be undone or confirmed: its local transaction failed, an XA resource only read
    /// (`DefaultCore.doGlobalCommit`, `doGlobalRollback`), or it is committed already (`SagaAnnotationCore`).
    pub fn is_skipped_in_phase_two(&self, is_commit: bool) -> bool {
        self.status == BranchStatus::PhaseOneFailed
            || (self.status == BranchStatus::PhaseOneRdonly && self.branch_type == BranchType::Xa)
            || (is_commit && self.branch_type == BranchType::SagaAnnotation)
    }
}
