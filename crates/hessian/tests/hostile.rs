//! Bytes that no honest peer sends, each with the error it must get.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use settle_hessian::{ClassNames, DecodeOptions, Dialect, Document, HessianError, Limits, Reader, Value};

const BOTH: [Dialect; 2] = [Dialect::Sofa3, Dialect::Hessian2];

fn options(dialect: Dialect) -> DecodeOptions {
    DecodeOptions {
        limits: Limits {
            message_bytes: 4096,
            depth: 20,
            nodes: 300,
            references: 100,
            class_definitions: 10,
            class_fields: 10,
            type_names: 10,
            name_units: 40,
            string_units: 1000,
            binary_bytes: 1000,
            list_items: 200,
        },
        ..DecodeOptions::new(dialect)
    }
}

/// The error of a document and that of skipping, which must be the same.
fn error(dialect: Dialect, bytes: &[u8]) -> HessianError {
    let options = options(dialect);
    let read = Document::decode(bytes, &options).map(|document| format!("{document:?}"));
    let read = read.expect_err("must be refused");
    let skipped = Reader::new(bytes, &options).and_then(|mut reader| {
        while !reader.is_at_end() {
            reader.skip()?;
        }
        Ok(())
    });
    assert_eq!(skipped, Err(read.clone()), "skipping {bytes:02x?}");
    read
}

fn check(dialect: Dialect, rows: &[(&[u8], &str)]) {
    for (bytes, code) in rows {
        assert_eq!(
            error(dialect, bytes).code().to_string(),
            *code,
            "{dialect:?} {bytes:02x?}"
        );
    }
}

#[test]
fn codes_that_begin_no_value_are_refused() {
    check(
        Dialect::Sofa3,
        &[
            (b"G", "HE0002"),
            (b"z", "HE0002"),
            // Codes of the other dialect, XML, a remote object.
            (&[0x59, 0, 0, 0, 0], "HE0002"),
            (b"H", "HE0002"),
            (&[0x30, 1, b'a'], "HE0002"),
            (b"x\0\x01a", "HE0002"),
            (b"r", "HE0002"),
            // A list that holds more than it said, a string that goes on as a binary.
            (b"V\x6e\x01\x91\x92z", "HE0002"),
            (b"s\0\x01ab\0\x01a", "HE0002"),
            (b"b\0\x01aS\0\x01a", "HE0002"),
        ],
    );
    check(
        Dialect::Hessian2,
        &[
            (b"G", "HE0002"),
            (b"Z", "HE0002"),
            (&[0x40], "HE0002"),
            (b"R\0\x01aA\0\x01a", "HE0002"),
            (b"A\0\x01a\x01a", "HE0002"),
            // Where a name, an index or a count belongs.
            (b"C\x91\x90", "HE0002"),
            (b"C\x01a\x01b", "HE0002"),
            (b"ON", "HE0002"),
            (b"M\x4e\x5a", "HE0002"),
            (&[0x51, 0xe0], "HE0002"),
            (&[0x58, b'T'], "HE0002"),
        ],
    );
}

#[test]
fn text_that_is_none_is_refused() {
    let rows: &[(&[u8], &str)] = &[
        (&[1, 0x80], "HE0003"),
        (&[1, 0xff], "HE0003"),
        (&[1, 0xc3, 0x28], "HE0003"),
        (&[1, 0xe2, 0x28, 0xa1], "HE0003"),
        // Longer forms than needed, but for NUL.
        (&[1, 0xc1, 0x81], "HE0003"),
        (&[1, 0xe0, 0x80, 0x80], "HE0003"),
        (&[2, 0xf0, 0x80, 0x80, 0x80], "HE0003"),
        (&[2, 0xf7, 0xbf, 0xbf, 0xbf], "HE0003"),
        // The same beside a surrogate, which takes the other way through the code.
        (&[2, 0xed, 0xa0, 0x80, 0x80], "HE0003"),
        (&[2, 0xed, 0xa0, 0x80, 0xe0, 0x80, 0x80], "HE0003"),
        (&[2, 0xed, 0xa0, 0x80, 0xc3, 0x28], "HE0003"),
        (&[2, 0xc0, 0x80, 0xc0, 0x81], "HE0003"),
        // Four bytes where one unit is left.
        (&[1, 0xf0, 0x9f, 0x98, 0x80], "HE0003"),
    ];
    for dialect in BOTH {
        check(dialect, rows);
    }
    // A name has to be text.
    check(Dialect::Hessian2, &[(b"C\x01\xed\xa0\x80\x90\x60", "HE0003")]);
    check(Dialect::Sofa3, &[(b"O\x91\xed\xa0\x80\x90o\x90", "HE0003")]);
}

#[test]
fn lengths_that_lie_are_refused_before_anything_is_reserved() {
    check(
        Dialect::Sofa3,
        &[
            (b"V\x6c\x7f\xff\xff\xff", "HE0020"),
            (b"V\x6c\xff\xff\xff\xff", "HE0004"),
            (b"V\x6e\x40\x91", "HE0001"),
            (b"Vt\0\x04[intz\x76\x90I\x7f\xff\xff\xff", "HE0020"),
            (b"OI\x80\0\0\0", "HE0004"),
            (b"OI\x7f\xff\xff\xff", "HE0017"),
            (b"O\x91aI\x7f\xff\xff\xff", "HE0015"),
            (b"O\x91aI\xff\xff\xff\xff", "HE0004"),
            (b"S\xff\xffa", "HE0018"),
            (b"B\xff\xffa", "HE0019"),
            (b"S\x03\x00a", "HE0001"),
            (b"B\x03\x00a", "HE0001"),
        ],
    );
    check(
        Dialect::Hessian2,
        &[
            (b"\x58I\x7f\xff\xff\xff", "HE0020"),
            (b"\x58I\xff\xff\xff\xff", "HE0004"),
            (b"\x58\xa0\x91", "HE0001"),
            (b"V\x04[intI\x7f\xff\xff\xff", "HE0020"),
            (b"C\x01aI\x7f\xff\xff\xff", "HE0015"),
            (b"C\x01aI\xff\xff\xff\xff", "HE0004"),
            (b"CS\xff\xff", "HE0017"),
            (b"CR\0\0\x01a\x90", "HE0017"),
            (b"S\xff\xffa", "HE0018"),
            (b"B\xff\xffa", "HE0019"),
        ],
    );
}

#[test]
fn indexes_of_what_never_came_are_refused() {
    check(
        Dialect::Sofa3,
        &[
            (b"o\x90", "HE0006"),
            (b"oI\xff\xff\xff\xff", "HE0006"),
            (&[0x4a, 0], "HE0006"),
            (&[0x4b, 1, 0], "HE0006"),
            (b"R\xff\xff\xff\xff", "HE0006"),
            (b"V\x75\x90z", "HE0006"),
            (b"v\x90\x90", "HE0006"),
            (b"M\x75\x80z", "HE0006"),
            // The next one, which is not there yet.
            (b"V\x6e\x01\x4a\x01z", "HE0006"),
        ],
    );
    check(
        Dialect::Hessian2,
        &[
            (&[0x60], "HE0006"),
            (b"C\x01a\x90\x61", "HE0006"),
            (b"O\x90", "HE0006"),
            (&[0x51, 0x90], "HE0006"),
            (&[0x51, 0x8f], "HE0006"),
            (&[0x70, 0x90], "HE0006"),
            (b"M\x90Z", "HE0006"),
        ],
    );
}

#[test]
fn each_limit_is_met_by_its_own_error() {
    fn flood(head: &[u8], each: &[u8], times: usize) -> Vec<u8> {
        [head, &each.repeat(times)].concat()
    }
    let both: Vec<(Vec<u8>, &str)> = vec![
        (flood(b"", b"N", 5000), "HE0010"),
        (flood(b"", b"N", 301), "HE0012"),
        (flood(b"", b"M", 21), "HE0011"),
    ];
    for dialect in BOTH {
        for (bytes, code) in &both {
            let bytes = match dialect {
                Dialect::Hessian2 => bytes
                    .iter()
                    .map(|byte| if *byte == b'M' { b'H' } else { *byte })
                    .collect(),
                Dialect::Sofa3 => bytes.clone(),
            };
            assert_eq!(error(dialect, &bytes).code().to_string(), *code, "{dialect:?}");
        }
    }
    check(
        Dialect::Hessian2,
        &[
            (&flood(b"", b"\x78", 101), "HE0013"),
            (&flood(b"", b"C\x01a\x90", 11), "HE0014"),
            (&flood(b"C\x01a\x9b", b"\x01b", 11), "HE0015"),
            (&flood(b"", b"\x70\x01a", 11), "HE0016"),
            (&flood(b"C\x30\x29", b"a", 41), "HE0017"),
            (
                &flood(b"", b"R\x01\x00", 4)
                    .iter()
                    .chain(&[b'a'; 2000])
                    .copied()
                    .collect::<Vec<u8>>(),
                "HE0002",
            ),
            (&flood(b"S\x03\xe9", b"a", 1001), "HE0018"),
            (&flood(b"B\x03\xe9", b"a", 1001), "HE0019"),
            (&flood(b"\x58\xc8\xc9", b"N", 201), "HE0020"),
        ],
    );
    check(
        Dialect::Sofa3,
        &[
            (&flood(b"", b"Mz", 101), "HE0013"),
            (&flood(b"", b"O\x91a\x90", 11), "HE0014"),
            (&flood(b"O\x91a\x9b", b"\x01b", 11), "HE0015"),
            (&flood(b"", b"Mt\0\x01az", 11), "HE0016"),
            (&flood(b"Vt\0\x29", b"a", 41), "HE0017"),
            (&flood(b"S\x03\xe9", b"a", 1001), "HE0018"),
            (&flood(b"B\x03\xe9", b"a", 1001), "HE0019"),
        ],
    );
    // Many chunks, none of them too long.
    let chunks = |code: u8, len: u8| {
        [[code, 0, len].as_slice(), &[b'a'; 200][..len as usize]]
            .concat()
            .repeat(6)
    };
    assert_eq!(
        error(Dialect::Hessian2, &chunks(b'R', 200)).code().to_string(),
        "HE0018"
    );
    assert_eq!(
        error(Dialect::Hessian2, &chunks(b'A', 200)).code().to_string(),
        "HE0019"
    );
    assert_eq!(error(Dialect::Sofa3, &chunks(b's', 200)).code().to_string(), "HE0018");
    assert_eq!(error(Dialect::Sofa3, &chunks(b'b', 200)).code().to_string(), "HE0019");
}

#[test]
fn refused_class_names_are_refused_wherever_a_name_can_stand() {
    let name = b"com.sun.rowset.JdbcRowSetImpl";
    let len = name.len() as u8;
    let sofa_def = [&[b'O', 0x90 + len], &name[..], &[0x90, b'o', 0x90]].concat();
    let sofa_list = [&[b'V', b't', 0, len + 1, b'['], &name[..], b"\x6e\0z"].concat();
    let sofa_map = [&[b'M', b't', 0, len], &name[..], b"z"].concat();
    let def = [&[b'C', len], &name[..], &[0x90, 0x60]].concat();
    let list = [&[0x70, len + 1, b'['], &name[..]].concat();
    let variable = [&[0x55, len], &name[..], b"Z"].concat();
    let map = [&[b'M', len], &name[..], b"Z"].concat();
    for (dialect, message) in [
        (Dialect::Sofa3, sofa_def),
        (Dialect::Sofa3, sofa_list),
        (Dialect::Sofa3, sofa_map),
        (Dialect::Hessian2, def),
        (Dialect::Hessian2, list),
        (Dialect::Hessian2, variable),
        (Dialect::Hessian2, map),
    ] {
        assert_eq!(error(dialect, &message).code().to_string(), "HE0005");
        let mut lifted = options(dialect);
        lifted.class_names = ClassNames::any();
        assert!(Document::decode(&message, &lifted).is_ok());
    }
    // A definition without an object is enough.
    let unused = [&[b'C', len], &name[..], &[0x90, b'N']].concat();
    assert_eq!(error(Dialect::Hessian2, &unused).code().to_string(), "HE0005");
}

#[test]
fn bytes_after_the_last_value_are_refused() {
    let options = options(Dialect::Hessian2);
    let mut reader = Reader::new(b"NN", &options).unwrap();
    reader.skip().unwrap();
    assert_eq!(reader.finish().unwrap_err().code().to_string(), "HE0007");
}

#[test]
fn a_part_of_a_message_cannot_hold_what_is_around_it() {
    // A list in which the second item is the list itself, read as a document of its own.
    let options = options(Dialect::Hessian2);
    let mut reader = Reader::new(&[0x7a, 0x91, 0x51, 0x90], &options).unwrap();
    reader.token().unwrap();
    reader.skip().unwrap();
    assert_eq!(Document::read(&mut reader).unwrap_err().code().to_string(), "HE0008");
}

#[test]
fn a_bomb_of_references_costs_a_document_nothing_and_a_copy_no_more_than_its_nodes() {
    // Each list holds the one before twice: 2^30 values when copied, thirty lists when shared.
    let mut bytes = vec![b'H'];
    let mut lists = 1;
    bytes.extend_from_slice(&[0x90, 0x78]);
    for index in 1..15_u8 {
        bytes.extend_from_slice(&[0x90 + index, 0x7a, 0x51, 0x90 + index, 0x51, 0x90 + index]);
        lists += 1;
    }
    bytes.push(b'Z');
    let options = options(Dialect::Hessian2);
    let document = Document::decode(&bytes, &options).unwrap();
    assert_eq!(document.map(&document.roots()[0]).unwrap().entries.len(), lists);
    assert_eq!(document.encode(Dialect::Hessian2).unwrap(), bytes[..]);

    fn copy(reader: &mut Reader<'_, '_>) -> Result<usize, HessianError> {
        match reader.token()? {
            settle_hessian::Token::Ref(reference) => reader.replay(reference, copy),
            settle_hessian::Token::List(mut head) => {
                let mut all = 1;
                while reader.next_item(&mut head)? {
                    all += copy(reader)?;
                }
                Ok(all)
            }
            settle_hessian::Token::Map(head) => {
                let mut all = 1;
                while reader.next_entry(&head)? {
                    all += copy(reader)?;
                }
                Ok(all)
            }
            _ => Ok(1),
        }
    }
    let mut reader = Reader::new(&bytes, &options).unwrap();
    assert_eq!(copy(&mut reader).unwrap_err().code().to_string(), "HE0012");
}

#[test]
fn what_cannot_be_written_is_named() {
    let mut document = Document::new();
    let class = document.add_class(settle_hessian::Class {
        name: "a.B".into(),
        fields: vec!["x".into()],
    });
    let object = document.add_object(class, Vec::new());
    document.push(object);
    assert_eq!(
        document.encode(Dialect::Sofa3).unwrap_err().code().to_string(),
        "HE0032"
    );

    let mut other = Document::new();
    let list = other.add_list(Vec::new());
    let mut document = Document::new();
    document.push(list);
    assert_eq!(
        document.encode(Dialect::Sofa3).unwrap_err().code().to_string(),
        "HE0031"
    );

    let mut document = Document::new();
    let list = document.add_typed_list("a".repeat(70_000), vec![Value::Null]);
    document.push(list);
    assert_eq!(
        document.encode(Dialect::Sofa3).unwrap_err().code().to_string(),
        "HE0030"
    );
}

/// Messages that use every form, to be cut and damaged.
fn rich(dialect: Dialect) -> Vec<u8> {
    let mut document = Document::new();
    let class = document.add_class(settle_hessian::Class {
        name: "a.B".into(),
        fields: vec!["x".into(), "y".into()],
    });
    let numbers = [0, 47, 48, -2049, 1 << 20, i32::MIN].map(Value::Int).to_vec();
    let longs = [0, 16, -2049, 1 << 20, i64::MIN].map(Value::Long).to_vec();
    let doubles = [0.0, 1.0, 2.0, 300.0, 12.25, 0.1, f64::MAX].map(Value::Double).to_vec();
    let items = [numbers, longs, doubles].concat();
    let list = document.add_typed_list("[object", items);
    let again = document.add_typed_list("[object", vec![list.clone(), Value::Date(60_000), Value::Date(1)]);
    let text = document.add_list(vec![
        Value::from("é😀"),
        Value::Utf16(vec![0xd800]),
        Value::from("a".repeat(600)),
        Value::Binary(vec![7; 20].into()),
        Value::Bool(true),
    ]);
    let map = document.add_typed_map("java.util.TreeMap", vec![(Value::from("k"), again.clone())]);
    let object = document.add_object(class, vec![map, text]);
    let second = document.add_object(class, vec![object.clone(), again]);
    document.push(object);
    document.push(second);
    document.encode(dialect).unwrap().to_vec()
}

#[test]
fn a_message_cut_anywhere_is_incomplete_and_never_wrong() {
    for dialect in BOTH {
        let bytes = rich(dialect);
        let whole = Document::decode(&bytes, &DecodeOptions::new(dialect)).unwrap();
        assert_eq!(whole.encode(dialect).unwrap(), bytes[..]);
        for end in 1..bytes.len() {
            match Document::decode(&bytes[..end], &DecodeOptions::new(dialect)) {
                // Between the two values.
                Ok(document) => assert_eq!(document.roots().len(), 1),
                Err(error) => assert!(error.is_incomplete(), "{dialect:?} cut at {end}: {error}"),
            }
        }
    }
}

proptest! {
    /// Whatever is read is written so that it is read alike.
    #[test]
    fn damaged_messages_never_panic_and_what_is_read_of_them_survives(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        is_sofa in any::<bool>(),
    ) {
        let dialect = if is_sofa { Dialect::Sofa3 } else { Dialect::Hessian2 };
        let mut bytes = rich(dialect);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(document) = Document::decode(&bytes, &DecodeOptions::new(dialect)) {
            let again = document.encode(dialect).unwrap();
            let read = Document::decode(&again, &DecodeOptions::new(dialect)).unwrap();
            prop_assert_eq!(read.encode(dialect).unwrap(), again);
        }
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), is_sofa in any::<bool>()) {
        let dialect = if is_sofa { Dialect::Sofa3 } else { Dialect::Hessian2 };
        if let Ok(document) = Document::decode(&bytes, &DecodeOptions::new(dialect)) {
            let again = document.encode(dialect).unwrap();
            let read = Document::decode(&again, &DecodeOptions::new(dialect)).unwrap();
            prop_assert_eq!(read.encode(dialect).unwrap(), again);
        }
    }
}
