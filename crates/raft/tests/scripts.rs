//! Consensus as reviewable text, in the style of etcd's interaction tests: `tests/scripts/*.txt` hold commands, `----`,
//! and the whole trace that follows. `UPDATE_EXPECT=1 cargo test -p settle-raft --test scripts` rewrites them; review
//! the diff.
//!
//! Commands: `cluster 1 2 3 / 4` (voters / peers without a configuration; `small`: one entry per append), `campaign N`, `tick N count`,
//! `propose N data`, `change N +4 ~3 -2` (voter, learner, remove), `transfer N to`, `read N ctx`, `ready N`,
//! `persist N`, `apply N`, `deliver` (once all that is under way), `settle` (everything until it is quiet),
//! `cut A B`, `heal`, `crash N`, `lose N count` (entries of a stopped peer's disk), `wipe N`, `restart N [damaged]`,
//! `compact N keep`, `status`, `log N`.

mod cluster;

use std::fmt::Write as _;

use bytes::Bytes;
use cluster::{Cluster, Disk};
use settle_base::GroupTime;
use settle_raft::{Body, ConfChange, ConfChangeKind, ConfState, Entry, EntryKind, Message, PeerId, Ready};

#[derive(Default)]
struct Script {
    cluster: Option<Cluster>,
    trace: String,
}

impl Script {
    fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("a script starts with `cluster`")
    }

    fn say(&mut self, line: impl AsRef<str>) {
        self.trace.push_str(line.as_ref());
        self.trace.push('\n');
    }

    fn say_result<T, E: std::fmt::Display>(&mut self, result: Result<T, E>) {
        if let Err(error) = result {
            self.say(format!("error: {error}"));
        }
    }

    fn run(&mut self, command: &str) {
        let mut words = command.split_whitespace();
        let verb = words.next().expect("a command is not empty");
        let args: Vec<&str> = words.collect();
        let number = |at: usize| {
            args.get(at)
                .and_then(|word| word.parse::<u64>().ok())
                .unwrap_or_default()
        };
        let id = number(0);
        match verb {
            "cluster" => {
                let slash = args.iter().position(|word| *word == "/").unwrap_or(args.len());
                let ids = |words: &[&str]| words.iter().filter_map(|word| word.parse().ok()).collect::<Vec<u64>>();
                let others = ids(args.get(slash + 1..).unwrap_or_default());
                self.cluster = Some(Cluster::new(&ids(&args[..slash]), &others, 7, |config| {
                    if args.contains(&"small") {
                        config.max_append_bytes = 1;
                    }
                }));
            }
            "campaign" => self.cluster().raft(id).campaign(),
            "tick" => (0..number(1)).for_each(|_| self.cluster().raft(id).tick()),
            "propose" => {
                let data = Bytes::from(args[1].to_owned());
                let result = self.cluster().raft(id).propose(data, GroupTime::ZERO, None);
                self.say_result(result);
            }
            "change" => {
                let change = ConfChange {
                    changes: args[1..].iter().map(|word| parse_change(word)).collect(),
                    context: Bytes::new(),
                };
                let result = self.cluster().raft(id).propose_conf_change(change, GroupTime::ZERO);
                self.say_result(result);
            }
            "transfer" => {
                let result = self.cluster().raft(id).transfer_leader(PeerId(number(1)));
                self.say_result(result);
            }
            "read" => {
                let result = self.cluster().raft(id).read_index(number(1));
                self.say_result(result);
            }
            "ready" => drop(self.pump(id)),
            "persist" => drop(self.persist(id)),
            "apply" => drop(self.apply(id)),
            "deliver" => drop(self.deliver()),
            "settle" => self.settle(),
            "cut" => {
                let (a, b) = (id, number(1));
                self.cluster().cut.extend([(a, b), (b, a)]);
            }
            "heal" => self.cluster().cut.clear(),
            "crash" => self.cluster().crash(id),
            "lose" => {
                let entries = &mut self.cluster().node(id).disk.entries;
                entries.truncate(entries.len() - number(1) as usize);
            }
            "wipe" => self.cluster().node(id).disk = Disk::default(),
            "restart" => self.cluster().restart(id, args.get(1) == Some(&"damaged")),
            "compact" => self.cluster().compact(id, number(1)),
            "status" => self.status(),
            "log" => {
                let raft = self.cluster().raft(id);
                let entries: Vec<String> = raft.entries(0..=u64::MAX).map(entry_text).collect();
                let first = raft.first_index();
                self.say(format!("from {first}: {}", entries.join(" ")));
            }
            other => panic!("unknown command {other}"),
        }
        if self.trace.is_empty() {
            self.say("ok");
        }
    }

    fn status(&mut self) {
        let views: Vec<_> = self
            .cluster()
            .nodes
            .values()
            .filter(|node| node.is_up())
            .map(|node| node.view().status())
            .collect();
        for view in views {
            let mut line = format!("{:?} {:?} term {} vote {:?}", view.id, view.role, view.term, view.vote);
            let _ = write!(
                line,
                " leader {:?} commit {} last {}",
                view.leader, view.commit, view.last_index
            );
            let _ = write!(
                line,
                " conf {}{}",
                conf_text(&view.conf),
                if view.recovering { " recovering" } else { "" }
            );
            for peer in view.progress {
                let mark = if peer.recovering { "!" } else { "" };
                let _ = write!(
                    line,
                    "\n  {:?}{mark} match {} next {} {:?}",
                    peer.peer, peer.matched, peer.next, peer.state
                );
            }
            self.say(line);
        }
    }

    fn pump(&mut self, id: u64) -> bool {
        let Some(ready) = self.cluster().pump(id) else {
            return false;
        };
        let text = ready_text(&ready);
        if !text.is_empty() {
            self.say(format!("p{id:x} ready{text}"));
        }
        true
    }

    fn persist(&mut self, id: u64) -> bool {
        let Some(seq) = self.cluster().node(id).unpersisted.front().map(|persist| persist.seq.0) else {
            return false;
        };
        self.cluster().persist(id);
        self.say(format!("p{id:x} persisted #{seq}"));
        true
    }

    fn apply(&mut self, id: u64) -> bool {
        let Some(entry) = self.cluster().apply(id) else {
            return false;
        };
        let mut line = format!("p{id:x} applied {}", entry_text(&entry));
        if entry.kind == EntryKind::ConfChange {
            let _ = write!(line, " conf {}", conf_text(self.cluster().raft(id).conf()));
        }
        self.say(line);
        true
    }

    fn deliver(&mut self) -> bool {
        let messages = std::mem::take(&mut self.cluster().network);
        let moved = !messages.is_empty();
        for message in messages {
            let is_lost = self.cluster().is_cut(message.from, message.to) || !self.cluster().node(message.to.0).is_up();
            let text = message_text(&message);
            if is_lost {
                self.say(format!("lost {text}"));
                self.cluster().lose(&message);
                continue;
            }
            self.say(text);
            let error = self.cluster().try_deliver(message);
            self.say_result(error);
        }
        moved
    }

    fn settle(&mut self) {
        for _ in 0..1_000 {
            let mut moved = false;
            for id in self.cluster().ids() {
                moved |= self.pump(id);
                while self.persist(id) {
                    moved = true;
                }
                while self.apply(id) {
                    moved = true;
                }
            }
            if !(moved | self.deliver()) {
                return;
            }
        }
        panic!("the script does not come to rest");
    }
}

fn parse_change(word: &str) -> ConfChangeKind {
    let (sign, id) = word.split_at(1);
    let peer = PeerId(id.parse().expect("a peer's number"));
    match sign {
        "+" => ConfChangeKind::AddVoter(peer),
        "~" => ConfChangeKind::AddLearner(peer),
        "-" => ConfChangeKind::Remove(peer),
        other => panic!("unknown change {other}"),
    }
}

fn entry_text(entry: &Entry) -> String {
    let data = match entry.kind {
        EntryKind::Normal => format!("\"{}\"", String::from_utf8_lossy(&entry.data)),
        EntryKind::Host => format!("host \"{}\"", String::from_utf8_lossy(&entry.data)),
        EntryKind::Noop => "noop".to_owned(),
        EntryKind::ConfChange => {
            let change = ConfChange::decode(&entry.data).expect("a change in the log is valid");
            let text = |kind: &ConfChangeKind| match kind {
                ConfChangeKind::AddVoter(peer) => format!("+{peer}"),
                ConfChangeKind::AddLearner(peer) => format!("~{peer}"),
                ConfChangeKind::Remove(peer) => format!("-{peer}"),
            };
            let changes: Vec<String> = change.changes.iter().map(text).collect();
            if change.is_leave() {
                "leave".to_owned()
            } else {
                format!("change({})", changes.join(" "))
            }
        }
    };
    format!("{}/{}:{data}", entry.term, entry.index)
}

fn entries_text(entries: &[Entry]) -> String {
    format!("[{}]", entries.iter().map(entry_text).collect::<Vec<_>>().join(" "))
}

fn conf_text(conf: &ConfState) -> String {
    let list = |peers: &[PeerId]| peers.iter().map(|peer| peer.to_string()).collect::<Vec<_>>().join(" ");
    let mut text = format!("({})", list(&conf.voters));
    if conf.is_joint() {
        let _ = write!(text, "&({})", list(&conf.outgoing));
    }
    if !conf.learners.is_empty() || !conf.learners_next.is_empty() {
        let _ = write!(
            text,
            " learners ({}) next ({})",
            list(&conf.learners),
            list(&conf.learners_next)
        );
    }
    text
}

fn message_text(message: &Message) -> String {
    let body = match &message.body {
        Body::Append {
            prev_index,
            prev_term,
            commit,
            entries,
        } => {
            format!(
                "Append prev {prev_term}/{prev_index} commit {commit} {}",
                entries_text(entries)
            )
        }
        Body::Snapshot { meta } => format!("Snapshot {}/{} conf {}", meta.term, meta.index, conf_text(&meta.conf)),
        other => format!("{other:?}")
            .replace(", rest: false", "")
            .replace(", rested: false", ""),
    };
    format!("{:?}->{:?} term {} {body}", message.from, message.to, message.term)
}

fn ready_text(ready: &Ready) -> String {
    let mut text = String::new();
    if let Some(change) = &ready.role_change {
        let _ = write!(
            text,
            " {:?} term {} leader {:?}",
            change.role, change.term, change.leader
        );
    }
    if let Some(persist) = &ready.persist {
        let _ = write!(text, "\n  persist #{}", persist.seq.0);
        if let Some(hard_state) = persist.hard_state {
            let _ = write!(
                text,
                " term {} vote {:?} commit {}",
                hard_state.term, hard_state.vote, hard_state.commit
            );
        }
        if let Some(meta) = &persist.snapshot {
            let _ = write!(text, " snapshot {}/{}", meta.term, meta.index);
        }
        if let Some(last) = persist.truncate_after {
            let _ = write!(text, " truncate after {last}");
        }
        if !persist.entries.is_empty() {
            let _ = write!(text, " {}", entries_text(&persist.entries));
        }
        persist.after.iter().for_each(|message| {
            let _ = write!(text, "\n    then {}", message_text(message));
        });
    }
    ready.messages.iter().for_each(|message| {
        let _ = write!(text, "\n  send {}", message_text(message));
    });
    if let Some(meta) = &ready.snapshot {
        let _ = write!(text, "\n  install snapshot {}/{}", meta.term, meta.index);
    }
    if !ready.committed.is_empty() {
        let _ = write!(text, "\n  committed {}", entries_text(&ready.committed));
    }
    if !ready.need_snapshot.is_empty() {
        let _ = write!(text, "\n  needs snapshot {:?}", ready.need_snapshot);
    }
    for read in &ready.reads {
        let _ = write!(text, "\n  read {} at {}", read.ctx, read.index);
    }
    if !ready.reads_dropped.is_empty() {
        let _ = write!(text, "\n  reads dropped {:?}", ready.reads_dropped);
    }
    text
}

/// Runs one script; returns it with the trace that it has now.
fn run_script(text: &str) -> String {
    let mut script = Script::default();
    let mut out = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // Several commands before one `----` share their trace.
        let mut commands = vec![line];
        for line in lines.by_ref().take_while(|line| *line != "----") {
            out.push_str(line);
            out.push('\n');
            commands.push(line);
        }
        script.trace.clear();
        for command in commands {
            if script.trace == "ok\n" {
                script.trace.clear();
            }
            script.run(command);
        }
        let _ = write!(out, "----\n{}\n", script.trace);
        // The expected trace ends at an empty line.
        lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// One test per script file, all of them named here: the walls keep tests from listing a folder too.
macro_rules! scripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            let file = expect_test::expect_file![concat!("scripts/", stringify!($name), ".txt")];
            file.assert_eq(&run_script(&file.data()));
        })*
    };
}

scripts! {
    check_quorum
    conflict
    election
    joint_change
    leader_leaves
    lost_disk
    lost_tail
    old_term_commit
    power_cut
    pre_vote
    read_index
    removed_peer
    snapshot
    split_vote
    transfer
}
