//! One connection as a pure state machine: what to send, what happened, when to be asked again.
//!
//! The driver owns the transport and the clock. It puts received bytes into a buffer, calls [`Connection::step`] until
//! that gives nothing more, writes what [`Connection::unsent`] holds and reports it with [`Connection::sent`], and steps
//! again when bytes came, when it had something to say, or at [`Connection::deadline`].
//!
//! Both sides may ask. There is no queue inside: an event is taken from the input one at a time, so what a connection
//! holds is bounded by its [`Config`].

mod config;
mod event;
mod heartbeat;

use std::{collections::BTreeSet, time::Duration};

use bytes::{Buf, BytesMut};
use settle_base::{FixedMap, Mono};

pub use config::{Config, HeartbeatConfig};
pub use event::{CallError, CallId, CloseReason, Event, Outcome, RespondError, ServedId};

use crate::{Body, BoltError, Codec, Command, Frame, FrameDecoder, Status, Switch, Version};
use heartbeat::{Due, Heartbeat};

/// What happened without an event.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Answers to what nobody waits for: they came after the timeout, or were never asked for. Dropped.
    pub late_responses: u64,
    /// Requests whose asker's time ran out before they were answered here.
    pub expired_requests: u64,
    /// Requests told that the server is busy: one too many, or the connection was draining.
    pub refused_requests: u64,
    /// Heartbeats of the other side.
    pub heartbeats_answered: u64,
    pub heartbeats_sent: u64,
    pub heartbeats_missed: u64,
}

/// A request of the other side that is being served, and how its answer must look.
#[derive(Debug)]
struct Served {
    serial: u64,
    version: Version,
    switch: Switch,
    codec: Codec,
    expires: Option<Mono>,
}

#[derive(Debug)]
enum State {
    Open,
    /// Until when.
    Draining(Mono),
    /// Calls are being ended; the reason is told last.
    Closing(CloseReason),
    Closed,
}

/// One end of one connection.
///
/// ```
/// use std::time::Duration;
/// use bytes::{Bytes, BytesMut};
/// use settle_base::Mono;
/// use settle_bolt::{Body, Codec, Config, Connection, Event, Outcome, Status};
///
/// let now = Mono::ZERO;
/// let mut client = Connection::new(Config::client(), now);
/// let mut server = Connection::new(Config::server(), now);
/// let ask = Body { class: Bytes::from_static(b"com.example.Ask"), ..Body::EMPTY };
/// let call = client.call(Codec::HESSIAN2, ask, Duration::from_secs(3), now)?;
///
/// // What sockets do: unsent bytes of one side are input of the other.
/// let mut towards_server = BytesMut::from(client.unsent());
/// client.sent(towards_server.len(), now);
/// while let Some(event) = server.step(&mut towards_server, now) {
///     if let Event::Request { served, .. } = event {
///         server.respond(served, Status::Success, Body::EMPTY)?;
///     }
/// }
///
/// let mut towards_client = BytesMut::from(server.unsent());
/// server.sent(towards_client.len(), now);
/// let event = client.step(&mut towards_client, now);
/// assert!(matches!(event, Some(Event::Done { call: done, outcome: Outcome::Answer { .. } }) if done == call));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Connection {
    config: Config,
    decoder: FrameDecoder,
    state: State,
    /// What this side speaks, once known.
    speaks: Option<(Version, Switch)>,
    next_id: i32,
    next_serial: u64,
    /// By request id: until when the answer is waited for.
    calls: FixedMap<i32, Mono>,
    call_deadlines: BTreeSet<(Mono, i32)>,
    served: FixedMap<i32, Served>,
    served_deadlines: BTreeSet<(Mono, i32)>,
    unsent: BytesMut,
    /// Bytes of the input that the last step left there: more of them means that some came.
    input_left: usize,
    heartbeat: Option<Heartbeat>,
    last_received: Mono,
    last_sent: Mono,
    counters: Counters,
}

impl Connection {
    /// A connection that was opened or accepted at `now`.
    pub fn new(config: Config, now: Mono) -> Connection {
        Connection {
            decoder: FrameDecoder::new(config.limits.clone()),
            state: State::Open,
            speaks: config.speaks,
            next_id: config.first_id,
            next_serial: 0,
            calls: FixedMap::default(),
            call_deadlines: BTreeSet::new(),
            served: FixedMap::default(),
            served_deadlines: BTreeSet::new(),
            unsent: BytesMut::new(),
            input_left: 0,
            heartbeat: config.heartbeat.map(|heartbeat| Heartbeat::new(heartbeat, now)),
            last_received: now,
            last_sent: now,
            counters: Counters::default(),
            config,
        }
    }

    /// Asks the other side. The call ends by [`Event::Done`] within `timeout`, counted from `now`.
    ///
    /// # Errors
    /// Nothing was sent; see [`CallError`].
    pub fn call(&mut self, codec: Codec, body: Body, timeout: Duration, now: Mono) -> Result<CallId, CallError> {
        let (version, switch) = self.may_begin()?;
        if self.calls.len() >= self.config.calls_max {
            return Err(CallError::TooManyCalls {
                max: self.config.calls_max,
            });
        }
        let id = self.free_id();
        // Java takes zero for "no timeout", so a call without time left still says one millisecond.
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX).max(1);
        let command = Command::Request { timeout_ms, body };
        self.queue(version, switch, id, codec, command)?;
        let deadline = now + timeout;
        let is_new = self.calls.insert(id, deadline).is_none() && self.call_deadlines.insert((deadline, id));
        assert!(is_new, "an id in flight is not given out again");
        Ok(CallId(id))
    }

    /// Tells the other side something that nobody answers.
    ///
    /// # Errors
    /// Nothing was sent; see [`CallError`].
    pub fn oneway(&mut self, codec: Codec, body: Body) -> Result<(), CallError> {
        let (version, switch) = self.may_begin()?;
        let id = self.free_id();
        let command = Command::Oneway { timeout_ms: -1, body };
        Ok(self.queue(version, switch, id, codec, command)?)
    }

    /// Forgets a call: no event will tell of it, and its answer is dropped. `false` when it had ended.
    pub fn abandon(&mut self, call: CallId) -> bool {
        self.end_call(call.0)
    }

    /// Answers a request in the version, switch and codec that it came in.
    ///
    /// # Errors
    /// Nothing was sent; see [`RespondError`].
    pub fn respond(&mut self, served: ServedId, status: Status, body: Body) -> Result<(), RespondError> {
        let gone = RespondError::NotServed { id: served.id };
        if self.is_closed() {
            return Err(gone);
        }
        let Some(known) = self.served.get(&served.id) else {
            return Err(gone);
        };
        if known.serial != served.serial {
            return Err(gone);
        }
        let (version, switch, codec) = (known.version, known.switch, known.codec);
        let command = Command::Response { status, body };
        self.queue(version, switch, served.id, codec, command)?;
        self.end_served(served.id);
        Ok(())
    }

    /// Reads frames from `input` and looks at the timers, until something happened that must be told; `None` when all is
    /// done for now. `now` is not earlier than in the step before. Bytes that are left in `input` are the beginning of a
    /// frame, or wait until [`wants_input`](Connection::wants_input).
    pub fn step(&mut self, input: &mut BytesMut, now: Mono) -> Option<Event> {
        if input.len() > self.input_left {
            // Parts of a frame are a sign of life too: a long one may take longer than a heartbeat waits.
            self.last_received = now;
            if let Some(heartbeat) = &mut self.heartbeat {
                heartbeat.received();
            }
        }
        self.input_left = input.len();
        while !self.is_closed() && self.wants_input() {
            // First what arrived, then the timers: a driver that was late finds the answer and not the timeout.
            let before = input.len();
            match self.decoder.decode(input) {
                Ok(Some(frame)) => {
                    self.input_left = input.len();
                    let event = self.receive(frame, now);
                    if event.is_some() {
                        return event;
                    }
                }
                Ok(None) => {
                    assert_eq!(before, input.len(), "a part of a frame stays where it is");
                    break;
                }
                Err(error) => self.begin_close(CloseReason::Protocol(error)),
            }
        }
        self.expire_served(now);
        if let Some(&(deadline, id)) = self.call_deadlines.first()
            && deadline <= now
        {
            self.end_call(id);
            return Some(done(id, Outcome::Timeout));
        }
        if !self.is_closed() {
            self.timers(now);
        }
        match &self.state {
            State::Open | State::Draining(_) => None,
            State::Closing(reason) => {
                if let Some(&(_, id)) = self.call_deadlines.first() {
                    self.end_call(id);
                    return Some(done(id, Outcome::ConnectionClosed));
                }
                let reason = reason.clone();
                self.state = State::Closed;
                Some(Event::Closed(reason))
            }
            State::Closed => None,
        }
    }

    /// When to step again if nothing happens before; `None`: nothing waits for time.
    pub fn deadline(&self) -> Option<Mono> {
        if self.is_closed() {
            return None;
        }
        let first = |deadlines: &BTreeSet<(Mono, i32)>| deadlines.first().map(|&(at, _)| at);
        let heartbeat = self.heartbeat.as_ref();
        let idle = self.config.idle_close;
        [
            first(&self.call_deadlines),
            first(&self.served_deadlines),
            // A side that waits to be spoken to has nobody to ask yet.
            heartbeat
                .filter(|_| self.speaks.is_some())
                .map(|heartbeat| heartbeat.deadline(self.last_received.min(self.last_sent))),
            idle.map(|idle| self.last_received.max(self.last_sent) + idle),
            match self.state {
                State::Draining(until) => Some(until),
                _ => None,
            },
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether the driver should read from the transport: not while too much waits to be written.
    pub fn wants_input(&self) -> bool {
        !self.is_closed() && self.unsent.len() < self.config.unsent_bytes_max
    }

    /// Bytes for the transport.
    pub fn unsent(&self) -> &[u8] {
        &self.unsent
    }

    /// The transport took the first `bytes` of [`unsent`](Connection::unsent).
    ///
    /// # Panics
    /// When there are not so many.
    pub fn sent(&mut self, bytes: usize, now: Mono) {
        self.unsent.advance(bytes);
        if bytes > 0 {
            self.last_sent = now;
        }
    }

    /// Lets what is under way end, in both directions, within `within`: no call begins, and a new request is told that
    /// the server is busy, which lets SOFARPC try another one. Then the connection closes.
    pub fn drain(&mut self, within: Duration, now: Mono) {
        if matches!(self.state, State::Open) {
            self.state = State::Draining(now + within);
        }
    }

    /// Ends the connection now: calls that wait end as [`Outcome::ConnectionClosed`].
    pub fn close(&mut self) {
        self.begin_close(CloseReason::Local);
    }

    /// The transport can neither read nor write any more. Step over what it gave before: an answer may be in there.
    pub fn transport_closed(&mut self) {
        self.unsent.clear();
        self.begin_close(CloseReason::Transport);
    }

    /// What this side speaks; `None` until the other side has spoken first.
    pub fn speaks(&self) -> Option<(Version, Switch)> {
        self.speaks
    }

    /// Calls of this side that wait for an answer.
    pub fn calls_in_flight(&self) -> usize {
        self.calls.len()
    }

    /// Requests of the other side that were not answered yet.
    pub fn requests_in_service(&self) -> usize {
        self.served.len()
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn is_closed(&self) -> bool {
        matches!(self.state, State::Closing(_) | State::Closed)
    }

    /// The first reason stands.
    fn begin_close(&mut self, reason: CloseReason) {
        if !self.is_closed() {
            self.state = State::Closing(reason);
            self.served.clear();
            self.served_deadlines.clear();
        }
    }

    fn may_begin(&self) -> Result<(Version, Switch), CallError> {
        match self.state {
            State::Open => {}
            State::Draining(_) => return Err(CallError::Draining),
            State::Closing(_) | State::Closed => return Err(CallError::Closed),
        }
        if self.unsent.len() >= self.config.unsent_bytes_max {
            return Err(CallError::Backlog {
                bytes: self.unsent.len(),
                max: self.config.unsent_bytes_max,
            });
        }
        self.speaks.ok_or(CallError::VersionUnknown)
    }

    /// The next id that no call and no heartbeat waits for. Counts as Java's `int`.
    fn free_id(&mut self) -> i32 {
        loop {
            let id = self.next_id;
            self.next_id = id.wrapping_add(1);
            let is_heartbeat = self.heartbeat.as_ref().and_then(Heartbeat::pending_id) == Some(id);
            if !is_heartbeat && !self.calls.contains_key(&id) {
                return id;
            }
        }
    }

    fn queue(
        &mut self,
        version: Version,
        switch: Switch,
        id: i32,
        codec: Codec,
        command: Command,
    ) -> Result<(), BoltError> {
        let start = self.unsent.len();
        let frame = Frame {
            codec,
            ..Frame::new(version, switch, id, command)
        };
        frame.encode(&mut self.unsent)?;
        let bytes = self.unsent.len() - start;
        if bytes > self.config.limits.frame_bytes {
            self.unsent.truncate(start);
            return Err(BoltError::FrameTooLong {
                bytes: bytes as u64,
                max: self.config.limits.frame_bytes,
            });
        }
        Ok(())
    }

    fn receive(&mut self, frame: Frame, now: Mono) -> Option<Event> {
        let (version, switch, id, codec) = (frame.version, frame.switch, frame.id, frame.codec);
        self.speaks.get_or_insert((version, switch));
        match frame.command {
            Command::Heartbeat { .. } => {
                self.counters.heartbeats_answered += 1;
                let status = Status::Success;
                self.queue(version, switch, id, codec, Command::HeartbeatAck { status })
                    .expect("an empty frame in a version that was read can be written");
            }
            Command::HeartbeatAck { .. } => {
                let heartbeat = self.heartbeat.as_mut();
                if !heartbeat.is_some_and(|heartbeat| heartbeat.received_ack(id)) {
                    self.counters.late_responses += 1;
                }
            }
            Command::Request { timeout_ms, body } => {
                if self.served.contains_key(&id) {
                    self.begin_close(CloseReason::Protocol(BoltError::DuplicateId { id }));
                    return None;
                }
                let is_draining = matches!(self.state, State::Draining(_));
                if is_draining || self.served.len() >= self.config.served_max {
                    self.counters.refused_requests += 1;
                    let command = Command::Response {
                        status: Status::ServerThreadpoolBusy,
                        body: Body::EMPTY,
                    };
                    self.queue(version, switch, id, codec, command)
                        .expect("an empty frame in a version that was read can be written");
                    return None;
                }
                let timeout = u64::try_from(timeout_ms).ok().filter(|&ms| ms > 0);
                let timeout = timeout.map(Duration::from_millis);
                let served = self.serve(id, version, switch, codec, timeout.map(|timeout| now + timeout));
                return Some(Event::Request {
                    served,
                    codec,
                    timeout,
                    body,
                });
            }
            Command::Oneway { body, .. } => return Some(Event::Oneway { codec, body }),
            Command::Response { status, body } => {
                if self.end_call(id) {
                    let outcome = Outcome::Answer { status, codec, body };
                    return Some(done(id, outcome));
                }
                self.counters.late_responses += 1;
            }
        }
        None
    }

    fn serve(&mut self, id: i32, version: Version, switch: Switch, codec: Codec, expires: Option<Mono>) -> ServedId {
        let serial = self.next_serial;
        self.next_serial += 1;
        let served = Served {
            serial,
            version,
            switch,
            codec,
            expires,
        };
        let replaced = self.served.insert(id, served);
        assert!(replaced.is_none(), "an id that is being served was refused above");
        if let Some(expires) = expires {
            self.served_deadlines.insert((expires, id));
        }
        ServedId { id, serial }
    }

    fn end_served(&mut self, id: i32) {
        let served = self.served.remove(&id).expect("only what is served ends");
        if let Some(expires) = served.expires {
            self.served_deadlines.remove(&(expires, id));
        }
    }

    fn end_call(&mut self, id: i32) -> bool {
        let Some(deadline) = self.calls.remove(&id) else {
            return false;
        };
        let was_timed = self.call_deadlines.remove(&(deadline, id));
        assert!(was_timed, "every call has its deadline");
        true
    }

    /// Nobody waits for their answers any more.
    fn expire_served(&mut self, now: Mono) {
        while let Some(&(expires, id)) = self.served_deadlines.first()
            && expires <= now
        {
            self.end_served(id);
            self.counters.expired_requests += 1;
        }
    }

    fn timers(&mut self, now: Mono) {
        if let State::Draining(until) = self.state {
            if self.calls.is_empty() && self.served.is_empty() {
                self.begin_close(CloseReason::Drained);
            } else if until <= now {
                self.begin_close(CloseReason::DrainTimeout);
            }
        }
        if let Some(idle) = self.config.idle_close
            && self.last_received.max(self.last_sent) + idle <= now
        {
            self.begin_close(CloseReason::Idle);
        }
        let quiet_since = self.last_received.min(self.last_sent);
        // The next heartbeat may be due as soon as the one before is given up.
        while let (Some(heartbeat), Some((version, switch)), false) = (
            &mut self.heartbeat,
            self.speaks,
            matches!(self.state, State::Closing(_)),
        ) {
            let timeout_ms = heartbeat.timeout_ms();
            match heartbeat.due(quiet_since, now) {
                Due::Nothing => return,
                Due::Missed => self.counters.heartbeats_missed += 1,
                Due::Close => {
                    self.counters.heartbeats_missed += 1;
                    self.begin_close(CloseReason::HeartbeatsMissed);
                }
                Due::Send => {
                    let id = self.free_id();
                    self.queue(version, switch, id, Codec::default(), Command::Heartbeat { timeout_ms })
                        .expect("an empty frame in the version that is spoken can be written");
                    self.counters.heartbeats_sent += 1;
                    if let Some(heartbeat) = &mut self.heartbeat {
                        heartbeat.sent(id, now);
                    }
                }
            }
        }
    }
}

fn done(id: i32, outcome: Outcome) -> Event {
    Event::Done {
        call: CallId(id),
        outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_in_flight_is_skipped_when_the_counter_has_come_round() {
        let now = Mono::ZERO;
        let mut client = Connection::new(Config::client(), now);
        let minute = Duration::from_secs(60);
        let call = |client: &mut Connection| client.call(Codec::HESSIAN2, Body::EMPTY, minute, now).expect("open").0;
        assert_eq!([call(&mut client), call(&mut client)], [1, 2]);
        let later = now + Duration::from_secs(15);
        assert_eq!(client.step(&mut BytesMut::new(), later), None);
        assert_eq!(client.heartbeat.as_ref().and_then(Heartbeat::pending_id), Some(3));
        client.next_id = 1;
        assert_eq!(call(&mut client), 4);
    }
}
