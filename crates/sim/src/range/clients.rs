//! Clients of all keys, an operator who splits and merges without end, and the judges of both.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use settle_base::{GroupId, Index, NodeId, Prng};
use settle_example_range_map::{Counters, Put, RangeMap, RangeService, Request, Response};
use settle_host::{ClusterId, Host};
use settle_machine::ranges::{State, SurgeonCounters};
use settle_storage::MemDisk;

use crate::{
    Coverage, Shape,
    clients::{Asking, Clients, Habits},
    invariants::{Broken, Checked},
    workload::{Io, Machines, Workload},
};

/// The operator's timer; clients have lower ones.
const OPERATOR: u64 = 1 << 48;
/// Live ranges at most: the operator merges more than he splits when there are many.
const RANGES_MAX: usize = 5;

pub(crate) struct Ranges {
    clients: Clients,
    padding_max: u64,
    operates_us: u64,
    /// The newest epoch that answered for each key.
    epochs: BTreeMap<u32, u64>,
    /// What that was when each client's question began.
    epoch_floors: BTreeMap<u32, u64>,
    is_stopped: bool,
    asked_splits: u64,
    fates: RefCell<Fates>,
    counted: Counters,
    operated: SurgeonCounters,
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

impl Ranges {
    pub(crate) fn new(prng: &mut Prng, _: &Shape) -> Ranges {
        let clients = prng.between(3, 9);
        let keys = [8, 16, 64][prng.below(3) as usize];
        let padding_max = [0, 100, 500][prng.below(3) as usize];
        let habits = Habits {
            clients,
            keys,
            think_us: prng.between(20_000, 150_000),
            write_percent: prng.between(40, 90),
            are_faithful: false,
        };
        Ranges {
            clients: Clients::new(habits),
            padding_max,
            operates_us: [300_000, 800_000, 2_000_000][prng.below(3) as usize],
            epochs: BTreeMap::new(),
            epoch_floors: BTreeMap::new(),
            is_stopped: false,
            asked_splits: 0,
            fates: RefCell::default(),
            counted: Counters::default(),
            operated: SurgeonCounters::default(),
            ended_while: (0, 0, 0),
        }
    }

    /// Tells every node, since only the leader's does it.
    fn operate(&mut self, io: &mut Io<Request>) {
        if self.is_stopped {
            return;
        }
        let key = io.prng.below(u64::from(self.clients.keys())) as u32;
        let splits = io.prng.below(RANGES_MAX as u64 + 1) as usize >= self.fates.borrow().ranges;
        let request = if splits {
            self.asked_splits += 1;
            let child = GroupId(100 + self.asked_splits);
            Request::Split { at: key.max(1), child }
        } else {
            Request::Merge { key }
        };
        for node in 0..io.is_up.len() {
            if io.is_up[node] {
                io.send(node, request);
            }
        }
        let pause = io.prng.between(self.operates_us / 4, self.operates_us * 2);
        io.wake_in(pause, OPERATOR);
    }

    fn answered_by(&mut self, client: u32, key: u32, epoch: u64) -> Checked {
        let floor = self.epoch_floors.get(&client).copied().unwrap_or(0);
        if epoch < floor {
            let what = format!("key {key} is served at version {epoch} of its range, after version {floor} served it");
            return Err(Broken::new("a range's version never falls", what));
        }
        let newest = self.epochs.entry(key).or_insert(0);
        *newest = epoch.max(*newest);
        Ok(())
    }
}

fn request(asking: &Asking) -> Request {
    let Asking {
        client,
        number,
        key,
        value,
        ..
    } = *asking;
    match value {
        Some(value) => Request::Put(Put {
            client,
            number,
            key,
            value,
        }),
        None => Request::Get { client, number, key },
    }
}

impl Workload for Ranges {
    type Machine = RangeMap;
    type Service = RangeService;

    fn service(&mut self, node: NodeId, run: u64) -> RangeService {
        RangeService::new(run << 8 | u64::from(node.0), self.padding_max)
    }

    fn make_machine(&self, _build: u32) -> Box<dyn Fn(GroupId, ClusterId) -> RangeMap + Send> {
        Box::new(|group, _| RangeMap::new(group))
    }

    fn clients(&self) -> usize {
        self.clients.len()
    }

    fn keep_clients(&mut self, most: usize) {
        self.clients.truncate(most);
    }

    /// Merges are between groups of the same members. Who is in neither, and comes to the target, never had the source.
    fn drains_nodes(&self) -> bool {
        true
    }

    fn is_merging(&self, machine: &RangeMap) -> bool {
        machine.absorbed.values().any(|absorbed| !absorbed.is_finished)
    }

    fn begin(&mut self, io: &mut Io<Request>) {
        self.clients.begin(io);
        io.wake_in(3_000_000, OPERATOR);
    }

    fn wake(&mut self, timer: u64, io: &mut Io<Request>) -> Checked {
        if timer == OPERATOR {
            self.operate(io);
            return Ok(());
        }
        let (epochs, floors) = (&self.epochs, &mut self.epoch_floors);
        let begins = |asking: &Asking| {
            floors.insert(asking.client, epochs.get(&asking.key).copied().unwrap_or(0));
        };
        self.clients.wake(timer, io, begins, request);
        Ok(())
    }

    fn answer(&mut self, _node: usize, response: Response, io: &mut Io<Request>) -> Checked {
        let (Response::Put { client, number, .. } | Response::Get { client, number, .. }) = response;
        let Some(asking) = self.clients.asked(client, number) else {
            return Ok(());
        };
        let epoch = match response {
            Response::Put { version, epoch, .. } => {
                self.clients.wrote(&asking, version, io)?;
                epoch
            }
            Response::Get { cell, epoch, .. } => {
                self.clients.read(&asking, cell.version, cell.value, io)?;
                epoch
            }
        };
        self.answered_by(client, asking.key, epoch)
    }

    fn node_down(&mut self, node: usize, io: &mut Io<Request>) {
        self.clients.node_down(node, io);
    }

    fn stop(&mut self) {
        self.is_stopped = true;
        self.clients.stop();
    }

    /// Also every merge has come to its end.
    fn is_idle(&self, machines: &Machines<RangeMap>) -> bool {
        let is_settled = |machine: &RangeMap| {
            machine.state == State::Serving && machine.absorbed.values().all(|absorbed| absorbed.is_finished)
        };
        // A range that is nowhere is on its way to a group that is not here yet.
        let is_whole = gaps(machines).is_empty();
        is_whole && self.clients.is_idle() && machines.iter().all(|(_, m)| is_settled(m))
    }

    fn check_machine(&mut self, group: GroupId, applied: Index, machine: &RangeMap) -> Checked {
        let mut fates = self.fates.borrow_mut();
        match machine.state {
            State::Merging(merging) => drop(fates.prepared.insert((group, merging.prepared))),
            State::Serving => {
                let known = fates.prepared.range((group, 0)..=(group, applied)).copied();
                let known: Vec<_> = known.collect();
                fates.rolled_back.extend(known);
            }
            State::Empty => {}
        }
        let absorbed = machine
            .absorbed
            .iter()
            .map(|(source, absorbed)| (*source, absorbed.prepared));
        fates.absorbed.extend(absorbed);
        if let Some((source, at)) = fates.absorbed.intersection(&fates.rolled_back).next() {
            let what = format!("group {source}, prepared at {at}, was absorbed and rolled back");
            return Err(Broken::new("a merge has one outcome", what));
        }
        if group == settle_example_range_map::WHOLE {
            fates.ranges = 1 + machine.children.len();
        }
        for (key, cell) in machine.cells() {
            if !(machine.start..machine.end).contains(&key) {
                let what = format!("group {group} of {}..{} holds key {key}", machine.start, machine.end);
                return Err(Broken::new("a range holds its own keys", what));
            }
            if applied.is_multiple_of(64) && !self.clients.history.was_asked(key, cell.value) {
                let what = format!("key {key} holds {cell:?}, which nobody wrote");
                return Err(Broken::new("read linearizability", what));
            }
        }
        Ok(())
    }

    fn check_node(&self, host: &Host<RangeService, MemDisk>, now: settle_base::Mono) -> Checked {
        for (group, index) in host.service().surgeon.kept() {
            let snapshot = host.view(group, now).map_or(0, |view| view.log.marks().snapshot);
            if snapshot >= index {
                let what = format!("group {group} begins with a snapshot at {snapshot}, but is kept from {index} on");
                return Err(Broken::new("a held log is kept", what));
            }
        }
        Ok(())
    }

    fn finish(&mut self, machines: &Machines<RangeMap>) -> Checked {
        let gaps = gaps(machines);
        if !gaps.is_empty() {
            let what = format!("between these they are not: {gaps:?}");
            return Err(Broken::new("ranges are disjoint and cover all keys", what));
        }
        for key in 0..self.clients.keys() {
            let owner = machines.iter().find(|(_, m)| m.serves(key));
            let (_, machine) = owner.expect("the ranges cover all keys");
            let cell = machine.get(key);
            self.clients.history.ends(key, cell.version, cell.value)?;
        }
        Ok(())
    }

    fn count(&self, coverage: &mut Coverage) {
        coverage.client_retries += self.clients.retries;
        let c = &self.counted;
        coverage.reproposals += c.proposed_again;
        coverage.range_refused += c.refused;
        let c = &self.operated;
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

    fn count_service(&mut self, service: &RangeService) {
        let (c, more) = (&mut self.counted, &service.counters);
        c.refused += more.refused;
        c.proposed_again += more.proposed_again;
        let (c, more) = (&mut self.operated, &service.surgeon.counters);
        c.splits += more.splits;
        c.splits_replayed += more.splits_replayed;
        c.prepared += more.prepared;
        c.absorbed += more.absorbed;
        c.rolled_back += more.rolled_back;
        c.finished += more.finished;
        let (is_paused, is_merging, is_creating) = service.surgeon.is_busy();
        self.ended_while.0 += u64::from(is_paused);
        self.ended_while.1 += u64::from(is_merging);
        self.ended_while.2 += u64::from(is_creating);
    }

    fn describe(&self) -> String {
        self.clients.describe()
    }

    fn describe_machine(&self, machine: &RangeMap) -> String {
        format!(
            " {}..{} {:?} {:?} children {:?} absorbed {:?}",
            machine.start, machine.end, machine.epoch, machine.state, machine.children, machine.absorbed
        )
    }
}

/// Neighbouring ranges of which the second does not begin where the first ends.
fn gaps(machines: &Machines<RangeMap>) -> Vec<[(u32, u32, GroupId); 2]> {
    let nobody = GroupId(0);
    let mut ranges: Vec<_> = machines.iter().map(|(group, m)| (m.start, m.end, *group)).collect();
    ranges.extend([(0, 0, nobody), (u32::MAX, u32::MAX, nobody)]);
    ranges.sort_unstable();
    let pairs = ranges.windows(2).filter(|pair| pair[0].1 != pair[1].0);
    pairs.map(|pair| [pair[0], pair[1]]).collect()
}
