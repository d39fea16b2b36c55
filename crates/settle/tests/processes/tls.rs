//! TLS for clients and between servers, with certificates made here and replaced while everything runs.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use settle_net::{Pem, Reading, Stream, TlsClient, Writing};
use settle_sdk::{Error, Options, Tls, Tm};
use settle_testkit::{Cluster, ClusterSpec, Scratch, until};
use tokio::{io::Join, net::TcpStream};

use crate::{
    SOON, spec, turn,
    who_may_connect::{Client, GROUP, logged},
};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Result<Authority> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key)?.pem();
        Ok(Authority {
            issuer: Issuer::new(params, key),
            pem,
        })
    }

    /// A certificate for `name` and its key.
    fn certificate(&self, name: &str) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec![name.to_owned()])?;
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }
}

/// The files of one cluster, all servers of which are at 127.0.0.1.
struct Files {
    folder: PathBuf,
}

impl Files {
    /// Signed by `servers`, and trusting the clients of `clients`.
    fn write(folder: &Path, servers: &Authority, clients: &Authority) -> Result<Files> {
        let files = Files {
            folder: folder.to_owned(),
        };
        let (certificate, key) = servers.certificate("127.0.0.1")?;
        for (name, content) in [
            ("tls.crt", &certificate),
            ("tls.key", &key),
            ("servers.crt", &servers.pem),
            ("clients.crt", &clients.pem),
        ] {
            std::fs::write(files.folder.join(name), content)?;
        }
        Ok(files)
    }

    fn set(&self, spec: ClusterSpec, key: &str, name: &str) -> ClusterSpec {
        spec.set(key, &format!("{:?}", self.folder.join(name).display().to_string()))
    }

    fn certified(&self, spec: ClusterSpec) -> ClusterSpec {
        let spec = self.set(spec, "tls.certificate", "tls.crt");
        let spec = self.set(spec, "tls.key", "tls.key");
        spec.set("auth.reload-every", "\"100ms\"")
    }

    fn with_clients(&self, spec: ClusterSpec) -> ClusterSpec {
        self.set(spec, "tls.client-authorities", "clients.crt")
            .set("tls.tx", "\"mutual\"")
    }

    fn with_peers(&self, spec: ClusterSpec) -> ClusterSpec {
        self.set(spec, "tls.peer-authorities", "servers.crt")
            .set("tls.peer", "\"mutual\"")
    }
}

/// Connects as `name`, signed by `clients`, or as nobody.
async fn connect(
    address: SocketAddr,
    servers: &Authority,
    shown: Option<(&Authority, &str)>,
) -> Result<Client<Join<Reading, Writing>>> {
    let (certificate, key) = match shown {
        Some((clients, name)) => clients.certificate(name)?,
        None => Default::default(),
    };
    let tls = TlsClient::new(Pem {
        certificate: certificate.as_bytes(),
        key: key.as_bytes(),
        authorities: servers.pem.as_bytes(),
    })?;
    let stream = Stream::connect(TcpStream::connect(address).await?, "127.0.0.1", &tls).await?;
    let (reading, writing) = stream.into_split();
    Ok(Client::over(tokio::io::join(reading, writing)))
}

#[tokio::test]
async fn a_client_with_a_certificate_speaks_for_its_application_and_one_without_is_not_heard() -> Result<()> {
    let _turn = turn().await;
    let scratch = Scratch::new()?;
    let (servers, clients, strangers) = (Authority::new()?, Authority::new()?, Authority::new()?);
    let files = Files::write(scratch.path(), &servers, &clients)?;
    let policy = scratch.path().join("policy.toml");
    std::fs::write(
        &policy,
        format!(
            "[[application]]\nid = \"bank\"\nservice-groups = [\"{GROUP}\"]\nresources = [\"*\"]\n\
             [[certificate]]\nname = \"bank.internal\"\napplications = [\"bank\"]\n"
        ),
    )?;
    let spec = files.with_clients(files.certified(spec(1)));
    let spec = spec
        .set("auth.clients", "\"required\"")
        .set("auth.policy", &format!("{:?}", policy.display().to_string()));
    let cluster = Cluster::start(spec).await?;
    let address = cluster.tx(1);

    // The resource manager needs no signature: its certificate says who it is.
    let mut tm = connect(address, &servers, Some((&clients, "bank.internal"))).await?;
    tm.tm("").await?.expect("its certificate speaks for it");
    tm.is_served().await?;
    let mut rm = connect(address, &servers, Some((&clients, "bank.internal"))).await?;
    rm.rm("").await?.expect("its certificate speaks for it");
    let mut other = connect(address, &servers, Some((&clients, "stock.internal"))).await?;
    let refused = other.tm("").await?.expect_err("another's certificate");
    assert!(refused.contains("AU0001"), "{refused}");
    for shown in [Some((&strangers, "bank.internal")), None] {
        // With TLS 1.3 the client learns of the refusal only when it reads.
        let heard = match connect(address, &servers, shown).await {
            Ok(mut client) => client.tm("").await.is_ok(),
            Err(_) => false,
        };
        assert!(!heard, "a client without a certificate that is trusted");
    }
    logged(&cluster, "NT0007").await?;

    // The SDK with that certificate, and with none.
    let (certificate, key) = clients.certificate("bank.internal")?;
    let mut options = Options::new([address.to_string()], "bank");
    options.service_group = GROUP.to_owned();
    let own = (certificate.as_bytes(), key.as_bytes());
    options.tls = Some(Tls::from_pem(servers.pem.as_bytes(), Some(own))?);
    let tm = Tm::connect(options.clone()).await?;
    tm.begin("by TLS", SOON).await?.commit().await?;
    options.connect_within = Duration::from_secs(1);
    for tls in [
        Tls::from_pem(servers.pem.as_bytes(), None)?,
        Tls::from_pem(strangers.pem.as_bytes(), Some(own))?,
    ] {
        options.tls = Some(tls);
        let refused = Tm::connect(options.clone()).await;
        ensure!(matches!(refused, Err(Error::Unreachable { .. })), "it was let in");
    }
    cluster.finish();
    scratch.finish();
    Ok(())
}

#[tokio::test]
async fn certificates_are_replaced_without_a_restart_and_no_connection_ends() -> Result<()> {
    let _turn = turn().await;
    let scratch = Scratch::new()?;
    let (before, after, clients) = (Authority::new()?, Authority::new()?, Authority::new()?);
    let files = Files::write(scratch.path(), &before, &clients)?;
    let cluster = Cluster::start(files.with_clients(files.certified(spec(1)))).await?;
    let address = cluster.tx(1);
    let mut standing = connect(address, &before, Some((&clients, "bank.internal"))).await?;
    standing.tm("").await?.expect("taken");
    let (certificate, key) = clients.certificate("bank.internal")?;
    let trusting =
        |servers: &Authority| Tls::from_pem(servers.pem.as_bytes(), Some((certificate.as_bytes(), key.as_bytes())));
    let tls = trusting(&before)?;
    let mut options = Options::new([address.to_string()], "bank");
    (options.tls, options.connect_within) = (Some(tls.clone()), Duration::from_secs(2));
    let tm = Tm::connect(options.clone()).await?;

    // Half of a replacement, as when it is seen between two files.
    std::fs::write(scratch.path().join("tls.key"), after.certificate("127.0.0.1")?.1)?;
    logged(&cluster, "certificates not reloaded").await?;
    connect(address, &before, Some((&clients, "bank.internal")))
        .await
        .context("the old ones hold")?;
    Files::write(scratch.path(), &after, &clients)?;
    logged(&cluster, "certificates reloaded").await?;
    until("new connections see the new certificate", SOON, async || {
        let mut client = connect(address, &after, Some((&clients, "bank.internal"))).await?;
        client.tm("").await?.map_err(anyhow::Error::msg)?;
        client.is_served().await
    })
    .await?;
    ensure!(
        connect(address, &before, Some((&clients, "bank.internal")))
            .await
            .is_err()
    );
    standing.is_served().await.context("a standing connection was harmed")?;
    // The SDK's are replaced by the application, for new connections of every client that has them.
    ensure!(
        Tm::connect(options.clone()).await.is_err(),
        "it trusts another authority"
    );
    tls.replace(&trusting(&after)?);
    Tm::connect(options)
        .await?
        .begin("by new certificates", SOON)
        .await?
        .commit()
        .await?;
    tm.begin("by a standing connection", SOON).await?.commit().await?;
    cluster.finish();
    scratch.finish();
    Ok(())
}

#[tokio::test]
async fn servers_speak_by_tls_and_go_on_when_their_certificates_are_replaced_under_them() -> Result<()> {
    let _turn = turn().await;
    let scratch = Scratch::new()?;
    let (before, after, clients) = (Authority::new()?, Authority::new()?, Authority::new()?);
    let files = Files::write(scratch.path(), &before, &clients)?;
    let spec = files.with_peers(files.certified(spec(3)));
    let mut cluster = Cluster::start(spec).await?;
    let leader = cluster.leader().await?;
    let other = cluster
        .nodes()
        .find(|node| *node != leader.node)
        .context("three servers")?;
    let tm = crate::connect_tm(cluster.tx(other), SOON).await?;
    let begun = tm.begin("by tls", 60_000).await?;

    // Whoever does not show a server's certificate is not read.
    let stranger = TcpStream::connect(cluster.peer(leader.node)).await?;
    stranger.writable().await?;
    stranger.try_write(&[0x5e; 64])?;
    until("the stranger is told of", SOON, async || {
        let log = cluster.log(leader.node);
        ensure!(log.contains("ND0002") && log.contains("TLS"), "it is not");
        Ok::<_, anyhow::Error>(())
    })
    .await?;

    let new = Files::write(scratch.path(), &after, &clients)?;
    drop(new);
    for node in cluster.nodes() {
        until("each server has the new certificate", SOON, async || {
            ensure!(
                cluster.log(node).contains("certificates reloaded"),
                "node {node} has not"
            );
            Ok::<_, anyhow::Error>(())
        })
        .await?;
    }
    tm.commit(&begun)
        .await
        .context("the connections between the servers stand")?;
    // A server that connects anew does it with the new certificate.
    cluster.kill(leader.node).await?;
    cluster.start_all().await?;
    let xid = tm.begin("after the restart", 60_000).await?;
    tm.commit(&xid).await?;
    cluster.finish();
    scratch.finish();
    Ok(())
}
