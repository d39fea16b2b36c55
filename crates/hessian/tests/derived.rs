//! Derived types and the types of `java`, from the bytes that Java wrote and back into them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod samples;

use std::{borrow::Cow, collections::BTreeMap, fmt::Debug, sync::Arc};

use bytes::BytesMut;
use samples::{CAUCHO, LITE, SOFA, SOFA4, vector};
use settle_hessian::{
    DecodeOptions, Dialect, Document, HessianDecode, HessianEncode, HessianError, Library, Limits, Reader, Text, Value,
    Writer, from_bytes, java, to_bytes,
};

#[derive(Clone, PartialEq, Debug, Default, HessianEncode, HessianDecode)]
#[hessian(class = "settle.hessian.Beans$Scalars")]
struct Scalars {
    bool: bool,
    tiny: i8,
    small: i16,
    letter: char,
    number: i32,
    large: i64,
    real: f32,
    precise: f64,
    boxed_bool: Option<bool>,
    boxed_tiny: Option<i8>,
    boxed_small: Option<i16>,
    boxed_letter: Option<char>,
    boxed_number: Option<i32>,
    boxed_large: Option<i64>,
    boxed_real: Option<f32>,
    boxed_precise: Option<f64>,
    text: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, HessianEncode, HessianDecode)]
#[hessian(class = "settle.hessian.Beans$Colour")]
enum Colour {
    Red,
    Green,
    Blue,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, HessianEncode, HessianDecode)]
#[hessian(class = "settle.hessian.Beans$Shade")]
enum Shade {
    Plain,
    Dark,
}

#[derive(Clone, PartialEq, Debug, HessianEncode, HessianDecode)]
#[hessian(class = "settle.hessian.Beans$Parent")]
struct Parent<'a> {
    items: Option<Document<'a>>,
    name: Option<Text<'a>>,
    id: i32,
}

/// The values of a message, which must be written as the same bytes when `library` is given.
fn read<T: for<'a> HessianDecode<'a> + HessianEncode>(text: &str, name: &str) -> Vec<T> {
    let (dialect, library) = match text {
        SOFA => (Dialect::Sofa3, None),
        CAUCHO | SOFA4 => (Dialect::Hessian2, Some(Library::Caucho)),
        _ => (Dialect::Hessian2, Some(Library::HessianLite)),
    };
    let bytes = vector(text, name);
    let options = DecodeOptions::new(dialect);
    let mut reader = Reader::new(&bytes, &options).unwrap();
    let mut values: Vec<T> = Vec::new();
    while !reader.is_at_end() {
        match T::decode_next(&mut reader) {
            Ok(value) => values.push(value),
            Err(error) => panic!("{name}: {error}"),
        }
    }
    let mut out = BytesMut::new();
    let mut writer = Writer::with_library(dialect, library.unwrap_or_default(), &mut out);
    values.iter().for_each(|value| value.encode(&mut writer).unwrap());
    // `hessian-lite` writes the fields of a class in reverse and boxes of its own; readers go by the names.
    if library == Some(Library::HessianLite) {
        let mut reader = Reader::new(&out, &options).unwrap();
        let again: Vec<T> = values.iter().map(|_| T::decode_next(&mut reader).unwrap()).collect();
        let mut twice = BytesMut::new();
        let mut writer = Writer::new(dialect, &mut twice);
        again.iter().for_each(|value| value.encode(&mut writer).unwrap());
        assert_eq!(twice, out, "{name}");
    } else {
        assert_eq!(out, bytes[..], "{name}");
    }
    values
}

/// Read alike from what all four libraries wrote for equal values, and written as the bytes of three of them.
fn read_all<T: for<'a> HessianDecode<'a> + HessianEncode + PartialEq + Debug>(name: &str) -> Vec<T> {
    let sofa = read(SOFA, name);
    for other in [SOFA4, CAUCHO, LITE] {
        assert_eq!(read::<T>(other, name), sofa, "{name}");
    }
    sofa
}

#[test]
fn every_kind_of_scalar_field() {
    let [first, _, empty]: [Scalars; 3] = read(SOFA, "scalars-0").try_into().unwrap();
    assert!(first.text.is_some() && first.boxed_letter.is_some_and(char::is_alphabetic));
    assert_eq!(
        empty,
        Scalars {
            letter: '\0',
            ..Scalars::default()
        }
    );
    assert_eq!(read::<Scalars>(LITE, "scalars-0")[0], first);
    // Caucho boxes bytes, shorts and floats as objects, which are read as the numbers they are.
    let bytes = vector(CAUCHO, "scalars-0");
    let options = DecodeOptions::new(Dialect::Hessian2);
    let mut reader = Reader::new(&bytes, &options).unwrap();
    assert_eq!(Scalars::decode_next(&mut reader).unwrap(), first);
}

#[test]
fn constants_are_written_once_and_referred_to_afterwards() {
    let bytes = vector(CAUCHO, "enums-0");
    let options = DecodeOptions::new(Dialect::Hessian2);
    let mut reader = Reader::new(&bytes, &options).unwrap();
    let colours: Vec<Colour> = (0..3).map(|_| Colour::decode_next(&mut reader).unwrap()).collect();
    assert_eq!(colours, [Colour::Red, Colour::Green, Colour::Red]);
    let end = reader.position();
    let mut out = BytesMut::new();
    let mut writer = Writer::with_library(Dialect::Hessian2, Library::Caucho, &mut out);
    colours.iter().for_each(|colour| colour.encode(&mut writer).unwrap());
    assert_eq!(out, bytes[..end]);
    // A constant with a body is of a class of its own.
    let bytes = vector(SOFA, "enum-with-a-body-0");
    let options = DecodeOptions::new(Dialect::Sofa3);
    let mut reader = Reader::new(&bytes, &options).unwrap();
    let shades: Vec<Shade> = (0..3).map(|_| Shade::decode_next(&mut reader).unwrap()).collect();
    assert_eq!(shades, [Shade::Plain, Shade::Dark, Shade::Dark]);
}

#[test]
fn numbers_and_names_of_java() {
    let decimals: Vec<java::BigDecimal> = read_all("big-decimal-0");
    assert_eq!(decimals[1].value, "1.50");
    let integers: Vec<java::BigInteger> = read(SOFA, "big-integer-0");
    assert_eq!(read::<java::BigInteger>(LITE, "big-integer-0"), integers);
    assert_eq!(integers[1].value(), Some(0));
    assert_eq!(integers[2].value(), Some(-12_345_678_901_234_567_890));
    assert_eq!(java::BigInteger::from(-12_345_678_901_234_567_890), integers[2]);
    for value in [0, 1, -1, i128::MAX, i128::MIN, 1 << 32, -(1 << 64)] {
        assert_eq!(java::BigInteger::from(value).value(), Some(value));
    }
    let ids: Vec<java::Uuid> = read_all("uuid-0");
    assert_eq!(ids.len(), 1);
    let locales: Vec<java::Locale> = read_all("locale-0");
    assert_eq!(locales[0].value, "zh_CN");
    let currencies: Vec<java::Currency> = read_all("currency-0");
    assert_eq!(currencies[0].currency_code, "CNY");
    let classes: Vec<java::JavaClass> = read_all("class-0");
    assert_eq!(classes[3].name, "[I");
    assert_eq!(read_all::<java::File>("file-0")[0].value, "/tmp/a");
}

#[test]
fn dates_and_times_of_java() {
    read_all::<java::Calendar>("calendar-0");
    assert_eq!(read_all::<java::Date>("dates-0")[3], java::Date(-1));
    // Caucho writes no java.time on a new JDK.
    fn both<T: for<'a> HessianDecode<'a> + HessianEncode + PartialEq + Debug>(name: &str) -> T {
        let sofa = read(SOFA, name);
        for other in [SOFA4, LITE] {
            assert_eq!(read::<T>(other, name), sofa, "{name}");
        }
        sofa.into_iter().next().unwrap()
    }
    let day: java::LocalDate = both("local-date-0");
    let hour: java::LocalTime = both("local-time-0");
    let moment: java::LocalDateTime = both("local-date-time-0");
    assert_eq!((moment.date, moment.time), (day, hour));
    both::<java::Instant>("instant-0");
}

#[test]
fn several_classes_in_one_enum() {
    #[derive(Clone, PartialEq, Debug, HessianEncode, HessianDecode)]
    enum Time<'a> {
        Duration(java::Duration),
        Period(java::Period),
        Offset(java::ZoneOffset),
        OffsetDateTime(java::OffsetDateTime),
        OffsetTime(java::OffsetTime),
        Zoned(java::ZonedDateTime),
        Zone(java::ZoneId),
        SqlDate(java::SqlDate),
        SqlTime(java::SqlTime),
        SqlTimestamp(java::SqlTimestamp),
        Year(java::Year),
        YearMonth(java::YearMonth),
        MonthDay(java::MonthDay),
        AtomicInteger(java::AtomicInteger),
        AtomicLong(java::AtomicLong),
        AtomicBoolean(java::AtomicBoolean),
        AtomicReference(java::AtomicReference<String>),
        AtomicIntegerArray(java::AtomicIntegerArray),
        AtomicLongArray(java::AtomicLongArray),
        AtomicReferenceArray(java::AtomicReferenceArray<String>),
        #[hessian(other)]
        Other(Document<'a>),
    }
    fn kinds(text: &str, name: &str) -> Vec<Time<'static>> {
        let dialect = if text == SOFA {
            Dialect::Sofa3
        } else {
            Dialect::Hessian2
        };
        let bytes = vector(text, name);
        let options = DecodeOptions::new(dialect);
        let mut reader = Reader::new(bytes.leak(), &options).unwrap();
        let mut read = Vec::new();
        while !reader.is_at_end() {
            read.push(Time::decode_next(&mut reader).unwrap());
        }
        let mut out = BytesMut::new();
        let mut writer = Writer::new(dialect, &mut out);
        read.iter().for_each(|value| value.encode(&mut writer).unwrap());
        if text == SOFA {
            assert_eq!(out, vector(text, name)[..], "{name}");
        }
        read
    }
    let cases = [
        "duration-period-0",
        "offsets-0",
        "zoned-0",
        "sql-dates-0",
        "years-0",
        "atomics-0",
        "atomic-arrays-0",
    ];
    for name in cases {
        let sofa = kinds(SOFA, name);
        let other = sofa.iter().find(|kind| matches!(kind, Time::Other(_)));
        assert_eq!(other, None, "{name}");
        assert_eq!(sofa, kinds(LITE, name), "{name}");
    }
}

#[test]
fn exceptions_keep_their_stack_traces_and_what_their_class_adds() {
    for text in [SOFA, CAUCHO, LITE] {
        let dialect = if text == SOFA {
            Dialect::Sofa3
        } else {
            Dialect::Hessian2
        };
        let one = |name| -> java::Throwable {
            let bytes = vector(text, name);
            let options = DecodeOptions::new(dialect);
            let mut reader = Reader::new(&bytes, &options).unwrap();
            let read = java::Throwable::decode_next(&mut reader).unwrap();
            let written = to_bytes(dialect, &read).unwrap();
            assert_eq!(
                from_bytes::<java::Throwable>(&written, &options).unwrap(),
                read,
                "{name}"
            );
            read
        };
        let plain = one("exception-0");
        assert_eq!(plain.class, "java.lang.RuntimeException");
        assert_eq!(plain.message.as_deref(), Some("a plain one"));
        assert_eq!(plain.cause, None);
        assert_eq!(plain.stack_trace[0].declaring_class, "settle.hessian.Cases");
        assert_eq!(plain.stack_trace[0].file_name.as_deref(), Some("Cases.java"));
        assert!(plain.stack_trace[0].line_number > 0);
        // Its cause is itself, which is how Java says that it has none.
        assert_eq!(one("error-0").cause, None);
        let suppressing = one("exception-suppressed-0");
        assert_eq!(suppressing.suppressed[0].class, "java.lang.IllegalArgumentException");
        let own = one("exception-of-an-application-0");
        assert_eq!(own.cause.unwrap().message.as_deref(), Some("why"));
        let names: Vec<&str> = own.fields.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.contains(&"code") && names.contains(&"detail"), "{names:?}");
    }
}

#[derive(Clone, PartialEq, Debug, Default, HessianEncode, HessianDecode)]
#[hessian(class = "com.example.Base")]
struct Base {
    tags: BTreeMap<String, i32>,
    id: i64,
}

#[derive(Clone, PartialEq, Debug, Default, HessianEncode, HessianDecode)]
#[hessian(class = "com.example.Order")]
struct Order {
    lines: Vec<String>,
    total_price: f64,
    #[hessian(rename = "type")]
    kind: Option<String>,
    #[hessian(java_type = "[int")]
    counts: Vec<i32>,
    raw: Vec<u8>,
    #[hessian(parent)]
    base: Base,
    #[hessian(skip)]
    cached: u32,
    #[hessian(default)]
    note: String,
    owner: Option<Arc<Base>>,
}

fn order() -> Order {
    Order {
        lines: vec!["a".to_owned()],
        total_price: 1.5,
        kind: Some("k".to_owned()),
        counts: vec![1, 2],
        raw: vec![7],
        base: Base {
            tags: BTreeMap::from([("t".to_owned(), 1)]),
            id: 9,
        },
        cached: 0,
        note: "n".to_owned(),
        owner: Some(Arc::new(Base::default())),
    }
}

fn roundtrip<T: for<'a> HessianDecode<'a> + HessianEncode + PartialEq + Debug>(value: &T) {
    for dialect in [Dialect::Sofa3, Dialect::Hessian2] {
        let bytes = to_bytes(dialect, value).unwrap();
        assert_eq!(&from_bytes::<T>(&bytes, &DecodeOptions::new(dialect)).unwrap(), value);
    }
}

#[test]
fn fields_of_primitives_and_java_lang_come_first_and_those_of_the_parent_behind() {
    let bytes = to_bytes(Dialect::Hessian2, &order()).unwrap();
    let document = Document::decode(&bytes, &DecodeOptions::new(Dialect::Hessian2)).unwrap();
    let object = document.object(&document.roots()[0]).unwrap();
    let names: Vec<&str> = document.class_of(object).fields.iter().map(AsRef::as_ref).collect();
    let expected = [
        "totalPrice",
        "type",
        "note",
        "id",
        "lines",
        "counts",
        "raw",
        "owner",
        "tags",
    ];
    assert_eq!(names, expected);
    assert_eq!(document.field(object, "id"), Some(&Value::Long(9)));
    let counts = document.list(document.field(object, "counts").unwrap()).unwrap();
    assert_eq!(counts.type_name.as_deref(), Some("[int"));
    roundtrip(&order());
    roundtrip(&vec![Some(order()), None, Some(Order::default())]);
}

/// An object or map with these fields, as another writer may give them.
fn fields(class: Option<&'static str>, fields: &[(&'static str, Value<'static>)]) -> BytesMut {
    let mut document = Document::new();
    let root = match class {
        None => document.add_map(
            fields
                .iter()
                .map(|(name, value)| (Value::from(*name), value.clone()))
                .collect(),
        ),
        Some(class) => {
            let class = document.add_class(settle_hessian::Class {
                name: class.into(),
                fields: fields.iter().map(|(name, _)| Cow::Borrowed(*name)).collect(),
            });
            document.add_object(class, fields.iter().map(|(_, value)| value.clone()).collect())
        }
    };
    document.push(root);
    document.encode(Dialect::Hessian2).unwrap()
}

fn base(bytes: &[u8]) -> Result<Base, HessianError> {
    #[derive(HessianDecode)]
    #[hessian(class = "com.example.Base")]
    struct Loose {
        #[hessian(default)]
        tags: BTreeMap<String, i32>,
        id: i64,
    }
    from_bytes::<Loose>(bytes, &DecodeOptions::new(Dialect::Hessian2)).map(|loose| Base {
        tags: loose.tags,
        id: loose.id,
    })
}

#[test]
fn fields_are_found_by_name_in_any_order_and_unknown_ones_are_skipped() {
    let expected = Base {
        id: 5,
        ..Base::default()
    };
    let unknown = ("new", Value::from("skipped"));
    for class in [Some("com.example.Base"), None] {
        let shuffled = fields(class, &[("tags", Value::Null), unknown.clone(), ("id", Value::Int(5))]);
        assert_eq!(base(&shuffled), Ok(expected.clone()));
        let missing = fields(class, &[unknown.clone(), ("id", Value::Long(5))]);
        assert_eq!(base(&missing), Ok(expected.clone()));
    }
}

#[test]
fn what_does_not_fit_a_type_is_named() {
    let code = |bytes: &[u8]| base(bytes).unwrap_err().code().to_string();
    let class = Some("com.example.Base");
    assert_eq!(code(&fields(class, &[("id", Value::from("5"))])), "HE0021");
    assert_eq!(code(&fields(class, &[("id", Value::Null)])), "HE0021");
    assert_eq!(code(&fields(class, &[])), "HE0024");
    assert_eq!(
        code(&fields(Some("com.example.Other"), &[("id", Value::Int(1))])),
        "HE0025"
    );

    let options = DecodeOptions::new(Dialect::Hessian2);
    fn wrong<T: for<'a> HessianDecode<'a> + Debug>(bytes: &[u8], options: &DecodeOptions) -> String {
        from_bytes::<T>(bytes, options).unwrap_err().code().to_string()
    }
    assert_eq!(wrong::<i8>(&[0xc8, 0x80], &options), "HE0022");
    assert_eq!(wrong::<i32>(b"L\0\0\0\x01\0\0\0\0", &options), "HE0022");
    assert_eq!(wrong::<char>(b"\x02ab", &options), "HE0022");
    assert_eq!(wrong::<String>(b"\x01\xed\xa0\x80", &options), "HE0023");
    let colour = |name| fields(Some("settle.hessian.Beans$Colour"), &[("name", Value::from(name))]);
    assert_eq!(wrong::<Colour>(&colour("PINK"), &options), "HE0026");
    assert_eq!(from_bytes::<Colour>(&colour("BLUE"), &options), Ok(Colour::Blue));
    assert_eq!(from_bytes::<Colour>(b"\x04BLUE", &options), Ok(Colour::Blue));
}

#[test]
fn what_java_shares_is_copied_and_what_holds_itself_is_refused() {
    // [x, x] where x is a list, and a list that holds itself.
    let options = DecodeOptions::new(Dialect::Hessian2);
    let shared = [0x7a, 0x7a, 0x91, 0x92, 0x51, 0x91];
    assert_eq!(from_bytes::<Vec<Vec<i32>>>(&shared, &options), Ok(vec![vec![1, 2]; 2]));
    #[derive(Debug, PartialEq, HessianDecode)]
    struct Nested(Vec<Nested>);
    let own = [0x79, 0x51, 0x90];
    assert_eq!(
        from_bytes::<Nested>(&own, &options).unwrap_err().code().to_string(),
        "HE0008"
    );
}

#[test]
fn a_value_referred_to_may_lie_in_a_field_that_was_skipped_with_classes_of_its_own() {
    // {unknown: [Base(tags, id)], id: 1} and behind it a reference to the Base in the skipped list, then a new Base.
    let mut document = Document::new();
    let class = document.add_class(settle_hessian::Class {
        name: "com.example.Base".into(),
        fields: vec!["id".into(), "tags".into()],
    });
    let tags = document.add_map(vec![(Value::from("t"), Value::Int(3))]);
    let inner = document.add_object(class, vec![Value::Long(7), tags.clone()]);
    let typed = document.add_typed_list("[com.example.Base", vec![inner.clone()]);
    let outer = document.add_map(vec![
        (Value::from("unknown"), typed),
        (Value::from("id"), Value::Long(1)),
        (Value::from("tags"), tags.clone()),
    ]);
    document.push(outer);
    document.push(inner);
    let last = document.add_object(class, vec![Value::Long(8), tags]);
    document.push(last);
    for dialect in [Dialect::Sofa3, Dialect::Hessian2] {
        let bytes = document.encode(dialect).unwrap();
        let options = DecodeOptions::new(dialect);
        let mut reader = Reader::new(&bytes, &options).unwrap();
        let ids: Vec<i64> = (0..3)
            .map(|_| {
                let read = Base::decode_next(&mut reader).unwrap();
                assert_eq!(read.tags, BTreeMap::from([("t".to_owned(), 3)]));
                read.id
            })
            .collect();
        assert_eq!(ids, [1, 7, 8]);
        reader.finish().unwrap();
    }
}

#[test]
fn limits_and_refused_classes_hold_for_derived_types_too() {
    let mut options = DecodeOptions::new(Dialect::Hessian2);
    options.limits = Limits {
        depth: 3,
        ..Limits::DEFAULT
    };
    #[derive(Debug, HessianDecode)]
    struct Nested(#[allow(dead_code, reason = "only its depth counts")] Vec<Nested>);
    let error = from_bytes::<Nested>(&[0x79, 0x79, 0x79, 0x78], &options).unwrap_err();
    assert_eq!(error.code().to_string(), "HE0011");
    let refused = fields(Some("com.sun.rowset.JdbcRowSetImpl"), &[]);
    assert_eq!(base(&refused).unwrap_err().code().to_string(), "HE0005");
    // Also in a field that nobody reads.
    options.limits = Limits::DEFAULT;
    let mut document = Document::new();
    let class = document.add_class(settle_hessian::Class {
        name: "javax.naming.Reference".into(),
        fields: Vec::new(),
    });
    let hidden = document.add_object(class, Vec::new());
    let root = document.add_map(vec![
        (Value::from("unknown"), hidden),
        (Value::from("id"), Value::Int(1)),
    ]);
    document.push(root);
    let bytes = document.encode(Dialect::Hessian2).unwrap();
    assert_eq!(base(&bytes).unwrap_err().code().to_string(), "HE0005");
}

#[test]
fn reading_again_moves_no_table_so_that_names_behind_it_are_still_judged() {
    // Three lists: of ints, the same again, and one of a refused type.
    let refused = b"javax.naming.Reference";
    let head = [
        &[0x7b, 0x71, 4][..],
        b"[int",
        &[0x91, 0x51, 0x91, 0x70, refused.len() as u8],
    ]
    .concat();
    let bytes = [&head[..], refused].concat();
    let options = DecodeOptions::new(Dialect::Hessian2);
    let error = from_bytes::<Vec<Vec<i32>>>(&bytes, &options).unwrap_err();
    assert_eq!(error.code().to_string(), "HE0005");
}

#[test]
fn borrowed_fields_point_into_the_input() {
    let bytes = to_bytes(
        Dialect::Sofa3,
        &Parent {
            items: None,
            name: Some(Text::Str("here".into())),
            id: 4,
        },
    )
    .unwrap();
    let options = DecodeOptions::new(Dialect::Sofa3);
    let parent: Parent<'_> = from_bytes(&bytes, &options).unwrap();
    let Some(Text::Str(Cow::Borrowed(name))) = parent.name else {
        panic!("not borrowed: {parent:?}")
    };
    assert!(bytes.as_ptr_range().contains(&name.as_ptr()));
}

/// What every service that pages through something has.
#[derive(Clone, PartialEq, Debug, HessianEncode, HessianDecode)]
#[hessian(class = "com.example.Page")]
struct Page<T, const N: usize = 2> {
    rows: Vec<T>,
    total: i64,
    first: Option<T>,
    #[hessian(skip)]
    size: Size<N>,
    next: Option<Box<Page<T, N>>>,
}

#[derive(Clone, PartialEq, Debug, Default)]
struct Size<const N: usize>;

#[derive(Clone, PartialEq, Debug, HessianEncode, HessianDecode)]
struct Of<T>(T);

#[derive(Clone, PartialEq, Debug, HessianEncode, HessianDecode)]
enum Answer<'a, K, T: Clone>
where
    K: Ord,
{
    Page(Page<T>),
    Entry(Entry<'a, K, T>),
    #[hessian(other)]
    Other(Of<BTreeMap<K, T>>),
}

#[derive(Clone, PartialEq, Debug, HessianEncode, HessianDecode)]
#[hessian(class = "com.example.Entry")]
struct Entry<'a, K, T: Clone> {
    note: Option<Text<'a>>,
    #[hessian(java_lang)]
    key: K,
    value: Option<T>,
}

#[test]
fn a_type_with_parameters_is_the_class_without_them() {
    let page = |rows: &[i32]| Page {
        rows: rows.to_vec(),
        total: 7,
        first: rows.first().copied(),
        size: Size,
        next: None,
    };
    let mut first = page(&[1, 2]);
    first.next = Some(Box::new(page(&[3])));
    roundtrip(&first);
    let entry = |note: Option<&'static str>| Entry {
        note: note.map(|note| Text::Str(note.into())),
        key: String::from("k"),
        value: Some(page(&[])),
    };
    for answer in [
        Answer::Page(Page {
            rows: vec![page(&[4])],
            total: 1,
            first: None,
            size: Size,
            next: None,
        }),
        Answer::Entry(entry(Some("read in place"))),
        Answer::Other(Of(BTreeMap::from([(String::from("a"), page(&[5]))]))),
    ] {
        let bytes = to_bytes(Dialect::Hessian2, &answer).unwrap();
        let options = DecodeOptions::new(Dialect::Hessian2);
        assert_eq!(
            from_bytes::<Answer<'_, String, Page<i32>>>(&bytes, &options),
            Ok(answer)
        );
    }
    // Java sees fields of `T` as objects, behind those of primitives and of `java.lang`.
    let bytes = to_bytes(Dialect::Hessian2, &entry(None)).unwrap();
    let document = Document::decode(&bytes, &DecodeOptions::new(Dialect::Hessian2)).unwrap();
    let object = document.object(&document.roots()[0]).unwrap();
    assert_eq!(document.class_of(object).name, "com.example.Entry");
    let names: Vec<&str> = document.class_of(object).fields.iter().map(AsRef::as_ref).collect();
    assert_eq!(names, ["note", "key", "value"]);
    let bytes = to_bytes(Dialect::Hessian2, &page(&[6])).unwrap();
    let document = Document::decode(&bytes, &DecodeOptions::new(Dialect::Hessian2)).unwrap();
    let object = document.object(&document.roots()[0]).unwrap();
    let names: Vec<&str> = document.class_of(object).fields.iter().map(AsRef::as_ref).collect();
    assert_eq!(names, ["total", "rows", "first", "next"]);
}
