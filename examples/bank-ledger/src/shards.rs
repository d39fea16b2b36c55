//! The accounts, in parts that a snapshot shares with the ledger.

use std::{collections::BTreeMap, sync::Arc};

use settle_base::fingerprint;

const SHARDS: usize = 1_024;

/// Account → cents. A clone costs as much as its list of parts; afterwards a part is copied when it first changes.
#[derive(Clone)]
pub(crate) struct Shards {
    parts: Vec<Arc<BTreeMap<u64, u64>>>,
    /// The sum of the hashes of all accounts: the same whatever the order in which they came about.
    hash: u64,
}

impl Default for Shards {
    fn default() -> Shards {
        Shards {
            parts: vec![Arc::default(); SHARDS],
            hash: 0,
        }
    }
}

impl Shards {
    fn place(account: u64) -> usize {
        (fingerprint(&account.to_le_bytes()) % SHARDS as u64) as usize
    }

    pub(crate) fn get(&self, account: u64) -> Option<u64> {
        self.parts[Shards::place(account)].get(&account).copied()
    }

    pub(crate) fn set(&mut self, account: u64, balance: u64) {
        let part = Arc::make_mut(&mut self.parts[Shards::place(account)]);
        let before = part.insert(account, balance);
        if let Some(before) = before {
            self.hash = self.hash.wrapping_sub(hash(account, before));
        }
        self.hash = self.hash.wrapping_add(hash(account, balance));
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.parts.iter().flat_map(|part| part.iter().map(|(&a, &b)| (a, b)))
    }

    /// Part by part, for a snapshot.
    pub(crate) fn into_parts(self) -> impl Iterator<Item = Arc<BTreeMap<u64, u64>>> {
        self.parts.into_iter()
    }
}

fn hash(account: u64, balance: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&account.to_le_bytes());
    bytes[8..].copy_from_slice(&balance.to_le_bytes());
    fingerprint(&bytes)
}
