//! Whole connections of real Java clients with the original seata-server, as they were recorded: every byte of them is
//! understood, and written again the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::BytesMut;
use settle_seata_wire::{Frame, FrameDecoder, MAX_FRAME_BYTES_DEFAULT, MsgType, frame};

const SESSIONS: [(&str, &str); 4] = [
    (
        "1.8.0, first connection",
        include_str!("../../../conformance/seata/vectors/sessions/seata-all-1.8.0-1.hex"),
    ),
    (
        "1.8.0, second connection",
        include_str!("../../../conformance/seata/vectors/sessions/seata-all-1.8.0-2.hex"),
    ),
    (
        "2.6.0, first connection",
        include_str!("../../../conformance/seata/vectors/sessions/seata-all-2.6.0-1.hex"),
    ),
    (
        "2.6.0, second connection",
        include_str!("../../../conformance/seata/vectors/sessions/seata-all-2.6.0-2.hex"),
    ),
];

/// The frames that went in one direction, with their bytes.
fn frames(record: &str, direction: &str) -> Vec<(Frame, Vec<u8>)> {
    let hex = record.lines().filter_map(|line| line.strip_prefix(direction));
    let digits: Vec<u8> = hex.flat_map(|line| line.trim().bytes()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let bytes: Vec<u8> = digits.chunks(2).map(byte).collect();
    let mut buf = BytesMut::from(&bytes[..]);
    let mut decoder = FrameDecoder::new(MAX_FRAME_BYTES_DEFAULT);
    let mut frames = Vec::new();
    while !buf.is_empty() {
        let start = bytes.len() - buf.len();
        let frame = decoder.decode(&mut buf).unwrap().expect("the record ends with a frame");
        frames.push((frame, bytes[start..bytes.len() - buf.len()].to_vec()));
    }
    frames
}

#[test]
fn every_recorded_frame_is_understood_and_written_again_the_same() {
    for (name, record) in SESSIONS {
        for direction in [">", "<"] {
            let frames = frames(record, direction);
            assert!(
                frames.len() > 5,
                "{name}: {} frames in direction {direction}",
                frames.len()
            );
            for (frame, bytes) in frames {
                let mut out = BytesMut::new();
                frame::encode(&frame, &mut out).unwrap();
                assert_eq!(out, bytes, "{name}: {frame:?}");
            }
        }
    }
}

#[test]
fn the_server_answers_every_oneway_request_under_its_id() {
    let mut oneway = 0;
    for (name, record) in SESSIONS {
        let answers: Vec<i32> = frames(record, "<")
            .iter()
            .filter(|(frame, _)| frame.msg_type == MsgType::Response)
            .map(|(frame, _)| frame.request_id)
            .collect();
        for (frame, _) in frames(record, ">") {
            if frame.msg_type == MsgType::RequestOneway {
                oneway += 1;
                assert!(answers.contains(&frame.request_id), "{name}: {frame:?}");
            }
        }
    }
    assert!(oneway > 0, "resource managers send their requests as oneway");
}
