//! The resource manager: registers branches, and lets the coordinator call for their second phase.

use std::{
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use serde::Serialize;
use settle_seata_wire::{BranchRegister, BranchType, Message, token::with_token};
use tokio::time::timeout;

use crate::{
    Current, Error, Options, TccResource,
    connection::{PhaseTwo, Role},
    coordinators::{Coordinators, Health, Repeat, Request, Said},
    dispatch::Dispatch,
    error::Act,
    saga::StepKind,
    tcc::ApplicationData,
    tm::{refused, unexpected},
    tokens,
};

/// Serves resources: registered at every coordinator, and again whenever one comes back. Cheap to clone; with the last
/// clone the connections are closed, calls that run are stopped, and the coordinator will call again elsewhere or later:
/// [`drain`](Rm::drain) first lets them end.
#[derive(Clone)]
pub struct Rm {
    inner: Arc<Inner>,
}

struct Inner {
    coordinators: Coordinators,
    dispatch: Arc<Dispatch>,
}

const SAME_NAME: &str = "two resources have the same name";

/// Names travel in a list.
fn check_name(name: &str) -> Result<(), Error> {
    if name.trim().is_empty() || name.trim() != name || name.contains(',') {
        let problem = "a resource's name is empty, has a comma, or begins or ends with a space";
        return Err(Error::Options { problem });
    }
    Ok(())
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.dispatch.stop();
    }
}

impl Rm {
    /// Connects to every coordinator, and waits until one of them has registered the resources.
    ///
    /// # Errors
    /// [`Error::Options`], also for a name with a comma or one that comes twice; [`Error::Unreachable`] after
    /// `connect_within`.
    pub async fn connect(options: Options, resources: Vec<Arc<dyn TccResource>>) -> Result<Rm, Error> {
        let rm = Rm::start(options, resources)?;
        rm.inner.coordinators.wait_for_one(Act::RegisterBranch).await?;
        Ok(rm)
    }

    /// As [`connect`](Rm::connect), without waiting.
    ///
    /// # Errors
    /// [`Error::Options`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(options: Options, resources: Vec<Arc<dyn TccResource>>) -> Result<Rm, Error> {
        let mut names: Vec<&str> = resources.iter().map(|resource| resource.name()).collect();
        names.sort_unstable();
        names.iter().try_for_each(|name| check_name(name))?;
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Error::Options { problem: SAME_NAME });
        }
        let dispatch = Dispatch::new(resources, options.max_calls_running, options.max_calls);
        let role = Role::ResourceManager {
            resources: dispatch.names(),
        };
        let calls: Arc<dyn PhaseTwo> = dispatch.clone();
        let coordinators = Coordinators::start(&role, &calls, options)?;
        Ok(Rm {
            inner: Arc::new(Inner { coordinators, dispatch }),
        })
    }

    /// Serves one resource more, and waits until a coordinator has registered it. The others are told as well.
    ///
    /// # Errors
    /// [`Error::Options`] as of [`connect`](Rm::connect): nothing has changed. [`Error::Unreachable`] after `connect_within`:
    /// it is served, and registered when a coordinator is there.
    pub async fn serve(&self, resource: Arc<dyn TccResource>) -> Result<(), Error> {
        let dispatch = &self.inner.dispatch;
        let name = resource.name().to_owned();
        check_name(&name)?;
        if !dispatch.add(&name, resource) {
            return Err(Error::Options { problem: SAME_NAME });
        }
        let role = || Role::ResourceManager {
            resources: dispatch.names(),
        };
        self.inner.coordinators.register_as(Act::RegisterBranch, role).await
    }

    pub(crate) fn coordinators(&self) -> &Coordinators {
        &self.inner.coordinators
    }

    /// How each coordinator is.
    pub fn health(&self) -> Vec<Health> {
        self.inner.coordinators.health()
    }

    /// Ends well: the coordinators are told to make no more calls here (Settle's understand that), those that come all the
    /// same are to come again, and those that run are ended and answered. For before the last clone is dropped. False when
    /// that took longer than `within`: what still runs is then called again elsewhere, or later.
    pub async fn drain(&self, within: Duration) -> bool {
        let drained = async {
            tokio::join!(self.inner.dispatch.drain(), self.inner.coordinators.retire());
            self.inner.coordinators.written().await;
        };
        timeout(within, drained).await.is_ok()
    }

    /// Registers a branch of a TCC resource served here, before its phase one. `context` comes back with the
    /// second-phase call; Java reads it when it is an object.
    ///
    /// It is asked of several coordinators when the first is late, if they know a registration that comes again (Settle's
    /// do); otherwise once, since there each registration that arrives is a branch of its own.
    ///
    /// # Errors
    /// After any error phase one must not run, and the transaction must be rolled back: the branch may be registered
    /// ([`Error::Unanswered`]), and a second phase would come for it. This process does not commit the transaction then,
    /// and neither while the registration is under way or after this future was dropped: whoever asks it to, and whoever
    /// registers another branch, gets [`Error::RollbackOnly`]. A process that only joined the transaction has to give its
    /// caller an error, for who began it knows nothing of this.
    /// [`Error::Ending`] when the commit was asked for here: nothing was sent.
    pub async fn register(&self, xid: &str, resource: &str, context: &impl Serialize) -> Result<i64, Error> {
        let data = ApplicationData {
            action_context: context,
            step: None,
        };
        let application_data = serde_json::to_string(&data).map_err(|problem| Error::Unsendable {
            act: Act::RegisterBranch,
            problem: problem.to_string(),
        })?;
        self.register_data(xid, resource, None, application_data).await
    }

    /// Registers a branch of a TCC resource, or of a step, if it is served here as such.
    pub(crate) async fn register_data(
        &self,
        xid: &str,
        resource: &str,
        step: Option<StepKind>,
        application_data: String,
    ) -> Result<i64, Error> {
        if self.inner.dispatch.step(resource).is_some_and(|served| served != step) {
            let problem = "a branch of a resource that is served here as something else: \
                           a resource, a compensable step or a retriable step";
            return Err(Error::Options { problem });
        }
        self.register_as(xid, BranchType::Tcc, resource, "", application_data)
            .await
    }

    /// Registers a branch of whatever kind, once. Its application data are an object, or empty.
    pub(crate) async fn register_as(
        &self,
        xid: &str,
        branch_type: BranchType,
        resource: &str,
        lock_key: &str,
        application_data: String,
    ) -> Result<i64, Error> {
        if !self.inner.dispatch.has(resource) {
            let problem = "a branch of a resource that is not served here";
            return Err(Error::Options { problem });
        }
        let (repeat, application_data) = match tokens::next().and_then(|token| with_token(&token, &application_data)) {
            Some(data) => (Repeat::WithToken, data),
            None => (Repeat::Never, application_data),
        };
        // Whatever becomes of this future: a second phase may come for a branch that nobody knows of.
        let unsure = Current::joined(xid).unsure()?;
        let sent = AtomicU32::new(0);
        let request = Request {
            act: Act::RegisterBranch,
            xid,
            body: Message::BranchRegister(BranchRegister {
                xid: xid.to_owned(),
                branch_type,
                resource_id: resource.to_owned(),
                lock_key: lock_key.to_owned(),
                application_data,
            }),
            repeat,
            within: self.coordinators().options().register_timeout,
            sent: Some(&sent),
        };
        let registered = self.coordinators().ask(request, |answer| {
            Said::Done(match answer {
                Message::BranchRegisterResponse(response) => {
                    refused(Act::RegisterBranch, response.result).map(|()| response.branch_id)
                }
                other => Err(unexpected(Act::RegisterBranch, &other)),
            })
        });
        let registered = registered.await;
        let is_known = match &registered {
            Ok(_) => true,
            // Another copy may still be done.
            Err(Error::Refused { .. }) => sent.into_inner() <= 1,
            Err(error) => !error.is_outcome_unknown(),
        };
        if is_known {
            unsure.sure();
        }
        registered
    }
}
