//! Reading over blocks that the device cannot read any more: they are damage like any other, found by checksums.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use settle_storage::{DiskError, DiskErrorKind, DiskRead, FileName, Op};

/// Read on its own when more cannot be read: what systems read at least.
const BLOCK: u64 = 4096;
/// With more of them the device is dying: each may take it seconds, and a mended log would not be read for long.
const BLOCKS_MAX: usize = 64;
/// In the place of what cannot be read. Neither zeros, which would be a log's end, nor the beginning of anything.
const FILLER: u8 = 0xff;

/// A disk that reads [`FILLER`] where the device reads nothing.
pub(crate) struct BadBlocks<'a, D> {
    disk: &'a mut D,
    /// Offsets of the blocks that could not be read.
    found: BTreeMap<FileName, BTreeSet<u64>>,
}

impl<'a, D: DiskRead> BadBlocks<'a, D> {
    pub(crate) fn new(disk: &'a mut D) -> BadBlocks<'a, D> {
        let found = BTreeMap::new();
        BadBlocks { disk, found }
    }

    /// Files that have such blocks. To write into one of them would be to read it.
    pub(crate) fn files(&self) -> BTreeSet<FileName> {
        self.found.keys().cloned().collect()
    }

    fn is_known(&self, file: &FileName, offset: u64, end: u64) -> bool {
        let blocks = self.found.get(file);
        blocks.is_some_and(|blocks| blocks.range(offset / BLOCK * BLOCK..end).next().is_some())
    }

    /// Block by block.
    fn read_around(&mut self, file: &FileName, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        let file_len = self.disk.list()?.into_iter().find(|(name, _)| name == file);
        let end = file_len
            .map_or(0, |(_, len)| len)
            .min(offset.saturating_add(len as u64));
        let (mut out, mut at) = (BytesMut::new(), offset);
        while at < end {
            let block = at / BLOCK * BLOCK;
            let part = (block + BLOCK).min(end) - at;
            let bytes = match self.is_known(file, at, at + 1) {
                true => None,
                false => self.read_block(file, at, part as usize)?,
            };
            match bytes {
                Some(bytes) => out.extend_from_slice(&bytes),
                None => out.resize(out.len() + part as usize, FILLER),
            }
            at += part;
        }
        Ok(out.freeze())
    }

    /// `None` when the device cannot read it.
    fn read_block(&mut self, file: &FileName, offset: u64, len: usize) -> Result<Option<Bytes>, DiskError> {
        let error = match self.disk.read(file, offset, len) {
            Err(error) if error.kind == DiskErrorKind::Unreadable => error,
            done => return done.map(Some),
        };
        if self.found.values().map(BTreeSet::len).sum::<usize>() >= BLOCKS_MAX {
            return Err(error);
        }
        let block = offset / BLOCK * BLOCK;
        self.found.entry(file.clone()).or_default().insert(block);
        Ok(None)
    }
}

impl<D: DiskRead> DiskRead for BadBlocks<'_, D> {
    fn list(&mut self) -> Result<Vec<(FileName, u64)>, DiskError> {
        self.disk.list()
    }

    fn read(&mut self, file: &FileName, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        if !self.is_known(file, offset, offset.saturating_add(len as u64)) {
            match self.disk.read(file, offset, len) {
                Err(error) if error.kind == DiskErrorKind::Unreadable => {}
                done => return done,
            }
        }
        self.read_around(file, offset, len)
    }

    fn run(&mut self, op: Op) -> Result<(), DiskError> {
        // A new file is in new blocks.
        if let Op::Create { file, .. } | Op::Rename { to: file, .. } = &op {
            self.found.remove(file);
        }
        self.disk.run(op)
    }
}
