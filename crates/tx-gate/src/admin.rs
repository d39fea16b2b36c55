//! What an operator may ask. Lists are read from this node's replica once it is known to be up to date.

use std::time::Duration;

use settle_base::{GroupId, GroupTime, NodeId};
use settle_tx::{BranchId, BranchStatus, BranchType, Global, GlobalStatus, Outcome, Tid, TxMachine};

use crate::{ConnId, GateError, directory::Directory};

/// Rows in one answer, at most.
pub const LIST_MAX: usize = 1_000;

#[derive(Clone, Debug)]
pub enum AdminRequest {
    ListTx(TxFilter),
    /// By xid, or by the number at its end.
    ShowTx {
        id: String,
    },
    /// The resource managers' sessions of all nodes, as far as this one knows.
    Sessions,
}

#[derive(Clone, Debug, Default)]
pub struct TxFilter {
    /// The first group when none is given.
    pub group: Option<GroupId>,
    pub status: Option<GlobalStatus>,
    /// Begun at least this long ago, in group time.
    pub older_than: Duration,
    /// Only transactions after this one: `next` of the answer before.
    pub after: Option<Tid>,
    /// At most [`LIST_MAX`]; 0 means that.
    pub limit: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAnswer {
    Transactions { rows: Vec<TxRow>, next: Option<Tid> },
    Transaction(TxView),
    Sessions(Vec<SessionRow>),
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
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxView {
    Open {
        row: TxRow,
        branches: Vec<BranchRow>,
    },
    Ended {
        tid: Tid,
        status: GlobalStatus,
    },
    /// It has ended, longer ago than outcomes are kept.
    Evicted {
        tid: Tid,
    },
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
    tid.ok_or_else(|| GateError::UnknownXid {
        xid: id.chars().take(256).collect(),
    })
}

pub(crate) fn list(machine: &TxMachine, now: GroupTime, filter: &TxFilter) -> AdminAnswer {
    let limit = match filter.limit {
        0 => LIST_MAX,
        limit => limit.min(LIST_MAX),
    };
    let fits = |global: &&Global| {
        filter.after.is_none_or(|after| global.tid > after)
            && filter.status.is_none_or(|status| global.status == status)
            && now.since(global.begun_at) >= filter.older_than
    };
    let mut found = machine.globals().filter(fits);
    let rows: Vec<TxRow> = found.by_ref().take(limit).map(|global| row(global, now)).collect();
    let next = match found.next() {
        Some(_) => rows.last().map(|row| row.tid),
        None => None,
    };
    AdminAnswer::Transactions { rows, next }
}

pub(crate) fn show(machine: &TxMachine, now: GroupTime, tid: Tid) -> Result<AdminAnswer, GateError> {
    let view = match machine.outcome(tid) {
        Outcome::Open(global) => {
            let branches = global.branches().iter().map(|branch| BranchRow {
                branch: branch.id,
                branch_type: branch.branch_type,
                resource: String::from(&*branch.resource),
                client: String::from(&*branch.client),
                status: branch.status,
                lock_keys: String::from(&*branch.lock_keys),
                retrying_for: branch.retrying_since.map(|since| now.since(since)),
                is_open: branch.is_open(),
            });
            TxView::Open {
                row: row(global, now),
                branches: branches.collect(),
            }
        }
        Outcome::Ended(status) => TxView::Ended { tid, status },
        Outcome::Evicted => TxView::Evicted { tid },
        Outcome::Unknown => return Err(GateError::UnknownXid { xid: tid.to_string() }),
    };
    Ok(AdminAnswer::Transaction(view))
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
        xid: String::from(&*global.xid),
        status: global.status,
        application: String::from(&*global.application),
        service_group: String::from(&*global.service_group),
        name: String::from(&*global.name),
        age: now.since(global.begun_at),
        timeout_ms: global.timeout_ms,
        open_branches: global.open_branch_count(),
    }
}
