//! A child process that ends with its test.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::process::{Child, ChildStdin, Command};

use crate::{until, within};

/// A busy machine may be slow to stop a thread.
const STILL_WITHIN: Duration = Duration::from_secs(20);

/// One child. Its output goes to a file.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// A server with `--stop-with-stdin` ends when this is closed, so also when the test's own process is killed.
    stdin: Option<ChildStdin>,
}

impl Process {
    /// Runs `binary` with `args`; its output is appended to `log`. `SETTLE_…` variables, which it would take for its
    /// configuration, are not handed down.
    pub fn spawn(name: &str, binary: &Path, args: &[&str], log: &Path) -> Result<Process> {
        let open = || std::fs::OpenOptions::new().create(true).append(true).open(log);
        let opened = open().and_then(|out| Ok((out, open()?)));
        let (out, err) = opened.with_context(|| format!("open {}", log.display()))?;
        let mut command = Command::new(binary);
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err)
            .kill_on_drop(true);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("SETTLE_") {
                command.env_remove(variable);
            }
        }
        let mut child = command
            .spawn()
            .with_context(|| format!("start {name}: {}", binary.display()))?;
        let stdin = child.stdin.take();
        Ok(Process {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            stdin,
        })
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// What is told by that is between the two programs.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The exit, when there has been one.
    pub fn try_exit(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("look at {}", self.name))
    }

    /// # Errors
    /// When the process has ended; the end of its output is in the message.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.try_exit()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}):\n{}", self.name, last_lines(&self.log, 20)),
        }
    }

    /// `kill -9`, without waiting for the end.
    pub fn start_kill(&mut self) -> Result<()> {
        self.child.start_kill().with_context(|| format!("kill {}", self.name))
    }

    /// `kill -9`; returns when the process is gone.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("kill {}", self.name))
    }

    pub fn interrupt(&self) -> Result<()> {
        self.signal(Signal::INT)
    }

    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Stops it from running, as a long pause of its machine would; returns when none of its threads runs any more.
    pub async fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let pid = self.raw_pid()?;
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        until(&format!("{} stands still", self.name), STILL_WITHIN, async || {
            let stopped = waitid(WaitId::Pid(pid), options)?;
            stopped.map(drop).context("some thread still runs")
        })
        .await
    }

    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.raw_pid()?;
        kill_process(pid, signal).with_context(|| format!("send {signal:?} to {}", self.name))
    }

    fn raw_pid(&self) -> Result<Pid> {
        // None once the process was waited for: its number may be another's by now.
        let pid = self.child.id().with_context(|| format!("{} has ended", self.name))?;
        Pid::from_raw(pid as i32).context("a child's number is not 0")
    }

    /// Waits for the end.
    pub async fn exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        Ok(within(&what, deadline, self.child.wait()).await??)
    }

    /// All that it has printed.
    pub fn output(&self) -> String {
        read(&self.log)
    }
}

/// The last `lines` lines of a file.
pub fn last_lines(path: &Path, lines: usize) -> String {
    let text = read(path);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A file that is written to at this moment may end within a character.
fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
