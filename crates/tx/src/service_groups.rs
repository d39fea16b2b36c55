//! Where the transactions of a service group begin, and how that is changed while the cluster runs.
//!
//! Row locks are a group's own: two transactions that change the same row must not be in two groups. So a service group
//! moves by draining. The cluster's *first group* keeps the table (a name's [`Place`]) and the moves under way; every group
//! keeps a [`Mark`] for each name that it was told about. A name without a place begins where the configuration says, and
//! a name without a mark is open. A move takes an epoch `e` that is above all before, and `e + 1` for its cancellation.
//!
//! 1. **The act**, in the first group. From here on the move is in its log, and whoever leads it goes on with it.
//! 2. **Close**(e) in *every* group: from its apply on nothing begins there for these names. In every group and not only in
//!    the old one, since one that was restored from a backup, or a server with another configuration, may have begun them
//!    where nobody expects it. What is open goes on: branches, decisions, second phases, and in the old group also the
//!    questions for locks, since its transactions are the only ones that can hold them.
//! 3. **Drain**(e) in every group but the new one, the old one last: when nothing of these names is open there *at apply*,
//!    the mark is Drained for good, else nothing happens and it is asked again. Closed before, it stays so: no begin can
//!    come between. From here on the group answers no question for locks either. A server whose replica of the table lags
//!    would hear "not locked" of a group in which nothing can be locked any more.
//! 4. **Open**(e) in the new group, which is Closed(e) since step 2.
//! 5. **Finish** in the first group: the table says the new group. Only now do servers begin there; one that lags asks the
//!    old group, is refused, and looks again.
//!
//! *Why no row is locked twice.* A begin in the new group follows Finish, which follows Open(e), which follows Drained(e) in
//! all others, after which nothing is open in them nor ever begins under a mark of `e`. A higher mark is of a later move or
//! of the cancellation, and both have this group's log behind them.
//!
//! *Why a step may come late or twice.* A step changes a mark of a lower epoch, or one of its own epoch in the one order
//! Closed, then Drained or Open. A step of an earlier move finds a higher epoch, also after a move there and back.
//!
//! *Cancelling.* [`MoveStep::Reopen`] in the old group makes it Open(e + 1), unless it is Drained(e): whichever is first in
//! that log stands, and the first group is told which. Until the old group is drained, the last of them, a move can so be
//! cancelled; from then on nothing that a client does keeps it from its end. A cancelled name is open in the old group at
//! e + 1, and Closed or Drained at e elsewhere, which the next move finds below its own epoch.
//!
//! *Backups* are of one group each and of no common moment, so the table of one and the transactions of another may
//! disagree. A first group that is restored with places therefore moves every name to where it is, at epochs above all that
//! the old cluster can have given: steps 2 to 5 close it everywhere and end what is open elsewhere before it begins again.
//! What is in a group whose marks the table does not account for (its backup was taken later) cannot be told: servers refuse
//! to begin it ([`Place::accounts_for`]) until an operator moves it to a group of his choice, which is not cancelled. A group that was told of moves
//! takes no backup any more, so that the first group is restored last.

use std::{collections::BTreeMap, sync::Arc};

use settle_base::{FixedMap, GroupTime, fingerprint};

use crate::{
    ActKind, AuditRecord, DecodeError, GlobalStatus, Reply, Signed, TxEffect, TxError, TxMachine,
    audit::cut,
    command::get_code,
    encoding::{Reader, put_str, put_u64},
};

/// Names that have a place, at most. So a cluster gives a group marks for so many names.
pub const SERVICE_GROUPS_MAX: usize = 1_024;
/// Marks with which a group is told of no move of further names: only backups of other clusters bring so many.
const MARKS_MAX: usize = 4 * SERVICE_GROUPS_MAX;
/// Marks that are read: with those that a move needs to be ended although there were too many to begin it.
const MARKS_READ_MAX: usize = 2 * MARKS_MAX;
/// Service groups of one move, at most.
pub const MOVE_NAMES_MAX: usize = 64;
/// Bytes of the name of a service group that is moved, at most: 256 characters of any kind.
pub const SERVICE_GROUP_BYTES_MAX: usize = 1_024;
/// The cluster version from which on service groups are moved.
pub const MOVES_SINCE: u32 = 5;

/// Epochs are below; the upper half is for those that a cluster gives when it was told of one that can hardly be.
const EPOCH_MAX: u64 = 1 << 62;
/// How far above a backup's a restored group's epochs go on: the old cluster has not made so many moves since.
const EPOCHS_OF_A_CLUSTER: u64 = 1 << 32;

/// How a group stands to a service group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Stage {
    Open = 1,
    /// Nothing begins; what is open goes on.
    Closed = 2,
    /// Nothing is open, and nothing begins.
    Drained = 3,
}

/// What a group was told last of a service group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    pub epoch: u64,
    pub stage: Stage,
    /// The group that it moves to by this epoch.
    pub to: u8,
}

/// Where a service group begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub group: u8,
    /// Of the move that brought it there; 0 when none has.
    pub epoch: u64,
    /// The epoch of the move that is under way.
    pub moving: Option<u64>,
}

/// A move that has not ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    pub epoch: u64,
    /// Sorted.
    pub names: Vec<Arc<str>>,
    pub from: u8,
    pub to: u8,
    /// Some group may have transactions of it that the table does not account for, so that it is not cancelled: where it
    /// was it would begin beside them.
    pub is_repair: bool,
    /// It is to be cancelled, if it still can.
    pub is_cancelled: bool,
    pub begun_at: GroupTime,
}

/// What a group is told of a move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MoveStep {
    Close { to: u8 },
    Drain,
    Open,
    Reopen,
}

impl TryFrom<u8> for Stage {
    type Error = crate::UnknownCode;

    fn try_from(code: u8) -> Result<Stage, crate::UnknownCode> {
        let all = [Stage::Open, Stage::Closed, Stage::Drained];
        all.into_iter()
            .find(|stage| *stage as u8 == code)
            .ok_or(crate::UnknownCode {
                what: "stage of a service group",
                code,
            })
    }
}

impl Place {
    /// Whether a mark of this epoch is of a move that the table knows of.
    pub fn accounts_for(place: Option<&Place>, epoch: u64) -> bool {
        let known = place.map_or(0, |place| place.moving.map_or(place.epoch, |moving| moving + 1));
        epoch <= known
    }
}

/// A group's part in moves, and in the first group the table.
#[derive(Default)]
pub(crate) struct ServiceGroups {
    places: BTreeMap<Arc<str>, Place>,
    moves: BTreeMap<u64, Move>,
    last_epoch: u64,
    marks: BTreeMap<Arc<str>, Mark>,
    /// Of the four above; 0 when there was never a move.
    digest: u64,
    /// Open transactions of each service group. Not written: they follow from the transactions.
    open: FixedMap<Arc<str>, u64>,
}

impl ServiceGroups {
    /// There was never a move, and this build's formats are those of the version before.
    pub fn is_unused(&self) -> bool {
        self.last_epoch == 0 && self.marks.is_empty()
    }

    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn count_begun(&mut self, name: &Arc<str>) {
        *self.open.entry(Arc::clone(name)).or_insert(0) += 1;
    }

    pub fn count_ended(&mut self, name: &str) {
        let open = self.open.get_mut(name).expect("an open transaction was counted");
        *open -= 1;
        if *open == 0 {
            self.open.remove(name);
        }
    }

    fn open_of<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> u64 {
        names.into_iter().filter_map(|name| self.open.get(name)).sum()
    }

    fn changed(&mut self) {
        let mut bytes = Vec::new();
        self.put(&mut bytes);
        self.digest = match self.is_unused() {
            true => 0,
            false => fingerprint(&bytes),
        };
    }

    /// Sets the marks of names that are below the epoch, or of it where `is_next` says so.
    fn set(&mut self, names: &[&str], mark: Mark, is_next: impl Fn(Stage) -> bool) {
        for name in names {
            let is_late = settle_base::mutant!("late_step_of_a_move");
            match self.marks.get_mut(*name) {
                Some(old) if old.epoch < mark.epoch || is_late || (old.epoch == mark.epoch && is_next(old.stage)) => {
                    *old = mark;
                }
                Some(_) => {}
                None => drop(self.marks.insert(Arc::from(*name), mark)),
            }
        }
        self.changed();
    }

    /// How all of the names stand by this epoch, if they do.
    fn stage_at(&self, names: &[&str], epoch: u64) -> Option<Stage> {
        let stage = |name: &&str| {
            self.marks
                .get(*name)
                .filter(|mark| mark.epoch == epoch)
                .map(|mark| mark.stage)
        };
        let first = stage(names.first()?)?;
        names.iter().all(|name| stage(name) == Some(first)).then_some(first)
    }

    /// # Panics
    /// When it contradicts itself, or the transactions that are open.
    pub fn check<'a>(&self, open: impl Iterator<Item = &'a Arc<str>>) {
        let mut counted: FixedMap<Arc<str>, u64> = FixedMap::default();
        for name in open {
            *counted.entry(Arc::clone(name)).or_insert(0) += 1;
        }
        assert!(counted == self.open, "open transactions by service group");
        assert!(self.places.len() <= SERVICE_GROUPS_MAX && self.marks.len() <= MARKS_READ_MAX);
        for (name, place) in &self.places {
            let under_way = place.moving.map(|epoch| &self.moves[&epoch]);
            assert!(under_way.is_none_or(|a_move| a_move.names.contains(name)), "{name}");
            assert!(place.epoch <= self.last_epoch, "{name}");
        }
        for (epoch, a_move) in &self.moves {
            assert!(*epoch == a_move.epoch && *epoch < self.last_epoch, "move {epoch}");
            for name in &a_move.names {
                let place = &self.places[name];
                assert!(place.moving == Some(*epoch) && place.group == a_move.from, "{name}");
            }
        }
        for (name, mark) in &self.marks {
            let open = self.open.get(name).copied().unwrap_or_default();
            let is_empty = mark.stage != Stage::Drained || open == 0;
            assert!(
                is_empty || settle_base::mutant!("move_without_drain"),
                "{name} is drained and has {open}"
            );
        }
        let mut bytes = Vec::new();
        self.put(&mut bytes);
        assert!(
            self.digest == fingerprint(&bytes) || self.is_unused(),
            "the digest of service groups"
        );
    }

    /// Numbers, then places, moves and marks, each with their count.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, self.last_epoch);
        put_u64(out, self.places.len() as u64);
        for (name, place) in &self.places {
            put_str(out, name);
            out.push(place.group);
            put_u64(out, place.epoch);
        }
        put_u64(out, self.moves.len() as u64);
        for a_move in self.moves.values() {
            put_u64(out, a_move.epoch);
            put_u64(out, a_move.names.len() as u64);
            for name in &a_move.names {
                put_str(out, name);
            }
            out.push(a_move.from);
            out.push(a_move.to);
            out.push(u8::from(a_move.is_repair));
            out.push(u8::from(a_move.is_cancelled));
            put_u64(out, a_move.begun_at.0);
        }
        put_u64(out, self.marks.len() as u64);
        for (name, mark) in &self.marks {
            put_str(out, name);
            put_u64(out, mark.epoch);
            out.push(mark.stage as u8);
            out.push(mark.to);
        }
    }

    /// Takes in what [`ServiceGroups::put`] wrote, in place of what is here but for the open transactions.
    pub fn get(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        let mut read = ServiceGroups {
            last_epoch: get_epoch(reader)?,
            ..ServiceGroups::default()
        };
        for _ in 0..get_count(reader, SERVICE_GROUPS_MAX)? {
            let name = Arc::from(get_name(reader)?);
            let (group, epoch, moving) = (get_group(reader)?, get_epoch(reader)?, None);
            let is_next = read.places.last_key_value().is_none_or(|(last, _)| *last < name);
            if !is_next || epoch > read.last_epoch {
                return Err(reader.error("the place of a service group cannot be"));
            }
            read.places.insert(name, Place { group, epoch, moving });
        }
        for _ in 0..get_count(reader, SERVICE_GROUPS_MAX)? {
            let epoch = get_epoch(reader)?;
            let names: Vec<Arc<str>> = get_names(reader)?.into_iter().map(Arc::from).collect();
            let a_move = Move {
                epoch,
                names,
                from: get_group(reader)?,
                to: get_group(reader)?,
                is_repair: reader.bool()?,
                is_cancelled: reader.bool()?,
                begun_at: GroupTime(reader.u64()?),
            };
            let is_next = read.moves.last_key_value().is_none_or(|(last, _)| *last < epoch);
            let is_placed = |name: &Arc<str>| {
                let place = read.places.get(name);
                place.is_some_and(|place| place.group == a_move.from && place.moving.is_none() && place.epoch < epoch)
            };
            if !is_next || epoch >= read.last_epoch || !a_move.names.iter().all(is_placed) {
                return Err(reader.error("a move of service groups cannot be"));
            }
            for name in &a_move.names {
                read.places.get_mut(name).expect("it was just found").moving = Some(epoch);
            }
            read.moves.insert(epoch, a_move);
        }
        for _ in 0..get_count(reader, MARKS_READ_MAX)? {
            let name = Arc::from(get_name(reader)?);
            let mark = Mark {
                epoch: get_epoch(reader)?,
                stage: get_code(reader)?,
                to: get_group(reader)?,
            };
            if read.marks.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return Err(reader.error("the mark of a service group is out of order"));
            }
            read.marks.insert(name, mark);
        }
        read.open = std::mem::take(&mut self.open);
        *self = read;
        self.changed();
        Ok(())
    }

    /// What was drained in a snapshot has nothing open.
    pub fn is_possible(&self) -> bool {
        let is_empty = |(name, mark): (&Arc<str>, &Mark)| mark.stage != Stage::Drained || !self.open.contains_key(name);
        self.marks.iter().all(is_empty)
    }

    /// A backup was taken in: see the module's head.
    fn restored(&mut self, now: GroupTime) {
        let places: Vec<(Arc<str>, Place)> = std::mem::take(&mut self.places).into_iter().collect();
        self.moves.clear();
        if self.last_epoch > 0 {
            self.last_epoch = (self.last_epoch + EPOCHS_OF_A_CLUSTER).min(EPOCH_MAX / 2);
        }
        let mut by_group: BTreeMap<u8, Vec<Arc<str>>> = BTreeMap::new();
        for (name, place) in places {
            by_group.entry(place.group).or_default().push(Arc::clone(&name));
            self.places.insert(name, Place { moving: None, ..place });
        }
        for (group, names) in by_group {
            for names in names.chunks(MOVE_NAMES_MAX) {
                self.begin_move(names.to_vec(), (group, group), 0, true, now);
            }
        }
        self.changed();
    }

    fn begin_move(
        &mut self,
        names: Vec<Arc<str>>,
        (from, to): (u8, u8),
        above: u64,
        is_repair: bool,
        now: GroupTime,
    ) -> u64 {
        let epoch = self.last_epoch.max(above.min(EPOCH_MAX / 2)) + 1;
        self.last_epoch = epoch + 1;
        for name in &names {
            let unplaced = Place {
                group: from,
                epoch: 0,
                moving: None,
            };
            let place = self.places.entry(Arc::clone(name)).or_insert(unplaced);
            assert!(
                place.moving.is_none() && place.group == from,
                "{name} moves once at a time"
            );
            place.moving = Some(epoch);
        }
        let a_move = Move {
            epoch,
            names,
            from,
            to,
            is_repair,
            is_cancelled: false,
            begun_at: now,
        };
        self.moves.insert(epoch, a_move);
        epoch
    }
}

pub(crate) fn get_epoch(reader: &mut Reader<'_>) -> Result<u64, DecodeError> {
    match reader.u64()? {
        epoch if epoch < EPOCH_MAX => Ok(epoch),
        _ => Err(reader.error("an epoch that no move has")),
    }
}

pub(crate) fn get_group(reader: &mut Reader<'_>) -> Result<u8, DecodeError> {
    match reader.u8()? {
        0 => Err(reader.error("group 0 has no transactions")),
        group => Ok(group),
    }
}

pub(crate) fn get_name<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    match reader.str()? {
        name if name.is_empty() || name.len() > SERVICE_GROUP_BYTES_MAX => {
            Err(reader.error("a service group without a name, or with one that is too long"))
        }
        name => Ok(name),
    }
}

/// The names of a move: some, sorted, each once.
pub(crate) fn get_names<'a>(reader: &mut Reader<'a>) -> Result<Vec<&'a str>, DecodeError> {
    let mut names: Vec<&str> = Vec::new();
    for _ in 0..get_count(reader, MOVE_NAMES_MAX)? {
        let name = get_name(reader)?;
        if names.last().is_some_and(|last| *last >= name) {
            return Err(reader.error("service groups out of order"));
        }
        names.push(name);
    }
    match names.is_empty() {
        true => Err(reader.error("a move of nothing")),
        false => Ok(names),
    }
}

fn get_count(reader: &mut Reader<'_>, most: usize) -> Result<usize, DecodeError> {
    match reader.u64()? {
        count if count <= most as u64 => Ok(count as usize),
        _ => Err(reader.error("too many service groups")),
    }
}

/// What an operator asks, as [`CommandBody::MoveServiceGroups`](crate::CommandBody::MoveServiceGroups) has it.
pub(crate) struct MoveAct<'a> {
    pub names: &'a [(&'a str, u8)],
    pub to: u8,
    pub above: u64,
    pub is_repair: bool,
    pub signed: &'a Signed<&'a str>,
}

impl TxMachine {
    /// Where the table has the service group. Of the first group alone.
    pub fn place_of(&self, name: &str) -> Option<&Place> {
        self.service_groups.places.get(name)
    }

    /// The table, by name.
    pub fn places(&self) -> impl Iterator<Item = (&Arc<str>, &Place)> {
        self.service_groups.places.iter()
    }

    /// Moves that have not ended, oldest first.
    pub fn moves(&self) -> impl Iterator<Item = &Move> {
        self.service_groups.moves.values()
    }

    /// What this group was told last of a service group.
    pub fn mark_of(&self, name: &str) -> Option<&Mark> {
        self.service_groups.marks.get(name)
    }

    pub fn marks(&self) -> impl Iterator<Item = (&Arc<str>, &Mark)> {
        self.service_groups.marks.iter()
    }

    /// How this group stands to a move: `None` while it was not told of it, or when a later one has overtaken it.
    pub fn stage_of(&self, a_move: &Move) -> Option<Stage> {
        let names: Vec<&str> = a_move.names.iter().map(|name| &**name).collect();
        self.service_groups.stage_at(&names, a_move.epoch)
    }

    /// Whether the old group of a move was opened again.
    pub fn is_reopened(&self, a_move: &Move) -> bool {
        let names: Vec<&str> = a_move.names.iter().map(|name| &**name).collect();
        self.service_groups.stage_at(&names, a_move.epoch + 1) == Some(Stage::Open)
    }

    /// The group was told of a later move of them: of a cluster whose backup this one took in. The move cannot go on.
    pub fn has_overtaken(&self, a_move: &Move) -> bool {
        let mark = |name: &Arc<str>| self.service_groups.marks.get(name);
        let mut marks = a_move.names.iter().filter_map(mark);
        marks.any(|mark| mark.epoch > a_move.epoch + 1)
    }

    /// Open transactions of these service groups.
    pub fn open_of<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> u64 {
        match settle_base::mutant!("move_without_drain") {
            true => 0,
            false => self.service_groups.open_of(names),
        }
    }

    /// # Errors
    /// [`TxError::ServiceGroupClosed`] when nothing of the service group begins here.
    pub fn may_begin(&self, name: &str) -> Result<(), TxError> {
        match self.service_groups.marks.get_key_value(name) {
            Some((name, mark)) if mark.stage != Stage::Open && !settle_base::mutant!("begins_where_it_is_closed") => {
                Err(closed(name, mark))
            }
            _ => Ok(()),
        }
    }

    /// Whether who has no transaction may be told here what rows of the service group are locked.
    ///
    /// # Errors
    /// [`TxError::ServiceGroupClosed`] when such transactions may be, or may soon be, in another group.
    pub fn knows_locks_of(&self, name: &str) -> Result<(), TxError> {
        let Some((name, mark)) = self.service_groups.marks.get_key_value(name) else {
            return Ok(());
        };
        let is_known = match mark.stage {
            Stage::Open => true,
            Stage::Closed => mark.to != self.config.group,
            Stage::Drained => settle_base::mutant!("lock_query_of_a_drained_group"),
        };
        if is_known { Ok(()) } else { Err(closed(name, mark)) }
    }

    fn check_version(&self) -> Result<(), TxError> {
        match self.version < MOVES_SINCE {
            true => Err(TxError::VersionTooLow {
                needed: MOVES_SINCE,
                in_force: self.version,
            }),
            false => Ok(()),
        }
    }

    pub(crate) fn move_service_groups(
        &mut self,
        act: &MoveAct<'_>,
        effects: &mut Vec<TxEffect>,
    ) -> Result<Reply, TxError> {
        self.check_version()?;
        let table = &self.service_groups;
        let placed = |name: &str, configured: u8| table.places.get(name).map_or(configured, |place| place.group);
        let (first, configured) = act.names[0];
        let from = placed(first, configured);
        if let Some(epoch) = table.places.get(first).and_then(|place| place.moving) {
            let a_move = &table.moves[&epoch];
            let names = act.names.iter().map(|(name, _)| *name);
            if a_move.to == act.to && !a_move.is_cancelled && a_move.names.iter().map(|name| &**name).eq(names) {
                return Ok(Reply::Moving { epoch, acted: false });
            }
        }
        for (name, configured) in act.names {
            let group = placed(name, *configured);
            if table.places.get(*name).is_some_and(|place| place.moving.is_some()) {
                return Err(TxError::ServiceGroupMoving {
                    service_group: Arc::from(*name),
                });
            }
            if group != from {
                return Err(TxError::ServiceGroupsApart {
                    service_group: Arc::from(*name),
                    group,
                    first: Arc::from(first),
                    first_group: from,
                });
            }
        }
        if from == act.to && !act.is_repair {
            let epoch = table.last_epoch;
            return Ok(Reply::Moving { epoch, acted: false });
        }
        let new = act.names.iter().filter(|(name, _)| !table.places.contains_key(*name));
        if table.places.len() + new.count() > SERVICE_GROUPS_MAX {
            return Err(TxError::TooManyServiceGroups {
                limit: SERVICE_GROUPS_MAX as u64,
            });
        }
        let names: Vec<Arc<str>> = act.names.iter().map(|(name, _)| Arc::from(*name)).collect();
        let ways = (from, act.to);
        let epoch = self
            .service_groups
            .begin_move(names, ways, act.above, act.is_repair, self.time);
        self.service_groups.changed();
        self.record_move(ActKind::MoveServiceGroups, epoch, act.signed, effects);
        Ok(Reply::Moving { epoch, acted: true })
    }

    pub(crate) fn cancel_move(
        &mut self,
        name: &str,
        signed: &Signed<&str>,
        effects: &mut Vec<TxEffect>,
    ) -> Result<Reply, TxError> {
        self.check_version()?;
        let service_group = || Arc::from(name);
        let Some(epoch) = self.service_groups.places.get(name).and_then(|place| place.moving) else {
            return Err(TxError::NotMoving {
                service_group: service_group(),
            });
        };
        let a_move = self
            .service_groups
            .moves
            .get_mut(&epoch)
            .expect("a name moves by a move that is there");
        if a_move.is_repair {
            return Err(TxError::NotCancellable {
                service_group: service_group(),
            });
        }
        if std::mem::replace(&mut a_move.is_cancelled, true) {
            return Ok(Reply::Moving { epoch, acted: false });
        }
        self.service_groups.changed();
        self.record_move(ActKind::CancelMove, epoch, signed, effects);
        Ok(Reply::Moving { epoch, acted: true })
    }

    fn record_move(&mut self, act: ActKind, epoch: u64, signed: &Signed<&str>, effects: &mut Vec<TxEffect>) {
        let a_move = &self.service_groups.moves[&epoch];
        let subject = format!("{} -> {}: {}", a_move.from, a_move.to, a_move.names.join(", "));
        let record = Arc::new(AuditRecord {
            number: self.audit.next_number(),
            at: self.time,
            at_ms: signed.at_ms,
            tid: None,
            act,
            subject: cut(&subject, crate::audit::SUBJECT_CHARS_MAX),
            operator: cut(signed.operator, crate::OPERATOR_CHARS_MAX),
            reason: cut(signed.reason, crate::REASON_CHARS_MAX),
            status: GlobalStatus::UnKnown,
        });
        self.audit.add(Arc::clone(&record));
        effects.push(TxEffect::ServiceGroups { record: Some(record) });
    }

    pub(crate) fn finish_move(
        &mut self,
        epoch: u64,
        has_moved: bool,
        effects: &mut Vec<TxEffect>,
    ) -> Result<Reply, TxError> {
        self.check_version()?;
        let table = &mut self.service_groups;
        let is_meant = |a_move: &Move| has_moved || a_move.is_cancelled;
        if !table.moves.get(&epoch).is_some_and(is_meant) {
            return Ok(Reply::Done);
        }
        let a_move = table.moves.remove(&epoch).expect("it was just found");
        for name in &a_move.names {
            let place = match has_moved {
                true => Place {
                    group: a_move.to,
                    epoch,
                    moving: None,
                },
                false => Place {
                    group: a_move.from,
                    epoch: epoch + 1,
                    moving: None,
                },
            };
            table.places.insert(Arc::clone(name), place);
        }
        table.changed();
        effects.push(TxEffect::ServiceGroups { record: None });
        Ok(Reply::Done)
    }

    pub(crate) fn step_of_move(
        &mut self,
        names: &[&str],
        epoch: u64,
        step: MoveStep,
        effects: &mut Vec<TxEffect>,
    ) -> Result<Reply, TxError> {
        self.check_version()?;
        let left = self.open_of(names.iter().copied());
        let groups = &mut self.service_groups;
        let new = names.iter().filter(|name| !groups.marks.contains_key(**name)).count();
        let to = |groups: &ServiceGroups| groups.marks.get(names[0]).map_or(self.config.group, |mark| mark.to);
        let told = match step {
            MoveStep::Close { to } => {
                if groups.marks.len() + new > MARKS_MAX {
                    return Err(TxError::TooManyServiceGroups {
                        limit: MARKS_MAX as u64,
                    });
                }
                let stage = Stage::Closed;
                groups.set(names, Mark { epoch, stage, to }, |_| false);
                epoch
            }
            MoveStep::Drain => {
                let is_closed = groups.stage_at(names, epoch) == Some(Stage::Closed);
                if left == 0 && (is_closed || settle_base::mutant!("late_step_of_a_move")) {
                    let (to, stage) = (to(groups), Stage::Drained);
                    groups.set(names, Mark { epoch, stage, to }, |stage| stage == Stage::Closed);
                }
                epoch
            }
            MoveStep::Open => {
                let (to, stage) = (self.config.group, Stage::Open);
                groups.set(names, Mark { epoch, stage, to }, |stage| stage == Stage::Closed);
                epoch
            }
            MoveStep::Reopen if groups.stage_at(names, epoch) == Some(Stage::Drained) => epoch,
            MoveStep::Reopen => {
                let (to, stage) = (self.config.group, Stage::Open);
                groups.set(
                    names,
                    Mark {
                        epoch: epoch + 1,
                        stage,
                        to,
                    },
                    |_| false,
                );
                epoch + 1
            }
        };
        effects.push(TxEffect::ServiceGroups { record: None });
        let stage = groups.stage_at(names, told);
        Ok(Reply::Stepped { stage, left })
    }

    /// The last part of a backup was taken in.
    pub(crate) fn service_groups_restored(&mut self) {
        self.service_groups.restored(self.time);
    }
}

fn closed(name: &Arc<str>, mark: &Mark) -> TxError {
    TxError::ServiceGroupClosed {
        service_group: Arc::clone(name),
        epoch: mark.epoch,
        to: mark.to,
    }
}
