//! A connection's bytes, by TLS or not.
//!
//! Both halves of a TLS connection need its state to read and to write, so they share it behind a lock that is held while
//! bytes are turned over and never while anything is waited for.

use std::{
    io::{self, Read, Write},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use rustls::{Connection, pki_types::ServerName};
use settle_base::ErrorCode;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    Accepted, TlsClient,
    tls::{Trust, dns_names, is_of_host},
};

/// Longest wait for the other side's part of a handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
const DISTRUSTED: ErrorCode = ErrorCode::new("NT", 10);
/// Of TLS records as they come: one of the largest and a little more.
const SEALED_BYTES: usize = 17 << 10;

/// A connection that came to nothing before its first byte.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("no TLS handshake within {} s", HANDSHAKE_WITHIN.as_secs())]
    TimedOut,
    #[error("the TLS handshake failed: {0}")]
    Failed(io::Error),
    #[error("`{host}` is no name that a certificate could have")]
    NoName { host: String },
}

impl HandshakeError {
    pub fn code(&self) -> ErrorCode {
        ErrorCode::new("NT", 7)
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    tls: Option<Tls>,
}

#[derive(Debug)]
struct Tls {
    connection: Connection,
    trust: Trust,
    /// Since before the handshake, so that none is missed.
    changes: watch::Receiver<()>,
}

impl Stream {
    pub fn plain(socket: TcpStream) -> Stream {
        Stream { socket, tls: None }
    }

    /// Dials on: `socket` leads to `host`, which has to show a certificate of that name or address.
    ///
    /// # Errors
    /// When the other side is not who it should be, does not take our certificate, or is silent.
    pub async fn connect(socket: TcpStream, host: &str, tls: &TlsClient) -> Result<Stream, HandshakeError> {
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| HandshakeError::NoName { host: host.to_owned() })?;
        let trust = Trust::OfServer(tls.clone(), name.clone());
        let changes = trust.changes();
        let connecting = TlsConnector::from(tls.config()).connect(name, socket);
        let (socket, connection) = within(connecting).await?.into_inner();
        let connection = Connection::Client(connection);
        let tls = Tls {
            connection,
            trust,
            changes,
        };
        Ok(Stream { socket, tls: Some(tls) })
    }

    /// The DNS names in the certificate that the other side has shown; none without one.
    pub fn names(&self) -> Vec<String> {
        let shown = self.tls.as_ref().and_then(|tls| tls.connection.peer_certificates());
        shown.and_then(<[_]>::first).map(dns_names).unwrap_or_default()
    }

    /// Whether the other side may be at `host`: it is, if nobody has to show a certificate.
    pub fn may_be_at(&self, host: &str) -> bool {
        let Some(tls) = &self.tls else { return true };
        let shown = tls.connection.peer_certificates().and_then(<[_]>::first);
        shown.is_some_and(|certificate| is_of_host(certificate, host))
    }

    pub fn into_split(self) -> (Reading, Writing) {
        let Some(tls) = self.tls else {
            let (reading, writing) = self.socket.into_split();
            return (Reading(ReadHalf::Plain(reading)), Writing(WriteHalf::Plain(writing)));
        };
        let shared = Arc::new(Sealed {
            socket: self.socket,
            connection: Mutex::new(tls.connection),
        });
        let reading = SealedReading {
            shared: shared.clone(),
            unread: BytesMut::new(),
            changes: next_of(tls.changes),
            trust: tls.trust,
        };
        (
            Reading(ReadHalf::Sealed(reading)),
            Writing(WriteHalf::Sealed(SealedWriting { shared })),
        )
    }
}

impl Accepted {
    /// Makes it a connection: by a handshake, if the listener has TLS.
    ///
    /// # Errors
    /// When the client does not speak TLS, has to show a certificate and has none that is trusted, or is silent.
    pub async fn open(self) -> Result<Stream, HandshakeError> {
        let Some(tls) = self.tls else {
            return Ok(Stream::plain(self.socket));
        };
        let trust = Trust::OfClients(tls.clone());
        let changes = trust.changes();
        let accepting = TlsAcceptor::from(tls.config()).accept(self.socket);
        let (socket, connection) = within(accepting).await?.into_inner();
        let connection = Connection::Server(connection);
        let tls = Tls {
            connection,
            trust,
            changes,
        };
        Ok(Stream { socket, tls: Some(tls) })
    }
}

async fn within<T>(handshake: impl Future<Output = io::Result<T>>) -> Result<T, HandshakeError> {
    match timeout(HANDSHAKE_WITHIN, handshake).await {
        Ok(done) => done.map_err(HandshakeError::Failed),
        Err(_) => Err(HandshakeError::TimedOut),
    }
}

/// The half that reads.
#[derive(Debug)]
pub struct Reading(ReadHalf);

/// The half that writes. What was written may wait in here until it is flushed.
#[derive(Debug)]
pub struct Writing(WriteHalf);

#[derive(Debug)]
enum ReadHalf {
    Plain(OwnedReadHalf),
    Sealed(SealedReading),
}

#[derive(Debug)]
enum WriteHalf {
    Plain(OwnedWriteHalf),
    Sealed(SealedWriting),
}

#[derive(Debug)]
struct Sealed {
    socket: TcpStream,
    connection: Mutex<Connection>,
}

struct SealedReading {
    shared: Arc<Sealed>,
    /// Records that have come and were not opened yet: only as much is opened as is read.
    unread: BytesMut,
    trust: Trust,
    /// The next change of whom to trust.
    changes: NextChange,
}

type NextChange = Pin<Box<dyn Future<Output = watch::Receiver<()>> + Send + Sync>>;

fn next_of(mut changes: watch::Receiver<()>) -> NextChange {
    Box::pin(async move {
        let changed = changes.changed().await;
        changed.expect("a connection keeps what its trust is of");
        changes
    })
}

impl std::fmt::Debug for SealedReading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedReading").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct SealedWriting {
    shared: Arc<Sealed>,
}

impl Sealed {
    fn lock(&self) -> MutexGuard<'_, Connection> {
        // rustls leaves no half-done state behind.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the socket what is sealed; `WouldBlock` when it has no room for all.
    fn try_flush(&self, connection: &mut Connection) -> io::Result<()> {
        while connection.wants_write() {
            connection.write_tls(&mut Socket(&self.socket))?;
        }
        Ok(())
    }

    /// Seals as much as there is room for, once nothing older waits.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut connection = self.lock();
        self.try_flush(&mut connection)?;
        let taken = connection.writer().write(bytes)?;
        match self.try_flush(&mut connection) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }
}

/// A socket that never waits.
struct Socket<'a>(&'a TcpStream);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Reading {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            ReadHalf::Plain(half) => Pin::new(half).poll_read(cx, buffer),
            ReadHalf::Sealed(half) => half.poll_read(cx, buffer),
        }
    }
}

impl SealedReading {
    /// Judges the other side again when somebody else is to be trusted than before.
    fn check_trust(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while let Poll::Ready(changes) = self.changes.as_mut().poll(cx) {
            self.changes = next_of(changes);
            if self.trust.holds(self.shared.lock().peer_certificates()) {
                continue;
            }
            let peer = self.shared.socket.peer_addr().ok();
            tracing::warn!(code = %DISTRUSTED, ?peer, "connection closed: its certificate is not trusted any more");
            let error = "the other side's certificate is not trusted any more";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, error));
        }
        Ok(())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_trust(cx)?;
        loop {
            let mut connection = self.shared.lock();
            match connection.reader().read(buffer.initialize_unfilled()) {
                Ok(bytes) => {
                    buffer.advance(bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            if self.unread.is_empty() {
                drop(connection);
                ready!(self.poll_fill(cx))?;
                continue;
            }
            let mut input = &self.unread[..];
            let opened = connection.read_tls(&mut input);
            let left = input.len();
            self.unread.advance(self.unread.len() - left);
            opened?;
            let processed = connection.process_new_packets();
            // An alert, or an answer to a change of keys: what the socket does not take now goes with the next write.
            match self.shared.try_flush(&mut connection) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                _ => {}
            }
            processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }

    /// Reads records as far as the socket has some; the end of the socket is told to the connection.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unread.reserve(SEALED_BYTES);
        loop {
            ready!(self.shared.socket.poll_read_ready(cx))?;
            match self.shared.socket.try_read_buf(&mut self.unread) {
                Ok(0) => {
                    let mut connection = self.shared.lock();
                    connection.read_tls(&mut io::empty())?;
                    connection
                        .process_new_packets()
                        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                    return Poll::Ready(Ok(()));
                }
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Writing {
    /// Writes what can be written without waiting; gives how many bytes were taken.
    ///
    /// # Errors
    /// `WouldBlock` when nothing can be.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            WriteHalf::Plain(half) => half.try_write(bytes),
            WriteHalf::Sealed(half) => half.shared.try_write(bytes),
        }
    }

    /// Whether all that was taken is with the system.
    ///
    /// # Errors
    /// `WouldBlock` when it is not.
    pub(crate) fn try_flush(&self) -> io::Result<()> {
        match &self.0 {
            WriteHalf::Plain(_) => Ok(()),
            WriteHalf::Sealed(half) => half.shared.try_flush(&mut half.shared.lock()),
        }
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        match &self.0 {
            WriteHalf::Plain(half) => half.writable().await,
            WriteHalf::Sealed(half) => half.shared.socket.writable().await,
        }
    }
}

impl SealedWriting {
    /// Tries until `once` does not want to wait.
    fn poll<T>(&self, cx: &mut Context<'_>, mut once: impl FnMut(&Sealed) -> io::Result<T>) -> Poll<io::Result<T>> {
        loop {
            match once(&self.shared) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.shared.socket.poll_write_ready(cx))?;
                }
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncWrite for Writing {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            WriteHalf::Plain(half) => Pin::new(half).poll_write(cx, bytes),
            WriteHalf::Sealed(half) => half.poll(cx, |sealed| sealed.try_write(bytes)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            WriteHalf::Plain(half) => Pin::new(half).poll_flush(cx),
            WriteHalf::Sealed(half) => half.poll(cx, |sealed| sealed.try_flush(&mut sealed.lock())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            WriteHalf::Plain(half) => Pin::new(half).poll_shutdown(cx),
            WriteHalf::Sealed(half) => {
                half.shared.lock().send_close_notify();
                half.poll(cx, |sealed| sealed.try_flush(&mut sealed.lock()))
            }
        }
    }
}

impl Drop for SealedWriting {
    /// Says that this is the end and no accident, if the socket takes that at once.
    fn drop(&mut self) {
        let mut connection = self.shared.lock();
        connection.send_close_notify();
        // The socket is closed in any case.
        let _ = self.shared.try_flush(&mut connection);
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::{Outlet, Pem, TlsServer};

    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        pem: String,
    }

    /// A certificate and its key.
    struct Shown {
        certificate: String,
        key: String,
    }

    impl Authority {
        fn new() -> Authority {
            let key = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let pem = params.self_signed(&key).expect("signed").pem();
            Authority {
                issuer: Issuer::new(params, key),
                pem,
            }
        }

        fn of(&self, names: &[&str]) -> Shown {
            let key = KeyPair::generate().expect("a key");
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let params = CertificateParams::new(names).expect("names");
            Shown {
                certificate: params.signed_by(&key, &self.issuer).expect("signed").pem(),
                key: key.serialize_pem(),
            }
        }

        fn trusts(&self, shown: &Shown) -> (TlsServer, TlsClient) {
            let pem = Pem {
                certificate: shown.certificate.as_bytes(),
                key: shown.key.as_bytes(),
                authorities: self.pem.as_bytes(),
            };
            (TlsServer::new(pem).expect("good"), TlsClient::new(pem).expect("good"))
        }
    }

    /// Both ends of one connection, the dialling one first.
    async fn connected(
        server: &TlsServer,
        client: &TlsClient,
        host: &str,
    ) -> (Result<Stream, HandshakeError>, Result<Stream, HandshakeError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (socket, peer) = accepted.expect("accepted");
        let accepted = Accepted {
            socket,
            tls: Some(server.clone()),
            stranger: None,
            peer,
        };
        tokio::join!(
            Stream::connect(dialled.expect("connected"), host, client),
            accepted.open()
        )
    }

    #[tokio::test]
    async fn each_side_knows_the_other_by_its_certificate_and_takes_no_strangers() {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let (server, _) = authority.trusts(&authority.of(&["127.0.0.1", "one.bank"]));
        let (_, client) = authority.trusts(&authority.of(&["Orders.Bank", "10.0.0.9"]));
        let (dialled, accepted) = connected(&server, &client, "127.0.0.1").await;
        let (dialled, accepted) = (dialled.expect("trusted"), accepted.expect("trusted"));
        assert_eq!(accepted.names(), ["Orders.Bank"]);
        assert_eq!(dialled.names(), ["one.bank"]);
        assert!(accepted.may_be_at("10.0.0.9") && accepted.may_be_at("orders.bank"));
        assert!(!accepted.may_be_at("10.0.0.8") && !accepted.may_be_at("one.bank"));

        let (wrong_host, _) = connected(&server, &client, "two.bank").await;
        assert!(matches!(wrong_host, Err(HandshakeError::Failed(_))));
        let (_, foreign) = authority.trusts(&stranger.of(&["orders.bank"]));
        let (_, refused) = connected(&server, &foreign, "127.0.0.1").await;
        assert!(matches!(refused, Err(HandshakeError::Failed(_))));
        let anonymous = TlsClient::new(Pem {
            certificate: b"",
            key: b"",
            authorities: authority.pem.as_bytes(),
        });
        let (_, refused) = connected(&server, &anonymous.expect("good"), "127.0.0.1").await;
        assert!(matches!(refused, Err(HandshakeError::Failed(_))));
    }

    #[tokio::test]
    async fn a_replaced_certificate_is_for_new_connections_and_the_others_go_on() {
        let (before, after) = (Authority::new(), Authority::new());
        let both = Authority {
            pem: format!("{}{}", before.pem, after.pem),
            ..Authority::new()
        };
        let (server, _) = before.trusts(&before.of(&["127.0.0.1"]));
        let (_, old_client) = before.trusts(&before.of(&["orders.bank"]));
        let (dialled, accepted) = connected(&server, &old_client, "127.0.0.1").await;
        let (mut theirs, _their_writing) = accepted.expect("trusted").into_split();
        let (_reading, mut ours) = dialled.expect("trusted").into_split();

        let (new_server, new_client) = both.trusts(&after.of(&["127.0.0.1"]));
        server.replace(&new_server);
        let (refused, _) = connected(&server, &old_client, "127.0.0.1").await;
        assert!(refused.is_err(), "the client does not know the new authority yet");
        old_client.replace(&new_client);
        let (again, _) = connected(&server, &old_client, "127.0.0.1").await;
        again.expect("both have the new one");

        ours.write_all(b"still here").await.expect("the connection stands");
        ours.flush().await.expect("the connection stands");
        let mut heard = [0; 10];
        theirs.read_exact(&mut heard).await.expect("the connection stands");
        assert_eq!(&heard, b"still here");
    }

    #[tokio::test]
    async fn whose_certificate_is_not_trusted_any_more_is_not_heard_any_more_on_either_side() {
        let (before, after) = (Authority::new(), Authority::new());
        let (server, client) = before.trusts(&before.of(&["127.0.0.1", "orders.bank"]));
        let (both, _) = before.trusts(&before.of(&["127.0.0.1"]));
        let (new_server, new_client) = after.trusts(&after.of(&["127.0.0.1"]));
        let (dialled, accepted) = connected(&server, &client, "127.0.0.1").await;
        let (mut theirs, their_writing) = accepted.expect("trusted").into_split();
        let (mut ours, our_writing) = dialled.expect("trusted").into_split();
        let waiting = async { theirs.read(&mut [0]).await.expect_err("distrusted").kind() };
        let replaced = async {
            // One that trusts the same authority changes nothing.
            server.replace(&both);
            tokio::task::yield_now().await;
            server.replace(&new_server);
        };
        let (heard, ()) = tokio::join!(waiting, replaced);
        assert_eq!(heard, io::ErrorKind::PermissionDenied);
        client.replace(&new_client);
        let heard = ours.read(&mut [0]).await.expect_err("distrusted");
        assert_eq!(heard.kind(), io::ErrorKind::PermissionDenied);
        drop((their_writing, our_writing));
    }

    #[tokio::test]
    async fn more_than_the_socket_takes_arrives_whole_and_the_end_is_told() {
        const BLOCKS: u32 = 2_000;
        let authority = Authority::new();
        let (server, client) = authority.trusts(&authority.of(&["127.0.0.1"]));
        let (dialled, accepted) = connected(&server, &client, "127.0.0.1").await;
        let (mut reading, _) = accepted.expect("trusted").into_split();
        let (_back, writing) = dialled.expect("trusted").into_split();
        let outlet = Outlet::new(writing, usize::MAX);
        let feed = async {
            for number in 0..BLOCKS {
                assert!(outlet.push(|out| out.put_bytes(number as u8, 4096)));
                outlet.flush();
                if number % 64 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        };
        let read = async {
            let mut block = [0; 4096];
            for number in 0..BLOCKS {
                reading.read_exact(&mut block).await.expect("the connection holds");
                assert!(block.iter().all(|byte| *byte == number as u8), "block {number}");
            }
        };
        tokio::select! {
            biased;
            error = outlet.drain(|_| {}) => panic!("the connection broke: {error}"),
            _ = async { tokio::join!(feed, read) } => {}
        }
        drop(outlet);
        assert_eq!(reading.read(&mut [0]).await.expect("an end and no accident"), 0);
    }
}
