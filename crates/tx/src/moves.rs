//! What the commands and questions about moves of service groups do to a group: the protocol is argued in
//! `service_groups.rs`.

use std::sync::Arc;

use crate::{
    ActKind, AuditRecord, GlobalStatus, MOVES_SINCE, Mark, Move, MoveStep, Place, Reply, SERVICE_GROUPS_MAX, Signed,
    Stage, TxEffect, TxError, TxMachine,
    audit::cut,
    service_groups::{MARKS_MAX, ServiceGroups, epochs_above},
};

/// What an operator asks, as [`CommandBody::MoveServiceGroups`](crate::CommandBody::MoveServiceGroups) has it.
pub(crate) struct MoveAct<'a> {
    pub names: &'a [(&'a str, u8, u64)],
    pub to: u8,
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

    /// Whether the old group of a move was opened again, or was told of later moves: of a cluster whose backup it took in.
    pub fn is_reopened(&self, a_move: &Move) -> bool {
        let mark = |name: &Arc<str>| self.service_groups.marks.get(name);
        let is_behind = |mark: &Mark| mark.epoch > a_move.epoch;
        a_move.names.iter().all(|name| mark(name).is_some_and(is_behind))
    }

    /// The epoch that a move has to go above since this group was told of a later one, is open by the same, or was told of
    /// one that the table does not know: of a cluster whose backup it took in. `place_of` is the table.
    pub fn overtakes<'a>(&self, a_move: &Move, place_of: impl Fn(&str) -> Option<&'a Place>) -> Option<u64> {
        let is_foreign = |name: &str, mark: &Mark| {
            let is_open = mark.stage == Stage::Open && self.config.group != a_move.to;
            // A repair comes after marks that nobody knows of.
            let is_unknown = !a_move.is_repair && !Place::accounts_for(place_of(name), mark.epoch);
            mark.epoch > a_move.epoch || (mark.epoch == a_move.epoch && is_open) || is_unknown
        };
        let marks = a_move
            .names
            .iter()
            .filter_map(|name| Some((name, self.service_groups.marks.get(name)?)));
        let foreign = marks.filter(|(name, mark)| is_foreign(name, mark));
        foreign.map(|(_, mark)| mark.epoch.max(a_move.epoch)).max()
    }

    /// The move of a service group of which nobody knows where its transactions are: nothing of it begins before its end.
    pub fn repair_of(&self, name: &str) -> Option<&Move> {
        let moving = self.service_groups.places.get(name)?.moving?;
        self.service_groups.moves.get(&moving).filter(|a_move| a_move.is_repair)
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
            // Where its transactions are, and nowhere else: not in a group that it had left before.
            Stage::Closed => mark.from == self.config.group && mark.to != self.config.group,
            Stage::Drained => settle_base::mutant!("lock_query_of_a_drained_group"),
        };
        if is_known { Ok(()) } else { Err(closed(name, mark)) }
    }

    /// Commands of moves that this replica had to refuse since its group went by an older version: doors propose none then,
    /// since a build of that version could not read them.
    pub fn moves_refused_by_version(&self) -> u64 {
        self.moves_refused
    }

    fn check_version(&mut self) -> Result<(), TxError> {
        if self.version >= MOVES_SINCE {
            return Ok(());
        }
        self.moves_refused += 1;
        Err(TxError::VersionTooLow {
            needed: MOVES_SINCE,
            in_force: self.version,
        })
    }

    pub(crate) fn move_service_groups(
        &mut self,
        act: &MoveAct<'_>,
        effects: &mut Vec<TxEffect>,
    ) -> Result<Reply, TxError> {
        self.check_version()?;
        let table = &self.service_groups;
        let under_way = |name: &str| table.places.get(name)?.moving.map(|epoch| &table.moves[&epoch]);
        let placed = |name: &str, configured: u8| table.places.get(name).map_or(configured, |place| place.group);
        let (first, configured, _) = act.names[0];
        let from = placed(first, configured);
        // Judged by the table as it is now, which whoever asked may not have seen.
        let is_unknown = |(name, _, above): &(&str, u8, u64)| match under_way(name) {
            Some(repair) if repair.is_repair => *above > repair.epoch,
            _ => !Place::accounts_for(table.places.get(*name), *above),
        };
        let is_unaccounted = act.names.iter().any(is_unknown);
        if let Some(a_move) = under_way(first) {
            let names = act.names.iter().map(|(name, ..)| *name);
            let is_same = a_move.to == act.to && a_move.names.iter().map(|name| &**name).eq(names);
            if is_same && !a_move.is_cancelled && !is_unaccounted {
                let epoch = a_move.epoch;
                return Ok(Reply::Moving { epoch, acted: false });
            }
        }
        for (name, configured, _) in act.names {
            let group = placed(name, *configured);
            if under_way(name).is_some_and(|a_move| !a_move.is_repair) {
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
        let is_repair = is_unaccounted || act.names.iter().any(|(name, ..)| under_way(name).is_some());
        if from == act.to && !is_repair {
            let epoch = table.last_epoch;
            return Ok(Reply::Moving { epoch, acted: false });
        }
        let new = act.names.iter().filter(|(name, ..)| !table.places.contains_key(*name));
        if table.places.len() + new.count() > SERVICE_GROUPS_MAX {
            return Err(TxError::TooManyServiceGroups {
                limit: SERVICE_GROUPS_MAX as u64,
            });
        }
        let told = act.names.iter().map(|(.., above)| *above).max().unwrap_or_default();
        let is_first = table.last_epoch == 0;
        let above = told.max(if is_first { epochs_above(self.next_tid) } else { 0 });
        // A repair may be one that cannot end, for a group that is not there: another takes its place.
        for (name, ..) in act.names {
            self.service_groups.leave_move(name);
        }
        let names: Vec<Arc<str>> = act.names.iter().map(|(name, ..)| Arc::from(*name)).collect();
        let ways = (from, act.to);
        let epoch = self.service_groups.begin_move(names, ways, above, is_repair, self.time);
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
        let names = match a_move.names.len() {
            1 => a_move.names[0].to_string(),
            // They may be cut.
            count => format!("{count} service groups: {}", a_move.names.join(", ")),
        };
        let subject = format!("{} -> {}: {names}", a_move.from, a_move.to);
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

    /// The move goes on by an epoch above one that some group was told by another cluster. Nobody knows where its transactions
    /// are, then.
    pub(crate) fn raise_move(&mut self, epoch: u64, above: u64, effects: &mut Vec<TxEffect>) -> Result<Reply, TxError> {
        self.check_version()?;
        let table = &mut self.service_groups;
        // The cancellation's own mark is above, too: who does not know of it does not undo it.
        let is_meant = |a_move: &&Move| above >= epoch && (!a_move.is_cancelled || above > epoch + 1);
        let Some(a_move) = table.moves.get(&epoch).filter(is_meant).cloned() else {
            return Ok(Reply::Done);
        };
        for name in &a_move.names {
            table.leave_move(name);
        }
        table.begin_move(a_move.names, (a_move.from, a_move.to), above, true, a_move.begun_at);
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
        let own = self.config.group;
        let ways = |groups: &ServiceGroups| {
            groups
                .marks
                .get(names[0])
                .map_or((own, own), |mark| (mark.from, mark.to))
        };
        let told = match step {
            MoveStep::Close { from, to } => {
                if groups.marks.len() + new > MARKS_MAX {
                    return Err(TxError::TooManyServiceGroups {
                        limit: MARKS_MAX as u64,
                    });
                }
                let stage = Stage::Closed;
                groups.set(names, Mark { epoch, stage, from, to }, |_| false);
                epoch
            }
            MoveStep::Drain => {
                let is_closed = groups.stage_at(names, epoch) == Some(Stage::Closed);
                if left == 0 && (is_closed || settle_base::mutant!("late_step_of_a_move")) {
                    let ((from, to), stage) = (ways(groups), Stage::Drained);
                    groups.set(names, Mark { epoch, stage, from, to }, |stage| stage == Stage::Closed);
                }
                epoch
            }
            MoveStep::Open => {
                let ((from, to), stage) = ((own, own), Stage::Open);
                groups.set(names, Mark { epoch, stage, from, to }, |stage| stage == Stage::Closed);
                epoch
            }
            MoveStep::Reopen if groups.stage_at(names, epoch) == Some(Stage::Drained) => epoch,
            MoveStep::Reopen => {
                let ((from, to), stage) = ((own, own), Stage::Open);
                groups.set(
                    names,
                    Mark {
                        epoch: epoch + 1,
                        stage,
                        from,
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

    /// The table, the moves and the marks of a backup were taken in.
    pub(crate) fn service_groups_restored(&mut self) {
        self.service_groups.restored(epochs_above(self.next_tid), self.time);
    }
}

fn closed(name: &Arc<str>, mark: &Mark) -> TxError {
    TxError::ServiceGroupClosed {
        service_group: Arc::clone(name),
        epoch: mark.epoch,
        to: mark.to,
    }
}
