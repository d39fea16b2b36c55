use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use crate::PolicyError;

/// Shorter ones are guessed.
const SECRET_BYTES_MIN: usize = 16;

/// A secret key; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A name, or with a `*` at its end all names that begin so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern {
    text: String,
    is_prefix: bool,
}

impl Pattern {
    /// # Errors
    /// When a `*` stands anywhere but at the end.
    pub fn new(text: &str) -> Result<Pattern, PolicyError> {
        let (start, is_prefix) = match text.strip_suffix('*') {
            Some(start) => (start, true),
            None => (text, false),
        };
        if start.contains('*') {
            return Err(PolicyError::BadPattern {
                pattern: text.to_owned(),
            });
        }
        Ok(Pattern {
            text: start.to_owned(),
            is_prefix,
        })
    }

    /// As it was written.
    fn written(&self) -> String {
        format!("{}{}", self.text, if self.is_prefix { "*" } else { "" })
    }

    pub fn matches(&self, name: &str) -> bool {
        match self.is_prefix {
            true => name.starts_with(&self.text),
            false => name == self.text,
        }
    }
}

/// What one application may use; nothing by default.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Grants {
    pub service_groups: Vec<Pattern>,
    pub resources: Vec<Pattern>,
}

/// An access key: who signs with its secret may register as these applications.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key {
    pub access: String,
    pub secret: Secret,
    pub applications: BTreeSet<String>,
}

/// The DNS name in a client's certificate: who shows it may register as these applications.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Names {
    pub name: String,
    pub applications: BTreeSet<String>,
}

/// Who may do what. What is not granted is refused; the default one grants nothing to anybody.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Policy {
    applications: BTreeMap<String, Grants>,
    /// The service groups of each application, as they were written.
    service_groups: BTreeMap<String, Arc<[String]>>,
    keys: BTreeMap<String, Key>,
    names: BTreeMap<String, BTreeSet<String>>,
}

impl Policy {
    /// # Errors
    /// When something stands twice, has no name, or speaks for an application that is not there; when a secret is short;
    /// when there is no application.
    pub fn new(
        applications: Vec<(String, Grants)>,
        keys: Vec<Key>,
        certificates: Vec<Names>,
    ) -> Result<Policy, PolicyError> {
        let mut policy = Policy::default();
        for (id, grants) in applications {
            let written = grants.service_groups.iter().map(Pattern::written).collect();
            policy.service_groups.insert(id.clone(), written);
            insert("application", &mut policy.applications, id, grants)?;
        }
        for key in keys {
            policy.check_applications("access key", &key.access, &key.applications)?;
            let bytes = key.secret.text().len();
            if bytes < SECRET_BYTES_MIN {
                return Err(PolicyError::ShortSecret {
                    access: key.access,
                    bytes,
                    min: SECRET_BYTES_MIN,
                });
            }
            insert("access key", &mut policy.keys, key.access.clone(), key)?;
        }
        for Names { name, applications } in certificates {
            policy.check_applications("certificate", &name, &applications)?;
            insert(
                "certificate",
                &mut policy.names,
                name.to_ascii_lowercase(),
                applications,
            )?;
        }
        match policy.applications.is_empty() {
            true => Err(PolicyError::Empty { what: "application" }),
            false => Ok(policy),
        }
    }

    fn check_applications(
        &self,
        what: &'static str,
        name: &str,
        applications: &BTreeSet<String>,
    ) -> Result<(), PolicyError> {
        let unknown = applications.iter().find(|id| !self.applications.contains_key(*id));
        unknown.map_or(Ok(()), |application| {
            Err(PolicyError::UnknownApplication {
                what,
                name: name.to_owned(),
                application: application.clone(),
            })
        })
    }

    pub(crate) fn key(&self, access: &str) -> Option<&Key> {
        self.keys.get(access)
    }

    /// Whether a certificate of this DNS name speaks for `application`.
    pub(crate) fn name_speaks_for(&self, name: &str, application: &str) -> bool {
        let applications = self.names.get(&name.to_ascii_lowercase());
        applications.is_some_and(|applications| applications.contains(application))
    }

    pub(crate) fn grants(&self, application: &str) -> Option<&Grants> {
        self.applications.get(application)
    }

    /// The service groups that `application` is granted: names, or their beginning and a `*`.
    pub fn service_groups(&self, application: &str) -> Arc<[String]> {
        self.service_groups.get(application).cloned().unwrap_or_default()
    }

    /// How many applications, access keys and certificates' names there are.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.applications.len(), self.keys.len(), self.names.len())
    }
}

fn insert<T>(what: &'static str, into: &mut BTreeMap<String, T>, name: String, value: T) -> Result<(), PolicyError> {
    if name.is_empty() {
        return Err(PolicyError::Nameless { what });
    }
    if into.contains_key(&name) {
        return Err(PolicyError::Twice { what, name });
    }
    into.insert(name, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(access: &str, secret: &str, application: &str) -> Key {
        Key {
            access: access.to_owned(),
            secret: Secret::new(secret),
            applications: BTreeSet::from([application.to_owned()]),
        }
    }

    #[test]
    fn a_pattern_is_a_name_or_the_beginning_of_names() {
        let matches = |pattern: &str, name| Pattern::new(pattern).expect("a pattern").matches(name);
        assert!(matches("orders", "orders") && !matches("orders", "orders2") && !matches("orders", ""));
        assert!(matches("jdbc:*", "jdbc:mysql") && !matches("jdbc:*", "jdb") && matches("*", ""));
        assert!(Pattern::new("a*b").is_err() && Pattern::new("**").is_err());
    }

    #[test]
    fn a_policy_that_contradicts_itself_is_refused() {
        let application = || ("orders".to_owned(), Grants::default());
        let good = key("k", "a long enough secret", "orders");
        assert!(Policy::new(vec![application()], vec![good.clone()], vec![]).is_ok());
        for (applications, keys, part) in [
            (vec![application(), application()], vec![], "application `orders`"),
            (vec![application()], vec![good.clone(), good.clone()], "access key `k`"),
            (vec![], vec![good], "not there"),
            (vec![application()], vec![key("k", "short", "orders")], "5 bytes"),
            (vec![(String::new(), Grants::default())], vec![], "without a name"),
            (vec![], vec![], "no application"),
        ] {
            let error = Policy::new(applications, keys, vec![]).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let shown = format!("{:?}", key("k", "a long enough secret", "orders"));
        assert!(shown.contains("orders") && !shown.contains("enough"), "{shown}");
    }
}
