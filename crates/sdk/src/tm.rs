//! The transaction manager: begins transactions, ends them, asks how they stand.

use std::{
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use settle_seata_wire::{GlobalBegin, GlobalEndResponse, GlobalStatus, Message, Outcome as Result_, TxResult};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::sleep,
};

use crate::{
    Current, Decision, Error, Options, Outcome, Standing, Transaction,
    connection::{Role, global_end, obedient},
    coordinators::{Coordinators, Health, Repeat, Request, Said},
    error::Act,
};

/// Begins and ends global transactions, through whichever coordinator is well. Cheap to clone; its connections are closed
/// with the last clone, once the transactions that were dropped open are rolled back or `finish_within` is over. A process
/// that ends sooner cuts that off: [`flush`](Tm::flush) waits for it.
#[derive(Clone)]
pub struct Tm {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    coordinators: Arc<Coordinators>,
    dropped: mpsc::Sender<Dropped>,
    tasks: JoinSet<()>,
    /// Dropped with this: the task then has `finish_within`.
    _owned: oneshot::Sender<()>,
}

impl Drop for Inner {
    /// What was dropped open is still rolled back: the task ends by itself, within `finish_within`.
    fn drop(&mut self) {
        self.tasks.detach_all();
    }
}

/// `Constants.SAGA_TRANS_NAME_PREFIX`.
const SAGA_PREFIX: &str = "$Saga_";

enum Dropped {
    Transaction(Arc<str>),
    /// Answered when everything before it is through.
    Flush(oneshot::Sender<()>),
}

impl Tm {
    /// Connects to every coordinator, and waits until one of them takes requests. The others are tried for as long as
    /// this lives.
    ///
    /// # Errors
    /// [`Error::Options`]; [`Error::Unreachable`] after `connect_within`.
    pub async fn connect(options: Options) -> Result<Tm, Error> {
        let tm = Tm::start(options)?;
        tm.inner.coordinators.wait_for_one(Act::Begin).await?;
        Ok(tm)
    }

    /// As [`connect`](Tm::connect), without waiting: for services that start before their coordinators do.
    ///
    /// # Errors
    /// [`Error::Options`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(options: Options) -> Result<Tm, Error> {
        let coordinators = Arc::new(Coordinators::start(&Role::TransactionManager, &obedient(), options)?);
        let (dropped, queue) = mpsc::channel(coordinators.options().max_dropped);
        let mut tasks = JoinSet::new();
        let (owner, owned) = oneshot::channel();
        tasks.spawn(roll_back_dropped(coordinators.clone(), queue, owned));
        let inner = Inner {
            coordinators,
            dropped,
            tasks,
            _owned: owner,
        };
        Ok(Tm { inner: Arc::new(inner) })
    }

    /// How each coordinator is.
    pub fn health(&self) -> Vec<Health> {
        self.inner.coordinators.health()
    }

    /// Begins a global transaction. The coordinator rolls it back by itself when it is neither committed nor rolled back
    /// within `timeout` (milliseconds count, up to 24 days).
    ///
    /// # Errors
    /// Whatever the error: there is no transaction that could commit. One whose begin was not answered ends empty, by
    /// its timeout. A name that begins with `$Saga_` is refused: coordinators take it for a saga of Seata's state machine,
    /// and do not drive its branches.
    pub async fn begin(&self, name: &str, timeout: Duration) -> Result<Transaction, Error> {
        if name.starts_with(SAGA_PREFIX) {
            return Err(Error::Unsendable {
                act: Act::Begin,
                problem: format!("a name that begins with `{SAGA_PREFIX}` means a saga of Seata's state machine"),
            });
        }
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let request = Request {
            act: Act::Begin,
            xid: "",
            body: Message::GlobalBegin(GlobalBegin {
                timeout_ms,
                transaction_name: name.to_owned(),
            }),
            repeat: Repeat::Safe,
            within: self.inner.coordinators.options().begin_timeout,
            sent: None,
        };
        let xid = self.inner.coordinators.ask(request, |answer| {
            Said::Done(match answer {
                Message::GlobalBeginResponse(response) => refused(Act::Begin, response.result).map(|()| response.xid),
                other => Err(unexpected(Act::Begin, &other)),
            })
        });
        Ok(Transaction::new(self.clone(), xid.await?.into()))
    }

    /// Commits a transaction by its id: what [`Transaction::commit`] does, for whoever asks again. Asked again, it tells
    /// the same outcome, for as long as the coordinator keeps it.
    ///
    /// # Errors
    /// [`Error::RolledBack`] when it was decided otherwise; [`Error::RollbackOnly`] when this process knows that it must
    /// not commit, as [`Transaction::commit`]; [`Error::Unanswered`] and [`Error::Forgotten`] when the outcome is not known.
    pub async fn commit(&self, xid: &str) -> Result<Outcome, Error> {
        self.commit_in(&Current::joined(xid)).await
    }

    /// Rolls a transaction back by its id, as [`Transaction::rollback`] does. Asked again, it tells the same outcome.
    ///
    /// # Errors
    /// [`Error::Committed`] when it was decided otherwise; [`Error::Unanswered`] and [`Error::Forgotten`] when the outcome
    /// is not known.
    pub async fn rollback(&self, xid: &str) -> Result<Outcome, Error> {
        self.rollback_in(&Current::joined(xid)).await
    }

    pub(crate) async fn commit_in(&self, current: &Current) -> Result<Outcome, Error> {
        let coordinators = &self.inner.coordinators;
        match current.close() {
            Some(closing) => coordinators.end(Act::Commit, current, Some(closing.sent())).await,
            // Whether the rollback is told or not, nobody here has asked for a commit, or will.
            None => match coordinators.end(Act::Rollback, current, None).await {
                Err(committed @ Error::Committed { .. }) => Err(committed),
                _ => Err(Error::RollbackOnly {
                    xid: current.xid().to_owned(),
                }),
            },
        }
    }

    pub(crate) async fn rollback_in(&self, current: &Current) -> Result<Outcome, Error> {
        current.set_rollback_only();
        self.inner.coordinators.end(Act::Rollback, current, None).await
    }

    /// How a transaction stands.
    ///
    /// # Errors
    /// When no coordinator told in time.
    pub async fn status(&self, xid: &str) -> Result<Standing, Error> {
        let request = self.inner.coordinators.about(Act::Status, xid);
        let read = |answer| match answer {
            Message::GlobalStatusResponse(response) if response.result.outcome != Result_::Success => Said::Undecided,
            Message::GlobalStatusResponse(response) => Said::Done(Ok(match response.status {
                GlobalStatus::Begin => Standing::Open,
                status => Outcome::of(status).map_or(Standing::Forgotten, Standing::Decided),
            })),
            other => Said::Done(Err(unexpected(Act::Status, &other))),
        };
        self.inner.coordinators.ask(request, read).await
    }

    /// Waits until the transactions that were dropped open before are rolled back, or the coordinator could not be told
    /// within `end_timeout` each.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.inner.dropped.send(Dropped::Flush(done)).await.is_ok() {
            // The task lives as long as `self`.
            let _ = flushed.await;
        }
    }

    /// The transaction's owner went away without ending it.
    pub(crate) fn drop_open(&self, xid: Arc<str>) {
        if let Err(error) = self.inner.dropped.try_send(Dropped::Transaction(xid)) {
            let (mpsc::error::TrySendError::Full(dropped) | mpsc::error::TrySendError::Closed(dropped)) = error;
            if let Dropped::Transaction(xid) = dropped {
                tracing::warn!(%xid, "dropped open while too many wait for their rollback: left to its timeout");
            }
        }
    }
}

impl Coordinators {
    fn about<'a>(&self, act: Act, xid: &'a str) -> Request<'a> {
        let end = global_end(xid);
        Request {
            act,
            xid,
            body: match act {
                Act::Commit => Message::GlobalCommit(end),
                Act::Rollback => Message::GlobalRollback(end),
                _ => Message::GlobalStatus(end),
            },
            repeat: Repeat::Safe,
            within: self.options().end_timeout,
            sent: None,
        }
    }

    async fn end(&self, act: Act, current: &Current, sent: Option<&AtomicU32>) -> Result<Outcome, Error> {
        let xid = current.xid();
        let request = Request {
            sent,
            ..self.about(act, xid)
        };
        let told = self.ask(request, |answer| match answer {
            Message::GlobalCommitResponse(response) | Message::GlobalRollbackResponse(response) => {
                said(act, xid, response)
            }
            other => Said::Done(Err(unexpected(act, &other))),
        });
        let told = told.await;
        let is_over = |error: &Error| {
            matches!(
                error,
                Error::RolledBack { .. } | Error::Committed { .. } | Error::Forgotten { .. }
            )
        };
        if told.as_ref().map_or_else(is_over, |_| true) {
            current.settle();
        }
        told
    }
}

/// What an answer means to who asked for an end. With a failure, Seata's coordinator fills in the decision that stands,
/// or, when it could not find out, the one that was asked for (`AbstractTCInboundHandler`): that one decides nothing.
fn said(act: Act, xid: &str, answer: GlobalEndResponse) -> Said<Outcome> {
    let xid = || xid.to_owned();
    let (status, has_failed) = (answer.status, answer.result.outcome != Result_::Success);
    Said::Done(match (Outcome::of(status), act) {
        (Some(outcome), Act::Commit) if outcome.decision == Decision::Rollback => {
            Err(Error::RolledBack { xid: xid(), status })
        }
        (Some(outcome), Act::Rollback) if outcome.decision == Decision::Commit => {
            Err(Error::Committed { xid: xid(), status })
        }
        (Some(_), _) if has_failed => return Said::Undecided,
        (Some(outcome), _) => Ok(outcome),
        (None, _) if matches!(status, GlobalStatus::Begin | GlobalStatus::Unknown) => return Said::Undecided,
        (None, _) => Err(Error::Forgotten { xid: xid() }),
    })
}

pub(crate) fn refused(act: Act, result: TxResult) -> Result<(), Error> {
    match result.outcome {
        Result_::Success => Ok(()),
        Result_::Failed { message } => Err(Error::Refused {
            act,
            exception: result.exception_code,
            message,
        }),
    }
}

pub(crate) fn unexpected(act: Act, message: &Message) -> Error {
    Error::Unexpected {
        act,
        type_code: message.type_code(),
    }
}

/// Rolls back what was dropped open, several at once, in no order. When nobody can drop any more, what is left is
/// finished within `finish_within`.
async fn roll_back_dropped(
    coordinators: Arc<Coordinators>,
    mut queue: mpsc::Receiver<Dropped>,
    owned: oneshot::Receiver<()>,
) {
    const AT_ONCE: usize = 32;
    let finish_within = coordinators.options().finish_within;
    let all = async {
        let mut under_way = JoinSet::new();
        while let Some(dropped) = queue.recv().await {
            match dropped {
                Dropped::Transaction(xid) => {
                    if under_way.len() >= AT_ONCE {
                        under_way.join_next().await;
                    }
                    under_way.spawn(roll_back(coordinators.clone(), xid));
                }
                Dropped::Flush(done) => {
                    while under_way.join_next().await.is_some() {}
                    // Whoever asked may be gone.
                    let _ = done.send(());
                }
            }
        }
        while under_way.join_next().await.is_some() {}
    };
    let too_late = async {
        // An error: its owner is gone.
        let _ = owned.await;
        sleep(finish_within).await;
    };
    tokio::select! {
        biased; // Done in time is done.
        () = all => {}
        () = too_late => tracing::warn!(?finish_within, "transactions that were dropped open are left to their timeout"),
    }
}

async fn roll_back(coordinators: Arc<Coordinators>, xid: Arc<str>) {
    match coordinators
        .end(Act::Rollback, &Current::joined(xid.clone()), None)
        .await
    {
        Ok(_) => tracing::debug!(%xid, "dropped open and rolled back"),
        Err(error) => tracing::warn!(code = %error.code(), %error, "dropped open, and left to its timeout"),
    }
}
