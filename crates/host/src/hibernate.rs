//! Groups at rest, and how nothing is hidden by it.
//!
//! A group in which nothing happens rests: its replicas count no time and send nothing, so its leader is not heard and
//! nobody misses it. What stands in for the heartbeats of all resting groups is one pulse per pair of nodes and tick.
//! When the pulses of a node stop, its connection breaks, or they carry another start's number, every resting group that
//! it leads here is woken, and the silence of its leader counts from then on as ever. A group led here with a member
//! there is woken too: whether a quorum still hears this leader is to be found out, not assumed. When one does, the group
//! rests again without the member, and is woken once more when its node is back or speaks again, to bring it what it has
//! missed. So a node that is down for a day keeps no group awake.

use settle_base::{GroupId, Mono, NodeId, PeerId};
use settle_machine::{Event, Service};
use settle_storage::{Disk, DiskRead};

use crate::{Host, HostAction, Leads, PeerMessage, group::Group, host::send, members};

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    pub(crate) fn tick_pulses(&mut self, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        let (boot, leads) = (self.boot, self.leads(now));
        for (&node, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.is_linked) {
            send(out, node, PeerMessage::Pulse { boot, leads });
            peer.silent_ticks = peer.silent_ticks.saturating_add(1);
        }
        let patience = self.config.election_ticks;
        let fell_silent = self
            .peers
            .iter()
            .filter(|(_, p)| p.is_linked && p.silent_ticks == patience);
        let fell_silent: Vec<(NodeId, PeerId)> = fell_silent
            .map(|(node, peer)| (*node, peer.hello.incarnation))
            .collect();
        for (node, peer) in fell_silent {
            self.counters.peers_fell_silent += 1;
            self.wake_all_with(peer);
            self.serve(Event::PeerSilent { node }, now, out);
        }
        self.leave_lost_leaders();
    }

    pub(crate) fn on_pulse(&mut self, from: NodeId, boot: u64, leads: Leads) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.leads = Some(leads);
        let is_restarted = peer.boot.replace(boot).is_some_and(|before| before != boot);
        let incarnation = peer.hello.incarnation;
        if is_restarted {
            self.lose_peer(incarnation);
        }
    }

    /// The node of `peer` may be dead: from now on its groups are watched as if they never had rested.
    fn wake_all_with(&mut self, peer: PeerId) {
        if settle_base::mutant!("hibernated_dead_leader") {
            return;
        }
        for id in self.groups.led_by(peer) {
            self.wake(id);
        }
        self.wake_all_led_with(peer);
    }

    /// The node of `peer` is gone, or back: the groups that are led here may have to go on without it, or to bring it what
    /// it has missed while they rested.
    pub(crate) fn wake_all_led_with(&mut self, peer: PeerId) {
        for id in self.groups.led_by(self.identity.incarnation) {
            if members::is_in(self.groups[&id].raft.conf(), peer) {
                self.wake(id);
            }
        }
    }

    /// The connection with the node of `peer` broke, or the node has forgotten what it led: nobody need wait for the
    /// silence to last.
    pub(crate) fn lose_peer(&mut self, peer: PeerId) {
        if settle_base::mutant!("hibernated_dead_leader") {
            return;
        }
        self.wake_all_with(peer);
        let led = self.groups.led_by(peer);
        self.lost_leaders.extend(led.into_iter().map(|id| (id, peer)));
        self.leave_lost_leaders();
    }

    /// Thousands of elections at once would hold up everything else.
    fn leave_lost_leaders(&mut self) {
        for _ in 0..self.config.limits.takeovers_per_tick {
            let Some((id, peer)) = self.lost_leaders.pop_first() else {
                return;
            };
            let is_led = self.groups.get(&id).is_some_and(|group| group.raft.leader() == peer);
            if let Some(group) = self.groups.get_mut(&id).filter(|_| is_led) {
                group.raft.leader_is_down();
            }
        }
    }

    /// As if something had been asked of the group.
    pub(crate) fn wake(&mut self, id: GroupId) {
        let is_awake = |group: &Group<S::Machine>| !group.raft.is_resting() && !group.raft.is_asking_to_rest();
        if self.groups.get(&id).is_some_and(|group| !is_awake(group)) {
            let group = self.groups.get_mut(&id).expect("it was just asked");
            group.raft.wake();
            group.quiet_ticks = 0;
        }
    }
}
