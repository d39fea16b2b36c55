//! Frames made by Seata's own Java codec, checked in both directions.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod samples;

use std::collections::BTreeMap;

use bytes::BytesMut;
use samples::named_frames;
use settle_seata_wire::{
    Codec, Compressor, ExceptionCode, Frame, FrameDecoder, Lz4Format, MAX_FRAME_BYTES_DEFAULT, Message, Package,
    ProtocolVersion, frame,
};

const SEATA_1_8_0: &str = include_str!("../../../conformance/seata/vectors/seata-all-1.8.0.txt");
const PROTOBUF_1_8_0: &str = include_str!("../../../conformance/seata/vectors/protobuf-1.8.0.txt");
const COMPRESSORS: &str = include_str!("../../../conformance/seata/vectors/compressors.txt");
const SEATA_2_6_0: &str = include_str!("../../../conformance/seata/vectors/seata-all-2.6.0.txt");

struct Vector {
    name: &'static str,
    bytes: Vec<u8>,
}

fn parse(text: &'static str) -> Vec<Vector> {
    let mut vectors = Vec::new();
    let mut name = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("name: ") {
            name = rest;
        } else if let Some(hex) = line.strip_prefix("hex: ") {
            vectors.push(Vector {
                name,
                bytes: unhex(hex),
            });
        }
    }
    vectors
}

/// `0a(6e*3)` is 0a 6e 6e 6e.
fn unhex(mut hex: &str) -> Vec<u8> {
    let byte = |digits: &str| u8::from_str_radix(digits, 16).unwrap();
    let mut bytes = Vec::new();
    while !hex.is_empty() {
        if let Some(run) = hex.strip_prefix('(') {
            let (run, rest) = run.split_once(')').unwrap();
            let (digits, times) = run.split_once('*').unwrap();
            bytes.extend(std::iter::repeat_n(byte(digits), times.parse().unwrap()));
            hex = rest;
        } else {
            bytes.push(byte(&hex[..2]));
            hex = &hex[2..];
        }
    }
    bytes
}

fn decode_one(bytes: &[u8]) -> Frame {
    let mut buf = BytesMut::from(bytes);
    let frame = FrameDecoder::new(MAX_FRAME_BYTES_DEFAULT)
        .decode(&mut buf)
        .unwrap()
        .unwrap();
    assert!(buf.is_empty());
    frame
}

fn check(vectors: &[Vector], mut expected: Vec<(&'static str, Frame)>) {
    assert_eq!(
        vectors.iter().map(|vector| vector.name).collect::<Vec<_>>(),
        expected.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
    );
    for (vector, (name, expected)) in vectors.iter().zip(&mut expected) {
        assert_eq!(&decode_one(&vector.bytes), expected, "{name} decodes otherwise");
        let mut bytes = BytesMut::new();
        frame::encode(expected, &mut bytes).unwrap();
        if expected.compressor == Compressor::None {
            assert_eq!(bytes, vector.bytes, "{name} encodes otherwise");
        } else {
            // Two compressors need not agree on the bytes, only on what comes out.
            assert_eq!(&decode_one(&bytes), expected, "{name} does not survive");
        }
    }
}

#[test]
fn every_frame_of_java_2_6_0_decodes_to_its_value_and_back_to_its_bytes() {
    check(&parse(SEATA_2_6_0), named_frames());
}

#[test]
fn every_frame_of_java_1_8_0_decodes_to_its_value_and_back_to_its_bytes() {
    let vectors = parse(SEATA_1_8_0);
    let mut expected = named_frames();
    expected.truncate(vectors.len());
    for (name, frame) in &mut expected {
        if *name == "branch_register_response_fail_fast" {
            let Some(Message::BranchRegisterResponse(response)) = &mut frame.body else {
                panic!("{name} is a registration's answer");
            };
            assert_eq!(response.result.exception_code, ExceptionCode::LockKeyConflictFailFast);
            response.result.exception_code = response.result.exception_code.for_client_before_2_0();
        }
    }
    check(&vectors, expected);
}

#[test]
fn what_javas_compressors_write_is_read_and_answered_in_the_same_format() {
    let samples: BTreeMap<_, _> = named_frames().into_iter().collect();
    let expected = [
        ("lz4_1.8.0", 102, Compressor::Lz4(Lz4Format::Block)),
        ("lz4_2.6.0", 103, Compressor::Lz4(Lz4Format::Frame)),
        ("deflater", 104, Compressor::Deflater),
    ];
    let frame = |(name, request_id, compressor)| {
        let frame = Frame {
            request_id,
            compressor,
            ..samples["gzip"].clone()
        };
        (name, frame)
    };
    check(&parse(COMPRESSORS), expected.map(frame).to_vec());
}

#[test]
fn what_the_protobuf_serializer_of_java_1_8_0_writes_is_read_and_written_alike() {
    let samples: BTreeMap<_, _> = named_frames().into_iter().collect();
    let vectors = parse(PROTOBUF_1_8_0);
    assert_eq!(vectors.len(), 49);
    for vector in vectors {
        let sample = &samples[vector.name];
        let body = sample.body.clone().unwrap();
        let frame = Frame {
            codec: Codec::Protobuf(Package::Io),
            ..Frame::request(ProtocolVersion::V1, sample.msg_type, sample.request_id, body)
        };
        let encode = |frame: &Frame| {
            let mut bytes = BytesMut::new();
            frame::encode(frame, &mut bytes).unwrap();
            bytes
        };
        let bytes = encode(&frame);
        assert_eq!(&bytes[16..], vector.bytes, "{} is written otherwise", vector.name);
        let read = decode_one(&bytes);
        assert_eq!(read.codec, frame.codec, "{}", vector.name);
        assert_eq!(encode(&read), bytes, "{} is read otherwise", vector.name);
        // What it has no name for is told by the nearest, and a missing status as an unknown one.
        let is_exact = ![
            "global_begin_response_failed",
            "global_report_null_status",
            "branch_register_response_fail_fast",
            "branch_register_response_not_leader",
            "global_status_response",
            "global_status_response_stopped",
        ]
        .contains(&vector.name);
        assert_eq!(read == frame, is_exact, "{}: {read:?}", vector.name);
    }
}
