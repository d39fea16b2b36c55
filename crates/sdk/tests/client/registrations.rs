//! Branches are registered once, resources at every coordinator and again.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::Result;
use settle_sdk::{BranchCall, Current, Error, ExceptionCode, Retryable, Rm, TccFuture, TccResource, Tm, within};
use settle_seata_wire::{BranchRegisterResponse, Message, TxResult};

use crate::fake::{Fake, Reaction, oblige, options};

pub struct Accounts;

impl TccResource for Accounts {
    fn name(&self) -> &str {
        "accounts"
    }
    fn commit<'a>(&'a self, _call: &'a BranchCall) -> TccFuture<'a> {
        Box::pin(async { Ok(()) })
    }
    fn rollback<'a>(&'a self, _call: &'a BranchCall) -> TccFuture<'a> {
        Box::pin(async { Ok(()) })
    }
}

pub fn is_branch(message: &Message) -> bool {
    matches!(message, Message::BranchRegister(_))
}

#[tokio::test]
async fn a_registration_that_was_not_answered_is_not_sent_again_and_its_transaction_may_not_commit() -> Result<()> {
    for (xid, reaction) in [
        ("127.0.0.1:8091:6", (|| Reaction::Cut) as fn() -> Reaction),
        ("127.0.0.1:8091:7", || Reaction::Silence),
    ] {
        let (one, other) = (
            Fake::start(move |_| reaction()).await?,
            Fake::start(move |_| reaction()).await?,
        );
        let mut options = options([&one, &other]);
        options.register_timeout = Duration::from_millis(100);
        options.ask_again_after = Duration::from_millis(10);
        let rm = Rm::connect(options, vec![Arc::new(Accounts)]).await?;
        let current = Current::joined(xid);
        let registered = within(Some(current.clone()), rm.register(current.xid(), "accounts", &1)).await;
        let error = registered.expect_err("nobody answered");
        assert!(matches!(error, Error::Unanswered { .. }), "{error:?}");
        assert_eq!(error.retryable(), Retryable::Unknown);
        assert_eq!(one.count(is_branch) + other.count(is_branch), 1);
        assert!(current.is_rollback_only());
    }
    Ok(())
}

/// Which coordinator comes first is nobody's to say: until the stuck one did.
#[tokio::test]
async fn a_registration_that_is_late_is_asked_again_of_those_that_know_its_token_and_of_no_other() -> Result<()> {
    let answering = |message: &Message| Reaction::Answer(oblige(message));
    let stuck = Fake::knowing_tokens(|_| Reaction::Silence).await?;
    let (well, other) = (Fake::knowing_tokens(answering).await?, Fake::start(answering).await?);
    let mut options = options([&stuck, &well, &other]);
    options.ask_again_after = Duration::from_millis(20);
    let rm = Rm::connect(options, vec![Arc::new(Accounts)]).await?;
    let current = Current::joined("127.0.0.1:8091:17");
    while stuck.branches().is_empty() {
        rm.register(current.xid(), "accounts", &1).await?;
    }
    assert!(!current.is_rollback_only());
    let late = stuck.branches();
    assert!(late.iter().all(|branch| well.branches().contains(branch)), "{late:?}");
    let all: Vec<String> = [well.branches(), other.branches()].concat();
    let distinct: BTreeSet<&String> = all.iter().collect();
    assert_eq!(
        distinct.len(),
        all.len(),
        "a registration came twice where it is not known, or shares its token"
    );
    Ok(())
}

#[tokio::test]
async fn a_refusal_of_one_copy_says_nothing_of_the_other() -> Result<()> {
    let refusing = |_: &Message| {
        Reaction::Answer(Message::BranchRegisterResponse(BranchRegisterResponse {
            result: TxResult::failed(ExceptionCode::LockKeyConflict, "somebody holds it"),
            branch_id: 0,
        }))
    };
    let (stuck, refusing) = (
        Fake::knowing_tokens(|_| Reaction::Silence).await?,
        Fake::knowing_tokens(refusing).await?,
    );
    let mut options = options([&stuck, &refusing]);
    options.ask_again_after = Duration::from_millis(20);
    let rm = Rm::connect(options, vec![Arc::new(Accounts)]).await?;
    let mut alone = 0;
    while stuck.branches().is_empty() {
        alone += 1;
        let current = Current::joined(format!("127.0.0.1:8091:18{alone:03}"));
        let refused = rm.register(current.xid(), "accounts", &1).await;
        assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
        assert_eq!(current.is_rollback_only(), !stuck.branches().is_empty());
    }
    assert!(alone > 0);
    Ok(())
}

/// Whoever gave up waiting may not know of the branch, but its second phase would come.
#[tokio::test]
async fn while_a_registration_is_not_known_to_be_done_or_not_its_transaction_does_not_commit() -> Result<()> {
    for is_given_up in [true, false] {
        let fake = Fake::start(|message| match message {
            Message::BranchRegister(_) => Reaction::Silence,
            other => Reaction::Answer(oblige(other)),
        });
        let fake = fake.await?;
        let rm = Rm::connect(options([&fake]), vec![Arc::new(Accounts)]).await?;
        let tm = Tm::connect(options([&fake])).await?;
        let transaction = tm.begin("pay", Duration::from_secs(60)).await?;
        let xid = transaction.xid().to_owned();
        let mut registered = Box::pin(rm.register(&xid, "accounts", &1));
        tokio::select! {
            biased; // Nobody answers.
            registered = &mut registered => panic!("{registered:?}"),
            sent = fake.wait_for(1, is_branch) => sent?,
        }
        if is_given_up {
            drop(registered);
        }
        let error = transaction
            .commit()
            .await
            .expect_err("a branch of it may be registered");
        assert!(matches!(error, Error::RollbackOnly { .. }), "{error:?}");
        assert_eq!(fake.count(|message| matches!(message, Message::GlobalCommit(_))), 0);
        assert_eq!(fake.count(|message| matches!(message, Message::GlobalRollback(_))), 1);
    }
    Ok(())
}

#[tokio::test]
async fn a_refused_registration_was_not_done() -> Result<()> {
    let fake = Fake::start(|_| {
        Reaction::Answer(Message::BranchRegisterResponse(BranchRegisterResponse {
            result: TxResult::failed(ExceptionCode::GlobalTransactionNotActive, "it is over"),
            branch_id: 0,
        }))
    });
    let fake = fake.await?;
    let rm = Rm::connect(options([&fake]), vec![Arc::new(Accounts)]).await?;
    let error = rm
        .register("127.0.0.1:8091:8", "accounts", &1)
        .await
        .expect_err("it was refused");
    assert_eq!(error.retryable(), Retryable::No);
    assert!(error.to_string().contains("it is over"), "{error}");
    Ok(())
}

/// Both at the connections that stand and at those that come.
#[tokio::test]
async fn a_resource_that_is_added_is_registered_everywhere_beside_the_others() -> Result<()> {
    struct Named(&'static str);
    impl TccResource for Named {
        fn name(&self) -> &str {
            self.0
        }
        fn commit<'a>(&'a self, _call: &'a BranchCall) -> TccFuture<'a> {
            Box::pin(async { Ok(()) })
        }
        fn rollback<'a>(&'a self, _call: &'a BranchCall) -> TccFuture<'a> {
            Box::pin(async { Ok(()) })
        }
    }
    let (one, other) = (Fake::obliging().await?, Fake::obliging().await?);
    let rm = Rm::connect(options([&one, &other]), vec![Arc::new(Accounts)]).await?;
    rm.serve(Arc::new(Named("stock"))).await?;
    let is_of_both =
        |message: &Message| matches!(message, Message::RegisterRmRequest(rm) if rm.resource_ids == "accounts,stock");
    one.wait_for(1, is_of_both).await?;
    other.wait_for(1, is_of_both).await?;
    one.cut_rm().await?;
    one.wait_for(2, is_of_both).await?;
    rm.register("127.0.0.1:8091:9", "stock", &1).await?;
    for name in ["stock", "with,comma"] {
        let refused = rm.serve(Arc::new(Named(name))).await;
        assert!(matches!(refused, Err(Error::Options { .. })), "{refused:?}");
    }
    Ok(())
}

#[tokio::test]
async fn resources_are_registered_everywhere_and_again_after_a_loss() -> Result<()> {
    let (one, other) = (Fake::obliging().await?, Fake::obliging().await?);
    let rm = Rm::connect(options([&one, &other]), vec![Arc::new(Accounts)]).await?;
    let is_registration =
        |message: &Message| matches!(message, Message::RegisterRmRequest(rm) if rm.resource_ids == "accounts");
    one.wait_for(1, is_registration).await?;
    other.wait_for(1, is_registration).await?;
    one.cut_rm().await?;
    one.wait_for(2, is_registration).await?;
    assert_eq!(other.count(is_registration), 1);
    drop(rm);
    Ok(())
}
