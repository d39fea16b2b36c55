//! What a request carries. What is wrong with it is told as every other error is.

use std::fmt;

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{StatusCode, request::Parts},
};
use serde::{Deserialize, Deserializer, de, de::DeserializeOwned};

use super::ApiError;

pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, ApiError> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Body(body)),
            Err(rejection) => Err(ApiError {
                status: match rejection.status() {
                    StatusCode::PAYLOAD_TOO_LARGE => StatusCode::PAYLOAD_TOO_LARGE,
                    _ => StatusCode::BAD_REQUEST,
                },
                ..ApiError::bad_request(rejection.body_text())
            }),
        }
    }
}

pub(super) struct PathOf<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathOf<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<PathOf<T>, ApiError> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(path)) => Ok(PathOf(path)),
            Err(rejection) => Err(ApiError::bad_request(rejection.body_text())),
        }
    }
}

pub(super) struct QueryOf<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryOf<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<QueryOf<T>, ApiError> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(QueryOf(query)),
            Err(rejection) => Err(ApiError::bad_request(rejection.body_text())),
        }
    }
}

/// An integer as JSON Schema means it, where `7.0` is one, up to 2^53 - 1, which every reader of JSON keeps exact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Whole(pub u64);

impl Whole {
    const MAX: u64 = (1 << 53) - 1;

    /// # Errors
    /// When it is larger than `max`.
    pub fn up_to(self, name: &str, max: u64) -> Result<u64, ApiError> {
        match self.0 {
            n if n <= max => Ok(n),
            n => Err(ApiError::bad_request(format!("{name}={n} is larger than {max}"))),
        }
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Whole, D::Error> {
        struct Reader;

        impl de::Visitor<'_> for Reader {
            type Value = Whole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from 0 to {}", Whole::MAX)
            }

            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Whole, E> {
                match n {
                    0..=Whole::MAX => Ok(Whole(n)),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(n), &self)),
                }
            }

            fn visit_f64<E: de::Error>(self, n: f64) -> Result<Whole, E> {
                if n.fract() == 0.0 && (0.0..=Whole::MAX as f64).contains(&n) {
                    return Ok(Whole(n as u64));
                }
                Err(E::invalid_value(de::Unexpected::Float(n), &self))
            }
        }

        deserializer.deserialize_u64(Reader)
    }
}

/// A text of a query, within the bound that the description names.
///
/// # Errors
/// When it is longer.
pub(super) fn text_of(name: &str, text: Option<String>) -> Result<Option<String>, ApiError> {
    match text {
        Some(text) if text.chars().count() > TEXT_MAX => Err(ApiError::bad_request(format!(
            "{name} has more than {TEXT_MAX} characters"
        ))),
        text => Ok(text),
    }
}

/// Characters of a text in a query, at most.
const TEXT_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_is_one_however_it_is_written_and_no_other_is() {
        for (text, number) in [
            ("7", Some(7)),
            ("7.0", Some(7)),
            ("9007199254740991", Some((1 << 53) - 1)),
        ] {
            let read: Option<Whole> = serde_json::from_str(text).ok();
            assert_eq!(read.map(|whole| whole.0), number, "{text}");
        }
        for text in ["7.5", "-1", "9007199254740992", "1e300", "\"7\"", "null"] {
            assert!(serde_json::from_str::<Whole>(text).is_err(), "{text}");
        }
    }
}
