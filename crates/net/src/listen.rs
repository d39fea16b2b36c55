use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use settle_base::{ErrorCode, FixedMap};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use settle_telemetry::Seldom;

use crate::{Stop, TlsServer};

const CONNECTION_REFUSED: ErrorCode = ErrorCode::new("NT", 3);
const CANNOT_ACCEPT: ErrorCode = ErrorCode::new("NT", 4);
const ADDRESS_REFUSED: ErrorCode = ErrorCode::new("NT", 8);
const STRANGER_REFUSED: ErrorCode = ErrorCode::new("NT", 9);
/// Refused connections in the log, a second: whoever is refused can come again at once.
const REFUSALS_TOLD: u32 = 8;

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
    max_strangers: usize,
    max_strangers_per_address: usize,
    tls: Option<TlsServer>,
    refused: Arc<AtomicU64>,
}

/// One accepted connection, of which nothing has been read: [`open`](Accepted::open) it. Until its `stranger` is dropped
/// it counts among those that nobody has admitted.
#[derive(Debug)]
pub struct Accepted {
    pub(crate) socket: TcpStream,
    pub(crate) tls: Option<TlsServer>,
    /// `None` once whoever serves the connection has taken it.
    pub stranger: Option<Stranger>,
    pub peer: SocketAddr,
}

/// A connection's place among those that nobody has admitted yet. Whoever serves the connection drops it when it knows
/// whom it serves.
#[derive(Debug)]
pub struct Stranger(#[expect(dead_code, reason = "it is there to be dropped")] Place);

/// Connections by the address they come from.
#[derive(Clone, Default, Debug)]
struct ByAddress {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Default, Debug)]
struct Counts {
    total: usize,
    of: FixedMap<IpAddr, usize>,
}

/// A connection's place among those of its address.
#[derive(Debug)]
struct Place {
    of: ByAddress,
    address: IpAddr,
}

/// Whoever has one IPv6 address has the other 2^64 of its network.
fn place_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

impl ByAddress {
    fn enter(&self, address: IpAddr, limit: usize, total: usize) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let address = place_of(address);
        let count = counts.of.get(&address).copied().unwrap_or_default();
        if count >= limit || counts.total >= total {
            return None;
        }
        counts.of.insert(address, count + 1);
        counts.total += 1;
        Some(Place {
            of: self.clone(),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.of.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        match counts.of.get_mut(&self.address) {
            Some(count @ 2..) => *count -= 1,
            _ => drop(counts.of.remove(&self.address)),
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
        max_strangers: max_connections,
        max_strangers_per_address: max_connections,
        tls: None,
        refused: Arc::default(),
    })
}

impl Listener {
    /// Of connections that nobody has admitted yet there are at most `limit`, and `per_address` of one address: whoever
    /// shows nothing takes no place from those who do.
    #[must_use]
    pub fn with_limit_of_strangers(mut self, limit: usize, per_address: usize) -> Listener {
        (self.max_strangers, self.max_strangers_per_address) = (limit, per_address);
        self
    }

    /// No address may have more than `limit` of the connections; all of an IPv6 network of 64 bits are one.
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
        let (by_address, strangers) = (ByAddress::default(), ByAddress::default());
        let told = Seldom::new(REFUSALS_TOLD);
        let refuse = |code: ErrorCode, peer: SocketAddr, limit: usize, why: &str| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            if let Some(left_out) = told.tell() {
                tracing::warn!(%code, purpose = self.purpose, %peer, limit, left_out, "connection refused: {why}");
            }
        };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.stopped() => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = self.socket.accept() => match accepted {
                    Ok((socket, peer)) => {
                        let Ok(slot) = slots.clone().try_acquire_owned() else {
                            refuse(CONNECTION_REFUSED, peer, self.max_connections, "the limit is reached");
                            continue;
                        };
                        let Some(place) = by_address.enter(peer.ip(), self.max_per_address, self.max_connections) else {
                            refuse(ADDRESS_REFUSED, peer, self.max_per_address, "its address has too many");
                            continue;
                        };
                        let (limit, of_address) = (self.max_strangers, self.max_strangers_per_address);
                        let Some(stranger) = strangers.enter(peer.ip(), of_address, limit) else {
                            refuse(STRANGER_REFUSED, peer, limit, "too many have not said who they are, or of its address");
                            continue;
                        };
                        // A reply must not wait for a fuller packet.
                        let _ = socket.set_nodelay(true);
                        let tls = self.tls.clone();
                        let serving = serve_one(Accepted { socket, tls, stranger: Some(Stranger(stranger)), peer });
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
        let by_address = ByAddress::default();
        let [one, other]: [IpAddr; 2] = [[127, 0, 0, 1].into(), [127, 0, 0, 2].into()];
        let first = by_address.enter(one, 2, 9).expect("room");
        let _second = by_address
            .enter("::ffff:127.0.0.1".parse().expect("an address"), 2, 9)
            .expect("room");
        assert!(by_address.enter(one, 2, 9).is_none());
        let of_other = by_address.enter(other, 2, 3).expect("its own room");
        assert!(by_address.enter(other, 2, 3).is_none(), "all together have three");
        drop(first);
        by_address.enter(one, 2, 9).expect("room again");
        drop(of_other);
        let counts = by_address.counts.lock().expect("no panic");
        assert_eq!((counts.of.len(), counts.total), (1, 1), "nobody is kept who has gone");
    }

    #[test]
    fn whoever_has_an_ipv6_network_has_the_places_of_one_address() {
        let by_address = ByAddress::default();
        let enter = |address: &str| by_address.enter(address.parse().expect("an address"), 1, 9);
        let _first = enter("2001:db8:0:1::1").expect("room");
        assert!(enter("2001:db8:0:1:ffff::2").is_none());
        enter("2001:db8:0:2::1").expect("another network");
    }

    #[tokio::test]
    #[allow(clippy::disallowed_methods, reason = "the test joins its one task itself")]
    async fn strangers_have_places_of_their_own_until_they_are_admitted() {
        let listener = bind("127.0.0.1:0".parse().expect("an address"), "test", 9).await;
        let listener = listener.expect("a free port").with_limit_of_strangers(1, 1);
        let (address, refused) = (listener.address(), listener.refused());
        let (handle, stop) = StopHandle::new();
        let inner = stop.clone();
        // A byte admits; a second one ends.
        let serving = tokio::task::spawn(listener.serve(stop, move |mut accepted: Accepted| {
            let mut stop = inner.clone();
            async move {
                let serve = async {
                    accepted.socket.read_u8().await?;
                    drop(accepted.stranger.take());
                    accepted.socket.write_u8(1).await?;
                    accepted.socket.read_u8().await
                };
                tokio::select! {
                    biased;
                    () = stop.stopped() => {}
                    _ = serve => {}
                }
            }
        }));
        let connect = || TcpStream::connect(address);
        let mut first = connect().await.expect("the first");
        let mut second = connect().await.expect("the handshake is the kernel's");
        assert_eq!(second.read(&mut [0]).await.unwrap_or(0), 0, "one stranger is there");
        for known in 1..=3 {
            first.write_u8(1).await.expect("it is served");
            assert_eq!(first.read_u8().await.expect("admitted"), 1, "number {known}");
            let next = connect().await.expect("room for a stranger again");
            // Who is admitted stays.
            std::mem::forget(std::mem::replace(&mut first, next));
        }
        assert_eq!(refused.load(Ordering::Relaxed), 1);
        handle.stop();
        serving.await.expect("no panic");
    }
}
