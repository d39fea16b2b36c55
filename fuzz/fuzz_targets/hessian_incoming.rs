//! Any bytes, arriving in pieces, to the reader of either dialect.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| settle_fuzz::hessian_incoming(bytes));
