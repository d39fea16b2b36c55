//! Moves of service groups as operators ask for and see them.

use std::collections::BTreeMap;

use settle_base::{GroupId, GroupTime};
use settle_tx::{
    MOVE_NAMES_MAX, MOVES_SINCE, OwnedCommandBody, Place, SERVICE_GROUP_BYTES_MAX, Signed, Stage, TxMachine,
};

use crate::{
    AdminAnswer, AdminRequest, GateConfig, GateError, MoveWaits, RequestKey, admin, door::Cx, gate::TxGate, mover,
    session::check_name,
};

/// Where a service group begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceGroupRow {
    pub service_group: String,
    pub group: GroupId,
    /// Of the move that brought it there; 0 when it is there by the configuration of the asked node.
    pub epoch: u64,
    /// The move that is under way.
    pub moving: Option<u64>,
}

/// A move that has not ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MoveRow {
    pub epoch: u64,
    pub service_groups: Vec<String>,
    pub from: GroupId,
    pub to: GroupId,
    pub is_cancelled: bool,
    pub age: std::time::Duration,
    /// Of the group that it leaves, as far as the asked node's replica shows; `Open` until it was told.
    pub stage: Stage,
    /// Transactions that have to end before it goes on, as far as the asked node's replicas show.
    pub transactions_left: u64,
    pub waits: MoveWaits,
}

/// `machine` is that of the first group.
pub(crate) fn list(machine: &TxMachine, now: GroupTime, config: &GateConfig, cx: &Cx<'_>) -> AdminAnswer {
    let configured = config.service_groups.iter();
    let mut rows: BTreeMap<&str, (GroupId, Option<&Place>)> =
        configured.map(|(name, group)| (&**name, (*group, None))).collect();
    for (name, place) in machine.places() {
        rows.insert(name, (GroupId(u64::from(place.group)), Some(place)));
    }
    let rows = rows.into_iter().map(|(name, (group, place))| ServiceGroupRow {
        service_group: name.to_owned(),
        group,
        epoch: place.map_or(0, |place| place.epoch),
        moving: place.and_then(|place| place.moving),
    });
    let moves = machine.moves().map(|a_move| {
        let from = GroupId(u64::from(a_move.from));
        let left = config.groups.iter().filter(|group| group.0 != u64::from(a_move.to));
        let left = left.filter_map(|group| cx.group(*group));
        let stage = cx.group(from).and_then(|view| view.machine.stage_of(a_move));
        MoveRow {
            epoch: a_move.epoch,
            service_groups: a_move.names.iter().map(|name| name.to_string()).collect(),
            from,
            to: GroupId(u64::from(a_move.to)),
            is_cancelled: a_move.is_cancelled,
            age: now.since(a_move.begun_at),
            stage: stage.unwrap_or(Stage::Open),
            transactions_left: left
                .map(|view| view.machine.open_of(a_move.names.iter().map(|name| &**name)))
                .sum(),
            waits: mover::waits(a_move, config, cx),
        }
    });
    AdminAnswer::ServiceGroups {
        rows: rows.collect(),
        moves: moves.collect(),
    }
}

impl TxGate {
    /// An operator moves service groups, or takes a move back.
    pub(crate) fn on_moves(&mut self, key: RequestKey, body: AdminRequest, cx: &mut Cx<'_>) {
        let command = match body {
            AdminRequest::MoveServiceGroups { names, to, signed } => self.move_of(names, to, signed, cx),
            AdminRequest::CancelMove { name, signed } => self.cancel_of(name, signed, cx),
            _ => unreachable!("this is not about moves"),
        };
        match command {
            Ok(command) => self.operate(self.door.config.groups[0], key, command, cx),
            Err(error) => self.door.answer_admin(key, Err(error), cx),
        }
    }

    fn move_of(
        &self,
        mut names: Vec<String>,
        to: GroupId,
        signed: Signed<String>,
        cx: &Cx<'_>,
    ) -> Result<OwnedCommandBody, GateError> {
        admin::check_signed(&signed)?;
        names.sort_unstable();
        names.dedup();
        let limit = MOVE_NAMES_MAX;
        if names.is_empty() || names.len() > limit || names.iter().any(String::is_empty) {
            let names = names.len();
            return Err(GateError::ServiceGroupCount { names, limit });
        }
        for name in &names {
            check_name("service group", name, SERVICE_GROUP_BYTES_MAX)?;
        }
        let config = &self.door.config;
        let to = match u8::try_from(to.0) {
            Ok(number) if config.groups.contains(&to) => number,
            _ => return Err(GateError::UnknownGroup { group: to }),
        };
        self.check_versions(cx)?;
        let of_name = |name: String| {
            let told = config.groups.iter().filter_map(|group| cx.group(*group));
            let marks = told.filter_map(|view| view.machine.mark_of(&name).map(|mark| mark.epoch));
            let above = marks.max().unwrap_or_default();
            let group = u8::try_from(config.group_of(&name).0).expect("a group of transactions has a number of 8 bits");
            (name, group, above)
        };
        Ok(OwnedCommandBody::MoveServiceGroups {
            names: names.into_iter().map(of_name).collect(),
            to,
            signed,
        })
    }

    fn cancel_of(&self, name: String, signed: Signed<String>, cx: &Cx<'_>) -> Result<OwnedCommandBody, GateError> {
        admin::check_signed(&signed)?;
        if name.is_empty() {
            let (names, limit) = (0, MOVE_NAMES_MAX);
            return Err(GateError::ServiceGroupCount { names, limit });
        }
        check_name("service group", &name, SERVICE_GROUP_BYTES_MAX)?;
        self.check_versions(cx)?;
        Ok(OwnedCommandBody::CancelMove { name, signed })
    }

    /// Every group must be able to read the commands of a move. What this node's replicas show is so: it never falls.
    fn check_versions(&self, cx: &Cx<'_>) -> Result<(), GateError> {
        let needed = MOVES_SINCE;
        for group in &self.door.config.groups {
            let in_force = cx.group(*group).map(|view| view.version);
            match in_force {
                Some(in_force) if in_force < needed => {
                    let group = *group;
                    return Err(GateError::VersionTooLow {
                        group,
                        needed,
                        in_force,
                    });
                }
                // What it was told of is not to be left out.
                None => return Err(GateError::ReadTimedOut),
                _ => {}
            }
        }
        Ok(())
    }
}
