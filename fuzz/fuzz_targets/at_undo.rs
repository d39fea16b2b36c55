//! Any bytes: the decoders of undo logs end with a log or an error, what they understood survives being written, and a
//! statement is understood or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use settle_sdk_at::{
    JavaPackage, statement,
    undo::{Compressor, Context, decode, encode},
};

/// Small, so that the fuzzer finds the limit.
const UNPACKED_MAX: usize = 64 << 10;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(undo) = decode(bytes) {
        for package in [JavaPackage::IoSeata, JavaPackage::OrgApacheSeata] {
            let again = decode(&encode(&undo, package)).expect("what was written can be read");
            // A number that is none equals nothing.
            assert_eq!(format!("{again:?}"), format!("{undo:?}"));
        }
    }
    for compressor in [Compressor::None, Compressor::Zip, Compressor::Gzip] {
        if let Ok(unpacked) = compressor.unpack(bytes.to_vec(), UNPACKED_MAX) {
            assert!(unpacked.len() <= UNPACKED_MAX);
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Context::parse(text);
        let _ = statement::understand(text);
    }
});
