//! Any bytes as what a client says of itself: nobody is admitted who does not hold the secret, and refusals are short.

#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use settle_auth::{Caller, Grants, Guard, Key, Pattern, Policy, Registration, Role, Rules, Secret};
use settle_seata_wire::signature::sign;

const NOW_MS: u64 = 1_790_000_000_000;

fn policy() -> Policy {
    let any = || vec![Pattern::new("*").expect("a pattern")];
    let grants = Grants {
        service_groups: any(),
        resources: any(),
    };
    let key = Key {
        access: "k".to_owned(),
        secret: Secret::new("nobody who fuzzes knows it"),
        applications: BTreeSet::from(["a".to_owned()]),
    };
    Policy::new(vec![("a".to_owned(), grants)], vec![key], vec![]).expect("a good policy")
}

fuzz_target!(|input: (&str, &str, &str)| {
    let (application, service_group, said) = input;
    let rules = Rules {
        signature_age_ms: u64::MAX,
        signature_ahead_ms: u64::MAX,
        unsigned_beside: false,
    };
    // As it stands, and with a signature of the right form by another secret around it.
    let forged = sign("k", said, service_group, said, NOW_MS);
    for extra_data in [said, &forged, &format!("{forged}{said}"), &format!("{said}\n{forged}")] {
        let registration = Registration {
            role: Role::TransactionManager,
            application,
            service_group,
            extra_data,
            resources: &[],
        };
        let mut guard = Guard::default();
        let refused = guard.register(registration, Caller::default(), &policy(), rules, NOW_MS);
        let refused = refused.expect_err("a client without the secret");
        assert!(refused.to_string().len() < 4096 && refused.told().len() < 4096);
        assert!(guard.application().is_none());
    }
});
