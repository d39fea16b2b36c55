//! Any bytes: the Seata decoders end with a frame, a wait or an error, and what they understood survives encoding.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use settle_seata_wire::{FrameDecoder, Message, ProtocolVersion, frame};

/// Small, so that the fuzzer finds the limit.
const MAX_FRAME_BYTES: usize = 64 << 10;

fuzz_target!(|bytes: &[u8]| {
    for version in [ProtocolVersion::V1, ProtocolVersion::V2] {
        if let Ok(message) = Message::decode(version, bytes) {
            let mut again = BytesMut::new();
            message
                .encode(version, &mut again)
                .expect("what was read can be written");
            assert_eq!(Message::decode(version, &again).as_ref(), Ok(&message));
        }
    }

    let mut whole = BytesMut::from(bytes);
    let mut decoder = FrameDecoder::new(MAX_FRAME_BYTES);
    let mut frames = Vec::new();
    let end = loop {
        match decoder.decode(&mut whole) {
            Ok(Some(read)) => frames.push(read),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    for read in &frames {
        let mut again = BytesMut::new();
        frame::encode(read, &mut again).expect("what was read can be written");
        // The limit of a decoder may be met by other compressed bytes of the same content, so it is not asked for here.
        let decoded = FrameDecoder::new(usize::MAX >> 1).decode(&mut again);
        assert_eq!(decoded.expect("what was written can be read").as_ref(), Some(read));
    }

    // Byte by byte, the same frames and the same end.
    let mut decoder = FrameDecoder::new(MAX_FRAME_BYTES);
    let mut buf = BytesMut::new();
    let mut frames = frames.iter();
    for byte in bytes {
        buf.extend_from_slice(&[*byte]);
        match decoder.decode(&mut buf) {
            Ok(Some(read)) => assert_eq!(Some(&read), frames.next()),
            Ok(None) => {}
            Err(error) => {
                // Details may differ: a wrong magic is refused at its first byte.
                assert_eq!(Some(error.code()), end.map(|error| error.code()));
                return;
            }
        }
    }
    assert!(frames.next().is_none() && end.is_none());
});
