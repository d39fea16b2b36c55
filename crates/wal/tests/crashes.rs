//! Random appends, random crashes, and a model: what was reported durable is there, in order, and nothing else is.

mod support;

use settle_base::{Mono, Prng};
use settle_storage::{Latency, MemDisk};
use settle_wal::{Lsn, RecoveredGroup, Wal, WalError};
use support::{Model, is_damaged, open, pass_time};

/// One append and the model after it.
struct Step {
    lsn: Lsn,
    after: Model,
}

#[derive(Default, Debug)]
struct Coverage {
    crashes: u64,
    lost_appends: u64,
    kept_unreported: u64,
    cuts: u64,
    damaged_again: u64,
    healed: u64,
    interrupted_recoveries: u64,
    removed_segments: u64,
    recycled_segments: u64,
    in_flight: u64,
    torn: u64,
    full: u64,
    failed_syncs: u64,
}

fn latency() -> Latency {
    Latency {
        write_us: 50..400,
        sync_us: 100..2_000,
        other_us: 50..500,
        stalls_per_million: 10_000,
        stall_us: 5_000..20_000,
    }
}

struct Run {
    disk: MemDisk,
    prng: Prng,
    now: Mono,
    serial: u64,
    coverage: Coverage,
}

impl Run {
    fn new(seed: u64) -> Run {
        let disk = MemDisk::new(seed);
        disk.set_latency(latency());
        Run {
            disk,
            prng: Prng::from_parts(&[seed, 1]),
            now: Mono::ZERO,
            serial: 0,
            coverage: Coverage::default(),
        }
    }

    /// Lives until a crash. Returns the steps since `start`, and how many of them the log had reported durable.
    fn live(&mut self, wal: &mut Wal, start: &Model) -> (Vec<Step>, usize) {
        let mut model = start.clone();
        let mut steps: Vec<Step> = Vec::new();
        let rounds = self.prng.between(1, 120);
        if self.prng.percent(15) {
            self.disk.set_capacity(Some(self.disk.used() + self.prng.below(20_000)));
        }
        let bad_sync = self.prng.percent(15).then(|| self.prng.below(rounds));
        for round in 0..rounds {
            if bad_sync == Some(round) {
                self.disk.fail_syncs(1);
            }
            if !wal.is_full() {
                let records = model.draw(&mut self.prng, &mut self.serial);
                let Ok(lsn) = wal.append(&records) else { break };
                model.apply(&records);
                let after = model.clone();
                steps.push(Step { lsn, after });
            } else {
                self.coverage.full += 1;
                if self.prng.percent(20) {
                    self.disk.set_capacity(None);
                }
            }
            if self.prng.percent(70) {
                wal.flush(&mut self.disk.clone());
            }
            if self.prng.percent(20) {
                wal.purge(&mut self.disk.clone());
            }
            match pass_time(wal, &self.disk, &mut self.now, &mut self.prng) {
                Ok(()) => {}
                Err(WalError::Failed { .. }) => {
                    self.coverage.failed_syncs += 1;
                    // Whatever else completes, a failed log reports nothing more.
                    let failed_at = wal.durable();
                    self.now.0 += 1_000_000;
                    self.disk.advance(self.now);
                    let _ = support::poll(wal, &self.disk);
                    wal.flush(&mut self.disk.clone());
                    assert_eq!(wal.durable(), failed_at);
                    break;
                }
                Err(other) => panic!("{other}"),
            }
        }
        self.coverage.removed_segments += wal.stats().segments_removed;
        self.coverage.recycled_segments += wal.stats().segments_recycled;
        let durable = steps.iter().take_while(|step| step.lsn <= wal.durable()).count();
        (steps, durable)
    }

    /// Returns whether only the process died, so that unsynced writes may still be lost later.
    ///
    /// It often does after a failed sync, before it could stop itself: the next one finds in the cache what is not on the disk.
    fn crash(&mut self, has_failed: bool) -> bool {
        self.disk.set_capacity(None);
        self.coverage.crashes += 1;
        let killed = self.prng.percent(if has_failed { 60 } else { 10 });
        if killed {
            self.disk.kill();
        } else {
            let report = self.disk.crash(&mut self.prng);
            self.coverage.in_flight += report.in_flight;
            self.coverage.torn += report.writes_torn;
        }
        killed
    }

    /// Opens the log, sometimes with further crashes in the middle of it. Also says whether a tail was cut off.
    fn recover(&mut self, mut killed: bool) -> (Wal, Vec<RecoveredGroup>, bool) {
        let (undisturbed, expected) = open(&self.disk.fork()).expect("a crash is not corruption");
        let mut cut = undisturbed.recovery().cut.is_some();
        while self.prng.percent(30) {
            self.disk.die_after(self.prng.below(8));
            match open(&self.disk) {
                Ok((wal, _)) => cut |= wal.recovery().cut.is_some(),
                Err(_) => self.coverage.interrupted_recoveries += 1,
            }
            killed |= self.crash(false);
        }
        let (wal, groups) = open(&self.disk).expect("a crash is not corruption");
        cut |= wal.recovery().cut.is_some();
        if !killed {
            assert_eq!(groups, expected, "a crash during recovery changed what is recovered");
        }
        (wal, groups, cut || killed)
    }
}

fn run(seed: u64, total: &mut Coverage) {
    let mut run = Run::new(seed);
    let (mut wal, groups) = open(&run.disk).expect("an empty directory");
    assert!(groups.is_empty() && wal.recovery().was_empty);
    let mut start = Model::default();
    for _ in 0..run.prng.between(2, 8) {
        let failed_before = run.coverage.failed_syncs;
        let (steps, durable) = run.live(&mut wal, &start);
        let killed = run.crash(run.coverage.failed_syncs > failed_before);
        let (next, groups, cut) = run.recover(killed);
        wal = next;
        let found = Model::of(&groups);

        // The log is one of the states that the appends went through, no earlier than the last one reported durable.
        let possible = std::iter::once(&start)
            .chain(steps.iter().map(|step| &step.after))
            .skip(durable);
        let kept = possible
            .map(|model| &model.groups)
            .position(|groups| *groups == found.groups);
        let Some(kept) = kept else {
            panic!(
                "seed {seed}: of {} appends {durable} were durable, found {found:#?}",
                steps.len()
            );
        };
        let kept = durable + kept;
        run.coverage.lost_appends += (steps.len() - kept) as u64;
        run.coverage.kept_unreported += (kept - durable) as u64;

        let expected = if kept == 0 { &start } else { &steps[kept - 1].after };
        for group in &expected.damaged {
            // Equal states can follow one another; only a healing that was reported durable must have been kept.
            let healed_later = steps[kept..]
                .iter()
                .any(|step| !step.after.damaged.contains(group) && step.after.groups == found.groups);
            assert!(
                found.damaged.contains(group) || healed_later,
                "seed {seed}: {group} is damaged and was forgotten"
            );
            run.coverage.damaged_again += 1;
        }
        if cut {
            run.coverage.cuts += 1;
        } else if !start.damaged.is_empty() && found.damaged.is_empty() {
            run.coverage.healed += 1;
        }
        for group in groups.iter().filter(|g| is_damaged(g)) {
            let known = expected.damaged.contains(&group.group);
            assert!(known || run.coverage.cuts > 0, "seed {seed}: damage without a cut");
        }
        start = found;
    }
    let c = run.coverage;
    total.crashes += c.crashes;
    total.lost_appends += c.lost_appends;
    total.kept_unreported += c.kept_unreported;
    total.cuts += c.cuts;
    total.damaged_again += c.damaged_again;
    total.healed += c.healed;
    total.interrupted_recoveries += c.interrupted_recoveries;
    total.removed_segments += c.removed_segments;
    total.recycled_segments += c.recycled_segments;
    total.in_flight += c.in_flight;
    total.torn += c.torn;
    total.full += c.full;
    total.failed_syncs += c.failed_syncs;
}

#[test]
fn a_crash_loses_nothing_durable_and_invents_nothing() {
    let mut total = Coverage::default();
    for seed in 0..300 {
        run(seed, &mut total);
    }
    println!("{total:?}");
    let Coverage {
        crashes,
        lost_appends,
        kept_unreported,
        cuts,
        damaged_again,
        healed,
        interrupted_recoveries,
        removed_segments,
        recycled_segments,
        in_flight,
        torn,
        full,
        failed_syncs,
    } = total;
    for count in [
        crashes,
        lost_appends,
        kept_unreported,
        cuts,
        damaged_again,
        healed,
        interrupted_recoveries,
        removed_segments,
        recycled_segments,
        in_flight,
        torn,
        full,
        failed_syncs,
    ] {
        assert!(count > 5, "something was hardly tried");
    }
}
