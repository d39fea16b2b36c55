//! The machine of a range as the surgeon sees it.

use bytes::Bytes;
use settle_machine::ranges::{Commit, MergeCommand, Outline, Ranged};

use crate::{RangeMap, command::Command};

impl Ranged for RangeMap {
    type Range = (u32, u32);

    fn outline(&self) -> Outline<'_> {
        Outline {
            epoch: self.epoch,
            state: self.state,
            members: &self.members,
            children: &self.children,
            absorbed: &self.absorbed,
        }
    }

    fn range(&self) -> (u32, u32) {
        (self.start, self.end)
    }

    fn touches(&self, other: &RangeMap) -> bool {
        self.end == other.start || self.start == other.end
    }

    fn inheritance(&self) -> Bytes {
        self.image()
    }

    fn encode(command: MergeCommand<(u32, u32)>) -> Bytes {
        match command {
            MergeCommand::Prepare {
                epoch,
                target,
                target_epoch,
                min_index,
            } => Command::Prepare {
                epoch,
                target,
                target_epoch,
                min_index,
            },
            MergeCommand::Commit(commit) => Command::Commit(Box::new(commit)),
            MergeCommand::Rollback { prepared } => Command::Rollback { prepared },
            MergeCommand::Cancel { epoch, source } => Command::Cancel { epoch, source },
            MergeCommand::Finish { source } => Command::Finish { source },
        }
        .encode()
    }

    fn commit_of(needs: &Bytes) -> Option<Commit<(u32, u32)>> {
        match Command::decode(needs) {
            Some(Command::Commit(commit)) => Some(*commit),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use settle_base::{GroupId, Index, Mono, NodeId, PeerId, Term};
    use settle_machine::{
        Action, Context, Event, GroupLog, GroupRole, GroupView, LogEntry, LogMarks, Service, ranges::Absorbed,
    };

    use super::*;
    use crate::{Effect, RangeService, WHOLE};

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
                version: 1,
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
            body: [WHOLE.0, SOURCE.0, peer].iter().flat_map(|n| n.to_le_bytes()).collect(),
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
