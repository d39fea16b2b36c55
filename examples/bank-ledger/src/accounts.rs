use settle_base::fingerprint;
use settle_machine::SharedMap;

/// Account → cents.
#[derive(Clone, Default)]
pub(crate) struct Accounts {
    balances: SharedMap<u64, u64>,
    /// The sum of the hashes of all accounts: the same whatever the order in which they came about.
    hash: u64,
}

impl Accounts {
    pub(crate) fn get(&self, account: u64) -> Option<u64> {
        self.balances.get(&account).copied()
    }

    pub(crate) fn set(&mut self, account: u64, balance: u64) {
        let before = self.balances.insert(account, balance);
        if let Some(before) = before {
            self.hash = self.hash.wrapping_sub(hash(account, before));
        }
        self.hash = self.hash.wrapping_add(hash(account, balance));
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn balances(&self) -> &SharedMap<u64, u64> {
        &self.balances
    }
}

fn hash(account: u64, balance: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&account.to_le_bytes());
    bytes[8..].copy_from_slice(&balance.to_le_bytes());
    fingerprint(&bytes)
}
