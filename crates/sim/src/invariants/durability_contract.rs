//! **The durability contract** (Raft paper, figure 2, "persistent state": updated on stable storage before responding):
//! a replica that comes back remembers its term, its vote and every entry that it acknowledged, since all it said before
//! its process died.
//!
//! The host's own checker judges the same rule by the log's completions; this one by what a restart finds.

use std::collections::BTreeMap;

use settle_base::{Index, PeerId, Term};
use settle_raft::{Body, Message, Raft};

use super::{Broken, Checked};

#[derive(Default)]
pub(super) struct DurabilityContract {
    promises: BTreeMap<PeerId, Promise>,
}

/// What a replica has told others, and so must remember.
#[derive(Clone, Copy, Default)]
struct Promise {
    term: Term,
    vote: Option<PeerId>,
    /// An ack in `acked_term` up to here.
    acked: Index,
    acked_term: Term,
}

impl DurabilityContract {
    pub(super) fn sent(&mut self, message: &Message) -> Checked {
        let (from, term) = (message.from, message.term);
        let promise = self.promises.entry(from).or_default();
        match message.body {
            Body::Vote { .. } => promise.votes(from, from, term)?,
            Body::VoteReply { granted: true, .. } => promise.votes(from, message.to, term)?,
            Body::PreVote { .. } | Body::PreVoteReply { .. } => {}
            Body::AppendReply { result: Ok(index), .. } => {
                promise.is_in(term);
                if (term, index) > (promise.acked_term, promise.acked) {
                    promise.acked_term = term;
                    promise.acked = index;
                }
            }
            _ => promise.is_in(term),
        }
        Ok(())
    }

    pub(super) fn forgives(&mut self, peer: PeerId) {
        self.promises.remove(&peer);
    }

    /// Whether anything had been promised.
    pub(super) fn restarted(&self, raft: &Raft) -> Result<bool, Broken> {
        let Some(promise) = self.promises.get(&raft.id()) else {
            return Ok(false);
        };
        let status = raft.status();
        promise
            .kept_by(status.term, status.vote, status.last_index)
            .map_err(|what| Broken::new("durability contract", format!("{} came back {what}", status.id)))?;
        Ok(true)
    }
}

impl Promise {
    fn is_in(&mut self, term: Term) {
        if term > self.term {
            self.term = term;
            self.vote = None;
        }
    }

    fn votes(&mut self, from: PeerId, to: PeerId, term: Term) -> Checked {
        if self.term == term && self.vote.is_some_and(|vote| vote != to) {
            let first = self.vote.unwrap_or(PeerId::NONE);
            let what = format!("{from} votes for {to} in term {term} after {first}");
            return Err(Broken::new("one vote per term", what));
        }
        if term >= self.term {
            self.term = term;
            self.vote = Some(to);
        }
        Ok(())
    }

    fn kept_by(&self, term: Term, vote: PeerId, last: Index) -> Result<(), String> {
        if term < self.term {
            return Err(format!("in term {term}, but had spoken in {}", self.term));
        }
        if term == self.term && self.vote.is_some_and(|told| told != vote) {
            return Err(format!("without its vote for {:?} in term {term}", self.vote));
        }
        if term == self.acked_term && last < self.acked {
            return Err(format!(
                "with entries up to {last}, but had acknowledged {}",
                self.acked
            ));
        }
        Ok(())
    }
}

#[test]
fn a_forgotten_term_vote_or_ack_is_told() {
    let mut promise = Promise::default();
    promise.votes(PeerId(1), PeerId(2), 4).expect("the first vote");
    (promise.acked_term, promise.acked) = (4, 9);
    assert!(promise.votes(PeerId(1), PeerId(3), 4).is_err(), "a second vote");
    assert!(promise.kept_by(4, PeerId(2), 9).is_ok());
    assert!(
        promise.kept_by(5, PeerId::NONE, 3).is_ok(),
        "a later leader may have cut the log"
    );
    assert!(promise.kept_by(3, PeerId(2), 9).is_err());
    assert!(promise.kept_by(4, PeerId::NONE, 9).is_err());
    assert!(promise.kept_by(4, PeerId(2), 8).is_err());
}
