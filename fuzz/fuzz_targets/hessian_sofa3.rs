//! Any bytes to the reader of SOFAHessian 3.x.

#![no_main]

use libfuzzer_sys::fuzz_target;
use settle_hessian::Dialect;

fuzz_target!(|bytes: &[u8]| settle_fuzz::hessian(bytes, Dialect::Sofa3));
