//! A connection of ours over a real socket: the simplest driver of the machine that there can be.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use settle_base::Mono;
use settle_bolt::{Body, CallId, CloseReason, Codec, Config, Connection, Event, Outcome, ServedId, Status};
use settle_hessian::{DecodeOptions, Dialect, Reader, Text, Token, Writer};

/// How long anything may take before its case fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const STRING: &str = "java.lang.String";

pub struct Link {
    pub connection: Connection,
    stream: TcpStream,
    input: BytesMut,
    start: Instant,
    ended: BTreeMap<CallId, Outcome>,
    /// Texts that were asked or told, in order.
    pub heard: Vec<String>,
    /// Requests that are answered later, or never.
    pub held: Vec<(ServedId, String)>,
    /// Requests whose text begins so are held.
    pub hold: &'static str,
    /// Oneways that came while a service answers.
    pub told: usize,
    /// What answers requests in the place of an echo; `None` from it leaves a request unanswered.
    pub service: Option<Service>,
    pub closed: Option<CloseReason>,
}

pub type Service = fn(&Body) -> Result<Option<(Status, Body)>>;

impl Link {
    pub fn new(stream: TcpStream, config: Config) -> Result<Link> {
        stream.set_nodelay(true)?;
        Ok(Link {
            connection: Connection::new(config, Mono::ZERO),
            stream,
            input: BytesMut::new(),
            start: Instant::now(),
            ended: BTreeMap::new(),
            heard: Vec::new(),
            held: Vec::new(),
            hold: "hold:",
            told: 0,
            service: None,
            closed: None,
        })
    }

    pub fn now(&self) -> Mono {
        Mono::ZERO + self.start.elapsed()
    }

    /// Lets the connection run for at most `time`; returns at once when something happened.
    pub fn pump(&mut self, time: Duration) -> Result<()> {
        let until = self.now() + time;
        let mut has_events = false;
        loop {
            let now = self.now();
            while let Some(event) = self.connection.step(&mut self.input, now) {
                has_events = true;
                self.act(event)?;
            }
            let unsent = self.connection.unsent();
            let bytes = unsent.len();
            if let Err(error) = self.stream.write_all(unsent) {
                ensure!(is_end(&error), "write to the peer: {error}");
                self.connection.transport_closed();
                continue;
            }
            self.connection.sent(bytes, now);
            if has_events || self.closed.is_some() || now >= until {
                return Ok(());
            }
            let wake = self.connection.deadline().unwrap_or(until).min(until);
            self.stream
                .set_read_timeout(Some(wake.since(now).max(Duration::from_millis(1))))?;
            let mut bytes = [0; 64 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => self.connection.transport_closed(),
                Ok(count) => self.input.extend_from_slice(&bytes[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => {
                    ensure!(is_end(&error), "read from the peer: {error}");
                    self.connection.transport_closed();
                }
            }
        }
    }

    /// Sends bytes that the machine would not.
    pub fn write_raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Lets it run until `is_done`.
    pub fn until(&mut self, what: &str, mut is_done: impl FnMut(&Link) -> bool) -> Result<()> {
        let start = Instant::now();
        while !is_done(self) {
            ensure!(start.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
            ensure!(self.closed.is_none(), "{what}: closed by {:?}", self.closed);
            self.pump(Duration::from_millis(20))?;
        }
        Ok(())
    }

    pub fn call(&mut self, text: &str, timeout: Duration) -> Result<CallId> {
        Ok(self
            .connection
            .call(Codec::HESSIAN2, string_body(text), timeout, self.now())?)
    }

    pub fn outcome(&mut self, call: CallId) -> Result<Outcome> {
        self.until("the end of a call", |link| link.ended.contains_key(&call))?;
        self.ended.remove(&call).context("it ended")
    }

    /// The text that answers a call.
    pub fn answer(&mut self, call: CallId) -> Result<String> {
        match self.outcome(call)? {
            Outcome::Answer {
                status: Status::Success,
                body,
                ..
            } => text_of(&body),
            other => bail!("no answer but {other:?}"),
        }
    }

    fn act(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Request { served, body, .. } if self.service.is_some() => {
                let answered = self.service.context("it was just there")?(&body)?;
                if let Some((status, body)) = answered {
                    self.connection.respond(served, status, body)?;
                }
            }
            Event::Request { served, body, .. } => {
                let text = text_of(&body)?;
                self.heard.push(text.clone());
                if text.starts_with(self.hold) {
                    self.held.push((served, text));
                } else if let Some(status) = text.strip_prefix("status:") {
                    let status = status_of(status.parse()?);
                    self.connection.respond(served, status, Body::EMPTY)?;
                } else {
                    self.connection.respond(served, Status::Success, string_body(&text))?;
                }
            }
            Event::Oneway { .. } if self.service.is_some() => self.told += 1,
            Event::Oneway { body, .. } => self.heard.push(text_of(&body)?),
            Event::Done { call, outcome } => {
                let before = self.ended.insert(call, outcome);
                ensure!(before.is_none(), "a call ended twice");
            }
            Event::Closed(reason) => self.closed = Some(reason),
        }
        Ok(())
    }
}

fn is_end(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted
    )
}

pub const STATUSES: [(i32, Status); 12] = [
    (1, Status::Error),
    (2, Status::ServerException),
    (3, Status::Unknown),
    (4, Status::ServerThreadpoolBusy),
    (5, Status::ErrorComm),
    (6, Status::NoProcessor),
    (7, Status::Timeout),
    (8, Status::ClientSendError),
    (9, Status::CodecException),
    (16, Status::ConnectionClosed),
    (17, Status::ServerSerialException),
    (18, Status::ServerDeserialException),
];

fn status_of(number: i32) -> Status {
    let known = STATUSES.iter().find(|(value, _)| *value == number);
    known.map_or(Status::Success, |&(_, status)| status)
}

/// A `String` as the library sends it.
pub fn string_body(text: &str) -> Body {
    let mut content = BytesMut::new();
    let mut writer = Writer::new(Dialect::Sofa3, &mut content);
    writer.string(text);
    writer.flush();
    Body {
        class: Bytes::from_static(STRING.as_bytes()),
        header: Bytes::new(),
        content: content.freeze(),
    }
}

fn text_of(body: &Body) -> Result<String> {
    ensure!(body.class_name()? == STRING, "a {} and no String", body.class_name()?);
    let options = DecodeOptions::new(Dialect::Sofa3);
    let mut reader = Reader::new(&body.content, &options)?;
    let text = match reader.token()? {
        Token::String(Text::Str(text)) => text.into_owned(),
        other => bail!("{other:?} and no text"),
    };
    reader.finish()?;
    Ok(text)
}

/// `String.hashCode`.
pub fn java_hash(text: &str) -> i32 {
    let step = |hash: i32, unit: u16| hash.wrapping_mul(31).wrapping_add(i32::from(unit));
    text.encode_utf16().fold(0, step)
}
