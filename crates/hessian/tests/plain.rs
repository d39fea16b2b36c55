//! serde: plain types there and back, and what Java writes into them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod samples;

use std::{borrow::Cow, collections::BTreeMap, fmt::Debug};

use ::serde::{Deserialize, Serialize, de::DeserializeOwned};
use proptest::prelude::*;
use samples::{SOFA, vector};
use settle_hessian::{DecodeOptions, Dialect, Document, Limits, Value, serde};

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
enum Shape {
    Nothing,
    One(i32),
    Pair(i32, String),
    Full { width: f64, tags: Vec<String> },
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Plain {
    tiny: i8,
    byte: u8,
    wide: u32,
    long: i64,
    huge: u64,
    real: f32,
    letter: char,
    text: String,
    none: Option<i32>,
    some: Option<Vec<bool>>,
    unit: (),
    tuple: (i32, String),
    map: BTreeMap<i32, Shape>,
    shapes: Vec<Shape>,
}

fn plain() -> impl Strategy<Value = Plain> {
    let shape = prop_oneof![
        Just(Shape::Nothing),
        any::<i32>().prop_map(Shape::One),
        (any::<i32>(), any::<String>()).prop_map(|(number, text)| Shape::Pair(number, text)),
        (-1e9..1e9, prop::collection::vec(any::<String>(), 0..3)).prop_map(|(width, tags)| Shape::Full { width, tags }),
    ];
    let numbers = (
        any::<i8>(),
        any::<u8>(),
        any::<u32>(),
        any::<i64>(),
        0..=i64::MAX as u64,
        -1e9_f32..1e9,
    );
    let texts = (
        any::<char>(),
        any::<String>(),
        any::<Option<i32>>(),
        any::<Option<Vec<bool>>>(),
    );
    let nested = (
        any::<(i32, String)>(),
        prop::collection::btree_map(any::<i32>(), shape.clone(), 0..4),
        prop::collection::vec(shape, 0..4),
    );
    (numbers, texts, nested).prop_map(|(numbers, texts, nested)| Plain {
        tiny: numbers.0,
        byte: numbers.1,
        wide: numbers.2,
        long: numbers.3,
        huge: numbers.4,
        real: numbers.5,
        letter: texts.0,
        text: texts.1,
        none: texts.2,
        some: texts.3,
        unit: (),
        tuple: nested.0,
        map: nested.1,
        shapes: nested.2,
    })
}

proptest! {
    #[test]
    fn plain_types_come_back_as_they_were(value in plain()) {
        for dialect in [Dialect::Sofa3, Dialect::Hessian2] {
            let bytes = serde::to_bytes(dialect, &value).unwrap();
            let read: Plain = serde::from_bytes(&bytes, &DecodeOptions::new(dialect)).unwrap();
            prop_assert_eq!(&read, &value);
        }
    }
}

#[test]
fn objects_of_java_become_structs_and_constants_variants() {
    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Scalars {
        boxed_letter: Option<char>,
        number: i64,
        text: Option<String>,
    }
    let bytes = vector(SOFA, "scalars-0");
    let options = DecodeOptions::new(Dialect::Sofa3);
    let mut reader = settle_hessian::Reader::new(&bytes, &options).unwrap();
    let first: Scalars = serde::read(&mut reader).unwrap();
    assert!(first.boxed_letter.is_some() && first.text.is_some() && i32::try_from(first.number).is_ok());

    #[derive(PartialEq, Debug, Deserialize)]
    #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
    enum Shade {
        Plain,
        Dark,
    }
    let bytes = vector(SOFA, "enum-with-a-body-0");
    let mut reader = settle_hessian::Reader::new(&bytes, &options).unwrap();
    let shades: Vec<Shade> = (0..3).map(|_| serde::read(&mut reader).unwrap()).collect();
    assert_eq!(
        shades,
        [Shade::Plain, Shade::Dark, Shade::Dark],
        "the last one is a reference"
    );
}

#[test]
fn what_is_not_asked_for_is_skipped_and_text_is_borrowed() {
    let mut document = Document::new();
    let inner = document.add_list(vec![Value::Int(1), Value::from("x")]);
    let root = document.add_map(vec![
        (Value::from("unknown"), inner.clone()),
        (Value::from("text"), Value::from("here")),
        (Value::from("again"), inner),
    ]);
    document.push(root);
    let bytes = document.encode(Dialect::Hessian2).unwrap();
    #[derive(Debug, Deserialize)]
    struct Borrowing<'a> {
        text: &'a str,
        #[serde(borrow)]
        again: (i32, Cow<'a, str>),
    }
    let options = DecodeOptions::new(Dialect::Hessian2);
    let read: Borrowing<'_> = serde::from_bytes(&bytes, &options).unwrap();
    assert_eq!((read.text, read.again), ("here", (1, Cow::Borrowed("x"))));
    assert!(bytes.as_ptr_range().contains(&read.text.as_ptr()));
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    fn code<T: DeserializeOwned + Debug>(bytes: &[u8]) -> String {
        let mut options = DecodeOptions::new(Dialect::Hessian2);
        options.limits = Limits {
            depth: 4,
            ..Limits::DEFAULT
        };
        serde::from_bytes::<T>(bytes, &options).unwrap_err().code().to_string()
    }
    assert_eq!(code::<i32>(b"\x01a"), "HE0027");
    assert_eq!(code::<u8>(&[0xc9, 0x00]), "HE0027");
    assert_eq!(code::<String>(b"\x01\xed\xa0\x80"), "HE0023");
    assert_eq!(code::<Shape>(b"\x04Circ"), "HE0027");
    assert_eq!(code::<Shape>(b"HZ"), "HE0027");
    assert_eq!(code::<Shape>(b"H\x03One\x91\x03One\x91Z"), "HE0027");
    assert_eq!(code::<Shape>(&[0x91]), "HE0021");
    assert_eq!(code::<Vec<i32>>(&[0x79, 0x51, 0x90]), "HE0008");
    #[derive(Debug, Deserialize)]
    struct Nested(#[allow(dead_code, reason = "only its depth counts")] Vec<Nested>);
    assert_eq!(code::<Nested>(&[0x79, 0x79, 0x79, 0x79, 0x78]), "HE0011");
    assert!(serde::to_bytes(Dialect::Sofa3, &u64::MAX).is_err());
}
