//! Commit, rollback and status: asked until somebody tells, and told truly.

use std::time::Duration;

use anyhow::Result;
use settle_sdk::{Decision, Error, ExceptionCode, GlobalStatus, Progress, Retryable, Standing, Tm};
use settle_seata_wire::{GlobalEndResponse, Message, TxResult};

use crate::fake::{Fake, Reaction, ended, oblige, options};

fn is_commit(message: &Message) -> bool {
    matches!(message, Message::GlobalCommit(_))
}

/// One that reacts in its own way to commits.
async fn committing(mut react: impl FnMut() -> Reaction + Send + 'static) -> Result<Fake> {
    Fake::start(move |message| match message {
        Message::GlobalCommit(_) => react(),
        other => Reaction::Answer(oblige(other)),
    })
    .await
}

#[tokio::test]
async fn a_commit_whose_connection_is_lost_is_asked_elsewhere() -> Result<()> {
    let cutting = committing(|| Reaction::Cut).await?;
    let well = Fake::obliging().await?;
    let tm = Tm::connect(options([&cutting, &well])).await?;
    // Each comes to be asked first.
    while cutting.count(is_commit) == 0 {
        let outcome = tm.begin("pay", Duration::from_secs(60)).await?.commit().await?;
        assert_eq!((outcome.decision, outcome.progress), (Decision::Commit, Progress::Done));
    }
    assert!(well.count(is_commit) > 0);
    Ok(())
}

#[tokio::test]
async fn a_commit_that_one_coordinator_sits_on_is_asked_through_the_next() -> Result<()> {
    let stuck = committing(|| Reaction::Silence).await?;
    let well = Fake::obliging().await?;
    let mut options = options([&stuck, &well]);
    options.ask_again_after = Duration::from_millis(20);
    let tm = Tm::connect(options).await?;
    // Until both are registered, the stuck one may not be asked at all.
    stuck_is_asked(&tm, &stuck).await?;
    assert!(well.count(is_commit) > 0);
    Ok(())
}

async fn stuck_is_asked(tm: &Tm, stuck: &Fake) -> Result<()> {
    while stuck.count(is_commit) == 0 {
        tm.begin("pay", Duration::from_secs(60)).await?.commit().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_commit_is_ok_only_when_it_is_decided_for_good() -> Result<()> {
    use GlobalStatus::*;
    for status in GlobalStatus::ALL.iter().copied() {
        if matches!(status, Begin | Unknown) {
            continue;
        }
        let fake = committing(move || Reaction::Answer(Message::GlobalCommitResponse(ended(status)))).await?;
        let tm = Tm::connect(options([&fake])).await?;
        let told = tm.begin("pay", Duration::from_secs(60)).await?.commit().await;
        let expected = match status {
            Committed
            | Committing
            | CommitRetrying
            | AsyncCommitting
            | CommitFailed
            | CommitRetryTimeout
            | StopCommitOrCommitRetry => told.is_ok(),
            Finished | Deleting => matches!(&told, Err(error @ Error::Forgotten { .. }) if error.is_outcome_unknown()),
            _ => matches!(&told, Err(error @ Error::RolledBack { .. }) if error.retryable() == Retryable::No),
        };
        assert!(expected, "{status:?}: {told:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_commit_that_is_not_decided_yet_is_asked_again() -> Result<()> {
    let mut asked = 0;
    let fake = committing(move || {
        asked += 1;
        let status = if asked == 1 {
            GlobalStatus::Begin
        } else {
            GlobalStatus::Committed
        };
        Reaction::Answer(Message::GlobalCommitResponse(ended(status)))
    });
    let fake = fake.await?;
    let tm = Tm::connect(options([&fake])).await?;
    tm.begin("pay", Duration::from_secs(60)).await?.commit().await?;
    assert_eq!(fake.count(is_commit), 2);
    Ok(())
}

/// Seata's coordinator fills in what was asked for when it could not find out or do anything.
#[tokio::test]
async fn a_failure_decides_nothing_in_the_direction_that_was_asked_for() -> Result<()> {
    let fails = |status| GlobalEndResponse {
        result: TxResult::failed(ExceptionCode::FailedStore, "the database is down"),
        status,
    };
    let mut asked = 0;
    let fake = Fake::start(move |message| {
        asked += 1;
        let is_first = asked % 2 == 1;
        Reaction::Answer(match message {
            Message::GlobalCommit(_) if is_first => Message::GlobalCommitResponse(fails(GlobalStatus::Committing)),
            Message::GlobalCommit(_) => Message::GlobalCommitResponse(fails(GlobalStatus::TimeoutRollbacked)),
            Message::GlobalRollback(_) if is_first => Message::GlobalRollbackResponse(fails(GlobalStatus::Rollbacking)),
            Message::GlobalRollback(_) => Message::GlobalRollbackResponse(fails(GlobalStatus::Committed)),
            Message::GlobalStatus(_) if is_first => Message::GlobalStatusResponse(fails(GlobalStatus::Committed)),
            Message::GlobalStatus(_) => Message::GlobalStatusResponse(ended(GlobalStatus::Begin)),
            other => oblige(other),
        })
    });
    let fake = fake.await?;
    let tm = Tm::connect(options([&fake])).await?;
    let xid = "127.0.0.1:8091:7";
    assert_eq!(tm.status(xid).await?, Standing::Open);
    let error = tm.commit(xid).await.expect_err("it was rolled back");
    assert!(matches!(error, Error::RolledBack { .. }), "{error:?}");
    let error = tm.rollback(xid).await.expect_err("it was committed");
    assert!(matches!(error, Error::Committed { .. }), "{error:?}");
    Ok(())
}

/// The one request that there is room for is taken by a question that nobody answers.
#[tokio::test]
async fn a_commit_that_there_is_no_room_for_waits_and_one_that_is_never_sent_is_rolled_back() -> Result<()> {
    let fake = Fake::start(|message| match message {
        Message::GlobalStatus(_) => Reaction::Silence,
        other => Reaction::Answer(oblige(other)),
    });
    let fake = fake.await?;
    let mut options = options([&fake]);
    options.max_in_flight = 1;
    options.end_timeout = Duration::from_secs(2);
    let tm = Tm::connect(options).await?;
    let is_rollback = |message: &Message| matches!(message, Message::GlobalRollback(_));
    let is_status = |message: &Message| matches!(message, Message::GlobalStatus(_));
    for (n, given_up_after) in [(1, Duration::from_millis(20)), (2, Duration::from_secs(60))] {
        let transaction = tm.begin("pay", Duration::from_secs(60)).await?;
        let mut question = Box::pin(tm.status("127.0.0.1:8091:8"));
        tokio::select! {
            biased; // Nobody answers.
            _ = &mut question => panic!("it was answered"),
            sent = fake.wait_for(n, is_status) => sent?,
        }
        match tokio::time::timeout(given_up_after, transaction.commit()).await {
            Ok(told) => assert!(matches!(told, Err(Error::Busy { .. })), "{told:?}"),
            Err(_) => assert_eq!(n, 1),
        }
        drop(question);
        tm.flush().await;
        assert_eq!((fake.count(is_commit), fake.count(is_rollback)), (0, n));
    }
    let transaction = tm.begin("pay", Duration::from_secs(60)).await?;
    let mut question = Box::pin(tm.status("127.0.0.1:8091:8"));
    tokio::select! {
        biased; // Nobody answers.
        _ = &mut question => panic!("it was answered"),
        sent = fake.wait_for(3, is_status) => sent?,
    }
    let mut commit = Box::pin(transaction.commit());
    let waits = tokio::time::timeout(Duration::from_millis(20), &mut commit).await;
    assert!(waits.is_err(), "{waits:?}");
    drop(question);
    commit.await?;
    assert_eq!(fake.count(is_commit), 1);
    Ok(())
}

#[tokio::test]
async fn a_commit_that_nobody_answers_may_have_been_done_and_can_be_asked_again() -> Result<()> {
    let mut silent = true;
    let fake = committing(move || match std::mem::replace(&mut silent, false) {
        true => Reaction::Silence,
        false => Reaction::Answer(Message::GlobalCommitResponse(ended(GlobalStatus::TimeoutRollbacked))),
    });
    let fake = fake.await?;
    let mut options = options([&fake]);
    options.end_timeout = Duration::from_millis(100);
    let tm = Tm::connect(options).await?;
    let transaction = tm.begin("pay", Duration::from_secs(60)).await?;
    let xid = transaction.xid().to_owned();
    let error = transaction.commit().await.expect_err("nobody answered");
    assert!(
        matches!(error, Error::Unanswered { .. }) && error.is_outcome_unknown(),
        "{error:?}"
    );
    assert_eq!(tm.status(&xid).await?, Standing::Open);
    let error = tm.commit(&xid).await.expect_err("it was rolled back");
    assert!(matches!(error, Error::RolledBack { .. }), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn without_a_coordinator_nothing_is_sent_and_each_reason_is_told() -> Result<()> {
    let fake = Fake::obliging().await?;
    let mut options = options([&fake]);
    drop(fake);
    options.begin_timeout = Duration::from_millis(50);
    options.connect_within = Duration::from_millis(50);
    let address = options.addresses[0].clone();
    let error = Tm::connect(options.clone()).await.err().expect("nobody is there");
    assert!(error.to_string().contains(&address), "{error}");
    let error = Tm::start(options)?
        .begin("pay", Duration::from_secs(60))
        .await
        .expect_err("nobody is there");
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert_eq!(error.retryable(), Retryable::Yes);
    Ok(())
}

#[tokio::test]
async fn a_silent_coordinator_is_given_up_and_comes_back() -> Result<()> {
    let mut silent = true;
    let fake = committing(move || match std::mem::replace(&mut silent, false) {
        true => Reaction::Silence,
        false => Reaction::Answer(Message::GlobalCommitResponse(ended(GlobalStatus::Committed))),
    });
    let fake = fake.await?;
    let mut options = options([&fake]);
    options.heartbeat_every = Duration::from_millis(20);
    // The fake answers no heartbeat.
    options.dead_after = Duration::from_millis(100);
    let tm = Tm::connect(options).await?;
    let transaction = tm.begin("pay", Duration::from_secs(60)).await?;
    transaction.commit().await?;
    let is_registration = |message: &Message| matches!(message, Message::RegisterTmRequest(_));
    assert!(fake.count(is_registration) >= 2);
    Ok(())
}
