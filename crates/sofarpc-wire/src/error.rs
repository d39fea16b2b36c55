//! What can be wrong with the content of a frame of SOFARPC.

use settle_base::ErrorCode;
use settle_bolt::BoltError;
use settle_hessian::HessianError;

/// A request or answer that cannot be read or written. The frame around it is whole, so this costs one call and not the
/// connection.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum SofaRpcError {
    #[error("read a frame: its class is {found}, expected {expected}")]
    WrongClass { expected: &'static str, found: Box<str> },
    #[error("{method} has {declared} types of arguments and {given} arguments")]
    ArgumentCount {
        method: Box<str>,
        declared: usize,
        given: usize,
    },
    #[error("write the header of a request: its properties are nested deeper than {max} maps")]
    PropertiesTooDeep { max: usize },
    #[error(transparent)]
    Hessian(#[from] HessianError),
    #[error(transparent)]
    Bolt(#[from] BoltError),
}

impl SofaRpcError {
    /// The stable code of this error: area `SR`, or that of the codec below.
    pub const fn code(&self) -> ErrorCode {
        match self {
            SofaRpcError::WrongClass { .. } => ErrorCode::new("SR", 1),
            SofaRpcError::ArgumentCount { .. } => ErrorCode::new("SR", 2),
            SofaRpcError::PropertiesTooDeep { .. } => ErrorCode::new("SR", 3),
            SofaRpcError::Hessian(error) => error.code(),
            SofaRpcError::Bolt(error) => error.code(),
        }
    }
}
