use std::collections::VecDeque;

/// Gaps that are remembered; the oldest goes first.
pub const GAPS_MAX: usize = 64;
/// What an entry that marks a gap is about: nothing.
pub(crate) const GAP_ID: i64 = 0;

/// A place where what happened in a group may be missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gap {
    pub group: u8,
    /// Of the snapshot: what came from the log up to there and is not recorded before the gap is missing.
    pub index: u64,
    /// When it was recorded, in milliseconds since 1970.
    pub wall_ms: u64,
}

/// Oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Gaps(VecDeque<Gap>);

impl Gaps {
    pub fn add(&mut self, gap: Gap) {
        if self
            .0
            .iter()
            .any(|known| (known.group, known.index) == (gap.group, gap.index))
        {
            return;
        }
        if self.0.len() == GAPS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(gap);
    }

    /// Forgets those before the record begins: nothing is looked for there.
    pub fn begin_at(&mut self, wall_ms: u64) {
        self.0.retain(|gap| gap.wall_ms >= wall_ms);
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Gap> {
        self.0.iter()
    }
}
