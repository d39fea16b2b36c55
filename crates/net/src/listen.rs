use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustls::ServerConfig;
use settle_base::{ErrorCode, FixedMap};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{Stop, TlsServer};

const CONNECTION_REFUSED: ErrorCode = ErrorCode::new("NT", 3);
const CANNOT_ACCEPT: ErrorCode = ErrorCode::new("NT", 4);
const ADDRESS_REFUSED: ErrorCode = ErrorCode::new("NT", 8);

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen on {address} for {purpose}: another program has the port")]
    InUse {
        address: SocketAddr,
        purpose: &'static str,
        source: io::Error,
    },
    #[error("cannot listen on {address} for {purpose}")]
    Refused {
        address: SocketAddr,
        purpose: &'static str,
        source: io::Error,
    },
}

impl BindError {
    pub fn code(&self) -> ErrorCode {
        match self {
            BindError::InUse { .. } => ErrorCode::new("NT", 1),
            BindError::Refused { .. } => ErrorCode::new("NT", 2),
        }
    }
}

/// A bound socket. Accepting starts with [`Listener::serve`], so that all ports of a server can be taken first.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    purpose: &'static str,
    max_connections: usize,
    max_per_address: usize,
    tls: Option<TlsServer>,
    refused: Arc<AtomicU64>,
}

/// One accepted connection, of which nothing has been read: [`open`](Accepted::open) it.
#[derive(Debug)]
pub struct Accepted {
    pub(crate) socket: TcpStream,
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub peer: SocketAddr,
}

/// Connections by the address they come from.
#[derive(Clone, Default)]
struct ByAddress {
    counts: Arc<Mutex<FixedMap<IpAddr, usize>>>,
}

/// A connection's place among those of its address.
struct Place {
    of: ByAddress,
    address: IpAddr,
}

impl ByAddress {
    fn enter(&self, address: IpAddr, limit: usize) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Place {
            of: self.clone(),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.of.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get(&self.address) {
            Some(2..) => *counts.get_mut(&self.address).expect("it was just seen") -= 1,
            _ => drop(counts.remove(&self.address)),
        }
    }
}

/// Takes `address` for `purpose` (a few words for messages).
///
/// # Errors
/// When the port is taken or the address is not this machine's.
pub async fn bind(address: SocketAddr, purpose: &'static str, max_connections: usize) -> Result<Listener, BindError> {
    let socket = TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse {
            address,
            purpose,
            source,
        },
        _ => BindError::Refused {
            address,
            purpose,
            source,
        },
    })?;
    Ok(Listener {
        socket,
        purpose,
        max_connections,
        max_per_address: max_connections,
        tls: None,
        refused: Arc::default(),
    })
}

impl Listener {
    /// No address may have more than `limit` of the connections.
    #[must_use]
    pub fn with_limit_per_address(mut self, limit: usize) -> Listener {
        self.max_per_address = limit;
        self
    }

    /// Connections begin with a handshake, if there is something to begin it with.
    #[must_use]
    pub fn with_tls(mut self, tls: Option<TlsServer>) -> Listener {
        self.tls = tls;
        self
    }

    /// # Panics
    /// Never on a bound socket.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("a bound socket has an address")
    }

    /// How many connections were closed at once because the limit was reached.
    pub fn refused(&self) -> Arc<AtomicU64> {
        self.refused.clone()
    }

    /// Accepts until `stop`, then waits for the running connections. `serve_one` must end soon after its own clone of
    /// the stop says so; what still runs after five seconds is cut off.
    pub async fn serve<F, Fut>(self, mut stop: Stop, serve_one: F)
    where
        F: Fn(Accepted) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let slots = Arc::new(Semaphore::new(self.max_connections));
        let by_address = ByAddress::default();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.stopped() => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = self.socket.accept() => match accepted {
                    Ok((socket, peer)) => {
                        let Ok(slot) = slots.clone().try_acquire_owned() else {
                            self.refused.fetch_add(1, Ordering::Relaxed);
                            tracing::warn!(code = %CONNECTION_REFUSED, purpose = self.purpose, %peer, limit = self.max_connections, "connection refused: the limit is reached");
                            continue;
                        };
                        let Some(place) = by_address.enter(peer.ip().to_canonical(), self.max_per_address) else {
                            self.refused.fetch_add(1, Ordering::Relaxed);
                            tracing::warn!(code = %ADDRESS_REFUSED, purpose = self.purpose, %peer, limit = self.max_per_address, "connection refused: its address has too many");
                            continue;
                        };
                        // A reply must not wait for a fuller packet.
                        let _ = socket.set_nodelay(true);
                        let tls = self.tls.as_ref().map(TlsServer::config);
                        let serving = serve_one(Accepted { socket, tls, peer });
                        connections.spawn(async move {
                            serving.await;
                            drop((slot, place));
                        });
                    }
                    Err(error) => {
                        // Out of file descriptors, most likely: give running connections time to end.
                        tracing::warn!(code = %CANNOT_ACCEPT, purpose = self.purpose, %error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(self.socket);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(5), drained).await.is_err() {
            tracing::warn!(
                purpose = self.purpose,
                left = connections.len(),
                "connections cut off at the stop"
            );
        }
        connections.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::StopHandle;

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let first = bind("127.0.0.1:0".parse().expect("an address"), "test", 1)
            .await
            .expect("a free port");
        let error = bind(first.address(), "test", 1).await.expect_err("taken");
        assert_eq!(error.code().to_string(), "NT0001");
        assert!(error.to_string().contains(&first.address().to_string()), "{error}");
    }

    #[tokio::test]
    #[allow(clippy::disallowed_methods, reason = "the test joins its one task itself")]
    async fn a_connection_over_the_limit_is_closed_and_counted_and_the_stop_joins_the_rest() {
        let listener = bind("127.0.0.1:0".parse().expect("an address"), "test", 1)
            .await
            .expect("a free port");
        let (address, refused) = (listener.address(), listener.refused());
        let (handle, stop) = StopHandle::new();
        let inner = stop.clone();
        let serving = tokio::task::spawn(listener.serve(stop, move |mut accepted: Accepted| {
            let mut stop = inner.clone();
            async move {
                let mut byte = [0];
                tokio::select! {
                    biased;
                    () = stop.stopped() => {}
                    _ = accepted.socket.read(&mut byte) => {}
                }
            }
        }));
        let _first = TcpStream::connect(address).await.expect("the first");
        let mut second = TcpStream::connect(address)
            .await
            .expect("the handshake is the kernel's");
        assert_eq!(second.read(&mut [0]).await.unwrap_or(0), 0, "closed without a byte");
        assert_eq!(refused.load(Ordering::Relaxed), 1);
        handle.stop();
        serving.await.expect("no panic");
    }

    #[test]
    fn an_address_has_so_many_connections_and_another_its_own() {
        let (by_address, one, other) = (ByAddress::default(), [127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let first = by_address.enter(one, 2).expect("room");
        let _second = by_address.enter(one, 2).expect("room");
        assert!(by_address.enter(one, 2).is_none());
        let of_other = by_address.enter(other, 2).expect("its own room");
        drop(first);
        by_address.enter(one, 2).expect("room again");
        drop(of_other);
        assert_eq!(
            by_address.counts.lock().expect("no panic").len(),
            1,
            "nobody is kept who has gone"
        );
    }
}
