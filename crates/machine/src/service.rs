use bytes::Bytes;
use settle_base::{GroupId, GroupTime, Index, Mono, NodeId, PeerId, Term};

use crate::{ApplyError, CreateOutcome, GroupLog, HandedEntries, NewGroup, StateMachine};

/// The core of one front door: pure, one per node, driven by the host's loop on the same thread as the replicas.
pub trait Service {
    type Machine: StateMachine;
    /// What the front door (or an operator) asks.
    type Request;
    /// What the front door is told to do.
    type Response;

    fn step(
        &mut self,
        event: Event<'_, <Self::Machine as StateMachine>::Effect, Self::Request>,
        context: &mut Context<'_, Self::Machine, Self::Response>,
    );
}

/// What happens to a service.
#[derive(Debug)]
pub enum Event<'a, E, R> {
    Request(R),
    /// Entries of `group` were applied on this node; their effects in order. The service may drain them.
    Applied {
        group: GroupId,
        effects: &'a mut Vec<E>,
    },
    /// This node's replica of `group` changed role, or learned of another leader.
    Role {
        group: GroupId,
        role: GroupRole,
    },
    /// This node's replica was replaced by a snapshot: effects in between are not reported.
    Reloaded {
        group: GroupId,
    },
    /// This node's replica of `group` met an entry that it cannot apply: the last event there is, since the node stops
    /// until a build that can apply the entry is started. What is still to be answered may be answered now.
    Stopped {
        group: GroupId,
        error: ApplyError,
    },
    /// What [`Action::Create`] came to.
    Created {
        group: GroupId,
        outcome: CreateOutcome,
    },
    /// Nothing of the group is left here, durably, and nothing will be: the answer to [`Action::Destroy`].
    Destroyed {
        group: GroupId,
    },
    /// The replica met an entry that [`StateMachine::needs`] something: it applies no further until [`Action::Resume`],
    /// or until [`Action::TakeState`] has come to its end.
    ApplyPaused {
        group: GroupId,
        index: Index,
        needs: Bytes,
    },
    /// The read asked by [`Action::Read`] may now be served from this node's replica.
    ReadReady {
        group: GroupId,
        token: u64,
    },
    /// That read was lost (no leader, leader changed): ask again.
    ReadDropped {
        group: GroupId,
        token: u64,
    },
    /// A connection with this node of the cluster was made; soft state must be sent anew.
    PeerUp {
        node: NodeId,
    },
    PeerDown {
        node: NodeId,
    },
    /// Nothing has come from that node for an election timeout, and its connection stands: it may be asleep. What waits
    /// for it is better had elsewhere.
    PeerSilent {
        node: NodeId,
    },
    /// The node that was silent has spoken again.
    PeerHeard {
        node: NodeId,
    },
    /// Another node's service sent this with [`Action::Peer`]. In order and at most once per
    /// connection; one may be lost while the connection stays up, so what must arrive is told again.
    Peer {
        from: NodeId,
        body: Bytes,
    },
    /// Time has passed (every tick, at most 50 ms apart).
    Tick,
    /// The loop has no more events for now: propose what was gathered, as few entries as possible.
    Flush,
}

/// What this node knows of a group's leadership.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GroupRole {
    /// The leader's node as far as this replica knows.
    pub leader: Option<NodeId>,
    pub term: Term,
    /// This replica leads and has applied an entry of its own term: its state is complete.
    pub is_ready_leader: bool,
}

/// A service's view of one local replica.
pub struct GroupView<'a, M> {
    pub machine: &'a M,
    /// Who this replica is among the [`Members`](crate::Members): another one after its node has lost its directory.
    pub peer: PeerId,
    pub role: GroupRole,
    /// The cluster version that the group goes by, as far as this replica has applied its log: it never falls.
    pub version: u32,
    /// The group's time now (on a leader it advances; elsewhere it is the last applied entry's).
    pub time: GroupTime,
    pub log: &'a dyn GroupLog,
}

/// What a service may look at and where its actions go, during one step.
pub struct Context<'a, M, Response> {
    pub now: Mono,
    pub node: NodeId,
    /// This node's replica of a group, if it has one.
    pub group: &'a dyn Fn(GroupId) -> Option<GroupView<'a, M>>,
    pub actions: &'a mut Vec<Action<Response>>,
}

impl<'a, M, Response> Context<'a, M, Response> {
    pub fn group(&self, group: GroupId) -> Option<GroupView<'a, M>> {
        (self.group)(group)
    }

    pub fn act(&mut self, action: Action<Response>) {
        self.actions.push(action);
    }
}

/// What a service asks of the host.
#[derive(Debug)]
pub enum Action<Response> {
    /// Propose a command: here when this replica leads, else by way of the leader's node. It may be lost, and it may
    /// be applied although it seemed lost; a service that proposes again must make its commands idempotent.
    ///
    /// With an `expected_term` it is taken by a leader of exactly that term or not at all: for a command that was built
    /// on what the leader of that term had applied, and must not enter the log after another has led in between.
    Propose {
        group: GroupId,
        command: Bytes,
        expected_term: Option<Term>,
    },
    /// Ask for a linearizable read of this node's replica; answered by `ReadReady` or `ReadDropped`.
    Read {
        group: GroupId,
        token: u64,
    },
    /// Send to the same service on another node; lost when there is no connection.
    Peer {
        to: NodeId,
        body: Bytes,
    },
    Respond(Response),
    /// Create a replica on this node. Answered by [`Event::Created`]; to ask again does no harm.
    Create(Box<NewGroup>),
    /// Forget a replica for ever: answered by [`Event::Destroyed`]. To ask again does no harm, also not of a group that
    /// was never here: it never will be.
    Destroy {
        group: GroupId,
    },
    /// Keep the group's log from `index` on, for `holder`: no snapshot at or beyond it makes it dispensable, until
    /// [`Action::Release`]. One that is being written is given up. It ends with the process: whoever holds it asks again
    /// when the log is applied anew.
    Hold {
        group: GroupId,
        holder: u64,
        index: Index,
    },
    Release {
        group: GroupId,
        holder: u64,
    },
    /// Let the group take these entries into its log as committed. Nothing happens when it has them, nor while
    /// something before them is missing.
    HandEntries(HandedEntries),
    /// Go on applying at the entry at `index`, with what it needed.
    Resume {
        group: GroupId,
        index: Index,
        given: Bytes,
    },
    /// What the entry at `index` needed will not come here: take the leader's state of that entry or later instead, which
    /// stands for the entry then. Until it is durable here `Resume` still goes on. Asked of the leader once, so ask again
    /// while the group waits; a leader that waits itself hands over first. Ends with [`Event::Reloaded`].
    TakeState {
        group: GroupId,
        index: Index,
    },
    TakeSnapshot {
        group: GroupId,
    },
}
