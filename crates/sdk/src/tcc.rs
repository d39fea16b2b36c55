//! What an application implements to take part with try, confirm and cancel.

use std::pin::Pin;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::saga::StepKind;

/// What [`TccResource`]'s calls give back.
pub type TccFuture<'a> = Pin<Box<dyn Future<Output = Result<(), TccError>> + Send + 'a>>;

/// A resource whose phase one reserves (in the application's own code, after
/// [`Rm::register`](crate::Rm::register)), and whose phase two confirms or cancels, called here.
///
/// A call may come more than once, late, and before or without its phase one. Each has to be harmless then, which the
/// [`fence`](crate::fence) makes of it.
pub trait TccResource: Send + Sync + 'static {
    /// The resource's name, the same in every instance of the application. Without a comma.
    fn name(&self) -> &str;

    /// Which kind of step of a saga it is: what [`saga`](crate::saga) serves says so. Others are none.
    #[doc(hidden)]
    fn step(&self) -> Option<StepKind> {
        None
    }

    /// The transaction is committed: make it final. Until this says so, the coordinator calls again.
    fn commit<'a>(&'a self, call: &'a BranchCall) -> TccFuture<'a>;

    /// The transaction is rolled back: undo what phase one did, if it did anything.
    fn rollback<'a>(&'a self, call: &'a BranchCall) -> TccFuture<'a>;
}

/// Which branch is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BranchCall {
    pub xid: String,
    pub branch_id: i64,
    pub resource: String,
    /// As it was registered: JSON with the context under `actionContext`.
    pub application_data: String,
}

impl BranchCall {
    /// The context that the branch was registered with.
    ///
    /// # Errors
    /// When the data is no JSON, or has a context of another shape.
    pub fn context<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        let data: ApplicationData<T> = serde_json::from_str(&self.application_data)?;
        Ok(data.action_context)
    }
}

/// The layout that Java's `BusinessActionContext` travels in.
#[derive(Serialize, Deserialize)]
pub(crate) struct ApplicationData<T> {
    #[serde(rename = "actionContext")]
    pub action_context: T,
    /// Of a saga's step, which kind it is.
    #[serde(rename = "settleStep", default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepKind>,
}

/// Why a branch did not do what it was called for.
#[derive(Debug, thiserror::Error)]
pub enum TccError {
    /// The coordinator calls again.
    #[error("to be called again: {0}")]
    Retryable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It never will, whatever happens: the coordinator stops calling, and an operator has to look.
    #[error("it never will: {0}")]
    Unretryable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl TccError {
    /// To be called again; what most errors are.
    pub fn retryable(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TccError {
        TccError::Retryable(why.into())
    }

    pub fn unretryable(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TccError {
        TccError::Unretryable(why.into())
    }
}
