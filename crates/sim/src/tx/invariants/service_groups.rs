//! **Every service group begins somewhere, and in one group**: when all is over no move is left, the group where the table
//! has a service group lets it begin, and no other one does that was ever told of it. Until then no group goes back behind
//! what it was told: a later entry shows no earlier step.

use std::collections::{BTreeMap, BTreeSet};

use settle_base::{GroupId, Index};
use settle_tx::{Mark, Stage, TxMachine};

use super::Judge;
use crate::{
    invariants::{Broken, Checked},
    workload::Machines,
};

const NAME: &str = "every service group begins in one group";

pub(in crate::tx) fn check(machines: &Machines<TxMachine>) -> Checked {
    let machine = |group: u8| machines.iter().find(|(id, _)| *id == GroupId(u64::from(group)));
    let Some((_, first)) = machine(1) else { return Ok(()) };
    for (name, place) in first.places() {
        let is_here = machine(place.group).is_some_and(|(_, machine)| machine.may_begin(name).is_ok());
        if !is_here || place.moving.is_some() {
            return Err(Broken::new(
                NAME,
                format!("{name} is at {place:?}, and does not begin there"),
            ));
        }
        for (group, machine) in machines {
            let mark = machine.mark_of(name).filter(|mark| mark.stage == Stage::Open);
            if let Some(mark) = mark.filter(|_| group.0 != u64::from(place.group)) {
                let what = format!("{name} is at {place:?}, and begins in group {group} by {mark:?}");
                return Err(Broken::new(NAME, what));
            }
        }
    }
    for (group, machine) in machines {
        if let Some((name, mark)) = machine.marks().find(|(name, _)| first.place_of(name).is_none()) {
            let what = format!("{name} has no place, and group {group} stands to it by {mark:?}");
            return Err(Broken::new(NAME, what));
        }
    }
    Ok(())
}

/// Moves that any replica of the first group has shown.
#[derive(Default)]
pub(in crate::tx) struct Moves {
    known: BTreeSet<u64>,
    ended: BTreeSet<u64>,
    /// The latest mark of each group for each service group, and its entry.
    marks: BTreeMap<(GroupId, String), (Index, Mark)>,
    pub(in crate::tx) begun: u64,
    pub(in crate::tx) finished: u64,
    pub(in crate::tx) cancelled: u64,
}

impl Judge {
    pub(in crate::tx) fn moves(&mut self, group: GroupId, machine: &TxMachine) -> Checked {
        let moves = &mut self.moves;
        if machine.moves_refused_by_version() > 0 {
            let what = "a command of a move is in a log whose group goes by an older version".to_owned();
            return Err(Broken::new("moves wait for their cluster version", what));
        }
        for (name, mark) in machine.marks() {
            let now = (machine.index(), *mark);
            let last = moves.marks.entry((group, name.to_string())).or_insert(now);
            if now.0 < last.0 {
                continue;
            }
            // By one move a group is closed, and then drained or open, whichever was first.
            let is_next = mark.epoch > last.1.epoch || (mark.epoch == last.1.epoch && last.1.stage == Stage::Closed);
            if !is_next && *mark != last.1 {
                let what = format!("group {group} stands to {name} by {mark:?}, and was at {last:?} before");
                return Err(Broken::new(NAME, what));
            }
            *last = now;
        }
        for a_move in machine.moves() {
            moves.begun += u64::from(moves.known.insert(a_move.epoch));
        }
        for (_, place) in machine.places() {
            if place.epoch == 0 || !moves.ended.insert(place.epoch) {
                continue;
            }
            match moves.known.contains(&place.epoch) {
                true => moves.finished += 1,
                false => moves.cancelled += 1,
            }
        }
        Ok(())
    }

    pub(in crate::tx) fn moves_seen(&self) -> &Moves {
        &self.moves
    }
}
