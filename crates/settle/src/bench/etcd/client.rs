//! As much of etcd's gRPC API as a put needs: HTTP/2 frames with two protobuf messages, written by hand.
//!
//! Source: gRPC over HTTP/2 (`grpc/doc/PROTOCOL-HTTP2.md`) and etcd 3.4 `etcdserver/etcdserverpb/rpc.proto`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use hdrhistogram::Histogram;
use http::{Request, Uri};
use settle_telemetry::Clock;
use tokio::{net::TcpStream, task::JoinSet};

use crate::bench::report::histogram;

const PUT: &str = "/etcdserverpb.KV/Put";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";
const KEYS: u32 = 36 << 10;

/// A few connections to one server. Dropping it closes them.
pub struct Client {
    senders: Vec<SendRequest<Bytes>>,
    address: SocketAddr,
    _connections: JoinSet<()>,
}

impl Client {
    /// # Errors
    /// When the server cannot be reached or does not speak HTTP/2.
    pub async fn connect(address: SocketAddr, connections: u32) -> anyhow::Result<Client> {
        let (mut senders, mut tasks) = (Vec::new(), JoinSet::new());
        for _ in 0..connections {
            let stream = TcpStream::connect(address)
                .await
                .with_context(|| format!("reach {address}"))?;
            stream.set_nodelay(true)?;
            let mut builder = h2::client::Builder::new();
            builder
                .initial_window_size(1 << 20)
                .initial_connection_window_size(16 << 20);
            let (sender, connection) = builder.handshake(stream).await?;
            tasks.spawn(async move {
                // Its end is seen by whoever still asks something.
                let _ = connection.await;
            });
            senders.push(sender);
        }
        Ok(Client {
            senders,
            address,
            _connections: tasks,
        })
    }

    /// Whether this server leads, by its own word.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn leads(&self) -> anyhow::Result<bool> {
        let answer = call(&self.senders[0], self.address, STATUS, &[]).await?;
        // StatusResponse: header = 1 (member_id = 2), leader = 4.
        let header = field(&answer, 1).context("a status without its header")?;
        let own = number(&field_bytes(&header)?, 2);
        Ok(own.is_some() && own == number(&answer, 4))
    }

    async fn put(&self, number: u32) -> anyhow::Result<()> {
        let mut message = BytesMut::with_capacity(160);
        let key = format!("/bench/{:06}", number % KEYS);
        // PutRequest: key = 1, value = 2; the value's length takes two bytes.
        message.put_slice(&[0x0a, key.len() as u8]);
        message.put_slice(key.as_bytes());
        message.put_slice(&[0x12, 0x80, 0x01]);
        let mut word = u64::from(number) | 1;
        for _ in 0..16 {
            word = word.wrapping_mul(0xd129_0d3a_1f5c_4b57).rotate_left(17);
            message.put_u64_le(word);
        }
        let sender = &self.senders[number as usize % self.senders.len()];
        call(sender, self.address, PUT, &message).await.map(drop)
    }

    /// Keeps `in_flight` puts under way for `warm_up` and then `time`; returns the latencies within the latter.
    /// `at_start` and `at_end` are called when it begins and ends.
    ///
    /// # Errors
    /// When a put fails.
    pub async fn drive(
        self: &Arc<Client>,
        in_flight: u32,
        warm_up: Duration,
        time: Duration,
        mut reading: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Histogram<u64>> {
        let clock = Clock::start();
        let from = clock.now() + warm_up;
        let to = from + time;
        let mut tasks = JoinSet::new();
        for task in 0..in_flight {
            let client = self.clone();
            tasks.spawn(async move {
                let (mut latency, mut number) = (histogram(), task);
                loop {
                    let begun = clock.now();
                    if begun >= to {
                        return anyhow::Ok(latency);
                    }
                    client.put(number).await?;
                    let done = clock.now();
                    if done >= from && done < to {
                        latency.saturating_record(done.since(begun).as_micros().max(1) as u64);
                    }
                    number = number.wrapping_add(in_flight);
                }
            });
        }
        tokio::time::sleep(warm_up).await;
        reading()?;
        tokio::time::sleep(to.since(clock.now())).await;
        reading()?;
        let mut all = histogram();
        while let Some(joined) = tasks.join_next().await {
            all.add(&joined.context("a client panicked")??)
                .context("histograms of one shape")?;
        }
        Ok(all)
    }
}

/// One unary call: the answer's message.
async fn call(sender: &SendRequest<Bytes>, address: SocketAddr, path: &str, message: &[u8]) -> anyhow::Result<Bytes> {
    let uri = Uri::builder()
        .scheme("http")
        .authority(address.to_string())
        .path_and_query(path);
    let request = Request::post(uri.build()?)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let mut body = BytesMut::with_capacity(5 + message.len());
    body.put_u8(0);
    body.put_u32(message.len() as u32);
    body.put_slice(message);
    let mut sender = sender.clone().ready().await?;
    let (response, mut stream) = sender.send_request(request, false)?;
    stream.send_data(body.freeze(), true)?;
    let response = response.await?;
    ensure!(response.status().is_success(), "{path} answered {}", response.status());
    let at_once = response.headers().get("grpc-status").cloned();
    let mut incoming = response.into_body();
    let mut answer = BytesMut::new();
    while let Some(chunk) = incoming.data().await {
        let chunk = chunk?;
        incoming.flow_control().release_capacity(chunk.len())?;
        answer.put_slice(&chunk);
    }
    let trailers = incoming.trailers().await?;
    let status = at_once.or_else(|| trailers.as_ref()?.get("grpc-status").cloned());
    if status.as_ref().is_none_or(|status| status.as_bytes() != b"0") {
        let said = trailers.and_then(|t| t.get("grpc-message").cloned());
        bail!("{path} failed with gRPC status {status:?}: {said:?}");
    }
    ensure!(answer.len() >= 5, "{path} answered without a message");
    answer.advance(5);
    Ok(answer.freeze())
}

enum Field {
    Number(u64),
    Bytes(Bytes),
}

/// The last protobuf field of this number; `None` when there is none or the bytes are no message.
fn field(message: &Bytes, wanted: u64) -> Option<Field> {
    let mut rest = message.clone();
    let mut found = None;
    while rest.has_remaining() {
        let tag = varint(&mut rest)?;
        let value = match tag & 7 {
            0 => Field::Number(varint(&mut rest)?),
            2 => {
                let len = usize::try_from(varint(&mut rest)?)
                    .ok()
                    .filter(|len| *len <= rest.len())?;
                Field::Bytes(rest.split_to(len))
            }
            _ => return None,
        };
        if tag >> 3 == wanted {
            found = Some(value);
        }
    }
    found
}

fn number(message: &Bytes, wanted: u64) -> Option<u64> {
    match field(message, wanted)? {
        Field::Number(number) => Some(number),
        Field::Bytes(_) => None,
    }
}

fn field_bytes(field: &Field) -> anyhow::Result<Bytes> {
    match field {
        Field::Bytes(bytes) => Ok(bytes.clone()),
        Field::Number(_) => bail!("a number where a message belongs"),
    }
}

fn varint(bytes: &mut Bytes) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_who_leads_and_broken_bytes_tell_nothing() {
        let message = Bytes::from_static(&[0x0a, 0x03, 0x10, 0xac, 0x02, 0x20, 0xac, 0x02]);
        let header = field_bytes(&field(&message, 1).expect("a header")).expect("a message");
        assert_eq!((number(&header, 2), number(&message, 4)), (Some(300), Some(300)));
        for cut in 1..message.len() {
            assert!(number(&message.slice(..cut), 4).is_none(), "{cut} bytes");
        }
    }
}
