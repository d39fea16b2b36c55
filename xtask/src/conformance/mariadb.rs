//! A private MariaDB: own data directory, socket and port; gone when dropped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::process::{Leashed, free_ports, tail};
use super::wait;

/// The two databases between which money moves.
pub const BANKS: [&str; 2] = ["bank_a", "bank_b"];

/// A running server with both bank databases in it.
pub struct MariaDb {
    socket: PathBuf,
    port: u16,
    server: Leashed,
}

impl MariaDb {
    /// Creates the data directory under `dir`, starts the server and loads `schema` into both banks.
    pub fn start(dir: &Path, schema: &Path) -> Result<Self> {
        let data = dir.join("mariadb");
        let socket = dir.join("db.sock");
        // Its own, too: servers that share a temporary directory take each other's tables away.
        let temp = dir.join("mariadb-tmp");
        std::fs::create_dir_all(&temp).with_context(|| format!("create {}", temp.display()))?;
        let user = Command::new("id").arg("-un").output().context("run id")?;
        let user = String::from_utf8(user.stdout)?.trim().to_owned();
        let installed = Command::new("mariadb-install-db")
            .args([
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ])
            .arg(format!("--user={user}"))
            .arg(format!("--datadir={}", data.display()))
            .env("TMPDIR", &temp)
            .output()
            .context("run mariadb-install-db")?;
        ensure!(
            installed.status.success(),
            "mariadb-install-db: {}",
            String::from_utf8_lossy(&installed.stderr)
        );

        let port = free_ports(1)?[0];
        let args = [
            "--no-defaults".to_owned(),
            format!("--user={user}"),
            format!("--datadir={}", data.display()),
            format!("--tmpdir={}", temp.display()),
            format!("--socket={}", socket.display()),
            format!("--port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--skip-name-resolve".to_owned(),
            // It is never killed, and its syncs would be waited for beside the servers' own.
            "--innodb-flush-log-at-trx-commit=0".to_owned(),
            // Java takes a moment for one of its own time zone, which the driver sets.
            "--default-time-zone=+00:00".to_owned(),
        ];
        let log = dir.join("mariadbd.log");
        let server = Leashed::spawn("mariadbd", Path::new("mariadbd"), &args, dir, log.clone())?;
        let mut db = Self { socket, port, server };
        wait::until("mariadbd answers", Duration::from_secs(60), || {
            db.server.check_alive()?;
            Ok(db
                .query("SELECT 1")
                .map_err(|error| format!("{error:#}\n{}", tail(&log, 10))))
        })?;
        let schema = std::fs::read_to_string(schema).with_context(|| format!("read {}", schema.display()))?;
        for bank in BANKS {
            db.query(&format!("CREATE DATABASE {bank}; USE {bank}; {schema}"))?;
        }
        db.query("CREATE USER settle@'127.0.0.1' IDENTIFIED BY 'settle'; GRANT ALL ON *.* TO settle@'127.0.0.1'")?;
        Ok(db)
    }

    /// The JDBC URL of one bank.
    pub fn jdbc_url(&self, bank: &str) -> String {
        format!("jdbc:mysql://127.0.0.1:{}/{bank}", self.port)
    }

    /// The same database as Go's driver names it.
    pub fn go_name(&self, bank: &str) -> String {
        format!("settle:settle@tcp(127.0.0.1:{})/{bank}", self.port)
    }

    /// The same database to a client that is none of Java's.
    pub fn url(&self, bank: &str) -> String {
        format!("mysql://settle:settle@127.0.0.1:{}/{bank}", self.port)
    }

    /// Runs SQL through the `mariadb` client, not through anything of Seata's; rows of tab-separated fields.
    pub fn query(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        let text = self.run(&["-N", "-B"], sql)?;
        Ok(text
            .lines()
            .map(|line| line.split('\t').map(str::to_owned).collect())
            .collect())
    }

    /// As [`Self::query`], in one text without any escapes.
    pub fn query_raw(&self, sql: &str) -> Result<String> {
        self.run(&["-N", "-B", "-r"], sql)
    }

    fn run(&self, how: &[&str], sql: &str) -> Result<String> {
        let out = Command::new("mariadb")
            .args(["--no-defaults", "-uroot"])
            .args(how)
            .arg("-S")
            .arg(&self.socket)
            .args(["-e", sql])
            .output()
            .context("run mariadb")?;
        ensure!(
            out.status.success(),
            "SQL failed: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        );
        Ok(String::from_utf8(out.stdout)?)
    }

    /// One number, from a query that gives one row and one column.
    pub fn number(&self, sql: &str) -> Result<i64> {
        let rows = self.query(sql)?;
        let field = rows
            .first()
            .and_then(|row| row.first())
            .with_context(|| format!("no row from {sql}"))?;
        field.parse().with_context(|| format!("{field:?} from {sql}"))
    }
}
