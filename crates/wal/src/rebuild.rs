//! A group as recovery rebuilds it, over damage that may have held records of it.
//!
//! What was true before the damage was true once, and a replica in an older state is one that forgot: the rules of a
//! recovering replica are made for that. What later records say is used only where it holds whatever was lost:
//! - a hard state, which is whole in each record;
//! - a snapshot, which stands for every entry before it;
//! - entries that begin right behind a snapshot, or at an entry that is there already with the same term (log matching).
//!   Others would follow entries that perhaps were never theirs.
//!
//! When the group's creation, its hard state and its entries are certain again, nothing was lost.

use settle_base::{GroupId, Index, PeerId, Term};

use crate::{
    groups::{GroupIndex, RecoveredGroup, Run},
    marks::Mark,
    record::{HardState, Record, Snapshot, WalEntry},
    recovery::KeepsEntries,
};

pub(crate) struct Rebuild {
    pub(crate) known: RecoveredGroup,
    /// Its creation was read, or repeated by a checkpoint.
    is_created: bool,
    gap: Option<Gap>,
}

/// What is not certain since damage.
struct Gap {
    at: Mark,
    /// Committed before it. A later commit may be of entries that replaced those that are known.
    commit: Index,
    is_hard_state_certain: bool,
    /// `None`: the entries are certain.
    unsure: Option<Unsure>,
}

/// The entries of the group are those of `known`, changed by what was lost and then by `suffix`.
struct Unsure {
    /// Written since, up to the log's end: which entries were before them is not known.
    suffix: Vec<WalEntry>,
    /// Where the entries of `known` are.
    runs: Vec<Run>,
}

impl Rebuild {
    pub(crate) fn new(group: GroupId) -> Rebuild {
        Rebuild {
            known: RecoveredGroup::new(group),
            is_created: false,
            gap: None,
        }
    }

    /// Records of the group may have been lost here.
    pub(crate) fn lose(&mut self, at: Mark, index: &GroupIndex) {
        let runs = match self.gap.take() {
            // Two losses with nothing certain between them are one.
            Some(Gap {
                at,
                commit,
                unsure: Some(earlier),
                ..
            }) => {
                self.gap = Some(Gap::new(at, commit, earlier.runs));
                return;
            }
            _ => index.runs(self.known.group),
        };
        let commit = self.known.hard_state.map_or(0, |state| state.commit);
        self.gap = Some(Gap::new(at, commit, runs));
    }

    pub(crate) fn apply(&mut self, record: Record) {
        self.is_created |= matches!(record, Record::Create { .. });
        let Some(gap) = &mut self.gap else {
            return self.known.apply(record);
        };
        match (record, &mut gap.unsure) {
            (Record::Destroy { group }, _) => {
                self.known.apply(Record::Destroy { group });
                self.gap = None;
                return;
            }
            (Record::HardState { group, state }, _) => {
                gap.is_hard_state_certain = true;
                self.known.apply(Record::HardState { group, state });
            }
            (Record::Entries { entries, .. }, Some(unsure)) => {
                unsure.extend(entries);
                if self.known.precedes(&unsure.suffix) {
                    let entries = std::mem::take(&mut unsure.suffix);
                    gap.unsure = None;
                    self.known.join(entries);
                }
            }
            (Record::Snapshot { snapshot, reset, .. }, Some(unsure)) => {
                let is_behind = unsure
                    .suffix
                    .first()
                    .is_some_and(|first| first.index <= snapshot.index + 1);
                if reset || is_behind {
                    let entries = std::mem::take(&mut unsure.suffix);
                    gap.unsure = None;
                    self.known.entries.clear();
                    self.known.snapshot = Some(snapshot);
                    if !reset {
                        self.known.join(entries);
                    }
                } else {
                    if self.known.term_at(snapshot.index) != Some(snapshot.term) {
                        self.known.entries.clear();
                    }
                    self.known.entries.retain(|entry| entry.index > snapshot.index);
                    self.known.snapshot = Some(snapshot);
                }
            }
            (record, _) => self.known.apply(record),
        }
        let is_certain = |gap: &Gap| gap.is_hard_state_certain && gap.unsure.is_none();
        if self.is_created && self.gap.as_ref().is_some_and(is_certain) {
            self.gap = None;
        }
    }

    /// Leaves it at what is known. Says where the damage was, if anything may be missing, and whether entries are kept.
    pub(crate) fn resume(&mut self, index: &mut GroupIndex) -> Option<(Mark, KeepsEntries)> {
        let at = self.gap.as_ref()?.at;
        let waits = self.known.snapshot.as_ref().is_none_or(|snapshot| snapshot.index == 0);
        // Without its beginning the replica waits for a snapshot, and must have nothing that could stand against it.
        let keeps_entries = !waits && self.known.is_contiguous();
        self.resume_again(keeps_entries, index);
        Some((at, keeps_entries))
    }

    /// As it was resumed once. Of what was judged then, segments may have gone since, when a snapshot made them
    /// dispensable: so entries that are kept need not be contiguous yet.
    pub(crate) fn resume_again(&mut self, keeps_entries: KeepsEntries, index: &mut GroupIndex) {
        let gap = self.gap.take();
        if gap.is_none() && keeps_entries {
            return;
        }
        let known = &mut self.known;
        if !keeps_entries {
            known.entries.clear();
        }
        if let Some(gap) = gap.as_ref().filter(|gap| gap.unsure.is_some())
            && let Some(state) = &mut known.hard_state
        {
            let covered = known.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
            state.commit = state.commit.min(gap.commit.max(covered));
        }
        let unsure = gap.and_then(|gap| gap.unsure);
        let runs = unsure.map_or_else(|| index.runs(known.group), |unsure| unsure.runs);
        let (first, last) = known
            .entries
            .first()
            .map_or((1, 0), |first| (first.index, known.last_index()));
        index.set_runs(known.group, runs, first, last);
        known.settle_hard_state();
        index.set_state(known.group, known.hard_state, known.snapshot.as_ref());
    }
}

impl Gap {
    fn new(at: Mark, commit: Index, runs: Vec<Run>) -> Gap {
        Gap {
            at,
            commit,
            is_hard_state_certain: false,
            unsure: Some(Unsure {
                suffix: Vec::new(),
                runs,
            }),
        }
    }
}

impl Unsure {
    fn extend(&mut self, entries: Vec<WalEntry>) {
        let first = entries[0].index;
        match self.suffix.first().map(|entry| entry.index) {
            Some(start) if first >= start && first - start <= self.suffix.len() as u64 => {
                self.suffix.truncate((first - start) as usize);
            }
            _ => self.suffix.clear(),
        }
        self.suffix.extend(entries);
    }
}

impl RecoveredGroup {
    fn last_index(&self) -> Index {
        let base = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
        self.entries.last().map_or(base, |last| last.index)
    }

    fn term_at(&self, index: Index) -> Option<Term> {
        if let Some(snapshot) = self.snapshot.as_ref().filter(|snapshot| snapshot.index == index) {
            return Some(snapshot.term);
        }
        let first = self.entries.first()?.index;
        let at = usize::try_from(index.checked_sub(first)?).ok()?;
        self.entries.get(at).map(|entry| entry.term)
    }

    /// Whether what is known is certainly what `suffix` followed.
    fn precedes(&self, suffix: &[WalEntry]) -> bool {
        let base = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
        let first = &suffix[0];
        first.index <= base + 1 || self.term_at(first.index) == Some(first.term)
    }

    fn join(&mut self, suffix: Vec<WalEntry>) {
        let base = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
        if let Some(first) = suffix.first() {
            self.entries.retain(|entry| entry.index < first.index);
        }
        self.entries
            .extend(suffix.into_iter().filter(|entry| entry.index > base));
    }

    /// A lost hard state may have been of a later term. Votes in it are forgotten, which a recovering replica may.
    fn settle_hard_state(&mut self) {
        let last_term = self.entries.last().map(|entry| entry.term);
        let snapshot_term = self.snapshot.as_ref().map(|snapshot| snapshot.term);
        let Some(term) = last_term.max(snapshot_term) else {
            return;
        };
        let commit_max = self.last_index();
        let state = self.hard_state.get_or_insert(HardState {
            term,
            vote: PeerId::NONE,
            commit: 0,
        });
        if state.term < term {
            (state.term, state.vote) = (term, PeerId::NONE);
        }
        state.commit = state.commit.min(commit_max);
    }
}

/// What stands for the log of a group that waits for a snapshot.
pub(crate) fn no_snapshot() -> Snapshot {
    Snapshot {
        index: 0,
        term: 0,
        time: settle_base::GroupTime::ZERO,
        conf: bytes::Bytes::new(),
        file: None,
    }
}
