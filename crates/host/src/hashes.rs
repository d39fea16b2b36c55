//! Replicas compared while they serve, and one whose machine differs rebuilt.
//!
//! Every [`HostConfig::state_hash_every`](crate::HostConfig::state_hash_every) commands the leader proposes
//! [`HostCommand::HashMark`]. Each full replica that applies it notes its machine's hash there and tells the leader until
//! the mark is decided. When a majority of the full voters (of both halves of a joint configuration) told one hash, the
//! leader proposes [`HostCommand::HashVerdict`]. The verdict is an entry of the log, so whoever proposed it, every replica
//! meets the same one at the same place, and the first one about a mark decides it. Without a majority there is a note
//! and nothing else: nobody can tell which of them is right.
//!
//! # Quarantine
//! A replica that noted another hash applies nothing beyond the verdict, drops its reads, gives no snapshots, and is for
//! its consensus a peer without a machine ([`Raft::set_machine_lost`](settle_raft::Raft::set_machine_lost)): its log, votes
//! and acks are as good as ever, it leads only to bring others up to date, and hands over. It asks the leader for a
//! snapshot of the verdict or later until it has one; that replaces machine and snapshot file, and it goes on from there.
//!
//! # Restarts
//! Nothing is written for it: the log says it. A replica with an undecided note takes no snapshot of its own, and a
//! quarantined one applies nothing, so no snapshot of its own stands between a mark and its verdict. Started again, it
//! applies the mark, notes its hash, and meets the verdict before it serves or leads; if what went wrong was not in the
//! machine but in how it ran, it has the right hash now. The one bound: a log that has grown to twice what a snapshot is
//! due at is cut in any case, the note is dropped, and the next mark compares again.

use std::collections::BTreeMap;

use settle_base::{GroupId, Index, Mono, PeerId, Term};
use settle_machine::{Service, StateMachine};
use settle_raft::{ConfState, SnapshotMeta};
use settle_storage::{Disk, DiskRead};

use crate::{
    Host, HostAction, HostCommand, HostError, HostNote, PeerMessage, group::Group, host::send, transfer_queue::Cause,
};

/// What the comparison of a group's replicas has come to at this one.
#[derive(Debug, Default)]
pub(crate) struct Hashes {
    /// Commands applied since the last mark, or proposed one.
    commands: u64,
    /// Of the newest mark, while it is undecided.
    noted: Option<Noted>,
    /// At a leader: what each replica told last.
    told: BTreeMap<PeerId, Noted>,
    /// At a leader: the term and mark of what it proposed last, or could not decide.
    concluded: (Term, Index),
    /// Consensus keeps what is committed since, to be applied behind the snapshot.
    quarantine: Option<QuarantineStatus>,
}

impl Hashes {
    /// The machine as it is now goes into a snapshot: what it was at a mark before is not known after a restart.
    pub(crate) fn forget_note(&mut self) {
        self.noted = None;
    }
}

/// A machine's hash when it had applied the mark at `index`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Noted {
    index: Index,
    hash: u64,
}

/// A replica whose machine differs from those of the others, until it is rebuilt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuarantineStatus {
    /// The mark at which they were compared.
    pub index: Index,
    pub ours: u64,
    /// What a majority of the full voters had there.
    pub agreed: u64,
}

/// What the hashes of one mark say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// More have to tell theirs.
    Open,
    /// A majority has this one.
    Agreed(u64),
    /// All have told, or so many that no majority can come about.
    Divided,
}

/// What `told` says about the full voters of `conf`. Witnesses have no machine, learners no say.
pub(crate) fn verdict(conf: &ConfState, told: &BTreeMap<PeerId, u64>) -> Verdict {
    let halves = [&conf.voters, &conf.outgoing].map(|half| {
        let full = half.iter().copied().filter(|peer| !conf.is_witness(*peer));
        full.collect::<Vec<_>>()
    });
    let counts = |half: &[PeerId]| {
        let mut counts = BTreeMap::new();
        for hash in half.iter().filter_map(|peer| told.get(peer)) {
            *counts.entry(*hash).or_insert(0) += 1;
        }
        counts
    };
    let mut agreed = None;
    let mut is_open = false;
    for half in halves.iter().filter(|half| !half.is_empty()) {
        let counts: BTreeMap<u64, usize> = counts(half);
        let silent = half.len() - counts.values().sum::<usize>();
        let (most, hash) = counts
            .iter()
            .map(|(hash, count)| (*count, *hash))
            .max()
            .unwrap_or_default();
        if 2 * (most + silent) <= half.len() {
            return Verdict::Divided;
        }
        if 2 * most <= half.len() {
            is_open = true;
        } else if agreed.is_some_and(|other| other != hash) {
            return Verdict::Divided;
        } else {
            agreed = Some(hash);
        }
    }
    match agreed {
        Some(hash) if !is_open => Verdict::Agreed(hash),
        _ => Verdict::Open,
    }
}

impl<M: StateMachine> Group<M> {
    pub(crate) fn quarantine(&self) -> Option<QuarantineStatus> {
        self.hashes.quarantine
    }

    pub(crate) fn is_quarantined(&self) -> bool {
        self.hashes.quarantine.is_some()
    }

    pub(crate) fn count_command(&mut self) {
        self.hashes.commands += 1;
    }

    /// The mark at `index` is applied.
    pub(crate) fn note_hash(&mut self, index: Index) {
        self.hashes.commands = 0;
        // A witness has none. A machine that hashes slowly here may be of a build that did not elsewhere.
        let machine = self.machine.as_ref().filter(|machine| machine.is_hash_cheap());
        let hash = machine.map(StateMachine::state_hash);
        self.hashes.noted = hash.map(|hash| Noted { index, hash });
    }

    /// The verdict about the mark at `index` is met: whether this replica has to be rebuilt.
    pub(crate) fn judge(&mut self, index: Index, agreed: u64) -> bool {
        let Some(noted) = self.hashes.noted.take_if(|noted| noted.index <= index) else {
            return false;
        };
        if noted.index < index || noted.hash == agreed {
            return false;
        }
        self.hashes.quarantine = Some(QuarantineStatus {
            index,
            ours: noted.hash,
            agreed,
        });
        true
    }

    /// Whether a snapshot of its own would hide a difference that is about to be judged.
    pub(crate) fn awaits_verdict(&self, snapshot_after_bytes: u64) -> bool {
        let is_bounded = self.log_bytes < snapshot_after_bytes.saturating_mul(2);
        self.is_quarantined() || (self.hashes.noted.is_some() && is_bounded)
    }

    /// The oldest snapshot that is of use to this replica.
    pub(crate) fn snapshot_wanted_from(&self) -> Index {
        match self.is_quarantined() {
            true => self.applied.index,
            // To a machine that waits one that stands for the entry before which it does.
            false => self.paused_before().unwrap_or(self.raft.commit() + 1),
        }
    }

    /// A snapshot replaced the machine: whether this ends a quarantine.
    pub(crate) fn end_quarantine(&mut self) -> bool {
        self.hashes.noted = None;
        let ends = self.hashes.quarantine.take().is_some();
        if ends {
            self.raft.set_machine_lost(false);
        }
        ends
    }

    fn has_undecided(&self) -> bool {
        self.hashes.noted.is_some()
    }
}

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    /// After entries were applied: at a leader, whether it is time for the next mark.
    pub(crate) fn mark_if_due(&mut self, id: GroupId, now: Mono) {
        let every = self.config.state_hash_every;
        let Some(group) = self.groups.get_mut(&id) else { return };
        // One mark after the other: a newer one takes the note of the older.
        let due = if group.has_undecided() {
            every.saturating_mul(8)
        } else {
            every
        };
        let is_cheap = group.machine.as_ref().is_some_and(StateMachine::is_hash_cheap);
        if every == 0 || group.hashes.commands < due || !group.is_ready_leader() || !is_cheap {
            return;
        }
        let time = group.time(now);
        let mark = HostCommand::HashMark.encode();
        if group.raft.propose_host(mark, time, None).is_ok() {
            group.hashes.commands = 0;
        }
    }

    /// This replica has just applied a mark.
    pub(crate) fn hash_noted(&mut self, id: GroupId, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        if self.groups.get(&id).is_some_and(Group::has_undecided) {
            self.counters.hash_marks += 1;
            self.undecided.insert(id);
            self.tell_hash(id, now, out);
        }
    }

    fn tell_hash(&mut self, id: GroupId, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        let Some(group) = self.groups.get(&id) else { return };
        let (Some(Noted { index, hash }), leader) = (group.hashes.noted, group.raft.leader()) else {
            return;
        };
        if leader == self.identity.incarnation {
            self.hash_told(id, leader, index, hash, now, out);
        } else if let Some(node) = self.node_of(leader) {
            let group = id;
            send(out, node, PeerMessage::StateHash { group, index, hash });
        }
    }

    /// At the leader: what `peer` had at the mark at `index`.
    pub(crate) fn hash_told(
        &mut self,
        id: GroupId,
        peer: PeerId,
        index: Index,
        hash: u64,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        // Who tells of what is not committed here has no leader's log, or we are none.
        if !group.raft.is_leader() || index > group.raft.commit() || !crate::members::is_in(group.raft.conf(), peer) {
            return;
        }
        let conf = group.raft.conf().clone();
        group.hashes.told.retain(|peer, _| crate::members::is_in(&conf, *peer));
        let told = group.hashes.told.entry(peer).or_insert(Noted { index, hash });
        if told.index <= index {
            *told = Noted { index, hash };
        }
        let (term, concluded) = (group.raft.term(), group.hashes.concluded);
        if concluded.0 == term && concluded.1 >= index {
            return;
        }
        let at_mark = group.hashes.told.iter().filter(|(_, told)| told.index == index);
        let at_mark: BTreeMap<PeerId, u64> = at_mark.map(|(peer, told)| (*peer, told.hash)).collect();
        match verdict(&conf, &at_mark) {
            Verdict::Open => {}
            Verdict::Agreed(hash) => {
                let time = group.time(now);
                let verdict = HostCommand::HashVerdict { index, hash }.encode();
                if group.raft.propose_host(verdict, time, Some(term)).is_ok() {
                    group.hashes.concluded = (term, index);
                }
            }
            Verdict::Divided => {
                group.hashes.concluded = (term, index);
                self.counters.hash_marks_divided += 1;
                let hashes = at_mark.into_iter().collect();
                out.push(HostAction::Note(HostNote::HashesDivided {
                    group: id,
                    index,
                    hashes,
                }));
            }
        }
    }

    /// A verdict found this replica wrong; `self` is as of that entry.
    pub(crate) fn enter_quarantine(&mut self, id: GroupId, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        self.abandon_taking(id);
        let Some(group) = self.groups.get_mut(&id) else { return };
        let status = group.quarantine().expect("it was just judged");
        // They came of a machine that was wrong; the rebuilt one tells what is.
        group.effects.clear();
        let reads = std::mem::take(&mut group.reads);
        let confirmed = std::mem::take(&mut group.reads_confirmed);
        for ctx in reads.keys() {
            group.raft.withdraw_read(*ctx);
        }
        let sent_to: Vec<PeerId> = group.sending.keys().copied().collect();
        group.raft.set_machine_lost(true);
        for read in reads.into_values().chain(confirmed.into_values()) {
            self.lose_read(id, read.token);
        }
        for peer in sent_to {
            self.end_sending(id, peer, false, out);
        }
        self.counters.quarantines += 1;
        self.quarantined.insert(id);
        out.push(HostAction::Note(HostNote::Quarantined { group: id, status }));
        self.update_role(id, now, out);
        self.ask_for_rebuild(id, out);
    }

    fn ask_for_rebuild(&mut self, id: GroupId, out: &mut Vec<HostAction<S::Response>>) {
        let Some(group) = self.groups.get_mut(&id).filter(|g| g.is_quarantined()) else {
            self.quarantined.remove(&id);
            return;
        };
        // At a leader: who can take over may be there now.
        group.raft.set_machine_lost(true);
        self.ask_for_state(id, out);
    }

    /// Asks the leader for a snapshot that consensus does not need, unless one is on its way.
    pub(crate) fn ask_for_state(&mut self, id: GroupId, out: &mut Vec<HostAction<S::Response>>) {
        let Some(group) = self.groups.get(&id) else { return };
        let is_coming = group.receiving.is_some() || group.received.is_some();
        let leader = self.node_of(group.raft.leader());
        if let Some(node) = leader.filter(|node| *node != self.config.node && !is_coming) {
            send(out, node, PeerMessage::WantSnapshot { group: id });
        }
    }

    /// A replica asks for a snapshot whose machine is wrong, or waits for what never comes.
    pub(crate) fn on_want_snapshot(&mut self, id: GroupId, peer: PeerId) {
        let Some(group) = self.groups.get(&id) else { return };
        if group.gives_state_to(peer) && !group.sending.contains_key(&peer) {
            self.send_snapshot(id, peer, Cause::Wrong);
        }
    }

    pub(crate) fn tick_hashes(&mut self, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        if !self.ticks.is_multiple_of(u64::from(self.config.election_ticks)) {
            return;
        }
        for id in self.quarantined.iter().copied().collect::<Vec<_>>() {
            self.ask_for_rebuild(id, out);
        }
        for id in self.undecided.iter().copied().collect::<Vec<_>>() {
            match self.groups.get(&id).is_some_and(Group::has_undecided) {
                true => self.tell_hash(id, now, out),
                false => drop(self.undecided.remove(&id)),
            }
        }
    }

    /// The log says durably that this replica's snapshot is the one it was sent, of what the log holds already.
    pub(crate) fn rebuild(
        &mut self,
        id: GroupId,
        meta: SnapshotMeta,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), HostError> {
        let keep = self.config.keep_tail_entries;
        let Some(group) = self.groups.get_mut(&id) else {
            return Ok(());
        };
        group.raft.replace_machine(&meta);
        let dropped = group.raft.compact(&meta, keep);
        self.drop_entries(dropped);
        self.install(id, meta, now, out)
    }

    /// Which groups' replicas here wait to be rebuilt.
    pub fn quarantined_groups(&self) -> Vec<(GroupId, QuarantineStatus)> {
        let groups = self.quarantined.iter().filter_map(|id| self.groups.get(id));
        groups.filter_map(|g| Some((g.id, g.quarantine()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn conf(voters: &[u64], outgoing: &[u64], witnesses: &[u64]) -> ConfState {
        let peers = |ids: &[u64]| ids.iter().copied().map(PeerId).collect::<Vec<_>>();
        ConfState {
            outgoing: peers(outgoing),
            witnesses: peers(witnesses),
            ..ConfState::of_voters(peers(voters))
        }
    }

    fn told(hashes: &[(u64, u64)]) -> BTreeMap<PeerId, u64> {
        hashes.iter().map(|(peer, hash)| (PeerId(*peer), *hash)).collect()
    }

    #[test]
    fn a_majority_of_the_full_voters_decides_in_both_halves_or_nobody_does() {
        let three = conf(&[1, 2, 3], &[], &[]);
        assert_eq!(verdict(&three, &told(&[(1, 7)])), Verdict::Open);
        assert_eq!(verdict(&three, &told(&[(1, 7), (2, 8)])), Verdict::Open);
        assert_eq!(verdict(&three, &told(&[(1, 7), (3, 7)])), Verdict::Agreed(7));
        assert_eq!(verdict(&three, &told(&[(1, 7), (2, 8), (3, 9)])), Verdict::Divided);
        assert_eq!(
            verdict(&three, &told(&[(1, 7), (8, 7), (9, 7)])),
            Verdict::Open,
            "no voters"
        );
        let two = conf(&[1, 2, 3], &[], &[3]);
        assert_eq!(
            verdict(&two, &told(&[(1, 7), (3, 7)])),
            Verdict::Open,
            "a witness has no machine"
        );
        assert_eq!(
            verdict(&two, &told(&[(1, 7), (2, 8)])),
            Verdict::Divided,
            "one of two is no majority"
        );
        let joint = conf(&[1, 2, 3], &[3, 4, 5], &[]);
        assert_eq!(verdict(&joint, &told(&[(1, 7), (2, 7)])), Verdict::Open);
        assert_eq!(
            verdict(&joint, &told(&[(1, 7), (2, 7), (4, 7), (5, 7)])),
            Verdict::Agreed(7)
        );
        assert_eq!(
            verdict(&joint, &told(&[(1, 7), (2, 7), (4, 8), (5, 8)])),
            Verdict::Divided
        );
    }

    proptest! {
        #[test]
        fn an_agreed_hash_stands_whatever_the_others_tell_and_a_division_too(
            voters in 1..8_u64,
            outgoing in 0..6_u64,
            hashes in prop::collection::btree_map(1..12_u64, 0..3_u64, 0..12),
            more in prop::collection::btree_map(1..12_u64, 0..3_u64, 0..12),
        ) {
            let conf = conf(
                &(1..=voters).collect::<Vec<_>>(),
                &(4..4 + outgoing).collect::<Vec<_>>(),
                &[],
            );
            let before: Vec<_> = hashes.iter().map(|(peer, hash)| (*peer, *hash)).collect();
            let first = verdict(&conf, &told(&before));
            // Nobody takes back what it told.
            let mut all = more;
            all.extend(hashes);
            let after: Vec<_> = all.into_iter().collect();
            let second = verdict(&conf, &told(&after));
            if first != Verdict::Open {
                prop_assert_eq!(first, second);
            }
            if let Verdict::Agreed(hash) = second {
                for half in [&conf.voters, &conf.outgoing] {
                    let count = after.iter().filter(|(peer, h)| half.contains(&PeerId(*peer)) && *h == hash).count();
                    prop_assert!(half.is_empty() || 2 * count > half.len());
                }
            }
        }
    }
}
