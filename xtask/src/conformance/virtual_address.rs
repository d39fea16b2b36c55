//! One address that stands for the cluster, as a Kubernetes Service or a load balancer has it: each connection goes to a
//! node that takes it.

use std::io::copy;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result};

/// Forwards for as long as the driver lives.
pub struct VirtualAddress {
    address: SocketAddr,
    preferred: Arc<AtomicUsize>,
}

impl VirtualAddress {
    /// `nodes`: where the connections may go.
    pub fn open(nodes: Vec<SocketAddr>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen at the virtual address")?;
        let address = listener.local_addr()?;
        let preferred = Arc::<AtomicUsize>::default();
        let first = preferred.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let first = first.load(Ordering::SeqCst);
                let all = (0..nodes.len()).map(|turn| nodes[(first + turn) % nodes.len()]);
                if let Some(node) = all.map(TcpStream::connect).find_map(Result::ok) {
                    let _ = join(client, node);
                }
            }
        });
        Ok(Self { address, preferred })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The node that the next connections go to if it takes them.
    pub fn preferred(&self) -> usize {
        self.preferred.load(Ordering::SeqCst)
    }

    pub fn prefer(&self, node: usize) {
        self.preferred.store(node, Ordering::SeqCst);
    }
}

/// What one end says goes to the other, and the end of either is the end of both.
fn join(client: TcpStream, node: TcpStream) -> Result<()> {
    client.set_nodelay(true)?;
    node.set_nodelay(true)?;
    for (mut from, mut to) in [
        (client.try_clone()?, node.try_clone()?),
        (node.try_clone()?, client.try_clone()?),
    ] {
        thread::spawn(move || {
            let _ = copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}
