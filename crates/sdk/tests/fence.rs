//! The fence over a real SQLite: calls come repeated, reordered and cut off, and money comes out right.

use std::time::Duration;

use proptest::prelude::*;
use rusqlite::{Connection, TransactionBehavior};
use settle_sdk::fence::{self, FenceError, FenceKey, FenceStatus, Pass, SQLITE_SCHEMA};

const KEY: FenceKey<'static> = FenceKey {
    xid: "127.0.0.1:8091:7",
    branch_id: 70,
    action: "accounts",
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    Prepare,
    Commit,
    Rollback,
    Once,
}

type Told = Result<Pass, FenceError<rusqlite::Error>>;

/// How often each part of the application ran and was kept.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Done {
    tried: i64,
    confirmed: i64,
    cancelled: i64,
}

struct Bank {
    database: Connection,
}

impl Bank {
    fn new() -> rusqlite::Result<Bank> {
        let database = Connection::open_in_memory()?;
        database.execute_batch(SQLITE_SCHEMA)?;
        database.execute_batch("CREATE TABLE done (call TEXT NOT NULL)")?;
        Ok(Bank { database })
    }

    /// One call as an application does it; with `is_cut` its process dies before the end.
    fn call(&mut self, call: Call, is_cut: bool) -> rusqlite::Result<Told> {
        let mut tx = self
            .database
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let told = match call {
            Call::Prepare => fence::prepare(&mut tx, KEY).map(|()| Pass::Do),
            Call::Commit => fence::commit(&mut tx, KEY),
            Call::Rollback => fence::rollback(&mut tx, KEY),
            Call::Once => fence::once(&mut tx, KEY),
        };
        if matches!(told, Ok(Pass::Do)) {
            tx.execute("INSERT INTO done VALUES (?1)", [format!("{call:?}")])?;
        }
        if told.is_ok() && !is_cut {
            tx.commit()?;
        }
        Ok(told)
    }

    fn count(&self, call: Call) -> rusqlite::Result<i64> {
        let name = format!("{call:?}");
        self.database
            .query_row("SELECT count(*) FROM done WHERE call = ?1", [name], |row| row.get(0))
    }

    fn done(&self) -> rusqlite::Result<Done> {
        Ok(Done {
            tried: self.count(Call::Prepare)?,
            confirmed: self.count(Call::Commit)?,
            cancelled: self.count(Call::Rollback)?,
        })
    }

    fn status(&mut self) -> rusqlite::Result<Option<FenceStatus>> {
        fence::FenceStore::load(&mut self.database.transaction()?, KEY)
    }
}

/// Each row of the table in the module's documentation: what brings about the state, the call, what it is told.
#[test]
fn every_call_in_every_state_does_what_the_table_says() -> rusqlite::Result<()> {
    use Call::*;
    use FenceStatus::*;
    let states: [(&[Call], Option<FenceStatus>); 6] = [
        (&[], None),
        (&[Prepare], Some(Tried)),
        (&[Prepare, Commit], Some(Committed)),
        (&[Prepare, Rollback], Some(RolledBack)),
        (&[Rollback], Some(Suspended)),
        (&[Once], Some(Committed)),
    ];
    for (before, status) in states {
        for call in [Prepare, Commit, Rollback, Once] {
            let mut bank = Bank::new()?;
            for earlier in before {
                assert!(bank.call(*earlier, false)?.is_ok());
            }
            assert_eq!(bank.status()?, status);
            let told = bank.call(call, false)?;
            let (expected, after) = match (call, status) {
                (Prepare, None) => (matches!(told, Ok(Pass::Do)), Some(Tried)),
                (Prepare, Some(Tried | Committed)) => (matches!(told, Err(FenceError::Repeated { .. })), status),
                (Prepare, _) => (matches!(told, Err(FenceError::TooLate { .. })), status),
                (Commit, None) => (matches!(told, Err(FenceError::NeverTried { .. })), None),
                (Commit, Some(Tried)) => (matches!(told, Ok(Pass::Do)), Some(Committed)),
                (Commit, Some(Committed)) => (matches!(told, Ok(Pass::Nothing)), status),
                (Once, None) => (matches!(told, Ok(Pass::Do)), Some(Committed)),
                (Once, Some(Committed)) => (matches!(told, Ok(Pass::Nothing)), status),
                (Rollback, None) => (matches!(told, Ok(Pass::Nothing)), Some(Suspended)),
                (Rollback, Some(Tried)) => (matches!(told, Ok(Pass::Do)), Some(RolledBack)),
                (Rollback, Some(RolledBack | Suspended)) => (matches!(told, Ok(Pass::Nothing)), status),
                _ => (matches!(told, Err(FenceError::Contradicted { .. })), status),
            };
            assert!(expected, "{call:?} after {before:?}: {told:?}");
            assert_eq!(bank.status()?, after, "{call:?} after {before:?}");
        }
    }
    Ok(())
}

#[test]
fn a_row_is_written_as_java_writes_it() -> rusqlite::Result<()> {
    let mut bank = Bank::new()?;
    assert!(bank.call(Call::Prepare, false)?.is_ok());
    let row = bank.database.query_row("SELECT * FROM tcc_fence_log", [], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, i64>(1)?,
            row.get::<_, String>(2)?,
            row.get::<_, i64>(3)?,
        ))
    })?;
    assert_eq!(row, (KEY.xid.to_owned(), 70, "accounts".to_owned(), 1));
    // What no fence wrote is not guessed at.
    bank.database.execute("UPDATE tcc_fence_log SET status = 9", [])?;
    assert!(matches!(bank.call(Call::Commit, false)?, Err(FenceError::Store(_))));
    Ok(())
}

#[test]
fn only_old_rows_that_ended_are_cleaned_away_so_many_at_once() -> rusqlite::Result<()> {
    const DAY: Duration = Duration::from_secs(86_400);
    let mut bank = Bank::new()?;
    for (branch, status, modified) in [
        (1, 1, "2020-01-01 00:00:00.000"),
        (2, 2, "2020-01-01 00:00:00.000"),
        (3, 3, "2020-01-01 00:00:00.000"),
        (4, 4, "2020-01-01 00:00:00.000"),
        (5, 2, "2999-01-01 00:00:00.000"),
    ] {
        let sql = "INSERT INTO tcc_fence_log VALUES ('x', ?1, 'a', ?2, ?3, ?3)";
        bank.database.execute(sql, (branch, status, modified))?;
    }
    // A clock that is as far behind as any two zones are apart may have written it just now.
    let elsewhere = "strftime('%Y-%m-%d %H:%M:%f', 'now', '-26 hours')";
    let sql = format!("INSERT INTO tcc_fence_log VALUES ('x', 6, 'a', 4, {elsewhere}, {elsewhere})");
    bank.database.execute_batch(&sql)?;
    assert!(bank.call(Call::Rollback, false)?.is_ok());
    let mut tx = bank.database.transaction()?;
    let mut clean = |older_than, limit| fence::clean(&mut tx, older_than, limit).expect("SQLite in memory");
    assert_eq!((clean(DAY, 2), clean(DAY, 2), clean(DAY, 2)), (2, 1, 0));
    // The newest stays whatever is asked: its phase one may be on its way.
    assert_eq!(clean(Duration::ZERO, 10), 0);
    tx.commit()?;
    let left: i64 = bank
        .database
        .query_row("SELECT count(*) FROM tcc_fence_log", [], |row| row.get(0))?;
    assert_eq!(left, 4);
    Ok(())
}

proptest! {
    /// The coordinator decides once, but calls as often and as late as it likes, and processes die in between. Phase one
    /// comes whenever it comes.
    #[test]
    fn whatever_the_order_of_calls_a_branch_is_whole_or_absent(
        is_commit: bool,
        calls in prop::collection::vec((any::<bool>(), any::<bool>()), 1..12),
    ) {
        let mut bank = Bank::new().expect("SQLite in memory");
        let end = if is_commit { Call::Commit } else { Call::Rollback };
        let mut rolled_back = false;
        for (is_prepare, is_cut) in calls {
            let call = if is_prepare { Call::Prepare } else { end };
            let told = bank.call(call, is_cut).expect("SQLite in memory");
            if call == Call::Prepare && rolled_back {
                prop_assert!(told.is_err(), "phase one after the rollback was told done");
            }
            rolled_back |= call == Call::Rollback && told.is_ok() && !is_cut;
            let done = bank.done().expect("SQLite in memory");
            prop_assert!(done.tried <= 1 && done.confirmed + done.cancelled <= done.tried, "{:?}", done);
        }
        // It is called until it says that it is done, which it does unless there is nothing to commit.
        let told = bank.call(end, false).expect("SQLite in memory");
        let done = bank.done().expect("SQLite in memory");
        match end {
            Call::Commit => prop_assert_eq!(told.is_ok(), done.tried == 1),
            _ => prop_assert!(told.is_ok()),
        }
        let expected = if is_commit { (done.tried, 0) } else { (0, done.tried) };
        prop_assert_eq!((done.confirmed, done.cancelled), expected);
    }
}
