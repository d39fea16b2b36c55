//! `settle demo`: three servers and two account services as real processes, money that moves between them, and `kill -9`
//! again and again. At the end a judge reads what is left.

mod account;
mod alone;
mod bank;
mod board;
mod book;
mod evidence;
mod journal;
mod judge;
mod nemesis;
mod probe;
mod progress;
mod quiet;
mod report;
mod stage;
mod teller;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use settle_base::Prng;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};

pub use account::{AccountArgs, run as run_account};
pub use alone::{BankArgs, run as run_bank};
use board::Board;
use nemesis::{Kill, Lives};
use report::Report;
use stage::Stage;
use teller::{Pace, Teller, WORKERS};

use crate::{config::parse_duration, dev::interrupted};

/// Money moves between two services while servers and services are killed; then everything is checked.
///
/// Exit codes: 0 every promise was kept, 1 one was broken, 2 usage, 3 the machine lacks something.
#[derive(clap::Args, Debug)]
pub struct DemoArgs {
    /// How long money is moved and processes are killed.
    #[arg(long, default_value = "90s", value_parser = time)]
    time: Duration,
    /// Have the servers break a promise on purpose, to see it found.
    #[arg(long = "break", value_enum, value_name = "FAULT")]
    fault: Option<Fault>,
    /// An empty directory for all files, which then stay. Without it, one under the system's temporary directory, which
    /// goes away when every promise was kept.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// One commit in so many is answered and never decided.
    LoseDecide,
}

impl Fault {
    /// What makes a server do it.
    fn settings(self) -> &'static str {
        match self {
            Fault::LoseDecide => "\n[test]\nlose-decide-every = 100\n",
        }
    }
}

const TIME_MIN: Duration = Duration::from_secs(10);

fn time(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Some(time) if time >= TIME_MIN => Ok(time),
        Some(_) => Err(format!("at least {} s: less shows nothing", TIME_MIN.as_secs())),
        None => Err("write a whole number and a unit, e.g. 90s or 10m".to_owned()),
    }
}

pub async fn run(args: DemoArgs) -> ExitCode {
    let data = match &args.data {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("settle-demo-{}", std::process::id())),
    };
    let prepared = Stage::prepare(&data, args.fault.map_or("", Fault::settings));
    let mut stage = match prepared {
        Ok(stage) => stage,
        Err(error) => return ended_by(3, &error),
    };
    eprintln!(
        "3 servers, 2 account services with {} in 2 SQLite files, up to {WORKERS} transfers at once, {} s of kill -9.",
        book::OPENING_BALANCE * book::ACCOUNTS * 2,
        args.time.as_secs()
    );
    eprintln!("Files, journals and logs are in {}", stage.data.display());
    let started = tokio::select! {
        biased;
        result = interrupted() => result.and_then(|()| bail!("interrupted")),
        started = stage.start() => started,
    };
    if let Err(error) = started {
        // Nothing of it is evidence.
        stage.stop().await;
        return ended_by(3, &error);
    }
    let played = play(&args, &mut stage).await;
    let trouble = stage.stop().await;
    let judged = played.and_then(|played| judge(played, &stage, trouble));
    let mut report = match judged {
        Ok(report) => report,
        Err(error) => return ended_by(1, &error.context(format!("see the logs in {}", stage.data.display()))),
    };
    if report.is_good && args.data.is_none() {
        if let Err(error) = std::fs::remove_dir_all(&stage.data) {
            eprintln!("cannot remove {}: {error}", stage.data.display());
        }
    } else {
        report.data = Some(stage.data.clone());
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report).expect("the report is JSON"));
    } else {
        report.print();
    }
    if report.is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn ended_by(code: u8, error: &anyhow::Error) -> ExitCode {
    eprintln!("settle demo: {error:#}");
    ExitCode::from(code)
}

/// What a run leaves beside the files.
struct Played {
    board: Arc<Board>,
    kills: Vec<Kill>,
    time: Duration,
    is_interrupted: bool,
    trouble: Vec<String>,
}

async fn play(args: &DemoArgs, stage: &mut Stage) -> anyhow::Result<Played> {
    let board = Arc::<Board>::default();
    let lives = Arc::<Lives>::default();
    (0..stage.cluster.servers.len()).for_each(|server| lives.turn(server));
    let teller = Teller::open(
        stage.cluster.tx_addresses(),
        stage.bank.urls(),
        &stage.bank.teller_journal(),
        board.clone(),
        Pace::default(),
    )
    .await?;
    let teller = Arc::new(teller);
    let started = Instant::now();
    let end = started + args.time;
    let seed = journal::now_ms();

    let (stop, stopped) = watch::channel(false);
    let (stop_line, line_stopped) = watch::channel(false);
    let mut line = JoinSet::new();
    line.spawn(progress::show(board.clone(), started, line_stopped));
    let mut watches = JoinSet::new();
    watches.spawn(probe::watch_the_machine(board.clone(), stopped.clone()));
    for (server, local) in stage.cluster.servers.iter().enumerate() {
        let (address, lives, board) = (local.tx.clone(), lives.clone(), board.clone());
        watches.spawn(probe::probe(server, address, lives, board, stopped.clone()));
    }
    let mut work = JoinSet::new();
    let worker = teller.clone();
    work.spawn(async move { worker.work(seed, stopped).await });

    let mut kills = Vec::new();
    let mut is_interrupted = false;
    let mut trouble = Vec::new();
    let mut prng = Prng::new(seed);
    tokio::select! {
        biased;
        result = interrupted() => {
            result?;
            is_interrupted = true;
        }
        killed = nemesis::kill_until(end, stage, &board, &lives, &mut prng, &mut kills) => match killed {
            Ok(()) => sleep_until(end).await,
            Err(error) => trouble.push(format!("{error:#}")),
        },
        Some(ended) = work.join_next() => ended.context("the teller panicked")??,
    }
    let time = started.elapsed();
    board.tell("ending".to_owned());
    stop.send_replace(true);
    watches.join_all().await;
    stage.start_again().await?;
    while let Some(ended) = work.join_next().await {
        ended.context("the teller panicked")??;
    }
    if let Err(error) = quiet::wait(&stage.bank, &stage.cluster.servers[0].url(), &teller).await {
        trouble.push(format!("{error:#}"));
    }
    stop_line.send_replace(true);
    line.join_all().await;
    Ok(Played {
        board,
        kills,
        time,
        is_interrupted,
        trouble,
    })
}

fn judge(mut played: Played, stage: &Stage, stop_trouble: Vec<String>) -> anyhow::Result<Report> {
    let evidence = evidence::read(&stage.bank)?;
    let verdict = judge::judge(&evidence.sides, &evidence.transfers);
    played.trouble.extend(stop_trouble);
    Ok(Report::new(verdict, &evidence, &played))
}
