//! The end of some seeds: everything has healed, the clients have gone, groups go to sleep; and then a leader's node is
//! lost for good. Nobody calls, so nobody wakes them: their groups have to notice by themselves.

use std::collections::BTreeMap;

use settle_base::GroupId;

use crate::{
    invariants::{Broken, Checked},
    workload::Workload,
    world::World,
};

/// So long after the loss every group has another leader.
const NOTICED_US: u64 = 15_000_000;

impl<W: Workload> World<W> {
    pub(crate) fn lose_a_leader_at_rest(&mut self) -> Checked {
        let Some(mut own) = self.loses_a_leader.take() else {
            return Ok(());
        };
        let full = self.nodes.iter().filter(|node| !node.is_witness).count();
        let Some(lost) = self.groups.iter().find_map(|group| self.leader(*group)) else {
            return Ok(());
        };
        if self.nodes.len() < 3 || full < 2 {
            return Ok(());
        }
        // Most often they sleep by then.
        let waits = own.between(0, 15_000_000);
        self.run_until(self.now_us + waits, |_| false)?;
        let terms: BTreeMap<GroupId, u64> = self.groups_led_by(lost).collect();
        self.coverage.leaders_lost_at_rest += terms.keys().filter(|group| self.rests(lost, **group)).count() as u64;
        match own.below(4) {
            0 => self.crash(lost, true, Some(u64::from(u32::MAX))),
            1 => self.crash(lost, false, Some(u64::from(u32::MAX))),
            // Its connections stay.
            2 => {
                self.tell(format_args!("node {} stops for good", self.id(lost)));
                self.nodes[lost].paused_until = self.now_us + u64::from(u32::MAX);
            }
            _ => self.isolate(lost),
        }
        let until = self.now_us + NOTICED_US;
        self.run_until(until, |world| world.has_other_leaders(lost, &terms))?;
        if self.has_other_leaders(lost, &terms) {
            return Ok(());
        }
        let what = format!(
            "{} s after node {} was lost, nobody else leads all of its groups: {}",
            NOTICED_US / 1_000_000,
            self.id(lost),
            self.describe()
        );
        Err(Broken::new("no dead leader is hidden", what))
    }

    /// With their terms.
    fn groups_led_by(&self, node: usize) -> impl Iterator<Item = (GroupId, u64)> {
        let host = self.nodes[node].host.as_ref();
        let rafts = self
            .groups
            .iter()
            .filter_map(move |group| Some((*group, host?.raft(*group)?)));
        rafts
            .filter(|(_, raft)| raft.is_leader())
            .map(|(group, raft)| (group, raft.term()))
    }

    fn rests(&self, node: usize, group: GroupId) -> bool {
        let host = self.nodes[node].host.as_ref();
        host.and_then(|host| host.raft(group))
            .is_some_and(|raft| raft.is_resting())
    }

    /// Somebody else than `lost` leads each of the groups, in a later term.
    fn has_other_leaders(&self, lost: usize, terms: &BTreeMap<GroupId, u64>) -> bool {
        terms.iter().all(|(group, term)| {
            let others = (0..self.nodes.len()).filter(|node| *node != lost);
            let mut rafts = others.filter_map(|node| self.nodes[node].host.as_ref()?.raft(*group));
            rafts.any(|raft| raft.is_leader() && raft.term() > *term)
        })
    }
}
