//! **State equality** (Schneider, *Implementing Fault-Tolerant Services Using the State Machine Approach*, §2): replicas
//! that have applied the same prefix are in the same state, whether by entries or by a snapshot.

use std::collections::BTreeMap;

use settle_base::{Index, PeerId};

use super::Broken;

/// So many of the newest indices are remembered.
const KEPT: usize = 4_096;

#[derive(Default)]
pub(super) struct StateEquality {
    /// State of every replica that applied up to an index, by the slips that are in it.
    hashes: BTreeMap<(Index, u64), u64>,
}

impl StateEquality {
    /// Whether there was another state to compare with. `slips` are the faults of machines that are in this state.
    pub(super) fn applied(&mut self, index: Index, slips: u64, hash: u64, peer: PeerId) -> Result<bool, Broken> {
        match self.hashes.insert((index, slips), hash) {
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
    assert_eq!(states.applied(8, 0, 1, PeerId(1)), Ok(false));
    assert_eq!(states.applied(8, 0, 1, PeerId(2)), Ok(true));
    assert_eq!(states.applied(8, 7, 2, PeerId(3)), Ok(false), "a fault made it so");
    assert!(states.applied(8, 0, 2, PeerId(3)).is_err());
}
