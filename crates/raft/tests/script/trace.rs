//! How a script's trace names things: peers by number, terms as `t3`, log positions and entries as `term/index`.

use std::fmt::Write as _;

use settle_raft::{
    Body, ConfChange, ConfChangeKind, ConfState, Entry, EntryKind, Index, Message, PRIORITY_MAX, PeerId, Persist,
    Status, Term,
};

/// `3/7:data`: the entry at 7, of term 3.
pub fn entry(entry: &Entry) -> String {
    let data = match entry.kind {
        EntryKind::Normal => String::from_utf8_lossy(&entry.data).into_owned(),
        EntryKind::Noop => "noop".to_owned(),
        EntryKind::Host => format!("host({})", String::from_utf8_lossy(&entry.data)),
        EntryKind::ConfChange => change(&ConfChange::decode(&entry.data).expect("a change in the log is valid")),
    };
    format!("{}/{}:{data}", entry.term, entry.index)
}

fn change(change: &ConfChange) -> String {
    if change.is_leave() {
        return "leave".to_owned();
    }
    let kind = |kind: &ConfChangeKind| match kind {
        ConfChangeKind::AddVoter(peer) => format!("+{peer}"),
        ConfChangeKind::AddLearner(peer) => format!("~{peer}"),
        ConfChangeKind::Remove(peer) => format!("-{peer}"),
        ConfChangeKind::AddWitness(peer) => format!("^{peer}"),
        ConfChangeKind::Reset => "reset".to_owned(),
    };
    let kinds: Vec<String> = change.changes.iter().map(kind).collect();
    format!("change({})", kinds.join(" "))
}

pub fn entries(entries: &[Entry]) -> String {
    format!("[{}]", entries.iter().map(entry).collect::<Vec<_>>().join(" "))
}

/// `(1 4 5)&(1 2 3)`: the incoming and the outgoing half of a joint configuration.
pub fn conf(conf: &ConfState) -> String {
    let list = |peers: &[PeerId]| peers.iter().map(|peer| peer.to_string()).collect::<Vec<_>>().join(" ");
    let mut text = format!("({})", list(&conf.voters));
    if conf.is_joint() {
        let _ = write!(text, "&({})", list(&conf.outgoing));
    }
    if !conf.learners.is_empty() {
        let _ = write!(text, " learners ({})", list(&conf.learners));
    }
    if !conf.witnesses.is_empty() {
        let _ = write!(text, " witnesses ({})", list(&conf.witnesses));
    }
    if !conf.learners_next.is_empty() {
        let _ = write!(text, " learners-next ({})", list(&conf.learners_next));
    }
    text
}

/// The name by which a script asks for messages of this kind.
pub fn kind(body: &Body) -> &'static str {
    match body {
        Body::PreVote { .. } => "PreVote",
        Body::PreVoteReply { .. } => "PreVoteReply",
        Body::Vote { .. } => "Vote",
        Body::VoteReply { .. } => "VoteReply",
        Body::Append { .. } => "Append",
        Body::AppendReply { .. } => "AppendReply",
        Body::Heartbeat { .. } => "Heartbeat",
        Body::HeartbeatReply { .. } => "HeartbeatReply",
        Body::Snapshot { .. } => "Snapshot",
        Body::TimeoutNow => "TimeoutNow",
        Body::ReadIndex { .. } => "ReadIndex",
        Body::ReadIndexReply { .. } => "ReadIndexReply",
        Body::Held { .. } => "Held",
    }
}

/// What a peer knows to be committed, when it says so.
fn committed((index, term): (Index, Term)) -> String {
    if index == 0 {
        String::new()
    } else {
        format!(" commit {term}/{index}")
    }
}

fn answer(granted: bool, recovering: Option<u64>) -> String {
    format!("{}{}", if granted { "yes" } else { "no" }, run_number(recovering))
}

/// What a peer whose log was damaged says with each answer: the number of this start.
fn run_number(recovering: Option<u64>) -> String {
    recovering.map_or(String::new(), |number| format!(" recovering#{number}"))
}

/// `1>2 Append t3 after 2/6 commit 5 [3/7:data]`
pub fn message(message: &Message) -> String {
    let body = match &message.body {
        &Body::PreVote {
            last_index,
            last_term,
            commit,
            priority,
        } => {
            let priority = if priority == PRIORITY_MAX {
                String::new()
            } else {
                format!(" priority {priority}")
            };
            format!("log {last_term}/{last_index}{}{priority}", committed(commit))
        }
        &Body::Vote {
            last_index,
            last_term,
            force,
        } => format!("log {last_term}/{last_index}{}", if force { " force" } else { "" }),
        &Body::PreVoteReply {
            granted,
            commit,
            recovering,
        } => format!("{}{}", answer(granted, recovering), committed(commit)),
        &Body::VoteReply { granted, recovering } => answer(granted, recovering),
        Body::Append {
            prev_index,
            prev_term,
            commit,
            entries: list,
        } => format!("after {prev_term}/{prev_index} commit {commit} {}", entries(list)),
        Body::AppendReply { result, recovering } => {
            let result = match result {
                Ok(index) => format!("has {index}"),
                Err(reject) => format!(
                    "refuses after {}, try {}/{}",
                    reject.prev_index, reject.hint_term, reject.hint_index
                ),
            };
            format!("{result}{}", run_number(*recovering))
        }
        Body::Heartbeat {
            commit,
            read_seq,
            recover_to,
            rest,
        } => {
            let rest = if *rest { " rest" } else { "" };
            let recover = recover_to.map_or(String::new(), |(number, to)| format!(" recover#{number} to {to}"));
            format!("commit {commit} round {read_seq}{recover}{rest}")
        }
        Body::HeartbeatReply {
            read_seq,
            recovering,
            rested,
        } => {
            let rested = if *rested { " rests" } else { "" };
            format!("round {read_seq}{}{rested}", run_number(*recovering))
        }
        Body::Snapshot { meta } => format!("{}/{} conf {}", meta.term, meta.index, conf(&meta.conf)),
        Body::TimeoutNow => String::new(),
        Body::ReadIndex { ctx } => format!("#{ctx}"),
        Body::ReadIndexReply { ctx, index } => format!("#{ctx} at {index}"),
        Body::Held { index } => format!("to {index}"),
    };
    let head = format!(
        "{}>{} {} t{}",
        message.from,
        message.to,
        kind(&message.body),
        message.term
    );
    format!("{head} {body}").trim_end().to_owned()
}

/// `1 writes #4: t3 vote 1 commit 5, truncates after 6, [3/7:data]; 2 messages wait`
pub fn persist(id: u64, persist: &Persist) -> String {
    let mut parts = Vec::new();
    if let Some(hard_state) = persist.hard_state {
        let (term, commit) = (hard_state.term, hard_state.commit);
        let vote = if hard_state.vote.is_none() {
            "no vote".to_owned()
        } else {
            format!("vote {}", hard_state.vote)
        };
        parts.push(format!("t{term} {vote} commit {commit}"));
    }
    if let Some(meta) = &persist.snapshot {
        parts.push(format!("snapshot {}/{}", meta.term, meta.index));
    }
    if let Some(last) = persist.truncate_after {
        parts.push(format!("truncates after {last}"));
    }
    if !persist.entries.is_empty() {
        parts.push(entries(&persist.entries));
    }
    let mut text = format!("{id} writes #{}: {}", persist.seq.0, parts.join(", "));
    match persist.after.len() {
        0 => {}
        1 => text.push_str("; 1 message waits"),
        waiting => {
            let _ = write!(text, "; {waiting} messages wait");
        }
    }
    text
}

/// What changed of a peer since it was last shown, if anything: `2: Follower t3 vote 1 leader 1; commit 5`.
pub fn change_of_status(before: Option<&Status>, now: &Status) -> Option<String> {
    let mut parts = Vec::new();
    let office = |status: &Status| (status.role, status.term, status.vote, status.leader);
    if before.is_none_or(|before| office(before) != office(now)) {
        parts.push(office_text(now));
    }
    if before.map_or(0, |before| before.commit) != now.commit {
        parts.push(format!("commit {}", now.commit));
    }
    if before.is_some_and(|before| before.recovering) != now.recovering {
        parts.push(if now.recovering { "recovering" } else { "whole" }.to_owned());
    }
    if before.is_some_and(|before| before.resting) != now.resting {
        parts.push(if now.resting { "rests" } else { "awake" }.to_owned());
    }
    (!parts.is_empty()).then(|| format!("{}: {}", now.id, parts.join("; ")))
}

fn office_text(status: &Status) -> String {
    let mut text = format!("{:?} t{}", status.role, status.term);
    if !status.vote.is_none() {
        let _ = write!(text, " vote {}", status.vote);
    }
    if !status.leader.is_none() {
        let _ = write!(text, " leader {}", status.leader);
    }
    text
}

/// All of one peer, with its followers when it leads.
pub fn status(status: &Status, last_term: u64) -> String {
    let mut text = format!(
        "{}: {}; commit {} last {last_term}/{}; conf {}",
        status.id,
        office_text(status),
        status.commit,
        status.last_index,
        conf(&status.conf)
    );
    if status.recovering {
        text.push_str("; recovering");
    }
    if status.resting {
        text.push_str("; rests");
    }
    if !status.transferee.is_none() {
        let _ = write!(text, "; hands over to {}", status.transferee);
    }
    for peer in &status.progress {
        let mark = if peer.recovering { " recovering" } else { "" };
        let (matched, next) = (peer.matched, peer.next);
        let _ = write!(
            text,
            "\n  {} has {matched} next {next} {:?}{mark}",
            peer.peer, peer.state
        );
    }
    text
}
