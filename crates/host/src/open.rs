//! Start-up: everything is read and checked before a word is said to anybody.

use std::collections::BTreeSet;

use settle_base::{GroupId, GroupTime, Index, Mono, PeerId};
use settle_machine::{Service, StateMachine};
use settle_raft::{ConfState, Entry, EntryKind, HardState, Raft, Restored, SnapshotMeta};
use settle_storage::{Disk, DiskErrorKind, DiskRead, FileName, Op};
use settle_wal::{Damage, Lsn, RecoveredGroup, RecoveryReport, Wal, WalEntry, WalError, evidence_name, is_evidence};

use crate::{
    ClusterId, Host, HostCommand, HostConfig, HostNote, Identity, Malformed, OpenError, SnapshotFileError,
    group::Group,
    identity::identity_file,
    join::{log_identity, raft_config},
    members::{Book, decode_conf},
    raft_codec::kind_from_u8,
    snapshot_file::{self, birth_file, group_of, is_snapshot_file, unborn_file},
    versions::is_new_enough,
};

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    /// Opens a data directory, or begins one. Blocks.
    ///
    /// `make_machine` gives an empty machine of a group of a cluster; `fresh_incarnation` is random and used only when the directory is new.
    ///
    /// # Errors
    /// When the directory is not this node's, is damaged, or cannot be read.
    pub fn open(
        config: HostConfig,
        mut disk: D,
        service: S,
        make_machine: impl Fn(GroupId, ClusterId) -> S::Machine + Send + 'static,
        fresh_incarnation: PeerId,
        now: Mono,
    ) -> Result<Host<S, D>, OpenError> {
        let identity = Identity::open(&mut disk, config.node, config.witness, fresh_incarnation)?;
        let mut host = Host::new(config, identity, disk, service, Box::new(make_machine), now);
        let Some(cluster) = host.identity.cluster else {
            // Leftovers of an adoption that did not come to its end: nothing was ever said on their ground.
            remove_files(&mut host.disk, |file| *file != identity_file())?;
            return Ok(host);
        };
        // No log names them, and the log may need their space.
        let is_unfinished = |file: &FileName| is_snapshot_file(file) && file.as_str().ends_with(".tmp");
        remove_files(&mut host.disk, is_unfinished)?;
        let log_identity = log_identity(&host.identity, cluster);
        let present = host.disk.list().map_err(|source| OpenError::Disk { source })?;
        // A group that was created later has a named file from before it spoke.
        let traced: BTreeSet<GroupId> = present.iter().filter_map(|(file, _)| group_of(file)).collect();
        let traced: Vec<GroupId> = traced.into_iter().collect();
        let (wal, groups) = (host.config.wal.clone(), &host.config.groups);
        let opened = Wal::open_with_traces(&mut host.disk, wal, log_identity, groups, &traced);
        let (wal, recovered) = opened.map_err(|source| OpenError::Log { source })?;
        host.first_notes.extend(damage_note(wal.recovery(), &recovered));
        host.wal = Some(wal);
        for group in host.config.groups.clone() {
            if !recovered.iter().any(|r| r.group == group && !r.destroyed) {
                return Err(OpenError::LogMissing { cluster, group });
            }
        }
        for group in recovered {
            if group.destroyed && !settle_base::mutant!("destroyed_group_returns") {
                host.theatre.found_destroyed(group.group);
            } else {
                name_birth(&mut host.disk, &present, &group)?;
                host.restore(cluster, group)?;
            }
        }
        let file_of = |g: &Group<S::Machine>| g.snapshot_file.clone().unwrap_or_else(|| birth_file(g.id, 0));
        let files: BTreeSet<FileName> = host.groups.values().map(file_of).collect();
        let is_left = |file: &FileName| is_snapshot_file(file) && !files.contains(file);
        // What the log no longer names was perhaps replaced by its last batch.
        let durable = host.wal.as_ref().map_or(Lsn::default(), Wal::durable);
        let present = host.disk.list().map_err(|source| OpenError::Disk { source })?;
        let left = present.into_iter().filter(|(file, _)| is_left(file));
        host.obsolete.extend(left.map(|(file, _)| (durable, file)));
        Ok(host)
    }

    fn restore(&mut self, cluster: ClusterId, mut recovered: RecoveredGroup) -> Result<(), OpenError> {
        let group = recovered.group;
        let record = |source| OpenError::Record { group, source };
        let hard_state = recovered.hard_state.map_or(HardState::default(), |h| HardState {
            term: h.term,
            vote: h.vote,
            commit: h.commit,
        });
        let mut machine = self.new_machine(group, cluster);
        let mut meta = SnapshotMeta::default();
        let mut file = None;
        if let Some(snapshot) = recovered.snapshot.take().filter(|snapshot| snapshot.index > 0) {
            let (conf, context) = decode_conf(snapshot.conf).map_err(record)?;
            meta = SnapshotMeta {
                index: snapshot.index,
                term: snapshot.term,
                conf,
                time: snapshot.time,
                context,
            };
            if let (Some(name), Some(into)) = (snapshot.file, &mut machine) {
                match load(&mut self.disk, &name, group, meta.index, into) {
                    Ok(()) => file = Some(name),
                    // Peers have what it held; without any, nothing may pass for whole.
                    Err(OpenError::Snapshot { .. }) if !self.is_alone(&meta.conf) => {
                        self.forget(group, meta.index, name)?;
                        machine = self.new_machine(group, cluster);
                        (meta, recovered.entries) = (SnapshotMeta::default(), Vec::new());
                        recovered.damage = Damage::SnapshotFile;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        let is_lost = match &recovered.damage {
            Damage::None | Damage::LastBatch { .. } => None,
            Damage::Middle { file, offset } => Some((file.clone(), *offset)),
            Damage::SnapshotFile => Some((snapshot_file::file_name(group, 0, ""), 0)),
        };
        if let Some((file, offset)) = is_lost.filter(|_| self.is_alone(&meta.conf)) {
            let (groups, what) = (vec![group], "there is no peer that could have it");
            let source = WalError::Corrupt {
                file,
                offset,
                groups,
                what,
            };
            return Err(OpenError::Log { source });
        }
        let book = if meta.context.is_empty() {
            Book::default()
        } else {
            Book::decode(meta.context.clone()).map_err(record)?
        };
        let build = self.config.build_version;
        let version = book
            .cluster_version()
            .max(raised_to(&recovered.entries, hard_state.commit));
        if !is_new_enough(build, version) {
            return Err(OpenError::OldBuild { group, version, build });
        }
        let entries = recovered.entries.into_iter().map(entry).collect::<Option<Vec<_>>>();
        let entries = entries.ok_or_else(|| {
            record(Malformed {
                what: "an entry's kind",
            })
        })?;
        let last = entries.last().map_or(meta.index, |e| e.index);
        let is_damaged = !matches!(recovered.damage, Damage::None);
        let recovering = is_damaged.then(|| self.prng.next_u64());
        let restored = Restored {
            hard_state,
            snapshot: meta.clone(),
            entries,
            recovering,
        };
        let raft = Raft::restore(raft_config(&self.config, &self.identity, group), restored)
            .map_err(|source| OpenError::Restore { group, source })?;
        if is_damaged {
            self.first_notes.push(HostNote::Recovering { group });
        }
        self.checker.restored(group, hard_state, last);
        let book = self.groups.share(book);
        self.groups.insert(Group::new(raft, group, machine, book, &meta, file));
        Ok(())
    }

    /// None at a witness.
    pub(crate) fn new_machine(&self, group: GroupId, cluster: ClusterId) -> Option<S::Machine> {
        (!self.identity.witness).then(|| (self.make_machine)(group, cluster))
    }

    /// Whether this replica is its group's only one, as far as it knows.
    fn is_alone(&self, conf: &ConfState) -> bool {
        match conf.peers()[..] {
            [] => self.identity.founders.len() <= 1,
            [peer] => peer == self.identity.incarnation,
            _ => false,
        }
    }

    /// A snapshot that does not read: the group begins again with nothing, once it is sure to be remembered why.
    fn forget(&mut self, group: GroupId, index: Index, file: FileName) -> Result<(), OpenError> {
        let wal = self.wal.as_mut().expect("it was opened just now");
        wal.forget(&mut self.disk, group)
            .map_err(|source| OpenError::Log { source })?;
        let failed = |source| OpenError::Disk { source };
        let present = self.disk.list().map_err(failed)?;
        let copies = present.iter().filter(|(name, _)| is_evidence(name)).count();
        let is_there = present.iter().any(|(name, _)| *name == file);
        if is_there && copies < self.config.wal.evidence_files_max {
            let (from, to) = (file.clone(), evidence_name(&file));
            self.disk.run(Op::Rename { from, to }).map_err(failed)?;
        }
        self.first_notes.push(HostNote::SnapshotDamaged { group, index, file });
        Ok(())
    }

    /// Groups whose log or snapshot was damaged: they recover before they vote again. Also those that damage perhaps took
    /// whole, which will recover once they are created again.
    pub fn recovering_groups(&self) -> Vec<GroupId> {
        let recovering = self.groups.values().filter(|g| g.raft.is_recovering()).map(|g| g.id);
        recovering.chain(self.wal.iter().flat_map(Wal::perhaps_held)).collect()
    }
}

fn damage_note(report: &RecoveryReport, recovered: &[RecoveredGroup]) -> Option<HostNote> {
    let is_hit = |r: &&RecoveredGroup| matches!(r.damage, Damage::Middle { .. });
    let groups = recovered.iter().filter(is_hit).map(|r| r.group).collect();
    (!report.damaged.is_empty()).then(|| HostNote::LogDamaged {
        places: report.damaged.clone(),
        groups,
        copies: report.evidence.clone(),
    })
}

fn load<M: StateMachine>(
    disk: &mut impl DiskRead,
    name: &FileName,
    group: GroupId,
    index: u64,
    machine: &mut M,
) -> Result<(), OpenError> {
    let broken = |source| match source {
        // A disk that fails says nothing of the file.
        SnapshotFileError::Disk { source } if source.kind == DiskErrorKind::Io => OpenError::Disk { source },
        source => OpenError::Snapshot {
            group,
            index,
            file: name.clone(),
            source,
        },
    };
    let (_, mut chunks) = snapshot_file::read(disk, name, group, index).map_err(broken)?;
    let loaded = machine.load(&mut chunks);
    // A damaged file is the cause even when the machine was the first to stumble.
    chunks.verify_end().map_err(broken)?;
    loaded.map_err(|source| OpenError::Load { group, index, source })
}

/// Ends a creation that had come as far as the log.
fn name_birth(
    disk: &mut impl DiskRead,
    present: &[(FileName, u64)],
    recovered: &RecoveredGroup,
) -> Result<(), OpenError> {
    let group = recovered.group;
    let snapshot = recovered.snapshot.as_ref().filter(|snapshot| snapshot.index > 0);
    let from = unborn_file(group);
    let to = birth_file(group, snapshot.map_or(0, |snapshot| snapshot.index));
    let is_its_own = snapshot.is_none_or(|snapshot| snapshot.file.as_ref() == Some(&to));
    let is_there = |name: &FileName| present.binary_search_by(|(file, _)| file.cmp(name)).is_ok();
    // With both there, an earlier life of the group left the one with the name: it is the same beginning.
    if is_its_own && is_there(&from) && !is_there(&to) {
        disk.run(Op::Rename { from, to })
            .map_err(|source| OpenError::Disk { source })?;
    }
    Ok(())
}

fn remove_files(disk: &mut impl DiskRead, is_leftover: impl Fn(&FileName) -> bool) -> Result<(), OpenError> {
    let failed = |source| OpenError::Disk { source };
    for (file, _) in disk.list().map_err(failed)? {
        if is_leftover(&file) {
            disk.run(Op::Remove { file }).map_err(failed)?;
        }
    }
    Ok(())
}

/// The cluster version that the committed ones of `entries` raise to.
fn raised_to(entries: &[WalEntry], commit: Index) -> u32 {
    let committed = entries.iter().take_while(|entry| entry.index <= commit);
    let host = committed.filter(|entry| kind_from_u8(entry.kind) == Some(EntryKind::Host));
    let raised = host.filter_map(|entry| match HostCommand::decode(entry.data.clone()) {
        Ok(HostCommand::ClusterVersion { version, .. }) => Some(version),
        _ => None,
    });
    raised.max().unwrap_or_default()
}

fn entry(entry: WalEntry) -> Option<Entry> {
    Some(Entry {
        term: entry.term,
        index: entry.index,
        kind: kind_from_u8(entry.kind)?,
        time: GroupTime(entry.time.0),
        data: entry.data,
    })
}
