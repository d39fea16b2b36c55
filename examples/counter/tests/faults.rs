//! The counter under everything that can go wrong.

use settle_example_counter::Counter;
use settle_sim::{Plan, check};

#[test]
fn every_addition_counts_once_under_all_faults() {
    check(
        Plan::new(Counter::default)
            .commands(|_| Counter::add(7))
            .invariant(|counter| {
                (counter.total() % 7 == 0)
                    .then_some(())
                    .ok_or("a part of a 7".to_owned())
            })
            .at_end(|counter| {
                (counter.total() > 0)
                    .then_some(())
                    .ok_or("nothing was added".to_owned())
            })
            .seeds(0..5),
    );
}
