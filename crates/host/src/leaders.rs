//! Who leads what: leaderships spread evenly over the nodes, and leave a node that cannot serve as a leader should.
//!
//! A leader hands over when its disk or its machine is too slow (a grey failure: it is heard, so nobody elects another,
//! but every client waits for it), and when its node is about to stop. Where all is well, a node that leads more than its
//! share moves a few leaderships a second to the one that leads the fewest, until the difference is small.

use std::time::Duration;

use settle_base::{GroupId, Mono, NodeId, PeerId};
use settle_machine::Service;
use settle_raft::{PeerStatus, Status};
use settle_storage::{Disk, DiskRead};

use crate::{Host, HostAction, HostNote};

/// Groups that one balancing looks at for each that it moves, at most.
const LOOKED_AT_PER_MOVE: usize = 64;
/// A node not heard from for more ticks is given no leadership.
const FRESH_TICKS: u32 = 3;

/// What nodes tell each other about their leaderships, in each pulse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leads {
    /// Groups that the node leads.
    pub count: u32,
    /// [`HostConfig::election_priority`](crate::HostConfig::election_priority).
    pub priority: u8,
    /// It would lead more: it is not about to stop, and its disk is well.
    pub accepts: bool,
}

/// To whom the node of `ours` moves one leadership, if to anybody.
///
/// Nodes of the highest priority share evenly; one of a lower priority gives away what it leads. A difference that a
/// few elections may make again is left alone: 5 % of the mean, but one more than a single move can even out.
pub(crate) fn next_move<P: Copy + Ord>(ours: Leads, others: &[(P, Leads)]) -> Option<P> {
    let accepting = || others.iter().filter(|(_, leads)| leads.accepts);
    let highest = accepting()
        .map(|(_, leads)| leads.priority)
        .fold(ours.priority, u8::max);
    let sharing = || accepting().filter(|(_, leads)| leads.priority == highest);
    let (to, fewest) = sharing()
        .map(|(peer, leads)| (*peer, leads.count))
        .min_by_key(|(peer, count)| (*count, *peer))?;
    if ours.priority < highest {
        return (ours.count > 0).then_some(to);
    }
    let (nodes, sum) = sharing().fold((1, ours.count), |(nodes, sum), (_, leads)| {
        (nodes + 1, sum.saturating_add(leads.count))
    });
    let tolerated = (sum / nodes / 20).max(1);
    (ours.count > fewest.saturating_add(tolerated)).then_some(to)
}

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    /// What this node's pulses say.
    pub(crate) fn leads(&self, now: Mono) -> Leads {
        Leads {
            count: u32::try_from(self.groups_led()).unwrap_or(u32::MAX),
            priority: self.config.election_priority,
            accepts: !self.is_leaving && !self.disk_is_full && self.disk_wait(now) < self.config.slow_disk,
        }
    }

    pub(crate) fn tick_leaders(&mut self, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        let waited = self.disk_wait(now);
        if self.is_leaving || waited >= self.config.slow_disk {
            self.hand_over_all(waited, out);
            return;
        }
        for id in self.groups.lagging() {
            self.hand_over(id, waited, out);
        }
        let second = Duration::from_secs(1).as_millis() / self.config.tick.as_millis().max(1);
        if u128::from(self.ticks).is_multiple_of(second.max(1)) {
            self.balance(now);
        }
    }

    /// As much of it as one tick may bring.
    pub(crate) fn hand_over_all(&mut self, waited: Duration, out: &mut Vec<HostAction<S::Response>>) {
        let (us, count) = (self.identity.incarnation, self.config.limits.hand_overs_per_tick);
        // From where the last tick ended: those that nobody can take hold up no other.
        for id in self.groups.led_after(us, self.handed_over_to, count) {
            self.handed_over_to = id;
            self.hand_over(id, waited, out);
        }
    }

    /// To whoever has the most of the log.
    pub(crate) fn hand_over(&mut self, id: GroupId, waited: Duration, out: &mut Vec<HostAction<S::Response>>) {
        let Some(group) = self.groups.get(&id).filter(|g| g.raft.is_leader()) else {
            return;
        };
        let status = group.raft.status();
        if !status.transferee.is_none() {
            return;
        }
        let heirs = status.progress.iter().filter(|p| can_lead(&status, p));
        let heirs = heirs.filter_map(|p| Some((p.matched, p.peer, self.accepting_node_of(p.peer)?)));
        let Some((_, peer, to)) = heirs.max_by_key(|(matched, ..)| *matched) else {
            return;
        };
        let group = self.groups.get_mut(&id).expect("it was just asked");
        if group.raft.transfer_leader(peer).is_ok() {
            self.counters.handed_over += 1;
            out.push(HostAction::Note(HostNote::HandsOver { group: id, to, waited }));
        }
    }

    fn accepting_node_of(&self, peer: PeerId) -> Option<NodeId> {
        let mut linked = self.peers.iter().filter(|(_, p)| p.is_linked);
        let (node, peer) = linked.find(|(_, p)| p.hello.incarnation == peer)?;
        // Before its first pulse it has said nothing against it.
        let accepts = peer.leads.is_none_or(|leads| leads.accepts);
        (accepts && peer.silent_ticks <= FRESH_TICKS).then_some(*node)
    }

    fn balance(&mut self, now: Mono) {
        let mut ours = self.leads(now);
        let fresh = self
            .peers
            .values()
            .filter(|p| p.is_linked && p.silent_ticks <= FRESH_TICKS);
        let mut others: Vec<(PeerId, Leads)> = fresh.filter_map(|p| Some((p.hello.incarnation, p.leads?))).collect();
        for _ in 0..self.config.leader_moves_per_second {
            let Some(to) = next_move(ours, &others) else { return };
            if !self.move_one(to) {
                // What it could lead is not here, or not ready: the others of its kind are tried the next time.
                return;
            }
            ours.count -= 1;
            if let Some((_, leads)) = others.iter_mut().find(|(peer, _)| *peer == to) {
                leads.count += 1;
            }
        }
    }

    /// Moves the next leadership that `to` can take at once.
    fn move_one(&mut self, to: PeerId) -> bool {
        let led = self
            .groups
            .led_after(self.identity.incarnation, self.balanced_to, LOOKED_AT_PER_MOVE);
        for id in led {
            self.balanced_to = id;
            let group = &self.groups[&id];
            let status = group.raft.status();
            let is_calm = group.is_ready_leader() && status.transferee.is_none() && !status.conf.is_joint();
            let mut progress = status.progress.iter();
            let takes_at_once =
                progress.any(|p| p.peer == to && can_lead(&status, p) && p.matched == status.last_index);
            if is_calm && takes_at_once {
                let group = self.groups.get_mut(&id).expect("it was just asked");
                if group.raft.transfer_leader(to).is_ok() {
                    self.counters.leaders_moved += 1;
                    return true;
                }
            }
        }
        false
    }
}

fn can_lead(status: &Status, peer: &PeerStatus) -> bool {
    let is_voter = status.conf.voters.contains(&peer.peer) && !status.conf.is_witness(peer.peer);
    is_voter && peer.recent_active && !peer.recovering
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leads(count: u32, priority: u8) -> Leads {
        Leads {
            count,
            priority,
            accepts: true,
        }
    }

    #[test]
    fn the_node_that_leads_the_fewest_gets_the_next_one_until_the_difference_is_small() {
        let next = |ours, b, c| next_move(leads(ours, 9), &[('b', leads(b, 9)), ('c', leads(c, 9))]);
        assert_eq!(next(3, 0, 0), Some('b'));
        assert_eq!(next(2, 1, 0), Some('c'));
        assert_eq!(next(1, 1, 0), None, "moving it would only turn the difference around");
        assert_eq!(next(0, 3, 0), None, "others move their own");
        assert_eq!(next(3_433, 3_333, 3_234), Some('c'));
        assert_eq!(next(3_400, 3_333, 3_250), None, "within 5 %");
    }

    #[test]
    fn nodes_of_the_highest_priority_share_and_others_give_away() {
        let others = [('b', leads(5, 9)), ('c', leads(4, 9)), ('d', leads(0, 1))];
        assert_eq!(next_move(leads(1, 1), &others), Some('c'), "of a lower priority");
        assert_eq!(next_move(leads(9, 9), &others), Some('c'), "never to a lower one");
        assert_eq!(next_move(leads(5, 9), &others), None);
    }

    #[test]
    fn a_node_that_would_not_lead_gets_none_and_has_no_share() {
        let refusing = Leads {
            accepts: false,
            ..leads(0, 9)
        };
        assert_eq!(next_move(leads(9, 9), &[('b', refusing)]), None);
        assert_eq!(next_move::<char>(leads(9, 9), &[]), None);
    }
}
