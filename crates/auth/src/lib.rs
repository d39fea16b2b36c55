//! Who a client is and what it may do: access keys, certificates' names, and what each application is granted. And who
//! an operator is.
//!
//! Nothing here reads a file, a clock or a socket: a [`Policy`] is made of values, and the time is an argument. Whoever
//! serves a connection gives it a [`Guard`], shows it every registration, and asks it before a resource is used.

mod error;
mod guard;
mod operators;
mod policy;

pub use error::{AuthError, PolicyError};
pub use guard::{Caller, Guard, Registration, Role, Rules, Shown};
pub use operators::{May, Operator, Operators, TokenHash};
pub use policy::{Grants, Key, Names, Pattern, Policy, Secret};
