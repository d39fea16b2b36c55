//! The log in memory, from the last compaction on, with the marks that tell how far it is durable, committed, applied.

use std::collections::VecDeque;

use settle_base::{GroupTime, Index, PeerId, Term};

use crate::{entries::Entries, entry::Entry, message::Durability, ready::PersistSeq};

/// A write that the host has not reported durable yet, as what the disk will hold once it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inflight {
    pub seq: PersistSeq,
    pub term: Term,
    pub vote: PeerId,
    /// The disk's log equals ours up to here. A truncation lowers it, so an overwritten entry never counts as durable,
    /// not even when an equal one is written again later (the disk passes through the truncated state in between).
    pub log_last: Index,
}

#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// Entries start after this index; its term and time are still known.
    base: Index,
    base_term: Term,
    base_time: GroupTime,
    entries: Entries,
    /// In a [`crate::Persist`] already.
    pub handed: Index,
    /// Reported durable.
    pub durable: Index,
    pub durable_term: Term,
    pub durable_vote: PeerId,
    pub inflight: VecDeque<Inflight>,
    /// Handed entries after this were overwritten; the next [`crate::Persist`] has to say so.
    pub truncated_to: Option<Index>,
    pub commit: Index,
    /// Handed out to be applied.
    pub apply_handed: Index,
    /// While nothing is handed out: the bytes of all that is not applied.
    held_bytes: Option<usize>,
    pub applied: Index,
}

impl Log {
    pub fn new(base: (Index, Term, GroupTime), entries: Vec<Entry>, term: Term, vote: PeerId, commit: Index) -> Log {
        let (base, base_term, base_time) = base;
        let last = base + entries.len() as u64;
        Log {
            base,
            base_term,
            base_time,
            entries: entries.into(),
            handed: last,
            durable: last,
            durable_term: term,
            durable_vote: vote,
            inflight: VecDeque::new(),
            truncated_to: None,
            commit,
            apply_handed: base,
            held_bytes: None,
            applied: base,
        }
    }

    pub fn base(&self) -> Index {
        self.base
    }

    pub fn last_index(&self) -> Index {
        self.base + self.entries.len() as u64
    }

    pub fn last_term(&self) -> Term {
        self.entries.back().map_or(self.base_term, |entry| entry.term)
    }

    pub fn last_time(&self) -> GroupTime {
        self.entries.back().map_or(self.base_time, |entry| entry.time)
    }

    fn get(&self, index: Index) -> Option<&Entry> {
        self.entries
            .get(usize::try_from(index.checked_sub(self.base + 1)?).ok()?)
    }

    /// `None` when `index` is compacted or not written yet.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base {
            Some(self.base_term)
        } else {
            self.get(index).map(|entry| entry.term)
        }
    }

    pub fn time_at(&self, index: Index) -> Option<GroupTime> {
        if index == self.base {
            Some(self.base_time)
        } else {
            self.get(index).map(|entry| entry.time)
        }
    }

    pub fn matches(&self, index: Index, term: Term) -> bool {
        self.term_at(index) == Some(term)
    }

    /// The entries of `low..=high` that are still here.
    pub fn range(&self, low: Index, high: Index) -> impl Iterator<Item = &Entry> {
        let from = low.saturating_sub(self.base + 1).min(self.entries.len() as u64) as usize;
        let to = high.saturating_sub(self.base).min(self.entries.len() as u64) as usize;
        self.entries.range(from..to.max(from))
    }

    /// Entries from `low` on within `max_bytes`; at least one if there is any.
    pub fn page(&self, low: Index, max_bytes: usize) -> (Vec<Entry>, usize) {
        let (mut bytes, mut count) = (0, 0);
        for entry in self.range(low, Index::MAX) {
            if count > 0 && bytes + entry.size() > max_bytes {
                break;
            }
            (bytes, count) = (bytes + entry.size(), count + 1);
        }
        // Counted first, so that the page is made in one piece.
        let page = self.range(low, Index::MAX).take(count).cloned().collect();
        (page, bytes)
    }

    /// The highest index up to `index` whose term is not above `term`, with its term (0 when compacted).
    ///
    /// etcd's `findConflictByTerm`: everything between cannot match a log that has `term` at `index`.
    pub fn find_conflict_by_term(&self, index: Index, term: Term) -> (Index, Term) {
        let mut index = index.min(self.last_index());
        while index > 0 {
            match self.term_at(index) {
                Some(ours) if ours > term => index -= 1,
                Some(ours) => return (index, ours),
                None => return (index, 0),
            }
        }
        (0, 0)
    }

    /// The first of `entries` that is not in the log already.
    pub fn first_new(&self, entries: &[Entry]) -> Option<usize> {
        entries.iter().position(|entry| !self.matches(entry.index, entry.term))
    }

    /// Appends after what is kept; an entry at `entries[0].index` and all after it are dropped first.
    pub fn append(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            if entry.index <= self.last_index() {
                self.truncate_to(entry.index - 1);
            }
            assert_eq!(entry.index, self.last_index() + 1, "the log has no gap");
            assert!(entry.term >= self.last_term(), "terms never fall along the log");
            assert!(entry.time >= self.last_time(), "group time never falls along the log");
            if let Some(held) = &mut self.held_bytes {
                *held += entry.size();
            }
            self.entries.push_back(entry);
        }
    }

    fn truncate_to(&mut self, last: Index) {
        assert!(last >= self.commit, "truncate to {last} below commit {}", self.commit);
        if let Some(held) = self.held_bytes {
            let cut: usize = self.range(last + 1, Index::MAX).map(Entry::size).sum();
            let left = held.checked_sub(cut);
            self.held_bytes = Some(left.expect("what is cut off was not applied, so it was counted"));
        }
        self.entries.truncate((last - self.base) as usize);
        self.forget_durable_after(last);
        if last < self.handed {
            self.handed = last;
            self.truncated_to = Some(self.truncated_to.map_or(last, |earlier| earlier.min(last)));
        }
    }

    fn forget_durable_after(&mut self, last: Index) {
        self.durable = self.durable.min(last);
        for write in &mut self.inflight {
            write.log_last = write.log_last.min(last);
        }
    }

    /// Replaces the whole log by a snapshot, which the next [`crate::Persist`] carries.
    pub fn reset(&mut self, base: Index, term: Term, time: GroupTime) {
        assert!(
            base > self.commit,
            "a snapshot at {base} is ahead of commit {}",
            self.commit
        );
        self.forget_durable_after(self.commit);
        self.entries.clear();
        self.held_bytes = self.held_bytes.map(|_| 0);
        self.truncated_to = None;
        (self.base, self.base_term, self.base_time) = (base, term, time);
        self.handed = base;
        self.commit = base;
    }

    /// Takes entries up to `index` out of memory.
    pub fn compact(&mut self, index: Index) -> VecDeque<Vec<Entry>> {
        if index <= self.base {
            return VecDeque::new();
        }
        assert!(
            index <= self.applied,
            "compact to {index} beyond applied {}",
            self.applied
        );
        let (term, time) = (self.term_at(index), self.time_at(index));
        let dropped = self.entries.split_front((index - self.base) as usize);
        self.base = index;
        self.base_term = term.expect("an applied index above the base is in the log");
        self.base_time = time.expect("an applied index above the base is in the log");
        dropped
    }

    /// Nothing is handed out to be applied any more; what was, and is not applied, will be again.
    pub fn hold_apply(&mut self) {
        // A snapshot that is being installed stands for what is before it.
        self.apply_handed = self.applied.max(self.base);
        let unapplied = self.range(self.apply_handed + 1, Index::MAX);
        self.held_bytes = Some(unapplied.map(Entry::size).sum());
    }

    pub fn end_hold(&mut self) {
        self.held_bytes = None;
    }

    /// The bytes that are held back from being applied; `None` when nothing is.
    pub fn held_bytes(&self) -> Option<usize> {
        self.held_bytes
    }

    pub fn release_memory(&mut self) {
        self.entries.shrink_to_fit();
        self.inflight.shrink_to_fit();
    }

    pub fn commit_to(&mut self, index: Index) -> bool {
        assert!(
            index <= self.last_index(),
            "commit {index} within the log, which ends at {}",
            self.last_index()
        );
        let advances = index > self.commit;
        self.commit = self.commit.max(index);
        advances
    }

    /// Up to where the log is known to be committed, with the term of the entry there.
    pub fn committed(&self) -> (Index, Term) {
        let term = self.term_at(self.commit);
        (self.commit, term.expect("the commit is never before the log's base"))
    }

    /// Whether all of `rests_on` is on disk.
    pub fn has_durable(&self, rests_on: &Durability) -> bool {
        covers(rests_on, self.durable_term, self.durable_vote, self.durable)
    }

    /// The write under way that will make `rests_on` true.
    pub fn awaited_write(&self, rests_on: &Durability) -> Option<PersistSeq> {
        self.inflight
            .iter()
            .find(|write| covers(rests_on, write.term, write.vote, write.log_last))
            .map(|write| write.seq)
    }

    /// All writes up to `seq` are durable.
    pub fn on_persisted(&mut self, seq: PersistSeq) {
        while let Some(&write) = self.inflight.front()
            && write.seq <= seq
        {
            self.inflight.pop_front();
            self.durable_term = write.term;
            self.durable_vote = write.vote;
            self.durable = self.durable.max(write.log_last);
        }
    }

    pub fn assert_invariants(&self) {
        let last = self.last_index();
        assert!(
            self.applied <= self.apply_handed,
            "applied {} <= handed {}",
            self.applied,
            self.apply_handed
        );
        assert!(self.commit <= last, "commit {} <= last {last}", self.commit);
        assert!(
            self.durable <= self.handed,
            "durable {} <= handed {}",
            self.durable,
            self.handed
        );
        assert!(self.handed <= last, "handed {} <= last {last}", self.handed);
        assert!(self.base <= self.commit, "base {} <= commit {}", self.base, self.commit);
    }
}

fn covers(rests_on: &Durability, term: Term, vote: PeerId, log_last: Index) -> bool {
    rests_on.standing(term, vote, log_last) == crate::message::Standing::Met
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::EntryKind;

    fn entry(index: Index, term: Term) -> Entry {
        Entry {
            term,
            index,
            kind: EntryKind::Normal,
            time: GroupTime::ZERO,
            data: Default::default(),
        }
    }

    fn log(terms: &[Term]) -> Log {
        let entries = terms.iter().zip(1..).map(|(&term, index)| entry(index, term)).collect();
        Log::new((0, 0, GroupTime::ZERO), entries, 9, PeerId::NONE, 0)
    }

    fn write(log: &mut Log, seq: u64) {
        log.handed = log.last_index();
        let write = Inflight {
            seq: PersistSeq(seq),
            term: 9,
            vote: PeerId::NONE,
            log_last: log.last_index(),
        };
        log.inflight.push_back(write);
    }

    #[test]
    fn an_overwritten_entry_never_counts_as_durable_even_when_an_equal_one_returns() {
        let mut log = log(&[1]);
        log.append([entry(2, 2)]);
        write(&mut log, 1);
        log.append([entry(2, 3)]);
        write(&mut log, 2);
        log.append([entry(2, 4)]);
        write(&mut log, 3);
        for (seq, durable) in [(1, 1), (2, 1), (3, 2)] {
            log.on_persisted(PersistSeq(seq));
            assert_eq!(log.durable, durable, "after write {seq}");
        }
    }

    #[test]
    fn a_page_holds_at_least_one_entry_and_else_stays_within_its_bytes() {
        let mut log = log(&[]);
        for index in 1..=4 {
            log.append([Entry {
                data: vec![0; 100].into(),
                ..entry(index, 1)
            }]);
        }
        let pages = [(1, 1), (264, 2), (263, 1), (10_000, 4)];
        for (max_bytes, count) in pages {
            assert_eq!(log.page(1, max_bytes).0.len(), count, "{max_bytes} bytes");
        }
        assert_eq!(log.page(5, 100).0.len(), 0);
    }

    #[test]
    fn the_hint_skips_every_entry_of_terms_that_cannot_match() {
        let log = log(&[1, 1, 4, 4, 4, 6]);
        assert_eq!(log.find_conflict_by_term(6, 5), (5, 4));
        assert_eq!(log.find_conflict_by_term(6, 3), (2, 1));
        assert_eq!(log.find_conflict_by_term(9, 6), (6, 6));
        assert_eq!(log.find_conflict_by_term(2, 0), (0, 0));
    }

    #[test]
    fn compaction_keeps_the_term_before_the_first_entry() {
        let mut log = log(&[1, 1, 2, 3]);
        log.commit = 3;
        log.apply_handed = 3;
        log.applied = 3;
        log.compact(3);
        assert_eq!(
            (log.base(), log.last_index(), log.term_at(2), log.term_at(3)),
            (3, 4, None, Some(2))
        );
        assert_eq!(log.range(1, 9).count(), 1);
        assert_eq!(log.find_conflict_by_term(3, 1), (2, 0));
    }
}
