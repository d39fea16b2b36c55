//! **Committed on a quorum** (Raft paper, §5.3 and §5.4.2; thesis §4.3): a leader commits an index only when a majority
//! of the voters — of both halves while the configuration is joint — have acknowledged it in this term, and only by
//! counting copies of an entry of its own term (figure 8).
//!
//! What counts is what was said: acknowledgements that left their senders, not what the leader made of them.

use std::collections::BTreeMap;

use settle_base::{Index, PeerId, Term};
use settle_raft::{Body, ConfState, Message, Raft};

use super::{Broken, Checked};

#[derive(Default)]
pub(super) struct CommittedOnQuorum {
    /// How far each peer acknowledged in each term. A leader may learn of it when others are in later terms.
    acked: BTreeMap<(Term, PeerId), Index>,
}

impl CommittedOnQuorum {
    pub(super) fn sent(&mut self, message: &Message) {
        if let Body::AppendReply { result: Ok(index), .. } = message.body {
            let acked = self.acked.entry((message.term, message.from)).or_default();
            *acked = index.max(*acked);
        }
    }

    /// `raft` leads, as it did before, and has moved its commit index. `before` was its configuration.
    pub(super) fn check(&self, raft: &Raft, before: &ConfState) -> Checked {
        let (index, term) = (raft.commit(), raft.term());
        let broken = |what| Err(Broken::new("committed on a quorum", what));
        let found = raft.term_at(index);
        if found.is_some_and(|found| found != term) {
            let what = format!(
                "{} leads term {term} and counts copies of entry {index} of term {found:?}",
                raft.id()
            );
            return broken(what);
        }
        let own = raft.status().durable_index;
        let acked = |peer: PeerId| match self.acked.get(&(term, peer)) {
            _ if peer == raft.id() => own,
            acked => acked.copied().unwrap_or(0),
        };
        let has = |peer| acked(peer) >= index;
        // The change itself may have been applied in the same turn.
        if !is_quorum(before, has) && !is_quorum(raft.conf(), has) {
            let acked: Vec<_> = raft.conf().voters.iter().map(|p| (p, acked(*p))).collect();
            let what = format!(
                "{} leads term {term} and commits {index} in {:?} with acks {acked:?}",
                raft.id(),
                raft.conf()
            );
            return broken(what);
        }
        Ok(())
    }
}

fn is_quorum(conf: &ConfState, has: impl Fn(PeerId) -> bool) -> bool {
    let is_majority = |voters: &[PeerId]| 2 * voters.iter().filter(|p| has(**p)).count() > voters.len();
    is_majority(&conf.voters) && (conf.outgoing.is_empty() || is_majority(&conf.outgoing))
}

#[test]
fn a_joint_configuration_needs_a_majority_of_both_halves() {
    let peers = |ids: &[u64]| ids.iter().map(|id| PeerId(*id)).collect::<Vec<_>>();
    let conf = ConfState {
        voters: peers(&[1, 4, 5]),
        outgoing: peers(&[1, 2, 3]),
        ..ConfState::default()
    };
    assert!(!is_quorum(&conf, |p| [1, 4, 5].contains(&p.0)));
    assert!(!is_quorum(&conf, |p| [1, 2, 3].contains(&p.0)));
    assert!(is_quorum(&conf, |p| [1, 2, 4].contains(&p.0)));
}
