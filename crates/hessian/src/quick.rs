//! The short way for what most messages are made of: whole numbers, doubles, booleans and text of one chunk.
//!
//! Each of these either reads the next value and counts it, or leaves everything as it was; the long way then finds out
//! what is there and names what is wrong with it.

use crate::{ClassId, Reader, dialect::Code, text::ascii};

impl<'a> Reader<'a, '_> {
    /// The code of the next value, if there is one and it may still be read.
    #[inline]
    fn quick_code(&self) -> Option<(Code, u8)> {
        let byte = *self.bytes.get(self.at)?;
        (self.nodes < self.options.limits.nodes).then(|| (self.codes[usize::from(byte)], byte))
    }

    /// Takes the value of `width` bytes that was looked at.
    #[inline]
    fn quick_take(&mut self, width: usize) {
        self.types_before = self.types_at;
        self.token_at = self.at;
        self.nodes += 1;
        self.at += width;
    }

    #[inline]
    fn quick_bytes<const N: usize>(&self) -> Option<[u8; N]> {
        self.bytes.get(self.at + 1..self.at + 1 + N)?.try_into().ok()
    }

    /// An int of any form.
    #[inline]
    pub(crate) fn quick_int(&mut self) -> Option<i32> {
        let (code, byte) = self.quick_code()?;
        let (value, width) = match code {
            Code::IntDirect => (i32::from(byte) - 0x90, 1),
            Code::IntByte => {
                let [b0] = self.quick_bytes()?;
                ((i32::from(byte) - 0xc8) << 8 | i32::from(b0), 2)
            }
            Code::IntShort => {
                let low = u16::from_be_bytes(self.quick_bytes()?);
                ((i32::from(byte) - 0xd4) << 16 | i32::from(low), 3)
            }
            Code::Int32 => (i32::from_be_bytes(self.quick_bytes()?), 5),
            _ => return None,
        };
        self.quick_take(width);
        Some(value)
    }

    /// A long of any form, not an int.
    #[inline]
    pub(crate) fn quick_long(&mut self) -> Option<i64> {
        let (code, byte) = self.quick_code()?;
        let (value, width) = match code {
            Code::LongDirect => (i64::from(byte) - 0xe0, 1),
            Code::LongByte => {
                let [b0] = self.quick_bytes()?;
                ((i64::from(byte) - 0xf8) << 8 | i64::from(b0), 2)
            }
            Code::LongShort => {
                let low = u16::from_be_bytes(self.quick_bytes()?);
                ((i64::from(byte) - 0x3c) << 16 | i64::from(low), 3)
            }
            Code::Long32 => (i64::from(i32::from_be_bytes(self.quick_bytes()?)), 5),
            Code::Long64 => (i64::from_be_bytes(self.quick_bytes()?), 9),
            _ => return None,
        };
        self.quick_take(width);
        Some(value)
    }

    /// A double of any form.
    #[inline]
    pub(crate) fn quick_double(&mut self) -> Option<f64> {
        let (code, _) = self.quick_code()?;
        let (value, width) = match code {
            Code::DoubleZero => (0.0, 1),
            Code::DoubleOne => (1.0, 1),
            Code::DoubleByte => {
                let [b0] = self.quick_bytes()?;
                (f64::from(b0 as i8), 2)
            }
            Code::DoubleShort => (f64::from(i16::from_be_bytes(self.quick_bytes()?)), 3),
            Code::DoubleMills => (0.001 * f64::from(i32::from_be_bytes(self.quick_bytes()?)), 5),
            Code::DoubleFloat => (f64::from(f32::from_be_bytes(self.quick_bytes()?)), 5),
            Code::Double64 => (f64::from_be_bytes(self.quick_bytes()?), 9),
            _ => return None,
        };
        self.quick_take(width);
        Some(value)
    }

    #[inline]
    pub(crate) fn quick_bool(&mut self) -> Option<bool> {
        let value = match self.quick_code()?.0 {
            Code::True => true,
            Code::False => false,
            _ => return None,
        };
        self.quick_take(1);
        Some(value)
    }

    /// Whether the next value is null, which is then taken.
    #[inline]
    pub(crate) fn quick_null(&mut self) -> bool {
        let is_null = matches!(self.quick_code(), Some((Code::Null, _)));
        if is_null {
            self.quick_take(1);
        }
        is_null
    }

    /// Whether the definition of a class comes next, behind which any value may come.
    #[inline]
    pub(crate) fn is_before_definition(&self) -> bool {
        matches!(self.quick_code(), Some((Code::ClassDef, _)))
    }

    /// The class of an object, where it is one of the first: all of its head but its number among the values.
    #[inline]
    pub(crate) fn quick_object(&mut self) -> Option<ClassId> {
        let (Code::ObjectDirect, byte) = self.quick_code()? else {
            return None;
        };
        let class = u32::from(byte - 0x60);
        if class >= self.classes_at {
            return None;
        }
        self.quick_take(1);
        Some(ClassId(class))
    }

    /// ASCII text of one chunk.
    #[inline]
    pub(crate) fn quick_str(&mut self) -> Option<&'a str> {
        let (code, byte) = self.quick_code()?;
        let (units, head) = match code {
            Code::StringDirect => (usize::from(byte), 1),
            Code::StringShort => {
                let [b0] = self.quick_bytes()?;
                (usize::from(byte - 0x30) << 8 | usize::from(b0), 2)
            }
            Code::StringFinal => (usize::from(u16::from_be_bytes(self.quick_bytes()?)), 3),
            _ => return None,
        };
        let from = self.at + head;
        let bytes: &'a [u8] = self.bytes;
        let text = bytes.get(from..from + units)?;
        if units > self.options.limits.string_units {
            return None;
        }
        let text = ascii(text)?;
        self.quick_take(head + units);
        Some(text)
    }

    /// Where the name at `at` ends when it is `expected`, in the form that every writer gives a short name.
    #[inline]
    pub(crate) fn quick_name(&self, at: usize, expected: &str) -> Option<usize> {
        let end = at + 1 + expected.len();
        let name = self.bytes.get(at..end)?;
        let is_equal = usize::from(name[0]) == expected.len()
            && self.codes[usize::from(name[0])] == Code::StringDirect
            && name[1..] == *expected.as_bytes()
            && expected.is_ascii();
        is_equal.then_some(end)
    }
}
