//! The simulator catches what users' state machines get wrong.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use settle_machine::{ApplyError, EntryMeta, LoadError, SnapshotChunks, StateMachine};
use settle_sim::{Plan, check};

/// A sum of bytes, right or wrong.
#[derive(Default)]
struct Sum {
    total: u64,
    /// Adds to what was there when a snapshot is loaded.
    loads_on_top: bool,
    /// Counts a run's own entries, which no other replica sees.
    counts_calls: bool,
    calls: u64,
    loading: Vec<u8>,
}

impl StateMachine for Sum {
    type Effect = ();

    fn check(&self, command: &Bytes) -> Result<(), ApplyError> {
        let reason = "one byte is wanted".to_owned();
        if command.len() == 1 {
            Ok(())
        } else {
            Err(ApplyError { index: 0, reason })
        }
    }

    fn apply(&mut self, _: EntryMeta, command: &Bytes, _: &mut Vec<()>) -> Result<(), ApplyError> {
        self.calls += 1;
        self.total += u64::from(command[0]) + if self.counts_calls { self.calls } else { 0 };
        Ok(())
    }

    fn begin_snapshot(&self) -> SnapshotChunks {
        Box::new(std::iter::once(Bytes::copy_from_slice(&self.total.to_le_bytes())))
    }

    fn load_chunk(&mut self, chunk: Bytes) -> Result<(), LoadError> {
        self.loading.extend_from_slice(&chunk);
        Ok(())
    }

    fn finish_load(&mut self) -> Result<(), LoadError> {
        let image = std::mem::take(&mut self.loading);
        let reason = "eight bytes are wanted".to_owned();
        let total = u64::from_le_bytes(image.try_into().map_err(|_| LoadError { reason })?);
        self.total = total + if self.loads_on_top { self.total + 1 } else { 0 };
        Ok(())
    }

    fn state_hash(&self) -> u64 {
        self.total
    }
}

/// What the check says.
fn failure(plan: Plan<Sum>) -> String {
    let panicked = catch_unwind(AssertUnwindSafe(|| check(plan))).expect_err("the machine is wrong");
    panicked.downcast_ref::<String>().expect("it says why").clone()
}

fn plan(make: impl Fn() -> Sum + Send + Sync + 'static) -> Plan<Sum> {
    Plan::new(make)
        .commands(|prng| vec![prng.below(100) as u8])
        .seconds(10)
        .seeds(0..5)
}

#[test]
fn a_good_machine_passes_in_several_groups() {
    check(
        plan(Sum::default)
            .groups(2)
            .at_end(|sum| (sum.total > 0).then_some(()).ok_or("nothing came".to_owned())),
    );
}

#[test]
fn a_machine_whose_state_depends_on_the_replicas_life_is_told() {
    let text = failure(plan(|| Sum {
        counts_calls: true,
        ..Sum::default()
    }));
    assert!(text.contains("state equality"), "{text}");
}

#[test]
fn a_snapshot_that_does_not_bring_the_state_back_is_told_with_a_short_script() {
    let text = failure(plan(|| Sum {
        loads_on_top: true,
        ..Sum::default()
    }));
    assert!(text.contains("state equality") && text.contains("VIOLATED"), "{text}");
    assert!(text.lines().count() < 130, "{text}");
}

#[test]
fn a_broken_invariant_of_the_plan_is_told() {
    let small = |sum: &Sum| {
        if sum.total < 500 {
            Ok(())
        } else {
            Err(format!("{} is too much", sum.total))
        }
    };
    let text = failure(plan(Sum::default).invariant(small));
    assert!(
        text.contains("the plan's invariant") && text.contains("too much"),
        "{text}"
    );
}
