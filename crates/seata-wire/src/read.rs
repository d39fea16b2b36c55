//! Reading the `seata` serializer's primitives, every length checked against the bytes that are really there.

use crate::error::WireError;

/// A cursor over one message body. Its errors name the message being read.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    type_code: i16,
}

impl<'a> Reader<'a> {
    /// `type_code` is for errors only.
    pub(crate) fn new(bytes: &'a [u8], type_code: i16) -> Reader<'a> {
        Reader { bytes, type_code }
    }

    pub(crate) fn type_code(&self) -> i16 {
        self.type_code
    }

    /// Names another message in errors from now on; returns the former one.
    pub(crate) fn enter(&mut self, type_code: i16) -> i16 {
        std::mem::replace(&mut self.type_code, type_code)
    }

    pub(crate) fn left(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn take(&mut self, field: &'static str, needed: usize) -> Result<&'a [u8], WireError> {
        match self.bytes.split_at_checked(needed) {
            Some((taken, rest)) => {
                self.bytes = rest;
                Ok(taken)
            }
            None => Err(WireError::Truncated {
                type_code: self.type_code,
                field,
                needed,
                left: self.bytes.len(),
            }),
        }
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], WireError> {
        let bytes = self.take(field, N)?;
        Ok(bytes
            .try_into()
            .expect("take returns exactly as many bytes as asked for"))
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, WireError> {
        Ok(self.array::<1>(field)?[0])
    }

    pub(crate) fn i16(&mut self, field: &'static str) -> Result<i16, WireError> {
        self.array(field).map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self, field: &'static str) -> Result<i32, WireError> {
        self.array(field).map(i32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self, field: &'static str) -> Result<i64, WireError> {
        self.array(field).map(i64::from_be_bytes)
    }

    /// An i16 length and as many bytes of UTF-8; null and empty are both length 0.
    pub(crate) fn s16(&mut self, field: &'static str) -> Result<String, WireError> {
        let length = i32::from(self.i16(field)?);
        self.string(field, length)
    }

    /// An i32 length and as many bytes of UTF-8; null and empty are both length 0.
    pub(crate) fn s32(&mut self, field: &'static str) -> Result<String, WireError> {
        let length = self.i32(field)?;
        self.string(field, length)
    }

    fn string(&mut self, field: &'static str, length: i32) -> Result<String, WireError> {
        let type_code = self.type_code;
        let length = usize::try_from(length).map_err(|_| WireError::NegativeLength {
            type_code,
            field,
            length,
        })?;
        let bytes = self.take(field, length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| WireError::InvalidUtf8 { type_code, field })?;
        Ok(text.to_owned())
    }

    /// Every byte must have been read.
    pub(crate) fn finish(&self) -> Result<(), WireError> {
        match self.bytes.len() {
            0 => Ok(()),
            count => Err(WireError::TrailingBytes {
                type_code: self.type_code,
                count,
            }),
        }
    }
}
