//! Who may look at a cluster and act on it, beside its clients.

use std::{collections::BTreeMap, fmt};

use sha2::{Digest, Sha256};

use crate::PolicyError;

/// What an operator may do; the later includes the earlier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum May {
    /// See how things stand, with the data of applications that is in it.
    Read,
    /// Change something, and take a backup.
    Act,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operator {
    pub name: String,
    pub may: May,
}

/// What is kept of a token: its SHA-256. A token is random and long, so nothing comes from this back to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    pub fn of(token: &str) -> TokenHash {
        TokenHash(Sha256::digest(token.as_bytes()).into())
    }

    /// From 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<TokenHash> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
        }
        Some(TokenHash(hash))
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// The operators by their tokens. One may have several, so that one can be replaced by another.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Operators {
    by_token: BTreeMap<TokenHash, Operator>,
}

impl Operators {
    /// # Errors
    /// When a token is of two operators, one has no name, or there is none.
    pub fn new(operators: Vec<(TokenHash, Operator)>) -> Result<Operators, PolicyError> {
        let mut by_token = BTreeMap::new();
        for (hash, operator) in operators {
            let name = operator.name.clone();
            if name.is_empty() {
                return Err(PolicyError::Nameless { what: "operator" });
            }
            if by_token.insert(hash, operator).is_some() {
                return Err(PolicyError::Twice {
                    what: "the token of operator",
                    name,
                });
            }
        }
        match by_token.is_empty() {
            true => Err(PolicyError::Empty { what: "operator" }),
            false => Ok(Operators { by_token }),
        }
    }

    /// Whose token it is.
    pub fn who(&self, token: &str) -> Option<&Operator> {
        self.by_token.get(&TokenHash::of(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(name: &str, may: May) -> Operator {
        let name = name.to_owned();
        Operator { name, may }
    }

    #[test]
    fn a_token_is_of_one_operator_and_one_operator_may_have_several() {
        let (old, new) = (TokenHash::of("an old token"), TokenHash::of("a new token"));
        let ada = || operator("ada", May::Act);
        let operators = Operators::new(vec![(old, ada()), (new, ada())]).expect("good");
        assert_eq!(operators.who("a new token"), Some(&ada()));
        assert_eq!(operators.who("an old token"), Some(&ada()));
        assert_eq!(operators.who(&old.to_string()), None, "what is kept opens nothing");
        assert_eq!(operators.who(""), None);
        for (wrong, part) in [
            (vec![(old, ada()), (old, operator("bob", May::Read))], "twice"),
            (vec![(old, operator("", May::Read))], "without a name"),
            (vec![], "no operator"),
        ] {
            let error = Operators::new(wrong).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_hash_is_read_as_it_is_written_and_never_shown_by_accident() {
        // `printf 'a token' | sha256sum`
        let hash = TokenHash::of("a token");
        assert_eq!(TokenHash::parse(&hash.to_string()), Some(hash));
        assert_eq!(
            TokenHash::of("abc").to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        for bad in ["", "ba78", &"g".repeat(64), &"é".repeat(32), &hash.to_string()[1..]] {
            assert_eq!(TokenHash::parse(bad), None, "{bad}");
        }
        assert_eq!(format!("{hash:?}"), "…");
    }
}
