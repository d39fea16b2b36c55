//! **Linearizability** (Herlihy and Wing) of a history of versioned registers.
//!
//! In general the question needs a search over orders (Wing and Gong; Lowe; Porcupine). Here every write is told which
//! version of its key it made, so the order of the writes is known, and the search falls away: a history of one key is
//! linearizable exactly when
//! (1) no two writes made the same version, and what is read at a version is what its write wrote;
//! (2) what begins after something has ended sees a version at least as new, a write a newer one; and
//! (3) what is read was asked to be written before the read ended.
//! *Enough*, since then the order by version, with each read behind its version's write, respects real time.
//! *Needed*, since each forbids an order. Keys are independent (locality). A write that was never answered may have taken
//! any version, or none; at the end every write has been answered, so versions are as many as writes.

use std::collections::BTreeMap;

use super::{Broken, Checked};

const NAME: &str = "read linearizability";

/// What clients asked and were told.
#[derive(Default)]
pub(crate) struct History {
    /// The newest version of each key that somebody was told.
    told: BTreeMap<u32, u64>,
    /// What each version of each key is known to be.
    versions: BTreeMap<(u32, u64), u64>,
    /// Key of every value that was ever asked to be written. Values are unique.
    asked: BTreeMap<u64, u32>,
    writes_told: BTreeMap<u32, u64>,
}

impl History {
    /// Something about `key` is asked now, a write of `value` perhaps. What comes back is to be given with the answer.
    pub(crate) fn begins(&mut self, key: u32, value: Option<u64>) -> u64 {
        if let Some(value) = value {
            self.asked.insert(value, key);
        }
        self.told.get(&key).copied().unwrap_or(0)
    }

    pub(crate) fn wrote(&mut self, key: u32, value: u64, floor: u64, version: u64) -> Checked {
        if version <= floor {
            let what = format!("a write made version {version} of key {key}, but {floor} was told before it was asked");
            return Err(Broken::new(NAME, what));
        }
        *self.writes_told.entry(key).or_insert(0) += 1;
        self.learn(key, version, value)
    }

    pub(crate) fn read(&mut self, key: u32, floor: u64, version: u64, value: u64) -> Checked {
        if version < floor {
            let what = format!("a read saw version {version} of key {key}, but {floor} was told before it was asked");
            return Err(Broken::new(NAME, what));
        }
        self.learn(key, version, value)
    }

    fn learn(&mut self, key: u32, version: u64, value: u64) -> Checked {
        if version == 0 {
            return Ok(());
        }
        let known = *self.versions.entry((key, version)).or_insert(value);
        if known != value {
            let what = format!("version {version} of key {key} is both {known:x} and {value:x}");
            return Err(Broken::new(NAME, what));
        }
        if !self.was_asked(key, value) {
            return Err(Broken::new(NAME, format!("nobody wrote {value:x} to key {key}")));
        }
        let told = self.told.entry(key).or_insert(0);
        *told = version.max(*told);
        Ok(())
    }

    /// Whether somebody asked to write `value` to `key`.
    pub(crate) fn was_asked(&self, key: u32, value: u64) -> bool {
        self.asked.get(&value) == Some(&key)
    }

    pub(crate) fn writes_told(&self) -> u64 {
        self.writes_told.values().sum()
    }

    /// Every write was answered: what `key` holds in the end.
    pub(crate) fn ends(&mut self, key: u32, version: u64, value: u64) -> Checked {
        let told = self.writes_told.get(&key).copied().unwrap_or(0);
        if version != told {
            let what = format!("key {key} has {version} versions, but {told} writes were told");
            return Err(Broken::new(NAME, what));
        }
        self.learn(key, version, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: u32 = 7;

    /// Two writes, told one after the other.
    fn two_writes() -> History {
        let mut history = History::default();
        for (value, version) in [(0xa, 1), (0xb, 2)] {
            let floor = history.begins(KEY, Some(value));
            history.wrote(KEY, value, floor, version).expect("a good history");
        }
        history
    }

    #[test]
    fn a_good_history_passes_also_with_reads_of_what_is_not_answered_yet() {
        let mut history = two_writes();
        let write = history.begins(KEY, Some(0xc));
        let early = history.begins(KEY, None);
        let late = history.begins(KEY, None);
        history
            .read(KEY, late, 3, 0xc)
            .expect("the write took effect before its answer");
        history
            .read(KEY, early, 2, 0xb)
            .expect("this read began before the other ended");
        history.wrote(KEY, 0xc, write, 3).expect("now it is answered");
        history.ends(KEY, 3, 0xc).expect("three writes, three versions");
    }

    #[test]
    fn a_stale_read_is_told() {
        let mut history = two_writes();
        let floor = history.begins(KEY, None);
        assert!(history.read(KEY, floor, 1, 0xa).is_err());
    }

    #[test]
    fn a_read_older_than_another_read_is_told() {
        let mut history = two_writes();
        history.begins(KEY, Some(0xc));
        let first = history.begins(KEY, None);
        history.read(KEY, first, 3, 0xc).expect("seen before its answer");
        let second = history.begins(KEY, None);
        assert!(history.read(KEY, second, 2, 0xb).is_err());
    }

    #[test]
    fn a_lost_write_is_told_at_once_or_at_the_end() {
        let mut history = two_writes();
        let floor = history.begins(KEY, Some(0xc));
        assert!(
            history.wrote(KEY, 0xc, floor, 2).is_err(),
            "it took the place of another"
        );
        let mut history = two_writes();
        assert!(history.ends(KEY, 1, 0xa).is_err());
    }

    #[test]
    fn a_write_that_took_effect_twice_is_told() {
        let mut history = two_writes();
        assert!(history.ends(KEY, 3, 0xb).is_err());
    }

    #[test]
    fn a_value_from_nowhere_and_a_version_with_two_values_are_told() {
        let mut history = two_writes();
        let floor = history.begins(KEY, None);
        assert!(history.read(KEY, floor, 3, 0xd).is_err(), "nobody wrote it");
        let mut history = two_writes();
        history.begins(KEY, Some(0xc));
        let floor = history.begins(KEY, None);
        assert!(history.read(KEY, floor, 2, 0xc).is_err(), "version 2 was another");
    }
}
