//! The hostile operator of ranges, who splits and merges without end, and what must hold of ranges whatever is in them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use settle_base::{GroupId, Index, Mono, Prng};
use settle_host::Host;
use settle_machine::{
    Service,
    ranges::{Ranged, State, Surgeon, SurgeonCounters},
};
use settle_storage::MemDisk;

use crate::{
    Coverage,
    invariants::{Broken, Checked},
    workload::Io,
};

/// The operator's timer; clients have lower ones.
pub(crate) const OPERATOR: u64 = 1 << 48;
/// Live ranges at most: the operator merges more than he splits when there are many.
const RANGES_MAX: usize = 5;

/// What the operator wants.
pub(crate) enum Act {
    Split { at: u32, child: GroupId },
    Merge { key: u32 },
}

pub(crate) struct Watch {
    operates_us: u64,
    /// The newest epoch that answered for each key.
    epochs: BTreeMap<u32, u64>,
    /// What that was when each client's question began.
    epoch_floors: BTreeMap<u32, u64>,
    is_stopped: bool,
    asked_splits: u64,
    fates: RefCell<Fates>,
    counted: SurgeonCounters,
    /// Processes that ended while a machine waited, a source was silent, a group was being created.
    ended_while: (u64, u64, u64),
}

/// What became of each merge, by source and the entry that prepared it, as any replica has shown it.
#[derive(Default)]
struct Fates {
    prepared: BTreeSet<(GroupId, Index)>,
    absorbed: BTreeSet<(GroupId, Index)>,
    rolled_back: BTreeSet<(GroupId, Index)>,
    ranges: usize,
}

impl Watch {
    pub(crate) fn new(prng: &mut Prng) -> Watch {
        Watch {
            operates_us: [300_000, 800_000, 2_000_000][prng.below(3) as usize],
            epochs: BTreeMap::new(),
            epoch_floors: BTreeMap::new(),
            is_stopped: false,
            asked_splits: 0,
            fates: RefCell::default(),
            counted: SurgeonCounters::default(),
            ended_while: (0, 0, 0),
        }
    }

    pub(crate) fn stop(&mut self) {
        self.is_stopped = true;
    }

    /// Tells every node, since only the leader's does it.
    pub(crate) fn operate<R: Clone>(&mut self, keys: u32, io: &mut Io<R>, request: impl FnOnce(Act) -> R) {
        if self.is_stopped {
            return;
        }
        let key = io.prng.below(u64::from(keys)) as u32;
        let splits = io.prng.below(RANGES_MAX as u64 + 1) as usize >= self.fates.borrow().ranges;
        let act = if splits {
            self.asked_splits += 1;
            let child = GroupId(100 + self.asked_splits);
            Act::Split { at: key.max(1), child }
        } else {
            Act::Merge { key }
        };
        let request = request(act);
        for node in 0..io.is_up.len() {
            if io.is_up[node] {
                io.send(node, request.clone());
            }
        }
        let pause = io.prng.between(self.operates_us / 4, self.operates_us * 2);
        io.wake_in(pause, OPERATOR);
    }

    pub(crate) fn begins(&mut self, client: u32, key: u32) {
        let epoch = self.epochs.get(&key).copied().unwrap_or(0);
        self.epoch_floors.insert(client, epoch);
    }

    pub(crate) fn answered_by(&mut self, client: u32, key: u32, epoch: u64) -> Checked {
        let floor = self.epoch_floors.get(&client).copied().unwrap_or(0);
        if epoch < floor {
            let what = format!("key {key} is served at version {epoch} of its range, after version {floor} served it");
            return Err(Broken::new("a range's version never falls", what));
        }
        let newest = self.epochs.entry(key).or_insert(0);
        *newest = epoch.max(*newest);
        Ok(())
    }

    /// A replica of a range; `root` is the one that all are found from.
    pub(crate) fn check_machine<M: Ranged>(
        &mut self,
        group: GroupId,
        root: GroupId,
        applied: Index,
        machine: &M,
    ) -> Checked {
        let mut fates = self.fates.borrow_mut();
        let outline = machine.outline();
        match outline.state {
            State::Merging(merging) => drop(fates.prepared.insert((group, merging.prepared))),
            State::Serving => {
                let known = fates.prepared.range((group, 0)..=(group, applied)).copied();
                let known: Vec<_> = known.collect();
                fates.rolled_back.extend(known);
            }
            State::Empty => {}
        }
        let absorbed = outline
            .absorbed
            .iter()
            .map(|(source, absorbed)| (*source, absorbed.prepared));
        fates.absorbed.extend(absorbed);
        if let Some((source, at)) = fates.absorbed.intersection(&fates.rolled_back).next() {
            let what = format!("group {source}, prepared at {at}, was absorbed and rolled back");
            return Err(Broken::new("a merge has one outcome", what));
        }
        if group == root {
            fates.ranges = 1 + outline.children.len();
        }
        Ok(())
    }

    pub(crate) fn count(&self, coverage: &mut Coverage) {
        let c = &self.counted;
        coverage.range_splits += c.splits;
        coverage.range_splits_replayed += c.splits_replayed;
        coverage.range_prepared += c.prepared;
        coverage.range_absorbed += c.absorbed;
        coverage.range_rolled_back += c.rolled_back;
        coverage.range_finished += c.finished;
        coverage.restarts_while_paused += self.ended_while.0;
        coverage.restarts_while_merging += self.ended_while.1;
        coverage.restarts_while_creating += self.ended_while.2;
    }

    pub(crate) fn count_surgeon(&mut self, surgeon: &Surgeon) {
        let (c, more) = (&mut self.counted, &surgeon.counters);
        c.splits += more.splits;
        c.splits_replayed += more.splits_replayed;
        c.prepared += more.prepared;
        c.absorbed += more.absorbed;
        c.rolled_back += more.rolled_back;
        c.finished += more.finished;
        let (is_paused, is_merging, is_creating) = surgeon.is_busy();
        self.ended_while.0 += u64::from(is_paused);
        self.ended_while.1 += u64::from(is_merging);
        self.ended_while.2 += u64::from(is_creating);
    }
}

pub(crate) fn check_node<S: Service>(host: &Host<S, MemDisk>, surgeon: &Surgeon, now: Mono) -> Checked {
    for (group, index) in surgeon.kept() {
        let snapshot = host.view(group, now).map_or(0, |view| view.log.marks().snapshot);
        if snapshot >= index {
            let what = format!("group {group} begins with a snapshot at {snapshot}, but is kept from {index} on");
            return Err(Broken::new("a held log is kept", what));
        }
    }
    Ok(())
}

/// No merge is left half done.
pub(crate) fn is_settled(machine: &impl Ranged) -> bool {
    let outline = machine.outline();
    outline.state == State::Serving && outline.has_finished_merges()
}

/// Neighbouring ranges of which the second does not begin where the first ends, among all and the ends of what there is.
pub(crate) fn gaps<K: Ord + Clone>(mut ranges: Vec<(K, K, GroupId)>, ends: [K; 2]) -> Vec<[(K, K, GroupId); 2]> {
    ranges.extend(ends.map(|end| (end.clone(), end, GroupId(0))));
    ranges.sort_unstable();
    let pairs = ranges.windows(2).filter(|pair| pair[0].1 != pair[1].0);
    pairs.map(|pair| [pair[0].clone(), pair[1].clone()]).collect()
}

pub(crate) fn check_cover<K: std::fmt::Debug>(gaps: &[[(K, K, GroupId); 2]]) -> Checked {
    if gaps.is_empty() {
        return Ok(());
    }
    let what = format!("between these they are not: {gaps:?}");
    Err(Broken::new("ranges are disjoint and cover all keys", what))
}
