use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use settle_base::fingerprint;
use settle_machine::{ApplyError, EntryMeta, LoadError, SnapshotChunks, StateMachine};

use super::Invariant;

/// Which client's which command: in front of every command in the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Ticket {
    pub(crate) client: u32,
    pub(crate) number: u64,
}

const TICKET_BYTES: usize = 12;

impl Ticket {
    pub(crate) fn wrap(self, command: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(TICKET_BYTES + command.len());
        out.put_u32_le(self.client);
        out.put_u64_le(self.number);
        out.put_slice(command);
        out.freeze()
    }

    fn unwrap(command: &Bytes) -> Option<(Ticket, Bytes)> {
        let mut head = command.get(..TICKET_BYTES)?;
        let (client, number) = (head.get_u32_le(), head.get_u64_le());
        Some((Ticket { client, number }, command.slice(TICKET_BYTES..)))
    }
}

/// A user's machine, which sees every command once, and its judge.
pub(crate) struct Judged<M> {
    pub(crate) machine: M,
    invariants: Vec<Invariant<M>>,
    /// The last command of each client. A client asks one thing at a time.
    last: BTreeMap<u32, u64>,
    pub(crate) applied: u64,
    /// What an invariant said first.
    pub(crate) broken: Option<String>,
    loading: Loading,
}

enum Loading {
    No,
    /// What has come of the head.
    Head(BytesMut),
    /// The rest is the user's.
    Body,
}

impl<M> Judged<M> {
    pub(crate) fn new(machine: M, invariants: Vec<Invariant<M>>) -> Judged<M> {
        Judged {
            machine,
            invariants,
            last: BTreeMap::new(),
            applied: 0,
            broken: None,
            loading: Loading::No,
        }
    }

    fn judge(&mut self, place: &str) {
        for holds in &self.invariants {
            if self.broken.is_none() {
                self.broken = holds(&self.machine).err().map(|what| format!("{place}: {what}"));
            }
        }
    }

    /// What is kept beside the user's snapshot: its length first.
    fn head(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(12 + self.last.len() * TICKET_BYTES);
        out.put_u32_le(self.last.len() as u32);
        out.put_u64_le(self.applied);
        for (client, number) in &self.last {
            out.put_u32_le(*client);
            out.put_u64_le(*number);
        }
        out.freeze()
    }

    /// Takes the head off `image` once all of it is there.
    fn take_head(&mut self, image: &mut BytesMut) -> bool {
        let Some(mut bytes) = image.get(..12) else { return false };
        let count = bytes.get_u32_le() as usize;
        let applied = bytes.get_u64_le();
        if image.len() < 12 + count * TICKET_BYTES {
            return false;
        }
        image.advance(12);
        self.applied = applied;
        self.last = (0..count).map(|_| (image.get_u32_le(), image.get_u64_le())).collect();
        true
    }
}

fn unreadable(index: u64) -> ApplyError {
    let reason = "not a client's command".to_owned();
    ApplyError { index, reason }
}

impl<M: StateMachine> StateMachine for Judged<M> {
    type Effect = Ticket;

    fn check(&self, command: &Bytes) -> Result<(), ApplyError> {
        let (_, command) = Ticket::unwrap(command).ok_or_else(|| unreadable(0))?;
        self.machine.check(&command)
    }

    fn apply(&mut self, entry: EntryMeta, command: &Bytes, effects: &mut Vec<Ticket>) -> Result<(), ApplyError> {
        let (ticket, command) = Ticket::unwrap(command).ok_or_else(|| unreadable(entry.index))?;
        let last = self.last.get(&ticket.client).copied().unwrap_or(0);
        if ticket.number > last {
            self.machine.apply(entry, &command, &mut Vec::new())?;
            self.last.insert(ticket.client, ticket.number);
            self.applied += 1;
            self.judge("after a command");
        }
        effects.push(ticket);
        Ok(())
    }

    fn begin_snapshot(&self) -> SnapshotChunks {
        Box::new(std::iter::once(self.head()).chain(self.machine.begin_snapshot()))
    }

    fn load_chunk(&mut self, chunk: Bytes) -> Result<(), LoadError> {
        match &mut self.loading {
            Loading::Body => return self.machine.load_chunk(chunk),
            Loading::No => self.loading = Loading::Head(BytesMut::from(&chunk[..])),
            Loading::Head(image) => image.extend_from_slice(&chunk),
        }
        let Loading::Head(mut image) = std::mem::replace(&mut self.loading, Loading::Body) else {
            unreachable!("the body was taken above");
        };
        if !self.take_head(&mut image) {
            self.loading = Loading::Head(image);
        } else if !image.is_empty() {
            return self.machine.load_chunk(image.freeze());
        }
        Ok(())
    }

    fn finish_load(&mut self) -> Result<(), LoadError> {
        let Loading::Body = std::mem::replace(&mut self.loading, Loading::No) else {
            let reason = "a snapshot without its head".to_owned();
            return Err(LoadError { reason });
        };
        self.machine.finish_load()?;
        self.judge("after a snapshot was loaded");
        Ok(())
    }

    fn state_hash(&self) -> u64 {
        self.machine.state_hash().rotate_left(1) ^ fingerprint(&self.head())
    }
}
