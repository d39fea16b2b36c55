//! What the log knows of each group: enough for a checkpoint and to say which segments are still needed.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use settle_base::{GroupId, Index};
use settle_storage::FileName;

use crate::record::{ENTRY_PREFIX_LEN, HardState, Record, Snapshot, WalEntry};

/// Whether a recovered group may have lost something it acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Damage {
    None,
    /// The log's last batch was damaged and may have held acknowledged records of this group: it starts recovering, and
    /// no quorum counts its votes and acks until [`Record::Healed`].
    LastBatch {
        file: FileName,
        offset: u64,
    },
    /// Something acknowledged was damaged for certain. The group is what could be proven: its state before the damage
    /// with what later records say that holds in any case. It starts recovering as well, and only peers can make it good.
    Middle {
        file: FileName,
        offset: u64,
    },
    /// The machine's snapshot file did not read, so the group was emptied by [`Wal::forget`](crate::Wal::forget).
    SnapshotFile,
}

/// A group as the log has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveredGroup {
    pub group: GroupId,
    /// The bytes of its `Create`.
    pub create: Bytes,
    pub hard_state: Option<HardState>,
    pub snapshot: Option<Snapshot>,
    /// All entries after the snapshot, consecutive.
    pub entries: Vec<WalEntry>,
    /// Nothing but the fact is left of it.
    pub destroyed: bool,
    pub damage: Damage,
}

impl RecoveredGroup {
    pub(crate) fn new(group: GroupId) -> RecoveredGroup {
        RecoveredGroup {
            group,
            create: Bytes::new(),
            hard_state: None,
            snapshot: None,
            entries: Vec::new(),
            destroyed: false,
            damage: Damage::None,
        }
    }

    pub(crate) fn apply(&mut self, record: Record) {
        match record {
            Record::Entries { entries, .. } => {
                let first = entries[0].index;
                let mut stale = Vec::new();
                match self.entries.first().map(|e| e.index) {
                    // A start past the end happens while the oldest segments are gone: what is before the gap is dead,
                    // and a snapshot that covers the gap follows. `is_contiguous` holds it to that.
                    Some(start) if first > start && first - start <= self.entries.len() as u64 => {
                        let keep = (first - start) as usize;
                        if settle_base::mutant!("wrong_suffix_truncation") && keep + entries.len() < self.entries.len()
                        {
                            stale = self.entries.split_off(keep + entries.len());
                        }
                        self.entries.truncate(keep);
                    }
                    _ => self.entries.clear(),
                }
                self.entries.extend(entries);
                self.entries.extend(stale);
            }
            Record::HardState { state, .. } => self.hard_state = Some(state),
            Record::Snapshot { snapshot, reset, .. } => {
                if reset {
                    self.entries.clear();
                } else {
                    let dead = self.entries.partition_point(|e| e.index <= snapshot.index);
                    self.entries.drain(..dead);
                }
                self.snapshot = Some(snapshot);
            }
            Record::Create { data, .. } => {
                // A checkpoint repeats the creation of a group that goes on.
                if self.destroyed {
                    *self = RecoveredGroup::new(self.group);
                }
                self.create = data;
            }
            Record::Destroy { .. } => {
                *self = RecoveredGroup::new(self.group);
                self.destroyed = true;
            }
            Record::Healed { .. } | Record::Resume { .. } => {}
        }
    }

    /// Whether the entries begin right after the snapshot.
    pub(crate) fn is_contiguous(&self) -> bool {
        let after = self.snapshot.as_ref().map_or(0, |s| s.index) + 1;
        self.entries.first().is_none_or(|e| e.index == after)
    }
}

/// The segment of records that are staged and have none yet.
const STAGED: u64 = u64::MAX;

/// The live state of every group, without entry data. A node has thousands of groups in which nothing happens, so each
/// byte of it counts.
#[derive(Clone, Default, Debug)]
pub(crate) struct GroupIndex {
    /// Boxed: the leaves of a tree that grows at its end are half empty.
    groups: BTreeMap<GroupId, Box<GroupState>>,
    confs: Confs,
}

#[derive(Clone, Default, Debug)]
struct GroupState {
    create: Bytes,
    hard_state: Option<HardState>,
    snapshot: Option<Box<Snapshot>>,
    destroyed: bool,
    /// Where live entries are; segments rise, indices are consecutive from run to run.
    runs: Vec<Run>,
}

/// Groups with the same members share one copy of that, which is a copy of its own: what a recovery read is a slice of
/// a whole segment.
#[derive(Clone, Default, Debug)]
struct Confs {
    /// Those met last, oldest first.
    known: VecDeque<Bytes>,
}

const CONFS_KNOWN: usize = 16;

impl Confs {
    fn boxed(&mut self, snapshot: &Snapshot) -> Box<Snapshot> {
        Box::new(Snapshot {
            conf: self.share(&snapshot.conf),
            ..snapshot.clone()
        })
    }

    fn share(&mut self, conf: &Bytes) -> Bytes {
        if let Some(known) = self.known.iter().find(|known| *known == conf) {
            return known.clone();
        }
        if self.known.len() == CONFS_KNOWN {
            self.known.pop_front();
        }
        let conf = Bytes::copy_from_slice(conf);
        self.known.push_back(conf.clone());
        conf
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Run {
    segment: u64,
    first: Index,
    last: Index,
    /// Of these entries in the log. Of a run that was cut, in proportion.
    bytes: u64,
}

impl Run {
    fn cut(&mut self, first: Index, last: Index) {
        let all = self.last - self.first + 1;
        (self.first, self.last) = (self.first.max(first), self.last.min(last));
        let left = (self.last + 1).saturating_sub(self.first);
        self.bytes = (u128::from(self.bytes) * u128::from(left) / u128::from(all)) as u64;
    }
}

/// What of one group lives in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LiveEntries {
    pub group: GroupId,
    pub first: Index,
    pub last: Index,
    pub bytes: u64,
}

impl GroupIndex {
    pub(crate) fn is_live(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|g| !g.destroyed)
    }

    pub(crate) fn knows(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    /// Takes a record that is staged; [`GroupIndex::place`] says later where it went.
    pub(crate) fn stage(&mut self, record: &Record) {
        self.apply(record, STAGED);
    }

    pub(crate) fn apply(&mut self, record: &Record, segment: u64) {
        let state = self.groups.entry(record.group()).or_default();
        match record {
            Record::Entries { entries, .. } => {
                let (first, last) = (entries[0].index, entries[entries.len() - 1].index);
                while let Some(run) = state.runs.last_mut() {
                    if run.first < first {
                        if run.last >= first {
                            run.cut(0, first - 1);
                        }
                        break;
                    }
                    state.runs.pop();
                }
                let bytes = entries.iter().map(|e| (ENTRY_PREFIX_LEN + e.data.len()) as u64).sum();
                match state.runs.last_mut() {
                    Some(run) if run.segment == segment && run.last + 1 == first => {
                        run.last = last;
                        run.bytes += bytes;
                    }
                    _ => {
                        // Most groups have one.
                        state.runs.reserve_exact(usize::from(state.runs.is_empty()));
                        state.runs.push(Run {
                            segment,
                            first,
                            last,
                            bytes,
                        });
                    }
                }
            }
            Record::HardState { state: hard_state, .. } => state.hard_state = Some(*hard_state),
            Record::Snapshot { snapshot, reset, .. } => {
                let index = snapshot.index;
                state.runs.retain(|run| !*reset && run.last > index);
                if let Some(run) = state.runs.first_mut().filter(|run| run.first <= index) {
                    run.cut(index + 1, Index::MAX);
                }
                state.snapshot = Some(self.confs.boxed(snapshot));
            }
            Record::Create { data, .. } => {
                if state.destroyed {
                    **state = GroupState::default();
                }
                state.create = data.clone();
            }
            Record::Destroy { .. } => {
                **state = GroupState {
                    destroyed: true,
                    ..GroupState::default()
                }
            }
            Record::Healed { .. } | Record::Resume { .. } => {}
        }
    }

    /// Where the live entries of `group` are.
    pub(crate) fn runs(&self, group: GroupId) -> Vec<Run> {
        self.groups.get(&group).map(|g| g.runs.clone()).unwrap_or_default()
    }

    /// Puts back where the live entries of `group` are: those of `runs` in `first..=last`.
    pub(crate) fn set_runs(&mut self, group: GroupId, mut runs: Vec<Run>, first: Index, last: Index) {
        runs.retain_mut(|run| {
            let is_there = run.last >= first && run.first <= last;
            if is_there {
                run.cut(first, last);
            }
            is_there
        });
        self.groups.entry(group).or_default().runs = runs;
    }

    /// What is said of `group` beside its entries.
    pub(crate) fn set_state(&mut self, group: GroupId, hard_state: Option<HardState>, snapshot: Option<&Snapshot>) {
        let state = self.groups.entry(group).or_default();
        state.hard_state = hard_state;
        state.snapshot = snapshot.map(|snapshot| self.confs.boxed(snapshot));
    }

    /// The staged records of `group` are in `segment` now.
    pub(crate) fn place(&mut self, group: GroupId, segment: u64) {
        let Some(state) = self.groups.get_mut(&group) else {
            return;
        };
        let staged = state.runs.iter_mut().rev().take_while(|run| run.segment == STAGED);
        staged.for_each(|run| run.segment = segment);
    }

    /// Each live entry is in this segment or a later one; `None` without live entries.
    pub(crate) fn oldest_segment(&self) -> Option<u64> {
        let fronts = self.groups.values().filter_map(|g| g.runs.first());
        fronts.map(|run| run.segment).min()
    }

    /// Of all groups, in bytes.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.groups.values().flat_map(|g| &g.runs).map(|run| run.bytes).sum()
    }

    /// The groups with live entries in `segment` or before it.
    pub(crate) fn living_up_to(&self, segment: u64) -> impl Iterator<Item = LiveEntries> {
        self.groups.iter().filter_map(move |(&group, state)| {
            let front = state.runs.first().filter(|run| run.segment <= segment)?;
            let last = state.runs.last()?.last;
            Some(LiveEntries {
                group,
                first: front.first,
                last,
                bytes: state.runs.iter().map(|run| run.bytes).sum(),
            })
        })
    }

    /// Calls `emit` with the records that rebuild all of this except entries.
    pub(crate) fn checkpoint(&self, mut emit: impl FnMut(Record)) {
        for (&group, state) in &self.groups {
            if state.destroyed {
                emit(Record::Destroy { group });
                continue;
            }
            let data = state.create.clone();
            emit(Record::Create { group, data });
            if let Some(hard_state) = state.hard_state {
                emit(Record::HardState {
                    group,
                    state: hard_state,
                });
            }
            if let Some(snapshot) = state.snapshot.as_deref().cloned() {
                let reset = false;
                emit(Record::Snapshot { group, snapshot, reset });
            }
        }
    }
}
