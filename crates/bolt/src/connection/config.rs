//! What one connection may hold and how long it waits.

use std::time::Duration;

use crate::{Limits, Switch, Version};

/// How a side that asks for signs of life does so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeartbeatConfig {
    /// Without a byte sent or without a byte received for so long, a heartbeat goes out. Default 15 s, Java's
    /// `bolt.tcp.heartbeat.interval`.
    pub interval: Duration,
    /// How long its answer is waited for. Default 1 s, as in Java.
    pub ack_timeout: Duration,
    /// So many heartbeats without an answer, and without any other frame between them, close the connection. Default 3,
    /// Java's `bolt.tcp.heartbeat.maxtimes`.
    pub misses_max: u32,
}

impl Default for HeartbeatConfig {
    fn default() -> HeartbeatConfig {
        HeartbeatConfig {
            interval: Duration::from_secs(15),
            ack_timeout: Duration::from_secs(1),
            misses_max: 3,
        }
    }
}

/// The bounds and times of one connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// What this side speaks; `None`: what the other side's first frame speaks.
    pub speaks: Option<(Version, Switch)>,
    /// Bounds of a frame, in both directions.
    pub limits: Limits,
    /// The id of the first request. Default 1, as in Java.
    pub first_id: i32,
    /// Calls of this side that wait for an answer. Default 4,096.
    pub calls_max: usize,
    /// Requests of the other side that were not answered yet. One more is told that the server is busy. Default 1,024.
    pub served_max: usize,
    /// Bytes that the transport has not taken yet. At this mark new calls are refused and nothing more is read, until
    /// the other side reads. Default 16 MiB.
    pub unsent_bytes_max: usize,
    /// `None`: this side sends no heartbeats. It answers them in any case.
    pub heartbeat: Option<HeartbeatConfig>,
    /// Without a byte in either direction for so long the connection closes. `None`: never.
    pub idle_close: Option<Duration>,
}

impl Config {
    /// The side that opens the connection: protocol 1, heartbeats.
    pub fn client() -> Config {
        Config {
            speaks: Some((Version::V1, Switch::NONE)),
            heartbeat: Some(HeartbeatConfig::default()),
            idle_close: None,
            ..Config::server()
        }
    }

    /// The side that accepts it: answers in what it is spoken to, and closes after 90 s of silence, Java's
    /// `bolt.tcp.server.idle.interval`.
    pub fn server() -> Config {
        Config {
            speaks: None,
            limits: Limits::DEFAULT,
            first_id: 1,
            calls_max: 4_096,
            served_max: 1_024,
            unsent_bytes_max: 16 << 20,
            heartbeat: None,
            idle_close: Some(Duration::from_secs(90)),
        }
    }
}
