//! The record of ended transactions on this node's disk, on a thread of its own: the loop hands over what it has applied
//! and waits for nothing; what finds the thread's queue full is left out of the record, and counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use settle_base::{ErrorCode, GroupId, Index, Retryable};
use settle_history::{Cursor, Entry, Gap, History, HistoryConfig, Search};
use settle_storage::{DiskError, DiskRead};
use settle_telemetry::{
    Clock,
    prometheus::{
        metrics::{counter::Counter, gauge::Gauge},
        registry::Registry,
    },
};
use settle_tx::{Ended, EndedRecord, GlobalStatus, Tid};
use tokio::sync::oneshot;

use crate::door::STOPPING;

/// Batches and searches that wait for the thread, at most. A batch is what one turn of the loop has applied.
const QUEUE: usize = 4_096;
/// Ended transactions that wait for it, at most.
const QUEUE_ENDED: u64 = 65_536;
/// What is taken in is written and synced so often, or when there is so much of it.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
const FLUSH_BYTES: usize = 256 << 10;
/// Read for one page of a search, about.
const SCAN_BYTES: u64 = 64 << 20;

const HISTORY_FAILED: ErrorCode = ErrorCode::new("TS", 8);

/// Names and meaning of what the record measures.
#[derive(Clone, Default)]
pub struct HistoryMetrics {
    pub recorded: Counter,
    pub lost: Counter,
    pub bytes: Gauge,
}

impl HistoryMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "settle_tx_history_recorded",
            "Ended transactions written to this server's history",
            self.recorded.clone(),
        );
        registry.register(
            "settle_tx_history_lost",
            "Ended transactions that the history has not: its disk or its queue was full",
            self.lost.clone(),
        );
        registry.register(
            "settle_tx_history_bytes",
            "Size of the history of ended transactions",
            self.bytes.clone(),
        );
    }
}

/// Why a search was not answered.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("this server keeps no history: tx.history-max is 0B")]
    Off,
    #[error("so many searches wait already; this one was not begun")]
    Busy,
    #[error("the history cannot be read: {0}")]
    Disk(#[from] DiskError),
    #[error("this server is stopping")]
    Stopping,
}

impl HistoryError {
    pub fn code(&self) -> ErrorCode {
        match self {
            HistoryError::Off => ErrorCode::new("TS", 9),
            HistoryError::Busy => ErrorCode::new("TS", 10),
            HistoryError::Disk(_) => ErrorCode::new("TS", 11),
            HistoryError::Stopping => STOPPING,
        }
    }

    pub fn retryable(&self) -> Retryable {
        match self {
            HistoryError::Off => Retryable::No,
            HistoryError::Busy | HistoryError::Disk(_) | HistoryError::Stopping => Retryable::Yes,
        }
    }
}

/// What is looked for among ended transactions.
#[derive(Clone, Debug, Default)]
pub struct HistorySearch {
    pub tid: Option<Tid>,
    pub status: Option<GlobalStatus>,
    pub application: Option<String>,
    pub resource: Option<String>,
    /// Only those that failed, timed out or had to be tried again.
    pub troubled: bool,
    /// Recorded from then on, and before, in milliseconds since 1970.
    pub from_ms: Option<u64>,
    pub until_ms: Option<u64>,
    pub before: Option<Cursor>,
    pub limit: usize,
}

#[derive(Debug, Default)]
pub struct HistoryPage {
    /// Newest first, each with the wall time at which this node recorded it.
    pub records: Vec<(u64, EndedRecord)>,
    pub next: Option<Cursor>,
    /// Files of which a part could not be read.
    pub damaged: u32,
    /// Where a snapshot took the place of the log, as far as the history reaches back: what had ended by then may be
    /// missing.
    pub gaps: Vec<Gap>,
}

enum Command {
    Ended(Vec<Ended>),
    Reloaded {
        group: u8,
        index: Index,
    },
    Search {
        search: Box<HistorySearch>,
        answer: oneshot::Sender<Result<HistoryPage, HistoryError>>,
    },
    Stop,
}

/// The way to the record's thread. Without one nothing is recorded and every search is refused.
#[derive(Clone, Default)]
pub struct HistoryHandle {
    sender: Option<SyncSender<Command>>,
    /// Ended transactions handed over and not taken in.
    queued: Arc<AtomicU64>,
    metrics: HistoryMetrics,
}

/// The thread that writes the record.
pub struct HistoryThread {
    sender: SyncSender<Command>,
    thread: JoinHandle<()>,
}

impl HistoryThread {
    /// Waits until everything handed over before is on the disk. Blocks.
    pub fn stop(self) {
        // It may have ended by itself, in a panic that is told below.
        let _ = self.sender.send(Command::Stop);
        if self.thread.join().is_err() {
            tracing::error!("the thread of the history panicked");
        }
    }
}

/// Opens the record and starts its thread.
///
/// # Errors
/// When the disk cannot be read or the system starts no thread.
pub fn start_history<D: DiskRead + Send + 'static>(
    disk: D,
    config: HistoryConfig,
    metrics: HistoryMetrics,
) -> Result<(HistoryHandle, HistoryThread), StartHistoryError> {
    let history = History::open(disk, config).map_err(StartHistoryError::Open)?;
    metrics.bytes.set(history.bytes() as i64);
    let (sender, receiver) = sync_channel(QUEUE);
    let (measured, queued) = (metrics.clone(), Arc::<AtomicU64>::default());
    let recorder = Recorder::new(history, measured, queued.clone());
    let thread = std::thread::Builder::new()
        .name("history".to_owned())
        .spawn(move || recorder.run(&receiver))
        .map_err(StartHistoryError::Thread)?;
    let handle = HistoryHandle {
        sender: Some(sender.clone()),
        queued,
        metrics,
    };
    Ok((handle, HistoryThread { sender, thread }))
}

#[derive(Debug, thiserror::Error)]
pub enum StartHistoryError {
    #[error("cannot open the history of ended transactions")]
    Open(#[source] DiskError),
    #[error("cannot start the thread of the history")]
    Thread(#[source] std::io::Error),
}

impl StartHistoryError {
    pub fn code(&self) -> ErrorCode {
        ErrorCode::new("TS", 12)
    }
}

impl HistoryHandle {
    /// Hands over what was applied. Never blocks.
    pub fn record(&self, ended: Vec<Ended>) {
        let Some(sender) = &self.sender else { return };
        let count = ended.len() as u64;
        let has_room = self.queued.fetch_add(count, Ordering::Relaxed) + count <= QUEUE_ENDED;
        if !has_room || sender.try_send(Command::Ended(ended)).is_err() {
            self.queued.fetch_sub(count, Ordering::Relaxed);
            self.metrics.lost.inc_by(count);
        }
    }

    /// A snapshot took the place of a group's replica here. Never blocks.
    pub fn reloaded(&self, group: GroupId, index: Index) {
        let Some(sender) = &self.sender else { return };
        let group = u8::try_from(group.0).expect("transaction groups are numbered 1 to 255");
        if sender.try_send(Command::Reloaded { group, index }).is_err() {
            self.metrics.lost.inc();
        }
    }

    /// # Errors
    /// When nothing is recorded here, too much waits already, or the disk fails.
    pub async fn search(&self, search: HistorySearch) -> Result<HistoryPage, HistoryError> {
        let sender = self.sender.as_ref().ok_or(HistoryError::Off)?;
        let (answer, answered) = oneshot::channel();
        let search = Box::new(search);
        sender
            .try_send(Command::Search { search, answer })
            .map_err(|error| match error {
                TrySendError::Full(_) => HistoryError::Busy,
                TrySendError::Disconnected(_) => HistoryError::Stopping,
            })?;
        answered.await.unwrap_or(Err(HistoryError::Stopping))
    }
}

struct Recorder<D> {
    history: History<D>,
    metrics: HistoryMetrics,
    queued: Arc<AtomicU64>,
    clock: Clock,
    payload: Vec<u8>,
    /// Recorded since the last flush.
    waiting: u64,
    /// The last flush failed: told once, until one succeeds.
    is_failing: bool,
}

impl<D: DiskRead> Recorder<D> {
    fn new(history: History<D>, metrics: HistoryMetrics, queued: Arc<AtomicU64>) -> Recorder<D> {
        Recorder {
            history,
            metrics,
            queued,
            clock: Clock::start(),
            payload: Vec::new(),
            waiting: 0,
            is_failing: false,
        }
    }

    fn run(mut self, receiver: &Receiver<Command>) {
        let mut flush_at = self.clock.now() + FLUSH_EVERY;
        loop {
            let wait = flush_at.since(self.clock.now());
            match receiver.recv_timeout(wait) {
                Ok(Command::Ended(ended)) => {
                    self.queued.fetch_sub(ended.len() as u64, Ordering::Relaxed);
                    self.record(&ended);
                }
                Ok(Command::Reloaded { group, index }) => {
                    let wall_ms = Clock::wall().as_millis() as u64;
                    self.history.append_gap(Gap { group, index, wall_ms });
                }
                Ok(Command::Search { search, answer }) => {
                    self.flush();
                    // The asker may have given up.
                    let _ = answer.send(self.search(&search));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return self.flush(),
            }
            if self.history.buffered_bytes() >= FLUSH_BYTES || self.clock.now() >= flush_at {
                self.flush();
                flush_at = self.clock.now() + FLUSH_EVERY;
            }
        }
    }

    fn record(&mut self, ended: &[Ended]) {
        let wall_ms = Clock::wall().as_millis() as u64;
        // Between what was applied together, so that what is flushed of a log entry is all of it.
        if self.history.buffered_bytes() >= FLUSH_BYTES {
            self.flush();
        }
        for ended in ended {
            self.payload.clear();
            ended.encode(&mut self.payload);
            let tid = ended.global.tid;
            // What a log that is applied again tells a second time is not taken in.
            self.waiting += u64::from(self.history.append(Entry {
                group: u8::try_from(tid.group().0).expect("a transaction's group has 8 bits"),
                index: ended.index,
                id: tid.as_i64(),
                wall_ms,
                payload: &self.payload,
            }));
        }
    }

    fn flush(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        match self.history.flush(Clock::wall().as_millis() as u64) {
            Ok(()) => {
                self.metrics.recorded.inc_by(waiting);
                self.is_failing = false;
            }
            Err(error) => {
                self.metrics.lost.inc_by(waiting);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::error!(code = %HISTORY_FAILED, %error, "the history of ended transactions cannot be written");
                }
            }
        }
        self.metrics.bytes.set(self.history.bytes() as i64);
    }

    fn search(&mut self, wanted: &HistorySearch) -> Result<HistoryPage, HistoryError> {
        let search = Search {
            id: wanted.tid.map(Tid::as_i64),
            from_ms: wanted.from_ms,
            until_ms: wanted.until_ms,
            before: wanted.before,
            limit: wanted.limit,
            bytes_max: SCAN_BYTES,
        };
        let page = self.history.search(&search, |entry| {
            EndedRecord::decode(entry.payload).is_ok_and(|record| fits(&record, wanted))
        })?;
        let records = page.found.iter().filter_map(|found| {
            let record = EndedRecord::decode(&found.payload).ok()?;
            Some((found.wall_ms, record))
        });
        Ok(HistoryPage {
            records: records.collect(),
            next: page.next,
            damaged: page.damaged,
            gaps: self.history.gaps().copied().collect(),
        })
    }
}

fn fits(record: &EndedRecord, wanted: &HistorySearch) -> bool {
    let of_resource = |resource: &String| record.branches.iter().any(|branch| branch.resource == *resource);
    wanted.status.is_none_or(|status| record.status == status)
        && wanted
            .application
            .as_ref()
            .is_none_or(|name| record.application == *name)
        && wanted.resource.as_ref().is_none_or(of_resource)
        && (!wanted.troubled || record.is_troubled())
}
