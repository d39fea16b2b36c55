//! **Incarnation safety** (Settle's design §3; the server ids of the Raft thesis §11.7.2 and of Viewstamped Replication
//! Revisited §4.3, recovery): a data directory that was lost never speaks again. Membership names the random incarnation
//! of a directory; no two directories share one, and an empty one neither votes nor is counted before the group let it in
//! and it holds what was committed when it began. A witness is let in while it is empty: the change that brings it is
//! committed by a quorum of those before it, so whoever is elected with its vote holds what was committed until then.

use std::collections::{BTreeMap, BTreeSet};

use settle_base::{GroupId, Index, NodeId, PeerId};
use settle_raft::{Body, Message};

use super::{Broken, Checked};

#[derive(Default)]
pub(super) struct IncarnationSafety {
    directories: BTreeMap<PeerId, (NodeId, u32)>,
    ever_voters: BTreeSet<(GroupId, PeerId)>,
    /// What was committed when a replica began with an empty disk.
    born_at: BTreeMap<(GroupId, PeerId), Index>,
}

impl IncarnationSafety {
    pub(super) fn is_named(&mut self, peer: PeerId, node: NodeId, generation: u32) -> Checked {
        let known = *self.directories.entry(peer).or_insert((node, generation));
        if known != (node, generation) {
            let what = format!(
                "directory {generation} of node {node} calls itself {peer}, as directory {} of node {} did",
                known.1, known.0
            );
            return Err(Broken::new("incarnation safety", what));
        }
        Ok(())
    }

    pub(super) fn directory_of(&self, peer: PeerId) -> Option<(NodeId, u32)> {
        self.directories.get(&peer).copied()
    }

    pub(super) fn is_born(&mut self, group: GroupId, peer: PeerId, committed: Index) {
        self.born_at.insert((group, peer), committed);
    }

    /// It is recovering, so its votes count only where every voter's is needed.
    pub(super) fn forgives(&mut self, group: GroupId, peer: PeerId) {
        self.born_at.remove(&(group, peer));
    }

    pub(super) fn may_vote(&mut self, group: GroupId, peers: &[PeerId]) {
        self.ever_voters.extend(peers.iter().map(|peer| (group, *peer)));
    }

    pub(super) fn sent(&self, message: &Message, last: Index) -> Checked {
        if !matches!(message.body, Body::Vote { .. } | Body::VoteReply { granted: true, .. }) {
            return Ok(());
        }
        let (from, term) = (message.from, message.term);
        let who = (message.group, from);
        let born_at = self.born_at.get(&who).copied().unwrap_or(0);
        if !self.ever_voters.contains(&who) || last < born_at {
            let what =
                format!("{from} votes in term {term} holding {last}, but began empty when {born_at} was committed");
            return Err(Broken::new("incarnation safety", what));
        }
        Ok(())
    }
}

#[test]
fn a_name_used_twice_and_a_vote_of_an_empty_replica_are_told() {
    let group = GroupId(1);
    let vote = Message {
        group,
        from: PeerId(9),
        to: PeerId(2),
        term: 3,
        body: Body::VoteReply {
            granted: true,
            recovering: None,
        },
    };
    let mut safety = IncarnationSafety::default();
    assert!(safety.is_named(PeerId(9), NodeId(1), 0).is_ok() && safety.is_named(PeerId(9), NodeId(1), 0).is_ok());
    assert!(
        safety.is_named(PeerId(9), NodeId(1), 1).is_err(),
        "wiped, and back under its old name"
    );
    safety.is_born(group, PeerId(9), 20);
    assert!(safety.sent(&vote, 30).is_err(), "never let in");
    safety.may_vote(group, &[PeerId(9)]);
    assert!(safety.sent(&vote, 19).is_err(), "let in, but empty");
    assert!(safety.sent(&vote, 20).is_ok());
}
