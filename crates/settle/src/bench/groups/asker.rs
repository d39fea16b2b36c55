//! A client that writes to many groups and notes when each has answered.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, ensure};
use bytes::{Buf, BufMut, BytesMut};
use settle_base::Mono;
use settle_telemetry::Clock;

use super::node::{DONE, LED, WRITE};
use crate::bench::raft::{
    client::{ask, fresh_client, put_frame, take_frame},
    node::{HELLO, TEXT},
};

/// A command may be lost with the leader that it was sent to: who has no answer asks again.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
const READ_WAIT: Duration = Duration::from_millis(1);

/// Connections to some servers, over which the groups are spread.
pub struct Asker {
    connections: Vec<Connection>,
}

struct Connection {
    stream: TcpStream,
    bytes: BytesMut,
}

impl Asker {
    /// # Errors
    /// When a server does not take the connection.
    pub fn connect(targets: &[SocketAddr]) -> anyhow::Result<Asker> {
        let connections = targets.iter().map(|target| {
            let mut stream = TcpStream::connect_timeout(target, Duration::from_secs(1))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(READ_WAIT))?;
            let mut hello = BytesMut::new();
            put_frame(&mut hello, |out| {
                out.put_u8(HELLO);
                out.put_u64_le(fresh_client());
            });
            stream.write_all(&hello)?;
            let bytes = BytesMut::new();
            Ok(Connection { stream, bytes })
        });
        let connections = connections
            .collect::<io::Result<_>>()
            .context("connect to the servers")?;
        Ok(Asker { connections })
    }

    /// Has a command applied in each of `groups`, and tells how long each took.
    ///
    /// # Errors
    /// When one has not answered `within` that time.
    pub fn ask(&mut self, groups: &[u64], within: Duration) -> anyhow::Result<BTreeMap<u64, Duration>> {
        let clock = Clock::start();
        let mut times = BTreeMap::new();
        let mut again = Mono::ZERO;
        while times.len() < groups.len() {
            let now = clock.now();
            if now >= again {
                again = now + AGAIN_AFTER;
                self.send(groups.iter().filter(|group| !times.contains_key(*group)))?;
            }
            let missing = groups.len() - times.len();
            ensure!(
                now < Mono::ZERO + within,
                "{missing} groups have not answered within {within:?}"
            );
            for connection in &mut self.connections {
                connection.read(|group| {
                    let now = clock.now().since(Mono::ZERO);
                    times.entry(group).or_insert(now);
                })?;
            }
            // An answer to what was asked again of an earlier call.
            times.retain(|group, _| groups.binary_search(group).is_ok());
        }
        Ok(times)
    }

    fn send<'a>(&mut self, groups: impl Iterator<Item = &'a u64>) -> anyhow::Result<()> {
        let mut out: Vec<BytesMut> = self.connections.iter().map(|_| BytesMut::new()).collect();
        let count = out.len() as u64;
        for group in groups {
            put_frame(&mut out[(group % count) as usize], |out| {
                out.put_u8(WRITE);
                out.put_u64_le(*group);
            });
        }
        for (connection, out) in self.connections.iter_mut().zip(out) {
            connection.stream.write_all(&out).context("ask a server")?;
        }
        Ok(())
    }
}

impl Connection {
    /// Tells of each answer that is there, or comes within [`READ_WAIT`].
    fn read(&mut self, mut answered: impl FnMut(u64)) -> anyhow::Result<()> {
        let mut block = [0; 16 << 10];
        match self.stream.read(&mut block) {
            Ok(0) => anyhow::bail!("a server closed the connection"),
            Ok(n) => self.bytes.put_slice(&block[..n]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("hear a server"),
        }
        while let Some(mut frame) = take_frame(&mut self.bytes) {
            if frame.get_u8() == DONE && frame.len() == 8 {
                answered(frame.get_u64_le());
            }
        }
        Ok(())
    }
}

/// The groups that a server leads, in order.
///
/// # Errors
/// When it does not answer.
pub fn groups_led(target: SocketAddr) -> anyhow::Result<Vec<u64>> {
    let mut question = BytesMut::new();
    put_frame(&mut question, |out| out.put_u8(LED));
    let mut answer = ask(target, &question, TEXT).context("ask a server what it leads")?;
    answer.advance(1);
    let text = String::from_utf8_lossy(&answer);
    text.lines()
        .map(|line| line.parse().context("the number of a group"))
        .collect()
}
