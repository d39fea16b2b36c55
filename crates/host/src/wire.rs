//! Little-endian reading and writing of the host's own formats. Reading never panics and never allocates ahead of the
//! bytes that are there.

use bytes::{Buf, BufMut, Bytes};

/// Bytes that are not what their place says: a broken file, or a peer's lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what} is malformed")]
pub struct Malformed {
    pub what: &'static str,
}

pub(crate) type Decoded<T> = Result<T, Malformed>;

/// Consumes a buffer field by field; byte strings are slices of it.
pub(crate) struct Reader {
    bytes: Bytes,
    what: &'static str,
}

impl Reader {
    pub(crate) fn new(bytes: Bytes, what: &'static str) -> Reader {
        Reader { bytes, what }
    }

    pub(crate) fn malformed<T>(&self) -> Decoded<T> {
        Err(Malformed { what: self.what })
    }

    fn need(&self, len: usize) -> Decoded<()> {
        if self.bytes.remaining() < len {
            return self.malformed();
        }
        Ok(())
    }

    pub(crate) fn u8(&mut self) -> Decoded<u8> {
        self.need(1)?;
        Ok(self.bytes.get_u8())
    }

    pub(crate) fn bool(&mut self) -> Decoded<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => self.malformed(),
        }
    }

    pub(crate) fn u16(&mut self) -> Decoded<u16> {
        self.need(2)?;
        Ok(self.bytes.get_u16_le())
    }

    pub(crate) fn u32(&mut self) -> Decoded<u32> {
        self.need(4)?;
        Ok(self.bytes.get_u32_le())
    }

    pub(crate) fn u64(&mut self) -> Decoded<u64> {
        self.need(8)?;
        Ok(self.bytes.get_u64_le())
    }

    pub(crate) fn u128(&mut self) -> Decoded<u128> {
        self.need(16)?;
        Ok(self.bytes.get_u128_le())
    }

    /// A u32 length and that many bytes.
    pub(crate) fn bytes(&mut self) -> Decoded<Bytes> {
        let len = self.u32()? as usize;
        self.need(len)?;
        Ok(self.bytes.split_to(len))
    }

    /// As many bytes as said elsewhere.
    pub(crate) fn slice(&mut self, len: u64) -> Decoded<Bytes> {
        match usize::try_from(len) {
            Ok(len) if len <= self.bytes.remaining() => Ok(self.bytes.split_to(len)),
            _ => self.malformed(),
        }
    }

    /// Seven bits a byte, the lowest first, in as few bytes as possible.
    pub(crate) fn varint(&mut self) -> Decoded<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            let (fits, is_shortest) = (bits << shift >> shift == bits, byte != 0 || shift == 0);
            if !fits || !is_shortest {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        self.malformed()
    }

    pub(crate) fn string(&mut self, len_max: usize) -> Decoded<String> {
        let len = self.u16()? as usize;
        if len > len_max {
            return self.malformed();
        }
        self.need(len)?;
        let bytes = self.bytes.split_to(len);
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => self.malformed(),
        }
    }

    /// A u32 count of items that take at least `item_bytes_min` each: a count that the rest cannot hold is refused
    /// before anything is allocated for it.
    pub(crate) fn count(&mut self, item_bytes_min: usize) -> Decoded<usize> {
        let count = self.u32()? as usize;
        match count.checked_mul(item_bytes_min) {
            Some(least) if least <= self.bytes.remaining() => Ok(count),
            _ => self.malformed(),
        }
    }

    /// # Errors
    /// When something is left over.
    pub(crate) fn finish(self) -> Decoded<()> {
        if self.bytes.has_remaining() {
            return self.malformed();
        }
        Ok(())
    }
}

pub(crate) fn put_bytes(out: &mut impl BufMut, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).expect("no field of ours reaches 4 GiB"));
    out.put_slice(bytes);
}

pub(crate) fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

pub(crate) fn put_string(out: &mut impl BufMut, text: &str) {
    out.put_u16_le(u16::try_from(text.len()).expect("names are cut to their limit before they are kept"));
    out.put_slice(text.as_bytes());
}

pub(crate) fn put_count(out: &mut impl BufMut, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("no list of ours has 2^32 items"));
}
