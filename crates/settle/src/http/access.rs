//! Who asks. Where operators are named, every request but those of probes shows the token of one.

use std::sync::{Arc, PoisonError, RwLock};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use settle_auth::{May, Operators};
use settle_base::{ErrorCode, Retryable};
use settle_telemetry::Seldom;

use super::ApiError;

/// Refused requests in the log, a second.
const REFUSALS_TOLD: u32 = 8;

/// The operators in force.
pub struct Access {
    operators: RwLock<Arc<Operators>>,
    seldom: Seldom,
}

impl Access {
    pub fn new(operators: Operators) -> Arc<Access> {
        Arc::new(Access {
            operators: RwLock::new(Arc::new(operators)),
            seldom: Seldom::new(REFUSALS_TOLD),
        })
    }

    /// Puts others in force, for every request from now on.
    pub fn replace(&self, operators: Operators) {
        *self.operators.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(operators);
    }

    /// The name of whoever asks this.
    fn judge(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<String, ApiError> {
        let operators = self.operators.read().unwrap_or_else(PoisonError::into_inner).clone();
        let operator = bearer(headers).and_then(|token| operators.who(token));
        let Some(operator) = operator else {
            return Err(refused(
                StatusCode::UNAUTHORIZED,
                8,
                "this is not the token of an operator",
            ));
        };
        if operator.may < needed(method, path) {
            let message = format!("operator `{}` may only read", operator.name);
            return Err(refused(StatusCode::FORBIDDEN, 9, &message));
        }
        Ok(operator.name.clone())
    }
}

fn refused(status: StatusCode, number: u16, message: &str) -> ApiError {
    ApiError {
        status,
        code: ErrorCode::new("AP", number),
        message: message.to_owned(),
        retryable: Retryable::No,
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A backup is all that there is, and read by one request.
fn needed(method: &Method, path: &str) -> May {
    match (method, path.ends_with("/backup")) {
        (&Method::GET | &Method::HEAD, false) => May::Read,
        _ => May::Act,
    }
}

/// Lets a request through that may be, and says whose it is. Without operators all may.
pub(super) async fn admit(State(access): State<Option<Arc<Access>>>, mut request: Request, next: Next) -> Response {
    let Some(access) = access else {
        return next.run(request).await;
    };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if matches!(&*path, "/healthz" | "/readyz") {
        return next.run(request).await;
    }
    match access.judge(&method, &path, request.headers()) {
        Ok(name) => {
            if needed(&method, &path) == May::Act {
                tracing::info!(operator = name, %method, path, "an operator asks");
            }
            request.extensions_mut().insert(Asker(Some(name)));
            next.run(request).await
        }
        Err(error) => {
            if let Some(left_out) = access.seldom.tell() {
                tracing::warn!(code = %error.code, %method, path, left_out, "request refused: {}", error.message);
            }
            let is_unknown = error.status == StatusCode::UNAUTHORIZED;
            let mut response = error.into_response();
            if is_unknown {
                let scheme = header::HeaderValue::from_static("Bearer");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
            }
            response
        }
    }
}

/// The operator who asks, where that is known. Acts are signed with his name, whatever they say.
#[derive(Clone, Default)]
pub(super) struct Asker(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for Asker {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Asker, Self::Rejection> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, middleware::from_fn_with_state};
    use settle_auth::{Operator, TokenHash};
    use tower::ServiceExt;

    use super::*;

    fn operators(of: &[(&str, &str, May)]) -> Operators {
        let operator = |(token, name, may): &(&str, &str, May)| {
            let name = (*name).to_owned();
            (TokenHash::of(token), Operator { name, may: *may })
        };
        Operators::new(of.iter().map(operator).collect()).expect("good")
    }

    /// The status, and who the handler is told that asks.
    async fn ask(access: Option<&Arc<Access>>, method: Method, path: &str, authorization: &str) -> (u16, String) {
        let router: Router = Router::new()
            .fallback(async |asker: Asker| asker.0.unwrap_or_default())
            .layer(from_fn_with_state(access.cloned(), admit));
        let mut request = Request::builder().method(method).uri(path);
        if !authorization.is_empty() {
            request = request.header("authorization", authorization);
        }
        let request = request.body(Body::empty()).expect("a request");
        let answer = router.oneshot(request).await.expect("a router answers");
        let status = answer.status().as_u16();
        assert_eq!(status == 401, answer.headers().contains_key("www-authenticate"));
        let body = axum::body::to_bytes(answer.into_body(), 1_000).await.expect("short");
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn who_shows_the_token_of_an_operator_does_what_that_one_may_and_is_known_by_his_name() {
        let access = Access::new(operators(&[("acts", "ada", May::Act), ("reads", "bob", May::Read)]));
        for (method, path, authorization, status, asker) in [
            (Method::GET, "/v1/tx", "Bearer acts", 200, "ada"),
            (Method::GET, "/v1/tx", "bearer  reads ", 200, "bob"),
            (Method::GET, "/metrics", "Bearer reads", 200, "bob"),
            (Method::POST, "/v1/tx/7/commit", "Bearer acts", 200, "ada"),
            (Method::POST, "/v1/tx/7/commit", "Bearer reads", 403, "AP0009"),
            (Method::DELETE, "/v1/tx", "Bearer reads", 403, "AP0009"),
            (Method::GET, "/v1/group/1/backup", "Bearer reads", 403, "AP0009"),
            (Method::GET, "/v1/tx", "", 401, "AP0008"),
            (Method::GET, "/v1/tx", "Bearer", 401, "AP0008"),
            (Method::GET, "/v1/tx", "Bearer guess", 401, "AP0008"),
            (Method::GET, "/v1/tx", "Basic acts", 401, "AP0008"),
            (Method::GET, "/metrics", "", 401, "AP0008"),
            (Method::GET, "/nothing", "", 401, "AP0008"),
            (Method::GET, "/healthz", "", 200, ""),
            (Method::GET, "/readyz", "", 200, ""),
        ] {
            let (told, body) = ask(Some(&access), method.clone(), path, authorization).await;
            assert_eq!(told, status, "{method} {path} {authorization}");
            match status {
                200 => assert_eq!(body, asker),
                _ => assert!(body.contains(asker), "{body}"),
            }
        }
        access.replace(operators(&[("other", "eve", May::Act)]));
        assert_eq!(
            ask(Some(&access), Method::GET, "/v1/tx", "Bearer acts").await.0,
            401,
            "from the next request on"
        );
    }

    #[tokio::test]
    async fn where_no_operators_are_named_everybody_asks_and_is_nobody() {
        let (status, asker) = ask(None, Method::POST, "/v1/tx/7/commit", "Bearer ada").await;
        assert_eq!((status, &*asker), (200, ""));
    }
}
