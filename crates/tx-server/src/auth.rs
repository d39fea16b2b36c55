//! What the door knows of its clients when it authenticates them: the policy in force, and who is connected from where.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use settle_auth::{AuthError, Caller, Guard, Policy, Registration, Role, Rules};
use settle_base::FixedMap;
use settle_telemetry::Clock;

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
    /// Connected transaction managers that have authenticated, by application and address.
    managers: Mutex<FixedMap<(String, IpAddr), usize>>,
}

impl Auth {
    pub fn new(config: AuthConfig, policy: Policy) -> Arc<Auth> {
        Arc::new(Auth {
            config,
            policy: RwLock::new(Arc::new(policy)),
            managers: Mutex::default(),
        })
    }

    /// Puts another policy in force: for every registration from now on, and for every use of a resource by those that
    /// are connected, whose connections go on.
    pub fn replace(&self, policy: Policy) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    fn policy(&self) -> Arc<Policy> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn managers(&self) -> MutexGuard<'_, FixedMap<(String, IpAddr), usize>> {
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
    /// It counts as a transaction manager of this application.
    manages: Option<String>,
}

impl Entrance {
    pub(crate) fn new(auth: Arc<Auth>, ip: IpAddr, certificate: Vec<String>) -> Entrance {
        Entrance {
            auth,
            guard: Guard::default(),
            ip: ip.to_canonical(),
            certificate,
            manages: None,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.guard.application().is_some()
    }

    /// # Errors
    /// Why the client is refused; its connection is to be closed.
    pub(crate) fn register(&mut self, registration: Registration<'_>) -> Result<(), AuthError> {
        let place = (registration.application.to_owned(), self.ip);
        let caller = Caller {
            certificate: &self.certificate,
            is_beside: self.auth.managers().contains_key(&place),
        };
        let now_ms = Clock::wall().as_millis() as u64;
        self.guard.register(
            registration,
            caller,
            &self.auth.policy(),
            self.auth.config.rules,
            now_ms,
        )?;
        if registration.role == Role::TransactionManager && self.manages.is_none() {
            self.manages = Some(place.0.clone());
            *self.auth.managers().entry(place).or_default() += 1;
        }
        Ok(())
    }

    /// # Errors
    /// When the connection is one that was let in beside its transaction manager.
    pub(crate) fn may_manage(&self) -> Result<(), AuthError> {
        self.guard.may_manage()
    }

    /// # Errors
    /// When the client's application is not granted `resource`.
    pub(crate) fn may_use(&self, resource: &str) -> Result<(), AuthError> {
        self.guard.may_use(resource, &self.auth.policy())
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        let Some(application) = self.manages.take() else { return };
        let mut managers = self.auth.managers();
        let place = (application, self.ip);
        let left = managers.get(&place).map_or(0, |count| count - 1);
        match left {
            0 => drop(managers.remove(&place)),
            left => drop(managers.insert(place, left)),
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

    fn policy() -> Policy {
        let any = || vec![Pattern::new("*").expect("a pattern")];
        let grants = Grants {
            service_groups: any(),
            resources: any(),
        };
        let key = Key {
            access: "key".to_owned(),
            secret: Secret::new(SECRET),
            applications: BTreeSet::from(["bank".to_owned()]),
        };
        Policy::new(vec![("bank".to_owned(), grants)], vec![key], vec![]).expect("a good policy")
    }

    fn auth() -> Arc<Auth> {
        let config = AuthConfig {
            rules: Rules {
                signature_age_ms: 300_000,
                unsigned_beside: true,
            },
            register_within: Duration::from_secs(10),
            max_registration_bytes: 64 << 10,
        };
        Auth::new(config, policy())
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
        client.may_use("jdbc:bank").expect("granted");
        auth.replace(Policy::default());
        assert!(client.may_use("jdbc:bank").is_err());
        assert!(client.is_open());
    }
}
