//! What is known of a table: its columns, its primary key, and why it may not be protected.

use crate::{AtError, kind::Kind};

/// A column as `information_schema` tells of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
    pub is_auto_increment: bool,
    /// Computed by the database: it cannot be written, and follows when the others are.
    pub is_generated: bool,
    /// Set by the database with every update.
    pub is_on_update: bool,
}

/// A base table with a primary key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    /// Of the primary key, indexes into `columns`, in the order of [`java_order`].
    pub key: Vec<usize>,
    /// Another table's foreign key changes with this one's rows: `(on delete, on update)`.
    pub cascades: (bool, bool),
}

impl Table {
    pub fn column(&self, name: &str) -> Option<usize> {
        let same = |column: &Column| column.name.eq_ignore_ascii_case(name);
        self.columns.iter().position(same)
    }

    pub fn is_key(&self, column: usize) -> bool {
        self.key.contains(&column)
    }

    pub fn key_columns(&self) -> impl Iterator<Item = &Column> {
        self.key.iter().map(|at| &self.columns[*at])
    }

    /// # Errors
    /// [`AtError::Table`] when these columns cannot be kept, or the key cannot name rows.
    pub fn check(&self, columns: &[usize]) -> Result<(), AtError> {
        for at in columns {
            let column = &self.columns[*at];
            if let Kind::Unsupported(name) = &column.kind {
                let problem = format!(
                    "column `{}` of type `{name}` cannot be kept exactly by Java",
                    column.name
                );
                return Err(AtError::table(&self.name, problem));
            }
        }
        match self.key_columns().find(|column| !column.kind.can_be_key()) {
            None => Ok(()),
            Some(column) => {
                let problem = format!("column `{}` of its primary key cannot name a row to Java", column.name);
                Err(AtError::table(&self.name, problem))
            }
        }
    }
}

/// The order in which Java names the columns of a primary key, given that of the index: that of its `HashMap` of their
/// names (`TableMeta.getPrimaryKeyMap`). Locks of both sides must be the same.
pub fn java_order<'n, T>(mut columns: Vec<T>, name: impl Fn(&T) -> &'n str) -> Vec<T> {
    // 16 buckets, twice as many whenever three quarters are used.
    let mut buckets: u32 = 16;
    while columns.len() as u32 > buckets / 4 * 3 {
        buckets *= 2;
    }
    // Columns of the same bucket keep the order in which they came.
    columns.sort_by_key(|column| {
        let hash = name(column)
            .encode_utf16()
            .fold(0_u32, |hash, unit| hash.wrapping_mul(31).wrapping_add(u32::from(unit)));
        (hash ^ (hash >> 16)) & (buckets - 1)
    });
    columns
}

/// An identifier, quoted.
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Java 17 printed.
    #[test]
    fn composite_keys_have_the_order_of_java_s_hash_map() {
        for (index, java) in [
            ("user_id,order_id", "user_id,order_id"),
            ("order_id,user_id", "user_id,order_id"),
            ("tenant,id", "id,tenant"),
            ("a,b,c", "a,b,c"),
            ("region,zone,shard,seq", "zone,shard,region,seq"),
            ("Aa,BB", "Aa,BB"),
            ("BB,Aa", "BB,Aa"),
            ("straße,店", "straße,店"),
            (
                "c1,c2,c3,c4,c5,c6,c7,c8,c9,c10,c11,c12,c13",
                "c11,c10,c13,c12,c1,c2,c3,c4,c5,c6,c7,c8,c9",
            ),
        ] {
            let ordered = java_order(index.split(',').collect(), |name: &&'static str| *name);
            assert_eq!(ordered.join(","), java);
        }
    }
}
