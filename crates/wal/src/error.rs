use settle_base::{ErrorCode, GroupId, Retryable};
use settle_storage::{DiskError, FileName};

use crate::LogIdentity;

/// Why the log cannot go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WalError {
    #[error("open the log: {source}")]
    Open { source: DiskError },
    #[error(
        "log damaged: {file} at offset {offset}, {}: {what}; this was acknowledged, so it must come back from peers",
        groups_text(groups)
    )]
    Corrupt {
        file: FileName,
        offset: u64,
        /// Groups that may have records there; empty when nothing readable tells.
        groups: Vec<GroupId>,
        what: &'static str,
    },
    #[error("{file} belongs to {found}, not to {expected}")]
    Foreign {
        file: FileName,
        expected: LogIdentity,
        found: LogIdentity,
    },
    #[error("{file} has format version {version}; this build reads {supported}")]
    Version {
        file: FileName,
        version: u32,
        supported: u32,
    },
    #[error("append: {staged} bytes wait to be flushed, {size} more would pass the limit of {limit}")]
    Backlog { staged: usize, size: usize, limit: usize },
    #[error("append to group {group}, which the log does not have")]
    UnknownGroup { group: GroupId },
    /// A write or a sync failed for good. Nothing further becomes durable; the node has to stop.
    #[error("the log failed: {source}")]
    Failed { source: DiskError },
}

impl WalError {
    pub fn code(&self) -> ErrorCode {
        ErrorCode::new(
            "WAL",
            match self {
                WalError::Open { .. } => 1,
                WalError::Corrupt { .. } => 2,
                WalError::Foreign { .. } => 3,
                WalError::Version { .. } => 4,
                WalError::Backlog { .. } => 5,
                WalError::UnknownGroup { .. } => 6,
                WalError::Failed { .. } => 7,
            },
        )
    }

    pub fn retryable(&self) -> Retryable {
        match self {
            WalError::Backlog { .. } => Retryable::Yes,
            WalError::Failed { .. } => Retryable::Unknown,
            _ => Retryable::No,
        }
    }
}

fn groups_text(groups: &[GroupId]) -> String {
    if groups.is_empty() {
        return "any group".to_owned();
    }
    let list: Vec<_> = groups.iter().map(GroupId::to_string).collect();
    format!("group {}", list.join(", "))
}
