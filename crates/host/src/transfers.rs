//! Snapshots on their way between nodes.
//!
//! A sender keeps what is not acknowledged (a window of chunks) and the receiver what it has written and loaded so far;
//! so neither a lost chunk nor a broken connection costs more than that window: the sender sends it again when the peer is
//! back or has said nothing for a while, and the receiver passes over what it knows. A restart of either side, another
//! leader, or [`HostConfig::snapshot_resume`](crate::HostConfig::snapshot_resume) without progress ends a transfer.
//!
//! All transfers of a node together send no more than a bucket of tokens allows that is filled by time.

use std::collections::VecDeque;

use settle_base::{GroupId, Index, Mono, NodeId, PeerId, mutant};
use settle_machine::{Service, StateMachine};
use settle_raft::{Body, Message, SnapshotMeta};
use settle_storage::{Disk, DiskRead, Op};
use settle_wal::Record;

use crate::{
    Host, HostAction, HostError, HostNote, PeerError, PeerMessage, SnapshotError,
    host::send,
    members::{Book, encode_conf},
    message::{ChunkContent, SnapshotChunk},
    order::Then,
    snapshot_file::{Cut, Writer, file_name},
    snapshots::{Received, WINDOW},
};

/// A sender that has heard nothing for so many election timeouts sends its window again.
const AGAIN_AFTER_ELECTIONS: u32 = 2;

/// A snapshot on its way to a peer.
pub(crate) struct Sending {
    node: NodeId,
    stream: u64,
    index: Index,
    chunks: Cut,
    /// Sent and not acknowledged: numbers `acked..next`.
    window: VecDeque<SnapshotChunk>,
    next: u32,
    acked: u32,
    bytes: u64,
    crc: u32,
    is_ended: bool,
    last_progress: Mono,
    last_sent: Mono,
}

/// A snapshot on its way from the leader: each chunk goes to the file and into a fresh machine as it arrives.
pub(crate) struct Receiving<M> {
    from: PeerId,
    stream: u64,
    announcement: Message,
    pub(crate) machine: M,
    book: Book,
    next: u32,
    acked: u32,
    is_ended: bool,
    pub(crate) writer: Writer,
    last_progress: Mono,
}

/// A snapshot for a witness.
pub(crate) struct Announced {
    pub(crate) from: NodeId,
    pub(crate) stream: u64,
    pub(crate) announcement: Message,
    pub(crate) index: Index,
    pub(crate) book: Book,
}

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    pub(crate) fn start_sending(
        &mut self,
        id: GroupId,
        peer: PeerId,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) {
        let node = self.node_of(peer);
        let stream = self.prng.next_u64();
        let chunk_bytes = self.config.snapshot_chunk_bytes;
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.is_quarantined() {
            group.raft.report_snapshot(peer, false);
            return;
        }
        let meta = group.snapshot_meta();
        let index = meta.index;
        // What a witness needs of a snapshot is said in its announcement.
        let is_bare = group.raft.conf().is_witness(peer);
        let chunks = match &group.machine {
            Some(machine) if !is_bare => machine.begin_snapshot(),
            _ => Box::new(std::iter::empty()),
        };
        let announcement = group.raft.snapshot_message(peer, meta);
        let (Some(node), Some(announcement)) = (node, announcement) else {
            group.raft.report_snapshot(peer, false);
            return;
        };
        let start = SnapshotChunk {
            group: id,
            stream,
            number: 0,
            crc: 0,
            content: ChunkContent::Start(Box::new(announcement)),
        };
        let sending = Sending {
            node,
            stream,
            index,
            chunks: Cut::new(chunks, chunk_bytes),
            window: VecDeque::from([start.clone()]),
            next: 1,
            acked: 0,
            bytes: 0,
            crc: 0,
            is_ended: is_bare,
            last_progress: now,
            last_sent: now,
        };
        group.sending.insert(peer, sending);
        send(out, node, PeerMessage::SnapshotChunk(start));
        self.pump_sending(id, peer, now, out);
    }

    fn pump_sending(&mut self, id: GroupId, peer: PeerId, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        let is_linked = self.node_of(peer).is_some();
        let Some(sending) = self.groups.get_mut(&id).and_then(|g| g.sending.get_mut(&peer)) else {
            return;
        };
        self.throttle.fill(now);
        while is_linked && !sending.is_ended && sending.next - sending.acked < WINDOW && self.throttle.may_go_on() {
            let (crc, content) = match sending.chunks.next() {
                Some(data) => {
                    sending.bytes += data.len() as u64;
                    sending.crc = crc32c::crc32c_append(sending.crc, &data);
                    self.throttle.spend(data.len());
                    (crc32c::crc32c(&data), ChunkContent::Data(data))
                }
                None => {
                    sending.is_ended = true;
                    (sending.crc, ChunkContent::End { bytes: sending.bytes })
                }
            };
            let chunk = SnapshotChunk {
                group: id,
                stream: sending.stream,
                number: sending.next,
                crc,
                content,
            };
            sending.next += 1;
            sending.last_sent = now;
            sending.window.push_back(chunk.clone());
            send(out, sending.node, PeerMessage::SnapshotChunk(chunk));
        }
    }

    /// What was sent and not acknowledged may be lost: once more.
    fn send_window(&mut self, id: GroupId, peer: PeerId, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        if self.node_of(peer).is_none() {
            return;
        }
        let Some(sending) = self.groups.get_mut(&id).and_then(|g| g.sending.get_mut(&peer)) else {
            return;
        };
        sending.last_sent = now;
        for chunk in &sending.window {
            send(out, sending.node, PeerMessage::SnapshotChunk(chunk.clone()));
        }
        self.counters.snapshots_resumed += 1;
    }

    pub(crate) fn on_snapshot_ack(
        &mut self,
        peer: PeerId,
        id: GroupId,
        stream: u64,
        next: u32,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let Some(sending) = group.sending.get_mut(&peer).filter(|s| s.stream == stream) else {
            return;
        };
        if next <= sending.acked || next > sending.next {
            return;
        }
        sending.window.drain(..(next - sending.acked) as usize);
        sending.acked = next;
        sending.last_progress = now;
        if sending.is_ended && sending.acked == sending.next {
            self.end_sending(id, peer, true, out);
        } else {
            self.pump_sending(id, peer, now, out);
        }
    }

    pub(crate) fn on_snapshot_reject(
        &mut self,
        peer: PeerId,
        id: GroupId,
        stream: u64,
        out: &mut Vec<HostAction<S::Response>>,
    ) {
        let group = self.groups.get(&id);
        if group
            .and_then(|g| g.sending.get(&peer))
            .is_some_and(|s| s.stream == stream)
        {
            self.end_sending(id, peer, false, out);
        }
    }

    pub(crate) fn end_sending(&mut self, id: GroupId, peer: PeerId, ok: bool, out: &mut Vec<HostAction<S::Response>>) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let Some(sending) = group.sending.remove(&peer) else {
            return;
        };
        self.transfers_waiting.are_due();
        group.raft.report_snapshot(peer, ok);
        self.counters.snapshots_sent += u64::from(ok);
        let (group, to, index) = (id, sending.node, sending.index);
        out.push(HostAction::Note(HostNote::SnapshotSent { group, to, index, ok }));
    }

    pub(crate) fn on_chunk(
        &mut self,
        from: NodeId,
        incarnation: PeerId,
        chunk: SnapshotChunk,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), HostError> {
        let (id, stream) = (chunk.group, chunk.stream);
        let Some(group) = self.groups.get_mut(&id) else {
            self.counters.messages_ignored += 1;
            return Ok(());
        };
        let is_known = |r: &&mut Box<Receiving<S::Machine>>| r.stream == stream && r.from == incarnation;
        let receiving = group.receiving.as_mut().filter(is_known);
        let receiving = match (chunk.content, receiving) {
            (ChunkContent::Start(announcement), None) => {
                return self.start_receiving(from, incarnation, id, stream, *announcement, now, out);
            }
            (_, None) => {
                send(out, from, PeerMessage::SnapshotReject { group: id, stream });
                return Ok(());
            }
            (_, Some(receiving)) if chunk.number != receiving.next || receiving.is_ended => {
                // Again what is here already, or the one before was lost: the sender is told how far we are.
                if chunk.number < receiving.next {
                    receiving.acked = receiving.acked.min(chunk.number);
                    self.ack_chunks(id, out);
                }
                return Ok(());
            }
            (content, Some(receiving)) => (content, receiving),
        };
        let (content, receiving) = receiving;
        let index = snapshot_meta(&receiving.announcement).index;
        let size = receiving.writer.bytes();
        receiving.next = receiving.next.wrapping_add(1);
        receiving.last_progress = now;
        let mut loaded = Ok(());
        let fits = match content {
            ChunkContent::Data(data) => {
                let whole = crc32c::crc32c(&data) == chunk.crc && !data.is_empty();
                let bounded = size + data.len() as u64 <= self.config.limits.snapshot_bytes_max
                    && receiving.writer.in_flight() <= 2 * WINDOW as usize
                    && data.len() <= 16 << 20;
                if whole && bounded {
                    receiving.writer.write(&mut self.disk, &mut self.tokens, &data);
                    loaded = receiving.machine.load_chunk(data);
                }
                whole && bounded
            }
            ChunkContent::End { bytes } if bytes == size && chunk.crc == receiving.writer.crc() => {
                receiving.is_ended = true;
                receiving.writer.finish(&mut self.disk, &mut self.tokens);
                loaded = receiving.machine.finish_load();
                true
            }
            _ => false,
        };
        if let Err(source) = loaded {
            self.give_up_receiving(id, false, out);
            out.push(refusal(from, id, index, SnapshotError::Load { source }));
        } else if !fits {
            self.give_up_receiving(id, true, out);
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one message's fields and where it came from")]
    fn start_receiving(
        &mut self,
        from: NodeId,
        incarnation: PeerId,
        id: GroupId,
        stream: u64,
        announcement: Message,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), HostError> {
        self.give_up_receiving(id, false, out);
        let Some(group) = self.groups.get_mut(&id) else {
            return Ok(());
        };
        let reject = PeerMessage::SnapshotReject { group: id, stream };
        let Body::Snapshot { meta } = &announcement.body else {
            send(out, from, reject);
            return Ok(());
        };
        if announcement.from != incarnation || announcement.group != id {
            let (node, group, peer) = (from, id, announcement.from);
            let reason = PeerError::NotItsReplica { node, group, peer };
            out.push(HostAction::ClosePeer { node, reason });
            return Ok(());
        }
        let is_old = announcement.term < group.raft.term();
        if is_old || meta.index < group.snapshot_wanted_from() || group.received.is_some() {
            // Consensus answers by itself when it needs none of it.
            if meta.index <= group.raft.commit() {
                self.step_snapshot(Some(from), announcement, out);
            }
            send(out, from, reject);
            return Ok(());
        }
        let book = match members_of(meta) {
            Ok(book) => book,
            Err(source) => {
                out.push(refusal(from, id, meta.index, source));
                return Ok(());
            }
        };
        if group.is_witness() {
            if !meta.conf.is_witness(self.identity.incarnation) {
                send(out, from, reject);
                return Ok(());
            }
            let announced = Announced {
                from,
                stream,
                index: meta.index,
                announcement,
                book,
            };
            return self.receive_as_witness(id, announced, now, out);
        }
        let cluster = self.identity.cluster.expect("a group exists only in a cluster");
        let temporary = format!("snap-{:x}-receiving.tmp", id.0);
        // Never the name of a snapshot that this replica took at the same index. But the same transfer may have come here
        // before, and have been whole when its receiver was killed.
        let target = file_name(id, meta.index, &format!("-{stream:x}"));
        let (disk, tokens, obsolete) = (&mut self.disk, &mut self.tokens, &mut self.obsolete);
        let writer = Writer::create(disk, tokens, obsolete, id, meta, &temporary, target);
        let mut machine = (self.make_machine)(id, cluster);
        if mutant!("load_without_clearing")
            && let Some(held) = &mut group.machine
        {
            std::mem::swap(held, &mut machine);
        }
        let next = 1;
        group.receiving = Some(Box::new(Receiving {
            from: incarnation,
            stream,
            announcement,
            machine,
            book,
            next,
            acked: next,
            is_ended: false,
            writer,
            last_progress: now,
        }));
        let group = id;
        send(out, from, PeerMessage::SnapshotAck { group, stream, next });
        Ok(())
    }

    /// Lets the sender go on as far as the disk has followed.
    pub(crate) fn ack_chunks(&mut self, id: GroupId, out: &mut Vec<HostAction<S::Response>>) {
        let Some(receiving) = self.groups.get_mut(&id).and_then(|g| g.receiving.as_mut()) else {
            return;
        };
        let next = 1 + receiving.writer.data_written() as u32;
        if next <= receiving.acked {
            return;
        }
        receiving.acked = next;
        let (from, stream) = (receiving.from, receiving.stream);
        if let Some(node) = self.node_of(from) {
            let group = id;
            send(out, node, PeerMessage::SnapshotAck { group, stream, next });
        }
    }

    /// The whole snapshot is loaded, and durable as a file: consensus may have it.
    pub(crate) fn snapshot_arrived(
        &mut self,
        id: GroupId,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), HostError> {
        let Some(receiving) = self.groups.get_mut(&id).and_then(|g| g.receiving.take()) else {
            return Ok(());
        };
        let Receiving {
            from,
            stream,
            next,
            announcement,
            machine,
            book,
            writer,
            ..
        } = *receiving;
        let group = self.groups.get_mut(&id).expect("it was just asked");
        group.received = Some(Box::new(Received {
            index: snapshot_meta(&announcement).index,
            file: Some(writer.target().clone()),
            is_staged: false,
            machine: Some(machine),
            book,
        }));
        // The sender need not be connected any more: what it sent is as good as before.
        let node = self.node_of(from);
        self.hand_to_consensus(id, node, announcement, now, out)?;
        if let Some(node) = self.node_of(from) {
            let group = id;
            send(out, node, PeerMessage::SnapshotAck { group, stream, next });
        }
        Ok(())
    }

    /// What was received is whole: consensus takes it, or does not want it any more.
    pub(crate) fn hand_to_consensus(
        &mut self,
        id: GroupId,
        from: Option<NodeId>,
        announcement: Message,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), HostError> {
        let meta = snapshot_meta(&announcement).clone();
        self.step_snapshot(from, announcement, out);
        while self.groups.get(&id).is_some_and(|g| g.raft.has_ready()) {
            self.drain_ready(id, now, out)?;
        }
        self.take_or_forget(id, meta, now)
    }

    /// What consensus has no need of is for a machine that has to be rebuilt, or that waits before an entry which it stands
    /// for, or for nobody.
    fn take_or_forget(&mut self, id: GroupId, meta: SnapshotMeta, now: Mono) -> Result<(), HostError> {
        let Some(group) = self.groups.get_mut(&id) else {
            return Ok(());
        };
        let is_paused = group.is_paused();
        let rebuilds = (group.snapshot_wanted_from()..=group.raft.commit()).contains(&meta.index);
        let Some(received) = group.received.as_mut().filter(|r| !r.is_staged) else {
            return Ok(());
        };
        if !rebuilds {
            self.forget_received(id);
            return Ok(());
        }
        received.is_staged = true;
        let snapshot = settle_wal::Snapshot {
            index: meta.index,
            term: meta.term,
            time: meta.time,
            conf: encode_conf(&meta.conf, &meta.context),
            file: received.file.clone(),
        };
        // One of an earlier index must not follow in the log.
        self.abandon_taking(id);
        self.counters.states_taken += u64::from(is_paused);
        let (group, reset) = (id, false);
        let record = Record::Snapshot { group, snapshot, reset };
        self.stage(id, vec![record], Then::Rebuild { meta }, now)
    }

    /// Consensus did not want it after all.
    fn forget_received(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if let Some(received) = group.received.take() {
            let Received { file, machine, .. } = *received;
            if let Some(file) = file {
                self.disk.submit(self.tokens.next(), Op::Remove { file });
            }
            self.discard(machine);
        }
    }

    fn step_snapshot(&mut self, from: Option<NodeId>, announcement: Message, out: &mut Vec<HostAction<S::Response>>) {
        let Some(group) = self.groups.get_mut(&announcement.group) else {
            return;
        };
        let stepped = group.raft.step(announcement);
        if let (Err(source), Some(node)) = (stepped, from) {
            let reason = PeerError::Step { node, source };
            out.push(HostAction::ClosePeer { node, reason });
        }
    }

    pub(crate) fn give_up_receiving(&mut self, id: GroupId, reject: bool, out: &mut Vec<HostAction<S::Response>>) {
        let Some(receiving) = self.groups.get_mut(&id).and_then(|g| g.receiving.take()) else {
            return;
        };
        let (group, stream) = (id, receiving.stream);
        if reject && let Some(node) = self.node_of(receiving.from) {
            send(out, node, PeerMessage::SnapshotReject { group, stream });
        }
        receiving.writer.discard(&mut self.disk, &mut self.tokens);
        self.discard(Some(receiving.machine));
    }

    /// A node that transfers were under way to is connected again, and its directory is the same.
    pub(crate) fn resume_transfers(&mut self, peer: PeerId, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        for id in self.groups.moving() {
            if self.groups[&id].sending.contains_key(&peer) {
                self.send_window(id, peer, now, out);
                self.pump_sending(id, peer, now, out);
            }
        }
    }

    /// Sends what the throttle held back and what may be lost, and gives up transfers that stand still.
    pub(crate) fn tick_transfers(&mut self, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        let patience = self.config.snapshot_resume;
        let again_after = self.config.tick * self.config.election_ticks * AGAIN_AFTER_ELECTIONS;
        self.transfers_waiting.are_due();
        let mut moving = self.groups.moving();
        if !moving.is_empty() {
            // Whoever comes first takes most of what the throttle allows.
            let first = (self.ticks % moving.len() as u64) as usize;
            moving.rotate_left(first);
        }
        for id in moving {
            let peers: Vec<PeerId> = self.groups[&id].sending.keys().copied().collect();
            for peer in peers {
                let sending = &self.groups[&id].sending[&peer];
                let is_waiting = sending.last_progress.max(sending.last_sent);
                if now.since(sending.last_progress) > patience {
                    self.end_sending(id, peer, false, out);
                } else if !sending.window.is_empty() && now.since(is_waiting) > again_after {
                    self.send_window(id, peer, now, out);
                } else {
                    self.pump_sending(id, peer, now, out);
                }
            }
            let receiving = self.groups[&id].receiving.as_ref();
            if receiving.is_some_and(|r| now.since(r.last_progress) > patience) {
                self.give_up_receiving(id, true, out);
            }
        }
    }
}

fn snapshot_meta(announcement: &Message) -> &SnapshotMeta {
    match &announcement.body {
        Body::Snapshot { meta } => meta,
        _ => unreachable!("checked when the transfer started"),
    }
}

/// Who a snapshot says the members are.
fn members_of(meta: &SnapshotMeta) -> Result<Book, SnapshotError> {
    if !meta.conf.is_valid() {
        return Err(SnapshotError::Members);
    }
    Book::decode(meta.context.clone()).map_err(|source| SnapshotError::Book { source })
}

fn refusal<R>(node: NodeId, group: GroupId, index: Index, source: SnapshotError) -> HostAction<R> {
    let reason = PeerError::Snapshot {
        node,
        group,
        index,
        source,
    };
    HostAction::ClosePeer { node, reason }
}
