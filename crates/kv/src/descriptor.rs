//! What a region is: its range, its epoch, whether it serves, and what it remembers of splits and merges.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use settle_base::{GroupId, GroupTime, Index, PeerId, Term};
use settle_machine::{
    Members,
    ranges::{Absorbed, Epoch, Merging, State},
};
use settle_storage::KeyRange;

use crate::{
    encoding::{DecodeError, Reader, put_bytes, put_list, put_option, put_u64},
    limits::KEY_MAX,
};

/// The part of a region that changes seldom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptor {
    pub group: GroupId,
    pub range: KeyRange,
    pub epoch: Epoch,
    pub state: State,
    pub members: Members,
    /// Split off and not absorbed since, by anybody.
    pub children: BTreeSet<GroupId>,
    pub absorbed: BTreeMap<GroupId, Absorbed>,
    /// What splits gave away and is still stored here. It overlaps nothing that the region holds.
    pub given_away: Vec<KeyRange>,
}

/// The part that changes with every entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// The last command.
    pub index: Index,
    pub term: Term,
    /// By which what has a time ends. It stands still while the region is silent.
    pub time: GroupTime,
    pub marks: Marks,
}

/// Numbers that are given once. A child begins with its parent's, a target goes on behind both; so for any key they rise
/// for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    /// The last change of keys.
    pub revision: u64,
    /// The last token of a lock.
    pub token: u64,
    /// The last generation of a sequence.
    pub generation: u64,
}

impl Marks {
    pub(crate) fn max(self, other: Marks) -> Marks {
        Marks {
            revision: self.revision.max(other.revision),
            token: self.token.max(other.token),
            generation: self.generation.max(other.generation),
        }
    }
}

/// Regions of one store, children of one region.
const REGIONS_MAX: usize = 1 << 20;
const MEMBERS_MAX: usize = 64;
const CONF_MAX: usize = 64 << 10;

pub(crate) fn put_epoch(out: &mut Vec<u8>, epoch: Epoch) {
    put_u64(out, epoch.version);
    put_u64(out, epoch.conf_ver);
}

pub(crate) fn get_epoch(reader: &mut Reader) -> Result<Epoch, DecodeError> {
    Ok(Epoch {
        version: reader.u64()?,
        conf_ver: reader.u64()?,
    })
}

pub(crate) fn put_range(out: &mut Vec<u8>, range: &KeyRange) {
    put_bytes(out, &range.start);
    put_option(out, range.end.as_ref(), |out, end| put_bytes(out, end));
}

/// A bound may be the key behind the longest one.
pub(crate) fn get_range(reader: &mut Reader) -> Result<KeyRange, DecodeError> {
    Ok(KeyRange {
        start: reader.bytes(KEY_MAX + 1)?,
        end: reader.option(|reader| reader.bytes(KEY_MAX + 1))?,
    })
}

pub(crate) fn get_group(reader: &mut Reader) -> Result<GroupId, DecodeError> {
    reader.u64().map(GroupId)
}

impl Descriptor {
    /// A region of all keys, or one that waits for a snapshot.
    pub(crate) fn new(group: GroupId, is_whole: bool) -> Descriptor {
        let one = u64::from(is_whole);
        Descriptor {
            group,
            range: KeyRange {
                start: Bytes::new(),
                end: if is_whole { None } else { Some(Bytes::new()) },
            },
            epoch: Epoch {
                version: one,
                conf_ver: one,
            },
            state: if is_whole { State::Serving } else { State::Empty },
            members: Members::default(),
            children: BTreeSet::new(),
            absorbed: BTreeMap::new(),
            given_away: Vec::new(),
        }
    }

    /// No replica waits for a source any more.
    pub fn has_finished_merges(&self) -> bool {
        self.absorbed.values().all(|absorbed| absorbed.is_finished)
    }

    pub(crate) fn is_settled(&self) -> bool {
        !self.members.is_joint && self.has_finished_merges()
    }

    /// A neighbour, and nothing of it still stored from before.
    pub(crate) fn may_take(&self, range: &KeyRange) -> bool {
        let is_next = range.end.as_ref() == Some(&self.range.start) || self.range.end.as_ref() == Some(&range.start);
        is_next && !range.is_empty() && !self.given_away.iter().any(|given| overlaps(given, range))
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.group.0);
        put_range(out, &self.range);
        put_epoch(out, self.epoch);
        match self.state {
            State::Empty => out.push(0),
            State::Serving => out.push(1),
            State::Merging(merging) => {
                out.push(2);
                put_u64(out, merging.target.0);
                put_epoch(out, merging.target_epoch);
                put_u64(out, merging.min_index);
                put_u64(out, merging.prepared);
            }
        }
        put_list(out, &self.members.voters, |out, peer| put_u64(out, peer.0));
        put_list(out, &self.members.learners, |out, peer| put_u64(out, peer.0));
        out.push(u8::from(self.members.is_joint));
        put_bytes(out, &self.members.encoded);
        put_u64(out, self.children.len() as u64);
        self.children.iter().for_each(|child| put_u64(out, child.0));
        put_u64(out, self.absorbed.len() as u64);
        for (source, absorbed) in &self.absorbed {
            put_u64(out, source.0);
            put_u64(out, absorbed.prepared);
            put_u64(out, absorbed.at);
            out.push(u8::from(absorbed.is_finished));
        }
        put_list(out, &self.given_away, put_range);
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Descriptor, DecodeError> {
        Ok(Descriptor {
            group: get_group(reader)?,
            range: get_range(reader)?,
            epoch: get_epoch(reader)?,
            state: match reader.u8()? {
                0 => State::Empty,
                1 => State::Serving,
                2 => State::Merging(Merging {
                    target: get_group(reader)?,
                    target_epoch: get_epoch(reader)?,
                    min_index: reader.u64()?,
                    prepared: reader.u64()?,
                }),
                _ => return Err(reader.error("an unknown state")),
            },
            members: Members {
                voters: reader.list(MEMBERS_MAX, |reader| reader.u64().map(PeerId))?,
                learners: reader.list(MEMBERS_MAX, |reader| reader.u64().map(PeerId))?,
                is_joint: reader.bool()?,
                encoded: reader.bytes(CONF_MAX)?,
            },
            children: reader.list(REGIONS_MAX, get_group)?.into_iter().collect(),
            absorbed: reader
                .list(REGIONS_MAX, |reader| {
                    let source = get_group(reader)?;
                    let (prepared, at, is_finished) = (reader.u64()?, reader.u64()?, reader.bool()?);
                    Ok((
                        source,
                        Absorbed {
                            prepared,
                            at,
                            is_finished,
                        },
                    ))
                })?
                .into_iter()
                .collect(),
            given_away: reader.list(REGIONS_MAX, get_range)?,
        })
    }
}

impl Standing {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.index);
        put_u64(out, self.term);
        put_u64(out, self.time.0);
        put_u64(out, self.marks.revision);
        put_u64(out, self.marks.token);
        put_u64(out, self.marks.generation);
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Standing, DecodeError> {
        Ok(Standing {
            index: reader.u64()?,
            term: reader.u64()?,
            time: GroupTime(reader.u64()?),
            marks: Marks {
                revision: reader.u64()?,
                token: reader.u64()?,
                generation: reader.u64()?,
            },
        })
    }
}

fn overlaps(a: &KeyRange, b: &KeyRange) -> bool {
    let is_before = |a: &KeyRange, b: &KeyRange| a.end.as_ref().is_some_and(|end| *end <= b.start);
    !is_before(a, b) && !is_before(b, a)
}
