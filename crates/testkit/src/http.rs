//! As much HTTP/1.1 as asking a server on loopback takes.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A server that does not answer within this is as good as dead to a test.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        ensure!(self.status == 200, "status {}: {}", self.status, self.body.trim());
        serde_json::from_str(&self.body).with_context(|| format!("read as JSON: {}", self.body))
    }
}

/// Gets `path`.
///
/// # Errors
/// When there is no answer; any status is one.
pub async fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    ask(address, "GET", path, "").await
}

/// Posts JSON to `path`.
///
/// # Errors
/// As [`get`].
pub async fn post(address: SocketAddr, path: &str, json: &str) -> Result<Answer> {
    ask(address, "POST", path, json).await
}

async fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<Answer> {
    let answer = timeout(PATIENCE, exchange(address, method, path, body)).await;
    answer
        .map_err(|_| anyhow::anyhow!("no answer within {PATIENCE:?}"))
        .and_then(|answer| answer)
        .with_context(|| format!("{method} http://{address}{path}"))
}

async fn exchange(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect(address).await.context("connect")?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer ends before its body")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .context("the answer has no status")?;
    Ok(Answer {
        status,
        body: body.to_owned(),
    })
}
