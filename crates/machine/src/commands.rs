//! A service for machines whose clients want commands applied and state read, and nothing more.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use settle_base::{GroupId, Mono};

use crate::{Action, Applied, Context, Event, Once, Service, StateMachine, Ticket};

/// Looks at the machine once the read is linearizable; dropped when the read was given up.
pub type Look<M> = Box<dyn FnOnce(&M) + Send>;

/// What a client asks on any node.
pub enum CommandRequest<M> {
    /// Propose until it is applied. Answered by [`CommandResponse`].
    Command {
        group: GroupId,
        ticket: Ticket,
        command: Bytes,
    },
    /// Show this node's replica as of now or later: everything answered before, anywhere, is in it.
    Read { group: GroupId, look: Look<M> },
}

/// What came of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandResponse<E> {
    Applied(Applied<E>),
    /// Nothing is known: it may be applied yet. To ask again with the same ticket is safe.
    GivenUp(Ticket),
    /// Too much is under way here, nothing was done: ask again later.
    Full(Ticket),
}

impl<E> CommandResponse<E> {
    pub fn ticket(&self) -> Ticket {
        match self {
            CommandResponse::Applied(applied) => applied.ticket,
            CommandResponse::GivenUp(ticket) | CommandResponse::Full(ticket) => *ticket,
        }
    }
}

/// Proposes what its clients ask until it sees it applied, and reads what a quorum has confirmed.
pub struct Commands<M: StateMachine> {
    options: CommandOptions,
    commands: BTreeMap<Ticket, PendingCommand>,
    reads: BTreeMap<u64, PendingRead<M>>,
    next_token: u64,
    /// To be proposed at the next flush.
    due_commands: BTreeSet<Ticket>,
    /// To be asked at the next flush.
    due_reads: Vec<u64>,
    /// Commands that were proposed more than once.
    pub proposed_again: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct CommandOptions {
    /// What is not applied so long after it was proposed is proposed again.
    pub propose_again_after: Duration,
    /// What is not answered so long after it was asked is given up.
    pub hold: Duration,
    /// Commands, and as many reads, under way at this node.
    pub pending_max: usize,
}

impl Default for CommandOptions {
    fn default() -> CommandOptions {
        CommandOptions {
            propose_again_after: Duration::from_millis(500),
            hold: Duration::from_secs(10),
            pending_max: 16_384,
        }
    }
}

struct PendingCommand {
    group: GroupId,
    /// As it stands in the log.
    wrapped: Bytes,
    since: Mono,
    proposed: Option<Mono>,
}

struct PendingRead<M> {
    group: GroupId,
    look: Look<M>,
    since: Mono,
    is_lost: bool,
}

impl<M: StateMachine> Commands<M> {
    pub fn new(options: CommandOptions) -> Commands<M> {
        Commands {
            options,
            commands: BTreeMap::new(),
            reads: BTreeMap::new(),
            next_token: 1,
            due_commands: BTreeSet::new(),
            due_reads: Vec::new(),
            proposed_again: 0,
        }
    }

    fn flush(&mut self, context: &mut Context<'_, Once<M>, CommandResponse<M::Effect>>) {
        for ticket in std::mem::take(&mut self.due_commands) {
            let Some(pending) = self.commands.get_mut(&ticket) else {
                continue;
            };
            self.proposed_again += u64::from(pending.proposed.is_some());
            pending.proposed = Some(context.now);
            let (group, command) = (pending.group, pending.wrapped.clone());
            context.act(Action::Propose {
                group,
                command,
                expected_term: None,
            });
        }
        for token in self.due_reads.drain(..) {
            if let Some(read) = self.reads.get(&token) {
                let group = read.group;
                context.act(Action::Read { group, token });
            }
        }
    }

    fn tick(&mut self, context: &mut Context<'_, Once<M>, CommandResponse<M::Effect>>) {
        self.give_up(context);
        let (now, patience) = (context.now, self.options.propose_again_after);
        let is_late = |c: &PendingCommand| c.proposed.is_some_and(|at| now.since(at) >= patience);
        let late = self.commands.iter().filter(|(_, c)| is_late(c));
        self.due_commands.extend(late.map(|(ticket, _)| *ticket));
        let lost = self.reads.iter_mut().filter(|(_, read)| read.is_lost);
        for (token, read) in lost {
            read.is_lost = false;
            self.due_reads.push(*token);
        }
    }

    fn give_up(&mut self, context: &mut Context<'_, Once<M>, CommandResponse<M::Effect>>) {
        let (now, hold) = (context.now, self.options.hold);
        for (ticket, _) in self.commands.extract_if(.., |_, c| now.since(c.since) >= hold) {
            context.act(Action::Respond(CommandResponse::GivenUp(ticket)));
        }
        self.reads.retain(|_, read| now.since(read.since) < hold);
    }
}

impl<M: StateMachine> Service for Commands<M> {
    type Machine = Once<M>;
    type Request = CommandRequest<M>;
    type Response = CommandResponse<M::Effect>;

    fn step(
        &mut self,
        event: Event<'_, Applied<M::Effect>, CommandRequest<M>>,
        context: &mut Context<'_, Once<M>, CommandResponse<M::Effect>>,
    ) {
        match event {
            Event::Request(CommandRequest::Command { group, ticket, command }) => {
                if self.commands.len() >= self.options.pending_max {
                    return context.act(Action::Respond(CommandResponse::Full(ticket)));
                }
                let pending = PendingCommand {
                    group,
                    wrapped: ticket.wrap(&command),
                    since: context.now,
                    proposed: None,
                };
                self.commands.insert(ticket, pending);
                self.due_commands.insert(ticket);
            }
            // One too many is dropped with its look, which tells the asker.
            Event::Request(CommandRequest::Read { group, look }) if self.reads.len() < self.options.pending_max => {
                let read = PendingRead {
                    group,
                    look,
                    since: context.now,
                    is_lost: false,
                };
                self.reads.insert(self.next_token, read);
                self.due_reads.push(self.next_token);
                self.next_token += 1;
            }
            Event::Applied { effects, .. } => {
                for applied in effects.drain(..) {
                    if self.commands.remove(&applied.ticket).is_some() {
                        context.act(Action::Respond(CommandResponse::Applied(applied)));
                    }
                }
            }
            Event::Role { group, .. } | Event::Reloaded { group } => {
                let of_group = self.commands.iter().filter(|(_, c)| c.group == group);
                self.due_commands.extend(of_group.map(|(ticket, _)| *ticket));
            }
            Event::ReadReady { group, token } => {
                if let (Some(read), Some(view)) = (self.reads.remove(&token), context.group(group)) {
                    (read.look)(view.machine.machine());
                }
            }
            // Asked again at the next tick, when there may be a leader.
            Event::ReadDropped { token, .. } => {
                if let Some(read) = self.reads.get_mut(&token) {
                    read.is_lost = true;
                }
            }
            Event::Tick => self.tick(context),
            Event::Flush => self.flush(context),
            _ => {}
        }
    }
}
