//! What the gate's parts share: who is connected where, and how clients, operators and other nodes are spoken to.

use std::{collections::BTreeMap, time::Duration};

use settle_base::{Mono, NodeId};
use settle_machine::{Action, Context};
use settle_tx::{Tid, TxMachine};

use crate::{
    AdminAnswer, ClientAnswer, ConnId, DropReason, GateConfig, GateError, GateNote, GateResponse, GateStats,
    RefusalError, RequestKey, SessionInfo,
    calls::{Calls, FailedCall},
    directory::{Directory, SessionKey},
    message::{GateMessage, SYNC_CHUNK_BYTES, SessionsDigest, session_bytes},
    replies::{Due, RequestKind},
    service_groups::Waiting,
    session::Sessions,
};

/// How often each peer is told the digest of this node's sessions.
const DIGEST_EVERY: Duration = Duration::from_secs(1);
/// A peer's sessions are asked for again after these pauses, from the shorter to the longer while asking does not help
/// (they may be more than this node keeps).
const ASK_PAUSE_MIN: Duration = Duration::from_millis(500);
const ASK_PAUSE_MAX: Duration = Duration::from_secs(8);
/// Of calls without a channel so many are noted in one second, at most.
const NO_CHANNEL_NOTES: u32 = 16;
/// So are requests about transactions of another application.
const STRANGER_NOTES: u32 = 16;

pub(crate) type Cx<'a> = Context<'a, TxMachine, GateResponse>;

/// An admitted request that is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub conn: ConnId,
    pub key: RequestKey,
    pub kind: RequestKind,
    pub born: Mono,
}

/// A node that this one is connected with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    ask_again_at: Mono,
    ask_pause: Duration,
}

#[derive(Debug)]
pub(crate) struct Door {
    /// This run of the gate.
    pub run: u64,
    pub config: GateConfig,
    pub sessions: Sessions,
    pub directory: Directory,
    pub calls: Calls,
    /// Requests whose service group is on its way.
    pub waiting: Waiting,
    /// The nodes that this one has made a connection with.
    pub peers: BTreeMap<NodeId, Peer>,
    next_digest_at: Mono,
    /// Calls without a channel noted since that time.
    no_channel_notes: (Mono, u32),
    /// Requests about others' transactions noted since that time.
    stranger_notes: (Mono, u32),
    /// Calls whose leader is to be told that they came to nothing; told at the end of each step.
    pub failed_calls: Vec<FailedCall>,
    pub totals: GateStats,
    /// Commits that arrived; counted only when some are lost on purpose.
    commits: u64,
}

impl Door {
    pub fn new(config: GateConfig, run: u64) -> Door {
        Door {
            run,
            config,
            sessions: Sessions::default(),
            directory: Directory::default(),
            calls: Calls::default(),
            waiting: Waiting::default(),
            peers: BTreeMap::new(),
            next_digest_at: Mono::ZERO,
            no_channel_notes: (Mono::ZERO, 0),
            stranger_notes: (Mono::ZERO, 0),
            failed_calls: Vec::new(),
            totals: GateStats::default(),
            commits: 0,
        }
    }

    /// Whether the commit that has just arrived is one to be lost on purpose.
    pub fn loses_decision(&mut self) -> bool {
        let every = self.config.lose_decide_every;
        if every == 0 {
            return false;
        }
        self.commits += 1;
        self.commits.is_multiple_of(every)
    }

    pub fn hold(&self, kind: RequestKind) -> Duration {
        if kind.is_of_tm() {
            self.config.reply_hold_tm
        } else {
            self.config.reply_hold_rm
        }
    }

    /// The hold has run out, or nobody waits any more.
    pub fn is_over(&self, waiter: &Waiter, now: Mono) -> bool {
        now.since(waiter.born) >= self.hold(waiter.kind) || self.sessions.get(waiter.conn).is_none()
    }

    pub fn answer(&mut self, waiter: Waiter, answer: ClientAnswer, cx: &mut Cx<'_>) {
        if !self.sessions.settle(waiter.conn) {
            return;
        }
        self.respond(waiter.conn, waiter.key, Due::Answer(answer), cx);
    }

    pub fn give(&mut self, waiter: Waiter, due: Due, cx: &mut Cx<'_>) {
        if self.sessions.settle(waiter.conn) {
            self.respond(waiter.conn, waiter.key, due, cx);
        }
    }

    /// As [`Door::give`], for a request that was never counted in.
    pub fn respond(&mut self, conn: ConnId, key: RequestKey, due: Due, cx: &mut Cx<'_>) {
        let response = match due {
            Due::Answer(answer) => {
                self.totals.refused_total += u64::from(matches!(answer, ClientAnswer::Refused(_)));
                GateResponse::Answer { conn, key, answer }
            }
            Due::Silence(why) => {
                match why {
                    DropReason::HoldExpired | DropReason::OutcomeLost => self.totals.holds_expired_total += 1,
                    DropReason::Refused(_) | DropReason::RefusedByMachine(_) => {
                        self.totals.dropped_at_limit_total += 1;
                    }
                }
                GateResponse::Dropped { conn, key, why }
            }
        };
        cx.act(Action::Respond(response));
    }

    pub fn answer_admin(&mut self, key: RequestKey, result: Result<AdminAnswer, GateError>, cx: &mut Cx<'_>) {
        self.answer_operator(key, result.map_err(RefusalError::Gate), cx);
    }

    pub fn answer_operator(&mut self, key: RequestKey, result: Result<AdminAnswer, RefusalError>, cx: &mut Cx<'_>) {
        cx.act(Action::Respond(GateResponse::Admin { key, result }));
    }

    /// Tells the front door to close a connection. It answers with `Close`.
    pub fn close_conn(&mut self, conn: ConnId, error: GateError, cx: &mut Cx<'_>) {
        self.totals.connections_closed_total += 1;
        cx.act(Action::Respond(GateResponse::CloseConn { conn, error }));
    }

    pub fn note(&self, note: GateNote, cx: &mut Cx<'_>) {
        cx.act(Action::Respond(GateResponse::Note(note)));
    }

    pub fn tell(&self, node: NodeId, message: &GateMessage, cx: &mut Cx<'_>) {
        cx.act(Action::Peer {
            to: node,
            body: message.encode(),
        });
    }

    /// A session of this node has other resources than before: the directory and every peer hear of it.
    pub fn publish(&mut self, conn: ConnId, cx: &mut Cx<'_>) {
        let Some(session) = self.sessions.get(conn) else { return };
        let Some(ident) = &session.ident else { return };
        let info = SessionInfo {
            conn,
            application: ident.application.clone(),
            ip: session.ip.clone(),
            port: session.port,
            resources: session.resources.iter().cloned().collect(),
        };
        let run = self.run;
        let news = GateMessage::SessionUp {
            run,
            info: info.clone(),
        };
        let fits = self.directory.put(cx.node, run, info, self.config.max_sessions);
        assert!(fits, "the door opens no more sessions than the directory takes");
        if settle_base::mutant!("sessions_told_only_when_nodes_meet") {
            return;
        }
        self.tell_all(&news, cx);
    }

    pub fn withdraw(&mut self, conn: ConnId, cx: &mut Cx<'_>) {
        self.directory.remove(SessionKey { node: cx.node, conn });
        self.tell_all(&GateMessage::SessionDown { run: self.run, conn }, cx);
    }

    fn tell_all(&self, message: &GateMessage, cx: &mut Cx<'_>) {
        let body = message.encode();
        for peer in self.peers.keys() {
            cx.actions.push(Action::Peer {
                to: *peer,
                body: body.clone(),
            });
        }
    }

    /// This node has made a connection with the peer: each learns the other's sessions.
    pub fn meet(&mut self, node: NodeId, cx: &mut Cx<'_>) {
        let peer = Peer {
            ask_again_at: cx.now + ASK_PAUSE_MIN,
            ask_pause: ASK_PAUSE_MIN,
        };
        self.peers.insert(node, peer);
        self.sync(node, cx);
        self.tell(node, &GateMessage::SyncRequest, cx);
    }

    /// Tells the peers what they should know, when it is time.
    pub fn tell_digest(&mut self, cx: &mut Cx<'_>) {
        if cx.now < self.next_digest_at {
            return;
        }
        self.next_digest_at = cx.now + DIGEST_EVERY;
        if settle_base::mutant!("sessions_told_only_when_nodes_meet") {
            return;
        }
        let digest = self.directory.digest_of(cx.node);
        self.tell_all(&GateMessage::Digest { run: self.run, digest }, cx);
    }

    /// Asks the peer for its sessions if it has others than are known here.
    pub fn compare_digest(&mut self, node: NodeId, run: u64, digest: SessionsDigest, cx: &mut Cx<'_>) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if self.directory.run_of(node) == Some(run) && self.directory.digest_of(node) == digest {
            (peer.ask_again_at, peer.ask_pause) = (cx.now, ASK_PAUSE_MIN);
        } else if cx.now >= peer.ask_again_at {
            peer.ask_again_at = cx.now + peer.ask_pause;
            peer.ask_pause = (peer.ask_pause * 2).min(ASK_PAUSE_MAX);
            self.tell(node, &GateMessage::SyncRequest, cx);
        }
    }

    /// Notes a call that no session can take, seldom enough for a log: the branch's second attempt, and every thirtieth
    /// after it, which is about as many seconds.
    pub fn note_no_channel(&mut self, attempt: u32, note: impl FnOnce() -> GateNote, cx: &mut Cx<'_>) {
        let (since, count) = &mut self.no_channel_notes;
        if cx.now.since(*since) >= Duration::from_secs(1) {
            (*since, *count) = (cx.now, 0);
        }
        if attempt % 30 == 2 && *count < NO_CHANNEL_NOTES {
            *count += 1;
            cx.act(Action::Respond(GateResponse::Note(note())));
        }
    }

    /// Counts a request about a transaction of another application, and notes it, seldom enough for a log.
    pub fn note_stranger(&mut self, waiter: Waiter, tid: Tid, cx: &mut Cx<'_>) {
        self.totals.strangers_refused_total += 1;
        let (since, count) = &mut self.stranger_notes;
        if cx.now.since(*since) >= Duration::from_secs(1) {
            (*since, *count) = (cx.now, 0);
        }
        if *count == STRANGER_NOTES {
            return;
        }
        *count += 1;
        let application = self.sessions.caller(waiter.conn).unwrap_or_default().to_owned();
        let conn = waiter.conn;
        self.note(GateNote::OfAnother { conn, application, tid }, cx);
    }

    /// Tells a peer of all sessions of this node, in parts.
    pub fn sync(&mut self, peer: NodeId, cx: &mut Cx<'_>) {
        let run = self.run;
        let mut first = true;
        let mut sessions = Vec::new();
        let mut bytes = 0;
        for info in self.directory.sessions_of(cx.node) {
            bytes += session_bytes(&info);
            sessions.push(info);
            if bytes >= SYNC_CHUNK_BYTES {
                let part = GateMessage::SessionsSync {
                    run,
                    first,
                    sessions: std::mem::take(&mut sessions),
                };
                cx.actions.push(Action::Peer {
                    to: peer,
                    body: part.encode(),
                });
                (first, bytes) = (false, 0);
            }
        }
        if first || !sessions.is_empty() {
            let part = GateMessage::SessionsSync { run, first, sessions };
            cx.actions.push(Action::Peer {
                to: peer,
                body: part.encode(),
            });
        }
    }

    pub fn note_failed_call(&mut self, failed: &FailedCall, cx: &mut Cx<'_>) {
        self.totals.calls_failed_total += 1;
        let note = GateNote::CallFailed {
            xid: failed.xid.clone(),
            branch: failed.branch,
            why: failed.why,
        };
        self.note(note, cx);
    }
}
