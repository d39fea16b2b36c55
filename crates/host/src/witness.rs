//! A replica of a node that is a witness: it votes and acknowledges with its log, and has no machine.
//!
//! What is committed is followed as far as it concerns the host (membership and what the host itself put into the log),
//! so a witness knows whom it is to ask for votes and whom to bring up to date; commands are passed over. Its service sees
//! no such group, nor a leader that is ready for it.
//!
//! In the place of snapshots the log is cut back to what every full voter holds, with a record of the membership alone. A
//! cut never goes behind a change of what the host follows: so what is in force is what the record has to say. A full
//! voter that is away for long would make the log grow; beyond
//! [`HostConfig::witness_log_bytes_max`](crate::HostConfig::witness_log_bytes_max) what this replica has applied is
//! dropped all the same, since a majority of the voters holds it and a full one is among them.

use settle_base::{GroupId, Index, Mono};
use settle_machine::{Service, StateMachine};
use settle_raft::{Entry, SnapshotMeta};
use settle_storage::{Disk, DiskRead};
use settle_wal::Record;

use crate::{
    Host, HostAction, HostError, PeerMessage, group::Group, host::send, members::encode_conf, order::Then,
    snapshots::Received, transfers::Announced,
};

/// So many bytes of a group's log are not worth a cut.
const CUT_BYTES_MIN: u64 = 16 << 10;

/// How far a witness's log can go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WitnessLog {
    /// The last entry that changed what the host follows.
    pub(crate) followed: Index,
    /// The log was told of a cut here.
    cut: Index,
}

impl From<Index> for WitnessLog {
    fn from(index: Index) -> WitnessLog {
        let (followed, cut) = (index, index);
        WitnessLog { followed, cut }
    }
}

impl<M: StateMachine> Group<M> {
    pub(crate) fn is_witness(&self) -> bool {
        self.machine.is_none()
    }

    /// Up to where a cut would go now, if it is worth one.
    fn cut_due(&self, bytes_max: u64) -> Option<Index> {
        if self.log_bytes < CUT_BYTES_MIN {
            return None;
        }
        let held = self.raft.held_by_full_voters().min(self.applied.index);
        let is_too_long = self.log_bytes > bytes_max;
        let to = if is_too_long { self.applied.index } else { held };
        // Each cut halves the log at least: so they cost little, however far some voter is behind.
        let (gained, left) = (to.checked_sub(self.witness.cut)?, self.applied.index - to);
        (gained > 0 && gained >= left && to >= self.witness.followed).then_some(to)
    }
}

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    /// After anything that may have told how far the full voters are.
    pub(crate) fn tend_witness(&mut self, id: GroupId, now: Mono) -> Result<(), HostError> {
        let group = self.groups.get(&id).filter(|group| group.is_witness());
        match group.and_then(|group| group.cut_due(self.config.witness_log_bytes_max)) {
            Some(to) => self.cut(id, to, now),
            None => Ok(()),
        }
    }

    fn cut(&mut self, id: GroupId, to: Index, now: Mono) -> Result<(), HostError> {
        let group = self.groups.get_mut(&id).expect("it was just asked");
        // What has not come back from the disk yet, or was handed over with a snapshot, is not there any more.
        let (Some(term), Some(time)) = (group.raft.term_at(to), group.raft.time_at(to)) else {
            return Ok(());
        };
        let meta = SnapshotMeta {
            index: to,
            term,
            conf: group.raft.conf().clone(),
            time,
            context: group.book.encode(),
        };
        let bytes: usize = group.raft.entries(group.witness.cut + 1..=to).map(Entry::size).sum();
        group.witness.cut = to;
        let record = Record::Snapshot {
            group: id,
            snapshot: settle_wal::Snapshot {
                index: to,
                term,
                time,
                conf: encode_conf(&meta.conf, &meta.context),
                file: None,
            },
            reset: false,
        };
        self.log_shrank(id, bytes as u64, now);
        self.stage(id, vec![record], Then::Cut { meta }, now)
    }

    /// The log says durably that it begins here.
    pub(crate) fn was_cut(&mut self, id: GroupId, meta: &SnapshotMeta) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.snapshot_index = group.snapshot_index.max(meta.index);
        let dropped = group.raft.compact(meta, 0);
        self.drop_entries(dropped);
        let wal = self.wal.as_mut().expect("a group exists only with a log");
        wal.purge(&mut self.disk);
        self.counters.witness_cuts += 1;
    }

    /// A snapshot for a witness is its announcement alone: it is whole as soon as it is here.
    pub(crate) fn receive_as_witness(
        &mut self,
        id: GroupId,
        announced: Announced,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), HostError> {
        let Announced {
            from,
            stream,
            announcement,
            index,
            book,
        } = announced;
        let group = self.groups.get_mut(&id).expect("it was just asked");
        group.received = Some(Box::new(Received {
            index,
            file: None,
            is_staged: false,
            machine: None,
            book,
        }));
        self.hand_to_consensus(id, Some(from), announcement, now, out)?;
        let (group, next) = (id, 1);
        send(out, from, PeerMessage::SnapshotAck { group, stream, next });
        Ok(())
    }
}
