//! A group's backup, and how a group of a newly founded cluster takes it in.
//!
//! A backup is a row of parts. A restore brings them into the log one by one, as commands like any other, so that every
//! replica, and one that joins later, has them alike. Only a group that has never begun anything takes the first part;
//! until it has taken the last it refuses everything else. A part that it has taken already changes nothing, so that whoever
//! brings them may ask again, or begin again when he broke off.
//!
//! - Ids that were given are never given again: what the backup does not know of, the old cluster may have given after it
//!   was taken. So ids go on in a block of the upper bits that is above the backup's. Of an id in between the group says that
//!   its outcome is not kept any more, which is true of what the old cluster gave.
//! - Times move with the group's time: what was an hour old at the backup is an hour old when the restore begins, or as old as
//!   the new group's time reaches back. A transaction may so be timed out later than it asked for, and never earlier.
//! - What gates had asked (origins and their results) is left out: their processes are gone.
//!
//! A part: its number from 0 and the fingerprint of the header, then items, each a kind and its fields. The first item of part 0 is the header; the last item
//! of all is the end with the number of items before it. Format 2 has an item of service groups besides: of a group that
//! was told of [moves](crate::MoveStep).

use std::sync::Arc;

use bytes::Bytes;
use settle_base::{GroupTime, fingerprint};

use crate::{
    DecodeError, Global, MOVES_SINCE, Reply, Tid, TxEffect, TxError, TxMachine,
    audit::{get_record, put_record},
    command::{get_tid, put_tid},
    encoding::{Reader, get_option, put_option, put_u64},
    global::Moment,
    machine::{CLUSTER_BITS, COUNT_BITS},
    outcome::{CHUNK_LEN, OutcomeChunk},
    snapshot::{
        add_branch, add_global, check_global, get_branch_fields, get_global_fields, put_branch_fields,
        put_global_fields,
    },
};

/// Bytes of a part, at most: a branch at the largest limits and what was gathered before it.
pub const RESTORE_PART_MAX: usize = 20 << 20;
/// Items are gathered into parts of about this size.
const PART_BYTES: usize = 256 << 10;

const FORMAT: u8 = 1;
const FORMAT_OF_MOVES: u8 = 2;
const HEADER: u8 = 1;
const GLOBAL: u8 = 2;
const BRANCHES: u8 = 3;
const OUTCOMES: u8 = 4;
const ACT: u8 = 5;
const END: u8 = 6;
const SERVICE_GROUPS: u8 = 7;

const MINUTE_MS: u64 = 60_000;

/// How far a restore has come.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Restore {
    /// Parts taken in; 0 without any restore.
    pub parts: u64,
    /// Of the backup: the fingerprint of its header.
    pub id: u64,
    /// More parts are to come.
    pub open: Option<Open>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Open {
    /// The group's time at the backup, and here when the restore began.
    taken_at: GroupTime,
    begun_at: GroupTime,
    /// What the old group had given.
    first: u64,
    next_tid: u64,
    next_branch: u64,
    items: u64,
}

impl Open {
    fn moved(&self, time: GroupTime) -> Option<GroupTime> {
        let age = self.taken_at.0.checked_sub(time.0)?;
        Some(GroupTime(self.begun_at.0.saturating_sub(age)))
    }
}

pub(crate) fn put_restore(out: &mut Vec<u8>, restore: &Restore) {
    put_u64(out, restore.parts);
    put_u64(out, restore.id);
    put_option(out, restore.open.as_ref().map(|open| open.items));
    if let Some(open) = &restore.open {
        for n in [
            open.taken_at.0,
            open.begun_at.0,
            open.first,
            open.next_tid,
            open.next_branch,
        ] {
            put_u64(out, n);
        }
    }
}

pub(crate) fn get_restore(reader: &mut Reader<'_>) -> Result<Restore, DecodeError> {
    let (parts, id) = (reader.u64()?, reader.u64()?);
    let open = match get_option(reader)? {
        None => None,
        Some(items) => Some(Open {
            items,
            taken_at: GroupTime(reader.u64()?),
            begun_at: GroupTime(reader.u64()?),
            first: reader.u64()?,
            next_tid: reader.u64()?,
            next_branch: reader.u64()?,
        }),
    };
    Ok(Restore { parts, id, open })
}

/// The parts of a backup as of the last entry applied: shared with the machine, and encoded as they are asked for.
pub(crate) fn parts(machine: &TxMachine) -> Box<dyn Iterator<Item = Bytes> + Send> {
    let has_moves = !machine.service_groups.is_unused();
    let format = if has_moves { FORMAT_OF_MOVES } else { FORMAT };
    let mut header = vec![HEADER, format, machine.config.group];
    for n in [
        machine.config.first_sequence,
        machine.next_tid,
        machine.next_branch,
        machine.stats().begun_total,
        machine.time.0,
        machine.audit.last_number() - machine.audit.records().len() as u64,
    ] {
        put_u64(&mut header, n);
    }
    let globals = machine.globals.clone().into_entries();
    let globals = globals.flat_map(|(_, global)| items_of(global));
    let outcomes: Vec<(u64, OutcomeChunk)> = machine.outcomes.chunks().map(|(n, chunk)| (n, chunk.clone())).collect();
    let outcomes = outcomes.into_iter().map(|(index, chunk)| {
        let mut out = Vec::with_capacity(CHUNK_LEN + 24);
        out.push(OUTCOMES);
        put_u64(&mut out, index);
        put_u64(&mut out, chunk.newest_end_minute);
        out.extend_from_slice(&chunk.statuses[..]);
        out
    });
    let acts = machine.audit.clone().into_records().map(|record| {
        let mut out = vec![ACT];
        put_record(&mut out, &record);
        out
    });
    let service_groups = has_moves.then(|| {
        let mut out = vec![SERVICE_GROUPS];
        machine.service_groups.put(&mut out);
        out
    });
    let id = fingerprint(&header);
    let items = std::iter::once(header).chain(globals).chain(outcomes).chain(acts);
    let items = items.chain(service_groups);
    Box::new(Parts {
        items,
        id,
        number: 0,
        count: 0,
        has_ended: false,
    })
}

/// A transaction with as many of its branches as one item holds, then the others.
fn items_of(global: Arc<Global>) -> impl Iterator<Item = Vec<u8>> + Send {
    let (mut done, mut is_first) = (0, true);
    std::iter::from_fn(move || {
        if !is_first && done == global.branches.len() {
            return None;
        }
        let (mut fields, mut count) = (Vec::new(), 0);
        while done + count < global.branches.len() && fields.len() < PART_BYTES {
            put_branch_fields(&mut fields, &global.branches[done + count]);
            count += 1;
        }
        let mut out = Vec::with_capacity(fields.len() + 256);
        match std::mem::take(&mut is_first) {
            true => {
                out.push(GLOBAL);
                put_global_fields(&mut out, &global);
            }
            false => {
                out.push(BRANCHES);
                put_tid(&mut out, global.tid);
            }
        }
        put_u64(&mut out, count as u64);
        out.extend_from_slice(&fields);
        done += count;
        Some(out)
    })
}

struct Parts<I> {
    items: I,
    id: u64,
    number: u64,
    count: u64,
    has_ended: bool,
}

impl<I: Iterator<Item = Vec<u8>>> Iterator for Parts<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.has_ended {
            return None;
        }
        let mut part = Vec::new();
        put_u64(&mut part, self.number);
        put_u64(&mut part, self.id);
        while part.len() < PART_BYTES && !self.has_ended {
            match self.items.next() {
                Some(item) => {
                    part.extend_from_slice(&item);
                    self.count += 1;
                }
                None => {
                    part.push(END);
                    put_u64(&mut part, self.count);
                    self.has_ended = true;
                }
            }
        }
        self.number += 1;
        Some(Bytes::from(part))
    }
}

/// The first id of a block that is above all blocks in which the old cluster has given ids: that of the new cluster when it
/// is above, else one that depends on it, so that two clusters from one backup are unlikely to share one.
fn above(old_next: u64, own_first: u64) -> Option<u64> {
    let (least, own) = ((old_next >> COUNT_BITS) + 1, own_first >> COUNT_BITS);
    let most = (1 << CLUSTER_BITS) - 2;
    let block = match own >= least {
        true => own,
        false if least <= most => least + own % (most - least + 1),
        false => return None,
    };
    Some((block << COUNT_BITS) | 1)
}

impl TxMachine {
    /// Takes in the next part of a backup.
    pub(crate) fn restore_part(&mut self, part: &[u8], effects: &mut Vec<TxEffect>) -> Result<Reply, TxError> {
        let restored = |restore: &Restore| Reply::Restored {
            parts: restore.parts,
            is_done: restore.open.is_none(),
        };
        let mut reader = Reader::new(part);
        let bad = |error: DecodeError| TxError::BadPart {
            reason: Arc::from(error.to_string()),
        };
        let number = reader.u64().map_err(bad)?;
        let id = reader.u64().map_err(bad)?;
        let is_begun = self.restore.parts > 0;
        if is_begun && id == self.restore.id && number < self.restore.parts {
            return Ok(restored(&self.restore));
        }
        if self.restore.open.is_none() {
            let is_new = self.next_tid == self.config.first_sequence && self.next_branch == self.config.first_sequence;
            if !is_new || self.audit.last_number() > 0 || is_begun {
                return Err(TxError::NotNew {
                    begun: self.stats().begun_total,
                });
            }
            if !self.service_groups.is_unused() {
                return Err(TxError::ToldOfMoves);
            }
        } else if id != self.restore.id {
            return Err(bad(reader.error("a part of another backup")));
        }
        if number != self.restore.parts {
            return Err(bad(reader.error("another part is next")));
        }
        while reader.finish().is_err() {
            self.restore_item(&mut reader, effects).map_err(bad)?;
        }
        if self.restore.open.is_none() && !is_begun && self.skipped == 0 {
            return Err(bad(reader.error("no header")));
        }
        self.restore.parts += 1;
        self.restore.id = id;
        Ok(restored(&self.restore))
    }

    fn restore_item(&mut self, reader: &mut Reader<'_>, effects: &mut Vec<TxEffect>) -> Result<(), DecodeError> {
        let kind = reader.u8()?;
        let Some(open) = self.restore.open.clone() else {
            return match kind {
                HEADER if self.restore.parts == 0 => self.restore_header(reader),
                _ => Err(reader.error("it has no header, or goes on behind its end")),
            };
        };
        match kind {
            GLOBAL => {
                self.check_last(reader)?;
                let mut global = get_global_fields(reader)?;
                let is_given = (open.first..open.next_tid).contains(&global.tid.seq());
                let of_group = global.tid.group().0 == u64::from(self.config.group);
                let is_next = self.globals.last().is_none_or(|(last, _)| *last < global.tid);
                if !is_given || !of_group || !is_next {
                    return Err(reader.error("a transaction is out of order"));
                }
                let moved = |time| open.moved(time).ok_or(reader.error("a time after the backup"));
                global.begun_at = moved(global.begun_at)?;
                global.decided_at = Moment::new(global.decided_at().map(moved).transpose()?);
                let (tid, count) = (global.tid, reader.u64()?);
                add_global(self, global).map_err(|_| reader.error("a transaction that cannot be"))?;
                self.restore_branches(tid, count, &open, reader)?;
            }
            BRANCHES => {
                let (tid, count) = (get_tid(reader)?, reader.u64()?);
                if self.globals.last().is_none_or(|(last, _)| *last != tid) {
                    return Err(reader.error("branches of a transaction that is not the last"));
                }
                self.restore_branches(tid, count, &open, reader)?;
            }
            OUTCOMES => self.restore_outcomes(&open, reader)?,
            ACT => {
                let mut record = get_record(reader)?;
                record.at = open.moved(record.at).ok_or(reader.error("a time after the backup"))?;
                if !self.audit.load(record) {
                    return Err(reader.error("an act is out of order"));
                }
            }
            SERVICE_GROUPS if self.version >= MOVES_SINCE => {
                self.check_last(reader)?;
                self.service_groups.get(reader)?;
                if !self.service_groups.is_possible() {
                    return Err(reader.error("a service group is drained and has open transactions"));
                }
                if !self.service_groups.is_below_the_upper_half() {
                    return Err(reader.error("an epoch that no move has"));
                }
                self.service_groups_restored();
            }
            END => {
                self.check_last(reader)?;
                if reader.u64()? != open.items {
                    return Err(reader.error("something is missing"));
                }
                self.restore.open = None;
                effects.push(TxEffect::Restored);
                return Ok(());
            }
            _ => return Err(reader.error("an item of an unknown kind")),
        }
        let open = self.restore.open.as_mut().expect("it was just open");
        open.items += 1;
        Ok(())
    }

    fn restore_header(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        match reader.u8()? {
            FORMAT => {}
            // As a build of the version before says it, which may be another replica of this group.
            FORMAT_OF_MOVES if self.version >= MOVES_SINCE => {}
            _ => return Err(reader.error("an unknown format of backups")),
        }
        if reader.u8()? != self.config.group {
            return Err(reader.error("a backup of another group"));
        }
        let (first, next_tid, next_branch) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (begun_total, taken_at, acts_gone) = (reader.u64()?, GroupTime(reader.u64()?), reader.u64()?);
        let largest = next_tid.max(next_branch);
        let is_possible = first > 0 && next_tid >= first && next_branch >= first && begun_total <= next_tid - first;
        let next = above(largest, self.config.first_sequence).filter(|_| is_possible && largest >> 55 == 0);
        let next = next.ok_or(reader.error("ids out of their range"))?;
        self.config.first_sequence = self.config.first_sequence.min(first);
        (self.next_tid, self.next_branch) = (next, next);
        self.skipped = next - self.config.first_sequence - begun_total;
        self.audit.start_behind(acts_gone);
        self.restore.open = Some(Open {
            taken_at,
            begun_at: self.time,
            first,
            next_tid,
            next_branch,
            items: 1,
        });
        Ok(())
    }

    fn restore_branches(
        &mut self,
        tid: Tid,
        count: u64,
        open: &Open,
        reader: &mut Reader<'_>,
    ) -> Result<(), DecodeError> {
        for _ in 0..count {
            let global = self.globals.get(&tid).expect("it was just taken in");
            let mut branch = get_branch_fields(reader, global)?;
            if !(open.first..open.next_branch).contains(&branch.id.seq()) {
                return Err(reader.error("a branch was never given"));
            }
            let moved = |time| open.moved(time).ok_or(reader.error("a time after the backup"));
            branch.retrying_since = branch.retrying_since.map(moved).transpose()?;
            add_branch(self, tid, branch).map_err(|_| reader.error("a branch that cannot be"))?;
        }
        Ok(())
    }

    fn restore_outcomes(&mut self, open: &Open, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        let (index, minute) = (reader.u64()?, reader.u64()?);
        let statuses = reader.bytes(CHUNK_LEN)?;
        let moved = open.moved(GroupTime(minute.saturating_mul(MINUTE_MS)));
        let minute = moved.ok_or(reader.error("a time after the backup"))?.0 / MINUTE_MS;
        let first = index.saturating_mul(CHUNK_LEN as u64);
        let is_next = self.outcomes.chunks().next_back().is_none_or(|(last, _)| last < index);
        let can_be = |(at, status): (usize, &u8)| {
            let seq = first.saturating_add(at as u64);
            let is_given = (open.first..open.next_tid).contains(&seq);
            *status == 0 || (is_given && !self.globals.contains_key(&Tid::new(self.config.group, seq)))
        };
        let is_possible = is_next && statuses.iter().enumerate().all(can_be);
        let statuses: &[u8; CHUNK_LEN] = statuses.try_into().expect("as many were read");
        if !is_possible || !self.outcomes.load(index, minute, statuses) {
            return Err(reader.error("outcomes that cannot be"));
        }
        Ok(())
    }

    /// All branches of the last transaction were there.
    fn check_last(&self, reader: &Reader<'_>) -> Result<(), DecodeError> {
        match self.globals.last() {
            Some((_, global)) if !check_global(global, false) => {
                Err(reader.error("a transaction with nothing left to do"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_on_in_a_block_that_no_other_had() {
        let first = |block: u64| (block << COUNT_BITS) | 1;
        assert_eq!(above(first(7) + 99, first(9)), Some(first(9)), "its own is above");
        for own in 1..9 {
            let next = above(first(9) + 99, first(own)).expect("there is room");
            assert!(next > first(10) - 1 && next >> 55 == 0, "{own}");
        }
        assert_ne!(above(first(9), first(1)), above(first(9), first(2)));
        let most = (1 << CLUSTER_BITS) - 2;
        assert_eq!(above(first(most), first(3)), None, "no block is left");
        assert_eq!(above(first(most - 1), first(3)), Some(first(most)));
    }
}
