//! The protobuf encoding, as far as Seata's messages use it: numbers, texts, and messages within messages.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding>.

use bytes::{BufMut, BytesMut};

use crate::error::WireError;

/// The highest field number in use.
const FIELDS: usize = 8;

const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const BYTES: u64 = 2;
const FIXED_32: u64 = 5;

/// The last value of each field of a message, as a reader has to take it; unknown fields are passed over.
pub(crate) struct Fields<'a> {
    values: [Option<Value<'a>>; FIELDS],
}

#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Result<Fields<'a>, WireError> {
        let mut values = [None; FIELDS];
        for field in (Cursor { bytes }) {
            let (number, value) = field?;
            if let Some(slot) = usize::try_from(number).ok().and_then(|number| values.get_mut(number)) {
                *slot = Some(value);
            }
        }
        Ok(Fields { values })
    }

    /// 0 when it is absent, like all values here.
    pub(crate) fn number(&self, field: usize) -> Result<u64, WireError> {
        match self.values[field] {
            None => Ok(0),
            Some(Value::Number(number)) => Ok(number),
            Some(Value::Bytes(_)) => Err(broken("a number is written as bytes")),
        }
    }

    pub(crate) fn i64(&self, field: usize) -> Result<i64, WireError> {
        Ok(self.number(field)?.cast_signed())
    }

    /// Of a longer number the lower bits, as protobuf has it.
    pub(crate) fn i32(&self, field: usize) -> Result<i32, WireError> {
        Ok(self.number(field)? as i32)
    }

    /// A value of an enumeration of less than 256.
    pub(crate) fn value(&self, field: usize) -> Result<u8, WireError> {
        u8::try_from(self.number(field)?).map_err(|_| broken("a value of an enumeration is above 255"))
    }

    pub(crate) fn bytes(&self, field: usize) -> Result<&'a [u8], WireError> {
        self.values[field].map_or(Ok(&[]), Value::bytes)
    }

    pub(crate) fn text(&self, field: usize) -> Result<String, WireError> {
        let text = str::from_utf8(self.bytes(field)?).map_err(|_| broken("a text is not UTF-8"))?;
        Ok(text.to_owned())
    }

    pub(crate) fn nested(&self, field: usize) -> Result<Fields<'a>, WireError> {
        Fields::of(self.bytes(field)?)
    }
}

impl<'a> Value<'a> {
    pub(crate) fn bytes(self) -> Result<&'a [u8], WireError> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Number(_) => Err(broken("bytes are written as a number")),
        }
    }

    /// The numbers of a repeated field, one or packed.
    pub(crate) fn numbers(self, take: &mut impl FnMut(u64)) -> Result<(), WireError> {
        match self {
            Value::Number(number) => take(number),
            Value::Bytes(mut packed) => {
                while !packed.is_empty() {
                    take(varint(&mut packed)?);
                }
            }
        }
        Ok(())
    }
}

/// All values of a repeated field.
pub(crate) fn each<'a>(bytes: &'a [u8], field: u64) -> impl Iterator<Item = Result<Value<'a>, WireError>> {
    (Cursor { bytes }).filter_map(move |found| match found {
        Ok((number, value)) => (number == field).then_some(Ok(value)),
        Err(error) => Some(Err(error)),
    })
}

struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// `None` for a value of a kind that no message of Seata has.
    fn field(&mut self) -> Result<(u64, Option<Value<'a>>), WireError> {
        let key = varint(&mut self.bytes)?;
        let value = match key & 7 {
            VARINT => Some(Value::Number(varint(&mut self.bytes)?)),
            BYTES => {
                let length = varint(&mut self.bytes)?;
                Some(Value::Bytes(self.take(length)?))
            }
            FIXED_64 => self.take(8).map(|_| None)?,
            FIXED_32 => self.take(4).map(|_| None)?,
            _ => return Err(broken("a field of an unknown kind")),
        };
        match key >> 3 {
            0 => Err(broken("a field has the number 0")),
            number => Ok((number, value)),
        }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], WireError> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (taken, rest) = self
            .bytes
            .split_at_checked(length)
            .ok_or(broken("it ends within a field"))?;
        self.bytes = rest;
        Ok(taken)
    }
}

/// Ends after the first error.
impl<'a> Iterator for Cursor<'a> {
    type Item = Result<(u64, Value<'a>), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.bytes.is_empty() {
            match self.field() {
                Ok((number, Some(value))) => return Some(Ok((number, value))),
                Ok((_, None)) => {}
                Err(error) => {
                    self.bytes = &[];
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(broken("it ends within a number"))?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(broken("a number is longer than ten bytes"))
}

fn broken(problem: &'static str) -> WireError {
    WireError::Protobuf { problem }
}

pub(crate) fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Nothing for 0, which is what is read when it is absent.
pub(crate) fn put_number(out: &mut BytesMut, field: u64, value: u64) {
    if value != 0 {
        put_varint(out, field << 3 | VARINT);
        put_varint(out, value);
    }
}

/// Nothing for an empty text.
pub(crate) fn put_text(out: &mut BytesMut, field: u64, text: &str) {
    if !text.is_empty() {
        put_varint(out, field << 3 | BYTES);
        put_varint(out, text.len() as u64);
        out.put_slice(text.as_bytes());
    }
}

/// What `put` appends, as a message in a field. It stands there even when it is empty.
pub(crate) fn put_nested(out: &mut BytesMut, field: u64, put: impl FnOnce(&mut BytesMut)) {
    put_varint(out, field << 3 | BYTES);
    // Most are shorter than 128 bytes, so one byte is left for the length.
    let length_at = out.len();
    out.put_u8(0);
    put(out);
    let length = out.len() - length_at - 1;
    let mut written = BytesMut::with_capacity(10);
    put_varint(&mut written, length as u64);
    let more = written.len() - 1;
    if more > 0 {
        out.put_bytes(0, more);
        out.copy_within(length_at + 1..length_at + 1 + length, length_at + 1 + more);
    }
    out[length_at..length_at + written.len()].copy_from_slice(&written);
}
