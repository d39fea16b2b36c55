//! The table that the suite prints.

use std::time::Duration;

use super::cases::{self, Case, Mode, Scenario};
use super::versions::Client;

/// What one run of one case came to.
pub struct Row {
    pub client: String,
    pub case: Case,
    pub scenario: Scenario,
    /// Which node the client's transaction was on: "any", "survivor", "killed" or "spread".
    pub place: &'static str,
    pub outcome: Result<Finding, String>,
}

/// What a passing run saw.
#[derive(Clone, Debug, Default)]
pub struct Finding {
    /// What the client's transaction template told the business.
    pub told: String,
    /// Balances before and after, as SQL gave them.
    pub balances: String,
    /// From the kill (or from the start of commit or rollback) until the business was told.
    pub stall: Option<Duration>,
    /// From the same moment until the databases stood right and clean.
    pub settled: Option<Duration>,
    /// Rows of undo_log with log_status 1, each explained.
    pub defence_rows: usize,
    pub note: String,
}

/// One line of the table; printed as soon as its run has ended.
pub fn line(row: &Row) -> String {
    let head = format!(
        "{:<14} {:<18} {:<14} {:<9}",
        row.client,
        row.case.name(),
        row.scenario.name(),
        row.place
    );
    match &row.outcome {
        Ok(finding) => format!(
            "{head} pass  {:<28} {:<13} {:>8} {:>8} {:>5}  {}",
            finding.balances,
            finding.told,
            millis(finding.stall),
            millis(finding.settled),
            finding.defence_rows,
            finding.note
        )
        .trim_end()
        .to_owned(),
        Err(reason) => format!("{head} FAIL  {reason}"),
    }
}

/// The heading that fits [`line()`].
pub fn heading() -> String {
    format!(
        "{:<14} {:<18} {:<14} {:<9} {:<5} {:<28} {:<13} {:>8} {:>8} {:>5}  note",
        "client", "case", "scenario", "place", "", "balances", "told", "stall/ms", "clean/ms", "undo1"
    )
}

/// The longest stall per client, scenario and place, over all passing runs.
pub fn stalls(rows: &[Row]) -> Vec<String> {
    let mut worst: Vec<(String, Duration, &str)> = Vec::new();
    for row in rows {
        let Ok(Finding { stall: Some(stall), .. }) = &row.outcome else {
            continue;
        };
        let place = match row.place {
            "survivor" => "client on a surviving node",
            "spread" => "client on any node (xids name no listed address)",
            "killed" => "client on the killed node (list addressing)",
            _ => "in peace",
        };
        let key = format!("{:<14} {:<14} {place}", row.client, row.scenario.name());
        match worst.iter_mut().find(|(known, ..)| *known == key) {
            Some((_, longest, case)) if *stall > *longest => (*longest, *case) = (*stall, row.case.name()),
            Some(_) => {}
            None => worst.push((key, *stall, row.case.name())),
        }
    }
    worst
        .into_iter()
        .map(|(key, stall, case)| format!("{key:<79} {:>7} ms  ({case})", stall.as_millis()))
        .collect()
}

/// Per client that was played, and per mode: how many of its runs passed, in peace and with the leader killed.
pub fn matrix(rows: &[Row], clients: &[Client]) -> Vec<String> {
    let cell = |client: &Client, mode: Mode, is_peace: bool| {
        let of_cell = |row: &&Row| {
            row.client == client.name && row.case.mode() == mode && (row.scenario == Scenario::Peace) == is_peace
        };
        let played: Vec<&Row> = rows.iter().filter(of_cell).collect();
        let passed = played.iter().filter(|row| row.outcome.is_ok()).count();
        let mut cases = <Case as clap::ValueEnum>::value_variants().iter();
        match cases
            .find(|case| case.mode() == mode)
            .and_then(|case| cases::lacks(client, *case))
        {
            Some(why) if played.is_empty() => why.to_owned(),
            _ if played.is_empty() => "not played".to_owned(),
            _ if passed < played.len() => format!("FAIL {passed}/{}", played.len()),
            _ => format!("{passed}/{}", played.len()),
        }
    };
    let mut lines = vec![format!(
        "{:<16} {:<22} {:<10} {:<22} leader killed",
        "client", "wire", "mode", "peace"
    )];
    for client in clients
        .iter()
        .filter(|client| rows.iter().any(|row| row.client == client.name))
    {
        lines.extend(Mode::ALL.map(|mode| {
            let (peace, kill) = (cell(client, mode, true), cell(client, mode, false));
            format!(
                "{:<16} {:<22} {:<10} {peace:<22} {kill}",
                client.name,
                client.wire(),
                mode.name()
            )
        }));
    }
    lines
}

fn millis(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-".to_owned(), |duration| duration.as_millis().to_string())
}
