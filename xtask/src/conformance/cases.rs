//! What is run: the cases, the moments at which the leader dies, and which runs belong to which subset.

use clap::ValueEnum;

use super::versions::{Client, Language, Serialization};

/// One story of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    AtCommit,
    AtRollback,
    AtLockConflict,
    AtTimeout,
    /// A bank in Rust on the same tables.
    AtBesideRust,
    TccCommit,
    TccRollback,
    AtRollbackRetry,
    TccCommitRetry,
    TccRollbackRetry,
    XaCommit,
    XaRollback,
    /// A branch that its database has forgotten counts as done when a minute has passed since the timeout.
    XaForgotten,
    SagaCommit,
    SagaRollback,
    /// The client dies in the middle of a saga and another one of its application carries it on.
    SagaAdopted,
    AnnotatedCommit,
    AnnotatedRollback,
}

/// How the branches of a transfer take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    At,
    Tcc,
    Xa,
    /// The state machine.
    Saga,
    /// Annotated actions with a compensation.
    Annotated,
}

impl Mode {
    pub const ALL: [Mode; 5] = [Mode::At, Mode::Tcc, Mode::Xa, Mode::Saga, Mode::Annotated];

    /// What the bank calls it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::At => "at",
            Mode::Tcc => "tcc",
            Mode::Xa => "xa",
            Mode::Saga => "saga",
            Mode::Annotated => "annotated",
        }
    }

    /// Its money is in the rows of one bank's `tcc_account`, and not in those of two banks' `account`.
    pub fn is_in_one_bank(self) -> bool {
        matches!(self, Mode::Tcc | Mode::Saga | Mode::Annotated)
    }
}

impl Case {
    pub fn name(self) -> &'static str {
        match self {
            Case::AtCommit => "at-commit",
            Case::AtRollback => "at-rollback",
            Case::AtLockConflict => "at-lock-conflict",
            Case::AtTimeout => "at-timeout",
            Case::AtBesideRust => "at-beside-rust",
            Case::TccCommit => "tcc-commit",
            Case::TccRollback => "tcc-rollback",
            Case::AtRollbackRetry => "at-rollback-retry",
            Case::TccCommitRetry => "tcc-commit-retry",
            Case::TccRollbackRetry => "tcc-rollback-retry",
            Case::XaCommit => "xa-commit",
            Case::XaRollback => "xa-rollback",
            Case::XaForgotten => "xa-forgotten",
            Case::SagaCommit => "saga-commit",
            Case::SagaRollback => "saga-rollback",
            Case::SagaAdopted => "saga-adopted",
            Case::AnnotatedCommit => "annotated-commit",
            Case::AnnotatedRollback => "annotated-rollback",
        }
    }

    pub fn mode(self) -> Mode {
        match self {
            Case::AtCommit
            | Case::AtRollback
            | Case::AtLockConflict
            | Case::AtTimeout
            | Case::AtBesideRust
            | Case::AtRollbackRetry => Mode::At,
            Case::TccCommit | Case::TccRollback | Case::TccCommitRetry | Case::TccRollbackRetry => Mode::Tcc,
            Case::XaCommit | Case::XaRollback | Case::XaForgotten => Mode::Xa,
            Case::SagaCommit | Case::SagaRollback | Case::SagaAdopted => Mode::Saga,
            Case::AnnotatedCommit | Case::AnnotatedRollback => Mode::Annotated,
        }
    }

    /// True when the business throws after both branches are registered.
    pub fn refuses(self) -> bool {
        matches!(
            self,
            Case::AtRollback
                | Case::TccRollback
                | Case::AtRollbackRetry
                | Case::TccRollbackRetry
                | Case::XaRollback
                | Case::SagaRollback
                | Case::AnnotatedRollback
        )
    }

    /// True when phase two fails at first.
    pub fn fails_in_phase_two(self) -> bool {
        matches!(
            self,
            Case::AtRollbackRetry | Case::TccCommitRetry | Case::TccRollbackRetry
        )
    }

    /// Whether the leader can be killed at that moment of this story.
    fn can_be(self, scenario: Scenario, place: Place) -> bool {
        match (scenario, self) {
            (Scenario::Peace, _) => true,
            (_, Case::XaForgotten | Case::AtBesideRust) => false,
            // Its client reports once, and takes a report that got lost for one that arrived.
            (_, Case::SagaCommit | Case::SagaRollback) if place == Place::Killed => false,
            // Its first phase is done for good when it commits: nothing is called.
            (Scenario::KillPhase2, Case::AnnotatedCommit) => false,
            (Scenario::KillPhase2, Case::SagaCommit | Case::SagaRollback | Case::SagaAdopted) => false,
            _ => true,
        }
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
    /// Every case in every scenario at both places, with every client.
    All,
    /// With the clients that are marked for it: every case in peace but the slow ones; AT and TCC commit and AT rollback
    /// through both kills on a surviving node; AT commit on the killed one. With the serializer protobuf AT and TCC alone
    /// in peace and AT commit alone through the kills.
    Ci,
}

/// One run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    pub case: Case,
    pub scenario: Scenario,
    pub place: Place,
}

/// Why a client cannot play a case; none when it can.
pub fn lacks(client: &Client, case: Case) -> Option<&'static str> {
    if client.language == Language::Go {
        return match case.mode() {
            // It answers nothing to a call that fails, and has no name for a branch that its database has forgotten.
            Mode::Xa if case == Case::XaForgotten => Some("not in this version"),
            Mode::Tcc | Mode::Xa => None,
            // In 1.2 AT asks for a form of undo logs that it does not have, whatever it is configured to, so that no statement
            // under it succeeds with any server.
            Mode::At | Mode::Saga | Mode::Annotated => Some("not in this version"),
        };
    }
    match case.mode() {
        Mode::Saga if case == Case::SagaAdopted && client.saga_recovery_broken => Some("not in this version"),
        Mode::Annotated if !client.saga_annotation => Some("not in this version"),
        // Its messages have no number for them.
        Mode::Xa | Mode::Annotated if client.serialization == Serialization::Protobuf => Some("not in this version"),
        _ => None,
    }
}

/// All runs of `subset`, in the order in which they are run; those with a kill once for each of `places`.
pub fn plans(subset: Subset, client: &Client, places: &[Place]) -> Vec<Plan> {
    let fitting = Case::value_variants().iter().copied();
    let cases: Vec<Case> = fitting.filter(|case| lacks(client, *case).is_none()).collect();
    let in_peace = cases
        .iter()
        .filter(|case| subset == Subset::All || in_ci_in_peace(**case, client.serialization));
    let mut plans: Vec<Plan> = in_peace
        .map(|case| Plan {
            case: *case,
            scenario: Scenario::Peace,
            place: Place::Any,
        })
        .collect();
    for scenario in [Scenario::KillRegistered, Scenario::KillPhase2] {
        for place in places {
            let chosen = cases.iter().filter(|case| case.can_be(scenario, *place));
            let chosen = chosen.filter(|case| subset == Subset::All || in_ci(**case, client.serialization, *place));
            let chosen = chosen.map(|case| Plan {
                case: *case,
                scenario,
                place: *place,
            });
            plans.extend(chosen.filter(|plan| survives(client, *plan)));
        }
    }
    plans
}

/// Phase-two calls that can stand still at once, at most: as many as the threads that a client of Java's has for them on two
/// cores.
const HELD: usize = 4;
/// Transfers open at the kill, at most.
const OPEN: usize = 8;

/// Puts runs together that share one bank and one kill of the leader: those of one scenario and one place that do not disturb
/// each other. In peace each is alone.
pub fn share(plans: Vec<Plan>, client: &Client) -> Vec<Vec<Plan>> {
    let mut groups: Vec<Vec<Plan>> = Vec::new();
    for plan in plans {
        // A bank of Go's is started again after the kill, and counts the failures it is asked for over all transactions.
        let is_shared = client.language == Language::Java && plan.can_share();
        match groups.iter_mut().find(|group| is_shared && plan.fits(group)) {
            Some(group) => group.push(plan),
            None => groups.push(vec![plan]),
        }
    }
    groups
}

impl Plan {
    fn can_share(self) -> bool {
        // These have a story of their own after the kill, or a timeout that others would use up.
        let is_alone = matches!(
            self.case,
            Case::AtTimeout | Case::AtBesideRust | Case::XaForgotten | Case::SagaAdopted
        );
        self.scenario != Scenario::Peace && !is_alone
    }

    fn fits(self, group: &[Plan]) -> bool {
        let at_once: usize = group.iter().chain([&self]).map(|plan| plan.calls_at_once()).sum();
        group.iter().all(|other| {
            other.can_share() && (other.scenario, other.place) == (self.scenario, self.place) && !other.disturbs(self)
        }) && group.len() < OPEN
            && (self.scenario != Scenario::KillPhase2 || at_once <= HELD)
    }

    /// One takes away the undo logs that the other needs.
    fn disturbs(self, other: Plan) -> bool {
        let cases = [self.case, other.case];
        cases.contains(&Case::AtRollbackRetry) && cases.iter().all(|case| case.mode() == Mode::At)
    }

    /// Branches of AT are all committed at once, others one after the other, and rolled back one after the other.
    fn calls_at_once(self) -> usize {
        match self.case.mode() == Mode::At && !self.case.refuses() {
            true => 2,
            false => 1,
        }
    }
}

/// Whether a client can play the rest of a case after its only server was killed.
fn survives(client: &Client, plan: Plan) -> bool {
    let is_lost = client.language == Language::Go && plan.place == Place::Killed;
    let can_go_on = matches!(
        plan.case,
        Case::TccCommit | Case::TccRollback | Case::XaCommit | Case::XaRollback
    );
    !is_lost || can_go_on
}

fn in_ci_in_peace(case: Case, serialization: Serialization) -> bool {
    match case {
        // These wait for timeouts of a minute and more.
        Case::XaForgotten | Case::SagaAdopted => false,
        Case::AtRollbackRetry | Case::TccCommitRetry | Case::TccRollbackRetry => serialization == Serialization::Seata,
        // What is in the tables has nothing to do with how messages are written.
        Case::AtBesideRust => serialization == Serialization::Seata,
        _ => serialization == Serialization::Seata || matches!(case.mode(), Mode::At | Mode::Tcc),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_with_xa_plays_all_of_it_on_the_killed_node() {
        let pins = super::super::versions::read(
            &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/versions.toml"),
        );
        let clients = pins.unwrap().seata.client;
        for client in clients.iter().filter(|client| lacks(client, Case::XaCommit).is_none()) {
            let plans = plans(Subset::All, client, &[Place::Survivor, Place::Killed]);
            let is_one = |plan: &&Plan| plan.case.mode() == Mode::Xa && plan.place == Place::Killed;
            assert_eq!(plans.iter().filter(is_one).count(), 4, "{}", client.name);
        }
    }

    #[test]
    fn runs_share_a_kill_unless_one_would_disturb_the_other() {
        let pins = super::super::versions::read(
            &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/versions.toml"),
        );
        let clients = pins.unwrap().seata.client;
        for client in &clients {
            let all = plans(Subset::All, client, &[Place::Survivor, Place::Killed]);
            let groups = share(all.clone(), client);
            let played: Vec<Plan> = groups.concat();
            assert!(all.iter().all(|plan| played.contains(plan)) && played.len() == all.len());
            for group in &groups {
                let [first, others @ ..] = group.as_slice() else {
                    panic!("nobody plays nothing")
                };
                let is_alike = |plan: &Plan| (plan.scenario, plan.place) == (first.scenario, first.place);
                assert!(others.iter().all(is_alike));
                if others.is_empty() {
                    continue;
                }
                assert!(client.language == Language::Java && first.scenario != Scenario::Peace);
                let at = group.iter().filter(|plan| plan.case.mode() == Mode::At).count();
                assert!(at == 1 || !group.iter().any(|plan| plan.case == Case::AtRollbackRetry));
                let calls: usize = group.iter().map(|plan| plan.calls_at_once()).sum();
                assert!(calls <= HELD || first.scenario == Scenario::KillRegistered);
            }
            let is_java = client.language == Language::Java;
            assert!(
                !is_java || groups.len() < all.len() * 2 / 3,
                "{}: {}",
                client.name,
                groups.len()
            );
        }
    }
}
