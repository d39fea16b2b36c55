//! What a process has not synced, kept in the process: a kill loses it, as a power cut loses the page cache.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use settle_storage::{Act, DiskError, FileName, Op};

use crate::directory::Directory;

/// Per file, the operations that would be in the page cache.
#[derive(Default)]
pub(crate) struct Unsynced(BTreeMap<FileName, Vec<Op>>);

impl Unsynced {
    /// Does `op` as far as it goes to the disk now. `sync_is_nothing`: a sync writes nothing, and says it did.
    pub(crate) fn execute(&mut self, op: Op, directory: &Directory, sync_is_nothing: bool) -> Result<(), DiskError> {
        match &op {
            Op::Write { file, .. } | Op::Truncate { file, .. } => {
                // An operation of no effect tells whether the file is there and well.
                let (file, offset) = (file.clone(), 0);
                let probe = Op::Write {
                    file: file.clone(),
                    offset,
                    data: Bytes::new(),
                };
                directory
                    .execute(&probe, true)
                    .map_err(|error| DiskError { act: op.act(), ..error })?;
                self.0.entry(file).or_default().push(op);
                Ok(())
            }
            Op::Sync { file } if sync_is_nothing => directory.execute(&Op::Sync { file: file.clone() }, true),
            Op::Sync { file } => {
                self.write_out(file, directory)?;
                directory.execute(&op, false)
            }
            Op::Create { file, .. } | Op::Remove { file } => {
                directory.execute(&op, false)?;
                self.0.remove(file);
                Ok(())
            }
            Op::Rename { from, to } => {
                directory.execute(&op, false)?;
                self.0.remove(to);
                if let Some(mut ops) = self.0.remove(from) {
                    for op in &mut ops {
                        let (Op::Write { file, .. } | Op::Truncate { file, .. }) = op else {
                            continue;
                        };
                        *file = to.clone();
                    }
                    self.0.insert(to.clone(), ops);
                }
                Ok(())
            }
        }
    }

    /// A clean end: everything reaches the files.
    pub(crate) fn write_all_out(&mut self, directory: &Directory) {
        let files: Vec<_> = self.0.keys().cloned().collect();
        for file in files {
            // Nobody is left to hear of an error, and none of this was promised.
            let _ = self.write_out(&file, directory);
        }
    }

    fn write_out(&mut self, file: &FileName, directory: &Directory) -> Result<(), DiskError> {
        for op in self.0.remove(file).unwrap_or_default() {
            // The promise that breaks here is the sync's.
            directory.execute(&op, true).map_err(|error| {
                directory.poison(file);
                let act = Act::Sync;
                DiskError { act, ..error }
            })?;
        }
        Ok(())
    }

    /// The length of `file`, whose stored one is `stored`.
    pub(crate) fn len(&self, file: &FileName, stored: u64) -> u64 {
        let ops = self.0.get(file).into_iter().flatten();
        ops.fold(stored, |len, op| match op {
            Op::Write { offset, data, .. } if !data.is_empty() => len.max(offset + data.len() as u64),
            Op::Truncate { len, .. } => *len,
            _ => len,
        })
    }

    /// `len` bytes from `offset`, of which the stored file of `stored_len` bytes gave `stored`.
    pub(crate) fn overlay(&self, file: &FileName, offset: u64, len: usize, stored: Bytes, stored_len: u64) -> Bytes {
        let Some(ops) = self.0.get(file) else { return stored };
        let end = offset.saturating_add(len as u64).min(self.len(file, stored_len));
        let longest = ops.iter().fold(stored_len, |longest, op| match op {
            Op::Write { offset, data, .. } => longest.max(offset + data.len() as u64),
            _ => longest,
        });
        let window = longest.saturating_sub(offset).min(len as u64) as usize;
        let mut out = BytesMut::zeroed(window);
        let kept = stored.len().min(window);
        out[..kept].copy_from_slice(&stored[..kept]);
        for op in ops {
            match op {
                Op::Write { offset: at, data, .. } => {
                    let from = (*at).max(offset);
                    let to = (at + data.len() as u64).min(offset + window as u64);
                    if from < to {
                        let bytes = &data[(from - at) as usize..(to - at) as usize];
                        out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(bytes);
                    }
                }
                Op::Truncate { len, .. } => {
                    let from = len.saturating_sub(offset).min(window as u64) as usize;
                    out[from..].fill(0);
                }
                _ => unreachable!("only changes of contents are kept"),
            }
        }
        out.truncate(end.saturating_sub(offset) as usize);
        out.freeze()
    }
}
