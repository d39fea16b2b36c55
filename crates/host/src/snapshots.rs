//! Snapshots of a group: taken without stopping it, installed once whole and durable. How they travel: `transfers.rs`.

use std::collections::VecDeque;

use settle_base::{GroupId, Index, Mono, mutant};
use settle_machine::{Event, Service, StateMachine};
use settle_raft::{Entry, SnapshotMeta};
use settle_storage::{Completion, Disk, DiskRead, FileName, Op};
use settle_wal::{Lsn, Record, Wal};

use crate::{
    Discarded, Host, HostAction, HostError, HostNote,
    group::{Applied, Group},
    identity::is_full,
    members::{Book, encode_conf},
    order::Then,
    snapshot_file::{Cut, Writer, Written, file_name},
    versions::is_new_enough,
    witness::WitnessLog,
};

/// Chunks on their way to the disk, or to a peer, at most.
pub(crate) const WINDOW: u32 = 8;

/// Bytes of snapshots that are written for each byte by which a log grows, beside those of the time that passes: so the log of
/// a group that is written to faster than its snapshot grows by half of that at most until it is done.
const WRITTEN_PER_LOGGED: u64 = 2;

/// Pieces of a log that are freed at each tick, beside the one at each flush: without load there are few of these.
const PIECES_PER_TICK: usize = 16;

/// A snapshot of this replica on its way to a file.
pub(crate) struct Taking {
    meta: SnapshotMeta,
    chunks: Cut,
    /// Bytes of log that it will make dispensable.
    log_bytes: u64,
    writer: Writer,
    is_finished: bool,
    /// The log has been told of it.
    is_recorded: bool,
}

/// A snapshot that is whole and durable as a file, but not yet in the log.
///
/// It was loaded before consensus heard of it: once the log says that it begins here, there is no way back.
pub(crate) struct Received<M> {
    pub(crate) index: Index,
    /// `None` at a witness.
    pub(crate) file: Option<FileName>,
    /// The log's record of it is on its way.
    pub(crate) is_staged: bool,
    pub(crate) machine: Option<M>,
    pub(crate) book: Book,
}

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    /// Freezes the machine and starts writing; false when there is nothing to take or one is under way.
    pub(crate) fn begin_snapshot(&mut self, id: GroupId, now: Mono) -> bool {
        let Some(group) = self.groups.get_mut(&id) else {
            return false;
        };
        let Some(machine) = &group.machine else {
            return false;
        };
        let nothing_new = group.log_bytes == 0;
        if group.is_held()
            || group.awaits_verdict(self.config.snapshot_after_bytes)
            || nothing_new
            || group.taking.is_some()
            || group.received.is_some()
            || now < group.snapshot_retry_at
        {
            return false;
        }
        group.hashes.forget_note();
        let meta = group.snapshot_meta();
        let temporary = format!("snap-{:x}-taking.tmp", id.0);
        let target = file_name(id, meta.index, "");
        let (disk, tokens, obsolete) = (&mut self.disk, &mut self.tokens, &mut self.obsolete);
        let writer = Writer::create(disk, tokens, obsolete, id, &meta, &temporary, target);
        group.taking = Some(Box::new(Taking {
            chunks: Cut::new(machine.begin_snapshot(), self.config.snapshot_chunk_bytes),
            meta,
            log_bytes: group.log_bytes,
            writer,
            is_finished: false,
            is_recorded: false,
        }));
        self.pump_taking(id, now);
        true
    }

    /// Writes as fast as the pace of all snapshots of this node allows, or as the disk does while the logs take so much
    /// memory that they had better be dispensable soon.
    fn pump_taking(&mut self, id: GroupId, now: Mono) {
        let is_short = self.is_log_memory_short();
        let Some(taking) = self.groups.get_mut(&id).and_then(|g| g.taking.as_mut()) else {
            return;
        };
        self.snapshot_pace.fill(now);
        while !taking.is_finished
            && taking.writer.in_flight() < WINDOW as usize
            && (is_short || self.snapshot_pace.may_go_on())
        {
            match taking.chunks.next() {
                Some(data) => {
                    self.snapshot_pace.spend(data.len());
                    taking.writer.write(&mut self.disk, &mut self.tokens, &data);
                }
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
        if self.creation_written(token, result, now, out)? {
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
            Some((id, Ok(_))) => {
                self.pump_taking(id, now);
                if mutant!("purge_before_snapshot_durable") {
                    self.record_finished(id, now)?;
                }
            }
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
        self.record_taken(id, now)?;
        if let Some(group) = self.groups.get_mut(&id) {
            group.taking = None;
        }
        Ok(())
    }

    /// The deliberate bug: everything is written, so it must be there.
    fn record_finished(&mut self, id: GroupId, now: Mono) -> Result<(), HostError> {
        let taking = self.groups.get(&id).and_then(|g| g.taking.as_ref());
        match taking.is_some_and(|t| t.is_finished) {
            true => self.record_taken(id, now),
            false => Ok(()),
        }
    }

    fn record_taken(&mut self, id: GroupId, now: Mono) -> Result<(), HostError> {
        let Some(taking) = self.groups.get_mut(&id).and_then(|g| g.taking.as_mut()) else {
            return Ok(());
        };
        if std::mem::replace(&mut taking.is_recorded, true) {
            return Ok(());
        }
        let (meta, log_bytes) = (taking.meta.clone(), taking.log_bytes);
        let (bytes, file) = (taking.writer.bytes(), taking.writer.target().clone());
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
        self.log_shrank(id, log_bytes, now);
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
        // Who is a little behind is spared a snapshot, unless memory is short.
        let is_short = self.is_log_memory_short();
        if let Some(stopped) = self.stopped.get_mut(&id) {
            stopped.group.snapshot_file = Some(file);
            return;
        }
        let Some(group) = self.groups.get_mut(&id) else {
            return self.forget_file(file);
        };
        group.snapshot_index = meta.index;
        let keep = if is_short { 0 } else { self.config.keep_tail_entries };
        let dropped = group.raft.compact(meta, keep);
        self.drop_entries(dropped);
        self.replace_file(id, Some(file));
        self.counters.snapshots_taken += 1;
        let (group, index) = (id, meta.index);
        out.push(HostAction::Note(HostNote::SnapshotTaken { group, index, bytes }));
    }

    /// The log refers to `file` now, durably; the one before it is to go, and dead log with it, once that is proven too.
    fn replace_file(&mut self, id: GroupId, file: Option<FileName>) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let wal = self.wal.as_mut().expect("a group exists only with a log");
        let old = std::mem::replace(&mut group.snapshot_file, file);
        if let Some(old) = old.filter(|old| Some(old) != group.snapshot_file.as_ref()) {
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
        let (version, build) = (received.book.cluster_version(), self.config.build_version);
        if !is_new_enough(build, version) {
            return Err(HostError::OldBuild {
                group: id,
                version,
                build,
            });
        }
        let book = self.groups.share(received.book);
        let group = self.groups.get_mut(&id).expect("it was just asked");
        let replaced = std::mem::replace(&mut group.machine, received.machine);
        group.book = book;
        group.applied = Applied {
            index,
            term: meta.term,
            time: meta.time,
        };
        let log_bytes = group.log_bytes;
        group.effects.clear();
        group.snapshot_index = index;
        group.witness = WitnessLog::from(index);
        group.raft.on_applied(index);
        group.end_pause();
        group.tell_members();
        self.log_shrank(id, log_bytes, now);
        self.discard(replaced);
        self.replace_file(id, received.file);
        self.counters.snapshots_installed += 1;
        out.push(HostAction::Note(HostNote::SnapshotInstalled { group: id, index }));
        let group = self.groups.get_mut(&id).expect("no service removes a group");
        if group.is_witness() {
            return Ok(());
        }
        let is_rebuilt = group.end_quarantine();
        self.serve(Event::Reloaded { group: id }, now, out);
        self.update_role(id, now, out);
        if is_rebuilt {
            out.push(HostAction::Note(HostNote::Rebuilt { group: id, index }));
        }
        Ok(())
    }

    /// Ends all that is under way for a group that is about to be destroyed.
    pub(crate) fn forget_transfers(&mut self, id: GroupId) {
        self.abandon_taking(id);
        let Some(group) = self.groups.get_mut(&id) else { return };
        let (receiving, received) = (group.receiving.take(), group.received.take());
        self.log_bytes -= std::mem::take(&mut group.log_bytes);
        if let Some(received) = received {
            if let Some(file) = received.file {
                self.forget_file(file);
            }
            self.discard(received.machine);
        }
        if let Some(receiving) = receiving {
            let crate::transfers::Receiving { writer, machine, .. } = *receiving;
            writer.discard(&mut self.disk, &mut self.tokens);
            self.discard(Some(machine));
        }
    }

    /// Freeing a large machine takes long: that is for another thread than the loop's.
    pub(crate) fn discard(&mut self, machine: Option<S::Machine>) {
        self.discarded
            .extend(machine.map(|machine| Discarded(Box::new(machine))));
    }

    /// Freeing what was replicated in seconds takes tens of milliseconds, so it is done piece by piece. Not by another
    /// thread, which would hold up this one by the allocator's locks, and at the same moment on each node of the group.
    pub(crate) fn drop_entries(&mut self, entries: VecDeque<Vec<Entry>>) {
        self.superfluous.extend(entries);
        self.free_pieces(1);
    }

    pub(crate) fn free_pieces(&mut self, count: usize) {
        self.superfluous.drain(..count.min(self.superfluous.len()));
    }

    pub(crate) fn abandon_taking(&mut self, id: GroupId) {
        if let Some(taking) = self.groups.get_mut(&id).and_then(|g| g.taking.take()) {
            taking.writer.discard(&mut self.disk, &mut self.tokens);
        }
    }

    /// Takes the snapshots that are due: by the size of a group's log, by its age, and while the logs of all groups take
    /// more memory than they may, of the groups with the largest ones.
    pub(crate) fn tick_snapshots(&mut self, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        self.free_pieces(PIECES_PER_TICK);
        self.tick_transfers(now, out);
        for id in self.groups.moving() {
            self.pump_taking(id, now);
            if self.groups[&id].log_bytes >= self.config.snapshot_after_bytes {
                self.begin_snapshot(id, now);
            }
        }
        while let Some((_, id)) = self.log_ages.pop_front_if(|(due, _)| *due <= now) {
            let is_old = |since: Mono| now.since(since) >= self.config.snapshot_after;
            if self.groups.get(&id).and_then(|g| g.log_since).is_some_and(is_old) && !self.begin_snapshot(id, now) {
                self.log_ages.push_back((now + self.config.snapshot_after, id));
            }
        }
        self.relieve_memory(now);
    }

    /// With many groups none of which has a large log, their sum is what counts.
    fn relieve_memory(&mut self, now: Mono) {
        if self.log_bytes <= self.config.log_memory_max {
            return;
        }
        let is_taken = |g: &Group<S::Machine>| g.taking.is_some();
        let taken: u64 = self.groups.values().filter(|g| is_taken(g)).map(|g| g.log_bytes).sum();
        let mut over = (self.log_bytes - self.config.log_memory_max).saturating_sub(taken);
        let free = self.groups.values().filter(|g| !is_taken(g) && g.log_bytes > 0);
        let mut largest: Vec<(u64, GroupId)> = free.map(|g| (g.log_bytes, g.id)).collect();
        largest.sort_unstable_by(|a, b| b.cmp(a));
        for (bytes, id) in largest {
            if over == 0 {
                break;
            }
            if self.begin_snapshot(id, now) {
                over = over.saturating_sub(bytes);
            }
        }
    }

    fn is_log_memory_short(&self) -> bool {
        self.log_bytes > self.config.log_memory_max / 2
    }

    /// Applied entries of this group stay in memory until the next snapshot.
    pub(crate) fn log_grew(&mut self, id: GroupId, bytes: u64, now: Mono) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.log_bytes += bytes;
        self.log_bytes += bytes;
        self.snapshot_pace.earn(bytes.saturating_mul(WRITTEN_PER_LOGGED));
        if group.log_since.is_none() {
            group.log_since = Some(now);
            self.log_ages.push_back((now + self.config.snapshot_after, id));
        }
    }

    pub(crate) fn log_shrank(&mut self, id: GroupId, bytes: u64, now: Mono) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.log_bytes -= bytes;
        self.log_bytes -= bytes;
        group.log_since = None;
        if group.log_bytes > 0 {
            self.log_grew(id, 0, now);
        }
    }
}

impl<M: StateMachine> Group<M> {
    /// A snapshot is being taken that makes the log from `index` on dispensable.
    pub(crate) fn is_taking_from(&self, index: Index) -> bool {
        self.taking.as_ref().is_some_and(|taking| taking.meta.index >= index)
    }
}
