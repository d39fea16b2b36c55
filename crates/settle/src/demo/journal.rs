//! What each account service and the teller write down as it happens, one line of JSON for each event.
//!
//! A line is written before what it tells has any effect outside of the process, in one write: `kill -9` loses none and
//! tears none.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
    sync::Mutex,
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use settle_telemetry::Clock;

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// An account service began to work, for the first time or again.
    Started,
    /// Phase one of a branch succeeded at an account service, and its caller is told so next.
    Tried {
        xid: String,
        branch: i64,
        account: i64,
        amount: i64,
    },
    /// Phase one was refused by the rules of the business.
    Refused {
        xid: String,
        branch: i64,
        account: i64,
        amount: i64,
        why: String,
    },
    /// The coordinator called a branch to confirm; nothing is done yet.
    Confirm { xid: String, branch: i64 },
    /// The coordinator called a branch to cancel; nothing is done yet.
    Cancel { xid: String, branch: i64 },
    /// A call to confirm or cancel failed, and the coordinator is told so.
    Failed { xid: String, branch: i64, why: String },
    /// The teller began a transfer; no service knows of it yet.
    Begun {
        xid: String,
        from: (usize, i64),
        to: (usize, i64),
        amount: i64,
    },
    /// The teller is about to ask for an end.
    Asking { xid: String, commit: bool },
    /// The teller was told how a transfer ended.
    Told { xid: String, committed: bool },
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// Wall time, for people and for telling what a kill met; the judge does not look at it.
    pub at_ms: u64,
    #[serde(flatten)]
    pub event: Event,
}

pub struct Journal {
    file: Mutex<File>,
}

impl Journal {
    /// Goes on with the journal at `path`.
    pub fn open(path: &Path) -> anyhow::Result<Journal> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot open the journal {}", path.display()))?;
        Ok(Journal { file: Mutex::new(file) })
    }

    /// # Errors
    /// When the line cannot be written: what it tells must not happen then.
    pub fn write(&self, event: Event) -> anyhow::Result<()> {
        let line = Line { at_ms: now_ms(), event };
        let mut text = serde_json::to_string(&line).context("a line of the journal is JSON")?;
        text.push('\n');
        let mut file = self.file.lock().expect("no holder of this lock panics");
        file.write_all(text.as_bytes()).context("cannot write the journal")
    }
}

/// Wall time as the journals have it.
pub fn now_ms() -> u64 {
    Clock::wall().as_millis() as u64
}

/// Every line of the journal at `path`.
///
/// # Errors
/// When one cannot be read: a journal with a gap proves nothing.
pub fn read(path: &Path) -> anyhow::Result<Vec<Line>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let line = |(n, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("line {} of {} is damaged", n + 1, path.display()))
    };
    text.lines().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_is_gone_on_with_reads_as_it_was_written_and_a_torn_line_is_no_line() {
        let dir = settle_testkit::Scratch::new().expect("a folder");
        let path = dir.path().join("journal");
        let events = [
            Event::Started,
            Event::Begun {
                xid: "h:1:5".to_owned(),
                from: (0, 3),
                to: (1, 4),
                amount: 12,
            },
        ];
        for event in &events {
            let journal = Journal::open(&path).expect("it can be opened");
            journal.write(event.clone()).expect("it can be written");
        }
        let read_back: Vec<Event> = read(&path).expect("whole").into_iter().map(|line| line.event).collect();
        assert_eq!(read_back, events);

        let text = std::fs::read_to_string(&path).expect("it is there");
        std::fs::write(&path, &text[..text.len() - 5]).expect("it can be cut");
        assert!(read(&path).is_err());
        dir.finish();
    }
}
