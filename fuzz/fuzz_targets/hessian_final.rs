//! Any bytes to the reader of the final Hessian 2.0.

#![no_main]

use libfuzzer_sys::fuzz_target;
use settle_hessian::Dialect;

fuzz_target!(|bytes: &[u8]| settle_fuzz::hessian(bytes, Dialect::Hessian2));
