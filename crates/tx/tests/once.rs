//! Registrations that come again because their client got no answer.

mod rig;

use rig::{Rig, load, register};
use settle_tx::{BranchType, CommandBody, Decision, MachineConfig, OwnedCommandBody, Reply, Tid, TxError};

const ONE: &str = r#"{"settle.once":"7f","actionContext":{"amount":5}}"#;
const OTHER: &str = r#"{"settle.once":"80","actionContext":{"amount":5}}"#;

fn branches(rig: &Rig) -> usize {
    rig.machine.globals().map(|global| global.branches().len()).sum()
}

fn at(tid: Tid, at_resource: &str, data: &str) -> OwnedCommandBody {
    let mut body = register(tid, BranchType::Tcc, "", data);
    if let CommandBody::RegisterBranch { resource, .. } = &mut body {
        *resource = at_resource.to_owned();
    }
    body
}

#[test]
fn a_registration_that_comes_again_is_the_branch_that_is_there_and_every_other_is_its_own() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let (tid, other_tid) = (rig.begin(), rig.begin());
    let first = rig.ask(at(tid, "stock", ONE));
    assert!(matches!(first, Ok(Reply::Branch { .. })), "{first:?}");
    // Other tokens, resources and transactions, data that only look like one, and none at all.
    let like_it = r#"{"actionContext":{"settle.once":"7f"}}"#;
    for body in [
        at(tid, "stock", OTHER),
        at(tid, "money", ONE),
        at(other_tid, "stock", ONE),
        at(tid, "stock", like_it),
        at(tid, "stock", like_it),
        at(tid, "stock", r#"{"settle.once":"","a":1}"#),
        at(tid, "stock", r#"{"settle.once":"","a":1}"#),
        at(tid, "stock", ""),
        at(tid, "stock", ""),
    ] {
        let open = branches(&rig);
        assert_ne!(rig.ask(body.clone()), first, "{body:?}");
        assert_eq!(branches(&rig), open + 1, "{body:?}");
    }
    let open = branches(&rig);
    assert_eq!(rig.ask(at(tid, "stock", ONE)), first);
    assert_eq!(branches(&rig), open);
    rig.machine.check_invariants();

    rig.machine = load(MachineConfig::new(1), &rig.snapshot(), 7).expect("it is a snapshot");
    assert_eq!(rig.ask(at(tid, "stock", ONE)), first);
}

#[test]
fn a_registration_that_comes_again_too_late_joins_nothing() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let tid = rig.begin();
    rig.ask(at(tid, "stock", ONE)).expect("nothing speaks against it");
    rig.decide(tid, Decision::Rollback).expect("it is open");
    let late = rig.ask(at(tid, "stock", ONE));
    assert!(matches!(late, Err(TxError::NotActive { .. })), "{late:?}");
}
