//! The transaction coordinator's state machine and the driver of its second phase.
//!
//! Both are pure: [`TxMachine`] is told committed commands and the group's time, and gives effects; [`Driver`] runs on
//! the group's leader, is told those effects, and says which branch to call next and which transaction has timed out.
//! Neither knows a wire, a clock or a socket. The same commands in the same order give the same state, effects and
//! hash on every replica.
//!
//! The linearisation point of a global transaction is the log entry that holds [`CommandBody::Decide`]: whichever
//! decision is first in the log stands, every later one is answered with it. Statuses, branch types and lock rules are
//! those of Apache Seata 2.x (`org.apache.seata.core.model`, `org.apache.seata.server.coordinator`).

/// What applying does, and the formats of commands and snapshots. It goes up with every change to any of them, and the
/// machine then does it from that [`EntryMeta::version`](settle_machine::EntryMeta) on, and the old before.
///
/// 1 to 3 were never released, and nothing does them any more: version 4 is applied whatever lower one is in force. Version
/// 5 moves service groups between transaction groups; where none has ever been moved, all formats are those of version 4, so
/// that a build of that version can read them as long as it may be there.
pub const APPLY_VERSION: u32 = 5;

mod audit;
mod caller;
mod command;
mod dedup;
mod dedup_codec;
mod digest;
mod driver;
mod effect;
mod encoding;
mod ended;
mod error;
mod global;
mod id;
mod lock_key;
mod locks;
mod machine;
mod moves;
mod names;
mod once;
mod operator;
mod outcome;
mod restore;
mod saga;
mod service_groups;
mod snapshot;
mod status;
mod transitions;

pub use audit::{AUDIT_MAX, AuditRecord, OPERATOR_CHARS_MAX, REASON_CHARS_MAX};
pub use command::{
    BATCH_COMMANDS_MAX, Command, CommandBody, Decision, Expect, OwnedCommand, OwnedCommandBody, decode_batch,
    encode_batch,
};
pub use driver::{CallFailure, CallKind, Driver, DriverAction, DriverConfig};
pub use effect::{Reply, TxEffect};
pub use encoding::DecodeError;
pub use ended::{Ended, EndedBranch, EndedRecord};
pub use error::{Refusal, TxError};
pub use global::{Branch, Global};
pub use id::{BranchId, ClientId, ReqId, Tid, Xid};
pub use lock_key::{LockKeyError, LockRow, lock_rows};
pub use machine::{BRANCH_BYTES_MAX, BRANCHES_MAX, LOCK_BYTES_MAX, MachineConfig, SESSIONS_MAX, Stats, TxMachine};
pub use names::Name;
pub use operator::{ActKind, OperatorAct, ROWS_CHARS_MAX, Signed};
pub use outcome::Outcome;
pub use restore::RESTORE_PART_MAX;
pub use service_groups::{
    MOVE_NAMES_MAX, MOVES_SINCE, Mark, Move, MoveStep, Place, SERVICE_GROUP_BYTES_MAX, SERVICE_GROUPS_MAX, Stage,
};
pub use status::{BranchStatus, BranchType, Direction, GlobalStatus, UnknownCode};
