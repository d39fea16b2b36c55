//! Clients who take locks and numbers of sequences, and what must hold of both: tokens and numbers are given once, and a
//! token that is given later is greater.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use settle_base::Prng;
use settle_kv::{Op, Reply};
use settle_machine::Ticket;

use super::service::Request;
use crate::{
    invariants::{Broken, Checked},
    workload::Io,
};

/// Their sessions and timers are above those of other clients.
pub(super) const FIRST: u64 = 1 << 40;

#[derive(Default)]
pub(super) struct Lockers {
    all: Vec<Locker>,
    keys: u32,
    is_stopped: bool,
    /// The greatest token that was told of each lock.
    tokens: BTreeMap<u32, u64>,
    given: BTreeSet<(u32, u64)>,
    numbers: BTreeSet<(u32, u64, u64)>,
    pub(super) retries: u64,
    pub(super) locks: u64,
    pub(super) held: u64,
}

#[derive(Default)]
struct Locker {
    number: u64,
    asking: Option<Asking>,
    /// What it has, for so long as it knows.
    holds: Option<(u32, u64)>,
    generation: u64,
}

#[derive(Clone)]
struct Asking {
    key: u32,
    op: Op,
    /// The greatest token of the lock that was told when this began.
    floor: u64,
}

pub(super) fn name(key: u32) -> Bytes {
    Bytes::from(format!("{key:04}"))
}

impl Lockers {
    pub(super) fn new(count: u64, keys: u32) -> Lockers {
        Lockers {
            all: (0..count).map(|_| Locker::default()).collect(),
            keys,
            ..Lockers::default()
        }
    }

    pub(super) fn numbers_given(&self) -> u64 {
        self.numbers.len() as u64
    }

    pub(super) fn begin(&mut self, io: &mut Io<Request>) {
        for i in 0..self.all.len() {
            self.rest(i, io);
        }
    }

    pub(super) fn stop(&mut self) {
        self.is_stopped = true;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.all.iter().all(|locker| locker.asking.is_none())
    }

    fn rest(&mut self, i: usize, io: &mut Io<Request>) {
        let locker = &mut self.all[i];
        locker.asking = None;
        locker.generation += 1;
        let timer = FIRST | (i as u64) << 24 | locker.generation & 0xff_ffff;
        let pause = io.prng.below(300_000);
        io.wake_in(pause, timer);
    }

    pub(super) fn wake(&mut self, timer: u64, io: &mut Io<Request>) {
        let (i, generation) = ((timer - FIRST) as usize >> 24, timer & 0xff_ffff);
        let locker = &self.all[i];
        if locker.generation & 0xff_ffff != generation {
            return;
        }
        if locker.asking.is_some() {
            self.retries += 1;
        } else if self.is_stopped {
            return;
        } else {
            let asking = self.draw(i, io.prng);
            self.all[i].number += 1;
            self.all[i].asking = Some(asking);
        }
        self.ask(i, io);
    }

    fn draw(&mut self, i: usize, prng: &mut Prng) -> Asking {
        let owner = Bytes::from(format!("locker {i}"));
        let mut key = prng.below(u64::from(self.keys)) as u32;
        let mut named = name(key);
        let op = match self.all[i].holds {
            Some((held, token)) if prng.percent(60) => {
                (key, named) = (held, name(held));
                if prng.percent(50) {
                    Op::Unlock {
                        key: named,
                        owner,
                        token,
                    }
                } else {
                    Op::KeepLock {
                        key: named,
                        owner,
                        token,
                        lease_ms: 2_000,
                    }
                }
            }
            _ if prng.percent(40) => Op::Sequence {
                key: named,
                count: prng.between(1, 4),
            },
            _ if prng.percent(5) => Op::SequenceReset { key: named },
            _ => Op::Lock {
                key: named,
                owner,
                lease_ms: prng.between(100, 3_000),
                context: Bytes::new(),
            },
        };
        let floor = self.tokens.get(&key).copied().unwrap_or(0);
        Asking { key, op, floor }
    }

    fn ask(&mut self, i: usize, io: &mut Io<Request>) {
        let locker = &mut self.all[i];
        locker.generation += 1;
        let timer = FIRST | (i as u64) << 24 | locker.generation & 0xff_ffff;
        let ticket = Ticket {
            session: FIRST | i as u64,
            number: locker.number,
        };
        let Some(Asking { key, op, .. }) = locker.asking.clone() else {
            return;
        };
        match io.pick_node() {
            Some(node) => {
                let key = name(key);
                io.send(node, Request::Ask { ticket, key, op });
                let patience = io.prng.between(500_000, 4_000_000);
                io.wake_in(patience, timer);
            }
            None => io.wake_in(200_000, timer),
        }
    }

    pub(super) fn answer(&mut self, ticket: Ticket, reply: &Reply, io: &mut Io<Request>) -> Checked {
        let i = (ticket.session - FIRST) as usize;
        let locker = &mut self.all[i];
        let Some(Asking { key, op, floor }) = locker.asking.clone().filter(|_| locker.number == ticket.number) else {
            return Ok(());
        };
        match (&op, reply) {
            (Op::Lock { .. }, Reply::Locked { token, holds: 1, .. }) => {
                locker.holds = Some((key, *token));
                self.locks += 1;
                if *token <= floor || !self.given.insert((key, *token)) {
                    let what = format!("lock {key} was given under token {token}, after {floor} was told");
                    return Err(Broken::new("fencing tokens strictly increase", what));
                }
                let newest = self.tokens.entry(key).or_insert(0);
                *newest = (*newest).max(*token);
            }
            (Op::Lock { .. } | Op::KeepLock { .. }, Reply::Locked { token, .. }) => {
                locker.holds = Some((key, *token));
            }
            (Op::Lock { .. }, Reply::Held { .. }) => self.held += 1,
            (Op::Unlock { .. }, Reply::Unlocked { holds }) => {
                locker.holds = locker.holds.filter(|_| *holds > 0);
            }
            (Op::KeepLock { .. } | Op::Unlock { .. }, Reply::Refused(_)) => locker.holds = None,
            (
                Op::Sequence { .. },
                Reply::Sequence {
                    generation,
                    first,
                    count,
                },
            ) => {
                for n in *first..first + count {
                    if !self.numbers.insert((key, *generation, n)) {
                        let what = format!("{n} of generation {generation} of sequence {key} was given twice");
                        return Err(Broken::new("sequences never repeat", what));
                    }
                }
            }
            (Op::SequenceReset { .. }, Reply::Done { .. }) => {}
            _ => {
                let what = format!("{op:?} was answered with {reply:?}");
                return Err(Broken::new("answers fit their questions", what));
            }
        }
        self.rest(i, io);
        Ok(())
    }
}
