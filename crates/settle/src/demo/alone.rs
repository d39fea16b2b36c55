//! `settle demo-bank`: the bank of the demo, teller and judge included, beside servers that somebody else runs, and
//! breaks, such as `cargo xtask crash`. Its own account services it kills itself.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use serde::Serialize;
use settle_base::Prng;
use tokio::{sync::watch, task::JoinSet, time::sleep};

use super::{
    bank::Bank,
    board::Board,
    ended_by, evidence,
    judge::{self, Verdict},
    quiet,
    stage::{empty_directory, free_offset},
    teller::{Pace, Teller},
};
use crate::server::stdin_closed;

#[derive(clap::Args, Debug)]
pub struct BankArgs {
    /// Where the servers listen for Seata clients.
    #[arg(long, value_delimiter = ',', required = true)]
    transactions: Vec<String>,
    /// The address of a server's HTTP API.
    #[arg(long)]
    http: String,
    /// An empty directory for money and journals.
    #[arg(long)]
    data: PathBuf,
    #[arg(long)]
    seed: u64,
    #[arg(long, default_value_t = 24)]
    workers: u64,
    /// The longest pause of a worker between two transfers, in milliseconds.
    #[arg(long, default_value_t = 200)]
    pause_ms: u64,
}

/// A line of JSON on standard output at the end.
#[derive(Serialize)]
struct BankReport {
    is_good: bool,
    verdict: Verdict,
    service_kills: u64,
    /// Beginnings that failed: no server could be reached, or none could answer in time.
    failed_calls: u64,
    trouble: Vec<String>,
}

/// Between two kills of an account service, and how long it stays dead, in milliseconds.
const KILL_EVERY_MS: std::ops::Range<u64> = 3_000..12_000;
const DEAD_MS: std::ops::Range<u64> = 200..2_000;
/// Between two tries to start a service again that found no server.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Moves money until standard input is closed; then everything must be decided soon, and is judged.
pub async fn run(args: BankArgs) -> ExitCode {
    let prepared = empty_directory(&args.data).and_then(|data| {
        let offset = free_offset(std::iter::empty())?;
        Ok(Bank::prepare(&data, &args.transactions, offset))
    });
    let mut bank = match prepared {
        Ok(bank) => bank,
        Err(error) => return ended_by(3, &error),
    };
    let played = play(&args, &mut bank).await;
    let mut trouble = bank.stop().await;
    trouble.retain(|line| !line.ends_with("stopped."));
    let report = played.and_then(|played| {
        let evidence = evidence::read(&bank)?;
        let verdict = judge::judge(&evidence.sides, &evidence.transfers);
        trouble.extend(played.trouble);
        if verdict.whole == 0 {
            trouble.push("no transfer was committed, so nothing is shown".to_owned());
        }
        Ok(BankReport {
            is_good: verdict.is_good() && trouble.is_empty(),
            verdict,
            service_kills: played.service_kills,
            failed_calls: played.board.failed_calls().0,
            trouble,
        })
    });
    match report {
        Ok(report) => {
            println!("{}", serde_json::to_string(&report).expect("the report is JSON"));
            ExitCode::from(u8::from(!report.is_good))
        }
        Err(error) => ended_by(1, &error),
    }
}

struct Played {
    board: Arc<Board>,
    service_kills: u64,
    trouble: Vec<String>,
}

async fn play(args: &BankArgs, bank: &mut Bank) -> anyhow::Result<Played> {
    bank.start().await?;
    let board = Arc::<Board>::default();
    let pace = Pace {
        workers: args.workers,
        pause_ms: 0..args.pause_ms.max(1),
    };
    let journal = bank.teller_journal();
    let teller = Teller::open(args.transactions.clone(), bank.urls(), &journal, board.clone(), pace).await?;
    let teller = Arc::new(teller);
    let (stop, stopped) = watch::channel(false);
    let mut work = JoinSet::new();
    let (worker, seed) = (teller.clone(), args.seed);
    work.spawn(async move { worker.work(seed, stopped).await });

    let mut service_kills = 0;
    tokio::select! {
        biased;
        () = stdin_closed() => {}
        Some(ended) = work.join_next() => ended.context("the teller panicked")??,
        killed = kill_services(bank, args.seed, &mut service_kills) => killed?,
    }
    stop.send_replace(true);
    bank.start().await?;
    while let Some(ended) = work.join_next().await {
        ended.context("the teller panicked")??;
    }
    let mut trouble = Vec::new();
    let mut quiet = quiet::wait(bank, &format!("http://{}", args.http), &teller).await;
    if quiet.is_ok() {
        quiet = quiet::ask_all_again(bank, &teller).await;
    }
    if let Err(error) = quiet {
        trouble.push(format!("{error:#}"));
    }
    Ok(Played {
        board,
        service_kills,
        trouble,
    })
}

/// Kills one service now and then, until this is dropped.
async fn kill_services(bank: &mut Bank, seed: u64, kills: &mut u64) -> anyhow::Result<()> {
    let mut prng = Prng::from_parts(&[seed, u64::MAX]);
    loop {
        sleep(Duration::from_millis(
            prng.between(KILL_EVERY_MS.start, KILL_EVERY_MS.end),
        ))
        .await;
        let service = &mut bank.services[prng.below(2) as usize];
        service.process.kill().await?;
        *kills += 1;
        sleep(Duration::from_millis(prng.between(DEAD_MS.start, DEAD_MS.end))).await;
        // It registers with a server before it serves, and there may be none for as long as that may take.
        while service.start().await.is_err() {
            if service.process.is_running() {
                // It may just have ended by itself, for the same reason.
                let _ = service.process.kill().await;
            }
            sleep(AGAIN_AFTER).await;
        }
    }
}
