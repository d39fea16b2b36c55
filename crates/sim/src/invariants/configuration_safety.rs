//! **Configuration safety** (Raft thesis, §4.1 and §4.3): there is never a point at which two configurations that could
//! both elect or commit have disjoint majorities. So every replica has the same configuration at the same index, and each
//! differs from the one before only by entering or leaving a joint one.

use std::collections::BTreeMap;

use settle_base::Index;
use settle_raft::ConfState;

use super::{Broken, Checked};

#[derive(Default)]
pub(super) struct ConfigurationSafety {
    /// What the configuration is from each index on at which it changed.
    history: BTreeMap<Index, ConfState>,
}

impl ConfigurationSafety {
    /// A replica has `conf` from `index` on, as a change or by a snapshot.
    pub(super) fn changed(&mut self, index: Index, conf: &ConfState) -> Checked {
        let broken = |what| Err(Broken::new("configuration safety", what));
        let learns = |p| conf.learners.contains(p) || conf.learners_next.contains(p) && !conf.outgoing.contains(p);
        if conf.voters.is_empty() || conf.voters.iter().any(learns) {
            return broken(format!("no configuration: {conf:?}"));
        }
        let Some((&at, known)) = self.history.range(..=index).next_back() else {
            self.history.insert(index, conf.clone());
            return Ok(());
        };
        if known == conf {
            return Ok(());
        }
        if at == index {
            return broken(format!("at {index} one replica has {known:?}, another {conf:?}"));
        }
        if let Some((later, _)) = self.history.range(index..).next() {
            return broken(format!(
                "a replica changes to {conf:?} at {index}, after others did at {later} without it"
            ));
        }
        if !is_step(known, conf) {
            return broken(format!("from {known:?} at {at} to {conf:?} at {index} in one step"));
        }
        self.history.insert(index, conf.clone());
        Ok(())
    }
}

fn is_step(from: &ConfState, to: &ConfState) -> bool {
    match (from.outgoing.is_empty(), to.outgoing.is_empty()) {
        (true, false) => to.outgoing == from.voters,
        (false, true) => to.voters == from.voters,
        // Learners come and go; they count for nothing.
        (true, true) => to.voters == from.voters,
        (false, false) => false,
    }
}

#[test]
fn a_change_that_skips_the_joint_step_or_differs_between_replicas_is_told() {
    use settle_base::PeerId;
    let conf = |voters: &[u64], outgoing: &[u64]| ConfState {
        voters: voters.iter().map(|id| PeerId(*id)).collect(),
        outgoing: outgoing.iter().map(|id| PeerId(*id)).collect(),
        ..ConfState::default()
    };
    let mut safety = ConfigurationSafety::default();
    assert!(safety.changed(1, &conf(&[1, 2, 3], &[])).is_ok());
    assert!(safety.changed(5, &conf(&[1, 2, 4], &[1, 2, 3])).is_ok());
    assert!(
        safety.changed(5, &conf(&[1, 2, 5], &[1, 2, 3])).is_err(),
        "another replica says otherwise"
    );
    assert!(safety.changed(7, &conf(&[1, 2, 4], &[])).is_ok());
    assert!(
        safety.changed(6, &conf(&[1, 2, 4], &[1, 2, 3])).is_ok(),
        "a snapshot in between"
    );
    assert!(safety.changed(9, &conf(&[1, 4, 5], &[])).is_err(), "no joint step");
    assert!(safety.changed(9, &conf(&[], &[])).is_err());
}
