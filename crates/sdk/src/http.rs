//! The transaction's id on its way between services: tower layers for HTTP, and for gRPC, whose metadata are HTTP headers.
//!
//! The header is Seata's `TX_XID` (`RootContext.KEY_XID`): in HTTP/2 and gRPC it is written `tx_xid`, and names of headers
//! are alike in any case. Proxies that drop headers with an underscore (nginx unless `underscores_in_headers on`) drop
//! the transaction with it.

use std::task::{Context, Poll};

use http::{HeaderName, HeaderValue, Request};
use tower_layer::Layer;
use tower_service::Service;

use crate::{Current, Within, current, within, within_sync};

/// `TX_XID`.
pub const HEADER: HeaderName = HeaderName::from_static("tx_xid");

/// The header's value for the transaction that this task is in: for clients that are no tower services.
pub fn header() -> Option<HeaderValue> {
    // An id that no header can carry would be lost silently; coordinators give ids of host, port and number.
    HeaderValue::from_str(current()?.xid()).ok()
}

/// For a server: work for a request runs in the transaction that its header names, or in none. It is the caller's: this
/// side registers branches in it and answers with an error when one fails, and the caller ends it.
#[derive(Clone, Copy, Default, Debug)]
pub struct JoinLayer;

impl<S> Layer<S> for JoinLayer {
    type Service = Join<S>;

    fn layer(&self, inner: S) -> Join<S> {
        Join { inner }
    }
}

/// What [`JoinLayer`] makes.
#[derive(Clone, Debug)]
pub struct Join<S> {
    inner: S,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for Join<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Within<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Within<S::Future> {
        // A value that is no id stays one, and fails where a branch is registered: work that was to be done in a
        // transaction is not done outside.
        let joined = request
            .headers()
            .get(HEADER)
            .filter(|value| !value.is_empty())
            .map(|value| Current::joined(&*String::from_utf8_lossy(value.as_bytes())));
        let work = within_sync(joined.clone(), || self.inner.call(request));
        within(joined, work)
    }
}

/// For a client: a request takes the transaction along that the calling task is in.
#[derive(Clone, Copy, Default, Debug)]
pub struct CarryLayer;

impl<S> Layer<S> for CarryLayer {
    type Service = Carry<S>;

    fn layer(&self, inner: S) -> Carry<S> {
        Carry { inner }
    }
}

/// What [`CarryLayer`] makes.
#[derive(Clone, Debug)]
pub struct Carry<S> {
    inner: S,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for Carry<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        match header() {
            Some(xid) => drop(request.headers_mut().insert(HEADER, xid)),
            // What another hop put there is not this task's.
            None => drop(request.headers_mut().remove(HEADER)),
        }
        self.inner.call(request)
    }
}
