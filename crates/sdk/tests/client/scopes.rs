//! Whatever happens to the work, its transaction ends with it.

use std::{panic::AssertUnwindSafe, time::Duration};

use anyhow::Result;
use settle_sdk::{Error, Propagation, ScopeError, Tm, current};
use settle_seata_wire::Message;

use crate::fake::{Fake, options};

const TIME: Duration = Duration::from_secs(60);

fn is_begin(message: &Message) -> bool {
    matches!(message, Message::GlobalBegin(_))
}
fn is_commit(message: &Message) -> bool {
    matches!(message, Message::GlobalCommit(_))
}
fn is_rollback(message: &Message) -> bool {
    matches!(message, Message::GlobalRollback(_))
}

#[tokio::test]
async fn a_transaction_that_is_dropped_is_rolled_back_and_one_that_was_ended_is_left_alone() -> Result<()> {
    let fake = Fake::obliging().await?;
    let tm = Tm::connect(options([&fake])).await?;
    tm.begin("pay", TIME).await?.commit().await?;
    tm.begin("pay", TIME).await?.rollback().await?;
    let _xid = tm.begin("pay", TIME).await?.forget();
    tm.flush().await;
    assert_eq!((fake.count(is_commit), fake.count(is_rollback)), (1, 1));
    drop(tm.begin("pay", TIME).await?);
    tm.flush().await;
    assert_eq!((fake.count(is_commit), fake.count(is_rollback)), (1, 2));
    Ok(())
}

#[tokio::test]
async fn what_was_dropped_is_rolled_back_although_the_last_owner_of_the_client_is_gone() -> Result<()> {
    let fake = Fake::obliging().await?;
    let tm = Tm::connect(options([&fake])).await?;
    let transactions = [tm.begin("pay", TIME).await?, tm.begin("pay", TIME).await?];
    drop(tm);
    drop(transactions);
    fake.wait_for(2, is_rollback).await
}

/// A coordinator would drive it as a saga of Seata's state machine.
#[tokio::test]
async fn a_name_that_means_a_saga_to_the_coordinator_is_refused() -> Result<()> {
    let fake = Fake::obliging().await?;
    let tm = Tm::connect(options([&fake])).await?;
    let error = tm.begin("$Saga_pay", TIME).await.expect_err("it is refused");
    assert!(matches!(error, Error::Unsendable { .. }), "{error:?}");
    assert_eq!(fake.count(is_begin), 0);
    Ok(())
}

#[tokio::test]
async fn work_that_fails_panics_or_is_dropped_is_rolled_back() -> Result<()> {
    let fake = Fake::obliging().await?;
    let tm = Tm::connect(options([&fake])).await?;

    let failed = tm
        .run(Propagation::Required, "pay", TIME, |_| async {
            Err::<(), _>("no money")
        })
        .await;
    let is_told = matches!(
        &failed,
        Err(ScopeError::Work {
            error: "no money",
            rollback: Some(Ok(_))
        })
    );
    assert!(is_told, "{failed:?}");
    assert_eq!(fake.count(is_rollback), 1);

    let panics = tm.run(Propagation::Required, "pay", TIME, |_| async {
        panic!("as the test wants")
    });
    let mut panics = Box::pin(async move {
        let _: Result<(), ScopeError<()>> = panics.await;
    });
    let caught =
        std::future::poll_fn(
            |cx| match std::panic::catch_unwind(AssertUnwindSafe(|| panics.as_mut().poll(cx))) {
                Ok(polled) => polled.map(|()| false),
                Err(_) => std::task::Poll::Ready(true),
            },
        );
    assert!(caught.await);
    drop(panics);
    tm.flush().await;
    assert_eq!(fake.count(is_rollback), 2);

    let hangs = tm.run(Propagation::Required, "pay", TIME, |_| async {
        std::future::pending::<()>().await;
        Ok::<_, ()>(())
    });
    tokio::select! {
        biased; // The work never ends.
        _ = hangs => unreachable!(),
        begun = fake.wait_for(3, is_begin) => begun?,
    }
    // The answer to the begin may not have been read yet: then nobody knows of a transaction to roll back.
    tm.flush().await;
    assert_eq!(fake.count(is_commit), 0);
    assert_eq!(
        tm.run(Propagation::Required, "pay", TIME, |_| async { Ok::<_, ()>(7) })
            .await
            .ok(),
        Some(7)
    );
    assert_eq!(fake.count(is_commit), 1);
    Ok(())
}

#[tokio::test]
async fn a_transaction_that_is_marked_is_rolled_back_instead_of_committed() -> Result<()> {
    let fake = Fake::obliging().await?;
    let tm = Tm::connect(options([&fake])).await?;
    let marked = tm.run(Propagation::Required, "pay", TIME, |_| async {
        current().expect("it runs in one").set_rollback_only();
        Ok::<_, ()>(())
    });
    let marked = marked.await;
    assert!(
        matches!(marked, Err(ScopeError::Commit(Error::RollbackOnly { .. }))),
        "{marked:?}"
    );
    assert_eq!((fake.count(is_commit), fake.count(is_rollback)), (0, 1));
    Ok(())
}

/// What work of each mode meets, outside and inside of a transaction.
#[tokio::test]
async fn each_propagation_begins_joins_leaves_out_or_refuses() -> Result<()> {
    #[derive(PartialEq, Eq, Debug)]
    enum Met {
        New,
        Outer,
        None,
        Refused,
    }
    use Propagation::*;
    let fake = Fake::obliging().await?;
    let tm = Tm::connect(options([&fake])).await?;
    let probe = async |propagation: Propagation| {
        let begun = fake.count(is_begin);
        let work = |given: Option<settle_sdk::Current>| async move {
            assert_eq!(
                given.map(|given| given.xid().to_owned()),
                current().map(|met| met.xid().to_owned())
            );
            Ok::<_, ()>(current().is_some())
        };
        match tm.run(propagation, "inner", TIME, work).await {
            Err(ScopeError::NotAllowed { .. }) => Met::Refused,
            Err(error) => panic!("{error:?}"),
            Ok(false) => Met::None,
            Ok(true) if fake.count(is_begin) > begun => Met::New,
            Ok(true) => Met::Outer,
        }
    };
    let table = [
        (Required, Met::New, Met::Outer),
        (RequiresNew, Met::New, Met::New),
        (Supports, Met::None, Met::Outer),
        (NotSupported, Met::None, Met::None),
        (Never, Met::None, Met::Refused),
        (Mandatory, Met::Refused, Met::Outer),
    ];
    for (propagation, outside, inside) in table {
        assert_eq!(probe(propagation).await, outside, "{propagation:?} outside");
        let ended = fake.count(is_commit);
        let met = tm.run(Required, "outer", TIME, |_| async {
            let met = probe(propagation).await;
            assert!(current().is_some(), "the outer one goes on");
            // Only who began commits.
            let own = usize::from(met == Met::New);
            assert_eq!(fake.count(is_commit), ended + own, "{propagation:?}");
            Ok::<_, ()>(met)
        });
        assert_eq!(met.await.ok(), Some(inside), "{propagation:?} inside");
    }
    Ok(())
}
