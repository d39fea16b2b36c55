//! The fixed-size parts of the log's format. Frozen: a change is a new version.

use std::fmt;

use settle_base::GroupId;
use settle_storage::FileName;

/// A logical offset in the log, in bytes of batches since the directory was made. Never falls while the log is open.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Lsn(pub u64);

/// Whose log this is. Every segment header carries it, every batch its incarnation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogIdentity {
    pub cluster: u128,
    /// The random incarnation of the data directory.
    pub incarnation: u64,
}

impl fmt::Display for LogIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cluster {:032x} incarnation {:016x}", self.cluster, self.incarnation)
    }
}

pub(crate) const VERSION: u32 = 1;
pub(crate) const SEGMENT_HEADER_LEN: usize = 64;
pub(crate) const BATCH_HEADER_LEN: usize = 64;

const SEGMENT_MAGIC: [u8; 8] = *b"SettlWAL";
/// Begins with a byte that is rare in zeros and text, since a search for it runs over damaged bytes.
pub(crate) const BATCH_MAGIC: [u8; 4] = [0xb7, b'S', b't', b'B'];

/// ```text
/// 0 magic 8 | 8 version 4 | 12 header length 4 | 16 cluster 16 | 32 incarnation 8 | 40 number 8 | 48 base Lsn 8
/// 56 zero 4 | 60 CRC-32C of 0..60
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    pub version: u32,
    pub identity: LogIdentity,
    pub number: u64,
    /// The Lsn of the segment's first batch.
    pub base: Lsn,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut out = [0; SEGMENT_HEADER_LEN];
        out[0..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&self.version.to_le_bytes());
        out[12..16].copy_from_slice(&(SEGMENT_HEADER_LEN as u32).to_le_bytes());
        out[16..32].copy_from_slice(&self.identity.cluster.to_le_bytes());
        out[32..40].copy_from_slice(&self.identity.incarnation.to_le_bytes());
        out[40..48].copy_from_slice(&self.number.to_le_bytes());
        out[48..56].copy_from_slice(&self.base.0.to_le_bytes());
        seal(&mut out);
        out
    }

    /// `None` when the bytes are no intact header. The version is the caller's to judge.
    pub(crate) fn decode(bytes: &[u8]) -> Option<SegmentHeader> {
        let bytes = bytes.first_chunk::<SEGMENT_HEADER_LEN>()?;
        if bytes[0..8] != SEGMENT_MAGIC || !is_sealed(bytes) {
            return None;
        }
        Some(SegmentHeader {
            version: u32_at(bytes, 8),
            identity: LogIdentity {
                cluster: u128::from_le_bytes(at(bytes, 16)),
                incarnation: u64_at(bytes, 32),
            },
            number: u64_at(bytes, 40),
            base: Lsn(u64_at(bytes, 48)),
        })
    }
}

/// ```text
/// 0 magic 4 | 4 version 2 | 6 zero 2 | 8 body length 4 | 12 records 4 | 16 Lsn 8 | 24 durable_to 8 | 32 incarnation 8
/// 40 group mask 8 | 48 body CRC-32C 4 | 52 lost 8 | 60 CRC-32C of 0..60
/// ```
/// A *hole* has no records and no body: recovery writes it over the beginning of what is damaged for good. From its first
/// byte on `lost` bytes are skipped, and the groups of its mask have lost something there. A *proof* has no records
/// either, and skips nothing: it is there for its `durable_to`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BatchHeader {
    pub body_len: u32,
    pub records: u32,
    /// Of the header's first byte.
    pub lsn: Lsn,
    /// Everything before this was durable when the batch was written.
    pub durable_to: Lsn,
    pub incarnation: u64,
    /// Bit (group mod 64) is set for each group with a record here: says whom damage can have hit.
    pub group_mask: u64,
    pub body_crc: u32,
    /// Of a hole: what it stands for, itself included, in bytes of log. Else 0.
    pub lost: u64,
}

impl BatchHeader {
    pub(crate) fn encode(&self) -> [u8; BATCH_HEADER_LEN] {
        let mut out = [0; BATCH_HEADER_LEN];
        out[0..4].copy_from_slice(&BATCH_MAGIC);
        out[4..6].copy_from_slice(&(VERSION as u16).to_le_bytes());
        out[8..12].copy_from_slice(&self.body_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.records.to_le_bytes());
        out[16..24].copy_from_slice(&self.lsn.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.durable_to.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.incarnation.to_le_bytes());
        out[40..48].copy_from_slice(&self.group_mask.to_le_bytes());
        out[48..52].copy_from_slice(&self.body_crc.to_le_bytes());
        out[52..60].copy_from_slice(&self.lost.to_le_bytes());
        seal(&mut out);
        out
    }

    /// `None` when the bytes are no intact header of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<BatchHeader> {
        let bytes = bytes.first_chunk::<BATCH_HEADER_LEN>()?;
        if bytes[0..4] != BATCH_MAGIC || !is_sealed(bytes) || u32::from(u16::from_le_bytes(at(bytes, 4))) != VERSION {
            return None;
        }
        Some(BatchHeader {
            body_len: u32_at(bytes, 8),
            records: u32_at(bytes, 12),
            lsn: Lsn(u64_at(bytes, 16)),
            durable_to: Lsn(u64_at(bytes, 24)),
            incarnation: u64_at(bytes, 32),
            group_mask: u64_at(bytes, 40),
            body_crc: u32_at(bytes, 48),
            lost: u64_at(bytes, 52),
        })
        .filter(|header| header.lost == 0 || header.is_hole())
    }

    pub(crate) fn hole(lsn: Lsn, lost: u64, incarnation: u64, group_mask: u64) -> BatchHeader {
        BatchHeader {
            body_len: 0,
            records: 0,
            lsn,
            durable_to: lsn,
            incarnation,
            group_mask,
            body_crc: 0,
            lost,
        }
    }

    /// Without records: says that everything before `lsn` was durable.
    pub(crate) fn proof(lsn: Lsn, incarnation: u64) -> BatchHeader {
        BatchHeader {
            lost: 0,
            ..BatchHeader::hole(lsn, 0, incarnation, 0)
        }
    }

    pub(crate) fn is_hole(&self) -> bool {
        self.records == 0 && self.body_len == 0 && self.lost >= BATCH_HEADER_LEN as u64
    }

    /// Of header and body, or of what a hole stands for, in bytes.
    pub(crate) fn len(&self) -> u64 {
        match self.lost {
            0 => BATCH_HEADER_LEN as u64 + u64::from(self.body_len),
            lost => lost,
        }
    }
}

pub(crate) fn group_bit(group: GroupId) -> u64 {
    1 << (group.0 % 64)
}

/// What the names of spare segments begin with: zeroed in the background, then renamed into the next segment.
pub const SPARE_PREFIX: &str = "spare-";

pub(crate) fn segment_name(number: u64) -> FileName {
    FileName::new(&format!("wal-{number:016x}.seg")).expect("hex digits make a valid name")
}

/// The number in a segment's name; `None` for every other file.
pub(crate) fn segment_number(name: &FileName) -> Option<u64> {
    let digits = name.as_str().strip_prefix("wal-")?.strip_suffix(".seg")?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (segment_name(number) == *name).then_some(number)
}

fn seal(header: &mut [u8; 64]) {
    let crc = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
}

fn is_sealed(header: &[u8; 64]) -> bool {
    crc32c::crc32c(&header[..60]) == u32_at(header, 60)
}

fn at<const N: usize>(bytes: &[u8; 64], offset: usize) -> [u8; N] {
    bytes[offset..offset + N].try_into().expect("the range has N bytes")
}

fn u32_at(bytes: &[u8; 64], offset: usize) -> u32 {
    u32::from_le_bytes(at(bytes, offset))
}

fn u64_at(bytes: &[u8; 64], offset: usize) -> u64 {
    u64::from_le_bytes(at(bytes, offset))
}
