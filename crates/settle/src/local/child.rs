//! A child process of this executable that stops when this one does.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{
    process::{Child, ChildStdin, Command},
    time::{Instant, sleep_until},
};

use crate::http_client;

/// How long a child may take until it is ready.
const START_WITHIN: Duration = Duration::from_secs(30);
/// How long a child may take to stop before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at whether a child is ready.
const PAUSE: Duration = Duration::from_millis(50);

/// One that can be started again under the same name, arguments and log.
pub struct ChildProcess {
    name: String,
    arguments: Vec<OsString>,
    log: PathBuf,
    running: Option<Running>,
}

struct Running {
    child: Child,
    /// The child stops when this closes, which also holds when this process is killed. Waiting for the child would
    /// close the child's own, so it is kept here.
    _leash: ChildStdin,
}

impl ChildProcess {
    /// `arguments` are for this executable, and include the one that makes it stop with its standard input. What the
    /// child prints as errors is appended to `log`.
    pub fn new(name: String, arguments: Vec<OsString>, log: PathBuf) -> ChildProcess {
        ChildProcess {
            name,
            arguments,
            log,
            running: None,
        }
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The system's number of the running process.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref()?.child.id()
    }

    /// # Errors
    /// When the log cannot be written, or the process not started.
    pub fn start(&mut self) -> anyhow::Result<()> {
        assert!(self.running.is_none(), "{} runs already", self.name);
        let exe = std::env::current_exe().context("cannot find this executable")?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot open {}", self.log.display()))?;
        let mut child = Command::new(exe)
            .args(&self.arguments)
            // Ctrl-C in a terminal is for this process alone, which then stops its children in order.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        let leash = child.stdin.take().expect("its standard input is a pipe");
        self.running = Some(Running { child, _leash: leash });
        Ok(())
    }

    /// Waits until `url` answers with success.
    ///
    /// # Errors
    /// When the process ends, or not in time; the end of its log is in the message.
    pub async fn wait_until_ready(&mut self, url: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_WITHIN;
        loop {
            let running = self.running.as_mut().expect("only a started one is waited for");
            if let Some(status) = running.child.try_wait()? {
                self.running = None;
                bail!("{} did not start ({status}):\n{}", self.name, self.last_lines());
            }
            let probe = url.to_owned();
            if tokio::task::spawn_blocking(move || http_client::get(&probe))
                .await?
                .is_ok()
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                let seconds = START_WITHIN.as_secs();
                bail!("{} is not ready after {seconds} s:\n{}", self.name, self.last_lines());
            }
            sleep_until(Instant::now() + PAUSE).await;
        }
    }

    /// Waits until the process ends; for ever when it does not run.
    pub async fn exit(&mut self) -> ExitStatus {
        let Some(running) = self.running.as_mut() else {
            return std::future::pending().await;
        };
        let status = running.child.wait().await;
        self.running = None;
        status.unwrap_or_default()
    }

    /// Ends the process as `kill -9` does, and waits until it is gone.
    ///
    /// # Errors
    /// When it had ended by itself before: with what, and the end of its log.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let mut running = self.running.take().expect("only a running one is killed");
        if let Some(status) = running.child.try_wait()? {
            bail!("{} ended by itself ({status}):\n{}", self.name, self.last_lines());
        }
        running
            .child
            .kill()
            .await
            .with_context(|| format!("cannot kill {}", self.name))
    }

    /// Lets the process stop in order and says how that went; nothing when it does not run.
    pub async fn stop(&mut self) -> Option<String> {
        let Running {
            mut child,
            _leash: leash,
        } = self.running.take()?;
        drop(leash);
        let name = &self.name;
        Some(match tokio::time::timeout(STOP_WITHIN, child.wait()).await {
            Ok(Ok(status)) if status.success() => format!("{name} stopped."),
            Ok(Ok(status)) => format!("{name} stopped with {status}; its log: {}", self.log.display()),
            Ok(Err(error)) => format!("{name}: {error}"),
            Err(_) => {
                // It is dropped next, and killed by that.
                let _ = child.start_kill();
                format!("{name} did not stop within {} s and was killed.", STOP_WITHIN.as_secs())
            }
        })
    }

    fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(10).collect();
        lines.into_iter().rev().map(|line| format!("  {line}\n")).collect()
    }
}
