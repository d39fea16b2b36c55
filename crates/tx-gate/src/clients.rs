//! What clients ask, from admission to the command or query that answers it.

use std::{collections::BTreeMap, ops::Bound};

use settle_base::GroupId;
use settle_tx::{
    BranchId, BranchStatus, ClientId, Decision, Expect, GlobalStatus, Outcome, OwnedCommandBody, RESTORE_PART_MAX, Tid,
};

use crate::{
    AdminRequest, BranchRegistration, ClientAnswer, ClientRequest, ConnId, GateError, OperatorRequest, RefusalError,
    RequestKey, ShowFilter, admin,
    door::{Cx, Waiter},
    gate::TxGate,
    group::{Purpose, Query, TxGroup},
    replies::{self, Due, RequestKind, Standing},
    service_groups::{Entry, Parked, Wants, place},
    session::check_name,
};

impl TxGate {
    pub(crate) fn on_client_request(&mut self, conn: ConnId, key: RequestKey, body: ClientRequest, cx: &mut Cx<'_>) {
        let Some(session) = self.door.sessions.get(conn) else {
            return self.door.close_conn(conn, GateError::UnknownConnection { conn }, cx);
        };
        let is_registered = session.ident.is_some();
        self.door.totals.requests_total += 1;
        let body = match self.register(conn, body, cx) {
            Ok(Registration::Done(answer)) => return self.door.respond(conn, key, Due::Answer(answer), cx),
            Ok(Registration::Other(body)) => body,
            Err(error) => return self.door.close_conn(conn, error, cx),
        };
        if !is_registered {
            return self.door.close_conn(conn, GateError::NotRegistered { conn }, cx);
        }
        let kind = kind_of(&body);
        if let Err(error) = self.door.sessions.admit(conn, &self.door.config) {
            return self
                .door
                .respond(conn, key, replies::refused_at_the_door(kind, error), cx);
        }
        let waiter = Waiter {
            conn,
            key,
            kind,
            born: cx.now,
        };
        if let Err(error) = self.take(waiter, body, cx) {
            self.door.give(waiter, replies::refused_at_the_door(kind, error), cx);
        }
    }

    pub(crate) fn on_close(&mut self, conn: ConnId, cx: &mut Cx<'_>) {
        let Some(session) = self.door.sessions.close(conn) else {
            return;
        };
        if !session.resources.is_empty() {
            self.door.withdraw(conn, cx);
        }
        let failed = self.door.calls.close(conn);
        self.door.failed_calls.extend(failed);
    }

    pub(crate) fn on_admin(&mut self, key: RequestKey, body: AdminRequest, cx: &mut Cx<'_>) {
        let group = match &body {
            AdminRequest::Sessions => {
                return self
                    .door
                    .answer_admin(key, Ok(admin::sessions(&self.door.directory)), cx);
            }
            AdminRequest::ListTx(filter) => self.group_to_list(filter.group, filter.after),
            AdminRequest::Locks(filter) => {
                let after = filter.after.and_then(|cursor| cursor.tid);
                let of_holder = filter.holder.map(Tid::group);
                self.group_to_list(filter.group.or(of_holder), after)
            }
            AdminRequest::Audit { group, .. } => Ok(group.unwrap_or(self.door.config.groups[0])),
            AdminRequest::ShowTx(filter) => admin::tid_of(&filter.id).map(Tid::group),
            AdminRequest::ServiceGroups => Ok(self.door.config.groups[0]),
            AdminRequest::MoveServiceGroups { .. } | AdminRequest::CancelMove { .. } => {
                return self.on_moves(key, body, cx);
            }
            AdminRequest::Operate(request) => admin::check_act(request).and_then(|()| {
                let tid = admin::tid_of(&request.id)?;
                Ok(tid.group())
            }),
            AdminRequest::Restore { group, part } => match part.len() {
                bytes if bytes > RESTORE_PART_MAX => Err(GateError::PartTooLarge {
                    bytes,
                    limit: RESTORE_PART_MAX,
                }),
                _ => Ok(*group),
            },
        };
        let group = match group {
            Ok(group) => group,
            Err(error) => return self.door.answer_admin(key, Err(error), cx),
        };
        let limit = self.door.config.max_in_flight;
        match self.groups.get_mut(&group) {
            None => {
                let error = match body {
                    AdminRequest::ShowTx(ShowFilter { id, .. }) | AdminRequest::Operate(OperatorRequest { id, .. }) => {
                        admin::unknown(&id)
                    }
                    _ => GateError::UnknownGroup { group },
                };
                self.door.answer_admin(key, Err(error), cx);
            }
            Some(group) if group.reads.len() >= limit => {
                self.door
                    .answer_admin(key, Err(GateError::TooManyRequests { limit }), cx);
            }
            Some(group) => match body {
                AdminRequest::Operate(request) => {
                    let group = group.id;
                    let tid = admin::tid_of(&request.id).expect("it was checked before");
                    let (act, signed) = (request.act, request.signed);
                    self.operate(group, key, OwnedCommandBody::Operate { tid, act, signed }, cx);
                }
                AdminRequest::Restore { part, .. } => {
                    let group = group.id;
                    self.operate(group, key, OwnedCommandBody::Restore { part }, cx);
                }
                body => group.reads.add(Query::Admin {
                    key,
                    born: cx.now,
                    body,
                }),
            },
        }
    }

    pub(crate) fn operate(&mut self, group: GroupId, key: RequestKey, body: OwnedCommandBody, cx: &mut Cx<'_>) {
        if let Err(error) = self.check_room(group) {
            return self.door.answer_admin(key, Err(error), cx);
        }
        let group = self.groups.get_mut(&group).expect("it was just found");
        group.submit(body, Purpose::Operator { key }, &self.door.config, cx.now);
    }

    /// A list without a group goes through all groups, in their order: the one that is continued, or the next when it
    /// has come to its end.
    fn group_to_list(&self, group: Option<GroupId>, after: Option<Tid>) -> Result<GroupId, GateError> {
        let Some(after) = after.filter(|_| group.is_none()) else {
            return Ok(group.unwrap_or_else(|| *self.groups.keys().next().expect("a gate has a group")));
        };
        let continued = after.group();
        if after != Tid::last_of(continued) {
            return Ok(continued);
        }
        let next = self.groups.range((Bound::Excluded(continued), Bound::Unbounded)).next();
        next.map(|(group, _)| *group)
            .ok_or(GateError::UnknownGroup { group: continued })
    }

    /// Registrations need no log; everything else is handed back.
    fn register(&mut self, conn: ConnId, body: ClientRequest, cx: &mut Cx<'_>) -> Result<Registration, GateError> {
        let (sessions, config) = (&mut self.door.sessions, &self.door.config);
        match body {
            ClientRequest::RegisterTm { ident } => {
                sessions.register(conn, ident, config)?;
                Ok(Registration::Done(ClientAnswer::TmRegistered))
            }
            ClientRequest::RegisterRm { ident, resources } => {
                sessions.register(conn, ident, config)?;
                if sessions.add_resources(conn, resources, config)? {
                    self.door.publish(conn, cx);
                }
                Ok(Registration::Done(ClientAnswer::RmRegistered))
            }
            ClientRequest::UnregisterRm { resources } => {
                if sessions.get(conn).is_none_or(|session| session.ident.is_none()) {
                    return Err(GateError::NotRegistered { conn });
                }
                if sessions.remove_resources(conn, &resources) {
                    self.door.publish(conn, cx);
                }
                Ok(Registration::Done(ClientAnswer::RmUnregistered))
            }
            other => Ok(Registration::Other(other)),
        }
    }

    /// Makes the request a command or a query. An error means that nothing happened.
    fn take(&mut self, waiter: Waiter, body: ClientRequest, cx: &mut Cx<'_>) -> Result<(), GateError> {
        match body {
            ClientRequest::Begin { timeout_ms, name } => self.begin(waiter, timeout_ms, name, cx),
            ClientRequest::Commit { xid } => self.decide(waiter, &xid, Decision::Commit, cx),
            ClientRequest::Rollback { xid } => self.decide(waiter, &xid, Decision::Rollback, cx),
            ClientRequest::Status { xid } => {
                let tid = self.locate(&xid, cx)?;
                if settle_base::mutant!("status_of_a_stale_replica")
                    && let Some(view) = cx.group(tid.group())
                {
                    let status = view.machine.outcome(tid).status();
                    self.door.answer(waiter, ClientAnswer::Status { status }, cx);
                    return Ok(());
                }
                let by = self.caller(waiter);
                self.query(tid.group(), Query::Status { waiter, tid, by });
                Ok(())
            }
            ClientRequest::Report { xid, status } => self.report(waiter, &xid, status, cx),
            ClientRequest::RegisterBranch(branch) => self.register_branch(waiter, branch, cx),
            ClientRequest::ReportBranch {
                xid,
                branch,
                status,
                application_data,
            } => self.report_branch(waiter, &xid, branch, status, application_data, cx),
            ClientRequest::LockQuery {
                xid,
                resource,
                lock_keys,
            } => {
                check_lock_keys(&lock_keys, self.door.config.max_lock_key_bytes.bytes())?;
                check_name("resource id", &resource, self.door.config.max_resource_bytes)?;
                if xid.is_empty() {
                    let service_group = self.service_group_of(waiter.conn);
                    self.query_locks(waiter, service_group, resource, lock_keys, None, cx);
                    return Ok(());
                }
                let tid = self.locate(&xid, cx)?;
                let query = Query::Lock {
                    waiter,
                    tid: Ok(tid),
                    resource,
                    lock_keys,
                };
                self.query(tid.group(), query);
                Ok(())
            }
            ClientRequest::RegisterTm { .. }
            | ClientRequest::RegisterRm { .. }
            | ClientRequest::UnregisterRm { .. } => {
                unreachable!("registrations were answered before")
            }
        }
    }

    fn begin(&mut self, waiter: Waiter, timeout_ms: i32, name: String, cx: &mut Cx<'_>) -> Result<(), GateError> {
        let config = &self.door.config;
        check_name("transaction name", &name, config.max_name_bytes)?;
        let timeout_ms = match u32::try_from(timeout_ms) {
            Ok(timeout_ms) if timeout_ms > 0 => timeout_ms,
            _ => {
                return Err(GateError::BadTimeout {
                    timeout_ms: i64::from(timeout_ms),
                });
            }
        };
        let service_group = self.service_group_of(waiter.conn);
        self.begin_somewhere(waiter, service_group, timeout_ms, name, None, cx)
    }

    /// Begins in whichever group has the service group, or waits until one has it. `last` is why it waited.
    fn begin_somewhere(
        &mut self,
        waiter: Waiter,
        service_group: String,
        timeout_ms: u32,
        name: String,
        last: Option<&RefusalError>,
        cx: &mut Cx<'_>,
    ) -> Result<(), GateError> {
        let config = &self.door.config;
        let told = told_of_moves(&self.groups);
        let group = match place(config, told, &service_group, Wants::Begin, last, cx) {
            Ok(group) => group,
            Err(error) => {
                let body = Parked::Begin { timeout_ms, name };
                self.door.park(waiter, service_group, body, error, cx);
                return Ok(());
            }
        };
        let limit = config.max_open_transactions;
        if cx.group(group).is_some_and(|view| view.machine.open_count() >= limit) {
            return Err(GateError::TooManyTransactions { limit });
        }
        let session = self.door.sessions.get(waiter.conn).expect("the request was admitted");
        let ident = session.ident.as_ref().expect("the session is registered");
        let body = OwnedCommandBody::Begin {
            xid_prefix: config.xid_prefix.clone(),
            application: ident.application.clone(),
            service_group,
            name,
            timeout_ms,
        };
        self.propose(group, body, waiter, None, cx)
    }

    /// Asks whichever group has the service group, as [`TxGate::begin_somewhere`] begins there.
    fn query_locks(
        &mut self,
        waiter: Waiter,
        service_group: String,
        resource: String,
        lock_keys: String,
        last: Option<&RefusalError>,
        cx: &mut Cx<'_>,
    ) {
        let told = told_of_moves(&self.groups);
        match place(&self.door.config, told, &service_group, Wants::Locks, last, cx) {
            Ok(group) => {
                let query = Query::Lock {
                    waiter,
                    tid: Err(service_group),
                    resource,
                    lock_keys,
                };
                self.query(group, query);
            }
            Err(error) => {
                let body = Parked::Lock { resource, lock_keys };
                self.door.park(waiter, service_group, body, error, cx);
            }
        }
    }

    /// Asks again for what waits for its service group, and ends what has waited long enough.
    pub(crate) fn look_at_waiting(&mut self, cx: &mut Cx<'_>) {
        for entry in self.door.waiting.take_due(cx.now) {
            let Entry {
                waiter,
                body,
                service_group,
                error,
                ..
            } = entry;
            if self.door.is_over(&waiter, cx.now) {
                self.door.park(waiter, service_group, body, error, cx);
                continue;
            }
            match body {
                Parked::Begin { timeout_ms, name } => {
                    let begun = self.begin_somewhere(waiter, service_group, timeout_ms, name, Some(&error), cx);
                    if let Err(error) = begun {
                        self.door
                            .give(waiter, replies::refused_at_the_door(waiter.kind, error), cx);
                    }
                }
                Parked::Lock { resource, lock_keys } => {
                    self.query_locks(waiter, service_group, resource, lock_keys, Some(&error), cx);
                }
            }
        }
    }

    fn decide(&mut self, waiter: Waiter, xid: &str, decision: Decision, cx: &mut Cx<'_>) -> Result<(), GateError> {
        let tid = self.locate(xid, cx)?;
        let by = self.caller(waiter);
        if decision == Decision::Commit && self.door.loses_decision() {
            let status = GlobalStatus::Committed;
            self.door.answer(waiter, ClientAnswer::Ended { status }, cx);
            return Ok(());
        }
        let group = self
            .groups
            .get_mut(&tid.group())
            .expect("a located transaction is of a group of the gate");
        let is_known = match cx.group(group.id) {
            Some(view) => !matches!(view.machine.outcome(tid), Outcome::Unknown),
            None => false,
        };
        // What this replica has applied is decided for ever; what it has not, the log must say. So it must whose the
        // transaction is, unless that is known here.
        let global = cx.group(group.id).and_then(|view| view.machine.global(tid));
        let is_of_another = global.is_some_and(|global| by.as_ref().is_some_and(|by| !global.is_begun_by(by)));
        if is_known && !is_of_another && group.standing(waiter, tid, cx) != Standing::Undecided {
            let has_ended = cx
                .group(group.id)
                .is_some_and(|view| view.machine.global(tid).is_none());
            if has_ended && settle_base::mutant!("finished_told_of_what_has_ended") {
                let status = GlobalStatus::Finished;
                self.door.answer(waiter, ClientAnswer::Ended { status }, cx);
                return Ok(());
            }
            group.answer_decided(waiter, tid, &mut self.door, cx);
            return Ok(());
        }
        let body = OwnedCommandBody::Decide {
            tid,
            decision,
            expect: Expect::Begin,
            by,
        };
        if decision == Decision::Commit && settle_base::mutant!("commit_answered_before_the_decision") {
            group.submit(body, Purpose::Timeout, &self.door.config, cx.now);
            let status = GlobalStatus::Committed;
            self.door.answer(waiter, ClientAnswer::Ended { status }, cx);
            return Ok(());
        }
        self.propose(tid.group(), body, waiter, Some(tid), cx)
    }

    fn report(&mut self, waiter: Waiter, xid: &str, status: GlobalStatus, cx: &mut Cx<'_>) -> Result<(), GateError> {
        let tid = self.locate(xid, cx)?;
        self.propose(
            tid.group(),
            OwnedCommandBody::End {
                tid,
                status,
                by: self.caller(waiter),
            },
            waiter,
            Some(tid),
            cx,
        )
    }

    fn register_branch(
        &mut self,
        waiter: Waiter,
        branch: BranchRegistration,
        cx: &mut Cx<'_>,
    ) -> Result<(), GateError> {
        let config = &self.door.config;
        let BranchRegistration {
            xid,
            branch_type,
            resource,
            lock_keys,
            application_data,
        } = branch;
        check_name("resource id", &resource, config.max_resource_bytes)?;
        check_lock_keys(&lock_keys, config.max_lock_key_bytes.bytes())?;
        check_application_data(&application_data, config.max_application_data_bytes.bytes())?;
        let tid = self.locate(&xid, cx)?;
        if let Some(view) = cx.group(tid.group()) {
            let limit = config.max_branches_per_transaction;
            if view
                .machine
                .global(tid)
                .is_some_and(|global| global.branches().len() >= limit)
            {
                return Err(GateError::TooManyBranches { xid, limit });
            }
            let limit = config.max_lock_bytes.bytes();
            let bytes = view.machine.lock_bytes() + lock_keys.len() as u64;
            if !lock_keys.is_empty() && bytes > limit {
                return Err(GateError::LockSpaceFull { bytes, limit });
            }
        }
        let session = self.door.sessions.get(waiter.conn).expect("the request was admitted");
        let ident = session.ident.as_ref().expect("the session is registered");
        let client = ClientId {
            application: &ident.application,
            ip: &session.ip,
            port: session.port,
        }
        .to_string();
        let body = OwnedCommandBody::RegisterBranch {
            tid,
            branch_type,
            resource,
            client,
            lock_keys,
            application_data,
            joins: session.granted.as_deref().map(<[String]>::to_vec),
        };
        self.propose(tid.group(), body, waiter, Some(tid), cx)
    }

    fn report_branch(
        &mut self,
        waiter: Waiter,
        xid: &str,
        branch: i64,
        status: BranchStatus,
        application_data: Option<String>,
        cx: &mut Cx<'_>,
    ) -> Result<(), GateError> {
        if let Some(data) = &application_data {
            check_application_data(data, self.door.config.max_application_data_bytes.bytes())?;
        }
        let tid = self.locate(xid, cx)?;
        let unknown = || GateError::UnknownBranch {
            xid: xid.to_owned(),
            branch,
        };
        let branch = BranchId::try_from_i64(branch).ok_or_else(unknown)?;
        let body = OwnedCommandBody::ReportBranch {
            tid,
            branch,
            status,
            application_data,
            by: self.caller(waiter),
        };
        self.propose(tid.group(), body, waiter, Some(tid), cx)
    }

    fn propose(
        &mut self,
        group: GroupId,
        body: OwnedCommandBody,
        waiter: Waiter,
        tid: Option<Tid>,
        cx: &mut Cx<'_>,
    ) -> Result<(), GateError> {
        self.check_room(group)?;
        let group = self.groups.get_mut(&group).expect("requests go to groups of the gate");
        group.submit(body, Purpose::Client { waiter, tid }, &self.door.config, cx.now);
        Ok(())
    }

    /// Whether one more command may wait to be applied, whoever asks for it.
    fn check_room(&self, group: GroupId) -> Result<(), GateError> {
        let bytes: u64 = self.groups.values().map(|group| group.pending.bytes()).sum();
        let limit = self.door.config.max_pending_bytes.bytes();
        if bytes >= limit {
            return Err(GateError::TooManyPendingBytes { bytes, limit });
        }
        let group = self.groups.get(&group).expect("requests go to groups of the gate");
        if group.pending.is_window_full() {
            let limit = crate::pending::WINDOW as usize;
            return Err(GateError::TooManyRequests { limit });
        }
        Ok(())
    }

    fn query(&mut self, group: GroupId, query: Query) {
        let group = self.groups.get_mut(&group).expect("queries go to groups of the gate");
        group.reads.add(query);
    }

    /// The transaction that a client means. An xid with the id of an open transaction and another prefix is some other
    /// coordinator's.
    fn locate(&self, xid: &str, cx: &Cx<'_>) -> Result<Tid, GateError> {
        let unknown = || GateError::UnknownXid {
            xid: xid.chars().take(256).collect(),
        };
        let tid = Tid::from_xid(xid).ok_or_else(unknown)?;
        if !self.groups.contains_key(&tid.group()) {
            return Err(unknown());
        }
        let known = cx.group(tid.group()).and_then(|view| view.machine.global(tid));
        match known {
            Some(global) if global.xid != *xid => Err(unknown()),
            _ => Ok(tid),
        }
    }

    fn caller(&self, waiter: Waiter) -> Option<String> {
        self.door.sessions.caller(waiter.conn).map(str::to_owned)
    }

    fn service_group_of(&self, conn: ConnId) -> String {
        let session = self.door.sessions.get(conn).expect("the request was admitted");
        let ident = session.ident.as_ref().expect("the session is registered");
        ident.service_group.clone()
    }
}

fn told_of_moves(groups: &BTreeMap<GroupId, TxGroup>) -> impl Iterator<Item = GroupId> {
    let told = groups.values().filter(|group| group.knows_moves);
    told.map(|group| group.id)
}

enum Registration {
    Done(ClientAnswer),
    Other(ClientRequest),
}

fn kind_of(body: &ClientRequest) -> RequestKind {
    match body {
        ClientRequest::Begin { .. } => RequestKind::Begin,
        ClientRequest::Commit { .. } => RequestKind::Commit,
        ClientRequest::Rollback { .. } => RequestKind::Rollback,
        ClientRequest::Status { .. } => RequestKind::Status,
        ClientRequest::Report { .. } => RequestKind::Report,
        ClientRequest::RegisterBranch(_) => RequestKind::RegisterBranch,
        ClientRequest::ReportBranch { .. } => RequestKind::ReportBranch,
        ClientRequest::LockQuery { .. } => RequestKind::LockQuery,
        ClientRequest::RegisterTm { .. } | ClientRequest::RegisterRm { .. } | ClientRequest::UnregisterRm { .. } => {
            unreachable!("registrations were answered before")
        }
    }
}

fn check_lock_keys(lock_keys: &str, limit: u64) -> Result<(), GateError> {
    match lock_keys.len() as u64 {
        bytes if bytes > limit => Err(GateError::LockKeysTooLong { bytes, limit }),
        _ => Ok(()),
    }
}

fn check_application_data(data: &str, limit: u64) -> Result<(), GateError> {
    match data.len() as u64 {
        bytes if bytes > limit => Err(GateError::ApplicationDataTooLong { bytes, limit }),
        _ => Ok(()),
    }
}
