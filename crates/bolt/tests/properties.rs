//! What must hold for every frame and every way to cut the stream.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use settle_bolt::{Body, Codec, Command, Frame, FrameDecoder, HeaderMap, Limits, Status, Switch, Version};

fn body() -> impl Strategy<Value = Body> {
    (
        vec(any::<u8>(), 0..40),
        vec(any::<u8>(), 0..200),
        vec(any::<u8>(), 0..2_000),
    )
        .prop_map(|(class, header, content)| Body {
            class: Bytes::from(class),
            header: Bytes::from(header),
            content: Bytes::from(content),
        })
}

fn status() -> impl Strategy<Value = Status> {
    select(vec![
        Status::Success,
        Status::ServerException,
        Status::ServerThreadpoolBusy,
        Status::ConnectionClosed,
        Status::ServerDeserialException,
    ])
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        any::<i32>().prop_map(|timeout_ms| Command::Heartbeat { timeout_ms }),
        status().prop_map(|status| Command::HeartbeatAck { status }),
        (any::<i32>(), body()).prop_map(|(timeout_ms, body)| Command::Request { timeout_ms, body }),
        (any::<i32>(), body()).prop_map(|(timeout_ms, body)| Command::Oneway { timeout_ms, body }),
        (status(), body()).prop_map(|(status, body)| Command::Response { status, body }),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    let version = prop_oneof![
        Just((Version::V1, 0)),
        (select(vec![Version::V2Plain, Version::V2Checked]), 0u8..=0x7f)
    ];
    (version, any::<i32>(), any::<u8>(), any::<u8>(), command()).prop_map(
        |((version, switch), id, codec, command_version, command)| Frame {
            version,
            switch: Switch::try_from(switch).unwrap(),
            id,
            codec: Codec(codec),
            command_version,
            command,
        },
    )
}

proptest! {
    #[test]
    fn frames_survive_any_cut_of_their_stream(frames in vec(frame(), 1..6), cuts in vec(1usize..700, 1..40)) {
        let mut stream = BytesMut::new();
        for frame in &frames {
            frame.encode(&mut stream).unwrap();
        }
        let decoder = FrameDecoder::new(Limits::DEFAULT);
        let mut buf = BytesMut::new();
        let mut read = Vec::new();
        let mut cuts = cuts.into_iter().cycle();
        while !stream.is_empty() {
            let cut = cuts.next().unwrap().min(stream.len());
            buf.extend_from_slice(&stream.split_to(cut));
            while let Some(frame) = decoder.decode(&mut buf).unwrap() {
                read.push(frame);
            }
        }
        prop_assert!(buf.is_empty());
        prop_assert_eq!(read, frames);
    }

    #[test]
    fn a_body_that_was_read_shares_the_bytes_of_its_frame(frame in frame()) {
        let mut stream = BytesMut::new();
        frame.encode(&mut stream).unwrap();
        let range = stream.as_ptr_range();
        let read = FrameDecoder::default().decode(&mut stream).unwrap().unwrap();
        if let Command::Request { body, .. } | Command::Oneway { body, .. } | Command::Response { body, .. } = &read.command
            && !body.content.is_empty()
        {
            prop_assert!(range.contains(&body.content.as_ptr()));
        }
    }

    #[test]
    fn a_header_map_survives(pairs in vec((".{0,12}", ".{0,40}"), 0..20)) {
        let mut map = HeaderMap::new();
        for (key, value) in &pairs {
            map.push(key.as_str(), value.as_str());
        }
        let bytes = map.encode().unwrap();
        prop_assert_eq!(HeaderMap::decode(&bytes).unwrap(), map);
    }
}
