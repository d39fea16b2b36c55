//! The end of a run: nothing is broken any more, so everything has to be decided, and known.

use std::{sync::Arc, time::Duration};

use anyhow::bail;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{bank::Bank, book, evidence, teller::Teller};
use crate::http_client;

/// How long everything may take to be decided when nothing is killed any more.
const QUIET_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);
/// Questions that are under way at once when all is asked again.
const ASKED_AT_ONCE: usize = 32;

/// Waits until the coordinator (its HTTP API at `url`) has no open transaction and the services nothing undecided, and
/// asks for the outcomes that the teller was not told.
///
/// # Errors
/// When that takes too long, or something cannot be asked.
pub async fn wait(bank: &Bank, url: &str, teller: &Teller) -> anyhow::Result<()> {
    let deadline = Instant::now() + QUIET_WITHIN;
    let url = format!("{url}/v1/tx?limit=1");
    loop {
        let (url, files) = (url.clone(), [bank.money(0), bank.money(1)]);
        let left = tokio::task::spawn_blocking(move || {
            let open: serde_json::Value = serde_json::from_str(&http_client::get(&url)?)?;
            let open = open["transactions"].as_array().map_or(0, Vec::len);
            let undecided = book::undecided(&files[0])? + book::undecided(&files[1])?;
            anyhow::Ok((open, undecided))
        });
        match left.await? {
            Ok((0, 0)) => break,
            Ok(_) => {}
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
        }
        if Instant::now() > deadline {
            bail!(
                "not everything was decided {} s after the last kill",
                QUIET_WITHIN.as_secs()
            );
        }
        sleep(PAUSE).await;
    }
    for transfer in evidence::read_transfers(bank)? {
        while transfer.told.is_empty() && !teller.ask_again(&transfer.xid).await? {
            if Instant::now() > deadline {
                bail!(
                    "{} was not decided {} s after the last kill",
                    transfer.xid,
                    QUIET_WITHIN.as_secs()
                );
            }
            sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// Asks again how every transfer ended, also those of which the teller was told. What is said now is written down with
/// the rest; the judge sees whether it is still the same.
///
/// # Errors
/// When one is open or forgotten now, or cannot be asked.
pub async fn ask_all_again(bank: &Bank, teller: &Arc<Teller>) -> anyhow::Result<()> {
    let mut transfers = evidence::read_transfers(bank)?.into_iter();
    let mut asking = JoinSet::new();
    loop {
        while asking.len() < ASKED_AT_ONCE
            && let Some(transfer) = transfers.next()
        {
            let teller = teller.clone();
            asking.spawn(async move { teller.must_be_known(&transfer.xid).await });
        }
        match asking.join_next().await {
            Some(asked) => asked??,
            None => return Ok(()),
        }
    }
}
