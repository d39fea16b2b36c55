//! The entries that are in memory, in pieces of one size.
//!
//! A log under load holds hundreds of thousands of entries between two snapshots. In one block, each doubling of it would
//! copy megabytes, and dropping what a snapshot has made dispensable would free all of it at once: either holds up
//! everything else for tens of milliseconds. Here neither costs more than a piece.

use std::{collections::VecDeque, ops::Range};

use crate::entry::Entry;

/// Entries of one piece.
const PIECE: usize = 1_024;

/// A queue of entries, numbered from 0. Every piece but the first and the last is full, and none is empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries {
    pieces: VecDeque<Vec<Entry>>,
    /// How many entries the first piece lacks at its front.
    missing: usize,
    len: usize,
}

impl Entries {
    pub fn len(&self) -> usize {
        self.len
    }

    /// Which piece holds entry `at`, and where.
    fn place(&self, at: usize) -> (usize, usize) {
        let place = at + self.missing;
        match place / PIECE {
            0 => (0, at),
            piece => (piece, place % PIECE),
        }
    }

    pub fn get(&self, at: usize) -> Option<&Entry> {
        let (piece, place) = self.place(at);
        self.pieces.get(piece)?.get(place)
    }

    pub fn back(&self) -> Option<&Entry> {
        self.pieces.back()?.last()
    }

    pub fn push_back(&mut self, entry: Entry) {
        if (self.missing + self.len).is_multiple_of(PIECE) {
            // Most groups have few entries: a first piece grows with them.
            let room = if self.pieces.is_empty() { 0 } else { PIECE };
            self.pieces.push_back(Vec::with_capacity(room));
        }
        let last = self
            .pieces
            .back_mut()
            .expect("one that is not full was just made sure of");
        last.push(entry);
        self.len += 1;
    }

    pub fn range(&self, range: Range<usize>) -> impl Iterator<Item = &Entry> {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "a range of what is here"
        );
        let ((first, from), (last, to)) = (self.place(range.start), self.place(range.end));
        // The end may lie right behind the last piece, and then nothing of a further one is meant.
        let pieces = self
            .pieces
            .range(first.min(self.pieces.len())..self.pieces.len().min(last + 1));
        pieces.zip(first..).flat_map(move |(piece, number)| {
            let from = if number == first { from } else { 0 };
            let to = if number == last { to } else { piece.len() };
            &piece[from..to]
        })
    }

    /// Keeps the first `len`.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        let (piece, place) = self.place(len);
        self.pieces.truncate(piece + 1);
        self.pieces[piece].truncate(place);
        if place == 0 {
            self.pieces.pop_back();
        }
        self.len = len;
        if len == 0 {
            self.missing = 0;
        }
    }

    pub fn clear(&mut self) {
        *self = Entries::default();
    }

    /// Takes the first `count` out, in pieces to be freed one by one.
    pub fn split_front(&mut self, count: usize) -> VecDeque<Vec<Entry>> {
        assert!(count <= self.len, "no more than there are");
        let (piece, place) = self.place(count);
        let mut kept = self.pieces.split_off(piece.min(self.pieces.len()));
        if place > 0
            && let Some(first) = kept.front_mut()
        {
            let rest = first.split_off(place);
            self.pieces.push_back(std::mem::replace(first, rest));
            if first.is_empty() {
                kept.pop_front();
            }
        }
        self.len -= count;
        self.missing = if self.len == 0 {
            0
        } else {
            (self.missing + count) % PIECE
        };
        std::mem::replace(&mut self.pieces, kept)
    }

    pub fn shrink_to_fit(&mut self) {
        self.pieces.shrink_to_fit();
        if let Some(last) = self.pieces.back_mut() {
            last.shrink_to_fit();
        }
    }
}

impl From<Vec<Entry>> for Entries {
    fn from(entries: Vec<Entry>) -> Entries {
        let mut all = Entries::default();
        entries.into_iter().for_each(|entry| all.push_back(entry));
        all
    }
}

#[cfg(test)]
mod tests {
    use settle_base::{GroupTime, Prng};

    use super::*;
    use crate::entry::EntryKind;

    fn entry(index: u64) -> Entry {
        Entry {
            term: 1,
            index,
            kind: EntryKind::Normal,
            time: GroupTime::ZERO,
            data: Default::default(),
        }
    }

    #[test]
    fn pieces_hold_what_one_queue_would() {
        let (mut pieces, mut queue) = (Entries::default(), VecDeque::new());
        let mut prng = Prng::new(7);
        let mut next = 0;
        for _ in 0..2_000 {
            // Often to the very end of a piece, or to nothing.
            let len = queue.len() as u64;
            let some = match prng.below(4) {
                0 => prng.below(len + 1),
                1 => (len / PIECE as u64) * PIECE as u64,
                2 => len,
                _ => prng.below(20).min(len),
            } as usize;
            match prng.below(8) {
                0 => {
                    let taken = pieces.split_front(some);
                    assert!(taken.iter().all(|piece| !piece.is_empty() && piece.len() <= PIECE));
                    assert!(
                        taken
                            .iter()
                            .flatten()
                            .eq(queue.drain(..some).collect::<Vec<_>>().iter())
                    );
                }
                1 if prng.below(4) == 0 => {
                    pieces.truncate(some);
                    queue.truncate(some);
                }
                2 => pieces.shrink_to_fit(),
                _ => {
                    for _ in 0..prng.below(1_500) {
                        next += 1;
                        pieces.push_back(entry(next));
                        queue.push_back(entry(next));
                    }
                }
            }
            let len = queue.len();
            assert_eq!((pieces.len(), pieces.back()), (len, queue.back()));
            assert_eq!(pieces.get(len), None);
            let from = prng.below(len as u64 + 1) as usize;
            let to = from + prng.below((len - from) as u64 + 1) as usize;
            assert!(
                pieces.range(from..to).eq(queue.range(from..to)),
                "{from}..{to} of {len}"
            );
            assert_eq!(pieces.get(from), queue.get(from));
        }
    }
}
