//! The file that says who may use the HTTP API.

use std::path::Path;

use serde::Deserialize;
use settle_auth::{May, Operator, Operators, PolicyError, TokenHash};
use settle_tx::OPERATOR_CHARS_MAX;

use super::{PolicyFileError, policy::WatchedFile};

/// The file of `auth.operators`.
#[derive(Debug)]
pub struct OperatorsFile(WatchedFile);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    operator: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    name: Name,
    token_sha256: Hash,
    may: Word,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Read,
    Act,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Name(String);

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Name, &'static str> {
        match text.chars().count() {
            ..=OPERATOR_CHARS_MAX => Ok(Name(text)),
            _ => Err("a name is too long for the log"),
        }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Hash(TokenHash);

impl TryFrom<String> for Hash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Hash, &'static str> {
        TokenHash::parse(&text)
            .map(Hash)
            .ok_or("a hash has 64 hexadecimal digits")
    }
}

impl File {
    fn operators(self) -> Result<Operators, PolicyError> {
        let operator = |entry: Entry| {
            let may = match entry.may {
                Word::Read => May::Read,
                Word::Act => May::Act,
            };
            let name = entry.name.0;
            (entry.token_sha256.0, Operator { name, may })
        };
        Operators::new(self.operator.into_iter().map(operator).collect())
    }
}

impl OperatorsFile {
    /// Reads the operators for the first time.
    ///
    /// # Errors
    /// When the file cannot be read, or does not say who they are.
    pub fn open(path: &Path) -> Result<(OperatorsFile, Operators), PolicyFileError> {
        let file = WatchedFile::open(path)?;
        let operators = file.parse(File::operators)?;
        Ok((OperatorsFile(file), operators))
    }

    /// The operators, if they are to be others than the last time; a bad content is told of once.
    ///
    /// # Errors
    /// As [`OperatorsFile::open`].
    pub fn changed(&mut self) -> Result<Option<Operators>, PolicyFileError> {
        match self.0.has_changed()? {
            true => self.0.parse(File::operators).map(Some),
            false => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_in_the_documentation_names_operators() {
        let text = include_str!("../../../../docs/securing.md");
        let example = text.split("```toml").find(|block| block.contains("[[operator]]"));
        let example = example.expect("an example").split("```").next().expect("its end");
        let file: File = toml::from_str(example).expect("it is TOML of operators");
        let operators = file.operators().expect("it does not contradict itself");
        assert_eq!(
            operators.who("an example of a token").map(|operator| operator.may),
            Some(May::Act)
        );
    }

    #[test]
    fn what_is_no_list_of_operators_is_refused_by_its_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("operators.toml");
        let hash = TokenHash::of("a token");
        for (text, code) in [
            (String::new(), "AU0012"),
            (
                format!("[[operator]]\nname = \"ada\"\ntoken-sha256 = \"{hash}\"\nmay = \"all\""),
                "CF0008",
            ),
            (
                "[[operator]]\nname = \"ada\"\ntoken-sha256 = \"a token\"\nmay = \"act\"".to_owned(),
                "CF0008",
            ),
            (
                format!("[[operator]]\nname = \"ada\"\ntoken-sha256 = \"{hash}\""),
                "CF0008",
            ),
        ] {
            std::fs::write(&path, &text).expect("written");
            assert_eq!(
                OperatorsFile::open(&path).expect_err(&text).code().to_string(),
                code,
                "{text}"
            );
        }
    }
}
