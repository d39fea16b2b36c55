//! Connections between servers.
//!
//! Each server dials every other one, once for each lane, and sends on those connections only; what it accepts it
//! reads, and there it writes nothing but pulses. So the order of messages on a lane is the order of sending, and the
//! end of a dialled control connection means that the peer must be told everything again.
//!
//! All of this runs on the loop's own thread: a message is written to its socket by the turn that sends it, and what is
//! read wakes no other thread.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use settle_base::{ErrorCode, FixedMap, NodeId, PeerId};
use settle_host::{Hello, Lane, Malformed, PeerMessage, peer_codec};
use settle_net::{
    Accepted, HandshakeError, Listener, Outlet, Reading, Stop, StopHandle, Stream, TlsClient, Writing, host_of,
};
use settle_telemetry::prometheus::metrics::counter::Counter;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::metrics::PeerMetrics;

const PEER_REFUSED: ErrorCode = ErrorCode::new("ND", 2);

const MAGIC: u32 = 0x5e77_1e01;
/// Magic, lane, length of the hello.
const PREAMBLE_BYTES: usize = 4 + 1 + 2;
const HELLO_BYTES_MAX: usize = 1024;
/// Longest wait for the other side's hello.
const HELLO_WITHIN: Duration = Duration::from_secs(3);
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// The accepting side of a control connection says this often that it lives …
const PULSE_EVERY: Duration = Duration::from_millis(500);
/// … and is given up when it has not for so long: a machine that vanished closes nothing.
const PULSE_LOST_AFTER: Duration = Duration::from_secs(3);
const REDIAL_AFTER: Duration = Duration::from_millis(200);
/// A frame holds one message; its length comes first. The host keeps append messages and chunks far below this.
const MAX_FRAME_BYTES: usize = 80 << 20;
const FRAME_HEAD_BYTES: usize = 8;
/// Bytes waiting for a slow peer, by lane; beyond it a message is dropped, which consensus expects of a network.
const CONTROL_BYTES: usize = 64 << 20;
const BULK_BYTES: usize = 8 << 20;
/// Room for what a socket has at once; what is decoded of it stays in this memory.
const READ_BYTES: usize = 256 << 10;
/// A read is worth making when there is room for so much.
const READ_BYTES_MIN: usize = 32 << 10;

/// Another server.
#[derive(Clone, Debug)]
pub struct PeerAddress {
    pub node: NodeId,
    /// `host:port`; names are looked up at every dial.
    pub address: String,
}

pub type PeerListener = Listener;

/// What the loop says of this server; new connections open with it.
pub(crate) type SharedHello = Arc<Mutex<Hello>>;

fn encode_preamble(lane: Lane, hello: &Hello) -> BytesMut {
    let hello = peer_codec::encode_hello(hello);
    let mut out = BytesMut::with_capacity(PREAMBLE_BYTES + hello.len());
    out.put_u32_le(MAGIC);
    out.put_u8(lane_index(lane) as u8);
    out.put_u16_le(hello.len() as u16);
    out.put_slice(&hello);
    out
}

#[derive(Debug, thiserror::Error)]
enum PeerError {
    #[error("it does not speak the peer protocol")]
    NotAPeer,
    #[error("it says that it is node {said}, not node {expected}")]
    WrongNode { said: NodeId, expected: NodeId },
    #[error("node {node} is not in cluster.peers")]
    Unknown { node: NodeId },
    #[error("it says that it is node {node}, and its certificate is not that of `{host}`")]
    Foreign { node: NodeId, host: String },
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
    #[error("no hello within {} s", HELLO_WITHIN.as_secs())]
    Silent,
    #[error("a frame of {len} bytes; at most {MAX_FRAME_BYTES} are taken")]
    TooLong { len: usize },
    #[error("a frame whose checksum does not fit its bytes")]
    Damaged,
    #[error("a message that cannot be read")]
    Malformed(#[from] Malformed),
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    #[error("the connection was closed")]
    Closed,
    #[error("nothing was heard for {} s", PULSE_LOST_AFTER.as_secs())]
    NoPulse,
}

/// The sending side, owned by the loop.
pub(crate) struct Peers {
    lanes: BTreeMap<NodeId, [SendingLane; 2]>,
    inbound: Arc<Mutex<FixedMap<(NodeId, u64), StopHandle>>>,
    bytes_sent: Counter,
    dropped: Counter,
}

#[derive(Default)]
struct SendingLane {
    /// `None`: not connected, and what is sent is lost.
    outlet: Option<Arc<Outlet>>,
    has_unsent: bool,
}

impl Peers {
    /// From now on messages to `node` take this connection; what waited for an older one is void.
    pub(crate) fn connected(&mut self, node: NodeId, lane: Lane, outlet: Option<Arc<Outlet>>) {
        if let Some(lanes) = self.lanes.get_mut(&node) {
            let has_unsent = false;
            lanes[lane_index(lane)] = SendingLane { outlet, has_unsent };
        }
    }

    /// Adds a message to its lane, or drops it when too much waits there: consensus and the gates expect loss. It leaves
    /// with the next [`Peers::flush`].
    pub(crate) fn send(&mut self, to: NodeId, lane: Lane, message: &PeerMessage) {
        let Some(lanes) = self.lanes.get_mut(&to) else { return };
        let lane = &mut lanes[lane_index(lane)];
        let Some(outlet) = &lane.outlet else { return };
        lane.has_unsent = outlet.push(|out| put_frame(&peer_codec::encode(message), out));
        if !lane.has_unsent {
            self.dropped.inc();
        }
    }

    /// Writes what was sent since the last time: once for each connection, however many messages there are.
    pub(crate) fn flush(&mut self) {
        for lane in self.lanes.values_mut().flatten() {
            if std::mem::take(&mut lane.has_unsent)
                && let Some(outlet) = &lane.outlet
            {
                self.bytes_sent.inc_by(outlet.flush() as u64);
            }
        }
    }

    /// Ends the connections on which `node` speaks to this server. It will dial again.
    pub(crate) fn close(&self, node: NodeId) {
        let mut inbound = self.inbound.lock().expect("no holder of this lock panics");
        inbound.retain(|(of, _), stop| {
            if *of == node {
                stop.stop();
            }
            *of != node
        });
    }
}

fn lane_index(lane: Lane) -> usize {
    match lane {
        Lane::Control => 0,
        Lane::Bulk => 1,
    }
}

/// Where the connections' events go: the loop's bounded queue.
pub(crate) trait Events: Clone + Send + Sync + 'static {
    fn send(&self, event: PeerEvent) -> impl Future<Output = bool> + Send;
}

/// What the connections tell the loop.
pub(crate) enum PeerEvent {
    /// This server's connection to `node` is up.
    Up {
        node: NodeId,
        lane: Lane,
        hello: Hello,
        outlet: Arc<Outlet>,
    },
    Down {
        node: NodeId,
        lane: Lane,
    },
    /// `node` speaks on a new connection: nothing that came on an older one of this lane counts any more.
    Inbound {
        node: NodeId,
        lane: Lane,
        number: u64,
    },
    /// All that came at once.
    Messages {
        from: Source,
        messages: Vec<PeerMessage>,
    },
}

/// Where a message came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) node: NodeId,
    pub(crate) incarnation: PeerId,
    pub(crate) lane: Lane,
    pub(crate) number: u64,
}

/// Starts dialling the others, by TLS or not, and serving `listener`. The tasks end with `stop` and are joined through `tasks`.
pub(crate) fn connect<E: Events>(
    hello: SharedHello,
    (others, tls): (&[PeerAddress], Option<&TlsClient>),
    listener: Listener,
    events: E,
    metrics: &PeerMetrics,
    stop: Stop,
    tasks: &mut JoinSet<()>,
) -> Peers {
    let node = hello.lock().expect("no holder of this lock panics").node;
    let mut lanes = BTreeMap::new();
    for other in others.iter().filter(|other| other.node != node) {
        for (lane, limit) in [(Lane::Control, CONTROL_BYTES), (Lane::Bulk, BULK_BYTES)] {
            let dialler = Dialler {
                hello: hello.clone(),
                lane,
                limit,
                peer: other.clone(),
                tls: tls.cloned(),
                events: events.clone(),
                bytes_sent: metrics.bytes_sent.clone(),
            };
            let mut stop = stop.clone();
            tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = stop.stopped() => {}
                    () = dialler.run() => {}
                }
            });
        }
        lanes.insert(other.node, <[SendingLane; 2]>::default());
    }

    let inbound: Arc<Mutex<FixedMap<(NodeId, u64), StopHandle>>> = Arc::default();
    let known: Arc<[PeerAddress]> = others.into();
    let shared = inbound.clone();
    let bytes_received = metrics.bytes_received.clone();
    let numbers = Arc::new(AtomicU64::new(0));
    let outer = stop.clone();
    tasks.spawn(listener.serve(stop, move |accepted| {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let (own_stop, stopped) = StopHandle::new();
        let reader = Reader {
            hello: hello.clone(),
            number,
            known: known.clone(),
            events: events.clone(),
            bytes_received: bytes_received.clone(),
        };
        let (inbound, mut outer) = (shared.clone(), outer.clone());
        async move {
            let peer = accepted.peer;
            let mut stopped = stopped;
            let mut own_stop = Some(own_stop);
            let mut from = None;
            let register = |node: NodeId| {
                from = Some(node);
                if let Some(handle) = own_stop.take() {
                    inbound
                        .lock()
                        .expect("no holder of this lock panics")
                        .insert((node, number), handle);
                }
            };
            let ended = tokio::select! {
                biased;
                () = outer.stopped() => None,
                () = stopped.stopped() => None,
                ended = reader.run(accepted, register) => ended.err(),
            };
            if let Some(node) = from {
                inbound
                    .lock()
                    .expect("no holder of this lock panics")
                    .remove(&(node, number));
            }
            match ended {
                Some(PeerError::Closed | PeerError::Io(_)) | None => {}
                Some(error) => {
                    tracing::warn!(code = %PEER_REFUSED, %peer, node = ?from, %error, "peer connection refused")
                }
            }
        }
    }));
    Peers {
        lanes,
        inbound,
        bytes_sent: metrics.bytes_sent.clone(),
        dropped: metrics.messages_dropped.clone(),
    }
}

struct Dialler<E> {
    hello: SharedHello,
    lane: Lane,
    /// Bytes that may wait for the peer.
    limit: usize,
    peer: PeerAddress,
    tls: Option<TlsClient>,
    events: E,
    bytes_sent: Counter,
}

impl<E: Events> Dialler<E> {
    async fn run(self) {
        let (node, lane) = (self.peer.node, self.lane);
        let control = lane == Lane::Control;
        let mut told = None;
        loop {
            match self.dial().await {
                Ok((reading, writing, hello)) => {
                    told = None;
                    let outlet = Arc::new(Outlet::new(writing, self.limit));
                    let up = PeerEvent::Up {
                        node,
                        lane,
                        hello,
                        outlet: outlet.clone(),
                    };
                    if !self.events.send(up).await {
                        return;
                    }
                    let error = self.hold(reading, &outlet).await;
                    if control {
                        tracing::info!(%node, address = self.peer.address, %error, "peer lost");
                    }
                    if !self.events.send(PeerEvent::Down { node, lane }).await {
                        return;
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    if control && told.as_ref() != Some(&text) {
                        tracing::info!(%node, address = self.peer.address, error = text, "peer not reached");
                        told = Some(text);
                    }
                }
            }
            sleep(REDIAL_AFTER).await;
        }
    }

    async fn dial(&self) -> Result<(Reading, Writing, Hello), PeerError> {
        let connecting = TcpStream::connect(&self.peer.address);
        let socket = timeout(CONNECT_WITHIN, connecting)
            .await
            .map_err(|_| PeerError::Silent)??;
        socket.set_nodelay(true)?;
        let stream = match &self.tls {
            None => Stream::plain(socket),
            Some(tls) => Stream::connect(socket, host_of(&self.peer.address), tls).await?,
        };
        let (mut reading, mut writing) = stream.into_split();
        write_hello(&mut writing, self.lane, &self.hello).await?;
        let (lane, theirs) = read_hello(&mut reading).await?;
        if lane != self.lane {
            return Err(PeerError::NotAPeer);
        }
        if theirs.node != self.peer.node {
            return Err(PeerError::WrongNode {
                said: theirs.node,
                expected: self.peer.node,
            });
        }
        Ok((reading, writing, theirs))
    }

    /// Until the connection ends; says why it did.
    async fn hold(&self, mut reading: Reading, outlet: &Outlet) -> PeerError {
        let patience = (self.lane == Lane::Control).then_some(PULSE_LOST_AFTER);
        tokio::select! {
            biased;
            error = closed(&mut reading, patience) => error,
            error = outlet.drain(|bytes| { self.bytes_sent.inc_by(bytes as u64); }) => error.into(),
        }
    }
}

/// Resolves when the connection is over. The accepting side writes nothing but pulses after its hello.
/// `patience` is how long it may be silent.
async fn closed(reading: &mut Reading, patience: Option<Duration>) -> PeerError {
    let mut pulses = [0; 64];
    loop {
        let read = reading.read(&mut pulses);
        let read = match patience {
            Some(patience) => match timeout(patience, read).await {
                Ok(read) => read,
                Err(_) => return PeerError::NoPulse,
            },
            None => read.await,
        };
        match read {
            Ok(0) => return PeerError::Closed,
            Ok(_) => {}
            Err(error) => return error.into(),
        }
    }
}

struct Reader<E> {
    hello: SharedHello,
    number: u64,
    known: Arc<[PeerAddress]>,
    events: E,
    bytes_received: Counter,
}

impl<E: Events> Reader<E> {
    async fn run(self, mut accepted: Accepted, register: impl FnOnce(NodeId)) -> Result<(), PeerError> {
        let stranger = accepted.stranger.take();
        let stream = accepted.open().await?;
        // Every server has a certificate of the same authority, and must not speak as another one with it.
        let hosts = self.known.iter().map(|peer| (peer.node, host_of(&peer.address)));
        let foreign: Vec<_> = hosts.clone().filter(|(_, host)| !stream.may_be_at(host)).collect();
        let (mut reading, mut writing) = stream.into_split();
        let (lane, theirs) = read_hello(&mut reading).await?;
        let me = self.hello.lock().expect("no holder of this lock panics").node;
        if !hosts.clone().any(|(node, _)| node == theirs.node) || theirs.node == me {
            return Err(PeerError::Unknown { node: theirs.node });
        }
        if let Some((node, host)) = foreign.into_iter().find(|(node, _)| *node == theirs.node) {
            let host = host.to_owned();
            return Err(PeerError::Foreign { node, host });
        }
        write_hello(&mut writing, lane, &self.hello).await?;
        let (node, number) = (theirs.node, self.number);
        let from = Source {
            node,
            incarnation: theirs.incarnation,
            lane,
            number,
        };
        if !self.events.send(PeerEvent::Inbound { node, lane, number }).await {
            return Err(PeerError::Closed);
        }
        register(theirs.node);
        drop(stranger);
        let pulse = async {
            match lane {
                Lane::Control => pulse(&mut writing).await,
                Lane::Bulk => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            error = pulse => Err(error),
            result = self.read(&mut reading, from) => result,
        }
    }

    async fn read(&self, reading: &mut Reading, from: Source) -> Result<(), PeerError> {
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        loop {
            let mut messages = Vec::new();
            let broken = loop {
                match take_frame(&mut buffer) {
                    Ok(Some(frame)) => match peer_codec::decode(frame) {
                        Ok(message) => messages.push(message),
                        Err(error) => break Some(error.into()),
                    },
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            if !messages.is_empty() && !self.events.send(PeerEvent::Messages { from, messages }).await {
                return Err(PeerError::Closed);
            }
            if let Some(error) = broken {
                return Err(error);
            }
            if buffer.capacity() - buffer.len() < READ_BYTES_MIN {
                buffer.reserve(READ_BYTES);
            }
            let read = reading.read_buf(&mut buffer).await?;
            if read == 0 {
                return Err(PeerError::Closed);
            }
            self.bytes_received.inc_by(read as u64);
        }
    }
}

/// Tells the dialling side, for as long as the connection takes it, that this process is alive.
async fn pulse(writing: &mut Writing) -> PeerError {
    let mut pulses = interval(PULSE_EVERY);
    pulses.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        pulses.tick().await;
        let written = async {
            writing.write_all(&[1]).await?;
            writing.flush().await
        };
        if let Err(error) = written.await {
            return error.into();
        }
    }
}

async fn write_hello(writing: &mut Writing, lane: Lane, hello: &SharedHello) -> Result<(), PeerError> {
    let preamble = encode_preamble(lane, &hello.lock().expect("no holder of this lock panics"));
    writing.write_all(&preamble).await?;
    Ok(writing.flush().await?)
}

async fn read_hello(reading: &mut Reading) -> Result<(Lane, Hello), PeerError> {
    let hello = async {
        let mut preamble = [0; PREAMBLE_BYTES];
        reading.read_exact(&mut preamble).await?;
        let mut preamble = &preamble[..];
        if preamble.get_u32_le() != MAGIC {
            return Err(PeerError::NotAPeer);
        }
        let lane = match preamble.get_u8() {
            0 => Lane::Control,
            1 => Lane::Bulk,
            _ => return Err(PeerError::NotAPeer),
        };
        let len = preamble.get_u16_le() as usize;
        if len > HELLO_BYTES_MAX {
            return Err(PeerError::NotAPeer);
        }
        let mut hello = vec![0; len];
        reading.read_exact(&mut hello).await?;
        Ok((lane, peer_codec::decode_hello(hello.into())?))
    };
    timeout(HELLO_WITHIN, hello).await.map_err(|_| PeerError::Silent)?
}

/// Length and CRC32C of the bytes, then they: TCP's own sum lets one error in 65,536 through.
fn put_frame(bytes: &[u8], out: &mut BytesMut) {
    out.put_u32_le(bytes.len() as u32);
    out.put_u32_le(crc32c::crc32c(bytes));
    out.put_slice(bytes);
}

fn take_frame(buffer: &mut BytesMut) -> Result<Option<Bytes>, PeerError> {
    let Some(head) = buffer.first_chunk::<FRAME_HEAD_BYTES>() else {
        return Ok(None);
    };
    let [l0, l1, l2, l3, c0, c1, c2, c3] = *head;
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if len > MAX_FRAME_BYTES {
        return Err(PeerError::TooLong { len });
    }
    if buffer.len() < FRAME_HEAD_BYTES + len {
        return Ok(None);
    }
    buffer.advance(FRAME_HEAD_BYTES);
    let frame = buffer.split_to(len).freeze();
    if crc32c::crc32c(&frame) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(PeerError::Damaged);
    }
    Ok(Some(frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_survives_any_cut_and_damage_is_named() {
        let mut whole = BytesMut::new();
        put_frame(b"a message", &mut whole);
        for cut in 0..whole.len() {
            let mut part = BytesMut::from(&whole[..cut]);
            assert!(matches!(take_frame(&mut part), Ok(None)), "{cut} bytes");
        }
        for at in FRAME_HEAD_BYTES..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(matches!(take_frame(&mut damaged), Err(PeerError::Damaged)), "byte {at}");
        }
        assert_eq!(
            take_frame(&mut whole).expect("well formed").expect("whole"),
            &b"a message"[..]
        );
    }

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (dialled.expect("connected"), accepted.expect("accepted").0)
    }

    #[tokio::test]
    async fn a_peer_that_closes_nothing_and_says_nothing_is_given_up() {
        let (dialled, _accepted) = connected().await;
        let (mut reading, _writing) = Stream::plain(dialled).into_split();
        let error = closed(&mut reading, Some(Duration::from_millis(20))).await;
        assert!(matches!(error, PeerError::NoPulse), "{error}");
    }

    #[tokio::test]
    async fn pulses_are_no_end_of_a_connection() {
        let (dialled, accepted) = connected().await;
        let (mut reading, _writing) = Stream::plain(dialled).into_split();
        let (_theirs, mut pulsing) = Stream::plain(accepted).into_split();
        let beating = timeout(PULSE_EVERY * 4, pulse(&mut pulsing));
        let watching = closed(&mut reading, Some(PULSE_EVERY * 3));
        tokio::select! {
            biased;
            error = watching => panic!("the peer was given up although it pulsed: {error}"),
            beaten = beating => assert!(beaten.is_err(), "the connection took every pulse"),
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_kept_for_it() {
        let mut frame = BytesMut::from(&[0xff; FRAME_HEAD_BYTES][..]);
        assert!(matches!(take_frame(&mut frame), Err(PeerError::TooLong { .. })));
    }
}
