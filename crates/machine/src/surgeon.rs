//! How merges are begun, and splits and merges moved on and put right. Everything is decided from what the machines say, at
//! each tick anew: so whatever a crash has forgotten is done again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use settle_base::{GroupId, Index, Mono, PeerId, Prng};

use crate::{
    Action, Birth, Context, CreateOutcome, HandedEntries, NewGroup,
    ranges::{Commit, MergeCommand, Merging, RangeChange, Ranged, State},
};

/// A group that is born by a split begins behind this entry, of this term: what a stray message could make would begin
/// at 0, and could never be taken for it.
const BIRTH: u64 = 5;
/// Merges hold the source's log under this name.
const MERGE: u64 = u64::MAX;
const ACT_AGAIN_AFTER: Duration = Duration::from_millis(700);
/// A source that lags is left alone for so long: it mostly comes there by itself.
const HAND_AFTER: Duration = Duration::from_millis(300);
/// After so long the source is given up: perhaps this node has no part in it, and nobody brings its replica there.
const TAKE_STATE_AFTER: Duration = Duration::from_secs(2);

/// What happened on this node since its process started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SurgeonCounters {
    pub splits: u64,
    /// Splits met again whose child was there already.
    pub splits_replayed: u64,
    pub prepared: u64,
    pub absorbed: u64,
    pub rolled_back: u64,
    pub finished: u64,
}

/// The part of a service that moves the splits and merges of its node on. All ranges are found from one, which is never
/// merged into another.
pub struct Surgeon {
    prng: Prng,
    root: GroupId,
    /// How many of a hundred merges are called off instead of committed.
    cancels_percent: u64,
    ticks: u64,
    /// Told to the host, not heard of since.
    creating: BTreeSet<GroupId>,
    /// Destroyed here.
    gone: BTreeSet<GroupId>,
    /// Logs kept for a child until enough others have it: its parent and the entry that split it off.
    holds: BTreeMap<GroupId, (GroupId, Index)>,
    /// Sources whose log is kept, and the entry that made them silent here.
    prepared: BTreeMap<GroupId, Index>,
    /// Targets that wait for their source.
    paused: BTreeMap<GroupId, Waiting>,
    /// Replicas that hold a merge durably, by target and source; perhaps no members any more. Not by node: what a node
    /// held before it lost its directory, its next replica does not hold.
    reports: BTreeMap<(GroupId, GroupId), BTreeSet<PeerId>>,
    /// When something was last proposed about a group.
    acted: BTreeMap<GroupId, Mono>,
    pub counters: SurgeonCounters,
}

struct Waiting {
    index: Index,
    needs: Bytes,
    since: Mono,
}

impl Surgeon {
    /// `seed` differs for every start of every node; `root` begins with all keys. `cancels_percent` of the merges are
    /// called off when they could be committed.
    pub fn new(seed: u64, root: GroupId, cancels_percent: u64) -> Surgeon {
        Surgeon {
            prng: Prng::new(seed),
            root,
            cancels_percent,
            ticks: 0,
            creating: BTreeSet::new(),
            gone: BTreeSet::new(),
            holds: BTreeMap::new(),
            prepared: BTreeMap::new(),
            paused: BTreeMap::new(),
            reports: BTreeMap::new(),
            acted: BTreeMap::new(),
            counters: SurgeonCounters::default(),
        }
    }

    /// All groups that can be found from the first; those among them that are here have a view.
    pub fn known<M: Ranged, R>(&self, context: &Context<'_, M, R>) -> Vec<GroupId> {
        let mut groups = vec![self.root];
        let mut at = 0;
        while at < groups.len() {
            if let Some(view) = context.group(groups[at]) {
                groups.extend(view.machine.outline().children);
            }
            at += 1;
        }
        groups
    }

    /// Who serves what `is_served` asks for, as far as this node knows, and at which version. After a restart an old range
    /// may lie over a new one.
    pub fn route<M: Ranged, R>(
        groups: &[GroupId],
        is_served: impl Fn(&M) -> bool,
        context: &Context<'_, M, R>,
    ) -> Option<(GroupId, u64)> {
        let serving = |group: &GroupId| {
            let machine = context.group(*group)?.machine;
            is_served(machine).then(|| (*group, machine.outline().epoch.version))
        };
        groups.iter().filter_map(serving).max_by_key(|(_, version)| *version)
    }

    /// Logs that are kept for children.
    fn holds(&self) -> impl Iterator<Item = (GroupId, Index)> {
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

    /// Merges a range into the one that it was split off, when this is its leader's node. Only between the same members,
    /// all well, and with nothing of an earlier split or merge left to do.
    pub fn begin_merge<M: Ranged, R>(&mut self, source: GroupId, context: &mut Context<'_, M, R>) {
        let is_parent = |group: &GroupId| {
            context
                .group(*group)
                .is_some_and(|v| v.machine.outline().children.contains(&source))
        };
        let Some(target) = self.known(context).into_iter().find(is_parent) else {
            return;
        };
        let (s, t) = match (context.group(source), context.group(target)) {
            (Some(s), Some(t)) if s.role.is_ready_leader && t.machine.outline().state == State::Serving => (s, t),
            _ => return,
        };
        let (from, to) = (s.machine.outline(), t.machine.outline());
        let is_same = from.members.voters == to.members.voters
            && [from.members, to.members]
                .iter()
                .all(|m| m.learners.is_empty() && !m.is_joint);
        let is_free = from.has_finished_merges() && !self.holds().any(|(group, _)| group == source);
        let marks = s.log.marks();
        let Some(on_all) = marks.on_all.filter(|on_all| on_all + 1 >= marks.first) else {
            return;
        };
        if is_same && s.machine.touches(t.machine) && is_free {
            let prepare = MergeCommand::Prepare {
                epoch: from.epoch,
                target,
                target_epoch: to.epoch,
                min_index: on_all + 1,
            };
            propose(source, prepare, context);
        }
    }

    pub fn on_change<M: Ranged, R>(&mut self, group: GroupId, change: RangeChange, context: &mut Context<'_, M, R>) {
        match change {
            RangeChange::Split {
                index,
                time,
                child,
                members,
                chunks,
            } => {
                self.counters.splits += 1;
                // First of all: from here on the child's beginning is in the parent's log alone.
                self.holds.insert(child, (group, index));
                let holder = child.0;
                context.act(Action::Hold { group, holder, index });
                let campaigns = context.group(group).is_some_and(|view| view.role.is_ready_leader);
                let birth = Birth {
                    members,
                    index: BIRTH,
                    term: BIRTH,
                    time,
                    chunks,
                    campaigns,
                };
                self.create(child, Some(birth), context);
            }
            RangeChange::Prepared { min_index, prepared } => {
                self.counters.prepared += 1;
                self.prepared.insert(group, prepared);
                let (holder, index) = (MERGE, min_index);
                context.act(Action::Hold { group, holder, index });
            }
            RangeChange::RolledBack => {
                self.counters.rolled_back += 1;
                self.prepared.remove(&group);
                context.act(Action::Release { group, holder: MERGE });
            }
            RangeChange::Absorbed => self.counters.absorbed += 1,
            RangeChange::Finished => self.counters.finished += 1,
        }
    }

    fn create<M, R>(&mut self, group: GroupId, birth: Option<Birth>, context: &mut Context<'_, M, R>) {
        self.creating.insert(group);
        context.act(Action::Create(Box::new(NewGroup { group, birth })));
    }

    pub fn on_created<M: Ranged, R>(
        &mut self,
        group: GroupId,
        outcome: CreateOutcome,
        context: &mut Context<'_, M, R>,
    ) {
        self.creating.remove(&group);
        match outcome {
            CreateOutcome::Created => {}
            CreateOutcome::Exists => self.counters.splits_replayed += 1,
            CreateOutcome::Tombstoned => {
                self.gone.insert(group);
            }
            // This replica came later than the split: its child's leader has a snapshot for it.
            CreateOutcome::Refused => self.create(group, None, context),
        }
        self.try_resume(context);
    }

    pub fn on_destroyed(&mut self, group: GroupId) {
        self.gone.insert(group);
        self.prepared.remove(&group);
    }

    pub fn on_paused<M: Ranged, R>(
        &mut self,
        group: GroupId,
        index: Index,
        needs: Bytes,
        context: &mut Context<'_, M, R>,
    ) {
        let since = context.now;
        self.paused.insert(group, Waiting { index, needs, since });
        self.try_resume(context);
    }

    /// The log of before is gone, and what was to be made of it comes with a snapshot too.
    pub fn on_reloaded<M: Ranged, R>(&mut self, group: GroupId, context: &mut Context<'_, M, R>) {
        self.paused.remove(&group);
        self.forget_holds(group, context);
        self.try_resume(context);
    }

    /// Gives targets that wait what they wait for: the source, once it has come to its end.
    pub fn try_resume<M: Ranged, R>(&mut self, context: &mut Context<'_, M, R>) {
        let waiting: Vec<GroupId> = self.paused.keys().copied().collect();
        for target in waiting {
            let waiting = &self.paused[&target];
            let Some(commit) = M::commit_of(&waiting.needs) else {
                continue;
            };
            let Some(source) = context.group(commit.source) else {
                continue;
            };
            let state = source.machine.outline().state;
            let stands_there = matches!(state, State::Merging(m) if m.prepared == commit.prepared);
            let is_given_early = settle_base::mutant!("merge_absorbs_unapplied_source");
            if stands_there || (is_given_early && state != State::Empty) {
                let (given, index) = (source.machine.inheritance(), waiting.index);
                self.paused.remove(&target);
                context.act(Action::Resume {
                    group: target,
                    index,
                    given,
                });
            }
        }
    }

    /// Whatever is due, found in the machines. At each tick.
    pub fn move_on<M: Ranged, R>(&mut self, context: &mut Context<'_, M, R>) {
        self.ticks += 1;
        self.try_resume(context);
        self.hand_entries(context);
        let groups = self.known(context);
        self.release_holds(context);
        for &group in &groups {
            if context.group(group).is_none() {
                if !self.creating.contains(&group) && !self.gone.contains(&group) {
                    self.create(group, None, context);
                }
                continue;
            }
            self.move_merge_on(group, &groups, context);
            self.end_merges(group, context);
        }
    }

    /// What was held of this log is not in it any more; the effects that would end the holds may never be seen.
    fn forget_holds<M, R>(&mut self, group: GroupId, context: &mut Context<'_, M, R>) {
        let of_group = |_: &GroupId, held: &mut (GroupId, u64)| held.0 == group;
        let children = self.holds.extract_if(.., of_group).map(|(child, _)| child.0);
        let holders = children.chain(self.prepared.remove(&group).map(|_| MERGE));
        for holder in holders {
            context.act(Action::Release { group, holder });
        }
    }

    fn release_holds<M, R>(&mut self, context: &mut Context<'_, M, R>) {
        let gone = &self.gone;
        // What a quorum of the child has committed rests on a quorum that has its beginning.
        let is_safe = |child: &GroupId| context.group(*child).is_some_and(|v| v.log.marks().committed > BIRTH);
        let done = self.holds.keys().filter(|child| gone.contains(child) || is_safe(child));
        for child in done.copied().collect::<Vec<_>>() {
            let (group, _) = self.holds.remove(&child).expect("it was just found");
            let holder = child.0;
            context.act(Action::Release { group, holder });
        }
    }

    fn hand_entries<M: Ranged, R>(&mut self, context: &mut Context<'_, M, R>) {
        let now = context.now;
        if !self.ticks.is_multiple_of(4) {
            return;
        }
        for (&group, waiting) in self.paused.iter().filter(|(_, w)| now.since(w.since) >= HAND_AFTER) {
            if now.since(waiting.since) >= TAKE_STATE_AFTER {
                let index = waiting.index;
                context.act(Action::TakeState { group, index });
            }
            if let Some(commit) = M::commit_of(&waiting.needs) {
                context.act(Action::HandEntries(HandedEntries {
                    group: commit.source,
                    prev_index: commit.prev_index,
                    prev_term: commit.prev_term,
                    entries: commit.entries,
                }));
            }
        }
    }

    /// Not everything at every tick: a proposal takes its time.
    fn may_act<M, R>(&mut self, group: GroupId, context: &Context<'_, M, R>) -> bool {
        let now = context.now;
        let is_due = self
            .acted
            .get(&group)
            .is_none_or(|at| now.since(*at) >= ACT_AGAIN_AFTER);
        if is_due {
            self.acted.insert(group, now);
        }
        is_due
    }

    /// `source` is silent: either its target absorbs it, or it cannot any more and the source serves again.
    fn move_merge_on<M: Ranged, R>(&mut self, source: GroupId, groups: &[GroupId], context: &mut Context<'_, M, R>) {
        let s = context.group(source).expect("it was just seen");
        let State::Merging(merging) = s.machine.outline().state else {
            return;
        };
        let Merging {
            target,
            target_epoch,
            min_index,
            prepared,
        } = merging;
        let rollback = MergeCommand::Rollback { prepared };
        let Some(t) = context.group(target) else {
            // The target itself was absorbed, without this source: else it would be remembered there, and unknown here.
            let is_absorbed = |group: &GroupId| {
                context
                    .group(*group)
                    .is_some_and(|v| v.machine.outline().absorbed.contains_key(&target))
            };
            if s.role.is_ready_leader && groups.iter().any(is_absorbed) && self.may_act(source, context) {
                propose(source, rollback, context);
            }
            return;
        };
        let to = t.machine.outline();
        if to.absorbed.contains_key(&source) {
            return;
        }
        let is_past = to.epoch.version > target_epoch.version || to.epoch.conf_ver > target_epoch.conf_ver;
        if is_past && s.role.is_ready_leader && self.may_act(source, context) {
            propose(source, rollback, context);
        } else if to.epoch == target_epoch && t.role.is_ready_leader && self.may_act(source, context) {
            let epoch = target_epoch;
            if self.prng.percent(self.cancels_percent) {
                return propose(target, MergeCommand::Cancel { epoch, source }, context);
            }
            let tail = s.log.entries(min_index - 1, prepared).map(|tail| (min_index - 1, tail));
            let end = || s.log.entries(prepared, prepared).map(|tail| (prepared, tail));
            let Some((prev_index, (prev_term, entries))) = tail.or_else(end) else {
                return;
            };
            let commit = Commit {
                epoch,
                source,
                range: s.machine.range(),
                prepared,
                prev_index,
                prev_term,
                entries,
            };
            propose(target, MergeCommand::Commit(commit), context);
        }
    }

    /// A source goes once every replica of its target holds the merged state in a durable snapshot.
    fn end_merges<M: Ranged, R>(&mut self, target: GroupId, context: &mut Context<'_, M, R>) {
        let t = context.group(target).expect("it was just seen");
        let (role, snapshot, us) = (t.role, t.log.marks().snapshot, t.peer);
        let outline = t.machine.outline();
        let members = outline.members;
        for (&source, absorbed) in outline.absorbed {
            if absorbed.is_finished {
                if !self.gone.contains(&source) && self.may_act(source, context) {
                    context.act(Action::Destroy { group: source });
                }
                continue;
            }
            let is_needed = self.holds().any(|(group, _)| group == source);
            if snapshot < absorbed.at || is_needed {
                if self.may_act(source, context) {
                    context.act(Action::TakeSnapshot { group: target });
                }
                continue;
            }
            let me = context.node;
            match role.leader {
                Some(leader) if leader == me => {
                    let holders = self.reports.entry((target, source)).or_default();
                    holders.insert(us);
                    let mut present = members.voters.iter().chain(&members.learners);
                    let is_everywhere = !members.is_joint && present.all(|peer| holders.contains(peer));
                    if role.is_ready_leader && is_everywhere && self.may_act(source, context) {
                        propose(target, MergeCommand::Finish { source }, context);
                    }
                }
                Some(to) if self.may_act(source, context) => {
                    let body = report(target, source, us);
                    context.act(Action::Peer { to, body });
                }
                _ => {}
            }
        }
    }

    /// What another node's surgeon sent with [`Action::Peer`].
    pub fn on_peer(&mut self, mut body: Bytes) {
        if body.len() == REPORT_BYTES {
            let (target, source) = (GroupId(body.get_u64_le()), GroupId(body.get_u64_le()));
            let peer = PeerId(body.get_u64_le());
            self.reports.entry((target, source)).or_default().insert(peer);
        }
    }
}

fn propose<M: Ranged, R>(group: GroupId, command: MergeCommand<M::Range>, context: &mut Context<'_, M, R>) {
    let command = M::encode(command);
    context.act(Action::Propose {
        group,
        command,
        expected_term: None,
    });
}

const REPORT_BYTES: usize = 24;

/// `peer` holds durably what `target` was after it absorbed `source`.
fn report(target: GroupId, source: GroupId, peer: PeerId) -> Bytes {
    let mut out = BytesMut::with_capacity(REPORT_BYTES);
    out.put_u64_le(target.0);
    out.put_u64_le(source.0);
    out.put_u64_le(peer.0);
    out.freeze()
}
