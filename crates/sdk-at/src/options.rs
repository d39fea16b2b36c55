//! What an application sets for AT.

use std::time::Duration;

use crate::{AtError, undo::JavaPackage};

/// Which resource it is, how it is shared with Java services, and every bound. The defaults are Java's where Java has one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AtOptions {
    /// The resource's id at the coordinator: see [`resource_id`].
    pub resource_id: String,
    /// The table of undo logs (`client.undo.logTable`).
    pub undo_table: String,
    /// Under which names Java's classes are written: those of the Java services that share the database.
    pub java_package: JavaPackage,
    /// How far the clocks of the Java services are ahead of UTC, by the time zone of their processes: Java keeps dates as
    /// moments. None refuses tables with `DATETIME`, `TIMESTAMP` and `DATE` columns. A zone with summer time has no such
    /// number, and services in one cannot share tables with these columns.
    pub zone: Option<Zone>,

    /// How often a conflict of global locks is tried again (`client.rm.lock.retryTimes`).
    pub lock_retry_times: u32,
    /// The pause before each (`client.rm.lock.retryInterval`).
    pub lock_retry_interval: Duration,
    /// How long a table is taken to be as it was last looked up. Its columns are compared with every row all the same.
    pub table_max_age: Duration,

    /// Tables are taken to have no triggers, and no foreign keys of other tables that follow their rows, but those that the
    /// account may see. Without it, tables are refused on which the account lacks the privilege `TRIGGER`, and all tables
    /// when it may not write in the whole database, since then it would not be told of them.
    pub trust_unseen: bool,

    /// Rows that one statement may change.
    pub rows_max: usize,
    /// The longest statement.
    pub statement_bytes_max: usize,
    /// The largest undo log of a branch, which must be well below the server's `max_allowed_packet`; and the largest that
    /// is unpacked.
    pub undo_bytes_max: usize,
    /// Undo logs of committed branches that are deleted at once.
    pub delete_at_once: usize,
    /// Committed branches whose undo logs wait to be deleted; one more is called again later.
    pub delete_waiting: usize,
}

/// A difference from UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Zone {
    /// Positive in the east.
    pub seconds_ahead: i32,
}

impl Zone {
    pub const UTC: Zone = Zone { seconds_ahead: 0 };

    pub fn hours_ahead(hours: i32) -> Zone {
        Zone {
            seconds_ahead: hours.saturating_mul(3_600),
        }
    }

    pub(crate) fn micros(self) -> i64 {
        i64::from(self.seconds_ahead) * 1_000_000
    }
}

/// The id that Java forms of a data source's JDBC URL (`DataSourceProxy.initResourceId`, for MySQL): services that share a
/// database share the id, and then each may be called for the other's branches.
pub fn resource_id(jdbc_url: &str) -> String {
    let url = jdbc_url.split('?').next().unwrap_or_default();
    if url.starts_with("jdbc:mysql:loadbalance://") {
        return url.replace(',', "|");
    }
    url.to_owned()
}

impl AtOptions {
    /// The defaults, for the database that Java services know by this URL.
    pub fn new(jdbc_url: &str) -> AtOptions {
        AtOptions {
            resource_id: resource_id(jdbc_url),
            undo_table: "undo_log".to_owned(),
            java_package: JavaPackage::OrgApacheSeata,
            zone: None,
            lock_retry_times: 30,
            lock_retry_interval: Duration::from_millis(10),
            table_max_age: Duration::from_secs(60),
            trust_unseen: false,
            rows_max: 1_000,
            statement_bytes_max: 256 << 10,
            undo_bytes_max: 2 << 20,
            delete_at_once: 200,
            delete_waiting: 10_000,
        }
    }

    pub(crate) fn zone_micros(&self) -> Option<i64> {
        self.zone.map(Zone::micros)
    }

    pub(crate) fn check(&self) -> Result<(), AtError> {
        let is_out = |zone: Zone| zone.seconds_ahead.abs() > 18 * 3_600;
        let problem = if self.resource_id.is_empty() || self.resource_id.contains(',') {
            "the resource's id is empty or has a comma"
        } else if self.undo_table.is_empty() {
            "the undo logs' table has no name"
        } else if self.zone.is_some_and(is_out) {
            "no clock is more than 18 hours from UTC"
        } else if self.rows_max == 0 || self.delete_at_once == 0 || self.delete_waiting == 0 {
            "a limit is zero"
        } else if self.rows_max > 10_000 || self.delete_at_once > 10_000 {
            "more than 10000 rows do not go into one statement"
        } else {
            return Ok(());
        };
        Err(AtError::setup(problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_has_the_id_that_java_forms_of_its_url() {
        for (url, id) in [
            (
                "jdbc:mysql://db:3306/bank?useSSL=false&x=?",
                "jdbc:mysql://db:3306/bank",
            ),
            ("jdbc:mysql://db:3306/bank", "jdbc:mysql://db:3306/bank"),
            ("jdbc:mariadb://db/bank?a=b", "jdbc:mariadb://db/bank"),
            (
                "jdbc:mysql:loadbalance://a:1,b:2/bank?x=1",
                "jdbc:mysql:loadbalance://a:1|b:2/bank",
            ),
        ] {
            assert_eq!(resource_id(url), id);
        }
    }
}
