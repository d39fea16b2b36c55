//! Where the transactions of a service group begin, and how that is changed while the cluster runs.
//!
//! Row locks are a group's own: two transactions that change the same row must not be in two groups. So a service group
//! moves by draining. The cluster's *first group* keeps the table (a name's [`Place`]) and the moves under way; every group
//! keeps a [`Mark`] for each name that it was told about. A name without a place begins where the configuration says, and
//! a name without a mark is open. A move takes an epoch `e` that is above all before, and `e + 1` for its cancellation.
//!
//! 1. **The act**, in the first group. From here on the move is in its log, and whoever leads it goes on with it.
//! 2. **Close**(e) in *every* group, the new one first, so that no refusal sends anybody to a group that still lets begin: from its apply on nothing begins there for these names. In every group and not only in
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
//! disagree. Each cluster therefore counts epochs in a block of its own, as it does ids, and a first group that is restored with
//! places moves every name to where it is, from the moment on at which it has the table, at epochs above all that
//! the old cluster can have given: steps 2 to 5 close it everywhere and end what is open elsewhere before it begins again.
//! What is in a group whose marks the table does not account for (its backup was taken later) cannot be told: servers refuse
//! to begin it ([`Place::accounts_for`]) until an operator moves it to a group of his choice, which is not cancelled. A group that was told of moves
//! takes no backup any more, so that the first group is restored last. During such a repairing move ([`Move::is_repair`]) nothing
//! begins anywhere, and nobody answers for locks: the place in the table is no more than what somebody once knew. A mark that is
//! at or above the epoch of a move without being its own raises the move above it.

use std::{collections::BTreeMap, sync::Arc};

use settle_base::{FixedMap, GroupTime, fingerprint};

use crate::{
    DecodeError, Name,
    command::get_code,
    encoding::{Reader, put_str, put_u64},
    machine::COUNT_BITS,
};

/// Names that have a place, at most. So a cluster gives a group marks for so many names.
pub const SERVICE_GROUPS_MAX: usize = 1_024;
/// Marks with which a group is told of no move of further names: only backups of other clusters bring so many.
pub(crate) const MARKS_MAX: usize = 4 * SERVICE_GROUPS_MAX;
/// Marks that are read: with those that a move needs to be ended although there were too many to begin it.
const MARKS_READ_MAX: usize = 2 * MARKS_MAX;
/// Service groups of one move, at most.
pub const MOVE_NAMES_MAX: usize = 64;
/// Bytes of the name of a service group that is moved, at most: 256 characters of any kind.
pub const SERVICE_GROUP_BYTES_MAX: usize = 1_024;
/// The cluster version from which on service groups are moved.
pub const MOVES_SINCE: u32 = 5;

/// Epochs are below; the upper half is for those that a cluster gives above one that a backup brought.
const EPOCH_MAX: u64 = 1 << 62;
/// How far above a backup's a restored group's epochs go on: the old cluster has not made so many moves since.
const EPOCHS_OF_A_CLUSTER: u64 = 1 << 32;
/// Moves that a cluster makes before its epochs are those of another one.
const MOVE_COUNT_BITS: u32 = 28;

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
    /// The groups that it moves from and to by this epoch; the same when it is not known where it is.
    pub from: u8,
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
    Close { from: u8, to: u8 },
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
    /// Whether a mark of this epoch is of a move that the table knows of: one that has ended, or the one under way and its
    /// cancellation. No other lies between.
    pub fn accounts_for(place: Option<&Place>, epoch: u64) -> bool {
        let Some(place) = place else { return epoch == 0 };
        let is_under_way = |moving| epoch == moving || epoch == moving + 1;
        epoch <= place.epoch || place.moving.is_some_and(is_under_way)
    }
}

/// A group's part in moves, and in the first group the table.
#[derive(Default)]
pub(crate) struct ServiceGroups {
    pub places: BTreeMap<Arc<str>, Place>,
    pub moves: BTreeMap<u64, Move>,
    pub last_epoch: u64,
    pub marks: BTreeMap<Arc<str>, Mark>,
    /// Of the four above; 0 when there was never a move.
    digest: u64,
    /// Open transactions of each service group. Not written: they follow from the transactions.
    open: FixedMap<Name, u64>,
}

impl ServiceGroups {
    /// There was never a move, and this build's formats are those of the version before.
    pub fn is_unused(&self) -> bool {
        self.last_epoch == 0 && self.marks.is_empty()
    }

    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn count_begun(&mut self, name: &Name) {
        *self.open.entry(name.clone()).or_insert(0) += 1;
    }

    pub fn count_ended(&mut self, name: &str) {
        let open = self.open.get_mut(name).expect("an open transaction was counted");
        *open -= 1;
        if *open == 0 {
            self.open.remove(name);
        }
    }

    pub fn open_of<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> u64 {
        names.into_iter().filter_map(|name| self.open.get(name)).sum()
    }

    pub fn changed(&mut self) {
        let mut bytes = Vec::new();
        self.put(&mut bytes);
        self.digest = match self.is_unused() {
            true => 0,
            false => fingerprint(&bytes),
        };
    }

    /// Sets the marks of names that are below the epoch, or of it where `is_next` says so.
    pub fn set(&mut self, names: &[&str], mark: Mark, is_next: impl Fn(Stage) -> bool) {
        let mut is_set = false;
        for name in names {
            let is_late = settle_base::mutant!("late_step_of_a_move");
            match self.marks.get_mut(*name) {
                Some(old) if old.epoch < mark.epoch || is_late || (old.epoch == mark.epoch && is_next(old.stage)) => {
                    *old = mark;
                }
                Some(_) => continue,
                None => drop(self.marks.insert(Arc::from(*name), mark)),
            }
            is_set = true;
        }
        if is_set {
            self.changed();
        }
    }

    /// How all of the names stand by this epoch, if they do.
    pub fn stage_at(&self, names: &[&str], epoch: u64) -> Option<Stage> {
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
    pub fn check<'a>(&self, open: impl Iterator<Item = &'a Name>) {
        let mut counted: FixedMap<Name, u64> = FixedMap::default();
        for name in open {
            *counted.entry(name.clone()).or_insert(0) += 1;
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
            let open = self.open.get(&**name).copied().unwrap_or_default();
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
            out.extend([mark.stage as u8, mark.from, mark.to]);
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
                from: get_group(reader)?,
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
        let is_empty =
            |(name, mark): (&Arc<str>, &Mark)| mark.stage != Stage::Drained || !self.open.contains_key(&**name);
        self.marks.iter().all(is_empty)
    }

    /// Whether a group can have been told so by its own cluster: nothing lies in the upper half without a backup that does.
    pub fn is_below_the_upper_half(&self) -> bool {
        let told = self.marks.values().map(|mark| mark.epoch);
        told.chain([self.last_epoch]).all(|epoch| epoch < EPOCH_MAX / 2)
    }

    /// A backup was taken in: see the module's head. `first` is the first epoch of this cluster.
    pub fn restored(&mut self, first: u64, now: GroupTime) {
        let places: Vec<(Arc<str>, Place)> = std::mem::take(&mut self.places).into_iter().collect();
        self.moves.clear();
        if self.last_epoch > 0 {
            self.last_epoch = (self.last_epoch + EPOCHS_OF_A_CLUSTER).max(first).min(EPOCH_MAX / 2);
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

    /// The name is on no move any more; its place stays.
    pub fn leave_move(&mut self, name: &str) {
        let Some(place) = self.places.get_mut(name) else { return };
        let Some(epoch) = place.moving.take() else { return };
        let a_move = self
            .moves
            .get_mut(&epoch)
            .expect("a name moves by a move that is there");
        a_move.names.retain(|other| **other != *name);
        if a_move.names.is_empty() {
            self.moves.remove(&epoch);
        }
    }

    pub fn begin_move(
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

/// The epoch above which a cluster counts its moves, from the next id that its first group gives: like ids, epochs are in a
/// block that no earlier cluster had, so that nobody takes a mark of another cluster for one of a move under way.
pub(crate) fn epochs_above(next_id: u64) -> u64 {
    (next_id >> COUNT_BITS) << MOVE_COUNT_BITS
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
