//! The bytes of a segment: frames, each a length and a checksum (u32, little endian) and that many bytes. The first is the
//! head, the others are entries.
//!
//! Format 2. Head: the magic, the format, the wall time of the first entry, a number of groups and for each its number
//! and the last index recorded before this segment, then what the segment before holds: the lowest and the highest id
//! and the wall time of its last entry (zeros when there is none), then a number of gaps before this segment and for each
//! its group, index and wall time. Entry: group, index, id (0: a gap), wall time, payload. Numbers are little endian.

use std::collections::BTreeMap;

use crate::{
    Entry,
    gaps::{GAPS_MAX, Gap, Gaps},
};

const MAGIC: &[u8; 8] = b"SETTLEHI";
const FORMAT: u32 = 2;
const FRAME_HEAD: usize = 8;
const ENTRY_HEAD: usize = 1 + 8 + 8 + 8;
/// A head with all 255 groups and as many gaps as are remembered is below this.
pub(crate) const HEAD_MAX: usize = 8 << 10;
/// An entry with its frame, at most; a larger one is not kept.
pub(crate) const ENTRY_MAX: usize = 4 << 20;

/// What a segment holds, without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Summary {
    pub id_min: i64,
    pub id_max: i64,
    pub wall_ms_last: u64,
}

impl Summary {
    pub fn add(&mut self, id: i64, wall_ms: u64) {
        if self.wall_ms_last == 0 {
            (self.id_min, self.id_max) = (id, id);
        }
        self.id_min = self.id_min.min(id);
        self.id_max = self.id_max.max(id);
        self.wall_ms_last = self.wall_ms_last.max(wall_ms).max(1);
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Head {
    pub wall_ms_first: u64,
    /// By group: the last index recorded before this segment.
    pub last: BTreeMap<u8, u64>,
    pub before: Summary,
    pub gaps: Gaps,
}

pub(crate) fn put_head(out: &mut Vec<u8>, head: &Head) {
    let mut body = Vec::with_capacity(64 + head.last.len() * 9);
    body.extend_from_slice(MAGIC);
    body.extend_from_slice(&FORMAT.to_le_bytes());
    body.extend_from_slice(&head.wall_ms_first.to_le_bytes());
    body.push(u8::try_from(head.last.len()).expect("groups are numbered 1 to 255"));
    for (group, index) in &head.last {
        body.push(*group);
        body.extend_from_slice(&index.to_le_bytes());
    }
    body.extend_from_slice(&head.before.id_min.to_le_bytes());
    body.extend_from_slice(&head.before.id_max.to_le_bytes());
    body.extend_from_slice(&head.before.wall_ms_last.to_le_bytes());
    body.push(u8::try_from(head.gaps.iter().len()).expect("few gaps are remembered"));
    for gap in head.gaps.iter() {
        body.push(gap.group);
        body.extend_from_slice(&gap.index.to_le_bytes());
        body.extend_from_slice(&gap.wall_ms.to_le_bytes());
    }
    put_frame(out, &[&body]);
}

/// The head and where it ends; `None` when the bytes do not begin with one.
pub(crate) fn get_head(bytes: &[u8]) -> Option<(Head, usize)> {
    let (body, end) = get_frame(bytes)?;
    let mut rest = body.strip_prefix(MAGIC)?;
    let mut head = Head::default();
    if take(&mut rest).map(u32::from_le_bytes)? != FORMAT {
        return None;
    }
    head.wall_ms_first = u64::from_le_bytes(take(&mut rest)?);
    for _ in 0..take::<1>(&mut rest)?[0] {
        let group = take::<1>(&mut rest)?[0];
        head.last.insert(group, u64::from_le_bytes(take(&mut rest)?));
    }
    head.before = Summary {
        id_min: i64::from_le_bytes(take(&mut rest)?),
        id_max: i64::from_le_bytes(take(&mut rest)?),
        wall_ms_last: u64::from_le_bytes(take(&mut rest)?),
    };
    let gaps = take::<1>(&mut rest)?[0];
    if usize::from(gaps) > GAPS_MAX {
        return None;
    }
    for _ in 0..gaps {
        head.gaps.add(Gap {
            group: take::<1>(&mut rest)?[0],
            index: u64::from_le_bytes(take(&mut rest)?),
            wall_ms: u64::from_le_bytes(take(&mut rest)?),
        });
    }
    rest.is_empty().then_some((head, end))
}

pub(crate) fn put_entry(out: &mut Vec<u8>, entry: &Entry<'_>) {
    put_frame(
        out,
        &[
            &[entry.group],
            &entry.index.to_le_bytes(),
            &entry.id.to_le_bytes(),
            &entry.wall_ms.to_le_bytes(),
            entry.payload,
        ],
    );
}

/// The bytes that an entry takes.
pub(crate) fn entry_bytes(payload: &[u8]) -> usize {
    FRAME_HEAD + ENTRY_HEAD + payload.len()
}

/// The entry and where it ends; `None` when the bytes do not begin with one, whole and undamaged.
pub(crate) fn get_entry(bytes: &[u8]) -> Option<(Entry<'_>, usize)> {
    let (mut rest, end) = get_frame(bytes)?;
    let entry = Entry {
        group: take::<1>(&mut rest)?[0],
        index: u64::from_le_bytes(take(&mut rest)?),
        id: i64::from_le_bytes(take(&mut rest)?),
        wall_ms: u64::from_le_bytes(take(&mut rest)?),
        payload: rest,
    };
    Some((entry, end))
}

fn put_frame(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let at = out.len();
    out.extend_from_slice(&[0; FRAME_HEAD]);
    for part in parts {
        out.extend_from_slice(part);
    }
    let body = &out[at + FRAME_HEAD..];
    let (len, crc) = (body.len() as u32, crc32c::crc32c(body));
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
    out[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
}

fn get_frame(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let mut rest = bytes;
    let len = u32::from_le_bytes(take(&mut rest)?) as usize;
    let crc = u32::from_le_bytes(take(&mut rest)?);
    // No frame is empty, so that zeros behind the end of a file are none.
    if len == 0 || len > ENTRY_MAX {
        return None;
    }
    let body = rest.get(..len)?;
    (crc32c::crc32c(body) == crc).then_some((body, FRAME_HEAD + len))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*first)
}
