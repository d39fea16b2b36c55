//! What the databases show of a transfer: by this a case is judged.

use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow, ensure};

use super::bank::Bank;
use super::cases::Case;
use super::mariadb::{BANKS, MariaDb};
use super::wait;

/// A transaction that its client gave up lives until its own timeout (60 s by default).
pub const CLEAN_WITHIN: Duration = Duration::from_secs(150);

/// What a transfer moves.
pub const AMOUNT: i64 = 10;

/// Two balances, first the debited one.
pub type Balances = (i64, i64);

/// Which of the two atomic outcomes the databases must show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    Moved,
    NotMoved,
    /// The client was told nothing; either, but whole.
    Either,
}

/// A transfer that was told how it ended.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub case: Case,
    pub account: u32,
    pub xid: &'a str,
    pub before: Balances,
    pub expect: Expect,
    /// What other transfers have moved besides.
    pub extra: i64,
}

impl Entry<'_> {
    fn is_right(&self, now: Balances) -> bool {
        let moved = |amount: i64| (self.before.0 - amount, self.before.1 + amount);
        match self.expect {
            Expect::Moved => now == moved(AMOUNT + self.extra),
            Expect::NotMoved => now == moved(self.extra),
            Expect::Either => now == moved(AMOUNT + self.extra) || now == moved(self.extra),
        }
    }
}

/// The balances of `account` in the two banks, or of it and the next one where the case stays in one bank.
pub fn balances(db: &MariaDb, case: Case, account: u32) -> Result<Balances> {
    let [from, to] = balances_sql(case, account);
    Ok((db.number(&from)?, db.number(&to)?))
}

fn balances_sql(case: Case, account: u32) -> [String; 2] {
    if case.mode().is_in_one_bank() {
        return [account, account + 1].map(|id| format!("SELECT balance FROM bank_a.tcc_account WHERE id = {id}"));
    }
    BANKS.map(|bank| format!("SELECT balance FROM {bank}.account WHERE id = {account}"))
}

/// Waits until of each transfer the money is where it should be, no row of undo_log with log_status 0 is left in either
/// bank, and neither a TCC reservation, nor a fence row in status 1, nor a prepared XA branch is open. Gives its balances
/// then, and when that was; fails each that was not so within [`CLEAN_WITHIN`], and all when anything of another
/// transaction stays.
pub fn until_clean(db: &MariaDb, entries: &[Entry<'_>]) -> Vec<Result<(Balances, Instant)>> {
    let mut ends: Vec<Result<(Balances, Instant), String>> =
        entries.iter().map(|_| Err("not looked at".to_owned())).collect();
    let waited = wait::until("the databases are right and clean", CLEAN_WITHIN, || {
        let open: Vec<(usize, &Entry<'_>)> = entries
            .iter()
            .enumerate()
            .filter(|(index, _)| ends[*index].is_err())
            .collect();
        for (index, end) in look(db, &open)? {
            ends[index] = end.map(|now| (now, Instant::now()));
        }
        let open = ends.iter().filter(|end| end.is_err()).count();
        Ok(if open == 0 {
            Ok(())
        } else {
            Err(format!("{open} of {} are not", ends.len()))
        })
    });
    if let Err(error) = waited {
        let of_each = ends.into_iter();
        return of_each
            .map(|end| end.map_err(|reason| anyhow!("{error:#}: {reason}")))
            .collect();
    }
    // Of any transaction: the client deletes the rows of a committed one up to a second later, and a run that ended its
    // client before that would leave those of its side transfers behind.
    let left = wait::until("nothing of any transaction is left", CLEAN_WITHIN, || {
        let undo = db.number(&count_undo("log_status = 0"))?;
        let prepared = db.query("XA RECOVER")?.len();
        let left = format!("{undo} undo_log rows with log_status 0, {prepared} prepared XA branches");
        Ok(if undo == 0 && prepared == 0 { Ok(()) } else { Err(left) })
    });
    ends.into_iter()
        .map(|end| match &left {
            Ok(()) => end.map_err(Error::msg),
            Err(error) => Err(anyhow!("{error:#}")),
        })
        .collect()
}

/// For each of `entries` its balances if it is clean, or what is not.
fn look(db: &MariaDb, entries: &[(usize, &Entry<'_>)]) -> Result<Vec<(usize, Result<Balances, String>)>> {
    // Each in one consistent read, after the list of prepared branches: with nothing left open the balances are final, and
    // not those of a phase one yet to be undone.
    let rows = entries.iter().map(|(index, entry)| {
        let Entry { account, xid, .. } = entry;
        let undo = count_undo(&format!("log_status = 0 AND xid = '{xid}'"));
        let [from, to] = balances_sql(entry.case, *account);
        format!(
            "SELECT 'entry', {index}, ({undo}), (SELECT SUM(frozen + incoming) FROM bank_a.tcc_account \
             WHERE id IN ({account}, {account} + 1)) + (SELECT COUNT(*) FROM bank_a.tcc_fence_log \
             WHERE status = 1 AND xid = '{xid}'), ({from}), ({to})"
        )
    });
    let sql = format!(
        "XA RECOVER FORMAT='SQL'; {}",
        rows.collect::<Vec<_>>().join(" UNION ALL ")
    );
    let (found, prepared): (Vec<_>, Vec<_>) = db
        .query(&sql)?
        .into_iter()
        .partition(|row| row.first().is_some_and(|first| first == "entry"));
    let mut looked = Vec::new();
    for row in found {
        let fields: Result<Vec<i64>, _> = row[1..].iter().map(|field| field.parse::<i64>()).collect();
        let fields = fields?;
        let &[index, undo, open, from, to] = fields.as_slice() else {
            return Err(anyhow!("a row of other columns: {row:?}"));
        };
        let index = usize::try_from(index)?;
        let Some((_, entry)) = entries.iter().find(|(known, _)| *known == index) else {
            return Err(anyhow!("a row of another transfer: {row:?}"));
        };
        let id = hex(entry.xid);
        let prepared = prepared
            .iter()
            .filter(|branch| branch.last().is_some_and(|branch| branch.to_lowercase().contains(&id)))
            .count();
        let now = (from, to);
        let is_clean = entry.is_right(now) && undo == 0 && open == 0 && prepared == 0;
        looked.push((
            index,
            is_clean.then_some(now).ok_or_else(|| {
                format!(
                    "balances {}, expected {:?}; {undo} undo_log rows with log_status 0; {open} in open TCC reservations; \
                     {prepared} prepared XA branches",
                    show(entry.before, now),
                    entry.expect
                )
            }),
        ));
    }
    Ok(looked)
}

/// No branch of `xid` was told both to commit and to roll back, and each undo_log row with log_status 1 has its reason:
/// the client writes one when a rollback call finds no undo row, which a repeated call does. Gives their number.
pub fn check_calls(bank: &mut Bank, db: &MariaDb, xid: &str) -> Result<usize> {
    let calls = bank.all(|event| event.name() == "phase2-call" && event.text("xid") == xid);
    let kinds = ["commit", "rollback"].map(|kind| calls.iter().any(|call| call.text("kind") == kind));
    ensure!(kinds != [true, true], "{xid} was told both to commit and to roll back");
    let mut explained = 0;
    for name in BANKS {
        let sql = format!("SELECT branch_id FROM {name}.undo_log WHERE xid = '{xid}' AND log_status = 1");
        for row in db.query(&sql)? {
            let branch: i64 = row[0].parse()?;
            let rollbacks = calls.iter().filter(|call| call.branch() == branch).count();
            ensure!(
                rollbacks > 1,
                "undo_log of {name} has log_status 1 for branch {branch}, which got {rollbacks} rollback calls"
            );
            explained += 1;
        }
    }
    Ok(explained)
}

/// Takes the table of the second bank's undo logs away, so that no rollback there succeeds.
pub fn hide_undo_log(db: &MariaDb) -> Result<()> {
    db.query("RENAME TABLE bank_b.undo_log TO bank_b.undo_log_hidden")?;
    Ok(())
}

/// Undoes [`hide_undo_log`]; may be called when nothing is hidden.
pub fn show_undo_log(db: &MariaDb) -> Result<()> {
    let hidden = "SELECT COUNT(*) FROM information_schema.tables \
                  WHERE table_schema = 'bank_b' AND table_name = 'undo_log_hidden'";
    if db.number(hidden)? == 1 {
        db.query("RENAME TABLE bank_b.undo_log_hidden TO bank_b.undo_log")?;
    }
    Ok(())
}

/// SQL that counts the undo_log rows of both banks that fit `filter`.
pub fn count_undo(filter: &str) -> String {
    let [a, b] = BANKS.map(|bank| format!("(SELECT COUNT(*) FROM {bank}.undo_log WHERE {filter})"));
    format!("SELECT {a} + {b}")
}

/// How MariaDB writes the xid of a prepared branch.
pub fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

pub fn show(before: Balances, after: Balances) -> String {
    format!("{}/{} → {}/{}", before.0, before.1, after.0, after.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_transfer_is_never_right() {
        let entry = |expect, extra| Entry {
            case: Case::AtCommit,
            account: 1,
            xid: "127.0.0.1:8091:1",
            before: (1000, 1000),
            expect,
            extra,
        };
        for expect in [Expect::Moved, Expect::NotMoved, Expect::Either] {
            assert!(!entry(expect, 0).is_right((990, 1000)), "{expect:?}");
            assert!(!entry(expect, 0).is_right((1000, 1010)), "{expect:?}");
        }
        assert!(entry(Expect::Either, 0).is_right((990, 1010)));
        assert!(entry(Expect::Either, 0).is_right((1000, 1000)));
        assert!(entry(Expect::Moved, AMOUNT).is_right((980, 1020)));
        assert!(!entry(Expect::Moved, AMOUNT).is_right((990, 1010)));
    }
}
