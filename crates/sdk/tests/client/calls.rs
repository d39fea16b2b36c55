//! Second-phase calls: each branch one at a time, only so many at once, and an answer whatever the application does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use settle_sdk::{BranchCall, BranchStatus, Rm, TccError, TccFuture, TccResource};
use settle_seata_wire::Message;
use tokio::{sync::Semaphore, time::timeout};

use crate::fake::{Fake, Reaction, SOON, branch, oblige, options, registered, status};

/// Confirms when it is let, and counts.
struct Gated {
    gate: Semaphore,
    entered: Semaphore,
    calls: AtomicUsize,
}

impl Gated {
    fn new() -> Arc<Gated> {
        Arc::new(Gated {
            gate: Semaphore::new(0),
            entered: Semaphore::new(0),
            calls: AtomicUsize::new(0),
        })
    }

    /// Waits until so many more calls run.
    async fn wait_entered(&self, count: u32) -> Result<()> {
        timeout(SOON, self.entered.acquire_many(count)).await??.forget();
        Ok(())
    }
}

impl TccResource for Gated {
    fn name(&self) -> &str {
        "accounts"
    }

    fn commit<'a>(&'a self, call: &'a BranchCall) -> TccFuture<'a> {
        Box::pin(async move {
            self.calls.fetch_add(1, Ordering::SeqCst);
            self.entered.add_permits(1);
            self.gate.acquire().await.map_err(TccError::retryable)?.forget();
            match call.context::<String>().map_err(TccError::unretryable)?.as_str() {
                "fails" => Err(TccError::retryable("not now")),
                "never" => Err(TccError::unretryable("never")),
                "panics" => panic!("as the test wants"),
                _ => Ok(()),
            }
        })
    }

    fn rollback<'a>(&'a self, _call: &'a BranchCall) -> TccFuture<'a> {
        panic!("before there is a future")
    }
}

fn data(context: &str) -> String {
    format!(r#"{{"actionContext":"{context}"}}"#)
}

#[tokio::test]
async fn the_same_call_twice_runs_once_and_answers_both() -> Result<()> {
    let fake = Fake::obliging().await?;
    let accounts = Gated::new();
    let _rm = Rm::connect(options([&fake]), vec![accounts.clone()]).await?;
    let call = Message::BranchCommit(branch(1, &data("")));
    let (first, second) = (fake.call(call.clone()).await?, fake.call(call.clone()).await?);
    accounts.wait_entered(1).await?;
    // The other way meanwhile is not let through: it comes again.
    let other = fake.call(Message::BranchRollback(branch(1, &data("")))).await?;
    assert_eq!(status(other).await?, BranchStatus::PhaseTwoRollbackFailedRetryable);
    accounts.gate.add_permits(1);
    assert_eq!(status(first).await?, BranchStatus::PhaseTwoCommitted);
    assert_eq!(status(second).await?, BranchStatus::PhaseTwoCommitted);
    assert_eq!(accounts.calls.load(Ordering::SeqCst), 1);
    // Later, it is a call of its own: what it does is the fence's business.
    accounts.gate.add_permits(1);
    assert_eq!(status(fake.call(call).await?).await?, BranchStatus::PhaseTwoCommitted);
    assert_eq!(accounts.calls.load(Ordering::SeqCst), 2);
    Ok(())
}

#[tokio::test]
async fn what_the_application_says_or_fails_to_say_is_answered() -> Result<()> {
    let fake = Fake::obliging().await?;
    let accounts = Gated::new();
    let _rm = Rm::connect(options([&fake]), vec![accounts.clone()]).await?;
    accounts.gate.add_permits(10);
    for (id, context, expected) in [
        (1, data(""), BranchStatus::PhaseTwoCommitted),
        (2, data("fails"), BranchStatus::PhaseTwoCommitFailedRetryable),
        (3, data("never"), BranchStatus::PhaseTwoCommitFailedUnretryable),
        (4, data("panics"), BranchStatus::PhaseTwoCommitFailedRetryable),
        (5, "no JSON".to_owned(), BranchStatus::PhaseTwoCommitFailedUnretryable),
    ] {
        // Twice: a failed call leaves nothing behind.
        for _ in 0..2 {
            let answer = fake.call(Message::BranchCommit(branch(id, &context))).await?;
            assert_eq!(status(answer).await?, expected, "{context}");
        }
    }
    for _ in 0..2 {
        let answer = fake.call(Message::BranchRollback(branch(6, &data("")))).await?;
        assert_eq!(status(answer).await?, BranchStatus::PhaseTwoRollbackFailedRetryable);
    }
    Ok(())
}

#[tokio::test]
async fn only_so_many_run_at_once_and_one_too_many_comes_again() -> Result<()> {
    let fake = Fake::obliging().await?;
    let accounts = Gated::new();
    let mut options = options([&fake]);
    (options.max_calls_running, options.max_calls) = (2, 3);
    let _rm = Rm::connect(options, vec![accounts.clone()]).await?;
    let mut answers = Vec::new();
    for id in 1..=3 {
        answers.push(fake.call(Message::BranchCommit(branch(id, &data("")))).await?);
    }
    accounts.wait_entered(2).await?;
    let refused = fake.call(Message::BranchCommit(branch(4, &data("")))).await?;
    assert_eq!(status(refused).await?, BranchStatus::PhaseTwoCommitFailedRetryable);
    assert_eq!(accounts.calls.load(Ordering::SeqCst), 2);
    accounts.gate.add_permits(3);
    for answer in answers {
        assert_eq!(status(answer).await?, BranchStatus::PhaseTwoCommitted);
    }
    Ok(())
}

#[tokio::test]
async fn a_call_goes_on_when_its_connection_is_lost_and_the_next_is_answered_with_its_end() -> Result<()> {
    let fake = Fake::obliging().await?;
    let accounts = Gated::new();
    let _rm = Rm::connect(options([&fake]), vec![accounts.clone()]).await?;
    let call = Message::BranchCommit(branch(1, &data("")));
    let lost = fake.call(call.clone()).await?;
    accounts.wait_entered(1).await?;
    fake.cut_rm().await?;
    fake.wait_for(2, |message| matches!(message, Message::RegisterRmRequest(_)))
        .await?;
    let answer = fake.call(call).await?;
    // One behind it on the same connection runs: so it was taken.
    let _behind = fake.call(Message::BranchCommit(branch(2, &data("")))).await?;
    accounts.wait_entered(1).await?;
    assert!(
        timeout(Duration::from_millis(20), lost)
            .await
            .is_ok_and(|lost| lost.is_err())
    );
    accounts.gate.add_permits(1);
    assert_eq!(status(answer).await?, BranchStatus::PhaseTwoCommitted);
    assert_eq!(accounts.calls.load(Ordering::SeqCst), 2);
    Ok(())
}

#[tokio::test]
async fn a_drained_resource_manager_ends_its_calls_answers_them_and_takes_no_more() -> Result<()> {
    let fake = Fake::knowing_tokens(|message| match message {
        Message::UnregisterRmRequest(_) => Reaction::Answer(Message::UnregisterRmResponse(registered())),
        other => Reaction::Answer(oblige(other)),
    });
    let fake = fake.await?;
    let accounts = Gated::new();
    let rm = Rm::connect(options([&fake]), vec![accounts.clone()]).await?;
    let running = fake.call(Message::BranchCommit(branch(1, &data("")))).await?;
    accounts.wait_entered(1).await?;
    assert!(!rm.drain(Duration::from_millis(50)).await, "a call runs");
    fake.wait_for(1, |message| matches!(message, Message::UnregisterRmRequest(_)))
        .await?;
    let refused = fake.call(Message::BranchCommit(branch(2, &data("")))).await?;
    assert_eq!(status(refused).await?, BranchStatus::PhaseTwoCommitFailedRetryable);
    accounts.gate.add_permits(1);
    assert!(rm.drain(SOON).await);
    // What was answered arrives although nobody is there any more.
    drop(rm);
    assert_eq!(status(running).await?, BranchStatus::PhaseTwoCommitted);
    assert_eq!(accounts.calls.load(Ordering::SeqCst), 1);
    Ok(())
}
