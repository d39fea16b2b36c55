//! What more than one target checks.

use settle_hessian::{ClassNames, DecodeOptions, Dialect, Document, HessianError, Incoming, Reader};

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
                let options = DecodeOptions {
                    dialect,
                    ..options.clone()
                };
                let again = Document::decode(&written, &options).expect("what was written can be read");
                assert_eq!(again.encode(dialect).as_ref(), Ok(&written));
            }
        }
    }
}

/// Any bytes, cut anywhere: reading while they arrive gives what reading the whole gives, value by value, and ends alike.
pub fn hessian_incoming(bytes: &[u8]) {
    let [first, cuts, bytes @ ..] = bytes else { return };
    let dialect = if first % 2 == 0 {
        Dialect::Sofa3
    } else {
        Dialect::Hessian2
    };
    let mut options = DecodeOptions::new(dialect);
    options.class_names = ClassNames::any();

    let mut ends = Vec::new();
    let mut whole = Reader::new(bytes, &options).expect("so many bytes are allowed");
    let mut failed = None;
    while failed.is_none() && !whole.is_at_end() {
        match whole.skip() {
            Ok(()) => ends.push(whole.position()),
            Err(error) => failed = Some(error),
        }
    }

    let mut incoming = Incoming::new(&options);
    let mut read = 0;
    let mut rest = bytes;
    let mut step = usize::from(*cuts);
    while !rest.is_empty() {
        step = step.wrapping_mul(5).wrapping_add(3) % 61;
        let (piece, behind) = rest.split_at(step.clamp(1, rest.len()));
        rest = behind;
        incoming.feed(piece).expect("so many bytes are allowed");
        loop {
            if incoming.is_at_end() {
                break;
            }
            match incoming.read(|reader| reader.skip()) {
                Ok(Some(())) => {
                    assert_eq!(Some(&incoming.position()), ends.get(read));
                    read += 1;
                }
                Ok(None) => break,
                Err(error) => {
                    // The whole may have been too short for a length that it claims, which an arriving one cannot tell.
                    let is_short = matches!(failed, Some(HessianError::Truncated { .. }));
                    assert!(
                        is_short || failed.as_ref() == Some(&error),
                        "{error}, and the whole: {failed:?}"
                    );
                    assert_eq!(read, ends.len());
                    return;
                }
            }
        }
    }
    assert_eq!(read, ends.len());
    match failed {
        None => assert!(incoming.is_at_end()),
        // It waits for so much more that what is wrong with the rest was not looked at.
        Some(_) => assert!(incoming.finish().is_err()),
    }
}
