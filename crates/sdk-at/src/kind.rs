//! Kinds of columns: how MySQL's binary protocol sends them, and as which class Java's JDBC driver (Connector/J 8, with
//! its defaults) hands them on.

use crate::{Value, civil, undo::JavaValue};

/// `java.sql.Types`.
mod types {
    pub const BIT: i32 = -7;
    pub const TINYINT: i32 = -6;
    pub const BIGINT: i32 = -5;
    pub const LONGVARBINARY: i32 = -4;
    pub const VARBINARY: i32 = -3;
    pub const BINARY: i32 = -2;
    pub const LONGVARCHAR: i32 = -1;
    pub const CHAR: i32 = 1;
    pub const DECIMAL: i32 = 3;
    pub const INTEGER: i32 = 4;
    pub const SMALLINT: i32 = 5;
    pub const DOUBLE: i32 = 8;
    pub const VARCHAR: i32 = 12;
    pub const DATE: i32 = 91;
    pub const TIME: i32 = 92;
    pub const TIMESTAMP: i32 = 93;
}

/// What a column is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `TINYINT(1)`.
    Boolean,
    /// All integers that Java keeps in an `Integer`.
    Integer {
        type_code: i32,
        is_unsigned: bool,
    },
    /// `BIGINT`, and `INT UNSIGNED` with the type of an `INT`.
    Long {
        type_code: i32,
        is_unsigned: bool,
    },
    /// `BIGINT UNSIGNED`.
    BigInteger,
    Double,
    Decimal,
    Text {
        type_code: i32,
    },
    Bytes {
        type_code: i32,
    },
    /// `BIT(1)`.
    Bit,
    DateTime,
    Timestamp,
    Date,
    Time,
    /// Cannot be kept exactly; with the name of its type.
    Unsupported(String),
}

impl Kind {
    /// From `DATA_TYPE` and `COLUMN_TYPE` of `information_schema.COLUMNS`.
    pub fn of(data_type: &str, column_type: &str) -> Kind {
        let is_unsigned = column_type.contains("unsigned");
        let integer = |type_code| Kind::Integer { type_code, is_unsigned };
        match data_type {
            "tinyint" if column_type == "tinyint(1)" => Kind::Boolean,
            // Whether the driver takes an unsigned one for a flag depends on its version.
            "tinyint" if column_type.starts_with("tinyint(1)") => Kind::Unsupported(column_type.to_owned()),
            "tinyint" => integer(types::TINYINT),
            "smallint" => integer(types::SMALLINT),
            "mediumint" => integer(types::INTEGER),
            "int" if is_unsigned => Kind::Long {
                type_code: types::INTEGER,
                is_unsigned,
            },
            "int" => integer(types::INTEGER),
            "bigint" if is_unsigned => Kind::BigInteger,
            "bigint" => Kind::Long {
                type_code: types::BIGINT,
                is_unsigned,
            },
            "double" => Kind::Double,
            "decimal" => Kind::Decimal,
            "char" | "enum" | "set" => Kind::Text { type_code: types::CHAR },
            "varchar" | "tinytext" => Kind::Text {
                type_code: types::VARCHAR,
            },
            "text" | "mediumtext" | "longtext" | "json" => Kind::Text {
                type_code: types::LONGVARCHAR,
            },
            "binary" => Kind::Bytes {
                type_code: types::BINARY,
            },
            "varbinary" | "tinyblob" => Kind::Bytes {
                type_code: types::VARBINARY,
            },
            "blob" | "mediumblob" | "longblob" => Kind::Bytes {
                type_code: types::LONGVARBINARY,
            },
            "bit" if column_type == "bit(1)" => Kind::Bit,
            "bit" => Kind::Bytes { type_code: types::BIT },
            "datetime" => Kind::DateTime,
            "timestamp" => Kind::Timestamp,
            "date" => Kind::Date,
            "time" => Kind::Time,
            // A FLOAT is rounded on its way to Java, and a YEAR comes there as a day.
            _ => Kind::Unsupported(column_type.to_owned()),
        }
    }

    /// The `java.sql.Types` that Java compares.
    pub fn type_code(&self) -> i32 {
        match self {
            Kind::Boolean | Kind::Bit => types::BIT,
            Kind::Integer { type_code, .. }
            | Kind::Long { type_code, .. }
            | Kind::Text { type_code }
            | Kind::Bytes { type_code } => *type_code,
            Kind::BigInteger => types::BIGINT,
            Kind::Double => types::DOUBLE,
            Kind::Decimal => types::DECIMAL,
            Kind::DateTime | Kind::Timestamp => types::TIMESTAMP,
            Kind::Date => types::DATE,
            Kind::Time => types::TIME,
            Kind::Unsupported(_) => 0,
        }
    }

    /// Whether a row can be found by it exactly, and named in a global lock as Java names it.
    pub fn can_be_key(&self) -> bool {
        matches!(
            self,
            Kind::Integer { .. } | Kind::Long { .. } | Kind::BigInteger | Kind::Text { .. }
        )
    }

    /// A key that was given for such a column, as it is found by: what the database would make something else of is none,
    /// since it could then be that of another row.
    pub fn key(&self, given: Value) -> Option<Value> {
        match (self, given) {
            (Kind::Text { .. }, Value::Text(text)) => Some(Value::Text(text)),
            (Kind::Integer { .. } | Kind::Long { .. } | Kind::BigInteger, given) => match given {
                Value::Int(_) | Value::UInt(_) => Some(given),
                Value::Text(text) => match text.parse::<i64>() {
                    Ok(number) => Some(Value::Int(number)),
                    Err(_) => text.parse().ok().map(Value::UInt),
                },
                _ => None,
            },
            _ => None,
        }
    }

    /// A value of the binary protocol. `micros` of a moment are kept as far as they are there.
    ///
    /// # Errors
    /// In words, for what cannot be kept exactly.
    pub fn read(&self, bytes: &[u8]) -> Result<Value, String> {
        let cut = || "the database sent a value of another size".to_owned();
        Ok(match self {
            Kind::Boolean => match bytes {
                [0] => Value::Int(0),
                [1] => Value::Int(1),
                _ => return Err("a TINYINT(1) other than 0 and 1 is a flag to Java".to_owned()),
            },
            Kind::Integer { is_unsigned, .. } | Kind::Long { is_unsigned, .. } => {
                Value::Int(integer(bytes, *is_unsigned).ok_or_else(cut)?)
            }
            Kind::BigInteger => Value::UInt(u64::from_le_bytes(bytes.try_into().map_err(|_| cut())?)),
            Kind::Double => Value::Double(f64::from_le_bytes(bytes.try_into().map_err(|_| cut())?)),
            Kind::Decimal => Value::Text(without_zerofill(text(bytes)?).to_owned()),
            Kind::Text { .. } => Value::Text(text(bytes)?.to_owned()),
            Kind::Bytes { .. } | Kind::Bit => Value::Bytes(bytes.to_owned()),
            Kind::DateTime | Kind::Timestamp | Kind::Date => Value::Text(self.read_moment(bytes)?),
            Kind::Time => Value::Text(read_time(bytes)?),
            Kind::Unsupported(name) => return Err(unsupported(name)),
        })
    }

    fn read_moment(&self, bytes: &[u8]) -> Result<String, String> {
        let no_date = || "it holds a date that Java does not know".to_owned();
        let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let date = match bytes.len() {
            5 | 8 | 12 => format!("{:04}-{:02}-{:02}", short(1), bytes[3], bytes[4]),
            _ => return Err(no_date()),
        };
        let clock = match bytes.len() {
            5 => "00:00:00".to_owned(),
            _ => format!("{:02}:{:02}:{:02}", bytes[5], bytes[6], bytes[7]),
        };
        let fraction = match bytes.len() {
            12 => u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
            _ => 0,
        };
        let micros = civil::micros(&format!("{date} {clock}.{fraction:06}")).ok_or_else(no_date)?;
        self.moment(micros)
    }

    fn moment(&self, micros: i64) -> Result<String, String> {
        let text = match self {
            Kind::Date => civil::date(micros),
            _ => civil::date_time(micros),
        };
        text.ok_or_else(|| "it holds a date out of range".to_owned())
    }

    /// As Java's driver hands it on. `zone_micros`: how far Java's clock is ahead of UTC.
    ///
    /// # Errors
    /// In words, for what Java cannot keep exactly, and for a moment without a time zone.
    pub fn to_java(&self, value: &Value, zone_micros: Option<i64>) -> Result<JavaValue, String> {
        let zone = || zone_micros.ok_or_else(no_zone);
        let clock =
            |text: &str| civil::micros(text).ok_or_else(|| "it holds a date that Java does not know".to_owned());
        Ok(match (self, value) {
            (_, Value::Null) => JavaValue::Null,
            (Kind::Boolean, Value::Int(value)) => JavaValue::Boolean(*value != 0),
            (Kind::Bit, Value::Bytes(bytes)) => JavaValue::Boolean(bytes.iter().any(|byte| *byte != 0)),
            (Kind::Integer { .. }, Value::Int(value)) => JavaValue::Integer(*value),
            (Kind::Long { .. }, Value::Int(value)) => JavaValue::Long(*value),
            (Kind::BigInteger, Value::UInt(value)) => JavaValue::BigInteger(value.to_string()),
            (Kind::Double, Value::Double(value)) => JavaValue::Double(*value),
            (Kind::Decimal, Value::Text(text)) => JavaValue::BigDecimal(text.clone()),
            (Kind::Text { .. }, Value::Text(text)) => JavaValue::String(text.clone()),
            (Kind::Bytes { .. }, Value::Bytes(bytes)) => JavaValue::Bytes(bytes.clone()),
            (Kind::DateTime, Value::Text(text)) => JavaValue::LocalDateTime(clock(text)? - zone()?),
            // The session is in UTC.
            (Kind::Timestamp, Value::Text(text)) => {
                zone()?;
                JavaValue::Timestamp(clock(text)?)
            }
            (Kind::Date, Value::Text(text)) => JavaValue::Date(clock(text)? - zone()?),
            (Kind::Time, Value::Text(text)) => JavaValue::Time(text.clone()),
            (Kind::Unsupported(name), _) => return Err(unsupported(name)),
            (kind, value) => return Err(format!("{value:?} is no value of {kind:?}")),
        })
    }

    /// What Java kept, as the database has it.
    ///
    /// # Errors
    /// In words, for what is no value of this column, and for a moment without a time zone.
    pub fn read_java(&self, value: &JavaValue, zone_micros: Option<i64>) -> Result<Value, String> {
        let zone = || zone_micros.ok_or_else(no_zone);
        let out_of_range = || "it holds a number out of range".to_owned();
        let add = |micros: i64, zone: i64| micros.checked_add(zone).ok_or_else(out_of_range);
        Ok(match (self, value) {
            (_, JavaValue::Null) => Value::Null,
            (Kind::Boolean, JavaValue::Boolean(value)) => Value::Int(i64::from(*value)),
            (Kind::Bit, JavaValue::Boolean(value)) => Value::Bytes(vec![u8::from(*value)]),
            (
                Kind::Boolean | Kind::Integer { .. } | Kind::Long { .. },
                JavaValue::Integer(value) | JavaValue::Long(value),
            ) => Value::Int(*value),
            (Kind::BigInteger, JavaValue::BigInteger(digits)) => {
                Value::UInt(digits.parse().map_err(|_| out_of_range())?)
            }
            (Kind::BigInteger, JavaValue::Integer(value) | JavaValue::Long(value)) => {
                Value::UInt(u64::try_from(*value).map_err(|_| out_of_range())?)
            }
            (Kind::Double, JavaValue::Double(value)) => Value::Double(*value),
            (Kind::Decimal, JavaValue::BigDecimal(text)) => Value::Text(text.clone()),
            (Kind::Text { .. }, JavaValue::String(text)) => Value::Text(text.clone()),
            (Kind::Bytes { .. }, JavaValue::Bytes(bytes)) => Value::Bytes(bytes.clone()),
            (Kind::DateTime, JavaValue::LocalDateTime(micros) | JavaValue::Timestamp(micros)) => {
                Value::Text(self.moment(add(*micros, zone()?)?)?)
            }
            (Kind::Timestamp, JavaValue::LocalDateTime(micros) | JavaValue::Timestamp(micros)) => {
                zone()?;
                Value::Text(self.moment(*micros)?)
            }
            (Kind::Date, JavaValue::Date(micros)) => {
                let local = add(*micros, zone()?)?;
                if local.rem_euclid(86_400_000_000) != 0 {
                    return Err(
                        "its day does not begin at midnight in the time zone set here (option `zone`)".to_owned(),
                    );
                }
                Value::Text(self.moment(local)?)
            }
            (Kind::Time, JavaValue::Time(text)) => Value::Text(text.clone()),
            (Kind::Unsupported(name), _) => return Err(unsupported(name)),
            (kind, _) => return Err(format!("what the undo log holds is no value of {kind:?}")),
        })
    }
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "its text is not UTF-8".to_owned())
}

/// A number without the zeros that `ZEROFILL` puts before it: they are none of its value, and not of JSON's numbers.
fn without_zerofill(digits: &str) -> &str {
    let rest = digits.trim_start_matches('0');
    match rest.as_bytes().first() {
        Some(b'0'..=b'9') => rest,
        _ if rest.len() < digits.len() => &digits[digits.len() - rest.len() - 1..],
        _ => digits,
    }
}

fn unsupported(name: &str) -> String {
    format!("a column of type `{name}` cannot be kept exactly by Java")
}

fn no_zone() -> String {
    "its dates cannot be told without the time zone of the Java services (option `zone`)".to_owned()
}

/// An integer of any size up to eight bytes, the lowest first.
fn integer(bytes: &[u8], is_unsigned: bool) -> Option<i64> {
    if bytes.is_empty() || bytes.len() > 8 {
        return None;
    }
    let is_negative = !is_unsigned && bytes[bytes.len() - 1] & 0x80 != 0;
    let mut wide = [if is_negative { 0xff } else { 0 }; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Some(i64::from_le_bytes(wide))
}

/// A time of day to the second, all that Java's class keeps.
fn read_time(bytes: &[u8]) -> Result<String, String> {
    let too_fine = || "it holds a time that is none of a day to the second, which is all that Java keeps".to_owned();
    match bytes {
        [0] => Ok("00:00:00".to_owned()),
        [8, 0, 0, 0, 0, 0, hours, minutes, seconds] => Ok(format!("{hours:02}:{minutes:02}:{seconds:02}")),
        [12, 0, 0, 0, 0, 0, hours, minutes, seconds, 0, 0, 0, 0] => Ok(format!("{hours:02}:{minutes:02}:{seconds:02}")),
        _ => Err(too_fine()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_keep_their_sign_and_width() {
        let tiny = Kind::of("tinyint", "tinyint(4)");
        assert_eq!(tiny.read(&[0xff]), Ok(Value::Int(-1)));
        assert_eq!(
            Kind::of("tinyint", "tinyint(3) unsigned").read(&[0xff]),
            Ok(Value::Int(255))
        );
        assert_eq!(
            Kind::of("int", "int(10) unsigned").read(&[0xff; 4]),
            Ok(Value::Int(i64::from(u32::MAX)))
        );
        assert_eq!(
            Kind::of("bigint", "bigint(20) unsigned").read(&[0xff; 8]),
            Ok(Value::UInt(u64::MAX))
        );
        assert!(tiny.read(&[]).is_err() && tiny.read(&[0; 9]).is_err());
    }

    #[test]
    fn a_decimal_is_read_without_the_zeros_that_fill_it() {
        let filled = Kind::of("decimal", "decimal(9,2) unsigned zerofill");
        for (sent, value) in [
            ("0000012.30", "12.30"),
            ("0000000.05", "0.05"),
            ("0000000.00", "0.00"),
            ("000", "0"),
            ("100", "100"),
            ("-0.50", "-0.50"),
        ] {
            assert_eq!(
                filled.read(sent.as_bytes()),
                Ok(Value::Text(value.to_owned())),
                "{sent}"
            );
        }
    }

    #[test]
    fn what_java_would_round_or_turn_is_refused() {
        for (data_type, column_type, bytes) in [
            ("float", "float", &[0, 0, 0, 0][..]),
            ("year", "year(4)", &[0xe8, 7]),
            ("geometry", "point", &[0]),
            ("tinyint", "tinyint(1)", &[2]),
            ("tinyint", "tinyint(1) unsigned", &[1]),
            ("datetime", "datetime", &[0]),
            ("datetime", "datetime", &[4, 0, 0, 0, 0]),
            ("time", "time", &[8, 1, 0, 0, 0, 0, 1, 0, 0]),
            ("time", "time(3)", &[12, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0]),
        ] {
            assert!(
                Kind::of(data_type, column_type).read(bytes).is_err(),
                "{column_type} {bytes:?}"
            );
        }
    }

    #[test]
    fn dates_are_java_s_in_java_s_time_zone_only() {
        let shanghai = Some(8 * 3_600_000_000);
        let kind = Kind::of("datetime", "datetime(6)");
        let value = kind.read(&[11, 0xe8, 7, 2, 29, 12, 34, 56, 0x83, 0x0a, 0x0c, 0]);
        let value = value.expect("a date");
        assert_eq!(value, Value::Text("2024-02-29 12:34:56.789123".to_owned()));
        let java = kind.to_java(&value, shanghai).expect("with a zone");
        assert_eq!(java, JavaValue::LocalDateTime(1_709_181_296_789_123));
        assert_eq!(kind.read_java(&java, shanghai), Ok(value.clone()));
        assert!(kind.to_java(&value, None).is_err() && kind.read_java(&java, None).is_err());
        let day = Kind::of("date", "date");
        let java = day
            .to_java(&Value::Text("2024-02-29".to_owned()), shanghai)
            .expect("with a zone");
        assert_eq!(java, JavaValue::Date(1_709_136_000_000_000));
        assert!(day.read_java(&java, Some(0)).is_err(), "another zone's midnight");
    }
}
