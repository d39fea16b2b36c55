//! Ports that stay a test's own for its whole life, also while the process that listened on them is dead.
//!
//! A port from `bind(0)` lies where the system also takes the local ports of outgoing connections, so it can be gone
//! when a killed server comes back. These come from below that range, in blocks; a locked file per block keeps other
//! test processes away from it.

use std::{
    fs::{File, TryLockError},
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use anyhow::{Context, Result, bail};

/// Below the local ports of Linux (32768) and macOS (49152), above what services use by default.
const FIRST: u16 = 20_000;
const END: u16 = 32_700;
const BLOCK: u16 = 30;

/// Loopback ports that no other test uses.
pub struct Ports {
    first: u16,
    len: u16,
    /// Its lock is the reservation.
    _lock: File,
}

impl Ports {
    /// Reserves `len` ports, at most 30.
    pub fn reserve(len: u16) -> Result<Ports> {
        assert!(len <= BLOCK, "a block has {BLOCK} ports");
        let blocks = (END - FIRST) / BLOCK;
        // Processes begin at different blocks, so that they rarely meet.
        let start = (std::process::id() % u32::from(blocks)) as u16;
        for turn in 0..blocks {
            let first = FIRST + (start + turn) % blocks * BLOCK;
            if let Some(lock) = lock(first)?
                && (first..first + len).all(is_free)
            {
                return Ok(Ports {
                    first,
                    len,
                    _lock: lock,
                });
            }
        }
        bail!("no {len} free ports between {FIRST} and {END}");
    }

    /// The address with number `index` of the reservation.
    pub fn address(&self, index: usize) -> SocketAddr {
        assert!(index < usize::from(self.len), "{} ports are reserved", self.len);
        (Ipv4Addr::LOCALHOST, self.first + index as u16).into()
    }
}

/// A `--port-offset` under which `settle dev` finds all its ports free, and the reservation of it.
pub fn dev_offset() -> Result<(u16, File)> {
    // The step is larger than the span of ports of one cluster, so that two offsets share none.
    for offset in (2_300..11_500).step_by(1_300) {
        let ports = [7_070, 7_091, 8_091]
            .iter()
            .flat_map(|port| [0, 100, 200].map(|node| port + node + offset));
        if let Some(lock) = lock(offset)?
            && ports.into_iter().all(is_free)
        {
            return Ok((offset, lock));
        }
    }
    bail!("no offset with free ports for `settle dev`");
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn lock(name: u16) -> Result<Option<File>> {
    let dir = std::env::temp_dir().join("settle-test-ports");
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let path = dir.join(name.to_string());
    let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_reservations_share_no_port() {
        let (a, b) = (
            Ports::reserve(9).expect("free ports"),
            Ports::reserve(9).expect("free ports"),
        );
        assert!((0..9).all(|i| (0..9).all(|j| a.address(i) != b.address(j))));
    }
}
