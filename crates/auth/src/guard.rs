//! One connection, from its first registration on.

use settle_seata_wire::signature::{Signed, VERSION};

use crate::{AuthError, Policy};

/// How much of what a client says of itself is repeated in errors.
const SHOWN_CHARS: usize = 128;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    TransactionManager,
    ResourceManager,
}

/// What holds for all clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// How far a signature's time may be from the server's, either way.
    pub signature_age_ms: u64,
    /// Java's resource managers sign nothing. One is taken for its application all the same when a transaction manager
    /// of that application has authenticated from the same address and is connected.
    pub unsigned_beside: bool,
}

/// What is known of whoever registers, besides what it says.
#[derive(Clone, Copy, Default, Debug)]
pub struct Caller<'a> {
    /// The DNS names in its certificate, which has been verified.
    pub certificate: &'a [String],
    /// A transaction manager of the application that it names has authenticated from its address and is connected.
    pub is_beside: bool,
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

/// The keeper of one connection: nothing is admitted before a registration, which binds it to one application.
#[derive(Default, Debug)]
pub struct Guard {
    application: Option<String>,
    /// It has shown nothing itself: a resource manager that was let in beside a transaction manager.
    is_beside: bool,
}

impl Guard {
    /// The application that the connection was admitted as.
    pub fn application(&self) -> Option<&str> {
        self.application.as_deref()
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
        match &self.application {
            None => self.is_beside = authenticate(registration, caller, policy, rules, now_ms)? == Shown::Nothing,
            Some(first) if first != registration.application => {
                return Err(AuthError::ApplicationChanged {
                    first: shown(first),
                    second: shown(registration.application),
                });
            }
            Some(_) if self.is_beside && registration.role == Role::TransactionManager => {
                let shown = authenticate(registration, caller, policy, rules, now_ms)?;
                assert_eq!(shown, Shown::Itself, "only resource managers are let in beside");
                self.is_beside = false;
            }
            Some(_) => {}
        }
        let Registration {
            application,
            service_group,
            resources,
            ..
        } = registration;
        let grants = policy.grants(application);
        let granted = grants.is_some_and(|grants| {
            let mut groups = grants.service_groups.iter();
            groups.any(|pattern| pattern.matches(service_group))
        });
        if !granted {
            return Err(AuthError::ServiceGroup {
                application: shown(application),
                service_group: shown(service_group),
            });
        }
        for resource in resources {
            may_use(policy, application, resource)?;
        }
        self.application = Some(application.to_owned());
        Ok(())
    }

    /// Whether the connection may begin and end transactions, which one that has shown nothing itself may not.
    ///
    /// # Errors
    /// When it may not; nothing else is wrong with the connection.
    pub fn may_manage(&self) -> Result<(), AuthError> {
        match self.is_beside {
            true => Err(AuthError::Unsigned {
                application: shown(self.application.as_deref().unwrap_or_default()),
            }),
            false => Ok(()),
        }
    }

    /// Whether the connection may take locks or open branches on `resource`.
    ///
    /// # Errors
    /// When it may not; nothing else is wrong with the connection.
    pub fn may_use(&self, resource: &str, policy: &Policy) -> Result<(), AuthError> {
        let application = self.application.as_deref().unwrap_or_default();
        may_use(policy, application, resource)
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

/// What a client is let in by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shown {
    /// A key or a certificate of its own.
    Itself,
    /// That its transaction manager is there.
    Nothing,
}

fn authenticate(
    registration: Registration<'_>,
    caller: Caller<'_>,
    policy: &Policy,
    rules: Rules,
    now_ms: u64,
) -> Result<Shown, AuthError> {
    let application = registration.application;
    let mut names = caller.certificate.iter();
    if names.any(|name| policy.name_speaks_for(name, application)) {
        return Ok(Shown::Itself);
    }
    let signed = Signed::of(registration.extra_data);
    let Some(access) = signed.access else {
        return match registration.role {
            Role::ResourceManager if rules.unsigned_beside && caller.is_beside => Ok(Shown::Nothing),
            Role::ResourceManager if rules.unsigned_beside => Err(AuthError::NothingBeside {
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
    let key = policy
        .key(access)
        .ok_or_else(|| AuthError::UnknownKey { access: shown(access) })?;
    let timestamp_ms = signed.timestamp_ms().ok_or(AuthError::BadTimestamp)?;
    if !signed.is_by(key.secret.text(), registration.service_group) {
        return Err(AuthError::WrongSignature { access: shown(access) });
    }
    let away_ms = now_ms.abs_diff(timestamp_ms);
    if away_ms > rules.signature_age_ms {
        return Err(AuthError::Stale {
            seconds: away_ms / 1000,
            limit_s: rules.signature_age_ms / 1000,
        });
    }
    if !key.applications.contains(application) {
        return Err(AuthError::ForeignApplication {
            principal: shown(access),
            application: shown(application),
        });
    }
    Ok(Shown::Itself)
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use settle_seata_wire::signature::sign;

    use super::*;
    use crate::{Grants, Key, Names, Pattern, Secret};

    const NOW: u64 = 1_790_000_000_000;
    const SECRET: &str = "a secret of the bank";
    const RULES: Rules = Rules {
        signature_age_ms: 300_000,
        unsigned_beside: false,
    };

    fn policy() -> Policy {
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
                ("orders".to_owned(), grants(&["orders_group"], &["jdbc:orders*"])),
                ("stock".to_owned(), grants(&["*"], &["*"])),
            ],
            vec![Key {
                access: "key".to_owned(),
                secret: Secret::new(SECRET),
                applications: orders(),
            }],
            vec![Names {
                name: "orders.bank".to_owned(),
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
                "a signature of tomorrow",
                tm("orders", "orders_group", &signed(NOW + 300_001)),
                "AU0004",
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
            is_beside: false,
        };
        assert_eq!(judged(tm("orders", "orders_group", ""), caller, RULES), "admitted");
        assert_eq!(judged(tm("stock", "stock_group", ""), caller, RULES), "AU0001");
        let stranger = Caller {
            certificate: &["orders.bank.evil".to_owned()],
            is_beside: false,
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
        let beside = Caller {
            certificate: &[],
            is_beside: true,
        };
        let allowed = Rules {
            unsigned_beside: true,
            ..RULES
        };
        assert_eq!(judged(rm, beside, RULES), "AU0001");
        assert_eq!(judged(rm, Caller::default(), allowed), "AU0010");
        assert_eq!(judged(rm, beside, allowed), "admitted");
        assert_eq!(judged(tm("orders", "orders_group", ""), beside, allowed), "AU0001");
    }

    #[test]
    fn who_was_let_in_beside_his_transaction_manager_ends_nothing_and_becomes_one_only_by_his_own_key() {
        let rules = Rules {
            unsigned_beside: true,
            ..RULES
        };
        let beside = Caller {
            is_beside: true,
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
}
