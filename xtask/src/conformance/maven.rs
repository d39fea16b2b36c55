//! Building the Java side with the pinned versions.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::versions::{Bolt, Client, Hessian, HessianPeer, Seata};

/// Compiles the bank against `client`; gives the class path to run it with.
pub fn build_bank(java: &Path, out: &Path, pins: &Seata, client: &Client) -> Result<String> {
    let out = out.join(format!("bank-{}", client.name));
    let serialization = client.serialization.name().to_owned();
    let compressor = client.compressor.clone().unwrap_or_default();
    let properties = [
        ("seata.serialization", &serialization),
        ("seata.group", &client.group),
        ("seata.version", &client.version),
        ("seata.package", &client.package),
        ("fence.config", &client.fence_config),
        ("saga.annotation", &client.saga_annotation.to_string()),
        ("commit.blind", &client.commit_is_blind.to_string()),
        ("spring.version", &client.spring),
        ("mysql.version", &pins.mysql_connector),
        ("jackson.version", &pins.jackson),
        ("slf4j.version", &pins.slf4j),
        ("lz4.version", &pins.lz4),
        ("seata.compressor", &compressor),
        ("out", &out.display().to_string()),
    ];
    compile(&java.join("worker"), &out, &properties)
}

/// Compiles the Hessian peer against its library; gives the class path to run it with.
pub fn build_hessian_peer(java: &Path, out: &Path, pins: &Hessian, peer: &HessianPeer) -> Result<String> {
    let out = out.join(&peer.name);
    let properties = [
        ("hessian.group", &peer.group),
        ("hessian.artifact", &peer.artifact),
        ("hessian.version", &peer.version),
        ("hessian.package", &peer.package),
        ("servlet.version", &pins.servlet),
        ("out", &out.display().to_string()),
    ];
    compile(java, &out, &properties)
}

/// Compiles the bolt peer against its library; gives the class path to run it with.
pub fn build_bolt_peer(java: &Path, out: &Path, pins: &Bolt) -> Result<String> {
    let properties = [
        ("bolt.version", &pins.version),
        ("slf4j.version", &pins.slf4j),
        ("out", &out.display().to_string()),
    ];
    compile(java, out, &properties)
}

/// Compiles the SOFARPC peer; gives the class path to run it with.
pub fn build_sofarpc_peer(java: &Path, out: &Path, pins: &Bolt) -> Result<String> {
    let names: Vec<String> = pins.sofarpc.keys().map(|name| format!("{name}.version")).collect();
    let out_dir = out.display().to_string();
    let mut properties: Vec<(&str, &String)> = names.iter().map(String::as_str).zip(pins.sofarpc.values()).collect();
    properties.push(("out", &out_dir));
    compile(java, out, &properties)
}

/// Resolves the original server; gives the class path to run it with.
pub fn resolve_server(java: &Path, out: &Path, pins: &Seata) -> Result<String> {
    let list = out.join("server-classpath.txt");
    std::fs::create_dir_all(out)?;
    let properties = [
        ("server.group", &pins.server.group),
        ("server.version", &pins.server.version),
        ("slf4j.version", &pins.slf4j),
        ("mdep.outputFile", &list.display().to_string()),
    ];
    maven(
        &java.join("server"),
        &properties,
        &["org.apache.maven.plugins:maven-dependency-plugin:3.8.1:build-classpath"],
    )?;
    read(&list)
}

/// Compiles `project` into `out`; gives the class path to run it with.
fn compile(project: &Path, out: &Path, properties: &[(&str, &String)]) -> Result<String> {
    maven(project, properties, &["compile"])?;
    Ok(format!(
        "{}:{}",
        out.join("classes").display(),
        read(&out.join("classpath.txt"))?
    ))
}

fn maven(project: &Path, properties: &[(&str, &String)], goals: &[&str]) -> Result<()> {
    let out = Command::new("mvn")
        .args(["-q", "-B", "-ntp"])
        .args(properties.iter().map(|(key, value)| format!("-D{key}={value}")))
        .args(goals)
        .current_dir(project)
        .output()
        .context("run mvn")?;
    ensure!(
        out.status.success(),
        "mvn failed in {}:\n{}{}",
        project.display(),
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}

fn read(path: &PathBuf) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.trim().to_owned())
}
