//! Bytes that Java wrote, or that follow from its source by hand, each with the value behind them. Every row is read
//! and written again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use settle_hessian::{Class, DecodeOptions, Dialect, Document, Library, Node, Value};

/// Bytes from a text in which hex digits stand for themselves and `'…'` for the characters inside.
fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, part) in text.split('\'').enumerate() {
        if index % 2 == 1 {
            out.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: Vec<u8> = part
            .chars()
            .filter(|char| !char.is_whitespace())
            .map(|char| char.to_digit(16).unwrap() as u8)
            .collect();
        assert!(digits.len().is_multiple_of(2), "an odd digit in {part:?}");
        out.extend(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]));
    }
    out
}

fn decode(dialect: Dialect, bytes: &[u8]) -> Document<'_> {
    match Document::decode(bytes, &DecodeOptions::new(dialect)) {
        Ok(document) => document,
        Err(error) => panic!("{dialect:?} {bytes:02x?}: {error}"),
    }
}

/// What a document says, for comparing.
fn show(document: &Document<'_>, value: &Value<'_>) -> String {
    fn walk(document: &Document<'_>, value: &Value<'_>, around: &mut Vec<Value<'static>>) -> String {
        if around.contains(&value.clone().into_owned()) {
            return "^".to_string();
        }
        let Value::Node(id) = value else {
            return match value {
                Value::Null => "null".to_string(),
                Value::Bool(value) => value.to_string(),
                Value::Int(value) => value.to_string(),
                Value::Long(value) => format!("{value}L"),
                Value::Double(value) => format!("{value:?}"),
                Value::Date(millis) => format!("@{millis}"),
                Value::String(text) => format!("{text:?}"),
                Value::Utf16(units) => format!("{units:04x?}"),
                Value::Binary(bytes) => format!("{bytes:02x?}"),
                Value::Node(_) => unreachable!(),
            };
        };
        around.push(value.clone().into_owned());
        let shown = match document.node(*id) {
            Node::List(list) => {
                let items: Vec<_> = list.items.iter().map(|item| walk(document, item, around)).collect();
                let more = if list.is_variable { "…" } else { "" };
                format!("{}[{}{more}]", list.type_name.as_deref().unwrap_or(""), items.join(","))
            }
            Node::Map(map) => {
                let mut entries = Vec::new();
                for (key, value) in &map.entries {
                    entries.push(format!(
                        "{}:{}",
                        walk(document, key, around),
                        walk(document, value, around)
                    ));
                }
                format!("{}{{{}}}", map.type_name.as_deref().unwrap_or(""), entries.join(","))
            }
            Node::Object(object) => {
                let class = document.class_of(object);
                let mut fields = Vec::new();
                for (name, value) in class.fields.iter().zip(&object.fields) {
                    fields.push(format!("{name}={}", walk(document, value, around)));
                }
                format!("{}({})", class.name, fields.join(","))
            }
        };
        around.pop();
        shown
    }
    walk(document, value, &mut Vec::new())
}

fn check(dialect: Dialect, rows: &[(&str, &str)]) {
    for (text, expected) in rows {
        let bytes = bytes(text);
        let document = decode(dialect, &bytes);
        let shown: Vec<_> = document.roots().iter().map(|root| show(&document, root)).collect();
        assert_eq!(shown.join(" "), *expected, "{dialect:?} {text}");
        assert_eq!(document.encode(dialect).unwrap(), bytes[..], "{dialect:?} {text}");
        let owned = document.clone().into_owned();
        assert_eq!(format!("{owned:?}"), format!("{document:?}"));
    }
}

/// The codes that both dialects share, at the edges of each form.
const SHARED: &[(&str, &str)] = &[
    ("4e", "null"),
    ("54 46", "true false"),
    ("80 90 bf", "-16 0 47"),
    ("c7ef c830 c000 cfff", "-17 48 -2048 2047"),
    ("d3f7ff d40800 d00000 d7ffff", "-2049 2048 -262144 262143"),
    (
        "49fffbffff 4900040000 497fffffff 4980000000",
        "-262145 262144 2147483647 -2147483648",
    ),
    ("d8 e0 ef", "-8L 0L 15L"),
    ("f7f7 f810 f000 ffff", "-9L 16L -2048L 2047L"),
    ("3bf7ff 3c0800 380000 3fffff", "-2049L 2048L -262144L 262143L"),
    ("4c0000000080000000 4cffffffff7fffffff", "2147483648L -2147483649L"),
    ("4c7fffffffffffffff", "9223372036854775807L"),
    ("00 05'hello' 03'a'c3a9'b'", r#""" "hello" "aéb""#),
    // Java writes a character beyond the basic plane as two surrogates of three bytes each.
    ("02 eda0bd edb880", r#""😀""#),
    ("01 00", r#""\0""#),
    // Surrogates without a partner are no text, and come back as they went.
    ("01 eda0bd", "[d83d]"),
    ("02 edb880 eda0bd", "[de00, d83d]"),
    ("20 23010203", "[] [01, 02, 03]"),
    ("44400921fb54442d18 447ff8000000000000", "3.141592653589793 NaN"),
    ("447ff0000000000000", "inf"),
];

#[test]
fn the_forms_that_both_dialects_share() {
    check(Dialect::Sofa3, SHARED.split_last().unwrap().1);
    check(Dialect::Hessian2, SHARED);
}

#[test]
fn the_forms_of_the_final_dialect() {
    check(
        Dialect::Hessian2,
        &[
            ("59 00040000 59 80000000", "262144L -2147483648L"),
            ("5b 5c 5d80 5d7f 5e8000 5e7fff", "0.0 1.0 -128.0 127.0 -32768.0 32767.0"),
            ("5f 00002fda", "12.25"),
            ("4a 000001c20a7f4d3b", "@1932911398203"),
            ("4b 00e31d1a", "@893047320000"),
            (
                "3020 'abcdefghijklmnopqrstuvwxyz012345'",
                r#""abcdefghijklmnopqrstuvwxyz012345""#,
            ),
            (
                "3410 000102030405060708090a0b0c0d0e0f",
                "[00, 01, 02, 03, 04, 05, 06, 07, 08, 09, 0a, 0b, 0c, 0d, 0e, 0f]",
            ),
            ("78 7a 91 92", "[] [1,2]"),
            ("5898 90909090 90909090", "[0,0,0,0,0,0,0,0]"),
            ("57 91 92 5a", "[1,2…]"),
            ("72 04'[int' 91 92", "[int[1,2]"),
            ("55 04'[int' 91 5a", "[int[1…]"),
            // The second type name is the index of the first.
            ("72 04'[int' 91 92 71 90 93", "[int[1,2] [int[3]"),
            ("56 04'[int' 98 9090909090909090", "[int[0,0,0,0,0,0,0,0]"),
            ("48 01'a' 91 5a 48 5a", r#"{"a":1} {}"#),
            (
                "4d 11'java.util.TreeMap' 01'a' 91 5a 4d 90 5a",
                r#"java.util.TreeMap{"a":1} java.util.TreeMap{}"#,
            ),
            (
                "43 03'a.B' 92 01'x' 01'y' 60 91 92 60 93 94",
                "a.B(x=1,y=2) a.B(x=3,y=4)",
            ),
            ("43 03'a.E' 90 60", "a.E()"),
            // A list that holds itself, and the same map twice.
            ("79 5190", "[^]"),
            ("7a 48 5a 5191", "[{},{}]"),
        ],
    );
}

#[test]
fn the_forms_of_sofa_3() {
    check(
        Dialect::Sofa3,
        &[
            ("77 00040000 77 80000000", "262144L -2147483648L"),
            ("67 68 6980 697f 6a8000 6a7fff", "0.0 1.0 -128.0 127.0 -32768.0 32767.0"),
            ("6b 41440000 6b 7f800000", "12.25 inf"),
            ("64 000001c20a7f4d3b 64 0000000000000000", "@1932911398203 @0"),
            (
                "530020 'abcdefghijklmnopqrstuvwxyz012345'",
                r#""abcdefghijklmnopqrstuvwxyz012345""#,
            ),
            (
                "420010 000102030405060708090a0b0c0d0e0f",
                "[00, 01, 02, 03, 04, 05, 06, 07, 08, 09, 0a, 0b, 0c, 0d, 0e, 0f]",
            ),
            ("56 6e02 91 92 7a", "[1,2]"),
            ("56 91 7a", "[1…]"),
            ("4d 0161 91 7a 4d7a", r#"{"a":1} {}"#),
            (
                "4d 740011'java.util.TreeMap' 7a 4d 7590 7a",
                "java.util.TreeMap{} java.util.TreeMap{}",
            ),
            // The second array of one type has its own form, without an end.
            (
                "56 740007'[string' 6e01 0161 7a 76 90 91 0162",
                r#"[string["a"] [string["b"]"#,
            ),
            ("4f93'E.X'91 04'name'6f90 01'X'", r#"E.X(name="X")"#),
            (
                "4fa4'java.math.BigDecimal'91 05'value'6f90 04'1.50'",
                r#"java.math.BigDecimal(value="1.50")"#,
            ),
            ("566e02 4f93'a.B'90 6f90 4a01 7a", "[a.B(),a.B()]"),
            ("566e01 4a00 7a", "[^]"),
            // A map whose first key is true: Java's reader would take the key for a type.
            ("4d 54 91 7a", "{true:1}"),
        ],
    );
}

/// `SofaRequest` and its argument, `SofaResponse`: written by SOFAHessian 3.5.2.
#[test]
fn a_request_of_sofarpc_and_its_answer() {
    let request = "4fbc'com.alipay.sofa.rpc.core.request.SofaRequest'95 0d'targetAppName'0a'methodName'\
         17'targetServiceUniqueName'0c'requestProps'0d'methodArgSigs'\
         6f90 4e 08'sayHello'0d'com.x.Svc:1.0' 4d7a 56 74 0007'[string'6e01 10'java.lang.String'7a 05'peter'";
    let response = "4fbe'com.alipay.sofa.rpc.core.response.SofaResponse'94 07'isError'08'errorMsg'0b'appResponse'\
         0d'responseProps' 6f90 46 4e 02'hi' 4e";
    check(
        Dialect::Sofa3,
        &[
            (
                request,
                r#"com.alipay.sofa.rpc.core.request.SofaRequest(targetAppName=null,methodName="sayHello",targetServiceUniqueName="com.x.Svc:1.0",requestProps={},methodArgSigs=[string["java.lang.String"]) "peter""#,
            ),
            (
                response,
                r#"com.alipay.sofa.rpc.core.response.SofaResponse(isError=false,errorMsg=null,appResponse="hi",responseProps=null)"#,
            ),
        ],
    );
}

#[test]
fn what_readers_take_beyond_what_java_writes() {
    let read = |dialect, text| {
        let bytes = bytes(text);
        let document = decode(dialect, &bytes);
        show(&document, &document.roots()[0])
    };
    for dialect in [Dialect::Sofa3, Dialect::Hessian2] {
        assert_eq!(
            read(dialect, "02 f09f9880"),
            r#""😀""#,
            "UTF-8 of four bytes, two units"
        );
        assert_eq!(read(dialect, "01 c080"), r#""\0""#, "NUL as in class files");
        assert_eq!(read(dialect, "49 00000001"), "1", "a longer form than needed");
    }
    // A pair of surrogates that two chunks part, which Java's writer avoids.
    assert_eq!(read(Dialect::Hessian2, "520001 eda0bd 01 edb880"), r#""😀""#);
    assert_eq!(read(Dialect::Sofa3, "730001 eda0bd 01 edb880"), r#""😀""#);
    // Chunks of any size, empty ones too, and a last one in any form.
    assert_eq!(
        read(Dialect::Hessian2, "520001'a'520000 520002'bc' 3001'd'"),
        r#""abcd""#
    );
    assert_eq!(read(Dialect::Hessian2, "410001 01 410000 22 0203"), "[01, 02, 03]");
    assert_eq!(read(Dialect::Sofa3, "620001 01 620000 22 0203"), "[01, 02, 03]");
}

#[test]
fn strings_are_cut_after_32768_units_but_not_between_surrogates() {
    let cases = [
        // (text, the units of each chunk)
        ("a".repeat(0x8000), vec![0x8000]),
        ("a".repeat(0x8001), vec![0x8000, 1]),
        ("é".repeat(0x8001), vec![0x8000, 1]),
        ("a".repeat(0x10000), vec![0x8000, 0x8000]),
        // The last unit of the first chunk would be the first half of a pair.
        ("a".repeat(0x7fff) + "😀" + "b", vec![0x7fff, 3]),
        ("😀".repeat(0x8000), vec![0x8000, 0x8000]),
    ];
    for (text, chunks) in cases {
        for (dialect, chunk_code) in [(Dialect::Sofa3, b's'), (Dialect::Hessian2, b'R')] {
            let mut document = Document::new();
            document.push(Value::from(text.as_str()));
            let bytes = document.encode(dialect).unwrap();
            let mut rest = &bytes[..];
            let mut left: Vec<u16> = text.encode_utf16().collect();
            for (index, units) in chunks.iter().enumerate() {
                let is_last = index + 1 == chunks.len();
                let head = match (is_last, *units) {
                    (true, 0..=0x1f) => vec![*units as u8],
                    (true, _) => vec![b'S', (units >> 8) as u8, *units as u8],
                    (false, _) => vec![chunk_code, (units >> 8) as u8, *units as u8],
                };
                assert_eq!(rest[..head.len()], head[..], "chunk {index} of {} units", text.len());
                rest = &rest[head.len()..];
                let widths = left.drain(..*units).map(|unit| match unit {
                    0..0x80 => 1,
                    0x80..0x800 => 2,
                    _ => 3,
                });
                rest = &rest[widths.sum::<usize>()..];
            }
            assert!(rest.is_empty() && left.is_empty());
            assert_eq!(decode(dialect, &bytes).roots(), document.roots());
        }
    }
}

#[test]
fn sharing_across_the_values_of_a_message_and_across_dialects_is_kept() {
    let mut document = Document::new();
    let class = document.add_class(Class {
        name: "a.Node".into(),
        fields: vec!["next".into(), "tag".into()],
    });
    let shared = document.add_typed_list("[int", vec![Value::Int(1)]);
    let node = document.add_object(class, vec![Value::Null, shared.clone()]);
    let Value::Node(id) = node else { unreachable!() };
    let Node::Object(object) = document.node_mut(id) else {
        unreachable!()
    };
    object.fields[0] = node.clone();
    document.push(node);
    document.push(shared);
    for dialect in [Dialect::Sofa3, Dialect::Hessian2] {
        let bytes = document.encode(dialect).unwrap();
        let read = decode(dialect, &bytes);
        let object = read.object(&read.roots()[0]).unwrap();
        assert_eq!(read.field(object, "next"), Some(&read.roots()[0]));
        assert_eq!(read.field(object, "tag"), Some(&read.roots()[1]));
        assert_eq!(read.encode(dialect).unwrap(), bytes);
    }
}

/// The lengths of the chunks of a binary behind a string of `before` letters.
fn cuts(library: Library, before: usize, len: usize) -> Vec<usize> {
    let mut document = Document::new();
    document.push(Value::from("a".repeat(before)));
    document.push(Value::Binary(vec![7; len].into()));
    let bytes = document.encode_with(Dialect::Hessian2, library).unwrap();
    assert_eq!(decode(Dialect::Hessian2, &bytes).roots(), document.roots());
    let mut rest = &bytes[3 + before..];
    let mut cuts = Vec::new();
    while let [code, tail @ ..] = rest {
        let (len, head) = match code {
            b'A' | b'B' => (usize::from(tail[0]) << 8 | usize::from(tail[1]), 3),
            0x34..=0x37 => (usize::from(code - 0x34) << 8 | usize::from(tail[0]), 2),
            _ => (usize::from(code - 0x20), 1),
        };
        cuts.push(len);
        rest = &rest[head + len..];
    }
    cuts
}

#[test]
fn binaries_are_cut_by_the_buffer_of_the_library_that_is_written_as() {
    // Caucho: what fits behind the string into 8,192 bytes with three for the head, unless less than sixteen do.
    assert_eq!(cuts(Library::Caucho, 7000, 1000), [1000]);
    assert_eq!(cuts(Library::Caucho, 8000, 300), [186, 114]);
    assert_eq!(cuts(Library::Caucho, 8168, 300), [18, 282]);
    // It then writes all of it as a chunk that is not the last, and nothing behind.
    assert_eq!(cuts(Library::Caucho, 8171, 300), [300, 0]);
    // The string itself flushes once there is no room for its next character.
    assert_eq!(cuts(Library::Caucho, 8174, 8190), [8188, 2]);
    assert_eq!(cuts(Library::HessianLite, 8000, 300), [300]);
    assert_eq!(cuts(Library::HessianLite, 1500, 4094), [4093, 1]);
}

#[test]
fn type_names_beyond_the_basic_plane_are_referred_to_like_others() {
    let mut document = Document::new();
    for name in ["a😀", "a😀", "b", "a😀", "b"] {
        let list = document.add_typed_list(name, Vec::new());
        let map = document.add_typed_map(name, Vec::new());
        document.push(list);
        document.push(map);
    }
    for dialect in [Dialect::Sofa3, Dialect::Hessian2] {
        let written = document.encode(dialect).unwrap();
        let again = decode(dialect, &written);
        assert_eq!(again.encode(dialect).unwrap(), written, "{dialect:?}");
        let names: Vec<_> = again.roots().iter().filter_map(|root| again.list(root)).collect();
        let names: Vec<_> = names.iter().map(|list| list.type_name.as_deref().unwrap()).collect();
        assert_eq!(names, ["a😀", "a😀", "b", "a😀", "b"], "{dialect:?}");
        let surrogates = bytes("ed a0 bd ed b8 80");
        let told = written.windows(6).filter(|part| **part == surrogates);
        assert_eq!(told.count(), 1, "{dialect:?} tells the name once");
    }
}
