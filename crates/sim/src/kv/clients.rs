//! Clients of all keys, and the judge of what they were told.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use settle_base::{GroupId, Index, Mono, NodeId, Prng};
use settle_host::{ClusterId, Host};
use settle_kv::{Compare, Found, Op, Put, Query, Region, Relation, Reply, Space, What};
use settle_machine::Ticket;
use settle_storage::{Keeps, MemDisk, MemEngine};

use super::{
    lockers::{self, Lockers, name},
    service::{KvService, Machine, Request, Response, WHOLE},
};
use crate::{
    Coverage, Shape,
    clients::{Asking, Clients, Habits},
    invariants::{Broken, Checked},
    range::watch::{Act, OPERATOR, Watch, check_cover, check_node, gaps, is_settled},
    workload::{Io, Machines, Workload},
};

const ENGINE_BYTES: u64 = 256 << 20;

pub(crate) struct Store {
    clients: Clients,
    lockers: Lockers,
    watch: Watch,
    refused: u64,
    proposed_again: u64,
}

impl Store {
    pub(crate) fn new(prng: &mut Prng, _: &Shape) -> Store {
        let keys = [8, 16, 64][prng.below(3) as usize];
        let habits = Habits {
            clients: prng.between(3, 9),
            keys,
            think_us: prng.between(20_000, 150_000),
            write_percent: prng.between(40, 90),
            are_faithful: false,
        };
        Store {
            clients: Clients::new(habits),
            lockers: Lockers::new(prng.between(2, 5), keys),
            watch: Watch::new(prng),
            refused: 0,
            proposed_again: 0,
        }
    }
}

/// A write that is told which version of its key it made, in one of several words for it.
fn write(key: u32, value: u64, number: u64) -> Op {
    let put = || Put {
        key: name(key),
        value: Bytes::copy_from_slice(&value.to_le_bytes()),
        ttl_ms: None,
    };
    let read = || Op::Read(Query::Get { key: name(key) });
    match number % 3 {
        0 => Op::GetAndPut(put()),
        1 => Op::Txn {
            compare: Vec::new(),
            then: vec![Op::Put(put()), read()],
            otherwise: Vec::new(),
        },
        _ => Op::Txn {
            compare: vec![Compare {
                key: name(key),
                what: What::Version(0),
                relation: Relation::Equal,
            }],
            then: vec![Op::PutIfAbsent(put()), read()],
            otherwise: vec![Op::Put(put()), read()],
        },
    }
}

/// Which version of its key a write made, by its answer.
fn version_made(reply: &Reply) -> Option<u64> {
    match reply {
        Reply::Previous(before) => Some(before.as_ref().map_or(0, |found| found.version) + 1),
        Reply::Txn { replies, .. } => match &replies[..] {
            [_, Reply::Found(Some(found))] => Some(found.version),
            _ => None,
        },
        _ => None,
    }
}

fn number_of(found: &Found) -> u64 {
    found.value[..].try_into().map_or(u64::MAX, u64::from_le_bytes)
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
        Some(value) => Request::Ask {
            ticket: Ticket {
                session: u64::from(client),
                number,
            },
            key: name(key),
            op: write(key, value, number),
        },
        None => {
            let key = name(key);
            Request::Get { client, number, key }
        }
    }
}

impl Workload for Store {
    type Machine = Machine;
    type Service = KvService;

    fn service(&mut self, node: NodeId, run: u64) -> KvService {
        KvService::new(run << 8 | u64::from(node.0))
    }

    /// Each process has an engine of its own, in memory.
    fn make_machine(&self, _build: u32) -> Box<dyn Fn(GroupId, ClusterId) -> Machine + Send> {
        let (engine, spaces) = (MemEngine::new(Keeps::Nothing, ENGINE_BYTES), AtomicU64::new(1));
        Box::new(move |group, _| {
            let space = Space(spaces.fetch_add(1, Ordering::Relaxed));
            Region::new(engine.clone(), space, group, group == WHOLE)
        })
    }

    fn clients(&self) -> usize {
        self.clients.len()
    }

    fn keep_clients(&mut self, most: usize) {
        self.clients.truncate(most);
    }

    fn drains_nodes(&self) -> bool {
        true
    }

    fn is_merging(&self, machine: &Machine) -> bool {
        !machine.descriptor().has_finished_merges()
    }

    fn begin(&mut self, io: &mut Io<Request>) {
        self.clients.begin(io);
        self.lockers.begin(io);
        io.wake_in(3_000_000, OPERATOR);
    }

    fn wake(&mut self, timer: u64, io: &mut Io<Request>) -> Checked {
        match timer {
            OPERATOR => self.watch.operate(self.clients.keys(), io, |act| match act {
                Act::Split { at, child } => Request::Split { at: name(at), child },
                Act::Merge { key } => Request::Merge { key: name(key) },
            }),
            lockers::FIRST.. => self.lockers.wake(timer, io),
            _ => {
                let begins = |asking: &Asking| self.watch.begins(asking.client, asking.key);
                self.clients.wake(timer, io, begins, request);
            }
        }
        Ok(())
    }

    fn answer(&mut self, _node: usize, response: Response, io: &mut Io<Request>) -> Checked {
        let (client, number, epoch) = match &response {
            Response::Answered { ticket, reply, .. } if ticket.session >= lockers::FIRST => {
                return self.lockers.answer(*ticket, reply, io);
            }
            Response::Answered { ticket, epoch, .. } => (ticket.session as u32, ticket.number, *epoch),
            Response::Got {
                client, number, epoch, ..
            } => (*client, *number, *epoch),
        };
        let Some(asking) = self.clients.asked(client, number) else {
            return Ok(());
        };
        match &response {
            Response::Answered { reply, .. } => {
                let version = version_made(reply).ok_or_else(|| {
                    let what = format!("a write of key {} was answered with {reply:?}", asking.key);
                    Broken::new("answers fit their questions", what)
                })?;
                self.clients.wrote(&asking, version, io)?;
            }
            Response::Got { found, .. } => {
                let (version, value) = found.as_ref().map_or((0, 0), |f| (f.version, number_of(f)));
                self.clients.read(&asking, version, value, io)?;
            }
        }
        self.watch.answered_by(client, asking.key, epoch)
    }

    fn node_down(&mut self, node: usize, io: &mut Io<Request>) {
        self.clients.node_down(node, io);
    }

    fn stop(&mut self) {
        self.watch.stop();
        self.clients.stop();
        self.lockers.stop();
    }

    /// Also every merge has come to its end.
    fn is_idle(&self, machines: &Machines<Machine>) -> bool {
        let is_idle = self.clients.is_idle() && self.lockers.is_idle();
        // A region that is nowhere is on its way to a group that is not here yet.
        is_idle && gaps_of(machines).is_empty() && machines.iter().all(|(_, m)| is_settled(*m))
    }

    fn check_machine(&mut self, group: GroupId, applied: Index, machine: &Machine) -> Checked {
        self.watch.check_machine(group, WHOLE, applied, machine)
    }

    fn check_node(&self, host: &Host<KvService, MemDisk>, now: Mono) -> Checked {
        check_node(host, &host.service().surgeon, now)
    }

    fn finish(&mut self, machines: &Machines<Machine>) -> Checked {
        check_cover(&gaps_of(machines))?;
        for key in 0..self.clients.keys() {
            let name = name(key);
            let owner = machines.iter().find(|(_, m)| m.serves(&name));
            let (_, machine) = owner.expect("the regions cover all keys");
            let reply = machine.read(machine.descriptor().epoch.version, &Query::Get { key: name });
            let Ok(Reply::Found(found)) = reply else {
                return Err(Broken::new("a region serves its keys", format!("{key}: {reply:?}")));
            };
            let (version, value) = found.as_ref().map_or((0, 0), |f| (f.version, number_of(f)));
            self.clients.history.ends(key, version, value)?;
        }
        Ok(())
    }

    fn count(&self, coverage: &mut Coverage) {
        coverage.client_retries += self.clients.retries + self.lockers.retries;
        coverage.reproposals += self.proposed_again;
        coverage.range_refused += self.refused;
        coverage.kv_locks += self.lockers.locks;
        coverage.kv_locks_held += self.lockers.held;
        coverage.kv_numbers += self.lockers.numbers_given();
        self.watch.count(coverage);
    }

    fn count_service(&mut self, service: &KvService) {
        self.refused += service.refused;
        self.proposed_again += service.proposed_again;
        self.watch.count_surgeon(&service.surgeon);
    }

    fn describe(&self) -> String {
        self.clients.describe()
    }

    fn describe_machine(&self, machine: &Machine) -> String {
        format!(" {:?}", machine.descriptor())
    }
}

fn gaps_of(machines: &Machines<Machine>) -> Vec<[(Bytes, Bytes, GroupId); 2]> {
    // No key is behind it.
    let last = Bytes::from_static(&[u8::MAX; 8]);
    let ranges = machines.iter().map(|(group, m)| {
        let range = &m.descriptor().range;
        (range.start.clone(), range.end.clone().unwrap_or(last.clone()), *group)
    });
    gaps(ranges.collect(), [Bytes::new(), last.clone()])
}
