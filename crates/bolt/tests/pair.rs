//! Two connections over a bad network: a seed decides everything, and whatever it decides each call ends once and truly.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use settle_base::{Mono, Prng};
use settle_bolt::{
    Body, CallId, CloseReason, Codec, Config, Connection, Counters, Event, HeartbeatConfig, Outcome, ServedId, Status,
    Switch, Version,
};

/// What a run met; each must be met by some run.
#[derive(Default, Debug)]
struct Seen {
    answers: u64,
    timeouts: u64,
    lost: u64,
    oneways: u64,
    late: u64,
    busy: u64,
    expired: u64,
    drained: u64,
    drain_timeouts: u64,
    cut: u64,
    heartbeats_missed: u64,
    heartbeats: u64,
    idle: u64,
    backlogs: u64,
}

struct End {
    connection: Connection,
    config: Config,
    /// On their way to this end, in order.
    wire: BytesMut,
    input: BytesMut,
    /// Calls that have not ended: what was asked and until when.
    calls: BTreeMap<CallId, (u64, Mono)>,
    /// Requests to be answered, when.
    serving: Vec<(Mono, ServedId, Bytes)>,
    /// What was asked of or told to this end already.
    heard: BTreeSet<u64>,
    closed: Option<CloseReason>,
}

impl End {
    fn new(config: Config) -> End {
        End {
            connection: Connection::new(config.clone(), Mono::ZERO),
            config,
            wire: BytesMut::new(),
            input: BytesMut::new(),
            calls: BTreeMap::new(),
            serving: Vec::new(),
            heard: BTreeSet::new(),
            closed: None,
        }
    }

    /// Acts on all that happened.
    fn run(&mut self, now: Mono, prng: &mut Prng, seen: &mut Seen) {
        while let Some(event) = self.connection.step(&mut self.input, now) {
            assert!(self.closed.is_none(), "an event after the last: {event:?}");
            match event {
                Event::Request {
                    served, body, timeout, ..
                } => {
                    self.hears(&body);
                    assert!(timeout.is_some());
                    let delay = match prng.below(10) {
                        0 => 20_000,
                        1 => continue,
                        _ => prng.below(300),
                    };
                    self.serving
                        .push((now + Duration::from_millis(delay), served, body.content));
                }
                Event::Oneway { body, .. } => {
                    self.hears(&body);
                    seen.oneways += 1;
                }
                Event::Done { call, outcome } => self.ends(call, outcome, now, seen),
                Event::Closed(reason) => {
                    assert!(self.calls.is_empty(), "a call survived its connection");
                    match reason {
                        CloseReason::Drained => seen.drained += 1,
                        CloseReason::DrainTimeout => seen.drain_timeouts += 1,
                        CloseReason::HeartbeatsMissed => seen.heartbeats_missed += 1,
                        CloseReason::Idle => seen.idle += 1,
                        CloseReason::Transport | CloseReason::Local => {}
                        CloseReason::Protocol(error) => panic!("an honest peer was taken for a liar: {error}"),
                    }
                    self.closed = Some(reason);
                }
            }
        }
        assert_eq!(self.connection.calls_in_flight(), self.calls.len());
        assert!(self.connection.requests_in_service() <= self.config.served_max);
        // A frame may pass the mark by its own length.
        assert!(self.connection.unsent().len() < self.config.unsent_bytes_max + 20_000);
        if let Some(deadline) = self.connection.deadline() {
            assert!(deadline > now, "a deadline that was just seen to is still there");
        }
        let due = self.serving.extract_if(.., |(at, ..)| *at <= now);
        for (_, served, asked) in due {
            let content = asked.iter().rev().copied().collect::<Vec<u8>>();
            let body = Body {
                content: Bytes::from(content),
                ..Body::EMPTY
            };
            // The asker may be gone, which is told.
            let _ = self.connection.respond(served, Status::Success, body);
        }
    }

    fn hears(&mut self, body: &Body) {
        let number = u64::from_be_bytes(body.content[..8].try_into().unwrap());
        assert!(self.heard.insert(number), "request {number} came twice");
    }

    fn ends(&mut self, call: CallId, outcome: Outcome, now: Mono, seen: &mut Seen) {
        let (number, deadline) = self.calls.remove(&call).expect("a call ends once");
        match outcome {
            Outcome::Answer {
                status: Status::Success,
                body,
                ..
            } => {
                let asked: Vec<u8> = body.content.iter().rev().copied().collect();
                assert_eq!(asked[..8], number.to_be_bytes(), "the answer to another call");
                seen.answers += 1;
            }
            Outcome::Answer { status, .. } => {
                assert_eq!(status, Status::ServerThreadpoolBusy);
                seen.busy += 1;
            }
            Outcome::Timeout => {
                assert!(deadline <= now);
                seen.timeouts += 1;
            }
            Outcome::ConnectionClosed => seen.lost += 1,
        }
    }
}

fn config(prng: &mut Prng, is_client: bool) -> Config {
    let spoken = [
        (Version::V1, Switch::NONE),
        (Version::V2Plain, Switch::CHECKSUM),
        (Version::V2Checked, Switch::CHECKSUM),
    ];
    let heartbeat = HeartbeatConfig {
        interval: Duration::from_millis(prng.between(500, 3_000)),
        ack_timeout: Duration::from_millis(prng.between(50, 4_000)),
        misses_max: 3,
    };
    Config {
        first_id: prng.next_u64() as i32,
        calls_max: prng.between(1, 20) as usize,
        served_max: prng.between(1, 20) as usize,
        unsent_bytes_max: prng.between(100, 20_000) as usize,
        speaks: is_client.then(|| spoken[prng.below(3) as usize]),
        heartbeat: (is_client || prng.percent(20)).then_some(heartbeat),
        idle_close: prng
            .percent(50)
            .then(|| Duration::from_millis(prng.between(400, 20_000))),
        ..Config::server()
    }
}

fn run(seed: u64, seen: &mut Seen) {
    let mut prng = Prng::new(seed);
    let mut ends = [End::new(config(&mut prng, true)), End::new(config(&mut prng, false))];
    let mut now = Mono::ZERO;
    let mut next_number = 0u64;
    let faults_end = Mono::from_millis(prng.between(2_000, 30_000));
    // Bytes towards an end stand still for a while, or for ever.
    let mut stalled = [Mono::ZERO; 2];
    let (mut drained, mut cut) = (false, false);
    let busy = prng.between(5, 60);
    while now < faults_end + Duration::from_secs(40) {
        let has_faults = now < faults_end;
        now = now + Duration::from_millis(prng.between(1, if has_faults { 60 } else { 400 }));
        for at in 0..2 {
            if has_faults && prng.percent(1) && prng.percent(20) {
                stalled[at] = now + Duration::from_millis(prng.between(10, 8_000));
            }
            if has_faults && prng.percent(busy) && ends[at].closed.is_none() {
                begin(&mut ends[at], &mut next_number, now, &mut prng, seen);
            }
            let room = ends[at].connection.wants_input();
            if stalled[at] <= now && room {
                let all = ends[at].wire.len();
                let bytes = if has_faults {
                    prng.below(all as u64 + 1) as usize
                } else {
                    all
                };
                let arrived = ends[at].wire.split_to(bytes);
                ends[at].input.extend_from_slice(&arrived);
            }
            ends[at].run(now, &mut prng, seen);
            // A stalled direction takes a little, then nothing, as sockets do.
            let unsent = ends[at].connection.unsent();
            let window = 4_000usize.saturating_sub(ends[1 - at].wire.len()).min(unsent.len());
            let bytes = unsent[..window].to_vec();
            ends[1 - at].wire.extend_from_slice(&bytes);
            ends[at].connection.sent(window, now);
        }
        if has_faults && !drained && prng.percent(1) && prng.percent(20) {
            drained = true;
            let within = Duration::from_millis(prng.between(1, 5_000));
            ends[prng.below(2) as usize].connection.drain(within, now);
        }
        if has_faults && !cut && prng.percent(1) && prng.percent(10) {
            cut = true;
            seen.cut += 1;
            for end in &mut ends {
                end.connection.transport_closed();
                end.run(now, &mut prng, seen);
            }
        }
        // What one side closes the other sees, once it has read what came before.
        for at in 0..2 {
            if ends[1 - at].closed.is_some()
                && ends[1 - at].connection.unsent().is_empty()
                && ends[at].wire.is_empty()
                && ends[at].closed.is_none()
            {
                ends[at].connection.transport_closed();
                ends[at].run(now, &mut prng, seen);
            }
        }
    }
    for end in &ends {
        assert!(end.calls.is_empty(), "a call never ended: {:?}", end.calls);
        let Counters {
            late_responses,
            expired_requests,
            heartbeats_sent,
            ..
        } = end.connection.counters();
        seen.late += late_responses;
        seen.expired += expired_requests;
        seen.heartbeats += heartbeats_sent;
    }
}

fn begin(end: &mut End, next_number: &mut u64, now: Mono, prng: &mut Prng, seen: &mut Seen) {
    *next_number += 1;
    let mut content = next_number.to_be_bytes().to_vec();
    content.resize(8 + prng.below(600) as usize, b'x');
    let body = Body {
        content: Bytes::from(content),
        ..Body::EMPTY
    };
    if prng.percent(20) {
        let _ = end.connection.oneway(Codec::HESSIAN2, body);
        return;
    }
    let timeout = Duration::from_millis(prng.between(1, 4_000));
    match end.connection.call(Codec::HESSIAN2, body, timeout, now) {
        Ok(call) => {
            let before = end.calls.insert(call, (*next_number, now + timeout));
            assert!(before.is_none(), "an id that is in flight was given out again");
            assert!(end.calls.len() <= end.config.calls_max);
        }
        Err(error) => seen.backlogs += u64::from(error.code().to_string() == "BO0023"),
    }
}

#[test]
fn whatever_the_network_does_each_call_ends_once_with_its_own_answer_or_the_truth() {
    let mut seen = Seen::default();
    for seed in 0..400 {
        run(seed, &mut seen);
    }
    let all = [
        seen.answers,
        seen.timeouts,
        seen.lost,
        seen.oneways,
        seen.late,
        seen.busy,
        seen.expired,
        seen.drained,
        seen.drain_timeouts,
        seen.cut,
        seen.heartbeats_missed,
        seen.heartbeats,
        seen.idle,
        seen.backlogs,
    ];
    assert!(all.iter().all(|&count| count > 0), "never met: {seen:?}");
}
