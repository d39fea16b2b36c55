//! The machine's snapshot: frames, each a length (u64, little endian) and that many bytes, of which the first is the
//! kind. One header, the open transactions in id order, the origins in order, the outcome chunks in order, the acts of
//! operators in order, in format 5 the service groups, one end.
//! Locks are not written: they follow from the branches. The state hash covers the same.

use std::sync::Arc;

use bytes::Bytes;
use settle_base::{GroupTime, fingerprint};
use settle_machine::{LoadError, SnapshotChunks};

use crate::{
    Branch, BranchStatus, DecodeError, Direction, Global, GlobalStatus, MachineConfig, Tid, TxMachine, Xid,
    audit::{get_record, put_record},
    command::{get_branch, get_code, get_tid, put_branch, put_tid},
    dedup::{ORIGINS_MAX, Origin, RESULTS_MAX},
    dedup_codec::{get_result, put_result},
    encoding::{Reader, get_option, put_option, put_str, put_u64},
    global::Moment,
    names::{LocalNumber, Name},
    outcome::{CHUNK_LEN, OutcomeChunk},
    restore::{get_restore, put_restore},
};

/// Of a group that knows nothing of moved service groups; a build of version 4 reads it.
const FORMAT: u8 = 4;
/// The same with a frame of service groups.
const FORMAT_OF_MOVES: u8 = 5;
const HEADER: u8 = 1;
const GLOBAL: u8 = 2;
const ORIGIN: u8 = 3;
const OUTCOMES: u8 = 4;
const END: u8 = 5;
const ACT: u8 = 6;
const SERVICE_GROUPS: u8 = 7;

/// In place of a branch's last failure; no branch status.
const NO_FAILURE: u8 = 0xff;

/// Frames are gathered into chunks of about this size.
const CHUNK_BYTES: usize = 64 << 10;

/// All parts are shared with the machine, and encoded as they are asked for.
pub(crate) fn chunks(machine: &TxMachine) -> SnapshotChunks {
    let mut header = Vec::new();
    put_header(&mut header, machine);
    let globals = machine.globals.clone().into_entries().map(|(_, global)| {
        let mut out = Vec::new();
        put_global(&mut out, &global);
        out
    });
    let origins = machine.dedup.origins.clone().into_iter().map(|(id, origin)| {
        let mut out = Vec::new();
        put_origin(&mut out, id, &origin);
        out
    });
    let outcomes = machine.outcomes.chunks().map(|(index, chunk)| (index, chunk.clone()));
    let outcomes = outcomes.collect::<Vec<_>>().into_iter();
    let outcomes = outcomes.map(|(index, chunk)| outcome_frame(index, &chunk));
    let acts = machine.audit.clone().into_records().map(|record| {
        let mut out = vec![ACT];
        put_record(&mut out, &record);
        out
    });
    let service_groups = (!machine.service_groups.is_unused()).then(|| {
        let mut out = vec![SERVICE_GROUPS];
        machine.service_groups.put(&mut out);
        out
    });
    let frames = std::iter::once(header)
        .chain(globals)
        .chain(origins)
        .chain(outcomes)
        .chain(acts)
        .chain(service_groups)
        .chain(std::iter::once(vec![END]));
    Box::new(Gathered { frames })
}

/// Frames, gathered into chunks.
struct Gathered<I> {
    frames: I,
}

impl<I: Iterator<Item = Vec<u8>>> Iterator for Gathered<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK_BYTES
            && let Some(frame) = self.frames.next()
        {
            put_frame(&mut chunk, &frame);
        }
        (!chunk.is_empty()).then(|| Bytes::from(chunk))
    }
}

/// What changes with each entry is read here; each part keeps its own digest as it changes.
pub(crate) fn hash(machine: &TxMachine) -> u64 {
    let mut header = Vec::with_capacity(64);
    put_header(&mut header, machine);
    let parts = [
        fingerprint(&header),
        machine.open_digest.value(),
        machine.dedup.digest(),
        machine.outcomes.digest(),
        machine.audit.digest(),
    ];
    let hash = fingerprint(parts.map(u64::to_le_bytes).as_flattened());
    match machine.service_groups.digest() {
        0 => hash,
        moved => fingerprint([hash, moved].map(u64::to_le_bytes).as_flattened()),
    }
}

/// Takes a snapshot in chunks of any size and makes a machine of it, frame by frame.
#[derive(Default)]
pub(crate) struct Loader {
    /// Received and not yet read: less than one frame, and never more than was received.
    bytes: Vec<u8>,
    machine: Option<TxMachine>,
    /// The number of the last act that is to come.
    last_act: u64,
    /// Service groups are to come.
    has_moves: bool,
    has_ended: bool,
}

impl Loader {
    /// # Errors
    /// When the chunks so far are no beginning of a snapshot, or describe a state that cannot be.
    pub(crate) fn take(&mut self, chunk: &[u8]) -> Result<(), LoadError> {
        self.bytes.extend_from_slice(chunk);
        let bytes = std::mem::take(&mut self.bytes);
        let mut rest = &bytes[..];
        while let Some((len, behind)) = rest.split_first_chunk::<8>() {
            let len = u64::from_le_bytes(*len);
            let len = usize::try_from(len).map_err(|_| broken("a frame is larger than memory"))?;
            let Some((frame, behind)) = behind.split_at_checked(len) else {
                break;
            };
            self.frame(frame)?;
            rest = behind;
        }
        let read = bytes.len() - rest.len();
        self.bytes = bytes;
        self.bytes.drain(..read);
        Ok(())
    }

    /// # Errors
    /// When the snapshot is not whole.
    pub(crate) fn finish(self) -> Result<TxMachine, LoadError> {
        if !self.bytes.is_empty() {
            return Err(broken("it ends within a frame"));
        }
        let machine = self.machine.ok_or_else(|| broken("it is empty"))?;
        if !self.has_ended {
            return Err(broken("it has no end"));
        }
        if machine
            .globals
            .keys()
            .any(|tid| machine.outcomes.get(tid.seq()).is_some())
        {
            return Err(broken("a transaction is open and has ended"));
        }
        if !machine.service_groups.is_possible() {
            return Err(broken("a service group is drained and has open transactions"));
        }
        Ok(machine)
    }

    fn frame(&mut self, frame: &[u8]) -> Result<(), LoadError> {
        if self.has_ended {
            return Err(broken("there is more after its end"));
        }
        let Some(machine) = &mut self.machine else {
            let (machine, last_act, has_moves) = read(frame, HEADER, get_header)?;
            (self.machine, self.last_act, self.has_moves) = (Some(machine), last_act, has_moves);
            return Ok(());
        };
        match frame.first() {
            Some(&GLOBAL) => {
                let is_partial = machine.restore.open.is_some();
                let global = read(frame, GLOBAL, |reader| get_global(reader, is_partial))?;
                add_global(machine, global)?;
            }
            Some(&ORIGIN) => {
                let (id, origin) = read(frame, ORIGIN, get_origin)?;
                let last = machine.dedup.origins.last_key_value();
                let is_new = last.is_none_or(|(last, _)| *last < id);
                if !is_new || machine.dedup.origins.len() == ORIGINS_MAX || origin.last_used > machine.time {
                    return Err(broken("an origin is out of order"));
                }
                machine.dedup.load(id, origin);
            }
            Some(&OUTCOMES) => {
                let (index, minute, statuses) = read(frame, OUTCOMES, get_outcomes)?;
                let last = machine.outcomes.chunks().next_back().map(|(last, _)| last);
                let is_possible = last.is_none_or(|last| last < index)
                    && index >= machine.config.first_sequence / CHUNK_LEN as u64
                    && index <= machine.next_tid / CHUNK_LEN as u64
                    && minute <= machine.time.0 / 60_000;
                if !is_possible || !machine.outcomes.load(index, minute, statuses) {
                    return Err(broken("a chunk of outcomes cannot be"));
                }
            }
            Some(&ACT) => {
                let record = read(frame, ACT, get_record)?;
                if record.at > machine.time || !machine.audit.load(record) {
                    return Err(broken("an operator's act is out of order"));
                }
            }
            Some(&SERVICE_GROUPS) if self.has_moves => {
                read(frame, SERVICE_GROUPS, |reader| machine.service_groups.get(reader))?;
                self.has_moves = false;
            }
            Some(&END) => {
                if self.has_moves {
                    return Err(broken("the service groups are missing"));
                }
                if machine.audit.last_number() != self.last_act {
                    return Err(broken("an operator's act is missing"));
                }
                self.has_ended = true;
            }
            _ => return Err(broken("a frame of an unknown kind")),
        }
        Ok(())
    }
}

fn broken(reason: &str) -> LoadError {
    LoadError {
        reason: reason.to_owned(),
    }
}

fn read<'a, T>(
    frame: &'a [u8],
    kind: u8,
    get: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<T, LoadError> {
    let mut reader = Reader::new(frame);
    let read = match reader.u8() {
        Ok(found) if found == kind => get(&mut reader).and_then(|read| reader.finish().map(|()| read)),
        _ => Err(reader.error("a frame of another kind")),
    };
    read.map_err(|error| LoadError {
        reason: format!("frame of kind {kind}: {error}"),
    })
}

fn put_frame(out: &mut Vec<u8>, frame: &[u8]) {
    out.extend_from_slice(&(frame.len() as u64).to_le_bytes());
    out.extend_from_slice(frame);
}

fn outcome_frame(index: u64, chunk: &OutcomeChunk) -> Vec<u8> {
    let mut out = Vec::with_capacity(CHUNK_LEN + 24);
    out.push(OUTCOMES);
    put_u64(&mut out, index);
    put_u64(&mut out, chunk.newest_end_minute);
    out.extend_from_slice(&chunk.statuses[..]);
    out
}

fn get_outcomes<'a>(reader: &mut Reader<'a>) -> Result<(u64, u64, &'a [u8; CHUNK_LEN]), DecodeError> {
    let (index, minute) = (reader.u64()?, reader.u64()?);
    let statuses = reader.bytes(CHUNK_LEN)?;
    let statuses = statuses
        .try_into()
        .map_err(|_| reader.error("a chunk of another size"))?;
    Ok((index, minute, statuses))
}

fn put_header(out: &mut Vec<u8>, machine: &TxMachine) {
    let format = match machine.service_groups.is_unused() {
        true => FORMAT,
        false => FORMAT_OF_MOVES,
    };
    out.extend_from_slice(&[HEADER, format, machine.config.group]);
    for n in [
        machine.config.sessions_max,
        u64::from(machine.config.branches_max),
        machine.config.lock_bytes_max,
        machine.config.branch_bytes_max,
        machine.config.first_sequence,
        machine.config.outcome_retention_ms,
        machine.config.outcome_bytes_max,
        machine.index,
        machine.time.0,
        machine.next_tid,
        machine.next_branch,
        machine.audit.records().len() as u64,
        machine.audit.last_number(),
        machine.skipped,
    ] {
        put_u64(out, n);
    }
    put_restore(out, &machine.restore);
}

/// The machine, the number of the last act that is to come, and whether service groups are.
fn get_header(reader: &mut Reader<'_>) -> Result<(TxMachine, u64, bool), DecodeError> {
    let has_moves = match reader.u8()? {
        FORMAT => false,
        FORMAT_OF_MOVES => true,
        _ => return Err(reader.error("an unknown snapshot format")),
    };
    let group = reader.u8()?;
    if group == 0 {
        return Err(reader.error("group 0 has no transactions"));
    }
    let config = MachineConfig {
        group,
        sessions_max: reader.u64()?,
        branches_max: reader.u32()?,
        lock_bytes_max: reader.u64()?,
        branch_bytes_max: reader.u64()?,
        first_sequence: reader.u64()?,
        outcome_retention_ms: reader.u64()?,
        outcome_bytes_max: reader.u64()?,
    };
    if config.first_sequence == 0 {
        return Err(reader.error("a sequence out of its range"));
    }
    let mut machine = TxMachine::new(config);
    machine.index = reader.u64()?;
    machine.time = GroupTime(reader.u64()?);
    machine.next_tid = reader.u64()?;
    machine.next_branch = reader.u64()?;
    let is_possible = |next: u64| next >= config.first_sequence && next >> 55 == 0;
    if !is_possible(machine.next_tid) || !is_possible(machine.next_branch) {
        return Err(reader.error("a sequence out of its range"));
    }
    let (acts, last_act) = (reader.u64()?, reader.u64()?);
    let behind = last_act
        .checked_sub(acts)
        .ok_or(reader.error("more acts than there were"))?;
    machine.audit.start_behind(behind);
    machine.skipped = reader.u64()?;
    if machine.skipped > machine.next_tid - config.first_sequence {
        return Err(reader.error("more ids skipped than there were"));
    }
    machine.restore = get_restore(reader)?;
    Ok((machine, last_act, has_moves))
}

fn put_global(out: &mut Vec<u8>, global: &Global) {
    out.push(GLOBAL);
    put_global_fields(out, global);
    put_u64(out, global.branches.len() as u64);
    for branch in &global.branches {
        put_branch_fields(out, branch);
    }
}

/// All but its branches.
pub(crate) fn put_global_fields(out: &mut Vec<u8>, global: &Global) {
    put_tid(out, global.tid);
    put_str(out, &global.xid.to_string());
    put_str(out, &global.application);
    put_str(out, &global.service_group);
    put_str(out, &global.name);
    put_u64(out, u64::from(global.timeout_ms));
    put_u64(out, global.begun_at.0);
    out.push(global.status.as_u8());
    put_time(out, global.decided_at());
    out.push(u8::from(global.retry_stopped));
}

pub(crate) fn put_branch_fields(out: &mut Vec<u8>, branch: &Branch) {
    put_branch(out, branch.id);
    out.push(branch.branch_type.as_u8());
    put_str(out, &branch.resource);
    put_str(out, &branch.client);
    out.push(branch.status.as_u8());
    put_str(out, &branch.application_data);
    put_str(out, &branch.lock_keys);
    put_time(out, branch.retrying_since);
    put_u64(out, u64::from(branch.registered_after_ms));
    put_option(out, branch.done_after_ms.map(u64::from));
    put_u64(out, u64::from(branch.failures));
    out.push(branch.last_failure.map_or(NO_FAILURE, BranchStatus::as_u8));
    out.push(u8::from(branch.is_open));
}

/// Some branches of a partial one are still to come.
fn get_global(reader: &mut Reader<'_>, is_partial: bool) -> Result<Global, DecodeError> {
    let mut global = get_global_fields(reader)?;
    for _ in 0..reader.u64()? {
        let branch = get_branch_fields(reader, &global)?;
        global.open_branches += u32::from(branch.is_open);
        global.push_branch(branch);
    }
    match check_global(&global, is_partial) {
        true => Ok(global),
        false => Err(reader.error("a transaction with nothing left to do")),
    }
}

/// Whether a transaction has something left to do.
pub(crate) fn check_global(global: &Global, is_partial: bool) -> bool {
    is_partial || global.status == GlobalStatus::Begin || global.open_branches > 0 || global.is_saga()
}

pub(crate) fn get_global_fields(reader: &mut Reader<'_>) -> Result<Global, DecodeError> {
    let tid = get_tid(reader)?;
    let xid = Xid::parse(reader.str()?).filter(|xid| xid.tid() == tid);
    let global = Global {
        tid,
        xid: xid.ok_or_else(|| reader.error("an xid of another transaction"))?,
        application: Name::from(reader.str()?),
        service_group: Name::from(reader.str()?),
        name: Name::from(reader.str()?),
        timeout_ms: reader.u32()?,
        begun_at: GroupTime(reader.u64()?),
        status: get_code(reader)?,
        decided_at: Moment::new(get_time(reader)?),
        retry_stopped: reader.bool()?,
        branches: Vec::new(),
        open_branches: 0,
        counted: 0,
    };
    let is_begin = global.status == GlobalStatus::Begin;
    let is_open = is_begin || (global.status.direction().is_some() && !global.status.is_ended());
    let is_retry_timeout = matches!(
        global.status,
        GlobalStatus::CommitRetryTimeout | GlobalStatus::RollbackRetryTimeout
    );
    let is_stopped_early = is_begin && global.retry_stopped;
    if !is_open || is_retry_timeout || is_stopped_early || is_begin != global.decided_at().is_none() {
        return Err(reader.error("a status that no open transaction has"));
    }
    Ok(global)
}

/// The next branch of `global`.
pub(crate) fn get_branch_fields(reader: &mut Reader<'_>, global: &Global) -> Result<Branch, DecodeError> {
    let branch = Branch {
        id: get_branch(reader)?,
        branch_type: get_code(reader)?,
        resource: Name::from(reader.str()?),
        client: Name::from(reader.str()?),
        status: get_code(reader)?,
        application_data: reader.str()?.into(),
        lock_keys: reader.str()?.into(),
        retrying_since: get_time(reader)?,
        registered_after_ms: reader.u32()?,
        done_after_ms: match get_option(reader)? {
            None => None,
            Some(ms) => Some(u32::try_from(ms).map_err(|_| reader.error("a number past 32 bits"))?),
        },
        failures: {
            let failures = reader.u64()?;
            u16::try_from(failures).map_err(|_| reader.error("a number past 16 bits"))?
        },
        last_failure: match reader.u8()? {
            NO_FAILURE => None,
            code => Some(BranchStatus::try_from(code).map_err(|_| reader.error("an unknown code"))?),
        },
        is_open: reader.bool()?,
        resource_number: LocalNumber(0),
        counted: 0,
    };
    let may_hold_locks = branch.is_open && global.status.direction() != Some(Direction::Commit);
    if global.branches.last().is_some_and(|last| last.id >= branch.id) {
        return Err(reader.error("branches out of order"));
    }
    if (!may_hold_locks && !branch.lock_keys.is_empty()) || (branch.is_open && branch.status.done().is_some()) {
        return Err(reader.error("a branch that cannot be"));
    }
    Ok(branch)
}

/// Takes in a transaction and locks its rows again.
pub(crate) fn add_global(machine: &mut TxMachine, mut global: Global) -> Result<(), LoadError> {
    let tid = global.tid;
    let of_group = |group: settle_base::GroupId| group.0 == u64::from(machine.config.group);
    let is_next = machine.globals.last().is_none_or(|(last, _)| *last < tid);
    let first = machine.config.first_sequence;
    if !is_next || !of_group(tid.group()) || !(first..machine.next_tid).contains(&tid.seq()) {
        return Err(LoadError {
            reason: format!("transaction {tid} is out of order"),
        });
    }
    let begun_at = global.begun_at;
    let can_be = |time: GroupTime| (begun_at..=machine.time).contains(&time);
    if begun_at > machine.time || !global.decided_at().is_none_or(can_be) {
        return Err(LoadError {
            reason: format!("transaction {tid} is of a time after the snapshot's or before its begin"),
        });
    }
    let branches = std::mem::take(&mut global.branches);
    global.open_branches = 0;
    global.application = machine.names.take(&global.application);
    global.service_group = machine.names.take(&global.service_group);
    global.name = machine.names.take(&global.name);
    global.xid = Xid::new(machine.names.take(global.xid.prefix()), tid);
    machine.open_digest.add(&mut global);
    machine.service_groups.count_begun(&global.service_group);
    machine.globals.insert(tid, Arc::new(global));
    for branch in branches {
        add_branch(machine, tid, branch)?;
    }
    Ok(())
}

/// Takes in the next branch of a transaction and locks its rows again.
pub(crate) fn add_branch(machine: &mut TxMachine, tid: Tid, mut branch: Branch) -> Result<(), LoadError> {
    let cannot = |what: &str| LoadError {
        reason: format!("branch {} of {tid} {what}", branch.id),
    };
    let of_group = branch.id.group() == tid.group();
    let given = machine.config.first_sequence..machine.next_branch;
    if !of_group || !given.contains(&branch.id.seq()) {
        return Err(cannot("was never given"));
    }
    let global = machine
        .globals
        .get_mut(&tid)
        .expect("its transaction was taken in before");
    let times = global.begun_at..=machine.time;
    if !branch.retrying_since.is_none_or(|time| times.contains(&time)) {
        return Err(cannot("is of a time after the snapshot's or before its begin"));
    }
    let resource = machine.names.take(&branch.resource);
    let number = machine.names.number(&resource).expect("it was just taken");
    if machine.locks.check(Some(number), &branch.lock_keys, Some(tid)).is_err() {
        return Err(cannot("cannot hold its locks"));
    }
    machine.locks.take(number, &branch.lock_keys, tid);
    machine.branch_bytes += branch.bytes();
    machine.open_branches += u64::from(branch.is_open);
    branch.client = machine.names.take(&branch.client);
    (branch.resource, branch.resource_number.0) = (resource, number);
    let global = Arc::make_mut(global);
    global.open_branches += u32::from(branch.is_open);
    machine.open_digest.count_branch(tid, &mut branch);
    global.push_branch(branch);
    Ok(())
}

fn put_origin(out: &mut Vec<u8>, id: u64, origin: &Origin) {
    out.push(ORIGIN);
    put_u64(out, id);
    put_u64(out, origin.last_used.0);
    put_u64(out, origin.floor);
    put_u64(out, origin.result_count());
    for (seq, result) in origin.results() {
        put_u64(out, seq);
        put_result(out, result);
    }
}

fn get_origin(reader: &mut Reader<'_>) -> Result<(u64, Origin), DecodeError> {
    let id = reader.u64()?;
    let mut origin = Origin::default();
    origin.last_used = GroupTime(reader.u64()?);
    origin.floor = reader.u64()?;
    let count = reader.u64()?;
    if count > RESULTS_MAX as u64 {
        return Err(reader.error("too many results"));
    }
    let (mut last, mut buffer) = (None, Vec::new());
    for _ in 0..count {
        let seq = reader.u64()?;
        if seq < origin.floor || last.is_some_and(|last| seq <= last) {
            return Err(reader.error("a result out of order"));
        }
        origin.keep(seq, get_result(reader)?, &mut buffer);
        last = Some(seq);
    }
    Ok((id, origin))
}

fn put_time(out: &mut Vec<u8>, time: Option<GroupTime>) {
    put_option(out, time.map(|time| time.0));
}

fn get_time(reader: &mut Reader<'_>) -> Result<Option<GroupTime>, DecodeError> {
    Ok(get_option(reader)?.map(GroupTime))
}
