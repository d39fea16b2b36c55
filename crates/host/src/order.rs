//! The order of things: write, then (once durable) promise, apply, answer. Everything that consensus wants passes here.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use settle_base::{GroupId, Index, Mono, NodeId, PeerId};
use settle_machine::{EntryMeta, Event, GroupRole, Service, StateMachine};
use settle_raft::{ConfChange, Entry, EntryKind, Message, Persist, PersistSeq, Role, RoleChange, SnapshotMeta};
use settle_storage::{Disk, DiskRead, FileName};
use settle_wal::{HardState, Lsn, Record, WalEntry, WalError, WalProgress};

use crate::{
    Host, HostAction, HostCommand, HostError, HostNote, PeerError, PeerMessage,
    durability::Change,
    event::DropReason,
    group::{Applied, Office},
    groups::Groups,
    host::send,
    members::{self, Book, encode_conf},
    raft_codec::kind_to_u8,
    stages::{Boundary, Stages},
    surgery::members_of,
    transfer_queue::Cause,
    versions::is_new_enough,
};

/// What a queue of the host has room for at rest.
const QUEUE_KEPT: usize = 256;

/// A batch of one group's records in the log, and what may happen once it is durable.
#[derive(Debug)]
pub(crate) struct Staged {
    lsn: Lsn,
    group: GroupId,
    since: Mono,
    then: Then,
}

/// The same before the log had room for it.
#[derive(Debug)]
pub(crate) struct Unstaged {
    group: GroupId,
    records: Vec<Record>,
    since: Mono,
    then: Then,
}

#[derive(Debug)]
pub(crate) enum Then {
    Persisted {
        seq: PersistSeq,
        change: Change,
        after: Vec<Message>,
        install: Option<SnapshotMeta>,
    },
    /// The log knows of a snapshot that this replica took.
    Compact {
        meta: SnapshotMeta,
        file: FileName,
        bytes: u64,
    },
    /// The log knows that a witness's log begins here.
    Cut {
        meta: SnapshotMeta,
    },
    /// The log knows of the leader's snapshot of what it holds already, for a machine that was wrong.
    Rebuild {
        meta: SnapshotMeta,
    },
    Healed,
    Created,
    /// The log says that the group is destroyed, and has yet to say it where damage of its last batch cannot take it.
    Ended {
        file: Option<FileName>,
    },
    Destroyed {
        file: Option<FileName>,
    },
    Nothing,
}

/// More rounds than any chain of causes within one flush needs; the rest waits for the next flush.
const ROUNDS_MAX: usize = 64;

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    /// Goes round until nothing more can happen without the disk or a peer.
    pub(crate) fn settle(&mut self, now: Mono, out: &mut Vec<HostAction<S::Response>>) -> Result<(), HostError> {
        for _ in 0..ROUNDS_MAX {
            let mut progressed = self.poll_disk(now, out)?;
            for id in self.groups.take_undrained() {
                while self.groups.get(&id).is_some_and(|g| g.raft.has_ready()) {
                    self.drain_ready(id, now, out)?;
                    progressed = true;
                }
                self.tend_witness(id, now)?;
            }
            progressed |= self.settle_surgery(now, out)?;
            progressed |= self.start_transfers(now, out);
            self.write(now)?;
            self.report_lost_reads(now, out);
            if !progressed {
                break;
            }
        }
        Ok(())
    }

    /// Takes the disk's completions; true when there were any.
    pub(crate) fn poll_disk(&mut self, now: Mono, out: &mut Vec<HostAction<S::Response>>) -> Result<bool, HostError> {
        let mut any = false;
        while let Some(completion) = self.disk.poll() {
            any = true;
            let progress = match &mut self.wal {
                Some(wal) => wal
                    .complete(&completion, &mut self.disk)
                    .map_err(|source| HostError::Log { source })?,
                None => WalProgress::NotMine,
            };
            match progress {
                WalProgress::NotMine => self.snapshot_written(&completion, now, out)?,
                WalProgress::Pending => {}
                WalProgress::Full => {
                    self.retries_full_disk = false;
                    if !self.disk_is_full {
                        self.disk_is_full = true;
                        self.counters.disk_full += 1;
                        out.push(HostAction::Note(HostNote::DiskFull));
                    }
                }
                WalProgress::Durable(lsn) => self.became_durable(lsn, now, out)?,
            }
        }
        Ok(any)
    }

    fn became_durable(&mut self, lsn: Lsn, now: Mono, out: &mut Vec<HostAction<S::Response>>) -> Result<(), HostError> {
        if self.disk_is_full && self.wal.as_ref().is_some_and(|wal| !wal.is_full()) {
            self.disk_is_full = false;
            out.push(HostAction::Note(HostNote::DiskHasSpace));
        }
        while self.staged.front().is_some_and(|staged| staged.lsn <= lsn) {
            let Staged {
                lsn: written,
                group: id,
                since,
                then,
            } = self.staged.pop_front().expect("it was just seen");
            self.sync_last = now.since(since);
            match then {
                Then::Persisted {
                    seq,
                    change,
                    after,
                    install,
                } => {
                    self.checker.became_durable(id, change);
                    if let Some(group) = self.groups.get_mut(&id) {
                        group.raft.on_persisted(seq);
                    }
                    if let Some(last) = change.last {
                        self.reached(id, last, Boundary::Durable(written), now);
                        self.saw_commit(id, now);
                    }
                    if let Some(meta) = install.filter(|_| self.groups.get(&id).is_some()) {
                        self.install(id, meta, now, out)?;
                    }
                    for message in after {
                        self.release(id, message)?;
                    }
                }
                Then::Compact { meta, file, bytes } => self.compact(id, &meta, file, bytes, out),
                Then::Cut { meta } => self.was_cut(id, &meta),
                Then::Rebuild { meta } => self.rebuild(id, meta, now, out)?,
                Then::Created => self.name_file(id),
                Then::Ended { file } => {
                    let records = vec![Record::Destroy { group: id }];
                    self.stage(id, records, Then::Destroyed { file }, now)?;
                }
                Then::Destroyed { file } => self.destroyed(id, file, out),
                Then::Nothing => {}
                Then::Healed => out.push(HostAction::Note(HostNote::Recovered { group: id })),
            }
        }
        self.remove_obsolete();
        Ok(())
    }

    /// Hands what is staged to the disk as one batch.
    fn write(&mut self, now: Mono) -> Result<(), HostError> {
        // Space comes with time, not with trying.
        if self.disk_is_full && !std::mem::take(&mut self.retries_full_disk) {
            return Ok(());
        }
        let Some(wal) = &mut self.wal else { return Ok(()) };
        wal.flush(&mut self.disk);
        while let Some(unstaged) = self.unstaged.pop_front() {
            let lsn = match wal.append(&unstaged.records) {
                Ok(lsn) => lsn,
                Err(WalError::Backlog { .. }) => {
                    self.unstaged.push_front(unstaged);
                    break;
                }
                Err(source) => return Err(HostError::Log { source }),
            };
            let Unstaged { group, since, then, .. } = unstaged;
            logged(&mut self.groups, &mut self.stages, group, &then, lsn, now);
            self.staged.push_back(Staged {
                lsn,
                group,
                since,
                then,
            });
        }
        wal.flush(&mut self.disk);
        Ok(())
    }

    pub(crate) fn stage(
        &mut self,
        group: GroupId,
        records: Vec<Record>,
        then: Then,
        now: Mono,
    ) -> Result<(), HostError> {
        let wal = self.wal.as_mut().expect("a group exists only with a log");
        if self.unstaged.is_empty() {
            match wal.append(&records) {
                Ok(lsn) => {
                    let since = now;
                    logged(&mut self.groups, &mut self.stages, group, &then, lsn, now);
                    self.staged.push_back(Staged {
                        lsn,
                        group,
                        since,
                        then,
                    });
                    return Ok(());
                }
                Err(WalError::Backlog { .. }) => {}
                Err(source) => return Err(HostError::Log { source }),
            }
        }
        self.unstaged.push_back(Unstaged {
            group,
            records,
            since: now,
            then,
        });
        Ok(())
    }

    /// How long the oldest write has been waiting for the disk.
    pub(crate) fn disk_wait(&self, now: Mono) -> std::time::Duration {
        let oldest = self.staged.front().map(|s| s.since);
        oldest.map_or(std::time::Duration::ZERO, |since| now.since(since))
    }

    pub(crate) fn drain_ready(
        &mut self,
        id: GroupId,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), HostError> {
        let Some(group) = self.groups.get_mut(&id) else {
            return Ok(());
        };
        let ready = group.raft.ready();
        let healed = group.was_recovering && !group.raft.is_recovering();
        group.was_recovering = group.raft.is_recovering();
        if let Some(change) = ready.role_change {
            self.role_changed(id, change, now, out);
        }
        // What may leave at once rests on the log as it is, before this write begins to replace any of it.
        for message in ready.messages {
            self.post(message)?;
        }
        if let Some(persist) = ready.persist {
            self.stage_persist(id, persist, now)?;
        }
        if healed {
            self.stage(id, vec![Record::Healed { group: id }], Then::Healed, now)?;
        }
        if !ready.committed.is_empty() {
            self.apply(id, ready.committed, now, out)?;
        }
        for peer in ready.need_snapshot {
            self.send_snapshot(id, peer, Cause::Behind);
        }
        for read in ready.reads {
            let Some(group) = self.groups.get_mut(&id) else {
                continue;
            };
            if let Some(pending) = group.reads.remove(&read.ctx) {
                group.reads_confirmed.insert((read.index, read.ctx), pending);
            }
        }
        self.counters.reads_behind += ready.reads_behind.len() as u64;
        let behind = ready.reads_behind.iter().map(|read| read.ctx);
        for ctx in ready.reads_dropped.into_iter().chain(behind) {
            if let Some(pending) = self.groups.get_mut(&id).and_then(|g| g.reads.remove(&ctx)) {
                self.lose_read(id, pending.token);
            }
        }
        self.answer_reads(id, now, out);
        Ok(())
    }

    fn stage_persist(&mut self, id: GroupId, persist: Persist, now: Mono) -> Result<(), HostError> {
        let mut records = Vec::with_capacity(3);
        let mut change = Change {
            hard_state: persist.hard_state,
            last: None,
        };
        if let Some(hard_state) = &persist.hard_state {
            let state = HardState {
                term: hard_state.term,
                vote: hard_state.vote,
                commit: hard_state.commit,
            };
            records.push(Record::HardState { group: id, state });
        }
        if let Some(meta) = &persist.snapshot {
            // One of an earlier index must not follow in the log.
            self.abandon_taking(id);
            let group = self.groups.get_mut(&id).expect("it was just asked");
            let received = group.received.as_mut().expect("consensus installs what was received");
            received.is_staged = true;
            assert_eq!(
                received.index, meta.index,
                "the snapshot handed to consensus is the one it installs"
            );
            records.push(Record::Snapshot {
                group: id,
                snapshot: settle_wal::Snapshot {
                    index: meta.index,
                    term: meta.term,
                    time: meta.time,
                    conf: encode_conf(&meta.conf, &meta.context),
                    file: received.file.clone(),
                },
                reset: true,
            });
            change.last = Some(meta.index);
        }
        if let Some(last) = persist.entries.last() {
            change.last = Some(last.index);
            self.reached(id, last.index, Boundary::Ready, now);
            let entries = persist.entries.iter().map(wal_entry).collect();
            records.push(Record::Entries { group: id, entries });
        } else {
            let is_covered = persist.snapshot.is_some() || persist.truncate_after.is_none();
            assert!(is_covered, "a log is cut only where new entries follow");
        }
        // Behind a snapshot nothing of what is there now is this log's; what comes counts once it is durable.
        let cut = persist.snapshot.as_ref().map(|_| 0).or(persist.truncate_after);
        if let Some(cut) = cut {
            self.drop_acks_beyond(id, cut);
        }
        if let Some(keep) = cut.or(persist.entries.first().map(|first| first.index - 1)) {
            self.checker.truncating(id, keep);
        }
        let then = Then::Persisted {
            seq: persist.seq,
            change,
            after: persist.after,
            install: persist.snapshot,
        };
        self.stage(id, records, then, now)
    }

    /// The log is being cut: what was to be acked beyond, once written, will not be there. An ack may always be lost.
    fn drop_acks_beyond(&mut self, id: GroupId, cut: Index) {
        let acks_more = |m: &Message| m.rests_on().and_then(|r| r.log).is_some_and(|index| index > cut);
        let staged = self.staged.iter_mut().map(|s| (s.group, &mut s.then));
        let unstaged = self.unstaged.iter_mut().map(|u| (u.group, &mut u.then));
        for (group, then) in staged.chain(unstaged) {
            if let Then::Persisted { after, .. } = then
                && group == id
            {
                let before = after.len();
                after.retain(|message| !acks_more(message));
                self.counters.messages_outdated += (before - after.len()) as u64;
            }
        }
    }

    /// Lets a message that waited for its write go. When consensus is in a later term meanwhile, nobody needs it, and
    /// what it rests on may be gone already.
    fn release(&mut self, id: GroupId, message: Message) -> Result<(), HostError> {
        let term = self.groups.get(&id).map(|g| g.raft.term());
        let is_outdated = |term| message.rests_on().is_some_and(|rests_on| rests_on.term < term);
        // A group that is no more, or was stopped, says nothing.
        if term.is_none_or(is_outdated) {
            self.counters.messages_outdated += 1;
            return Ok(());
        }
        self.post(message)
    }

    /// Lets a message of consensus go to its peer, if it is connected and the message rests on nothing that could be lost.
    pub(crate) fn post(&mut self, message: Message) -> Result<(), HostError> {
        if !self.checker.check_send(&message)? {
            return Ok(());
        }
        match self.node_of(message.to) {
            Some(node) => {
                let bytes_max = self.config.limits.peer_batch_bytes;
                self.outbox.entry(node).or_default().push(message, bytes_max);
            }
            None => self.counters.messages_undeliverable += 1,
        }
        Ok(())
    }

    pub(crate) fn send_outbox(&mut self, out: &mut Vec<HostAction<S::Response>>) {
        for (&node, outbox) in &mut self.outbox {
            for batch in outbox.take() {
                send(out, node, PeerMessage::Raft(batch));
            }
        }
    }

    /// A burst leaves room behind that is as good as never needed again.
    pub(crate) fn release_memory(&mut self) {
        self.staged.shrink_to(QUEUE_KEPT);
        self.unstaged.shrink_to(QUEUE_KEPT);
        self.groups.release_memory(QUEUE_KEPT);
    }

    pub(crate) fn step_raft(
        &mut self,
        from: NodeId,
        incarnation: PeerId,
        messages: Vec<Message>,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) {
        for message in messages {
            let Some(group) = self.groups.get_mut(&message.group) else {
                self.counters.messages_ignored += 1;
                continue;
            };
            if message.from != incarnation {
                let (node, group, peer) = (from, message.group, message.from);
                let reason = PeerError::NotItsReplica { node, group, peer };
                out.push(HostAction::ClosePeer { node, reason });
                return;
            }
            if matches!(message.body, settle_raft::Body::Snapshot { .. }) {
                // Only the host steps these, when it holds the bytes.
                self.counters.messages_ignored += 1;
                continue;
            }
            let id = message.group;
            if let Err(source) = group.raft.step(message) {
                let reason = PeerError::Step { node: from, source };
                out.push(HostAction::ClosePeer { node: from, reason });
                return;
            }
            if group.raft.is_leader() {
                let commit = group.raft.commit();
                self.reached(id, commit, Boundary::Committed, now);
            }
        }
    }

    fn role_changed(&mut self, id: GroupId, change: RoleChange, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        let leader = self.node_of(change.leader);
        let Some(group) = self.groups.get_mut(&id) else { return };
        let (term, leads) = (change.term, change.role == Role::Leader);
        if !leads {
            self.stages.forget(&mut group.line);
            group.office = None;
            group.sending.clear();
        } else if group.office.is_none_or(|office| office.term != term) {
            self.stages.forget(&mut group.line);
            group.office = Some(Office::take(term, group.raft.last_time(), now));
            group.sending.clear();
            self.counters.elections_won += 1;
            out.push(HostAction::Note(HostNote::BecameLeader { group: id, term }));
        }
        if change.role == Role::Follower && leader.is_some() {
            let group = id;
            out.push(HostAction::Note(HostNote::FollowsLeader { group, term, leader }));
        }
        self.update_role(id, now, out);
    }

    /// Tells the service when what it may know of the leadership has changed.
    pub(crate) fn update_role(&mut self, id: GroupId, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        let Some(group) = self.groups.get(&id) else { return };
        let role = GroupRole {
            leader: self.node_of(group.raft.leader()),
            term: group.raft.term(),
            is_ready_leader: group.is_ready_leader(),
        };
        if role != group.role {
            if let Some(group) = self.groups.get_mut(&id) {
                group.role = role;
            }
            if role.is_ready_leader {
                self.misfits.insert(id);
            }
            self.serve(Event::Role { group: id, role }, now, out);
        }
    }

    fn apply(
        &mut self,
        id: GroupId,
        committed: Vec<Entry>,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), HostError> {
        let last = committed.last().map_or(0, |e| e.index);
        self.checker.check_apply(id, last)?;
        self.saw_commit(id, now);
        self.reached(id, last, Boundary::Handed, now);
        self.apply_some(id, committed, now, out)
    }

    /// Applies `entries`, up to the first that needs something, or that tells that the machine is wrong. The others come
    /// again once it can go on.
    fn apply_some(
        &mut self,
        id: GroupId,
        entries: Vec<Entry>,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), HostError> {
        let group = self.groups.get_mut(&id).expect("its entries were just taken");
        assert!(
            !group.is_paused() && !group.is_quarantined(),
            "consensus hands nothing out for a machine that cannot go on"
        );
        let mut given = group.take_given();
        let first = group.applied.index;
        let mut needed = None;
        let mut is_conf_changed = false;
        let mut log_bytes = 0;
        let (mut is_marked, mut is_wrong) = (false, false);
        let mut book = Arc::clone(&group.book);
        for entry in entries {
            let index = entry.index;
            assert_eq!(
                index,
                group.applied.index + 1,
                "entries are applied one after the other"
            );
            match entry.kind {
                // A witness has nothing that a command could change.
                EntryKind::Normal if group.machine.is_none() => {}
                EntryKind::Normal => {
                    let meta = EntryMeta {
                        index,
                        term: entry.term,
                        time: entry.time,
                        version: book.cluster_version(),
                    };
                    let machine = group.machine.as_mut().expect("it was just asked");
                    let effects = &mut group.effects;
                    let applied = match given.take() {
                        Some(given) => machine.apply_given(meta, &entry.data, given, effects),
                        None => {
                            if let Some(needs) = machine.needs(&entry.data) {
                                needed = Some((index, needs));
                                break;
                            }
                            machine.apply(meta, &entry.data, effects)
                        }
                    };
                    if let Err(source) = applied {
                        let error = source.clone();
                        self.serve(Event::Stopped { group: id, error }, now, out);
                        return Err(HostError::Apply { group: id, source });
                    }
                    group.count_command();
                }
                EntryKind::ConfChange => {
                    let unreadable = HostError::Entry { group: id, index };
                    let Ok(change) = ConfChange::decode(&entry.data) else {
                        return Err(unreadable);
                    };
                    // A change that cannot be applied is refused alike by every replica. Where there is a witness, it could not know what a machine would refuse.
                    let has_witness = !group.raft.conf().witnesses.is_empty();
                    let takes = has_witness || group.machine.as_ref().is_none_or(StateMachine::takes_members);
                    let applied = takes.then(|| group.raft.apply_conf_change(&change));
                    if let Some(Ok(conf)) = applied {
                        let brought = match change.context.is_empty() {
                            true => Book::default(),
                            false => Book::decode(change.context).map_err(|_| unreadable)?,
                        };
                        Arc::make_mut(&mut book).apply(brought, &conf);
                        group.sending.retain(|peer, _| members::is_in(&conf, *peer));
                        if let Some(machine) = &mut group.machine {
                            machine.members_changed(&members_of(&conf, &book));
                        }
                        is_conf_changed = true;
                        self.counters.conf_changes += 1;
                        self.counters.joint_entered += u64::from(conf.is_joint());
                        let group = id;
                        out.push(HostAction::Note(HostNote::MembersChanged { group, index, conf }));
                    }
                }
                EntryKind::Noop => {}
                EntryKind::Host => match HostCommand::decode(entry.data.clone()) {
                    Ok(HostCommand::ClusterVersion { version, .. }) => {
                        let build = self.config.build_version;
                        if !is_new_enough(build, version) {
                            return Err(HostError::OldBuild {
                                group: id,
                                version,
                                build,
                            });
                        }
                        Arc::make_mut(&mut book).raise_cluster_version(version);
                        // Whatever is born of this group from here on begins with it.
                        if let Some(machine) = &mut group.machine {
                            machine.members_changed(&members_of(group.raft.conf(), &book));
                        }
                        is_conf_changed = true;
                    }
                    Ok(HostCommand::AllowReplace { node, valid_ms, .. }) => {
                        let until = entry.time + Duration::from_millis(valid_ms);
                        Arc::make_mut(&mut book).allow_replace(node, entry.time, until);
                        is_conf_changed = true;
                    }
                    Ok(HostCommand::HashMark) => {
                        group.note_hash(index);
                        is_marked = true;
                    }
                    Ok(HostCommand::HashVerdict { index, hash }) => {
                        self.counters.hash_verdicts += 1;
                        is_wrong = group.judge(index, hash);
                    }
                    Err(_) => return Err(HostError::Entry { group: id, index }),
                },
            }
            group.applied = Applied {
                index,
                term: entry.term,
                time: entry.time,
            };
            log_bytes += entry.size() as u64;
            if is_wrong {
                break;
            }
        }
        let last = group.applied.index;
        self.counters.entries_applied += last - first;
        if last != first {
            group.raft.on_applied(last);
        }
        if is_wrong {
            group.raft.hold_apply(true);
        }
        if let Some((index, needs)) = needed {
            self.pause(id, index, needs);
        }
        if last == first {
            return Ok(());
        }
        self.reached(id, last, Boundary::Applied, now);
        self.log_grew(id, log_bytes, now);
        if is_conf_changed {
            let book = self.groups.share(Arc::unwrap_or_clone(book));
            let group = self.groups.get_mut(&id).expect("its entries were just taken");
            (group.book, group.witness.followed) = (book, last);
            self.misfits.insert(id);
            self.remember_commit(id, last, now)?;
        }
        if is_wrong {
            self.enter_quarantine(id, now, out);
            return Ok(());
        }
        if is_marked {
            self.hash_noted(id, now, out);
        }
        let group = self.groups.get_mut(&id).expect("its entries were just taken");
        if !group.effects.is_empty() {
            let mut effects = std::mem::take(&mut group.effects);
            let event = Event::Applied {
                group: id,
                effects: &mut effects,
            };
            self.serve(event, now, out);
            effects.clear();
            self.groups.get_mut(&id).expect("no service removes a group").effects = effects;
        }
        self.update_role(id, now, out);
        self.mark_if_due(id, now);
        if self.groups[&id].log_bytes >= self.config.snapshot_after_bytes {
            self.begin_snapshot(id, now);
        }
        Ok(())
    }

    /// Consensus writes the commit index only beside other things. A membership, though, must not fall back at a restart:
    /// with the joint one in force again, a quorum of it may be gone for good.
    fn remember_commit(&mut self, id: GroupId, commit: u64, now: Mono) -> Result<(), HostError> {
        let status = self.groups[&id].raft.status();
        let state = HardState {
            term: status.term,
            vote: status.vote,
            commit,
        };
        self.stage(id, vec![Record::HardState { group: id, state }], Then::Nothing, now)
    }

    /// Whether everything that this host knows is on disk.
    pub fn is_written(&self) -> bool {
        self.staged.is_empty() && self.unstaged.is_empty()
    }

    /// Serves the reads that this replica has caught up with.
    pub(crate) fn answer_reads(&mut self, id: GroupId, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        loop {
            let Some(group) = self.groups.get_mut(&id) else { return };
            match group.reads_confirmed.first_entry() {
                Some(first) if first.key().0 <= group.applied.index => {
                    let token = first.remove().token;
                    self.counters.reads_answered += 1;
                    self.serve(Event::ReadReady { group: id, token }, now, out);
                }
                _ => return,
            }
        }
    }
}

/// The log has taken a group's batch.
fn logged<M: StateMachine>(
    groups: &mut Groups<M>,
    stages: &mut Stages,
    group: GroupId,
    then: &Then,
    lsn: Lsn,
    now: Mono,
) {
    if let Then::Persisted { change, .. } = then
        && let Some(last) = change.last
        && let Some(line) = groups.line(&group)
    {
        stages.reached(line, last, Boundary::Logged(lsn), now);
    }
}

pub(crate) fn wal_entry(entry: &Entry) -> WalEntry {
    WalEntry {
        term: entry.term,
        index: entry.index,
        kind: kind_to_u8(entry.kind),
        time: entry.time,
        data: Bytes::clone(&entry.data),
    }
}

/// Why proposals were dropped is counted, not noted one by one: there may be very many.
impl crate::HostCounters {
    pub(crate) fn drop_proposal(&mut self, reason: DropReason) {
        match reason {
            DropReason::NoLeader => self.dropped_no_leader += 1,
            DropReason::NotLeader => self.dropped_not_leader += 1,
            DropReason::TooLong => self.dropped_too_long += 1,
            DropReason::Full => self.dropped_full += 1,
            DropReason::DiskFull => self.dropped_disk_full += 1,
            DropReason::UnknownGroup => self.dropped_unknown_group += 1,
            DropReason::TermChanged => self.dropped_term_changed += 1,
            DropReason::Unreadable(_) => self.dropped_unreadable += 1,
        }
    }
}
