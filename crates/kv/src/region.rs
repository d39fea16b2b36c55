//! The state machine of a region.
//!
//! Everything about a region lies in its node's engine under one prefix of its own. What the commands of a batch change,
//! the index of the last of them and the descriptor go there together, in one write. So what is found after a crash is
//! the region as it was behind one of its entries, and the log is applied from there.

use std::collections::VecDeque;

use bytes::Bytes;
use settle_base::{GroupId, GroupTime, Index, fingerprint};
use settle_machine::{
    ApplyError, EntryMeta, LoadError, Members, SnapshotChunks, StateMachine, Ticket,
    ranges::{Epoch, State},
};
use settle_storage::{Batch, Direction, KvEngine, KvRead, Limit, Seq};

use crate::{
    Changed, Command, Descriptor, Query, Refusal, RegionError, Reply, Request, Space, Standing,
    draft::Draft,
    encoding::Reader,
    execute::{Look, Stop, Turn},
    image::{Image, ImageReader, Stored, StoredValue, refuse},
    limits::SWEPT_ROWS_MAX,
    op::Asked,
    rows::{KEYED, Kind, LockRow, Row, SessionRow, bare, due},
    sessions::{Sessions, session, session_of},
};

/// Flushes that were asked for and are not known to have ended.
const FLUSHES_MAX: usize = 64;

/// What applying makes known.
#[derive(Clone, Debug)]
pub enum Effect<V> {
    Replied {
        ticket: Ticket,
        reply: Reply,
    },
    Changed(Changed),
    /// `image` is the whole of what `child` begins with.
    Split {
        index: Index,
        time: GroupTime,
        child: GroupId,
        members: Bytes,
        image: Image<V>,
    },
    Prepared {
        prepared: Index,
        min_index: Index,
    },
    Absorbed {
        source: GroupId,
        prepared: Index,
    },
    RolledBack {
        prepared: Index,
    },
    Finished {
        source: GroupId,
    },
    /// A command on ranges came too late.
    Outdated,
}

/// See the module.
pub struct Region<E: KvEngine> {
    pub(crate) draft: Draft<E>,
    pub(crate) space: Space,
    pub(crate) descriptor: Descriptor,
    pub(crate) standing: Standing,
    pub(crate) sessions: Sessions,
    /// The descriptor changed since it was written. It is written with the next entry.
    pub(crate) is_changed: bool,
    /// Nothing ends before.
    earliest_deadline: GroupTime,
    loading: Option<ImageReader>,
    /// Writes that will be durable, and up to where the log is not needed then.
    flushing: VecDeque<(Seq, Index)>,
    durable: Index,
}

impl<E: KvEngine> Region<E> {
    /// The region that begins with all keys (`is_whole`), or one that waits for a snapshot, in a space that is empty.
    pub fn new(engine: E, space: Space, group: GroupId, is_whole: bool) -> Region<E> {
        Region {
            draft: Draft::new(engine),
            space,
            descriptor: Descriptor::new(group, is_whole),
            standing: Standing::default(),
            sessions: Sessions::default(),
            is_changed: true,
            earliest_deadline: GroupTime(u64::MAX),
            loading: None,
            flushing: VecDeque::new(),
            durable: 0,
        }
    }

    /// The region that an earlier process left in `space`: the log is applied behind [`Standing::index`]. `None` when
    /// nothing is there that was ever whole.
    ///
    /// # Errors
    /// When the engine fails, or gives what was never put there.
    pub fn open(engine: E, space: Space) -> Result<Option<Region<E>>, RegionError> {
        let record = |kind| engine.get(&space.key(kind, b""));
        let (Some(standing), Some(descriptor)) = (record(Kind::Standing)?, record(Kind::Descriptor)?) else {
            return Ok(None);
        };
        let mut reader = Reader::new(standing);
        let standing = Standing::decode(&mut reader)?;
        reader.finish()?;
        let mut reader = Reader::new(descriptor);
        let descriptor = Descriptor::decode(&mut reader)?;
        reader.finish()?;
        let mut region = Region::new(engine, space, descriptor.group, false);
        (region.standing, region.descriptor) = (standing, descriptor);
        region.is_changed = false;
        region.earliest_deadline = GroupTime::ZERO;
        let mut rest = Some(space.of_kind(Kind::Session));
        while let Some(range) = rest {
            let limit = Limit {
                rows: 256,
                bytes: usize::MAX,
            };
            let page = region.draft.scan(&range, Direction::Forward, limit)?;
            for (key, row) in page.rows {
                if let Some(session) = session_of(&key) {
                    region.sessions.found(session, SessionRow::decode(row)?.index);
                }
            }
            rest = page.rest;
        }
        Ok(Some(region))
    }

    /// Nobody wants this replica any more, durably: begins to remove all of it. One that is merely dropped stays stored,
    /// whatever ended its process.
    pub fn retire(self) {
        self.draft.engine().clear(self.space.all());
    }

    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    pub fn space(&self) -> Space {
        self.space
    }

    pub fn engine(&self) -> &E {
        self.draft.engine()
    }

    pub fn serves(&self, key: &[u8]) -> bool {
        self.descriptor.state == State::Serving && self.descriptor.range.contains(key)
    }

    /// Answers a query from what is applied. Whether that is recent enough is the asker's to know.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn read(&self, version: u64, query: &Query) -> Result<Reply, RegionError> {
        let refused = self.refuses(version).or_else(|| {
            let mut is_here = true;
            query.visit_keys(&mut |asked| is_here &= self.is_asked_here(asked));
            (!is_here).then(|| self.elsewhere())
        });
        match refused {
            Some(refusal) => Ok(Reply::Refused(refusal)),
            None => self.look().query(query),
        }
    }

    fn look(&self) -> Look<'_, Draft<E>> {
        Look {
            rows: &self.draft,
            space: self.space,
            range: &self.descriptor.range,
            time: self.standing.time,
        }
    }

    /// Why a command that was proposed now would come to nothing, as far as that is known. Applying it asks again: what
    /// is right here may be wrong there.
    ///
    /// # Errors
    /// The answer to whoever wants it proposed.
    pub fn admit(&self, command: &Command) -> Result<(), Refusal> {
        let is_at = |epoch: &Epoch| *epoch == self.descriptor.epoch;
        let refused = match command {
            Command::Requests { version, requests } => {
                let all_here = || requests.iter().all(|request| self.is_here(request));
                self.refuses(*version)
                    .or_else(|| (!all_here()).then(|| self.elsewhere()))
            }
            Command::Split { epoch, .. } | Command::Prepare { epoch, .. } | Command::Cancel { epoch, .. } => {
                (!is_at(epoch)).then(|| self.elsewhere())
            }
            Command::Commit(commit) => (!is_at(&commit.epoch)).then(|| self.elsewhere()),
            Command::Rollback { .. } | Command::Finish { .. } | Command::Tick => None,
        };
        refused.map_or(Ok(()), Err)
    }

    /// Whether something is to be done that only a command does: something has ended by `time`, or there is still stored
    /// what was given away.
    pub fn wants_tick(&self, time: GroupTime) -> bool {
        let is_serving = self.descriptor.state == State::Serving;
        is_serving && (self.earliest_deadline <= time || !self.descriptor.given_away.is_empty())
    }

    /// Begins to make durable what is applied; [`Region::durable_index`] tells.
    pub fn flush(&mut self) {
        let asked = (self.draft.engine().flush(), self.standing.index);
        if self.flushing.len() >= FLUSHES_MAX {
            self.flushing.pop_back();
        }
        self.flushing.push_back(asked);
    }

    /// What no crash takes: the log may begin behind it. At least what this process has flushed: what an earlier one left
    /// may be in the system's cache alone.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn durable_index(&mut self) -> Result<Index, RegionError> {
        let durable = self.draft.engine().durable()?;
        while let Some((_, index)) = self.flushing.pop_front_if(|(seq, _)| *seq <= durable) {
            self.durable = index;
        }
        Ok(self.durable)
    }

    pub(crate) fn view(&self) -> E::View {
        assert!(self.draft.is_empty(), "all of it is in the engine");
        self.draft.engine().view()
    }

    fn refuses(&self, version: u64) -> Option<Refusal> {
        match self.descriptor.state {
            State::Empty | State::Merging(_) => Some(Refusal::Silent),
            State::Serving => (version != self.descriptor.epoch.version).then(|| self.elsewhere()),
        }
    }

    fn elsewhere(&self) -> Refusal {
        Refusal::Elsewhere {
            epoch: self.descriptor.epoch,
            range: self.descriptor.range.clone(),
        }
    }

    fn is_asked_here(&self, asked: Asked<'_>) -> bool {
        let range = &self.descriptor.range;
        match asked {
            Asked::Key(key) => range.contains(key),
            Asked::Before(None) => range.end.is_none(),
            Asked::Before(Some(end)) => range.start < *end && range.end.as_ref().is_none_or(|last| end <= last),
        }
    }

    fn is_here(&self, request: &Request) -> bool {
        let mut is_here = true;
        request.op.visit_keys(&mut |asked| is_here &= self.is_asked_here(asked));
        is_here
    }

    /// A turn of this region's own, or of a request.
    fn turn<'a>(&'a mut self, changes: &'a mut Vec<Changed>) -> Turn<'a, E> {
        Turn::new(
            &mut self.draft,
            self.space,
            &self.descriptor.range,
            &mut self.standing,
            changes,
        )
    }

    pub(crate) fn begin_entry(
        &mut self,
        entry: EntryMeta,
        effects: &mut Vec<Effect<E::View>>,
    ) -> Result<(), RegionError> {
        let standing = &mut self.standing;
        assert!(entry.index > standing.index, "entries are applied once, in their order");
        (standing.index, standing.term) = (entry.index, entry.term);
        if self.descriptor.state == State::Serving {
            standing.time = standing.time.max(entry.time);
            self.sweep_ended(effects)?;
            self.sweep_given_away()?;
        }
        Ok(())
    }

    /// Removes some of what has ended. What is not removed yet is not seen either.
    fn sweep_ended(&mut self, effects: &mut Vec<Effect<E::View>>) -> Result<(), RegionError> {
        let (space, time) = (self.space, self.standing.time);
        if self.earliest_deadline > time {
            return Ok(());
        }
        let limit = Limit {
            rows: SWEPT_ROWS_MAX + 1,
            bytes: usize::MAX,
        };
        let page = self
            .draft
            .scan(&space.of_kind(Kind::Deadline), Direction::Forward, limit)?;
        self.earliest_deadline = GroupTime(u64::MAX);
        let mut changes = Vec::new();
        for (swept, (key, _)) in page.rows.into_iter().enumerate() {
            let (deadline, kind, of) = due(&key)?;
            if deadline > time || swept >= SWEPT_ROWS_MAX {
                self.earliest_deadline = deadline;
                break;
            }
            self.draft.delete(key);
            self.sweep_row(kind, &of, &mut changes)?;
        }
        self.draft.keep();
        effects.extend(changes.into_iter().map(Effect::Changed));
        Ok(())
    }

    /// Removes a row, whatever its time. Of one that was given away nobody is told: it lives elsewhere.
    fn sweep_row(&mut self, kind: Kind, key: &Bytes, changes: &mut Vec<Changed>) -> Result<(), RegionError> {
        let is_ours = self.descriptor.range.contains(key);
        let engine_key = self.space.key(kind, key);
        let Some(value) = self.draft.get(&engine_key)? else {
            return Ok(());
        };
        match kind {
            Kind::Data => {
                let row = Row::decode(value)?;
                match is_ours {
                    true => self.turn(changes).delete_row(key, &row),
                    false => {
                        if let Some(deadline) = row.deadline {
                            self.draft.delete(self.space.deadline(deadline, kind, key));
                        }
                        self.draft.delete(engine_key);
                    }
                }
            }
            Kind::Lock => {
                let lock = LockRow::decode(value)?;
                self.turn(changes).remove_lock(key, lock.deadline);
            }
            _ => self.draft.delete(engine_key),
        }
        Ok(())
    }

    /// Removes some of what a split gave away. With the entries, so that every replica still stores the same, and so that
    /// what comes back by a merge never meets it.
    fn sweep_given_away(&mut self) -> Result<(), RegionError> {
        let Some(range) = self.descriptor.given_away.first().cloned() else {
            return Ok(());
        };
        let mut left = SWEPT_ROWS_MAX;
        for kind in KEYED {
            if left == 0 {
                break;
            }
            let limit = Limit {
                rows: left,
                bytes: usize::MAX,
            };
            let page = self
                .draft
                .scan(&self.space.range(kind, &range), Direction::Forward, limit)?;
            left -= page.rows.len();
            for (key, _) in page.rows {
                self.sweep_row(kind, &bare(&key), &mut Vec::new())?;
            }
        }
        if left > 0 {
            self.descriptor.given_away.remove(0);
            self.is_changed = true;
        }
        self.draft.keep();
        Ok(())
    }

    fn do_requests(
        &mut self,
        index: Index,
        version: u64,
        requests: &[Request],
        effects: &mut Vec<Effect<E::View>>,
    ) -> Result<(), RegionError> {
        // RheaKV's bug: all was right when the command was proposed, and nobody asks again.
        let is_asked = !settle_base::mutant!("region_not_checked_at_apply");
        let refused = self.refuses(version).filter(|_| is_asked);
        for request in requests {
            let reply = match &refused {
                Some(refusal) => Reply::Refused(refusal.clone()),
                None if is_asked && !self.is_here(request) => Reply::Refused(self.elsewhere()),
                None => self.do_request(index, request, effects)?,
            };
            let ticket = request.ticket;
            effects.push(Effect::Replied { ticket, reply });
        }
        Ok(())
    }

    fn do_request(
        &mut self,
        index: Index,
        request: &Request,
        effects: &mut Vec<Effect<E::View>>,
    ) -> Result<Reply, RegionError> {
        let Request {
            ticket, is_remembered, ..
        } = *request;
        if is_remembered && let Some(reply) = self.sessions.answered(ticket, &self.draft, self.space)? {
            return Ok(reply);
        }
        let marks = self.standing.marks;
        let mut changes = Vec::new();
        let reply = match self.turn(&mut changes).run(&request.op) {
            Ok(reply) => reply,
            Err(Stop::Failed(error)) => return Err(error),
            Err(Stop::Refused(refusal)) => {
                self.draft.drop_open();
                self.standing.marks = marks;
                changes.clear();
                Reply::Refused(refusal)
            }
        };
        if is_remembered {
            self.sessions
                .remember(ticket, index, &reply, &mut self.draft, self.space);
        }
        self.note_deadlines(&request.op);
        self.draft.keep();
        effects.extend(changes.into_iter().map(Effect::Changed));
        Ok(reply)
    }

    pub(crate) fn note_deadline(&mut self, deadline: GroupTime) {
        self.earliest_deadline = self.earliest_deadline.min(deadline);
    }

    fn note_deadlines(&mut self, op: &crate::Op) {
        let mut shortest = None;
        op.visit_times(&mut |ms| shortest = Some(shortest.unwrap_or(u64::MAX).min(ms)));
        if let Some(ms) = shortest {
            self.note_deadline(GroupTime(self.standing.time.0.saturating_add(ms)));
        }
    }

    /// What was drafted, with where it leads, in one write.
    pub(crate) fn write(&mut self) -> Result<(), RegionError> {
        let mut out = Vec::new();
        self.standing.encode(&mut out);
        self.draft.put(self.space.key(Kind::Standing, b""), out.into());
        if std::mem::take(&mut self.is_changed) {
            let mut out = Vec::new();
            self.descriptor.encode(&mut out);
            self.draft.put(self.space.key(Kind::Descriptor, b""), out.into());
        }
        self.draft.keep();
        self.draft.write()?;
        Ok(())
    }

    fn apply_one(
        &mut self,
        entry: EntryMeta,
        command: &Bytes,
        effects: &mut Vec<Effect<E::View>>,
    ) -> Result<(), ApplyError> {
        let index = entry.index;
        let command = Command::decode(command).map_err(|error| unreadable(index, &error))?;
        let applied = self.begin_entry(entry, effects).and_then(|()| {
            let effect = match &command {
                Command::Requests { version, requests } => {
                    return self.do_requests(index, *version, requests, effects);
                }
                Command::Split { epoch, at, child } => self.split(entry, *epoch, at, *child)?,
                Command::Prepare {
                    epoch,
                    target,
                    target_epoch,
                    min_index,
                } => self.prepare(index, *epoch, *target, *target_epoch, *min_index),
                // What may be absorbed comes with what it needs.
                Command::Commit(_) => Effect::Outdated,
                Command::Rollback { prepared } => self.roll_back(*prepared),
                Command::Cancel { epoch, source } => self.cancel(*epoch, *source),
                Command::Finish { source } => self.finish(*source),
                Command::Tick => return Ok(()),
            };
            effects.push(effect);
            Ok(())
        });
        applied.map_err(|error| failed(index, &error))
    }

    fn load_rows(&mut self, rows: Vec<Stored>, mut batch: Batch) -> Result<(), LoadError> {
        for Stored { kind, key, value } in rows {
            let deadline = match &value {
                StoredValue::Data(row) => row.deadline,
                StoredValue::Lock(lock) => Some(lock.deadline),
                StoredValue::Session(row) => {
                    let session = session(&key).expect("the reader has looked at it");
                    self.sessions.found(session, row.index);
                    None
                }
                StoredValue::Sequence(_) => None,
            };
            if let Some(deadline) = deadline {
                batch.put(self.space.deadline(deadline, kind, &key), Bytes::new());
            }
            batch.put(self.space.key(kind, &key), value.encode());
        }
        match batch.is_empty() {
            true => Ok(()),
            false => self.draft.engine().write(batch).map(drop).map_err(|error| LoadError {
                reason: error.to_string(),
            }),
        }
    }
}

fn unreadable(index: Index, error: &dyn std::error::Error) -> ApplyError {
    let reason = format!("not a command of a region: {error}");
    ApplyError { index, reason }
}

pub(crate) fn failed(index: Index, error: &RegionError) -> ApplyError {
    let reason = match error {
        RegionError::Engine { source } => format!("{error}: {source}"),
        RegionError::Damaged { source } => format!("{error}: {source}"),
    };
    ApplyError { index, reason }
}

impl<E: KvEngine> StateMachine for Region<E> {
    type Effect = Effect<E::View>;

    fn check(&self, command: &Bytes) -> Result<(), ApplyError> {
        Command::decode(command)
            .map(drop)
            .map_err(|error| unreadable(0, &error))
    }

    fn apply(&mut self, entry: EntryMeta, command: &Bytes, effects: &mut Vec<Self::Effect>) -> Result<(), ApplyError> {
        self.apply_batch(&mut std::iter::once((entry, command)), effects)
    }

    fn needs(&self, command: &Bytes) -> Option<Bytes> {
        if !Command::is_commit(command) {
            return None;
        }
        match Command::decode(command) {
            Ok(Command::Commit(commit)) if self.may_absorb(&commit) => Some(command.clone()),
            _ => None,
        }
    }

    fn apply_given(
        &mut self,
        entry: EntryMeta,
        command: &Bytes,
        given: Bytes,
        effects: &mut Vec<Self::Effect>,
    ) -> Result<(), ApplyError> {
        let index = entry.index;
        let commit = match Command::decode(command) {
            Ok(Command::Commit(commit)) => commit,
            Ok(_) => {
                return Err(ApplyError {
                    index,
                    reason: "this command needs nothing".to_owned(),
                });
            }
            Err(error) => return Err(unreadable(index, &error)),
        };
        self.absorb(entry, &commit, &given, effects)
    }

    fn members_changed(&mut self, members: &Members) {
        let who = |members: &Members| (members.voters.clone(), members.learners.clone(), members.is_joint);
        let descriptor = &mut self.descriptor;
        if *members != descriptor.members {
            if !descriptor.members.voters.is_empty() && who(members) != who(&descriptor.members) {
                descriptor.epoch.conf_ver += 1;
            }
            descriptor.members = members.clone();
            self.is_changed = true;
        }
    }

    /// A merge is arranged between the same members; they stay until it is over.
    fn takes_members(&self) -> bool {
        !matches!(self.descriptor.state, State::Merging(_))
    }

    fn apply_batch(
        &mut self,
        batch: &mut dyn Iterator<Item = (EntryMeta, &Bytes)>,
        effects: &mut Vec<Self::Effect>,
    ) -> Result<(), ApplyError> {
        let mut last = None;
        for (entry, command) in batch {
            self.apply_one(entry, command, effects)?;
            last = Some(entry.index);
        }
        match last {
            Some(index) => self.write().map_err(|error| failed(index, &error)),
            None => Ok(()),
        }
    }

    fn begin_snapshot(&self) -> SnapshotChunks {
        Image::whole(self.view(), self.space, &self.standing, &self.descriptor).chunks()
    }

    fn load_chunk(&mut self, chunk: Bytes) -> Result<(), LoadError> {
        let mut batch = Batch::default();
        let mut reader = self.loading.take().unwrap_or_else(|| {
            batch.delete_range(self.space.all());
            self.sessions = Sessions::default();
            ImageReader::default()
        });
        let rows = reader.push(&chunk)?;
        self.load_rows(rows, batch)?;
        self.loading = Some(reader);
        Ok(())
    }

    fn finish_load(&mut self) -> Result<(), LoadError> {
        let reader = self.loading.take().ok_or_else(|| refuse("there is nothing of it"))?;
        let (standing, descriptor) = reader.finish()?;
        if descriptor.group != self.descriptor.group {
            return Err(refuse("it is another region's"));
        }
        (self.standing, self.descriptor) = (standing, descriptor);
        (self.is_changed, self.earliest_deadline) = (true, GroupTime::ZERO);
        self.flushing.clear();
        self.durable = 0;
        self.write().map_err(|error| LoadError {
            reason: failed(0, &error).reason,
        })
    }

    fn state_hash(&self) -> u64 {
        let chunks = Image::whole(self.view(), self.space, &self.standing, &self.descriptor).chunks();
        chunks.fold(0, |hash, chunk| {
            fingerprint(&[&hash.to_le_bytes()[..], &chunk[..]].concat())
        })
    }
}

impl<E: KvEngine> std::fmt::Debug for Region<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region")
            .field("space", &self.space)
            .field("descriptor", &self.descriptor)
            .field("standing", &self.standing)
            .finish_non_exhaustive()
    }
}
