//! **Election safety** (Ongaro and Ousterhout, *In Search of an Understandable Consensus Algorithm*, figure 3): at most
//! one leader can be elected in a given term.

use std::collections::BTreeMap;

use settle_base::{PeerId, Term};

use super::{Broken, Checked};

#[derive(Default)]
pub(super) struct ElectionSafety {
    leaders: BTreeMap<Term, PeerId>,
}

impl ElectionSafety {
    pub(super) fn leads(&mut self, peer: PeerId, term: Term) -> Checked {
        let known = *self.leaders.entry(term).or_insert(peer);
        if known != peer {
            let what = format!("term {term} has two leaders, {known} and {peer}");
            return Err(Broken::new("election safety", what));
        }
        Ok(())
    }
}

#[test]
fn a_second_leader_of_a_term_is_told() {
    let mut elections = ElectionSafety::default();
    assert!(elections.leads(PeerId(1), 3).is_ok() && elections.leads(PeerId(1), 3).is_ok());
    assert!(elections.leads(PeerId(2), 4).is_ok());
    assert!(elections.leads(PeerId(2), 3).is_err());
}
