//! Snapshot files: a header frame, data frames, a footer frame, each with its own checksum, and in the footer one over
//! all data. Written under a temporary name and renamed once synced, so a file under its final name is whole.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use settle_base::{GroupId, Index};
use settle_raft::SnapshotMeta;
use settle_storage::{Disk, DiskError, DiskRead, FileName, Op, Token};
use settle_wal::Lsn;

use crate::{
    SnapshotFileError, raft_codec,
    wire::{Malformed, Reader},
};

const MAGIC: u64 = u64::from_le_bytes(*b"settlesn");
const FORMAT_VERSION: u16 = 2;
const HEADER: u8 = 1;
const DATA: u8 = 2;
const FOOTER: u8 = 3;
/// Kind, length, CRC32C of both and the payload.
const FRAME_BYTES: usize = 9;
/// Larger frames are never written.
const FRAME_PAYLOAD_MAX: usize = 16 << 20;
/// Every token of the host's own has this top byte.
pub(crate) const TOKEN_TAG: u64 = 0x48 << 56;

pub(crate) fn file_name(group: GroupId, index: Index, suffix: &str) -> FileName {
    FileName::new(&format!("snap-{:x}-{index:x}{suffix}", group.0)).expect("three 64-bit numbers fit a name")
}

/// What a group begins with that is created while the node runs. Also an empty one has it, at index 0: that it was here is
/// then not in the log alone. It has this name from when the log has the group durably, and before the group speaks.
pub(crate) fn birth_file(group: GroupId, index: Index) -> FileName {
    file_name(group, index, "-born")
}

/// Its name until then, from when it is whole. It says nothing of the group.
pub(crate) fn unborn_file(group: GroupId) -> FileName {
    FileName::new(&format!("snap-{:x}{UNBORN}", group.0)).expect("a number and a word fit a name")
}

const UNBORN: &str = "-unborn";

/// What the names of files begin with that are written in bulk and that nobody waits for: a disk with several lanes keeps
/// them apart from the log.
pub const BULK_PREFIXES: &[&str] = &["snap-", settle_wal::SPARE_PREFIX];

pub(crate) fn is_snapshot_file(file: &FileName) -> bool {
    file.as_str().starts_with("snap-")
}

/// Of which group a file is that says that the log had it.
pub(crate) fn group_of(file: &FileName) -> Option<GroupId> {
    let name = file.as_str();
    let (group, _) = name.strip_prefix("snap-")?.split_once('-')?;
    let group = u64::from_str_radix(group, 16).ok()?;
    (!name.ends_with(".tmp") && !name.ends_with(UNBORN)).then_some(GroupId(group))
}

/// Hands out the host's disk tokens.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    next: u64,
}

impl Tokens {
    pub(crate) fn next(&mut self) -> Token {
        self.next += 1;
        Token(TOKEN_TAG | self.next)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Writing,
    /// The footer is written or on its way.
    Finishing,
    Syncing,
    Renaming,
    Done,
}

/// Writes one snapshot file without ever waiting: the next step follows from each completion.
#[derive(Debug)]
pub(crate) struct Writer {
    temporary: FileName,
    target: FileName,
    offset: u64,
    bytes: u64,
    crc: u32,
    phase: Phase,
    /// Tokens in flight, in submission order.
    in_flight: std::collections::VecDeque<Token>,
    data_written: u64,
    data_in_flight: std::collections::VecDeque<Token>,
}

/// What a completion brought about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    NotMine,
    Progress,
    /// The file is durable under its name.
    Done,
}

impl Writer {
    /// `obsolete`: files that are to be removed. The file of this one's name is not one of them any more: it will be replaced,
    /// and a removal that is still due would take what replaced it.
    pub(crate) fn create(
        disk: &mut impl Disk,
        tokens: &mut Tokens,
        obsolete: &mut VecDeque<(Lsn, FileName)>,
        group: GroupId,
        meta: &SnapshotMeta,
        temporary: &str,
        target: FileName,
    ) -> Writer {
        obsolete.retain(|(_, file)| *file != target);
        let mut writer = Writer {
            temporary: FileName::new(temporary).expect("a valid name"),
            target,
            offset: 0,
            bytes: 0,
            crc: 0,
            phase: Phase::Writing,
            in_flight: Default::default(),
            data_written: 0,
            data_in_flight: Default::default(),
        };
        let file = writer.temporary.clone();
        writer.submit(disk, tokens, Op::Create { file, reserve: 0 });
        let mut header = Vec::with_capacity(128);
        header.put_u64_le(MAGIC);
        header.put_u16_le(FORMAT_VERSION);
        header.put_u64_le(group.0);
        raft_codec::put_meta(&mut header, meta);
        writer.frame(disk, tokens, HEADER, &header);
        writer
    }

    pub(crate) fn target(&self) -> &FileName {
        &self.target
    }

    /// Bytes of data given so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// CRC32C of that data.
    pub(crate) fn crc(&self) -> u32 {
        self.crc
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Data frames whose write has completed.
    pub(crate) fn data_written(&self) -> u64 {
        self.data_written
    }

    pub(crate) fn write(&mut self, disk: &mut impl Disk, tokens: &mut Tokens, data: &Bytes) {
        assert_eq!(self.phase, Phase::Writing, "nothing follows the footer");
        self.bytes += data.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, data);
        let token = self.frame(disk, tokens, DATA, data);
        self.data_in_flight.push_back(token);
    }

    pub(crate) fn finish(&mut self, disk: &mut impl Disk, tokens: &mut Tokens) {
        assert_eq!(self.phase, Phase::Writing, "finished once");
        self.frame(disk, tokens, FOOTER, &footer(self.bytes, self.crc));
        self.phase = Phase::Finishing;
    }

    fn frame(&mut self, disk: &mut impl Disk, tokens: &mut Tokens, kind: u8, payload: &[u8]) -> Token {
        assert!(
            payload.len() <= FRAME_PAYLOAD_MAX,
            "chunks are cut before they are written"
        );
        let mut out = BytesMut::with_capacity(FRAME_BYTES + payload.len());
        out.put_u8(kind);
        out.put_u32_le(payload.len() as u32);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out), payload);
        out.put_u32_le(crc);
        out.put_slice(payload);
        let offset = self.offset;
        self.offset += out.len() as u64;
        let file = self.temporary.clone();
        let data = out.freeze();
        self.submit(disk, tokens, Op::Write { file, offset, data })
    }

    fn submit(&mut self, disk: &mut impl Disk, tokens: &mut Tokens, op: Op) -> Token {
        let token = tokens.next();
        self.in_flight.push_back(token);
        disk.submit(token, op);
        token
    }

    /// # Errors
    /// When the disk failed; the caller then gives the file up with [`Writer::discard`].
    pub(crate) fn complete(
        &mut self,
        disk: &mut impl Disk,
        tokens: &mut Tokens,
        token: Token,
        result: &Result<(), DiskError>,
    ) -> Result<Written, DiskError> {
        let Some(at) = self.in_flight.iter().position(|t| *t == token) else {
            return Ok(Written::NotMine);
        };
        self.in_flight.remove(at);
        result.clone()?;
        if self.data_in_flight.front() == Some(&token) {
            self.data_in_flight.pop_front();
            self.data_written += 1;
        }
        if !self.in_flight.is_empty() {
            return Ok(Written::Progress);
        }
        match self.phase {
            Phase::Writing => {}
            Phase::Finishing => {
                let file = self.temporary.clone();
                self.submit(disk, tokens, Op::Sync { file });
                self.phase = Phase::Syncing;
            }
            Phase::Syncing => {
                let (from, to) = (self.temporary.clone(), self.target.clone());
                self.submit(disk, tokens, Op::Rename { from, to });
                self.phase = Phase::Renaming;
            }
            Phase::Renaming => {
                self.phase = Phase::Done;
                return Ok(Written::Done);
            }
            Phase::Done => unreachable!("nothing is in flight any more"),
        }
        Ok(Written::Progress)
    }

    /// Gives the file up; what is on its way is ignored when it completes.
    pub(crate) fn discard(self, disk: &mut impl Disk, tokens: &mut Tokens) {
        let file = if self.phase == Phase::Done {
            self.target
        } else {
            self.temporary
        };
        disk.submit(tokens.next(), Op::Remove { file });
    }
}

/// Reads a snapshot file's data frames one after the other, checking each. Blocks: for start-up only.
pub(crate) struct Chunks<'a, D> {
    disk: &'a mut D,
    file: FileName,
    offset: u64,
    bytes: u64,
    crc: u32,
    ended: bool,
    pub(crate) error: Option<SnapshotFileError>,
}

/// # Errors
/// When the file is not a whole snapshot of `group` at `index`.
pub(crate) fn read<'a, D: DiskRead>(
    disk: &'a mut D,
    file: &FileName,
    group: GroupId,
    index: Index,
) -> Result<(SnapshotMeta, Chunks<'a, D>), SnapshotFileError> {
    let mut chunks = Chunks {
        disk,
        file: file.clone(),
        offset: 0,
        bytes: 0,
        crc: 0,
        ended: false,
        error: None,
    };
    let (kind, payload) = chunks.frame()?;
    let damaged = |source| SnapshotFileError::Damaged { source };
    let mut reader = Reader::new(payload, WHAT);
    let magic = reader.u64().map_err(damaged)?;
    let version = reader.u16().map_err(damaged)?;
    if kind != HEADER || magic != MAGIC || version != FORMAT_VERSION {
        return Err(damaged(Malformed { what: WHAT }));
    }
    let found = reader.u64().map_err(damaged)?;
    let meta = raft_codec::meta(&mut reader).map_err(damaged)?;
    reader.finish().map_err(damaged)?;
    if found != group.0 || meta.index != index {
        return Err(SnapshotFileError::Mismatch);
    }
    Ok((meta, chunks))
}

const WHAT: &str = "a snapshot file";

impl<D: DiskRead> Chunks<'_, D> {
    fn frame(&mut self) -> Result<(u8, Bytes), SnapshotFileError> {
        let damaged = SnapshotFileError::Damaged {
            source: Malformed { what: WHAT },
        };
        let head = self.read(FRAME_BYTES)?;
        let (Some(&kind), Some(len), Some(crc)) = (head.first(), head.get(1..5), head.get(5..9)) else {
            return Err(damaged);
        };
        let len = u32::from_le_bytes(len.try_into().expect("four bytes")) as usize;
        let crc = u32::from_le_bytes(crc.try_into().expect("four bytes"));
        if len > FRAME_PAYLOAD_MAX {
            return Err(damaged);
        }
        let payload = self.read(len)?;
        if payload.len() < len || crc32c::crc32c_append(crc32c::crc32c(&head[..5]), &payload) != crc {
            return Err(damaged);
        }
        Ok((kind, payload))
    }

    fn read(&mut self, len: usize) -> Result<Bytes, SnapshotFileError> {
        let bytes = self
            .disk
            .read(&self.file, self.offset, len)
            .map_err(|source| SnapshotFileError::Disk { source })?;
        self.offset += bytes.len() as u64;
        Ok(bytes)
    }

    fn next_data(&mut self) -> Result<Option<Bytes>, SnapshotFileError> {
        let (kind, payload) = self.frame()?;
        let ends_right = kind == FOOTER && payload[..] == footer(self.bytes, self.crc);
        if kind == DATA {
            self.bytes += payload.len() as u64;
            self.crc = crc32c::crc32c_append(self.crc, &payload);
            Ok(Some(payload))
        } else if ends_right {
            Ok(None)
        } else {
            Err(SnapshotFileError::Damaged {
                source: Malformed { what: WHAT },
            })
        }
    }

    /// Whether every frame up to the footer was there and right.
    pub(crate) fn verify_end(mut self) -> Result<(), SnapshotFileError> {
        while !self.ended && self.error.is_none() {
            self.next();
        }
        self.error.map_or(Ok(()), Err)
    }
}

impl<D: DiskRead> Iterator for Chunks<'_, D> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended || self.error.is_some() {
            return None;
        }
        match self.next_data() {
            Ok(Some(data)) => Some(data),
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(error) => {
                self.error = Some(error);
                None
            }
        }
    }
}

fn footer(bytes: u64, crc: u32) -> [u8; 12] {
    let mut footer = [0; 12];
    footer[..8].copy_from_slice(&bytes.to_le_bytes());
    footer[8..].copy_from_slice(&crc.to_le_bytes());
    footer
}

/// Cuts a machine's chunks, which may have any size, into pieces of at most `size` bytes.
pub(crate) struct Cut {
    chunks: settle_machine::SnapshotChunks,
    rest: Bytes,
    size: usize,
}

impl Cut {
    pub(crate) fn new(chunks: settle_machine::SnapshotChunks, size: usize) -> Cut {
        assert!(
            (1..=FRAME_PAYLOAD_MAX).contains(&size),
            "snapshot-chunk-bytes is within the frame's limit"
        );
        Cut {
            chunks,
            rest: Bytes::new(),
            size,
        }
    }
}

impl Iterator for Cut {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        while self.rest.is_empty() {
            self.rest = self.chunks.next()?;
        }
        let size = self.size.min(self.rest.len());
        Some(self.rest.split_to(size))
    }
}
