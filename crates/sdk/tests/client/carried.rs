//! The transaction on its way between services.

use std::convert::Infallible;

use anyhow::Result;
use http::{Request, Response};
use settle_sdk::{
    Current, current,
    http::{CarryLayer, HEADER, JoinLayer},
    within,
};
use tower::{Layer, ServiceExt, service_fn};

const XID: &str = "127.0.0.1:8091:7";

/// Answers with the transaction that it runs in, as seen when called and later.
async fn met(_: Request<()>) -> Result<Response<Option<String>>, Infallible> {
    let xid = |current: Option<Current>| current.map(|current| current.xid().to_owned());
    let first = xid(current());
    tokio::task::yield_now().await;
    assert_eq!(first, xid(current()));
    Ok(Response::new(first))
}

/// What a server that joins meets of a client that carries, as HTTP/2 and gRPC write the header.
#[tokio::test]
async fn a_request_takes_its_callers_transaction_along_and_no_other() -> Result<()> {
    let server = CarryLayer.layer(JoinLayer.layer(service_fn(met)));
    let ask = async |request: Request<()>| server.clone().oneshot(request).await.map(Response::into_body);
    let called_in = |xid: &'static str, request| within(Some(Current::joined(xid)), ask(request));

    assert_eq!(ask(Request::new(())).await?, None);
    assert_eq!(called_in(XID, Request::new(())).await?.as_deref(), Some(XID));
    // One that came with the request from elsewhere is not this caller's.
    let forwarded = || Request::builder().header(HEADER, "127.0.0.1:8091:8").body(());
    assert_eq!(ask(forwarded()?).await?, None);
    assert_eq!(called_in(XID, forwarded()?).await?.as_deref(), Some(XID));
    Ok(())
}

#[tokio::test]
async fn a_server_is_in_the_transaction_of_the_header_whatever_its_own_task_is_in() -> Result<()> {
    let server = JoinLayer.layer(service_fn(met));
    let ask = async |request: Request<()>| server.clone().oneshot(request).await.map(Response::into_body);
    for name in ["TX_XID", "tx_xid"] {
        let request = Request::builder().header(name, XID).body(())?;
        let asked = within(Some(Current::joined("127.0.0.1:8091:9")), ask(request));
        assert_eq!(asked.await?.as_deref(), Some(XID));
    }
    let outer = within(Some(Current::joined("127.0.0.1:8091:9")), ask(Request::new(())));
    assert_eq!(outer.await?, None);
    assert_eq!(ask(Request::builder().header(HEADER, "").body(())?).await?, None);
    // No id at all: it is still not done outside a transaction, and no branch can be registered in it.
    let strange = Request::builder().header(HEADER, &b"\xff"[..]).body(())?;
    assert!(ask(strange).await?.is_some());
    Ok(())
}
