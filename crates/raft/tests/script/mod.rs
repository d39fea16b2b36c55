//! The commands of the behaviour scripts, carried out on a [`Cluster`].

mod trace;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use bytes::Bytes;
use settle_base::GroupTime;
use settle_raft::{ConfChange, ConfChangeKind, ConfState, Config, EntryKind, Message, PeerId, Role, Status};

use super::cluster::{Cluster, Disk};

#[derive(Default)]
struct Script {
    cluster: Option<Cluster>,
    /// As each peer was when the trace last told of it.
    seen: BTreeMap<u64, Status>,
    /// Peers that do nothing and take nothing, but have not crashed.
    paused: BTreeSet<u64>,
    /// Peers whose writes wait.
    slow_disks: BTreeSet<u64>,
    /// Peers whose machine applies nothing.
    slow_machines: BTreeSet<u64>,
    held: Vec<Message>,
    is_quiet: bool,
    trace: String,
}

/// Runs one script; returns it with the trace that it has now.
pub fn run(text: &str) -> String {
    let mut script = Script::default();
    let mut out = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut commands = vec![line];
        for line in lines.by_ref().take_while(|line| *line != "----") {
            assert!(!line.is_empty(), "`----` is missing after {commands:?}");
            out.push_str(line);
            out.push('\n');
            commands.push(line);
        }
        let _ = write!(out, "----\n{}\n", script.run_block(&commands));
        // The expected trace ends at an empty line.
        lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("`{word}` is no number"))
}

fn parse_change(word: &str) -> ConfChangeKind {
    let (sign, id) = word.split_at(1);
    let peer = PeerId(number(id));
    match sign {
        "+" => ConfChangeKind::AddVoter(peer),
        "~" => ConfChangeKind::AddLearner(peer),
        "-" => ConfChangeKind::Remove(peer),
        "^" => ConfChangeKind::AddWitness(peer),
        other => panic!("unknown change {other}"),
    }
}

/// `1>2`, with `*` for any peer.
fn parse_link(word: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (from, to) = word.split_once('>')?;
    let end = |word: &str| if word == "*" { None } else { Some(number(word)) };
    Some((end(from), end(to)))
}

impl Script {
    /// Several commands before one `----` share a trace, in which each is named before what it caused.
    fn run_block(&mut self, commands: &[&str]) -> String {
        let mut block = String::new();
        for command in commands {
            self.trace.clear();
            self.run(command);
            if commands.len() > 1 && !self.trace.is_empty() {
                let _ = writeln!(block, "> {command}");
            }
            block.push_str(&self.trace);
        }
        if block.is_empty() {
            block.push_str("ok\n");
        }
        block
    }

    fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("a script starts with `cluster`")
    }

    fn say(&mut self, line: impl AsRef<str>) {
        if !self.is_quiet {
            self.say_always(line);
        }
    }

    fn say_always(&mut self, line: impl AsRef<str>) {
        self.trace.push_str(line.as_ref());
        self.trace.push('\n');
    }

    fn say_result<T, E: std::fmt::Display>(&mut self, result: Result<T, E>) {
        if let Err(error) = result {
            self.say_always(format!("error: {error}"));
        }
    }

    /// Tells what changed of a peer.
    fn look_at(&mut self, id: u64) {
        let Some(raft) = &self.cluster().node(id).raft else {
            return;
        };
        let now = raft.status();
        if let Some(text) = trace::change_of_status(self.seen.get(&id), &now) {
            self.say(text);
        }
        self.seen.insert(id, now);
    }

    fn run(&mut self, command: &str) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let (verb, args) = words.split_first().expect("a command is not empty");
        if *verb == "quietly" {
            self.is_quiet = true;
            self.run(&args.join(" "));
            self.is_quiet = false;
            return;
        }
        if self.run_on_network(verb, args) || self.run_on_group(verb, args) {
            return;
        }
        let id = number(args.first().unwrap_or_else(|| panic!("unknown command `{command}`")));
        if !self.run_on_host(verb, id, &args[1..]) && !self.run_on_raft(verb, id, &args[1..]) {
            panic!("unknown command `{command}`");
        }
        self.look_at(id);
    }

    fn run_on_group(&mut self, verb: &str, args: &[&str]) -> bool {
        match verb {
            "cluster" => self.start(args),
            "lead" => self.lead(number(args[0])),
            "settle" => self.settle(),
            "tick-all" => {
                for id in self.cluster().ids() {
                    if self.cluster().node(id).is_up() && !self.paused.contains(&id) {
                        (0..number(args[0])).for_each(|_| self.cluster().raft(id).tick());
                        self.look_at(id);
                    }
                }
            }
            "status" => {
                let ids = if args.is_empty() {
                    self.cluster().ids()
                } else {
                    args.iter().map(|word| number(word)).collect()
                };
                for id in ids {
                    let Some(raft) = &self.cluster().node(id).raft else {
                        self.say(format!("{id}: stopped"));
                        continue;
                    };
                    let last_term = raft.term_at(raft.last_index()).expect("the last entry is there");
                    let text = trace::status(&raft.status(), last_term);
                    self.say(text);
                }
            }
            "log" => {
                for id in args.iter().map(|word| number(word)) {
                    let raft = self.cluster().raft(id);
                    let entries: Vec<_> = raft.entries(0..=u64::MAX).cloned().collect();
                    let first = raft.first_index();
                    self.say(format!("{id} from {first} {}", trace::entries(&entries)));
                }
            }
            _ => return false,
        }
        true
    }

    fn run_on_raft(&mut self, verb: &str, id: u64, args: &[&str]) -> bool {
        let raft = self.cluster().raft(id);
        match verb {
            "campaign" => raft.campaign(),
            "tick" => (0..args.first().map_or(1, |word| number(word))).for_each(|_| raft.tick()),
            "propose" => {
                for data in args {
                    let result = self.propose(id, data, None);
                    self.say_result(result);
                }
            }
            "propose-in" => {
                let result = self.propose(id, args[1], Some(number(args[0])));
                self.say_result(result);
            }
            "propose-host" => {
                let result = raft.propose_host(Bytes::from(args[0].to_owned()), GroupTime::ZERO, None);
                self.say_result(result);
            }
            "reset-conf" => {
                let (witnesses, voters): (Vec<&str>, Vec<&str>) = args.iter().partition(|word| word.starts_with('^'));
                let witnesses: Vec<PeerId> = witnesses.iter().map(|word| PeerId(number(&word[1..]))).collect();
                let voters = voters.iter().map(|word| PeerId(number(word)));
                let conf = ConfState {
                    witnesses: witnesses.clone(),
                    ..ConfState::of_voters(voters.chain(witnesses))
                };
                match raft.reset_conf(conf, Bytes::new()) {
                    Ok(window) => {
                        let (commit, term, last) = (window.commit, window.last_term, window.last);
                        self.cluster().promises.forget_after(last);
                        self.say(format!(
                            "{id} may lose what is after {commit}, keeps up to {term}/{last}"
                        ));
                    }
                    Err(error) => self.say_always(format!("error: {error}")),
                }
            }
            "rest" => raft.rest(|_| false),
            "wake" => raft.wake(),
            "leader-is-down" => raft.leader_is_down(),
            "change" => {
                let change = ConfChange {
                    changes: args.iter().map(|word| parse_change(word)).collect(),
                    context: Bytes::new(),
                };
                let result = raft.propose_conf_change(change, GroupTime::ZERO);
                self.say_result(result);
            }
            "transfer" => {
                let result = raft.transfer_leader(PeerId(number(args[0])));
                self.say_result(result);
            }
            "read" => {
                let result = raft.read_index(number(args[0]));
                self.say_result(result);
            }
            "withdraw" => raft.withdraw_read(number(args[0])),
            "unreachable" => raft.report_unreachable(PeerId(number(args[0]))),
            _ => return false,
        }
        true
    }

    fn propose(&mut self, id: u64, data: &str, term: Option<u64>) -> Result<(u64, u64), settle_raft::ProposeError> {
        let data = Bytes::from(data.to_owned());
        self.cluster().raft(id).propose(data, GroupTime::ZERO, term)
    }

    /// What the host of a peer does, and what befalls it.
    fn run_on_host(&mut self, verb: &str, id: u64, args: &[&str]) -> bool {
        match verb {
            "ready" => drop(self.pump(id)),
            "persist" => drop(self.persist(id)),
            "apply" => drop(self.apply(id)),
            "work" => self.work(id),
            "compact" => self.cluster().compact(id, number(args[0])),
            "pause" => drop(self.paused.insert(id)),
            "go-on" => drop(self.paused.remove(&id)),
            "slow-disk" => drop(self.slow_disks.insert(id)),
            "quick-disk" => drop(self.slow_disks.remove(&id)),
            "slow-machine" => drop(self.slow_machines.insert(id)),
            "quick-machine" => drop(self.slow_machines.remove(&id)),
            "crash" => {
                let lost: Vec<String> = self
                    .cluster()
                    .node(id)
                    .unpersisted
                    .iter()
                    .map(|persist| format!("#{}", persist.seq.0))
                    .collect();
                if !lost.is_empty() {
                    self.say(format!("{id} loses writes {}", lost.join(" ")));
                }
                self.cluster().crash(id);
                self.seen.remove(&id);
            }
            "disconnect" => self.disconnect(id),
            "rot" => {
                self.disconnect(id);
                self.cluster().rot(id, number(args[0]) as usize);
            }
            "wipe" => self.cluster().node(id).disk = Disk::default(),
            "restart" => self.cluster().restart(id, args.first() == Some(&"damaged")),
            _ => return false,
        }
        true
    }

    fn run_on_network(&mut self, verb: &str, args: &[&str]) -> bool {
        match verb {
            "deliver" => self.deliver_chosen(args, false),
            "duplicate" => self.deliver_chosen(args, true),
            "drop" => {
                let chosen = self.take(args);
                self.lose(chosen);
            }
            // Late messages: what is held arrives after `unhold` only, whatever becomes of the connection.
            "hold" => {
                let chosen = self.take(args);
                assert!(!chosen.is_empty(), "no such message is under way: {args:?}");
                chosen
                    .iter()
                    .for_each(|message| self.say(format!("held {}", trace::message(message))));
                self.held.extend(chosen);
            }
            "unhold" => {
                let held = std::mem::take(&mut self.held);
                self.cluster().network.splice(..0, held);
            }
            // What is under way arrives the other way round.
            "reverse" => self.cluster().network.reverse(),
            "sent" => {
                let texts: Vec<String> = self.cluster().network.iter().map(trace::message).collect();
                texts.iter().for_each(|text| self.say(text));
            }
            "cut" => {
                if let Some((from, to)) = parse_link(args[0]) {
                    self.cut(from, to);
                } else {
                    let (a, b) = (Some(number(args[0])), Some(number(args[1])));
                    self.cut(a, b);
                    self.cut(b, a);
                }
            }
            "isolate" => {
                for id in args.iter().map(|word| number(word)) {
                    self.cut(Some(id), None);
                    self.cut(None, Some(id));
                }
            }
            "heal" => self.cluster().cut.clear(),
            _ => return false,
        }
        true
    }

    fn cut(&mut self, from: Option<u64>, to: Option<u64>) {
        let ids = self.cluster().ids();
        for &a in ids.iter().filter(|id| from.is_none_or(|from| from == **id)) {
            for &b in ids.iter().filter(|id| to.is_none_or(|to| to == **id)) {
                self.cluster().cut.insert((a, b));
            }
        }
    }

    /// `cluster 1 2 3 / 4 append-bytes=1`: voters / peers that know no configuration, and what differs from the default.
    fn start(&mut self, args: &[&str]) {
        let (settings, peers): (Vec<&str>, Vec<&str>) = args.iter().copied().partition(|word| word.contains('='));
        let slash = peers.iter().position(|word| *word == "/").unwrap_or(peers.len());
        let ids = |words: &[&str]| words.iter().map(|word| number(word)).collect::<Vec<u64>>();
        let others = ids(peers.get(slash + 1..).unwrap_or_default());
        let tune = |config: &mut Config| settings.iter().for_each(|setting| tune(config, setting));
        *self = Script {
            cluster: Some(Cluster::new(&ids(&peers[..slash]), &others, 7, tune)),
            is_quiet: self.is_quiet,
            ..Script::default()
        };
        for id in self.cluster().ids() {
            // How a group begins is no news.
            let status = self.cluster().raft(id).status();
            self.seen.insert(id, status);
        }
    }

    /// An election that is not the script's topic.
    fn lead(&mut self, id: u64) {
        let was_quiet = std::mem::replace(&mut self.is_quiet, true);
        self.cluster().raft(id).campaign();
        self.settle();
        self.is_quiet = was_quiet;
        let status = self.cluster().raft(id).status();
        assert_eq!(status.role, Role::Leader, "{id} is elected");
        self.say(format!("{id}: Leader t{}; commit {}", status.term, status.commit));
    }

    /// Takes what a peer has to do. Messages are told as they leave; they arrive when they are delivered.
    fn pump(&mut self, id: u64) -> bool {
        let sent_before = self.cluster().network.len();
        let Some(ready) = self.cluster().pump(id) else {
            return false;
        };
        if let Some(persist) = &ready.persist {
            self.say(trace::persist(id, persist));
        }
        if let Some(meta) = &ready.snapshot {
            self.say(format!("{id} installs snapshot {}/{}", meta.term, meta.index));
        }
        self.say_sent(sent_before, &ready.messages);
        for peer in &ready.need_snapshot {
            self.say(format!("{id}: {peer} needs a snapshot"));
        }
        for read in &ready.reads {
            self.say(format!("{id} reads #{} at {}", read.ctx, read.index));
        }
        for read in &ready.reads_behind {
            self.say(format!(
                "{id} fails read #{} at {}, applied {}",
                read.ctx, read.index, read.applied
            ));
        }
        for ctx in &ready.reads_dropped {
            self.say(format!("{id} drops read #{ctx}"));
        }
        self.look_at(id);
        true
    }

    /// `due` were to leave; those that speak in a term that is over did not.
    fn say_sent(&mut self, sent_before: usize, due: &[Message]) {
        let sent: Vec<Message> = self.cluster().network[sent_before..].to_vec();
        sent.iter().for_each(|message| self.say(trace::message(message)));
        for message in due.iter().filter(|message| !sent.contains(message)) {
            self.say(format!("stale {}", trace::message(message)));
        }
    }

    fn persist(&mut self, id: u64) -> bool {
        let Some(persist) = self.cluster().node(id).unpersisted.front().cloned() else {
            return false;
        };
        let sent_before = self.cluster().network.len();
        self.cluster().persist(id);
        self.say(format!("{id} wrote #{}", persist.seq.0));
        self.say_sent(sent_before, &persist.after);
        self.look_at(id);
        true
    }

    fn apply(&mut self, id: u64) -> bool {
        let Some(entry) = self.cluster().apply(id) else {
            return false;
        };
        let mut line = format!("{id} applies {}", trace::entry(&entry));
        if entry.kind == EntryKind::ConfChange {
            let _ = write!(line, ", conf {}", trace::conf(self.cluster().raft(id).conf()));
        }
        self.say(line);
        self.look_at(id);
        true
    }

    /// All that one peer can do without a message. Returns whether it did anything.
    fn work_once(&mut self, id: u64) -> bool {
        if self.paused.contains(&id) {
            return false;
        }
        let mut moved = self.pump(id);
        while !self.slow_disks.contains(&id) && self.persist(id) {
            moved = true;
        }
        while !self.slow_machines.contains(&id) && self.apply(id) {
            moved = true;
        }
        moved
    }

    fn work(&mut self, id: u64) {
        while self.work_once(id) {}
    }

    /// Messages under way that a script names by link and kind, both optional: `1>*`, `Append`, `1>2 Append`.
    fn take(&mut self, args: &[&str]) -> Vec<Message> {
        let link = args.iter().find_map(|word| parse_link(word)).unwrap_or_default();
        let kind = args.iter().find(|word| !word.contains('>'));
        let is_chosen = |message: &Message| {
            link.0.is_none_or(|from| from == message.from.0)
                && link.1.is_none_or(|to| to == message.to.0)
                && kind.is_none_or(|kind| *kind == trace::kind(&message.body))
        };
        let (chosen, left) = std::mem::take(&mut self.cluster().network)
            .into_iter()
            .partition(is_chosen);
        self.cluster().network = left;
        chosen
    }

    fn lose(&mut self, messages: Vec<Message>) {
        for message in messages {
            self.say(format!("lost {}", trace::message(&message)));
            self.cluster().lose(&message);
        }
    }

    /// What is under way from and to a peer is lost with its connections.
    fn disconnect(&mut self, id: u64) {
        for link in [format!("{id}>*"), format!("*>{id}")] {
            let chosen = self.take(&[&link]);
            self.lose(chosen);
        }
    }

    fn deliver_chosen(&mut self, args: &[&str], is_kept: bool) {
        let chosen = self.take(args);
        assert!(!chosen.is_empty(), "no such message is under way: {args:?}");
        if is_kept {
            self.cluster().network.splice(..0, chosen.iter().cloned());
        }
        for message in chosen {
            self.say(format!("arrives {}", trace::message(&message)));
            self.hand_over(message);
        }
    }

    fn hand_over(&mut self, message: Message) {
        let to = message.to.0;
        if self.cluster().is_cut(message.from, message.to) || !self.cluster().node(to).is_up() {
            return self.lose(vec![message]);
        }
        if self.paused.contains(&to) {
            return self.cluster().network.push(message);
        }
        if let Err(error) = self.cluster().try_deliver(message) {
            self.say_always(format!("{to} refuses: {error}"));
        }
        self.look_at(to);
    }

    /// Everybody works and every message arrives, in the order of sending, until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            let mut moved = false;
            for id in self.cluster().ids() {
                moved |= self.work_once(id);
            }
            for message in std::mem::take(&mut self.cluster().network) {
                moved |= !self.paused.contains(&message.to.0);
                self.hand_over(message);
            }
            if !moved {
                return;
            }
        }
        panic!("the script does not come to rest");
    }
}

/// `append-bytes=1` at all peers, `2:priority=0` at one of them.
fn tune(config: &mut Config, setting: &str) {
    let (name, value) = setting.split_once('=').expect("a setting is name=value");
    let (peer, name) = name
        .split_once(':')
        .map_or((None, name), |(peer, name)| (Some(number(peer)), name));
    if peer.is_some_and(|peer| PeerId(peer) != config.id) {
        return;
    }
    let value = number(value);
    match name {
        "append-bytes" => config.max_append_bytes = value as usize,
        "inflight-messages" => config.max_inflight_messages = value as usize,
        "inflight-bytes" => config.max_inflight_bytes = value as usize,
        "uncommitted-bytes" => config.max_uncommitted_bytes = value as usize,
        "pending-reads" => config.max_pending_reads = value as usize,
        "read-lag" => config.max_read_lag = value,
        "priority" => config.priority = value as u8,
        _ => panic!("unknown setting {name}"),
    }
}
