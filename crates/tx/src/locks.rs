use settle_base::FixedMap;

use crate::{LockKeyError, LockRow, Tid, lock_rows};

/// What a lock row counts beside its key: the map slot at its usual load and the allocation of the key.
const ROW_OVERHEAD: u64 = 64;

/// The global row locks of one group: exclusive by transaction, re-entrant.
///
/// A row counts how often branches of its holder name it and is free when the last of them lets it go. So a row that
/// two branches of one transaction changed stays locked until both are undone, in whatever order that happens.
#[derive(Default)]
pub(crate) struct LockTable {
    /// The key is the resource's number, then `table:pk`. A table name holds no colon, so keys are unambiguous.
    rows: FixedMap<Box<[u8]>, Row>,
    bytes: u64,
    key: Vec<u8>,
}

struct Row {
    holder: Tid,
    uses: u32,
}

#[derive(PartialEq, Eq, Debug)]
pub(crate) enum LockRefusal<'a> {
    BadKey(LockKeyError),
    Conflict { row: LockRow<'a>, holder: Tid },
}

impl LockTable {
    /// Whether `tid` may lock all rows: the bytes that it would add. `resource` is `None` when nobody uses it.
    pub fn check<'a>(
        &self,
        resource: Option<u32>,
        lock_keys: &'a str,
        tid: Option<Tid>,
    ) -> Result<u64, LockRefusal<'a>> {
        let mut key = Vec::with_capacity(64);
        let mut new_bytes = 0;
        for row in lock_rows(lock_keys) {
            let row = row.map_err(LockRefusal::BadKey)?;
            write_key(&mut key, resource.unwrap_or(0), row);
            let held = resource.and_then(|_| self.rows.get(key.as_slice()));
            match held {
                Some(held) if Some(held.holder) != tid => {
                    return Err(LockRefusal::Conflict {
                        row,
                        holder: held.holder,
                    });
                }
                Some(_) => {}
                None => new_bytes += key.len() as u64 + ROW_OVERHEAD,
            }
        }
        Ok(new_bytes)
    }

    /// Locks all rows.
    ///
    /// # Panics
    /// When [`LockTable::check`] would have refused.
    pub fn take(&mut self, resource: u32, lock_keys: &str, tid: Tid) {
        for row in lock_rows(lock_keys) {
            let row = row.expect("the rows were checked before they are taken");
            write_key(&mut self.key, resource, row);
            if let Some(held) = self.rows.get_mut(self.key.as_slice()) {
                assert_eq!(
                    held.holder, tid,
                    "a row of {lock_keys:?} is taken from another transaction"
                );
                held.uses += 1;
            } else {
                self.bytes += self.key.len() as u64 + ROW_OVERHEAD;
                self.rows
                    .insert(Box::from(self.key.as_slice()), Row { holder: tid, uses: 1 });
            }
        }
    }

    /// Lets go of all rows that [`LockTable::take`] took with the same arguments.
    pub fn release(&mut self, resource: u32, lock_keys: &str, tid: Tid) {
        for row in lock_rows(lock_keys) {
            let row = row.expect("the rows were checked before they were taken");
            write_key(&mut self.key, resource, row);
            let held = self
                .rows
                .get_mut(self.key.as_slice())
                .expect("a branch's rows are in the lock table");
            assert_eq!(
                held.holder, tid,
                "a row of {lock_keys:?} was taken by another transaction"
            );
            held.uses -= 1;
            if held.uses == 0 {
                self.rows.remove(self.key.as_slice());
                self.bytes -= self.key.len() as u64 + ROW_OVERHEAD;
            }
        }
    }

    /// The holder of a row and how often its branches name it.
    pub fn holder(&self, resource: u32, row: LockRow<'_>) -> Option<(Tid, u32)> {
        let mut key = Vec::new();
        write_key(&mut key, resource, row);
        self.rows.get(key.as_slice()).map(|held| (held.holder, held.uses))
    }

    pub fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    /// How many times rows are named by branches.
    pub fn uses(&self) -> u64 {
        self.rows.values().map(|row| u64::from(row.uses)).sum()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn write_key(key: &mut Vec<u8>, resource: u32, row: LockRow<'_>) {
    key.clear();
    key.extend_from_slice(&resource.to_le_bytes());
    key.extend_from_slice(row.table.as_bytes());
    key.push(b':');
    key.extend_from_slice(row.pk.as_bytes());
}

/// Whether an AT branch's application data says `"autoCommit": false`: its client holds a database connection while
/// it waits (`ATCore.branchSessionLock`). Looks for the member's text only; everything else counts as `true`.
///
/// `"skipCheckLock"` needs no look: in Seata it spares a query that a unique key repeats, so it never lets two
/// transactions lock one row, and here nothing is spared.
pub(crate) fn auto_commit(application_data: &str) -> bool {
    const MEMBER: &str = "\"autoCommit\"";
    !application_data.match_indices(MEMBER).any(|(at, _)| {
        let is_escaped = application_data[..at].ends_with('\\');
        let value = application_data[at + MEMBER.len()..].trim_start().strip_prefix(':');
        !is_escaped && value.is_some_and(|value| value.trim_start().starts_with("false"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_named_by_two_branches_is_free_only_when_both_let_it_go() {
        let (mut locks, a, b) = (LockTable::default(), Tid::new(1, 1), Tid::new(1, 2));
        locks.take(0, "t:1,2", a);
        locks.take(0, "t:2", a);
        locks.release(0, "t:1,2", a);
        let row = LockRow { table: "t", pk: "2" };
        assert_eq!(
            locks.check(Some(0), "t:1,2", Some(b)),
            Err(LockRefusal::Conflict { row, holder: a })
        );
        assert!(
            locks.check(Some(1), "t:2", Some(b)).is_ok(),
            "another resource has other rows"
        );
        locks.release(0, "t:2", a);
        assert!(locks.check(Some(0), "t:1,2", Some(b)).is_ok());
        assert_eq!((locks.len(), locks.bytes()), (0, 0));
    }

    #[test]
    fn only_a_plain_member_turns_auto_commit_off() {
        assert!(!auto_commit(r#"{"autoCommit" : false}"#));
        for data in [
            "",
            "{}",
            r#"{"autoCommit":true}"#,
            r#"{"a":"\"autoCommit\":false"}"#,
            r#"{"autoCommit""#,
        ] {
            assert!(auto_commit(data), "{data}");
        }
    }
}
