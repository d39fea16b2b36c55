use std::sync::Arc;

use bytes::Bytes;
use settle_base::{GroupTime, Index, fingerprint};
use settle_machine::{ApplyError, EntryMeta, LoadError, SharedMap, SnapshotChunks, StateMachine};

use crate::{
    AuditRecord, Command, Direction, Global, GlobalStatus, Outcome, Tid, TxEffect, TxError,
    audit::Audit,
    decode_batch,
    dedup::{Dedup, Seen},
    digest::OpenDigest,
    locks::LockTable,
    names::Names,
    outcome::Outcomes,
    restore::{self, Restore},
    service_groups::ServiceGroups,
    snapshot::{self, Loader},
};

/// Open transactions of a group, at most. A door's own limit is at or below it.
pub const SESSIONS_MAX: u64 = 1_000_000;
/// Branches of one transaction, at most, closed ones counted.
pub const BRANCHES_MAX: u32 = 4_096;
/// Bytes of a group's lock table, at most.
pub const LOCK_BYTES_MAX: u64 = 1 << 30;
/// Bytes of the branches of a group's open transactions, at most.
pub const BRANCH_BYTES_MAX: u64 = 2 << 30;

/// The upper bits of a sequence that tell clusters apart, and the lower ones that count from 1.
pub(crate) const CLUSTER_BITS: u32 = 23;
pub(crate) const COUNT_BITS: u32 = 32;

/// What is the same on every replica of a group: fixed when the group is made, and carried by its snapshots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MachineConfig {
    /// The group's number, 1..=255; the upper 8 bits of its ids.
    pub group: u8,
    /// Open transactions, at most.
    pub sessions_max: u64,
    /// Branches of one transaction, at most, closed ones counted.
    pub branches_max: u32,
    /// Bytes of the lock table, at most: per row its key and a fixed overhead.
    pub lock_bytes_max: u64,
    /// Bytes of the branches of open transactions, at most: per branch its lock keys, its application data and a fixed
    /// overhead.
    pub branch_bytes_max: u64,
    /// The first sequence of transactions and of branches, 1 or more.
    pub first_sequence: u64,
    /// How long outcomes are kept, in group time.
    pub outcome_retention_ms: u64,
    /// Bytes of kept outcomes, at most; about one per transaction.
    pub outcome_bytes_max: u64,
}

impl MachineConfig {
    /// The product's defaults for a group.
    pub fn new(group: u8) -> MachineConfig {
        MachineConfig {
            group,
            sessions_max: SESSIONS_MAX,
            branches_max: BRANCHES_MAX,
            lock_bytes_max: LOCK_BYTES_MAX,
            branch_bytes_max: BRANCH_BYTES_MAX,
            first_sequence: 1,
            outcome_retention_ms: 24 * 60 * 60 * 1_000,
            outcome_bytes_max: 512 << 20,
        }
    }

    /// The defaults for a group of this cluster. Clients and databases remember xids and branch ids (undo logs, XA
    /// branches), so a cluster that is founded anew must not give those of an earlier one: the upper 23 of a sequence's
    /// 55 bits are a fingerprint of the cluster's id, the lower 32 count from 1.
    ///
    /// The upper bits are never all zeros, which is where [`MachineConfig::new`] counts, and never all ones, so that a
    /// count past 32 bits carries into them and still fits.
    pub fn for_cluster(group: u8, cluster: u128) -> MachineConfig {
        let values = (1 << CLUSTER_BITS) - 2;
        let upper = 1 + fingerprint(&cluster.to_le_bytes()) % values;
        MachineConfig {
            first_sequence: (upper << COUNT_BITS) | 1,
            ..MachineConfig::new(group)
        }
    }
}

/// Sizes of the state, for metrics and limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    pub open_transactions: u64,
    pub open_branches: u64,
    pub lock_rows: u64,
    pub lock_bytes: u64,
    /// What `branch_bytes_max` limits.
    pub branch_bytes: u64,
    pub outcome_bytes: u64,
    pub dedup_results: u64,
    /// Transactions begun since the group was made.
    pub begun_total: u64,
}

impl Stats {
    /// Of two groups together.
    pub fn plus(self, other: Stats) -> Stats {
        Stats {
            open_transactions: self.open_transactions + other.open_transactions,
            open_branches: self.open_branches + other.open_branches,
            lock_rows: self.lock_rows + other.lock_rows,
            lock_bytes: self.lock_bytes + other.lock_bytes,
            branch_bytes: self.branch_bytes + other.branch_bytes,
            outcome_bytes: self.outcome_bytes + other.outcome_bytes,
            dedup_results: self.dedup_results + other.dedup_results,
            begun_total: self.begun_total + other.begun_total,
        }
    }
}

/// The replicated state of one group's global transactions.
pub struct TxMachine {
    pub(crate) config: MachineConfig,
    /// Of the last entry applied.
    pub(crate) index: Index,
    pub(crate) time: GroupTime,
    pub(crate) next_tid: u64,
    pub(crate) next_branch: u64,
    pub(crate) globals: SharedMap<Tid, Arc<Global>>,
    pub(crate) open_branches: u64,
    pub(crate) branch_bytes: u64,
    pub(crate) open_digest: OpenDigest,
    pub(crate) locks: LockTable,
    pub(crate) names: Names,
    pub(crate) outcomes: Outcomes,
    pub(crate) dedup: Dedup,
    pub(crate) audit: Audit,
    pub(crate) restore: Restore,
    pub(crate) service_groups: ServiceGroups,
    /// Ids that a restore passed over.
    pub(crate) skipped: u64,
    /// The cluster version of the entry that is applied. No part of the state.
    pub(crate) version: u32,
    /// No part of the state either.
    pub(crate) moves_refused: u64,
    loading: Option<Box<Loader>>,
}

impl TxMachine {
    /// # Panics
    /// When the group is 0, or the first sequence is.
    pub fn new(config: MachineConfig) -> TxMachine {
        assert!(config.group > 0, "group 0 is placement and has no transactions");
        assert!(config.first_sequence > 0, "sequences start at 1 or above");
        TxMachine {
            config,
            index: 0,
            time: GroupTime::ZERO,
            next_tid: config.first_sequence,
            next_branch: config.first_sequence,
            globals: SharedMap::default(),
            open_branches: 0,
            branch_bytes: 0,
            open_digest: OpenDigest::default(),
            locks: LockTable::default(),
            names: Names::default(),
            outcomes: Outcomes::default(),
            dedup: Dedup::default(),
            audit: Audit::default(),
            restore: Restore::default(),
            service_groups: ServiceGroups::default(),
            skipped: 0,
            version: 0,
            moves_refused: 0,
            loading: None,
        }
    }

    pub fn config(&self) -> &MachineConfig {
        &self.config
    }

    /// The group's time of the last entry applied.
    pub fn time(&self) -> GroupTime {
        self.time
    }

    /// Of the last entry applied.
    pub fn index(&self) -> Index {
        self.index
    }

    pub fn global(&self, tid: Tid) -> Option<&Global> {
        self.globals.get(&tid).map(|global| &**global)
    }

    /// Open transactions, oldest first.
    pub fn globals(&self) -> impl DoubleEndedIterator<Item = &Global> {
        self.globals.values().map(|global| &**global)
    }

    /// Open transactions begun after `after`, oldest first.
    pub fn globals_after(&self, after: Option<Tid>) -> impl Iterator<Item = &Global> {
        let entries = self.globals.iter_after(after.unwrap_or(Tid::MIN));
        entries.map(|(_, global)| &**global)
    }

    pub fn outcome(&self, tid: Tid) -> Outcome<'_> {
        if let Some(global) = self.globals.get(&tid) {
            return Outcome::Open(global);
        }
        let given = self.config.first_sequence..self.next_tid;
        if tid.group().0 != u64::from(self.config.group) || !given.contains(&tid.seq()) {
            return Outcome::Unknown;
        }
        self.outcomes.get(tid.seq()).map_or(Outcome::Evicted, Outcome::Ended)
    }

    /// Whether `tid` (or nobody in particular, for a local transaction that asks) could lock the rows now. Changes
    /// nothing; Seata's `GlobalLockQuery`.
    ///
    /// # Errors
    /// [`TxError::LockConflict`] or [`TxError::BadLockKey`].
    pub fn lockable(&self, resource: &str, lock_keys: &str, tid: Option<Tid>) -> Result<(), TxError> {
        let checked = self.locks.check(self.names.number(resource), lock_keys, tid);
        let asker = tid.unwrap_or(Tid::new(self.config.group, self.next_tid));
        checked
            .map(drop)
            .map_err(|refusal| self.refusal(refusal, asker, resource, ""))
    }

    /// What operators did, oldest first: the last [`AUDIT_MAX`](crate::AUDIT_MAX) acts.
    pub fn audit(&self) -> impl DoubleEndedIterator<Item = &AuditRecord> {
        self.audit.records().map(|record| &**record)
    }

    /// A backup as of the last entry applied, in parts for a command each. Shares what is large, as a snapshot does.
    pub fn begin_backup(&self) -> Box<dyn Iterator<Item = Bytes> + Send> {
        restore::parts(self)
    }

    /// A restore has begun and not ended: nothing else is done.
    pub fn is_being_restored(&self) -> bool {
        self.restore.open.is_some()
    }

    pub fn open_count(&self) -> u64 {
        self.globals.len() as u64
    }

    pub fn lock_count(&self) -> u64 {
        self.locks.len()
    }

    pub fn lock_bytes(&self) -> u64 {
        self.locks.bytes()
    }

    pub fn stats(&self) -> Stats {
        Stats {
            open_transactions: self.open_count(),
            open_branches: self.open_branches,
            lock_rows: self.locks.len(),
            lock_bytes: self.locks.bytes(),
            branch_bytes: self.branch_bytes,
            outcome_bytes: self.outcomes.bytes(),
            dedup_results: self.dedup.results(),
            begun_total: self.next_tid - self.config.first_sequence - self.skipped,
        }
    }

    /// Checks the whole state against itself. For tests and simulation: it reads everything.
    ///
    /// # Panics
    /// When an invariant is broken.
    pub fn check_invariants(&self) {
        let (mut open_branches, mut rows_named, mut branch_bytes) = (0, 0, 0);
        let mut open_digest = OpenDigest::default();
        for global in self.globals.values() {
            let tid = global.tid;
            let given = self.config.first_sequence..self.next_tid;
            assert!(given.contains(&tid.seq()), "{tid} was never given");
            assert!(!global.status.is_ended(), "{tid} has ended and is open");
            assert_eq!(
                global.status == GlobalStatus::Begin,
                global.decided_at().is_none(),
                "{tid}"
            );
            assert!(!global.retry_stopped || global.decided_at().is_some(), "{tid}");
            assert_eq!(global.open_branches as usize, global.open_branches().count(), "{tid}");
            assert!(
                self.outcomes.get(tid.seq()).is_none(),
                "{tid} is open and has an outcome"
            );
            // A saga is ended by its state machine, whatever becomes of its branches.
            let may_be_empty = global.status == GlobalStatus::Begin || global.is_saga();
            assert!(
                may_be_empty || global.open_branches > 0 || self.restore.open.is_some(),
                "{tid} has nothing left to do and is open"
            );
            open_branches += u64::from(global.open_branches);
            open_digest.add(&mut uncounted(global));
            for branch in &global.branches {
                assert!(branch.id.seq() < self.next_branch, "{} was never given", branch.id);
                branch_bytes += branch.bytes();
                assert_eq!(self.names.number(&branch.resource), Some(branch.resource_number.0));
                let may_hold = branch.is_open && global.status.direction() != Some(Direction::Commit);
                assert!(
                    may_hold || branch.lock_keys.is_empty(),
                    "{} holds locks that it must not",
                    branch.id
                );
                for row in crate::lock_rows(&branch.lock_keys) {
                    let row = row.expect("a branch's lock keys were read when it was registered");
                    let holder = self
                        .locks
                        .holder(branch.resource_number.0, row)
                        .map(|(holder, _)| holder);
                    assert_eq!(
                        holder,
                        Some(tid),
                        "{row:?} of branch {} is not its transaction's",
                        branch.id
                    );
                    rows_named += 1;
                }
            }
        }
        assert_eq!(open_branches, self.open_branches, "open branches");
        assert_eq!(branch_bytes, self.branch_bytes, "bytes of branches");
        assert_eq!(rows_named, self.locks.uses(), "every lock belongs to an open branch");
        assert!(self.locks.len() > 0 || self.locks.bytes() == 0, "no locks, no bytes");
        assert!(
            !self.globals.is_empty() || self.names.len() == 0,
            "names of ended transactions are forgotten"
        );
        assert_eq!(
            open_digest.value(),
            self.open_digest.value(),
            "the digest of open transactions"
        );
        self.outcomes.check();
        self.dedup.check();
        self.audit.check();
        self.service_groups
            .check(self.globals.values().map(|global| &global.service_group));
    }

    fn apply_command(&mut self, command: Command<&str>, effects: &mut Vec<TxEffect>) {
        let Command {
            req,
            settled_below,
            body,
        } = command;
        let asked = match settle_base::mutant!("requests_of_all_gates_alike") {
            true => crate::ReqId { origin: 0, ..req },
            false => req,
        };
        let result = match self.dedup.look_up(asked, settled_below, self.time) {
            Seen::Again(_) if settle_base::mutant!("repeated_request_done_again") => self.execute(body, effects),
            Seen::Again(result) => result,
            // A copy of a request that found no room may come when there is room: it cannot be called undone.
            Seen::Settled | Seen::NoRoom => Err(TxError::RequestExpired),
            Seen::New => {
                let result = self.execute(body, effects);
                self.dedup.store(asked, result.clone());
                result
            }
        };
        effects.push(TxEffect::Reply { req, result });
    }
}

impl StateMachine for TxMachine {
    type Effect = TxEffect;

    fn check(&self, command: &Bytes) -> Result<(), ApplyError> {
        decode_batch(command).map(drop).map_err(|error| unreadable(0, &error))
    }

    fn apply(&mut self, entry: EntryMeta, command: &Bytes, effects: &mut Vec<TxEffect>) -> Result<(), ApplyError> {
        // The state may come from a snapshot that another node made: what contradicts it stops the group, not the node.
        if entry.index <= self.index || entry.time < self.time {
            return Err(ApplyError {
                index: entry.index,
                reason: format!(
                    "it is of {} ms, but the state is already that of index {} and {} ms",
                    entry.time.0, self.index, self.time.0
                ),
            });
        }
        let commands = decode_batch(command).map_err(|error| unreadable(entry.index, &error))?;
        self.index = entry.index;
        self.time = entry.time;
        self.version = entry.version;
        self.outcomes.evict(
            self.time,
            self.config.outcome_retention_ms,
            self.config.outcome_bytes_max,
        );
        effects.reserve(commands.len() * 2);
        for command in commands {
            self.apply_command(command, effects);
        }
        Ok(())
    }

    fn begin_snapshot(&self) -> SnapshotChunks {
        snapshot::chunks(self)
    }

    fn load_chunk(&mut self, chunk: Bytes) -> Result<(), LoadError> {
        if self.loading.is_none() {
            *self = TxMachine::new(self.config);
        }
        self.loading.get_or_insert_default().take(&chunk)
    }

    fn finish_load(&mut self) -> Result<(), LoadError> {
        let loaded = self.loading.take().unwrap_or_default().finish()?;
        if loaded.config.group != self.config.group {
            let reason = format!("it is of group {}, not of {}", loaded.config.group, self.config.group);
            return Err(LoadError { reason });
        }
        *self = loaded;
        Ok(())
    }

    fn state_hash(&self) -> u64 {
        snapshot::hash(self)
    }

    fn is_hash_cheap(&self) -> bool {
        true
    }
}

fn uncounted(global: &Global) -> Global {
    let mut global = global.clone();
    global.counted = 0;
    for branch in &mut global.branches {
        branch.counted = 0;
    }
    global
}

fn unreadable(index: Index, error: &impl std::fmt::Display) -> ApplyError {
    ApplyError {
        index,
        reason: format!("not a batch of commands: {error}"),
    }
}
