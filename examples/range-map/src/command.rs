use bytes::{BufMut, Bytes, BytesMut};
use settle_base::{GroupId, Index};
use settle_machine::ranges::Epoch;

use crate::codec::{Reader, put_bytes, put_entry, put_epoch};

/// One client's write. A client asks one thing at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Put {
    pub client: u32,
    pub number: u64,
    pub key: u32,
    pub value: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    Puts {
        version: u64,
        puts: Vec<Put>,
        /// Makes entries as long as real ones.
        padding: u32,
    },
    /// `at` and what is above become `child`.
    Split { epoch: Epoch, at: u32, child: GroupId },
    /// To the source: be silent, to be merged into `target` as it was at `target_epoch`.
    Prepare {
        epoch: Epoch,
        target: GroupId,
        target_epoch: Epoch,
        /// Every replica of the source holds what is before.
        min_index: Index,
    },
    /// To the target: absorb the source as it is after its entry at `prepared`.
    Commit(Box<Commit>),
    /// To the source: serve again. Proposed only once the target cannot absorb it any more.
    Rollback { prepared: Index },
    /// To the target: do not absorb it.
    Cancel { source: GroupId, epoch: Epoch },
    /// To the target: every replica holds the merged state durably, so the source may go.
    Finish { source: GroupId },
}

/// Of a range from its start to its end, which is excluded.
pub type Commit = settle_machine::ranges::Commit<(u32, u32)>;

impl Command {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Command::Puts { version, puts, padding } => {
                out.put_u8(1);
                out.put_u64_le(*version);
                out.put_u32_le(puts.len() as u32);
                for put in puts {
                    out.put_u32_le(put.client);
                    out.put_u64_le(put.number);
                    out.put_u32_le(put.key);
                    out.put_u64_le(put.value);
                }
                put_bytes(&mut out, &vec![0x5a; *padding as usize]);
            }
            Command::Split { epoch, at, child } => {
                out.put_u8(2);
                put_epoch(&mut out, *epoch);
                out.put_u32_le(*at);
                out.put_u64_le(child.0);
            }
            Command::Prepare {
                epoch,
                target,
                target_epoch,
                min_index,
            } => {
                out.put_u8(3);
                put_epoch(&mut out, *epoch);
                out.put_u64_le(target.0);
                put_epoch(&mut out, *target_epoch);
                out.put_u64_le(*min_index);
            }
            Command::Commit(commit) => {
                out.put_u8(4);
                put_epoch(&mut out, commit.epoch);
                out.put_u64_le(commit.source.0);
                out.put_u32_le(commit.range.0);
                out.put_u32_le(commit.range.1);
                out.put_u64_le(commit.prepared);
                out.put_u64_le(commit.prev_index);
                out.put_u64_le(commit.prev_term);
                out.put_u32_le(commit.entries.len() as u32);
                commit.entries.iter().for_each(|entry| put_entry(&mut out, entry));
            }
            Command::Rollback { prepared } => {
                out.put_u8(5);
                out.put_u64_le(*prepared);
            }
            Command::Cancel { source, epoch } => {
                out.put_u8(6);
                out.put_u64_le(source.0);
                put_epoch(&mut out, *epoch);
            }
            Command::Finish { source } => {
                out.put_u8(7);
                out.put_u64_le(source.0);
            }
        }
        out.freeze()
    }

    /// `None` when the bytes are no command.
    pub fn decode(bytes: &Bytes) -> Option<Command> {
        let mut reader = Reader(bytes.clone());
        let command = match reader.u8()? {
            1 => Command::Puts {
                version: reader.u64()?,
                puts: reader.list(|reader| {
                    Some(Put {
                        client: reader.u32()?,
                        number: reader.u64()?,
                        key: reader.u32()?,
                        value: reader.u64()?,
                    })
                })?,
                padding: reader.bytes()?.len() as u32,
            },
            2 => Command::Split {
                epoch: reader.epoch()?,
                at: reader.u32()?,
                child: reader.group()?,
            },
            3 => Command::Prepare {
                epoch: reader.epoch()?,
                target: reader.group()?,
                target_epoch: reader.epoch()?,
                min_index: reader.u64()?,
            },
            4 => Command::Commit(Box::new(Commit {
                epoch: reader.epoch()?,
                source: reader.group()?,
                range: (reader.u32()?, reader.u32()?),
                prepared: reader.u64()?,
                prev_index: reader.u64()?,
                prev_term: reader.u64()?,
                entries: reader.list(Reader::entry)?,
            })),
            5 => Command::Rollback {
                prepared: reader.u64()?,
            },
            6 => Command::Cancel {
                source: reader.group()?,
                epoch: reader.epoch()?,
            },
            7 => Command::Finish {
                source: reader.group()?,
            },
            _ => return None,
        };
        reader.0.is_empty().then_some(command)
    }
}
