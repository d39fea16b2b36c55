//! The table that the suite prints.

use std::time::Duration;

/// What one run of one case came to.
pub struct Row {
    pub client: String,
    pub case: &'static str,
    pub scenario: &'static str,
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
        "{:<7} {:<18} {:<14} {:<9}",
        row.client, row.case, row.scenario, row.place
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
        "{:<7} {:<18} {:<14} {:<9} {:<5} {:<28} {:<13} {:>8} {:>8} {:>5}  note",
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
        let key = format!("{:<7} {:<14} {place}", row.client, row.scenario);
        match worst.iter_mut().find(|(known, ..)| *known == key) {
            Some((_, longest, case)) if *stall > *longest => (*longest, *case) = (*stall, row.case),
            Some(_) => {}
            None => worst.push((key, *stall, row.case)),
        }
    }
    worst
        .into_iter()
        .map(|(key, stall, case)| format!("{key:<72} {:>7} ms  ({case})", stall.as_millis()))
        .collect()
}

fn millis(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-".to_owned(), |duration| duration.as_millis().to_string())
}
