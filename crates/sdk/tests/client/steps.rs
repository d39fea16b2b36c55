//! Steps of sagas: called with what is kept of them, as what they were registered, and without a commit when they fail.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Result;
use settle_sdk::{
    BranchStatus, Current, Error, Propagation, Rm, ScopeError, TccError, Tm,
    fence::FenceKey,
    saga::{self, Compensable, Retriable, StepError},
    within,
};
use settle_seata_wire::Message;

use crate::fake::{Fake, branch, options, status};

const TIME: Duration = Duration::from_secs(60);

/// What JSON keeps well, and what it does not.
#[derive(Clone, PartialEq, Debug, Default, serde::Serialize, serde::Deserialize)]
struct Order {
    amounts: Vec<f64>,
    discount: Option<f64>,
    names: HashMap<String, u64>,
    #[serde(skip)]
    lost: u8,
}

/// Both kinds of step under one name; notes what was done.
#[derive(Default)]
struct Booking {
    done: Mutex<Vec<(&'static str, Order)>>,
    fails: bool,
}

impl Booking {
    fn note(&self, what: &'static str, order: &Order) -> Result<(), TccError> {
        let mut done = self.done.lock().expect("no holder of this lock panics");
        done.push((what, order.clone()));
        match self.fails {
            true => Err(TccError::retryable("as the test wants")),
            false => Ok(()),
        }
    }

    fn done(&self) -> Vec<(&'static str, Order)> {
        self.done.lock().expect("no holder of this lock panics").clone()
    }
}

impl Compensable for Booking {
    type Input = Order;
    type Output = ();
    fn name(&self) -> &str {
        "accounts"
    }
    async fn run(&self, _: FenceKey<'_>, order: &Order) -> Result<(), TccError> {
        self.note("run", order)
    }
    async fn compensate(&self, _: FenceKey<'_>, order: &Order) -> Result<(), TccError> {
        self.note("compensated", order)
    }
    async fn confirm(&self, _: FenceKey<'_>, order: &Order) -> Result<(), TccError> {
        self.note("confirmed", order)
    }
}

impl Retriable for Booking {
    type Input = Order;
    fn name(&self) -> &str {
        "accounts"
    }
    async fn run(&self, _: FenceKey<'_>, order: &Order) -> Result<(), TccError> {
        self.note("kept its promise", order)
    }
}

fn is_branch(message: &Message) -> bool {
    matches!(message, Message::BranchRegister(_))
}

#[tokio::test]
async fn a_step_whose_input_reads_back_as_another_is_refused_and_never_done() -> Result<()> {
    let fake = Fake::obliging().await?;
    let booking = Arc::new(Booking::default());
    let rm = Rm::connect(options([&fake]), vec![saga::compensable(booking.clone())]).await?;
    let bad = [
        Order {
            amounts: vec![f64::NAN],
            ..Order::default()
        },
        // Reads back as none.
        Order {
            discount: Some(f64::INFINITY),
            ..Order::default()
        },
        Order {
            lost: 1,
            ..Order::default()
        },
    ];
    for (n, order) in bad.into_iter().enumerate() {
        let current = Current::joined(format!("127.0.0.1:8091:5{n}"));
        let done = within(Some(current.clone()), rm.do_step(&*booking, &order)).await;
        assert!(matches!(done, Err(StepError::Input { .. })), "{order:?}: {done:?}");
        assert!(current.is_rollback_only());
    }
    assert_eq!((fake.count(is_branch), booking.done().len()), (0, 0));

    let order = Order {
        amounts: vec![0.1 + 0.2, 1e-310, -0.0, 123_456_789.123_456_78, f64::MAX],
        names: (0..9).map(|n| (n.to_string(), u64::MAX - n)).collect(),
        ..Order::default()
    };
    let current = Current::joined("127.0.0.1:8091:58");
    within(Some(current), rm.do_step(&*booking, &order)).await?;
    assert_eq!(booking.done(), [("run", order.clone())]);
    // Its compensation is called with the same.
    let data = fake.branches().remove(0);
    let called = fake.call(Message::BranchRollback(branch(70, &data))).await?;
    assert_eq!(status(called).await?, BranchStatus::PhaseTwoRollbacked);
    assert_eq!(booking.done()[1], ("compensated", order));
    Ok(())
}

#[tokio::test]
async fn a_type_that_is_both_kinds_of_step_is_called_as_what_it_was_registered() -> Result<()> {
    let fake = Fake::obliging().await?;
    let booking = Arc::new(Booking::default());
    let order = Order::default();
    let served_as = [saga::compensable(booking.clone()), saga::retriable(booking.clone())];
    for (n, served) in served_as.into_iter().enumerate() {
        let rm = Rm::connect(options([&fake]), vec![served]).await?;
        let in_saga = |kind: &str| Some(Current::joined(format!("127.0.0.1:8091:6{n}:{kind}")));
        let done = within(in_saga("done"), rm.do_step(&*booking, &order)).await;
        let promised = within(in_saga("promised"), rm.promise_step(&*booking, &order)).await;
        let plain = rm.register("127.0.0.1:8091:63", "accounts", &order).await;
        assert_eq!(
            (done.is_ok(), promised.is_ok()),
            (n == 0, n == 1),
            "{done:?} {promised:?}"
        );
        assert!(matches!(plain, Err(Error::Options { .. })), "{plain:?}");
    }
    assert_eq!(fake.count(is_branch), 2);
    // The last one serves promises. What was registered as done at once, by another build of the application, is not
    // taken for one.
    let [done, promised] = fake.branches().try_into().expect("two were registered");
    let before = booking.done().len();
    for call in [Message::BranchCommit, Message::BranchRollback] {
        let rm = Rm::connect(options([&fake]), vec![saga::retriable(booking.clone())]).await?;
        let answer = status(fake.call(call(branch(70, &done))).await?).await?;
        assert!(
            matches!(
                answer,
                BranchStatus::PhaseTwoCommitFailedRetryable | BranchStatus::PhaseTwoRollbackFailedRetryable
            ),
            "{answer:?}"
        );
        drop(rm);
    }
    let _rm = Rm::connect(options([&fake]), vec![saga::retriable(booking.clone())]).await?;
    assert_eq!(booking.done().len(), before);
    let answer = status(fake.call(Message::BranchCommit(branch(71, &promised))).await?).await?;
    assert_eq!(answer, BranchStatus::PhaseTwoCommitted);
    assert_eq!(booking.done()[before].0, "kept its promise");
    Ok(())
}

#[tokio::test]
async fn a_saga_whose_step_failed_does_not_commit_and_does_no_more_steps() -> Result<()> {
    let fake = Fake::obliging().await?;
    let booking = Arc::new(Booking {
        fails: true,
        ..Booking::default()
    });
    let tm = Tm::connect(options([&fake])).await?;
    let rm = Rm::connect(options([&fake]), vec![saga::compensable(booking.clone())]).await?;
    let order = Order::default();
    let told = tm.run(Propagation::Required, "trip", TIME, async |_| {
        let failed = rm.do_step(&*booking, &order).await;
        assert!(matches!(failed, Err(StepError::Failed { .. })), "{failed:?}");
        // The function goes on all the same.
        let refused = rm.do_step(&*booking, &order).await;
        let error = Error::RollbackOnly {
            xid: settle_sdk::current().expect("it runs in one").xid().to_owned(),
        };
        assert!(
            matches!(&refused, Err(StepError::Register { error: told, .. }) if *told == error),
            "{refused:?}"
        );
        Ok::<_, StepError>(())
    });
    let told = told.await;
    assert!(
        matches!(told, Err(ScopeError::Commit(Error::RollbackOnly { .. }))),
        "{told:?}"
    );
    assert_eq!((fake.count(is_branch), booking.done().len()), (1, 1));
    assert_eq!(fake.count(|message| matches!(message, Message::GlobalCommit(_))), 0);
    Ok(())
}
