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
    /// There is a unique key besides.
    pub has_more_unique: bool,
    /// The foreign keys that refer to this table, its own among them.
    pub references: Vec<Reference>,
}

/// A foreign key that refers to a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    /// The database and the table that refer, and the columns with which they do.
    pub database: String,
    pub table: String,
    pub columns: Vec<String>,
    /// What these refer to: indexes into the columns of the table that is referred to.
    pub to: Vec<usize>,
    pub on_delete: Follow,
    pub on_update: Follow,
    /// How to keep others from referring to a row anew.
    pub guard: Guard,
}

/// What becomes of the rows that refer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Follow {
    /// The change is refused while there are any.
    Never,
    /// They are deleted, or get the new value.
    Cascade,
    /// They refer to nothing, or to a default.
    Set,
}

/// Whoever refers to a row anew takes a shared lock on it, in the index that the foreign key refers to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Guard {
    /// That of the primary key: an exclusive lock on the row keeps them off.
    Row,
    /// A unique one of this name, in which the row has to be locked besides.
    Index(String),
    /// There is none, or who refers cannot be read; with the reason.
    None(String),
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

    /// Refuses a change that takes other rows along.
    ///
    /// # Errors
    /// [`AtError::Table`].
    pub fn check_delete(&self) -> Result<(), AtError> {
        self.refuse_following("deletes", |reference| reference.on_delete != Follow::Never)
    }

    /// As [`check_delete`](Table::check_delete), for an update of these columns.
    ///
    /// # Errors
    /// [`AtError::Table`].
    pub fn check_update(&self, columns: &[usize]) -> Result<(), AtError> {
        // The key is kept, and never set; what is computed may change with any of them.
        let is_set = |at: &usize| columns.contains(at) && !self.is_key(*at) || self.columns[*at].is_generated;
        self.refuse_following("updates", |reference| {
            reference.on_update != Follow::Never && reference.to.iter().any(is_set)
        })
    }

    /// Whether an inserted row can be taken back without rows that others have hung on it by then.
    ///
    /// # Errors
    /// [`AtError::Table`].
    pub fn check_insert(&self) -> Result<(), AtError> {
        let follows = self
            .references
            .iter()
            .filter(|reference| reference.on_delete != Follow::Never);
        for reference in follows {
            if let Guard::None(problem) = &reference.guard {
                let problem = format!(
                    "the foreign key of `{}` follows its deletes, and {problem}",
                    reference.table
                );
                return Err(AtError::table(&self.name, problem));
            }
        }
        Ok(())
    }

    fn refuse_following(&self, what: &str, follows: impl Fn(&Reference) -> bool) -> Result<(), AtError> {
        match self.references.iter().find(|reference| follows(reference)) {
            None => Ok(()),
            Some(reference) => {
                let problem = format!("the foreign key of `{}` follows its {what}", reference.table);
                Err(AtError::table(&self.name, problem))
            }
        }
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
