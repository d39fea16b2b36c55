//! Clients that write and read registers, and the judge of what they were told.
//!
//! Every write makes the next version of its key, so a history is linearizable when (1) no two writes got the same version,
//! (2) what begins after something ended sees a version at least as new (a write: newer), (3) a value at a version was
//! written by somebody. At the end every write was told exactly once, so versions are as many as writes.

use std::collections::BTreeMap;

use settle_base::{GroupId, NodeId, Prng};
use settle_host::ClusterId;

use super::{
    machine::{Cell, RegisterMachine, Write, Written},
    service::{RegisterService, Request, Response},
};
use crate::{
    Coverage,
    workload::{Io, Workload},
};

pub(crate) struct Registers {
    clients: Vec<Client>,
    keys: u32,
    padding_max: u64,
    think_us: u64,
    write_percent: u64,
    is_stopped: bool,
    /// The newest version of each key that somebody was told.
    told: BTreeMap<u32, u64>,
    /// What each version of each key is known to be.
    versions: BTreeMap<(u32, u64), u64>,
    /// Key of every value that was ever asked to be written.
    asked: BTreeMap<u64, u32>,
    writes_told: BTreeMap<u32, u64>,
    retries: u64,
    proposed_again: u64,
    reads_again: u64,
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
    pub(crate) fn new(prng: &mut Prng) -> Registers {
        let clients = if prng.percent(20) { 20 } else { prng.between(3, 9) };
        Registers {
            clients: (0..clients).map(|_| Client::default()).collect(),
            keys: [2, 16, 64][prng.below(3) as usize],
            padding_max: [0, 300, 2_000][prng.below(3) as usize],
            think_us: prng.between(20_000, 150_000),
            write_percent: prng.between(40, 90),
            is_stopped: false,
            told: BTreeMap::new(),
            versions: BTreeMap::new(),
            asked: BTreeMap::new(),
            writes_told: BTreeMap::new(),
            retries: 0,
            proposed_again: 0,
            reads_again: 0,
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
        if is_write {
            self.asked.insert(value, key);
        }
        client.asking = Some(Asking {
            key,
            value: is_write.then_some(value),
            floor: self.told.get(&key).copied().unwrap_or(0),
        });
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

    fn learn(&mut self, key: u32, cell: Cell) -> Result<(), String> {
        let Cell { version, value } = cell;
        if version == 0 {
            return Ok(());
        }
        let known = *self.versions.entry((key, version)).or_insert(value);
        if known != value {
            return Err(format!(
                "version {version} of key {key} is both {known:x} and {value:x}"
            ));
        }
        if self.asked.get(&value) != Some(&key) {
            return Err(format!("nobody wrote {value:x} to key {key}"));
        }
        let told = self.told.entry(key).or_insert(0);
        *told = version.max(*told);
        Ok(())
    }
}

impl Workload for Registers {
    type Machine = RegisterMachine;
    type Service = RegisterService;

    fn service(&mut self, node: NodeId, run: u64) -> RegisterService {
        RegisterService::new(run << 8 | u64::from(node.0), self.padding_max)
    }

    fn make_machine(&self) -> Box<dyn Fn(GroupId, ClusterId) -> RegisterMachine + Send> {
        Box::new(|_, _| RegisterMachine::default())
    }

    fn begin(&mut self, io: &mut Io<Request>) {
        for i in 0..self.clients.len() {
            self.rest(i, io);
        }
    }

    fn wake(&mut self, timer: u64, io: &mut Io<Request>) -> Result<(), String> {
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

    fn answer(&mut self, _node: usize, response: Response, io: &mut Io<Request>) -> Result<(), String> {
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
                if version <= floor {
                    return Err(format!(
                        "client {i} wrote version {version} of key {key} although {floor} was told before it asked"
                    ));
                }
                if self.versions.get(&(key, version)).is_some_and(|known| *known != value) {
                    return Err(format!("two writes were told version {version} of key {key}"));
                }
                self.learn(key, Cell { version, value })?;
                *self.writes_told.entry(key).or_insert(0) += 1;
            }
            (Response::Read { cell, .. }, None) => {
                if cell.version < floor {
                    let seen = cell.version;
                    return Err(format!(
                        "client {i} read version {seen} of key {key} although {floor} was told before it asked"
                    ));
                }
                self.learn(key, cell)?;
            }
            (response, _) => return Err(format!("client {i} was told {response:?}, which it did not ask")),
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

    fn is_idle(&self, _: &RegisterMachine) -> bool {
        self.clients.iter().all(|c| c.asking.is_none())
    }

    fn check_machine(&self, machine: &RegisterMachine) -> Result<(), String> {
        let phantom = machine
            .cells()
            .find(|(key, cell)| self.asked.get(&cell.value) != Some(key));
        phantom.map_or(Ok(()), |(key, cell)| {
            Err(format!("key {key} holds {cell:?}, which nobody wrote"))
        })
    }

    fn finish(&mut self, machine: &RegisterMachine) -> Result<(), String> {
        for key in 0..self.keys {
            let cell = machine.get(key);
            let told = self.writes_told.get(&key).copied().unwrap_or(0);
            if cell.version != told {
                return Err(format!(
                    "key {key} has {} versions, but {told} writes were told",
                    cell.version
                ));
            }
            self.learn(key, cell)?;
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
            self.writes_told.values().sum::<u64>()
        )
    }
}
