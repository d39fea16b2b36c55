//! A proxy on loopback for each link between two servers, so that links can be cut without root. A server sends only on
//! connections that it has dialled, so what stands still in its proxy is one direction of a link.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

const READ_BYTES: usize = 64 << 10;

struct Link {
    address: SocketAddr,
    is_cut: watch::Sender<bool>,
}

/// The links between servers numbered from 1, all whole at first.
pub struct Proxies {
    links: BTreeMap<(u32, u32), Link>,
    /// They end with this.
    _tasks: JoinSet<()>,
}

impl Proxies {
    /// One for each two of `peers`, in both directions. Has to be called in a runtime, which carries them.
    pub async fn new(peers: &BTreeMap<u32, SocketAddr>) -> Result<Proxies> {
        let mut tasks = JoinSet::new();
        let mut links = BTreeMap::new();
        for from in peers.keys() {
            for (to, target) in peers.iter().filter(|(to, _)| *to != from) {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                    .await
                    .context("listen for a proxy")?;
                let address = listener.local_addr()?;
                let (is_cut, cut) = watch::channel(false);
                tasks.spawn(serve(listener, *target, cut));
                links.insert((*from, *to), Link { address, is_cut });
            }
        }
        Ok(Proxies { links, _tasks: tasks })
    }

    /// Where `from` finds `to`.
    pub fn address(&self, from: u32, to: u32) -> Option<SocketAddr> {
        self.links.get(&(from, to)).map(|link| link.address)
    }

    /// What `from` sends to `to` stands still while `is_cut`.
    pub fn cut(&self, from: u32, to: u32, is_cut: bool) -> Result<()> {
        let link = self.links.get(&(from, to)).context("there is no such link")?;
        link.is_cut.send_replace(is_cut);
        Ok(())
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, cut: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                connections.spawn(forward(stream, target, cut.clone()));
            }
        }
    }
}

/// Until either end is gone.
async fn forward(mut near: TcpStream, target: SocketAddr, mut cut: watch::Receiver<bool>) {
    if cut.wait_for(|is_cut| !*is_cut).await.is_err() {
        return;
    }
    let Ok(mut far) = TcpStream::connect(target).await else {
        return;
    };
    let _ = near.set_nodelay(true).and(far.set_nodelay(true));
    let ((mut near_read, mut near_write), (mut far_read, mut far_write)) = (near.split(), far.split());
    let back = cut.clone();
    tokio::select! {
        biased;
        () = copy(&mut near_read, &mut far_write, cut) => {}
        () = copy(&mut far_read, &mut near_write, back) => {}
    }
}

async fn copy(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mut cut: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(read) = from.read(&mut buffer).await
        && read > 0
    {
        if cut.wait_for(|is_cut| !*is_cut).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::within;

    #[tokio::test]
    async fn what_is_sent_over_a_cut_link_arrives_when_it_is_whole_and_the_other_direction_is_another_link()
    -> Result<()> {
        let soon = Duration::from_secs(10);
        let (one, two) = (
            TcpListener::bind("127.0.0.1:0").await?,
            TcpListener::bind("127.0.0.1:0").await?,
        );
        let peers = BTreeMap::from([(1, one.local_addr()?), (2, two.local_addr()?)]);
        let proxies = Proxies::new(&peers).await?;
        let address = |from, to| proxies.address(from, to).context("they are linked");
        proxies.cut(1, 2, true)?;
        let mut cut = TcpStream::connect(address(1, 2)?).await?;
        cut.write_all(b"late").await?;
        let mut whole = TcpStream::connect(address(2, 1)?).await?;
        whole.write_all(b"now").await?;
        let mut bytes = [0; 4];
        let (mut received, _) = within("the whole link carries", soon, one.accept()).await??;
        within("it carries bytes", soon, received.read_exact(&mut bytes[..3])).await??;
        assert_eq!(&bytes[..3], b"now");
        proxies.cut(1, 2, false)?;
        let (mut received, _) = within("the cut link carries again", soon, two.accept()).await??;
        within("it carries what was sent", soon, received.read_exact(&mut bytes)).await??;
        assert_eq!(&bytes, b"late");
        Ok(())
    }
}
