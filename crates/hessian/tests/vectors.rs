//! Bytes that the Java libraries wrote, kept by `cargo xtask conformance hessian --write-vectors`: each is read and
//! written again as the same bytes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod samples;

use samples::{CAUCHO, LITE, SOFA, SOFA4, vectors};
use settle_hessian::{ClassNames, DecodeOptions, Dialect, Document, Library, Reader};

fn check(dialect: Dialect, library: Library, text: &str) {
    let mut options = DecodeOptions::new(dialect);
    options.class_names = ClassNames::any();
    let mut count = 0;
    for (name, bytes) in vectors(text) {
        let document = Document::decode(&bytes, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(document.encode_with(dialect, library).unwrap(), bytes[..], "{name}");
        let mut reader = Reader::new(&bytes, &options).unwrap();
        while !reader.is_at_end() {
            reader.skip().unwrap_or_else(|error| panic!("skipping {name}: {error}"));
        }
        count += 1;
    }
    assert!(count > 60, "{count} vectors");
}

#[test]
fn what_sofa_hessian_wrote_is_written_alike() {
    check(Dialect::Sofa3, Library::default(), SOFA);
}

#[test]
fn what_sofa_hessian_4_wrote_is_written_as_by_caucho() {
    check(Dialect::Hessian2, Library::Caucho, SOFA4);
}

#[test]
fn what_caucho_wrote_is_written_alike() {
    check(Dialect::Hessian2, Library::Caucho, CAUCHO);
}

#[test]
fn what_hessian_lite_wrote_is_written_alike() {
    check(Dialect::Hessian2, Library::HessianLite, LITE);
}
