//! The file that says who may connect and what each application may use. Read at the start, and again when it changes.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use settle_auth::{Grants, Key, Names, Pattern, Policy, PolicyError, Secret};
use settle_base::ErrorCode;

/// A policy of ten thousand applications is shorter.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A policy that cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    #[error("cannot read {path}")]
    Read { path: String, source: std::io::Error },
    #[error("{path} does not read: {reason}")]
    Syntax { path: String, reason: String },
    #[error("{path} contradicts itself: {error}")]
    Policy { path: String, error: PolicyError },
}

impl PolicyFileError {
    pub fn code(&self) -> ErrorCode {
        match self {
            PolicyFileError::Read { .. } => ErrorCode::new("CF", 7),
            PolicyFileError::Syntax { .. } => ErrorCode::new("CF", 8),
            PolicyFileError::Policy { error, .. } => error.code(),
        }
    }
}

/// A file whose content is taken when two looks in a row have found the same: one that is being written is half there.
/// There are secrets in it.
pub(super) struct WatchedFile {
    path: PathBuf,
    /// What was put in force, or told of as bad.
    taken: Vec<u8>,
    /// What stood in it at the last look, if that was something else.
    looked: Option<Vec<u8>>,
}

impl fmt::Debug for WatchedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WatchedFile").field(&self.path).finish()
    }
}

impl WatchedFile {
    /// The file, and what stands in it now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn open(path: &Path) -> Result<WatchedFile, PolicyFileError> {
        let mut file = WatchedFile {
            path: path.to_owned(),
            taken: Vec::new(),
            looked: None,
        };
        file.taken = file.read()?;
        Ok(file)
    }

    /// Whether there is another content to take than the last.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn has_changed(&mut self) -> Result<bool, PolicyFileError> {
        let content = self.read()?;
        if content == self.taken {
            self.looked = None;
            return Ok(false);
        }
        if self.looked.as_ref() != Some(&content) {
            self.looked = Some(content);
            return Ok(false);
        }
        self.looked = None;
        self.taken = content;
        Ok(true)
    }

    fn read(&self) -> Result<Vec<u8>, PolicyFileError> {
        let path = self.path.display().to_string();
        let read = |source| PolicyFileError::Read {
            path: path.clone(),
            source,
        };
        let bytes = std::fs::metadata(&self.path).map_err(read)?.len();
        if bytes > FILE_BYTES_MAX {
            let reason = format!("it has {bytes} bytes, and at most {FILE_BYTES_MAX} are read");
            return Err(PolicyFileError::Syntax { path, reason });
        }
        std::fs::read(&self.path).map_err(read)
    }

    /// What was taken, read as TOML and made what it is.
    ///
    /// # Errors
    /// When it does not read, or contradicts itself.
    pub(super) fn parse<F: DeserializeOwned, T>(
        &self,
        make: impl FnOnce(F) -> Result<T, PolicyError>,
    ) -> Result<T, PolicyFileError> {
        let path = self.path.display().to_string();
        let syntax = |reason: String| PolicyFileError::Syntax {
            path: path.clone(),
            reason,
        };
        let text = str::from_utf8(&self.taken).map_err(|error| syntax(error.to_string()))?;
        let file: F = toml::from_str(text).map_err(|error| syntax(place_of(&error, text)))?;
        make(file).map_err(|error| PolicyFileError::Policy { path, error })
    }
}

/// The file of the policy.
#[derive(Debug)]
pub struct PolicyFile(WatchedFile);

/// Where a text is wrong, without a word of it: what is quoted may be a secret.
fn place_of(error: &toml::de::Error, text: &str) -> String {
    let Some(span) = error.span() else {
        return "it does not read as TOML of what it should be".to_owned();
    };
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|char| *char != '\n').count() + 1;
    let is_unknown = error.message().starts_with("unknown field");
    let what = if is_unknown {
        "there is no such key"
    } else {
        "this does not read"
    };
    format!("line {line}, column {column}: {what}")
}

impl PolicyFile {
    /// Reads the policy for the first time.
    ///
    /// # Errors
    /// When the file cannot be read, or is no policy.
    pub fn open(path: &Path) -> Result<(PolicyFile, Policy), PolicyFileError> {
        let file = WatchedFile::open(path)?;
        let policy = file.parse(File::policy)?;
        Ok((PolicyFile(file), policy))
    }

    /// The policy, if it is to be another than the last time; a bad content is told of once.
    ///
    /// # Errors
    /// As [`PolicyFile::open`].
    pub fn changed(&mut self) -> Result<Option<Policy>, PolicyFileError> {
        match self.0.has_changed()? {
            true => self.0.parse(File::policy).map(Some),
            false => Ok(None),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    application: Vec<ApplicationEntry>,
    #[serde(default)]
    key: Vec<KeyEntry>,
    #[serde(default)]
    certificate: Vec<CertificateEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ApplicationEntry {
    id: String,
    #[serde(default)]
    service_groups: Vec<String>,
    #[serde(default)]
    resources: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct KeyEntry {
    access: String,
    secret: String,
    applications: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct CertificateEntry {
    name: String,
    applications: Vec<String>,
}

impl File {
    fn policy(self) -> Result<Policy, PolicyError> {
        let patterns = |texts: Vec<String>| {
            texts
                .iter()
                .map(|text| Pattern::new(text))
                .collect::<Result<Vec<_>, _>>()
        };
        let mut applications = Vec::with_capacity(self.application.len());
        for entry in self.application {
            let grants = Grants {
                service_groups: patterns(entry.service_groups)?,
                resources: patterns(entry.resources)?,
            };
            applications.push((entry.id, grants));
        }
        let keys = self.key.into_iter().map(|entry| Key {
            access: entry.access,
            secret: Secret::new(entry.secret),
            applications: entry.applications.into_iter().collect(),
        });
        let certificates = self.certificate.into_iter().map(|entry| Names {
            name: entry.name,
            applications: entry.applications.into_iter().collect(),
        });
        Policy::new(applications, keys.collect(), certificates.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_policy_is_told_without_its_secrets() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("policy.toml");
        for (line, place) in [
            ("secret = \"a long enough secret", "line 9, column "),
            (
                "secrt = \"a long enough secret\"",
                "line 9, column 9: there is no such key",
            ),
            ("secret = a long enough secret", "line 9, column "),
            ("secret = { text = \"a long enough secret\" }", "line 9, column "),
        ] {
            let text = GOOD.replace("secret = \"a long enough secret\"", line);
            std::fs::write(&path, text).expect("written");
            let error = PolicyFile::open(&path).expect_err(line);
            let told = format!("{error} {error:?}");
            assert!(told.contains(place) && !told.contains("long enough"), "{told}");
        }
    }

    const GOOD: &str = r#"
        [[application]]
        id = "orders"
        service-groups = ["orders_group"]
        resources = ["jdbc:mysql://db1/orders*"]

        [[key]]
        access = "orders-2026"
        secret = "a long enough secret"
        applications = ["orders"]

        [[certificate]]
        name = "orders.bank.internal"
        applications = ["orders"]
    "#;

    #[test]
    fn a_policy_is_read_again_when_it_changes_and_a_bad_one_is_told_of_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("policy.toml");
        assert_eq!(
            PolicyFile::open(&path).expect_err("not there").code().to_string(),
            "CF0007"
        );
        std::fs::write(&path, GOOD).expect("written");
        let (mut file, policy) = PolicyFile::open(&path).expect("a good policy");
        assert_eq!(policy.counts(), (1, 1, 1));
        assert!(file.changed().expect("as it was").is_none());
        for (text, code) in [
            ("", "AU0012"),
            ("[[key]]\naccess = \"k\"", "CF0008"),
            ("[[application]]\nid = \"a\"\nresource = []", "CF0008"),
            ("not toml", "CF0008"),
            (&GOOD.replace("a long enough secret", "short"), "AU0012"),
            (
                &GOOD.replace("\"orders\"", "\"order\"").replacen("order", "other", 1),
                "AU0012",
            ),
        ] {
            std::fs::write(&path, text).expect("written");
            assert!(file.changed().expect("it may be half there").is_none());
            assert_eq!(file.changed().expect_err(text).code().to_string(), code, "{text}");
            assert!(file.changed().expect("told of once").is_none());
        }
        std::fs::write(&path, GOOD).expect("written");
        assert!(file.changed().expect("it may be half there").is_none());
        assert!(file.changed().expect("good again").is_some());
    }

    #[test]
    fn a_policy_that_is_being_written_is_not_taken_for_a_smaller_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("policy.toml");
        std::fs::write(&path, GOOD).expect("written");
        let (mut file, _) = PolicyFile::open(&path).expect("a good policy");
        let longer = format!("{GOOD}\n[[application]]\nid = \"stock\"\n[[application]]\nid = \"points\"\n");
        // Each of these reads as a policy of fewer applications.
        for end in [
            0,
            GOOD.find("[[key]]").expect("there"),
            longer.rfind("[[").expect("there"),
            longer.len(),
        ] {
            std::fs::write(&path, &longer[..end]).expect("written");
            assert!(file.changed().expect("not told of").is_none(), "{end} bytes");
        }
        let policy = file.changed().expect("good").expect("two looks agree");
        assert_eq!(policy.counts().0, 3);
        std::fs::write(&path, "").expect("written");
        assert!(file.changed().expect("it may be half there").is_none());
        assert_eq!(file.changed().expect_err("it stays empty").code().to_string(), "AU0012");
        assert_eq!(PolicyFile::open(&path).expect_err("empty").code().to_string(), "AU0012");
    }

    #[test]
    fn the_example_in_the_documentation_is_a_policy() {
        let text = include_str!("../../../../docs/securing.md");
        let example = text
            .split("```toml")
            .find(|block| block.contains("[[application]]"))
            .expect("an example");
        let example = example.split("```").next().expect("its end");
        let file: File = toml::from_str(example).expect("it is TOML of a policy");
        file.policy().expect("it does not contradict itself");
    }
}
