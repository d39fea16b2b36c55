//! Writing the `seata` serializer's primitives.

use crate::error::WireError;
use bytes::{BufMut, BytesMut};

/// The longest string with an i16 length.
pub(crate) const S16_MAX: usize = i16::MAX as usize;

/// Appends one message to a buffer. Its errors name the message being written.
pub(crate) struct Writer<'a> {
    pub(crate) out: &'a mut BytesMut,
    type_code: i16,
}

impl<'a> Writer<'a> {
    /// `type_code` is for errors only.
    pub(crate) fn new(out: &'a mut BytesMut, type_code: i16) -> Writer<'a> {
        Writer { out, type_code }
    }

    /// Names another message in errors from now on; returns the former one.
    pub(crate) fn enter(&mut self, type_code: i16) -> i16 {
        std::mem::replace(&mut self.type_code, type_code)
    }

    pub(crate) fn s16(&mut self, field: &'static str, text: &str) -> Result<(), WireError> {
        let Ok(length) = i16::try_from(text.len()) else {
            return Err(self.too_long(field, text, S16_MAX));
        };
        self.out.put_i16(length);
        self.out.put_slice(text.as_bytes());
        Ok(())
    }

    pub(crate) fn s32(&mut self, field: &'static str, text: &str) -> Result<(), WireError> {
        let Ok(length) = i32::try_from(text.len()) else {
            return Err(self.too_long(field, text, i32::MAX as usize));
        };
        self.out.put_i32(length);
        self.out.put_slice(text.as_bytes());
        Ok(())
    }

    /// Like `s16`, but cuts the text at a character boundary to what fits. Java cuts at 32767 characters and then
    /// writes the low 16 bits of the byte count, which breaks the frame for longer non-ASCII text.
    pub(crate) fn s16_cut(&mut self, text: &str) {
        let end = text.floor_char_boundary(S16_MAX);
        let length = i16::try_from(end).expect("the boundary is at or below i16::MAX");
        self.out.put_i16(length);
        self.out.put_slice(&text.as_bytes()[..end]);
    }

    fn too_long(&self, field: &'static str, text: &str, max: usize) -> WireError {
        WireError::StringTooLong {
            type_code: self.type_code,
            field,
            bytes: text.len(),
            max,
        }
    }
}
