//! Sagas in code: steps with compensations, written as a function.
//!
//! Steps are of two kinds, and the transaction's commit lies between them:
//! - A [`Compensable`] step is done at once ([`Rm::do_step`]). Its compensation waits with the coordinator.
//! - A [`Retriable`] step is only promised ([`Rm::promise_step`]), and done after the commit, as often as it takes.
//!
//! A step is called with what its input reads back as from JSON, now and later alike, and an input that reads back as
//! another is refused.
//!
//! The function runs in a transaction ([`Tm::run`](crate::Tm::run)). When it ends well, the transaction commits: no step is
//! compensated any more, and the promised ones are done, each in its turn, in the order of their promises (one that
//! fails does not hold up the next). Any error, a panic, a lost process or the end of its time rolls back: the steps that were
//! done are compensated, the last one first, and nothing that was promised is done.
//!
//! # What survives a crash
//! Before a step is done, it is registered as a branch: the coordinator keeps its name and its input, durably and on every
//! node. So the process may die anywhere. Before the decision the saga is compensated, once its time is over: choose the
//! time so. After the decision it goes forward. Both are done by any process of the same application that serves the steps:
//! the one that began it, come back, or another. It never goes both ways, because the decision is one entry in the
//! coordinator's log. The function itself is not run again.
//!
//! Steps are called with a key of their own, the transaction's id and the branch's. A step in a database is behind the
//! [`fence`](crate::fence), in the same database transaction: [`prepare`](crate::fence::prepare) when it is done,
//! [`rollback`](crate::fence::rollback) when it is compensated, [`commit`](crate::fence::commit) when it is confirmed,
//! [`once`](crate::fence::once) when it was promised. A step elsewhere gives the key along, and whoever does it there has to know a key that comes again, and refuse one that was
//! compensated before.
//!
//! ```no_run
//! # use std::{sync::Arc, time::Duration};
//! # use settle_sdk::{Propagation, Rm, Tm, TccError, fence::FenceKey, saga::{self, Compensable, Retriable}};
//! # struct Flights; struct Letters;
//! # impl Compensable for Flights {
//! #     type Input = String; type Output = u32;
//! #     fn name(&self) -> &str { "flights" }
//! #     async fn run(&self, _: FenceKey<'_>, _: &String) -> Result<u32, TccError> { Ok(7) }
//! #     async fn compensate(&self, _: FenceKey<'_>, _: &String) -> Result<(), TccError> { Ok(()) }
//! # }
//! # impl Retriable for Letters {
//! #     type Input = String;
//! #     fn name(&self) -> &str { "letters" }
//! #     async fn run(&self, _: FenceKey<'_>, _: &String) -> Result<(), TccError> { Ok(()) }
//! # }
//! # async fn book(options: settle_sdk::Options, flights: Flights, letters: Letters) -> Result<(), Box<dyn std::error::Error>> {
//! let (flights, letters) = (Arc::new(flights), Arc::new(letters));
//! let served = vec![saga::compensable(flights.clone()), saga::retriable(letters.clone())];
//! let rm = Rm::connect(options.clone(), served).await?;
//! let tm = Tm::connect(options).await?;
//!
//! let trip = tm.run(Propagation::RequiresNew, "trip", Duration::from_secs(60), async |_| {
//!     let seat = rm.do_step(&*flights, &"to Oslo".to_owned()).await?;
//!     rm.promise_step(&*letters, &format!("your seat is {seat}")).await
//! });
//! trip.await?;
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use settle_base::ErrorCode;

use crate::{
    BranchCall, Current, Error, Rm, TccError, TccFuture, TccResource, current, fence::FenceKey, tcc::ApplicationData,
};

/// Which kind of step a resource is served as, and a branch was registered for. Told apart by this as well as by the name:
/// a type may be both.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    Compensable,
    Retriable,
}

/// A step that is done at once, and compensated when its saga fails.
pub trait Compensable: Send + Sync + 'static {
    /// What it is called with, now and for its compensation. Travels as JSON, and has to read back as it was.
    type Input: Serialize + DeserializeOwned + PartialEq + Send + Sync;
    /// What it gives to the saga's function. Not kept.
    type Output: Send;

    /// The same in every process of the application, and no other step's. Without a comma.
    fn name(&self) -> &str;

    /// Does it. After an error the saga fails, and the step is compensated as well: it may have been done.
    fn run(
        &self,
        key: FenceKey<'_>,
        input: &Self::Input,
    ) -> impl Future<Output = Result<Self::Output, TccError>> + Send;

    /// Compensates it, if it was done. May come more than once, and before or while it is done.
    fn compensate(&self, key: FenceKey<'_>, input: &Self::Input) -> impl Future<Output = Result<(), TccError>> + Send;

    /// The saga has committed: it will not be compensated any more. For a step behind the fence, whose row is kept for ever
    /// otherwise. May come more than once, until it says that it is done.
    fn confirm(&self, key: FenceKey<'_>, input: &Self::Input) -> impl Future<Output = Result<(), TccError>> + Send {
        let _ = (key, input);
        async { Ok(()) }
    }
}

/// A step that is done after the saga's commit.
pub trait Retriable: Send + Sync + 'static {
    /// What it is called with. Travels as JSON, and has to read back as it was.
    type Input: Serialize + DeserializeOwned + PartialEq + Send + Sync;

    /// The same in every process of the application, and no other step's. Without a comma.
    fn name(&self) -> &str;

    /// Does it. May come more than once, until it says that it is done.
    fn run(&self, key: FenceKey<'_>, input: &Self::Input) -> impl Future<Output = Result<(), TccError>> + Send;
}

/// A compensable step as [`Rm::connect`] serves it.
pub fn compensable<S: Compensable>(step: Arc<S>) -> Arc<dyn TccResource> {
    Arc::new(Done(step))
}

/// A retriable step as [`Rm::connect`] serves it.
pub fn retriable<S: Retriable>(step: Arc<S>) -> Arc<dyn TccResource> {
    Arc::new(Promised(step))
}

/// Why a step was not done or promised. This process does not commit the saga any more.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("step `{step}` was called outside of a saga")]
    Outside { step: String },
    #[error("the input of step `{step}` cannot be kept: {problem}")]
    Input { step: String, problem: String },
    #[error("step `{step}` was not registered: {error}")]
    Register {
        step: String,
        #[source]
        error: Error,
    },
    #[error("step `{step}` failed: {error}")]
    Failed {
        step: String,
        #[source]
        error: TccError,
    },
}

impl StepError {
    /// The stable code, with a page under `docs/errors/`.
    pub fn code(&self) -> ErrorCode {
        match self {
            StepError::Outside { .. } => ErrorCode::new("SD", 13),
            StepError::Register { error, .. } => error.code(),
            StepError::Failed { .. } => ErrorCode::new("SD", 14),
            StepError::Input { .. } => ErrorCode::new("SD", 16),
        }
    }
}

impl Rm {
    /// Does a step of the saga that this task is in.
    ///
    /// # Errors
    /// After any error, and when this future is dropped, this process does not commit the saga, and does no more steps of
    /// it. A process that only joined it has to give its caller an error: who began it knows nothing of this.
    pub async fn do_step<S: Compensable>(&self, step: &S, input: &S::Input) -> Result<S::Output, StepError> {
        let current = saga_of(step.name())?;
        // Dropped or failed, it may be half done, and a commit would leave it so.
        let unsure = current.unsure().map_err(|error| not_registered(step.name(), error))?;
        let registered = self.register_step(&current, step.name(), StepKind::Compensable, input);
        let (branch_id, input) = registered.await?;
        let key = FenceKey {
            xid: current.xid(),
            branch_id,
            action: step.name(),
        };
        let done = step.run(key, &input).await.map_err(|error| StepError::Failed {
            step: step.name().to_owned(),
            error,
        })?;
        unsure.sure();
        Ok(done)
    }

    /// Promises a step of the saga that this task is in: it is done when the saga has committed.
    ///
    /// # Errors
    /// As of [`do_step`](Rm::do_step).
    pub async fn promise_step<S: Retriable>(&self, step: &S, input: &S::Input) -> Result<(), StepError> {
        let current = saga_of(step.name())?;
        let unsure = current.unsure().map_err(|error| not_registered(step.name(), error))?;
        let registered = self.register_step(&current, step.name(), StepKind::Retriable, input);
        registered.await?;
        unsure.sure();
        Ok(())
    }

    /// The branch, and the input as it is kept.
    async fn register_step<I: Serialize + DeserializeOwned + PartialEq>(
        &self,
        current: &Current,
        step: &str,
        kind: StepKind,
        input: &I,
    ) -> Result<(i64, I), StepError> {
        let (data, kept) = keep(input, kind).map_err(|problem| StepError::Input {
            step: step.to_owned(),
            problem,
        })?;
        let registered = self.register_data(current.xid(), step, Some(kind), data).await;
        let branch_id = registered.map_err(|error| not_registered(step, error))?;
        Ok((branch_id, kept))
    }
}

fn not_registered(step: &str, error: Error) -> StepError {
    StepError::Register {
        step: step.to_owned(),
        error,
    }
}

/// The application data of a step's branch, and the input that they read back as: what it is called with later.
fn keep<I: Serialize + DeserializeOwned + PartialEq>(input: &I, kind: StepKind) -> Result<(String, I), String> {
    let data = ApplicationData {
        action_context: input,
        step: Some(kind),
    };
    let data = serde_json::to_string(&data).map_err(|error| error.to_string())?;
    let read = serde_json::from_str::<ApplicationData<I>>(&data);
    let kept = read
        .map_err(|error| format!("its JSON does not read back: {error}"))?
        .action_context;
    if kept != *input {
        return Err("its JSON reads back as another".to_owned());
    }
    Ok((data, kept))
}

/// The input that a branch was registered with.
///
/// # Errors
/// Retryable when it was registered as a step of another kind: another process may serve that.
fn kept<I: DeserializeOwned>(call: &BranchCall, kind: StepKind) -> Result<I, TccError> {
    let data: ApplicationData<I> = serde_json::from_str(&call.application_data).map_err(TccError::unretryable)?;
    match data.step {
        Some(step) if step == kind => Ok(data.action_context),
        other => Err(TccError::retryable(format!(
            "`{}` is served as a {kind:?} step, and the branch is one of another kind ({other:?})",
            call.resource
        ))),
    }
}

fn saga_of(step: &str) -> Result<Current, StepError> {
    current().ok_or_else(|| StepError::Outside { step: step.to_owned() })
}

struct Done<S>(Arc<S>);

impl<S: Compensable> TccResource for Done<S> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn step(&self) -> Option<StepKind> {
        Some(StepKind::Compensable)
    }

    fn commit<'a>(&'a self, call: &'a BranchCall) -> TccFuture<'a> {
        Box::pin(async move {
            let input = kept(call, StepKind::Compensable)?;
            self.0.confirm(call.into(), &input).await
        })
    }

    fn rollback<'a>(&'a self, call: &'a BranchCall) -> TccFuture<'a> {
        Box::pin(async move {
            let input = kept(call, StepKind::Compensable)?;
            self.0.compensate(call.into(), &input).await
        })
    }
}

struct Promised<S>(Arc<S>);

impl<S: Retriable> TccResource for Promised<S> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn step(&self) -> Option<StepKind> {
        Some(StepKind::Retriable)
    }

    fn commit<'a>(&'a self, call: &'a BranchCall) -> TccFuture<'a> {
        Box::pin(async move {
            let input = kept(call, StepKind::Retriable)?;
            self.0.run(call.into(), &input).await
        })
    }

    /// A promise is forgotten.
    fn rollback<'a>(&'a self, call: &'a BranchCall) -> TccFuture<'a> {
        Box::pin(async {
            // What is not read may be anything, but no step that has to be compensated.
            let _: serde::de::IgnoredAny = kept(call, StepKind::Retriable)?;
            Ok(())
        })
    }
}
