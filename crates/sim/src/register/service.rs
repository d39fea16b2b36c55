use std::{collections::BTreeMap, time::Duration};

use settle_base::{GroupId, Mono, Prng};
use settle_machine::{Action, Context, Event, Service};

use super::machine::{Cell, RegisterMachine, Write, Written, encode};

const PROPOSE_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// A client that hears nothing for so long has asked elsewhere.
const HOLD: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    Write(Write),
    Read { client: u32, number: u64, key: u32 },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Response {
    Written(Written),
    Read { client: u32, number: u64, cell: Cell },
}

/// Keys are spread over the groups.
pub(crate) fn group_of(key: u32, groups: u64) -> GroupId {
    GroupId(1 + u64::from(key) % groups)
}

/// Proposes what its clients ask until it sees it applied; reads after a confirmed index.
pub(crate) struct RegisterService {
    /// Which group holds a key: see [`group_of`].
    groups: u64,
    prng: Prng,
    padding_max: u64,
    writes: BTreeMap<(u32, u64), PendingWrite>,
    reads: BTreeMap<u64, PendingRead>,
    next_token: u64,
    pub(crate) proposed_again: u64,
}

struct PendingWrite {
    write: Write,
    since: Mono,
    proposed: Option<Mono>,
    was_proposed: bool,
}

struct PendingRead {
    client: u32,
    number: u64,
    key: u32,
    since: Mono,
    is_asked: bool,
    /// To be asked again at the next tick.
    is_lost: bool,
}

impl RegisterService {
    pub(crate) fn new(seed: u64, groups: u64, padding_max: u64) -> RegisterService {
        RegisterService {
            groups,
            prng: Prng::new(seed),
            padding_max,
            writes: BTreeMap::new(),
            reads: BTreeMap::new(),
            next_token: 1,
            proposed_again: 0,
        }
    }
}

impl Service for RegisterService {
    type Machine = RegisterMachine;
    type Request = Request;
    type Response = Response;

    fn step(&mut self, event: Event<'_, Written, Request>, context: &mut Context<'_, RegisterMachine, Response>) {
        match event {
            Event::Request(Request::Write(write)) => {
                let pending = PendingWrite {
                    write,
                    since: context.now,
                    proposed: None,
                    was_proposed: false,
                };
                self.writes.insert((write.client, write.number), pending);
            }
            Event::Request(Request::Read { client, number, key }) => {
                let read = PendingRead {
                    client,
                    number,
                    key,
                    since: context.now,
                    is_asked: false,
                    is_lost: false,
                };
                self.reads.insert(self.next_token, read);
                self.next_token += 1;
            }
            Event::Applied { effects, .. } => {
                for written in effects.drain(..) {
                    if self.writes.remove(&(written.client, written.number)).is_some() {
                        context.act(Action::Respond(Response::Written(written)));
                    }
                }
            }
            Event::Role { group, .. } | Event::Reloaded { group } | Event::Stopped { group, .. } => {
                for pending in self.writes.values_mut() {
                    if group_of(pending.write.key, self.groups) == group {
                        pending.proposed = None;
                    }
                }
            }
            Event::ReadReady { group, token } => {
                let machine = context.group(group).expect("the group that was read").machine;
                if let Some(read) = self.reads.remove(&token) {
                    let PendingRead {
                        client, number, key, ..
                    } = read;
                    let cell = machine.get(key);
                    context.act(Action::Respond(Response::Read { client, number, cell }));
                }
            }
            Event::ReadDropped { token, .. } => {
                if let Some(read) = self.reads.get_mut(&token) {
                    read.is_lost = true;
                }
            }
            Event::Tick => {
                let now = context.now;
                self.writes.retain(|_, w| now.since(w.since) < HOLD);
                self.reads.retain(|_, r| now.since(r.since) < HOLD);
                for read in self.reads.values_mut() {
                    read.is_asked &= !std::mem::take(&mut read.is_lost);
                }
            }
            Event::Flush => self.flush(context),
            _ => {}
        }
    }
}

impl RegisterService {
    fn flush(&mut self, context: &mut Context<'_, RegisterMachine, Response>) {
        let now = context.now;
        let mut batches: BTreeMap<GroupId, Vec<Write>> = BTreeMap::new();
        for pending in self.writes.values_mut() {
            if pending.proposed.is_none_or(|at| now.since(at) >= PROPOSE_AGAIN_AFTER) {
                self.proposed_again += u64::from(pending.was_proposed);
                pending.proposed = Some(now);
                pending.was_proposed = true;
                let group = group_of(pending.write.key, self.groups);
                batches.entry(group).or_default().push(pending.write);
            }
        }
        for (group, batch) in batches {
            let padding = self.prng.below(self.padding_max + 1) as usize;
            let command = encode(&batch, padding);
            context.act(Action::Propose {
                group,
                command,
                expected_term: None,
            });
        }
        for (&token, read) in &mut self.reads {
            if !read.is_asked {
                read.is_asked = true;
                let group = group_of(read.key, self.groups);
                context.act(Action::Read { group, token });
            }
        }
    }
}
