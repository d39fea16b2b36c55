//! What the account may see: `information_schema` keeps quiet about what it has no privilege on.

use sqlx::{MySqlConnection, Row};

/// What `SHOW GRANTS` told.
#[derive(Debug)]
pub enum Grants {
    /// Nobody is asked for privileges (`--skip-grant-tables`).
    Unasked,
    Of(Vec<Grant>),
}

/// One line of it, about tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// In capitals.
    privileges: Vec<String>,
    /// A pattern; None for all databases.
    database: Option<String>,
    /// None for all tables.
    table: Option<String>,
    /// Taken away again (`partial_revokes` of MySQL).
    is_revoked: bool,
}

/// Privileges that let an account see foreign keys; `SELECT` is none of them.
const SEEING: [&str; 8] = [
    "ALL PRIVILEGES",
    "ALTER",
    "CREATE",
    "DELETE",
    "DROP",
    "INSERT",
    "REFERENCES",
    "UPDATE",
];

impl Grants {
    pub async fn of(on: &mut MySqlConnection) -> Result<Grants, sqlx::Error> {
        let lines = match sqlx::query("SHOW GRANTS").fetch_all(on).await {
            Ok(lines) => lines,
            Err(error) if is_unasked(&error) => return Ok(Grants::Unasked),
            Err(error) => return Err(error),
        };
        let mut grants = Vec::with_capacity(lines.len());
        for line in &lines {
            let line: String = line.try_get(0)?;
            grants.extend(Grant::parse(&line));
        }
        Ok(Grants::Of(grants))
    }

    /// Whether the account sees the table's triggers.
    pub fn see_triggers(&self, database: &str, table: &str) -> bool {
        self.have(&["ALL PRIVILEGES", "TRIGGER"], database, Some(table))
    }

    /// Whether the account sees the foreign keys of every table in the database.
    pub fn see_references(&self, database: &str) -> bool {
        self.have(&SEEING, database, None)
    }

    fn have(&self, privileges: &[&str], database: &str, table: Option<&str>) -> bool {
        let Grants::Of(grants) = self else {
            return true;
        };
        let covers = |grant: &&Grant| {
            let is_it = grant.privileges.iter().any(|have| privileges.contains(&have.as_str()));
            let is_here = grant.database.as_ref().is_none_or(|pattern| fits(pattern, database));
            let is_whole = grant.table.is_none() || grant.table.as_deref() == table;
            is_it && is_here && is_whole
        };
        let is_for_table = |grant: &Grant| grant.table.is_some();
        let mut covering = grants
            .iter()
            .filter(|grant| !grant.is_revoked)
            .filter(covers)
            .peekable();
        let is_revoked = grants.iter().any(|grant| grant.is_revoked && covers(&grant));
        // What was taken away of a database can still be given for one of its tables.
        covering.peek().is_some() && (!is_revoked || covering.any(is_for_table))
    }
}

fn is_unasked(error: &sqlx::Error) -> bool {
    const ER_OPTION_PREVENTS_STATEMENT: u16 = 1290;
    let told = error.as_database_error().and_then(|error| error.try_downcast_ref());
    told.is_some_and(|error: &sqlx::mysql::MySqlDatabaseError| error.number() == ER_OPTION_PREVENTS_STATEMENT)
}

impl Grant {
    /// None for what is not about tables: roles, routines, proxies.
    fn parse(line: &str) -> Option<Grant> {
        let (rest, is_revoked) = match line.strip_prefix("GRANT ") {
            Some(rest) => (rest, false),
            None => (line.strip_prefix("REVOKE ")?, true),
        };
        let (privileges, object) = rest.split_once(" ON ")?;
        let (database, object) = name(object)?;
        let (table, _) = name(object.strip_prefix('.')?)?;
        Some(Grant {
            // A privilege on single columns has them behind it, and then is none of the table.
            privileges: privileges
                .split(", ")
                .map(|privilege| privilege.trim().to_uppercase())
                .collect(),
            database,
            table,
            is_revoked,
        })
    }
}

/// A quoted name, or `*` as None, and what stands behind it.
fn name(text: &str) -> Option<(Option<String>, &str)> {
    if let Some(rest) = text.strip_prefix('*') {
        return Some((None, rest));
    }
    let mut name = String::new();
    let mut rest = text.strip_prefix('`')?;
    loop {
        let (part, behind) = rest.split_once('`')?;
        name.push_str(part);
        match behind.strip_prefix('`') {
            Some(more) => {
                name.push('`');
                rest = more;
            }
            None => return Some((Some(name), behind)),
        }
    }
}

/// Whether a name fits a pattern of `LIKE`.
fn fits(pattern: &str, name: &str) -> bool {
    let mut pattern_chars = pattern.chars();
    let Some(first) = pattern_chars.next() else {
        return name.is_empty();
    };
    let rest = pattern_chars.as_str();
    let mut name_chars = name.chars();
    match first {
        '%' => fits(rest, name) || name_chars.next().is_some() && fits(pattern, name_chars.as_str()),
        '_' => name_chars.next().is_some() && fits(rest, name_chars.as_str()),
        '\\' => {
            let literal = pattern_chars.next();
            literal.is_some() && name_chars.next() == literal && fits(pattern_chars.as_str(), name_chars.as_str())
        }
        literal => name_chars.next() == Some(literal) && fits(rest, name_chars.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row: what was granted, and whether the triggers of `bank`.`account` and the foreign keys of `bank` are seen.
    #[test]
    fn what_is_seen_follows_from_what_was_granted() {
        let plain = "GRANT SELECT, INSERT, UPDATE, DELETE ON `bank`.* TO `app`@`%`";
        for (lines, triggers, references) in [
            (
                &["GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION"][..],
                true,
                true,
            ),
            (&["GRANT USAGE ON *.* TO `app`@`%`", plain], false, true),
            (&[plain, "GRANT TRIGGER ON `bank`.`account` TO `app`@`%`"], true, true),
            (&[plain, "GRANT TRIGGER ON `bank`.`other` TO `app`@`%`"], false, true),
            (&["GRANT SELECT, TRIGGER ON `ba\\_k`.* TO `app`@`%`"], false, false),
            (&["GRANT SELECT, TRIGGER ON `ba_k`.* TO `app`@`%`"], true, false),
            (&["GRANT ALL PRIVILEGES ON `b%`.* TO `app`@`%`"], true, true),
            (&["GRANT INSERT, TRIGGER ON `bank`.`account` TO `app`@`%`"], true, false),
            (
                &[
                    "GRANT SELECT, INSERT, TRIGGER ON *.* TO `app`@`%`",
                    "REVOKE INSERT, TRIGGER ON `bank`.* FROM `app`@`%`",
                ],
                false,
                false,
            ),
            (
                &["GRANT INSERT (`id`, `TRIGGER`) ON `bank`.* TO `app`@`%`"],
                false,
                false,
            ),
            (
                &[
                    "GRANT EXECUTE ON PROCEDURE `bank`.`p` TO `app`@`%`",
                    "GRANT `role` TO `app`@`%`",
                    "",
                ],
                false,
                false,
            ),
        ] {
            let grants = Grants::Of(lines.iter().filter_map(|line| Grant::parse(line)).collect());
            assert_eq!(grants.see_triggers("bank", "account"), triggers, "{lines:?}");
            assert_eq!(grants.see_references("bank"), references, "{lines:?}");
        }
        let odd = Grant::parse("GRANT TRIGGER ON `a``b`.`c``.` TO x").expect("a grant");
        assert_eq!(
            (odd.database.as_deref(), odd.table.as_deref()),
            (Some("a`b"), Some("c`."))
        );
    }
}
