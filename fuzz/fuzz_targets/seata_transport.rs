//! Any bytes on a connection of the door, by frames or by gRPC, whole and in pieces: it ends with messages, a wait or an
//! error, the same ones however the bytes are cut, and whatever was understood can be answered. Of a client that nobody
//! knows only registrations are understood.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use settle_seata_wire::{Frame, Message, MsgType, Received, Transport, WireError};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Small, so that the fuzzer finds the limit.
const MAX_FRAME_BYTES: usize = 64 << 10;

#[derive(PartialEq, Debug)]
enum End {
    Waits,
    Ended,
    Failed(WireError),
}

/// Gives the bytes in pieces of `step`, and answers every request.
fn run(bytes: &[u8], step: usize, is_known: bool) -> (Vec<Frame>, End) {
    let mut transport = match is_known {
        true => Transport::new(MAX_FRAME_BYTES),
        false => Transport::for_registrations(MAX_FRAME_BYTES),
    };
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            match transport.receive(&mut buffer) {
                Ok(Received::Frame(frame)) => {
                    let is_registration = matches!(
                        frame.body,
                        Some(Message::RegisterTmRequest(_) | Message::RegisterRmRequest(_))
                    );
                    assert!(is_known || is_registration);
                    let answer = match frame.msg_type {
                        MsgType::HeartbeatRequest => frame.pong(),
                        // As long as a merged answer, so that the client's windows run out.
                        _ => frame.response(Message::MergeResult(Vec::new())),
                    };
                    // It may fail for a client that gives no room, never otherwise harm.
                    let _ = transport.send(&answer);
                    frames.push(frame);
                }
                Ok(Received::Nothing) => break,
                Ok(Received::Ended) => return (frames, End::Ended),
                Err(error) => return (frames, End::Failed(error)),
            }
        }
        transport.out().clear();
    }
    (frames, End::Waits)
}

fuzz_target!(|bytes: &[u8]| {
    let [first, rest @ ..] = bytes else { return };
    // Half of the inputs begin with the preface, which the fuzzer would have to find first.
    let input = match first & 1 {
        0 => rest.to_vec(),
        _ => [PREFACE, rest].concat(),
    };
    let is_known = first & 2 == 0;
    let (frames, end) = run(&input, usize::MAX, is_known);
    let (again, other_end) = run(&input, usize::from(first >> 2).max(1), is_known);
    assert_eq!(frames, again);
    match (end, other_end) {
        // Details may differ: a wrong magic is refused at its first byte.
        (End::Failed(error), End::Failed(other)) => assert_eq!(error.code(), other.code()),
        (end, other) => assert_eq!(end, other),
    }
});
