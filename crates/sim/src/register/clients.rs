//! Clients that write and read registers, and what they were told.

use std::collections::BTreeMap;

use settle_base::{GroupId, Index, NodeId, Prng, mutant};
use settle_host::ClusterId;

use super::{
    machine::{RegisterMachine, Slip, Write, Written},
    service::{RegisterService, Request, Response, group_of},
};
use crate::{
    Coverage, Shape,
    clients::{Asking, Clients, Habits},
    invariants::{Broken, Checked},
    workload::{Io, Machines, Workload},
};

pub(crate) struct Registers {
    clients: Clients,
    groups: u64,
    padding_max: u64,
    proposed_again: u64,
    /// Whose service was made last: its machines are made next.
    node: NodeId,
    /// Each group has enough commands for a slip to be found out while the seed lasts.
    writes_often: bool,
    /// Of each node's process.
    slips: BTreeMap<NodeId, Slip>,
}

impl Registers {
    pub(crate) fn new(prng: &mut Prng, shape: &Shape) -> Registers {
        let mut later = Prng::from_parts(&[prng.clone().next_u64(), 0x0e]);
        let clients = if prng.percent(20) { 20 } else { prng.between(3, 9) };
        let keys = [2, 16, 64][prng.below(3) as usize];
        let padding_max = [0, 300, 2_000][prng.below(3) as usize];
        let mut habits = Habits {
            clients,
            keys,
            think_us: prng.between(20_000, 150_000),
            write_percent: prng.between(40, 90),
            are_faithful: later.percent(20),
        };
        let (is_reading, is_sleepy) = (later.percent(20), later.percent(10));
        if is_reading {
            habits.write_percent = later.between(5, 30);
        }
        if is_sleepy {
            // Groups have time to fall asleep.
            habits.think_us *= 40;
        }
        Registers {
            clients: Clients::new(habits),
            groups: shape.groups,
            padding_max,
            proposed_again: 0,
            node: NodeId(0),
            writes_often: !is_reading && !is_sleepy,
            slips: BTreeMap::new(),
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
        Some(value) => Request::Write(Write {
            client,
            number,
            key,
            value,
        }),
        None => Request::Read { client, number, key },
    }
}

impl Workload for Registers {
    type Machine = RegisterMachine;
    type Service = RegisterService;

    fn service(&mut self, node: NodeId, run: u64) -> RegisterService {
        self.node = node;
        self.slips.insert(node, Slip::default());
        RegisterService::new(run << 8 | u64::from(node.0), self.groups, self.padding_max)
    }

    fn make_machine(&self, build: u32) -> Box<dyn Fn(GroupId, ClusterId) -> RegisterMachine + Send> {
        let differs = self.node == NodeId(1) && mutant!("apply_differs_once");
        let slip = self.slips.get(&self.node).cloned().unwrap_or_default();
        Box::new(move |_, _| RegisterMachine::new(build, differs, slip.clone()))
    }

    fn slip(&mut self, node: NodeId, which: u64) -> bool {
        if !self.writes_often || self.slips.values().any(Slip::is_pending) {
            return false;
        }
        let slip = self.slips.get(&node);
        slip.inspect(|slip| slip.is_to_happen(which)).is_some()
    }

    fn slips_of(&self, machine: &RegisterMachine) -> u64 {
        machine.slips()
    }

    fn clients(&self) -> usize {
        self.clients.len()
    }

    fn keep_clients(&mut self, most: usize) {
        self.clients.truncate(most);
    }

    fn crowd(&mut self) {
        self.clients = Clients::new(Habits {
            clients: 12,
            keys: self.groups as u32,
            think_us: 30_000,
            write_percent: 25,
            are_faithful: true,
        });
    }

    fn begin(&mut self, io: &mut Io<Request>) {
        self.clients.begin(io);
    }

    fn wake(&mut self, timer: u64, io: &mut Io<Request>) -> Checked {
        self.clients.wake(timer, io, |_| {}, request);
        Ok(())
    }

    fn answer(&mut self, _node: usize, response: Response, io: &mut Io<Request>) -> Checked {
        let (Response::Written(Written { client, number, .. }) | Response::Read { client, number, .. }) = response;
        let Some(asking) = self.clients.asked(client, number) else {
            return Ok(());
        };
        match response {
            Response::Written(written) => self.clients.wrote(&asking, written.version, io),
            Response::Read { cell, .. } => self.clients.read(&asking, cell.version, cell.value, io),
        }
    }

    fn node_down(&mut self, node: usize, io: &mut Io<Request>) {
        self.clients.node_down(node, io);
    }

    fn stop(&mut self) {
        self.clients.stop();
    }

    fn is_idle(&self, _: &Machines<RegisterMachine>) -> bool {
        self.clients.is_idle()
    }

    fn check_machine(&mut self, _: GroupId, applied: Index, machine: &RegisterMachine) -> Checked {
        if !applied.is_multiple_of(64) {
            return Ok(());
        }
        let phantom = machine
            .cells()
            .find(|(key, cell)| !self.clients.history.was_asked(*key, cell.value));
        phantom.map_or(Ok(()), |(key, cell)| {
            let what = format!("key {key} holds {cell:?}, which nobody wrote");
            Err(Broken::new("read linearizability", what))
        })
    }

    fn finish(&mut self, machines: &Machines<RegisterMachine>) -> Checked {
        for key in 0..self.clients.keys() {
            let group = group_of(key, self.groups);
            let (_, machine) = machines
                .iter()
                .find(|(g, _)| *g == group)
                .expect("every group has a machine");
            let cell = machine.get(key);
            self.clients.history.ends(key, cell.version, cell.value)?;
        }
        Ok(())
    }

    fn count(&self, coverage: &mut Coverage) {
        coverage.client_retries += self.clients.retries;
        coverage.reproposals += self.proposed_again;
    }

    fn count_service(&mut self, service: &RegisterService) {
        self.proposed_again += service.proposed_again;
    }

    fn describe(&self) -> String {
        self.clients.describe()
    }
}
