//! Numbers and bytes, little-endian. Reading takes any bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use settle_base::{GroupId, GroupTime};
use settle_machine::{LogEntry, ranges::Epoch};

pub(crate) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

pub(crate) fn put_epoch(out: &mut BytesMut, epoch: Epoch) {
    out.put_u64_le(epoch.version);
    out.put_u64_le(epoch.conf_ver);
}

pub(crate) fn put_entry(out: &mut BytesMut, entry: &LogEntry) {
    out.put_u64_le(entry.index);
    out.put_u64_le(entry.term);
    out.put_u8(entry.kind);
    out.put_u64_le(entry.time.0);
    put_bytes(out, &entry.data);
}

pub(crate) struct Reader(pub(crate) Bytes);

impl Reader {
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.0.try_get_u32_le().ok()
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.0.try_get_u64_le().ok()
    }

    pub(crate) fn group(&mut self) -> Option<GroupId> {
        self.u64().map(GroupId)
    }

    pub(crate) fn epoch(&mut self) -> Option<Epoch> {
        let (version, conf_ver) = (self.u64()?, self.u64()?);
        Some(Epoch { version, conf_ver })
    }

    pub(crate) fn bytes(&mut self) -> Option<Bytes> {
        let len = self.u32()? as usize;
        (len <= self.0.len()).then(|| self.0.split_to(len))
    }

    pub(crate) fn entry(&mut self) -> Option<LogEntry> {
        Some(LogEntry {
            index: self.u64()?,
            term: self.u64()?,
            kind: self.u8()?,
            time: GroupTime(self.u64()?),
            data: self.bytes()?,
        })
    }

    /// As many as a count says; nothing is reserved ahead of the bytes.
    pub(crate) fn list<T>(&mut self, mut read: impl FnMut(&mut Reader) -> Option<T>) -> Option<Vec<T>> {
        let count = self.u32()?;
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(read(self)?);
        }
        Some(list)
    }
}
