//! **State equality** (Schneider, *Implementing Fault-Tolerant Services Using the State Machine Approach*, §2): replicas
//! that have applied the same prefix are in the same state, whether by entries or by a snapshot.

use std::collections::BTreeMap;

use settle_base::{Index, PeerId};

use super::Broken;

/// So many of the newest indices are remembered.
const KEPT: usize = 4_096;

#[derive(Default)]
pub(super) struct StateEquality {
    /// State of every replica that applied up to an index.
    hashes: BTreeMap<Index, u64>,
}

impl StateEquality {
    /// Whether there was another state to compare with.
    pub(super) fn applied(&mut self, index: Index, hash: u64, peer: PeerId) -> Result<bool, Broken> {
        match self.hashes.insert(index, hash) {
            Some(known) if known != hash => {
                let what = format!("at index {index} replica {peer} differs from another");
                Err(Broken::new("state equality", what))
            }
            known => {
                if self.hashes.len() > KEPT {
                    self.hashes.pop_first();
                }
                Ok(known.is_some())
            }
        }
    }
}

#[test]
fn a_replica_that_differs_is_told() {
    let mut states = StateEquality::default();
    assert_eq!(states.applied(8, 1, PeerId(1)), Ok(false));
    assert_eq!(states.applied(8, 1, PeerId(2)), Ok(true));
    assert!(states.applied(8, 2, PeerId(3)).is_err());
}
