//! AT on a real MariaDB, with a coordinator that does as the test says.

mod bank;
mod ends;
#[allow(dead_code, reason = "shared with the SDK's tests, which use more of it")]
#[path = "../../../sdk/tests/client/fake.rs"]
mod fake;
mod java;
mod kinds;
mod locked;
mod setup;
mod sql;
mod taken_back;
