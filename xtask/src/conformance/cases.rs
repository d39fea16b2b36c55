//! What is run: the cases, the moments at which the leader dies, and which runs belong to which subset.

use clap::ValueEnum;

use super::versions::Serialization;

/// One story of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    AtCommit,
    AtRollback,
    AtLockConflict,
    AtTimeout,
    TccCommit,
    TccRollback,
    AtRollbackRetry,
    TccCommitRetry,
    TccRollbackRetry,
}

impl Case {
    pub fn name(self) -> &'static str {
        match self {
            Case::AtCommit => "at-commit",
            Case::AtRollback => "at-rollback",
            Case::AtLockConflict => "at-lock-conflict",
            Case::AtTimeout => "at-timeout",
            Case::TccCommit => "tcc-commit",
            Case::TccRollback => "tcc-rollback",
            Case::AtRollbackRetry => "at-rollback-retry",
            Case::TccCommitRetry => "tcc-commit-retry",
            Case::TccRollbackRetry => "tcc-rollback-retry",
        }
    }

    pub fn is_tcc(self) -> bool {
        matches!(
            self,
            Case::TccCommit | Case::TccRollback | Case::TccCommitRetry | Case::TccRollbackRetry
        )
    }

    /// True when the business throws after both branches are registered.
    pub fn refuses(self) -> bool {
        matches!(
            self,
            Case::AtRollback | Case::TccRollback | Case::AtRollbackRetry | Case::TccRollbackRetry
        )
    }

    /// True when phase two fails at first.
    pub fn fails_in_phase_two(self) -> bool {
        matches!(
            self,
            Case::AtRollbackRetry | Case::TccCommitRetry | Case::TccRollbackRetry
        )
    }
}

/// What happens to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Nothing.
    Peace,
    /// Killed with all branches registered and neither commit nor rollback sent.
    KillRegistered,
    /// Killed with the decision durable and the first phase-two call unanswered.
    KillPhase2,
}

impl Scenario {
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Peace => "peace",
            Scenario::KillRegistered => "kill-registered",
            Scenario::KillPhase2 => "kill-phase2",
        }
    }
}

/// Where the client's transaction is: the node whose address its xid carries, and to which the client therefore sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Place {
    /// Wherever it began; the place of all runs in peace.
    Any,
    /// On a node that lives on.
    Survivor,
    /// On the node that is killed.
    Killed,
    /// Nowhere: its xid names no listed address, so each request goes to a random node of the list.
    Spread,
}

impl Place {
    pub fn name(self) -> &'static str {
        match self {
            Place::Any => "any",
            Place::Survivor => "survivor",
            Place::Killed => "killed",
            Place::Spread => "spread",
        }
    }
}

/// How much of the suite to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subset {
    /// Every case in every scenario at both places.
    All,
    /// Every case in peace; AT and TCC commit and AT rollback through both kills on a surviving node; AT commit on the killed one.
    /// With the serializer protobuf AT commit alone through the kills.
    Ci,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub case: Case,
    pub scenario: Scenario,
    pub place: Place,
}

/// All runs of `subset`, in the order in which they are run; those with a kill once for each of `places`.
pub fn plans(subset: Subset, serialization: Serialization, places: &[Place]) -> Vec<Plan> {
    let cases = Case::value_variants();
    let mut plans: Vec<Plan> = cases
        .iter()
        .map(|case| Plan {
            case: *case,
            scenario: Scenario::Peace,
            place: Place::Any,
        })
        .collect();
    for scenario in [Scenario::KillRegistered, Scenario::KillPhase2] {
        for place in places {
            let chosen = cases
                .iter()
                .filter(|case| subset == Subset::All || in_ci(**case, serialization, *place));
            plans.extend(chosen.map(|case| Plan {
                case: *case,
                scenario,
                place: *place,
            }));
        }
    }
    plans
}

fn in_ci(case: Case, serialization: Serialization, place: Place) -> bool {
    match (place, serialization) {
        // How messages are written makes no difference to a kill, so one is enough.
        (Place::Killed, Serialization::Protobuf) => false,
        (_, Serialization::Protobuf) => case == Case::AtCommit,
        (Place::Killed, Serialization::Seata) => case == Case::AtCommit,
        _ => matches!(case, Case::AtCommit | Case::AtRollback | Case::TccCommit),
    }
}
