use bytes::{Bytes, BytesMut};
use settle_storage::{DiskError, DiskRead, FileName};

/// Bytes asked of the disk at once: the most that is read, or allocated, ahead of bytes known to be there.
const CHUNK: usize = 256 << 10;

/// Reads one file in bounded chunks, mostly forward.
pub(crate) struct SegmentReader<'a, D> {
    disk: &'a mut D,
    file: FileName,
    len: u64,
    chunk: Bytes,
    chunk_at: u64,
}

impl<'a, D: DiskRead> SegmentReader<'a, D> {
    pub(crate) fn new(disk: &'a mut D, file: FileName, len: u64) -> SegmentReader<'a, D> {
        SegmentReader {
            disk,
            file,
            len,
            chunk: Bytes::new(),
            chunk_at: 0,
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Exactly `len` bytes at `offset`; `None` when the file ends before.
    pub(crate) fn bytes(&mut self, offset: u64, len: usize) -> Result<Option<Bytes>, DiskError> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.len) {
            return Ok(None);
        }
        let first = self.some(offset, len)?;
        if first.len() == len {
            return Ok(Some(first));
        }
        let mut whole = BytesMut::from(&first[..]);
        while whole.len() < len {
            let part = self.some(offset + whole.len() as u64, len - whole.len())?;
            if part.is_empty() {
                return Ok(None);
            }
            whole.extend_from_slice(&part);
        }
        Ok(Some(whole.freeze()))
    }

    /// One to `max` bytes at `offset`; none only at the end of the file.
    pub(crate) fn some(&mut self, offset: u64, max: usize) -> Result<Bytes, DiskError> {
        let held = offset.checked_sub(self.chunk_at).unwrap_or(u64::MAX);
        if held >= self.chunk.len() as u64 {
            self.chunk = self.disk.read(&self.file, offset, CHUNK)?;
            self.chunk_at = offset;
        }
        let start = (offset - self.chunk_at) as usize;
        let end = self.chunk.len().min(start.saturating_add(max));
        Ok(self.chunk.slice(start.min(end)..end))
    }
}
