//! The second phase on its way: from the leader's driver through the node that holds a channel to the resource
//! manager, and its answer as a fact into the log.

use std::borrow::Cow;

use settle_base::{NodeId, Term};
use settle_machine::{Action, GroupView};
use settle_tx::{
    BranchId, BranchType, CallFailure, ClientId, DriverAction, Expect, Global, OwnedCommandBody, TxMachine,
};

use crate::{
    BranchCall, CallId, ConnId, GateNote, GateResponse, RmAnswer, SessionInfo,
    calls::{Answered, FailedCall, Verdict},
    directory::{SessionKey, Wanted},
    door::{Cx, Door},
    gate::TxGate,
    group::{Purpose, TxGroup},
    message::{GateMessage, PeerCall},
};

impl TxGroup {
    pub fn carry_out(
        &mut self,
        action: DriverAction,
        term: Term,
        view: &GroupView<'_, TxMachine>,
        door: &mut Door,
        cx: &mut Cx<'_>,
    ) {
        match action {
            DriverAction::Decide { tid, decision } => {
                if let Some(global) = view.machine.global(tid) {
                    door.note(
                        GateNote::TimedOut {
                            xid: global.xid.to_string(),
                        },
                        cx,
                    );
                }
                let body = OwnedCommandBody::Decide {
                    tid,
                    decision,
                    expect: Expect::Begin,
                    by: None,
                };
                // Without room the driver gives it again.
                if self.pending.has_room_for_driver() {
                    self.submit(body, Purpose::Timeout, &door.config, cx.now);
                }
            }
            DriverAction::MarkRetrying { tid, branch, status } => {
                let body = OwnedCommandBody::BranchDone { tid, branch, status };
                if self.pending.has_room_for_driver() {
                    self.submit(body, Purpose::Mark { tid, branch }, &door.config, cx.now);
                } else {
                    self.driver.on_mark_lost(tid, branch);
                }
            }
            DriverAction::Stuck { tid, branch } => {
                let Some(global) = view.machine.global(tid) else { return };
                let Some(callee) = Callee::of(global, branch) else {
                    return;
                };
                door.note(
                    GateNote::Stuck {
                        xid: global.xid.to_string(),
                        branch,
                        resource: callee.resource.into_owned(),
                        client: callee.client.to_owned(),
                    },
                    cx,
                );
            }
            DriverAction::Call {
                tid,
                branch,
                kind,
                attempt,
            } => {
                let Some(global) = view.machine.global(tid) else { return };
                let Some(callee) = Callee::of(global, branch) else {
                    return;
                };
                let wanted = Wanted {
                    application: callee.asker.application,
                    ip: callee.asker.ip,
                    port: callee.asker.port,
                    resource: &callee.resource,
                    branch_type: callee.branch_type,
                };
                let chosen = door.directory.choose(wanted, cx.node, attempt);
                let with_run = chosen.and_then(|session| Some((session, door.directory.run_of(session.node)?)));
                let Some((session, run)) = with_run else {
                    door.totals.calls_failed_total += 1;
                    let note = || GateNote::NoChannel {
                        xid: global.xid.to_string(),
                        branch,
                        resource: callee.resource.to_string(),
                        client: callee.client.to_string(),
                        attempt,
                    };
                    door.note_no_channel(attempt, note, cx);
                    let why = CallFailure::NoChannel;
                    self.driver
                        .on_call_failed(view.machine, tid, branch, attempt, why, view.time);
                    return;
                };
                let body = BranchCall {
                    kind,
                    xid: global.xid.to_string(),
                    branch: branch.on_the_wire(),
                    branch_type: callee.branch_type,
                    resource: callee.resource.to_string(),
                    application_data: callee.application_data,
                };
                let call = PeerCall {
                    group: self.id,
                    term,
                    tid,
                    branch,
                    attempt,
                    run,
                    conn: session.conn,
                    body,
                };
                if session.node == cx.node {
                    door.call_here(cx.node, call, cx);
                } else {
                    self.sent.insert((tid, branch), (session.node, attempt));
                    door.tell(session.node, &GateMessage::Call(call), cx);
                }
            }
        }
    }
}

/// Whom a call is for and what it carries.
struct Callee<'a> {
    /// The client whose branch it is; of a saga only the application is known.
    asker: ClientId<'a>,
    /// As it is written in the log.
    client: &'a str,
    resource: Cow<'a, str>,
    branch_type: BranchType,
    application_data: String,
}

impl<'a> Callee<'a> {
    fn of(global: &'a Global, branch: BranchId) -> Option<Callee<'a>> {
        if branch.is_saga() {
            let application = &*global.application;
            return Some(Callee {
                asker: ClientId {
                    application,
                    ip: "",
                    port: 0,
                },
                client: application,
                resource: Cow::Owned(global.saga_resource()),
                branch_type: BranchType::Saga,
                // The state machine's recover strategy looks at it (`SagaResourceManager.branchRollback`).
                application_data: global.status.to_string(),
            });
        }
        let branch = global.branch(branch)?;
        // A client id is only ever written by a gate; without one, AT may still use any application.
        let asker = ClientId::parse(&branch.client).unwrap_or(ClientId {
            application: "",
            ip: "",
            port: 0,
        });
        Some(Callee {
            asker,
            client: &branch.client,
            resource: Cow::Borrowed(&branch.resource),
            branch_type: branch.branch_type,
            application_data: branch.application_data.to_string(),
        })
    }
}

impl Door {
    /// Makes a call on a channel of this node, for this node's driver or for another's.
    pub fn call_here(&mut self, caller: NodeId, call: PeerCall, cx: &mut Cx<'_>) {
        let (timeout, limit) = (self.config.call_timeout, self.config.max_calls);
        // The caller may know an earlier run of this node, or a resource that was taken back since.
        let is_served = call.run == self.run
            && self
                .sessions
                .get(call.conn)
                .is_some_and(|session| session.resources.contains(&call.body.resource));
        if !is_served {
            return self.failed_calls.push(failed(caller, call, CallFailure::NoChannel));
        }
        match self.calls.accept(caller, &call, cx.now, timeout, limit) {
            Verdict::Make(id) => {
                self.totals.calls_total += 1;
                let response = GateResponse::Call {
                    conn: call.conn,
                    call: id,
                    body: call.body,
                };
                cx.act(Action::Respond(response));
            }
            Verdict::Outstanding => {}
            Verdict::OldTerm { newest } => {
                self.totals.calls_refused_old_term_total += 1;
                let (group, term) = (call.group, call.term);
                self.note(
                    GateNote::OldTermRefused {
                        from: caller,
                        group,
                        term,
                        newest,
                    },
                    cx,
                );
                self.failed_calls.push(failed(caller, call, CallFailure::Refused));
            }
            Verdict::Contradicting => {
                let (tid, branch) = (call.tid, call.branch);
                self.note(
                    GateNote::ContradictingCall {
                        from: caller,
                        tid,
                        branch,
                    },
                    cx,
                );
                self.failed_calls.push(failed(caller, call, CallFailure::Refused));
            }
            Verdict::TooMany => self.failed_calls.push(failed(caller, call, CallFailure::Refused)),
        }
    }

    /// A peer told of one of its sessions.
    fn learn(&mut self, node: NodeId, run: u64, info: SessionInfo, cx: &mut Cx<'_>) {
        let config = &self.config;
        let is_sane = info.application.len() <= config.max_name_bytes
            && info.ip.len() <= config.max_name_bytes
            && info.resources.len() <= config.max_resources_per_session
            && info
                .resources
                .iter()
                .all(|resource| resource.len() <= config.max_resource_bytes);
        let limit = config.max_sessions;
        if !is_sane || !self.directory.put(node, run, info, limit) {
            self.note(GateNote::DirectoryFull { node, limit }, cx);
        }
    }
}

impl TxGate {
    pub(crate) fn on_call_answer(&mut self, conn: ConnId, id: CallId, answer: &RmAnswer, cx: &mut Cx<'_>) {
        match self.door.calls.answer(conn, id, answer) {
            Answered::Fact {
                group,
                tid,
                branch,
                status,
            } => {
                let Some(group) = self.groups.get_mut(&group) else {
                    return;
                };
                let body = OwnedCommandBody::BranchDone { tid, branch, status };
                let purpose = Purpose::Fact {
                    call: id,
                    tid,
                    branch,
                    status,
                };
                group.submit(body, purpose, &self.door.config, cx.now);
            }
            Answered::Late => {}
            Answered::Unknown => {
                self.door.totals.rm_nonsense_total += 1;
                self.door.note(GateNote::AnswerIgnored { conn, call: id }, cx);
            }
            Answered::Wrong(error) => {
                self.door.totals.rm_nonsense_total += 1;
                self.door.close_conn(conn, error, cx);
            }
            Answered::NoStatus(failed) => {
                self.door.totals.rm_nonsense_total += 1;
                let (xid, branch, status) = (failed.xid.clone(), failed.branch, answer.branch_status);
                self.door.note(
                    GateNote::WrongStatus {
                        conn,
                        call: id,
                        xid,
                        branch,
                        status,
                    },
                    cx,
                );
                self.door.failed_calls.push(failed);
            }
        }
    }

    pub(crate) fn on_peer_message(&mut self, from: NodeId, body: &[u8], cx: &mut Cx<'_>) {
        let message = match GateMessage::decode(body) {
            Ok(message) => message,
            Err(error) => {
                self.door.totals.peer_messages_bad_total += 1;
                return self.door.note(GateNote::BadPeerMessage { from, error }, cx);
            }
        };
        match message {
            GateMessage::Call(call) => {
                if self.groups.contains_key(&call.group) && call.tid.group() == call.group {
                    self.door.call_here(from, call, cx);
                } else {
                    self.door.failed_calls.push(failed(from, call, CallFailure::Refused));
                }
            }
            GateMessage::CallFailed {
                group,
                term,
                tid,
                branch,
                attempt,
                why,
            } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.on_call_failed(term, tid, branch, attempt, why, cx);
                }
            }
            GateMessage::SessionUp { run, info } => self.door.learn(from, run, info, cx),
            GateMessage::SessionDown { run, conn } => {
                if self.door.directory.run_of(from) == Some(run) {
                    self.door.directory.remove(SessionKey { node: from, conn });
                }
            }
            GateMessage::SessionsSync { run, first, sessions } => {
                if first {
                    self.door.directory.remove_node(from);
                    self.door.directory.see_run(from, run);
                }
                for info in sessions {
                    self.door.learn(from, run, info, cx);
                }
            }
            GateMessage::SyncRequest => self.door.sync(from, cx),
            GateMessage::Digest { run, digest } => self.door.compare_digest(from, run, digest, cx),
        }
    }

    /// Tells each leader of its calls that came to nothing. The leader's driver tries again.
    pub(crate) fn report_failed_calls(&mut self, cx: &mut Cx<'_>) {
        for failed in std::mem::take(&mut self.door.failed_calls) {
            self.door.note_failed_call(&failed, cx);
            let FailedCall {
                caller,
                group,
                term,
                tid,
                branch,
                attempt,
                why,
                ..
            } = failed;
            if caller != cx.node {
                self.door.tell(
                    caller,
                    &GateMessage::CallFailed {
                        group,
                        term,
                        tid,
                        branch,
                        attempt,
                        why,
                    },
                    cx,
                );
            } else if let Some(group) = self.groups.get_mut(&group) {
                group.on_call_failed(term, tid, branch, attempt, why, cx);
            }
        }
    }
}

fn failed(caller: NodeId, call: PeerCall, why: CallFailure) -> FailedCall {
    let PeerCall {
        group,
        term,
        tid,
        branch,
        attempt,
        body,
        ..
    } = call;
    FailedCall {
        caller,
        group,
        term,
        tid,
        branch,
        attempt,
        xid: body.xid,
        why,
    }
}
