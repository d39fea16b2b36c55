//! What this process knows of a transaction is obeyed by whoever ends it or takes part in it here, also later.

use std::{pin::pin, sync::Arc, time::Duration};

use anyhow::Result;
use settle_sdk::{Current, Error, GlobalStatus, Retryable, Rm, Tm};
use settle_seata_wire::{GlobalBeginResponse, Message, TxResult};

use crate::{
    fake::{Fake, Reaction, SOON, ended, oblige, options},
    registrations::{Accounts, is_branch},
};

const TIME: Duration = Duration::from_secs(60);

fn is_commit(message: &Message) -> bool {
    matches!(message, Message::GlobalCommit(_))
}
fn is_rollback(message: &Message) -> bool {
    matches!(message, Message::GlobalRollback(_))
}

#[tokio::test]
async fn what_must_not_commit_is_never_asked_to_although_its_rollback_is_not_answered() -> Result<()> {
    let fake = Fake::start(|message| match message {
        Message::GlobalRollback(_) => Reaction::Silence,
        other => Reaction::Answer(oblige(other)),
    });
    let fake = fake.await?;
    let mut options = options([&fake]);
    options.end_timeout = Duration::from_millis(50);
    let tm = Tm::connect(options).await?;
    let transaction = tm.begin("pay", TIME).await?;
    let xid = transaction.xid().to_owned();
    assert!(transaction.current().set_rollback_only());
    let error = transaction.commit().await.expect_err("it was marked");
    assert!(matches!(error, Error::RollbackOnly { .. }), "{error:?}");
    assert_eq!(error.retryable(), Retryable::No);
    // Nobody is in it any more, and somebody asks again.
    let error = tm.commit(&xid).await.expect_err("it was marked");
    assert!(matches!(error, Error::RollbackOnly { .. }), "{error:?}");
    assert_eq!(fake.count(is_commit), 0);
    assert!(fake.count(is_rollback) >= 2);
    Ok(())
}

#[tokio::test]
async fn a_rollback_that_was_not_answered_is_not_followed_by_a_commit() -> Result<()> {
    let fake = Fake::start(|message| match message {
        Message::GlobalRollback(_) => Reaction::Silence,
        other => Reaction::Answer(oblige(other)),
    });
    let fake = fake.await?;
    let mut options = options([&fake]);
    options.end_timeout = Duration::from_millis(50);
    let tm = Tm::connect(options).await?;
    let transaction = tm.begin("pay", TIME).await?;
    let xid = transaction.xid().to_owned();
    let error = transaction.rollback().await.expect_err("nobody answered");
    assert!(matches!(error, Error::Unanswered { .. }), "{error:?}");
    let error = tm.commit(&xid).await.expect_err("it was rolled back");
    assert!(matches!(error, Error::RollbackOnly { .. }), "{error:?}");
    assert_eq!(fake.count(is_commit), 0);
    Ok(())
}

/// By a process that does not know that it must not.
#[tokio::test]
async fn a_marked_one_that_somebody_else_committed_is_told_to_be_committed() -> Result<()> {
    let fake = Fake::start(|message| {
        Reaction::Answer(match message {
            Message::GlobalRollback(_) => Message::GlobalRollbackResponse(ended(GlobalStatus::Committed)),
            other => oblige(other),
        })
    });
    let fake = fake.await?;
    let tm = Tm::connect(options([&fake])).await?;
    let transaction = tm.begin("pay", TIME).await?;
    transaction.current().set_rollback_only();
    let error = transaction.commit().await.expect_err("it was marked");
    assert!(matches!(error, Error::Committed { .. }), "{error:?}");
    Ok(())
}

/// A branch that is registered while the commit is on its way can be in front of it in the log, and nobody would know how
/// its phase one goes on.
#[tokio::test]
async fn nothing_is_registered_once_the_commit_was_asked_for() -> Result<()> {
    let fake = Fake::start(|message| match message {
        Message::GlobalCommit(_) => Reaction::Silence,
        other => Reaction::Answer(oblige(other)),
    });
    let fake = fake.await?;
    let tm = Tm::connect(options([&fake])).await?;
    let rm = Rm::connect(options([&fake]), vec![Arc::new(Accounts)]).await?;
    let transaction = tm.begin("pay", TIME).await?;
    let xid = transaction.xid().to_owned();
    let current = transaction.current();
    // Made before, and polled only when the commit is on its way.
    let registered = rm.register(&xid, "accounts", &1);
    {
        let mut commit = pin!(transaction.commit());
        tokio::select! {
            biased; // Nobody answers.
            told = &mut commit => panic!("{told:?}"),
            sent = fake.wait_for(1, is_commit) => sent?,
        }
        let error = registered.await.expect_err("it is ending");
        assert!(matches!(error, Error::Ending { .. }), "{error:?}");
        assert!(!current.set_rollback_only(), "it comes too late");
    }
    drop(current);
    // Given up, the commit may still be on its way.
    let error = rm.register(&xid, "accounts", &1).await.expect_err("it is ending");
    assert!(matches!(error, Error::Ending { .. }), "{error:?}");
    assert_eq!(fake.count(is_branch), 0);
    // To ask again is safe.
    tokio::select! {
        biased; // Nobody answers.
        told = tm.commit(&xid) => panic!("{told:?}"),
        sent = fake.wait_for(2, is_commit) => sent?,
    }
    assert_eq!(fake.count(is_rollback), 0);
    Ok(())
}

/// A commit that could not be sent decides nothing.
#[tokio::test]
async fn a_commit_that_was_never_sent_closes_nothing() -> Result<()> {
    let fake = Fake::obliging().await?;
    let rm = Rm::connect(options([&fake]), vec![Arc::new(Accounts)]).await?;
    let gone = Fake::obliging().await?;
    let mut unreachable = options([&gone]);
    drop(gone);
    unreachable.end_timeout = Duration::from_millis(20);
    let error = Tm::start(unreachable)?.commit("127.0.0.1:8091:41").await;
    assert!(matches!(error, Err(Error::Unreachable { .. })), "{error:?}");
    rm.register("127.0.0.1:8091:41", "accounts", &1).await?;
    Ok(())
}

#[tokio::test]
async fn what_a_process_knows_of_a_transaction_that_it_only_joined_it_knows_later() -> Result<()> {
    const XID: &str = "127.0.0.1:8091:42";
    let fake = Fake::obliging().await?;
    let tm = Tm::connect(options([&fake])).await?;
    let rm = Rm::connect(options([&fake]), vec![Arc::new(Accounts)]).await?;
    // A registration that is given up, in one request of the caller's.
    let fails = Current::joined(XID).unsure()?;
    assert!(Current::joined(XID).is_rollback_only());
    drop(fails);
    // And another request.
    assert!(Current::joined(XID).is_rollback_only());
    let error = rm.register(XID, "accounts", &1).await.expect_err("it must not commit");
    assert!(matches!(error, Error::RollbackOnly { .. }), "{error:?}");
    let error = tm.commit(XID).await.expect_err("it must not commit");
    assert!(matches!(error, Error::RollbackOnly { .. }), "{error:?}");
    assert_eq!(
        (fake.count(is_branch), fake.count(is_commit), fake.count(is_rollback)),
        (0, 0, 1)
    );
    // It is rolled back: there is nothing left to know.
    assert!(!Current::joined(XID).is_rollback_only());
    Ok(())
}

/// A cluster that was founded anew begins to count anew.
#[tokio::test]
async fn a_transaction_that_was_begun_has_no_mark_of_another_of_the_same_id() -> Result<()> {
    const XID: &str = "127.0.0.1:8091:43";
    let fake = Fake::start(|message| {
        Reaction::Answer(match message {
            Message::GlobalBegin(_) => Message::GlobalBeginResponse(GlobalBeginResponse {
                result: TxResult::SUCCESS,
                xid: XID.to_owned(),
                extra_data: String::new(),
            }),
            other => oblige(other),
        })
    });
    let fake = fake.await?;
    let tm = Tm::connect(options([&fake])).await?;
    Current::joined(XID).set_rollback_only();
    tokio::time::timeout(SOON, tm.begin("pay", TIME).await?.commit()).await??;
    Ok(())
}
