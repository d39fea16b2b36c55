//! A server that authenticates its clients, and changes its mind while they are connected.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use settle_sdk::{
    AccessKey, Options,
    connection::{Connection, Role, obedient},
};
use settle_seata_wire::{
    BranchRegister, BranchReport, BranchStatus, BranchType, Frame, FrameDecoder, GlobalBegin, GlobalEnd, GlobalStatus,
    Identity, MAX_FRAME_BYTES_DEFAULT, Message, MsgType, Outcome, ProtocolVersion, RegisterRm, TxResult, frame,
    signature::sign,
};
use settle_telemetry::Clock;
use settle_testkit::{Cluster, ClusterSpec, Scratch, until, within};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::{RESOURCE, SOON, spec, turn};

pub(crate) const GROUP: &str = "bank_group";
pub(crate) const SECRET: &str = "a secret of the bank";

/// A client that says what it is told to.
pub(crate) struct Client<S> {
    stream: S,
    decoder: FrameDecoder,
    buffer: BytesMut,
    next_id: i32,
}

impl Client<TcpStream> {
    async fn connect(address: SocketAddr) -> Result<Client<TcpStream>> {
        Ok(Client::over(TcpStream::connect(address).await?))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) fn over(stream: S) -> Client<S> {
        Client {
            stream,
            decoder: FrameDecoder::new(MAX_FRAME_BYTES_DEFAULT),
            buffer: BytesMut::new(),
            next_id: 0,
        }
    }

    /// The answer; `None` when the server closed instead.
    pub(crate) async fn ask(&mut self, body: Message) -> Result<Option<Message>> {
        self.next_id += 1;
        let mut bytes = BytesMut::new();
        let request = Frame::request(ProtocolVersion::V2, MsgType::RequestSync, self.next_id, body);
        frame::encode(&request, &mut bytes)?;
        self.stream.write_all(&bytes).await?;
        self.stream.flush().await?;
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buffer)? {
                if frame.msg_type == MsgType::Response && frame.request_id == self.next_id {
                    return Ok(frame.body);
                }
                continue;
            }
            let read = self.stream.read_buf(&mut self.buffer);
            // A close with bytes of ours unread comes as a reset.
            if within("the server answers or closes", SOON, read).await?.unwrap_or(0) == 0 {
                return Ok(None);
            }
        }
    }

    /// Registers; a refusal is its words.
    async fn register(&mut self, body: Message) -> Result<Result<(), String>> {
        let answer = self.ask(body).await?.context("closed instead of answered")?;
        let (Message::RegisterTmResponse(response) | Message::RegisterRmResponse(response)) = answer else {
            bail!("no answer to a registration: {answer:?}")
        };
        Ok(match response.outcome {
            _ if response.identified => Ok(()),
            Outcome::Failed { message } => Err(message),
            Outcome::Success => Err(String::new()),
        })
    }

    pub(crate) async fn tm(&mut self, extra_data: &str) -> Result<Result<(), String>> {
        self.register(Message::RegisterTmRequest(identity(extra_data))).await
    }

    pub(crate) async fn rm(&mut self, extra_data: &str) -> Result<Result<(), String>> {
        let register = RegisterRm {
            identity: identity(extra_data),
            resource_ids: RESOURCE.to_owned(),
        };
        self.register(Message::RegisterRmRequest(register)).await
    }

    pub(crate) async fn begin(&mut self) -> Result<String> {
        let begin = GlobalBegin {
            timeout_ms: 60_000,
            transaction_name: "transfer".to_owned(),
        };
        match self.ask(Message::GlobalBegin(begin)).await? {
            Some(Message::GlobalBeginResponse(response)) if response.result.is_success() => Ok(response.xid),
            other => bail!("not begun: {other:?}"),
        }
    }

    async fn branch(&mut self, xid: &str, resource: &str) -> Result<TxResult> {
        let register = BranchRegister {
            xid: xid.to_owned(),
            branch_type: BranchType::At,
            resource_id: resource.to_owned(),
            lock_key: "account:1".to_owned(),
            application_data: String::new(),
        };
        match self.ask(Message::BranchRegister(register)).await? {
            Some(Message::BranchRegisterResponse(response)) => Ok(response.result),
            other => bail!("no answer to a branch: {other:?}"),
        }
    }

    /// Begins and rolls back.
    pub(crate) async fn is_served(&mut self) -> Result<()> {
        let xid = self.begin().await?;
        let extra_data = String::new();
        match self.ask(Message::GlobalRollback(GlobalEnd { xid, extra_data })).await? {
            Some(Message::GlobalRollbackResponse(response)) if response.result.is_success() => Ok(()),
            other => bail!("not rolled back: {other:?}"),
        }
    }

    async fn is_closed(&mut self) -> Result<()> {
        let read = self.stream.read_buf(&mut self.buffer);
        let read = within("the server closes", SOON, read).await?;
        ensure!(read.unwrap_or(0) == 0, "it says something instead");
        Ok(())
    }
}

fn identity(extra_data: &str) -> Identity {
    identity_of("bank", extra_data)
}

fn identity_of(application: &str, extra_data: &str) -> Identity {
    Identity {
        version: "2.7.0".to_owned(),
        application_id: application.to_owned(),
        transaction_service_group: GROUP.to_owned(),
        extra_data: extra_data.to_owned(),
    }
}

fn signed(secret: &str) -> String {
    sign("key", secret, GROUP, "127.0.0.1", Clock::wall().as_millis() as u64)
}

fn policy(access: &str) -> String {
    format!(
        "[[application]]\nid = \"bank\"\nservice-groups = [\"{GROUP}\"]\nresources = [\"{RESOURCE}\"]\n{}",
        one_key(access)
    )
}

fn one_key(access: &str) -> String {
    format!("[[key]]\naccess = \"{access}\"\nsecret = \"{SECRET}\"\napplications = [\"bank\"]\n")
}

fn guarded(policy: &Path) -> ClusterSpec {
    spec(1)
        .set("auth.clients", "\"required\"")
        .set("auth.policy", &format!("{:?}", policy.display().to_string()))
        .set("auth.reload-every", "\"100ms\"")
        .set("auth.unsigned-resource-managers", "\"beside-a-transaction-manager\"")
}

pub(crate) async fn logged(cluster: &Cluster, text: &str) -> Result<()> {
    until(&format!("the log says {text}"), SOON, async || {
        ensure!(cluster.log(1).contains(text), "it does not");
        Ok::<_, anyhow::Error>(())
    })
    .await
}

#[tokio::test]
async fn who_signs_is_served_and_may_use_what_it_is_granted_and_others_are_refused_with_the_reason() -> Result<()> {
    let _turn = turn().await;
    let scratch = Scratch::new()?;
    let path = scratch.path().join("policy.toml");
    std::fs::write(&path, policy("key"))?;
    let cluster = Cluster::start(guarded(&path)).await?;
    let address = cluster.tx(1);

    for (extra_data, told, code) in [
        (String::new(), "AU0001", "AU0001"),
        // Whoever guesses is told the same of a key that is there and of one that is not.
        (signed(SECRET).replace("ak=key", "ak=another"), "AU0003", "AU0002"),
        (signed("another secret of the bank"), "AU0003", "AU0003"),
        (
            sign("key", SECRET, GROUP, "127.0.0.1", 1_700_000_000_000),
            "AU0004",
            "AU0004",
        ),
    ] {
        let mut stranger = Client::connect(address).await?;
        let refused = stranger.tm(&extra_data).await?.expect_err(code);
        assert!(refused.contains(told), "{refused}");
        stranger.is_closed().await?;
        logged(&cluster, code).await?;
    }
    let mut hasty = Client::connect(address).await?;
    assert!(hasty.begin().await.is_err(), "nobody is served before the registration");
    logged(&cluster, "SW0026").await?;

    // Both of the SDK's sign.
    let mut options = Options::new([address.to_string()], "bank");
    options.service_group = GROUP.to_owned();
    options.access_key = Some(AccessKey {
        access: "key".to_owned(),
        secret: SECRET.to_owned(),
    });
    let resources = RESOURCE.to_owned();
    let role = Role::ResourceManager { resources };
    let own = Connection::open(&options.addresses[0], &role, obedient(), &options).await?;
    drop(own);

    // Java's resource manager signs nothing, and is believed beside its transaction manager.
    let alone = Client::connect(address).await?.rm("").await?.expect_err("alone");
    assert!(alone.contains("AU0010"), "{alone}");
    let mut tm = Client::connect(address).await?;
    tm.tm(&signed(SECRET)).await?.expect("signed");
    let mut rm = Client::connect(address).await?;
    rm.rm("").await?.expect("beside");
    let xid = tm.begin().await?;
    match rm.branch(&xid, "jdbc:mysql://another").await?.outcome {
        Outcome::Failed { message } => assert!(message.contains("AU0009"), "{message}"),
        Outcome::Success => panic!("a branch on a resource that is not granted"),
    }
    assert!(rm.branch(&xid, RESOURCE).await?.is_success(), "the connection goes on");
    cluster.finish();
    scratch.finish();
    Ok(())
}

#[tokio::test]
async fn a_changed_policy_holds_without_a_restart_and_ends_who_was_let_in_by_what_is_gone_and_a_bad_one_changes_nothing()
-> Result<()> {
    let _turn = turn().await;
    let scratch = Scratch::new()?;
    let path = scratch.path().join("policy.toml");
    std::fs::write(&path, policy("key"))?;
    let cluster = Cluster::start(guarded(&path)).await?;
    let address = cluster.tx(1);
    let mut before = Client::connect(address).await?;
    before.tm(&signed(SECRET)).await?.expect("signed");
    let mut beside = Client::connect(address).await?;
    beside.rm("").await?.expect("beside");

    std::fs::write(&path, "[[application]]\nname = \"bank\"\n")?;
    logged(&cluster, "CF0008").await?;
    Client::connect(address)
        .await?
        .tm(&signed(SECRET))
        .await?
        .expect("the policy before is in force");

    // One key more changes nothing for who came by the other.
    let more = policy("another").replacen("[[key]]", &format!("{}[[key]]", one_key("key")), 1);
    std::fs::write(&path, more)?;
    logged(&cluster, "policy reloaded").await?;
    before.is_served().await.context("who was in is put out")?;

    std::fs::write(&path, policy("another"))?;
    before.is_closed().await?;
    beside.is_closed().await?;
    logged(&cluster, "AU0013").await?;
    let refused = Client::connect(address)
        .await?
        .tm(&signed(SECRET))
        .await?
        .expect_err("the key is gone");
    assert!(refused.contains("AU0003"), "{refused}");
    cluster.finish();
    scratch.finish();
    Ok(())
}

#[tokio::test]
async fn who_does_not_register_is_closed_and_one_address_has_only_so_many_connections() -> Result<()> {
    let _turn = turn().await;
    let scratch = Scratch::new()?;
    let path = scratch.path().join("policy.toml");
    std::fs::write(&path, policy("key"))?;
    let spec = guarded(&path)
        .set("auth.register-within", "\"1s\"")
        .set("listen.max-connections-per-address", "2");
    let cluster = Cluster::start(spec).await?;
    let address = cluster.tx(1);
    let mut silent = Client::connect(address).await?;
    silent.is_closed().await?;
    logged(&cluster, "TS0016").await?;

    let mut clients = Vec::new();
    while clients.len() < 2 {
        // On a busy machine even this may take longer than a second.
        let client = until("a client is let in", SOON, async || {
            let mut client = Client::connect(address).await?;
            client.tm(&signed(SECRET)).await?.map_err(anyhow::Error::msg)?;
            Ok::<_, anyhow::Error>(client)
        });
        clients.push(client.await?);
    }
    Client::connect(address).await?.is_closed().await?;
    logged(&cluster, "NT0008").await?;
    for client in &mut clients {
        client.is_served().await?;
    }
    cluster.finish();
    scratch.finish();
    Ok(())
}

#[tokio::test]
async fn an_application_has_no_say_in_the_transactions_of_another() -> Result<()> {
    let _turn = turn().await;
    let scratch = Scratch::new()?;
    let path = scratch.path().join("policy.toml");
    let thief = format!(
        "[[application]]\nid = \"thief\"\nservice-groups = [\"{GROUP}\"]\nresources = [\"{RESOURCE}\"]\n{}",
        one_key("own").replace("[\"bank\"]", "[\"thief\"]")
    );
    std::fs::write(&path, format!("{}{thief}", policy("key")))?;
    let cluster = Cluster::start(guarded(&path)).await?;
    let address = cluster.tx(1);
    let mut bank = Client::connect(address).await?;
    bank.tm(&signed(SECRET)).await?.expect("signed");
    bank.rm("").await?.expect("it is known");
    let xid = bank.begin().await?;
    let register = BranchRegister {
        xid: xid.clone(),
        branch_type: BranchType::Tcc,
        resource_id: RESOURCE.to_owned(),
        lock_key: String::new(),
        application_data: String::new(),
    };
    let branch_id = match bank.ask(Message::BranchRegister(register)).await? {
        Some(Message::BranchRegisterResponse(response)) if response.result.is_success() => response.branch_id,
        other => bail!("no branch: {other:?}"),
    };

    let mut thief = Client::connect(address).await?;
    let signed = sign("own", SECRET, GROUP, "127.0.0.1", Clock::wall().as_millis() as u64);
    let identity = identity_of("thief", &signed);
    thief
        .register(Message::RegisterTmRequest(identity))
        .await?
        .expect("signed");
    let report = BranchReport {
        xid: xid.clone(),
        branch_id,
        branch_type: BranchType::Tcc,
        resource_id: RESOURCE.to_owned(),
        status: BranchStatus::PhaseOneFailed,
        application_data: "{}".to_owned(),
    };
    match thief.ask(Message::BranchReport(report)).await? {
        Some(Message::BranchReportResponse(result)) => match result.outcome {
            Outcome::Failed { message } => assert!(message.contains("TX0021"), "{message}"),
            Outcome::Success => bail!("it is believed"),
        },
        other => bail!("no answer to a report: {other:?}"),
    }
    let end = |xid: &str| GlobalEnd {
        xid: xid.to_owned(),
        extra_data: String::new(),
    };
    for ask in [Message::GlobalRollback, Message::GlobalCommit] {
        let (Some(Message::GlobalRollbackResponse(response)) | Some(Message::GlobalCommitResponse(response))) =
            thief.ask(ask(end(&xid))).await?
        else {
            bail!("no answer")
        };
        assert_eq!(
            response.status,
            GlobalStatus::TimeoutRollbacked,
            "as of a transaction of nobody"
        );
    }
    match thief.ask(Message::GlobalStatus(end(&xid))).await? {
        Some(Message::GlobalStatusResponse(response)) => assert_eq!(response.status, GlobalStatus::Unknown),
        other => bail!("no answer: {other:?}"),
    }
    logged(&cluster, "TX0021").await?;
    match bank.ask(Message::GlobalStatus(end(&xid))).await? {
        Some(Message::GlobalStatusResponse(response)) => assert_eq!(response.status, GlobalStatus::Begin),
        other => bail!("no answer: {other:?}"),
    }
    cluster.finish();
    scratch.finish();
    Ok(())
}

#[tokio::test]
async fn strangers_take_no_places_from_those_who_say_who_they_are() -> Result<()> {
    let _turn = turn().await;
    let cluster = Cluster::start(spec(1).set("listen.max-strangers-per-address", "2")).await?;
    let address = cluster.tx(1);
    let mut known = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(address).await?;
        client.tm("").await?.expect("registered");
        known.push(client);
    }
    let strangers = [Client::connect(address).await?, Client::connect(address).await?];
    Client::connect(address).await?.is_closed().await?;
    logged(&cluster, "NT0009").await?;
    for client in &mut known {
        client.is_served().await?;
    }
    drop(strangers);
    cluster.finish();
    Ok(())
}
