//! What a scenario brings: a service with its machine, clients, and the judge of their history.

use settle_base::{GroupId, Index, Mono, NodeId, Prng};
use settle_host::{ClusterId, Host};
use settle_machine::{Service, StateMachine};
use settle_storage::MemDisk;

use crate::{Coverage, invariants::Checked};

pub(crate) type RequestOf<W> = <<W as Workload>::Service as Service>::Request;
pub(crate) type ResponseOf<W> = <<W as Workload>::Service as Service>::Response;
/// One machine of each group.
pub(crate) type Machines<'a, M> = [(GroupId, &'a M)];

/// Clients of one scenario.
pub(crate) trait Workload {
    type Machine: StateMachine + 'static;
    type Service: Service<Machine = Self::Machine>;

    /// `run` differs for every start of every node.
    fn service(&mut self, node: NodeId, run: u64) -> Self::Service;
    /// The cluster versions that older and newer builds can apply. In some seeds nodes get the newer one while they run.
    fn builds(&self) -> (u32, u32) {
        (1, 2)
    }
    /// Where nodes are not upgraded, they have the newer build from the beginning, and operators raise the version.
    fn is_always_raised(&self) -> bool {
        false
    }
    /// `build` is the cluster version that the node's binary can apply.
    fn make_machine(&self, build: u32) -> Box<dyn Fn(GroupId, ClusterId) -> Self::Machine + Send>;
    /// The next entry that is applied on `node` does something else there than on the other nodes; `which` tells it
    /// from other slips. False when these machines know no slips, or one has not happened yet.
    fn slip(&mut self, _node: NodeId, _which: u64) -> bool {
        false
    }
    /// Which slips are in a machine's state. Those with the same are to be equal at the same index.
    fn slips_of(&self, _machine: &Self::Machine) -> u64 {
        0
    }

    fn clients(&self) -> usize;
    /// Before the run begins: no more clients than this.
    fn keep_clients(&mut self, most: usize);
    /// Before the run begins: many clients that mostly read the same few things, so that two halves of a cluster which
    /// both answer are heard to contradict each other.
    fn crowd(&mut self) {}
    /// Whether operators who move members about take nodes out of all groups at once, and bring them back to a group
    /// while it takes another one in.
    fn drains_nodes(&self) -> bool {
        false
    }
    /// Whether the group of this machine has taken another in, and this is not over yet.
    fn is_merging(&self, _: &Self::Machine) -> bool {
        false
    }

    /// With faults off and clients stopped, everything has healed within so many simulated microseconds.
    fn heals_within_us(&self) -> u64 {
        60_000_000
    }

    fn begin(&mut self, io: &mut Io<RequestOf<Self>>);
    fn wake(&mut self, timer: u64, io: &mut Io<RequestOf<Self>>) -> Checked;
    fn answer(&mut self, node: usize, response: ResponseOf<Self>, io: &mut Io<RequestOf<Self>>) -> Checked;
    /// Every connection with the node is gone.
    fn node_down(&mut self, node: usize, io: &mut Io<RequestOf<Self>>);
    /// No new work; what is in flight is to be finished.
    fn stop(&mut self);
    /// Nothing is in flight at the clients, nor, as the machines stand, at the service.
    fn is_idle(&self, machines: &Machines<Self::Machine>) -> bool;
    /// What must hold in any replica at any time; asked when it has applied more.
    fn check_machine(&mut self, group: GroupId, applied: Index, machine: &Self::Machine) -> Checked;
    /// What must hold on any node at any time; asked after each of its turns.
    fn check_node(&self, _host: &Host<Self::Service, MemDisk>, _now: Mono) -> Checked {
        Ok(())
    }
    /// All replicas equal these.
    fn finish(&mut self, machines: &Machines<Self::Machine>) -> Checked;
    fn count(&self, coverage: &mut Coverage);
    /// What a service counted, before it is dropped.
    fn count_service(&mut self, service: &Self::Service);
    /// For a report on what hangs.
    fn describe(&self) -> String;
    /// The same, of one replica's machine.
    fn describe_machine(&self, _machine: &Self::Machine) -> String {
        String::new()
    }
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
