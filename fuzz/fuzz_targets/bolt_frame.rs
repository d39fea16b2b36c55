//! Any bytes: bolt's decoder ends with a frame, a wait or an error, the same however the bytes are cut, and what it
//! understood survives encoding.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use settle_bolt::{BoltError, Command, Frame, FrameDecoder, HeaderMap, Limits};

fuzz_target!(|bytes: &[u8]| {
    // Small, so that the fuzzer finds the limit.
    let decoder = FrameDecoder::new(Limits {
        frame_bytes: 4 << 10,
        ..Limits::DEFAULT
    });
    let mut whole = BytesMut::from(bytes);
    let mut frames: Vec<Frame> = Vec::new();
    let end = loop {
        match decoder.decode(&mut whole) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    for frame in &frames {
        let mut again = BytesMut::new();
        match frame.encode(&mut again) {
            Ok(()) => assert_eq!(decoder.decode(&mut again).as_ref(), Ok(&Some(frame.clone()))),
            Err(error) => assert!(matches!(error, BoltError::UnlistedStatus { .. })),
        }
        if let Command::Request { body, .. } | Command::Oneway { body, .. } | Command::Response { body, .. } =
            &frame.command
            && let Ok(map) = HeaderMap::decode(&body.header)
        {
            let again = map.encode().expect("a header that was read is short enough");
            assert_eq!(HeaderMap::decode(&again).as_ref(), Ok(&map));
        }
    }

    // Byte by byte, the same frames and the same end.
    let mut buf = BytesMut::new();
    let mut frames = frames.iter();
    for byte in bytes {
        buf.extend_from_slice(&[*byte]);
        match decoder.decode(&mut buf) {
            Ok(Some(frame)) => assert_eq!(Some(&frame), frames.next()),
            Ok(None) => {}
            Err(error) => {
                assert_eq!(Some(error), end);
                return;
            }
        }
    }
    assert!(frames.next().is_none() && end.is_none());
});
