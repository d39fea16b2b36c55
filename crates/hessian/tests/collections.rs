//! Rust's collections as Java's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use settle_hessian::{DecodeOptions, Dialect, Document, HessianEncode, Library, Value, Writer, from_bytes, to_bytes};

fn written(dialect: Dialect, library: Library, value: &dyn HessianEncode) -> BytesMut {
    let mut out = BytesMut::new();
    value
        .encode(&mut Writer::with_library(dialect, library, &mut out))
        .unwrap();
    out
}

#[test]
fn ints_of_every_width_are_written_in_a_list_as_they_are_alone() {
    let edges = [0, 0x2f, 0x30, 0x7ff, 0x800, 0x3_ffff, 0x4_0000, i32::MAX];
    let edges = edges.into_iter().flat_map(|edge| [edge, -edge, -edge - 1]);
    // Enough of them for several blocks, of which one is full of the longest.
    let ints: Vec<i32> = edges.cycle().take(200).chain([i32::MIN; 130]).collect();
    let mut turned = VecDeque::from(ints[100..].to_vec());
    ints[..100].iter().rev().for_each(|int| turned.push_front(*int));
    let mut document = Document::new();
    let list = document.add_list(ints.iter().copied().map(Value::Int).collect());
    document.push(list);
    for (dialect, library) in [
        (Dialect::Sofa3, Library::HessianLite),
        (Dialect::Hessian2, Library::HessianLite),
        (Dialect::Hessian2, Library::Caucho),
    ] {
        let bytes = document.encode_with(dialect, library).unwrap();
        assert_eq!(written(dialect, library, &ints), bytes, "{dialect:?} {library:?}");
        assert_eq!(written(dialect, library, &turned), bytes, "{dialect:?} {library:?}");
        let options = DecodeOptions::new(dialect);
        assert_eq!(from_bytes::<Vec<i32>>(&bytes, &options).as_ref(), Ok(&ints));
    }
}

#[test]
fn of_entries_with_one_key_a_map_keeps_the_last_as_java_does() {
    let entries: Vec<(&str, i32)> = vec![("b", 1), ("a", 2), ("b", 3), ("a", 4), ("c", 5), ("b", 6)];
    for dialect in [Dialect::Sofa3, Dialect::Hessian2] {
        let bytes = to_bytes(dialect, &entries).unwrap();
        let map: BTreeMap<String, i32> = from_bytes(&bytes, &DecodeOptions::new(dialect)).unwrap();
        let expected = [("a", 4), ("b", 6), ("c", 5)].map(|(key, value)| (key.to_owned(), value));
        assert_eq!(map, BTreeMap::from(expected));
    }
}

#[test]
fn maps_and_sets_with_a_hasher_are_what_those_with_an_order_are() {
    use std::collections::BTreeSet;

    use settle_base::{FixedMap, FixedSet};

    let sorted: BTreeMap<String, Vec<i32>> = (0..100).map(|at| (at.to_string(), vec![at, -at])).collect();
    let hashed: FixedMap<String, Vec<i32>> = sorted.clone().into_iter().collect();
    for dialect in [Dialect::Sofa3, Dialect::Hessian2] {
        let options = DecodeOptions::new(dialect);
        assert_eq!(
            from_bytes::<FixedMap<_, _>>(&to_bytes(dialect, &sorted).unwrap(), &options),
            Ok(hashed.clone())
        );
        assert_eq!(
            from_bytes::<BTreeMap<_, _>>(&to_bytes(dialect, &hashed).unwrap(), &options),
            Ok(sorted.clone())
        );
        let items: FixedSet<String> = hashed.keys().cloned().collect();
        let expected: BTreeSet<String> = sorted.keys().cloned().collect();
        assert_eq!(
            from_bytes::<BTreeSet<String>>(&to_bytes(dialect, &items).unwrap(), &options),
            Ok(expected)
        );
        // What comes twice is there once, as the last one said.
        let twice = vec![(String::from("k"), 1), (String::from("k"), 2)];
        let read: FixedMap<String, i32> = from_bytes(&to_bytes(dialect, &twice).unwrap(), &options).unwrap();
        assert_eq!(read, FixedMap::from_iter([(String::from("k"), 2)]));
        // Whether a sorted map is filled entry by entry or, from a dozen on, built at once.
        for len in [1, 11, 12, 13, 40] {
            let first = (0..len).rev().map(|key| (key, 0));
            let all: Vec<(i32, i32)> = first.chain((0..len).map(|key| (key, key + 1))).collect();
            let read: BTreeMap<i32, i32> = from_bytes(&to_bytes(dialect, &all).unwrap(), &options).unwrap();
            assert_eq!(read, (0..len).map(|key| (key, key + 1)).collect(), "{len} keys");
        }
    }
}
