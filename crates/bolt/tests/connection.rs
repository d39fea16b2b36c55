//! One connection, step by step.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use settle_base::{ErrorCode, Mono, Prng};
use settle_bolt::{
    Body, BoltError, CallError, CallId, CloseReason, Codec, Command, Config, Connection, Event, Frame, FrameDecoder,
    Limits, Outcome, ServedId, Status, Switch, Version,
};

const SECOND: Duration = Duration::from_secs(1);

/// A connection with its clock, and the bytes that reached it.
struct End {
    connection: Connection,
    input: BytesMut,
    now: Mono,
}

impl End {
    fn new(config: Config) -> End {
        End {
            connection: Connection::new(config, Mono::ZERO),
            input: BytesMut::new(),
            now: Mono::ZERO,
        }
    }

    fn step(&mut self) -> Option<Event> {
        self.connection.step(&mut self.input, self.now)
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// What it sends, as frames.
    fn sends(&mut self) -> Vec<Frame> {
        let mut bytes = BytesMut::from(self.connection.unsent());
        self.connection.sent(bytes.len(), self.now);
        let decoder = FrameDecoder::default();
        let mut frames = Vec::new();
        while let Some(frame) = decoder.decode(&mut bytes).unwrap() {
            frames.push(frame);
        }
        assert!(bytes.is_empty());
        frames
    }

    fn is_sent(&mut self, frame: &Frame) -> Option<Event> {
        frame.encode(&mut self.input).unwrap();
        self.step()
    }

    fn call(&mut self, timeout: Duration) -> Result<CallId, CallError> {
        self.connection.call(Codec::HESSIAN2, body("ask"), timeout, self.now)
    }

    fn asked(&mut self, id: i32, timeout_ms: i32) -> Option<Event> {
        self.is_sent(&v1(
            id,
            Command::Request {
                timeout_ms,
                body: body("ask"),
            },
        ))
    }

    fn served(&mut self, id: i32, timeout_ms: i32) -> ServedId {
        match self.asked(id, timeout_ms) {
            Some(Event::Request { served, .. }) => served,
            other => panic!("{other:?} instead of the request"),
        }
    }
}

fn body(content: &'static str) -> Body {
    Body {
        content: Bytes::from_static(content.as_bytes()),
        ..Body::EMPTY
    }
}

fn v1(id: i32, command: Command) -> Frame {
    Frame::new(Version::V1, Switch::NONE, id, command)
}

fn answer(id: i32) -> Frame {
    let status = Status::Success;
    v1(
        id,
        Command::Response {
            status,
            body: body("answer"),
        },
    )
}

fn answered(call: CallId) -> Event {
    let outcome = Outcome::Answer {
        status: Status::Success,
        codec: Codec::HESSIAN2,
        body: body("answer"),
    };
    Event::Done { call, outcome }
}

#[test]
fn ids_wrap_like_javas_int() {
    let mut client = End::new(Config {
        first_id: i32::MAX - 1,
        ..Config::client()
    });
    let ids: Vec<i32> = (0..3).map(|_| client.call(SECOND).unwrap().request_id()).collect();
    assert_eq!(ids, [i32::MAX - 1, i32::MAX, i32::MIN]);
}

#[test]
fn an_answer_that_came_in_time_is_taken_even_if_the_driver_is_late() {
    let mut client = End::new(Config::client());
    let call = client.call(SECOND).unwrap();
    client.pass(2 * SECOND);
    assert_eq!(client.is_sent(&answer(call.request_id())), Some(answered(call)));
    assert_eq!(client.step(), None);
}

#[test]
fn a_late_answer_is_dropped_and_counted() {
    let mut client = End::new(Config::client());
    let call = client.call(SECOND).unwrap();
    assert_eq!(client.connection.deadline(), Some(Mono::ZERO + SECOND));
    client.pass(SECOND);
    let outcome = Outcome::Timeout;
    assert_eq!(client.step(), Some(Event::Done { call, outcome }));
    assert_eq!(client.is_sent(&answer(call.request_id())), None);
    assert_eq!(client.is_sent(&answer(77)), None);
    assert_eq!(client.connection.counters().late_responses, 2);
    assert_eq!(client.connection.calls_in_flight(), 0);
}

#[test]
fn an_abandoned_call_is_not_heard_of_again() {
    let mut client = End::new(Config::client());
    let call = client.call(SECOND).unwrap();
    assert!(client.connection.abandon(call));
    assert!(!client.connection.abandon(call));
    client.pass(2 * SECOND);
    assert_eq!(client.is_sent(&answer(call.request_id())), None);
}

#[test]
fn calls_and_unsent_bytes_are_bounded() {
    let mut client = End::new(Config {
        calls_max: 2,
        unsent_bytes_max: 60,
        ..Config::client()
    });
    client.call(SECOND).unwrap();
    client.call(SECOND).unwrap();
    let error = client.call(SECOND).unwrap_err();
    assert_eq!(error, CallError::TooManyCalls { max: 2 });
    assert_eq!(error.code(), ErrorCode::new("BO", 22));
    while client.connection.oneway(Codec::HESSIAN2, body("tell")).is_ok() {}
    let error = client.connection.oneway(Codec::HESSIAN2, body("tell")).unwrap_err();
    assert_eq!(error.code(), ErrorCode::new("BO", 23));
    // A side that cannot write does not read either: answers would pile up.
    assert!(!client.connection.wants_input());
    assert_eq!(client.is_sent(&answer(1)), None);
    assert_eq!(client.sends().len(), 3);
    assert!(matches!(client.step(), Some(Event::Done { .. })));
}

#[test]
fn a_frame_over_the_limit_is_not_sent_and_leaves_no_trace() {
    let limits = Limits {
        frame_bytes: 24,
        ..Limits::DEFAULT
    };
    let mut client = End::new(Config {
        limits,
        ..Config::client()
    });
    let error = client.call(SECOND).unwrap_err();
    assert_eq!(error.code(), ErrorCode::new("BO", 9));
    assert_eq!(client.connection.calls_in_flight(), 0);
    assert!(client.connection.unsent().is_empty());
}

#[test]
fn one_request_too_many_is_told_that_the_server_is_busy() {
    let mut server = End::new(Config {
        served_max: 1,
        ..Config::server()
    });
    let served = server.served(1, 3000);
    assert_eq!(server.asked(2, 3000), None);
    let refusal = Command::Response {
        status: Status::ServerThreadpoolBusy,
        body: Body::EMPTY,
    };
    assert_eq!(server.sends(), [v1(2, refusal)]);
    assert_eq!(server.connection.counters().refused_requests, 1);
    server
        .connection
        .respond(served, Status::Success, body("answer"))
        .unwrap();
    assert_eq!(server.sends(), [answer(1)]);
    server.served(2, 3000);
}

#[test]
fn an_id_that_is_being_served_cannot_be_asked_again() {
    let mut server = End::new(Config::server());
    server.served(5, 3000);
    let error = BoltError::DuplicateId { id: 5 };
    assert_eq!(error.code(), ErrorCode::new("BO", 17));
    let closed = Event::Closed(CloseReason::Protocol(error));
    assert_eq!(server.asked(5, 3000), Some(closed));
    // Once answered it may.
    let mut server = End::new(Config::server());
    let served = server.served(5, 3000);
    server.connection.respond(served, Status::Success, Body::EMPTY).unwrap();
    server.served(5, 3000);
}

#[test]
fn an_answer_never_reaches_a_later_request_of_the_same_id() {
    let mut server = End::new(Config::server());
    let first = server.served(5, 1000);
    server.pass(SECOND);
    assert_eq!(server.step(), None);
    assert_eq!(server.connection.counters().expired_requests, 1);
    let second = server.served(5, 1000);
    let error = server
        .connection
        .respond(first, Status::Success, body("answer"))
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::new("BO", 25));
    server
        .connection
        .respond(second, Status::Success, body("answer"))
        .unwrap();
    assert!(
        server
            .connection
            .respond(second, Status::Success, body("answer"))
            .is_err()
    );
    assert_eq!(server.sends(), [answer(5)]);
}

#[test]
fn a_request_without_a_timeout_waits_for_its_answer() {
    let mut server = End::new(Config {
        idle_close: None,
        ..Config::server()
    });
    let served = server.served(1, -1);
    server.pass(1_000_000 * SECOND);
    assert_eq!(server.step(), None);
    server.connection.respond(served, Status::Success, Body::EMPTY).unwrap();
}

#[test]
fn each_request_is_answered_in_the_version_switch_and_codec_that_it_came_in() {
    let mut server = End::new(Config::server());
    assert_eq!(server.call(SECOND), Err(CallError::VersionUnknown));
    let spoken = [
        (Version::V2Checked, Switch::CHECKSUM, Codec::PROTOBUF),
        (Version::V2Plain, Switch::CHECKSUM, Codec::HESSIAN2),
        (Version::V1, Switch::NONE, Codec::JSON),
    ];
    for (at, (version, switch, codec)) in spoken.into_iter().enumerate() {
        let command = Command::Request {
            timeout_ms: 1,
            body: Body::EMPTY,
        };
        let request = Frame {
            codec,
            ..Frame::new(version, switch, at as i32, command)
        };
        let Some(Event::Request { served, .. }) = server.is_sent(&request) else {
            panic!("no request");
        };
        server.connection.respond(served, Status::Success, Body::EMPTY).unwrap();
        let frames = server.sends();
        assert_eq!(
            (frames[0].version, frames[0].switch, frames[0].codec),
            (version, switch, codec)
        );
        server.is_sent(&Frame::new(version, switch, 9, Command::Heartbeat { timeout_ms: -1 }));
        let frames = server.sends();
        assert_eq!(
            (frames[0].version, frames[0].switch, frames[0].id),
            (version, switch, 9)
        );
        // What it asks itself is in what the first frame spoke.
        server.call(SECOND).unwrap();
        let frames = server.sends();
        assert_eq!(
            (frames[0].version, frames[0].switch),
            (Version::V2Checked, Switch::CHECKSUM)
        );
    }
}

#[test]
fn heartbeats_go_out_one_at_a_time_and_three_without_an_answer_close() {
    let mut client = End::new(Config::client());
    let call = client.call(1000 * SECOND).unwrap();
    client.sends();
    let mut sent_at = Vec::new();
    let closed = loop {
        let deadline = client.connection.deadline().unwrap();
        assert!(deadline > client.now, "a deadline is never behind");
        client.now = deadline;
        if let Some(event) = client.step() {
            break event;
        }
        for frame in client.sends() {
            assert!(matches!(frame.command, Command::Heartbeat { timeout_ms: 1000 }));
            sent_at.push(client.now.as_millis());
        }
    };
    assert_eq!(sent_at, [15_000, 30_000, 45_000]);
    assert_eq!(client.now.as_millis(), 46_000);
    let outcome = Outcome::ConnectionClosed;
    assert_eq!(closed, Event::Done { call, outcome });
    assert_eq!(client.step(), Some(Event::Closed(CloseReason::HeartbeatsMissed)));
    assert_eq!(client.step(), None);
    assert_eq!(client.connection.deadline(), None);
    assert_eq!(client.call(SECOND), Err(CallError::Closed));
}

#[test]
fn a_late_heartbeat_answer_or_any_other_byte_shows_that_the_other_side_lives() {
    let mut client = End::new(Config::client());
    for round in 0..10 {
        client.pass(15 * SECOND);
        assert_eq!(client.step(), None);
        let heartbeat = client.sends().remove(0);
        client.pass(2 * SECOND);
        assert_eq!(client.step(), None);
        if round % 2 == 0 {
            let status = Status::Success;
            assert_eq!(
                client.is_sent(&v1(heartbeat.id, Command::HeartbeatAck { status })),
                None
            );
        } else {
            // The first byte of a frame that is still on its way; the answer of the next round completes it.
            let mut frame = BytesMut::new();
            answer(1).encode(&mut frame).unwrap();
            client.input.extend_from_slice(&frame[..1]);
            assert_eq!(client.step(), None);
            client.input.extend_from_slice(&frame[1..]);
            assert_eq!(client.step(), None);
        }
    }
    assert_eq!(client.connection.counters().heartbeats_missed, 10);
    assert_eq!(client.connection.counters().heartbeats_sent, 10);
}

#[test]
fn a_silent_connection_is_closed_by_the_server_after_its_time() {
    let mut server = End::new(Config::server());
    server.pass(60 * SECOND);
    assert_eq!(server.is_sent(&v1(1, Command::Heartbeat { timeout_ms: -1 })), None);
    server.sends();
    server.pass(89 * SECOND);
    assert_eq!(server.step(), None);
    server.pass(SECOND);
    assert_eq!(server.step(), Some(Event::Closed(CloseReason::Idle)));
}

#[test]
fn a_drain_lets_both_directions_end_and_begins_nothing() {
    let mut end = End::new(Config::client());
    let call = end.call(10 * SECOND).unwrap();
    let served = end.served(1, 3000);
    end.connection.drain(5 * SECOND, end.now);
    assert_eq!(end.call(SECOND), Err(CallError::Draining));
    assert_eq!(end.asked(2, 3000), None);
    assert_eq!(end.connection.counters().refused_requests, 1);
    assert_eq!(end.is_sent(&answer(call.request_id())), Some(answered(call)));
    assert_eq!(end.step(), None);
    end.connection.respond(served, Status::Success, body("answer")).unwrap();
    assert_eq!(end.step(), Some(Event::Closed(CloseReason::Drained)));
    // What was said last can still be written.
    assert_eq!(end.sends().last(), Some(&answer(1)));
}

#[test]
fn a_drain_ends_when_its_time_is_over() {
    let mut end = End::new(Config::client());
    let call = end.call(10 * SECOND).unwrap();
    end.connection.drain(5 * SECOND, end.now);
    assert_eq!(end.connection.deadline(), Some(Mono::ZERO + 5 * SECOND));
    end.pass(5 * SECOND);
    let outcome = Outcome::ConnectionClosed;
    assert_eq!(end.step(), Some(Event::Done { call, outcome }));
    assert_eq!(end.step(), Some(Event::Closed(CloseReason::DrainTimeout)));
}

#[test]
fn a_broken_protocol_ends_every_call_and_is_told_last() {
    let mut client = End::new(Config::client());
    let calls = [client.call(SECOND).unwrap(), client.call(2 * SECOND).unwrap()];
    client.input.extend_from_slice(b"HTTP/1.1 400 Bad Request");
    for call in calls {
        let outcome = Outcome::ConnectionClosed;
        assert_eq!(client.step(), Some(Event::Done { call, outcome }));
    }
    let error = BoltError::UnknownProtocol { first: b'H' };
    assert_eq!(client.step(), Some(Event::Closed(CloseReason::Protocol(error))));
    // The first reason stands.
    client.connection.close();
    assert_eq!(client.step(), None);
}

#[test]
fn a_flood_of_heartbeats_to_a_side_whose_answers_are_not_read_stops_being_read() {
    let mut server = End::new(Config {
        unsent_bytes_max: 200,
        ..Config::server()
    });
    for id in 0..1000 {
        v1(id, Command::Heartbeat { timeout_ms: -1 })
            .encode(&mut server.input)
            .unwrap();
    }
    assert_eq!(server.step(), None);
    assert!(server.connection.unsent().len() < 220);
    assert!(!server.connection.wants_input());
    let mut acks = 0;
    while !server.input.is_empty() {
        acks += server.sends().len();
        assert_eq!(server.step(), None);
    }
    assert_eq!(acks + server.sends().len(), 1000);
    assert_eq!(server.connection.counters().heartbeats_answered, 1000);
}

#[test]
fn whatever_bytes_come_a_connection_ends_once_or_lives_within_its_bounds() {
    for seed in 0..2_000 {
        let mut prng = Prng::new(seed);
        let config = Config {
            calls_max: 4,
            served_max: 4,
            unsent_bytes_max: 500,
            ..if prng.percent(50) {
                Config::client()
            } else {
                Config::server()
            }
        };
        let mut end = End::new(config);
        let mut closed = 0;
        for _ in 0..60 {
            let id = prng.below(6) as i32;
            let status = Status::Success;
            let command = match prng.below(5) {
                0 => Command::Heartbeat { timeout_ms: -1 },
                1 => Command::HeartbeatAck { status },
                2 => Command::Request {
                    timeout_ms: prng.below(3_000) as i32 - 100,
                    body: body("ask"),
                },
                3 => Command::Oneway {
                    timeout_ms: -1,
                    body: body("tell"),
                },
                _ => Command::Response {
                    status,
                    body: body("answer"),
                },
            };
            let mut bytes = BytesMut::new();
            Frame::new(Version::V2Plain, Switch::NONE, id, command)
                .encode(&mut bytes)
                .unwrap();
            if prng.percent(2) {
                let at = prng.below(bytes.len() as u64) as usize;
                bytes[at] = prng.next_u64() as u8;
            }
            end.input.extend_from_slice(&bytes);
            if prng.percent(30) {
                let _ = end.call(Duration::from_millis(prng.below(2_000)));
            }
            end.pass(Duration::from_millis(prng.below(2_000)));
            while let Some(event) = end.step() {
                assert_eq!(closed, 0, "{event:?} after the last event");
                match event {
                    Event::Closed(_) => closed += 1,
                    Event::Request { served, .. } if prng.percent(50) => {
                        let _ = end.connection.respond(served, status, body("answer"));
                    }
                    _ => {}
                }
            }
            assert!(end.connection.calls_in_flight() <= 4 && end.connection.requests_in_service() <= 4);
            assert!(end.connection.unsent().len() < 600);
            if prng.percent(80) {
                let bytes = end.connection.unsent().len();
                end.connection.sent(bytes, end.now);
            }
        }
    }
}
