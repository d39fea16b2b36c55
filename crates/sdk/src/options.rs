//! What an application sets.

use std::{fmt, time::Duration};

use settle_seata_wire::MAX_FRAME_BYTES_DEFAULT;

use crate::Error;

/// Who the application is, for coordinators that ask.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey {
    pub access: String,
    pub secret: String,
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey")
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

/// Where the coordinators are, who the application is, and every bound of the client. The defaults fit Settle's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// `host:port` of each coordinator; any of them takes any request. Names are resolved at each connect.
    pub addresses: Vec<String>,
    /// The application's id. A coordinator finds the other instances of a resource manager by it. Without a colon.
    pub application: String,
    /// The transaction service group; the coordinator's configuration says what it stands for.
    pub service_group: String,
    /// What registrations are signed with, in Seata's way; none signs nothing.
    pub access_key: Option<AccessKey>,
    /// Connections are by TLS; none are plain. [`Tls::replace`](crate::Tls::replace) renews certificates under a client
    /// that runs.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::Tls>,

    /// How long one attempt to connect and register may take.
    pub connect_timeout: Duration,
    /// How long [`Tm::connect`](crate::Tm::connect) and [`Rm::connect`](crate::Rm::connect) wait for a first coordinator.
    pub connect_within: Duration,
    /// The pause before a lost coordinator is tried again; it doubles up to `reconnect_max`.
    pub reconnect_min: Duration,
    pub reconnect_max: Duration,
    /// A coordinator from which nothing came for this long is asked for a sign of life.
    pub heartbeat_every: Duration,
    /// A connection on which nothing came for this long is given up.
    pub dead_after: Duration,

    /// How long a begin may take, over all attempts.
    pub begin_timeout: Duration,
    /// How long the registration of a branch may take, over all attempts.
    pub register_timeout: Duration,
    /// How long a commit, a rollback or a question for the status may take, over all attempts.
    pub end_timeout: Duration,
    /// How long transactions that were dropped open are still rolled back after the last [`Tm`](crate::Tm).
    pub finish_within: Duration,
    /// A request that was not answered for this long is asked through the next coordinator as well, and the first
    /// answer counts. The registration of a branch only among coordinators that know it when it comes again: Settle's.
    pub ask_again_after: Duration,
    /// An attempt that was not answered for this long is given up, and its coordinator may be asked again.
    pub attempt_timeout: Duration,

    /// Requests under way on one connection. One more is refused, unless it is a commit or a rollback, which wait for room.
    pub max_in_flight: usize,
    /// Second-phase calls that run at once in this resource manager.
    pub max_calls_running: usize,
    /// Second-phase calls that this resource manager holds, running or waiting; one more is answered "later".
    pub max_calls: usize,
    /// Transactions that were dropped open and wait for their rollback. One more is left to its timeout.
    pub max_dropped: usize,
    /// Transactions of which this process remembers that they must not commit, or that their commit was asked for, when
    /// nobody is in them any more; the oldest is forgotten first. The most of all clients in the process counts.
    pub max_marks: usize,
    /// How long it remembers them at most. The longest of all clients in the process counts.
    pub marks_kept_for: Duration,
    /// The longest frame that is read.
    pub max_frame_bytes: usize,
}

impl Options {
    /// The defaults, for an application and its coordinators.
    pub fn new<A: Into<String>>(addresses: impl IntoIterator<Item = A>, application: impl Into<String>) -> Options {
        Options {
            addresses: addresses.into_iter().map(Into::into).collect(),
            application: application.into(),
            service_group: "default_tx_group".to_owned(),
            access_key: None,
            #[cfg(feature = "tls")]
            tls: None,
            connect_timeout: Duration::from_secs(3),
            connect_within: Duration::from_secs(10),
            reconnect_min: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(5),
            heartbeat_every: Duration::from_secs(5),
            dead_after: Duration::from_secs(15),
            begin_timeout: Duration::from_secs(30),
            register_timeout: Duration::from_secs(15),
            end_timeout: Duration::from_secs(60),
            finish_within: Duration::from_secs(10),
            ask_again_after: Duration::from_secs(1),
            attempt_timeout: Duration::from_secs(20),
            max_in_flight: 4_096,
            max_calls_running: 64,
            max_calls: 1_024,
            max_dropped: 1_024,
            max_marks: 16_384,
            marks_kept_for: Duration::from_secs(600),
            max_frame_bytes: MAX_FRAME_BYTES_DEFAULT,
        }
    }

    /// # Errors
    /// [`Error::Options`] names what cannot work.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let problem = if self.addresses.is_empty() {
            "there is no address of a coordinator"
        } else if self.application.is_empty() || self.application.contains(':') {
            "the application's id is empty or has a colon"
        } else if self.access_key.as_ref().is_some_and(|key| !is_one_line(&key.access)) {
            "the access key is empty, `null`, or of several lines"
        } else if self.max_in_flight == 0 || self.max_calls_running == 0 || self.max_calls == 0 || self.max_dropped == 0
        {
            "a limit is zero"
        } else if self.heartbeat_every.is_zero() || self.ask_again_after.is_zero() || self.reconnect_min.is_zero() {
            "a pause is zero"
        } else if self.dead_after <= self.heartbeat_every {
            "`dead_after` does not leave time for a heartbeat"
        } else {
            return Ok(());
        };
        Err(Error::Options { problem })
    }
}

/// As a line of a registration has it; Java writes `null` for none.
fn is_one_line(access: &str) -> bool {
    !access.is_empty() && access != "null" && !access.contains(['\r', '\n'])
}
