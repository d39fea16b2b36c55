//! Frames as Java and node write them, read and written again byte for byte.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use settle_bolt::{Body, Codec, Command, Frame, FrameDecoder, HeaderMap, Limits, Status, Switch, Version};

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn read(bytes: &[u8]) -> Frame {
    let mut buf = BytesMut::from(bytes);
    let frame = FrameDecoder::new(Limits::DEFAULT).decode(&mut buf).unwrap().unwrap();
    assert!(buf.is_empty());
    frame
}

fn written(frame: &Frame) -> BytesMut {
    let mut out = BytesMut::new();
    frame.encode(&mut out).unwrap();
    out
}

/// What a line of the vectors says, without its bytes.
fn described(words: &str) -> Frame {
    let mut words = words.split(' ');
    let version = match words.next().unwrap() {
        "v1.1" => Version::V1,
        "v2.1" => Version::V2Plain,
        "v2.2" => Version::V2Checked,
        other => panic!("a version {other}"),
    };
    let mut kind = "";
    let mut values = BTreeMap::new();
    for word in words {
        match word.split_once('=') {
            Some((key, value)) => {
                values.insert(key, value);
            }
            None => kind = word,
        }
    }
    let number = |key: &str| values[key].parse::<i32>().unwrap();
    let body = Body {
        class: Bytes::copy_from_slice(values["class"].as_bytes()),
        header: Bytes::copy_from_slice(values["header"].as_bytes()),
        content: Bytes::copy_from_slice(values["content"].as_bytes()),
    };
    let status = |value: i32| {
        let known = [
            (0, Status::Success),
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
        known.iter().find(|(number, _)| *number == value).unwrap().1
    };
    let command = match kind {
        "heartbeat" => Command::Heartbeat {
            timeout_ms: number("timeout"),
        },
        "heartbeat-ack" => Command::HeartbeatAck {
            status: status(number("status")),
        },
        "request" => Command::Request {
            timeout_ms: number("timeout"),
            body,
        },
        "oneway" => Command::Oneway {
            timeout_ms: number("timeout"),
            body,
        },
        "response" => Command::Response {
            status: status(number("status")),
            body,
        },
        other => panic!("a kind {other}"),
    };
    let switch = Switch::try_from(values["switch"].parse::<u8>().unwrap()).unwrap();
    Frame::new(version, switch, number("id"), command)
}

#[test]
fn every_frame_that_java_wrote_is_read_as_it_was_meant_and_written_alike() {
    let vectors = include_str!("../../../conformance/bolt/vectors/bolt-1.6.11.txt");
    let mut count = 0;
    for line in vectors.lines().filter(|line| !line.starts_with('#')) {
        let (words, bytes) = line.split_once(" | ").unwrap();
        let (frame, bytes) = (described(words), unhex(bytes));
        assert_eq!(read(&bytes), frame, "{line}");
        assert_eq!(written(&frame), bytes, "{line}");
        count += 1;
    }
    assert_eq!(count, 168);
}

#[test]
fn the_heartbeats_of_sofa_bolt_node_are_read_and_written_alike() {
    let frames = [
        (
            "01 01 0000 01 00000002 01 00000bb8 0000 0000 00000000",
            Frame::new(Version::V1, Switch::NONE, 2, Command::Heartbeat { timeout_ms: 3000 }),
        ),
        (
            "01 00 0000 01 00000007 01 0000 0000 0000 00000000",
            Frame::new(
                Version::V1,
                Switch::NONE,
                7,
                Command::HeartbeatAck {
                    status: Status::Success,
                },
            ),
        ),
        (
            "02 02 01 0000 01 00000007 01 01 00000bb8 0000 0000 00000000 87629fc5",
            Frame::new(
                Version::V2Checked,
                Switch::CHECKSUM,
                7,
                Command::Heartbeat { timeout_ms: 3000 },
            ),
        ),
    ];
    for (bytes, frame) in frames {
        let bytes = unhex(bytes);
        assert_eq!(read(&bytes), frame);
        assert_eq!(written(&frame), bytes);
    }
}

#[test]
fn a_header_of_sofarpc_is_pairs_of_lengths_and_text() {
    let mut map = HeaderMap::new();
    map.push("service", "com.x.Svc:1.0");
    map.push("empty", "");
    let bytes = unhex("00000007 73657276696365 0000000d 636f6d2e782e5376633a312e30 00000005 656d707479 00000000");
    assert_eq!(map.encode().unwrap(), bytes);
    assert_eq!(HeaderMap::decode(&bytes).unwrap(), map);
    // Java drops a pair with a null in it.
    let with_null = unhex("00000001 61 ffffffff ffffffff 00000001 62 00000001 63 00000001 64");
    let read = HeaderMap::decode(&with_null).unwrap();
    assert_eq!(read.iter().collect::<Vec<_>>(), [("c", "d")]);
}

#[test]
fn the_codec_and_the_command_version_of_a_frame_are_kept() {
    let frame = Frame {
        codec: Codec::PROTOBUF,
        command_version: 9,
        ..Frame::new(
            Version::V1,
            Switch::NONE,
            1,
            Command::Request {
                timeout_ms: 5,
                body: Body::EMPTY,
            },
        )
    };
    assert_eq!(read(&written(&frame)), frame);
}
