//! A process of an application: its connections with the servers, as a Java service with Seata has them, and the threads
//! that run its transfers.

use settle_tx::{BranchStatus, Tid};
use settle_tx_gate::{BranchCall, CallId, ClientAnswer, ClientRequest, ConnId, RequestKey};

use super::{invariants::Asked, transfer::Transfer};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Tm,
    Rm,
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) node: usize,
    pub(super) conn: ConnId,
    pub(super) role: Role,
    pub(super) is_registered: bool,
    /// Nothing comes through in either direction, and neither side has noticed.
    pub(super) is_dead: bool,
}

#[derive(Default)]
pub(super) struct Thread {
    pub(super) transfer: Option<Transfer>,
    /// The one request that is waited for.
    pub(super) waiting: Option<RequestKey>,
    /// Timers of before are of no interest.
    pub(super) generation: u64,
}

/// A message of the resource manager that waits to be sent with others in one frame.
pub(super) struct Queued {
    pub(super) key: RequestKey,
    pub(super) thread: usize,
    pub(super) ask: Ask,
    pub(super) body: ClientRequest,
}

/// A second-phase call that is being executed.
pub(super) struct Incoming {
    pub(super) number: u64,
    pub(super) node: usize,
    pub(super) conn: ConnId,
    pub(super) call: CallId,
    pub(super) body: BranchCall,
}

/// What a request was for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ask {
    Registration,
    /// What is not its business. Nobody waits for the answer.
    Theft,
    /// Whether rows are free, from outside a transaction. Nobody waits for the answer.
    Peek,
    Begin,
    /// `SELECT … FOR UPDATE` asks whether rows are free.
    Lock {
        leg: usize,
    },
    Branch {
        leg: usize,
    },
    Report {
        status: BranchStatus,
    },
    End(Asked),
}

/// A request that a server was sent. Kept until it is answered, also when nobody waits any more.
pub(super) struct Question {
    pub(super) app: usize,
    pub(super) life: u32,
    pub(super) thread: usize,
    /// The transfer's number.
    pub(super) transfer: u64,
    pub(super) xid: String,
    pub(super) ask: Ask,
    /// Of a lock query: who had the rows when it was asked.
    pub(super) holders: Vec<Tid>,
    /// It went with others, and its answer comes with theirs.
    pub(super) frame: Option<u64>,
}

/// Answers to one merged frame come in one, when all are there.
pub(super) struct Frame {
    pub(super) missing: usize,
    pub(super) answers: Vec<(RequestKey, Question, ClientAnswer)>,
}

pub(super) struct App {
    pub(super) application: String,
    pub(super) service_group: u64,
    pub(super) ip: String,
    pub(super) life: u32,
    pub(super) is_down: bool,
    /// It knows one address, behind which any node may be.
    pub(super) has_one_address: bool,
    pub(super) channels: Vec<Channel>,
    pub(super) threads: Vec<Thread>,
    pub(super) outbox: Vec<Queued>,
    pub(super) calls: Vec<Incoming>,
    /// Sagas that a process left behind: their state is in a database.
    pub(super) left: Vec<Transfer>,
    /// And those that nobody resumes before the coordinator asks for it.
    pub(super) abandoned: Vec<Transfer>,
    pub(super) next_key: u64,
}

impl App {
    pub(super) fn new(number: usize, service_group: u64, threads: usize, has_one_address: bool) -> App {
        App {
            application: format!("app{}", number % 3),
            service_group,
            ip: format!("10.1.0.{number}"),
            life: 0,
            is_down: false,
            has_one_address,
            channels: Vec::new(),
            threads: (0..threads).map(|_| Thread::default()).collect(),
            outbox: Vec::new(),
            calls: Vec::new(),
            left: Vec::new(),
            abandoned: Vec::new(),
            next_key: 0,
        }
    }

    pub(super) fn key(&mut self) -> RequestKey {
        self.next_key += 1;
        RequestKey(self.next_key)
    }

    pub(super) fn channel(&mut self, node: usize, conn: ConnId) -> Option<&mut Channel> {
        self.channels.iter_mut().find(|c| (c.node, c.conn) == (node, conn))
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.is_down
            && self.left.is_empty()
            && self.calls.is_empty()
            && self.threads.iter().all(|thread| thread.transfer.is_none())
    }
}
