//! Opening: read what reads, remember who was hurt, keep the evidence, mend the log, and leave what is returned durable.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use settle_base::GroupId;
use settle_storage::{DiskError, DiskErrorKind, DiskRead, FileName, Op};

use crate::{
    LogIdentity, WalError, WalOptions,
    bad_blocks::BadBlocks,
    format::{Lsn, SEGMENT_HEADER_LEN, group_bit, segment_name, segment_number},
    groups::{Damage, GroupIndex, RecoveredGroup},
    marks::{Mark, MarkKind, Marks},
    scan::{Scan, Stop, Tail, corrupt, open_error, place_of},
    spares::{Spares, is_spare},
    unproven::{self, InDoubt, Room},
};

/// What opening found.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RecoveryReport {
    /// There was no log at all: the first opening of a directory, or a lost one.
    pub was_empty: bool,
    pub segments: u64,
    pub batches: u64,
    pub bytes: u64,
    /// Where an unproven, damaged tail was cut off. A group that only the tail knew is in no list: the host must treat
    /// any group that it misses as damaged.
    pub cut: Option<(FileName, u64)>,
    /// Where acknowledged bytes were found damaged, and bridged.
    pub damaged: Vec<(FileName, u64)>,
    /// Copies of segments as they were before they were mended.
    pub evidence: Vec<FileName>,
    /// Segments that were mended without a copy: there were `evidence_files_max` already, or no space.
    pub evidence_skipped: u64,
    /// Written again, since nothing proved the last batches durable; see `unproven.rs`.
    pub copied_bytes: u64,
}

/// See [`crate::record::Record::Resume`].
pub(crate) type KeepsEntries = bool;

/// Everything that `Wal` goes on from.
pub(crate) struct Recovered {
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    pub index: GroupIndex,
    /// Segments kept, and their lengths.
    pub segments: BTreeMap<u64, u64>,
    pub end: Lsn,
    /// Everything before it is durable whatever the system's cache held.
    pub proven: Lsn,
    /// Marked groups, and whether the log says that they have healed.
    pub marked: BTreeMap<GroupId, (Mark, bool)>,
    /// Groups that go on from what could be proven; the log has to say so before anything else of them.
    pub resumed: Vec<(GroupId, KeepsEntries)>,
    /// Of those, groups that the log does not even know.
    pub missing: Vec<GroupId>,
    pub holes_mask: u64,
    /// Spare segments of an earlier process, of unknown contents.
    pub spares: Vec<(FileName, u64)>,
    /// One that was made just now.
    pub new_spare: Option<(FileName, u64)>,
    pub report: RecoveryReport,
}

/// `expected`: groups that must exist. When damage may have hidden one it comes back empty. `traced`: groups that perhaps
/// were here. When damage may have hidden one it is marked, and does not come back.
pub(crate) fn recover(
    disk: &mut impl DiskRead,
    options: &WalOptions,
    identity: LogIdentity,
    expected: &[GroupId],
    traced: &[GroupId],
) -> Result<Recovered, WalError> {
    let disk = &mut BadBlocks::new(disk);
    let files = disk.list().map_err(open_error)?;
    let names = || files.iter().map(|(name, _)| name);
    for file in names().filter(|name| **name == unproven::temporary_name()) {
        disk.run(Op::Remove { file: file.clone() }).map_err(open_error)?;
    }
    let kept: BTreeSet<FileName> = names().filter(|name| is_evidence(name)).cloned().collect();
    let (spares, files): (Vec<_>, Vec<_>) = files.into_iter().partition(|(name, _)| is_spare(name));
    let mut room = Room {
        spares: keep_spares(disk, options, spares)?,
        evidence: Vec::new(),
    };
    let segments = files
        .into_iter()
        .filter_map(|(name, len)| Some((segment_number(&name)?, len)));
    let old_marks = Marks::read(disk).map_err(open_error)?;
    // Without a readable file no healing is known to be later than the damage.
    let marks_lsn = old_marks.as_ref().map_or(Lsn(u64::MAX), |m| m.lsn);
    let mut scan = Scan::new(identity, segments.collect(), marks_lsn);
    let (stop, tail) = scan.read(disk)?;
    let hurt = hurt(&mut scan, stop, &tail, old_marks.as_ref(), expected, traced);
    for rebuild in scan.groups.values() {
        if !rebuild.known.is_contiguous() {
            let groups = vec![rebuild.known.group];
            let what = "entries are missing before those that are left";
            return Err(corrupt(stop.segment, stop.offset, groups, what));
        }
    }
    keep_evidence(&mut scan, disk, options, &kept)?;
    room.evidence = scan.report.evidence.iter().chain(kept.iter().rev()).cloned().collect();
    let mut marks = mark(&mut scan, disk, &mut room, old_marks, &hurt)?;
    // What cannot be read cannot be written over in part: such segments are copied.
    let bad = disk.files();
    scan.has_bad_blocks = scan
        .files
        .keys()
        .copied()
        .filter(|n| bad.contains(&segment_name(*n)))
        .collect();
    room.with(disk, |disk| bridge(&mut scan, disk)).map_err(open_error)?;
    cut(&mut scan, disk, stop, &tail)?;
    if let Some(in_doubt) = unproven::make_durable(&mut scan, disk, &mut room)? {
        doubt(&mut scan, disk, &mut room, &mut marks, &in_doubt)?;
    }
    let made = scan.report.evidence.len();
    scan.report.evidence.retain(|name| room.evidence.contains(name));
    scan.report.evidence_skipped += (made - scan.report.evidence.len()) as u64;
    let new_spare = match room.spares.is_empty() && options.spares_max > 0 {
        true => Spares::make(disk, options.segment_bytes).map_err(open_error)?,
        false => None,
    };
    Ok(Recovered {
        new_spare,
        spares: room.spares,
        ..finish(scan, marks, hurt)
    })
}

/// Marks, durably, the groups that may yet lose something of what was read.
fn doubt(
    scan: &mut Scan,
    disk: &mut impl DiskRead,
    room: &mut Room,
    marks: &mut BTreeMap<GroupId, Mark>,
    in_doubt: &InDoubt,
) -> Result<(), WalError> {
    let known = scan.known_in(in_doubt.group_mask);
    let is_new = |group: &GroupId| !marks.contains_key(group) || scan.healed.contains(group);
    let new: Vec<_> = known.into_iter().filter(is_new).collect();
    if new.is_empty() {
        return Ok(());
    }
    marks.retain(|group, _| !scan.healed.contains(group));
    scan.healed.clear();
    marks.extend(new.into_iter().map(|group| (group, in_doubt.at)));
    let (lsn, groups) = (scan.end, marks.clone());
    let file = Marks { lsn, groups };
    room.with(disk, |disk| file.write(disk)).map_err(open_error)
}

/// Those that can become segments; the others go.
fn keep_spares(
    disk: &mut impl DiskRead,
    options: &WalOptions,
    found: Vec<(FileName, u64)>,
) -> Result<Vec<(FileName, u64)>, WalError> {
    let fits = |(_, len): &(FileName, u64)| *len == options.segment_bytes;
    let (mut kept, mut useless): (Vec<_>, Vec<_>) = found.into_iter().partition(fits);
    useless.extend(kept.drain(options.spares_max.min(kept.len())..));
    for (file, _) in useless {
        disk.run(Op::Remove { file }).map_err(open_error)?;
    }
    Ok(kept)
}

/// Who may have lost something.
struct Hurt {
    marks: BTreeMap<GroupId, Mark>,
    resumed: Vec<(GroupId, KeepsEntries)>,
    missing: Vec<GroupId>,
}

fn hurt(
    scan: &mut Scan,
    stop: Stop,
    tail: &Tail,
    old_marks: Option<&Marks>,
    expected: &[GroupId],
    traced: &[GroupId],
) -> Hurt {
    let mut marks = BTreeMap::new();
    let (mut resumed, mut missing) = (Vec::new(), Vec::new());
    let (segment, offset) = (stop.segment, stop.offset);
    if tail.damage.is_some() {
        let kind = match tail.is_proven {
            true => MarkKind::Middle,
            false => MarkKind::LastBatch,
        };
        let at = Mark { kind, segment, offset };
        marks.extend(scan.known_in(tail.group_mask).into_iter().map(|group| (group, at)));
    }
    // Older segments went because a snapshot was durable, and that was lost with the tail: what is left follows a gap.
    for rebuild in scan.groups.values_mut().filter(|r| !r.known.is_contiguous()) {
        let kind = MarkKind::Middle;
        rebuild.lose(Mark { kind, segment, offset }, &scan.index);
    }
    for (&group, rebuild) in &mut scan.groups {
        if let Some((at, keeps_entries)) = rebuild.resume(&mut scan.index) {
            marks.insert(group, at);
            resumed.push((group, keeps_entries));
        }
    }
    // Every expected group was in the log before the directory named its cluster: whatever is damaged hides it.
    // An earlier start may have taken the damage away, and ended before it could write what it knew.
    let is_marked = |group: &GroupId| old_marks.is_none_or(|marks| marks.groups.contains_key(group));
    let is_damaged = |group: &GroupId| scan.holes_mask & group_bit(*group) != 0 || tail.damage.is_some();
    let is_hidden = |group: &GroupId| is_damaged(group) || is_marked(group);
    for &group in traced.iter().filter(|group| is_hidden(group)) {
        if !scan.groups.contains_key(&group) {
            // Not even that it was here is certain.
            let kind = MarkKind::LastBatch;
            marks.insert(group, Mark { kind, segment, offset });
        }
    }
    for &group in expected.iter().filter(|group| is_hidden(group)) {
        if !scan.groups.contains_key(&group) {
            let kind = MarkKind::Middle;
            let hole = scan.holes.first().map(|hole| (hole.segment, hole.offset));
            let (segment, offset) = hole.unwrap_or((segment, offset));
            marks.insert(group, Mark { kind, segment, offset });
            resumed.push((group, true));
            missing.push(group);
        }
    }
    if settle_base::mutant!("middle_damage_ignored") {
        marks.retain(|_, mark| mark.kind != MarkKind::Middle);
    }
    Hurt {
        marks,
        resumed,
        missing,
    }
}

const EVIDENCE: &str = "damaged-";

/// Whether a file is a damaged one that was set aside. Nothing reads it.
pub fn is_evidence(name: &FileName) -> bool {
    name.as_str().starts_with(EVIDENCE)
}

/// What the damaged `file` is called when it is set aside.
pub fn evidence_name(file: &FileName) -> FileName {
    let mut name = format!("{EVIDENCE}{file}");
    name.truncate(64);
    FileName::new(&name).expect("a name in front of a valid one, not too long")
}

/// Copies what is about to be mended.
fn keep_evidence(
    scan: &mut Scan,
    disk: &mut impl DiskRead,
    options: &WalOptions,
    kept: &BTreeSet<FileName>,
) -> Result<(), WalError> {
    let holes = scan.holes.iter().map(|hole| (hole.segment, hole.offset));
    let headers = scan.headers.iter().map(|(segment, _)| (*segment, 0));
    let places: Vec<_> = holes
        .chain(headers)
        .chain(scan.unreadable.iter().map(|s| (*s, 0)))
        .collect();
    let damaged = places.iter().map(|(segment, offset)| (segment_name(*segment), *offset));
    scan.report.damaged = damaged.collect();
    let segments: BTreeMap<u64, u64> = places.into_iter().rev().collect();
    let mut count = kept.len();
    for (segment, offset) in segments {
        let from = segment_name(segment);
        let to = format!("{EVIDENCE}wal-{segment:016x}-{offset:x}");
        let to = FileName::new(&to).expect("two numbers fit a name");
        if kept.contains(&to) {
            continue;
        }
        if count >= options.evidence_files_max {
            scan.report.evidence_skipped += 1;
            continue;
        }
        match copy(disk, &from, to.clone()) {
            Ok(()) => {
                count += 1;
                scan.report.evidence.push(to);
            }
            // A node that cannot start heals nobody.
            Err(error) if error.kind == DiskErrorKind::NoSpace => scan.report.evidence_skipped += 1,
            Err(error) => return Err(open_error(error)),
        }
    }
    Ok(())
}

/// Durable on return, whole or not there.
fn copy(disk: &mut impl DiskRead, from: &FileName, to: FileName) -> Result<(), DiskError> {
    const STEP: usize = 256 << 10;
    let file = unproven::temporary_name();
    let create = Op::Create {
        file: file.clone(),
        reserve: 0,
    };
    disk.run(create)?;
    let mut offset = 0;
    let copied = loop {
        let data = disk.read(from, offset, STEP)?;
        if data.is_empty() {
            break Ok(());
        }
        let len = data.len() as u64;
        let file = file.clone();
        if let Err(error) = disk.run(Op::Write { file, offset, data }) {
            break Err(error);
        }
        offset += len;
    };
    let copied = copied.and_then(|()| disk.run(Op::Sync { file: file.clone() }));
    if copied.is_err() {
        disk.run(Op::Remove { file })?;
        return copied;
    }
    disk.run(Op::Rename { from: file, to })
}

/// Remembers, durably, who is recovering, before the evidence goes.
fn mark(
    scan: &mut Scan,
    disk: &mut impl DiskRead,
    room: &mut Room,
    old: Option<Marks>,
    hurt: &Hurt,
) -> Result<BTreeMap<GroupId, Mark>, WalError> {
    let unreadable = old.is_none();
    let mut marks = old.map(|m| m.groups).unwrap_or_default();
    let had_file = unreadable || !marks.is_empty();
    if unreadable {
        let (kind, segment, offset) = (MarkKind::LastBatch, 0, 0);
        let somewhere = Mark { kind, segment, offset };
        marks.extend(scan.groups.keys().map(|group| (*group, somewhere)));
    }
    if hurt.marks.is_empty() && !unreadable {
        let all_healed = marks.keys().all(|group| scan.healed.contains(group));
        if had_file && all_healed {
            Marks::remove(disk).map_err(open_error)?;
            marks.clear();
        }
        return Ok(marks);
    }
    // The file is written anew with a later Lsn: from there on only later healing counts.
    marks.retain(|group, _| !scan.healed.contains(group));
    scan.healed.clear();
    marks.extend(&hurt.marks);
    let lsn = scan.end;
    let file = Marks { lsn, groups: marks };
    room.with(disk, |disk| file.write(disk)).map_err(open_error)?;
    Ok(file.groups)
}

/// Makes the log read through what is damaged in its middle. Each write stands alone: a crash between two of them leaves
/// a log with less damage.
fn bridge(scan: &mut Scan, disk: &mut impl DiskRead) -> Result<(), DiskError> {
    let mut mended = BTreeSet::new();
    for (number, offset, data) in scan.mends() {
        if scan.has_bad_blocks.contains(&number) {
            continue;
        }
        let len = scan.files.entry(number).or_default();
        *len = (*len).max(offset + data.len() as u64);
        let file = segment_name(number);
        disk.run(Op::Write { file, offset, data })?;
        mended.insert(number);
    }
    for number in mended {
        let file = segment_name(number);
        disk.run(Op::Sync { file })?;
    }
    for &number in &scan.unreadable {
        let file = segment_name(number);
        disk.run(Op::Remove { file })?;
    }
    Ok(())
}

/// Takes everything from the stop on off the disk.
fn cut(scan: &mut Scan, disk: &mut impl DiskRead, stop: Stop, tail: &Tail) -> Result<(), WalError> {
    if tail.damage.is_some() {
        scan.report.cut = Some((segment_name(stop.segment), stop.offset));
        if tail.is_proven {
            let (segment, offset) = place_of(stop, tail);
            scan.report.damaged.push((segment_name(segment), offset));
        }
    }
    // From the last down: whatever a crash leaves is again a log with a damaged tail.
    let last = scan.ends.last_key_value().map(|(number, (len, _))| (*number, *len));
    let keep = last
        .filter(|(_, len)| *len > SEGMENT_HEADER_LEN as u64)
        .map(|(number, _)| number);
    let keep_below = keep.map_or_else(|| last.map_or(0, |(number, _)| number), |number| number + 1);
    let doomed: Vec<_> = scan.files.range(keep_below..).map(|(number, _)| *number).collect();
    for number in doomed.into_iter().rev() {
        let file = segment_name(number);
        disk.run(Op::Remove { file }).map_err(open_error)?;
        scan.files.remove(&number);
    }
    scan.ends.retain(|number, _| *number < keep_below);
    let is_copied = |number: &u64| !scan.unproven.is_empty() || scan.has_bad_blocks.contains(number);
    if let Some(number) = keep.filter(|number| !is_copied(number))
        && scan.files.get(&number).is_some_and(|len| *len > stop.offset)
    {
        let (file, len) = (segment_name(number), stop.offset);
        disk.run(Op::Truncate {
            file: file.clone(),
            len,
        })
        .map_err(open_error)?;
        disk.run(Op::Sync { file }).map_err(open_error)?;
        scan.files.insert(number, len);
    }
    Ok(())
}

fn finish(mut scan: Scan, marks: BTreeMap<GroupId, Mark>, hurt: Hurt) -> Recovered {
    let mut groups: BTreeMap<_, _> = scan.groups.into_iter().map(|(group, r)| (group, r.known)).collect();
    unpin(&mut groups, scan.report.bytes);
    groups.extend(hurt.missing.iter().map(|group| (*group, RecoveredGroup::new(*group))));
    let mut marked = BTreeMap::new();
    for (group, at) in marks {
        let healed = scan.healed.contains(&group);
        marked.insert(group, (at, healed));
        if let Some(recovered) = groups.get_mut(&group)
            && !healed
        {
            recovered.damage = at.damage();
        }
    }
    scan.report.segments = scan.files.len() as u64;
    Recovered {
        groups,
        index: scan.index,
        segments: scan.files,
        end: scan.end,
        // What is behind the last batch with records needs no proof.
        proven: scan.unproven.front().map_or(scan.end, |_| scan.proven),
        marked,
        resumed: hurt.resumed,
        missing: hurt.missing,
        holes_mask: scan.holes_mask,
        spares: Vec::new(),
        new_spare: None,
        report: scan.report,
    }
}

/// Entries are slices of what was read, and one keeps all of it in memory. Where most of that is dead, the living are
/// copied out: so a log never takes more than about twice what lives in it.
fn unpin(groups: &mut BTreeMap<GroupId, RecoveredGroup>, bytes_read: u64) {
    let entries = || groups.values().flat_map(|group| &group.entries);
    let live: u64 = entries().map(|entry| entry.data.len() as u64).sum();
    if live > bytes_read / 2 {
        return;
    }
    for entry in groups.values_mut().flat_map(|group| &mut group.entries) {
        entry.data = Bytes::copy_from_slice(&entry.data);
    }
}

impl Mark {
    fn damage(self) -> Damage {
        let (file, offset) = (segment_name(self.segment), self.offset);
        match self.kind {
            MarkKind::LastBatch => Damage::LastBatch { file, offset },
            MarkKind::Middle => Damage::Middle { file, offset },
            MarkKind::SnapshotFile => Damage::SnapshotFile,
        }
    }
}
