//! Bytes that no honest peer sends, each with the error it must get.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod samples;

use bytes::{BufMut, BytesMut};
use samples::named_frames;
use settle_seata_wire::*;

fn decode(bytes: &[u8]) -> Result<Option<Frame>, WireError> {
    FrameDecoder::new(MAX_FRAME_BYTES_DEFAULT).decode(&mut BytesMut::from(bytes))
}

fn encoded(frame: &Frame) -> BytesMut {
    let mut bytes = BytesMut::new();
    frame::encode(frame, &mut bytes).unwrap();
    bytes
}

fn begin_frame() -> BytesMut {
    let body = Message::GlobalBegin(GlobalBegin {
        timeout_ms: 60_000,
        transaction_name: "test".into(),
    });
    encoded(&Frame::request(ProtocolVersion::V1, MsgType::RequestSync, 1, body))
}

/// The frame with the bytes at `at` replaced.
fn patched(at: usize, with: &[u8]) -> BytesMut {
    let mut bytes = begin_frame();
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

fn code(result: Result<Option<Frame>, WireError>) -> String {
    result.expect_err("must be refused").code().to_string()
}

fn body_error(body: &[u8]) -> WireError {
    Message::decode(ProtocolVersion::V1, body).expect_err("must be refused")
}

fn merge_body(type_code: i16, count: i16, items: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_i16(type_code);
    body.put_i32(2 + items.len() as i32);
    body.put_i16(count);
    body.put_slice(items);
    body
}

#[test]
fn a_frame_cut_at_any_byte_is_waited_for() {
    for (name, frame) in named_frames() {
        let bytes = encoded(&frame);
        let step = (bytes.len() / 500).max(1);
        for end in (0..bytes.len()).step_by(step) {
            assert_eq!(decode(&bytes[..end]), Ok(None), "{name} cut at {end}");
        }
    }
}

#[test]
fn each_wrong_byte_of_the_head_is_refused_as_soon_as_it_arrives() {
    // (where it starts, what is there, code)
    let cases: &[(usize, &[u8], &str)] = &[
        (0, b"G", "SW0001"),
        (0, b"\xdaG", "SW0001"),
        (2, &[0], "SW0002"),
        (2, &[3], "SW0002"),
        (3, &[0x00, 0x80, 0x00, 0x01], "SW0003"),
        (3, &[0xff, 0xff, 0xff, 0xff], "SW0003"),
        (3, &[0, 0, 0, 0], "SW0004"),
        (3, &[0, 0, 0, 15], "SW0004"),
        (7, &[0, 15], "SW0004"),
        (7, &[0, 29], "SW0004"),
        (9, &[5], "SW0005"),
        (10, &[0x04], "SW0006"),
        (11, &[4], "SW0007"),
    ];
    for (at, with, expected) in cases {
        let bytes = patched(*at, with);
        // Fields up to the lengths are judged one by one, the rest of the head as one piece.
        let arrived = if *at < 7 { at + with.len() } else { 16 };
        assert_eq!(code(decode(&bytes[..arrived])), *expected, "{with:02x?} at {at}");
    }
}

#[test]
fn an_unsupported_serializer_or_compressor_is_named_with_the_remedy() {
    for (value, name) in [(0x04, "kryo"), (0x08, "fst"), (0x16, "hessian"), (0x63, "unknown")] {
        let error = decode(&patched(10, &[value])).expect_err("must be refused");
        assert_eq!(error, WireError::UnsupportedSerializer { code: value, name });
        assert!(
            error
                .to_string()
                .contains("set transport.serialization to seata or protobuf"),
            "{error}"
        );
    }
    for (value, name) in [(2, "zip"), (3, "7z"), (4, "bzip2"), (9, "unknown")] {
        let error = decode(&patched(11, &[value])).expect_err("must be refused");
        assert_eq!(error, WireError::UnsupportedCompressor { code: value, name });
        let remedy = "set transport.compressor to none, gzip, lz4, deflater or zstd";
        assert!(error.to_string().contains(remedy), "{error}");
    }
}

#[test]
fn the_limit_of_a_decoder_counts_the_whole_frame() {
    let bytes = begin_frame();
    let decode = |max| {
        FrameDecoder::new(max)
            .decode(&mut bytes.clone())
            .map(|frame| frame.is_some())
    };
    assert_eq!(decode(bytes.len()), Ok(true));
    assert_eq!(
        decode(bytes.len() - 1),
        Err(WireError::FrameTooLong {
            bytes: bytes.len() as u64,
            max: bytes.len() - 1
        })
    );
}

#[test]
fn a_body_where_none_belongs_and_none_where_one_belongs_are_refused() {
    assert_eq!(code(decode(&patched(9, &[3]))), "SW0009");
    let ping = encoded(&Frame::ping(ProtocolVersion::V1, 1));
    let mut request_without_body = ping.clone();
    request_without_body[9] = 0;
    assert_eq!(code(decode(&request_without_body)), "SW0009");
    let mut out = BytesMut::new();
    let frame = Frame {
        msg_type: MsgType::RequestSync,
        ..Frame::ping(ProtocolVersion::V1, 1)
    };
    assert!(matches!(
        frame::encode(&frame, &mut out),
        Err(WireError::BodyPresence { .. })
    ));
    assert!(out.is_empty());
}

#[test]
fn a_head_map_that_lies_about_its_strings_is_refused() {
    let frame = |head: &[u8]| {
        let mut bytes = encoded(&Frame::ping(ProtocolVersion::V1, 1));
        bytes.put_slice(head);
        let length = 16 + head.len() as u8;
        bytes[6] = length;
        bytes[8] = length;
        decode(&bytes)
    };
    assert!(frame(&[0, 1, b'k', 0, 1, b'v']).is_ok());
    // A key only, a length cut in half, a value behind the end, a null key, not UTF-8.
    for head in [
        &[0, 1, b'k'][..],
        &[0],
        &[0, 1, b'k', 0, 2, b'v'],
        &[255, 255, 0, 0],
        &[0, 1, 0xff, 0, 0],
    ] {
        assert_eq!(code(frame(head)), "SW0008", "{head:?}");
    }
}

#[test]
fn lying_lengths_inside_a_message_are_refused() {
    let xid_at = 2;
    let commit = |length: [u8; 2]| {
        let mut body = vec![0, 7, 0, 3, b'x', b'i', b'd', 0, 0];
        body[xid_at..xid_at + 2].copy_from_slice(&length);
        Message::decode(ProtocolVersion::V1, &body)
    };
    assert!(commit([0, 3]).is_ok());
    assert_eq!(
        commit([0x7f, 0xff]),
        Err(WireError::Truncated {
            type_code: 7,
            field: "xid",
            needed: 32_767,
            left: 5
        })
    );
    assert_eq!(
        commit([0xff, 0xff]),
        Err(WireError::NegativeLength {
            type_code: 7,
            field: "xid",
            length: -1
        })
    );
    // One byte less: the rest no longer fits.
    assert!(commit([0, 2]).is_err());
    // An i32 length of 2 GiB over a handful of bytes.
    let register = [0, 11, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 1, 2, 3, 4];
    assert_eq!(
        body_error(&register),
        WireError::Truncated {
            type_code: 11,
            field: "lock key",
            needed: i32::MAX as usize,
            left: 4
        }
    );
}

#[test]
fn unknown_types_values_and_text_are_refused_by_name() {
    assert_eq!(body_error(&[0, 120]), WireError::UnknownMessage { type_code: 120 });
    assert_eq!(body_error(&[0xff, 0xff]), WireError::UnknownMessage { type_code: -1 });
    assert_eq!(
        body_error(&[0, 14, 2, 0]),
        WireError::UnknownValue {
            kind: "result code",
            value: 2
        }
    );
    assert_eq!(
        body_error(&[0, 14, 1, 24]),
        WireError::UnknownValue {
            kind: "exception code",
            value: 24
        }
    );
    assert_eq!(
        body_error(&[0, 8, 1, 0, 21]),
        WireError::UnknownValue {
            kind: "global status",
            value: 21
        }
    );
    assert_eq!(
        body_error(&[0, 7, 0, 1, 0xff, 0, 0]),
        WireError::InvalidUtf8 {
            type_code: 7,
            field: "xid"
        }
    );
    assert_eq!(
        body_error(&[0, 14, 1, 0, 9]),
        WireError::TrailingBytes {
            type_code: 14,
            count: 1
        }
    );
}

#[test]
fn merges_neither_nest_nor_lie_about_their_content() {
    let commit = [0, 7, 0, 0, 0, 0];
    let reported = [0, 14, 1, 0];
    assert!(Message::decode(ProtocolVersion::V1, &merge_body(59, 1, &commit)).is_ok());
    assert!(Message::decode(ProtocolVersion::V1, &merge_body(60, 1, &reported)).is_ok());
    for outer in [59, 60, 121] {
        for inner in [59i16, 60, 121] {
            let nested = merge_body(inner, 0, &[]);
            assert_eq!(
                body_error(&merge_body(outer, 1, &nested)),
                WireError::NotMergeable {
                    outer,
                    type_code: inner
                }
            );
        }
    }
    // Answers only in 60 and 121.
    assert_eq!(
        body_error(&merge_body(60, 1, &commit)),
        WireError::NotMergeable {
            outer: 60,
            type_code: 7
        }
    );
    // More announced than can be there, a negative count, a count too small and one too large.
    assert!(matches!(
        body_error(&merge_body(59, i16::MAX, &commit)),
        WireError::Truncated {
            type_code: 59,
            needed: 131_068,
            left: 6,
            ..
        }
    ));
    assert!(matches!(
        body_error(&merge_body(59, -1, &commit)),
        WireError::NegativeLength { .. }
    ));
    assert!(matches!(
        body_error(&merge_body(59, 0, &commit)),
        WireError::MergeShape { .. }
    ));
    assert!(matches!(
        body_error(&merge_body(59, 2, &[commit, commit].concat()[..8])),
        WireError::Truncated { .. }
    ));
    // Three quarters of an id; ids where none belong; no ids where they do.
    let with_tail = |tail: &[u8]| [&reported[..], tail].concat();
    assert!(matches!(
        body_error(&merge_body(121, 1, &with_tail(&[0, 0, 1]))),
        WireError::MergeShape { .. }
    ));
    assert!(matches!(
        body_error(&merge_body(60, 1, &with_tail(&[0, 0, 0, 1]))),
        WireError::TrailingBytes { .. }
    ));
    assert!(matches!(
        body_error(&merge_body(121, 1, &reported)),
        WireError::MergeShape { .. }
    ));
    // An inner length that reaches behind the frame.
    let mut body = merge_body(59, 1, &commit);
    body[5] += 1;
    assert!(matches!(body_error(&body), WireError::Truncated { type_code: 59, .. }));
}

#[test]
fn a_compressed_frame_may_not_inflate_beyond_the_limit() {
    let max = 64 << 10;
    for compressor in [
        Compressor::Gzip,
        Compressor::Lz4(Lz4Format::Block),
        Compressor::Lz4(Lz4Format::Frame),
        Compressor::Deflater,
        Compressor::Zstd,
    ] {
        let body = Message::BranchRegister(BranchRegister {
            xid: samples::XID.into(),
            branch_type: BranchType::At,
            resource_id: samples::RESOURCE.into(),
            lock_key: "0".repeat(4 << 20),
            application_data: String::new(),
        });
        let frame = Frame {
            compressor,
            ..Frame::request(ProtocolVersion::V1, MsgType::RequestSync, 1, body)
        };
        let bytes = encoded(&frame);
        assert!(bytes.len() < max);
        assert_eq!(
            FrameDecoder::new(max).decode(&mut bytes.clone()),
            Err(WireError::DecompressedTooLong { compressor, max })
        );
        assert_eq!(decode(&bytes), Ok(Some(frame)));
    }
}

#[test]
fn what_the_format_cannot_carry_is_not_written() {
    let begin = |name: String| {
        Message::GlobalBegin(GlobalBegin {
            timeout_ms: 1,
            transaction_name: name,
        })
    };
    let encode = |compressor, body| {
        let mut out = BytesMut::from(&b"before"[..]);
        let frame = Frame {
            compressor,
            ..Frame::request(ProtocolVersion::V1, MsgType::RequestSync, 1, body)
        };
        let error = frame::encode(&frame, &mut out).expect_err("must be refused");
        assert_eq!(out, &b"before"[..]);
        error
    };
    assert_eq!(
        encode(Compressor::None, begin("n".repeat(32_768))),
        WireError::StringTooLong {
            type_code: 1,
            field: "transaction name",
            bytes: 32_768,
            max: 32_767
        }
    );
    for compressor in [
        Compressor::None,
        Compressor::Gzip,
        Compressor::Lz4(Lz4Format::Block),
        Compressor::Lz4(Lz4Format::Frame),
        Compressor::Deflater,
        Compressor::Zstd,
    ] {
        let register = Message::RegisterRmRequest(RegisterRm {
            identity: Identity::default(),
            resource_ids: "r".repeat(MAX_FRAME_BYTES_DEFAULT),
        });
        assert!(matches!(encode(compressor, register), WireError::FrameTooLong { .. }));
    }
    let mixed = MergedRequest {
        items: vec![(Some(1), begin("a".into())), (None, begin("b".into()))],
    };
    assert!(matches!(
        encode(Compressor::None, Message::Merged(mixed)),
        WireError::MergeShape { .. }
    ));
    let nested = Message::MergeResult(vec![Message::MergeResult(Vec::new())]);
    assert!(matches!(
        encode(Compressor::None, nested),
        WireError::NotMergeable {
            outer: 60,
            type_code: 60
        }
    ));
}

#[test]
fn a_failure_message_is_cut_to_what_fits_at_a_character_boundary() {
    let written = |message: &str| {
        let mut body = BytesMut::new();
        let sent = Message::BranchReportResponse(TxResult::failed(ExceptionCode::Unknown, message));
        sent.encode(ProtocolVersion::V1, &mut body).unwrap();
        match Message::decode(ProtocolVersion::V1, &body).unwrap() {
            Message::BranchReportResponse(TxResult {
                outcome: Outcome::Failed { message },
                ..
            }) => message,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(written(&"m".repeat(32_767)).len(), 32_767);
    assert_eq!(written(&"m".repeat(40_000)), "m".repeat(32_767));
    // 32767 is not a multiple of three, so a whole character goes.
    assert_eq!(written(&"失".repeat(20_000)), "失".repeat(10_922));
}

#[test]
fn version_2_tells_why_a_registration_was_refused_and_version_1_does_not() {
    let refused = Message::RegisterTmResponse(RegisterResponse {
        outcome: Outcome::Failed { message: "no".into() },
        identified: false,
        version: "2.7".into(),
    });
    let bytes = |version| {
        let mut body = BytesMut::new();
        refused.encode(version, &mut body).unwrap();
        body
    };
    assert_eq!(bytes(ProtocolVersion::V1), &[0, 102, 0, 0, 3, b'2', b'.', b'7'][..]);
    assert_eq!(
        bytes(ProtocolVersion::V2),
        &[0, 102, 0, 0, 2, b'n', b'o', 0, 0, 3, b'2', b'.', b'7'][..]
    );
    assert_eq!(
        Message::decode(ProtocolVersion::V2, &bytes(ProtocolVersion::V2)),
        Ok(refused.clone())
    );
    // 106 has one layout in both versions.
    let Message::RegisterTmResponse(response) = refused else {
        unreachable!("built above")
    };
    let unregistered = Message::UnregisterRmResponse(response);
    let (mut v1, mut v2) = (BytesMut::new(), BytesMut::new());
    unregistered.encode(ProtocolVersion::V1, &mut v1).unwrap();
    unregistered.encode(ProtocolVersion::V2, &mut v2).unwrap();
    assert_eq!(v1, v2);
}

#[test]
fn an_answer_keeps_id_version_codec_and_compressor_of_its_request() {
    let mut request = Frame::request(
        ProtocolVersion::V2,
        MsgType::RequestOneway,
        -7,
        Message::GlobalStatus(GlobalEnd::default()),
    );
    request.compressor = Compressor::Zstd;
    request.head = vec![("k".into(), None)];
    let body = Message::BranchReportResponse(TxResult::SUCCESS);
    let response = request.response(body.clone());
    let expected = Frame {
        msg_type: MsgType::Response,
        compressor: Compressor::Zstd,
        ..Frame::request(ProtocolVersion::V2, MsgType::Response, -7, body)
    };
    assert_eq!(response, expected);
}

#[test]
fn a_decoder_can_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<FrameDecoder>();
}
