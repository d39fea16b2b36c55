//! What a scenario brings: a service with its machine, clients, and the judge of their history.

use settle_base::{GroupId, NodeId, Prng};
use settle_host::ClusterId;
use settle_machine::{Service, StateMachine};

use crate::Coverage;

pub(crate) type RequestOf<W> = <<W as Workload>::Service as Service>::Request;
pub(crate) type ResponseOf<W> = <<W as Workload>::Service as Service>::Response;

/// Clients of one scenario. An `Err` is a violation.
pub(crate) trait Workload {
    type Machine: StateMachine + 'static;
    type Service: Service<Machine = Self::Machine>;

    /// `run` differs for every start of every node.
    fn service(&mut self, node: NodeId, run: u64) -> Self::Service;
    fn make_machine(&self) -> Box<dyn Fn(GroupId, ClusterId) -> Self::Machine + Send>;

    fn begin(&mut self, io: &mut Io<RequestOf<Self>>);
    fn wake(&mut self, timer: u64, io: &mut Io<RequestOf<Self>>) -> Result<(), String>;
    fn answer(&mut self, node: usize, response: ResponseOf<Self>, io: &mut Io<RequestOf<Self>>) -> Result<(), String>;
    /// Every connection with the node is gone.
    fn node_down(&mut self, node: usize, io: &mut Io<RequestOf<Self>>);
    /// No new work; what is in flight is to be finished.
    fn stop(&mut self);
    /// Nothing is in flight at the clients, nor, as `machine` stands, at the service.
    fn is_idle(&self, machine: &Self::Machine) -> bool;
    /// What must hold in any replica at any time.
    fn check_machine(&self, machine: &Self::Machine) -> Result<(), String>;
    /// All replicas equal this one.
    fn finish(&mut self, machine: &Self::Machine) -> Result<(), String>;
    fn count(&self, coverage: &mut Coverage);
    /// What a service counted, before it is dropped.
    fn count_service(&mut self, service: &Self::Service);
    /// For a report on what hangs.
    fn describe(&self) -> String;
}

/// A client's hands.
pub(crate) struct Io<'a, R> {
    pub(crate) prng: &'a mut Prng,
    /// Which nodes take connections.
    pub(crate) is_up: &'a [bool],
    /// Delay in microseconds, node, request.
    pub(crate) requests: Vec<(u64, usize, R)>,
    /// Delay in microseconds, and what [`Workload::wake`] gets.
    pub(crate) timers: Vec<(u64, u64)>,
}

impl<R> Io<'_, R> {
    pub(crate) fn send(&mut self, node: usize, request: R) {
        let latency = self.prng.between(50, 2_000);
        self.requests.push((latency, node, request));
    }

    pub(crate) fn wake_in(&mut self, delay_us: u64, timer: u64) {
        self.timers.push((delay_us, timer));
    }

    /// Some node that takes connections, if there is one.
    pub(crate) fn pick_node(&mut self) -> Option<usize> {
        let up: Vec<usize> = (0..self.is_up.len()).filter(|n| self.is_up[*n]).collect();
        (!up.is_empty()).then(|| up[self.prng.below(up.len() as u64) as usize])
    }
}
