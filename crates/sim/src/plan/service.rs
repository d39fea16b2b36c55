use std::{collections::BTreeMap, marker::PhantomData, time::Duration};

use bytes::Bytes;
use settle_base::{GroupId, Mono};
use settle_machine::{Action, Context, Event, Service, StateMachine};

use super::machine::{Judged, Ticket};

const PROPOSE_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// A client that hears nothing for so long has asked elsewhere.
const HOLD: Duration = Duration::from_secs(10);

pub(crate) struct Request {
    pub(crate) group: GroupId,
    pub(crate) ticket: Ticket,
    pub(crate) command: Bytes,
}

/// Proposes what its clients ask until it sees it applied.
pub(crate) struct Proposer<M> {
    pending: BTreeMap<Ticket, Pending>,
    pub(crate) proposed_again: u64,
    machine: PhantomData<M>,
}

struct Pending {
    group: GroupId,
    command: Bytes,
    since: Mono,
    proposed: Option<Mono>,
    was_proposed: bool,
}

impl<M> Proposer<M> {
    pub(crate) fn new() -> Proposer<M> {
        Proposer {
            pending: BTreeMap::new(),
            proposed_again: 0,
            machine: PhantomData,
        }
    }
}

impl<M: StateMachine> Service for Proposer<M> {
    type Machine = Judged<M>;
    type Request = Request;
    type Response = Ticket;

    fn step(&mut self, event: Event<'_, Ticket, Request>, context: &mut Context<'_, Judged<M>, Ticket>) {
        match event {
            Event::Request(Request { group, ticket, command }) => {
                let pending = Pending {
                    group,
                    command,
                    since: context.now,
                    proposed: None,
                    was_proposed: false,
                };
                self.pending.insert(ticket, pending);
            }
            Event::Applied { effects, .. } => {
                for ticket in effects.drain(..) {
                    if self.pending.remove(&ticket).is_some() {
                        context.act(Action::Respond(ticket));
                    }
                }
            }
            Event::Role { group, .. } | Event::Reloaded { group } | Event::Stopped { group, .. } => {
                for pending in self.pending.values_mut().filter(|p| p.group == group) {
                    pending.proposed = None;
                }
            }
            Event::Tick => self.pending.retain(|_, p| context.now.since(p.since) < HOLD),
            Event::Flush => {
                let now = context.now;
                for pending in self.pending.values_mut() {
                    if pending.proposed.is_none_or(|at| now.since(at) >= PROPOSE_AGAIN_AFTER) {
                        self.proposed_again += u64::from(pending.was_proposed);
                        pending.proposed = Some(now);
                        pending.was_proposed = true;
                        let (group, command) = (pending.group, pending.command.clone());
                        context.act(Action::Propose { group, command });
                    }
                }
            }
            _ => {}
        }
    }
}
