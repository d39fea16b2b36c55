//! A log on a disk in memory, and an independent model of what it must hold.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use settle_base::{GroupId, GroupTime, Index, Mono, PeerId, Prng};
use settle_storage::{Disk, DiskRead, FileName, MemDisk};
use settle_wal::{
    Damage, HardState, LogIdentity, Lsn, Record, RecoveredGroup, Snapshot, Wal, WalEntry, WalError, WalOptions,
    WalProgress,
};

pub const IDENTITY: LogIdentity = LogIdentity {
    cluster: 0x1111_2222_3333_4444_5555_6666_7777_8888,
    incarnation: 0x9999_aaaa_bbbb_cccc,
};

pub fn small() -> WalOptions {
    WalOptions {
        segment_bytes: 4096,
        max_batch_bytes: 1 << 20,
        max_in_flight: 2,
        spares_max: 3,
        spare_step_bytes: 1024,
        evidence_files_max: 2,
    }
}

pub fn open(disk: &MemDisk) -> Result<(Wal, Vec<RecoveredGroup>), WalError> {
    Wal::open(&mut disk.clone(), small(), IDENTITY, &[])
}

pub fn segments(disk: &MemDisk) -> Vec<(FileName, u64)> {
    let files = disk.clone().list().expect("listable");
    files
        .into_iter()
        .filter(|(name, _)| name.as_str().ends_with(".seg"))
        .collect()
}

/// Hands the log every completion there is.
pub fn poll(wal: &mut Wal, disk: &MemDisk) -> Result<(), WalError> {
    let mut disk = disk.clone();
    while let Some(completion) = disk.poll() {
        let progress = wal.complete(&completion, &mut disk)?;
        assert_ne!(progress, WalProgress::NotMine);
    }
    Ok(())
}

/// Appends, and waits until it is durable.
pub fn store(wal: &mut Wal, disk: &MemDisk, records: &[Record]) -> Lsn {
    let lsn = wal.append(records).expect("there is room");
    while wal.durable() < lsn {
        wal.flush(&mut disk.clone());
        if let Some(due) = disk.next_due() {
            disk.advance(due);
        }
        poll(wal, disk).expect("the disk is well");
    }
    lsn
}

pub fn create(group: u64) -> Record {
    Record::Create {
        group: GroupId(group),
        data: Bytes::from(format!("group {group}")),
    }
}

pub fn entries(group: u64, first: Index, count: u64, term: u64, fill: &[u8]) -> Record {
    let entry = |index| WalEntry {
        term,
        index,
        kind: (index % 3) as u8,
        time: GroupTime(index * 10),
        data: Bytes::copy_from_slice(fill),
    };
    Record::Entries {
        group: GroupId(group),
        entries: (first..first + count).map(entry).collect(),
    }
}

pub fn hard_state(group: u64, term: u64, vote: u64, commit: u64) -> Record {
    let vote = PeerId(vote);
    Record::HardState {
        group: GroupId(group),
        state: HardState { term, vote, commit },
    }
}

pub fn snapshot(group: u64, index: Index, term: u64, reset: bool) -> Record {
    let snapshot = Snapshot {
        index,
        term,
        time: GroupTime(index * 10),
        conf: Bytes::from(format!("members at {index}")),
        file: index
            .is_multiple_of(2)
            .then(|| FileName::new(&format!("snapshot-{index}")).expect("a valid name")),
    };
    Record::Snapshot {
        group: GroupId(group),
        snapshot,
        reset,
    }
}

pub fn is_damaged(group: &RecoveredGroup) -> bool {
    group.damage != Damage::None
}

/// What one group must be after its records.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ModelGroup {
    pub create: Bytes,
    pub hard_state: Option<HardState>,
    pub snapshot: Option<Snapshot>,
    pub entries: BTreeMap<Index, WalEntry>,
    pub destroyed: bool,
}

/// What the log must hold after some appends.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Model {
    pub groups: BTreeMap<GroupId, ModelGroup>,
    /// Found damaged and not healed.
    pub damaged: BTreeSet<GroupId>,
}

impl Model {
    pub fn apply(&mut self, records: &[Record]) {
        for record in records {
            let group = self.groups.entry(record.group()).or_default();
            match record.clone() {
                Record::Entries { entries, .. } => {
                    group.entries.split_off(&entries[0].index);
                    group.entries.extend(entries.into_iter().map(|e| (e.index, e)));
                }
                Record::HardState { state, .. } => group.hard_state = Some(state),
                Record::Snapshot { snapshot, reset, .. } => {
                    group.entries.retain(|index, _| *index > snapshot.index && !reset);
                    group.snapshot = Some(snapshot);
                }
                Record::Create { data, .. } => {
                    *group = ModelGroup::default();
                    group.create = data;
                }
                Record::Destroy { .. } => {
                    *group = ModelGroup::default();
                    group.destroyed = true;
                }
                Record::Healed { group } => {
                    self.damaged.remove(&group);
                }
                Record::Resume { .. } => {}
            }
        }
    }

    pub fn of(recovered: &[RecoveredGroup]) -> Model {
        let mut model = Model::default();
        for group in recovered {
            let entries: BTreeMap<_, _> = group.entries.iter().map(|e| (e.index, e.clone())).collect();
            assert_eq!(entries.len(), group.entries.len(), "an index came back twice");
            model.groups.insert(
                group.group,
                ModelGroup {
                    create: group.create.clone(),
                    hard_state: group.hard_state,
                    snapshot: group.snapshot.clone(),
                    entries,
                    destroyed: group.destroyed,
                },
            );
            if is_damaged(group) {
                model.damaged.insert(group.group);
            }
        }
        model
    }

    /// Some records that a host could append now, of one to three groups.
    pub fn draw(&self, prng: &mut Prng, serial: &mut u64) -> Vec<Record> {
        let mut ahead = self.clone();
        let mut records = Vec::new();
        for _ in 0..prng.between(1, 4) {
            let id = prng.between(1, 5);
            let record = ahead.draw_one(prng, id, serial);
            ahead.apply(std::slice::from_ref(&record));
            records.push(record);
        }
        records
    }

    fn draw_one(&self, prng: &mut Prng, id: u64, serial: &mut u64) -> Record {
        *serial += 1;
        let Some(group) = self.groups.get(&GroupId(id)).filter(|g| !g.destroyed) else {
            return create(id);
        };
        let start = group.snapshot.as_ref().map_or(0, |s| s.index);
        let last = group.entries.keys().next_back().copied().unwrap_or(start);
        let what = prng.below(100);
        match what {
            0..5 if !group.entries.is_empty() => Record::Entries {
                group: GroupId(id),
                entries: group.entries.values().cloned().collect(),
            },
            0..60 => {
                let overwritten = if prng.percent(15) {
                    prng.below(last - start + 1)
                } else {
                    0
                };
                // Every entry ever written is different, so old bytes cannot pass for new ones.
                let mut fill = serial.to_le_bytes().to_vec();
                let len = if prng.percent(10) { 3_000 } else { prng.below(200) };
                fill.resize(8 + len as usize, *serial as u8);
                entries(id, last + 1 - overwritten, prng.between(1, 4), *serial, &fill)
            }
            60..75 => hard_state(id, *serial, prng.below(4), last),
            75..92 if last > start => snapshot(id, prng.between(start + 1, last + 1), *serial, false),
            92..94 => snapshot(id, last + prng.between(1, 50), *serial, prng.percent(50)),
            94..95 => Record::Destroy { group: GroupId(id) },
            95..98 => Record::Healed { group: GroupId(id) },
            _ => hard_state(id, *serial, 0, start),
        }
    }
}

/// Lets a random time pass on the disk, and the log see what completed.
pub fn pass_time(wal: &mut Wal, disk: &MemDisk, now: &mut Mono, prng: &mut Prng) -> Result<(), WalError> {
    now.0 += prng.below(1_500);
    disk.advance(*now);
    poll(wal, disk)
}
