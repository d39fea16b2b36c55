//! What a region's log carries.

use bytes::Bytes;
use settle_base::{GroupId, GroupTime, Index};
use settle_machine::{LogEntry, ranges::Epoch};
use settle_storage::KeyRange;

use crate::{
    Request,
    descriptor::{get_epoch, get_group, get_range, put_epoch, put_range},
    encoding::{DecodeError, Reader, put_bytes, put_list, put_u64},
    limits::{KEY_MAX, OPS_MAX},
};

/// The form of commands. A build reads those up to its own.
const FORMAT: u8 = 1;
const COMMIT: u8 = 4;
/// Entries that a merge brings along, and the bytes of one: the host's own bounds are lower.
const ENTRIES_MAX: usize = 1 << 16;
const ENTRY_MAX: usize = 64 << 20;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// For a region of this version; of another none of them is done.
    Requests { version: u64, requests: Vec<Request> },
    /// `at` and what is behind it become `child`.
    Split { epoch: Epoch, at: Bytes, child: GroupId },
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
    /// To the target: leave the source that expects this epoch alone.
    Cancel { epoch: Epoch, source: GroupId },
    /// To the target: nobody needs the source any more.
    Finish { source: GroupId },
    /// Nothing but the time it is, for what ends by it.
    Tick,
}

pub type Commit = settle_machine::ranges::Commit<KeyRange>;

impl Command {
    pub fn encode(&self) -> Bytes {
        let mut out = vec![FORMAT];
        match self {
            Command::Requests { version, requests } => {
                out.push(1);
                put_u64(&mut out, *version);
                put_list(&mut out, requests, |out, request| request.encode(out));
            }
            Command::Split { epoch, at, child } => {
                out.push(2);
                put_epoch(&mut out, *epoch);
                put_bytes(&mut out, at);
                put_u64(&mut out, child.0);
            }
            Command::Prepare {
                epoch,
                target,
                target_epoch,
                min_index,
            } => {
                out.push(3);
                put_epoch(&mut out, *epoch);
                put_u64(&mut out, target.0);
                put_epoch(&mut out, *target_epoch);
                put_u64(&mut out, *min_index);
            }
            Command::Commit(commit) => {
                out.push(COMMIT);
                put_commit(&mut out, commit);
            }
            Command::Rollback { prepared } => {
                out.push(5);
                put_u64(&mut out, *prepared);
            }
            Command::Cancel { epoch, source } => {
                out.push(6);
                put_epoch(&mut out, *epoch);
                put_u64(&mut out, source.0);
            }
            Command::Finish { source } => {
                out.push(7);
                put_u64(&mut out, source.0);
            }
            Command::Tick => out.push(8),
        }
        out.into()
    }

    /// # Errors
    /// When `bytes` are no command of a format that this build knows.
    pub fn decode(bytes: &Bytes) -> Result<Command, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        if reader.u8()? != FORMAT {
            return Err(reader.error("a format that this build does not know"));
        }
        let command = match reader.u8()? {
            1 => Command::Requests {
                version: reader.u64()?,
                requests: reader.list(OPS_MAX, Request::decode)?,
            },
            2 => Command::Split {
                epoch: get_epoch(&mut reader)?,
                at: reader.bytes(KEY_MAX)?,
                child: get_group(&mut reader)?,
            },
            3 => Command::Prepare {
                epoch: get_epoch(&mut reader)?,
                target: get_group(&mut reader)?,
                target_epoch: get_epoch(&mut reader)?,
                min_index: reader.u64()?,
            },
            COMMIT => Command::Commit(Box::new(get_commit(&mut reader)?)),
            5 => Command::Rollback {
                prepared: reader.u64()?,
            },
            6 => Command::Cancel {
                epoch: get_epoch(&mut reader)?,
                source: get_group(&mut reader)?,
            },
            7 => Command::Finish {
                source: get_group(&mut reader)?,
            },
            8 => Command::Tick,
            _ => return Err(reader.error("an unknown command")),
        };
        reader.finish()?;
        Ok(command)
    }

    /// Whether it is one that needs another region, without reading all of it.
    pub(crate) fn is_commit(bytes: &Bytes) -> bool {
        bytes.get(..2) == Some(&[FORMAT, COMMIT])
    }
}

fn put_commit(out: &mut Vec<u8>, commit: &Commit) {
    put_epoch(out, commit.epoch);
    put_u64(out, commit.source.0);
    put_range(out, &commit.range);
    put_u64(out, commit.prepared);
    put_u64(out, commit.prev_index);
    put_u64(out, commit.prev_term);
    put_list(out, &commit.entries, |out, entry| {
        put_u64(out, entry.index);
        put_u64(out, entry.term);
        out.push(entry.kind);
        put_u64(out, entry.time.0);
        put_bytes(out, &entry.data);
    });
}

fn get_commit(reader: &mut Reader) -> Result<Commit, DecodeError> {
    Ok(Commit {
        epoch: get_epoch(reader)?,
        source: get_group(reader)?,
        range: get_range(reader)?,
        prepared: reader.u64()?,
        prev_index: reader.u64()?,
        prev_term: reader.u64()?,
        entries: reader.list(ENTRIES_MAX, |reader| {
            Ok(LogEntry {
                index: reader.u64()?,
                term: reader.u64()?,
                kind: reader.u8()?,
                time: GroupTime(reader.u64()?),
                data: reader.bytes(ENTRY_MAX)?,
            })
        })?,
    })
}
