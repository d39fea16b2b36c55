//! The other side: a process that takes orders on stdin and tells on stdout what happened.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::link::{Link, PATIENCE};

/// The main class of the library's peer.
pub const BOLT: &str = "settle.conformance.bolt.Peer";
/// The main class of the framework's peer.
pub const SOFARPC: &str = "settle.conformance.sofarpc.Peer";

pub struct Java {
    child: Child,
    orders: ChildStdin,
    lines: Receiver<String>,
    next_number: u32,
    /// Lines that nobody waited for yet.
    told: Vec<Vec<String>>,
}

impl Java {
    /// Starts the class `main` and waits until it is ready.
    pub fn start(class_path: &str, main: &str, open: &[String], properties: &[&str], args: &[&str]) -> Result<Java> {
        let mut command = Command::new("java");
        for package in open {
            command.arg("--add-opens").arg(format!("{package}=ALL-UNNAMED"));
        }
        command
            .args(properties.iter().map(|property| format!("-D{property}")))
            .args(["-cp", class_path, main])
            .args(args);
        let mut java = Java::spawn(command)?;
        java.wait("0", "ready", None)?;
        Ok(java)
    }

    /// Starts a process that speaks as ours do.
    pub fn spawn(mut command: Command) -> Result<Java> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let orders = child.stdin.take().context("the input is piped")?;
        let out = BufReader::new(child.stdout.take().context("the output is piped")?);
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Java {
            child,
            orders,
            lines,
            next_number: 1,
            told: Vec::new(),
        })
    }

    /// Gives an order; its number.
    pub fn order(&mut self, words: &[&str]) -> Result<String> {
        let number = self.next_number.to_string();
        self.next_number += 1;
        writeln!(self.orders, "{number}\t{}", words.join("\t"))?;
        self.orders.flush()?;
        Ok(number)
    }

    /// Gives an order and what it came to, while `link` goes on.
    pub fn obey(&mut self, words: &[&str], link: &mut Link) -> Result<Vec<String>> {
        let number = self.order(words)?;
        self.result(&number, link)
    }

    /// What an order came to, without its number.
    pub fn result(&mut self, number: &str, link: &mut Link) -> Result<Vec<String>> {
        self.wait(number, "", Some(link))
    }

    /// The next line of `number` with the verb `verb` (any, if empty), without its number.
    pub fn wait(&mut self, number: &str, verb: &str, mut link: Option<&mut Link>) -> Result<Vec<String>> {
        let start = Instant::now();
        loop {
            let fits = |words: &Vec<String>| words[0] == number && (verb.is_empty() || words[1] == verb);
            if let Some(at) = self.told.iter().position(fits) {
                return Ok(self.told.remove(at).split_off(1));
            }
            ensure!(start.elapsed() < PATIENCE, "nothing is said of {number} {verb}");
            let slice = Duration::from_millis(5);
            let line = match &mut link {
                None => self.lines.recv_timeout(slice).ok(),
                Some(link) => {
                    if link.closed.is_none() {
                        link.pump(slice)?;
                    } else {
                        std::thread::sleep(slice);
                    }
                    self.lines.try_recv().ok()
                }
            };
            if let Some(line) = line {
                let words: Vec<String> = line.split('\t').map(str::to_owned).collect();
                ensure!(words.len() > 1, "it says {line}");
                self.told.push(words);
            } else if let Some(status) = self.child.try_wait()? {
                bail!("it ended: {status}");
            }
        }
    }
}

impl Drop for Java {
    fn drop(&mut self) {
        // It ends with its stdin as well; nothing can be done about a failure here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
