//! Clients of all keys, and the judge of what they were told.

use settle_base::{GroupId, Index, NodeId, Prng};
use settle_example_range_map::{Counters, Put, RangeMap, RangeService, Request, Response, WHOLE};
use settle_host::{ClusterId, Host};
use settle_storage::MemDisk;

use super::watch::{Act, OPERATOR, Watch, check_cover, check_node, gaps, is_settled};
use crate::{
    Coverage, Shape,
    clients::{Asking, Clients, Habits},
    invariants::{Broken, Checked},
    workload::{Io, Machines, Workload},
};

pub(crate) struct Ranges {
    clients: Clients,
    watch: Watch,
    padding_max: u64,
    counted: Counters,
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
            watch: Watch::new(prng),
            counted: Counters::default(),
        }
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
            self.watch.operate(self.clients.keys(), io, |act| match act {
                Act::Split { at, child } => Request::Split { at, child },
                Act::Merge { key } => Request::Merge { key },
            });
            return Ok(());
        }
        let begins = |asking: &Asking| self.watch.begins(asking.client, asking.key);
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
        self.watch.answered_by(client, asking.key, epoch)
    }

    fn node_down(&mut self, node: usize, io: &mut Io<Request>) {
        self.clients.node_down(node, io);
    }

    fn stop(&mut self) {
        self.watch.stop();
        self.clients.stop();
    }

    /// Also every merge has come to its end.
    fn is_idle(&self, machines: &Machines<RangeMap>) -> bool {
        // A range that is nowhere is on its way to a group that is not here yet.
        let is_whole = gaps_of(machines).is_empty();
        is_whole && self.clients.is_idle() && machines.iter().all(|(_, m)| is_settled(*m))
    }

    fn check_machine(&mut self, group: GroupId, applied: Index, machine: &RangeMap) -> Checked {
        self.watch.check_machine(group, WHOLE, applied, machine)?;
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
        check_node(host, &host.service().surgeon, now)
    }

    fn finish(&mut self, machines: &Machines<RangeMap>) -> Checked {
        check_cover(&gaps_of(machines))?;
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
        self.watch.count(coverage);
    }

    fn count_service(&mut self, service: &RangeService) {
        let (c, more) = (&mut self.counted, &service.counters);
        c.refused += more.refused;
        c.proposed_again += more.proposed_again;
        self.watch.count_surgeon(&service.surgeon);
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

fn gaps_of(machines: &Machines<RangeMap>) -> Vec<[(u32, u32, GroupId); 2]> {
    let ranges = machines.iter().map(|(group, m)| (m.start, m.end, *group));
    gaps(ranges.collect(), [0, u32::MAX])
}
