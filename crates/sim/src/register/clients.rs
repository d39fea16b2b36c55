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
    invariants::{Broken, Checked, History},
    workload::{Io, Machines, Workload},
};

pub(crate) struct Registers {
    clients: Vec<Client>,
    groups: u64,
    keys: u32,
    padding_max: u64,
    think_us: u64,
    write_percent: u64,
    is_stopped: bool,
    history: History,
    retries: u64,
    proposed_again: u64,
    reads_again: u64,
    /// Whose service was made last: its machines are made next.
    node: NodeId,
    /// Of each node's process.
    slips: BTreeMap<NodeId, Slip>,
}

#[derive(Default)]
struct Client {
    number: u64,
    node: usize,
    asking: Option<Asking>,
    /// Timers of earlier tries are of no interest.
    generation: u64,
}

#[derive(Clone, Copy)]
struct Asking {
    key: u32,
    value: Option<u64>,
    /// The newest version that somebody had been told when this began.
    floor: u64,
}

impl Registers {
    pub(crate) fn new(prng: &mut Prng, shape: &Shape) -> Registers {
        let clients = if prng.percent(20) { 20 } else { prng.between(3, 9) };
        Registers {
            clients: (0..clients).map(|_| Client::default()).collect(),
            groups: shape.groups,
            keys: [2, 16, 64][prng.below(3) as usize],
            padding_max: [0, 300, 2_000][prng.below(3) as usize],
            think_us: prng.between(20_000, 150_000),
            write_percent: prng.between(40, 90),
            is_stopped: false,
            history: History::default(),
            retries: 0,
            proposed_again: 0,
            reads_again: 0,
            node: NodeId(0),
            slips: BTreeMap::new(),
        }
    }

    fn ask(&mut self, i: usize, io: &mut Io<Request>) {
        let client = &mut self.clients[i];
        client.generation += 1;
        let timer = (i as u64) << 32 | client.generation;
        let Some(asking) = client.asking else { return };
        let Some(node) = io.pick_node() else {
            return io.wake_in(200_000, timer);
        };
        client.node = node;
        let (id, number, key) = (i as u32, client.number, asking.key);
        let request = match asking.value {
            Some(value) => Request::Write(Write {
                client: id,
                number,
                key,
                value,
            }),
            None => Request::Read {
                client: id,
                number,
                key,
            },
        };
        io.send(node, request);
        let patience = io.prng.between(500_000, 4_000_000);
        io.wake_in(patience, timer);
    }

    fn begin_next(&mut self, i: usize, io: &mut Io<Request>) {
        if self.is_stopped {
            return;
        }
        let key = io.prng.below(u64::from(self.keys)) as u32;
        let client = &mut self.clients[i];
        client.number += 1;
        let value = ((i as u64 + 1) << 32) | client.number;
        let is_write = io.prng.percent(self.write_percent);
        let value = is_write.then_some(value);
        let floor = self.history.begins(key, value);
        client.asking = Some(Asking { key, value, floor });
        self.ask(i, io);
    }

    fn rest(&mut self, i: usize, io: &mut Io<Request>) {
        let client = &mut self.clients[i];
        client.asking = None;
        client.generation += 1;
        let timer = (i as u64) << 32 | client.generation;
        let pause = io.prng.below(self.think_us * 2);
        io.wake_in(pause, timer);
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
        if self.slips.values().any(Slip::is_pending) {
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

    fn begin(&mut self, io: &mut Io<Request>) {
        for i in 0..self.clients.len() {
            self.rest(i, io);
        }
    }

    fn wake(&mut self, timer: u64, io: &mut Io<Request>) -> Checked {
        let (i, generation) = ((timer >> 32) as usize, timer & u64::from(u32::MAX));
        if self.clients[i].generation != generation {
            return Ok(());
        }
        if self.clients[i].asking.is_some() {
            self.retries += 1;
            self.ask(i, io);
        } else {
            self.begin_next(i, io);
        }
        Ok(())
    }

    fn answer(&mut self, _node: usize, response: Response, io: &mut Io<Request>) -> Checked {
        let (Response::Written(Written { client, number, .. }) | Response::Read { client, number, .. }) = response;
        let i = client as usize;
        if self.clients[i].number != number {
            return Ok(());
        }
        let Some(asking) = self.clients[i].asking else {
            return Ok(());
        };
        let Asking { key, floor, .. } = asking;
        match (response, asking.value) {
            (Response::Written(Written { version, .. }), Some(value)) => {
                self.history.wrote(key, value, floor, version)?;
            }
            (Response::Read { cell, .. }, None) => self.history.read(key, floor, cell.version, cell.value)?,
            (response, _) => {
                let what = format!("client {i} was told {response:?}, which it did not ask");
                return Err(Broken::new("answers fit their questions", what));
            }
        }
        self.rest(i, io);
        Ok(())
    }

    fn node_down(&mut self, node: usize, io: &mut Io<Request>) {
        for i in 0..self.clients.len() {
            let client = &mut self.clients[i];
            if client.node == node && client.asking.is_some() {
                client.generation += 1;
                let timer = (i as u64) << 32 | client.generation;
                let pause = io.prng.between(1_000, 100_000);
                io.wake_in(pause, timer);
            }
        }
    }

    fn stop(&mut self) {
        self.is_stopped = true;
    }

    fn is_idle(&self, _: &Machines<RegisterMachine>) -> bool {
        self.clients.iter().all(|c| c.asking.is_none())
    }

    fn check_machine(&self, _: GroupId, applied: Index, machine: &RegisterMachine) -> Checked {
        if !applied.is_multiple_of(64) {
            return Ok(());
        }
        let phantom = machine
            .cells()
            .find(|(key, cell)| !self.history.was_asked(*key, cell.value));
        phantom.map_or(Ok(()), |(key, cell)| {
            let what = format!("key {key} holds {cell:?}, which nobody wrote");
            Err(Broken::new("read linearizability", what))
        })
    }

    fn finish(&mut self, machines: &Machines<RegisterMachine>) -> Checked {
        for key in 0..self.keys {
            let group = group_of(key, self.groups);
            let (_, machine) = machines
                .iter()
                .find(|(g, _)| *g == group)
                .expect("every group has a machine");
            let cell = machine.get(key);
            self.history.ends(key, cell.version, cell.value)?;
        }
        Ok(())
    }

    fn count(&self, coverage: &mut Coverage) {
        coverage.client_retries += self.retries;
        coverage.reproposals += self.proposed_again;
    }

    fn count_service(&mut self, service: &RegisterService) {
        self.proposed_again += service.proposed_again;
        self.reads_again += service.reads_again;
    }

    fn describe(&self) -> String {
        let waiting: Vec<_> = (0..self.clients.len())
            .filter(|i| self.clients[*i].asking.is_some())
            .collect();
        format!(
            "clients {waiting:?} wait for an answer; {} writes told",
            self.history.writes_told()
        )
    }
}
