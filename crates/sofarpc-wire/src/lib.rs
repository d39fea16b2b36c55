//! What SOFARPC puts into bolt's frames: requests with their arguments, answers, exceptions. No sockets, no clock.
//!
//! - [`Request`] and [`Arguments`]: which method of which service, then each argument as a value of its own.
//! - [`Response`] and [`Answer`]: a value, the exception of the business, or a failure of the framework.
//! - [`server_exception`]: what goes with bolt's statuses of failure.
//! - [`SofaRpcError`]: everything that can be wrong, each with a stable code.
//!
//! Java speaks SOFAHessian 3.x here ([`Dialect::Sofa3`](settle_hessian::Dialect::Sofa3)); the dialect is an argument all
//! the same. The rules were taken from `sofa-rpc` 5.14 (`SofaRpcSerialization`, the serializers of `codec-sofa-hessian`).

mod error;
mod request;
mod response;

pub use error::SofaRpcError;
pub use request::{Arguments, Request, header};
pub use response::{Answer, Response, SERVER_EXCEPTION_CLASS, read_server_exception, server_exception};
