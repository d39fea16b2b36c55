//! `settle ctl tx import-check`: what a seata-server that keeps its sessions in MySQL or MariaDB has still open. A cluster
//! of Settle cannot take such a transaction over, so its clients move only when nothing is left.
//!
//! It reads, in one read-only transaction, and changes nothing. Tables as seata-server 1.5 to 2.x makes them
//! (`script/server/db/mysql.sql`); a column that only some of these versions have is not asked for.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use settle_seata_wire::GlobalStatus;
use sqlx::{Connection, MySqlConnection, Row, mysql::MySqlRow};

use super::{
    EnvironmentMissing,
    table::{duration, print_table, rows, short, text, utc},
};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Lines of each list, at most: more help nobody.
const LINES: u32 = 100;

#[derive(clap::Args, Debug)]
pub(super) struct ImportCheck {
    /// The store of the seata-server: `mysql://user:password@host:3306/database`. Better in the environment, since others on
    /// this machine can read what you type here.
    #[arg(long, value_name = "URL", env = "SETTLE_SEATA_STORE", hide_env_values = true)]
    store: String,
    /// Its `store.db.globalTable`.
    #[arg(long, default_value = "global_table", value_parser = table_name, value_name = "NAME")]
    global_table: String,
    /// Its `store.db.branchTable`.
    #[arg(long, default_value = "branch_table", value_parser = table_name, value_name = "NAME")]
    branch_table: String,
    /// Its `store.db.lockTable`.
    #[arg(long, default_value = "lock_table", value_parser = table_name, value_name = "NAME")]
    lock_table: String,
    /// Its `store.db.distributedLockTable`.
    #[arg(long, default_value = "distributed_lock", value_parser = table_name, value_name = "NAME")]
    distributed_lock_table: String,
    /// Show so many of the open transactions, oldest first.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1000))]
    limit: u32,
}

/// A name as the SQL here may hold it, between back quotes.
fn table_name(name: &str) -> Result<String, String> {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '$' | '-');
    match (1..=64).contains(&name.len()) && name.chars().all(is_plain) {
        true => Ok(name.to_owned()),
        false => Err("a table's name has letters, digits, `_`, `$` and `-`".to_owned()),
    }
}

/// What a status in the store means to somebody who waits for the store to become empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nobody has decided it; its time-out will.
    Undecided,
    /// Its branches are being called.
    UnderWay,
    /// seata-server does nothing about it any more: an operator has to.
    GivenUp,
    /// Its row is left over and goes by itself.
    Over,
}

impl Stage {
    fn of(status: i64) -> Stage {
        use GlobalStatus::*;
        let known = u8::try_from(status)
            .ok()
            .and_then(|code| GlobalStatus::try_from(code).ok());
        match known {
            Some(Begin) => Stage::Undecided,
            Some(
                Committing
                | CommitRetrying
                | AsyncCommitting
                | Rollbacking
                | RollbackRetrying
                | TimeoutRollbacking
                | TimeoutRollbackRetrying
                | Deleting,
            ) => Stage::UnderWay,
            Some(Committed | Rollbacked | TimeoutRollbacked | Finished) => Stage::Over,
            Some(
                CommitFailed
                | RollbackFailed
                | TimeoutRollbackFailed
                | CommitRetryTimeout
                | RollbackRetryTimeout
                | StopCommitOrCommitRetry
                | StopRollbackOrRollbackRetry
                | Unknown,
            )
            | None => Stage::GivenUp,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Stage::Undecided => "undecided: ends by its client, or by its time-out",
            Stage::UnderWay => "decided: its branches are being called",
            Stage::GivenUp => "seata-server has given it up: settle its branches by hand, then delete it there",
            Stage::Over => "over: the row is left behind",
        }
    }
}

fn status_name(status: i64) -> String {
    let known = u8::try_from(status)
        .ok()
        .and_then(|code| GlobalStatus::try_from(code).ok());
    known.map_or_else(|| format!("status {status}"), |status| format!("{status:?}"))
}

/// # Errors
/// When something is open, after it was printed; [`EnvironmentMissing`] when the store cannot be read.
pub(super) fn run(args: &ImportCheck, is_json: bool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let report = runtime.block_on(look(args)).map_err(EnvironmentMissing)?;
    match is_json {
        true => println!("{report:#}"),
        false => print(&report),
    }
    let left = ["transactions", "branches", "locks"].map(|key| report["open"][key].as_i64().unwrap_or(i64::MAX));
    if left != [0; 3] {
        let [transactions, branches, locks] = left;
        bail!("{transactions} transactions, {branches} branches and {locks} row locks are still open in the store");
    }
    Ok(())
}

/// The statuses of which a row means nothing, as SQL lists them.
fn over() -> String {
    let over = GlobalStatus::ALL.iter().map(|status| status.as_u8());
    let over = over.filter(|code| Stage::of(i64::from(*code)) == Stage::Over);
    over.map(|code| code.to_string()).collect::<Vec<_>>().join(",")
}

async fn look(args: &ImportCheck) -> anyhow::Result<Value> {
    let connected = tokio::time::timeout(CONNECT_WITHIN, MySqlConnection::connect(&args.store)).await;
    let mut store = connected
        .context("the store of the seata-server does not answer")?
        .context("cannot connect with the store of the seata-server")?;
    for statement in [
        "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    ] {
        sqlx::raw_sql(statement)
            .execute(&mut store)
            .await
            .with_context(|| statement.to_owned())?;
    }
    let tables = [&args.global_table, &args.branch_table, &args.lock_table];
    for table in tables {
        if !has_table(&mut store, table).await? {
            bail!("the store has no table `{table}`: is it the database of a seata-server, and of store.mode=db?");
        }
    }
    let report = read(&mut store, args).await?;
    store.close().await.context("cannot close the connection")?;
    Ok(report)
}

async fn has_table(store: &mut MySqlConnection, name: &str) -> anyhow::Result<bool> {
    let sql = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?";
    let count: i64 = sqlx::query_scalar(sql)
        .bind(name)
        .fetch_one(store)
        .await
        .context("cannot list the tables of the store")?;
    Ok(count > 0)
}

async fn read(store: &mut MySqlConnection, args: &ImportCheck) -> anyhow::Result<Value> {
    let ImportCheck {
        global_table: global,
        branch_table: branch,
        lock_table: lock,
        limit,
        ..
    } = args;
    let over = over();
    // By the clock of the database, which is nearer to those of its servers than ours.
    let now = count(store, "SELECT CAST(UNIX_TIMESTAMP() AS SIGNED) * 1000").await?;

    let mut by_status = Vec::new();
    let mut open = 0;
    let sql = format!(
        "SELECT CAST(status AS SIGNED) AS code, COUNT(*), CAST(MIN(begin_time) AS SIGNED) FROM `{global}` GROUP BY code \
         ORDER BY code"
    );
    for row in all(store, &sql).await? {
        let (status, transactions) = (row.try_get::<i64, _>(0)?, row.try_get::<i64, _>(1)?);
        let stage = Stage::of(status);
        open += if stage == Stage::Over { 0 } else { transactions };
        by_status.push(json!({
            "status": status_name(status), "code": status, "stage": format!("{stage:?}"), "meaning": stage.words(),
            "transactions": transactions, "oldest_ms": age(&row, 2, now)?,
        }));
    }

    let minutes = "(CASE WHEN begin_time IS NULL THEN 4 WHEN age < 60000 THEN 0 WHEN age < 600000 THEN 1 \
                   WHEN age < 3600000 THEN 2 WHEN age < 86400000 THEN 3 ELSE 4 END)";
    let sql = format!(
        "SELECT {minutes} AS bucket, COUNT(*) FROM (SELECT begin_time, {now} - begin_time AS age FROM `{global}` \
         WHERE status NOT IN ({over})) AS unfinished GROUP BY bucket ORDER BY bucket"
    );
    let mut by_age = Vec::new();
    for row in all(store, &sql).await? {
        let names = ["under 1 min", "1 to 10 min", "10 min to 1 h", "1 h to 1 d", "over 1 d"];
        let name = names[(row.try_get::<i64, _>(0)? as usize).min(names.len() - 1)];
        by_age.push(json!({ "age": name, "transactions": row.try_get::<i64, _>(1)? }));
    }

    let sql = format!(
        "SELECT COALESCE(application_id, ''), COALESCE(transaction_service_group, ''), COUNT(*) AS n, \
         CAST(MIN(begin_time) AS SIGNED) FROM `{global}` WHERE status NOT IN ({over}) GROUP BY 1, 2 ORDER BY n DESC \
         LIMIT {LINES}"
    );
    let mut by_application = Vec::new();
    for row in all(store, &sql).await? {
        by_application.push(json!({
            "application": string(&row, 0)?, "service_group": string(&row, 1)?,
            "transactions": row.try_get::<i64, _>(2)?, "oldest_ms": age(&row, 3, now)?,
        }));
    }

    let mut by_resource = Vec::new();
    let sql = format!(
        "SELECT COALESCE(resource_id, ''), COALESCE(branch_type, ''), COUNT(*) AS n, COUNT(DISTINCT xid) \
         FROM `{branch}` GROUP BY 1, 2 ORDER BY n DESC LIMIT {LINES}"
    );
    for row in all(store, &sql).await? {
        by_resource.push(json!({
            "resource": string(&row, 0)?, "branch_type": string(&row, 1)?,
            "branches": row.try_get::<i64, _>(2)?, "transactions": row.try_get::<i64, _>(3)?,
        }));
    }

    let mut locked = Vec::new();
    let sql = format!(
        "SELECT COALESCE(resource_id, ''), COALESCE(table_name, ''), COUNT(*) AS n, COUNT(DISTINCT xid) FROM `{lock}` \
         GROUP BY 1, 2 ORDER BY n DESC LIMIT {LINES}"
    );
    for row in all(store, &sql).await? {
        locked.push(json!({
            "resource": string(&row, 0)?, "table": string(&row, 1)?,
            "rows": row.try_get::<i64, _>(2)?, "transactions": row.try_get::<i64, _>(3)?,
        }));
    }

    let sql = format!(
        "SELECT xid, CAST(status AS SIGNED), COALESCE(application_id, ''), COALESCE(transaction_name, ''), \
         CAST(begin_time AS SIGNED), CAST(timeout AS SIGNED), (SELECT COUNT(*) FROM `{branch}` b WHERE b.xid = g.xid), \
         (SELECT COUNT(*) FROM `{branch}` b JOIN `{lock}` l ON l.branch_id = b.branch_id WHERE b.xid = g.xid) \
         FROM `{global}` g WHERE status NOT IN ({over}) ORDER BY begin_time LIMIT {limit}"
    );
    let mut oldest = Vec::new();
    for row in all(store, &sql).await? {
        oldest.push(json!({
            "xid": string(&row, 0)?, "status": status_name(row.try_get(1)?),
            "application": string(&row, 2)?, "name": string(&row, 3)?,
            "age_ms": age(&row, 4, now)?, "timeout_ms": row.try_get::<Option<i64>, _>(5)?,
            "branches": row.try_get::<i64, _>(6)?, "locks": row.try_get::<i64, _>(7)?,
        }));
    }

    let branches = count(store, &format!("SELECT COUNT(*) FROM `{branch}`")).await?;
    let locks = count(store, &format!("SELECT COUNT(*) FROM `{lock}`")).await?;
    // What seata-server leaves behind when a branch joins a transaction that is ending, and nobody ever deletes.
    let of_nobody = |table: &str| {
        format!("SELECT COUNT(*) FROM `{table}` t LEFT JOIN `{global}` g ON g.xid = t.xid WHERE g.xid IS NULL")
    };
    let branches_of_nobody = count(store, &of_nobody(branch)).await?;
    let locks_of_nobody = count(store, &of_nobody(lock)).await?;
    Ok(json!({
        "open": { "transactions": open, "branches": branches, "locks": locks },
        "of_no_transaction": { "branches": branches_of_nobody, "locks": locks_of_nobody },
        "by_status": by_status, "by_age": by_age, "by_application": by_application, "by_resource": by_resource,
        "locked": locked, "oldest": oldest, "at_work": at_work(store, args, now).await?,
    }))
}

/// Which servers hold a lease on a part of the work: they are running, and will begin what clients ask for. `null` when
/// the store has no such table.
async fn at_work(store: &mut MySqlConnection, args: &ImportCheck, now: i64) -> anyhow::Result<Value> {
    let table = &args.distributed_lock_table;
    if !has_table(store, table).await? {
        return Ok(Value::Null);
    }
    let sql = format!(
        "SELECT COALESCE(lock_value, ''), COUNT(*), CAST(MAX(expire) AS SIGNED) FROM `{table}` WHERE expire > {now} \
         GROUP BY 1 LIMIT {LINES}"
    );
    let mut servers = Vec::new();
    for row in all(store, &sql).await? {
        servers.push(json!({
            "server": string(&row, 0)?.trim(), "leases": row.try_get::<i64, _>(1)?,
            "until_ms": row.try_get::<i64, _>(2)?,
        }));
    }
    Ok(Value::Array(servers))
}

async fn count(store: &mut MySqlConnection, sql: &str) -> anyhow::Result<i64> {
    let rows = all(store, sql).await?;
    Ok(rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(0))
}

async fn all(store: &mut MySqlConnection, sql: &str) -> anyhow::Result<Vec<MySqlRow>> {
    sqlx::query(sql)
        .fetch_all(store)
        .await
        .context("cannot read the store: its tables are not those of seata-server 1.5 to 2.x")
}

/// A text of any collation: those that end in `_bin` come as bytes.
fn string(row: &MySqlRow, column: usize) -> anyhow::Result<String> {
    Ok(row.try_get_unchecked(column)?)
}

/// Of the time in a column, in milliseconds; a clock that is ahead gives none.
fn age(row: &MySqlRow, column: usize, now: i64) -> anyhow::Result<Option<u64>> {
    let begun: Option<i64> = row.try_get(column)?;
    Ok(begun.map(|begun| u64::try_from(now - begun).unwrap_or(0)))
}

fn print(report: &Value) {
    let open = &report["open"];
    println!(
        "Open: {} transactions, {} branches, {} row locks.",
        open["transactions"], open["branches"], open["locks"]
    );
    let list = |title: &str, key: &str, head: [&str; 4], line: &dyn Fn(&Value) -> [String; 4]| {
        let lines = rows(&report[key]);
        if !lines.is_empty() {
            println!("\n{title}");
            let mut table = vec![head.map(str::to_owned)];
            table.extend(lines.iter().map(line));
            print_table(&table);
        }
    };
    list(
        "By status",
        "by_status",
        ["status", "transactions", "oldest", ""],
        &|row| {
            let oldest = duration(&row["oldest_ms"]);
            [
                text(&row["status"]),
                text(&row["transactions"]),
                oldest,
                text(&row["meaning"]),
            ]
        },
    );
    list("By age", "by_age", ["age", "transactions", "", ""], &|row| {
        [
            text(&row["age"]),
            text(&row["transactions"]),
            String::new(),
            String::new(),
        ]
    });
    list(
        "By application",
        "by_application",
        ["application", "service group", "transactions", "oldest"],
        &|row| {
            let oldest = duration(&row["oldest_ms"]);
            let names = ["application", "service_group", "transactions"].map(|key| text(&row[key]));
            let [application, group, transactions] = names;
            [application, group, transactions, oldest]
        },
    );
    list(
        "By resource",
        "by_resource",
        ["resource", "type", "branches", "transactions"],
        &|row| ["resource", "branch_type", "branches", "transactions"].map(|key| text(&row[key])),
    );
    list(
        "Locked rows",
        "locked",
        ["resource", "table", "rows", "transactions"],
        &|row| ["resource", "table", "rows", "transactions"].map(|key| text(&row[key])),
    );
    let oldest = rows(&report["oldest"]);
    if !oldest.is_empty() {
        println!("\nThe oldest");
        let head = ["xid", "status", "age", "branches", "locks", "application", "name"];
        let mut table = vec![head.map(str::to_owned)];
        for tx in oldest {
            table.push([
                text(&tx["xid"]),
                text(&tx["status"]),
                duration(&tx["age_ms"]),
                text(&tx["branches"]),
                text(&tx["locks"]),
                short(&tx["application"], 30),
                short(&tx["name"], 40),
            ]);
        }
        print_table(&table);
    }
    let stray = &report["of_no_transaction"];
    if stray["branches"] != 0 || stray["locks"] != 0 {
        println!(
            "\nOf no transaction that is left: {} branches and {} row locks. seata-server will not remove them; look whether \
             an undo_log or a prepared XA branch belongs to them, then delete them.",
            stray["branches"], stray["locks"]
        );
    }
    for server in rows(&report["at_work"]) {
        println!(
            "\nThe seata-server {} is at work (its lease is good until {}): it begins what clients ask for.",
            text(&server["server"]),
            utc(&server["until_ms"])
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_statuses_that_mean_nothing_more_are_over() {
        assert_eq!(over(), "9,11,13,15");
        for status in [0, 10, 12, 14, 16, 17, 19, 20, 21, -1] {
            assert_eq!(Stage::of(status), Stage::GivenUp, "{status}");
        }
        assert_eq!((Stage::of(1), Stage::of(8)), (Stage::Undecided, Stage::UnderWay));
        assert_eq!(
            (status_name(8), status_name(77)),
            ("AsyncCommitting".to_owned(), "status 77".to_owned())
        );
    }

    #[test]
    fn what_is_put_between_back_quotes_ends_no_quote() {
        assert!(table_name("seata_global-2$").is_ok());
        for name in ["", "a`b", "a.b", "a b", "tab;le", "é"] {
            assert!(table_name(name).is_err(), "{name}");
        }
    }
}
