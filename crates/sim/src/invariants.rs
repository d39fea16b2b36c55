//! What must hold at every step of every cluster, whatever its service does.

use std::collections::{BTreeMap, BTreeSet};

use settle_base::{Index, PeerId, Term, fingerprint};
use settle_raft::{Body, Message, Raft, Role};

/// What all nodes together have shown so far.
#[derive(Default)]
pub(crate) struct Invariants {
    leaders: BTreeMap<Term, PeerId>,
    /// Term and contents of every entry that somebody knew to be committed.
    committed: BTreeMap<Index, (Term, u64)>,
    /// State of every replica that applied up to an index.
    hashes: BTreeMap<Index, u64>,
    ever_voters: BTreeSet<PeerId>,
    promises: BTreeMap<PeerId, Promise>,
    /// What was committed when a replica began with an empty disk.
    born_at: BTreeMap<PeerId, Index>,
    pub(crate) hashes_compared: u64,
    pub(crate) promises_checked: u64,
}

/// What a replica has told others, and so must remember.
#[derive(Clone, Copy, Default)]
struct Promise {
    term: Term,
    vote: PeerIdOrNone,
    /// An ack in `acked_term` up to here.
    acked: Index,
    acked_term: Term,
}

type PeerIdOrNone = Option<PeerId>;

impl Invariants {
    pub(crate) fn last_committed(&self) -> Index {
        self.committed.last_key_value().map_or(0, |(index, _)| *index)
    }

    pub(crate) fn is_born(&mut self, peer: PeerId) {
        let at = self.last_committed();
        self.born_at.insert(peer, at);
    }

    pub(crate) fn may_vote(&mut self, peers: &[PeerId]) {
        self.ever_voters.extend(peers);
    }

    /// Election safety: a term has one leader.
    pub(crate) fn leads(&mut self, peer: PeerId, term: Term) -> Result<(), String> {
        let known = *self.leaders.entry(term).or_insert(peer);
        if known != peer {
            return Err(format!("term {term} has two leaders, {known} and {peer}"));
        }
        Ok(())
    }

    /// Looks at one replica after each of its turns. `seen_commit` is what was looked at before.
    pub(crate) fn observe(&mut self, raft: &Raft, seen_commit: &mut Index) -> Result<(), String> {
        let (peer, term, commit) = (raft.id(), raft.term(), raft.commit());
        if raft.role() == Role::Leader {
            self.leads(peer, term)?;
        }
        if commit > *seen_commit {
            let first = (*seen_commit + 1).max(raft.first_index());
            for entry in raft.entries(first..=commit) {
                let found = (entry.term, fingerprint(&entry.data) ^ entry.time.0);
                let known = *self.committed.entry(entry.index).or_insert(found);
                if known != found {
                    return Err(format!(
                        "{peer} has committed entry {} of term {}, but another of term {} was committed there",
                        entry.index, entry.term, known.0
                    ));
                }
            }
            *seen_commit = commit;
        }
        Ok(())
    }

    /// Leader completeness: who is elected holds everything that was ever committed.
    pub(crate) fn elected(&mut self, raft: &Raft) -> Result<(), String> {
        if raft.role() != Role::Leader {
            return Ok(());
        }
        let Some((&index, &(term, _))) = self.committed.last_key_value() else {
            return Ok(());
        };
        let found = raft.term_at(index);
        if raft.last_index() < index || found.is_some_and(|found| found != term) {
            let (peer, leads) = (raft.id(), raft.term());
            return Err(format!(
                "{peer} leads term {leads} without entry {index} of term {term}, which is committed (it has {found:?})"
            ));
        }
        Ok(())
    }

    /// Same index, same state.
    pub(crate) fn applied(&mut self, index: Index, hash: u64, peer: PeerId) -> Result<(), String> {
        match self.hashes.insert(index, hash) {
            Some(known) if known != hash => Err(format!("at index {index} replica {peer} differs from another")),
            known => {
                self.hashes_compared += u64::from(known.is_some());
                if self.hashes.len() > 4_096 {
                    self.hashes.pop_first();
                }
                Ok(())
            }
        }
    }

    /// A message leaves `message.from`: notes what it promises, and refuses votes of those who have none.
    pub(crate) fn sent(&mut self, message: &Message, last_index: Index) -> Result<(), String> {
        let (from, term) = (message.from, message.term);
        let promise = self.promises.entry(from).or_default();
        match message.body {
            Body::Vote { .. } | Body::VoteReply { granted: true, .. } => {
                let to = if matches!(message.body, Body::Vote { .. }) {
                    from
                } else {
                    message.to
                };
                if promise.term == term && promise.vote.is_some_and(|vote| vote != to) {
                    let first = promise.vote.unwrap_or(PeerId::NONE);
                    return Err(format!("{from} votes for {to} in term {term} after {first}"));
                }
                if term >= promise.term {
                    promise.term = term;
                    promise.vote = Some(to);
                }
                let born_at = self.born_at.get(&from).copied().unwrap_or(0);
                if !self.ever_voters.contains(&from) || last_index < born_at {
                    return Err(format!(
                        "{from} votes in term {term} holding {last_index}, but began empty when {born_at} was committed"
                    ));
                }
            }
            Body::PreVote { .. } | Body::PreVoteReply { .. } => {}
            Body::AppendReply { result: Ok(index), .. } => {
                if term > promise.term {
                    promise.term = term;
                    promise.vote = None;
                }
                if (term, index) > (promise.acked_term, promise.acked) {
                    promise.acked_term = term;
                    promise.acked = index;
                }
            }
            _ if term > promise.term => {
                promise.term = term;
                promise.vote = None;
            }
            _ => {}
        }
        Ok(())
    }

    /// After a restart: everything promised before is remembered.
    pub(crate) fn restarted(&mut self, raft: &Raft) -> Result<(), String> {
        let Some(promise) = self.promises.get(&raft.id()) else {
            return Ok(());
        };
        self.promises_checked += 1;
        let status = raft.status();
        let peer = status.id;
        if status.term < promise.term {
            return Err(format!(
                "{peer} came back in term {}, but had spoken in {}",
                status.term, promise.term
            ));
        }
        let forgot = status.term == promise.term && promise.vote.is_some_and(|vote| vote != status.vote);
        if forgot {
            return Err(format!(
                "{peer} came back without its vote for {:?} in term {}",
                promise.vote, promise.term
            ));
        }
        if status.term == promise.acked_term && status.last_index < promise.acked {
            return Err(format!(
                "{peer} came back with entries up to {}, but had acknowledged {}",
                status.last_index, promise.acked
            ));
        }
        Ok(())
    }
}
