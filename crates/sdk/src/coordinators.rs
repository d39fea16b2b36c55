//! The coordinators that an application knows: one connection to each, kept up, and requests that go to whichever is
//! well.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use settle_base::{Prng, fingerprint};
use settle_seata_wire::Message;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    Error, Options,
    connection::{Connection, ConnectionError, Pending, PhaseTwo, Role},
    error::Act,
    marks,
};

/// Before a coordinator that answered without deciding is asked again.
const UNDECIDED_PAUSE: Duration = Duration::from_millis(200);

/// Before a decision that there was no room for is tried to be sent again.
const ROOM_PAUSE: Duration = Duration::from_millis(20);

/// How one of the coordinators is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    pub address: String,
    /// Registered there, and it answers.
    pub is_well: bool,
    /// Why the last attempt to connect failed.
    pub error: Option<String>,
}

/// Keeps the connections up until it is dropped.
pub(crate) struct Coordinators {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    links: Vec<Link>,
    /// As what each connection registers, and how often that has changed.
    role: watch::Sender<(u64, Role)>,
    options: Options,
    /// Where the next request starts to look.
    next: AtomicU64,
    /// Changes with every link that comes or goes.
    changed: watch::Sender<u64>,
}

struct Link {
    address: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connection: Option<Arc<Connection>>,
    /// Which of the roles it is registered as.
    role: u64,
    error: Option<String>,
}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    fn up(&self) -> Option<Arc<Connection>> {
        let connection = self.state().connection.clone()?;
        (!connection.is_gone()).then_some(connection)
    }
}

/// What an answer says.
pub(crate) enum Said<T> {
    Done(Result<T, Error>),
    /// Nothing yet: to be asked again.
    Undecided,
}

/// How often a request may be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Repeat {
    /// Asked through another coordinator as well when the answer is late or its connection is lost.
    Safe,
    /// As `Safe` among coordinators that know it when it comes again; others are asked once: what was not answered may
    /// have been done.
    WithToken,
    /// Sent once.
    Never,
}

pub(crate) struct Request<'a> {
    pub act: Act,
    /// Empty for a begin.
    pub xid: &'a str,
    pub body: Message,
    pub repeat: Repeat,
    pub within: Duration,
    /// How often it was sent: from the first on, a coordinator may know of it.
    pub sent: Option<&'a AtomicU32>,
}

/// One sending of a request.
struct Attempt {
    link: usize,
    answer: Pending,
    since: Instant,
}

impl Coordinators {
    /// Starts to connect to all of them.
    ///
    /// # Errors
    /// [`Error::Options`].
    pub fn start(role: &Role, calls: &Arc<dyn PhaseTwo>, options: Options) -> Result<Coordinators, Error> {
        options.check()?;
        marks::allow(&options);
        let link = |address: &String| Link {
            address: address.clone(),
            state: Mutex::default(),
        };
        let shared = Arc::new(Shared {
            links: options.addresses.iter().map(link).collect(),
            role: watch::Sender::new((0, role.clone())),
            options,
            next: AtomicU64::new(0),
            changed: watch::Sender::new(0),
        });
        let mut tasks = JoinSet::new();
        for n in 0..shared.links.len() {
            tasks.spawn(keep_up(shared.clone(), n, calls.clone()));
        }
        Ok(Coordinators { shared, _tasks: tasks })
    }

    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    pub fn health(&self) -> Vec<Health> {
        let health = |link: &Link| {
            let state = link.state();
            let is_up = |connection: &Arc<Connection>| !connection.is_gone() && !connection.is_suspect();
            Health {
                address: link.address.clone(),
                is_well: state.connection.as_ref().is_some_and(is_up),
                error: state.error.clone(),
            }
        };
        self.shared.links.iter().map(health).collect()
    }

    /// Waits until one of them takes requests, for `connect_within`.
    ///
    /// # Errors
    /// [`Error::Unreachable`] with each one's reason.
    pub async fn wait_for_one(&self, act: Act) -> Result<(), Error> {
        self.wait_for_one_as(act, 0).await
    }

    /// Has every connection registered as `role`, and waits until one is, for `connect_within`.
    ///
    /// # Errors
    /// As [`wait_for_one`](Coordinators::wait_for_one). The others go on to be told.
    pub async fn register_as(&self, act: Act, role: impl FnOnce() -> Role) -> Result<(), Error> {
        let mut number = 0;
        self.shared.role.send_modify(|known| {
            number = known.0 + 1;
            *known = (number, role());
        });
        self.wait_for_one_as(act, number).await
    }

    async fn wait_for_one_as(&self, act: Act, role: u64) -> Result<(), Error> {
        let within = self.options().connect_within;
        let mut changed = self.shared.changed.subscribe();
        let is_one = |link: &Link| link.up().is_some() && link.state().role >= role;
        let one = async {
            while !self.shared.links.iter().any(is_one) {
                // The sender lives as long as `self`.
                let _ = changed.changed().await;
            }
        };
        timeout(within, one)
            .await
            .map_err(|_| self.shared.unreachable(act, within))
    }

    /// Tells each of them to make no more calls. One that is slow to understand goes on.
    pub async fn retire(&self) {
        for connection in self.shared.links.iter().filter_map(Link::up) {
            let _ = timeout(self.options().ask_again_after, connection.retire(self.options())).await;
        }
    }

    /// Waits until everything that was sent is written.
    pub async fn written(&self) {
        for connection in self.shared.links.iter().filter_map(Link::up) {
            connection.written().await;
        }
    }

    /// Asks until `read` finds the answer decided.
    ///
    /// # Errors
    /// Those of `read`. [`Error::Unanswered`] when it was sent and may have been done; otherwise it was never sent.
    pub async fn ask<T>(&self, request: Request<'_>, read: impl Fn(Message) -> Said<T>) -> Result<T, Error> {
        let shared = &self.shared;
        let Request {
            act,
            xid,
            body,
            repeat,
            within,
            sent: tell_sent,
        } = request;
        let start = Instant::now();
        let deadline = start + within;
        let mut changed = shared.changed.subscribe();
        let mut out: Vec<Attempt> = Vec::new();
        let (mut was_sent, mut wants_more) = (false, true);
        let (mut busy, mut no_room) = (0, None);
        let mut ask_again_at = deadline;
        // A copy at a coordinator that does not know it as one would be done as well.
        let mut repeats = true;
        loop {
            let knows = was_sent && repeat == Repeat::WithToken;
            if wants_more
                && (repeats || !was_sent)
                && let Some((link, connection)) = shared.choose(&out, knows)
            {
                let since = Instant::now();
                match timeout(shared.options.ask_again_after, connection.send(body.clone())).await {
                    Ok(Ok(answer)) => {
                        (was_sent, wants_more, busy, no_room) = (true, false, 0, None);
                        repeats &= match repeat {
                            Repeat::Safe => true,
                            Repeat::WithToken => connection.knows_tokens(),
                            Repeat::Never => false,
                        };
                        if let Some(sent) = tell_sent {
                            sent.fetch_add(1, Ordering::SeqCst);
                        }
                        ask_again_at = since + shared.options.ask_again_after;
                        out.push(Attempt { link, answer, since });
                    }
                    Ok(Err(ConnectionError::Wire(problem))) => return Err(Error::unsendable(act, &problem)),
                    Ok(Err(ConnectionError::Busy { limit })) => {
                        busy += 1;
                        if busy < shared.links.len() {
                            continue;
                        }
                        if !was_sent && !act.is_end() {
                            return Err(Error::Busy { limit });
                        }
                        // A decision that was not asked for would leave the transaction to its timeout.
                        (wants_more, busy) = (!was_sent, 0);
                        no_room = Some(limit);
                    }
                    // Its link knows by now: the next choice is another.
                    Ok(Err(_)) => continue,
                    Err(_) => {
                        connection.suspect();
                        if Instant::now() < deadline {
                            continue;
                        }
                    }
                }
            }
            tokio::select! {
                biased; // An answer that is there counts, also at the deadline.
                (at, answer) = first(&mut out), if !out.is_empty() => {
                    out.swap_remove(at);
                    match answer.map(&read) {
                        Some(Said::Done(result)) => return result,
                        Some(Said::Undecided) if repeats => {
                            ask_again_at = Instant::now() + UNDECIDED_PAUSE;
                        }
                        None if repeats => wants_more = true,
                        Some(Said::Undecided) | None => {
                            let waited = start.elapsed();
                            return Err(Error::Unanswered { act, xid: xid.to_owned(), waited });
                        }
                    }
                }
                () = sleep_until(deadline) => {
                    return Err(match no_room {
                        _ if was_sent => Error::Unanswered { act, xid: xid.to_owned(), waited: within },
                        Some(limit) => Error::Busy { limit },
                        None => shared.unreachable(act, within),
                    });
                }
                () = sleep(ROOM_PAUSE), if wants_more && no_room.is_some() => {}
                // A new link, for who has none yet.
                _ = changed.changed(), if wants_more => {}
                () = sleep_until(ask_again_at), if was_sent && repeats => {
                    wants_more = true;
                    let options = &shared.options;
                    ask_again_at = Instant::now() + options.ask_again_after;
                    out.retain(|attempt| {
                        let waited = attempt.since.elapsed();
                        if waited >= options.ask_again_after {
                            attempt.answer.suspect();
                        }
                        waited < options.attempt_timeout
                    });
                }
            }
        }
    }
}

impl Shared {
    /// A connection that this request is not under way on, in turn; one that is slow only for want of others. Only one
    /// that knows tokens, if it must.
    fn choose(&self, out: &[Attempt], knows_tokens: bool) -> Option<(usize, Arc<Connection>)> {
        let count = self.links.len();
        // Spread, so that alternating kinds of requests do not keep to one coordinator each (Knuth's golden ratio).
        let turn = self
            .next
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let start = (turn >> 32) as usize;
        let mut slow = None;
        for n in (0..count).map(|n| start.wrapping_add(n) % count) {
            if out.iter().any(|attempt| attempt.link == n) {
                continue;
            }
            match self.links[n].up().filter(|up| !knows_tokens || up.knows_tokens()) {
                Some(connection) if !connection.is_suspect() => return Some((n, connection)),
                Some(connection) => slow = slow.or(Some((n, connection))),
                None => {}
            }
        }
        slow
    }

    fn unreachable(&self, act: Act, waited: Duration) -> Error {
        let why = |link: &Link| {
            let state = link.state();
            let error = state.error.as_deref().unwrap_or("no answer yet");
            format!("{}: {error}", link.address)
        };
        let why: Vec<String> = self.links.iter().map(why).collect();
        Error::Unreachable {
            act,
            waited,
            why: why.join("; "),
        }
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// The first answer of those under way, and whose it is.
async fn first(out: &mut [Attempt]) -> (usize, Option<Message>) {
    poll_fn(|cx| {
        for (at, attempt) in out.iter_mut().enumerate() {
            if let Poll::Ready(answer) = Pin::new(&mut attempt.answer).poll(cx) {
                return Poll::Ready((at, answer));
            }
        }
        Poll::Pending
    })
    .await
}

/// Connects, registers, waits for the end, and again.
async fn keep_up(shared: Arc<Shared>, n: usize, calls: Arc<dyn PhaseTwo>) {
    let (link, options) = (&shared.links[n], &shared.options);
    // So that the clients of a restarted coordinator do not all come back at once.
    let who = format!("{}/{}/{}", options.application, std::process::id(), link.address);
    let mut jitter = Prng::new(fingerprint(who.as_bytes()));
    let mut pause = options.reconnect_min;
    let mut roles = shared.role.subscribe();
    loop {
        let (number, role) = roles.borrow_and_update().clone();
        match Connection::open(&link.address, &role, calls.clone(), options).await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                {
                    let mut state = link.state();
                    (state.connection, state.role) = (Some(connection.clone()), number);
                    state.error = None;
                }
                shared.tell();
                tracing::info!(address = %link.address, ?role, "registered");
                let since = Instant::now();
                let why = until_over(&shared, link, &connection, &mut roles).await;
                {
                    let mut state = link.state();
                    state.connection = None;
                    state.error = Some(why);
                }
                shared.tell();
                tracing::warn!(address = %link.address, ?role, "the connection is gone");
                if since.elapsed() > options.reconnect_max {
                    pause = options.reconnect_min;
                }
            }
            Err(error) => {
                let why = reason(&error);
                tracing::debug!(address = %link.address, why, "not connected");
                link.state().error = Some(why);
                shared.tell();
            }
        }
        let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX).max(1);
        sleep(pause / 2 + Duration::from_millis(jitter.below(millis)) / 2).await;
        pause = (pause * 2).min(options.reconnect_max.max(options.reconnect_min));
    }
}

/// Waits for the end of a connection, and registers it again when the role changes. One that cannot be is given up, and
/// why.
async fn until_over(
    shared: &Shared,
    link: &Link,
    connection: &Connection,
    roles: &mut watch::Receiver<(u64, Role)>,
) -> String {
    loop {
        tokio::select! {
            biased; // What is gone registers no more.
            () = connection.closed() => return "the connection is gone".to_owned(),
            // The sender is in `shared`.
            _ = roles.changed() => {}
        }
        let (number, role) = roles.borrow_and_update().clone();
        if let Err(error) = connection.register(&role, &shared.options).await {
            return reason(&error);
        }
        link.state().role = number;
        shared.tell();
        tracing::info!(address = %link.address, ?role, "registered again");
    }
}

/// An error with what caused it.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
