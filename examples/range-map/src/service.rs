//! The front of all ranges on one node: finds the range of a key among the node's own replicas, and asks again until it
//! is answered. `merge.rs` has the other half, which moves splits and merges on.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use settle_base::{GroupId, Index, Mono, PeerId, Prng};
use settle_machine::{Action, Context, Event, GroupView, Service};

use crate::{
    command::{Command, Put},
    machine::{Cell, Effect, RangeMap, State, WHOLE},
};

const PROPOSE_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// A client that hears nothing for so long has asked elsewhere.
const HOLD: Duration = Duration::from_secs(10);

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

/// What happened on this node since its process started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    pub refused: u64,
    pub splits: u64,
    /// Splits met again whose child was there already.
    pub splits_replayed: u64,
    pub prepared: u64,
    pub absorbed: u64,
    pub rolled_back: u64,
    pub finished: u64,
    pub proposed_again: u64,
}

pub(crate) type Hands<'a, 'c> = &'a mut Context<'c, RangeMap, Response>;

pub struct RangeService {
    pub(crate) prng: Prng,
    padding_max: u64,
    puts: BTreeMap<(u32, u64), PendingPut>,
    gets: BTreeMap<u64, PendingGet>,
    next_token: u64,
    pub(crate) ticks: u64,
    /// Told to the host, not heard of since.
    pub(crate) creating: BTreeSet<GroupId>,
    /// Destroyed here.
    pub(crate) gone: BTreeSet<GroupId>,
    /// Logs kept for a child until enough others have it: its parent and the entry that split it off.
    pub(crate) holds: BTreeMap<GroupId, (GroupId, Index)>,
    /// Sources whose log is kept, and the entry that made them silent here.
    pub(crate) prepared: BTreeMap<GroupId, Index>,
    /// Targets that wait for their source.
    pub(crate) paused: BTreeMap<GroupId, Waiting>,
    /// Replicas that hold a merge durably, by target and source; perhaps no members any more. Not by node: what a node
    /// held before it lost its directory, its next replica does not hold.
    pub(crate) reports: BTreeMap<(GroupId, GroupId), BTreeSet<PeerId>>,
    /// When something was last proposed about a group.
    pub(crate) acted: BTreeMap<GroupId, Mono>,
    pub counters: Counters,
}

pub(crate) struct Waiting {
    pub(crate) index: Index,
    pub(crate) needs: Bytes,
    pub(crate) since: Mono,
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
            ticks: 0,
            creating: BTreeSet::new(),
            gone: BTreeSet::new(),
            holds: BTreeMap::new(),
            prepared: BTreeMap::new(),
            paused: BTreeMap::new(),
            reports: BTreeMap::new(),
            acted: BTreeMap::new(),
            counters: Counters::default(),
        }
    }

    /// Logs that are kept for children.
    pub(crate) fn holds(&self) -> impl Iterator<Item = (GroupId, Index)> {
        self.holds.values().copied()
    }

    /// Logs that must be kept while this process lives: of which group, from which entry on.
    pub fn kept(&self) -> impl Iterator<Item = (GroupId, Index)> {
        self.holds()
            .chain(self.prepared.iter().map(|(group, index)| (*group, *index)))
    }

    /// Whether a target waits for its source, a source is silent, a new group is on its way.
    pub fn is_busy(&self) -> (bool, bool, bool) {
        (
            !self.paused.is_empty(),
            !self.prepared.is_empty(),
            !self.creating.is_empty(),
        )
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
            Request::Merge { key } => self.begin_merge(key, context),
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
                effect => self.on_range_effect(group, effect, context),
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
        let groups = known(context);
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
                self.try_resume(context);
            }
            Event::Reloaded { group } => {
                // The log of before is gone, and what was to be made of it comes with a snapshot too.
                self.paused.remove(&group);
                self.forget_holds(group, context);
                self.try_resume(context);
            }
            Event::Role { .. } => self.puts.values_mut().for_each(|pending| pending.proposed = None),
            Event::ReadReady { group, token } => self.on_get(group, token, context),
            Event::ReadDropped { token, .. } => {
                if let Some(get) = self.gets.get_mut(&token) {
                    get.is_asked = false;
                }
            }
            Event::Created { group, outcome } => self.on_created(group, outcome, context),
            Event::Destroyed { group } => {
                self.gone.insert(group);
                self.prepared.remove(&group);
            }
            Event::ApplyPaused { group, index, needs } => {
                let since = context.now;
                self.paused.insert(group, Waiting { index, needs, since });
                self.try_resume(context);
            }
            Event::Peer { body, .. } => self.on_report(body),
            Event::Tick => {
                let now = context.now;
                self.puts.retain(|_, put| now.since(put.since) < HOLD);
                self.gets.retain(|_, get| now.since(get.since) < HOLD);
                self.ticks += 1;
                self.move_on(context);
            }
            Event::Flush => self.flush(context),
            _ => {}
        }
    }
}

/// All groups that can be found from [`WHOLE`]; those among them that are here have a view.
pub(crate) fn known(context: &Context<'_, RangeMap, Response>) -> Vec<GroupId> {
    let mut groups = vec![WHOLE];
    let mut at = 0;
    while at < groups.len() {
        if let Some(view) = context.group(groups[at]) {
            groups.extend(view.machine.children.keys());
        }
        at += 1;
    }
    groups
}

/// Who serves `key` as far as this node knows, and at which version. After a restart an old range may lie over a new one.
pub(crate) fn route(groups: &[GroupId], key: u32, context: &Context<'_, RangeMap, Response>) -> Option<(GroupId, u64)> {
    let serving = |group: &GroupId| {
        let machine = context.group(*group)?.machine;
        machine.serves(key).then_some((*group, machine.epoch.version))
    };
    groups.iter().filter_map(serving).max_by_key(|(_, version)| *version)
}

pub(crate) fn is_serving(view: &GroupView<'_, RangeMap>) -> bool {
    view.machine.state == State::Serving
}
