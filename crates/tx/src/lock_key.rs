//! Seata's lockKey syntax: `table:pk,pk;table2:pk` (`AbstractLockManager.collectRowLocks`).

/// A row named by a lockKey.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LockRow<'a> {
    /// Never empty and without a colon.
    pub table: &'a str,
    /// The primary key as text; composite keys are joined with `_` by the client. It may be empty: a row whose key is
    /// the empty string is a row, and its lock must not be dropped.
    pub pk: &'a str,
}

/// Where and why a text is no lockKey.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LockKeyError {
    #[error("part {part} has no colon between table and keys")]
    NoColon { part: u32 },
    #[error("part {part} names no table")]
    NoTable { part: u32 },
}

/// The rows of a lockKey. The empty text names none, and empty parts (a trailing `;`) are passed over.
///
/// Unlike Seata, which silently stops locking at the first part it cannot read, such a part is an error: a row that
/// is changed but not locked is a lost update.
pub fn lock_rows(text: &str) -> impl Iterator<Item = Result<LockRow<'_>, LockKeyError>> {
    let parts = text.split(';').enumerate().filter(|(_, part)| !part.is_empty());
    parts.flat_map(|(n, part)| {
        let part_number = n as u32 + 1;
        let (parsed, pks) = match part.split_once(':') {
            None => (Err(LockKeyError::NoColon { part: part_number }), ""),
            Some(("", _)) => (Err(LockKeyError::NoTable { part: part_number }), ""),
            Some((table, pks)) => (Ok(table), pks),
        };
        pks.split(',').map(move |pk| parsed.map(|table| LockRow { table, pk }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Result<Vec<(&str, &str)>, LockKeyError> {
        lock_rows(text).map(|row| row.map(|row| (row.table, row.pk))).collect()
    }

    #[test]
    fn a_lock_key_names_every_row_of_every_table() {
        assert_eq!(rows(""), Ok(vec![]));
        assert_eq!(rows("a:1,2_x;b:3;"), Ok(vec![("a", "1"), ("a", "2_x"), ("b", "3")]));
        assert_eq!(rows("a:10:30"), Ok(vec![("a", "10:30")]), "a key may hold a colon");
        assert_eq!(rows("a:"), Ok(vec![("a", "")]), "the empty key is a key");
    }

    #[test]
    fn a_part_that_cannot_be_read_is_an_error_and_never_fewer_locks() {
        assert_eq!(rows("a:1;b"), Err(LockKeyError::NoColon { part: 2 }));
        assert_eq!(rows(":1"), Err(LockKeyError::NoTable { part: 1 }));
    }
}
