//! What the gate's parts share: who is connected where, and how clients, operators and other nodes are spoken to.

use std::{collections::BTreeSet, time::Duration};

use settle_base::{Mono, NodeId};
use settle_machine::{Action, Context};
use settle_tx::TxMachine;

use crate::{
    AdminAnswer, ClientAnswer, ConnId, DropReason, GateConfig, GateError, GateNote, GateResponse, GateStats,
    RequestKey, SessionInfo,
    calls::{Calls, FailedCall},
    directory::{Directory, SessionKey},
    message::{GateMessage, SYNC_CHUNK_BYTES, session_bytes},
    replies::{Due, RequestKind},
    session::Sessions,
};

pub(crate) type Cx<'a> = Context<'a, TxMachine, GateResponse>;

/// An admitted request that is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub conn: ConnId,
    pub key: RequestKey,
    pub kind: RequestKind,
    pub born: Mono,
}

#[derive(Debug)]
pub(crate) struct Door {
    pub config: GateConfig,
    pub sessions: Sessions,
    pub directory: Directory,
    pub calls: Calls,
    /// The nodes that this one is connected with.
    pub peers: BTreeSet<NodeId>,
    /// Calls whose leader is to be told that they came to nothing; told at the end of each step.
    pub failed_calls: Vec<FailedCall>,
    pub totals: GateStats,
}

impl Door {
    pub fn new(config: GateConfig) -> Door {
        Door {
            config,
            sessions: Sessions::default(),
            directory: Directory::default(),
            calls: Calls::default(),
            peers: BTreeSet::new(),
            failed_calls: Vec::new(),
            totals: GateStats::default(),
        }
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
        let body = GateMessage::SessionUp(info.clone()).encode();
        let fits = self.directory.put(cx.node, info, self.config.max_sessions);
        assert!(fits, "the door opens no more sessions than the directory takes");
        for peer in &self.peers {
            cx.actions.push(Action::Peer {
                to: *peer,
                body: body.clone(),
            });
        }
    }

    pub fn withdraw(&mut self, conn: ConnId, cx: &mut Cx<'_>) {
        self.directory.remove(SessionKey { node: cx.node, conn });
        let body = GateMessage::SessionDown { conn }.encode();
        for peer in &self.peers {
            cx.actions.push(Action::Peer {
                to: *peer,
                body: body.clone(),
            });
        }
    }

    /// Tells a new peer of all sessions of this node, in parts.
    pub fn sync(&mut self, peer: NodeId, cx: &mut Cx<'_>) {
        let mut first = true;
        let mut sessions = Vec::new();
        let mut bytes = 0;
        for info in self.directory.sessions_of(cx.node) {
            bytes += session_bytes(&info);
            sessions.push(info);
            if bytes >= SYNC_CHUNK_BYTES {
                let part = GateMessage::SessionsSync {
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
            let part = GateMessage::SessionsSync { first, sessions };
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
