//! The file of a backup: a head, the parts that the group gives (`TxMachine::begin_backup`), an end.
//!
//! Format 1, numbers little endian. Head: the magic, the format (u32), a length (u32), as many bytes of JSON that tell what
//! it is of, their checksum (CRC-32C). A part: its length (u32, not 0), its checksum, its bytes. The end: a length of 0, the
//! number of parts (u64), and the checksum of their checksums.

use std::{
    convert::Infallible,
    io::Read,
    pin::Pin,
    task::{Context, Poll},
};

use anyhow::{Context as _, bail, ensure};
use axum::body::Bytes;
use hyper::body::{Body, Frame};
use serde::{Deserialize, Serialize};
use settle_tx::RESTORE_PART_MAX;
use tokio::sync::SemaphorePermit;

const MAGIC: &[u8; 8] = b"SETTLEBK";
const FORMAT: u32 = 1;
const HEAD_MAX: usize = 64 << 10;

/// What a backup is of. For people, but for the group.
#[derive(Serialize, Deserialize, Clone, Debug)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct BackupHead {
    pub group: u64,
    pub cluster: String,
    pub node: u32,
    /// Of the group's log.
    pub index: u64,
    pub apply_version: u32,
    pub settle: String,
    /// Milliseconds since 1970, by the clock of the server.
    pub taken_at_ms: u64,
    pub open_transactions: u64,
}

/// The file as the body of an answer, made part by part while it is read.
pub(crate) struct BackupBody {
    head: Option<Bytes>,
    parts: Option<Box<dyn Iterator<Item = Bytes> + Send>>,
    count: u64,
    checksums: u32,
    /// One backup at a time: each keeps alive what the group has replaced since.
    _permit: SemaphorePermit<'static>,
}

impl BackupBody {
    pub fn new(
        head: &BackupHead,
        parts: Box<dyn Iterator<Item = Bytes> + Send>,
        permit: SemaphorePermit<'static>,
    ) -> BackupBody {
        let json = serde_json::to_vec(head).expect("the head has only texts for keys");
        let mut bytes = Vec::with_capacity(24 + json.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&(json.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&json);
        bytes.extend_from_slice(&crc32c::crc32c(&json).to_le_bytes());
        BackupBody {
            head: Some(bytes.into()),
            parts: Some(parts),
            count: 0,
            checksums: 0,
            _permit: permit,
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        if let Some(head) = self.head.take() {
            return Some(head);
        }
        let Some(part) = self.parts.as_mut()?.next() else {
            self.parts = None;
            let mut end = vec![0; 4];
            end.extend_from_slice(&self.count.to_le_bytes());
            end.extend_from_slice(&self.checksums.to_le_bytes());
            return Some(end.into());
        };
        let checksum = crc32c::crc32c(&part).to_le_bytes();
        self.checksums = crc32c::crc32c_append(self.checksums, &checksum);
        self.count += 1;
        let mut bytes = Vec::with_capacity(8 + part.len());
        bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&checksum);
        bytes.extend_from_slice(&part);
        Some(bytes.into())
    }
}

impl Body for BackupBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.next().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Reads a file part by part, and is sure of each, and at its end of the whole.
pub(crate) struct BackupReader<R> {
    file: R,
    pub head: BackupHead,
    count: u64,
    checksums: u32,
}

impl<R: Read> BackupReader<R> {
    /// # Errors
    /// When it is no backup, or one of a format that this build does not know.
    pub fn open(mut file: R) -> anyhow::Result<BackupReader<R>> {
        let magic: [u8; 8] = take(&mut file)?;
        ensure!(&magic == MAGIC, "this is no backup of settle");
        let format = u32::from_le_bytes(take(&mut file)?);
        ensure!(
            format == FORMAT,
            "this backup has the format {format}, and this build knows {FORMAT} only"
        );
        let len = u32::from_le_bytes(take(&mut file)?) as usize;
        ensure!(len <= HEAD_MAX, "the backup is damaged: its head has {len} bytes");
        let json = read(&mut file, len)?;
        let checksum = u32::from_le_bytes(take(&mut file)?);
        ensure!(crc32c::crc32c(&json) == checksum, "the backup is damaged: its head");
        Ok(BackupReader {
            file,
            head: serde_json::from_slice(&json).context("the backup's head cannot be read")?,
            count: 0,
            checksums: 0,
        })
    }

    /// # Errors
    /// When the file is damaged or ends too early.
    pub fn next(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let len = u32::from_le_bytes(take(&mut self.file)?) as usize;
        if len == 0 {
            let count = u64::from_le_bytes(take(&mut self.file)?);
            let checksums = u32::from_le_bytes(take(&mut self.file)?);
            ensure!(
                (count, checksums) == (self.count, self.checksums),
                "the backup is damaged: it should have {count} parts, and {} were read",
                self.count
            );
            return match self.file.read(&mut [0]).context("cannot read the backup")? {
                0 => Ok(None),
                _ => bail!("the backup is damaged: there is more behind its end"),
            };
        }
        ensure!(len <= RESTORE_PART_MAX, "the backup is damaged: a part of {len} bytes");
        let checksum: [u8; 4] = take(&mut self.file)?;
        let part = read(&mut self.file, len)?;
        ensure!(
            crc32c::crc32c(&part).to_le_bytes() == checksum,
            "the backup is damaged: part {}",
            self.count
        );
        self.checksums = crc32c::crc32c_append(self.checksums, &checksum);
        self.count += 1;
        Ok(Some(part))
    }
}

fn take<const N: usize>(file: &mut impl Read) -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes).context("the backup ends too early")?;
    Ok(bytes)
}

/// Allocates as the bytes come.
fn read(file: &mut impl Read, len: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(len as u64)
        .read_to_end(&mut bytes)
        .context("cannot read the backup")?;
    ensure!(bytes.len() == len, "the backup ends too early");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    fn file() -> Vec<u8> {
        static ONE: Semaphore = Semaphore::const_new(100);
        let head = BackupHead {
            group: 3,
            cluster: "7".to_owned(),
            node: 1,
            index: 9,
            apply_version: 1,
            settle: "0".to_owned(),
            taken_at_ms: 5,
            open_transactions: 2,
        };
        let parts = ["one", "two and more"].map(|part| Bytes::from(part.as_bytes().to_vec()));
        let permit = ONE.try_acquire().expect("there is one");
        let mut body = BackupBody::new(&head, Box::new(parts.into_iter()), permit);
        std::iter::from_fn(move || body.next()).flatten().collect()
    }

    fn read_all(file: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut reader = BackupReader::open(file)?;
        let mut parts = Vec::new();
        while let Some(part) = reader.next()? {
            parts.push(part);
        }
        Ok(parts)
    }

    #[test]
    fn a_backup_is_read_as_it_was_written_and_no_byte_of_it_may_be_wrong_or_missing() {
        let good = file();
        let parts = read_all(&good).expect("nothing is wrong with it");
        assert_eq!(parts, [b"one".to_vec(), b"two and more".to_vec()]);
        for at in 0..good.len() {
            assert!(read_all(&good[..at]).is_err(), "cut at {at}");
            let mut wrong = good.clone();
            wrong[at] ^= 0x10;
            assert!(read_all(&wrong).is_err(), "wrong at {at}");
        }
        assert!(read_all(&[good, vec![0]].concat()).is_err());
    }
}
