//! Who asked what last: so that a request that was proposed twice is done once, and answered as it was.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use settle_base::Index;
use settle_machine::Ticket;
use settle_storage::KvRead;

use crate::{
    Reply,
    draft::Draft,
    execute::RegionError,
    limits::{KEPT_REPLY_MAX, SESSIONS_MAX},
    rows::{Kind, SessionRow, Space, bare},
};

/// The sessions that are stored, by the entry of their last request: who was quiet for longest is forgotten first.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    ages: BTreeMap<u64, Index>,
    by_age: BTreeSet<(Index, u64)>,
}

impl Sessions {
    /// Of a session's row that is there already.
    pub fn found(&mut self, session: u64, index: Index) {
        if let Some(age) = self.ages.insert(session, index) {
            self.by_age.remove(&(age, session));
        }
        self.by_age.insert((index, session));
    }

    /// What was answered, when it was done before.
    pub fn answered(&self, ticket: Ticket, rows: &impl KvRead, space: Space) -> Result<Option<Reply>, RegionError> {
        let Some(row) = self.row(ticket.session, rows, space)? else {
            return Ok(None);
        };
        if row.number < ticket.number {
            return Ok(None);
        }
        let reply = row.reply.filter(|_| row.number == ticket.number);
        Ok(Some(reply.map(Reply::decode).transpose()?.unwrap_or(Reply::Forgotten)))
    }

    fn row(&self, session: u64, rows: &impl KvRead, space: Space) -> Result<Option<SessionRow>, RegionError> {
        if !self.ages.contains_key(&session) {
            return Ok(None);
        }
        let row = rows.get(&key(session, space))?;
        Ok(row.map(SessionRow::decode).transpose()?)
    }

    /// The request was done in the entry at `index`.
    pub fn remember<E: settle_storage::KvEngine>(
        &mut self,
        ticket: Ticket,
        index: Index,
        reply: &Reply,
        draft: &mut Draft<E>,
        space: Space,
    ) {
        let mut encoded = Vec::new();
        reply.encode(&mut encoded);
        let row = SessionRow {
            number: ticket.number,
            index,
            reply: Some(Bytes::from(encoded)).filter(|reply| reply.len() <= KEPT_REPLY_MAX),
        };
        self.store(ticket.session, row, draft, space);
    }

    /// Of two that know the same session, what came later stands.
    pub fn inherit<E: settle_storage::KvEngine>(
        &mut self,
        session: u64,
        row: SessionRow,
        draft: &mut Draft<E>,
        space: Space,
    ) -> Result<(), RegionError> {
        let own = self.row(session, draft, space)?;
        if own.is_none_or(|own| own.number < row.number) {
            self.store(session, row, draft, space);
        }
        Ok(())
    }

    fn store<E: settle_storage::KvEngine>(
        &mut self,
        session: u64,
        row: SessionRow,
        draft: &mut Draft<E>,
        space: Space,
    ) {
        self.found(session, row.index);
        draft.put(key(session, space), row.encode());
        while self.ages.len() > SESSIONS_MAX {
            let (_, oldest) = self.by_age.pop_first().expect("there are too many");
            self.ages.remove(&oldest);
            draft.delete(key(oldest, space));
        }
    }
}

pub(crate) fn key(session: u64, space: Space) -> Bytes {
    space.key(Kind::Session, &session.to_be_bytes())
}

/// Of which session a row is.
pub(crate) fn session_of(engine_key: &Bytes) -> Option<u64> {
    session(&bare(engine_key))
}

pub(crate) fn session(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}
