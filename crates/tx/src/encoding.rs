//! The primitives of this crate's formats: LEB128 numbers and length-prefixed UTF-8.

/// Bytes that are no command batch (or snapshot) of a version that this build knows.
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

pub(crate) fn put_str(out: &mut Vec<u8>, text: &str) {
    put_u64(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn put_option(out: &mut Vec<u8>, n: Option<u64>) {
    out.push(u8::from(n.is_some()));
    if let Some(n) = n {
        put_u64(out, n);
    }
}

pub(crate) fn get_option(reader: &mut Reader<'_>) -> Result<Option<u64>, DecodeError> {
    Ok(if reader.bool()? { Some(reader.u64()?) } else { None })
}

/// A cursor over received bytes. It never allocates: what it returns borrows from them.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    pub fn error(&self, what: &'static str) -> DecodeError {
        DecodeError { at: self.at, what }
    }

    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        let byte = *self.bytes.get(self.at).ok_or(self.error("unexpected end"))?;
        self.at += 1;
        Ok(byte)
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
                return Ok(n);
            }
        }
        Err(self.error("a number past 64 bits"))
    }

    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        let n = self.u64()?;
        u32::try_from(n).map_err(|_| self.error("a number past 32 bits"))
    }

    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(self.error("a length past the end"))?;
        let bytes = &self.bytes[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    pub fn str(&mut self) -> Result<&'a str, DecodeError> {
        let len = self.u64()?;
        let len = usize::try_from(len).map_err(|_| self.error("a length past the end"))?;
        let bytes = self.bytes(len)?;
        std::str::from_utf8(bytes).map_err(|_| self.error("text that is not UTF-8"))
    }

    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.at == self.bytes.len() {
            Ok(())
        } else {
            Err(self.error("bytes after the end"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_at_most_64_bits() {
        for n in [0, 127, 128, u64::MAX] {
            let mut bytes = Vec::new();
            put_u64(&mut bytes, n);
            assert_eq!(Reader::new(&bytes).u64(), Ok(n));
        }
        let past = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert!(Reader::new(&past).u64().is_err());
        assert!(Reader::new(&[0x80; 11]).u64().is_err());
    }
}
