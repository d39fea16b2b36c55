//! A saga's process dies anywhere: the saga goes forward or is compensated, whole and never both.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, TransactionBehavior};
use settle_sdk::{
    Options, Propagation, Rm, ScopeError, TccError, Tm,
    fence::{self, FenceKey, Pass, SQLITE_SCHEMA},
    saga::{self, Compensable, Retriable, StepError},
};
use settle_testkit::{Cluster, until};
use tokio::{sync::Notify, time::timeout};

use crate::{SOON, spec, turn};

/// After this a saga without its process is compensated.
const TRIP_WITHIN: Duration = Duration::from_secs(4);
const BOOKINGS: [&str; 2] = ["flight", "hotel"];
const MESSAGES: [&str; 2] = ["letter", "invoice"];

/// What is done in the database: `what` happened to step `step` of trip `trip`.
const JOURNAL: &str = "CREATE TABLE IF NOT EXISTS journal (trip INTEGER, step TEXT, what TEXT)";

/// Where a process dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Death {
    /// When the function has been called so often: whenever something it waited for had come.
    AtPoll(usize),
    /// Within a step's work, before or after its database transaction is committed.
    In {
        step: &'static str,
        is_committed: bool,
    },
    Never,
}

/// The database of one process, and how that dies.
struct Process {
    database: Mutex<Connection>,
    /// It dies at work for this trip: it may be called for others.
    trip: i64,
    death: Death,
    died: Notify,
}

impl Process {
    fn new(file: &Path, trip: i64, death: Death) -> rusqlite::Result<Arc<Process>> {
        let database = Connection::open(file)?;
        database.busy_timeout(SOON)?;
        database.execute_batch(SQLITE_SCHEMA)?;
        database.execute_batch(JOURNAL)?;
        Ok(Arc::new(Process {
            database: Mutex::new(database),
            trip,
            death,
            died: Notify::new(),
        }))
    }

    /// Notes what happens to a step, behind the fence: where the process is to die, it does.
    async fn work(
        &self,
        what: &str,
        trip: i64,
        step: &str,
        pass: impl FnOnce(&mut rusqlite::Transaction<'_>) -> Result<Pass, TccError>,
    ) -> Result<(), TccError> {
        let death = match self.death {
            Death::In {
                step: dies_in,
                is_committed,
            } if dies_in == step && trip == self.trip => Some(is_committed),
            _ => None,
        };
        {
            let mut database = self.database.lock().map_err(|_| TccError::retryable("lost"))?;
            let begun = database.transaction_with_behavior(TransactionBehavior::Immediate);
            let mut tx = begun.map_err(TccError::retryable)?;
            if pass(&mut tx)? == Pass::Do {
                let sql = "INSERT INTO journal VALUES (?1, ?2, ?3)";
                tx.execute(sql, (trip, step, what)).map_err(TccError::retryable)?;
            }
            if death != Some(false) {
                tx.commit().map_err(TccError::retryable)?;
            }
        }
        if death.is_some() {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

struct Booking {
    name: &'static str,
    process: Arc<Process>,
}

impl Compensable for Booking {
    type Input = i64;
    type Output = ();

    fn name(&self) -> &str {
        self.name
    }

    async fn run(&self, key: FenceKey<'_>, trip: &i64) -> Result<(), TccError> {
        let work = self.process.work("done", *trip, self.name, |tx| {
            fence::prepare(tx, key)?;
            Ok(Pass::Do)
        });
        work.await
    }

    async fn compensate(&self, key: FenceKey<'_>, trip: &i64) -> Result<(), TccError> {
        let work = self
            .process
            .work("undone", *trip, self.name, |tx| Ok(fence::rollback(tx, key)?));
        work.await
    }

    async fn confirm(&self, key: FenceKey<'_>, trip: &i64) -> Result<(), TccError> {
        let work = self
            .process
            .work("kept", *trip, self.name, |tx| Ok(fence::commit(tx, key)?));
        work.await
    }
}

struct Message {
    name: &'static str,
    process: Arc<Process>,
}

impl Retriable for Message {
    type Input = i64;

    fn name(&self) -> &str {
        self.name
    }

    async fn run(&self, key: FenceKey<'_>, trip: &i64) -> Result<(), TccError> {
        let work = self
            .process
            .work("done", *trip, self.name, |tx| Ok(fence::once(tx, key)?));
        work.await
    }
}

/// One instance of the application.
struct Agency {
    tm: Tm,
    rm: Rm,
    bookings: Vec<Arc<Booking>>,
    messages: Vec<Arc<Message>>,
}

impl Agency {
    async fn open(options: Options, process: &Arc<Process>) -> Result<Agency> {
        let bookings = BOOKINGS.map(|name| {
            let process = process.clone();
            Arc::new(Booking { name, process })
        });
        let messages = MESSAGES.map(|name| {
            let process = process.clone();
            Arc::new(Message { name, process })
        });
        let mut served: Vec<_> = bookings.iter().cloned().map(saga::compensable).collect();
        served.extend(messages.iter().cloned().map(saga::retriable));
        Ok(Agency {
            rm: Rm::connect(options.clone(), served).await?,
            tm: Tm::connect(options).await?,
            bookings: bookings.into(),
            messages: messages.into(),
        })
    }

    /// Books everything, and promises to tell.
    async fn trip(&self, trip: i64, fails: bool) -> Result<(), ScopeError<StepError>> {
        self.tm
            .run(Propagation::RequiresNew, "trip", TRIP_WITHIN, async |_| {
                for booking in &self.bookings {
                    self.rm.do_step(&**booking, &trip).await?;
                }
                for message in &self.messages {
                    self.rm.promise_step(&**message, &trip).await?;
                }
                if fails {
                    let step = "the traveller's mind".to_owned();
                    return Err(StepError::Outside { step });
                }
                Ok(())
            })
            .await
    }
}

/// Runs a trip in a process of its own until that dies: nothing of it runs any more, its connections are closed, and what
/// its database had not committed is gone. True when it lived to see the trip's end.
fn lives(file: PathBuf, options: Options, trip: i64, death: Death) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Nothing is run when this returns, although it may own what has not been finished.
    runtime.block_on(async {
        let process = Process::new(&file, trip, death)?;
        let agency = Agency::open(options, &process).await?;
        let mut polls = 0;
        let mut work = pin!(agency.trip(trip, false));
        let trip = std::future::poll_fn(|cx| {
            if death == Death::AtPoll(polls) {
                return Poll::Ready(None);
            }
            polls += 1;
            work.as_mut().poll(cx).map(Some)
        });
        let ended = tokio::select! {
            biased; // Either: the dead do not go on.
            ended = trip => ended,
            () = process.died.notified() => return Ok(false),
        };
        let Some(ended) = ended else {
            return Ok(false);
        };
        ended?;
        if let Death::In { .. } = death {
            // It is called for what it promised.
            let died = timeout(SOON, process.died.notified()).await;
            died.with_context(|| format!("{death:?} did not come"))?;
            return Ok(false);
        }
        Ok(true)
    })
}

/// What happened to each trip, in order.
fn journal(file: &Path) -> Result<BTreeMap<i64, Vec<String>>> {
    let database = Connection::open(file)?;
    let mut read = database.prepare("SELECT trip, step || ' ' || what FROM journal ORDER BY rowid")?;
    let mut trips = BTreeMap::<i64, Vec<String>>::new();
    for row in read.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))? {
        let (trip, entry) = row?;
        trips.entry(trip).or_default().push(entry);
    }
    Ok(trips)
}

/// Whether a trip is whole, or absent; nothing else may be.
fn is_whole(trip: i64, entries: &[String]) -> Result<bool> {
    let count = |step: &str, what: &str| {
        entries
            .iter()
            .filter(|entry| **entry == format!("{step} {what}"))
            .count()
    };
    let done: Vec<usize> = BOOKINGS.iter().map(|step| count(step, "done")).collect();
    let undone: Vec<usize> = BOOKINGS.iter().map(|step| count(step, "undone")).collect();
    let told: Vec<usize> = MESSAGES.iter().map(|step| count(step, "done")).collect();
    let kept: Vec<usize> = BOOKINGS.iter().map(|step| count(step, "kept")).collect();
    let is_whole = told == [1, 1];
    let is_right = match is_whole {
        true => done == [1, 1] && kept == [1, 1] && undone == [0, 0],
        false => told == [0, 0] && kept == [0, 0] && done == undone && done.iter().all(|times| *times <= 1),
    };
    ensure!(is_right, "trip {trip} is neither whole nor absent: {entries:?}");
    Ok(is_whole)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saga_whose_process_dies_anywhere_goes_forward_or_is_compensated_and_never_both() -> Result<()> {
    let _turn = turn().await;
    let cluster = Cluster::start(spec(3)).await?;
    let file = cluster.data_dir(1).join("trips.db");
    let options = Options::new(cluster.nodes().map(|node| cluster.tx(node).to_string()), "trips");
    // An instance that lives: what a process is that comes back.
    let survivor = Agency::open(options.clone(), &Process::new(&file, 0, Death::Never)?).await?;

    // By itself it works, and compensates in reverse.
    survivor.trip(1, false).await?;
    let failed = survivor.trip(2, true).await;
    ensure!(matches!(failed, Err(ScopeError::Work { .. })), "{failed:?}");

    let mut deaths: Vec<Death> = Vec::new();
    for step in BOOKINGS.into_iter().chain(MESSAGES) {
        deaths.extend([false, true].map(|is_committed| Death::In { step, is_committed }));
    }
    deaths.extend((1..).map(Death::AtPoll).take(64));
    let mut trip = 2;
    for death in deaths {
        trip += 1;
        let (file, options) = (file.clone(), options.clone());
        let lives = tokio::task::spawn_blocking(move || lives(file, options, trip, death));
        // It was not called that often: it dies nowhere else.
        if lives.await?? {
            break;
        }
    }
    println!("{trip} trips");

    until("every trip has ended", SOON, async || {
        let open = cluster.get(1, "/v1/tx").await?;
        ensure!(!open.body.contains("trip"), "{}", open.body);
        let last = journal(&file)?.remove(&trip).unwrap_or_default();
        ensure!(is_whole(trip, &last)?, "the last trip is not there yet");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    let journal = journal(&file)?;
    let none = Vec::new();
    let mut whole = Vec::new();
    for trip in 1..=trip {
        let entries = journal.get(&trip).unwrap_or(&none);
        if is_whole(trip, entries)? {
            whole.push(trip);
        }
    }
    println!("whole: {whole:?}");
    ensure!(whole.contains(&1) && !whole.contains(&2), "{journal:?}");
    ensure!(
        journal[&2] == ["flight done", "hotel done", "hotel undone", "flight undone"],
        "{:?}",
        journal[&2]
    );
    // Those that died within a booking (3 to 6) are absent, those within what was promised (7 to 10) are whole.
    let (mut absent, mut forward) = (3..=6, 7..=10);
    ensure!(absent.all(|trip| !whole.contains(&trip)), "{whole:?}");
    ensure!(forward.all(|trip| whole.contains(&trip)), "{whole:?}");
    ensure!(trip >= 14 && whole.contains(&trip), "it died {} times only", trip - 3);
    cluster.finish();
    Ok(())
}
