//! How splits and merges are begun, moved on and put right. Everything is decided from what the machines say, at each
//! tick anew: so whatever a crash has forgotten is done again.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use settle_base::{GroupId, PeerId};
use settle_machine::{Action, Birth, CreateOutcome, HandedEntries, NewGroup};

use crate::{
    codec::Reader,
    command::{Command, Commit},
    machine::{Effect, Merging, State, WHOLE},
    service::{Hands, RangeService, is_serving, known, route},
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

impl RangeService {
    pub(crate) fn begin_split(&mut self, at: u32, child: GroupId, context: Hands<'_, '_>) {
        let groups = known(context);
        let Some((group, _)) = route(&groups, at, context) else {
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

    /// Only between the same members, all well, and with nothing of an earlier split or merge left to do.
    pub(crate) fn begin_merge(&mut self, key: u32, context: Hands<'_, '_>) {
        let groups = known(context);
        let Some((source, _)) = route(&groups, key, context).filter(|(group, _)| *group != WHOLE) else {
            return;
        };
        let is_parent = |group: &&GroupId| {
            context
                .group(**group)
                .is_some_and(|v| v.machine.children.contains_key(&source))
        };
        let Some(target) = groups.iter().find(is_parent).copied() else {
            return;
        };
        let (s, t) = match (context.group(source), context.group(target)) {
            (Some(s), Some(t)) if s.role.is_ready_leader && is_serving(&t) => (s, t),
            _ => return,
        };
        let (from, to) = (s.machine, t.machine);
        let is_same = from.members.voters == to.members.voters
            && [&from.members, &to.members]
                .iter()
                .all(|m| m.learners.is_empty() && !m.is_joint);
        let touches = from.end == to.start || from.start == to.end;
        let is_free = from.absorbed.values().all(|a| a.is_finished) && !self.holds().any(|(group, _)| group == source);
        let marks = s.log.marks();
        let Some(on_all) = marks.on_all.filter(|on_all| on_all + 1 >= marks.first) else {
            return;
        };
        if is_same && touches && is_free {
            let prepare = Command::Prepare {
                epoch: from.epoch,
                target,
                target_epoch: to.epoch,
                min_index: on_all + 1,
            };
            let command = prepare.encode();
            context.act(Action::Propose {
                group: source,
                command,
                expected_term: None,
            });
        }
    }

    pub(crate) fn on_range_effect(&mut self, group: GroupId, effect: Effect, context: Hands<'_, '_>) {
        match effect {
            Effect::Split {
                index,
                time,
                child,
                members,
                state,
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
                    chunks: vec![state],
                    campaigns,
                };
                self.create(child, Some(birth), context);
            }
            Effect::Prepared { min_index, prepared } => {
                self.counters.prepared += 1;
                self.prepared.insert(group, prepared);
                let (holder, index) = (MERGE, min_index);
                context.act(Action::Hold { group, holder, index });
            }
            Effect::RolledBack { .. } => {
                self.counters.rolled_back += 1;
                self.prepared.remove(&group);
                context.act(Action::Release { group, holder: MERGE });
            }
            Effect::Absorbed { .. } => self.counters.absorbed += 1,
            Effect::Finished { .. } => self.counters.finished += 1,
            Effect::Written { .. } | Effect::Refused { .. } | Effect::Outdated => {}
        }
    }

    fn create(&mut self, group: GroupId, birth: Option<Birth>, context: Hands<'_, '_>) {
        self.creating.insert(group);
        context.act(Action::Create(Box::new(NewGroup { group, birth })));
    }

    pub(crate) fn on_created(&mut self, group: GroupId, outcome: CreateOutcome, context: Hands<'_, '_>) {
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

    /// Gives targets that wait what they wait for: the source, once it has come to its end.
    pub(crate) fn try_resume(&mut self, context: Hands<'_, '_>) {
        let waiting: Vec<GroupId> = self.paused.keys().copied().collect();
        for target in waiting {
            let waiting = &self.paused[&target];
            let Some(Command::Commit(commit)) = Command::decode(&waiting.needs) else {
                continue;
            };
            let Some(source) = context.group(commit.source) else {
                continue;
            };
            let stands_there = matches!(source.machine.state, State::Merging(m) if m.prepared == commit.prepared);
            let is_given_early = settle_base::mutant!("merge_absorbs_unapplied_source");
            if stands_there || (is_given_early && source.machine.state != State::Empty) {
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

    /// Whatever is due, found in the machines.
    pub(crate) fn move_on(&mut self, context: Hands<'_, '_>) {
        self.try_resume(context);
        self.hand_entries(context);
        let groups = known(context);
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
    pub(crate) fn forget_holds(&mut self, group: GroupId, context: Hands<'_, '_>) {
        let of_group = |_: &GroupId, held: &mut (GroupId, u64)| held.0 == group;
        let children = self.holds.extract_if(.., of_group).map(|(child, _)| child.0);
        let holders = children.chain(self.prepared.remove(&group).map(|_| MERGE));
        for holder in holders {
            context.act(Action::Release { group, holder });
        }
    }

    fn release_holds(&mut self, context: Hands<'_, '_>) {
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

    fn hand_entries(&mut self, context: Hands<'_, '_>) {
        let now = context.now;
        if !self.ticks.is_multiple_of(4) {
            return;
        }
        for (&group, waiting) in self.paused.iter().filter(|(_, w)| now.since(w.since) >= HAND_AFTER) {
            if now.since(waiting.since) >= TAKE_STATE_AFTER {
                let index = waiting.index;
                context.act(Action::TakeState { group, index });
            }
            if let Some(Command::Commit(commit)) = Command::decode(&waiting.needs) {
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
    fn may_act(&mut self, group: GroupId, context: &Hands<'_, '_>) -> bool {
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
    fn move_merge_on(&mut self, source: GroupId, groups: &[GroupId], context: Hands<'_, '_>) {
        let s = context.group(source).expect("it was just seen");
        let State::Merging(merging) = s.machine.state else {
            return;
        };
        let Merging {
            target,
            target_epoch,
            min_index,
            prepared,
        } = merging;
        let Some(t) = context.group(target) else {
            // The target itself was absorbed, without this source: else it would be remembered there, and unknown here.
            let is_absorbed = |group: &GroupId| {
                context
                    .group(*group)
                    .is_some_and(|v| v.machine.absorbed.contains_key(&target))
            };
            if s.role.is_ready_leader && groups.iter().any(is_absorbed) && self.may_act(source, &context) {
                let command = Command::Rollback { prepared }.encode();
                context.act(Action::Propose {
                    group: source,
                    command,
                    expected_term: None,
                });
            }
            return;
        };
        if t.machine.absorbed.contains_key(&source) {
            return;
        }
        let is_past = t.machine.epoch.version > target_epoch.version || t.machine.epoch.members > target_epoch.members;
        if is_past && s.role.is_ready_leader && self.may_act(source, &context) {
            let command = Command::Rollback { prepared }.encode();
            context.act(Action::Propose {
                group: source,
                command,
                expected_term: None,
            });
        } else if t.machine.epoch == target_epoch && t.role.is_ready_leader && self.may_act(source, &context) {
            let epoch = target_epoch;
            if self.prng.percent(15) {
                let command = Command::Cancel { source, epoch }.encode();
                return context.act(Action::Propose {
                    group: target,
                    command,
                    expected_term: None,
                });
            }
            let tail = s.log.entries(min_index - 1, prepared).map(|tail| (min_index - 1, tail));
            let end = || s.log.entries(prepared, prepared).map(|tail| (prepared, tail));
            let Some((prev_index, (prev_term, entries))) = tail.or_else(end) else {
                return;
            };
            let commit = Commit {
                epoch,
                source,
                start: s.machine.start,
                end: s.machine.end,
                prepared,
                prev_index,
                prev_term,
                entries,
            };
            let command = Command::Commit(Box::new(commit)).encode();
            context.act(Action::Propose {
                group: target,
                command,
                expected_term: None,
            });
        }
    }

    /// A source goes once every replica of its target holds the merged state in a durable snapshot.
    fn end_merges(&mut self, target: GroupId, context: Hands<'_, '_>) {
        let t = context.group(target).expect("it was just seen");
        let (role, snapshot, us) = (t.role, t.log.marks().snapshot, t.peer);
        let members = &t.machine.members;
        for (&source, absorbed) in &t.machine.absorbed {
            if absorbed.is_finished {
                if !self.gone.contains(&source) && self.may_act(source, &context) {
                    context.act(Action::Destroy { group: source });
                }
                continue;
            }
            let is_needed = self.holds().any(|(group, _)| group == source);
            if snapshot < absorbed.at || is_needed {
                if self.may_act(source, &context) {
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
                    if role.is_ready_leader && is_everywhere && self.may_act(source, &context) {
                        let command = Command::Finish { source }.encode();
                        context.act(Action::Propose {
                            group: target,
                            command,
                            expected_term: None,
                        });
                    }
                }
                Some(to) if self.may_act(source, &context) => {
                    let body = report(target, source, us);
                    context.act(Action::Peer { to, body });
                }
                _ => {}
            }
        }
    }

    pub(crate) fn on_report(&mut self, body: Bytes) {
        let mut reader = Reader(body);
        if let (Some(target), Some(source), Some(peer)) = (reader.group(), reader.group(), reader.u64()) {
            self.reports.entry((target, source)).or_default().insert(PeerId(peer));
        }
    }
}

/// `peer` holds durably what `target` was after it absorbed `source`.
fn report(target: GroupId, source: GroupId, peer: PeerId) -> Bytes {
    let mut out = BytesMut::with_capacity(24);
    out.put_u64_le(target.0);
    out.put_u64_le(source.0);
    out.put_u64_le(peer.0);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use settle_base::{Index, Mono, NodeId, Term};
    use settle_machine::{Context, Event, GroupLog, GroupRole, GroupView, LogEntry, LogMarks, Service};

    use super::*;
    use crate::machine::{Absorbed, RangeMap};

    const SOURCE: GroupId = GroupId(2);
    const US: NodeId = NodeId(1);

    /// All of it is in a durable snapshot.
    struct Snapshotted;

    impl GroupLog for Snapshotted {
        fn marks(&self) -> LogMarks {
            LogMarks {
                snapshot: 100,
                ..LogMarks::default()
            }
        }

        fn entries(&self, _: Index, _: Index) -> Option<(Term, Vec<LogEntry>)> {
            None
        }
    }

    fn step(
        service: &mut RangeService,
        target: &RangeMap,
        at_ms: u64,
        event: Event<'_, Effect, crate::Request>,
    ) -> bool {
        let role = GroupRole {
            leader: Some(US),
            term: 3,
            is_ready_leader: true,
        };
        let group = |group| {
            (group == WHOLE).then_some(GroupView {
                machine: target,
                peer: target.members.voters[0],
                role,
                time: settle_base::GroupTime(0),
                log: &Snapshotted,
            })
        };
        let mut actions = Vec::new();
        let mut context = Context {
            now: Mono::from_millis(at_ms),
            node: US,
            group: &group,
            actions: &mut actions,
        };
        service.step(event, &mut context);
        let finish = Command::Finish { source: SOURCE }.encode();
        actions
            .iter()
            .any(|action| matches!(action, Action::Propose { command, .. } if *command == finish))
    }

    #[test]
    fn a_merge_is_finished_when_every_present_member_holds_it_whoever_else_did() {
        let mut target = RangeMap::new(WHOLE);
        let absorbed = Absorbed {
            prepared: 8,
            at: 9,
            is_finished: false,
        };
        target.absorbed.insert(SOURCE, absorbed);
        target.members.voters = vec![PeerId(11), PeerId(12), PeerId(13)];
        let mut service = RangeService::new(1, 0);
        let told_by = |node, peer| Event::Peer {
            from: NodeId(node),
            body: report(WHOLE, SOURCE, PeerId(peer)),
        };
        step(&mut service, &target, 1000, told_by(2, 12));
        assert!(!step(&mut service, &target, 1000, Event::Tick), "one is missing");
        step(&mut service, &target, 2000, told_by(3, 13));
        // Node 3 has lost its directory since, and is brought up to date again; a fourth comes.
        target.members.voters = vec![PeerId(11), PeerId(12), PeerId(23)];
        assert!(!step(&mut service, &target, 2000, Event::Tick), "who holds it is gone");
        target.members.learners = vec![PeerId(14)];
        step(&mut service, &target, 3000, told_by(3, 23));
        assert!(!step(&mut service, &target, 3000, Event::Tick), "a learner is a member");
        step(&mut service, &target, 4000, told_by(4, 14));
        assert!(step(&mut service, &target, 4000, Event::Tick), "all hold it");
    }
}
