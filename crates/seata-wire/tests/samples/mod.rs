//! One frame per case of the vector files, in their order, built by hand.

use settle_seata_wire::*;

pub const XID: &str = "192.168.0.1:8091:2612341069705662465";
pub const RESOURCE: &str = "jdbc:mysql://127.0.0.1:3306/账户";
const BRANCH_ID: i64 = 2_612_341_069_705_662_466;

fn identity(application_id: &str, extra_data: &str) -> Identity {
    Identity {
        version: "1.8.0".into(),
        application_id: application_id.into(),
        transaction_service_group: "my_tx_group".into(),
        extra_data: extra_data.into(),
    }
}

fn register_response(identified: bool, version: &str) -> RegisterResponse {
    let outcome = if identified {
        Outcome::Success
    } else {
        Outcome::Failed { message: String::new() }
    };
    RegisterResponse {
        outcome,
        identified,
        version: version.into(),
    }
}

fn begin(timeout_ms: i32, name: &str) -> Message {
    Message::GlobalBegin(GlobalBegin {
        timeout_ms,
        transaction_name: name.into(),
    })
}

fn begin_response(result: TxResult, xid: &str, extra_data: &str) -> Message {
    Message::GlobalBeginResponse(GlobalBeginResponse {
        result,
        xid: xid.into(),
        extra_data: extra_data.into(),
    })
}

fn global_end(extra_data: &str) -> GlobalEnd {
    GlobalEnd {
        xid: XID.into(),
        extra_data: extra_data.into(),
    }
}

fn report(extra_data: &str, status: Option<GlobalStatus>) -> Message {
    Message::GlobalReport(GlobalReport {
        xid: XID.into(),
        extra_data: extra_data.into(),
        status,
    })
}

fn ended(status: GlobalStatus) -> GlobalEndResponse {
    GlobalEndResponse {
        result: TxResult::SUCCESS,
        status,
    }
}

fn branch(xid: &str, branch_type: BranchType, resource_id: &str, lock_key: &str, data: &str) -> BranchRegister {
    BranchRegister {
        xid: xid.into(),
        branch_type,
        resource_id: resource_id.into(),
        lock_key: lock_key.into(),
        application_data: data.into(),
    }
}

fn registered(result: TxResult, branch_id: i64) -> Message {
    Message::BranchRegisterResponse(BranchRegisterResponse { result, branch_id })
}

fn branch_report(status: BranchStatus, branch_type: BranchType, data: &str) -> Message {
    Message::BranchReport(BranchReport {
        xid: XID.into(),
        branch_id: -2,
        status,
        resource_id: RESOURCE.into(),
        application_data: data.into(),
        branch_type,
    })
}

fn branch_end(branch_type: BranchType, resource_id: &str, data: &str) -> BranchEnd {
    BranchEnd {
        xid: XID.into(),
        branch_id: BRANCH_ID,
        branch_type,
        resource_id: resource_id.into(),
        application_data: data.into(),
    }
}

fn branch_ended(result: TxResult, branch_id: i64, status: BranchStatus) -> BranchEndResponse {
    BranchEndResponse {
        result,
        xid: XID.into(),
        branch_id,
        status,
    }
}

/// Numbers the frames as the vectors do and remembers their names.
struct Frames {
    named: Vec<(&'static str, Frame)>,
    next_id: i32,
}

impl Frames {
    fn push(&mut self, name: &'static str, msg_type: MsgType, body: Message) {
        self.named
            .push((name, Frame::request(ProtocolVersion::V1, msg_type, self.next_id, body)));
        self.next_id += 1;
    }

    fn sync(&mut self, name: &'static str, body: Message) {
        self.push(name, MsgType::RequestSync, body);
    }

    fn oneway(&mut self, name: &'static str, body: Message) {
        self.push(name, MsgType::RequestOneway, body);
    }

    fn resp(&mut self, name: &'static str, body: Message) {
        self.push(name, MsgType::Response, body);
    }
}

/// Every case of `seata-all-2.6.0.txt`; those of `seata-all-1.8.0.txt` are the first of them.
pub fn named_frames() -> Vec<(&'static str, Frame)> {
    let ping = Frame::ping(ProtocolVersion::V1, 7);
    let pong = ping.pong();
    let mut f = Frames {
        named: vec![("heartbeat_request", ping), ("heartbeat_response", pong)],
        next_id: 1,
    };
    registrations(&mut f);
    globals(&mut f);
    branches(&mut f);
    merges(&mut f);
    heads_and_compressors(&mut f);
    newer_values(&mut f);
    f.named
}

fn registrations(f: &mut Frames) {
    let extra = "vgroup=my_tx_group\nip=10.0.0.7\nak=\ndigest=my_tx_group,10.0.0.7,1700000000000\n\
                 timestamp=1700000000000\nauthVersion=V4\n";
    f.sync(
        "register_tm",
        Message::RegisterTmRequest(identity("order-service", extra)),
    );
    f.sync("register_tm_nulls", Message::RegisterTmRequest(Identity::default()));
    f.resp(
        "register_tm_response",
        Message::RegisterTmResponse(register_response(true, "1.8.0")),
    );
    f.resp(
        "register_tm_response_refused",
        Message::RegisterTmResponse(register_response(false, "")),
    );
    f.oneway(
        "register_rm",
        Message::RegisterRmRequest(RegisterRm {
            identity: identity("stock-service", "x=é😀"),
            resource_ids: format!("{RESOURCE},jdbc:mysql://127.0.0.1:3306/b"),
        }),
    );
    f.sync(
        "register_rm_null_resources",
        Message::RegisterRmRequest(RegisterRm {
            identity: identity("stock-service", ""),
            resource_ids: String::new(),
        }),
    );
    f.resp(
        "register_rm_response",
        Message::RegisterRmResponse(register_response(true, "1.8.0")),
    );
}

fn globals(f: &mut Frames) {
    f.sync("global_begin", begin(60_000, "test"));
    f.sync("global_begin_null_name", begin(i32::MIN, ""));
    f.sync("global_begin_long_name", begin(1, &"n".repeat(32_767)));
    f.resp("global_begin_response", begin_response(TxResult::SUCCESS, XID, "extra"));
    let failed = TxResult::failed(ExceptionCode::BeginFailed, "TransactionException[失败]");
    f.resp("global_begin_response_failed", begin_response(failed, "", ""));
    let failed = TxResult::failed(ExceptionCode::FailedStore, "");
    f.resp("global_begin_response_failed_null_msg", begin_response(failed, "", ""));
    let failed = TxResult::failed(ExceptionCode::Io, "m".repeat(32_767));
    f.resp("global_begin_response_long_msg", begin_response(failed, "", ""));
    f.sync("global_commit", Message::GlobalCommit(global_end("")));
    f.sync("global_rollback", Message::GlobalRollback(global_end("why")));
    f.sync("global_status", Message::GlobalStatus(global_end("")));
    f.sync("global_report", report("saga", Some(GlobalStatus::RollbackFailed)));
    f.sync("global_report_null_status", report("", None));
    f.resp(
        "global_commit_response",
        Message::GlobalCommitResponse(ended(GlobalStatus::Committed)),
    );
    f.resp(
        "global_commit_response_failed",
        Message::GlobalCommitResponse(GlobalEndResponse {
            result: TxResult::failed(ExceptionCode::GlobalTransactionNotExist, "RuntimeException[x]"),
            status: GlobalStatus::Finished,
        }),
    );
    f.resp(
        "global_rollback_response",
        Message::GlobalRollbackResponse(ended(GlobalStatus::Rollbacked)),
    );
    f.resp(
        "global_status_response",
        Message::GlobalStatusResponse(ended(GlobalStatus::RollbackRetryTimeout)),
    );
    f.resp(
        "global_report_response",
        Message::GlobalReportResponse(ended(GlobalStatus::CommitRetrying)),
    );
}

fn branches(f: &mut Frames) {
    let at = branch(XID, BranchType::At, RESOURCE, "account:1,2;表:😀", "{\"k\":1}");
    f.sync("branch_register", Message::BranchRegister(at));
    f.sync(
        "branch_register_nulls",
        Message::BranchRegister(branch("", BranchType::Xa, "", "", "")),
    );
    let long = branch(
        XID,
        BranchType::Tcc,
        "prepare",
        &"k".repeat(70_000),
        &"d".repeat(66_000),
    );
    f.sync("branch_register_long", Message::BranchRegister(long));
    f.resp("branch_register_response", registered(TxResult::SUCCESS, i64::MAX));
    let conflict = TxResult::failed(ExceptionCode::LockKeyConflict, "Global lock acquire failed");
    f.resp("branch_register_response_conflict", registered(conflict, 0));
    let fail_fast = TxResult::failed(ExceptionCode::LockKeyConflictFailFast, "");
    f.resp("branch_register_response_fail_fast", registered(fail_fast, 0));
    f.sync(
        "branch_report",
        branch_report(BranchStatus::PhaseOneDone, BranchType::At, ""),
    );
    f.sync(
        "branch_report_failed",
        branch_report(BranchStatus::PhaseOneFailed, BranchType::Saga, "data"),
    );
    f.resp(
        "branch_report_response",
        Message::BranchReportResponse(TxResult::SUCCESS),
    );
    let query = branch(XID, BranchType::At, RESOURCE, "account:1", "");
    f.sync("global_lock_query", Message::GlobalLockQuery(query));
    let free = GlobalLockQueryResponse {
        result: TxResult::SUCCESS,
        lockable: true,
    };
    f.resp("global_lock_query_response", Message::GlobalLockQueryResponse(free));
    let taken = GlobalLockQueryResponse {
        result: TxResult::failed(ExceptionCode::LockableCheckFailed, "no"),
        lockable: false,
    };
    f.resp(
        "global_lock_query_response_failed",
        Message::GlobalLockQueryResponse(taken),
    );
    f.sync(
        "branch_commit",
        Message::BranchCommit(branch_end(BranchType::At, RESOURCE, "")),
    );
    let tcc = branch_end(BranchType::Tcc, "prepare", "{\"actionContext\":{}}");
    f.sync("branch_rollback", Message::BranchRollback(tcc));
    let committed = branch_ended(TxResult::SUCCESS, BRANCH_ID, BranchStatus::PhaseTwoCommitted);
    f.resp("branch_commit_response", Message::BranchCommitResponse(committed));
    let rollbacked = branch_ended(TxResult::SUCCESS, BRANCH_ID, BranchStatus::PhaseTwoRollbacked);
    f.resp("branch_rollback_response", Message::BranchRollbackResponse(rollbacked));
    let dirty = TxResult::failed(ExceptionCode::BranchRollbackFailedRetriable, "row is dirty");
    let dirty = branch_ended(dirty, -1, BranchStatus::PhaseTwoRollbackFailedXaerNotaRetryable);
    f.resp(
        "branch_rollback_response_failed",
        Message::BranchRollbackResponse(dirty),
    );
    let undo = UndoLogDelete {
        branch_type: BranchType::At,
        resource_id: RESOURCE.into(),
        save_days: 7,
    };
    f.oneway("undo_log_delete", Message::UndoLogDelete(undo));
}

fn merges(f: &mut Frames) {
    let items = vec![
        (
            Some(41),
            Message::BranchRegister(branch(XID, BranchType::At, RESOURCE, "account:1", "")),
        ),
        (Some(-42), branch_report(BranchStatus::PhaseOneDone, BranchType::At, "")),
        (Some(43), begin(60_000, "merged")),
    ];
    f.oneway("merged", Message::Merged(MergedRequest { items }));
    let items = vec![
        (
            None,
            Message::GlobalLockQuery(branch(XID, BranchType::At, RESOURCE, "account:1", "")),
        ),
        (None, Message::GlobalStatus(global_end(""))),
    ];
    f.oneway("merged_without_ids", Message::Merged(MergedRequest { items }));
    let results = vec![
        registered(TxResult::SUCCESS, 5),
        Message::BranchReportResponse(TxResult::failed(ExceptionCode::BranchReportFailed, "no")),
        begin_response(TxResult::SUCCESS, XID, ""),
    ];
    f.resp("merge_result", Message::MergeResult(results));
    let items = vec![
        (41, registered(TxResult::SUCCESS, 5)),
        (i32::MIN, Message::GlobalStatusResponse(ended(GlobalStatus::Begin))),
    ];
    f.resp("batch_result", Message::BatchResult { items });
}

fn heads_and_compressors(f: &mut Frames) {
    let head_of = |key: &str, value: Option<&str>| vec![(key.to_owned(), value.map(str::to_owned))];
    let request = |id, body| Frame::request(ProtocolVersion::V1, MsgType::RequestSync, id, body);
    let ping = || Frame::ping(ProtocolVersion::V1, 1);
    let many_rows = branch(XID, BranchType::At, RESOURCE, &"account:1;".repeat(50), "");
    f.named.extend([
        (
            "head_map",
            Frame {
                head: head_of("key", Some("value")),
                ..request(-1, begin(60_000, "head"))
            },
        ),
        (
            "head_map_null",
            Frame {
                head: head_of("n", None),
                ..ping()
            },
        ),
        (
            "head_map_empty",
            Frame {
                head: head_of("", Some("")),
                ..ping()
            },
        ),
        (
            "gzip",
            Frame {
                compressor: Compressor::Gzip,
                ..request(100, Message::BranchRegister(many_rows.clone()))
            },
        ),
        (
            "zstd",
            Frame {
                compressor: Compressor::Zstd,
                ..request(101, Message::BranchRegister(many_rows))
            },
        ),
    ]);
}

/// What 1.8.0 does not know.
fn newer_values(f: &mut Frames) {
    let annotated = branch(XID, BranchType::SagaAnnotation, "act", "", "");
    f.sync("branch_register_saga_annotation", Message::BranchRegister(annotated));
    let stopped = ended(GlobalStatus::StopRollbackOrRollbackRetry);
    f.resp("global_status_response_stopped", Message::GlobalStatusResponse(stopped));
    let read_only = branch_ended(TxResult::SUCCESS, 3, BranchStatus::PhaseOneReadOnly);
    f.resp(
        "branch_commit_response_read_only",
        Message::BranchCommitResponse(read_only),
    );
    let not_leader = TxResult::failed(ExceptionCode::NotRaftLeader, "not leader");
    f.resp("branch_register_response_not_leader", registered(not_leader, 0));
}
