//! What clients may do wrong, over real sockets: it ends at most their own connection.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use settle_sdk::connection::{Connection, ConnectionError, obedient};
use settle_seata_wire::{
    BranchEnd, BranchEndResponse, BranchRegister, BranchReport, BranchStatus, BranchType, Frame, FrameDecoder,
    GlobalStatus, Identity, MAX_FRAME_BYTES_DEFAULT, Message, MsgType, Outcome, ProtocolVersion, RegisterRm, TxResult,
    frame,
};
use settle_testkit::{Cluster, until, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{RESOURCE, SOON, connect_rm, connect_tm, spec, turn};

/// A client that may send anything.
struct Raw {
    stream: TcpStream,
    decoder: FrameDecoder,
    buffer: BytesMut,
    next_id: i32,
}

impl Raw {
    async fn connect(address: SocketAddr) -> Result<Raw> {
        let stream = TcpStream::connect(address).await?;
        let decoder = FrameDecoder::new(MAX_FRAME_BYTES_DEFAULT);
        Ok(Raw {
            stream,
            decoder,
            buffer: BytesMut::new(),
            next_id: 0,
        })
    }

    /// Registered as a resource manager of `RESOURCE`.
    async fn rm(address: SocketAddr) -> Result<Raw> {
        let mut raw = Raw::connect(address).await?;
        let identity = Identity {
            version: "1.8.0".to_owned(),
            application_id: "bank".to_owned(),
            transaction_service_group: "default_tx_group".to_owned(),
            extra_data: String::new(),
        };
        let register = RegisterRm {
            identity,
            resource_ids: RESOURCE.to_owned(),
        };
        match raw.ask(Message::RegisterRmRequest(register)).await? {
            Message::RegisterRmResponse(response) if response.identified => Ok(raw),
            other => bail!("not registered: {other:?}"),
        }
    }

    async fn send(&mut self, frame: &Frame) -> Result<()> {
        let mut bytes = BytesMut::new();
        frame::encode(frame, &mut bytes)?;
        Ok(self.stream.write_all(&bytes).await?)
    }

    /// The next frame; `None` when the server closed.
    async fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            let read = within(
                "the server answers or closes",
                SOON,
                self.stream.read_buf(&mut self.buffer),
            )
            .await?;
            // A close with bytes of ours unread comes as a reset.
            if read.unwrap_or(0) == 0 {
                return Ok(None);
            }
        }
    }

    async fn ask(&mut self, body: Message) -> Result<Message> {
        self.next_id += 1;
        let id = self.next_id;
        self.send(&Frame::request(ProtocolVersion::V1, MsgType::RequestSync, id, body))
            .await?;
        loop {
            let frame = self.next().await?.context("closed instead of answered")?;
            if frame.msg_type == MsgType::Response && frame.request_id == id {
                return frame.body.context("an answer has a body");
            }
        }
    }

    async fn register_branch(&mut self, xid: &str, row: &str) -> Result<i64> {
        let register = BranchRegister {
            xid: xid.to_owned(),
            branch_type: BranchType::At,
            resource_id: RESOURCE.to_owned(),
            lock_key: row.to_owned(),
            application_data: String::new(),
        };
        match self.ask(Message::BranchRegister(register)).await? {
            Message::BranchRegisterResponse(response) if response.result.is_success() => Ok(response.branch_id),
            other => bail!("not registered: {other:?}"),
        }
    }

    /// The next call to commit a branch, with the frame to answer to.
    async fn call(&mut self) -> Result<(Frame, BranchEnd)> {
        loop {
            let mut frame = self.next().await?.context("closed instead of called")?;
            if let Some(Message::BranchCommit(call)) = frame.body.take() {
                return Ok((frame, call));
            }
        }
    }

    async fn answer(&mut self, call: &Frame, response: BranchEndResponse) -> Result<()> {
        self.send(&call.response(Message::BranchCommitResponse(response))).await
    }

    /// # Errors
    /// When the server does not close.
    async fn closed(&mut self) -> Result<()> {
        match self.next().await? {
            None => Ok(()),
            Some(frame) => bail!("answered instead of closed: {frame:?}"),
        }
    }
}

/// A cluster of one, and a client that must not notice any of it.
async fn server() -> Result<(Cluster, Connection)> {
    let cluster = Cluster::start(spec(1)).await?;
    let tm = connect_tm(cluster.tx(1), SOON).await?;
    Ok((cluster, tm))
}

async fn logged(cluster: &Cluster, code: &str) -> Result<()> {
    until(&format!("the log names {code}"), SOON, async || {
        ensure!(cluster.log(1).contains(code), "it does not");
        Ok::<_, anyhow::Error>(())
    })
    .await
}

async fn still_serves(tm: &Connection) -> Result<()> {
    let xid = tm
        .begin("unharmed", 60_000)
        .await
        .context("another connection was harmed")?;
    assert_eq!(tm.commit(&xid).await?, GlobalStatus::Committed);
    Ok(())
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, ConnectionError>) -> String {
    match answer {
        Err(ConnectionError::Refused { message }) => message,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn bytes_that_are_no_frames_end_their_own_connection_alone() -> Result<()> {
    let _turn = turn().await;
    let (cluster, tm) = server().await?;
    let address = cluster.tx(1);
    // Magic, version 1, a frame of almost 2 GiB.
    let oversized = [0xda, 0xda, 1, 0x7f, 0xff, 0xff, 0xff, 0, 16, 0, 1, 0, 0, 0, 0, 1];
    let lying = [0xda, 0xda, 1, 0, 0, 0, 17, 0, 99, 0, 1, 0, 0, 0, 0, 1, 0];
    let unknown_type = [0xda, 0xda, 1, 0, 0, 0, 18, 0, 16, 0, 1, 0, 0, 0, 0, 1, 0x7f, 0x7f];
    let cases: [(&[u8], &str); 5] = [
        (b"GET / HTTP/1.1\r\nhost: settle\r\n\r\n", "SW0001"),
        (&[0xff; 4096], "SW0001"),
        (&oversized, "SW0003"),
        (&lying, "SW0004"),
        (&unknown_type, "SW0013"),
    ];
    for (bytes, code) in cases {
        let mut raw = Raw::connect(address).await?;
        raw.stream.write_all(bytes).await?;
        raw.closed().await.with_context(|| format!("{code} by {bytes:?}"))?;
        logged(&cluster, code).await?;
        still_serves(&tm).await?;
    }
    cluster.finish();
    Ok(())
}

#[tokio::test]
async fn a_frame_cut_by_the_end_of_its_connection_is_forgotten() -> Result<()> {
    let _turn = turn().await;
    let (cluster, tm) = server().await?;
    let xid = tm.begin("cut", 60_000).await?;
    let mut whole = BytesMut::new();
    let commit = Message::GlobalCommit(settle_seata_wire::GlobalEnd {
        xid: xid.clone(),
        extra_data: String::new(),
    });
    frame::encode(
        &Frame::request(ProtocolVersion::V1, MsgType::RequestSync, 1, commit),
        &mut whole,
    )?;
    for len in [1, 7, 15, 16, whole.len() - 1] {
        let mut raw = Raw::rm(cluster.tx(1)).await?;
        raw.stream.write_all(&whole[..len]).await?;
        raw.stream.shutdown().await?;
        raw.closed().await?;
    }
    assert_eq!(
        tm.status(&xid).await?,
        GlobalStatus::Begin,
        "a frame without its end asks for nothing"
    );
    still_serves(&tm).await?;
    cluster.finish();
    Ok(())
}

#[tokio::test]
async fn a_request_before_the_registration_ends_the_connection() -> Result<()> {
    let _turn = turn().await;
    let (cluster, tm) = server().await?;
    let mut raw = Raw::connect(cluster.tx(1)).await?;
    let begin = Message::GlobalBegin(settle_seata_wire::GlobalBegin {
        timeout_ms: 60_000,
        transaction_name: "nobody".to_owned(),
    });
    raw.send(&Frame::request(ProtocolVersion::V1, MsgType::RequestSync, 1, begin))
        .await?;
    raw.closed().await?;
    logged(&cluster, "TG0001").await?;
    still_serves(&tm).await?;
    cluster.finish();
    Ok(())
}

#[tokio::test]
async fn an_xid_of_another_server_is_told_as_one_that_will_not_be_committed_and_takes_no_branch() -> Result<()> {
    let _turn = turn().await;
    let (cluster, tm) = server().await?;
    let rm = connect_rm(cluster.tx(1), obedient(), SOON).await?;
    let xid = tm.begin("mine", 60_000).await?;
    let (_, id) = xid.rsplit_once(':').context("an xid ends in its number")?;
    let never_begun = format!("{}{}", &xid[..xid.len() - id.len()], id.parse::<i64>()? + 1_000_000);
    let of_another_server = format!("10.1.2.3:8091:{id}");
    for (strange, code) in [
        ("", "TG0014"),
        ("no xid", "TG0014"),
        (&of_another_server, "TG0014"),
        (&never_begun, "TX0001"),
    ] {
        assert_eq!(tm.status(strange).await?, GlobalStatus::Unknown, "{strange:?}");
        for answer in [tm.commit(strange).await, tm.rollback(strange).await] {
            assert_eq!(answer?, GlobalStatus::TimeoutRollbacked, "{strange:?}");
        }
        let message = refusal(rm.register_branch(strange, BranchType::At, RESOURCE, "account:1").await);
        assert!(message.contains(code), "{strange:?}: {message}");
    }
    assert_eq!(tm.status(&xid).await?, GlobalStatus::Begin);
    still_serves(&tm).await?;
    cluster.finish();
    Ok(())
}

#[tokio::test]
async fn a_branch_of_anothers_transaction_is_not_reported_and_a_decided_one_takes_no_more() -> Result<()> {
    let _turn = turn().await;
    let (cluster, tm) = server().await?;
    let rm = connect_rm(cluster.tx(1), obedient(), SOON).await?;
    let (mine, others) = (tm.begin("mine", 60_000).await?, tm.begin("other's", 60_000).await?);
    let branch = rm
        .register_branch(&others, BranchType::At, RESOURCE, "account:1")
        .await?;
    let report = BranchReport {
        xid: mine.clone(),
        branch_id: branch,
        resource_id: RESOURCE.to_owned(),
        status: BranchStatus::PhaseOneFailed,
        application_data: String::new(),
        branch_type: BranchType::At,
    };
    match rm.call(Message::BranchReport(report)).await? {
        Message::BranchReportResponse(TxResult {
            outcome: Outcome::Failed { message },
            ..
        }) => {
            assert!(message.contains("TX0004"), "{message}");
        }
        other => panic!("not refused: {other:?}"),
    }
    let shown = cluster.get(1, &format!("/v1/tx/{others}")).await?.body;
    assert!(shown.contains("Registered"), "the other's branch was touched: {shown}");

    // The row is the other's until it ends.
    let message = refusal(rm.register_branch(&mine, BranchType::At, RESOURCE, "account:1").await);
    assert!(message.contains("TX0003"), "{message}");
    tm.commit(&others).await?;
    let message = refusal(rm.register_branch(&others, BranchType::At, RESOURCE, "account:2").await);
    assert!(message.contains("TX0001") || message.contains("TX0002"), "{message}");
    rm.register_branch(&mine, BranchType::At, RESOURCE, "account:1").await?;
    cluster.finish();
    Ok(())
}

#[tokio::test]
async fn an_end_repeated_or_turned_round_is_answered_with_the_outcome_that_stands() -> Result<()> {
    let _turn = turn().await;
    let (cluster, tm) = server().await?;
    let committed = tm.begin("committed", 60_000).await?;
    for _ in 0..2 {
        assert_eq!(tm.commit(&committed).await?, GlobalStatus::Committed);
    }
    assert_eq!(tm.rollback(&committed).await?, GlobalStatus::Committed);
    assert_eq!(tm.status(&committed).await?, GlobalStatus::Committed);

    let rolled_back = tm.begin("rolled back", 60_000).await?;
    for _ in 0..2 {
        assert_eq!(tm.rollback(&rolled_back).await?, GlobalStatus::Rollbacked);
    }
    assert_eq!(tm.commit(&rolled_back).await?, GlobalStatus::TimeoutRollbacked);
    assert_eq!(tm.status(&rolled_back).await?, GlobalStatus::Rollbacked);
    cluster.finish();
    Ok(())
}

#[tokio::test]
async fn nonsense_from_a_resource_manager_changes_nothing_and_the_branch_is_asked_again() -> Result<()> {
    let _turn = turn().await;
    let (cluster, tm) = server().await?;
    let mut rm = Raw::rm(cluster.tx(1)).await?;
    let xid = tm.begin("nonsense", 60_000).await?;
    let branch = rm.register_branch(&xid, "account:1").await?;
    let done = |xid: &str, branch_id| BranchEndResponse {
        result: TxResult::SUCCESS,
        xid: xid.to_owned(),
        branch_id,
        status: BranchStatus::PhaseTwoCommitted,
    };
    // An answer to nothing, before anything was asked.
    let unasked = Frame::request(
        ProtocolVersion::V1,
        MsgType::RequestSync,
        4711,
        Message::BranchCommitResponse(done(&xid, branch)),
    );
    rm.send(&Frame {
        msg_type: MsgType::Response,
        ..unasked
    })
    .await?;

    assert_eq!(tm.commit(&xid).await?, GlobalStatus::Committed);
    // It speaks of another branch: its connection is closed, the branch asked again elsewhere.
    let (call, asked) = rm.call().await?;
    assert_eq!((asked.xid.as_str(), asked.branch_id), (xid.as_str(), branch));
    rm.answer(&call, done(&xid, branch + 1)).await?;
    rm.closed().await?;
    logged(&cluster, "TG0017").await?;

    let mut rm = Raw::rm(cluster.tx(1)).await?;
    // "Rolled back" is no answer to a commit; nor is a failure that calls itself done.
    let (call, _) = rm.call().await?;
    rm.answer(
        &call,
        BranchEndResponse {
            status: BranchStatus::PhaseTwoRollbacked,
            ..done(&xid, branch)
        },
    )
    .await?;
    let (call, _) = rm.call().await?;
    let result = TxResult::failed(settle_seata_wire::ExceptionCode::Unknown, "no".to_owned());
    rm.answer(
        &call,
        BranchEndResponse {
            result,
            ..done(&xid, branch)
        },
    )
    .await?;
    let (call, _) = rm.call().await?;
    assert_ne!(
        tm.status(&xid).await?,
        GlobalStatus::Committed,
        "nothing of that was an answer"
    );
    rm.answer(&call, done(&xid, branch)).await?;
    // And again: it is known.
    rm.answer(&call, done(&xid, branch)).await?;
    until("the branch is committed", SOON, async || {
        let status = tm.status(&xid).await?;
        ensure!(status == GlobalStatus::Committed, "it is {status:?}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    still_serves(&tm).await?;
    cluster.finish();
    Ok(())
}
