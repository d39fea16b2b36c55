//! What a column holds and what a statement's `?` stand for.

/// One value as it goes to the database and comes from it.
///
/// Decimals, dates and times are text: MySQL reads it exactly, and this crate has no need to calculate with them.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Null,
    Int(i64),
    UInt(u64),
    Double(f64),
    /// Text, a decimal as `-12.30`, a date as `2024-02-29`, a date and time as `2024-02-29 12:34:56.789`, a time as
    /// `12:34:56`.
    Text(String),
    Bytes(Vec<u8>),
}

/// An identifier, quoted.
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

impl Value {
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }
}

macro_rules! from {
    ($($type:ty => $variant:ident as $wide:ty),* $(,)?) => {
        $(impl From<$type> for Value {
            fn from(value: $type) -> Value {
                Value::$variant(<$wide>::from(value))
            }
        })*
    };
}

from! {
    i8 => Int as i64, i16 => Int as i64, i32 => Int as i64, i64 => Int as i64,
    u8 => UInt as u64, u16 => UInt as u64, u32 => UInt as u64, u64 => UInt as u64,
    bool => Int as i64, f64 => Double as f64, &str => Text as String, String => Text as String,
    Vec<u8> => Bytes as Vec<u8>, &[u8] => Bytes as Vec<u8>,
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

/// The values for a statement's `?`, in their order: `params![100, "a", None::<i64>]`.
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        [$($crate::Value::from($value)),*]
    };
}
