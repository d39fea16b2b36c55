use bytes::{Buf, BufMut, Bytes, BytesMut};
use settle_machine::{ApplyError, EntryMeta, LoadError, SnapshotChunks, StateMachine};

use crate::{
    accounts::Accounts,
    command::{Command, Refusal},
};

const LINE_BYTES: usize = 16;
/// Accounts in each chunk of a snapshot.
const CHUNK_LINES: usize = 4_096;

/// An account and what is on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Balance {
    pub account: u64,
    pub cents: u64,
}

#[derive(Default)]
pub struct Ledger {
    accounts: Accounts,
    /// All money that ever came in.
    brought_in: u64,
    loading: Option<Loading>,
}

#[derive(Default)]
struct Loading {
    accounts: Accounts,
    total: u64,
    /// The beginning of an account whose rest has not arrived.
    rest: BytesMut,
}

impl Ledger {
    pub fn balance(&self, account: u64) -> Option<u64> {
        self.accounts.get(account)
    }

    /// Reads every account: for checks, not for clients.
    pub fn sum_of_balances(&self) -> u64 {
        self.accounts.balances().values().sum()
    }

    pub fn brought_in(&self) -> u64 {
        self.brought_in
    }

    fn run(&mut self, command: Command) -> Result<Vec<Balance>, Refusal> {
        match command {
            Command::Open { account, balance } => {
                if self.balance(account).is_some() {
                    return Err(Refusal::AccountExists);
                }
                // Then no balance can ever overflow: together they are what was brought in.
                self.brought_in = self.brought_in.checked_add(balance).ok_or(Refusal::TooMuchMoney)?;
                Ok(vec![self.put(account, balance)])
            }
            Command::Transfer { from, to, .. } if from == to => Err(Refusal::ToItself),
            Command::Transfer { from, to, amount } => {
                let before = self.balance(from).ok_or(Refusal::NoSuchAccount)?;
                let received = self.balance(to).ok_or(Refusal::NoSuchAccount)?;
                let left = before.checked_sub(amount).ok_or(Refusal::NotEnoughMoney)?;
                Ok(vec![self.put(from, left), self.put(to, received + amount)])
            }
        }
    }

    fn put(&mut self, account: u64, cents: u64) -> Balance {
        self.accounts.set(account, cents);
        Balance { account, cents }
    }
}

impl StateMachine for Ledger {
    /// The balances after the command, or why there was none.
    type Effect = Result<Vec<Balance>, Refusal>;

    fn check(&self, command: &Bytes) -> Result<(), ApplyError> {
        let reason = "no command of this ledger".to_owned();
        let known = Command::decode(command).map(drop);
        known.ok_or(ApplyError { index: 0, reason })
    }

    fn apply(&mut self, entry: EntryMeta, command: &Bytes, effects: &mut Vec<Self::Effect>) -> Result<(), ApplyError> {
        let (index, reason) = (entry.index, "no command of this ledger".to_owned());
        let command = Command::decode(command).ok_or(ApplyError { index, reason })?;
        effects.push(self.run(command));
        Ok(())
    }

    fn begin_snapshot(&self) -> SnapshotChunks {
        let mut balances = self.accounts.balances().clone().into_entries();
        Box::new(std::iter::from_fn(move || {
            let mut chunk = BytesMut::new();
            for (account, cents) in balances.by_ref().take(CHUNK_LINES) {
                chunk.put_u64_le(account);
                chunk.put_u64_le(cents);
            }
            (!chunk.is_empty()).then(|| chunk.freeze())
        }))
    }

    fn load_chunk(&mut self, chunk: Bytes) -> Result<(), LoadError> {
        let loading = self.loading.get_or_insert_default();
        loading.rest.extend_from_slice(&chunk);
        while loading.rest.len() >= LINE_BYTES {
            let (account, cents) = (loading.rest.get_u64_le(), loading.rest.get_u64_le());
            loading.total = match loading.total.checked_add(cents) {
                Some(total) if loading.accounts.get(account).is_none() => total,
                _ => {
                    let reason = format!("account {account} stands twice or holds more than there can be");
                    return Err(LoadError { reason });
                }
            };
            loading.accounts.set(account, cents);
        }
        Ok(())
    }

    fn finish_load(&mut self) -> Result<(), LoadError> {
        let loading = self.loading.take().unwrap_or_default();
        if !loading.rest.is_empty() {
            let reason = "it ends within an account".to_owned();
            return Err(LoadError { reason });
        }
        self.accounts = loading.accounts;
        self.brought_in = loading.total;
        Ok(())
    }

    fn state_hash(&self) -> u64 {
        self.accounts.hash()
    }

    fn is_hash_cheap(&self) -> bool {
        true
    }
}
