//! `settle ctl tx`: global transactions, what keeps them, and what an operator does about it.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde_json::{Value, json};
use settle_telemetry::Clock;
use settle_tx::GlobalStatus;

use super::{
    Server,
    service_groups::ServiceGroupsCommand,
    table::{duration, print_table, rows, short, text, utc},
};
use crate::config::parse_duration;

/// Rows of one request.
const PAGE: usize = 1_000;

#[derive(clap::Subcommand, Debug)]
pub(super) enum TxCommand {
    /// Transactions that have not ended, oldest first.
    List {
        /// Only those with this status, e.g. Begin or CommitRetrying.
        #[arg(long, value_parser = status_named)]
        status: Option<GlobalStatus>,
        #[command(flatten)]
        filter: Filter,
        /// Only those begun by this application.
        #[arg(long, value_name = "NAME")]
        application: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Continue after this transaction id.
        #[arg(long, value_name = "ID")]
        after: Option<String>,
    },
    /// One transaction with its branches, and what operators did to it.
    Show {
        /// Its xid, or the number at the end of it.
        xid: String,
        /// Continue behind this branch.
        #[arg(long, value_name = "NEXT")]
        after: Option<String>,
    },
    /// Commit a transaction that nobody has decided yet.
    Commit(Act),
    /// Roll back a transaction that nobody has decided yet.
    Rollback(Act),
    /// Stop calling the branches of a decided transaction. Its locks stay.
    StopRetry(Act),
    /// Call the branches again, those that had failed for good too.
    ResumeRetry(Act),
    /// End a decided transaction as it was decided, whatever its branches said, and free its locks. Nothing is called any
    /// more: what is not settled by then never will be.
    Forget {
        #[command(flatten)]
        act: Act,
        #[command(flatten)]
        claim: Claim,
    },
    /// The rows that open transactions keep locked, and who holds them.
    Locks {
        #[command(flatten)]
        filter: Filter,
        /// Only this table, or only one row as `table:pk`.
        #[arg(long, value_name = "TABLE[:PK]")]
        row: Option<String>,
        /// Only those that this transaction holds.
        #[arg(long, value_name = "XID")]
        holder: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Continue there.
        #[arg(long, value_name = "NEXT")]
        after: Option<String>,
    },
    /// Free rows that a branch of a transaction which rolls back still keeps locked.
    ReleaseLock {
        #[command(flatten)]
        act: Act,
        /// The branch that holds them.
        #[arg(long, value_name = "ID")]
        branch: String,
        /// Only these, as `table:pk,pk;table2:pk`; else all of the branch.
        #[arg(long, default_value = "", hide_default_value = true)]
        rows: String,
        #[command(flatten)]
        claim: Claim,
    },
    /// Transactions that have ended, newest first, as far as the asked server's history reaches back.
    History {
        #[command(flatten)]
        search: Search,
        /// At most so many.
        #[arg(long, default_value_t = 20)]
        limit: usize,
        /// Continue there.
        #[arg(long, value_name = "NEXT")]
        before: Option<String>,
    },
    /// The same as JSON, one line for each transaction.
    Export {
        #[command(flatten)]
        search: Search,
        /// Where to; else to standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Where service groups begin their transactions, and moves of them between the transaction groups.
    ServiceGroups {
        #[command(subcommand)]
        command: Option<ServiceGroupsCommand>,
    },
    /// What operators did, newest first.
    Audit {
        /// Of this group; else of the first.
        #[arg(long)]
        group: Option<u8>,
        /// At most so many.
        #[arg(long, default_value_t = 20)]
        limit: usize,
        /// Only acts before this number.
        #[arg(long, value_name = "NUMBER")]
        before: Option<u64>,
    },
    /// What a seata-server that keeps its sessions in MySQL or MariaDB has still open: exit code 1 when there is something,
    /// 3 when its store cannot be read. Asks no server of Settle.
    #[cfg(feature = "import-check")]
    ImportCheck(super::import_check::ImportCheck),
}

#[derive(clap::Args, Debug)]
pub(super) struct Filter {
    /// Only of transactions begun at least so long ago, e.g. 30s or 10m.
    #[arg(long, value_name = "DURATION")]
    older_than: Option<String>,
    /// Only of this resource, as the resource manager names it.
    #[arg(long, value_name = "ID")]
    resource: Option<String>,
    /// Only of this group; else of all.
    #[arg(long)]
    group: Option<u8>,
}

/// Which of the ended transactions.
#[derive(clap::Args, Debug)]
pub(super) struct Search {
    /// Only this one.
    #[arg(long, value_name = "XID")]
    xid: Option<String>,
    /// Only those that ended so, e.g. Rollbacked.
    #[arg(long, value_parser = status_named)]
    status: Option<GlobalStatus>,
    /// Only those begun by this application.
    #[arg(long, value_name = "NAME")]
    application: Option<String>,
    /// Only those with a branch of this resource.
    #[arg(long, value_name = "ID")]
    resource: Option<String>,
    /// Only those that timed out or had to be tried again.
    #[arg(long)]
    troubled: bool,
    /// Only those that ended within so long, e.g. 1h.
    #[arg(long, value_name = "DURATION")]
    since: Option<String>,
}

/// The transaction, and who acts on it and why: kept in the group's log.
#[derive(clap::Args, Debug)]
pub(super) struct Act {
    /// Its xid, or the number at the end of it.
    xid: String,
    /// Why; a ticket's number will do.
    #[arg(long, value_name = "TEXT")]
    why: String,
    /// Who acts.
    #[arg(long = "as", value_name = "NAME", env = "USER")]
    operator: String,
}

#[derive(clap::Args, Debug)]
pub(super) struct Claim {
    /// The work of the branch is committed or undone already: you have looked. Settle cannot.
    #[arg(long, required = true)]
    i_know_the_branch_is_settled: bool,
}

pub(super) fn run(server: &Server, json: bool, command: &TxCommand) -> anyhow::Result<()> {
    let show = |value: &Value, print: &dyn Fn(&Value)| {
        if json {
            println!("{value:#}");
        } else {
            print(value);
        }
    };
    match command {
        TxCommand::List {
            status,
            filter,
            application,
            limit,
            after,
        } => {
            let mut query = filter.query();
            query.extend(status.map(|status| ("status", status.to_string())));
            query.extend(application.clone().map(|name| ("application", name)));
            let answer = pages(server, "/v1/tx", &query, "transactions", *limit, after.clone())?;
            show(&answer, &print_list);
        }
        TxCommand::Show { xid, after } => {
            let query: Vec<_> = after.clone().map(|after| ("after", after)).into_iter().collect();
            let url = format!("/v1/tx/{}", escaped(xid));
            show(&get(server, &with_query(&url, &query))?, &print_tx);
        }
        TxCommand::Locks {
            filter,
            row,
            holder,
            limit,
            after,
        } => {
            let mut query = filter.query();
            query.extend(row.clone().map(|row| ("row", row)));
            query.extend(holder.as_ref().map(|xid| ("holder", number_of(xid))));
            let answer = pages(server, "/v1/tx/locks", &query, "locks", *limit, after.clone())?;
            show(&answer, &print_locks);
        }
        TxCommand::History { search, limit, before } => {
            let url = "/v1/tx/history";
            let answer = pages(server, url, &search.query()?, "transactions", *limit, before.clone())?;
            show(&answer, &print_history);
        }
        #[cfg(feature = "import-check")]
        TxCommand::ImportCheck(args) => super::import_check::run(args, json)?,
        TxCommand::Export { search, out } => export(server, search, out.as_deref())?,
        TxCommand::Audit { group, limit, before } => {
            let mut query = vec![("limit", limit.to_string())];
            query.extend(group.map(|group| ("group", group.to_string())));
            query.extend(before.map(|before| ("before", before.to_string())));
            let answer = get(server, &with_query("/v1/tx/audit", &query))?;
            show(&answer, &|answer: &Value| {
                print_acts(rows(&answer["acts"]), "No operator has acted yet.")
            });
        }
        TxCommand::ServiceGroups { command } => super::service_groups::run(server, command.as_ref(), &show)?,
        TxCommand::Commit(act) => act.post(server, "commit", json!({}), &show)?,
        TxCommand::Rollback(act) => act.post(server, "rollback", json!({}), &show)?,
        TxCommand::StopRetry(act) => act.post(server, "stop-retry", json!({}), &show)?,
        TxCommand::ResumeRetry(act) => act.post(server, "resume-retry", json!({}), &show)?,
        TxCommand::Forget { act, claim } => {
            let body = json!({ "branch_is_settled": claim.i_know_the_branch_is_settled });
            act.post(server, "forget", body, &show)?;
        }
        TxCommand::ReleaseLock {
            act,
            branch,
            rows,
            claim,
        } => {
            let settled = claim.i_know_the_branch_is_settled;
            let body = json!({ "branch_is_settled": settled, "branch": branch, "rows": rows });
            act.post(server, "release-lock", body, &show)?;
        }
    }
    Ok(())
}

/// Shows an answer, as JSON or by its printer.
pub(super) type Show<'a> = dyn Fn(&Value, &dyn Fn(&Value)) + 'a;

impl Filter {
    fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        query.extend(self.older_than.clone().map(|age| ("older-than", age)));
        query.extend(self.resource.clone().map(|resource| ("resource", resource)));
        query.extend(self.group.map(|group| ("group", group.to_string())));
        query
    }
}

impl Search {
    fn query(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let mut query = Vec::new();
        query.extend(self.xid.as_ref().map(|xid| ("id", number_of(xid))));
        query.extend(self.status.map(|status| ("status", status.to_string())));
        query.extend(self.application.clone().map(|name| ("application", name)));
        query.extend(self.resource.clone().map(|resource| ("resource", resource)));
        if self.troubled {
            query.push(("troubled", "true".to_owned()));
        }
        if let Some(text) = &self.since {
            let since = parse_duration(text).with_context(|| format!("`{text}` is no duration such as 30s or 10m"))?;
            query.push(("since-ms", Clock::wall().saturating_sub(since).as_millis().to_string()));
        }
        Ok(query)
    }
}

impl Act {
    fn post(&self, server: &Server, act: &str, mut body: Value, show: &Show<'_>) -> anyhow::Result<()> {
        body["operator"] = json!(self.operator);
        body["reason"] = json!(self.why);
        let url = format!("/v1/tx/{}/{act}", escaped(&self.xid));
        let answer = parsed(&server.post(&url, &body)?)?;
        show(&answer, &|answer: &Value| match &answer["acted"] {
            Value::Bool(true) => println!("Done: {} is {} now.", self.xid, text(&answer["status"])),
            _ => println!("Nothing was left to do: {} is {}.", self.xid, text(&answer["status"])),
        });
        Ok(())
    }
}

fn status_named(name: &str) -> Result<GlobalStatus, String> {
    let found = GlobalStatus::ALL
        .iter()
        .find(|status| status.to_string().eq_ignore_ascii_case(name));
    found.copied().ok_or_else(|| {
        let told = GlobalStatus::ALL
            .iter()
            .filter(|status| **status == GlobalStatus::Begin || status.direction().is_some());
        let names: Vec<String> = told.map(GlobalStatus::to_string).collect();
        format!("a transaction has one of {}", names.join(", "))
    })
}

/// The number at the end of an xid.
fn number_of(xid: &str) -> String {
    xid.rsplit(':').next().unwrap_or_default().to_owned()
}

/// Writes all that is found, page by page.
fn export(server: &Server, search: &Search, out: Option<&Path>) -> anyhow::Result<()> {
    let mut writer: Box<dyn Write> = match out {
        None => Box::new(std::io::stdout().lock()),
        Some(path) => {
            let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            Box::new(BufWriter::new(file))
        }
    };
    let (url, query) = ("/v1/tx/history", search.query()?);
    let (mut before, mut count) = (None, 0);
    let gaps = loop {
        let page = pages(server, url, &query, "transactions", PAGE, before)?;
        for ended in rows(&page["transactions"]) {
            writeln!(writer, "{ended}").context("cannot write")?;
            count += 1;
        }
        before = page["next"].as_str().map(str::to_owned);
        if before.is_none() {
            break gaps_of(&page);
        }
    };
    writer.flush().context("cannot write")?;
    for gap in gaps {
        eprintln!("{gap}");
    }
    if let Some(path) = out {
        println!("{count} transactions in {}", path.display());
    }
    Ok(())
}

pub(super) fn get(server: &Server, url: &str) -> anyhow::Result<Value> {
    parsed(&server.get(url)?)
}

pub(super) fn parsed(answer: &str) -> anyhow::Result<Value> {
    serde_json::from_str(answer).context("the server's answer is no JSON")
}

/// Asks until `limit` rows are there or the list has ended.
fn pages(
    server: &Server,
    url: &str,
    query: &[(&'static str, String)],
    key: &str,
    limit: usize,
    mut after: Option<String>,
) -> anyhow::Result<Value> {
    let (mut found, mut damaged) = (Vec::new(), None);
    loop {
        let mut query = query.to_vec();
        query.push(("limit", (limit - found.len()).clamp(1, PAGE).to_string()));
        // A list goes on behind its last row, a search before it.
        let cursor = if url.ends_with("/history") { "before" } else { "after" };
        query.extend(after.take().map(|after| (cursor, after)));
        let mut answer = get(server, &with_query(url, &query))?;
        if let Value::Array(rows) = answer[key].take() {
            found.extend(rows);
        }
        damaged = damaged.max(answer["damaged"].as_u64());
        let gaps = answer["gaps"].take();
        after = answer["next"].as_str().map(str::to_owned);
        if after.is_none() || found.len() >= limit {
            let mut all = json!({ key: found, "next": after });
            if let Some(damaged) = damaged {
                all["damaged"] = json!(damaged);
                all["gaps"] = gaps;
            }
            return Ok(all);
        }
    }
}

fn with_query(url: &str, query: &[(&'static str, String)]) -> String {
    let pairs: Vec<String> = query
        .iter()
        .map(|(name, value)| format!("{name}={}", escaped(value)))
        .collect();
    format!("{url}?{}", pairs.join("&"))
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b':' => (byte as char).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

fn print_list(answer: &Value) {
    let head = ["xid", "status", "age", "timeout", "branches", "application", "name", ""];
    let mut table = vec![head.map(str::to_owned)];
    for tx in rows(&answer["transactions"]) {
        let note = if tx["retry_stopped"] == true {
            "retry stopped"
        } else {
            ""
        };
        table.push([
            text(&tx["xid"]),
            text(&tx["status"]),
            duration(&tx["age_ms"]),
            duration(&tx["timeout_ms"]),
            text(&tx["open_branches"]),
            short(&tx["application"], 30),
            short(&tx["name"], 40),
            note.to_owned(),
        ]);
    }
    match table.len() {
        1 => println!("No such transaction is open."),
        _ => print_table(&table),
    }
    print_next(answer);
}

fn print_locks(answer: &Value) {
    let head = ["resource", "row", "held by", "branch", "status", "transaction's age"];
    let mut table = vec![head.map(str::to_owned)];
    for lock in rows(&answer["locks"]) {
        table.push([
            short(&lock["resource"], 60),
            format!("{}:{}", text(&lock["table"]), text(&lock["pk"])),
            text(&lock["xid"]),
            text(&lock["branch"]),
            text(&lock["status"]),
            duration(&lock["age_ms"]),
        ]);
    }
    match table.len() {
        1 => println!("No such row is locked."),
        _ => print_table(&table),
    }
    print_next(answer);
}

fn print_history(answer: &Value) {
    let head = [
        "ended",
        "xid",
        "status",
        "took",
        "branches",
        "failures",
        "application",
        "name",
    ];
    let mut table = vec![head.map(str::to_owned)];
    for tx in rows(&answer["transactions"]) {
        let branches = rows(&tx["branches"]);
        let failures: u64 = branches.iter().filter_map(|branch| branch["failures"].as_u64()).sum();
        table.push([
            utc(&tx["recorded_at_ms"]),
            text(&tx["xid"]),
            text(&tx["status"]),
            duration(&tx["took_ms"]),
            branches.len().to_string(),
            failures.to_string(),
            short(&tx["application"], 30),
            short(&tx["name"], 40),
        ]);
    }
    match table.len() {
        1 => println!("The history of this server has no such transaction."),
        _ => print_table(&table),
    }
    if answer["damaged"].as_u64().is_some_and(|files| files > 0) {
        println!(
            "A part of the history could not be read: {} file(s) are damaged.",
            answer["damaged"]
        );
    }
    for gap in gaps_of(answer) {
        println!("{gap}");
    }
    if let Some(next) = answer["next"].as_str() {
        println!("There are more: --before {next}");
    }
}

/// What an answer says of transactions that it may lack.
fn gaps_of(answer: &Value) -> Vec<String> {
    let gaps = rows(&answer["gaps"]).iter().map(|gap| {
        format!(
            "This server got group {} by a snapshot about {}: of what ended before, some may be missing here. Ask another \
             server too.",
            gap["group"],
            utc(&gap["at_ms"])
        )
    });
    gaps.collect()
}

/// What the history has of one that has ended.
fn print_ended(tx: &Value) {
    println!(
        "  begun by {} ({}), name {}; it took {}, was decided after {}, and ended about {}",
        text(&tx["application"]),
        text(&tx["service_group"]),
        text(&tx["name"]),
        duration(&tx["took_ms"]),
        duration(&tx["decided_after_ms"]),
        utc(&tx["recorded_at_ms"])
    );
    let head = [
        "branch",
        "type",
        "status",
        "registered after",
        "done after",
        "failures",
        "resource",
        "client",
    ];
    let mut table = vec![head.map(str::to_owned)];
    for branch in rows(&tx["branches"]) {
        let failures = match branch["last_failure"].as_str() {
            None => text(&branch["failures"]),
            Some(last) => format!("{}, last {last}", text(&branch["failures"])),
        };
        table.push([
            text(&branch["branch"]),
            text(&branch["branch_type"]),
            text(&branch["status"]),
            duration(&branch["registered_after_ms"]),
            duration(&branch["done_after_ms"]),
            failures,
            text(&branch["resource"]),
            text(&branch["client"]),
        ]);
    }
    if table.len() > 1 {
        print_table(&table);
    }
}

fn print_next(answer: &Value) {
    if let Some(next) = answer["next"].as_str() {
        println!("There are more: --after {next}");
    }
}

fn print_acts(acts: &[Value], none: &str) {
    let head = ["#", "when", "who", "what", "transaction", "left it", "why"];
    let mut table = vec![head.map(str::to_owned)];
    for act in acts {
        let what = match act["subject"].as_str() {
            None | Some("") => text(&act["act"]),
            Some(subject) => format!("{} {subject}", text(&act["act"])),
        };
        table.push([
            text(&act["number"]),
            utc(&act["at_ms"]),
            text(&act["operator"]),
            what,
            text(&act["id"]),
            text(&act["status"]),
            text(&act["reason"]),
        ]);
    }
    match table.len() {
        1 => println!("{none}"),
        _ => print_table(&table),
    }
}

fn print_tx(tx: &Value) {
    if tx["ended"] == true {
        match tx["evicted"] == true {
            true => println!("{} has ended, longer ago than outcomes are kept.", text(&tx["id"])),
            false => println!("{}   {}", text(&tx["id"]), text(&tx["status"])),
        }
        match &tx["history"] {
            Value::Null => println!("  This server's history has no more of it."),
            history => print_ended(history),
        }
        print_acts_on(tx);
        return;
    }
    println!("{}   {}", text(&tx["xid"]), text(&tx["status"]));
    println!(
        "  begun {} ago by {} ({}), name {}; its timeout is {}",
        duration(&tx["age_ms"]),
        text(&tx["application"]),
        text(&tx["service_group"]),
        text(&tx["name"]),
        duration(&tx["timeout_ms"])
    );
    if tx["retry_stopped"] == true {
        println!("  An operator stopped it: its branches are not called until `settle ctl tx resume-retry`.");
    }
    let head = ["branch", "type", "status", "failing for", "resource", "client", "locks"];
    let mut table = vec![head.map(str::to_owned)];
    for branch in rows(&tx["branches"]) {
        table.push([
            text(&branch["branch"]),
            text(&branch["branch_type"]),
            text(&branch["status"]),
            duration(&branch["retrying_for_ms"]),
            text(&branch["resource"]),
            text(&branch["client"]),
            short(&branch["lock_keys"], 60),
        ]);
    }
    match table.len() {
        1 => println!("  No branch has been registered."),
        _ => print_table(&table),
    }
    print_next(tx);
    print_acts_on(tx);
}

fn print_acts_on(tx: &Value) {
    let acts = rows(&tx["acts"]);
    if !acts.is_empty() {
        println!("\nWhat operators did to it:");
        print_acts(acts, "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_types_reaches_the_server_as_one_path_segment() {
        assert_eq!(
            escaped("10.0.0.1:8091:72057594037927937"),
            "10.0.0.1:8091:72057594037927937"
        );
        assert_eq!(escaped("a/b?c&d"), "a%2Fb%3Fc%26d");
    }
}
