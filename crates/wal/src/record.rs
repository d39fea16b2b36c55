//! What the log holds, and its bytes inside a batch's body.
//!
//! ```text
//! record      length of the rest 4 | kind 1 | group 8 | payload
//! 1 entries   first index 8 | count 4 | count × (term 8 | kind 1 | time 8 | length 4 | data)
//! 2 hardstate term 8 | vote 8 | commit 8
//! 3 snapshot  index 8 | term 8 | time 8 | reset 1 | length 4 | conf | length 1 | file name (0: none)
//! 4 create    length 4 | opaque bytes
//! 5 destroy
//! 6 healed
//! 7 resume
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use settle_base::{GroupId, GroupTime, Index, PeerId, Term};
use settle_storage::FileName;

/// One entry of one group's log. `kind` and `data` are opaque here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalEntry {
    pub term: Term,
    pub index: Index,
    pub kind: u8,
    pub time: GroupTime,
    pub data: Bytes,
}

/// What a replica must not forget beside its entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HardState {
    pub term: Term,
    pub vote: PeerId,
    pub commit: Index,
}

/// Where a group's log begins: entries up to `index` are in the snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    pub index: Index,
    pub term: Term,
    pub time: GroupTime,
    /// The membership at `index`, opaque.
    pub conf: Bytes,
    /// The machine's own snapshot file, if it keeps one.
    pub file: Option<FileName>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// Replaces every entry from `entries[0].index` on. Indices are consecutive; not empty. Entries that are there already
    /// may be written again, all live ones of a group in one record, so that older segments can go.
    Entries {
        group: GroupId,
        entries: Vec<WalEntry>,
    },
    HardState {
        group: GroupId,
        state: HardState,
    },
    /// Entries up to `snapshot.index` are dead. The whole log of the group is, when `reset`, or when the snapshot is
    /// past its end.
    Snapshot {
        group: GroupId,
        snapshot: Snapshot,
        reset: bool,
    },
    /// The group exists, empty. First of all its records; also brings a destroyed group back, empty. Of a group that
    /// exists it replaces the bytes and nothing else.
    Create {
        group: GroupId,
        data: Bytes,
    },
    /// Everything of the group is dead; that it was destroyed is remembered.
    Destroy {
        group: GroupId,
    },
    /// A group found damaged has caught up past a quorum-confirmed index.
    Healed {
        group: GroupId,
    },
    /// The group goes on from what recovery could prove of it after damage in the middle; the log writes this by itself.
    Resume {
        group: GroupId,
        /// Whether its entries are what was known before. When this is read again, segments may have gone that it was
        /// judged by.
        keeps_entries: bool,
    },
}

impl Record {
    pub fn group(&self) -> GroupId {
        match self {
            Record::Entries { group, .. }
            | Record::HardState { group, .. }
            | Record::Snapshot { group, .. }
            | Record::Create { group, .. }
            | Record::Destroy { group }
            | Record::Healed { group }
            | Record::Resume { group, .. } => *group,
        }
    }

    /// In the log, in bytes.
    pub fn encoded_len(&self) -> usize {
        RECORD_PREFIX_LEN
            + match self {
                Record::Entries { entries, .. } => {
                    let data: usize = entries.iter().map(|e| ENTRY_PREFIX_LEN + e.data.len()).sum();
                    12 + data
                }
                Record::HardState { .. } => 24,
                Record::Snapshot { snapshot, .. } => {
                    30 + snapshot.conf.len() + snapshot.file.as_ref().map_or(0, |f| f.as_str().len())
                }
                Record::Create { data, .. } => 4 + data.len(),
                Record::Destroy { .. } | Record::Healed { .. } => 0,
                Record::Resume { .. } => 1,
            }
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let len = self.encoded_len();
        let end = out.len() + len;
        out.put_u32_le((len - 4) as u32);
        out.put_u8(self.kind());
        out.put_u64_le(self.group().0);
        match self {
            Record::Entries { entries, .. } => {
                out.put_u64_le(entries[0].index);
                out.put_u32_le(entries.len() as u32);
                for entry in entries {
                    out.put_u64_le(entry.term);
                    out.put_u8(entry.kind);
                    out.put_u64_le(entry.time.0);
                    put_bytes(out, &entry.data);
                }
            }
            Record::HardState { state, .. } => {
                out.put_u64_le(state.term);
                out.put_u64_le(state.vote.0);
                out.put_u64_le(state.commit);
            }
            Record::Snapshot { snapshot, reset, .. } => {
                out.put_u64_le(snapshot.index);
                out.put_u64_le(snapshot.term);
                out.put_u64_le(snapshot.time.0);
                out.put_u8(u8::from(*reset));
                put_bytes(out, &snapshot.conf);
                let file = snapshot.file.as_ref().map_or("", |f| f.as_str());
                out.put_u8(file.len() as u8);
                out.put_slice(file.as_bytes());
            }
            Record::Create { data, .. } => put_bytes(out, data),
            Record::Destroy { .. } | Record::Healed { .. } => {}
            Record::Resume { keeps_entries, .. } => out.put_u8(u8::from(*keeps_entries)),
        }
        debug_assert_eq!(out.len(), end, "encoded_len says what encode writes");
    }

    fn kind(&self) -> u8 {
        match self {
            Record::Entries { .. } => 1,
            Record::HardState { .. } => 2,
            Record::Snapshot { .. } => 3,
            Record::Create { .. } => 4,
            Record::Destroy { .. } => 5,
            Record::Healed { .. } => 6,
            Record::Resume { .. } => 7,
        }
    }
}

const RECORD_PREFIX_LEN: usize = 13;
pub(crate) const ENTRY_PREFIX_LEN: usize = 21;

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

/// The records of a body; `None` when it does not hold exactly `count` well-formed ones. Data are slices of `body`.
pub(crate) fn decode_body(mut body: Bytes, count: u32) -> Option<Vec<Record>> {
    let records = decode_while_good(&mut body, count);
    (records.len() == count as usize && body.is_empty()).then_some(records)
}

/// The well-formed records at the front of `body`, at most `count`; stops at the first that is not.
pub(crate) fn decode_while_good(body: &mut Bytes, count: u32) -> Vec<Record> {
    let mut records = Vec::new();
    while records.len() < count as usize {
        let Some(record) = decode_record(body) else { break };
        records.push(record);
    }
    records
}

fn decode_record(body: &mut Bytes) -> Option<Record> {
    let len = body.try_get_u32_le().ok()? as usize;
    let mut rest = take(body, len)?;
    let kind = rest.try_get_u8().ok()?;
    let group = GroupId(rest.try_get_u64_le().ok()?);
    let record = match kind {
        1 => Record::Entries {
            group,
            entries: decode_entries(&mut rest)?,
        },
        2 => Record::HardState {
            group,
            state: HardState {
                term: rest.try_get_u64_le().ok()?,
                vote: PeerId(rest.try_get_u64_le().ok()?),
                commit: rest.try_get_u64_le().ok()?,
            },
        },
        3 => {
            let index = rest.try_get_u64_le().ok()?;
            let term = rest.try_get_u64_le().ok()?;
            let time = GroupTime(rest.try_get_u64_le().ok()?);
            let reset = match rest.try_get_u8().ok()? {
                0 => false,
                1 => true,
                _ => return None,
            };
            let conf = take_bytes(&mut rest)?;
            let name_len = rest.try_get_u8().ok()? as usize;
            let name = take(&mut rest, name_len)?;
            let file = match name.len() {
                0 => None,
                _ => Some(FileName::new(std::str::from_utf8(&name).ok()?).ok()?),
            };
            let snapshot = Snapshot {
                index,
                term,
                time,
                conf,
                file,
            };
            Record::Snapshot { group, snapshot, reset }
        }
        4 => Record::Create {
            group,
            data: take_bytes(&mut rest)?,
        },
        5 => Record::Destroy { group },
        6 => Record::Healed { group },
        7 => Record::Resume {
            group,
            keeps_entries: match rest.try_get_u8().ok()? {
                0 => false,
                1 => true,
                _ => return None,
            },
        },
        _ => return None,
    };
    rest.is_empty().then_some(record)
}

fn decode_entries(rest: &mut Bytes) -> Option<Vec<WalEntry>> {
    let first = rest.try_get_u64_le().ok()?;
    let count = rest.try_get_u32_le().ok()?;
    // The last index must exist, and room is made only for entries whose bytes can be there.
    first.checked_add(u64::from(count))?;
    if count == 0 || count as usize > rest.len() / ENTRY_PREFIX_LEN {
        return None;
    }
    let mut entries = Vec::with_capacity(count as usize);
    for i in 0..u64::from(count) {
        entries.push(WalEntry {
            term: rest.try_get_u64_le().ok()?,
            index: first + i,
            kind: rest.try_get_u8().ok()?,
            time: GroupTime(rest.try_get_u64_le().ok()?),
            data: take_bytes(rest)?,
        });
    }
    Some(entries)
}

fn take(bytes: &mut Bytes, len: usize) -> Option<Bytes> {
    (len <= bytes.len()).then(|| bytes.split_to(len))
}

fn take_bytes(bytes: &mut Bytes) -> Option<Bytes> {
    let len = bytes.try_get_u32_le().ok()? as usize;
    take(bytes, len)
}
