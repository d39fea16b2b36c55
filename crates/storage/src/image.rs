use bytes::Bytes;

/// A file's contents at one moment. Bytes past the written ones read as zeros, so a reserved file costs no memory.
#[derive(Clone, Default, Debug)]
pub(crate) struct Image {
    bytes: Vec<u8>,
    len: u64,
}

/// One change to an [`Image`].
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write { offset: u64, data: Bytes },
    Truncate { len: u64 },
}

impl Image {
    pub(crate) fn reserved(len: u64) -> Image {
        Image { bytes: Vec::new(), len }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, data } => self.write(*offset, data),
            Change::Truncate { len } => self.set_len(*len),
        }
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let start = offset as usize;
        let end = start + data.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(data);
        self.len = self.len.max(end as u64);
    }

    pub(crate) fn set_len(&mut self, len: u64) {
        self.bytes.truncate(len.min(self.bytes.len() as u64) as usize);
        self.len = len;
    }

    /// Makes the file at least `len` long; what is new reads as zeros.
    pub(crate) fn grow(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    pub(crate) fn read(&self, offset: u64, len: usize) -> Bytes {
        let start = offset.min(self.len);
        let end = start.saturating_add(len as u64).min(self.len);
        let mut out = vec![0u8; (end - start) as usize];
        let written = self.bytes.len() as u64;
        if start < written {
            let stored = &self.bytes[start as usize..end.min(written) as usize];
            out[..stored.len()].copy_from_slice(stored);
        }
        out.into()
    }

    pub(crate) fn flip_bit(&mut self, offset: u64, bit: u8) {
        let mut byte = self.read(offset, 1).to_vec();
        if let Some(b) = byte.first_mut() {
            *b ^= 1 << (bit & 7);
            self.write(offset, &byte);
        }
    }
}
