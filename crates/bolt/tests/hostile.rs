//! Bytes that no honest peer sends. Each case is a row of docs/bad-input.md.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::{Bytes, BytesMut};
use settle_base::{ErrorCode, Prng};
use settle_bolt::{Body, BoltError, Command, Frame, FrameDecoder, HeaderMap, Limits, Status, Switch, Version};

const VERSIONS: [(Version, Switch); 4] = [
    (Version::V1, Switch::NONE),
    (Version::V2Plain, Switch::CHECKSUM),
    (Version::V2Checked, Switch::NONE),
    (Version::V2Checked, Switch::CHECKSUM),
];

fn body() -> Body {
    Body {
        class: Bytes::from_static(b"com.x.Y"),
        header: Bytes::from_static(b"header"),
        content: Bytes::from_static(b"content"),
    }
}

fn samples() -> Vec<Frame> {
    let mut frames = Vec::new();
    for (version, switch) in VERSIONS {
        let commands = [
            Command::Heartbeat { timeout_ms: -1 },
            Command::HeartbeatAck {
                status: Status::Success,
            },
            Command::Request {
                timeout_ms: 3000,
                body: body(),
            },
            Command::Oneway {
                timeout_ms: -1,
                body: body(),
            },
            Command::Response {
                status: Status::ServerException,
                body: body(),
            },
        ];
        for (id, command) in commands.into_iter().enumerate() {
            frames.push(Frame::new(version, switch, id as i32, command));
        }
    }
    frames
}

fn written(frame: &Frame) -> BytesMut {
    let mut out = BytesMut::new();
    frame.encode(&mut out).unwrap();
    out
}

fn decode(bytes: &[u8]) -> Result<Option<Frame>, BoltError> {
    FrameDecoder::default().decode(&mut BytesMut::from(bytes))
}

fn code(number: u16) -> ErrorCode {
    ErrorCode::new("BO", number)
}

/// What reading gives when `bytes` arrive one at a time: the code, and how many bytes it took.
fn refused_after(bytes: &[u8]) -> (ErrorCode, usize) {
    let decoder = FrameDecoder::default();
    let mut buf = BytesMut::new();
    for (at, byte) in bytes.iter().enumerate() {
        buf.extend_from_slice(&[*byte]);
        match decoder.decode(&mut buf) {
            Ok(None) => {}
            Ok(Some(frame)) => panic!("{frame:?} is not refused"),
            Err(error) => return (error.code(), at + 1),
        }
    }
    panic!("all of {bytes:02x?} is waited for");
}

#[test]
fn another_protocol_is_refused_at_its_first_wrong_byte() {
    assert_eq!(refused_after(b"GET / HTTP/1.1\r\n"), (code(1), 1));
    assert_eq!(refused_after(&[0, 0]), (code(1), 1));
    assert_eq!(refused_after(&[13, 1, 1]), (code(1), 1));
    assert_eq!(refused_after(&[2, 3, 1]), (code(2), 2));
    assert_eq!(refused_after(&[2, 0, 1]), (code(2), 2));
    assert_eq!(refused_after(&[1, 3]), (code(3), 2));
    assert_eq!(refused_after(&[2, 1, 0xff]), (code(3), 3));
}

#[test]
fn a_command_that_does_not_go_with_its_type_is_refused() {
    for frame in samples() {
        let mut bytes = written(&frame);
        let at = if frame.version == Version::V1 { 2 } else { 3 };
        let kind = bytes[at - 1];
        let good = bytes[at + 1];
        for command in 0..4 {
            let goes_together = [(1, 0), (0, 0), (1, 1), (2, 1), (0, 2)].contains(&(kind, command));
            if !goes_together {
                bytes[at + 1] = command;
                assert_eq!(refused_after(&bytes).0, code(4), "{bytes:02x?}");
            }
        }
        bytes[at + 1] = good;
        bytes[at] = 1;
        assert_eq!(refused_after(&bytes).0, code(4));
    }
}

#[test]
fn the_highest_bit_of_the_switch_is_refused() {
    let frame = &samples()[5];
    let mut bytes = written(frame);
    bytes[11] = 0x80;
    assert_eq!(refused_after(&bytes).0, code(5));
    assert_eq!(Switch::try_from(0x80).unwrap_err().code(), code(5));
}

/// Where the three lengths of a frame are: class, header, content.
fn lengths_at(frame: &Frame) -> [usize; 3] {
    let switch = usize::from(frame.version != Version::V1);
    let class = match frame.command {
        Command::HeartbeatAck { .. } | Command::Response { .. } => 12 + 2 * switch,
        _ => 14 + 2 * switch,
    };
    [class, class + 2, class + 4]
}

#[test]
fn lengths_that_are_negative_or_over_a_limit_are_refused_with_the_head() {
    for frame in samples() {
        let good = written(&frame);
        let [class, header, content] = lengths_at(&frame);
        let is_heartbeat = matches!(frame.command, Command::Heartbeat { .. } | Command::HeartbeatAck { .. });
        let with = |at: usize, length: &[u8]| {
            let mut bytes = good.clone();
            bytes[at..at + length.len()].copy_from_slice(length);
            bytes.truncate(content + 4);
            refused_after(&bytes)
        };
        let head = content + 4;
        assert_eq!(with(class, &[0x80, 0]), (code(6), head));
        assert_eq!(with(header, &[0xff, 0xff]), (code(6), head));
        assert_eq!(with(content, &[0x80, 0, 0, 0]), (code(6), head));
        assert_eq!(with(class, &1_025u16.to_be_bytes()), (code(7), head));
        let too_long = if is_heartbeat { 11 } else { 9 };
        assert_eq!(with(content, &(8u32 << 20).to_be_bytes()), (code(too_long), head));
        assert_eq!(with(content, &(i32::MAX as u32).to_be_bytes()), (code(too_long), head));
        if is_heartbeat {
            assert_eq!(with(content, &1u32.to_be_bytes()), (code(11), head));
        }
    }
}

#[test]
fn each_limit_counts_to_its_last_byte() {
    for frame in samples() {
        if !matches!(frame.command, Command::Request { .. } | Command::Response { .. }) {
            continue;
        }
        let bytes = written(&frame);
        let exact = Limits {
            frame_bytes: bytes.len(),
            class_bytes: body().class.len(),
            header_bytes: body().header.len(),
        };
        let read = |limits: Limits| FrameDecoder::new(limits).decode(&mut bytes.clone());
        assert_eq!(read(exact.clone()).unwrap().as_ref(), Some(&frame));
        let less = |change: fn(&mut Limits)| {
            let mut limits = exact.clone();
            change(&mut limits);
            read(limits).unwrap_err().code()
        };
        assert_eq!(less(|limits| limits.frame_bytes -= 1), code(9));
        assert_eq!(less(|limits| limits.class_bytes -= 1), code(7));
        assert_eq!(less(|limits| limits.header_bytes -= 1), code(8));
    }
}

#[test]
fn a_frame_cut_at_any_byte_is_waited_for() {
    for frame in samples() {
        let bytes = written(&frame);
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), Ok(None), "{end} bytes of {frame:?}");
        }
        assert_eq!(decode(&bytes), Ok(Some(frame)));
    }
}

#[test]
fn any_damaged_bit_of_a_checked_frame_is_found() {
    let checked = samples()
        .into_iter()
        .filter(|frame| frame.version == Version::V2Checked);
    for frame in checked.filter(|frame| frame.switch.has_checksum()) {
        let bytes = written(&frame);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                // The bit may make it another version, without a checksum, or a longer frame; what it may not become
                // is this same frame's checksum passing.
                let whole = [0u8; 64];
                damaged.extend_from_slice(&whole);
                let switched_off = (at == 11 && bit == 0) || at < 2;
                match FrameDecoder::default().decode(&mut damaged) {
                    Ok(Some(read)) => assert!(switched_off, "byte {at} bit {bit} of {frame:?} became {read:?}"),
                    Ok(None) => assert!((12..24).contains(&at), "only a length can ask for more: byte {at}"),
                    Err(_) => {}
                }
            }
        }
        let mut wrong = bytes.clone();
        let last = wrong.len() - 1;
        wrong[last] ^= 1;
        assert_eq!(decode(&wrong).unwrap_err().code(), code(10));
    }
}

#[test]
fn what_java_cannot_read_is_not_written_and_leaves_no_trace() {
    let request = |version, body| Frame::new(version, Switch::NONE, 1, Command::Request { timeout_ms: 1, body });
    let long = Bytes::from(vec![b'x'; 32_768]);
    let cases = [
        (
            request(
                Version::V1,
                Body {
                    class: long.clone(),
                    ..Body::EMPTY
                },
            ),
            14,
        ),
        (
            request(
                Version::V2Checked,
                Body {
                    header: long,
                    ..Body::EMPTY
                },
            ),
            14,
        ),
        (
            Frame::new(
                Version::V1,
                Switch::NONE,
                1,
                Command::Response {
                    status: Status::Unlisted(0x13),
                    body: Body::EMPTY,
                },
            ),
            15,
        ),
        (
            Frame::new(Version::V1, Switch::CHECKSUM, 1, Command::Heartbeat { timeout_ms: -1 }),
            16,
        ),
    ];
    for (frame, number) in cases {
        let mut out = BytesMut::from(&b"before"[..]);
        assert_eq!(frame.encode(&mut out).unwrap_err().code(), code(number));
        assert_eq!(out, &b"before"[..]);
    }
}

#[test]
fn a_status_that_is_not_listed_costs_its_call_and_not_the_connection() {
    let mut bytes = written(&samples()[4]);
    bytes[10..12].copy_from_slice(&[0x7a, 0x01]);
    let frame = decode(&bytes).unwrap().unwrap();
    assert!(matches!(
        frame.command,
        Command::Response {
            status: Status::Unlisted(0x7a01),
            ..
        }
    ));
}

#[test]
fn a_class_name_that_is_no_text_costs_its_request_and_not_the_connection() {
    let body = Body {
        class: Bytes::from_static(b"\xff\xfe"),
        ..Body::EMPTY
    };
    let frame = Frame::new(Version::V1, Switch::NONE, 1, Command::Request { timeout_ms: 1, body });
    let Some(Frame {
        command: Command::Request { body, .. },
        ..
    }) = decode(&written(&frame)).unwrap()
    else {
        panic!("not a request");
    };
    assert_eq!(body.class_name().unwrap_err().code(), code(13));
}

#[test]
fn a_header_that_lies_about_its_text_is_refused() {
    let cases: [&[u8]; 7] = [
        &[0, 0, 0],
        &[0, 0, 0, 5, b'a'],
        &[0, 0, 0, 1, b'a'],
        &[0, 0, 0, 1, b'a', 0x7f, 0xff, 0xff, 0xff],
        &[0, 0, 0, 1, b'a', 0xff, 0xff, 0xff, 0xfe],
        &[0, 0, 0, 1, 0xff, 0, 0, 0, 0],
        &[0xff, 0xff, 0xff, 0xff],
    ];
    for header in cases {
        assert_eq!(HeaderMap::decode(header).unwrap_err().code(), code(12), "{header:02x?}");
    }
    let mut long = HeaderMap::new();
    long.push("k", "v".repeat(32_759));
    assert_eq!(long.encode().unwrap_err().code(), code(12));
    let mut longest = HeaderMap::new();
    longest.push("k", "v".repeat(32_758));
    assert_eq!(longest.encode().unwrap().len(), 32_767);
}

#[test]
fn garbage_behind_a_good_beginning_never_panics() {
    let mut prng = Prng::new(1);
    for frame in samples() {
        let bytes = written(&frame);
        for _ in 0..500 {
            let mut garbled = bytes[..prng.below(bytes.len() as u64) as usize].to_vec();
            garbled.extend((0..prng.below(60)).map(|_| prng.next_u64() as u8));
            if let Ok(Some(read)) = decode(&garbled)
                && let Command::Request { body, .. } | Command::Response { body, .. } = &read.command
            {
                let _ = HeaderMap::decode(&body.header);
                let _ = body.class_name();
            }
        }
    }
}
