//! Snapshots of a group: taken without stopping it, sent in a window of chunks, installed once whole and durable.

use settle_base::{GroupId, Index, Mono, NodeId, PeerId};
use settle_machine::{Event, Service, StateMachine};
use settle_raft::{Body, Message, SnapshotMeta};
use settle_storage::{Completion, Disk, DiskRead, FileName, Op};
use settle_wal::{Lsn, Record, Wal};

use crate::{
    Host, HostAction, HostError, HostNote, PeerError, PeerMessage, SnapshotError,
    group::Applied,
    host::send,
    identity::is_full,
    members::{Book, encode_conf},
    message::{ChunkContent, SnapshotChunk},
    order::Then,
    snapshot_file::{Cut, Writer, Written, file_name},
};

/// Chunks on their way to the disk, or to a peer, at most.
const WINDOW: u32 = 8;
/// A transfer without progress for so many election timeouts is given up.
const PATIENCE_ELECTIONS: u32 = 10;

/// A snapshot of this replica on its way to a file.
pub(crate) struct Taking {
    meta: SnapshotMeta,
    chunks: Cut,
    /// Bytes of log that it will make dispensable.
    log_bytes: u64,
    writer: Writer,
    is_finished: bool,
}

/// A snapshot on its way to a peer.
pub(crate) struct Sending {
    node: NodeId,
    stream: u64,
    index: Index,
    chunks: Cut,
    next: u32,
    acked: u32,
    bytes: u64,
    crc: u32,
    is_ended: bool,
    last_progress: Mono,
}

/// A snapshot on its way from the leader: each chunk goes to the file and into a fresh machine as it arrives.
pub(crate) struct Receiving<M> {
    from: PeerId,
    stream: u64,
    announcement: Message,
    machine: M,
    book: Book,
    next: u32,
    acked: u32,
    is_ended: bool,
    writer: Writer,
    last_progress: Mono,
}

/// A snapshot that is whole and durable as a file, but not yet in the log.
///
/// It was loaded before consensus heard of it: once the log says that it begins here, there is no way back.
pub(crate) struct Received<M> {
    pub(crate) index: Index,
    pub(crate) file: FileName,
    /// The log's record of it is on its way.
    pub(crate) is_staged: bool,
    machine: M,
    book: Book,
}

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    /// Freezes the machine and starts writing; false when there is nothing to take or one is under way.
    pub(crate) fn begin_snapshot(&mut self, id: GroupId, now: Mono) -> bool {
        let Some(group) = self.groups.get_mut(&id) else {
            return false;
        };
        let nothing_new = group.log_bytes == 0;
        if group.is_held()
            || nothing_new
            || group.taking.is_some()
            || group.received.is_some()
            || now < group.snapshot_retry_at
        {
            return false;
        }
        let meta = group.snapshot_meta();
        let temporary = format!("snap-{:x}-taking.tmp", id.0);
        let target = file_name(id, meta.index, "");
        // It is this one's name again.
        self.obsolete.retain(|(_, file)| *file != target);
        let writer = Writer::create(&mut self.disk, &mut self.tokens, id, &meta, &temporary, target);
        group.taking = Some(Box::new(Taking {
            chunks: Cut::new(group.machine.begin_snapshot(), self.config.snapshot_chunk_bytes),
            meta,
            log_bytes: group.log_bytes,
            writer,
            is_finished: false,
        }));
        self.pump_taking(id);
        true
    }

    fn pump_taking(&mut self, id: GroupId) {
        let Some(taking) = self.groups.get_mut(&id).and_then(|g| g.taking.as_mut()) else {
            return;
        };
        while !taking.is_finished && taking.writer.in_flight() < WINDOW as usize {
            match taking.chunks.next() {
                Some(data) => taking.writer.write(&mut self.disk, &mut self.tokens, &data),
                None => {
                    taking.writer.finish(&mut self.disk, &mut self.tokens);
                    taking.is_finished = true;
                }
            }
        }
    }

    /// A completion that is not the log's.
    pub(crate) fn snapshot_written(
        &mut self,
        completion: &Completion,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), HostError> {
        let (token, result) = (completion.token, &completion.result);
        if self.creation_written(token, result, now)? {
            return Ok(());
        }
        let mut taken = None;
        let mut arrived = None;
        for id in self.groups.moving() {
            let group = self.groups.get_mut(&id).expect("only groups that are here are filed");
            let (disk, tokens) = (&mut self.disk, &mut self.tokens);
            if let Some(taking) = &mut group.taking {
                match taking.writer.complete(disk, tokens, token, result) {
                    Ok(Written::NotMine) => {}
                    outcome => {
                        taken = Some((id, outcome));
                        break;
                    }
                }
            }
            if let Some(receiving) = &mut group.receiving {
                match receiving.writer.complete(disk, tokens, token, result) {
                    Ok(Written::NotMine) => {}
                    outcome => {
                        arrived = Some((id, outcome));
                        break;
                    }
                }
            }
        }
        match taken {
            None => {}
            Some((id, Ok(Written::Done))) => self.snapshot_taken(id, now)?,
            Some((id, Ok(_))) => self.pump_taking(id),
            Some((id, Err(error))) => {
                self.give_up_taking(id, now, out);
                if !is_full(&error) {
                    return Err(HostError::Disk { source: error });
                }
            }
        }
        match arrived {
            None => {}
            Some((id, Ok(Written::Done))) => self.snapshot_arrived(id, now, out)?,
            Some((id, Ok(_))) => self.ack_chunks(id, out),
            Some((id, Err(error))) => {
                self.give_up_receiving(id, true, out);
                if !is_full(&error) {
                    return Err(HostError::Disk { source: error });
                }
            }
        }
        Ok(())
    }

    /// The file is durable: now the log may say so, and only then the entries may go.
    fn snapshot_taken(&mut self, id: GroupId, now: Mono) -> Result<(), HostError> {
        let Some(taking) = self.groups.get_mut(&id).and_then(|g| g.taking.take()) else {
            return Ok(());
        };
        let Taking {
            meta,
            writer,
            log_bytes,
            ..
        } = *taking;
        let group = self.groups.get_mut(&id).expect("it was just asked");
        group.log_bytes -= log_bytes;
        let (bytes, file) = (writer.bytes(), writer.target().clone());
        let record = Record::Snapshot {
            group: id,
            snapshot: settle_wal::Snapshot {
                index: meta.index,
                term: meta.term,
                time: meta.time,
                conf: encode_conf(&meta.conf, &meta.context),
                file: Some(file.clone()),
            },
            reset: false,
        };
        self.stage(id, vec![record], Then::Compact { meta, file, bytes }, now)
    }

    /// The log knows the snapshot durably.
    pub(crate) fn compact(
        &mut self,
        id: GroupId,
        meta: &SnapshotMeta,
        file: FileName,
        bytes: u64,
        out: &mut Vec<HostAction<S::Response>>,
    ) {
        let Some(group) = self.groups.get_mut(&id) else {
            return self.forget_file(file);
        };
        group.snapshot_index = meta.index;
        group.raft.compact(meta, self.config.keep_tail_entries);
        self.replace_file(id, file);
        self.counters.snapshots_taken += 1;
        let (group, index) = (id, meta.index);
        out.push(HostAction::Note(HostNote::SnapshotTaken { group, index, bytes }));
    }

    /// The log refers to `file` now, durably; the one before it is to go, and dead log with it, once that is proven too.
    fn replace_file(&mut self, id: GroupId, file: FileName) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let wal = self.wal.as_mut().expect("a group exists only with a log");
        let old = group.snapshot_file.replace(file.clone());
        if let Some(old) = old.filter(|old| *old != file) {
            self.obsolete.push_back((wal.durable(), old));
        }
        wal.purge(&mut self.disk);
    }

    /// Were a file removed at once, damage of the very batch that names its successor would leave neither.
    pub(crate) fn remove_obsolete(&mut self) {
        let proven = self.wal.as_ref().map_or(Lsn::default(), Wal::proven);
        while let Some((_, file)) = self.obsolete.pop_front_if(|(lsn, _)| *lsn <= proven) {
            self.disk.submit(self.tokens.next(), Op::Remove { file });
        }
    }

    fn give_up_taking(&mut self, id: GroupId, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if let Some(taking) = group.taking.take() {
            taking.writer.discard(&mut self.disk, &mut self.tokens);
            group.snapshot_retry_at = now + self.config.tick * self.config.election_ticks * 2;
            self.counters.snapshots_given_up += 1;
            let (group, index) = (id, taking.meta.index);
            out.push(HostAction::Note(HostNote::SnapshotGivenUp { group, index }));
        }
    }

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
        let meta = group.snapshot_meta();
        let index = meta.index;
        let announcement = group.raft.snapshot_message(peer, meta);
        let (Some(node), Some(announcement)) = (node, announcement) else {
            group.raft.report_snapshot(peer, false);
            return;
        };
        let sending = Sending {
            node,
            stream,
            index,
            chunks: Cut::new(group.machine.begin_snapshot(), chunk_bytes),
            next: 1,
            acked: 0,
            bytes: 0,
            crc: 0,
            is_ended: false,
            last_progress: now,
        };
        group.sending.insert(peer, sending);
        let content = ChunkContent::Start(Box::new(announcement));
        let chunk = SnapshotChunk {
            group: id,
            stream,
            number: 0,
            crc: 0,
            content,
        };
        send(out, node, PeerMessage::SnapshotChunk(chunk));
        self.pump_sending(id, peer, out);
    }

    fn pump_sending(&mut self, id: GroupId, peer: PeerId, out: &mut Vec<HostAction<S::Response>>) {
        let Some(sending) = self.groups.get_mut(&id).and_then(|g| g.sending.get_mut(&peer)) else {
            return;
        };
        while !sending.is_ended && sending.next - sending.acked < WINDOW {
            let (crc, content) = match sending.chunks.next() {
                Some(data) => {
                    sending.bytes += data.len() as u64;
                    sending.crc = crc32c::crc32c_append(sending.crc, &data);
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
            send(out, sending.node, PeerMessage::SnapshotChunk(chunk));
        }
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
        sending.acked = next;
        sending.last_progress = now;
        if sending.is_ended && sending.acked == sending.next {
            self.end_sending(id, peer, true, out);
        } else {
            self.pump_sending(id, peer, out);
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
        if let ChunkContent::Start(announcement) = chunk.content {
            return self.start_receiving(from, incarnation, id, stream, *announcement, now, out);
        }
        let Some(receiving) = &mut group.receiving else {
            send(out, from, PeerMessage::SnapshotReject { group: id, stream });
            return Ok(());
        };
        if receiving.stream != stream || receiving.from != incarnation {
            send(out, from, PeerMessage::SnapshotReject { group: id, stream });
            return Ok(());
        }
        let index = snapshot_index(&receiving.announcement);
        let size = receiving.writer.bytes();
        let in_order = chunk.number == receiving.next && !receiving.is_ended;
        receiving.next = receiving.next.wrapping_add(1);
        receiving.last_progress = now;
        let mut loaded = Ok(());
        let fits = match chunk.content {
            ChunkContent::Data(data) if in_order => {
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
            ChunkContent::End { bytes } if in_order && bytes == size && chunk.crc == receiving.writer.crc() => {
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
        if is_old || meta.index <= group.raft.commit() || group.received.is_some() {
            // Consensus answers by itself when it needs none of it.
            if meta.index <= group.raft.commit() {
                self.step_snapshot(from, announcement, out);
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
        let cluster = self.identity.cluster.expect("a group exists only in a cluster");
        let temporary = format!("snap-{:x}-receiving.tmp", id.0);
        // A name of its own: it can never be the file of a snapshot that this replica took at the same index.
        let target = file_name(id, meta.index, &format!("-{stream:x}"));
        let writer = Writer::create(&mut self.disk, &mut self.tokens, id, meta, &temporary, target);
        group.receiving = Some(Box::new(Receiving {
            from: incarnation,
            stream,
            announcement,
            machine: (self.make_machine)(id, cluster),
            book,
            next: 1,
            acked: 1,
            is_ended: false,
            writer,
            last_progress: now,
        }));
        let next = 1;
        send(
            out,
            from,
            PeerMessage::SnapshotAck {
                group: id,
                stream,
                next,
            },
        );
        Ok(())
    }

    /// Lets the sender go on as far as the disk has followed.
    fn ack_chunks(&mut self, id: GroupId, out: &mut Vec<HostAction<S::Response>>) {
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
            send(
                out,
                node,
                PeerMessage::SnapshotAck {
                    group: id,
                    stream,
                    next,
                },
            );
        }
    }

    /// The whole snapshot is durable as a file: consensus may have it.
    fn snapshot_arrived(
        &mut self,
        id: GroupId,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), HostError> {
        let Some(receiving) = self.groups.get_mut(&id).and_then(|g| g.receiving.take()) else {
            return Ok(());
        };
        let (from, stream, next) = (receiving.from, receiving.stream, receiving.next);
        let Some(node) = self.node_of(from) else {
            receiving.writer.discard(&mut self.disk, &mut self.tokens);
            return Ok(());
        };
        let Receiving {
            announcement,
            machine,
            book,
            writer,
            ..
        } = *receiving;
        let index = snapshot_index(&announcement);
        let group = self.groups.get_mut(&id).expect("it was just asked");
        group.received = Some(Box::new(Received {
            index,
            file: writer.target().clone(),
            is_staged: false,
            machine,
            book,
        }));
        self.step_snapshot(node, announcement, out);
        while self.groups.get(&id).is_some_and(|g| g.raft.has_ready()) {
            self.drain_ready(id, now, out)?;
        }
        if self
            .groups
            .get(&id)
            .and_then(|g| g.received.as_ref())
            .is_some_and(|r| !r.is_staged)
        {
            self.forget_received(id);
        }
        send(
            out,
            node,
            PeerMessage::SnapshotAck {
                group: id,
                stream,
                next,
            },
        );
        Ok(())
    }

    /// Consensus did not want it after all.
    fn forget_received(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if let Some(received) = group.received.take() {
            let Received { file, .. } = *received;
            self.disk.submit(self.tokens.next(), Op::Remove { file });
        }
    }

    fn step_snapshot(&mut self, from: NodeId, announcement: Message, out: &mut Vec<HostAction<S::Response>>) {
        let Some(group) = self.groups.get_mut(&announcement.group) else {
            return;
        };
        if let Err(source) = group.raft.step(announcement) {
            let reason = PeerError::Step { node: from, source };
            out.push(HostAction::ClosePeer { node: from, reason });
        }
    }

    /// The log says durably that this replica starts from the received snapshot.
    pub(crate) fn install(
        &mut self,
        id: GroupId,
        meta: SnapshotMeta,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), HostError> {
        let index = meta.index;
        let group = self
            .groups
            .get_mut(&id)
            .expect("a log is written only for groups that are here");
        let received = group.received.take().expect("nothing else takes it");
        let book = self.groups.share(received.book);
        let group = self.groups.get_mut(&id).expect("it was just asked");
        group.machine = received.machine;
        group.book = book;
        group.applied = Applied {
            index,
            term: meta.term,
            time: meta.time,
        };
        group.log_bytes = 0;
        group.effects.clear();
        group.snapshot_index = index;
        group.end_pause();
        group.raft.on_applied(index);
        group.tell_members();
        self.replace_file(id, received.file);
        self.counters.snapshots_installed += 1;
        out.push(HostAction::Note(HostNote::SnapshotInstalled { group: id, index }));
        self.serve(Event::Reloaded { group: id }, now, out);
        self.update_role(id, now, out);
        Ok(())
    }

    /// Ends all that is under way for a group that is about to be destroyed.
    pub(crate) fn forget_transfers(&mut self, id: GroupId) {
        self.abandon_taking(id);
        let Some(group) = self.groups.get_mut(&id) else { return };
        let receiving = group.receiving.take();
        if let Some(received) = group.received.take() {
            self.forget_file(received.file);
        }
        if let Some(receiving) = receiving {
            receiving.writer.discard(&mut self.disk, &mut self.tokens);
        }
    }

    pub(crate) fn abandon_taking(&mut self, id: GroupId) {
        if let Some(taking) = self.groups.get_mut(&id).and_then(|g| g.taking.take()) {
            taking.writer.discard(&mut self.disk, &mut self.tokens);
        }
    }

    fn give_up_receiving(&mut self, id: GroupId, reject: bool, out: &mut Vec<HostAction<S::Response>>) {
        let Some(receiving) = self.groups.get_mut(&id).and_then(|g| g.receiving.take()) else {
            return;
        };
        let (group, stream) = (id, receiving.stream);
        if reject && let Some(node) = self.node_of(receiving.from) {
            send(out, node, PeerMessage::SnapshotReject { group, stream });
        }
        receiving.writer.discard(&mut self.disk, &mut self.tokens);
    }

    /// Transfers with a node whose connection is gone.
    pub(crate) fn drop_transfers(&mut self, peer: PeerId, out: &mut Vec<HostAction<S::Response>>) {
        for id in self.groups.moving() {
            self.end_sending(id, peer, false, out);
            if self.groups[&id].receiving.as_ref().is_some_and(|r| r.from == peer) {
                self.give_up_receiving(id, false, out);
            }
        }
    }

    /// Gives up transfers that stand still, and takes snapshots that had to wait.
    pub(crate) fn tick_snapshots(&mut self, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        let patience = self.config.tick * self.config.election_ticks * PATIENCE_ELECTIONS;
        for id in self.groups.moving() {
            let group = &self.groups[&id];
            let is_late = |last: Mono| now.since(last) > patience;
            let late: Vec<PeerId> = group
                .sending
                .iter()
                .filter(|(_, s)| is_late(s.last_progress))
                .map(|(p, _)| *p)
                .collect();
            let receiving_is_late = group.receiving.as_ref().is_some_and(|r| is_late(r.last_progress));
            let wants_snapshot = group.log_bytes >= self.config.snapshot_after_bytes;
            for peer in late {
                self.end_sending(id, peer, false, out);
            }
            if receiving_is_late {
                self.give_up_receiving(id, true, out);
            }
            if wants_snapshot {
                self.begin_snapshot(id, now);
            }
        }
    }
}

fn snapshot_index(announcement: &Message) -> Index {
    match &announcement.body {
        Body::Snapshot { meta } => meta.index,
        _ => unreachable!("checked when the transfer started"),
    }
}

impl<M: StateMachine> crate::group::Group<M> {
    /// A snapshot is being taken that makes the log from `index` on dispensable.
    pub(crate) fn is_taking_from(&self, index: Index) -> bool {
        self.taking.as_ref().is_some_and(|taking| taking.meta.index >= index)
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
