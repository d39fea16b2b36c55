//! Second-phase calls on their way to the resources: so many at once, one at a time for each branch.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, Weak},
    task::Poll,
};

use settle_seata_wire::{BranchEnd, BranchStatus};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
};

use crate::{
    BranchCall, TccError, TccFuture, TccResource,
    connection::{Answer, Phase, PhaseTwo},
    saga::StepKind,
};

/// Answers that wait for one branch: each coordinator may have asked, some twice. The oldest is dropped.
const ANSWERS_MAX: usize = 8;

/// Calls the resources. One for all connections of a resource manager: the same branch may be called through several.
pub(crate) struct Dispatch {
    resources: Mutex<BTreeMap<String, Arc<dyn TccResource>>>,
    permits: Arc<Semaphore>,
    max_calls: usize,
    running: Mutex<Running>,
    /// A call has ended and is answered.
    ended: Notify,
    /// For the tasks that it owns.
    myself: Weak<Dispatch>,
}

#[derive(Default)]
struct Running {
    calls: BTreeMap<(String, i64), Call>,
    tasks: JoinSet<()>,
    is_draining: bool,
}

struct Call {
    phase: Phase,
    answers: Vec<Answer>,
}

impl Dispatch {
    pub fn new(resources: Vec<Arc<dyn TccResource>>, max_running: usize, max_calls: usize) -> Arc<Dispatch> {
        let named = resources
            .into_iter()
            .map(|resource| (resource.name().to_owned(), resource));
        Arc::new_cyclic(|myself| Dispatch {
            resources: Mutex::new(named.collect()),
            permits: Arc::new(Semaphore::new(max_running)),
            max_calls,
            running: Mutex::default(),
            ended: Notify::new(),
            myself: myself.clone(),
        })
    }

    fn resources(&self) -> MutexGuard<'_, BTreeMap<String, Arc<dyn TccResource>>> {
        self.resources.lock().expect("no holder of this lock panics")
    }

    pub fn names(&self) -> String {
        let names: Vec<String> = self.resources().keys().cloned().collect();
        names.join(",")
    }

    pub fn has(&self, resource: &str) -> bool {
        self.resources().contains_key(resource)
    }

    /// As which kind of step a resource is served, if it is.
    pub fn step(&self, resource: &str) -> Option<Option<StepKind>> {
        let resource = self.resources().get(resource).cloned();
        resource.map(|resource| resource.step())
    }

    /// False when another of this name is served.
    pub fn add(&self, name: &str, resource: Arc<dyn TccResource>) -> bool {
        let mut resources = self.resources();
        if resources.contains_key(name) {
            return false;
        }
        resources.insert(name.to_owned(), resource);
        true
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().expect("no holder of this lock panics")
    }

    /// Takes no more calls, and waits until those that run have ended and their answers are on their way.
    pub async fn drain(&self) {
        self.running().is_draining = true;
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            if self.running().calls.is_empty() {
                return;
            }
            ended.await;
        }
    }

    /// Stops all calls that run. For when their connections are gone.
    pub fn stop(&self) {
        let tasks = std::mem::take(&mut self.running().tasks);
        drop(tasks);
    }

    async fn run(&self, phase: Phase, call: BranchCall, resource: Arc<dyn TccResource>) {
        let status = match self.permits.acquire().await {
            Ok(_permit) => {
                // The application's code runs within, also that which makes the future.
                let result = caught(Box::pin(async {
                    match phase {
                        Phase::Commit => resource.commit(&call).await,
                        Phase::Rollback => resource.rollback(&call).await,
                    }
                }));
                status(phase, &call, result.await)
            }
            Err(_) => unreachable!("nobody closes the semaphore"),
        };
        {
            // Whoever drains finds it gone only when it is answered.
            let mut running = self.running();
            let done = running.calls.remove(&(call.xid, call.branch_id));
            for answer in done.into_iter().flat_map(|call| call.answers) {
                answer.send(status);
            }
        }
        self.ended.notify_waiters();
    }
}

impl PhaseTwo for Dispatch {
    fn call(&self, phase: Phase, call: BranchEnd, answer: Answer) {
        let later = match phase {
            Phase::Commit => BranchStatus::PhaseTwoCommitFailedRetryable,
            Phase::Rollback => BranchStatus::PhaseTwoRollbackFailedRetryable,
        };
        let resource = self.resources().get(&call.resource_id).cloned();
        let Some(resource) = resource else {
            tracing::warn!(resource = %call.resource_id, xid = %call.xid, "called for a resource that is not served here");
            return answer.send(later);
        };
        let mut running = self.running();
        while running.tasks.try_join_next().is_some() {}
        let key = (call.xid.clone(), call.branch_id);
        if let Some(known) = running.calls.get_mut(&key) {
            if known.phase == phase {
                if known.answers.len() >= ANSWERS_MAX {
                    known.answers.remove(0);
                }
                known.answers.push(answer);
            } else {
                tracing::error!(xid = %call.xid, branch = call.branch_id, ?phase, "called both ways at once");
                drop(running);
                answer.send(later);
            }
            return;
        }
        if running.is_draining || running.calls.len() >= self.max_calls {
            drop(running);
            return answer.send(later);
        }
        let answers = vec![answer];
        running.calls.insert(key, Call { phase, answers });
        let call = BranchCall {
            xid: call.xid,
            branch_id: call.branch_id,
            resource: call.resource_id,
            application_data: call.application_data,
        };
        let myself = self.myself.clone();
        running.tasks.spawn(async move {
            // Without it, nobody waits for the answer any more.
            if let Some(dispatch) = myself.upgrade() {
                dispatch.run(phase, call, resource).await;
            }
        });
    }
}

fn status(phase: Phase, call: &BranchCall, result: Result<(), TccError>) -> BranchStatus {
    let (xid, branch, resource) = (&call.xid, call.branch_id, &call.resource);
    match (phase, result) {
        (Phase::Commit, Ok(())) => BranchStatus::PhaseTwoCommitted,
        (Phase::Rollback, Ok(())) => BranchStatus::PhaseTwoRollbacked,
        (phase, Err(error)) => {
            tracing::warn!(%xid, branch, %resource, ?phase, %error, "a branch's second phase failed");
            match (phase, error) {
                (Phase::Commit, TccError::Retryable(_)) => BranchStatus::PhaseTwoCommitFailedRetryable,
                (Phase::Commit, TccError::Unretryable(_)) => BranchStatus::PhaseTwoCommitFailedUnretryable,
                (Phase::Rollback, TccError::Retryable(_)) => BranchStatus::PhaseTwoRollbackFailedRetryable,
                (Phase::Rollback, TccError::Unretryable(_)) => BranchStatus::PhaseTwoRollbackFailedUnretryable,
            }
        }
    }
}

/// A panic of the application's is one failed call: it is called again.
async fn caught(mut call: TccFuture<'_>) -> Result<(), TccError> {
    std::future::poll_fn(|cx| {
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx)));
        polled.unwrap_or_else(|_| Poll::Ready(Err(TccError::retryable("it panicked"))))
    })
    .await
}
