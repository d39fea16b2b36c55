//! What a server refuses to start with, by its exit code and its words.

use std::path::Path;

use anyhow::Result;
use settle_testkit::{Cluster, Ports, Process, Scratch};

use crate::{SETTLE, SOON, spec};

/// Runs a server on `config` until it ends by itself; gives its exit code and what it printed.
async fn refused(folder: &Path, name: &str, config: &str) -> Result<(i32, String)> {
    let path = folder.join(format!("{name}.toml"));
    std::fs::write(&path, config)?;
    let args = ["server", "--stop-with-stdin", "--config", &path.display().to_string()];
    let mut server = Process::spawn(name, SETTLE.as_ref(), &args, &folder.join(format!("{name}.out")))?;
    let status = server.exit(SOON).await?;
    Ok((status.code().unwrap_or(-1), server.output()))
}

/// A cluster of one on the first ports of `ports`.
fn config(node: u32, data: &Path, ports: &Ports) -> String {
    format!(
        "[node]\nid = {node}\ndata-dir = {:?}\n[listen]\ntx = \"{}\"\nhttp = \"{}\"\npeer = \"{}\"\n",
        data.display().to_string(),
        ports.address(0),
        ports.address(1),
        ports.address(2)
    )
}

#[tokio::test]
async fn a_typing_mistake_in_the_configuration_ends_with_2_and_the_key_that_was_meant() -> Result<()> {
    let scratch = Scratch::new()?;
    let (code, output) = refused(scratch.path(), "typo", "[tx]\nreply-hold-mr = \"12s\"\n").await?;
    assert_eq!(code, 2, "{output}");
    assert!(
        output.contains("CF0003") && output.contains("tx.reply-hold-rm"),
        "{output}"
    );
    scratch.finish();
    Ok(())
}

#[tokio::test]
async fn a_taken_port_ends_with_3_and_its_purpose_before_any_data_is_touched() -> Result<()> {
    let (scratch, ports) = (Scratch::new()?, Ports::reserve(3)?);
    let _taken = std::net::TcpListener::bind(ports.address(0))?;
    let data = scratch.path().join("data");
    let (code, output) = refused(scratch.path(), "port", &config(1, &data, &ports)).await?;
    assert_eq!(code, 3, "{output}");
    assert!(
        output.contains("NT0001") && output.contains(&ports.address(0).to_string()),
        "{output}"
    );
    assert!(!data.exists(), "a server that cannot listen must leave the data alone");
    scratch.finish();
    Ok(())
}

#[tokio::test]
async fn a_data_directory_serves_one_server_at_a_time_and_only_its_own() -> Result<()> {
    let (scratch, ports) = (Scratch::new()?, Ports::reserve(3)?);
    let mut cluster = Cluster::start(spec(1)).await?;
    let data = cluster.data_dir(1);
    let (code, output) = refused(scratch.path(), "second", &config(1, &data, &ports)).await?;
    assert_eq!(code, 3, "{output}");
    assert!(output.contains("DF0001"), "{output}");
    cluster.wait_ready(1).await?;

    assert_eq!(cluster.stop(1).await?.code(), Some(0));
    let (code, output) = refused(scratch.path(), "stranger", &config(2, &data, &ports)).await?;
    assert_eq!(code, 3, "{output}");
    assert!(output.contains("HO0001"), "{output}");
    // Neither harmed it.
    cluster.start_all().await?;
    cluster.finish();
    scratch.finish();
    Ok(())
}
