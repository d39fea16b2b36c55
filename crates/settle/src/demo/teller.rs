//! The teller: moves money between accounts of the two services, each transfer one global transaction.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use settle_base::Prng;
use settle_sdk::{Error, Options, Outcome, Standing, Tm};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    account::{Try, XID_HEADER},
    board::{Board, Phase},
    book::{ACCOUNTS, OPENING_BALANCE},
    journal::{Event, Journal},
};

/// Transfers that are under way at once in the demo, at most.
pub const WORKERS: u64 = 48;
/// A transfer that is not ended by then is rolled back by the coordinator.
pub const TRANSFER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an account service may take for its part of phase one.
const TRY_TIMEOUT: Duration = Duration::from_secs(5);
/// And after one that a service could not take part in.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(250);
/// Of 100 transfers, so many are called off by the customer when both services have agreed.
const CALLED_OFF_PERCENT: u64 = 6;
/// And of so many the teller forgets to say anything: only their time ends them.
const FORGOTTEN_PERCENT: u64 = 1;

/// How hard a teller works.
pub struct Pace {
    /// Transfers that are under way at once, at most.
    pub workers: u64,
    /// The pause of a customer between two transfers, in milliseconds.
    pub pause_ms: std::ops::Range<u64>,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            workers: WORKERS,
            pause_ms: 0..60,
        }
    }
}

pub struct Teller {
    tm: Tm,
    pace: Pace,
    /// Where the two services take `POST /try`.
    services: [String; 2],
    agent: ureq::Agent,
    journal: Journal,
    board: Arc<Board>,
}

/// What a service said to its part of a transfer.
enum Said {
    Reserved,
    Refused,
    /// It could not be asked, or did not answer: its part may be reserved.
    Failed,
}

impl Teller {
    /// # Errors
    /// When no coordinator can be reached, or the journal not be written.
    pub async fn open(
        transactions: Vec<String>,
        services: [String; 2],
        journal: &Path,
        board: Arc<Board>,
        pace: Pace,
    ) -> anyhow::Result<Teller> {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(TRY_TIMEOUT))
            .http_status_as_error(false)
            .max_idle_connections(2 * WORKERS as usize)
            .max_idle_connections_per_host(WORKERS as usize)
            .build();
        Ok(Teller {
            tm: Tm::connect(Options::new(transactions, "teller")).await?,
            pace,
            services,
            agent: agent.into(),
            journal: Journal::open(journal)?,
            board,
        })
    }

    /// Runs transfers until told to stop; then each that is under way is brought to its end.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn work(self: &Arc<Teller>, seed: u64, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let mut workers = JoinSet::new();
        for worker in 0..self.pace.workers {
            let (teller, stop) = (self.clone(), stop.clone());
            let mut prng = Prng::from_parts(&[seed, worker]);
            workers.spawn(async move {
                while !*stop.borrow() {
                    teller.transfer(&mut prng).await?;
                    let pause = &teller.pace.pause_ms;
                    sleep(Duration::from_millis(prng.between(pause.start, pause.end))).await;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = workers.join_next().await {
            ended.context("a worker of the teller panicked")??;
        }
        Ok(())
    }

    async fn transfer(&self, prng: &mut Prng) -> anyhow::Result<()> {
        let place = self.board.enter();
        let side = prng.below(2) as usize;
        let account = |prng: &mut Prng| 1 + prng.below(ACCOUNTS as u64) as i64;
        let (from, to) = ((side, account(prng)), (1 - side, account(prng)));
        let amount = 1 + prng.below(OPENING_BALANCE as u64 / 3) as i64;

        let started = Instant::now();
        let transaction = match self.tm.begin("transfer", TRANSFER_TIMEOUT).await {
            Ok(transaction) => transaction,
            Err(error) => {
                self.board.call_failed(error.to_string());
                return Ok(());
            }
        };
        self.board.begun_in(started.elapsed());
        let xid = transaction.xid().to_owned();
        place.begun(&xid);
        self.journal.write(Event::Begun {
            xid: xid.clone(),
            from,
            to,
            amount,
        })?;

        place.phase(Phase::FirstTry);
        let mut said = self.ask(&xid, from, -amount).await;
        if matches!(said, Said::Reserved) {
            place.phase(Phase::SecondTry);
            said = self.ask(&xid, to, amount).await;
        }
        if prng.percent(FORGOTTEN_PERCENT) {
            transaction.forget();
            return Ok(());
        }
        let commit = matches!(said, Said::Reserved) && !prng.percent(CALLED_OFF_PERCENT);
        self.journal.write(Event::Asking {
            xid: xid.clone(),
            commit,
        })?;
        place.phase(Phase::Decision);
        let ended = if commit {
            transaction.commit().await
        } else {
            transaction.rollback().await
        };
        self.note(&xid, ended)?;
        drop(place);
        if matches!(said, Said::Failed) {
            sleep(PAUSE_AFTER_FAILURE).await;
        }
        Ok(())
    }

    /// Writes down how a transfer ended, if that was told.
    fn note(&self, xid: &str, ended: Result<Outcome, Error>) -> anyhow::Result<()> {
        let committed = match ended {
            Ok(outcome) => outcome.is_committed(),
            Err(Error::RolledBack { .. }) => false,
            Err(Error::Committed { .. }) => true,
            // Asked again at the end.
            Err(_) => return Ok(()),
        };
        self.board.ended(committed);
        self.journal.write(Event::Told {
            xid: xid.to_owned(),
            committed,
        })
    }

    /// Asks how a transfer stands that nothing was told of yet. False when it is still open.
    ///
    /// # Errors
    /// When no coordinator answers, or the journal cannot be written.
    pub async fn ask_again(&self, xid: &str) -> anyhow::Result<bool> {
        match self.tm.status(xid).await? {
            Standing::Decided(outcome) => self.note(xid, Ok(outcome)).map(|()| true),
            Standing::Open => Ok(false),
            // The journal shows that nothing was told.
            Standing::Forgotten => Ok(true),
        }
    }

    /// Asks how a transfer stands that has ended.
    ///
    /// # Errors
    /// When it has not, or is not known any more, or no coordinator answers.
    pub async fn must_be_known(&self, xid: &str) -> anyhow::Result<()> {
        match self.tm.status(xid).await? {
            Standing::Decided(outcome) => self.note(xid, Ok(outcome)),
            other => bail!("{xid} has ended, and is {other:?} now"),
        }
    }

    async fn ask(&self, xid: &str, (side, account): (usize, i64), amount: i64) -> Said {
        let request = self.agent.post(&self.services[side]).header(XID_HEADER, xid);
        let body = serde_json::to_string(&Try { account, amount }).expect("two numbers are JSON");
        let asked = tokio::task::spawn_blocking(move || {
            let answer = request.header("content-type", "application/json").send(body);
            answer.map(|answer| answer.status().as_u16())
        });
        match asked.await {
            Ok(Ok(200)) => Said::Reserved,
            Ok(Ok(409)) => Said::Refused,
            _ => Said::Failed,
        }
    }
}
