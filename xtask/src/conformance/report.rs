//! The table that the suite prints.

use std::time::Duration;

use clap::ValueEnum;

use super::cases::{self, Case, Mode, Place, Plan, Scenario, Subset};
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

struct Stall<'a> {
    client: &'a str,
    scenario: Scenario,
    place: &'static str,
    longest: Duration,
    case: Case,
}

/// The longest stall per client, scenario and place, over all passing runs.
pub fn stalls(rows: &[Row]) -> Vec<String> {
    let line = |stall: Stall<'_>| {
        let key = format!("{:<14} {:<14} {}", stall.client, stall.scenario.name(), stall.place);
        format!("{key:<79} {:>7} ms  ({})", stall.longest.as_millis(), stall.case.name())
    };
    longest_stalls(rows).into_iter().map(line).collect()
}

fn longest_stalls(rows: &[Row]) -> Vec<Stall<'_>> {
    let mut worst: Vec<Stall<'_>> = Vec::new();
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
        let is_same = |known: &&mut Stall<'_>| {
            known.client == row.client && known.scenario == row.scenario && known.place == place
        };
        match worst.iter_mut().find(is_same) {
            Some(known) if *stall > known.longest => (known.longest, known.case) = (*stall, row.case),
            Some(_) => {}
            None => worst.push(Stall {
                client: &row.client,
                scenario: row.scenario,
                place,
                longest: *stall,
                case: row.case,
            }),
        }
    }
    worst
}

/// A column of the matrix.
#[derive(Clone, Copy)]
enum Column {
    Peace,
    /// The leader is killed; the client's transaction is on another node, or on none.
    Elsewhere,
    OnTheKilled,
}

impl Column {
    const ALL: [Column; 3] = [Column::Peace, Column::Elsewhere, Column::OnTheKilled];

    fn has(self, scenario: Scenario, place: &str) -> bool {
        match (self, scenario) {
            (Column::Peace, scenario) => scenario == Scenario::Peace,
            (_, Scenario::Peace) => false,
            (Column::OnTheKilled, _) => place == Place::Killed.name(),
            (Column::Elsewhere, _) => place != Place::Killed.name(),
        }
    }
}

/// How many of the runs there are of a client and a mode passed, what is wrong with the others, or why there are none.
fn cell(rows: &[Row], client: &Client, mode: Mode, column: Column) -> String {
    let plans = cases::plans(Subset::All, client, &[Place::Survivor, Place::Killed]);
    let planned: Vec<Plan> = plans
        .into_iter()
        .filter(|plan| plan.case.mode() == mode && column.has(plan.scenario, plan.place.name()))
        .collect();
    if planned.is_empty() {
        let mut lacks = Case::value_variants()
            .iter()
            .filter(|case| case.mode() == mode)
            .filter_map(|case| cases::lacks(client, *case));
        return lacks.next().unwrap_or("no such run").to_owned();
    }
    let is_of = |row: &&Row, plan: &Plan| {
        row.client == client.name
            && (row.case, row.scenario, row.place) == (plan.case, plan.scenario, plan.place.name())
    };
    let results: Vec<Option<&Row>> = planned
        .iter()
        .map(|plan| rows.iter().find(|row| is_of(row, plan)))
        .collect();
    let passed = results.iter().flatten().filter(|row| row.outcome.is_ok()).count();
    let failed = results.iter().flatten().count() - passed;
    let missing = results.iter().filter(|row| row.is_none()).count();
    let mut text = format!("{passed}/{}", planned.len());
    if failed > 0 {
        text.push_str(&format!(", {failed} FAIL"));
    }
    if missing == planned.len() {
        return "not played".to_owned();
    }
    if missing > 0 {
        text.push_str(&format!(", {missing} not played"));
    }
    text
}

/// Per client and per mode: how many of its runs passed, in peace and with the leader killed.
pub fn matrix(rows: &[Row], clients: &[Client]) -> Vec<String> {
    let line = |of: [&str; 3], cells: [&str; 3]| {
        let ([client, wire, mode], [peace, elsewhere, killed]) = (of, cells);
        format!("{client:<16} {wire:<22} {mode:<10} {peace:<20} {elsewhere:<20} {killed}")
    };
    let mut lines = vec![line(
        ["client", "wire", "mode"],
        ["peace", "killed elsewhere", "on the killed node"],
    )];
    for (client, mode, cells) in cells(rows, clients) {
        let cells = cells.each_ref().map(String::as_str);
        lines.push(line([&client.name, &client.wire(), mode.name()], cells));
    }
    lines
}

fn cells<'a>(rows: &'a [Row], clients: &'a [Client]) -> impl Iterator<Item = (&'a Client, Mode, [String; 3])> {
    clients.iter().flat_map(move |client| {
        Mode::ALL
            .into_iter()
            .map(move |mode| (client, mode, Column::ALL.map(|column| cell(rows, client, mode, column))))
    })
}

/// The matrix as a page of the documentation. Without stalls: it is played in parts, on machines with other work.
pub fn page(rows: &[Row], clients: &[Client]) -> String {
    let mut page = "<!-- written by: cargo xtask conformance seata --full --page docs/conformance.md -->\n\
        # Seata's clients against Settle\n\n\
        Unmodified clients, two MariaDB databases, three nodes of Settle. A cell is the runs that passed, of all that there are; \
        what a run is, and what it proves, is in [conformance/seata](../conformance/seata/README.md). *Killed elsewhere*: \
        `kill -9` of the leader, before the decision and in phase two, with the client's transaction on another node; \
        *on the killed node*: on that one, which its client goes on calling. *Not in this version*: the client has no such mode, or its serializer no number for it, or the mode is broken in the \
        client whatever the server, as told in COMPAT.md. How long clients stall is told in \
        [COMPAT.md](../COMPAT.md#waits-that-are-the-clients).\n\n\
        | client | serializer/transport/compressor | mode | peace | killed elsewhere | on the killed node |\n\
        |---|---|---|---|---|---|\n"
        .to_owned();
    for (client, mode, [peace, elsewhere, killed]) in cells(rows, clients) {
        page.push_str(&format!(
            "| {} | {} | {} | {peace} | {elsewhere} | {killed} |\n",
            client.name,
            client.wire(),
            mode.name()
        ));
    }
    page
}

fn millis(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-".to_owned(), |duration| duration.as_millis().to_string())
}
