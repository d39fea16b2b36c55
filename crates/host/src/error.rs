use std::ops::RangeInclusive;

use settle_base::{ErrorCode, GroupId, Index, NodeId, PeerId, Retryable};
use settle_machine::{ApplyError, LoadError};
use settle_raft::{RestoreError, StepError};
use settle_storage::{DiskError, FileName};
use settle_wal::WalError;

use crate::{ClusterId, Durable, Malformed};

/// Why a data directory cannot be used. Nothing was said to any peer.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the data directory belongs to node {found}, this is node {configured}")]
    OtherNode { configured: NodeId, found: NodeId },
    #[error(
        "the data directory is {}, this node is configured as the other: an empty directory can become either",
        if *configured { "a full replica's" } else { "a witness's" }
    )]
    OtherKind { configured: bool },
    #[error("the data directory has format {found}, this build knows up to {known}")]
    NewerFormat { found: u16, known: u16 },
    #[error("the data directory's identity file is damaged")]
    IdentityDamaged,
    #[error("the data directory has {file} but no identity file: whose votes it holds is unknown")]
    IdentityMissing { file: FileName },
    #[error("the data directory belongs to cluster {cluster}, but its log does not know group {group}")]
    LogMissing { cluster: ClusterId, group: GroupId },
    #[error("read the data directory")]
    Disk { source: DiskError },
    #[error("open the log")]
    Log { source: WalError },
    #[error("the log's record of group {group} cannot be understood")]
    Record { group: GroupId, source: Malformed },
    #[error("snapshot file {file} of group {group} at index {index} is missing or damaged")]
    Snapshot {
        group: GroupId,
        index: Index,
        file: FileName,
        source: SnapshotFileError,
    },
    #[error("load the snapshot of group {group} at index {index}")]
    Load {
        group: GroupId,
        index: Index,
        source: LoadError,
    },
    #[error("group {group} goes by cluster version {version}, this build can apply up to {build}")]
    OldBuild { group: GroupId, version: u32, build: u32 },
    #[error("restore group {group} from the log")]
    Restore { group: GroupId, source: RestoreError },
}

impl OpenError {
    pub fn code(&self) -> ErrorCode {
        let number = match self {
            OpenError::OtherNode { .. } => 1,
            OpenError::NewerFormat { .. } => 2,
            OpenError::IdentityDamaged => 3,
            OpenError::IdentityMissing { .. } => 4,
            OpenError::LogMissing { .. } => 5,
            OpenError::Disk { .. } => 6,
            OpenError::Log { .. } => 7,
            OpenError::Record { .. } => 8,
            OpenError::Snapshot { .. } => 9,
            OpenError::Load { .. } => 10,
            OpenError::Restore { .. } => 11,
            OpenError::OldBuild { .. } => 12,
            OpenError::OtherKind { .. } => 13,
        };
        ErrorCode::new("HO", number)
    }

    pub fn retryable(&self) -> Retryable {
        match self {
            OpenError::Disk { .. } => Retryable::Unknown,
            _ => Retryable::No,
        }
    }
}

/// Why a snapshot file is not what was written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFileError {
    #[error("read it")]
    Disk { source: DiskError },
    #[error("its contents are damaged")]
    Damaged { source: Malformed },
    #[error("it is of another group or index")]
    Mismatch,
}

/// What is wrong with a snapshot that arrived whole.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("its membership is none")]
    Members,
    #[error("its membership cannot be read")]
    Book { source: Malformed },
    #[error("its state cannot be loaded")]
    Load { source: LoadError },
}

/// Why the process must stop: going on would break a promise or hide a failure.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("the log failed: what was written is not known to be durable")]
    Log { source: WalError },
    #[error("{message} of group {group} would leave before what it rests on is durable ({durable:?})")]
    SentBeforeDurable {
        group: GroupId,
        message: String,
        durable: Durable,
    },
    #[error("entry {index} of group {group} would be applied before it is durable ({durable:?})")]
    AppliedBeforeDurable {
        group: GroupId,
        index: Index,
        durable: Durable,
    },
    #[error("apply to group {group}")]
    Apply { group: GroupId, source: ApplyError },
    #[error("a committed entry of group {group} at index {index} cannot be understood")]
    Entry { group: GroupId, index: Index },
    #[error("group {group} was raised to cluster version {version}, this build can apply up to {build}")]
    OldBuild { group: GroupId, version: u32, build: u32 },
    #[error("write the data directory")]
    Disk { source: DiskError },
    #[error("start group {group}")]
    Start { group: GroupId, source: RestoreError },
}

impl HostError {
    pub fn code(&self) -> ErrorCode {
        let number = match self {
            HostError::Log { .. } => 21,
            HostError::SentBeforeDurable { .. } => 22,
            HostError::AppliedBeforeDurable { .. } => 23,
            HostError::Apply { .. } => 24,
            HostError::Entry { .. } => 25,
            HostError::Disk { .. } => 27,
            HostError::Start { .. } => 28,
            HostError::OldBuild { .. } => 35,
        };
        ErrorCode::new("HO", number)
    }

    pub fn retryable(&self) -> Retryable {
        match self {
            HostError::Log { .. } | HostError::Disk { .. } => Retryable::Unknown,
            _ => Retryable::No,
        }
    }
}

/// Why a peer's connection is closed.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("node {node} belongs to cluster {theirs}, this node to {ours}")]
    OtherCluster {
        node: NodeId,
        ours: ClusterId,
        theirs: ClusterId,
    },
    #[error("node {said} answered where node {expected} is configured")]
    OtherNode { expected: NodeId, said: NodeId },
    #[error("node {node} is not configured and no member")]
    UnknownNode { node: NodeId },
    #[error("node {node} has this node's own incarnation {incarnation}: a data directory was copied")]
    SameIncarnation { node: NodeId, incarnation: PeerId },
    #[error("node {node} speaks for replica {peer} of group {group}, which is not its own")]
    NotItsReplica { node: NodeId, group: GroupId, peer: PeerId },
    #[error("node {node} sent what contradicts the protocol")]
    Step { node: NodeId, source: StepError },
    #[error("node {node} proposed a command for group {group} that no replica could apply")]
    Proposal {
        node: NodeId,
        group: GroupId,
        source: ApplyError,
    },
    #[error("node {node} sent a snapshot of group {group} at index {index} that is none")]
    Snapshot {
        node: NodeId,
        group: GroupId,
        index: Index,
        source: SnapshotError,
    },
    #[error("node {node} names founders of its cluster that cannot be: {what}")]
    Founders { node: NodeId, what: &'static str },
    #[error("node {node} can apply up to cluster version {build}, its groups go by {version}")]
    OldBuild { node: NodeId, build: u32, version: u32 },
    #[error("node {node} speaks versions {theirs:?} between nodes, this build speaks {ours:?}")]
    OtherProtocol {
        node: NodeId,
        ours: RangeInclusive<u16>,
        theirs: RangeInclusive<u16>,
    },
}

impl PeerError {
    pub fn code(&self) -> ErrorCode {
        let number = match self {
            PeerError::OtherCluster { .. } => 41,
            PeerError::OtherNode { .. } => 42,
            PeerError::UnknownNode { .. } => 43,
            PeerError::SameIncarnation { .. } => 44,
            PeerError::NotItsReplica { .. } => 45,
            PeerError::Step { .. } => 46,
            PeerError::Proposal { .. } => 47,
            PeerError::Snapshot { .. } => 48,
            PeerError::Founders { .. } => 49,
            PeerError::OtherProtocol { .. } => 50,
            PeerError::OldBuild { .. } => 52,
        };
        ErrorCode::new("HO", number)
    }

    pub fn retryable(&self) -> Retryable {
        Retryable::No
    }
}
