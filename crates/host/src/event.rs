//! What goes into a host and what comes out.

use std::time::Duration;

use settle_base::{GroupId, Index, NodeId, PeerId, Term};
use settle_machine::ApplyError;
use settle_raft::ConfState;
use settle_storage::FileName;

use crate::{
    ClusterId, Hello, HostError, Lane, OperatorOutcome, OperatorRequest, PeerError, PeerMessage, QuarantineStatus,
    StopReason,
};

#[derive(Debug)]
pub enum HostEvent<R> {
    /// Every [`HostConfig::tick`](crate::HostConfig::tick).
    Tick,
    /// The disk may have completions.
    DiskReady,
    /// A connection with `node` is up and these were its first words. Nothing of an older connection with that node may
    /// be stepped afterwards.
    PeerUp {
        node: NodeId,
        hello: Hello,
    },
    PeerDown {
        node: NodeId,
    },
    Peer {
        from: NodeId,
        message: PeerMessage,
    },
    Request(R),
    Operator(OperatorRequest),
}

#[derive(Debug)]
pub enum HostAction<Response> {
    Send {
        to: NodeId,
        lane: Lane,
        message: PeerMessage,
    },
    Respond(Response),
    /// The peer lied or does not belong here: close its connection.
    ClosePeer {
        node: NodeId,
        reason: PeerError,
    },
    /// A state machine that is not needed any more. Freeing a large one takes long: drop it on another thread.
    Discard(Discarded),
    /// For logs and metrics.
    Note(HostNote),
    /// Stop the process and keep the evidence. Nothing comes out of this host any more.
    Fatal(HostError),
}

/// A state machine to be dropped.
pub struct Discarded(pub Box<dyn Send>);

impl std::fmt::Debug for Discarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Discarded")
    }
}

/// Something happened that an operator may want to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostNote {
    Founded {
        cluster: ClusterId,
    },
    /// `as_founder`: this directory was one of those that the cluster was founded of; else it waits to be let in.
    Adopted {
        cluster: ClusterId,
        as_founder: bool,
    },
    BecameLeader {
        group: GroupId,
        term: Term,
    },
    FollowsLeader {
        group: GroupId,
        term: Term,
        leader: Option<NodeId>,
    },
    MembersChanged {
        group: GroupId,
        index: Index,
        conf: ConfState,
    },
    ReplacementProposed {
        group: GroupId,
        node: NodeId,
        peer: PeerId,
    },
    SnapshotTaken {
        group: GroupId,
        index: Index,
        bytes: u64,
    },
    /// It is tried again later.
    SnapshotGivenUp {
        group: GroupId,
        index: Index,
    },
    SnapshotSent {
        group: GroupId,
        to: NodeId,
        index: Index,
        ok: bool,
    },
    SnapshotInstalled {
        group: GroupId,
        index: Index,
    },
    /// Acknowledged bytes of the log were damaged. `groups` have lost something and get it back from their peers; the
    /// segments were copied before they were mended.
    LogDamaged {
        places: Vec<(FileName, u64)>,
        groups: Vec<GroupId>,
        copies: Vec<FileName>,
    },
    /// A snapshot file did not read: the replica begins again with nothing and waits for its peers' snapshot.
    SnapshotDamaged {
        group: GroupId,
        index: Index,
        file: FileName,
    },
    /// The log or the snapshot was damaged: the replica votes again once it has caught up.
    Recovering {
        group: GroupId,
    },
    Recovered {
        group: GroupId,
    },
    /// This node has a replica now; of no configuration while it waits for a snapshot.
    GroupCreated {
        group: GroupId,
        conf: ConfState,
    },
    GroupDestroyed {
        group: GroupId,
    },
    /// This node's replica goes no further, as if the node were down; the node's other groups do.
    GroupStopped {
        group: GroupId,
        reason: StopReason,
    },
    /// No cluster is founded: those of the configured nodes that are witnesses have to be a minority.
    TooManyWitnesses {
        witnesses: Vec<NodeId>,
    },
    /// This replica's machine differs from those of a majority: it serves nothing until it is rebuilt by the leader's
    /// snapshot.
    Quarantined {
        group: GroupId,
        status: QuarantineStatus,
    },
    /// The replica that was in quarantine holds the leader's state as of `index` and serves again.
    Rebuilt {
        group: GroupId,
        index: Index,
    },
    /// The full voters' machines differ at `index` and no majority agrees, so nobody can tell who is right: nothing is
    /// done.
    HashesDivided {
        group: GroupId,
        index: Index,
        hashes: Vec<(PeerId, u64)>,
    },
    DiskFull,
    DiskHasSpace,
    /// Leadership is handed over since the disk is too slow or full.
    HandsOver {
        group: GroupId,
        to: NodeId,
        waited: Duration,
    },
    /// The answer to an operator; there is exactly one for each request, in the same step.
    Operated {
        request: OperatorRequest,
        outcome: OperatorOutcome,
    },
}

/// Why a proposal came to nothing. The service proposes again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum DropReason {
    NoLeader,
    NotLeader,
    TooLong,
    Full,
    DiskFull,
    UnknownGroup,
    /// The term that it was built on is over.
    TermChanged,
    /// No replica could apply it.
    Unreadable(ApplyError),
}
