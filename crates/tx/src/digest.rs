//! A hash of the open transactions that follows each change of one, so that replicas can compare their states while they
//! serve, whatever the size.
//!
//! It is a sum of fingerprints, one for each transaction's own fields and one for each of its branches; what was counted
//! last is kept beside what it counts. Not meant to withstand somebody who looks for collisions.

use settle_base::fingerprint;

use crate::{
    Branch, Global, Tid,
    command::put_tid,
    snapshot::{put_branch_fields, put_global_fields},
};

#[derive(Default)]
pub(crate) struct OpenDigest {
    sum: u64,
    buffer: Vec<u8>,
}

impl OpenDigest {
    pub fn value(&self) -> u64 {
        self.sum
    }

    /// Counts a transaction's own fields as they are now, instead of what was counted before.
    pub fn count(&mut self, global: &mut Global) {
        self.buffer.clear();
        put_global_fields(&mut self.buffer, global);
        let now = fingerprint(&self.buffer);
        self.replace(&mut global.counted, now);
    }

    /// Counts a branch as it is now, instead of what was counted before.
    pub fn count_branch(&mut self, tid: Tid, branch: &mut Branch) {
        self.buffer.clear();
        put_tid(&mut self.buffer, tid);
        put_branch_fields(&mut self.buffer, branch);
        let now = fingerprint(&self.buffer);
        self.replace(&mut branch.counted, now);
    }

    /// Counts a transaction and its branches, none of which was counted before.
    pub fn add(&mut self, global: &mut Global) {
        self.count(global);
        let tid = global.tid;
        for branch in &mut global.branches {
            self.count_branch(tid, branch);
        }
    }

    /// Takes away a transaction and its branches as they were counted last.
    pub fn take_away(&mut self, global: &Global) {
        let branches = global.branches.iter().map(|branch| branch.counted);
        self.sum = branches.fold(self.sum.wrapping_sub(global.counted), u64::wrapping_sub);
    }

    fn replace(&mut self, counted: &mut u64, now: u64) {
        self.sum = self.sum.wrapping_sub(*counted).wrapping_add(now);
        *counted = now;
    }
}
