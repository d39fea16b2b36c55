//! The primitives of this crate's formats: LEB128 numbers and length-prefixed bytes.

use bytes::{Buf, Bytes};

/// Bytes that are none of a version that this build knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct DecodeError {
    /// Offset from the start of what was decoded.
    pub at: usize,
    pub what: &'static str,
}

pub(crate) fn put_u64(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Zigzag, so that small negative numbers are short too.
pub(crate) fn put_i64(out: &mut Vec<u8>, n: i64) {
    put_u64(out, ((n << 1) ^ (n >> 63)) as u64);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

pub(crate) fn put_list<T>(out: &mut Vec<u8>, list: &[T], mut put: impl FnMut(&mut Vec<u8>, &T)) {
    put_u64(out, list.len() as u64);
    list.iter().for_each(|item| put(out, item));
}

/// A cursor over received bytes. What it returns shares them; nothing is reserved ahead of them.
pub(crate) struct Reader {
    bytes: Bytes,
    len: usize,
}

impl Reader {
    pub fn new(bytes: Bytes) -> Reader {
        let len = bytes.len();
        Reader { bytes, len }
    }

    pub fn error(&self, what: &'static str) -> DecodeError {
        let at = self.len - self.bytes.len();
        DecodeError { at, what }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.bytes.try_get_u8().map_err(|_| self.error("unexpected end"))
    }

    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.error("neither true nor false")),
        }
    }

    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(self.error("a number past 64 bits"));
            }
            n |= part << shift;
            if byte & 0x80 == 0 {
                return match byte {
                    0 if shift > 0 => Err(self.error("a number with a superfluous byte")),
                    _ => Ok(n),
                };
            }
        }
        Err(self.error("a number past 64 bits"))
    }

    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        let n = self.u64()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        let n = self.u64()?;
        u32::try_from(n).map_err(|_| self.error("a number past 32 bits"))
    }

    pub fn bytes(&mut self, len_max: usize) -> Result<Bytes, DecodeError> {
        let len = usize::try_from(self.u64()?).unwrap_or(usize::MAX);
        if len > len_max {
            return Err(self.error("longer than it may be"));
        }
        if len > self.bytes.len() {
            return Err(self.error("a length past the end"));
        }
        Ok(self.bytes.split_to(len))
    }

    pub fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Reader) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        Ok(if self.bool()? { Some(read(self)?) } else { None })
    }

    pub fn list<T>(
        &mut self,
        len_max: usize,
        mut read: impl FnMut(&mut Reader) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let len = self.u64()?;
        if len > len_max as u64 {
            return Err(self.error("more than there may be"));
        }
        let mut list = Vec::new();
        for _ in 0..len {
            list.push(read(self)?);
        }
        Ok(list)
    }

    pub fn rest(&mut self) -> Bytes {
        self.bytes.split_to(self.bytes.len())
    }

    pub fn finish(&self) -> Result<(), DecodeError> {
        match self.bytes.is_empty() {
            true => Ok(()),
            false => Err(self.error("bytes after the end")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_at_most_64_bits_and_one_form() {
        for n in [0, 127, 128, 16_383, 16_384, u64::MAX] {
            let mut bytes = Vec::new();
            put_u64(&mut bytes, n);
            assert_eq!(Reader::new(bytes.into()).u64(), Ok(n));
        }
        for n in [0, -1, 1, i64::MIN, i64::MAX] {
            let mut bytes = Vec::new();
            put_i64(&mut bytes, n);
            assert_eq!(Reader::new(bytes.into()).i64(), Ok(n));
        }
        let past = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert!(Reader::new(Bytes::copy_from_slice(&past)).u64().is_err());
        assert!(Reader::new(Bytes::from_static(&[0x80; 11])).u64().is_err());
        assert!(Reader::new(Bytes::from_static(&[0x80, 0])).u64().is_err());
    }
}
