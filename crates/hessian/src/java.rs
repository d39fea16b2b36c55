//! Classes of Java's own libraries, as Java's serializers write them.
//!
//! What stands for `java.time` and others are classes of the Hessian library itself, so their names depend on
//! [`Library`](crate::Library); both names are read. Dates take no more than Java writes: a `java.sql.Timestamp` loses
//! what is below a millisecond.

use crate::{HessianDecode, HessianEncode, HessianError, Reader, Token, Writer, typed::mismatch};

/// `java.util.Date`: milliseconds since 1970 in UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Date(pub i64);

impl HessianEncode for Date {
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        writer.date(self.0);
        Ok(())
    }
}

impl<'a> HessianDecode<'a> for Date {
    fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<Date, HessianError> {
        match token {
            Token::Date(millis) => Ok(Date(millis)),
            other => Err(mismatch("a date", &other, reader)),
        }
    }
}

/// Structs of one class each.
macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident $class:literal $(or $lite:literal)? { $($(#[$field_doc:meta])* $field:ident: $of:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, HessianEncode, HessianDecode)]
        #[hessian(class = $class $(, lite_class = $lite)?)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $of,)*
        }
    )*};
}

classes! {
    /// `java.math.BigDecimal`, as its text: `1.50`, `1E+30`.
    BigDecimal "java.math.BigDecimal" { value: String, }
    /// `java.sql.Date`
    SqlDate "java.sql.Date" { value: Date, }
    /// `java.sql.Time`
    SqlTime "java.sql.Time" { value: Date, }
    /// `java.sql.Timestamp`, in milliseconds.
    SqlTimestamp "java.sql.Timestamp" { value: Date, }
    /// `java.util.Currency`
    Currency "java.util.Currency" {
        /// `CNY`, `EUR`
        currency_code: String,
    }
    /// `java.lang.Class`, by its name: `java.lang.String`, `int`, `[I`.
    JavaClass "java.lang.Class" { name: String, }
    /// `java.io.File`, by its path.
    File "java.io.File" { value: String, }
    /// `java.util.Locale`
    Locale "com.caucho.hessian.io.LocaleHandle" or "com.alibaba.com.caucho.hessian.io.LocaleHandle" {
        /// `zh_CN`, `en`, or nothing.
        value: String,
    }
    /// `java.util.Calendar`
    Calendar "com.caucho.hessian.io.CalendarHandle" or "com.alibaba.com.caucho.hessian.io.CalendarHandle" {
        /// The class of the calendar when it is not `java.util.GregorianCalendar`.
        r#type: Option<JavaClass>,
        date: Date,
    }
    /// `java.util.concurrent.atomic.AtomicInteger`
    AtomicInteger "java.util.concurrent.atomic.AtomicInteger" { value: i32, }
    /// `java.util.concurrent.atomic.AtomicLong`
    AtomicLong "java.util.concurrent.atomic.AtomicLong" { value: i64, }
    /// `java.util.concurrent.atomic.AtomicBoolean`: 0 or 1.
    AtomicBoolean "java.util.concurrent.atomic.AtomicBoolean" { value: i32, }
    /// `java.time.LocalDate`
    LocalDate "com.caucho.hessian.io.java8.LocalDateHandle" or "com.alibaba.com.caucho.hessian.io.java8.LocalDateHandle" {
        year: i32,
        /// 1 to 12.
        month: i32,
        /// 1 to 31.
        day: i32,
    }
    /// `java.time.LocalTime`
    LocalTime "com.caucho.hessian.io.java8.LocalTimeHandle" or "com.alibaba.com.caucho.hessian.io.java8.LocalTimeHandle" {
        hour: i32,
        minute: i32,
        second: i32,
        nano: i32,
    }
    /// `java.time.LocalDateTime`
    LocalDateTime "com.caucho.hessian.io.java8.LocalDateTimeHandle" or "com.alibaba.com.caucho.hessian.io.java8.LocalDateTimeHandle" {
        date: LocalDate,
        time: LocalTime,
    }
    /// `java.time.Duration`
    Duration "com.caucho.hessian.io.java8.DurationHandle" or "com.alibaba.com.caucho.hessian.io.java8.DurationHandle" {
        seconds: i64,
        nanos: i32,
    }
    /// `java.time.Period`
    Period "com.caucho.hessian.io.java8.PeriodHandle" or "com.alibaba.com.caucho.hessian.io.java8.PeriodHandle" {
        years: i32,
        months: i32,
        days: i32,
    }
    /// `java.time.Year`
    Year "com.caucho.hessian.io.java8.YearHandle" or "com.alibaba.com.caucho.hessian.io.java8.YearHandle" { year: i32, }
    /// `java.time.YearMonth`
    YearMonth "com.caucho.hessian.io.java8.YearMonthHandle" or "com.alibaba.com.caucho.hessian.io.java8.YearMonthHandle" {
        year: i32,
        month: i32,
    }
    /// `java.time.MonthDay`
    MonthDay "com.caucho.hessian.io.java8.MonthDayHandle" or "com.alibaba.com.caucho.hessian.io.java8.MonthDayHandle" {
        month: i32,
        day: i32,
    }
    /// `java.time.ZoneOffset`
    ZoneOffset "com.caucho.hessian.io.java8.ZoneOffsetHandle" or "com.alibaba.com.caucho.hessian.io.java8.ZoneOffsetHandle" {
        /// East of Greenwich.
        seconds: i32,
    }
    /// `java.time.OffsetDateTime`
    OffsetDateTime "com.caucho.hessian.io.java8.OffsetDateTimeHandle" or "com.alibaba.com.caucho.hessian.io.java8.OffsetDateTimeHandle" {
        date_time: LocalDateTime,
        offset: ZoneOffset,
    }
    /// `java.time.OffsetTime`
    OffsetTime "com.caucho.hessian.io.java8.OffsetTimeHandle" or "com.alibaba.com.caucho.hessian.io.java8.OffsetTimeHandle" {
        local_time: LocalTime,
        zone_offset: ZoneOffset,
    }
    /// `java.time.ZonedDateTime`
    ZonedDateTime "com.caucho.hessian.io.java8.ZonedDateTimeHandle" or "com.alibaba.com.caucho.hessian.io.java8.ZonedDateTimeHandle" {
        /// `Asia/Shanghai`
        zone_id: String,
        date_time: LocalDateTime,
        offset: ZoneOffset,
    }
    /// A `java.time.ZoneId` that is a region.
    ZoneId "com.caucho.hessian.io.java8.ZoneIdHandle" or "com.alibaba.com.caucho.hessian.io.java8.ZoneIdHandle" {
        /// `Europe/Paris`
        zone_id: String,
    }
}

/// `java.time.Instant`
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, HessianEncode, HessianDecode)]
#[hessian(
    class = "com.caucho.hessian.io.java8.InstantHandle",
    lite_class = "com.alibaba.com.caucho.hessian.io.java8.InstantHandle"
)]
pub struct Instant {
    /// Since 1970 in UTC.
    pub seconds: i64,
    pub nanos: i32,
}

/// `java.math.BigInteger`, field by field as Java's object has it; [`From`] and [`value`](BigInteger::value) do it for
/// what fits into an `i128`.
#[derive(Clone, PartialEq, Eq, Debug, Default, HessianEncode, HessianDecode)]
#[hessian(class = "java.math.BigInteger")]
pub struct BigInteger {
    /// -1, 0 or 1.
    pub signum: i32,
    // What Java keeps beside the number, each 0 for "not known yet".
    #[hessian(default)]
    bit_count_plus_one: i32,
    #[hessian(default)]
    bit_length_plus_one: i32,
    #[hessian(default)]
    lowest_set_bit_plus_two: i32,
    #[hessian(default)]
    first_nonzero_int_num_plus_two: i32,
    /// The magnitude in base 2^32, the most significant digit first, as the bits of Java's `int`.
    #[hessian(java_type = "[int")]
    pub mag: Vec<i32>,
}

impl BigInteger {
    /// The number, when it fits.
    pub fn value(&self) -> Option<i128> {
        let mut magnitude: u128 = 0;
        for digit in &self.mag {
            magnitude = magnitude.checked_mul(1 << 32)? + u128::from(*digit as u32);
        }
        match self.signum {
            0 => Some(0),
            1.. => i128::try_from(magnitude).ok(),
            _ => 0_i128.checked_sub_unsigned(magnitude),
        }
    }
}

impl From<i128> for BigInteger {
    fn from(value: i128) -> BigInteger {
        let magnitude = value.unsigned_abs();
        let digits = (0..4).rev().map(|index| (magnitude >> (32 * index)) as u32 as i32);
        BigInteger {
            signum: value.signum() as i32,
            mag: digits.skip_while(|digit| *digit == 0).collect(),
            ..BigInteger::default()
        }
    }
}

/// `java.util.UUID`. `hessian-lite` writes its text, the others two numbers; both are read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Uuid(pub u128);

/// `java.util.concurrent.atomic.AtomicReference`
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, HessianEncode, HessianDecode)]
#[hessian(class = "java.util.concurrent.atomic.AtomicReference")]
pub struct AtomicReference<T> {
    pub value: Option<T>,
}

/// `java.util.concurrent.atomic.AtomicIntegerArray`
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, HessianEncode, HessianDecode)]
#[hessian(class = "java.util.concurrent.atomic.AtomicIntegerArray")]
pub struct AtomicIntegerArray {
    #[hessian(java_type = "[int")]
    pub array: Vec<i32>,
}

/// `java.util.concurrent.atomic.AtomicLongArray`
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, HessianEncode, HessianDecode)]
#[hessian(class = "java.util.concurrent.atomic.AtomicLongArray")]
pub struct AtomicLongArray {
    #[hessian(java_type = "[long")]
    pub array: Vec<i64>,
}

/// `java.util.concurrent.atomic.AtomicReferenceArray`
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, HessianEncode, HessianDecode)]
#[hessian(class = "java.util.concurrent.atomic.AtomicReferenceArray")]
pub struct AtomicReferenceArray<T> {
    #[hessian(java_type = "[object")]
    pub array: Vec<Option<T>>,
}

#[derive(HessianEncode)]
#[hessian(class = "java.util.UUID")]
struct UuidBits {
    most_sig_bits: i64,
    least_sig_bits: i64,
}

#[derive(HessianEncode)]
#[hessian(class = "java.util.UUID")]
struct UuidText {
    value: String,
}

#[derive(HessianDecode)]
#[hessian(class = "java.util.UUID")]
struct AnyUuid {
    value: Option<String>,
    most_sig_bits: Option<i64>,
    least_sig_bits: Option<i64>,
}

impl HessianEncode for Uuid {
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        if writer.is_lite() {
            let hex = format!("{:032x}", self.0);
            let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
            let value = parts.join("-");
            return UuidText { value }.encode(writer);
        }
        UuidBits {
            most_sig_bits: (self.0 >> 64) as i64,
            least_sig_bits: self.0 as i64,
        }
        .encode(writer)
    }
}

impl<'a> HessianDecode<'a> for Uuid {
    fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<Uuid, HessianError> {
        let at = reader.token_at;
        let bad = HessianError::OutOfRange { at, target: "a UUID" };
        match AnyUuid::from_token(token, reader)? {
            AnyUuid {
                most_sig_bits: Some(most),
                least_sig_bits: Some(least),
                ..
            } => Ok(Uuid(u128::from(most as u64) << 64 | u128::from(least as u64))),
            AnyUuid { value: Some(text), .. } => {
                let mut value: u128 = 0;
                let parts: Vec<&str> = text.split('-').collect();
                // As Java reads it: five parts, of which each may be shorter than written.
                if parts.len() != 5 {
                    return Err(bad);
                }
                for (part, bits) in parts.iter().zip([32, 16, 16, 16, 48]) {
                    let part = u64::from_str_radix(part, 16).map_err(|_| bad.clone())?;
                    if part >> bits != 0 {
                        return Err(bad);
                    }
                    value = value << bits | u128::from(part);
                }
                Ok(Uuid(value))
            }
            AnyUuid { .. } => Err(HessianError::MissingField {
                class: "java.util.UUID",
                field: "value",
            }),
        }
    }
}

/// `java.lang.StackTraceElement`
#[derive(Clone, PartialEq, Eq, Debug, Default, HessianEncode, HessianDecode)]
#[hessian(class = "java.lang.StackTraceElement")]
pub struct StackTraceElement {
    #[hessian(default)]
    pub class_loader_name: Option<String>,
    #[hessian(default)]
    pub module_name: Option<String>,
    #[hessian(default)]
    pub module_version: Option<String>,
    pub declaring_class: String,
    pub method_name: String,
    pub file_name: Option<String>,
    /// -1: not known; -2: native code.
    pub line_number: i32,
}

/// An exception or error of any class, with its causes and stack traces.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Throwable {
    /// `java.lang.IllegalStateException`
    pub class: String,
    pub message: Option<String>,
    /// Java writes an exception that has no cause as its own cause; that is `None` here.
    pub cause: Option<Box<Throwable>>,
    /// The innermost call first.
    pub stack_trace: Vec<StackTraceElement>,
    pub suppressed: Vec<Throwable>,
    /// What the class has beyond that.
    pub fields: Vec<(String, crate::Document<'static>)>,
}

const MESSAGE: &str = "detailMessage";
const CAUSE: &str = "cause";
const STACK_TRACE: &str = "stackTrace";
const SUPPRESSED: &str = "suppressedExceptions";

impl HessianEncode for Throwable {
    fn encode(&self, writer: &mut Writer<'_>) -> Result<(), HessianError> {
        let own = self.fields.iter().map(|(name, _)| name.as_str());
        let names: Vec<&str> = [MESSAGE, CAUSE]
            .into_iter()
            .chain(own)
            .chain([STACK_TRACE, SUPPRESSED])
            .collect();
        let class = writer.define_class(&self.class, names.into_iter());
        writer.begin_instance(class);
        self.message.encode(writer)?;
        self.cause.encode(writer)?;
        self.fields
            .iter()
            .try_for_each(|(_, value)| HessianEncode::encode(value, writer))?;
        let trace = &self.stack_trace;
        crate::EncodeTyped::encode_typed(trace, Some("[java.lang.StackTraceElement"), writer)?;
        self.suppressed.encode(writer)
    }
}

impl<'a> HessianDecode<'a> for Throwable {
    fn from_token(token: Token<'a>, reader: &mut Reader<'a, '_>) -> Result<Throwable, HessianError> {
        let head = match token {
            Token::Object(head) => head,
            other => return Err(mismatch("an exception", &other, reader)),
        };
        let mut read = Throwable {
            class: reader.class_name(head.class).into_owned(),
            ..Throwable::default()
        };
        let names: Vec<_> = reader.field_names(head.class).collect();
        for name in names {
            match name.as_ref() {
                MESSAGE => read.message = HessianDecode::decode_next(reader)?,
                CAUSE => {
                    read.cause = match reader.token()? {
                        Token::Ref(reference) if reader.is_open(reference) => None,
                        Token::Ref(reference) => reader.replay(reference, HessianDecode::decode_next)?,
                        token => HessianDecode::from_token(token, reader)?,
                    };
                }
                STACK_TRACE => read.stack_trace = <Option<Vec<_>>>::decode_next(reader)?.unwrap_or_default(),
                SUPPRESSED => read.suppressed = <Option<Vec<_>>>::decode_next(reader)?.unwrap_or_default(),
                _ => {
                    let value = crate::Document::decode_next(reader)?.into_owned();
                    read.fields.push((name.into_owned(), value));
                }
            }
        }
        reader.end_object(&head);
        Ok(read)
    }
}
