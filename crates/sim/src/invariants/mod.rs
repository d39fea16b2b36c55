//! What must hold at every step of every cluster, whatever its service does: one property per file, under the name that
//! the literature knows it by.
//!
//! They see what an omniscient observer sees: every replica after each of its turns, and every message when it leaves.
//! None of them asks a replica what it believes where it can know what the replica has shown.

mod committed_on_quorum;
mod configuration_safety;
mod durability_contract;
mod election_safety;
mod incarnation_safety;
mod leader_append_only;
mod leader_completeness;
mod linearizability;
mod log_matching;
mod monotone;
mod state_equality;
mod state_machine_safety;

use std::{collections::BTreeMap, fmt};

use settle_base::{GroupId, Index, NodeId, PeerId, Term};
use settle_raft::{ConfState, Message, Raft};

pub(crate) use linearizability::History;

use self::{
    committed_on_quorum::CommittedOnQuorum, configuration_safety::ConfigurationSafety,
    durability_contract::DurabilityContract, election_safety::ElectionSafety, incarnation_safety::IncarnationSafety,
    log_matching::LogMatching, state_equality::StateEquality, state_machine_safety::StateMachineSafety,
};

/// A property that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Broken {
    /// The property's name.
    pub(crate) invariant: &'static str,
    pub(crate) what: String,
}

pub(crate) type Checked = Result<(), Broken>;

impl Broken {
    pub(crate) fn new(invariant: &'static str, what: impl Into<String>) -> Broken {
        let what = what.into();
        Broken { invariant, what }
    }

    pub(crate) fn at(mut self, place: fmt::Arguments<'_>) -> Broken {
        self.what = format!("{place}: {}", self.what);
        self
    }
}

/// What one replica had shown after its last turn, since its process started.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) term: Term,
    pub(crate) commit: Index,
    pub(crate) applied: Index,
    /// Terms of its log's entries.
    log: BTreeMap<Index, Term>,
    /// As a leader of this term: its last entry.
    led: Option<(Term, Index, Term)>,
    conf: ConfState,
}

/// All groups of one world.
#[derive(Default)]
pub(crate) struct Invariants {
    groups: BTreeMap<GroupId, OfGroup>,
    incarnations: IncarnationSafety,
    pub(crate) hashes_compared: u64,
    pub(crate) promises_checked: u64,
    pub(crate) commits_checked: u64,
}

#[derive(Default)]
struct OfGroup {
    elections: ElectionSafety,
    logs: LogMatching,
    committed: StateMachineSafety,
    quorums: CommittedOnQuorum,
    durability: DurabilityContract,
    confs: ConfigurationSafety,
    states: StateEquality,
}

impl Invariants {
    fn group(&mut self, group: GroupId) -> &mut OfGroup {
        self.groups.entry(group).or_default()
    }

    /// Whether any group has committed more than what it was founded with.
    pub(crate) fn has_history(&self) -> bool {
        self.groups.values().any(|g| g.committed.last().0 > 1)
    }

    /// Looks at one replica after each of its turns.
    pub(crate) fn observe(&mut self, group: GroupId, raft: &Raft, seen: &mut Seen) -> Checked {
        let g = self.groups.entry(group).or_default();
        monotone::check(raft, seen)?;
        if raft.is_leader() {
            g.elections.leads(raft.id(), raft.term())?;
            leader_append_only::check(raft, seen)?;
            if seen.led.is_none_or(|(term, ..)| term != raft.term()) {
                leader_completeness::check(raft, &g.committed)?;
            } else if raft.commit() > seen.commit {
                self.commits_checked += 1;
                g.quorums.check(raft, &seen.conf)?;
            }
        }
        g.logs.check(raft, &mut seen.log)?;
        if raft.commit() > seen.commit {
            g.committed.check(raft, seen.commit)?;
        }
        if seen.conf != *raft.conf() {
            seen.conf = raft.conf().clone();
        }
        seen.led = raft.is_leader().then(|| {
            (
                raft.term(),
                raft.last_index(),
                raft.term_at(raft.last_index()).unwrap_or(0),
            )
        });
        (seen.term, seen.commit, seen.applied) = (raft.term(), raft.commit(), raft.applied());
        Ok(())
    }

    /// A message leaves `message.from`, whose log ends at `last`.
    pub(crate) fn sent(&mut self, message: &Message, last: Index) -> Checked {
        let Some(g) = self.groups.get_mut(&message.group) else {
            return Err(Broken::new(
                "incarnation safety",
                format!("a message of an unknown group: {message:?}"),
            ));
        };
        self.incarnations.sent(message, last)?;
        g.durability.sent(message)?;
        g.quorums.sent(message);
        Ok(())
    }

    /// A replica is there after a start of its process.
    pub(crate) fn restarted(&mut self, group: GroupId, raft: &Raft) -> Checked {
        let g = self.groups.entry(group).or_default();
        self.promises_checked += u64::from(g.durability.restarted(raft)?);
        Ok(())
    }

    /// A replica's disk lost what it had promised: the fault model allows it to fewer than a quorum.
    pub(crate) fn forgives(&mut self, group: GroupId, peer: PeerId) {
        self.group(group).durability.forgives(peer);
        self.incarnations.forgives(group, peer);
    }

    /// A directory said who it is: `generation` counts the directories that this node has had.
    pub(crate) fn is_named(&mut self, peer: PeerId, node: NodeId, generation: u32) -> Checked {
        self.incarnations.is_named(peer, node, generation)
    }

    /// Whose directory `peer` is, and how many that node had before it.
    pub(crate) fn directory_of(&self, peer: PeerId) -> Option<(NodeId, u32)> {
        self.incarnations.directory_of(peer)
    }

    /// A replica begins with an empty disk, in every group.
    pub(crate) fn is_born(&mut self, peer: PeerId) {
        for (group, g) in &self.groups {
            self.incarnations.is_born(*group, peer, g.committed.last().0);
        }
    }

    pub(crate) fn may_vote(&mut self, group: GroupId, peers: &[PeerId]) {
        self.group(group);
        self.incarnations.may_vote(group, peers);
    }

    pub(crate) fn changed_members(&mut self, group: GroupId, index: Index, conf: &ConfState) -> Checked {
        self.may_vote(group, &conf.voters);
        self.group(group).confs.changed(index, conf)
    }

    /// `slips` are the faults of machines that are in this state.
    pub(crate) fn applied(&mut self, group: GroupId, index: Index, slips: u64, hash: u64, peer: PeerId) -> Checked {
        let is_compared = self.group(group).states.applied(index, slips, hash, peer)?;
        self.hashes_compared += u64::from(is_compared);
        Ok(())
    }
}
