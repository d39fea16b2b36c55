//! Which transaction group a service group's requests go to, and who waits while that cannot be told.
//!
//! The first group's table says it ([`settle_tx::Place`]), and this node's replica of it is asked, which may lag. That does
//! no harm: a group that a service group has left refuses its begins and its questions for locks, for good. Who was refused
//! waits here, is asked for again as soon as replicas show that it would be taken, and is told of the refusal when its hold
//! is over: unlike in a change of leaders it is certain that nothing was begun.
//!
//! A node without a replica of the first group goes by the configuration and by what refusals say, and begins nothing where
//! another of its replicas was told of a later move.

use settle_base::{GroupId, Mono};
use settle_tx::{Place, TxError};

use crate::{
    GateConfig, GateError, RefusalError,
    door::{Cx, Door, Waiter},
    replies::{self, Due},
};

/// A question that waits is looked at again so often, and a lost refusal of a lagging replica costs no more than this.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

/// What a client asks of whichever group has its service group.
#[derive(Debug)]
pub(crate) enum Parked {
    Begin { timeout_ms: u32, name: String },
    Lock { resource: String, lock_keys: String },
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub waiter: Waiter,
    pub body: Parked,
    pub service_group: String,
    /// Why it waits.
    pub error: RefusalError,
    look_at: Mono,
}

/// Requests that wait for their service group to be somewhere. As many as are in flight at most.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    entries: Vec<Entry>,
}

impl Waiting {
    pub fn add(&mut self, waiter: Waiter, service_group: String, body: Parked, error: RefusalError, now: Mono) {
        let look_at = now + LOOK_EVERY;
        self.entries.push(Entry {
            waiter,
            body,
            service_group,
            error,
            look_at,
        });
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Those that are to be looked at now.
    pub fn take_due(&mut self, now: Mono) -> Vec<Entry> {
        self.entries.extract_if(.., |entry| now >= entry.look_at).collect()
    }
}

/// What a request wants of the group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wants {
    Begin,
    Locks,
}

/// The group that requests of the service group go to, as far as this node knows. `told` are the groups that were told of
/// moves, in their order; `last` is why it was refused before.
///
/// # Errors
/// When no group would take it now, or none can be told.
pub(crate) fn place(
    config: &GateConfig,
    told: impl Iterator<Item = GroupId>,
    service_group: &str,
    wants: Wants,
    last: Option<&RefusalError>,
    cx: &Cx<'_>,
) -> Result<GroupId, RefusalError> {
    let group = match cx.group(config.groups[0]) {
        // Its table may be among what is still to come.
        Some(first) if first.machine.is_being_restored() => return Err(RefusalError::Tx(TxError::BeingRestored)),
        Some(first) => {
            let place = first.machine.place_of(service_group);
            // What the table has is not to be trusted before this has ended.
            if let Some(repair) = first.machine.repair_of(service_group) {
                return Err(RefusalError::Gate(GateError::ServiceGroupUnplaced {
                    service_group: service_group.to_owned(),
                    group: GroupId(u64::from(repair.to)),
                }));
            }
            for group in told {
                let mark = cx
                    .group(group)
                    .and_then(|view| view.machine.mark_of(service_group).copied());
                if mark.is_some_and(|mark| !Place::accounts_for(place, mark.epoch)) {
                    return Err(RefusalError::Gate(GateError::ServiceGroupUnplaced {
                        service_group: service_group.to_owned(),
                        group,
                    }));
                }
            }
            place.map_or_else(
                || config.group_of(service_group),
                |place| GroupId(u64::from(place.group)),
            )
        }
        None => {
            let group = match last {
                Some(RefusalError::Tx(TxError::ServiceGroupClosed { to, .. })) => GroupId(u64::from(*to)),
                _ => config.group_of(service_group),
            };
            let epoch_in = |group| Some(cx.group(group)?.machine.mark_of(service_group)?.epoch);
            let newest = told.filter_map(|group| Some((epoch_in(group)?, group))).max();
            // Whoever was told last knows where it is, and nobody here can tell otherwise.
            if let Some((_, told_last)) = newest.filter(|(epoch, _)| epoch_in(group) != Some(*epoch)) {
                return Err(RefusalError::Gate(GateError::ServiceGroupUnplaced {
                    service_group: service_group.to_owned(),
                    group: told_last,
                }));
            }
            group
        }
    };
    if !config.groups.contains(&group) {
        return Err(RefusalError::Gate(GateError::UnknownGroup { group }));
    }
    if let Some(view) = cx.group(group) {
        match wants {
            Wants::Begin => view.machine.may_begin(service_group).map_err(RefusalError::Tx)?,
            Wants::Locks => view.machine.knows_locks_of(service_group).map_err(RefusalError::Tx)?,
        }
    }
    Ok(group)
}

impl Door {
    /// A request waits until its service group is somewhere, or is told why it was not.
    pub fn park(&mut self, waiter: Waiter, service_group: String, body: Parked, error: RefusalError, cx: &mut Cx<'_>) {
        let is_for_good = matches!(error, RefusalError::Gate(GateError::UnknownGroup { .. }));
        if is_for_good || self.is_over(&waiter, cx.now) {
            return self.refuse_parked(waiter, error, cx);
        }
        self.waiting.add(waiter, service_group, body, error, cx.now);
    }

    fn refuse_parked(&mut self, waiter: Waiter, error: RefusalError, cx: &mut Cx<'_>) {
        let due = match error {
            RefusalError::Gate(error) => replies::refused_at_the_door(waiter.kind, error),
            RefusalError::Tx(error) => replies::to_reply(waiter.kind, Err(error)),
        };
        debug_assert!(
            matches!(due, Due::Answer(_)),
            "begins and questions for locks can be refused"
        );
        self.give(waiter, due, cx);
    }
}
