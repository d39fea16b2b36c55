//! The Java bank as the driver sees it: commands down, events up, one JSON object per line.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::mariadb::{BANKS, MariaDb};
use super::process::tail;
use super::versions::{Client, Protocol, Serialization};

/// One line from the bank, stamped when the driver read it.
#[derive(Clone, Debug)]
pub struct Event {
    pub at: Instant,
    body: Value,
}

impl Event {
    /// An event that no bank sent.
    #[cfg(test)]
    pub fn made(body: Value) -> Self {
        Self {
            at: Instant::now(),
            body,
        }
    }

    /// The event's name, e.g. `paused`.
    pub fn name(&self) -> &str {
        self.text("event")
    }

    /// A text field, or "" when it is absent.
    pub fn text(&self, field: &str) -> &str {
        self.body[field].as_str().unwrap_or("")
    }

    /// The branch id of a phase-two event.
    pub fn branch(&self) -> i64 {
        self.body["branch"].as_i64().unwrap_or(0)
    }

    /// Any field as it came.
    pub fn field(&self, field: &str) -> &Value {
        &self.body[field]
    }

    /// True for a phase-two call that stands still.
    pub fn held(&self) -> bool {
        self.body["held"].as_bool().unwrap_or(false)
    }
}

/// What a transfer is to do.
#[derive(Clone, Debug)]
pub struct Transfer<'a> {
    pub id: String,
    /// `at`, `xa`, `tcc`, `saga` or `annotated`.
    pub mode: &'a str,
    /// AT and XA move `account` of bank a to `account` of bank b; the others to `account + 1` of the same bank.
    pub account: u32,
    pub amount: i64,
    /// The business throws after both branches are registered.
    pub refuse: bool,
    /// None leaves Seata's default (60 s).
    pub timeout_ms: Option<u64>,
    pub pause: Vec<&'a str>,
}

/// How a transaction of SQL is to end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends {
    /// The business throws when the branch is registered.
    pub refuse: bool,
    /// It stands still there first.
    pub pause: bool,
    /// None leaves Seata's default (60 s).
    pub timeout: Option<Duration>,
}

/// What the bank signs with when the servers ask who it is.
pub const ACCESS_KEY: &str = "settle-bank-key";
pub const SECRET_KEY: &str = "the secret of the bank under test";

/// A running bank process.
pub struct Bank {
    child: Child,
    stdin: ChildStdin,
    events: Receiver<Event>,
    seen: Vec<Event>,
    log: PathBuf,
}

impl Bank {
    /// Starts a bank whose client has `servers` in its file registry and nothing else configured but how it writes its
    /// messages, and its access key if it is to sign.
    pub fn start(
        class_path: &str,
        client: &Client,
        saga_timeout: Duration,
        dir: &Path,
        servers: &[String],
        db: &MariaDb,
        is_signed: bool,
    ) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        std::fs::write(
            dir.join("registry.conf"),
            "registry {\n  type = \"file\"\n  file { name = \"file.conf\" }\n}\nconfig {\n  type = \"file\"\n  file { name = \"file.conf\" }\n}\n",
        )?;
        let list = servers.join(";");
        std::fs::write(
            dir.join("file.conf"),
            format!(
                "service {{\n  vgroupMapping.default_tx_group = \"default\"\n  default.grouplist = \"{list}\"\n}}\n{}",
                transport(client)
            ),
        )?;
        let mut command = Command::new("java");
        let keys = [
            format!("-Dseata.accesskey={ACCESS_KEY}"),
            format!("-Dseata.secretkey={SECRET_KEY}"),
        ];
        command
            // Dates of Java's are kept in the time zone of its process.
            .args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-Duser.timezone=UTC"])
            .args(keys.iter().filter(|_| is_signed))
            // 1.5 makes its proxies with a library that looks into them.
            .args(["--add-opens", "java.base/java.lang=ALL-UNNAMED", "-cp"])
            .arg(format!("{}:{class_path}", dir.display()))
            .arg("settle.conformance.Bank")
            .args(BANKS.map(|bank| db.jdbc_url(bank)))
            .arg(saga_timeout.as_millis().to_string());
        Self::spawn(command, dir)
    }

    /// Starts a bank under seata-go with nothing configured but where its servers are.
    pub fn start_go(program: &Path, dir: &Path, servers: &[String], db: &MariaDb) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let config = dir.join("seatago.yml");
        std::fs::write(
            &config,
            format!(
                "seata:\n  service:\n    vgroup-mapping:\n      default_tx_group: default\n    grouplist:\n      default: {}\n",
                servers.join(",")
            ),
        )?;
        let mut command = Command::new(program);
        command.arg(&config).args(BANKS.map(|bank| db.go_name(bank)));
        Self::spawn(command, dir)
    }

    /// Goes on for a bank that was lost: knows what that one saw.
    pub fn replace(&mut self, mut by: Bank) {
        self.seen.extend(self.events.try_iter());
        self.seen.append(&mut by.seen);
        by.seen = std::mem::take(&mut self.seen);
        *self = by;
    }

    /// Starts a bank in Rust on the tables of the first one, with its undo logs as `client` reads them; with an access key if
    /// it is to sign.
    pub fn start_rust(
        teller: &Path,
        client: &Client,
        dir: &Path,
        servers: &[String],
        db: &MariaDb,
        is_signed: bool,
    ) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut command = Command::new(teller);
        command
            .args([db.url(BANKS[0]), db.jdbc_url(BANKS[0]), client.package.clone()])
            .args(servers);
        if is_signed {
            command.envs([("TELLER_ACCESS_KEY", ACCESS_KEY), ("TELLER_SECRET_KEY", SECRET_KEY)]);
        }
        Self::spawn(command, dir)
    }

    /// Runs a bank, and waits until it is ready.
    fn spawn(mut command: Command, dir: &Path) -> Result<Self> {
        let log = dir.join("bank.log");
        let mut child = command
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?)
            .spawn()
            .context("start the bank")?;
        let stdin = child.stdin.take().context("the bank has a stdin")?;
        let stdout = child.stdout.take().context("the bank has a stdout")?;
        let (send, events) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { break };
                let body = serde_json::from_str(&line)
                    .unwrap_or_else(|error| json!({"event": "error", "message": format!("{error}: {line}")}));
                if send
                    .send(Event {
                        at: Instant::now(),
                        body,
                    })
                    .is_err()
                {
                    break;
                }
            }
        });
        let mut bank = Self {
            child,
            stdin,
            events,
            seen: Vec::new(),
            log,
        };
        bank.wait("the bank is ready", Duration::from_secs(60), |event| {
            event.name() == "ready"
        })?;
        Ok(bank)
    }

    /// The client's own word on its version and configuration.
    pub fn ready(&self) -> Option<&Event> {
        self.seen.iter().find(|event| event.name() == "ready")
    }

    /// Starts a transfer; it reports through events with its id.
    pub fn transfer(&mut self, transfer: &Transfer) -> Result<()> {
        let to = match transfer.mode {
            "at" | "xa" => transfer.account,
            _ => transfer.account + 1,
        };
        let mut line = json!({
            "cmd": "transfer", "id": transfer.id, "mode": transfer.mode, "from": transfer.account, "to": to,
            "amount": transfer.amount, "refuse": transfer.refuse, "pause": transfer.pause,
        });
        if let Some(timeout) = transfer.timeout_ms {
            line["timeout_ms"] = json!(timeout);
        }
        self.send(&line)
    }

    /// Starts SQL in one local transaction of the first bank, under AT.
    pub fn statements(&mut self, id: &str, statements: &[&str], ends: &Ends) -> Result<()> {
        let mut line = json!({
            "cmd": "transfer", "id": id, "mode": "at", "statements": statements, "refuse": ends.refuse,
            "pause": if ends.pause { vec!["registered"] } else { Vec::new() },
        });
        if let Some(timeout) = ends.timeout {
            line["timeout_ms"] = json!(timeout.as_millis() as u64);
        }
        self.send(&line)
    }

    /// Lets the transfer that stands still go on.
    pub fn go(&mut self, id: &str) -> Result<()> {
        self.send(&json!({"cmd": "go", "id": id}))
    }

    /// Makes the transfer that stands still fail with a business exception.
    pub fn abort(&mut self, id: &str) -> Result<()> {
        self.send(&json!({"cmd": "abort", "id": id}))
    }

    /// From now on phase-two calls stand still on arrival.
    pub fn hold(&mut self) -> Result<()> {
        self.send(&json!({"cmd": "hold"}))
    }

    /// Lets held and later phase-two calls pass.
    pub fn release(&mut self) -> Result<()> {
        self.send(&json!({"cmd": "release"}))
    }

    /// The business answers the next `n` TCC phase-two calls of that transaction with `false`.
    pub fn fail_next(&mut self, xid: &str, n: u32) -> Result<()> {
        self.send(&json!({"cmd": "fail-next", "xid": xid, "n": n}))
    }

    fn send(&mut self, line: &Value) -> Result<()> {
        writeln!(self.stdin, "{line}").with_context(|| format!("the bank is gone:\n{}", tail(&self.log, 30)))?;
        Ok(())
    }

    /// The first event that fits, past ones included.
    pub fn wait(&mut self, what: &str, limit: Duration, fits: impl Fn(&Event) -> bool) -> Result<Event> {
        if let Some(event) = self.seen.iter().find(|event| fits(event)) {
            return Ok(event.clone());
        }
        let deadline = Instant::now() + limit;
        loop {
            match self
                .events
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(event) => {
                    let fitting = fits(&event);
                    self.seen.push(event.clone());
                    if event.name() == "error" {
                        bail!("the bank says: {}", event.text("message"));
                    }
                    if fitting {
                        return Ok(event);
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("{what}: not within {} s", limit.as_secs()),
                Err(RecvTimeoutError::Disconnected) => bail!("the bank ended:\n{}", tail(&self.log, 30)),
            }
        }
    }

    /// All events so far that fit.
    pub fn all(&mut self, fits: impl Fn(&Event) -> bool) -> Vec<Event> {
        self.seen.extend(self.events.try_iter());
        self.seen.iter().filter(|event| fits(event)).cloned().collect()
    }

    /// `kill -9`: the application dies.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// The client's log.
    pub fn log(&self) -> &Path {
        &self.log
    }
}

/// What of the client's transport is not its default.
fn transport(client: &Client) -> String {
    let mut lines = Vec::new();
    if client.serialization != Serialization::Seata {
        lines.push(format!("  serialization = \"{}\"\n", client.serialization.name()));
    }
    if client.protocol != Protocol::Seata {
        lines.push(format!("  protocol = \"{}\"\n", client.protocol.name()));
    }
    if let Some(compressor) = &client.compressor {
        lines.push(format!("  compressor = \"{compressor}\"\n"));
    }
    match lines.is_empty() {
        true => String::new(),
        false => format!("transport {{\n{}}}\n", lines.concat()),
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
