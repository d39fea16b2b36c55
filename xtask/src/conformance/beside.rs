//! A bank in Rust and one in Java on the same tables: each keeps off the rows that the other holds, and takes back what
//! the other left behind when it died.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::bank::{Bank, Ends, Event};
use super::mariadb::{BANKS, MariaDb};
use super::report::Finding;
use super::run::Stage;
use super::wait;

/// The timeout of a transaction whose bank dies.
const LEFT_BEHIND: Duration = Duration::from_secs(6);
const WITHIN: Duration = Duration::from_secs(60);

/// Every kind of change, and columns that each side keeps in a form of its own.
const CHANGES: [&str; 5] = [
    "UPDATE order_line SET amount = amount + 1, placed = '2025-01-01 00:00:05', due = NULL WHERE order_id = 1",
    "DELETE FROM order_line WHERE order_id = 1 AND product = 'tea'",
    "INSERT INTO order_line (order_id, product, amount, price, rush, stamped) \
     VALUES (3, 'pot', 1, 20.00, 1, '2025-01-01 00:00:25'), (3, 'lid', 2, 0.99, 0, NULL)",
    "UPDATE order_line SET note = 'it''s changed', label = x'ff00', weight = 0.3 WHERE product = 'tea'",
    "UPDATE order_line SET price = price * 2 WHERE order_id = 3",
];

/// One row that both want.
const SHARED: &str = "UPDATE order_line SET amount = amount + 1 WHERE order_id = 2 AND product = 'tea'";

pub fn play(stage: &mut Stage<'_>, account: u32) -> Result<Finding> {
    let from = Instant::now();
    let record = stage.record;
    let mut rust = (stage.rust_bank)(&*stage.cluster)?;
    let id = |step: &str| format!("beside-{account}-{step}");
    let before = rows(stage.db)?;
    let pause = Ends {
        pause: true,
        ..Ends::default()
    };

    // Java holds the row: Rust is kept off it, until Java has rolled back.
    let refused = Ends { refuse: true, ..pause };
    let (java_holds, kept_off) = (id("java-holds"), id("rust-waits"));
    stage.bank.statements(&java_holds, &[SHARED], &refused)?;
    paused(stage.bank, &java_holds)?;
    rust.statements(&kept_off, &[SHARED], &Ends::default())?;
    conflicted(&done(&mut rust, &kept_off)?)?;
    stage.bank.go(&java_holds)?;
    told(&done(stage.bank, &java_holds)?, "RollbackDone")?;
    until_rows(stage.db, &before)?;

    // And the other way, with a commit.
    let (rust_holds, kept_off) = (id("rust-holds"), id("java-waits"));
    rust.statements(&rust_holds, &[SHARED], &pause)?;
    paused(&mut rust, &rust_holds)?;
    stage.bank.statements(&kept_off, &[SHARED], &Ends::default())?;
    conflicted(&done(stage.bank, &kept_off)?)?;
    rust.go(&rust_holds)?;
    told(&done(&mut rust, &rust_holds)?, "committed")?;
    until_clean(stage.db)?;
    let committed = rows(stage.db)?;
    ensure!(committed != before, "a committed change is gone");

    // Rust rolls back what it did itself.
    let own = id("rust-own");
    let refused = Ends {
        refuse: true,
        ..Ends::default()
    };
    rust.statements(&own, &CHANGES, &refused)?;
    told(&done(&mut rust, &own)?, "RollbackDone")?;
    until_rows(stage.db, &committed)?;

    // Rust dies with its branch in the database: Java takes it back.
    let left = Ends {
        pause: true,
        timeout: Some(LEFT_BEHIND),
        ..Ends::default()
    };
    let dying = id("rust-dies");
    rust.statements(&dying, &CHANGES, &left)?;
    let xid = paused(&mut rust, &dying)?;
    ensure!(rows(stage.db)? != committed, "nothing was changed");
    record_undo(stage.db, &xid, record, "rust")?;
    rust.kill()?;
    until_rows(stage.db, &committed).context("Java takes back what Rust did")?;
    let answered = |event: &Event| event.name() == "phase2-answer" && event.text("xid") == xid;
    let answers = stage.bank.all(answered);
    ensure!(
        answers
            .iter()
            .any(|event| event.text("status") == "PhaseTwo_Rollbacked"),
        "Java was not called: {answers:?}"
    );

    // Java dies: Rust takes it back.
    let rust = (stage.rust_bank)(&*stage.cluster)?;
    let dying = id("java-dies");
    stage.bank.statements(&dying, &CHANGES, &left)?;
    let xid = paused(stage.bank, &dying)?;
    ensure!(rows(stage.db)? != committed, "nothing was changed");
    record_undo(stage.db, &xid, record, "java")?;
    stage.bank.kill()?;
    until_rows(stage.db, &committed).with_context(|| {
        let log = super::process::tail(rust.log(), 20);
        format!("Rust takes back what Java did; its log:\n{log}")
    })?;
    drop(rust);
    *stage.bank = (stage.another_bank)(&*stage.cluster)?;
    Ok(Finding {
        told: "-".to_owned(),
        balances: "each took back the other's".to_owned(),
        stall: None,
        settled: Some(from.elapsed()),
        defence_rows: 0,
        note: "clean/ms is the whole story".to_owned(),
    })
}

fn paused(bank: &mut Bank, id: &str) -> Result<String> {
    let event = bank.wait("the branch is registered", WITHIN, |event| {
        event.text("id") == id && (event.text("at") == "registered" || event.name() == "done")
    })?;
    ensure!(
        event.name() == "paused",
        "phase one of {id} failed: {}",
        event.text("detail")
    );
    Ok(event.text("xid").to_owned())
}

fn done(bank: &mut Bank, id: &str) -> Result<Event> {
    bank.wait(&format!("{id} ends"), WITHIN, |event| {
        event.name() == "done" && event.text("id") == id
    })
}

fn told(done: &Event, wanted: &str) -> Result<()> {
    let told = done.text("told");
    ensure!(
        told == wanted,
        "told {told} instead of {wanted}: {}",
        done.text("detail")
    );
    Ok(())
}

/// It was not committed, for want of the global lock.
fn conflicted(done: &Event) -> Result<()> {
    let (told, detail) = (done.text("told"), done.text("detail"));
    let is_conflict = ["lock", "holds rows"]
        .iter()
        .any(|word| detail.to_lowercase().contains(word));
    ensure!(
        told != "committed" && is_conflict,
        "told {told} over a held row: {detail}"
    );
    Ok(())
}

/// All that is in the table, with the bytes of what is none.
fn rows(db: &MariaDb) -> Result<Vec<Vec<String>>> {
    let columns = [
        "order_id", "product", "amount", "price", "rush", "weight", "placed", "stamped", "due", "at", "label", "note",
    ];
    let columns = columns.map(|column| format!("QUOTE(HEX({column}))")).join(", ");
    db.query(&format!(
        "SELECT {columns} FROM {}.order_line ORDER BY order_id, product",
        BANKS[0]
    ))
}

fn until_rows(db: &MariaDb, expected: &[Vec<String>]) -> Result<()> {
    wait::until("the rows are as they were, and no undo log is left", WITHIN, || {
        let undo = open_undo(db)?;
        let now = rows(db)?;
        Ok(match now == expected && undo == 0 {
            true => Ok(()),
            false => Err(format!("{undo} undo logs; {now:?} instead of {expected:?}")),
        })
    })
}

fn until_clean(db: &MariaDb) -> Result<()> {
    wait::until("no undo log is left", WITHIN, || {
        let undo = open_undo(db)?;
        Ok(if undo == 0 { Ok(()) } else { Err(format!("{undo} are")) })
    })
}

fn open_undo(db: &MariaDb) -> Result<i64> {
    db.number(&format!(
        "SELECT COUNT(*) FROM {}.undo_log WHERE log_status = 0",
        BANKS[0]
    ))
}

/// Keeps the undo log of a branch as it is in the database.
fn record_undo(db: &MariaDb, xid: &str, dir: Option<&Path>, writer: &str) -> Result<()> {
    let Some(dir) = dir else { return Ok(()) };
    let sql = format!(
        "SELECT branch_id, context, CONVERT(rollback_info USING utf8mb4) FROM {}.undo_log WHERE xid = '{xid}'",
        BANKS[0]
    );
    let found = db.query_raw(&sql)?;
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join(format!("undo-{writer}.txt")), format!("{xid}\t{found}"))?;
    Ok(())
}
