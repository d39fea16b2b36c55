//! The front of all ranges on one node: finds the range of a key among the node's own replicas, and asks again until it
//! is answered. The surgeon moves splits and merges on.

use std::{collections::BTreeMap, time::Duration};

use settle_base::{GroupId, Mono, Prng};
use settle_machine::{
    Action, Context, Event, Service,
    ranges::{RangeChange, Surgeon},
};

use crate::{
    command::{Command, Put},
    machine::{Cell, Effect, RangeMap, WHOLE},
};

const PROPOSE_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// A client that hears nothing for so long has asked elsewhere.
const HOLD: Duration = Duration::from_secs(10);
/// Of the merges, so that giving one up is tried too.
const CANCELS_PERCENT: u64 = 15;

#[derive(Clone, Copy, Debug)]
pub enum Request {
    Put(Put),
    Get {
        client: u32,
        number: u64,
        key: u32,
    },
    /// Split the range of `at` there. `child` was never used before. Only its leader's node does it, and not before the
    /// range's earlier merges are finished: ask again.
    Split {
        at: u32,
        child: GroupId,
    },
    /// Merge the range of `key` into the one that it was split off. Only its leader's node begins it.
    Merge {
        key: u32,
    },
}

/// `epoch` is the version of the range that answered.
#[derive(Clone, Debug)]
pub enum Response {
    Put {
        client: u32,
        number: u64,
        version: u64,
        epoch: u64,
    },
    Get {
        client: u32,
        number: u64,
        cell: Cell,
        epoch: u64,
    },
}

/// What happened on this node since its process started, beside what its surgeon counts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    pub refused: u64,
    pub proposed_again: u64,
}

type Hands<'a, 'c> = &'a mut Context<'c, RangeMap, Response>;

pub struct RangeService {
    prng: Prng,
    padding_max: u64,
    puts: BTreeMap<(u32, u64), PendingPut>,
    gets: BTreeMap<u64, PendingGet>,
    next_token: u64,
    pub surgeon: Surgeon,
    pub counters: Counters,
}

struct PendingPut {
    put: Put,
    since: Mono,
    proposed: Option<Mono>,
    was_proposed: bool,
}

struct PendingGet {
    client: u32,
    number: u64,
    key: u32,
    since: Mono,
    is_asked: bool,
}

impl RangeService {
    /// `seed` differs for every start of every node.
    pub fn new(seed: u64, padding_max: u64) -> RangeService {
        RangeService {
            prng: Prng::new(seed),
            padding_max,
            puts: BTreeMap::new(),
            gets: BTreeMap::new(),
            next_token: 1,
            surgeon: Surgeon::new(seed.wrapping_add(1), WHOLE, CANCELS_PERCENT),
            counters: Counters::default(),
        }
    }

    fn on_request(&mut self, request: Request, context: Hands<'_, '_>) {
        let since = context.now;
        match request {
            Request::Put(put) => {
                let pending = PendingPut {
                    put,
                    since,
                    proposed: None,
                    was_proposed: false,
                };
                self.puts.insert((put.client, put.number), pending);
            }
            Request::Get { client, number, key } => {
                let get = PendingGet {
                    client,
                    number,
                    key,
                    since,
                    is_asked: false,
                };
                self.gets.insert(self.next_token, get);
                self.next_token += 1;
            }
            Request::Split { at, child } => self.begin_split(at, child, context),
            Request::Merge { key } => {
                let source = route(&self.surgeon.known(context), key, context);
                if let Some((source, _)) = source.filter(|(group, _)| *group != WHOLE) {
                    self.surgeon.begin_merge(source, context);
                }
            }
        }
    }

    /// Only where the range's leader is.
    fn begin_split(&mut self, at: u32, child: GroupId, context: Hands<'_, '_>) {
        let Some((group, _)) = route(&self.surgeon.known(context), at, context) else {
            return;
        };
        let view = context.group(group).expect("it was just found");
        if view.role.is_ready_leader && view.machine.start < at {
            let epoch = view.machine.epoch;
            let command = Command::Split { epoch, at, child }.encode();
            context.act(Action::Propose {
                group,
                command,
                expected_term: None,
            });
        }
    }

    fn on_effects(&mut self, group: GroupId, effects: &mut Vec<Effect>, context: Hands<'_, '_>) {
        for effect in effects.drain(..) {
            match effect {
                Effect::Written {
                    client,
                    number,
                    version,
                    epoch,
                } => {
                    if self.puts.remove(&(client, number)).is_some() {
                        context.act(Action::Respond(Response::Put {
                            client,
                            number,
                            version,
                            epoch,
                        }));
                    }
                }
                Effect::Refused { client, number } => {
                    self.counters.refused += 1;
                    if let Some(pending) = self.puts.get_mut(&(client, number)) {
                        pending.proposed = None;
                    }
                }
                effect => {
                    if let Some(change) = change(effect) {
                        self.surgeon.on_change(group, change, context);
                    }
                }
            }
        }
    }

    fn on_get(&mut self, group: GroupId, token: u64, context: Hands<'_, '_>) {
        let Some(get) = self.gets.get_mut(&token) else { return };
        let key = get.key;
        match context.group(group).filter(|view| view.machine.serves(key)) {
            Some(view) => {
                let PendingGet { client, number, .. } = *get;
                let (cell, epoch) = (view.machine.get(key), view.machine.epoch.version);
                self.gets.remove(&token);
                context.act(Action::Respond(Response::Get {
                    client,
                    number,
                    cell,
                    epoch,
                }));
            }
            // It was split off or merged meanwhile.
            None => get.is_asked = false,
        }
    }

    fn flush(&mut self, context: Hands<'_, '_>) {
        if self.puts.is_empty() && self.gets.is_empty() {
            return;
        }
        let now = context.now;
        let groups = self.surgeon.known(context);
        let mut batches: BTreeMap<GroupId, (u64, Vec<Put>)> = BTreeMap::new();
        for pending in self.puts.values_mut() {
            if pending.proposed.is_some_and(|at| now.since(at) < PROPOSE_AGAIN_AFTER) {
                continue;
            }
            let Some((group, version)) = route(&groups, pending.put.key, context) else {
                continue;
            };
            self.counters.proposed_again += u64::from(pending.was_proposed);
            pending.proposed = Some(now);
            pending.was_proposed = true;
            batches
                .entry(group)
                .or_insert((version, Vec::new()))
                .1
                .push(pending.put);
        }
        for (group, (version, puts)) in batches {
            let padding = self.prng.below(self.padding_max + 1) as u32;
            let command = Command::Puts { version, puts, padding }.encode();
            context.act(Action::Propose {
                group,
                command,
                expected_term: None,
            });
        }
        for (&token, get) in self.gets.iter_mut().filter(|(_, get)| !get.is_asked) {
            if let Some((group, _)) = route(&groups, get.key, context) {
                get.is_asked = true;
                context.act(Action::Read { group, token });
            }
        }
    }
}

impl Service for RangeService {
    type Machine = RangeMap;
    type Request = Request;
    type Response = Response;

    fn step(&mut self, event: Event<'_, Effect, Request>, context: &mut Context<'_, RangeMap, Response>) {
        match event {
            Event::Request(request) => self.on_request(request, context),
            Event::Applied { group, effects } => {
                self.on_effects(group, effects, context);
                self.surgeon.try_resume(context);
            }
            Event::Reloaded { group } => self.surgeon.on_reloaded(group, context),
            Event::Role { .. } => self.puts.values_mut().for_each(|pending| pending.proposed = None),
            Event::ReadReady { group, token } => self.on_get(group, token, context),
            Event::ReadDropped { token, .. } => {
                if let Some(get) = self.gets.get_mut(&token) {
                    get.is_asked = false;
                }
            }
            Event::Created { group, outcome } => self.surgeon.on_created(group, outcome, context),
            Event::Destroyed { group } => self.surgeon.on_destroyed(group),
            Event::ApplyPaused { group, index, needs } => self.surgeon.on_paused(group, index, needs, context),
            Event::Peer { body, .. } => self.surgeon.on_peer(body),
            Event::Tick => {
                let now = context.now;
                self.puts.retain(|_, put| now.since(put.since) < HOLD);
                self.gets.retain(|_, get| now.since(get.since) < HOLD);
                self.surgeon.move_on(context);
            }
            Event::Flush => self.flush(context),
            _ => {}
        }
    }
}

/// Who serves `key` as far as this node knows, and at which version.
fn route(groups: &[GroupId], key: u32, context: &Context<'_, RangeMap, Response>) -> Option<(GroupId, u64)> {
    Surgeon::route(groups, |machine: &RangeMap| machine.serves(key), context)
}

/// What is the surgeon's.
fn change(effect: Effect) -> Option<RangeChange> {
    Some(match effect {
        Effect::Split {
            index,
            time,
            child,
            members,
            state,
        } => RangeChange::Split {
            index,
            time,
            child,
            members,
            chunks: vec![state],
        },
        Effect::Prepared { prepared, min_index } => RangeChange::Prepared { prepared, min_index },
        Effect::Absorbed { .. } => RangeChange::Absorbed,
        Effect::RolledBack { .. } => RangeChange::RolledBack,
        Effect::Finished { .. } => RangeChange::Finished,
        Effect::Written { .. } | Effect::Refused { .. } | Effect::Outdated => return None,
    })
}
