//! What Settle adds to the registration of a branch, in places that Seata leaves free: a token, by which one that comes
//! again is known. Whoever got no answer to a registration may then ask again through another node; without one, every
//! registration that arrives is a branch of its own.
//!
//! A client asks whether the coordinator knows tokens by an entry in the head of its own registration (101, 103), and one
//! that does answers with the same entry. Seata's coordinators neither read nor write it. The token itself is the first
//! member of the branch's application data, which every client takes for a JSON object and reads by names.

/// In the head of a client's registration: "do you know tokens?"; in the head of its answer: yes.
pub const KNOWS_TOKENS: &str = "settle.once";

/// Puts `token` in front of a branch's application data. None when the data is no JSON object, which has no place for one.
/// `token` is of letters and digits.
pub fn with_token(token: &str, application_data: &str) -> Option<String> {
    debug_assert!(
        token.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{token:?} needs no escape"
    );
    let rest = match application_data.trim() {
        "" => "}",
        object => object.strip_prefix('{')?.trim_start(),
    };
    let comma = if rest.starts_with('}') { "" } else { "," };
    Some(format!("{{\"settle.once\":\"{token}\"{comma}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_in_front_of_what_is_there() {
        for (before, after) in [
            ("", Some(r#"{"settle.once":"7f"}"#)),
            ("{ }", Some(r#"{"settle.once":"7f"}"#)),
            (
                r#"{"autoCommit":false}"#,
                Some(r#"{"settle.once":"7f","autoCommit":false}"#),
            ),
            ("[]", None),
            ("plain", None),
        ] {
            assert_eq!(with_token("7f", before).as_deref(), after, "{before}");
        }
    }
}
