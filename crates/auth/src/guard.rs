//! One connection, from its first registration on.

use std::collections::BTreeSet;

use settle_seata_wire::signature::{Signed, VERSION};

use crate::{AuthError, Policy, Secret};

/// How much of what a client says of itself is repeated in errors.
const SHOWN_CHARS: usize = 128;
/// Stands in for the secret of a key that is not there.
const NO_SECRET: &str = "the secret of no key at all";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    TransactionManager,
    ResourceManager,
}

/// What holds for all clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// How old a signature may be.
    pub signature_age_ms: u64,
    /// How far ahead of the server's clock a signature's time may be: what clocks differ by, and no more, since it lets
    /// whoever overhears it in for that much longer.
    pub signature_ahead_ms: u64,
    /// Java's resource managers sign nothing. One is taken for its application all the same when a transaction manager
    /// of that application has authenticated from the same address and is connected.
    pub unsigned_beside: bool,
}

/// What is known of whoever registers, besides what it says.
#[derive(Clone, Copy, Default, Debug)]
pub struct Caller<'a> {
    /// The DNS names in its certificate, which has been verified.
    pub certificate: &'a [String],
    /// A transaction manager of the application that it names has authenticated from its address by this, and is
    /// connected.
    pub beside: Option<&'a Shown>,
}

/// What a client says when it registers.
#[derive(Clone, Copy, Debug)]
pub struct Registration<'a> {
    pub role: Role,
    pub application: &'a str,
    pub service_group: &'a str,
    pub extra_data: &'a str,
    pub resources: &'a [String],
}

/// What a client was let in by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shown {
    /// It signed with the secret of this access key.
    Key { access: String, secret: Secret },
    /// This DNS name is in its certificate.
    Certificate { name: String },
}

impl Shown {
    /// Whether it still speaks for `application`.
    pub fn stands(&self, application: &str, policy: &Policy) -> bool {
        match self {
            Shown::Key { access, secret } => policy
                .key(access)
                .is_some_and(|key| key.secret == *secret && key.applications.contains(application)),
            Shown::Certificate { name } => policy.name_speaks_for(name, application),
        }
    }
}

/// Whoever was let in.
#[derive(Debug)]
struct Admitted {
    application: String,
    /// As its last registration said.
    service_group: String,
    /// All that it has registered.
    resources: BTreeSet<String>,
    shown: Shown,
    /// It has shown nothing itself: a resource manager that was let in beside the transaction manager that did.
    is_beside: bool,
}

/// The keeper of one connection: nothing is admitted before a registration, which binds it to one application.
#[derive(Default, Debug)]
pub struct Guard {
    admitted: Option<Admitted>,
}

impl Guard {
    /// The application that the connection was admitted as.
    pub fn application(&self) -> Option<&str> {
        self.admitted.as_ref().map(|admitted| &*admitted.application)
    }

    /// What the connection itself was let in by.
    pub fn shown(&self) -> Option<&Shown> {
        let own = self.admitted.as_ref().filter(|admitted| !admitted.is_beside);
        own.map(|admitted| &admitted.shown)
    }

    /// Judges a registration: the first by who it is, each by what it asks for. One that is refused changes nothing.
    /// `now_ms` is the wall time since the Unix epoch.
    ///
    /// # Errors
    /// Why it is refused; the connection is to be closed.
    pub fn register(
        &mut self,
        registration: Registration<'_>,
        caller: Caller<'_>,
        policy: &Policy,
        rules: Rules,
        now_ms: u64,
    ) -> Result<(), AuthError> {
        let Registration {
            role,
            application,
            service_group,
            resources,
            ..
        } = registration;
        let anew = match &self.admitted {
            Some(admitted) if admitted.application != application => {
                return Err(AuthError::ApplicationChanged {
                    first: shown(&admitted.application),
                    second: shown(application),
                });
            }
            Some(admitted) if !admitted.is_beside || role == Role::ResourceManager => {
                self.stands(policy)?;
                None
            }
            _ => Some(authenticate(registration, caller, policy, rules, now_ms)?),
        };
        may_use_group(policy, application, service_group)?;
        for resource in resources {
            may_use(policy, application, resource)?;
        }
        if let Some((shown, is_beside)) = anew {
            let earlier = self.admitted.take();
            self.admitted = Some(Admitted {
                application: application.to_owned(),
                service_group: String::new(),
                resources: earlier.map(|earlier| earlier.resources).unwrap_or_default(),
                shown,
                is_beside,
            });
        }
        let admitted = self.admitted.as_mut().expect("it was there or has just been let in");
        admitted.service_group = service_group.to_owned();
        admitted.resources.extend(resources.iter().cloned());
        Ok(())
    }

    /// Whether the connection would be admitted by `policy` with all that it has registered. One that is not admitted
    /// yet stands.
    ///
    /// # Errors
    /// What does not stand any more; the connection is to be closed.
    pub fn stands(&self, policy: &Policy) -> Result<(), AuthError> {
        let Some(admitted) = &self.admitted else { return Ok(()) };
        let application = &*admitted.application;
        if !admitted.shown.stands(application, policy) {
            return Err(AuthError::Withdrawn {
                application: shown(application),
            });
        }
        may_use_group(policy, application, &admitted.service_group)?;
        let mut resources = admitted.resources.iter();
        resources.try_for_each(|resource| may_use(policy, application, resource))
    }

    /// Whether the connection may begin and end transactions, which one that has shown nothing itself may not.
    ///
    /// # Errors
    /// When it may not; nothing else is wrong with the connection.
    pub fn may_manage(&self) -> Result<(), AuthError> {
        match &self.admitted {
            Some(admitted) if !admitted.is_beside => Ok(()),
            _ => Err(AuthError::Unsigned {
                application: shown(self.application().unwrap_or_default()),
            }),
        }
    }

    /// Whether the connection may take locks or open branches on `resource`.
    ///
    /// # Errors
    /// When it may not; nothing else is wrong with the connection.
    pub fn may_use(&self, resource: &str, policy: &Policy) -> Result<(), AuthError> {
        may_use(policy, self.application().unwrap_or_default(), resource)
    }
}

fn may_use_group(policy: &Policy, application: &str, service_group: &str) -> Result<(), AuthError> {
    let granted = policy.grants(application).is_some_and(|grants| {
        let mut groups = grants.service_groups.iter();
        groups.any(|pattern| pattern.matches(service_group))
    });
    match granted {
        true => Ok(()),
        false => Err(AuthError::ServiceGroup {
            application: shown(application),
            service_group: shown(service_group),
        }),
    }
}

fn may_use(policy: &Policy, application: &str, resource: &str) -> Result<(), AuthError> {
    let grants = policy.grants(application);
    let granted = grants.is_some_and(|grants| grants.resources.iter().any(|pattern| pattern.matches(resource)));
    match granted {
        true => Ok(()),
        false => Err(AuthError::Resource {
            application: shown(application),
            resource: shown(resource),
        }),
    }
}

/// What lets the client in, and whether it is not the client's own.
fn authenticate(
    registration: Registration<'_>,
    caller: Caller<'_>,
    policy: &Policy,
    rules: Rules,
    now_ms: u64,
) -> Result<(Shown, bool), AuthError> {
    let application = registration.application;
    let mut names = caller.certificate.iter();
    if let Some(name) = names.find(|name| policy.name_speaks_for(name, application)) {
        return Ok((Shown::Certificate { name: name.clone() }, false));
    }
    let signed = Signed::of(registration.extra_data);
    let Some(access) = signed.access else {
        let beside = caller.beside.filter(|beside| beside.stands(application, policy));
        return match (registration.role, beside) {
            (Role::ResourceManager, Some(beside)) if rules.unsigned_beside => Ok((beside.clone(), true)),
            (Role::ResourceManager, _) if rules.unsigned_beside => Err(AuthError::NothingBeside {
                application: shown(application),
            }),
            _ => Err(AuthError::Unsigned {
                application: shown(application),
            }),
        };
    };
    if let Some(version) = signed.version.filter(|version| *version != VERSION) {
        return Err(AuthError::SignatureVersion {
            version: shown(version),
        });
    }
    // What can be told of the registration alone comes before what only a key can tell, and a key that is not there takes
    // as long as one that is: who guesses learns nothing.
    let timestamp_ms = signed.timestamp_ms().ok_or(AuthError::BadTimestamp)?;
    let key = policy.key(access);
    let secret = key.map_or(NO_SECRET, |key| key.secret.text());
    let is_signed = signed.is_by(secret, registration.service_group);
    let Some(key) = key else {
        return Err(AuthError::UnknownKey { access: shown(access) });
    };
    if !is_signed {
        return Err(AuthError::WrongSignature { access: shown(access) });
    }
    let (age_ms, ahead_ms) = (now_ms.saturating_sub(timestamp_ms), timestamp_ms.saturating_sub(now_ms));
    if age_ms > rules.signature_age_ms {
        return Err(AuthError::Stale {
            seconds: age_ms / 1000,
            limit_s: rules.signature_age_ms / 1000,
        });
    }
    if ahead_ms > rules.signature_ahead_ms {
        return Err(AuthError::Ahead {
            seconds: ahead_ms / 1000,
            limit_s: rules.signature_ahead_ms / 1000,
        });
    }
    if !key.applications.contains(application) {
        return Err(AuthError::ForeignApplication {
            principal: shown(access),
            application: shown(application),
        });
    }
    let (access, secret) = (access.to_owned(), key.secret.clone());
    Ok((Shown::Key { access, secret }, false))
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use settle_seata_wire::signature::sign;

    use super::*;
    use crate::{Grants, Key, Names, Pattern};

    const NOW: u64 = 1_790_000_000_000;
    const SECRET: &str = "a secret of the bank";
    const RULES: Rules = Rules {
        signature_age_ms: 300_000,
        signature_ahead_ms: 30_000,
        unsigned_beside: false,
    };

    fn policy() -> Policy {
        policy_without("nothing")
    }

    fn policy_without(taken: &str) -> Policy {
        let patterns = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| Pattern::new(text).expect("a pattern"))
                .collect()
        };
        let grants = |groups: &[&str], resources: &[&str]| Grants {
            service_groups: patterns(groups),
            resources: patterns(resources),
        };
        let orders = || BTreeSet::from(["orders".to_owned()]);
        Policy::new(
            vec![
                (
                    "orders".to_owned(),
                    grants(
                        &[if taken == "group" { "other" } else { "orders_group" }],
                        &[if taken == "resource" { "other" } else { "jdbc:orders*" }],
                    ),
                ),
                ("stock".to_owned(), grants(&["*"], &["*"])),
            ],
            vec![Key {
                access: if taken == "key" { "another" } else { "key" }.to_owned(),
                secret: Secret::new(if taken == "secret" {
                    "another of the bank"
                } else {
                    SECRET
                }),
                applications: orders(),
            }],
            vec![Names {
                name: if taken == "certificate" {
                    "another"
                } else {
                    "orders.bank"
                }
                .to_owned(),
                applications: orders(),
            }],
        )
        .expect("a good policy")
    }

    fn signed(at: u64) -> String {
        sign("key", SECRET, "orders_group", "10.0.0.1", at)
    }

    fn tm<'a>(application: &'a str, service_group: &'a str, extra_data: &'a str) -> Registration<'a> {
        Registration {
            role: Role::TransactionManager,
            application,
            service_group,
            extra_data,
            resources: &[],
        }
    }

    fn judged(registration: Registration<'_>, caller: Caller<'_>, rules: Rules) -> String {
        let mut guard = Guard::default();
        match guard.register(registration, caller, &policy(), rules, NOW) {
            Ok(()) => {
                assert_eq!(guard.application(), Some(registration.application));
                "admitted".to_owned()
            }
            Err(error) => {
                assert_eq!(guard.application(), None, "a refusal admits nothing");
                error.code().to_string()
            }
        }
    }

    #[test]
    fn who_registers_is_judged_by_signature_time_and_application() {
        let good = signed(NOW);
        for (what, registration, verdict) in [
            ("signed", tm("orders", "orders_group", &good), "admitted"),
            ("nothing at all", tm("orders", "orders_group", ""), "AU0001"),
            (
                "no key",
                tm("orders", "orders_group", "ak=null\ndigest=orders_group,1\n"),
                "AU0001",
            ),
            (
                "unknown key",
                tm("orders", "orders_group", &good.replace("ak=key", "ak=kez")),
                "AU0002",
            ),
            (
                "another group than was signed",
                tm("orders", "stock_group", &good),
                "AU0003",
            ),
            (
                "a signature of old",
                tm("orders", "orders_group", &signed(NOW - 300_001)),
                "AU0004",
            ),
            (
                "a signature of the future",
                tm("orders", "orders_group", &signed(NOW + 30_001)),
                "AU0004",
            ),
            (
                "a clock that is a little ahead",
                tm("orders", "orders_group", &signed(NOW + 30_000)),
                "admitted",
            ),
            (
                "the last moment",
                tm("orders", "orders_group", &signed(NOW - 300_000)),
                "admitted",
            ),
            (
                "another way to sign",
                tm("orders", "orders_group", &good.replace("V4", "V5")),
                "AU0005",
            ),
            (
                "no time",
                tm("orders", "orders_group", &good.replace("timestamp=", "timestamp=x")),
                "AU0006",
            ),
            ("another's application", tm("stock", "orders_group", &good), "AU0007"),
        ] {
            assert_eq!(judged(registration, Caller::default(), RULES), verdict, "{what}");
        }
        let for_stock = sign("key", SECRET, "stock_group", "10.0.0.1", NOW);
        assert_eq!(
            judged(tm("orders", "stock_group", &for_stock), Caller::default(), RULES),
            "AU0008"
        );
    }

    #[test]
    fn a_certificate_speaks_for_its_applications_and_no_others() {
        let names = ["Orders.Bank".to_owned()];
        let caller = Caller {
            certificate: &names,
            beside: None,
        };
        assert_eq!(judged(tm("orders", "orders_group", ""), caller, RULES), "admitted");
        assert_eq!(judged(tm("stock", "stock_group", ""), caller, RULES), "AU0001");
        let stranger = Caller {
            certificate: &["orders.bank.evil".to_owned()],
            beside: None,
        };
        assert_eq!(judged(tm("orders", "orders_group", ""), stranger, RULES), "AU0001");
    }

    #[test]
    fn an_unsigned_resource_manager_is_taken_only_beside_its_transaction_manager_and_only_when_allowed() {
        let resources = ["jdbc:orders1".to_owned()];
        let rm = Registration {
            role: Role::ResourceManager,
            resources: &resources,
            ..tm("orders", "orders_group", "")
        };
        let by_certificate = Shown::Certificate {
            name: "orders.bank".to_owned(),
        };
        let beside = Caller {
            certificate: &[],
            beside: Some(&by_certificate),
        };
        let withdrawn = Shown::Certificate {
            name: "former.bank".to_owned(),
        };
        let beside_a_former = Caller {
            beside: Some(&withdrawn),
            ..beside
        };
        let allowed = Rules {
            unsigned_beside: true,
            ..RULES
        };
        assert_eq!(judged(rm, beside, RULES), "AU0001");
        assert_eq!(judged(rm, Caller::default(), allowed), "AU0010");
        assert_eq!(judged(rm, beside_a_former, allowed), "AU0010");
        assert_eq!(judged(rm, beside, allowed), "admitted");
        assert_eq!(judged(tm("orders", "orders_group", ""), beside, allowed), "AU0001");
    }

    #[test]
    fn who_was_let_in_beside_his_transaction_manager_ends_nothing_and_becomes_one_only_by_his_own_key() {
        let rules = Rules {
            unsigned_beside: true,
            ..RULES
        };
        let by_certificate = Shown::Certificate {
            name: "orders.bank".to_owned(),
        };
        let beside = Caller {
            beside: Some(&by_certificate),
            ..Caller::default()
        };
        let mut guard = Guard::default();
        let rm = Registration {
            role: Role::ResourceManager,
            ..tm("orders", "orders_group", "")
        };
        let policy = policy();
        guard
            .register(rm, beside, &policy, rules, NOW)
            .expect("it is beside one");
        assert_eq!(
            guard.may_manage().expect_err("it showed nothing").code().to_string(),
            "AU0001"
        );
        let unsigned = tm("orders", "orders_group", "");
        let refused = guard.register(unsigned, beside, &policy, rules, NOW);
        assert_eq!(refused.expect_err("not signed").code().to_string(), "AU0001");
        assert!(guard.may_manage().is_err());
        let signed = signed(NOW);
        guard
            .register(tm("orders", "orders_group", &signed), beside, &policy, rules, NOW)
            .expect("signed");
        assert_eq!(guard.may_manage(), Ok(()));
    }

    #[test]
    fn an_admitted_connection_stays_with_its_application_and_what_that_one_is_granted() {
        let (policy, extra) = (policy(), signed(NOW));
        let mut guard = Guard::default();
        assert!(
            guard.may_use("jdbc:orders1", &policy).is_err(),
            "nobody is admitted yet"
        );
        let first = tm("orders", "orders_group", &extra);
        let mut register = |registration| guard.register(registration, Caller::default(), &policy, RULES, NOW);
        register(first).expect("signed");
        // Java's later registrations carry no signature.
        let resources = ["jdbc:orders1".to_owned()];
        let more = Registration {
            role: Role::ResourceManager,
            resources: &resources,
            ..tm("orders", "orders_group", "")
        };
        register(more).expect("it is known");
        let foreign = ["jdbc:orders1".to_owned(), "jdbc:stock".to_owned()];
        let code = |result: Result<(), AuthError>| result.expect_err("refused").code().to_string();
        let of_another = Registration {
            resources: &foreign,
            ..more
        };
        assert_eq!(code(register(of_another)), "AU0009");
        assert_eq!(code(register(tm("stock", "stock_group", ""))), "AU0011");
        assert!(guard.may_use("jdbc:orders2", &policy).is_ok());
        assert_eq!(code(guard.may_use("jdbc:stock", &policy)), "AU0009");
        assert!(
            guard.may_use("jdbc:orders2", &Policy::default()).is_err(),
            "grants can be taken away"
        );
    }

    #[test]
    fn what_is_taken_away_ends_whoever_was_let_in_by_it() {
        let signed = signed(NOW);
        let names = ["orders.bank".to_owned()];
        let certified = Caller {
            certificate: &names,
            beside: None,
        };
        let resources = ["jdbc:orders1".to_owned()];
        let rm = Registration {
            resources: &resources,
            role: Role::ResourceManager,
            ..tm("orders", "orders_group", &signed)
        };
        let by_key = Shown::Key {
            access: "key".to_owned(),
            secret: Secret::new(SECRET),
        };
        let beside = Caller {
            beside: Some(&by_key),
            ..Caller::default()
        };
        let rules = Rules {
            unsigned_beside: true,
            ..RULES
        };
        let unsigned = Registration { extra_data: "", ..rm };
        for (what, registration, caller, taken, code) in [
            ("nothing", rm, Caller::default(), "nothing", None),
            ("the key", rm, Caller::default(), "key", Some("AU0013")),
            ("its secret", rm, Caller::default(), "secret", Some("AU0013")),
            ("the key of another", rm, certified, "key", None),
            (
                "the name in the certificate",
                rm,
                certified,
                "certificate",
                Some("AU0013"),
            ),
            ("the key of who is beside", unsigned, beside, "key", Some("AU0013")),
            ("the service group", rm, Caller::default(), "group", Some("AU0008")),
            ("a resource", rm, Caller::default(), "resource", Some("AU0009")),
        ] {
            let mut guard = Guard::default();
            guard.register(registration, caller, &policy(), rules, NOW).expect(what);
            let policy = policy_without(taken);
            let stands = guard.stands(&policy).map_err(|error| error.code().to_string());
            assert_eq!(stands.err().as_deref(), code, "{what}");
            let again = guard.register(registration, caller, &policy, rules, NOW);
            assert_eq!(
                again.is_err(),
                code.is_some(),
                "{what}: a later registration is no way back in"
            );
        }
        assert!(
            Guard::default().stands(&Policy::default()).is_ok(),
            "it was never let in"
        );
    }

    #[test]
    fn who_guesses_at_access_keys_is_told_the_same_of_all() {
        let policy = policy();
        let told = |access: &str| {
            let extra_data = sign(access, "a guess at its secret", "orders_group", "10.0.0.1", NOW);
            let registration = tm("orders", "orders_group", &extra_data);
            let refused = Guard::default().register(registration, Caller::default(), &policy, RULES, NOW);
            refused.expect_err("a guess").told().replace(&format!("`{access}`"), "")
        };
        assert_eq!(told("key"), told("kez"));
    }
}
