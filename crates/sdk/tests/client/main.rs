//! The client against coordinators that do as the test says, over real sockets.

mod calls;
mod carried;
mod ends;
mod fake;
mod marks;
mod registrations;
mod scopes;
mod steps;
