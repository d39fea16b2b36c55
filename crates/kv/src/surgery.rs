//! Split and merge, at apply. The protocol around them is the host's (`crates/host/src/surgery.rs`).

use bytes::Bytes;
use settle_base::{GroupId, GroupTime, Index};
use settle_machine::{
    ApplyError, EntryMeta,
    ranges::{Absorbed, Epoch, MergeCommand, Merging, Outline, Ranged, State},
};
use settle_storage::{KeyRange, KvEngine};

use crate::{
    Command, Commit, Descriptor, Effect, Region, RegionError,
    image::{Image, ImageReader, Stored, StoredValue},
    region::failed,
    sessions::session,
};

impl<E: KvEngine> Region<E> {
    /// A child takes what is from `at` on. What it takes is still stored here until the entries that follow have swept it.
    pub(crate) fn split(
        &mut self,
        entry: EntryMeta,
        epoch: Epoch,
        at: &Bytes,
        child: GroupId,
    ) -> Result<Effect<E::View>, RegionError> {
        let descriptor = &mut self.descriptor;
        let is_new = child != descriptor.group
            && !descriptor.children.contains(&child)
            && !descriptor.absorbed.contains_key(&child);
        let is_inside = descriptor.range.start < *at && descriptor.range.contains(at);
        // A replica that waits for a source may yet go on from another's state, of behind this entry: then it holds
        // nothing for the child.
        let is_free = descriptor.state == State::Serving && descriptor.is_settled();
        if epoch != descriptor.epoch || !is_free || !is_new || !is_inside {
            return Ok(Effect::Outdated);
        }
        descriptor.epoch.version += 1;
        let given = KeyRange {
            start: at.clone(),
            end: descriptor.range.end.replace(at.clone()),
        };
        descriptor.children.insert(child);
        let born = Descriptor {
            group: child,
            range: given.clone(),
            epoch: descriptor.epoch,
            state: State::Serving,
            members: descriptor.members.clone(),
            children: Default::default(),
            absorbed: Default::default(),
            given_away: Vec::new(),
        };
        descriptor.given_away.push(given);
        let members = descriptor.members.encoded.clone();
        self.is_changed = true;
        // The child is what it is now: entries of the same batch that follow may sweep it.
        self.write()?;
        Ok(Effect::Split {
            index: entry.index,
            time: entry.time,
            child,
            members,
            image: Image::part(self.view(), self.space, &self.standing, &born),
        })
    }

    pub(crate) fn prepare(
        &mut self,
        prepared: Index,
        epoch: Epoch,
        target: GroupId,
        target_epoch: Epoch,
        min_index: Index,
    ) -> Effect<E::View> {
        let descriptor = &mut self.descriptor;
        let is_free =
            descriptor.state == State::Serving && descriptor.is_settled() && descriptor.members.learners.is_empty();
        if epoch != descriptor.epoch || !is_free || target == descriptor.group || min_index > prepared {
            return Effect::Outdated;
        }
        descriptor.epoch.version += 1;
        descriptor.epoch.conf_ver += 1;
        descriptor.state = State::Merging(Merging {
            target,
            target_epoch,
            min_index,
            prepared,
        });
        self.is_changed = true;
        Effect::Prepared { prepared, min_index }
    }

    pub(crate) fn may_absorb(&self, commit: &Commit) -> bool {
        let descriptor = &self.descriptor;
        descriptor.state == State::Serving
            && descriptor.epoch == commit.epoch
            && descriptor.group != commit.source
            && !descriptor.absorbed.contains_key(&commit.source)
            && descriptor.may_take(&commit.range)
    }

    pub(crate) fn absorb(
        &mut self,
        entry: EntryMeta,
        commit: &Commit,
        given: &[u8],
        effects: &mut Vec<Effect<E::View>>,
    ) -> Result<(), ApplyError> {
        let index = entry.index;
        let wrong = |reason: String| ApplyError { index, reason };
        let mut reader = ImageReader::default();
        let rows = reader.push(given).map_err(|error| wrong(error.to_string()))?;
        let (standing, source) = reader.finish().map_err(|error| wrong(error.to_string()))?;
        let is_it = source.group == commit.source
            && source.range == commit.range
            && matches!(source.state, State::Merging(merging) if merging.prepared == commit.prepared);
        if !is_it || !self.may_absorb(commit) {
            return Err(wrong("what was given is not what the merge needs".to_owned()));
        }
        self.begin_entry(entry, effects)
            .map_err(|error| failed(index, &error))?;
        let begun = self.standing.time;
        // What is left of a time is left of it here: nothing ends early because two groups' clocks differ.
        let moved = |deadline: GroupTime| begun + deadline.since(standing.time);
        for row in rows {
            self.take(row, index, moved).map_err(|error| failed(index, &error))?;
        }
        if !settle_base::mutant!("merge_keeps_own_marks") {
            self.standing.marks = self.standing.marks.max(standing.marks);
        }
        let descriptor = &mut self.descriptor;
        match commit.range.end.as_ref() == Some(&descriptor.range.start) {
            true => descriptor.range.start = source.range.start,
            false => descriptor.range.end = source.range.end,
        }
        descriptor.epoch.version = descriptor.epoch.version.max(source.epoch.version) + 1;
        descriptor.epoch.conf_ver = descriptor.epoch.conf_ver.max(source.epoch.conf_ver);
        descriptor.children.remove(&source.group);
        descriptor.children.extend(source.children);
        descriptor.absorbed.extend(source.absorbed);
        let absorbed = Absorbed {
            prepared: commit.prepared,
            at: index,
            is_finished: false,
        };
        descriptor.absorbed.insert(commit.source, absorbed);
        self.is_changed = true;
        self.draft.keep();
        effects.push(Effect::Absorbed {
            source: commit.source,
            prepared: commit.prepared,
        });
        self.write().map_err(|error| failed(index, &error))
    }

    fn take(&mut self, row: Stored, index: Index, moved: impl Fn(GroupTime) -> GroupTime) -> Result<(), RegionError> {
        let Stored { kind, key, mut value } = row;
        let deadline = match &mut value {
            StoredValue::Data(row) => row.deadline.as_mut(),
            StoredValue::Lock(lock) => Some(&mut lock.deadline),
            StoredValue::Sequence(_) => None,
            StoredValue::Session(row) => {
                let session = session(&key).expect("the reader has looked at it");
                row.index = index;
                if settle_base::mutant!("merge_forgets_sessions") {
                    return Ok(());
                }
                return self.sessions.inherit(session, row.clone(), &mut self.draft, self.space);
            }
        };
        if let Some(deadline) = deadline {
            *deadline = moved(*deadline);
            let deadline = *deadline;
            self.draft.put(self.space.deadline(deadline, kind, &key), Bytes::new());
            self.note_deadline(deadline);
        }
        self.draft.put(self.space.key(kind, &key), value.encode());
        Ok(())
    }

    pub(crate) fn roll_back(&mut self, at: Index) -> Effect<E::View> {
        match self.descriptor.state {
            State::Merging(Merging { prepared, .. }) if prepared == at => {
                self.descriptor.state = State::Serving;
                self.descriptor.epoch.version += 1;
                self.is_changed = true;
                Effect::RolledBack { prepared }
            }
            _ => Effect::Outdated,
        }
    }

    pub(crate) fn cancel(&mut self, epoch: Epoch, source: GroupId) -> Effect<E::View> {
        let descriptor = &mut self.descriptor;
        let is_open = descriptor.state == State::Serving && !descriptor.absorbed.contains_key(&source);
        if epoch == descriptor.epoch && is_open {
            descriptor.epoch.version += 1;
            self.is_changed = true;
        }
        Effect::Outdated
    }

    pub(crate) fn finish(&mut self, source: GroupId) -> Effect<E::View> {
        let absorbed = self.descriptor.absorbed.get_mut(&source);
        match absorbed.filter(|absorbed| !absorbed.is_finished) {
            Some(absorbed) => {
                absorbed.is_finished = true;
                self.is_changed = true;
                Effect::Finished { source }
            }
            None => Effect::Outdated,
        }
    }
}

impl<E: KvEngine> Ranged for Region<E> {
    type Range = KeyRange;

    fn outline(&self) -> Outline<'_> {
        let descriptor = &self.descriptor;
        Outline {
            epoch: descriptor.epoch,
            state: descriptor.state,
            members: &descriptor.members,
            children: &descriptor.children,
            absorbed: &descriptor.absorbed,
        }
    }

    fn range(&self) -> KeyRange {
        self.descriptor.range.clone()
    }

    fn touches(&self, other: &Region<E>) -> bool {
        let (a, b) = (&self.descriptor.range, &other.descriptor.range);
        a.end.as_ref() == Some(&b.start) || b.end.as_ref() == Some(&a.start)
    }

    fn inheritance(&self) -> Bytes {
        let image = Image::part(self.view(), self.space, &self.standing, &self.descriptor);
        let mut out = Vec::new();
        image.chunks().for_each(|chunk| out.extend_from_slice(&chunk));
        out.into()
    }

    fn encode(command: MergeCommand<KeyRange>) -> Bytes {
        match command {
            MergeCommand::Prepare {
                epoch,
                target,
                target_epoch,
                min_index,
            } => Command::Prepare {
                epoch,
                target,
                target_epoch,
                min_index,
            },
            MergeCommand::Commit(commit) => Command::Commit(Box::new(commit)),
            MergeCommand::Rollback { prepared } => Command::Rollback { prepared },
            MergeCommand::Cancel { epoch, source } => Command::Cancel { epoch, source },
            MergeCommand::Finish { source } => Command::Finish { source },
        }
        .encode()
    }

    fn commit_of(needs: &Bytes) -> Option<Commit> {
        match Command::decode(needs) {
            Ok(Command::Commit(commit)) => Some(*commit),
            _ => None,
        }
    }
}
