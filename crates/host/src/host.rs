//! The host's frame: what it owns, one event in, actions out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use settle_base::{GroupId, Mono, NodeId, PeerId, Prng, Term};
use settle_machine::{Action, Context, Event, GroupView, Service, StateMachine};
use settle_raft::{Entry, ProposeError, ReadError, Role};
use settle_storage::{Disk, DiskRead, FileName};
use settle_wal::{Lsn, Wal};

use crate::{
    ClusterId, Discarded, DurabilityChecker, Hello, HostAction, HostConfig, HostCounters, HostError, HostEvent,
    HostNote, Identity, PeerError, PeerMessage,
    event::DropReason,
    group::PendingRead,
    groups::Groups,
    leaders::Leads,
    message::Outbox,
    order::{Staged, Unstaged},
    peer_codec::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN},
    snapshot_file::Tokens,
    stages::Stages,
    stopped::Stopped,
    surgery::Theatre,
    throttle::Throttle,
    transfer_queue::TransferQueue,
};

pub(crate) type MakeMachine<M> = Box<dyn Fn(GroupId, ClusterId) -> M + Send>;

/// All of one node's groups and its service, over one disk. Pure: see the crate's head.
pub struct Host<S: Service, D> {
    pub(crate) config: HostConfig,
    pub(crate) identity: Identity,
    pub(crate) disk: D,
    /// `None` until the node belongs to a cluster.
    pub(crate) wal: Option<Wal>,
    pub(crate) service: S,
    pub(crate) make_machine: MakeMachine<S::Machine>,
    pub(crate) groups: Groups<S::Machine>,
    /// Not among the others: nothing happens in them.
    pub(crate) stopped: BTreeMap<GroupId, Stopped<S::Machine>>,
    /// Led groups that may have a member to be replaced.
    pub(crate) misfits: BTreeSet<GroupId>,
    pub(crate) misfit_next: GroupId,
    /// Replicas with a machine that has to be rebuilt, or had lately.
    pub(crate) quarantined: BTreeSet<GroupId>,
    /// Replicas that tell their hash until there is a verdict.
    pub(crate) undecided: BTreeSet<GroupId>,
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    pub(crate) checker: DurabilityChecker,
    /// In the log, not known to be durable.
    pub(crate) staged: VecDeque<Staged>,
    /// The log's staging area was full; nothing may overtake these.
    pub(crate) unstaged: VecDeque<Unstaged>,
    /// Snapshot files that nothing needs any more once the log has proven what it durably says at this place.
    pub(crate) obsolete: VecDeque<(Lsn, FileName)>,
    /// Segments that the log had begun when its size was looked at last, and whether it was too large.
    pub(crate) log_looked_at: (u64, bool),
    /// Bytes of all groups' logs since their last snapshots.
    pub(crate) log_bytes: u64,
    /// When a group's log comes of age, in order.
    pub(crate) log_ages: VecDeque<(Mono, GroupId)>,
    pub(crate) throttle: Throttle,
    /// What may be written of this node's own snapshots.
    pub(crate) snapshot_pace: Throttle,
    pub(crate) transfers_waiting: TransferQueue,
    /// Machines that were replaced, to be freed elsewhere.
    pub(crate) discarded: Vec<Discarded>,
    /// Pieces of logs that snapshots have made dispensable, to be freed little by little.
    pub(crate) superfluous: VecDeque<Vec<Entry>>,
    pub(crate) disk_is_full: bool,
    /// A tick has passed since a full disk refused a write.
    pub(crate) retries_full_disk: bool,
    /// Groups whose leader's node is lost, and that leader, whose followers here are not told yet. Each group once,
    /// however often a node's connections break.
    pub(crate) lost_leaders: BTreeMap<GroupId, PeerId>,
    /// The process is about to stop: whatever this node leads is handed over.
    pub(crate) is_leaving: bool,
    /// The group that was looked at last for moving its leadership.
    pub(crate) balanced_to: GroupId,
    /// And the one that was looked at last for giving it away.
    pub(crate) handed_over_to: GroupId,
    pub(crate) outbox: BTreeMap<NodeId, Outbox>,
    pub(crate) tokens: Tokens,
    pub(crate) theatre: Theatre<S::Machine>,
    pub(crate) prng: Prng,
    /// Random for each start: tells this run from every other of this directory.
    pub(crate) boot: u64,
    pub(crate) next_read: u64,
    pub(crate) ticks: u64,
    /// When each replica of a member was last connected. One that never was counts from the start.
    pub(crate) last_connected: BTreeMap<PeerId, Mono>,
    pub(crate) started: Mono,
    pub(crate) counters: HostCounters,
    pub(crate) sync_last: std::time::Duration,
    pub(crate) stages: Stages,
    /// Found at the start, told with the first event.
    pub(crate) first_notes: Vec<HostNote>,
    actions: Vec<Action<S::Response>>,
    reads_lost: Vec<(GroupId, u64)>,
    pub(crate) is_dead: bool,
}

/// A node that a connection is up with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) hello: Hello,
    /// Belongs to our cluster, as we do; the service knows of it.
    pub(crate) is_linked: bool,
    /// Since anything was heard from it.
    pub(crate) silent_ticks: u32,
    /// What its first pulse on this connection said.
    pub(crate) boot: Option<u64>,
    /// What its last pulse said.
    pub(crate) leads: Option<Leads>,
}

impl Peer {
    pub(crate) fn new(hello: Hello) -> Peer {
        Peer {
            hello,
            is_linked: false,
            silent_ticks: 0,
            boot: None,
            leads: None,
        }
    }

    /// It belongs to us, and has said something within the last `patience` ticks.
    pub(crate) fn is_heard(&self, patience: u32) -> bool {
        self.is_linked && self.silent_ticks < patience
    }
}

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    pub(crate) fn new(
        mut config: HostConfig,
        identity: Identity,
        disk: D,
        service: S,
        make_machine: MakeMachine<S::Machine>,
        now: Mono,
    ) -> Host<S, D> {
        let node = u64::from(config.node.0);
        let mut prng = Prng::from_parts(&[config.seed, node, identity.incarnation.0]);
        // Answers to an earlier run's reads may still be on their way; they must not fit this run's.
        let next_read = prng.next_u64();
        let throttle = Throttle::new(config.snapshot_bytes_per_second, now);
        let snapshot_pace = Throttle::new(config.snapshot_write_bytes_per_second, now);
        let stages = Stages::new(config.stage_sample_every);
        let (place, nodes) = (
            config.nodes.iter().position(|(n, _)| *n == config.node),
            config.nodes.len(),
        );
        let earlier = config.snapshot_after_bytes / 4 / nodes.max(1) as u64 * place.unwrap_or_default() as u64;
        config.snapshot_after_bytes -= earlier;
        let groups = Groups::new(config.snapshot_after_bytes, config.apply_lag_max);
        Host {
            config,
            identity,
            disk,
            wal: None,
            service,
            make_machine,
            groups,
            stopped: BTreeMap::new(),
            misfits: BTreeSet::new(),
            misfit_next: GroupId(0),
            quarantined: BTreeSet::new(),
            undecided: BTreeSet::new(),
            peers: BTreeMap::new(),
            checker: DurabilityChecker::default(),
            staged: VecDeque::new(),
            unstaged: VecDeque::new(),
            obsolete: VecDeque::new(),
            log_looked_at: (0, false),
            log_bytes: 0,
            log_ages: VecDeque::new(),
            throttle,
            snapshot_pace,
            transfers_waiting: TransferQueue::default(),
            discarded: Vec::new(),
            superfluous: VecDeque::new(),
            disk_is_full: false,
            retries_full_disk: false,
            lost_leaders: BTreeMap::new(),
            is_leaving: false,
            balanced_to: GroupId(0),
            handed_over_to: GroupId(0),
            outbox: BTreeMap::new(),
            tokens: Tokens::default(),
            boot: prng.next_u64(),
            theatre: Theatre::default(),
            prng,
            next_read,
            ticks: 0,
            last_connected: BTreeMap::new(),
            started: now,
            counters: HostCounters::default(),
            sync_last: std::time::Duration::ZERO,
            stages,
            first_notes: Vec::new(),
            actions: Vec::new(),
            reads_lost: Vec::new(),
            is_dead: false,
        }
    }

    /// What the transport says first on every connection.
    pub fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL_VERSION,
            protocol_min: PROTOCOL_VERSION_MIN,
            cluster: self.identity.cluster,
            node: self.config.node,
            incarnation: self.identity.incarnation,
            build: self.config.build_version,
            witness: self.identity.witness,
        }
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn config(&self) -> &HostConfig {
        &self.config
    }

    pub fn service(&self) -> &S {
        &self.service
    }

    pub fn service_mut(&mut self) -> &mut S {
        &mut self.service
    }

    /// `None` at a witness, too.
    pub fn machine(&self, group: GroupId) -> Option<&S::Machine> {
        self.groups.get(&group)?.machine.as_ref()
    }

    pub fn raft(&self, group: GroupId) -> Option<&settle_raft::Raft> {
        self.groups.get(&group).map(|g| &g.raft)
    }

    /// A group as its service sees it: not at all at a witness.
    pub fn view(&self, group: GroupId, now: Mono) -> Option<GroupView<'_, S::Machine>> {
        self.groups.get(&group)?.view(now)
    }

    pub fn disk(&self) -> &D {
        &self.disk
    }

    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Whether a [`HostAction::Fatal`] was given: nothing happens any more.
    pub fn is_dead(&self) -> bool {
        self.is_dead
    }

    /// Takes one event. Follow a burst of them by one [`Host::flush`].
    pub fn step(&mut self, event: HostEvent<S::Request>, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        if self.is_dead {
            return;
        }
        out.extend(self.first_notes.drain(..).map(HostAction::Note));
        if let Err(error) = self.take(event, now, out) {
            self.die(error, out);
        }
    }

    /// Lets everything happen that the events so far made possible: proposes what the service gathered, writes one batch
    /// for all groups, sends what rests on nothing that is not durable, applies what is committed.
    pub fn flush(&mut self, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        if self.is_dead {
            return;
        }
        self.serve(Event::Flush, now, out);
        let result = self.settle(now, out);
        self.send_outbox(out);
        out.extend(self.discarded.drain(..).map(HostAction::Discard));
        self.free_pieces(1);
        if let Err(error) = result {
            self.die(error, out);
        }
    }

    fn die(&mut self, error: HostError, out: &mut Vec<HostAction<S::Response>>) {
        self.is_dead = true;
        out.push(HostAction::Fatal(error));
    }

    fn take(
        &mut self,
        event: HostEvent<S::Request>,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), HostError> {
        match event {
            HostEvent::Tick => self.tick(now, out),
            HostEvent::DiskReady => self.poll_disk(now, out).map(drop),
            HostEvent::PeerUp { node, hello } => self.peer_up(node, hello, now, out),
            HostEvent::PeerDown { node } => {
                self.peer_down(node, now, out);
                Ok(())
            }
            HostEvent::Peer { from, message } => self.peer_message(from, message, now, out),
            HostEvent::Request(request) => {
                self.serve(Event::Request(request), now, out);
                Ok(())
            }
            HostEvent::Operator(request) => {
                self.operator(request, now, out);
                Ok(())
            }
        }
    }

    fn tick(&mut self, now: Mono, out: &mut Vec<HostAction<S::Response>>) -> Result<(), HostError> {
        self.ticks += 1;
        self.retries_full_disk = true;
        let patience = self.config.election_ticks;
        let heard = self.peers.values().filter(|peer| peer.is_heard(patience));
        let heard: BTreeSet<PeerId> = heard.map(|peer| peer.hello.incarnation).collect();
        self.groups
            .tick(self.config.hibernate_after_ticks, |peer| !heard.contains(&peer));
        self.tick_pulses(now, out);
        self.try_found(now, out)?;
        if self.ticks.is_multiple_of(u64::from(self.config.election_ticks)) {
            self.remind_of_cluster(out);
            self.drop_old_reads(now);
            self.release_memory();
        }
        // Not once per election timeout: consensus forgets then who was active, and both would always coincide.
        self.replace_lost_members(now, out);
        self.tick_leaders(now, out);
        self.tick_snapshots(now, out);
        self.tick_hashes(now, out);
        self.tend_log(now)?;
        self.tick_surgery();
        self.serve(Event::Tick, now, out);
        Ok(())
    }

    fn peer_message(
        &mut self,
        from: NodeId,
        message: PeerMessage,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), HostError> {
        let Some(peer) = self.peers.get_mut(&from) else {
            self.counters.messages_ignored += 1;
            return Ok(());
        };
        let was_silent = std::mem::take(&mut peer.silent_ticks) >= self.config.election_ticks;
        let (incarnation, is_linked) = (peer.hello.incarnation, peer.is_linked);
        if was_silent && is_linked {
            self.wake_all_led_with(incarnation);
            self.serve(Event::PeerHeard { node: from }, now, out);
        }
        if let PeerMessage::Join(join) = message {
            return self.on_join(from, join, now, out);
        }
        if !is_linked {
            self.counters.messages_ignored += 1;
            return Ok(());
        }
        match message {
            PeerMessage::Raft(messages) => self.step_raft(from, incarnation, messages, now, out),
            PeerMessage::SnapshotChunk(chunk) => self.on_chunk(from, incarnation, chunk, now, out)?,
            PeerMessage::SnapshotAck { group, stream, next } => {
                self.on_snapshot_ack(incarnation, group, stream, next, now, out);
            }
            PeerMessage::SnapshotReject { group, stream } => self.on_snapshot_reject(incarnation, group, stream, out),
            PeerMessage::Propose {
                group,
                command,
                expected_term,
            } => {
                let is_leader = self.groups.get(&group).is_some_and(|g| g.raft.role() == Role::Leader);
                if is_leader {
                    self.counters.proposals_taken_over += 1;
                    self.take_over(from, group, (command, expected_term), now, out);
                } else {
                    // Not passed on: two nodes that each believe in the other would play for ever.
                    self.counters.drop_proposal(DropReason::NotLeader);
                }
            }
            PeerMessage::Service(body) => self.serve(Event::Peer { from, body }, now, out),
            PeerMessage::Pulse { boot, leads } => self.on_pulse(from, boot, leads),
            PeerMessage::AllowReplace { node, at_ms } => drop(self.allow_replace_here(node, from, at_ms, now)),
            PeerMessage::StateHash { group, index, hash } => {
                self.hash_told(group, incarnation, index, hash, now, out);
            }
            PeerMessage::WantSnapshot { group } => self.on_want_snapshot(group, incarnation),
            PeerMessage::Join(_) => unreachable!("taken above"),
        }
        Ok(())
    }

    /// Lets the service see `event`, and does what it then asks for.
    pub(crate) fn serve(
        &mut self,
        event: Event<'_, <S::Machine as StateMachine>::Effect, S::Request>,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) {
        let groups = &self.groups;
        let group = |id| groups.get(&id).and_then(|g| g.view(now));
        let mut context = Context {
            now,
            node: self.config.node,
            group: &group,
            actions: &mut self.actions,
        };
        self.service.step(event, &mut context);
        if self.actions.is_empty() {
            return;
        }
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                Action::Respond(response) => out.push(HostAction::Respond(response)),
                Action::Propose {
                    group,
                    command,
                    expected_term,
                } => self.propose(group, command, expected_term, now, out),
                Action::Read { group, token } => self.read(group, token, now),
                Action::Peer { to, body } => {
                    if self.peers.get(&to).is_some_and(|p| p.is_linked) {
                        send(out, to, PeerMessage::Service(body));
                    }
                }
                Action::TakeSnapshot { group } => drop(self.begin_snapshot(group, now)),
                operation => self.operate(operation),
            }
        }
        self.actions = actions;
    }

    fn propose(
        &mut self,
        group: GroupId,
        command: Bytes,
        expected_term: Option<Term>,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) {
        self.counters.proposals += 1;
        if let Err(reason) = self.try_propose(group, command, expected_term, now, out) {
            self.counters.drop_proposal(reason);
        }
    }

    /// Proposes what another node's service wants. One that no replica could apply is that node's fault.
    fn take_over(
        &mut self,
        from: NodeId,
        group: GroupId,
        (command, expected_term): (Bytes, Option<Term>),
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) {
        self.counters.proposals += 1;
        let Err(reason) = self.try_propose(group, command, expected_term, now, out) else {
            return;
        };
        if let DropReason::Unreadable(source) = &reason {
            let (node, source) = (from, source.clone());
            let reason = PeerError::Proposal { node, group, source };
            out.push(HostAction::ClosePeer { node, reason });
        }
        self.counters.drop_proposal(reason);
    }

    fn try_propose(
        &mut self,
        group: GroupId,
        command: Bytes,
        expected_term: Option<Term>,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), DropReason> {
        if command.len() > self.config.limits.proposal_bytes_max {
            return Err(DropReason::TooLong);
        }
        let g = self.groups.get_mut(&group).ok_or(DropReason::UnknownGroup)?;
        if g.raft.role() != Role::Leader {
            // Should the leader not be there, this replica is to notice.
            g.raft.wake();
            if expected_term.is_some_and(|expected| expected < g.raft.term()) {
                return Err(DropReason::TermChanged);
            }
            let leader = g.raft.leader();
            let to = self.node_of(leader).ok_or(DropReason::NoLeader)?;
            self.counters.proposals_forwarded += 1;
            let message = PeerMessage::Propose {
                group,
                command,
                expected_term,
            };
            send(out, to, message);
            return Ok(());
        }
        if self.disk_is_full {
            return Err(DropReason::DiskFull);
        }
        if !self.unstaged.is_empty() {
            return Err(DropReason::Full);
        }
        // Once in the log, what cannot be applied would stop every replica.
        let machine = g.machine.as_ref().ok_or(DropReason::NotLeader)?;
        machine.check(&command).map_err(DropReason::Unreadable)?;
        let time = g.time(now);
        match g.raft.propose(command, time, expected_term) {
            Ok((_, index)) => {
                self.stages.proposed(&mut g.line, group, index, now);
                Ok(())
            }
            Err(ProposeError::Full { .. } | ProposeError::Held { .. }) => Err(DropReason::Full),
            Err(ProposeError::TermChanged { .. }) => Err(DropReason::TermChanged),
            Err(_) => Err(DropReason::NotLeader),
        }
    }

    fn read(&mut self, group: GroupId, token: u64, now: Mono) {
        self.counters.reads += 1;
        let limit = self.config.limits.reads_in_flight_max;
        let Some(g) = self.groups.get_mut(&group) else {
            return self.reads_lost.push((group, token));
        };
        g.quiet_ticks = 0;
        self.next_read = self.next_read.wrapping_add(1);
        let ctx = self.next_read;
        let is_full = g.reads.len() + g.reads_confirmed.len() >= limit;
        let asked = if is_full { None } else { Some(g.raft.read_index(ctx)) };
        self.counters.reads_behind += u64::from(matches!(asked, Some(Err(ReadError::Behind { .. }))));
        if !matches!(asked, Some(Ok(()))) {
            return self.reads_lost.push((group, token));
        }
        g.reads.insert(ctx, PendingRead { token, asked: now });
    }

    /// Tells the service of reads that were lost since the last time.
    pub(crate) fn report_lost_reads(&mut self, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        // One pass: what the service asks in answer waits for the next.
        for (group, token) in std::mem::take(&mut self.reads_lost) {
            self.counters.reads_dropped += 1;
            self.serve(Event::ReadDropped { group, token }, now, out);
        }
    }

    pub(crate) fn lose_read(&mut self, group: GroupId, token: u64) {
        self.reads_lost.push((group, token));
    }

    /// Consensus asks again by itself; this is for answers that will never come.
    fn drop_old_reads(&mut self, now: Mono) {
        let patience = self.config.tick * self.config.election_ticks * 4;
        let is_late = |read: &PendingRead| now.since(read.asked) >= patience;
        for id in self.groups.reading() {
            let group = self.groups.get_mut(&id).expect("only groups that are here are filed");
            let lost = &mut self.reads_lost;
            for (ctx, read) in group.reads.extract_if(.., |_, read| is_late(read)) {
                group.raft.withdraw_read(ctx);
                lost.push((id, read.token));
            }
            // Confirmed, but what it has to see does not come.
            let late = group.reads_confirmed.extract_if(.., |_, read| is_late(read));
            lost.extend(late.map(|(_, read)| (id, read.token)));
        }
    }

    /// The node that a replica lives on, when it is this one or one that we are connected to.
    pub(crate) fn node_of(&self, peer: PeerId) -> Option<NodeId> {
        if peer == self.identity.incarnation {
            return Some(self.config.node);
        }
        let mut linked = self.peers.iter().filter(|(_, p)| p.is_linked);
        linked.find(|(_, p)| p.hello.incarnation == peer).map(|(node, _)| *node)
    }
}

pub(crate) fn send<R>(out: &mut Vec<HostAction<R>>, to: NodeId, message: PeerMessage) {
    let lane = message.lane();
    out.push(HostAction::Send { to, lane, message });
}
