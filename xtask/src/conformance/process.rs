//! Child processes that cannot outlive the driver, and free ports.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

/// Starts `"$@"` with its output in a file, prints its pid, and kills it when our end of stdin closes: so a child dies
/// with the driver however the driver dies. Ctrl-C is the driver's to handle.
const LEASH: &str = r#"
exec 3<&0; log=$1; shift; trap '' INT
"$@" >>"$log" 2>&1 </dev/null & child=$!
echo $child
(cat <&3 >/dev/null; kill -9 $child) >/dev/null 2>&1 & watch=$!
wait $child; status=$?
kill $watch 2>/dev/null
exit $status
"#;

/// A long-lived child on a leash.
pub struct Leashed {
    name: String,
    shell: Child,
    pid: u32,
    log: PathBuf,
}

impl Leashed {
    /// Runs `program` with `args` in `dir`; its output is appended to `log`.
    pub fn spawn(name: &str, program: &Path, args: &[String], dir: &Path, log: PathBuf) -> Result<Self> {
        let mut shell = Command::new("sh")
            .args(["-c", LEASH, "leash"])
            .arg(&log)
            .arg(program)
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // The shell's remark that its child was killed; the child's own words go to the log.
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let mut line = String::new();
        let out = shell.stdout.take().context("the leash has a stdout")?;
        BufReader::new(out).read_line(&mut line)?;
        let pid = line.trim().parse().with_context(|| format!("read the pid of {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            shell,
            pid,
            log,
        })
    }

    /// Fails with the end of the log when the child has already ended.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.shell.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}):\n{}", self.name, tail(&self.log, 25)),
        }
    }

    /// `kill -9`; returns when the process is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.signal("-9")?;
        Ok(())
    }

    /// Sends `signal` (as kill(1) spells it) and waits for the end.
    pub fn signal(&mut self, signal: &str) -> Result<ExitStatus> {
        if let Some(status) = self.shell.try_wait()? {
            return Ok(status);
        }
        Command::new("kill")
            .args([signal, &self.pid.to_string()])
            .status()
            .context("run kill")?;
        Ok(self.shell.wait()?)
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and the leash ends the child with the driver anyway.
        let _ = self.kill();
    }
}

/// `n` different loopback ports that are free now. All are held until the last is known, so they differ.
pub fn free_ports(n: usize) -> Result<Vec<u16>> {
    let held: Vec<TcpListener> = (0..n)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)))
        .collect::<Result<_, _>>()?;
    Ok(held
        .iter()
        .map(|listener| listener.local_addr().map(|addr| addr.port()))
        .collect::<Result<_, _>>()?)
}

/// The last `lines` lines of a file, or a word on why there are none.
pub fn tail(path: &Path, lines: usize) -> String {
    match std::fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("(no log at {}: {error})", path.display()),
    }
}

/// True when `program` can be found in PATH.
pub fn in_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_running(pid: u32) -> bool {
        Command::new("kill")
            .args(["-0", &pid.to_string()])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    }

    #[test]
    fn a_child_dies_when_the_driver_lets_go_of_its_leash() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Leashed::spawn(
            "sleep",
            Path::new("sleep"),
            &["600".to_owned()],
            dir.path(),
            dir.path().join("log"),
        )
        .unwrap();
        let pid = child.pid;
        assert!(is_running(pid));
        // What the end of the driver does: the pipe closes, nobody calls kill.
        drop(child.shell.stdin.take());
        child.shell.wait().unwrap();
        assert!(!is_running(pid));
    }

    #[test]
    fn a_child_that_ended_is_reported_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let args = ["-c".to_owned(), "echo last words; exit 3".to_owned()];
        let mut child = Leashed::spawn("child", Path::new("sh"), &args, dir.path(), dir.path().join("log")).unwrap();
        // To wait for it closes what it reads, which is the leash: the child would be killed, perhaps before it says anything.
        let leash = child.shell.stdin.take();
        child.shell.wait().unwrap();
        drop(leash);
        let error = child.check_alive().unwrap_err().to_string();
        assert!(error.contains("last words"), "{error}");
    }
}
