//! The front of all regions on one node: finds the region of a key among the node's own replicas, and asks again until it
//! is answered. The surgeon moves splits and merges on.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use settle_base::{GroupId, Mono};
use settle_kv::{Command, Effect, Found, Op, Query, Refusal, Region, Reply, Request as Ask};
use settle_machine::{
    Action, Context, Event, Service, Ticket,
    ranges::{RangeChange, Surgeon},
};
use settle_storage::{MemEngine, MemView};

/// The region that begins with all keys. It is never merged into another.
pub(super) const WHOLE: GroupId = GroupId(1);
const PROPOSE_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// A client that hears nothing for so long has asked elsewhere.
const HOLD: Duration = Duration::from_secs(10);
/// Of the merges, so that giving one up is tried too.
const CANCELS_PERCENT: u64 = 15;
/// What has ended waits so many ticks for another entry.
const TICK_AFTER: u64 = 10;

pub(super) type Machine = Region<MemEngine>;

#[derive(Clone, Debug)]
pub(crate) enum Request {
    Ask {
        ticket: Ticket,
        key: Bytes,
        op: Op,
    },
    Get {
        client: u32,
        number: u64,
        key: Bytes,
    },
    /// Split the region of `at` there. Only its leader's node does it.
    Split {
        at: Bytes,
        child: GroupId,
    },
    /// Merge the region of `key` into the one that it was split off. Only its leader's node begins it.
    Merge {
        key: Bytes,
    },
}

/// `epoch` is the version of the region that answered.
#[derive(Clone, Debug)]
pub(crate) enum Response {
    Answered {
        ticket: Ticket,
        reply: Reply,
        epoch: u64,
    },
    Got {
        client: u32,
        number: u64,
        found: Option<Found>,
        epoch: u64,
    },
}

pub(crate) struct KvService {
    asks: BTreeMap<Ticket, PendingAsk>,
    gets: BTreeMap<u64, PendingGet>,
    next_token: u64,
    ticks: u64,
    pub(super) surgeon: Surgeon,
    pub(super) refused: u64,
    pub(super) proposed_again: u64,
}

struct PendingAsk {
    key: Bytes,
    op: Op,
    since: Mono,
    proposed: Option<Mono>,
    was_proposed: bool,
}

struct PendingGet {
    client: u32,
    number: u64,
    key: Bytes,
    since: Mono,
    is_asked: bool,
}

type Hands<'a, 'c> = &'a mut Context<'c, Machine, Response>;

impl KvService {
    /// `seed` differs for every start of every node.
    pub(super) fn new(seed: u64) -> KvService {
        KvService {
            asks: BTreeMap::new(),
            gets: BTreeMap::new(),
            next_token: 1,
            ticks: 0,
            surgeon: Surgeon::new(seed, WHOLE, CANCELS_PERCENT),
            refused: 0,
            proposed_again: 0,
        }
    }

    fn on_request(&mut self, request: Request, context: Hands<'_, '_>) {
        let since = context.now;
        match request {
            Request::Ask { ticket, key, op } => {
                let pending = PendingAsk {
                    key,
                    op,
                    since,
                    proposed: None,
                    was_proposed: false,
                };
                self.asks.insert(ticket, pending);
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
            Request::Split { at, child } => self.begin_split(&at, child, context),
            Request::Merge { key } => {
                let source = route(&self.surgeon.known(context), &key, context);
                if let Some((source, _)) = source.filter(|(group, _)| *group != WHOLE) {
                    self.surgeon.begin_merge(source, context);
                }
            }
        }
    }

    fn begin_split(&mut self, at: &Bytes, child: GroupId, context: Hands<'_, '_>) {
        let Some((group, _)) = route(&self.surgeon.known(context), at, context) else {
            return;
        };
        let view = context.group(group).expect("it was just found");
        if view.role.is_ready_leader {
            let (epoch, at) = (view.machine.descriptor().epoch, at.clone());
            propose(group, &Command::Split { epoch, at, child }, context);
        }
    }

    fn on_effects(&mut self, group: GroupId, effects: &mut Vec<Effect<MemView>>, context: Hands<'_, '_>) {
        for effect in effects.drain(..) {
            match effect {
                Effect::Replied {
                    ticket,
                    reply: Reply::Refused(Refusal::Elsewhere { .. } | Refusal::Silent),
                } => {
                    self.refused += 1;
                    if let Some(pending) = self.asks.get_mut(&ticket) {
                        pending.proposed = None;
                    }
                }
                Effect::Replied { ticket, reply } => {
                    if self.asks.remove(&ticket).is_some() {
                        let view = context.group(group).expect("it has just applied this");
                        let epoch = view.machine.descriptor().epoch.version;
                        context.act(Action::Respond(Response::Answered { ticket, reply, epoch }));
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
        let key = get.key.clone();
        let view = context.group(group).expect("the group that was read");
        let epoch = view.machine.descriptor().epoch.version;
        match view.machine.read(epoch, &Query::Get { key }) {
            Ok(Reply::Found(found)) => {
                let PendingGet { client, number, .. } = *get;
                self.gets.remove(&token);
                context.act(Action::Respond(Response::Got {
                    client,
                    number,
                    found,
                    epoch,
                }));
            }
            // It was split off or merged meanwhile.
            Ok(_) => get.is_asked = false,
            Err(error) => panic!("an engine in memory does not fail: {error}"),
        }
    }

    fn flush(&mut self, context: Hands<'_, '_>) {
        if self.asks.is_empty() && self.gets.is_empty() {
            return;
        }
        let now = context.now;
        let groups = self.surgeon.known(context);
        let mut batches: BTreeMap<GroupId, (u64, Vec<Ask>)> = BTreeMap::new();
        for (&ticket, pending) in &mut self.asks {
            if pending.proposed.is_some_and(|at| now.since(at) < PROPOSE_AGAIN_AFTER) {
                continue;
            }
            let Some((group, version)) = route(&groups, &pending.key, context) else {
                continue;
            };
            self.proposed_again += u64::from(pending.was_proposed);
            pending.proposed = Some(now);
            pending.was_proposed = true;
            let ask = Ask {
                ticket,
                is_remembered: true,
                op: pending.op.clone(),
            };
            batches.entry(group).or_insert((version, Vec::new())).1.push(ask);
        }
        for (group, (version, requests)) in batches {
            propose(group, &Command::Requests { version, requests }, context);
        }
        for (&token, get) in self.gets.iter_mut().filter(|(_, get)| !get.is_asked) {
            if let Some((group, _)) = route(&groups, &get.key, context) {
                get.is_asked = true;
                context.act(Action::Read { group, token });
            }
        }
    }

    /// What has ended ends with an entry, and so does what was given away.
    fn tick(&mut self, context: Hands<'_, '_>) {
        let now = context.now;
        self.asks.retain(|_, ask| now.since(ask.since) < HOLD);
        self.gets.retain(|_, get| now.since(get.since) < HOLD);
        self.surgeon.move_on(context);
        self.ticks += 1;
        if !self.ticks.is_multiple_of(TICK_AFTER) {
            return;
        }
        for group in self.surgeon.known(context) {
            let wants = |group| {
                let view = context.group(group)?;
                Some(view.role.is_ready_leader && view.machine.wants_tick(view.time))
            };
            if wants(group) == Some(true) {
                propose(group, &Command::Tick, context);
            }
        }
    }
}

impl Service for KvService {
    type Machine = Machine;
    type Request = Request;
    type Response = Response;

    fn step(&mut self, event: Event<'_, Effect<MemView>, Request>, context: Hands<'_, '_>) {
        match event {
            Event::Request(request) => self.on_request(request, context),
            Event::Applied { group, effects } => {
                self.on_effects(group, effects, context);
                self.surgeon.try_resume(context);
            }
            Event::Reloaded { group } => self.surgeon.on_reloaded(group, context),
            Event::Role { .. } => self.asks.values_mut().for_each(|pending| pending.proposed = None),
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
            Event::Tick => self.tick(context),
            Event::Flush => self.flush(context),
            _ => {}
        }
    }
}

fn route(groups: &[GroupId], key: &Bytes, context: &Context<'_, Machine, Response>) -> Option<(GroupId, u64)> {
    Surgeon::route(groups, |machine: &Machine| machine.serves(key), context)
}

fn propose(group: GroupId, command: &Command, context: Hands<'_, '_>) {
    let command = command.encode();
    context.act(Action::Propose {
        group,
        command,
        expected_term: None,
    });
}

/// What is the surgeon's.
fn change(effect: Effect<MemView>) -> Option<RangeChange> {
    Some(match effect {
        Effect::Split {
            index,
            time,
            child,
            members,
            image,
        } => RangeChange::Split {
            index,
            time,
            child,
            members,
            chunks: image.chunks().collect(),
        },
        Effect::Prepared { prepared, min_index } => RangeChange::Prepared { prepared, min_index },
        Effect::Absorbed { .. } => RangeChange::Absorbed,
        Effect::RolledBack { .. } => RangeChange::RolledBack,
        Effect::Finished { .. } => RangeChange::Finished,
        Effect::Replied { .. } | Effect::Changed(_) | Effect::Outdated => return None,
    })
}
