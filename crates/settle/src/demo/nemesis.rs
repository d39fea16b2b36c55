//! What goes wrong: servers and account services are killed, one at a time, each while enough transfers are under way
//! and only after the last one that was killed is back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::Value;
use settle_base::Prng;
use tokio::time::{Instant, sleep};

use super::{
    board::{Board, UnderWay},
    journal::now_ms,
    stage::Stage,
};
use crate::http_client;

/// Transfers that must be under way when something is killed.
pub const IN_FLIGHT_MIN: usize = 16;
/// How long the killed one stays dead, and how long the others have when it is back, in milliseconds.
const DEAD_MS: std::ops::Range<u64> = 200..1_500;
const REST_MS: std::ops::Range<u64> = 800..2_000;
/// Nothing is killed so shortly before the end.
const LAST_KILL_BEFORE_END: Duration = Duration::from_secs(5);
const BACK_WITHIN: Duration = Duration::from_secs(30);
/// The group that the transfers are in.
const TX_GROUP: u64 = 1;
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Victim {
    Leader,
    Follower,
    AccountService,
}

pub const VICTIMS: [Victim; 3] = [Victim::Leader, Victim::Follower, Victim::AccountService];

impl Victim {
    pub fn name(self) -> &'static str {
        match self {
            Victim::Leader => "leader",
            Victim::Follower => "follower",
            Victim::AccountService => "account service",
        }
    }
}

pub struct Kill {
    pub victim: Victim,
    pub at_ms: u64,
    pub met: Vec<UnderWay>,
}

/// Which servers live: odd while one does, and another number after each death.
#[derive(Default)]
pub struct Lives([AtomicU64; 3]);

impl Lives {
    /// The life of a server (from 0) at this moment, if it lives.
    pub fn of(&self, server: usize) -> Option<u64> {
        let life = self.0[server].load(Ordering::SeqCst);
        (life % 2 == 1).then_some(life)
    }

    /// It was dead and lives, or it lived and is about to die.
    pub fn turn(&self, server: usize) {
        self.0[server].fetch_add(1, Ordering::SeqCst);
    }
}

/// Kills until shortly before `end`.
///
/// # Errors
/// When something ended by itself, or did not come back.
pub async fn kill_until(
    end: Instant,
    stage: &mut Stage,
    board: &Arc<Board>,
    lives: &Arc<Lives>,
    prng: &mut Prng,
    kills: &mut Vec<Kill>,
) -> anyhow::Result<()> {
    let last = end - LAST_KILL_BEFORE_END;
    let mut bag: Vec<Victim> = Vec::new();
    loop {
        sleep(Duration::from_millis(prng.between(REST_MS.start, REST_MS.end))).await;
        while board.in_flight() < IN_FLIGHT_MIN {
            if Instant::now() >= last {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
        if Instant::now() >= last {
            return Ok(());
        }
        // Each kind as often as the others, in any order.
        if bag.is_empty() {
            bag.extend(VICTIMS);
        }
        let victim = bag.swap_remove(prng.below(bag.len() as u64) as usize);
        let dead = Duration::from_millis(prng.between(DEAD_MS.start, DEAD_MS.end));
        match victim {
            Victim::AccountService => {
                let service = &mut stage.bank.services[prng.below(2) as usize];
                board.tell(format!("{} killed", service.name));
                kills.push(note(victim, board));
                service.process.kill().await?;
                sleep(dead).await;
                service.start().await?;
                board.tell(format!("{} is back", service.name));
            }
            Victim::Leader | Victim::Follower => {
                let leader = leader(stage).await?;
                let server = match victim {
                    Victim::Leader => leader,
                    _ => (leader + 1 + prng.below(2) as usize) % 3,
                };
                board.tell(format!("{} {} killed", victim.name(), server + 1));
                lives.turn(server);
                kills.push(note(victim, board));
                stage.cluster.servers[server].process.kill().await?;
                sleep(dead).await;
                stage.cluster.servers[server].process.start()?;
                stage.cluster.servers[server].wait_until_ready().await?;
                wait_until_caught_up(stage, server).await?;
                lives.turn(server);
                board.tell(format!("node {} is back", server + 1));
            }
        }
    }
}

fn note(victim: Victim, board: &Board) -> Kill {
    board.kills.fetch_add(1, Ordering::Relaxed);
    Kill {
        victim,
        at_ms: now_ms(),
        met: board.look(),
    }
}

/// The server (from 0) that leads the transactions, as a living one sees it.
async fn leader(stage: &Stage) -> anyhow::Result<usize> {
    let deadline = Instant::now() + BACK_WITHIN;
    loop {
        for server in 0..stage.cluster.servers.len() {
            if let Ok(group) = group_of(stage, server).await
                && let Some(leader) = group["leader"].as_u64()
            {
                return Ok(leader as usize - 1);
            }
        }
        ensure!(
            Instant::now() < deadline,
            "no server knows a leader for {} s",
            BACK_WITHIN.as_secs()
        );
        sleep(PAUSE).await;
    }
}

/// A majority must not rest on a server that has not got what the others have.
async fn wait_until_caught_up(stage: &Stage, server: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + BACK_WITHIN;
    let others = (0..stage.cluster.servers.len()).filter(|other| *other != server);
    let mut target = 0;
    for other in others {
        target = target.max(
            group_of(stage, other).await?["commit_index"]
                .as_u64()
                .unwrap_or_default(),
        );
    }
    while group_of(stage, server).await?["applied_index"]
        .as_u64()
        .unwrap_or_default()
        < target
    {
        let seconds = BACK_WITHIN.as_secs();
        ensure!(
            Instant::now() < deadline,
            "node {} has not caught up in {seconds} s",
            server + 1
        );
        sleep(PAUSE).await;
    }
    Ok(())
}

/// What a server says of the group of transactions.
async fn group_of(stage: &Stage, server: usize) -> anyhow::Result<Value> {
    let url = format!("{}/v1/node", stage.cluster.servers[server].url());
    let answer = tokio::task::spawn_blocking(move || http_client::get(&url)).await??;
    let node: Value = serde_json::from_str(&answer).context("the server's answer is no JSON")?;
    let mut groups = node["groups"].as_array().into_iter().flatten();
    let group = groups.find(|group| group["group"] == TX_GROUP);
    group
        .cloned()
        .with_context(|| format!("node {} has no group {TX_GROUP}", server + 1))
}
