//! The queues between a disk's owner and its I/O threads, and the rule that keeps each file's operations in order.
//!
//! There are two lanes, each a queue with a thread: one for the log, one for bulk, so that a snapshot's writes and syncs
//! never stand before the log's. A file's name says which. Operations on one file keep their order over both lanes (a
//! rename may cross them): an operation waits, on its thread, for earlier ones of its files in the other lane. It waits
//! only for earlier ones, so two lanes never wait for each other.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use settle_storage::{FileName, Op};

use crate::directory::lock_of;

pub(crate) const LANES: usize = 2;
pub(crate) const LOG: usize = 0;
pub(crate) const BULK: usize = 1;

pub(crate) struct Lanes<A> {
    state: Mutex<State<A>>,
    filled: [Condvar; LANES],
    ended: Condvar,
}

struct State<A> {
    queues: [VecDeque<Request<A>>; LANES],
    submitted: u64,
    /// Operations that have not ended, of each file: number and lane.
    pending: BTreeMap<FileName, VecDeque<(u64, usize)>>,
    /// Taken requests are being done.
    is_busy: [bool; LANES],
    /// The lane's thread waits for requests. Nobody is told who does not wait: that is a call of the system, too.
    is_waiting: [bool; LANES],
    /// How many wait for an operation's end.
    waiting_for_end: usize,
    closing: bool,
}

pub(crate) struct Request<A> {
    pub(crate) op: Op,
    pub(crate) answer: A,
    number: u64,
}

impl<A> Lanes<A> {
    pub(crate) fn new() -> Lanes<A> {
        Lanes {
            state: Mutex::new(State {
                queues: [VecDeque::new(), VecDeque::new()],
                submitted: 0,
                pending: BTreeMap::new(),
                is_busy: [false; LANES],
                is_waiting: [false; LANES],
                waiting_for_end: 0,
                closing: false,
            }),
            filled: [Condvar::new(), Condvar::new()],
            ended: Condvar::new(),
        }
    }

    pub(crate) fn push(&self, lane: usize, op: Op, answer: A) {
        let mut state = lock_of(&self.state);
        let request = state.number(lane, op, answer);
        state.queues[lane].push_back(request);
        let is_waiting = std::mem::take(&mut state.is_waiting[lane]);
        drop(state);
        if is_waiting {
            self.filled[lane].notify_one();
        }
    }

    /// Takes the place of the lane's thread for some requests, if that has nothing to do. [`Lanes::rest`] ends it.
    pub(crate) fn stand_in(
        &self,
        lane: usize,
        requests: &mut VecDeque<(Op, A)>,
        batch: &mut VecDeque<Request<A>>,
    ) -> bool {
        let mut state = lock_of(&self.state);
        if state.is_busy[lane] || !state.queues[lane].is_empty() {
            return false;
        }
        state.is_busy[lane] = true;
        for (op, answer) in requests.drain(..) {
            let request = state.number(lane, op, answer);
            batch.push_back(request);
        }
        true
    }

    /// What was taken is done and answered.
    pub(crate) fn rest(&self, lane: usize) {
        lock_of(&self.state).is_busy[lane] = false;
    }

    /// Waits for requests and takes all there are of the lane; false at the end.
    pub(crate) fn take(&self, lane: usize, batch: &mut VecDeque<Request<A>>) -> bool {
        let mut state = lock_of(&self.state);
        // Who stands in for the thread is who submits, so nothing is queued meanwhile.
        while state.queues[lane].is_empty() && !state.closing {
            state.is_waiting[lane] = true;
            state = self.filled[lane].wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut state.queues[lane], batch);
        state.is_busy[lane] = !batch.is_empty();
        !batch.is_empty()
    }

    /// Waits until it is the turn of `request`, which `lane` has taken.
    pub(crate) fn wait_for_turn(&self, lane: usize, request: &Request<A>) {
        let mut state = lock_of(&self.state);
        let files = files_of(&request.op);
        while files.clone().any(|file| {
            let pending = state.pending.get(&file).into_iter().flatten();
            pending
                .clone()
                .any(|(number, of)| *of != lane && *number < request.number)
        }) {
            state = self.wait_for_end(state);
        }
    }

    /// Whether the other lane has something to do with `file`.
    pub(crate) fn is_crossed(&self, lane: usize, file: &FileName) -> bool {
        let state = lock_of(&self.state);
        let mut pending = state.pending.get(file).into_iter().flatten();
        pending.any(|(_, of)| *of != lane)
    }

    /// These operations have been answered.
    pub(crate) fn end(&self, ended: &[Ended]) {
        let mut state = lock_of(&self.state);
        for one in ended {
            for file in &one.files {
                if let Some(pending) = state.pending.get_mut(file) {
                    pending.retain(|(number, _)| *number != one.number);
                    if pending.is_empty() {
                        state.pending.remove(file);
                    }
                }
            }
        }
        let is_awaited = state.waiting_for_end > 0;
        drop(state);
        if is_awaited {
            self.ended.notify_all();
        }
    }

    fn wait_for_end<'a>(&self, mut state: MutexGuard<'a, State<A>>) -> MutexGuard<'a, State<A>> {
        state.waiting_for_end += 1;
        let mut state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.waiting_for_end -= 1;
        state
    }

    /// Waits until nothing is under way.
    pub(crate) fn wait_for_all(&self) {
        let mut state = lock_of(&self.state);
        while !state.pending.is_empty() {
            state = self.wait_for_end(state);
        }
    }

    pub(crate) fn close(&self) {
        lock_of(&self.state).closing = true;
        self.filled.iter().for_each(Condvar::notify_all);
    }
}

impl<A> State<A> {
    fn number(&mut self, lane: usize, op: Op, answer: A) -> Request<A> {
        self.submitted += 1;
        let number = self.submitted;
        for file in files_of(&op) {
            self.pending.entry(file).or_default().push_back((number, lane));
        }
        Request { op, answer, number }
    }
}

/// What an operation was, for [`Lanes::end`].
pub(crate) struct Ended {
    number: u64,
    files: Vec<FileName>,
}

impl<A> Request<A> {
    pub(crate) fn ended(&self) -> Ended {
        Ended {
            number: self.number,
            files: files_of(&self.op).collect(),
        }
    }
}

fn files_of(op: &Op) -> impl Iterator<Item = FileName> + Clone + use<> {
    let second = match op {
        Op::Rename { to, .. } => Some(to.clone()),
        _ => None,
    };
    std::iter::once(op.file().clone()).chain(second)
}
