//! What more than one target checks.

use settle_hessian::{ClassNames, DecodeOptions, Dialect, Document, Reader};

/// Any bytes: a reader of `dialect` ends with values or an error, skipping agrees with reading, and what was read
/// survives being written in either dialect.
pub fn hessian(bytes: &[u8], dialect: Dialect) {
    let mut options = DecodeOptions::new(dialect);
    options.class_names = ClassNames::any();
    let skipped = Reader::new(bytes, &options).and_then(|mut reader| {
        while !reader.is_at_end() {
            reader.skip()?;
        }
        Ok(())
    });
    match Document::decode(bytes, &options) {
        Err(error) => assert_eq!(skipped, Err(error)),
        Ok(document) => {
            assert_eq!(skipped, Ok(()));
            for dialect in [Dialect::Sofa3, Dialect::Hessian2] {
                let written = document.encode(dialect).expect("what was read can be written");
                let options = DecodeOptions { dialect, ..options.clone() };
                let again = Document::decode(&written, &options).expect("what was written can be read");
                assert_eq!(again.encode(dialect).as_ref(), Ok(&written));
            }
        }
    }
}
