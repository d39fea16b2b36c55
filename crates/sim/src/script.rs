//! A run as text that a person can read, after etcd's interaction tests: what was done to a node, and below it, indented,
//! what the node did.

use std::{
    collections::BTreeMap,
    fmt::{Arguments, Write as _},
};

use settle_base::{GroupId, NodeId, PeerId};
use settle_host::{Host, HostAction, HostEvent, PeerMessage};
use settle_machine::Service;
use settle_raft::{Body, Message};
use settle_storage::{Disk, DiskRead};

/// Which turns of which nodes are printed while a seed runs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Show {
    /// `None`: every node.
    pub node: Option<NodeId>,
    /// From this simulated time on, in microseconds.
    pub from_us: u64,
    /// Waits for a line on standard input after each turn.
    pub is_stepping: bool,
}

#[derive(Default)]
pub(crate) struct Script {
    lines: Option<Vec<String>>,
    show: Option<Show>,
    /// `n2` for node 2's directory, `n2'` for the one after it was lost.
    names: BTreeMap<PeerId, String>,
}

impl Script {
    pub(crate) fn new(keeps_lines: bool, show: Option<Show>) -> Script {
        Script {
            lines: keeps_lines.then(Vec::new),
            show,
            names: BTreeMap::new(),
        }
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }

    pub(crate) fn name(&mut self, peer: PeerId, node: NodeId, generation: u32) {
        let name = format!("n{node}{}", "'".repeat(generation as usize));
        self.names.insert(peer, name);
    }

    /// One event.
    pub(crate) fn line(&mut self, now_us: u64, line: Arguments<'_>) {
        if self.lines.is_none() && self.show.is_none() {
            return;
        }
        let text = format!("{} {}", clock(now_us), self.named(line.to_string()));
        if self.show.is_some_and(|show| now_us >= show.from_us) {
            println!("{text}");
        }
        if let Some(lines) = &mut self.lines {
            lines.push(text);
        }
    }

    pub(crate) fn shows(&self, now_us: u64, node: NodeId) -> bool {
        let is_shown = |show: Show| now_us >= show.from_us && show.node.is_none_or(|n| n == node);
        self.show.is_some_and(is_shown)
    }

    /// What a node's turn begins with.
    pub(crate) fn events<R>(&self, now_us: u64, node: NodeId, events: &[HostEvent<R>]) {
        let mut text = format!("{} > node {node}\n", clock(now_us));
        for event in events {
            match event {
                HostEvent::Tick => text += "  tick\n",
                HostEvent::DiskReady => text += "  disk ready\n",
                HostEvent::PeerUp { node, .. } => _ = writeln!(text, "  node {node} is connected"),
                HostEvent::PeerDown { node } => _ = writeln!(text, "  node {node} is disconnected"),
                HostEvent::Request(_) => text += "  a client's request\n",
                HostEvent::Operator(request) => _ = writeln!(text, "  operator {request:?}"),
                HostEvent::Peer { from, message } => self.message(&mut text, &format!("from node {from}"), message),
            }
        }
        print!("{}", self.named(text));
    }

    /// What it did, and how it then is.
    pub(crate) fn actions<S: Service, D: Disk + DiskRead>(
        &self,
        host: &Host<S, D>,
        groups: &[GroupId],
        actions: &[HostAction<S::Response>],
    ) {
        let mut text = "----\n".to_owned();
        for action in actions {
            match action {
                HostAction::Send { to, message, .. } => self.message(&mut text, &format!("to node {to}"), message),
                HostAction::Respond(_) => text += "  answers a client\n",
                HostAction::ClosePeer { node, reason } => _ = writeln!(text, "  accuses node {node}: {reason}"),
                HostAction::Discard(_) => {}
                HostAction::Note(note) => _ = writeln!(text, "  {note:?}"),
                HostAction::Fatal(error) => _ = writeln!(text, "  stops: {error}"),
                #[allow(unreachable_patterns, reason = "hosts learn new actions")]
                _ => text += "  does something else\n",
            }
        }
        for &group in groups {
            let Some(raft) = host.raft(group) else { continue };
            let _ = writeln!(
                text,
                "  group {group}: {:?} term {} leader {} log {}..{} commit {} applied {}",
                raft.role(),
                raft.term(),
                raft.leader(),
                raft.first_index(),
                raft.last_index(),
                raft.commit(),
                raft.applied()
            );
        }
        println!("{}", self.named(text));
        if self.show.is_some_and(|show| show.is_stepping) {
            let mut line = String::new();
            // At the end of the input the rest runs through.
            let _ = std::io::stdin().read_line(&mut line);
        }
    }

    fn message(&self, text: &mut String, way: &str, message: &PeerMessage) {
        match message {
            PeerMessage::Raft(messages) => {
                for message in messages {
                    let _ = writeln!(text, "  {way}: {}", brief(message));
                }
            }
            PeerMessage::SnapshotChunk(chunk) => {
                let _ = writeln!(text, "  {way}: snapshot chunk of group {}", chunk.group);
            }
            PeerMessage::Propose { group, command, .. } => {
                let _ = writeln!(text, "  {way}: group {group} propose {} bytes", command.len());
            }
            PeerMessage::Service(body) => _ = writeln!(text, "  {way}: service, {} bytes", body.len()),
            other => _ = writeln!(text, "  {way}: {other:?}"),
        }
    }

    /// Replaces random incarnations by the names of their nodes.
    fn named(&self, mut text: String) -> String {
        for (peer, name) in &self.names {
            let hex = peer.to_string();
            if text.contains(&hex) {
                text = text.replace(&format!("p{hex}"), name).replace(&hex, name);
            }
        }
        text
    }
}

fn clock(now_us: u64) -> String {
    format!("{:>3}.{:06}", now_us / 1_000_000, now_us % 1_000_000)
}

/// A message of consensus in one line.
fn brief(message: &Message) -> String {
    let Message { group, term, body, .. } = message;
    let body = match body {
        Body::Append {
            prev_index,
            prev_term,
            commit,
            entries,
            ..
        } => {
            let entries: Vec<_> = entries.iter().map(|e| format!("{}/{}", e.index, e.term)).collect();
            format!(
                "Append after {prev_index}/{prev_term} [{}] commit {commit}",
                entries.join(" ")
            )
        }
        Body::Snapshot { meta, .. } => format!("Snapshot {}/{} {:?}", meta.index, meta.term, meta.conf),
        other => format!("{other:?}"),
    };
    format!("group {group} term {term} {body}")
}
