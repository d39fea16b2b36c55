//! The demo's bank as a process of its own: money in two SQLite files, moved by TCC, and a judge that reads what is left.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use settle_testkit::{Cluster, Process, Scratch};

use crate::{SETTLE, ledger::BrokenPromise};

/// Everything has to be decided within a minute; then every outcome is asked for again.
const JUDGED_WITHIN: Duration = Duration::from_secs(300);

pub struct Bank {
    process: Process,
}

impl Bank {
    pub fn open(cluster: &Cluster, scratch: &Scratch, seed: u64) -> Result<Bank> {
        let transactions: Vec<String> = cluster.nodes().map(|node| cluster.tx(node).to_string()).collect();
        let data = scratch.path().join("bank");
        let arguments = [
            "demo-bank",
            "--transactions",
            &transactions.join(","),
            "--http",
            &cluster.http(1).to_string(),
            "--data",
            &data.display().to_string(),
            "--seed",
            &seed.to_string(),
        ];
        let log = scratch.path().join("bank.log");
        let process = Process::spawn("the bank", SETTLE.as_ref(), &arguments, &log)?;
        Ok(Bank { process })
    }

    pub fn check_alive(&mut self) -> Result<()> {
        self.process.check_alive()
    }

    /// Lets it come to its end, and tells what was found.
    ///
    /// # Errors
    /// With what is wrong.
    pub async fn judge(mut self) -> Result<String> {
        self.process.close_stdin();
        let status = self.process.exit(JUDGED_WITHIN).await?;
        let printed = self.process.output();
        let line = printed.lines().rev().find(|line| line.starts_with('{'));
        let line = line.with_context(|| format!("the bank ended ({status}) without a report:\n{printed}"))?;
        let report: Value = serde_json::from_str(line).context("read the bank's report")?;
        if report["is_good"] != true {
            return Err(BrokenPromise(format!(
                "the bank: {} {}",
                report["verdict"]["findings"], report["trouble"]
            ))
            .into());
        }
        ensure!(status.success(), "the bank ended with {status}");
        let verdict = &report["verdict"];
        Ok(format!(
            "bank: {} transfers, {} whole and {} absent; money {} before and {} after; {} calls of phase two, {} of them \
             repeated; its services killed {} times",
            verdict["transfers"],
            verdict["whole"],
            verdict["absent"],
            verdict["opening"],
            verdict["closing"],
            verdict["calls"],
            verdict["repeated_calls"],
            report["service_kills"],
        ))
    }
}
