//! What SOFARPC puts into bolt's frames: requests with their arguments, answers, exceptions. No sockets, no clock.
//!
//! - [`Request`] and [`Arguments`]: which method of which service, then each argument as a value of its own.
//! - [`Response`] and [`Answer`]: a value, the exception of the business, or a failure of the framework.
//! - [`server_exception`]: what goes with bolt's statuses of failure.
//! - [`SofaRpcError`]: everything that can be wrong, each with a stable code.
//!
//! ```
//! use settle_hessian::{DecodeOptions, Dialect};
//! use settle_sofarpc_wire::{Answer, Request, Response};
//!
//! let request = Request {
//!     method_name: "sayHello".into(),
//!     target_service_unique_name: "com.example.Greeter:1.0".into(),
//!     method_arg_sigs: vec!["java.lang.String".into()],
//!     ..Request::default()
//! };
//! let body = request.to_body(Dialect::Sofa3, &[&"peter"])?;
//!
//! // The provider's side; `body` is what a frame of bolt carries.
//! let options = DecodeOptions::new(Dialect::Sofa3);
//! let (request, mut arguments) = Request::read(&body, &options)?;
//! let name: &str = &arguments.take::<String>()?;
//! arguments.finish()?;
//! let answer = Answer::Value(format!("hello {name}"));
//! let body = Response::new(answer).to_body(Dialect::Sofa3)?;
//!
//! let answer = Response::<String>::read(&body, &options)?.answer;
//! assert_eq!(answer, Answer::Value("hello peter".to_owned()));
//! # Ok::<(), settle_sofarpc_wire::SofaRpcError>(())
//! ```
//! Java speaks SOFAHessian 3.x here ([`Dialect::Sofa3`](settle_hessian::Dialect::Sofa3)); the dialect is an argument all
//! the same. The rules were taken from `sofa-rpc` 5.14 (`SofaRpcSerialization`, the serializers of `codec-sofa-hessian`).

mod error;
mod request;
mod response;

pub use error::SofaRpcError;
pub use request::{Arguments, Request, header};
pub use response::{Answer, Response, SERVER_EXCEPTION_CLASS, read_server_exception, server_exception};
