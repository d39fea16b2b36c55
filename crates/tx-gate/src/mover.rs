//! Moves of service groups, driven by the node that leads the first group.
//!
//! What a group was told is in its state ([`settle_tx::Mark`]), so the driver keeps nothing but the times of its own
//! questions: each step follows from the marks that this node's replicas show. A replica that lags shows a mark of before,
//! for which the same step is asked once more; a driver that was deposed and does not know it asks for steps that find a
//! higher epoch. Both change nothing. What the driver needs is a replica of every group; a leader without one waits, and
//! hands nothing on: `settle ctl tx service-groups` says so.

use std::{collections::BTreeMap, time::Duration};

use settle_base::{GroupId, Mono};
use settle_tx::{MOVES_SINCE, Move, MoveStep, OwnedCommandBody, Stage};

use crate::{GateConfig, door::Cx, gate::TxGate, group::Purpose};

/// A step is asked for again after these pauses, from the shorter to the longer.
const PAUSE_MIN: Duration = Duration::from_millis(200);
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What is to be asked of a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Close,
    Drain,
    Open,
    Reopen,
    Finish { has_moved: bool },
    Raise { above: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    again_at: Mono,
    pause: Duration,
}

/// When a step was asked last, by move.
#[derive(Debug, Default)]
pub(crate) struct Mover {
    asked: BTreeMap<(u64, GroupId, Kind), Asked>,
}

/// Why a move does not go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MoveWaits {
    /// Transactions of these service groups are open where they are not to be any more.
    Transactions,
    /// The asked node has no replica of this group, so it cannot say. Led from there the move stands still.
    Replica(GroupId),
    /// The group goes by too low a cluster version.
    Version(GroupId),
    /// For a step that is on its way.
    Step,
}

/// What comes next: of whom, and what.
fn next_steps(a_move: &Move, config: &GateConfig, cx: &Cx<'_>) -> Result<Vec<(GroupId, Kind)>, MoveWaits> {
    let first = config.groups[0];
    let (from, to) = (GroupId(u64::from(a_move.from)), GroupId(u64::from(a_move.to)));
    // Of a cluster with more groups, whose backup came here.
    let needed = if a_move.is_repair { [to, to] } else { [from, to] };
    if let Some(unknown) = needed.into_iter().find(|group| !config.groups.contains(group)) {
        return Err(MoveWaits::Replica(unknown));
    }
    let view = |group: GroupId| {
        let view = cx.group(group).ok_or(MoveWaits::Replica(group))?;
        match view.version < MOVES_SINCE {
            true => Err(MoveWaits::Version(group)),
            false => Ok(view),
        }
    };
    if a_move.is_cancelled {
        let old = view(from)?.machine;
        if old.is_reopened(a_move) {
            return Ok(vec![(first, Kind::Finish { has_moved: false })]);
        }
        if old.stage_of(a_move) != Some(Stage::Drained) {
            return Ok(vec![(from, Kind::Reopen)]);
        }
    }
    let table = view(first)?.machine;
    let mut is_open = false;
    let (mut to_close, mut to_drain, mut are_left) = (Vec::new(), Vec::new(), false);
    for group in &config.groups {
        let machine = view(*group)?.machine;
        if let Some(above) = machine.overtakes(a_move, |name| table.place_of(name)) {
            return Ok(vec![(first, Kind::Raise { above })]);
        }
        let names = a_move.names.iter().map(|name| &**name);
        match machine.stage_of(a_move) {
            None => to_close.push((*group, Kind::Close)),
            Some(Stage::Open) if *group == to => is_open = true,
            Some(Stage::Closed) if *group != to => match machine.open_of(names) {
                0 => to_drain.push((*group, Kind::Drain)),
                _ => are_left = true,
            },
            Some(_) => {}
        }
    }
    // The old group last: until then the move can be cancelled.
    if to_drain.len() > 1 || are_left {
        to_drain.retain(|(group, _)| *group != from);
    }
    // The new group first: a refusal of another one may send a begin there.
    if to_close.iter().any(|(group, _)| *group == to) {
        to_close.retain(|(group, _)| *group == to);
    }
    match () {
        () if !to_close.is_empty() => Ok(to_close),
        () if !to_drain.is_empty() => Ok(to_drain),
        () if are_left => Err(MoveWaits::Transactions),
        () if is_open => Ok(vec![(first, Kind::Finish { has_moved: true })]),
        () => Ok(vec![(to, Kind::Open)]),
    }
}

/// What a move is waiting for, as far as this node's replicas show.
pub(crate) fn waits(a_move: &Move, config: &GateConfig, cx: &Cx<'_>) -> MoveWaits {
    next_steps(a_move, config, cx).err().unwrap_or(MoveWaits::Step)
}

impl TxGate {
    /// Asks for the next step of each move, on the node that leads the first group.
    pub(crate) fn drive_moves(&mut self, cx: &mut Cx<'_>) {
        let first = self.door.config.groups[0];
        let leads = self.groups.get(&first).is_some_and(|group| group.leading().is_some());
        let Some(view) = cx.group(first).filter(|_| leads) else {
            return self.leave_moves(cx);
        };
        if view.machine.moves().next().is_none() {
            return self.mover.asked.clear();
        }
        let moves: Vec<Move> = view.machine.moves().cloned().collect();
        let known = |epoch: u64| moves.binary_search_by_key(&epoch, |a_move| a_move.epoch).is_ok();
        self.mover.asked.retain(|(epoch, ..), _| known(*epoch));
        for a_move in &moves {
            let Ok(steps) = next_steps(a_move, &self.door.config, cx) else {
                continue;
            };
            for (group, kind) in steps {
                self.ask_step(a_move, group, kind, cx);
            }
        }
    }

    /// Another node leads, or none: what was asked from here is not asked again.
    fn leave_moves(&mut self, cx: &Cx<'_>) {
        if self.mover.asked.is_empty() {
            return;
        }
        self.mover.asked.clear();
        for group in self.groups.values_mut() {
            let is_step = |purpose: &Purpose, _| matches!(purpose, Purpose::Move);
            group.pending.forget(cx.now, Duration::ZERO, is_step, drop);
        }
    }

    fn ask_step(&mut self, a_move: &Move, group: GroupId, kind: Kind, cx: &mut Cx<'_>) {
        let asked = self.mover.asked.entry((a_move.epoch, group, kind)).or_insert(Asked {
            again_at: cx.now,
            pause: PAUSE_MIN,
        });
        let Some(of) = self.groups.get_mut(&group) else { return };
        if cx.now < asked.again_at || !of.pending.has_room_for_driver() {
            return;
        }
        asked.again_at = cx.now + asked.pause;
        asked.pause = (asked.pause * 2).min(PAUSE_MAX);
        let step = match kind {
            // Of a repair nobody knows where it was.
            Kind::Close => MoveStep::Close {
                from: if a_move.is_repair { a_move.to } else { a_move.from },
                to: a_move.to,
            },
            Kind::Raise { above } => {
                let epoch = a_move.epoch;
                let body = OwnedCommandBody::RaiseMove { epoch, above };
                return of.submit(body, Purpose::Move, &self.door.config, cx.now);
            }
            Kind::Drain => MoveStep::Drain,
            Kind::Open => MoveStep::Open,
            Kind::Reopen => MoveStep::Reopen,
            Kind::Finish { has_moved } => {
                let epoch = a_move.epoch;
                let body = OwnedCommandBody::FinishMove { epoch, has_moved };
                return of.submit(body, Purpose::Move, &self.door.config, cx.now);
            }
        };
        let body = OwnedCommandBody::StepOfMove {
            names: a_move.names.iter().map(|name| name.to_string()).collect(),
            epoch: a_move.epoch,
            step,
        };
        of.submit(body, Purpose::Move, &self.door.config, cx.now);
    }
}
