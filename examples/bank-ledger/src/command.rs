use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What a client may ask for. Amounts are in cents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Money from outside comes into a new account.
    Open {
        account: u64,
        balance: u64,
    },
    Transfer {
        from: u64,
        to: u64,
        amount: u64,
    },
}

/// Why a command changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    AccountExists,
    NoSuchAccount,
    NotEnoughMoney,
    /// More than the ledger can hold.
    TooMuchMoney,
    ToItself,
}

const OPEN: u8 = 1;
const TRANSFER: u8 = 2;

impl Command {
    /// One byte for the kind, then its numbers as little-endian u64.
    pub fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(25);
        match self {
            Command::Open { account, balance } => {
                out.put_u8(OPEN);
                out.put_u64_le(account);
                out.put_u64_le(balance);
            }
            Command::Transfer { from, to, amount } => {
                out.put_u8(TRANSFER);
                out.put_u64_le(from);
                out.put_u64_le(to);
                out.put_u64_le(amount);
            }
        }
        out.freeze()
    }

    /// `None` when `bytes` are no command of this version of the program.
    pub fn decode(bytes: &[u8]) -> Option<Command> {
        let (&kind, mut rest) = bytes.split_first()?;
        match (kind, rest.len()) {
            (OPEN, 16) => Some(Command::Open {
                account: rest.get_u64_le(),
                balance: rest.get_u64_le(),
            }),
            (TRANSFER, 24) => Some(Command::Transfer {
                from: rest.get_u64_le(),
                to: rest.get_u64_le(),
                amount: rest.get_u64_le(),
            }),
            _ => None,
        }
    }
}
