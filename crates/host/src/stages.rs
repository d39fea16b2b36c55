//! Where a proposal's time goes: for what is proposed on this node as leader, how long each stage took.
//!
//! The host has no clock: a boundary is the `now` of the step or flush in which the host sees it happen, so what one
//! turn of the owner's loop does in one go costs nothing but in the stage that ends with the next reading. Proposals of
//! one reading and one group are stamped together, and the stages of each add up to its whole.

use std::{collections::VecDeque, time::Duration};

use settle_base::{GroupId, Index, Mono};
use settle_machine::Service;
use settle_storage::{Disk, DiskRead};
use settle_wal::Lsn;

use crate::Host;

/// The stages in their order; the names are the metric's labels.
///
/// * `queue`: from the proposal's entry into consensus to the batch that consensus hands out for the log.
/// * `append`: until the log has taken the batch; long when its staging area is full.
/// * `sync`: until this node's own copy is durable.
/// * `replicate`: until a quorum has it, as the commit index tells; nothing when the followers were faster.
/// * `commit`: until the committed entry is handed to the machine.
/// * `apply`: until the machine has applied it; long only when it waits for something that it needs.
/// * `reply`: until the owner has carried out what the application led to ([`Host::carried_out`]).
pub const STAGES: [&str; 7] = ["queue", "append", "sync", "replicate", "commit", "apply", "reply"];

/// Upper bounds of the buckets are this many microseconds, doubled each time; the last bucket is without bound.
pub const STAGE_BUCKET_FIRST_US: u64 = 10;
pub const STAGE_BUCKETS: usize = 22;
/// Timelines that are kept.
pub const TIMELINES_KEPT: usize = 32;
/// Batches of proposals in flight that are stamped; further ones are not measured.
const BATCHES_MAX: usize = 4_096;
const NONE: u32 = u32::MAX;

/// How long one stage took, of all groups together.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StageHistogram {
    /// Of the bucket number `n` up to [`STAGE_BUCKET_FIRST_US`] times two to the `n`; not cumulative.
    pub buckets: [u64; STAGE_BUCKETS],
    pub sum_us: u64,
}

impl StageHistogram {
    fn observe(&mut self, us: u64, count: u64) {
        let bucket = us
            .div_ceil(STAGE_BUCKET_FIRST_US)
            .max(1)
            .next_power_of_two()
            .trailing_zeros() as usize;
        self.buckets[bucket.min(STAGE_BUCKETS - 1)] += count;
        self.sum_us += us * count;
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// One proposal's whole way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeline {
    pub group: GroupId,
    pub index: Index,
    /// When it was proposed.
    pub proposed: Mono,
    /// As long as each of [`STAGES`] took.
    pub stages: [Duration; STAGES.len()],
}

/// Proposals of one group that were made at one reading of the clock.
#[derive(Clone, Copy, Debug)]
struct Batch {
    group: GroupId,
    first: Index,
    last: Index,
    /// The one whose timeline is kept.
    sampled: Option<Index>,
    lsn: Lsn,
    /// How many of `stamps` are there.
    stamped: usize,
    stamps: [Mono; STAGES.len()],
    next: u32,
}

/// A group's batches in flight, oldest first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    head: u32,
    tail: u32,
}

impl Default for Line {
    fn default() -> Line {
        Line { head: NONE, tail: NONE }
    }
}

/// What ends a stage; `stamps[n]` is when stage `n` began.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Boundary {
    Ready,
    Logged(Lsn),
    Durable(Lsn),
    Committed,
    Handed,
    Applied,
}

impl Boundary {
    fn number(self) -> usize {
        match self {
            Boundary::Ready => 1,
            Boundary::Logged(_) => 2,
            Boundary::Durable(_) => 3,
            Boundary::Committed => 4,
            Boundary::Handed => 5,
            Boundary::Applied => 6,
        }
    }
}

#[derive(Default)]
pub(crate) struct Stages {
    sample_every: u64,
    proposals: u64,
    batches: Vec<Batch>,
    free: Vec<u32>,
    /// Applied, not carried out.
    applied: Vec<Batch>,
    histograms: [StageHistogram; STAGES.len()],
    timelines: VecDeque<Timeline>,
}

impl Stages {
    pub(crate) fn new(sample_every: u64) -> Stages {
        Stages {
            sample_every,
            ..Stages::default()
        }
    }

    pub(crate) fn proposed(&mut self, line: &mut Line, group: GroupId, index: Index, now: Mono) {
        self.proposals += 1;
        let is_sampled = self.sample_every > 0 && self.proposals.is_multiple_of(self.sample_every);
        let sampled = is_sampled.then_some(index);
        if let Some(open) = self.batches.get_mut(line.tail as usize)
            && open.stamped == 1
            && open.stamps[0] == now
            && open.last + 1 == index
        {
            open.last = index;
            open.sampled = open.sampled.or(sampled);
            return;
        }
        let batch = Batch {
            group,
            first: index,
            last: index,
            sampled,
            lsn: Lsn::default(),
            stamped: 1,
            stamps: [now; STAGES.len()],
            next: NONE,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.batches[slot as usize] = batch;
                slot
            }
            None if self.batches.len() < BATCHES_MAX => {
                self.batches.push(batch);
                self.batches.len() as u32 - 1
            }
            None => return,
        };
        match self.batches.get_mut(line.tail as usize) {
            Some(tail) => tail.next = slot,
            None => line.head = slot,
        }
        line.tail = slot;
    }

    /// What of the group is up to `index` has come to `boundary`. Those before it that it has passed unseen took no
    /// time: the followers may be faster than the own disk.
    pub(crate) fn reached(&mut self, line: &mut Line, index: Index, boundary: Boundary, now: Mono) {
        let number = boundary.number();
        let mut at = line.head;
        while let Some(batch) = self.batches.get_mut(at as usize) {
            at = batch.next;
            if batch.last > index {
                break;
            }
            match boundary {
                Boundary::Logged(lsn) if batch.stamped == number => batch.lsn = lsn,
                // Of an earlier leadership's write at the same index.
                Boundary::Durable(lsn) if batch.stamped < number || batch.lsn > lsn => continue,
                _ => {}
            }
            // The quorum can have it before it is durable here: that shows once it is.
            let is_early = matches!(boundary, Boundary::Committed) && batch.stamped < number;
            if batch.stamped > number || is_early {
                continue;
            }
            batch.stamps[batch.stamped..=number].fill(now);
            batch.stamped = number + 1;
            if let Boundary::Applied = boundary {
                let slot = line.head;
                line.head = batch.next;
                if line.head == NONE {
                    line.tail = NONE;
                }
                self.applied.push(*batch);
                self.free.push(slot);
            }
        }
    }

    /// Nothing of it will be seen to its end.
    pub(crate) fn forget(&mut self, line: &mut Line) {
        let mut at = line.head;
        while let Some(batch) = self.batches.get(at as usize) {
            self.free.push(at);
            at = batch.next;
        }
        *line = Line::default();
    }

    fn carried_out(&mut self, now: Mono) -> usize {
        let mut sampled = 0;
        for batch in self.applied.drain(..) {
            let count = batch.last - batch.first + 1;
            let ends = batch.stamps[1..].iter().copied().chain([now]);
            let times = batch.stamps.iter().zip(ends).map(|(start, end)| end.since(*start));
            let mut stages = [Duration::ZERO; STAGES.len()];
            for ((stage, time), histogram) in stages.iter_mut().zip(times).zip(&mut self.histograms) {
                *stage = time;
                histogram.observe(time.as_micros() as u64, count);
            }
            if let Some(index) = batch.sampled {
                sampled += 1;
                self.timelines.truncate(TIMELINES_KEPT - 1);
                self.timelines.push_front(Timeline {
                    group: batch.group,
                    index,
                    proposed: batch.stamps[0],
                    stages,
                });
            }
        }
        sampled.min(TIMELINES_KEPT)
    }
}

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    /// The owner has carried out all actions of the last flush: what was applied in it is answered. Without this call
    /// no proposal's stages are known. Tells how many of [`Host::timelines`] are new.
    pub fn carried_out(&mut self, now: Mono) -> usize {
        self.stages.carried_out(now)
    }

    /// One for each of [`STAGES`].
    pub fn stage_histograms(&self) -> &[StageHistogram; STAGES.len()] {
        &self.stages.histograms
    }

    /// Of one proposal in [`HostConfig::stage_sample_every`](crate::HostConfig::stage_sample_every), the newest first.
    pub fn timelines(&self) -> impl Iterator<Item = &Timeline> {
        self.stages.timelines.iter()
    }

    /// What of a group is up to `index` has come to `boundary`.
    pub(crate) fn reached(&mut self, group: GroupId, index: Index, boundary: Boundary, now: Mono) {
        if let Some(line) = self.groups.line(&group) {
            self.stages.reached(line, index, boundary, now);
        }
    }

    /// The group's commit index may have moved.
    pub(crate) fn saw_commit(&mut self, group: GroupId, now: Mono) {
        if let Some(commit) = self.groups.get(&group).map(|g| g.raft.commit()) {
            self.reached(group, commit, Boundary::Committed, now);
        }
    }
}
