use std::sync::Arc;

use bytes::Bytes;
use settle_base::{GroupId, Index, NodeId, Prng};
use settle_host::ClusterId;
use settle_machine::{CommandOptions, CommandRequest, CommandResponse, Once, StateMachine, Ticket};

use super::{Draw, Invariant, Plan, machine::Judged};
use crate::{
    Coverage, Shape,
    invariants::{Broken, Checked},
    workload::{Io, Machines, Workload},
};

type Request<M> = CommandRequest<Judged<M>>;
type Response<M> = CommandResponse<<M as StateMachine>::Effect>;
type Service<M> = settle_machine::Commands<Judged<M>>;

/// Clients that ask for drawn commands, each until it is told that it was applied.
pub(crate) struct Commands<M> {
    make: Arc<dyn Fn() -> M + Send + Sync>,
    draw: Draw,
    invariants: Vec<Invariant<M>>,
    at_end: Vec<Invariant<M>>,
    groups: u64,
    clients: Vec<Client>,
    think_us: u64,
    is_stopped: bool,
    retries: u64,
    proposed_again: u64,
}

#[derive(Default)]
struct Client {
    number: u64,
    node: usize,
    asking: Option<Bytes>,
    /// Timers of earlier tries are of no interest.
    generation: u64,
}

impl<M: StateMachine + 'static> Commands<M> {
    pub(crate) fn new(plan: &Plan<M>, shape: &Shape) -> Commands<M> {
        Commands {
            make: Arc::clone(&plan.make),
            draw: Arc::clone(plan.draw.as_ref().expect("a plan is run only with commands")),
            invariants: plan.invariants.clone(),
            at_end: plan.at_end.clone(),
            groups: shape.groups,
            clients: (0..plan.clients).map(|_| Client::default()).collect(),
            think_us: 50_000,
            is_stopped: false,
            retries: 0,
            proposed_again: 0,
        }
    }

    fn timer(&mut self, i: usize) -> u64 {
        self.clients[i].generation += 1;
        (i as u64) << 32 | self.clients[i].generation
    }

    /// A client's commands all go to one group.
    fn group_of(&self, i: usize) -> GroupId {
        GroupId(1 + i as u64 % self.groups)
    }

    fn ask(&mut self, i: usize, io: &mut Io<Request<M>>) {
        let timer = self.timer(i);
        let Some(node) = io.pick_node() else {
            return io.wake_in(200_000, timer);
        };
        let group = self.group_of(i);
        let client = &mut self.clients[i];
        client.node = node;
        let Some(asked) = &client.asking else { return };
        let (session, number) = (i as u64, client.number);
        let ticket = Ticket { session, number };
        let command = asked.clone();
        io.send(node, CommandRequest::Command { group, ticket, command });
        let patience = io.prng.between(500_000, 4_000_000);
        io.wake_in(patience, timer);
    }

    fn rest(&mut self, i: usize, io: &mut Io<Request<M>>) {
        self.clients[i].asking = None;
        let timer = self.timer(i);
        let pause = io.prng.below(self.think_us * 2);
        io.wake_in(pause, timer);
    }

    fn draw(&self, prng: &mut Prng) -> Bytes {
        (self.draw)(prng)
    }
}

impl<M: StateMachine + 'static> Workload for Commands<M> {
    type Machine = Once<Judged<M>>;
    type Service = Service<M>;

    fn service(&mut self, _: NodeId, _: u64) -> Service<M> {
        Service::new(CommandOptions::default())
    }

    fn make_machine(&self, _build: u32) -> Box<dyn Fn(GroupId, ClusterId) -> Once<Judged<M>> + Send> {
        let (make, invariants) = (Arc::clone(&self.make), self.invariants.clone());
        let sessions_max = self.clients.len();
        Box::new(move |_, _| Once::new(Judged::new(make(), invariants.clone()), sessions_max))
    }

    fn clients(&self) -> usize {
        self.clients.len()
    }

    fn keep_clients(&mut self, most: usize) {
        self.clients.truncate(most);
    }

    fn begin(&mut self, io: &mut Io<Request<M>>) {
        for i in 0..self.clients.len() {
            self.rest(i, io);
        }
    }

    fn wake(&mut self, timer: u64, io: &mut Io<Request<M>>) -> Checked {
        let (i, generation) = ((timer >> 32) as usize, timer & u64::from(u32::MAX));
        if self.clients[i].generation != generation {
            return Ok(());
        }
        if self.clients[i].asking.is_some() {
            self.retries += 1;
        } else if self.is_stopped {
            return Ok(());
        } else {
            let command = self.draw(io.prng);
            let client = &mut self.clients[i];
            client.number += 1;
            client.asking = Some(command);
        }
        self.ask(i, io);
        Ok(())
    }

    fn answer(&mut self, _: usize, response: Response<M>, io: &mut Io<Request<M>>) -> Checked {
        // Who is told nothing asks elsewhere when its patience ends.
        let CommandResponse::Applied(applied) = response else {
            return Ok(());
        };
        let ticket = applied.ticket;
        let i = ticket.session as usize;
        if self.clients[i].number == ticket.number && self.clients[i].asking.is_some() {
            self.rest(i, io);
        }
        Ok(())
    }

    fn node_down(&mut self, node: usize, io: &mut Io<Request<M>>) {
        for i in 0..self.clients.len() {
            if self.clients[i].node == node && self.clients[i].asking.is_some() {
                let timer = self.timer(i);
                let pause = io.prng.between(1_000, 100_000);
                io.wake_in(pause, timer);
            }
        }
    }

    fn stop(&mut self) {
        self.is_stopped = true;
    }

    fn is_idle(&self, _: &Machines<Once<Judged<M>>>) -> bool {
        self.clients.iter().all(|c| c.asking.is_none())
    }

    fn check_machine(&mut self, group: GroupId, applied: Index, machine: &Once<Judged<M>>) -> Checked {
        machine.machine().broken.as_ref().map_or(Ok(()), |what| {
            let what = format!("group {group} at index {applied} or before, {what}");
            Err(Broken::new("the plan's invariant", what))
        })
    }

    fn finish(&mut self, machines: &Machines<Once<Judged<M>>>) -> Checked {
        for (group, machine) in machines {
            let machine = machine.machine();
            let of_group = (0..self.clients.len()).filter(|i| self.group_of(*i) == *group);
            let told: u64 = of_group.map(|i| self.clients[i].number).sum();
            if machine.applied != told {
                let what = format!("group {group} applied {} commands, {told} were told", machine.applied);
                return Err(Broken::new("every command told is applied once", what));
            }
            for holds in &self.at_end {
                holds(&machine.machine).map_err(|what| {
                    let what = format!("group {group}, in the end: {what}");
                    Broken::new("the plan's invariant", what)
                })?;
            }
        }
        Ok(())
    }

    fn count(&self, coverage: &mut Coverage) {
        coverage.client_retries += self.retries;
        coverage.reproposals += self.proposed_again;
    }

    fn count_service(&mut self, service: &Service<M>) {
        self.proposed_again += service.proposed_again;
    }

    fn describe(&self) -> String {
        let is_waiting = |i: &usize| self.clients[*i].asking.is_some();
        let waiting: Vec<_> = (0..self.clients.len()).filter(is_waiting).collect();
        format!("clients {waiting:?} wait for an answer")
    }
}
