//! Commands applied once, however often they are proposed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use settle_base::Index;

use crate::{ApplyError, EntryMeta, LoadError, SnapshotChunks, StateMachine};

/// Which session's which command.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket {
    /// Names who asks: random, so that no two ever share one.
    pub session: u64,
    /// Rises with each command of the session; a session asks one thing at a time.
    pub number: u64,
}

const TICKET_BYTES: usize = 16;
/// Session, number, index: one line of a snapshot's head.
const LINE_BYTES: usize = 24;
const HEAD_BYTES: usize = 4;
const HEAD_VERSION: u32 = 1;

impl Ticket {
    /// The command as it stands in the log.
    pub fn wrap(self, command: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(TICKET_BYTES + command.len());
        out.put_u64_le(self.session);
        out.put_u64_le(self.number);
        out.put_slice(command);
        out.freeze()
    }

    fn unwrap(command: &Bytes) -> Option<(Ticket, Bytes)> {
        let mut head = command.get(..TICKET_BYTES)?;
        let (session, number) = (head.get_u64_le(), head.get_u64_le());
        Some((Ticket { session, number }, command.slice(TICKET_BYTES..)))
    }
}

/// What became of a command: an effect of [`Once`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied<E> {
    pub ticket: Ticket,
    pub index: Index,
    /// The machine's own effects; `None` when an earlier copy of the command was applied, whose effects were told then.
    pub effects: Option<Vec<E>>,
}

/// Any machine, to which a command that was proposed twice is one command.
///
/// A proposal may be lost, and may be applied although it seemed lost; so who wants it done proposes it again. Which
/// commands were applied is part of the state, in step with it through snapshots and restarts.
///
/// The last `sessions_max` sessions are remembered, the one that was quiet for longest is forgotten first, on every
/// replica at the same command. A copy that arrives after that would be applied again: let the bound be well above the
/// number of sessions that may have something under way at once.
#[derive(Debug)]
pub struct Once<M> {
    machine: M,
    sessions_max: usize,
    sessions: BTreeMap<u64, Session>,
    /// By the index of their last command.
    by_age: BTreeSet<(Index, u64)>,
    loading: Option<Loading>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Session {
    number: u64,
    index: Index,
}

/// A snapshot's head, of which not everything has arrived.
#[derive(Debug, Default)]
struct Loading {
    bytes: BytesMut,
    is_head_read: bool,
}

impl<M> Once<M> {
    /// # Panics
    /// When `sessions_max` is 0.
    pub fn new(machine: M, sessions_max: usize) -> Once<M> {
        assert!(sessions_max > 0, "who remembers nobody applies everything twice");
        Once {
            machine,
            sessions_max,
            sessions: BTreeMap::new(),
            by_age: BTreeSet::new(),
            loading: None,
        }
    }

    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Remembers the command; false when it, or a later one of its session, was applied before.
    fn is_new(&mut self, ticket: Ticket, index: Index) -> bool {
        let Ticket { session, number } = ticket;
        if let Some(last) = self.sessions.get(&session) {
            if number <= last.number {
                return false;
            }
            self.by_age.remove(&(last.index, session));
        } else if self.sessions.len() == self.sessions_max
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.sessions.remove(&oldest);
        }
        self.sessions.insert(session, Session { number, index });
        self.by_age.insert((index, session));
        true
    }

    fn head(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(2 * HEAD_BYTES + self.sessions.len() * LINE_BYTES);
        out.put_u32_le(HEAD_VERSION);
        out.put_u32_le(u32::try_from(self.sessions.len()).expect("far fewer sessions are remembered"));
        for (session, last) in &self.sessions {
            out.put_u64_le(*session);
            out.put_u64_le(last.number);
            out.put_u64_le(last.index);
        }
        out.freeze()
    }

    /// Takes the head off `bytes` once all of it is there.
    fn take_head(&mut self, bytes: &mut BytesMut) -> Result<bool, LoadError> {
        let Some(mut head) = bytes.get(..2 * HEAD_BYTES) else {
            return Ok(false);
        };
        let (version, count) = (head.get_u32_le(), head.get_u32_le() as usize);
        if version != HEAD_VERSION || count > self.sessions_max {
            let max = self.sessions_max;
            let reason = format!("its head is of version {version} with {count} sessions, at most {max} are known");
            return Err(LoadError { reason });
        }
        if bytes.len() < 2 * HEAD_BYTES + count * LINE_BYTES {
            return Ok(false);
        }
        bytes.advance(2 * HEAD_BYTES);
        for _ in 0..count {
            let (session, number, index) = (bytes.get_u64_le(), bytes.get_u64_le(), bytes.get_u64_le());
            self.sessions.insert(session, Session { number, index });
            self.by_age.insert((index, session));
        }
        Ok(true)
    }
}

fn unreadable(index: Index) -> ApplyError {
    let reason = "the command is shorter than its ticket".to_owned();
    ApplyError { index, reason }
}

impl<M: StateMachine> StateMachine for Once<M> {
    type Effect = Applied<M::Effect>;

    fn check(&self, command: &Bytes) -> Result<(), ApplyError> {
        let (_, command) = Ticket::unwrap(command).ok_or_else(|| unreadable(0))?;
        self.machine.check(&command)
    }

    fn apply(&mut self, entry: EntryMeta, command: &Bytes, out: &mut Vec<Self::Effect>) -> Result<(), ApplyError> {
        let (ticket, command) = Ticket::unwrap(command).ok_or_else(|| unreadable(entry.index))?;
        let effects = if self.is_new(ticket, entry.index) {
            let mut effects = Vec::new();
            self.machine.apply(entry, &command, &mut effects)?;
            Some(effects)
        } else {
            None
        };
        let index = entry.index;
        out.push(Applied { ticket, index, effects });
        Ok(())
    }

    fn begin_snapshot(&self) -> SnapshotChunks {
        Box::new(std::iter::once(self.head()).chain(self.machine.begin_snapshot()))
    }

    fn load_chunk(&mut self, chunk: Bytes) -> Result<(), LoadError> {
        let mut loading = self.loading.take().unwrap_or_else(|| {
            self.sessions.clear();
            self.by_age.clear();
            Loading::default()
        });
        if loading.is_head_read {
            self.machine.load_chunk(chunk)?;
        } else {
            loading.bytes.extend_from_slice(&chunk);
            loading.is_head_read = self.take_head(&mut loading.bytes)?;
            if loading.is_head_read && !loading.bytes.is_empty() {
                self.machine.load_chunk(loading.bytes.split().freeze())?;
            }
        }
        self.loading = Some(loading);
        Ok(())
    }

    fn finish_load(&mut self) -> Result<(), LoadError> {
        if !self.loading.take().is_some_and(|loading| loading.is_head_read) {
            let reason = "it ends within its head".to_owned();
            return Err(LoadError { reason });
        }
        self.machine.finish_load()
    }

    /// The sessions are not part of it: they follow from the same commands as the machine's state.
    fn state_hash(&self) -> u64 {
        self.machine.state_hash()
    }

    fn is_hash_cheap(&self) -> bool {
        self.machine.is_hash_cheap()
    }
}
