//! What must hold for every message, version and compressor.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::{BufMut, BytesMut};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use settle_seata_wire::*;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z0-9:./]{1,40}", "\\PC{0,12}"]
}

fn long_text() -> impl Strategy<Value = String> {
    prop_oneof![8 => text(), 1 => (1usize..100_000).prop_map(|n| "k:1;".repeat(n / 4))]
}

fn branch_type() -> impl Strategy<Value = BranchType> {
    select(BranchType::ALL)
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Success),
        text().prop_map(|message| Outcome::Failed { message })
    ]
}

fn result() -> impl Strategy<Value = TxResult> {
    (outcome(), select(ExceptionCode::ALL)).prop_map(|(outcome, exception_code)| TxResult {
        outcome,
        exception_code,
    })
}

fn identity() -> impl Strategy<Value = Identity> {
    (text(), text(), text(), text()).prop_map(|(version, application_id, transaction_service_group, extra_data)| {
        Identity {
            version,
            application_id,
            transaction_service_group,
            extra_data,
        }
    })
}

fn register_rm() -> impl Strategy<Value = RegisterRm> {
    (identity(), long_text()).prop_map(|(identity, resource_ids)| RegisterRm { identity, resource_ids })
}

/// Where the outcome does not travel it must be what a reader infers.
fn register_response(carries_outcome: bool) -> impl Strategy<Value = RegisterResponse> {
    (outcome(), any::<bool>(), text()).prop_map(move |(outcome, identified, version)| {
        let implied = if identified {
            Outcome::Success
        } else {
            Outcome::Failed { message: String::new() }
        };
        RegisterResponse {
            outcome: if carries_outcome { outcome } else { implied },
            identified,
            version,
        }
    })
}

fn global_end() -> impl Strategy<Value = GlobalEnd> {
    (text(), text()).prop_map(|(xid, extra_data)| GlobalEnd { xid, extra_data })
}

fn global_end_response() -> impl Strategy<Value = GlobalEndResponse> {
    (result(), select(GlobalStatus::ALL)).prop_map(|(result, status)| GlobalEndResponse { result, status })
}

fn branch_register() -> impl Strategy<Value = BranchRegister> {
    (text(), branch_type(), text(), long_text(), long_text()).prop_map(
        |(xid, branch_type, resource_id, lock_key, application_data)| BranchRegister {
            xid,
            branch_type,
            resource_id,
            lock_key,
            application_data,
        },
    )
}

fn branch_end() -> impl Strategy<Value = BranchEnd> {
    (text(), any::<i64>(), branch_type(), text(), long_text()).prop_map(
        |(xid, branch_id, branch_type, resource_id, application_data)| BranchEnd {
            xid,
            branch_id,
            branch_type,
            resource_id,
            application_data,
        },
    )
}

fn branch_end_response() -> impl Strategy<Value = BranchEndResponse> {
    (result(), text(), any::<i64>(), select(BranchStatus::ALL)).prop_map(|(result, xid, branch_id, status)| {
        BranchEndResponse {
            result,
            xid,
            branch_id,
            status,
        }
    })
}

fn request() -> impl Strategy<Value = Message> {
    prop_oneof![
        identity().prop_map(Message::RegisterTmRequest),
        register_rm().prop_map(Message::RegisterRmRequest),
        register_rm().prop_map(Message::UnregisterRmRequest),
        (any::<i32>(), text()).prop_map(|(timeout_ms, transaction_name)| {
            Message::GlobalBegin(GlobalBegin {
                timeout_ms,
                transaction_name,
            })
        }),
        global_end().prop_map(Message::GlobalCommit),
        global_end().prop_map(Message::GlobalRollback),
        global_end().prop_map(Message::GlobalStatus),
        (text(), text(), option::of(select(GlobalStatus::ALL))).prop_map(|(xid, extra_data, status)| {
            Message::GlobalReport(GlobalReport {
                xid,
                extra_data,
                status,
            })
        }),
        branch_register().prop_map(Message::BranchRegister),
        branch_register().prop_map(Message::GlobalLockQuery),
        (branch_end(), select(BranchStatus::ALL)).prop_map(|(b, status)| {
            Message::BranchReport(BranchReport {
                xid: b.xid,
                branch_id: b.branch_id,
                status,
                resource_id: b.resource_id,
                application_data: b.application_data,
                branch_type: b.branch_type,
            })
        }),
        branch_end().prop_map(Message::BranchCommit),
        branch_end().prop_map(Message::BranchRollback),
        (branch_type(), text(), any::<i16>()).prop_map(|(branch_type, resource_id, save_days)| {
            Message::UndoLogDelete(UndoLogDelete {
                branch_type,
                resource_id,
                save_days,
            })
        }),
    ]
}

fn response(version: ProtocolVersion) -> impl Strategy<Value = Message> {
    let carries = version == ProtocolVersion::V2;
    prop_oneof![
        register_response(carries).prop_map(Message::RegisterTmResponse),
        register_response(carries).prop_map(Message::RegisterRmResponse),
        register_response(false).prop_map(Message::UnregisterRmResponse),
        (result(), text(), text()).prop_map(|(result, xid, extra_data)| {
            Message::GlobalBeginResponse(GlobalBeginResponse {
                result,
                xid,
                extra_data,
            })
        }),
        global_end_response().prop_map(Message::GlobalCommitResponse),
        global_end_response().prop_map(Message::GlobalRollbackResponse),
        global_end_response().prop_map(Message::GlobalStatusResponse),
        global_end_response().prop_map(Message::GlobalReportResponse),
        (result(), any::<i64>()).prop_map(|(result, branch_id)| {
            Message::BranchRegisterResponse(BranchRegisterResponse { result, branch_id })
        }),
        result().prop_map(Message::BranchReportResponse),
        (result(), any::<bool>()).prop_map(|(result, lockable)| {
            Message::GlobalLockQueryResponse(GlobalLockQueryResponse { result, lockable })
        }),
        branch_end_response().prop_map(Message::BranchCommitResponse),
        branch_end_response().prop_map(Message::BranchRollbackResponse),
    ]
}

fn message(version: ProtocolVersion) -> impl Strategy<Value = Message> {
    prop_oneof![
        14 => request(),
        13 => response(version),
        2 => vec((any::<i32>(), request()), 0..5).prop_map(|items| {
            Message::Merged(MergedRequest { items: items.into_iter().map(|(id, m)| (Some(id), m)).collect() })
        }),
        1 => vec(request(), 0..5).prop_map(|items| {
            Message::Merged(MergedRequest { items: items.into_iter().map(|m| (None, m)).collect() })
        }),
        2 => vec(response(version), 0..5).prop_map(Message::MergeResult),
        2 => vec((any::<i32>(), response(version)), 0..5).prop_map(|items| Message::BatchResult { items }),
    ]
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let versions = select(vec![ProtocolVersion::V1, ProtocolVersion::V2]);
    let types = select(vec![
        MsgType::RequestSync,
        MsgType::Response,
        MsgType::RequestOneway,
        MsgType::HeartbeatRequest,
        MsgType::HeartbeatResponse,
    ]);
    let compressors = select(vec![
        Compressor::None,
        Compressor::Gzip,
        Compressor::Lz4(Lz4Format::Block),
        Compressor::Lz4(Lz4Format::Frame),
        Compressor::Deflater,
        Compressor::Zstd,
    ]);
    let head = vec((text(), option::of(text())), 0..3);
    let bodies = versions.prop_flat_map(|version| (Just(version), message(version)));
    let codecs = select(vec![
        Codec::Seata,
        Codec::Protobuf(Package::Io),
        Codec::Protobuf(Package::Apache),
    ]);
    let frame = (bodies, types, compressors, codecs, any::<i32>(), head).prop_map(
        |((version, body), msg_type, compressor, codec, request_id, head)| Frame {
            version,
            msg_type,
            codec,
            compressor,
            request_id,
            head,
            body: (!msg_type.is_heartbeat()).then_some(body),
        },
    );
    // Only a body tells the two formats of lz4 apart.
    let frame = frame.prop_map(|frame| match (frame.compressor, &frame.body) {
        (Compressor::Lz4(_), None) => Frame {
            compressor: Compressor::Lz4(Lz4Format::Frame),
            ..frame
        },
        _ => frame,
    });
    // Protobuf tells some values by the nearest that it has a name for, and some messages not at all.
    frame.prop_map(|frame| match frame.codec {
        Codec::Seata => frame,
        Codec::Protobuf(_) => {
            let mut bytes = BytesMut::new();
            match frame::encode(&frame, &mut bytes) {
                Ok(()) => decoder().decode(&mut bytes).unwrap().unwrap(),
                Err(error) => {
                    assert_eq!(error.code().to_string(), "SW0023", "{error}");
                    let codec = Codec::Seata;
                    Frame { codec, ..frame }
                }
            }
        }
    })
}

fn decoder() -> FrameDecoder {
    FrameDecoder::new(MAX_FRAME_BYTES_DEFAULT)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_stream_of_frames_cut_anywhere_comes_out_as_it_went_in(
        frames in vec(any_frame(), 1..4),
        cuts in vec(1usize..400, 1..20),
    ) {
        let mut stream = BytesMut::new();
        for frame in &frames {
            frame::encode(frame, &mut stream).unwrap();
        }
        let mut decoder = decoder();
        let mut buf = BytesMut::new();
        let mut out = Vec::new();
        let mut cuts = cuts.into_iter().cycle();
        while !stream.is_empty() {
            let piece = stream.split_to(cuts.next().unwrap().min(stream.len()));
            buf.put_slice(&piece);
            while let Some(frame) = decoder.decode(&mut buf).unwrap() {
                out.push(frame);
            }
        }
        prop_assert!(buf.is_empty());
        prop_assert_eq!(out, frames);
    }

    #[test]
    fn a_body_cut_short_anywhere_is_refused(
        (version, message) in select(vec![ProtocolVersion::V1, ProtocolVersion::V2])
            .prop_flat_map(|version| (Just(version), message(version))),
    ) {
        let mut body = BytesMut::new();
        message.encode(version, &mut body).unwrap();
        // Long texts add no new places to cut, only time.
        let step = (body.len() / 300).max(1);
        for end in (0..body.len()).step_by(step) {
            let cut = Message::decode(version, &body[..end]);
            prop_assert!(cut.is_err(), "cut at {} of {}: {:?}", end, body.len(), cut);
        }
        body.put_u8(0);
        prop_assert!(Message::decode(version, &body).is_err());
    }

    #[test]
    fn what_damaged_bytes_decode_to_can_be_encoded_again(
        frame in any_frame(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = BytesMut::new();
        frame::encode(&frame, &mut bytes).unwrap();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(Some(read)) = decoder().decode(&mut bytes) {
            let mut again = BytesMut::new();
            frame::encode(&read, &mut again).unwrap();
            prop_assert_eq!(decoder().decode(&mut again).unwrap(), Some(read));
        }
    }

    #[test]
    fn garbage_behind_a_good_head_never_panics(
        version in 1u8..=2,
        codec in 1u8..=2,
        body in vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = BytesMut::new();
        bytes.put_u16(0xdada);
        bytes.put_u8(version);
        bytes.put_u32(16 + body.len() as u32);
        bytes.put_u16(16);
        bytes.put_slice(&[0, codec, 0, 0, 0, 0, 9]);
        bytes.put_slice(&body);
        let _ = decoder().decode(&mut bytes);
    }
}
