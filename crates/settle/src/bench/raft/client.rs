//! The load: a few connections, each with its share of the commands under way.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread::{JoinHandle, sleep},
    time::Duration,
};

use anyhow::Context;
use bytes::{Buf, BufMut, BytesMut};
use hdrhistogram::Histogram;
use settle_base::Mono;
use settle_telemetry::Clock;

use super::{
    machine::{COMMAND_BYTES, fill_command, put_command},
    node::{ACKS, HELLO, LOST, NOT_LEADER, SNAPSHOT, STATS, TEXT},
};
use crate::bench::report::histogram;

/// Due times of the commands under way, by number: more than are ever under way on one connection.
const RING: usize = 1 << 20;
/// A connection on which nothing is answered for so long is given up.
const PATIENCE: Duration = Duration::from_secs(5);
const READ_WAIT: Duration = Duration::from_millis(50);
const REDIAL_AFTER: Duration = Duration::from_millis(5);
/// Registers that are written, one after the other: 3.6 MiB of them.
const REGISTERS: u32 = 36 << 10;

/// How commands are sent.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// So many are always under way.
    Closed { in_flight: u32 },
    /// So many fall due each second, whether or not earlier ones are done; one that is sent late was late.
    Open { per_second: f64 },
}

/// What happened within the measured time.
pub struct Outcome {
    pub latency: Histogram<u64>,
    /// How long after it fell due each command of an open loop was handed to the system: what of the latency is the
    /// generator's own.
    pub sent_late: Histogram<u64>,
    /// How much later than asked a thread of the generator was woken that did nothing but sleep: what the machine makes
    /// everybody wait for a core.
    pub woken_late: Histogram<u64>,
    /// Answered within the time.
    pub done: u64,
    /// Given up: the connection ended or the leader changed.
    pub lost: u64,
}

struct Shared {
    targets: Vec<SocketAddr>,
    clock: Clock,
    stop: AtomicBool,
    /// Microseconds of the clock between which commands count.
    from: AtomicU64,
    to: AtomicU64,
    /// By target: answers so far, and when the last one came.
    answered: Vec<AtomicU64>,
    last_answer: Vec<AtomicU64>,
    lost: AtomicU64,
}

/// A running load.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Share>>,
    sleeper: JoinHandle<Histogram<u64>>,
}

/// What one connection contributes to the outcome.
struct Share {
    latency: Histogram<u64>,
    sent_late: Histogram<u64>,
    done: u64,
}

impl Load {
    /// `targets`: the servers 1, 2, … in order.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(targets: &[SocketAddr], pace: Pace, connections: u32) -> anyhow::Result<Load> {
        let shared = Arc::new(Shared {
            targets: targets.to_vec(),
            clock: Clock::start(),
            stop: AtomicBool::new(false),
            from: AtomicU64::new(u64::MAX),
            to: AtomicU64::new(u64::MAX),
            answered: targets.iter().map(|_| AtomicU64::new(0)).collect(),
            last_answer: targets.iter().map(|_| AtomicU64::new(0)).collect(),
            lost: AtomicU64::new(0),
        });
        let count = match pace {
            Pace::Closed { in_flight } => connections.min(in_flight),
            Pace::Open { .. } => connections,
        };
        let mut threads = Vec::new();
        for i in 0..count {
            let shared = shared.clone();
            // The share of this connection; the first ones take what is left over.
            let pace = match pace {
                Pace::Closed { in_flight } => Pace::Closed {
                    in_flight: in_flight / count + u32::from(i < in_flight % count),
                },
                Pace::Open { per_second } => Pace::Open {
                    per_second: per_second / f64::from(count),
                },
            };
            let client = fresh_client();
            let work = move || Worker::new(shared, pace, client).run();
            let thread = std::thread::Builder::new().name(format!("load-{i}"));
            threads.push(thread.spawn(work).context("cannot start a thread of the load")?);
        }
        let sleeping = shared.clone();
        let sleeper = std::thread::Builder::new().name("sleeper".to_owned());
        let sleeper = sleeper.spawn(move || sleep_and_wake(&sleeping));
        let sleeper = sleeper.context("cannot start a thread of the load")?;
        Ok(Load {
            shared,
            threads,
            sleeper,
        })
    }

    pub fn now(&self) -> Mono {
        self.shared.clock.now()
    }

    /// Commands count that fall due within the next `time`. Blocks until it has passed.
    pub fn measure(&self, time: Duration) {
        let from = self.now();
        self.shared.to.store((from + time).0, Ordering::Relaxed);
        self.shared.from.store(from.0, Ordering::Relaxed);
        pause(time);
    }

    /// Answers by server since the start.
    pub fn answered(&self) -> Vec<u64> {
        self.shared.answered.iter().map(|n| n.load(Ordering::Relaxed)).collect()
    }

    /// When a server last answered a command.
    pub fn last_answer(&self, target: usize) -> Mono {
        Mono(self.shared.last_answer[target].load(Ordering::Relaxed))
    }

    /// Lets what is under way be answered, and ends the threads.
    ///
    /// # Errors
    /// When a thread panicked.
    pub fn finish(self) -> anyhow::Result<Outcome> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let woken_late = self
            .sleeper
            .join()
            .map_err(|_| anyhow::anyhow!("the sleeper panicked"))?;
        let mut outcome = Outcome {
            latency: histogram(),
            sent_late: histogram(),
            woken_late,
            done: 0,
            lost: 0,
        };
        for thread in self.threads {
            let share = thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
            outcome.latency.add(&share.latency).context("histograms of one shape")?;
            outcome
                .sent_late
                .add(&share.sent_late)
                .context("histograms of one shape")?;
            outcome.done += share.done;
        }
        outcome.lost = self.shared.lost.load(Ordering::Relaxed);
        Ok(outcome)
    }
}

/// Sleeps a millisecond again and again until the load ends, and notes how late it is woken.
fn sleep_and_wake(shared: &Shared) -> Histogram<u64> {
    const NAP: Duration = Duration::from_millis(1);
    let mut late = histogram();
    while !shared.stop.load(Ordering::Relaxed) {
        let start = shared.clock.now();
        pause(NAP);
        let end = shared.clock.now();
        if shared.is_measured(end.0) {
            late.saturating_record(end.since(start + NAP).as_micros().max(1) as u64);
        }
    }
    late
}

impl Shared {
    fn is_measured(&self, at: u64) -> bool {
        let (from, to) = (self.from.load(Ordering::Relaxed), self.to.load(Ordering::Relaxed));
        at >= from && at < to
    }
}

/// No other client of these servers has this number.
pub fn fresh_client() -> u64 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    u64::from(std::process::id()) << 32 | u64::from(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Precise to some 50 µs, which tokio's timers, of whole milliseconds, are not.
#[allow(
    clippy::disallowed_methods,
    reason = "the load's own beat; nothing is waited for here"
)]
pub fn pause(time: Duration) {
    sleep(time);
}

struct Worker {
    shared: Arc<Shared>,
    pace: Pace,
    client: u64,
    target: usize,
    number: u32,
    due: Arc<Vec<AtomicU64>>,
    latency: Histogram<u64>,
    sent_late: Histogram<u64>,
    done: u64,
}

/// Why a connection came to its end.
enum Ended {
    Stopped,
    Leader(u32),
    Broken,
}

impl Worker {
    fn new(shared: Arc<Shared>, pace: Pace, client: u64) -> Worker {
        Worker {
            shared,
            pace,
            client,
            target: 0,
            number: 0,
            due: Arc::new((0..RING).map(|_| AtomicU64::new(0)).collect()),
            latency: histogram(),
            sent_late: histogram(),
            done: 0,
        }
    }

    fn run(mut self) -> Share {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let known = match self.connect().and_then(|stream| self.drive(stream)) {
                Ok(Ended::Stopped) => break,
                Ok(Ended::Leader(node)) => (node as usize).checked_sub(1),
                Ok(Ended::Broken) | Err(_) => None,
            };
            match known.filter(|target| *target < self.shared.targets.len()) {
                Some(target) if target != self.target => self.target = target,
                _ => {
                    self.target = (self.target + 1) % self.shared.targets.len();
                    pause(REDIAL_AFTER);
                }
            }
        }
        Share {
            latency: self.latency,
            sent_late: self.sent_late,
            done: self.done,
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&self.shared.targets[self.target], Duration::from_secs(1))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_WAIT))?;
        let mut hello = BytesMut::new();
        hello.put_u32_le(9);
        hello.put_u8(HELLO);
        hello.put_u64_le(self.client);
        stream.write_all(&hello)?;
        Ok(stream)
    }

    fn drive(&mut self, stream: TcpStream) -> io::Result<Ended> {
        match self.pace {
            Pace::Closed { in_flight } => self.read(stream, in_flight),
            Pace::Open { per_second } => {
                let pacer = Pacer {
                    shared: self.shared.clone(),
                    due: self.due.clone(),
                    stream: stream.try_clone()?,
                    client: self.client,
                    per_second,
                };
                let thread = std::thread::Builder::new().name("pacer".to_owned());
                let pacing = thread.spawn(move || pacer.run())?;
                let ended = self.read(stream, 0);
                // The connection is closed by now, or the load is stopped: the pacer sees either.
                let (number, late) = pacing.join().map_err(|_| io::Error::other("the pacer panicked"))?;
                self.number = number;
                self.sent_late.add(&late).expect("histograms of one shape");
                ended
            }
        }
    }

    /// Sends `window` commands, then one for each answer, until the connection ends. A window of 0 only reads.
    fn read(&mut self, mut stream: TcpStream, window: u32) -> io::Result<Ended> {
        let (mut out, mut bytes) = (BytesMut::new(), BytesMut::with_capacity(64 << 10));
        let mut block = vec![0; 64 << 10];
        let mut under_way = 0;
        let mut heard = self.shared.clock.now();
        self.send(&mut stream, window, &mut out)?;
        under_way += window;
        let ended = loop {
            match stream.read(&mut block) {
                Ok(0) => break Ended::Broken,
                Ok(n) => bytes.put_slice(&block[..n]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    let now = self.shared.clock.now();
                    let is_stopped = self.shared.stop.load(Ordering::Relaxed);
                    if is_stopped && (window == 0 || under_way == 0 || now.since(heard) > Duration::from_secs(1)) {
                        return Ok(Ended::Stopped);
                    }
                    if now.since(heard) > PATIENCE {
                        break Ended::Broken;
                    }
                    continue;
                }
                Err(_) => break Ended::Broken,
            }
            heard = self.shared.clock.now();
            let mut answers = 0;
            let mut refused = None;
            while let Some(mut frame) = take_frame(&mut bytes) {
                match frame.get_u8() {
                    ACKS => {
                        while frame.remaining() >= 4 {
                            self.answered(frame.get_u32_le(), heard);
                            answers += 1;
                        }
                    }
                    NOT_LEADER => refused = Some(Ended::Leader(frame.get_u32_le())),
                    LOST => refused = Some(Ended::Broken),
                    _ => {}
                }
            }
            self.shared.answered[self.target].fetch_add(u64::from(answers), Ordering::Relaxed);
            if answers > 0 {
                self.shared.last_answer[self.target].store(heard.0, Ordering::Relaxed);
            }
            under_way = under_way.saturating_sub(answers);
            if let Some(ended) = refused {
                break ended;
            }
            if self.shared.stop.load(Ordering::Relaxed) {
                if window > 0 && under_way == 0 {
                    return Ok(Ended::Stopped);
                }
            } else if window > 0 {
                self.send(&mut stream, answers, &mut out)?;
                under_way += answers;
            }
        };
        // What one that does not lead refused was never begun.
        if !matches!(ended, Ended::Leader(_)) {
            self.shared.lost.fetch_add(u64::from(under_way), Ordering::Relaxed);
        }
        let _ = stream.shutdown(std::net::Shutdown::Both);
        Ok(ended)
    }

    fn answered(&mut self, number: u32, now: Mono) {
        let due = self.due[number as usize % RING].load(Ordering::Relaxed);
        if self.shared.is_measured(due) {
            self.latency.saturating_record(now.0.saturating_sub(due).max(1));
        }
        if self.shared.is_measured(now.0) {
            self.done += 1;
        }
    }

    fn send(&mut self, stream: &mut TcpStream, count: u32, out: &mut BytesMut) -> io::Result<()> {
        let now = self.shared.clock.now();
        for _ in 0..count {
            self.number = self.number.wrapping_add(1);
            self.due[self.number as usize % RING].store(now.0, Ordering::Relaxed);
            put_frame(out, |out| {
                put_command(out, register(self.client, self.number), self.client, self.number);
            });
        }
        let sent = stream.write_all(out);
        out.clear();
        sent
    }
}

/// Spread over the registers, another place for each client.
fn register(client: u64, number: u32) -> u32 {
    (client as u32).wrapping_mul(7919).wrapping_add(number.wrapping_mul(97)) % REGISTERS
}

/// Sends what falls due, every millisecond.
struct Pacer {
    shared: Arc<Shared>,
    due: Arc<Vec<AtomicU64>>,
    stream: TcpStream,
    client: u64,
    per_second: f64,
}

impl Pacer {
    /// How many were sent, and how late. Ends early when the connection does.
    fn run(mut self) -> (u32, Histogram<u64>) {
        let start = self.shared.clock.now();
        let (mut out, mut batch, mut late) = (BytesMut::new(), Vec::new(), histogram());
        let mut number = 0u32;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let now = self.shared.clock.now();
            loop {
                let due = start + Duration::from_secs_f64(f64::from(number) / self.per_second);
                if due > now || out.len() > 1 << 20 {
                    break;
                }
                number += 1;
                self.due[number as usize % RING].store(due.0, Ordering::Relaxed);
                batch.push(due);
                put_frame(&mut out, |out| {
                    put_command(out, register(self.client, number), self.client, number);
                });
            }
            // A socket that is full holds the load up; what falls due meanwhile is late and counts so.
            if self.stream.write_all(&out).is_err() {
                break;
            }
            out.clear();
            let sent = self.shared.clock.now();
            for due in batch.drain(..).filter(|due| self.shared.is_measured(due.0)) {
                late.saturating_record(sent.since(due).as_micros().max(1) as u64);
            }
            let next = start + Duration::from_secs_f64(f64::from(number) / self.per_second);
            let wait = next.since(self.shared.clock.now()).min(READ_WAIT);
            if !wait.is_zero() {
                pause(wait.max(Duration::from_micros(200)));
            }
        }
        (number, late)
    }
}

pub fn put_frame(out: &mut BytesMut, put: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32_le(0);
    put(out);
    let len = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

pub fn take_frame(bytes: &mut BytesMut) -> Option<BytesMut> {
    let len = u32::from_le_bytes(*bytes.first_chunk::<4>()?) as usize;
    if bytes.len() < 4 + len || len == 0 {
        return None;
    }
    bytes.advance(4);
    Some(bytes.split_to(len))
}

/// What a server says of itself.
///
/// # Errors
/// When it does not answer in time.
pub fn figures(target: SocketAddr) -> io::Result<String> {
    let mut out = BytesMut::new();
    put_frame(&mut out, |out| out.put_u8(STATS));
    let mut text = ask(target, &out, TEXT)?;
    text.advance(1);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Adds `pages` pages to the state of the cluster that `leader` leads.
///
/// # Errors
/// When it is not the leader or does not answer in time.
pub fn fill(leader: SocketAddr, pages: u64) -> io::Result<()> {
    let mut left = pages;
    while left > 0 {
        // Each is a client of its own: the server may take the last one's leave after this one's hello.
        let client = fresh_client();
        let count = left.min(256) as u32;
        let mut out = BytesMut::with_capacity(COMMAND_BYTES);
        put_frame(&mut out, |out| {
            out.put_u8(HELLO);
            out.put_u64_le(client);
        });
        put_frame(&mut out, |out| fill_command(out, count, client, 1));
        ask(leader, &out, ACKS)?;
        left -= u64::from(count);
    }
    Ok(())
}

/// Has `target` take a snapshot of its state; it is taken while the server goes on.
///
/// # Errors
/// When the server does not answer in time.
pub fn take_snapshot(target: SocketAddr) -> io::Result<()> {
    let mut out = BytesMut::new();
    put_frame(&mut out, |out| out.put_u8(SNAPSHOT));
    ask(target, &out, TEXT).map(drop)
}

/// Asks a server one question on a connection of its own.
///
/// # Errors
/// When it does not answer in time, or with another kind of frame.
pub fn ask(target: SocketAddr, question: &[u8], kind: u8) -> io::Result<BytesMut> {
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    stream.write_all(question)?;
    let (mut bytes, mut block) = (BytesMut::new(), vec![0; 16 << 10]);
    loop {
        let read = stream.read(&mut block)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.put_slice(&block[..read]);
        if let Some(frame) = take_frame(&mut bytes) {
            return match frame[0] == kind {
                true => Ok(frame),
                false => Err(io::Error::other("this server does not lead")),
            };
        }
    }
}
