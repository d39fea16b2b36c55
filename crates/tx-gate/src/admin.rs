//! What an operator may ask, and do. Lists are read from this node's replica once it is known to be up to date; acts are
//! commands in the log, signed by who does them.

use std::time::Duration;

use bytes::Bytes;
use settle_base::{GroupId, GroupTime, NodeId};
use settle_tx::{
    ActKind, AuditRecord, Branch, BranchId, BranchStatus, BranchType, Global, GlobalStatus, LockRow,
    OPERATOR_CHARS_MAX, OperatorAct, Outcome, REASON_CHARS_MAX, ROWS_CHARS_MAX, Reply, Signed, Tid, TxError, TxMachine,
    lock_rows,
};

use crate::{ConnId, GateError, MoveRow, RefusalError, ServiceGroupRow, directory::Directory};

/// Rows in one answer, at most.
pub const LIST_MAX: usize = 1_000;
/// Transactions, branches and rows that one request looks at, at most (a long row counts for several): it is answered on
/// the loop that serves the group. A list may end early for it, with a `next` and with fewer rows than asked for, or none.
pub const SCAN_MAX: usize = 50_000;
/// Bytes of row keys that count for one more.
const BYTES_OF_A_UNIT: usize = 64;
/// Bytes of lock keys with which a page of a transaction's branches is full.
const SHOW_BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Debug)]
pub enum AdminRequest {
    ListTx(TxFilter),
    ShowTx(ShowFilter),
    /// The rows that open transactions keep locked.
    Locks(LockFilter),
    /// What operators did in a group, newest first.
    Audit {
        group: Option<GroupId>,
        /// Only acts with a smaller number: the last of the answer before.
        before: Option<u64>,
        /// At most [`LIST_MAX`]; 0 means that.
        limit: usize,
    },
    Operate(OperatorRequest),
    /// The next part of a backup.
    Restore {
        group: GroupId,
        part: Bytes,
    },
    /// The resource managers' sessions of all nodes, as far as this one knows.
    Sessions,
    /// Where service groups begin, and moves under way.
    ServiceGroups,
    /// Moves service groups, all of them at once.
    MoveServiceGroups {
        names: Vec<String>,
        to: GroupId,
        signed: Signed<String>,
    },
    /// Takes back the move that this service group is on.
    CancelMove {
        name: String,
        signed: Signed<String>,
    },
}

/// One transaction.
#[derive(Clone, Debug, Default)]
pub struct ShowFilter {
    /// Its xid, or the number at its end.
    pub id: String,
    /// Only branches after this one: `next` of the answer before.
    pub after: Option<BranchId>,
    /// Branches of one answer, at most [`LIST_MAX`]; 0 means that.
    pub limit: usize,
}

/// An act on a transaction.
#[derive(Clone, Debug)]
pub struct OperatorRequest {
    /// Its xid, or the number at its end.
    pub id: String,
    pub act: OperatorAct<String>,
    pub signed: Signed<String>,
    /// The operator says that the branches are settled, without which nothing is forgotten and no lock released.
    pub claims_settled: bool,
}

#[derive(Clone, Debug, Default)]
pub struct TxFilter {
    /// All groups, one after the other, when none is given.
    pub group: Option<GroupId>,
    pub status: Option<GlobalStatus>,
    /// Begun at least this long ago, in group time.
    pub older_than: Duration,
    /// Begun by this application.
    pub application: Option<String>,
    /// With an open branch of this resource.
    pub resource: Option<String>,
    /// Only transactions after this one: `next` of the answer before.
    pub after: Option<Tid>,
    /// At most [`LIST_MAX`]; 0 means that.
    pub limit: usize,
}

#[derive(Clone, Debug, Default)]
pub struct LockFilter {
    /// All groups, one after the other, when none is given.
    pub group: Option<GroupId>,
    pub resource: Option<String>,
    /// `table`, or `table:pk` for one row.
    pub row: Option<String>,
    /// Held by this transaction: its xid, or the number at its end.
    pub holder: Option<Tid>,
    /// Begun at least this long ago, in group time.
    pub older_than: Duration,
    /// `next` of the answer before.
    pub after: Option<LockCursor>,
    /// At most [`LIST_MAX`]; 0 means that.
    pub limit: usize,
}

/// How far a list of locks has come: all rows of transactions before `tid`; of that one all as well, or, with a branch,
/// all rows of the branches before it and so many of its own. A row that is freed between two pages may hide another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LockCursor {
    pub tid: Option<Tid>,
    pub branch: Option<BranchId>,
    pub rows: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAnswer {
    Transactions {
        rows: Vec<TxRow>,
        next: Option<Tid>,
    },
    Transaction(TxView),
    Locks {
        rows: Vec<LockRowView>,
        next: Option<LockCursor>,
    },
    /// Newest first.
    Audit(Vec<AuditRecord>),
    /// How the transaction stands after the act, and whether the act changed anything.
    Operated {
        status: GlobalStatus,
        acted: bool,
    },
    /// Parts of a backup that were taken in, and whether that was the last.
    Restored {
        parts: u64,
        is_done: bool,
    },
    Sessions(Vec<SessionRow>),
    ServiceGroups {
        /// By name.
        rows: Vec<ServiceGroupRow>,
        /// Oldest first.
        moves: Vec<MoveRow>,
    },
    /// The move, and whether the act changed anything.
    Moving {
        epoch: u64,
        acted: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxRow {
    pub tid: Tid,
    pub xid: String,
    pub status: GlobalStatus,
    pub application: String,
    pub service_group: String,
    pub name: String,
    pub age: Duration,
    pub timeout_ms: u32,
    pub open_branches: u32,
    pub retry_stopped: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxView {
    Open {
        row: TxRow,
        branches: Vec<BranchRow>,
        /// The last of them, when there are more.
        next: Option<BranchId>,
        /// What operators did to it, oldest first, as far as it is kept.
        acts: Vec<AuditRecord>,
    },
    Ended {
        tid: Tid,
        status: GlobalStatus,
        acts: Vec<AuditRecord>,
    },
    /// It has ended, longer ago than outcomes are kept.
    Evicted { tid: Tid },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchRow {
    pub branch: BranchId,
    pub branch_type: BranchType,
    pub resource: String,
    pub client: String,
    pub status: BranchStatus,
    pub lock_keys: String,
    /// How long its second phase has been failing.
    pub retrying_for: Option<Duration>,
    pub is_open: bool,
}

/// A row as one branch locks it. One that two branches changed is there twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockRowView {
    pub resource: String,
    pub table: String,
    pub pk: String,
    pub tid: Tid,
    pub xid: String,
    pub branch: BranchId,
    pub status: GlobalStatus,
    /// Since its transaction was begun.
    pub age: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    pub node: NodeId,
    pub conn: ConnId,
    pub application: String,
    pub ip: String,
    pub port: u16,
    pub resources: Vec<String>,
}

/// The id that an operator typed.
pub(crate) fn tid_of(id: &str) -> Result<Tid, GateError> {
    let number = id.rsplit(':').next().unwrap_or(id);
    let tid = number.parse().ok().and_then(Tid::try_from_i64);
    tid.ok_or_else(|| unknown(id))
}

pub(crate) fn unknown(id: &str) -> GateError {
    GateError::UnknownXid {
        xid: id.chars().take(256).collect(),
    }
}

pub(crate) fn check_act(request: &OperatorRequest) -> Result<(), GateError> {
    check_signed(&request.signed)?;
    if let OperatorAct::ReleaseLock { rows, .. } = &request.act {
        let (field, chars, limit) = ("rows", rows.chars().count(), ROWS_CHARS_MAX);
        if chars > limit {
            return Err(GateError::TextTooLong { field, chars, limit });
        }
    }
    let act = request.act.kind();
    if matches!(act, ActKind::Forget | ActKind::ReleaseLock) && !request.claims_settled {
        return Err(GateError::NotClaimed { act });
    }
    Ok(())
}

pub(crate) fn check_signed(signed: &Signed<String>) -> Result<(), GateError> {
    let Signed { operator, reason, .. } = signed;
    for (field, text, limit) in [
        ("operator", operator, OPERATOR_CHARS_MAX),
        ("reason", reason, REASON_CHARS_MAX),
    ] {
        if !text.chars().any(is_visible) {
            return Err(GateError::NotSigned { field });
        }
        let chars = text.chars().count();
        if chars > limit {
            return Err(GateError::TextTooLong { field, chars, limit });
        }
    }
    Ok(())
}

/// A text without such a character names nobody. Simple, so that the API's description can say it as a pattern.
fn is_visible(char: char) -> bool {
    !matches!(char, '\0'..=' ' | '\u{7f}'..='\u{a0}')
}

pub(crate) fn to_operator(result: Result<Reply, TxError>) -> Result<AdminAnswer, RefusalError> {
    match result {
        Ok(Reply::Operated { status, acted }) => Ok(AdminAnswer::Operated { status, acted }),
        Ok(Reply::Restored { parts, is_done }) => Ok(AdminAnswer::Restored { parts, is_done }),
        Ok(Reply::Moving { epoch, acted }) => Ok(AdminAnswer::Moving { epoch, acted }),
        Ok(reply) => unreachable!("the machine answers an act in kind, not with {reply:?}"),
        Err(error) => Err(RefusalError::Tx(error)),
    }
}

fn limit_of(limit: usize) -> usize {
    match limit {
        0 => LIST_MAX,
        limit => limit.min(LIST_MAX),
    }
}

/// What one request may still look at.
struct Budget(usize);

impl Budget {
    fn spend(&mut self, units: usize) {
        self.0 = self.0.saturating_sub(units);
    }

    fn is_over(&self) -> bool {
        self.0 == 0
    }
}

/// `is_last`: no other group is to be listed behind this one.
pub(crate) fn list(machine: &TxMachine, now: GroupTime, filter: &TxFilter, is_last: bool) -> AdminAnswer {
    let limit = limit_of(filter.limit);
    let fits = |global: &Global| {
        let of_resource = |resource: &String| global.open_branches().any(|branch| *branch.resource == **resource);
        filter.status.is_none_or(|status| global.status == status)
            && now.since(global.begun_at) >= filter.older_than
            && filter
                .application
                .as_ref()
                .is_none_or(|name| *global.application == **name)
            && filter.resource.as_ref().is_none_or(of_resource)
    };
    let mut rows = Vec::new();
    let mut budget = Budget(SCAN_MAX);
    for global in machine.globals_after(filter.after) {
        let branches = filter.resource.as_ref().map_or(0, |_| global.branches().len());
        budget.spend(1 + branches);
        if fits(global) {
            if rows.len() == limit {
                let next = rows.last().map(|row: &TxRow| row.tid);
                return AdminAnswer::Transactions { rows, next };
            }
            rows.push(row(global, now));
        }
        if budget.is_over() {
            let next = Some(global.tid);
            return AdminAnswer::Transactions { rows, next };
        }
    }
    AdminAnswer::Transactions {
        rows,
        next: end_of_group(machine, is_last),
    }
}

pub(crate) fn locks(machine: &TxMachine, now: GroupTime, filter: &LockFilter, is_last: bool) -> AdminAnswer {
    let limit = limit_of(filter.limit);
    let (table, pk) = match filter.row.as_deref().map(|row| row.split_once(':').ok_or(row)) {
        None => (None, None),
        Some(Err(table)) => (Some(table), None),
        Some(Ok((table, pk))) => (Some(table), Some(pk)),
    };
    let mut done = filter.after.unwrap_or_default();
    let (mut rows, mut budget) = (Vec::new(), Budget(SCAN_MAX));
    // The one that the page before stopped in, unless it has ended; then those behind it.
    let begun = done.tid.filter(|_| done.branch.is_some());
    let begun = begun.and_then(|tid| machine.global(tid));
    let held = filter.holder.and_then(|holder| machine.global(holder));
    let held = held.filter(|global| done.tid.is_none_or(|tid| tid < global.tid));
    let behind = match filter.holder {
        None => Some(machine.globals_after(done.tid)),
        Some(_) => None,
    };
    for global in begun.into_iter().chain(held).chain(behind.into_iter().flatten()) {
        if budget.is_over() {
            return AdminAnswer::Locks { rows, next: Some(done) };
        }
        budget.spend(1);
        let is_begun = done.tid == Some(global.tid);
        let is_asked =
            filter.holder.is_none_or(|holder| holder == global.tid) && now.since(global.begun_at) >= filter.older_than;
        let branches = match is_asked {
            true => global.branches(),
            false => &[],
        };
        let first = done.branch.filter(|_| is_begun);
        let first = first.map_or(0, |id| branches.partition_point(|branch| branch.id < id));
        for branch in &branches[first..] {
            if budget.is_over() {
                return AdminAnswer::Locks { rows, next: Some(done) };
            }
            budget.spend(1);
            let passed_over = match done.branch {
                Some(id) if is_begun && id == branch.id => done.rows,
                _ => 0,
            };
            done = LockCursor {
                tid: Some(global.tid),
                branch: Some(branch.id),
                rows: passed_over,
            };
            if filter.resource.as_ref().is_some_and(|name| *branch.resource != **name) {
                continue;
            }
            let named = lock_rows(&branch.lock_keys).map_while(Result::ok);
            for row in named.skip(passed_over as usize) {
                if budget.is_over() {
                    return AdminAnswer::Locks { rows, next: Some(done) };
                }
                budget.spend(1 + (row.table.len() + row.pk.len()) / BYTES_OF_A_UNIT);
                let is_wanted = table.is_none_or(|table| row.table == table) && pk.is_none_or(|pk| row.pk == pk);
                if is_wanted {
                    if rows.len() == limit {
                        return AdminAnswer::Locks { rows, next: Some(done) };
                    }
                    rows.push(lock_row(global, branch, row, now));
                }
                done.rows += 1;
            }
        }
        done = LockCursor {
            tid: Some(global.tid),
            ..LockCursor::default()
        };
    }
    let is_last = is_last || filter.holder.is_some();
    let next = end_of_group(machine, is_last).map(|tid| LockCursor {
        tid: Some(tid),
        ..LockCursor::default()
    });
    AdminAnswer::Locks { rows, next }
}

fn lock_row(global: &Global, branch: &Branch, row: LockRow<'_>, now: GroupTime) -> LockRowView {
    LockRowView {
        resource: String::from(&*branch.resource),
        table: row.table.to_owned(),
        pk: row.pk.to_owned(),
        tid: global.tid,
        xid: global.xid.to_string(),
        branch: branch.id,
        status: global.status,
        age: now.since(global.begun_at),
    }
}

/// Where a list goes on behind the machine's group.
fn end_of_group(machine: &TxMachine, is_last: bool) -> Option<Tid> {
    (!is_last).then(|| Tid::last_of(GroupId(u64::from(machine.config().group))))
}

pub(crate) fn audit(machine: &TxMachine, before: Option<u64>, limit: usize) -> AdminAnswer {
    let records = machine.audit().rev();
    let wanted = records.filter(|record| before.is_none_or(|before| record.number < before));
    AdminAnswer::Audit(wanted.take(limit_of(limit)).cloned().collect())
}

pub(crate) fn show(machine: &TxMachine, now: GroupTime, filter: &ShowFilter) -> Result<AdminAnswer, GateError> {
    let tid = tid_of(&filter.id)?;
    let acts = || {
        machine
            .audit()
            .filter(|record| record.tid == Some(tid))
            .cloned()
            .collect()
    };
    let view = match machine.outcome(tid) {
        Outcome::Open(global) => {
            let (branches, next) = branches_of(global, filter, now);
            TxView::Open {
                row: row(global, now),
                branches,
                next,
                acts: acts(),
            }
        }
        Outcome::Ended(status) => TxView::Ended {
            tid,
            status,
            acts: acts(),
        },
        Outcome::Evicted => TxView::Evicted { tid },
        Outcome::Unknown => return Err(unknown(&tid.to_string())),
    };
    Ok(AdminAnswer::Transaction(view))
}

fn branches_of(global: &Global, filter: &ShowFilter, now: GroupTime) -> (Vec<BranchRow>, Option<BranchId>) {
    let all = global.branches();
    let first = filter
        .after
        .map_or(0, |after| all.partition_point(|branch| branch.id <= after));
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for branch in &all[first..] {
        // The first is always told, however long its keys are.
        bytes += branch.lock_keys.len();
        if rows.len() == limit_of(filter.limit) || (bytes > SHOW_BYTES_MAX && !rows.is_empty()) {
            let next = rows.last().map(|row: &BranchRow| row.branch);
            return (rows, next);
        }
        rows.push(BranchRow {
            branch: branch.id,
            branch_type: branch.branch_type,
            resource: String::from(&*branch.resource),
            client: String::from(&*branch.client),
            status: branch.status,
            lock_keys: String::from(&*branch.lock_keys),
            retrying_for: branch.retrying_since.map(|since| now.since(since)),
            is_open: branch.is_open(),
        });
    }
    (rows, None)
}

pub(crate) fn sessions(directory: &Directory) -> AdminAnswer {
    let rows = directory.iter().map(|(node, info)| SessionRow {
        node,
        conn: info.conn,
        application: info.application,
        ip: info.ip,
        port: info.port,
        resources: info.resources,
    });
    AdminAnswer::Sessions(rows.collect())
}

fn row(global: &Global, now: GroupTime) -> TxRow {
    TxRow {
        tid: global.tid,
        xid: global.xid.to_string(),
        status: global.status,
        application: String::from(&*global.application),
        service_group: String::from(&*global.service_group),
        name: String::from(&*global.name),
        age: now.since(global.begun_at),
        timeout_ms: global.timeout_ms,
        open_branches: global.open_branch_count(),
        retry_stopped: global.retry_stopped,
    }
}
