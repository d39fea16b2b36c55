//! Connections between servers.
//!
//! Each server dials every other one, once for each lane, and sends on those connections only; what it accepts it
//! reads, and there it writes nothing but pulses. So the order of messages on a lane is the order of sending, and the end of a dialled control connection
//! means that the peer must be told everything again.

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
use settle_net::{Accepted, Listener, Stop, StopHandle};
use settle_telemetry::prometheus::metrics::counter::Counter;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
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
/// Messages waiting for a slow peer, by lane; one more is dropped, which consensus expects of a network.
const CONTROL_QUEUE: usize = 8192;
const BULK_QUEUE: usize = 64;
/// How much is gathered into one write.
const WRITE_BYTES: usize = 256 << 10;

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
    queues: BTreeMap<NodeId, [mpsc::Sender<PeerMessage>; 2]>,
    inbound: Arc<Mutex<FixedMap<(NodeId, u64), StopHandle>>>,
    dropped: Counter,
}

impl Peers {
    /// Hands a message to its lane, or drops it when the lane is full: consensus and the gates expect loss.
    pub(crate) fn send(&self, to: NodeId, lane: Lane, message: PeerMessage) {
        let Some(queues) = self.queues.get(&to) else { return };
        if queues[lane_index(lane)].try_send(message).is_err() {
            self.dropped.inc();
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
        hello: Hello,
    },
    Down {
        node: NodeId,
    },
    /// `node` speaks on a new connection: nothing that came on an older one of this lane counts any more.
    Inbound {
        node: NodeId,
        lane: Lane,
        number: u64,
    },
    Message {
        from: Source,
        message: PeerMessage,
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

/// Starts dialling the others and serving `listener`. The tasks end with `stop` and are joined through `tasks`.
pub(crate) fn connect<E: Events>(
    hello: SharedHello,
    others: &[PeerAddress],
    listener: Listener,
    events: E,
    metrics: &PeerMetrics,
    stop: Stop,
    tasks: &mut JoinSet<()>,
) -> Peers {
    let node = hello.lock().expect("no holder of this lock panics").node;
    let mut queues = BTreeMap::new();
    for other in others.iter().filter(|other| other.node != node) {
        let lanes = [(Lane::Control, CONTROL_QUEUE), (Lane::Bulk, BULK_QUEUE)].map(|(lane, bound)| {
            let (sender, receiver) = mpsc::channel(bound);
            let dialler = Dialler {
                hello: hello.clone(),
                lane,
                peer: other.clone(),
                queue: receiver,
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
            sender
        });
        queues.insert(other.node, lanes);
    }

    let inbound: Arc<Mutex<FixedMap<(NodeId, u64), StopHandle>>> = Arc::default();
    let known: Arc<Vec<NodeId>> = Arc::new(others.iter().map(|other| other.node).collect());
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
        queues,
        inbound,
        dropped: metrics.messages_dropped.clone(),
    }
}

struct Dialler<E> {
    hello: SharedHello,
    lane: Lane,
    peer: PeerAddress,
    queue: mpsc::Receiver<PeerMessage>,
    events: E,
    bytes_sent: Counter,
}

impl<E: Events> Dialler<E> {
    async fn run(mut self) {
        let control = self.lane == Lane::Control;
        let mut told = None;
        loop {
            match self.dial().await {
                Ok((stream, hello)) => {
                    told = None;
                    // What was queued for the connection before is void: the peer is told everything anew.
                    while self.queue.try_recv().is_ok() {}
                    let node = self.peer.node;
                    if control && !self.events.send(PeerEvent::Up { node, hello }).await {
                        return;
                    }
                    let error = self.write(stream).await;
                    if control {
                        tracing::info!(node = %self.peer.node, address = self.peer.address, %error, "peer lost");
                        if !self.events.send(PeerEvent::Down { node }).await {
                            return;
                        }
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    if control && told.as_ref() != Some(&text) {
                        tracing::info!(node = %self.peer.node, address = self.peer.address, error = text, "peer not reached");
                        told = Some(text);
                    }
                }
            }
            while self.queue.try_recv().is_ok() {}
            sleep(REDIAL_AFTER).await;
        }
    }

    async fn dial(&self) -> Result<(TcpStream, Hello), PeerError> {
        let connecting = TcpStream::connect(&self.peer.address);
        let mut stream = timeout(CONNECT_WITHIN, connecting)
            .await
            .map_err(|_| PeerError::Silent)??;
        stream.set_nodelay(true)?;
        write_hello(&mut stream, self.lane, &self.hello).await?;
        let (lane, theirs) = read_hello(&mut stream).await?;
        if lane != self.lane {
            return Err(PeerError::NotAPeer);
        }
        if theirs.node != self.peer.node {
            return Err(PeerError::WrongNode {
                said: theirs.node,
                expected: self.peer.node,
            });
        }
        Ok((stream, theirs))
    }

    /// Writes until the connection ends and says why it did.
    async fn write(&mut self, stream: TcpStream) -> PeerError {
        let (mut reading, mut writing) = stream.into_split();
        let patience = (self.lane == Lane::Control).then_some(PULSE_LOST_AFTER);
        tokio::select! {
            biased;
            error = closed(&mut reading, patience) => error,
            error = write_queue(&mut self.queue, &mut writing, &self.bytes_sent) => error,
        }
    }
}

/// Resolves when the connection is over. The accepting side writes nothing but pulses after its hello.
/// `patience` is how long it may be silent.
async fn closed(reading: &mut OwnedReadHalf, patience: Option<Duration>) -> PeerError {
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

async fn write_queue(
    queue: &mut mpsc::Receiver<PeerMessage>,
    writing: &mut OwnedWriteHalf,
    bytes_sent: &Counter,
) -> PeerError {
    let mut buffer = BytesMut::new();
    loop {
        let Some(mut message) = queue.recv().await else {
            return PeerError::Closed;
        };
        loop {
            put_frame(&peer_codec::encode(&message), &mut buffer);
            if buffer.len() >= WRITE_BYTES {
                break;
            }
            match queue.try_recv() {
                Ok(next) => message = next,
                Err(_) => break,
            }
        }
        bytes_sent.inc_by(buffer.len() as u64);
        if let Err(error) = writing.write_all(&buffer).await {
            return error.into();
        }
        buffer.clear();
    }
}

struct Reader<E> {
    hello: SharedHello,
    number: u64,
    known: Arc<Vec<NodeId>>,
    events: E,
    bytes_received: Counter,
}

impl<E: Events> Reader<E> {
    async fn run(self, accepted: Accepted, register: impl FnOnce(NodeId)) -> Result<(), PeerError> {
        let mut stream = accepted.stream;
        let (lane, theirs) = read_hello(&mut stream).await?;
        let me = self.hello.lock().expect("no holder of this lock panics").node;
        if !self.known.contains(&theirs.node) || theirs.node == me {
            return Err(PeerError::Unknown { node: theirs.node });
        }
        write_hello(&mut stream, lane, &self.hello).await?;
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
        let (mut reading, mut writing) = stream.into_split();
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

    async fn read(&self, reading: &mut OwnedReadHalf, from: Source) -> Result<(), PeerError> {
        let mut buffer = BytesMut::with_capacity(64 << 10);
        loop {
            while let Some(frame) = take_frame(&mut buffer)? {
                let message = peer_codec::decode(frame)?;
                if !self.events.send(PeerEvent::Message { from, message }).await {
                    return Err(PeerError::Closed);
                }
            }
            buffer.reserve(16 << 10);
            let read = reading.read_buf(&mut buffer).await?;
            if read == 0 {
                return Err(PeerError::Closed);
            }
            self.bytes_received.inc_by(read as u64);
        }
    }
}

/// Tells the dialling side, for as long as the connection takes it, that this process is alive.
async fn pulse(writing: &mut OwnedWriteHalf) -> PeerError {
    let mut pulses = interval(PULSE_EVERY);
    pulses.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        pulses.tick().await;
        if let Err(error) = writing.write_all(&[1]).await {
            return error.into();
        }
    }
}

async fn write_hello(stream: &mut TcpStream, lane: Lane, hello: &SharedHello) -> Result<(), PeerError> {
    let preamble = encode_preamble(lane, &hello.lock().expect("no holder of this lock panics"));
    Ok(stream.write_all(&preamble).await?)
}

async fn read_hello(stream: &mut TcpStream) -> Result<(Lane, Hello), PeerError> {
    let reading = async {
        let mut preamble = [0; PREAMBLE_BYTES];
        stream.read_exact(&mut preamble).await?;
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
        stream.read_exact(&mut hello).await?;
        Ok((lane, peer_codec::decode_hello(hello.into())?))
    };
    timeout(HELLO_WITHIN, reading).await.map_err(|_| PeerError::Silent)?
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
        let (mut reading, _writing) = dialled.into_split();
        let error = closed(&mut reading, Some(Duration::from_millis(20))).await;
        assert!(matches!(error, PeerError::NoPulse), "{error}");
    }

    #[tokio::test]
    async fn pulses_are_no_end_of_a_connection() {
        let (dialled, accepted) = connected().await;
        let (mut reading, _writing) = dialled.into_split();
        let (_theirs, mut pulsing) = accepted.into_split();
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
