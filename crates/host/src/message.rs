//! What nodes say to each other. The bytes are made by [`crate::peer_codec`].

use bytes::Bytes;
use settle_base::{GroupId, Index, NodeId, PeerId, Term};
use settle_raft::Message;

use crate::{
    ClusterId, Leads, Member,
    raft_codec::{BATCH_MESSAGES_MAX, message_bytes},
};

/// The first thing both sides of a connection say; carried by the transport.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The newest [`PeerMessage`] format that the sender speaks.
    pub protocol: u16,
    /// The oldest one that it still speaks. Two nodes talk when their ranges meet, in the newest format of both.
    pub protocol_min: u16,
    /// `None`: the sender's directory belongs to no cluster yet.
    pub cluster: Option<ClusterId>,
    pub node: NodeId,
    pub incarnation: PeerId,
    /// The highest cluster version that the sender can apply.
    pub build: u32,
    /// The sender keeps logs but no machines.
    pub witness: bool,
}

/// Which of a pair of connections a message takes, so that bulk never delays a heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    Control,
    Bulk,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerMessage {
    Raft(Vec<Message>),
    SnapshotChunk(SnapshotChunk),
    SnapshotAck {
        group: GroupId,
        stream: u64,
        /// Chunks before this one are written.
        next: u32,
    },
    /// The receiver gave the stream up.
    SnapshotReject {
        group: GroupId,
        stream: u64,
    },
    /// A command for the group that the receiver leads; only in `expected_term`, when given.
    Propose {
        group: GroupId,
        command: Bytes,
        expected_term: Option<Term>,
    },
    /// An operator asked the sender to let `node` be replaced, and the receiver leads a group that it is a member of.
    AllowReplace {
        node: NodeId,
        /// Wall time there, for display.
        at_ms: u64,
    },
    /// From this node's service to that one's.
    Service(Bytes),
    Join(JoinMessage),
    /// At each tick: the sender's node is alive, whatever its groups are doing. See `hibernate.rs`.
    Pulse {
        /// Random for each start of the process: a node that was restarted unnoticed has forgotten what it led.
        boot: u64,
        leads: Leads,
    },
    /// To the group's leader: the sender's machine had this hash at the mark at `index`. See `hashes.rs`.
    StateHash {
        group: GroupId,
        index: Index,
        hash: u64,
    },
    /// To the group's leader: the sender's machine is wrong or waits for what never comes, and it needs a snapshot although
    /// its log is whole.
    WantSnapshot {
        group: GroupId,
    },
}

impl PeerMessage {
    pub fn lane(&self) -> Lane {
        match self {
            PeerMessage::SnapshotChunk(_) => Lane::Bulk,
            _ => Lane::Control,
        }
    }
}

/// One piece of a snapshot in flight.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotChunk {
    pub group: GroupId,
    /// Names this transfer; unique at the sender.
    pub stream: u64,
    /// Counts from 0.
    pub number: u32,
    /// CRC32C: of this piece's data, and of all data together in the last; else 0.
    pub crc: u32,
    pub content: ChunkContent,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChunkContent {
    /// Number 0: the announcement that is stepped into consensus once everything has arrived.
    Start(Box<Message>),
    Data(Bytes),
    /// The last one: how many bytes of data there were.
    End {
        bytes: u64,
    },
}

/// What goes to one node at the end of a flush, cut into batches as it comes: a burst of thousands of groups in one piece
/// of memory would be copied whenever it grows, and leave a hole as large as itself.
#[derive(Default)]
pub(crate) struct Outbox {
    full: Vec<Vec<Message>>,
    open: Vec<Message>,
    open_bytes: usize,
}

/// Messages of one batch.
const BATCH_MESSAGES: usize = 512;
const _: () = assert!(BATCH_MESSAGES <= BATCH_MESSAGES_MAX);

impl Outbox {
    /// `bytes_max` is of one batch, which always holds one message.
    pub(crate) fn push(&mut self, message: Message, bytes_max: usize) {
        let bytes = message_bytes(&message);
        let is_full = self.open_bytes + bytes > bytes_max && !self.open.is_empty();
        if is_full || self.open.len() == BATCH_MESSAGES {
            self.full.push(std::mem::take(&mut self.open));
            self.open_bytes = 0;
        }
        self.open.push(message);
        self.open_bytes += bytes;
    }

    /// All batches in order; it is empty then.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = Vec<Message>> {
        let Outbox { full, open, .. } = std::mem::take(self);
        full.into_iter().chain((!open.is_empty()).then_some(open))
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JoinMessage {
    /// To a node without a cluster: this is ours, and these were its founders. A node that finds its own directory
    /// among them is a voter from the start; any other waits to be let in.
    Found { cluster: ClusterId, founders: Vec<Member> },
    /// The sender's directory belongs to this cluster now.
    Adopted { cluster: ClusterId },
}
