//! Keeps the log's size in proportion to what lives in it.
//!
//! A segment stays as long as one entry in it lives. A group that sleeps takes no snapshot, so its last few entries would
//! keep the log for ever. They are written again, all live ones of the group in one record, from the memory of its
//! consensus, which is not asked and hears nothing of it: same entries, another place.
//!
//! A group with much that lives takes a snapshot instead. One that was stopped takes none, so all of it is written again, as
//! long as one batch holds it: in pieces it could not be, since the first of them would cut off what it does not repeat.

use settle_base::Mono;
use settle_machine::Service;
use settle_storage::{Disk, DiskRead};
use settle_wal::{LiveEntries, Record};

use crate::{
    Host, HostError,
    order::{Then, wal_entry},
};

/// Groups looked at in one tick, at most.
const GROUPS_MAX: usize = 256;

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    /// Costs nothing while the log has begun no segment and was not too large.
    pub(crate) fn tend_log(&mut self, now: Mono) -> Result<(), HostError> {
        let Some(wal) = &mut self.wal else { return Ok(()) };
        let begun = wal.segments_begun();
        if self.log_looked_at == (begun, false) {
            return Ok(());
        }
        wal.purge(&mut self.disk);
        let is_wasteful = wal.is_wasteful(self.config.log_space_factor);
        self.log_looked_at = (begun, is_wasteful);
        // Writes that wait for room in the log come first: what is written again must not overtake them.
        if !is_wasteful || self.disk_is_full || !self.unstaged.is_empty() {
            return Ok(());
        }
        let whole = self.config.log_rewrite_bytes_max;
        let mut budget = whole;
        for live in wal.pins(GROUPS_MAX) {
            let is_stopped = self.stopped.contains_key(&live.group);
            // One that is too large for a tick has a tick of its own.
            let has_tick = is_stopped && budget == whole;
            if live.bytes > whole && !is_stopped {
                self.begin_snapshot(live.group, now);
            } else if (live.bytes <= budget || has_tick) && self.write_again(live, now)? {
                budget = budget.saturating_sub(live.bytes);
            }
        }
        Ok(())
    }

    /// False when that cannot be, or not now.
    fn write_again(&mut self, live: LiveEntries, now: Mono) -> Result<bool, HostError> {
        let id = live.group;
        if live.bytes > self.config.wal.max_batch_bytes as u64 {
            return Ok(false);
        }
        let stopped = || self.stopped.get(&id).map(|stopped| &stopped.group);
        let Some(group) = self.groups.get(&id).or_else(stopped) else {
            return Ok(false);
        };
        let (first, last) = (group.raft.first_index(), group.raft.last_index());
        // With nothing left to hand over, what consensus has in memory is what it has given to the log.
        if group.raft.has_ready() || first > live.first || last != live.last {
            return Ok(false);
        }
        let entries: Vec<_> = group.raft.entries(live.first..=live.last).map(wal_entry).collect();
        assert_eq!(
            entries.len() as u64,
            live.last - live.first + 1,
            "every live entry is in memory"
        );
        let record = Record::Entries { group: id, entries };
        // What was said of its size was perhaps an estimate. What no batch holds would wait for ever, with all behind it.
        if record.encoded_len() > self.config.wal.max_batch_bytes {
            return Ok(false);
        }
        self.counters.groups_rewritten += 1;
        self.stage(id, vec![record], Then::Nothing, now)?;
        Ok(true)
    }
}
