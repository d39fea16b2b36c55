//! What the door knows of its clients when it authenticates them: the policy in force, and who is connected from where.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use settle_auth::{AuthError, Caller, Guard, Policy, Registration, Role, Rules, Shown};
use settle_base::FixedMap;
use settle_telemetry::Clock;
use tokio::sync::watch;

#[derive(Clone, Debug)]
pub struct AuthConfig {
    pub rules: Rules,
    /// A client that has not been admitted by then is closed.
    pub register_within: Duration,
    /// The largest message read of a client before it is admitted, as it arrives and decompressed.
    pub max_registration_bytes: usize,
}

/// Authenticates the clients of one door.
pub struct Auth {
    pub(crate) config: AuthConfig,
    policy: RwLock<Arc<Policy>>,
    /// Told when another policy is in force.
    changes: watch::Sender<()>,
    /// Connected transaction managers that have authenticated, by application and address: what each has shown.
    managers: Mutex<FixedMap<Place, BTreeMap<u64, Shown>>>,
    next_manager: AtomicU64,
}

type Place = (String, IpAddr);

impl Auth {
    pub fn new(config: AuthConfig, policy: Policy) -> Arc<Auth> {
        Arc::new(Auth {
            config,
            policy: RwLock::new(Arc::new(policy)),
            changes: watch::Sender::new(()),
            managers: Mutex::default(),
            next_manager: AtomicU64::new(1),
        })
    }

    /// Puts another policy in force, for every registration and request from now on. Connections that it would not admit
    /// are closed.
    pub fn replace(&self, policy: Policy) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
        self.changes.send_replace(());
    }

    fn policy(&self) -> Arc<Policy> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn managers(&self) -> MutexGuard<'_, FixedMap<Place, BTreeMap<u64, Shown>>> {
        // Nothing panics between two changes that belong together.
        self.managers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's way in.
pub(crate) struct Entrance {
    auth: Arc<Auth>,
    guard: Guard,
    ip: IpAddr,
    /// DNS names of the client's certificate.
    certificate: Vec<String>,
    /// It counts as a transaction manager of this application, under this number.
    manages: Option<(String, u64)>,
    changes: watch::Receiver<()>,
    /// The policy that it was judged by the last time, and what that one grants its application.
    judged: Arc<Policy>,
    service_groups: Arc<[String]>,
}

impl Entrance {
    pub(crate) fn new(auth: Arc<Auth>, ip: IpAddr, certificate: Vec<String>) -> Entrance {
        Entrance {
            changes: auth.changes.subscribe(),
            judged: auth.policy(),
            auth,
            guard: Guard::default(),
            ip: ip.to_canonical(),
            certificate,
            manages: None,
            service_groups: Arc::default(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.guard.application().is_some()
    }

    /// # Errors
    /// Why the client is refused; its connection is to be closed.
    pub(crate) fn register(&mut self, registration: Registration<'_>) -> Result<(), AuthError> {
        let place = (registration.application.to_owned(), self.ip);
        let policy = self.auth.policy();
        let beside = self.auth.managers().get(&place).and_then(|there| {
            let mut there = there.values();
            there.find(|shown| shown.stands(&place.0, &policy)).cloned()
        });
        let caller = Caller {
            certificate: &self.certificate,
            beside: beside.as_ref(),
        };
        let now_ms = Clock::wall().as_millis() as u64;
        self.guard
            .register(registration, caller, &policy, self.auth.config.rules, now_ms)?;
        self.take(policy);
        if registration.role == Role::TransactionManager
            && self.manages.is_none()
            && let Some(shown) = self.guard.shown()
        {
            let number = self.auth.next_manager.fetch_add(1, Ordering::Relaxed);
            self.manages = Some((place.0.clone(), number));
            let mut managers = self.auth.managers();
            managers.entry(place).or_default().insert(number, shown.clone());
        }
        Ok(())
    }

    fn take(&mut self, policy: Arc<Policy>) {
        self.service_groups = policy.service_groups(self.guard.application().unwrap_or_default());
        self.judged = policy;
    }

    /// Waits until another policy is in force.
    pub(crate) async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            // The door outlives its connections.
            std::future::pending::<()>().await;
        }
    }

    /// Judges the connection by the policy in force, if that is another than before.
    ///
    /// # Errors
    /// Why the client would not be let in any more; its connection is to be closed.
    pub(crate) fn judge(&mut self) -> Result<(), AuthError> {
        let policy = self.auth.policy();
        if !Arc::ptr_eq(&policy, &self.judged) {
            self.guard.stands(&policy)?;
            self.take(policy);
        }
        Ok(())
    }

    /// The service groups that the client's application is granted, for the gate.
    pub(crate) fn granted(&self) -> Arc<[String]> {
        self.service_groups.clone()
    }

    /// # Errors
    /// When the connection is one that was let in beside its transaction manager.
    pub(crate) fn may_manage(&self) -> Result<(), AuthError> {
        self.guard.may_manage()
    }

    /// # Errors
    /// When the client's application is not granted `resource`.
    pub(crate) fn may_use(&self, resource: &str) -> Result<(), AuthError> {
        self.guard.may_use(resource, &self.judged)
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        let Some((application, number)) = self.manages.take() else {
            return;
        };
        let mut managers = self.auth.managers();
        let place = (application, self.ip);
        if let Some(there) = managers.get_mut(&place) {
            there.remove(&number);
            if there.is_empty() {
                managers.remove(&place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use settle_auth::{Grants, Key, Pattern, Secret};
    use settle_seata_wire::signature::sign;

    use super::*;

    const SECRET: &str = "a secret of the bank";

    /// One key more than the one that is used.
    fn policy(another: &str, groups: &[&str]) -> Policy {
        let patterns = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| Pattern::new(text).expect("a pattern"))
                .collect()
        };
        let grants = Grants {
            service_groups: patterns(groups),
            resources: patterns(&["*"]),
        };
        let keys = ["key", another].map(|access| Key {
            access: access.to_owned(),
            secret: Secret::new(SECRET),
            applications: BTreeSet::from(["bank".to_owned()]),
        });
        Policy::new(vec![("bank".to_owned(), grants)], keys.to_vec(), vec![]).expect("a good policy")
    }

    fn auth() -> Arc<Auth> {
        let config = AuthConfig {
            rules: Rules {
                signature_age_ms: 300_000,
                signature_ahead_ms: 30_000,
                unsigned_beside: true,
            },
            register_within: Duration::from_secs(10),
            max_registration_bytes: 64 << 10,
        };
        Auth::new(config, policy("one more", &["*"]))
    }

    fn entrance(auth: &Arc<Auth>, ip: &str) -> Entrance {
        Entrance::new(auth.clone(), ip.parse().expect("an address"), Vec::new())
    }

    fn tm(entrance: &mut Entrance) {
        let extra_data = sign("key", SECRET, "group", "127.0.0.1", Clock::wall().as_millis() as u64);
        let registration = Registration {
            role: Role::TransactionManager,
            application: "bank",
            service_group: "group",
            extra_data: &extra_data,
            resources: &[],
        };
        entrance.register(registration).expect("signed");
    }

    fn rm(entrance: &mut Entrance) -> Result<(), AuthError> {
        entrance.register(Registration {
            role: Role::ResourceManager,
            application: "bank",
            service_group: "group",
            extra_data: "",
            resources: &[],
        })
    }

    #[test]
    fn unsigned_resource_managers_come_in_from_an_address_while_a_transaction_manager_is_connected_from_it() {
        let auth = auth();
        let mut first = entrance(&auth, "10.0.0.1");
        let mut second = entrance(&auth, "::ffff:10.0.0.1");
        assert!(rm(&mut entrance(&auth, "10.0.0.1")).is_err());
        tm(&mut first);
        tm(&mut first);
        tm(&mut second);
        rm(&mut entrance(&auth, "10.0.0.1")).expect("beside");
        assert!(rm(&mut entrance(&auth, "10.0.0.2")).is_err(), "another address");
        let mut early = entrance(&auth, "10.0.0.1");
        rm(&mut early).expect("beside");
        drop(first);
        rm(&mut entrance(&auth, "10.0.0.1")).expect("the second is still there");
        drop(second);
        assert!(rm(&mut entrance(&auth, "10.0.0.1")).is_err(), "nobody is there");
        rm(&mut early).expect("who is in stays in");
        assert!(auth.managers().is_empty());
    }

    #[test]
    fn another_policy_holds_at_once_and_for_those_who_are_in() {
        let auth = auth();
        let mut client = entrance(&auth, "10.0.0.1");
        tm(&mut client);
        let mut beside = entrance(&auth, "10.0.0.1");
        rm(&mut beside).expect("beside");
        client.may_use("jdbc:bank").expect("granted");
        assert_eq!(client.granted()[..], ["*"]);
        auth.replace(policy("another", &["group", "other*"]));
        assert_eq!(client.judge(), Ok(()), "its key is still there");
        assert_eq!(client.granted()[..], ["group", "other*"]);
        auth.replace(Policy::default());
        let code = |entrance: &mut Entrance| entrance.judge().expect_err("withdrawn").code().to_string();
        assert_eq!(code(&mut client), "AU0013");
        assert_eq!(code(&mut beside), "AU0013");
        assert!(
            rm(&mut entrance(&auth, "10.0.0.1")).is_err(),
            "beside one that is to go"
        );
    }

    #[tokio::test]
    async fn who_waits_for_another_policy_hears_of_it_even_if_it_came_before_he_waited() {
        let auth = auth();
        let mut client = entrance(&auth, "10.0.0.1");
        auth.replace(Policy::default());
        client.changed().await;
    }
}
