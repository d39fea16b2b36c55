//! The JSON of Java's parser `jackson`, with the class names and type tags that its polymorphic mapper writes
//! (`JacksonUndoLogParser`: default typing `NON_FINAL` as a property).

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{BranchUndo, ChangeKind, Field, Image, JavaPackage, JavaValue, StatementUndo, UndoError};

const BRANCH: &str = "rm.datasource.undo.BranchUndoLog";
const STATEMENT: &str = "rm.datasource.undo.SQLUndoLog";
const RECORDS: &str = "rm.datasource.sql.struct.TableRecords";
const NO_RECORDS: &str = "rm.datasource.sql.struct.TableRecords$EmptyTableRecords";
const ROW: &str = "rm.datasource.sql.struct.Row";
const FIELD: &str = "rm.datasource.sql.struct.Field";
const LIST: &str = "java.util.ArrayList";

/// As Java writes it.
pub fn encode(undo: &BranchUndo, package: JavaPackage) -> Vec<u8> {
    let mut out = Writer {
        json: String::new(),
        root: package.root(),
    };
    out.class(BRANCH);
    out.json.push_str(",\"xid\":");
    out.text(&undo.xid);
    out.push(format_args!(",\"branchId\":{},\"sqlUndoLogs\":", undo.branch_id));
    out.list(&undo.statements, Writer::statement);
    out.json.push('}');
    out.json.into_bytes()
}

struct Writer {
    json: String,
    root: &'static str,
}

impl Writer {
    fn push(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.json.write_fmt(arguments).expect("a String takes everything");
    }

    fn text(&mut self, text: &str) {
        self.json
            .push_str(&serde_json::to_string(text).expect("a str is always JSON"));
    }

    /// Opens an object of a class.
    fn class(&mut self, name: &str) {
        let root = self.root;
        self.push(format_args!("{{\"@class\":\"{root}.{name}\""));
    }

    fn list<T>(&mut self, items: &[T], each: impl Fn(&mut Writer, &T)) {
        self.push(format_args!("[\"{LIST}\",["));
        for (n, item) in items.iter().enumerate() {
            if n > 0 {
                self.json.push(',');
            }
            each(self, item);
        }
        self.json.push_str("]]");
    }

    fn statement(&mut self, statement: &StatementUndo) {
        self.class(STATEMENT);
        self.push(format_args!(
            ",\"sqlType\":\"{}\",\"tableName\":",
            statement.kind.name()
        ));
        self.text(&statement.table);
        self.json.push_str(",\"beforeImage\":");
        self.image(&statement.before);
        self.json.push_str(",\"afterImage\":");
        self.image(&statement.after);
        self.json.push('}');
    }

    fn image(&mut self, image: &Image) {
        self.class(if image.rows.is_empty() { NO_RECORDS } else { RECORDS });
        self.json.push_str(",\"tableName\":");
        self.text(&image.table);
        self.json.push_str(",\"rows\":");
        self.list(&image.rows, |out, row| {
            out.class(ROW);
            out.json.push_str(",\"fields\":");
            out.list(row, Writer::field);
            out.json.push('}');
        });
        self.json.push('}');
    }

    fn field(&mut self, field: &Field) {
        self.class(FIELD);
        self.json.push_str(",\"name\":");
        self.text(&field.name);
        let key = if field.is_key { "PRIMARY_KEY" } else { "NULL" };
        self.push(format_args!(
            ",\"keyType\":\"{key}\",\"type\":{},\"value\":",
            field.type_code
        ));
        self.value(&field.value);
        self.json.push('}');
    }

    fn value(&mut self, value: &JavaValue) {
        match value {
            JavaValue::Null => self.json.push_str("null"),
            JavaValue::Boolean(value) => self.push(format_args!("{value}")),
            JavaValue::Integer(value) => self.push(format_args!("{value}")),
            // With a point or an exponent, so that Java does not take it for an Integer.
            JavaValue::Double(value) => self.push(format_args!("{value:?}")),
            JavaValue::String(value) => self.text(value),
            JavaValue::Long(value) => self.push(format_args!("[\"java.lang.Long\",{value}]")),
            JavaValue::BigInteger(value) => self.push(format_args!("[\"java.math.BigInteger\",{value}]")),
            JavaValue::BigDecimal(value) => self.push(format_args!("[\"java.math.BigDecimal\",{value}]")),
            JavaValue::Bytes(value) => self.push(format_args!("[\"[B\",\"{}\"]", BASE64.encode(value))),
            JavaValue::Timestamp(micros) => self.moment("java.sql.Timestamp", *micros),
            JavaValue::LocalDateTime(micros) => self.moment("java.time.LocalDateTime", *micros),
            JavaValue::Date(micros) => self.push(format_args!("[\"java.sql.Date\",{}]", micros.div_euclid(1_000))),
            JavaValue::Time(value) => {
                self.json.push_str("[\"java.sql.Time\",");
                self.text(value);
                self.json.push(']');
            }
        }
    }

    /// Milliseconds, and the whole fraction of the second in nanoseconds when they do not tell it.
    fn moment(&mut self, class: &str, micros: i64) {
        let millis = micros.div_euclid(1_000);
        match micros.rem_euclid(1_000) {
            0 => self.push(format_args!("[\"{class}\",{millis}]")),
            _ => {
                let nanos = micros.rem_euclid(1_000_000) * 1_000;
                self.push(format_args!("[\"{class}\",[{millis},{nanos}]]"));
            }
        }
    }
}

#[derive(Deserialize)]
struct BranchJson<'a> {
    #[serde(rename = "@class")]
    class: String,
    xid: String,
    #[serde(rename = "branchId")]
    branch_id: i64,
    #[serde(rename = "sqlUndoLogs", borrow)]
    statements: (String, Vec<StatementJson<'a>>),
}

#[derive(Deserialize)]
struct StatementJson<'a> {
    #[serde(rename = "@class")]
    class: String,
    #[serde(rename = "sqlType")]
    kind: String,
    #[serde(rename = "tableName")]
    table: String,
    #[serde(rename = "beforeImage", borrow)]
    before: Option<ImageJson<'a>>,
    #[serde(rename = "afterImage", borrow)]
    after: Option<ImageJson<'a>>,
}

#[derive(Deserialize)]
struct ImageJson<'a> {
    #[serde(rename = "@class")]
    class: String,
    #[serde(rename = "tableName")]
    table: String,
    #[serde(borrow)]
    rows: (String, Vec<RowJson<'a>>),
}

#[derive(Deserialize)]
struct RowJson<'a> {
    #[serde(rename = "@class")]
    class: String,
    #[serde(borrow)]
    fields: (String, Vec<FieldJson<'a>>),
}

#[derive(Deserialize)]
struct FieldJson<'a> {
    #[serde(rename = "@class")]
    class: String,
    name: String,
    #[serde(rename = "keyType")]
    key: String,
    #[serde(rename = "type")]
    type_code: i32,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

/// Reads what Java, of either package, or this crate has written.
///
/// # Errors
/// [`UndoError`] for anything else. Whatever the bytes, it allocates no more than a small multiple of them.
pub fn decode(bytes: &[u8]) -> Result<BranchUndo, UndoError> {
    let branch: BranchJson<'_> = serde_json::from_slice(bytes).map_err(|error| bad(&error))?;
    check(&branch.class, BRANCH, "a branch's undo log")?;
    Ok(BranchUndo {
        xid: branch.xid,
        branch_id: branch.branch_id,
        statements: list(branch.statements, statement)?,
    })
}

fn bad(error: &serde_json::Error) -> UndoError {
    UndoError::Json {
        problem: error.to_string(),
    }
}

fn check(class: &str, name: &str, wanted: &'static str) -> Result<(), UndoError> {
    let is_it = [JavaPackage::IoSeata, JavaPackage::OrgApacheSeata]
        .iter()
        .any(|package| {
            class
                .strip_prefix(package.root())
                .and_then(|rest| rest.strip_prefix('.'))
                == Some(name)
        });
    if is_it {
        return Ok(());
    }
    Err(UndoError::Class {
        class: class.to_owned(),
        wanted,
    })
}

fn list<T, U>(list: (String, Vec<T>), each: impl Fn(T) -> Result<U, UndoError>) -> Result<Vec<U>, UndoError> {
    let (class, items) = list;
    if !class.starts_with("java.util.") {
        return Err(UndoError::Class {
            class,
            wanted: "a list",
        });
    }
    items.into_iter().map(each).collect()
}

fn statement(json: StatementJson<'_>) -> Result<StatementUndo, UndoError> {
    check(&json.class, STATEMENT, "a statement's undo log")?;
    let kind = match json.kind.as_str() {
        "INSERT" => ChangeKind::Insert,
        "UPDATE" => ChangeKind::Update,
        "DELETE" => ChangeKind::Delete,
        other => {
            return Err(UndoError::Class {
                class: other.to_owned(),
                wanted: "INSERT, UPDATE or DELETE",
            });
        }
    };
    let table_name = json.table.clone();
    let read = |given: Option<ImageJson<'_>>| match given {
        Some(given) => image(given),
        None => Ok(Image::empty(&table_name)),
    };
    Ok(StatementUndo {
        kind,
        before: read(json.before)?,
        after: read(json.after)?,
        table: json.table,
    })
}

fn image(json: ImageJson<'_>) -> Result<Image, UndoError> {
    check(&json.class, RECORDS, "rows").or_else(|_| check(&json.class, NO_RECORDS, "rows"))?;
    let rows = list(json.rows, |row| {
        check(&row.class, ROW, "a row")?;
        list(row.fields, field)
    });
    Ok(Image {
        table: json.table,
        rows: rows?,
    })
}

fn field(json: FieldJson<'_>) -> Result<Field, UndoError> {
    check(&json.class, FIELD, "a field")?;
    let value = match json.value {
        None => JavaValue::Null,
        Some(raw) => value(raw.get()).map_err(|problem| UndoError::Value {
            column: json.name.clone(),
            problem,
        })?,
    };
    Ok(Field {
        name: json.name,
        is_key: json.key == "PRIMARY_KEY",
        type_code: json.type_code,
        value,
    })
}

fn value(raw: &str) -> Result<JavaValue, String> {
    match raw.as_bytes().first() {
        Some(b'n') => Ok(JavaValue::Null),
        Some(b't' | b'f') => Ok(JavaValue::Boolean(raw == "true")),
        Some(b'"') => parsed(raw).map(JavaValue::String),
        Some(b'[') => {
            let (class, raw): (String, &RawValue) = parsed(raw)?;
            tagged(&class, raw.get())
        }
        Some(b'{') => Err("an object is no value of a column".to_owned()),
        // To the last bit, which serde_json does not promise.
        _ if raw.contains(['.', 'e', 'E']) => raw.parse().map(JavaValue::Double).map_err(|_| "no number".to_owned()),
        _ => parsed(raw).map(JavaValue::Integer),
    }
}

fn parsed<'a, T: Deserialize<'a>>(raw: &'a str) -> Result<T, String> {
    serde_json::from_str(raw).map_err(|error| error.to_string())
}

fn tagged(class: &str, raw: &str) -> Result<JavaValue, String> {
    let base64 = |raw| BASE64.decode(parsed::<String>(raw)?).map_err(|error| error.to_string());
    Ok(match class {
        "java.lang.Long" => JavaValue::Long(parsed(raw)?),
        "java.math.BigInteger" => {
            let digits = raw.strip_prefix('-').unwrap_or(raw);
            if digits.is_empty() || digits.len() > 80 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(format!("`{}` is no BigInteger", shortened(raw)));
            }
            JavaValue::BigInteger(raw.to_owned())
        }
        "java.math.BigDecimal" => {
            let plain = plain_decimal(raw);
            JavaValue::BigDecimal(plain.ok_or_else(|| format!("`{}` is no BigDecimal of a column", shortened(raw)))?)
        }
        "[B" => JavaValue::Bytes(base64(raw)?),
        "javax.sql.rowset.serial.SerialBlob" => JavaValue::Bytes(base64(raw)?),
        "javax.sql.rowset.serial.SerialClob" => JavaValue::String(parsed(raw)?),
        "java.sql.Timestamp" => JavaValue::Timestamp(moment(raw)?),
        "java.time.LocalDateTime" => JavaValue::LocalDateTime(moment(raw)?),
        "java.sql.Date" => JavaValue::Date(millis(parsed(raw)?)?),
        "java.sql.Time" => JavaValue::Time(parsed(raw)?),
        other => return Err(format!("a value of class `{}` is not kept exactly", shortened(other))),
    })
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

fn millis(millis: i64) -> Result<i64, String> {
    millis
        .checked_mul(1_000)
        .ok_or_else(|| "a time out of range".to_owned())
}

fn moment(raw: &str) -> Result<i64, String> {
    if !raw.starts_with('[') {
        return millis(parsed(raw)?);
    }
    let (ms, nanos): (i64, i64) = parsed(raw)?;
    if !(0..1_000_000_000).contains(&nanos) || nanos % 1_000 != 0 {
        return Err(format!("{nanos} nanoseconds are no microseconds of a second"));
    }
    millis(ms.div_euclid(1_000) * 1_000)?
        .checked_add(nanos / 1_000)
        .ok_or_else(|| "a time out of range".to_owned())
}

/// `1.2E+3` as `1200`, `0E-10` as `0.0000000000`. None when it is no number, or longer than a decimal column gets.
pub(crate) fn plain_decimal(raw: &str) -> Option<String> {
    const DIGITS_MAX: i64 = 100;
    let (sign, unsigned) = raw.strip_prefix('-').map_or(("", raw), |rest| ("-", rest));
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let exponent: i64 = exponent.parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: String = [whole, fraction].concat();
    let is_number = !whole.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || exponent.abs() > DIGITS_MAX || digits.len() as i64 > DIGITS_MAX {
        return None;
    }
    // Where the point stands, counted from the left of `digits`.
    let point = whole.len() as i64 + exponent;
    let plain = if point <= 0 {
        format!("0.{}{digits}", "0".repeat(usize::try_from(-point).ok()?))
    } else {
        let point = usize::try_from(point).ok()?;
        match digits.len().checked_sub(point) {
            None | Some(0) => format!("{digits:0<point$}"),
            Some(_) => format!("{}.{}", &digits[..point], &digits[point..]),
        }
    };
    let (whole, rest) = plain
        .split_once('.')
        .map_or((plain.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        trimmed => trimmed,
    };
    Some(match rest {
        Some(rest) => format!("{sign}{whole}.{rest}"),
        None => format!("{sign}{whole}"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What Java's parser wrote for one row with a value of each class; kept in `conformance/seata/vectors/undo`.
    const JAVA: [(&str, JavaPackage, i64); 3] = [
        (
            include_str!("../../../../conformance/seata/vectors/undo/jackson-1.8.0-utc.json"),
            JavaPackage::IoSeata,
            0,
        ),
        (
            include_str!("../../../../conformance/seata/vectors/undo/jackson-2.6.0-utc.json"),
            JavaPackage::OrgApacheSeata,
            0,
        ),
        (
            include_str!("../../../../conformance/seata/vectors/undo/jackson-2.6.0-shanghai.json"),
            JavaPackage::OrgApacheSeata,
            8 * 3_600_000_000,
        ),
    ];

    /// All classes but those that this crate reads and never writes.
    fn of_every_class(zone: i64) -> Vec<(&'static str, i32, JavaValue)> {
        let moment = 1_709_210_096_000_000 - zone;
        vec![
            ("id", -5, JavaValue::Long(1)),
            ("i", 4, JavaValue::Integer(5)),
            ("l", -5, JavaValue::Long(i64::MAX)),
            ("big", -5, JavaValue::BigInteger("18446744073709551615".to_owned())),
            ("b", -7, JavaValue::Boolean(true)),
            ("d", 8, JavaValue::Double(1.5)),
            ("d2", 8, JavaValue::Double(1e300)),
            ("dec", 3, JavaValue::BigDecimal("12.30".to_owned())),
            ("dec0", 3, JavaValue::BigDecimal("0.0000000000".to_owned())),
            ("s", 12, JavaValue::String("a\"b\\ä\n/".to_owned())),
            ("nul", 12, JavaValue::Null),
            ("by", -4, JavaValue::Bytes(vec![1, 2, 3, 255])),
            ("ts", 93, JavaValue::Timestamp(moment + 789_000)),
            ("ts6", 93, JavaValue::Timestamp(moment + 789_123)),
            ("ldt", 93, JavaValue::LocalDateTime(moment)),
            ("ldt6", 93, JavaValue::LocalDateTime(moment + 789_123)),
            ("date", 91, JavaValue::Date(1_709_164_800_000_000 - zone)),
            ("time", 92, JavaValue::Time("12:34:56".to_owned())),
        ]
    }

    fn branch(zone: i64) -> BranchUndo {
        let field = |(name, type_code, value): (&str, i32, JavaValue)| Field {
            name: name.to_owned(),
            is_key: name == "id",
            type_code,
            value,
        };
        let row = of_every_class(zone).into_iter().map(field).collect();
        BranchUndo {
            xid: "127.0.0.1:8091:7".to_owned(),
            branch_id: 70,
            statements: vec![StatementUndo {
                kind: ChangeKind::Delete,
                table: "kinds".to_owned(),
                before: Image {
                    table: "kinds".to_owned(),
                    rows: vec![row],
                },
                after: Image::empty("kinds"),
            }],
        }
    }

    /// Without some of the fields.
    fn without(java: &str, names: &[&str]) -> String {
        let mut java = java.trim_end().to_owned();
        for name in names {
            let start = java.find(&format!("\"name\":\"{name}\"")).expect("in the vector");
            let start = java[..start].rfind('{').expect("a field is an object");
            let end = start + java[start..].find('}').expect("a field ends") + 2;
            java.replace_range(start..end, "");
        }
        java
    }

    #[test]
    fn what_java_wrote_is_read_but_for_what_it_has_rounded() {
        for (java, _, zone) in JAVA {
            let float = decode(java.trim_end().as_bytes()).expect_err("Java rounds a FLOAT");
            assert!(
                matches!(&float, UndoError::Value { column, problem } if column == "fl" && problem.contains("Float"))
            );
            let mut read = decode(without(java, &["fl"]).as_bytes()).expect("Java's bytes");
            let row = &mut read.statements[0].before.rows[0];
            let only_read = |field: &Field| field.name == "blob" || field.name == "clob";
            let taken: Vec<JavaValue> = row
                .iter()
                .filter(|field| only_read(field))
                .map(|field| field.value.clone())
                .collect();
            assert_eq!(
                taken,
                [JavaValue::Bytes(vec![1, 2, 3]), JavaValue::String("xy".to_owned())]
            );
            row.retain(|field| !only_read(field));
            assert_eq!(read, branch(zone));
        }
    }

    /// But for the numbers that have several spellings, which both sides read alike.
    #[test]
    fn it_is_written_byte_for_byte_as_java_writes_it() {
        for (java, package, zone) in JAVA {
            let written = String::from_utf8(encode(&branch(zone), package)).expect("JSON is text");
            let java = without(java, &["fl", "blob", "clob"])
                .replace("1.0E300", "1e300")
                .replace("0E-10", "0.0000000000");
            assert_eq!(written, java);
        }
    }

    #[test]
    fn what_is_no_undo_log_is_refused_by_name() {
        let java = without(JAVA[0].0, &["fl"]);
        let read = |from: &str, to: &str| {
            assert!(java.contains(from), "{from}");
            decode(java.replacen(from, to, 1).as_bytes())
        };
        let class = |class: &str, wanted| {
            Err(UndoError::Class {
                class: class.to_owned(),
                wanted,
            })
        };
        assert_eq!(
            read("io.seata.rm.datasource.undo.BranchUndoLog", "evil.Gadget"),
            class("evil.Gadget", "a branch's undo log")
        );
        assert_eq!(
            read("\"DELETE\"", "\"UPDATE_JOIN\""),
            class("UPDATE_JOIN", "INSERT, UPDATE or DELETE")
        );
        for (from, to) in [
            ("[\"java.lang.Long\",1]", "[\"java.lang.Float\",1]"),
            ("1709210096789", "99999999999999999"),
            ("789123000]", "789123001]"),
            ("12.30]", "1E99999999]"),
            ("\"AQID/w==\"", "\"***\""),
            ("true", "{}"),
        ] {
            assert!(
                matches!(read(from, to), Err(UndoError::Value { .. })),
                "{to}: {:?}",
                read(from, to)
            );
        }
        for bytes in [&b""[..], b"{}", b"[]", b"null", b"\xff"] {
            assert!(matches!(decode(bytes), Err(UndoError::Json { .. })));
        }
    }

    #[test]
    fn decimals_lose_their_exponent_and_nothing_else() {
        for (java, plain) in [
            ("0E-10", "0.0000000000"),
            ("1.2E+3", "1200"),
            ("-1.20E-2", "-0.0120"),
            ("12.30", "12.30"),
            ("007", "7"),
            ("1E2", "100"),
        ] {
            assert_eq!(plain_decimal(java).as_deref(), Some(plain), "{java}");
        }
        for java in ["", "-", "1E999", "1,5", "E5", "0x10"] {
            assert_eq!(plain_decimal(java), None, "{java}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            texts in prop::collection::vec(".{0,12}", 0..4),
            number: i64,
            micros in -1_000_000_000_000_000_i64..4_000_000_000_000_000,
            double in prop::num::f64::NORMAL,
            bytes in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut undo = branch(0);
            let row = &mut undo.statements[0].before.rows[0];
            let values = [
                JavaValue::Long(number), JavaValue::Timestamp(micros), JavaValue::LocalDateTime(micros),
                JavaValue::Double(double), JavaValue::Bytes(bytes),
            ];
            let texts = texts.into_iter().map(JavaValue::String);
            for (n, value) in values.into_iter().chain(texts).enumerate() {
                row.push(Field { name: format!("more {n}"), is_key: false, type_code: 1, value });
            }
            prop_assert_eq!(decode(&encode(&undo, JavaPackage::IoSeata)), Ok(undo));
        }

        #[test]
        fn no_bytes_panic(at in 0_usize..3_000, byte: u8) {
            let mut bytes = JAVA[0].0.as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = decode(&bytes);
            let _ = decode(&bytes[..at]);
        }
    }
}
