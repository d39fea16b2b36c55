//! The membership book: which node each replica of a group lives on. Replicated with the configuration (in a change's
//! context and a snapshot's), so that every replica can name the others.

use std::collections::BTreeMap;

use bytes::Bytes;
use settle_base::{GroupTime, NodeId, PeerId};
use settle_raft::{ConfChange, ConfChangeKind, ConfState};

use crate::{
    identity::{Member, members, put_members},
    wire::{Decoded, Reader},
};

const BOOK_VERSION: u8 = 3;
/// The cluster version of a group that nobody has raised.
pub(crate) const CLUSTER_VERSION_FIRST: u32 = 1;
/// Far more than as many members need as a configuration may have.
pub(crate) const BOOK_BYTES_MAX: usize = 128 << 10;

/// The known members of one group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Book {
    members: BTreeMap<PeerId, Member>,
    /// What machines apply as of.
    cluster_version: u32,
    /// Members whose lost directories an operator lets be replaced, until when. No more than there are members.
    replaceable: BTreeMap<NodeId, GroupTime>,
}

impl Default for Book {
    fn default() -> Book {
        Book {
            members: BTreeMap::new(),
            cluster_version: CLUSTER_VERSION_FIRST,
            replaceable: BTreeMap::new(),
        }
    }
}

impl Book {
    pub(crate) fn new(members: impl IntoIterator<Item = Member>) -> Book {
        Book {
            members: members.into_iter().map(|m| (m.peer, m)).collect(),
            ..Book::default()
        }
    }

    pub fn get(&self, peer: PeerId) -> Option<&Member> {
        self.members.get(&peer)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub fn knows_node(&self, node: NodeId) -> bool {
        self.members.values().any(|m| m.node == node)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![BOOK_VERSION];
        out.extend(self.cluster_version.to_le_bytes());
        crate::wire::put_count(&mut out, self.replaceable.len());
        for (node, until) in &self.replaceable {
            out.extend(node.0.to_le_bytes());
            out.extend(until.0.to_le_bytes());
        }
        let members: Vec<_> = self.members.values().cloned().collect();
        put_members(&mut out, &members);
        out.into()
    }

    pub(crate) fn decode(bytes: Bytes) -> Decoded<Book> {
        let is_long = bytes.len() > BOOK_BYTES_MAX;
        let mut reader = Reader::new(bytes, "a membership book");
        if is_long || reader.u8()? != BOOK_VERSION {
            return reader.malformed();
        }
        let cluster_version = reader.u32()?;
        let mut replaceable = BTreeMap::new();
        for _ in 0..reader.count(12)? {
            let node = NodeId(reader.u32()?);
            let is_next = replaceable.last_key_value().is_none_or(|(last, _)| *last < node);
            if !is_next {
                return reader.malformed();
            }
            replaceable.insert(node, GroupTime(reader.u64()?));
        }
        let mut book = Book::new(members(&mut reader)?);
        book.cluster_version = cluster_version;
        book.replaceable = replaceable;
        reader.finish()?;
        Ok(book)
    }

    /// As of which version of `apply` the group's machines go on from here.
    pub fn cluster_version(&self) -> u32 {
        self.cluster_version
    }

    /// It never falls.
    pub(crate) fn raise_cluster_version(&mut self, version: u32) {
        self.cluster_version = self.cluster_version.max(version);
    }

    /// Whether an operator lets a directory that `node` lost be replaced, at `time`.
    pub(crate) fn may_replace(&self, node: NodeId, time: GroupTime) -> bool {
        self.replaceable.get(&node).is_some_and(|until| time < *until)
    }

    /// At `time`; nothing for a node that is no member.
    pub(crate) fn allow_replace(&mut self, node: NodeId, time: GroupTime, until: GroupTime) {
        self.replaceable.retain(|_, until| time < *until);
        if self.knows_node(node) {
            self.replaceable.insert(node, until);
        }
    }

    /// What a group that is born of this one begins with. Permissions are this group's own: they end by its time.
    pub(crate) fn to_be_born_with(&self) -> Book {
        Book {
            replaceable: BTreeMap::new(),
            ..self.clone()
        }
    }

    /// Follows an applied change: learns who it brings and forgets who is in no part of the configuration any more. A
    /// permission to replace ends with the replacement, which is when a voter is brought, and with the member.
    pub(crate) fn apply(&mut self, brought: Book, conf: &ConfState) {
        for member in brought.iter().filter(|m| conf.voters.contains(&m.peer)) {
            self.replaceable.remove(&member.node);
        }
        self.members.extend(brought.members);
        self.members.retain(|peer, _| is_in(conf, *peer));
        let members = &self.members;
        self.replaceable
            .retain(|node, _| members.values().any(|m| m.node == *node));
    }
}

pub(crate) fn is_in(conf: &ConfState, peer: PeerId) -> bool {
    [&conf.voters, &conf.outgoing, &conf.learners, &conf.learners_next]
        .iter()
        .any(|list| list.contains(&peer))
}

/// What the leader proposes next so that `member`, connected now under its node's id, becomes a voter in the place of
/// every earlier incarnation of that node. First a learner; a voter only once it has `caught_up`, in the same change
/// that removes the lost one: so the quorum never grows on account of a replica that cannot help yet.
pub(crate) fn next_change(conf: &ConfState, book: &Book, member: &Member, caught_up: bool) -> Option<ConfChange> {
    if conf.is_joint() || conf.voters.contains(&member.peer) {
        return None;
    }
    let others = || book.iter().filter(|m| m.node == member.node && m.peer != member.peer);
    let changes = if member.witness {
        // It has nothing to catch up with that a quorum would have to wait for.
        let mut changes: Vec<_> = others().map(|m| ConfChangeKind::Remove(m.peer)).collect();
        changes.push(ConfChangeKind::AddWitness(member.peer));
        changes
    } else if !conf.learners.contains(&member.peer) {
        let stale = others().filter(|m| conf.learners.contains(&m.peer));
        let mut changes: Vec<_> = stale.map(|m| ConfChangeKind::Remove(m.peer)).collect();
        changes.push(ConfChangeKind::AddLearner(member.peer));
        changes
    } else if caught_up {
        let mut changes: Vec<_> = others().map(|m| ConfChangeKind::Remove(m.peer)).collect();
        changes.push(ConfChangeKind::AddVoter(member.peer));
        changes
    } else {
        return None;
    };
    let context = Book::new([member.clone()]).encode();
    Some(ConfChange { changes, context })
}

/// A configuration and its book, as they are kept beside a snapshot record in the log.
pub(crate) fn encode_conf(conf: &ConfState, book: &Bytes) -> Bytes {
    let mut out = vec![BOOK_VERSION];
    crate::raft_codec::put_conf(&mut out, conf);
    crate::wire::put_bytes(&mut out, book);
    out.into()
}

pub(crate) fn decode_conf(bytes: Bytes) -> Decoded<(ConfState, Bytes)> {
    let mut reader = Reader::new(bytes, "a configuration record");
    if reader.u8()? != BOOK_VERSION {
        return reader.malformed();
    }
    let conf = crate::raft_codec::conf(&mut reader)?;
    let book = reader.bytes()?;
    reader.finish()?;
    Ok((conf, book))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else a replica that comes by a snapshot would tell its machine of a permission that the others never told theirs.
    #[test]
    fn a_machine_is_told_the_same_members_whether_or_not_a_permission_stands() {
        let (node, peer) = (NodeId(1), PeerId(7));
        let address = "n1:7070".to_owned();
        let witness = false;
        let mut book = Book::new([Member {
            peer,
            node,
            address,
            witness,
        }]);
        let conf = ConfState {
            voters: vec![peer],
            ..ConfState::default()
        };
        let before = crate::surgery::members_of(&conf, &book);
        book.allow_replace(node, GroupTime(1), GroupTime(2));
        assert_eq!(crate::surgery::members_of(&conf, &book), before);
    }
}
