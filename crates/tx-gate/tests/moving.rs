//! Service groups that move, seen by one gate whose groups apply what is proposed at once.

use std::collections::BTreeMap;

use settle_base::{GroupId, GroupTime, Mono, NodeId, PeerId, Term};
use settle_machine::{
    Action, Context, EntryMeta, Event, GroupLog, GroupRole, GroupView, LogEntry, LogMarks, Service, StateMachine,
};
use settle_tx::{
    APPLY_VERSION, Decision, Expect, MachineConfig, MoveStep, OwnedCommand, OwnedCommandBody, ReqId, Signed, Tid,
    TxMachine, encode_batch,
};
use settle_tx_gate::{
    AdminAnswer, AdminRequest, ClientAnswer, ClientRequest, ConnId, GateConfig, GateError, GateRequest, GateResponse,
    Ident, MoveWaits, RefusalError, RequestKey, TxGate,
};

const NODE: NodeId = NodeId(1);
const CONN: ConnId = ConnId(1);
const NAME: &str = "orders";

struct NoLog;

impl GroupLog for NoLog {
    fn marks(&self) -> LogMarks {
        LogMarks::default()
    }

    fn entries(&self, _: u64, _: u64) -> Option<(Term, Vec<LogEntry>)> {
        None
    }
}

/// A group on this node.
struct Replica {
    machine: TxMachine,
    version: u32,
    leads: bool,
    /// The node has it.
    is_here: bool,
    index: u64,
}

struct Rig {
    gate: TxGate,
    groups: BTreeMap<GroupId, Replica>,
    now_ms: u64,
    /// Nothing that is proposed to this group is applied.
    silent: Option<GroupId>,
    told: BTreeMap<RequestKey, ClientAnswer>,
    admin: BTreeMap<RequestKey, Result<AdminAnswer, RefusalError>>,
    keys: u64,
    /// Reads are answered when the test says so.
    holds_reads: bool,
    reads: Vec<(GroupId, u64)>,
}

impl Rig {
    fn new(groups: u64) -> Rig {
        Rig::configured(groups, 1)
    }

    /// The service group begins in `own` by the configuration.
    fn configured(groups: u64, own: u64) -> Rig {
        let ids: Vec<GroupId> = (1..=groups).map(GroupId).collect();
        let replica = |id: &GroupId| Replica {
            machine: TxMachine::new(MachineConfig::new(id.0 as u8)),
            version: APPLY_VERSION,
            leads: true,
            is_here: true,
            index: 0,
        };
        let mut rig = Rig {
            groups: ids.iter().map(|id| (*id, replica(id))).collect(),
            gate: TxGate::new(
                GateConfig {
                    groups: ids.clone(),
                    service_groups: BTreeMap::from([(NAME.to_owned(), GroupId(own))]),
                    ..GateConfig::default()
                },
                7,
            ),
            now_ms: 0,
            silent: None,
            told: BTreeMap::new(),
            admin: BTreeMap::new(),
            keys: 0,
            holds_reads: false,
            reads: Vec::new(),
        };
        for id in ids {
            rig.tell_role(id);
        }
        let ip = "10.0.0.1".to_owned();
        rig.request(GateRequest::Open {
            conn: CONN,
            ip,
            port: 5060,
        });
        let ident = Ident {
            application: "shop".to_owned(),
            service_group: NAME.to_owned(),
            version: "2.0.0".to_owned(),
        };
        rig.call(ClientRequest::RegisterTm { ident });
        rig
    }

    fn role(leads: bool) -> GroupRole {
        GroupRole {
            leader: Some(if leads { NODE } else { NodeId(2) }),
            term: 1,
            is_ready_leader: leads,
        }
    }

    fn tell_role(&mut self, group: GroupId) {
        let role = Rig::role(self.groups[&group].leads);
        self.feed(Event::Role { group, role });
    }

    fn request(&mut self, request: GateRequest) {
        self.feed(Event::Request(request));
        self.feed(Event::Flush);
    }

    fn call(&mut self, body: ClientRequest) -> RequestKey {
        self.keys += 1;
        let (conn, key, granted) = (CONN, RequestKey(self.keys), None);
        self.request(GateRequest::Call {
            conn,
            key,
            granted,
            body,
        });
        key
    }

    fn begin(&mut self) -> RequestKey {
        let (timeout_ms, name) = (60_000, "t".to_owned());
        self.call(ClientRequest::Begin { timeout_ms, name })
    }

    /// The group that a begin was answered from.
    fn begun_in(&self, key: RequestKey) -> Option<u64> {
        match self.told.get(&key)? {
            ClientAnswer::Begun { xid } => Tid::from_xid(xid).map(|tid| tid.group().0),
            other => panic!("{other:?}"),
        }
    }

    fn query(&mut self) -> RequestKey {
        let xid = String::new();
        let (resource, lock_keys) = ("db".to_owned(), "t:1".to_owned());
        self.call(ClientRequest::LockQuery {
            xid,
            resource,
            lock_keys,
        })
    }

    fn operate(&mut self, body: AdminRequest) -> RequestKey {
        self.keys += 1;
        let key = RequestKey(self.keys);
        self.request(GateRequest::Admin { key, body });
        key
    }

    fn move_to(&mut self, to: u64) -> RequestKey {
        let (names, to) = (vec![NAME.to_owned()], GroupId(to));
        self.operate(AdminRequest::MoveServiceGroups {
            names,
            to,
            signed: signed(),
        })
    }

    fn list(&mut self) -> AdminAnswer {
        let key = self.operate(AdminRequest::ServiceGroups);
        self.admin[&key].clone().expect("it is answered")
    }

    fn waits(&mut self) -> Option<MoveWaits> {
        match self.list() {
            AdminAnswer::ServiceGroups { moves, .. } => moves.first().map(|row| row.waits),
            other => panic!("{other:?}"),
        }
    }

    fn place(&self) -> Option<u8> {
        self.groups[&GroupId(1)].machine.place_of(NAME).map(|place| place.group)
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            self.now_ms += 50;
            self.feed(Event::Tick);
            self.feed(Event::Flush);
        }
    }

    /// What another node has brought into the group's log.
    fn apply(&mut self, group: u64, body: OwnedCommandBody) {
        self.keys += 1;
        let command = OwnedCommand {
            req: ReqId {
                origin: 99,
                seq: self.keys,
            },
            settled_below: 0,
            body,
        };
        self.commit(GroupId(group), &encode_batch(&[command]));
    }

    /// Ends whatever is open anywhere.
    fn roll_back_all(&mut self) {
        let of_group = |of: &Replica| of.machine.globals().map(|global| global.tid).collect::<Vec<_>>();
        let open: Vec<Tid> = self.groups.values().flat_map(of_group).collect();
        for tid in open {
            let body = OwnedCommandBody::Decide {
                tid,
                decision: Decision::Rollback,
                expect: Expect::Begin,
                by: None,
            };
            self.apply(tid.group().0, body);
        }
    }

    fn commit(&mut self, group: GroupId, command: &bytes::Bytes) {
        let time = GroupTime(self.now_ms);
        let replica = self.groups.get_mut(&group).expect("it is one of these");
        replica.index += 1;
        let entry = EntryMeta {
            index: replica.index,
            term: 1,
            time,
            version: replica.version,
        };
        let mut effects = Vec::new();
        replica
            .machine
            .apply(entry, command, &mut effects)
            .expect("it can be read");
        self.feed(Event::Applied {
            group,
            effects: &mut effects,
        });
    }

    fn feed(&mut self, event: Event<'_, settle_tx::TxEffect, GateRequest>) {
        let mut actions = Vec::new();
        let time = GroupTime(self.now_ms);
        let groups = &self.groups;
        let group = |id: GroupId| {
            let replica = groups.get(&id).filter(|replica| replica.is_here)?;
            Some(GroupView {
                machine: &replica.machine,
                peer: PeerId(1),
                role: Rig::role(replica.leads),
                version: replica.version,
                time,
                log: &NoLog,
            })
        };
        let mut context = Context {
            now: Mono::from_millis(self.now_ms),
            node: NODE,
            group: &group,
            actions: &mut actions,
        };
        self.gate.step(event, &mut context);
        for action in actions {
            match action {
                Action::Propose { group, command, .. } if self.silent != Some(group) => self.commit(group, &command),
                Action::Read { group, token } if self.holds_reads => self.reads.push((group, token)),
                Action::Read { group, token } => self.feed(Event::ReadReady { group, token }),
                Action::Respond(GateResponse::Answer { key, answer, .. }) => drop(self.told.insert(key, answer)),
                Action::Respond(GateResponse::Admin { key, result }) => drop(self.admin.insert(key, result)),
                _ => {}
            }
        }
    }
}

fn signed() -> Signed<String> {
    Signed {
        operator: "ada".into(),
        reason: "ticket 7".into(),
        at_ms: 0,
    }
}

fn cancel(name: &str) -> AdminRequest {
    let name = name.to_owned();
    AdminRequest::CancelMove { name, signed: signed() }
}

#[test]
fn a_move_waits_for_what_is_open_and_begins_wait_for_the_move() {
    let mut rig = Rig::new(3);
    let open = rig.begin();
    assert_eq!(rig.begun_in(open), Some(1));
    let ClientAnswer::Begun { xid } = rig.told[&open].clone() else {
        unreachable!("it was begun")
    };
    rig.move_to(2);
    rig.pass(1_000);
    assert_eq!(rig.waits(), Some(MoveWaits::Transactions));
    let (held, asked) = (rig.begin(), rig.query());
    rig.pass(1_000);
    assert_eq!(rig.begun_in(held), None, "it waits");
    assert_eq!(
        rig.told[&asked],
        ClientAnswer::Lockable { lockable: true },
        "the old group still knows"
    );
    rig.call(ClientRequest::Rollback { xid });
    rig.pass(2_000);
    assert_eq!((rig.waits(), rig.place()), (None, Some(2)));
    assert_eq!(rig.begun_in(held), Some(2));
    let next = rig.begin();
    assert_eq!(rig.begun_in(next), Some(2));
    // It is there: asked once more, nothing is done.
    let again = rig.move_to(2);
    assert!(matches!(
        rig.admin[&again],
        Ok(AdminAnswer::Moving { acted: false, .. })
    ));
}

#[test]
fn who_has_waited_as_long_as_may_be_is_told_that_nothing_was_begun() {
    let mut rig = Rig::new(2);
    rig.begin();
    rig.move_to(2);
    rig.pass(1_000);
    let held = rig.begin();
    rig.pass(26_000);
    let ClientAnswer::Refused(refusal) = &rig.told[&held] else {
        panic!("{:?}", rig.told[&held])
    };
    assert_eq!(refusal.error.code().to_string(), "TX0022");
    assert_eq!(rig.gate.stats().waiting_for_service_groups, 0);
}

#[test]
fn a_cancelled_move_leaves_everything_where_it_was() {
    let mut rig = Rig::new(2);
    rig.begin();
    rig.move_to(2);
    rig.pass(1_000);
    let held = rig.begin();
    let key = rig.operate(cancel(NAME));
    assert!(matches!(rig.admin[&key], Ok(AdminAnswer::Moving { acted: true, .. })));
    rig.pass(1_000);
    assert_eq!((rig.waits(), rig.place(), rig.begun_in(held)), (None, Some(1), Some(1)));
    let again = rig.operate(cancel(NAME));
    assert!(matches!(&rig.admin[&again], Err(RefusalError::Tx(error)) if error.code().to_string() == "TX0026"));
    // And it can move afterwards, there and back.
    for _ in 0..2 {
        for to in [2, 1] {
            rig.roll_back_all();
            rig.move_to(to);
            rig.pass(2_000);
            let begun = rig.begin();
            assert_eq!((rig.place(), rig.begun_in(begun)), (Some(to as u8), Some(to)));
        }
    }
}

#[test]
fn another_leader_goes_on_where_the_one_before_left_off() {
    let mut rig = Rig::new(2);
    rig.silent = Some(GroupId(2));
    rig.move_to(2);
    rig.pass(1_000);
    assert_eq!(rig.waits(), Some(MoveWaits::Step));
    rig.groups.get_mut(&GroupId(1)).expect("it is there").leads = false;
    rig.tell_role(GroupId(1));
    rig.silent = None;
    rig.pass(6_000);
    assert_eq!(rig.place(), Some(1), "who does not lead asks for nothing");
    rig.groups.get_mut(&GroupId(1)).expect("it is there").leads = true;
    rig.tell_role(GroupId(1));
    rig.pass(3_000);
    assert_eq!((rig.waits(), rig.place()), (None, Some(2)));
}

#[test]
fn a_group_that_knows_of_a_move_which_the_table_does_not_keeps_begins_away_until_it_is_put_somewhere() {
    let mut rig = Rig::new(3);
    let names = vec![NAME.to_owned()];
    let step = MoveStep::Close { from: 1, to: 3 };
    rig.apply(
        3,
        OwnedCommandBody::StepOfMove {
            names: names.clone(),
            epoch: 9,
            step,
        },
    );
    let (epoch, step) = (9, MoveStep::Open);
    rig.apply(3, OwnedCommandBody::StepOfMove { names, epoch, step });
    let held = rig.begin();
    rig.pass(1_000);
    assert_eq!(rig.begun_in(held), None);
    rig.move_to(2);
    let refused = rig.operate(cancel(NAME));
    assert!(matches!(&rig.admin[&refused], Err(RefusalError::Tx(error)) if error.code().to_string() == "TX0027"));
    rig.pass(3_000);
    assert_eq!((rig.begun_in(held), rig.place()), (Some(2), Some(2)));
    let refused = rig.groups[&GroupId(3)].machine.may_begin(NAME);
    assert!(refused.is_err(), "it is closed where it was");
}

/// Only a cluster that took in backups of another one has such a group, and an operator who was asked of a server that lagged.
#[test]
fn a_move_that_a_group_has_overtaken_goes_on_above_it() {
    for (told, by) in [(9, MoveStep::Open), (1, MoveStep::Open), (7, MoveStep::Drain)] {
        for old in [1, 3] {
            let mut rig = Rig::new(3);
            rig.apply(old, close(told, 1, 3));
            let names = vec![NAME.to_owned()];
            rig.apply(
                old,
                OwnedCommandBody::StepOfMove {
                    names,
                    epoch: told,
                    step: by,
                },
            );
            if by == MoveStep::Open {
                rig.apply(old, begin_of_another_server());
            }
            let signed = signed();
            let names = vec![(NAME.to_owned(), 1, 0)];
            rig.apply(1, OwnedCommandBody::MoveServiceGroups { names, to: 2, signed });
            rig.pass(10_000);
            let open = rig.groups[&GroupId(old)].machine.open_of([NAME]);
            assert_eq!(
                rig.place() == Some(2),
                open == 0,
                "{open} are open in {old}, and it is in {:?}",
                rig.place()
            );
            rig.roll_back_all();
            rig.pass(10_000);
            let begun = rig.begin();
            assert_eq!(
                (rig.waits(), rig.place(), rig.begun_in(begun)),
                (None, Some(2), Some(2))
            );
        }
    }
}

fn close(epoch: u64, from: u8, to: u8) -> OwnedCommandBody {
    let (names, step) = (vec![NAME.to_owned()], MoveStep::Close { from, to });
    OwnedCommandBody::StepOfMove { names, epoch, step }
}

fn begin_of_another_server() -> OwnedCommandBody {
    OwnedCommandBody::Begin {
        xid_prefix: "10.0.0.9:8091".to_owned(),
        application: "shop".to_owned(),
        service_group: NAME.to_owned(),
        name: "t".to_owned(),
        timeout_ms: 60_000,
    }
}

/// A server without a replica of the first group goes where a refusal says.
#[test]
fn the_new_group_is_closed_before_any_other_says_where_it_goes() {
    let mut rig = Rig::new(3);
    let open = rig.begin();
    assert_eq!(rig.begun_in(open), Some(1));
    rig.silent = Some(GroupId(2));
    rig.move_to(2);
    rig.pass(5_000);
    for group in [1, 3] {
        assert_eq!(rig.groups[&GroupId(group)].machine.mark_of(NAME), None, "group {group}");
    }
    rig.silent = None;
    rig.pass(6_000);
    assert_eq!(rig.waits(), Some(MoveWaits::Transactions));
}

/// The question went by the table of before; the replica that answers it is newer.
#[test]
fn a_question_for_locks_is_not_answered_by_a_group_that_was_left_two_moves_ago() {
    let mut rig = Rig::new(4);
    rig.holds_reads = true;
    let asked = rig.query();
    rig.apply(1, close(1, 1, 3));
    let (names, step) = (vec![NAME.to_owned()], MoveStep::Drain);
    rig.apply(1, OwnedCommandBody::StepOfMove { names, epoch: 1, step });
    rig.apply(1, close(3, 3, 4));
    for (group, token) in std::mem::take(&mut rig.reads) {
        rig.feed(Event::ReadReady { group, token });
    }
    assert_eq!(rig.told.get(&asked), None, "group 1 knows nothing of its locks");
}

#[test]
fn during_a_repair_nothing_begins_anywhere() {
    let mut rig = Rig::new(3);
    rig.groups.get_mut(&GroupId(1)).expect("it is there").leads = false;
    rig.tell_role(GroupId(1));
    rig.apply(3, close(9, 3, 3));
    let (names, step) = (vec![NAME.to_owned()], MoveStep::Open);
    rig.apply(3, OwnedCommandBody::StepOfMove { names, epoch: 9, step });
    rig.apply(3, begin_of_another_server());
    let (held, asked) = (rig.begin(), rig.query());
    rig.move_to(3);
    rig.pass(2_000);
    assert_eq!((rig.begun_in(held), rig.told.get(&asked)), (None, None));
    rig.groups.get_mut(&GroupId(1)).expect("it is there").leads = true;
    rig.tell_role(GroupId(1));
    rig.pass(2_000);
    assert_eq!((rig.begun_in(held), rig.place()), (Some(3), Some(3)));
    assert!(rig.told.contains_key(&asked));
}

#[test]
fn a_cancelled_move_opens_every_service_group_that_nobody_has_overtaken() {
    let mut rig = Rig::new(2);
    let (names, step) = (vec!["another".to_owned()], MoveStep::Close { from: 1, to: 2 });
    rig.apply(1, OwnedCommandBody::StepOfMove { names, epoch: 9, step });
    let names = vec![("another".to_owned(), 1, 0), (NAME.to_owned(), 1, 0)];
    let signed = signed();
    rig.apply(1, OwnedCommandBody::MoveServiceGroups { names, to: 2, signed });
    rig.apply(2, close(1, 1, 2));
    rig.operate(cancel(NAME));
    rig.pass(2_000);
    let begun = rig.begin();
    rig.pass(2_000);
    assert_eq!((rig.waits(), rig.begun_in(begun)), (None, Some(1)));
}

#[test]
fn who_is_not_placed_is_told_so_when_its_hold_is_over() {
    let mut rig = Rig::new(2);
    let names = vec![NAME.to_owned()];
    let step = MoveStep::Close { from: 1, to: 2 };
    rig.apply(2, OwnedCommandBody::StepOfMove { names, epoch: 9, step });
    let (begin, query) = (rig.begin(), rig.query());
    rig.pass(26_000);
    for key in [begin, query] {
        let ClientAnswer::Refused(refusal) = &rig.told[&key] else {
            panic!("{:?}", rig.told[&key])
        };
        assert_eq!(refusal.error.code().to_string(), "TG0027");
    }
}

#[test]
fn a_node_without_the_first_group_goes_by_what_refusals_say() {
    let mut rig = Rig::new(2);
    rig.move_to(2);
    rig.pass(2_000);
    assert_eq!(rig.place(), Some(2));
    rig.groups.get_mut(&GroupId(1)).expect("it is there").is_here = false;
    // It asks the group of the configuration, which is not here either, and waits.
    let held = rig.begin();
    rig.pass(1_000);
    assert_eq!(rig.begun_in(held), None);
}

/// Another cluster's backup brought it there.
fn open_by_a_backup(rig: &mut Rig, group: u64, epoch: u64) {
    rig.apply(group, close(epoch, 1, group as u8));
    let (names, step) = (vec![NAME.to_owned()], MoveStep::Open);
    rig.apply(group, OwnedCommandBody::StepOfMove { names, epoch, step });
    rig.apply(group, begin_of_another_server());
}

#[test]
fn a_node_without_the_first_group_begins_nothing_where_a_newer_mark_says_that_it_is_elsewhere() {
    let mut rig = Rig::configured(3, 2);
    rig.groups.get_mut(&GroupId(1)).expect("it is there").is_here = false;
    let begun = rig.begin();
    assert_eq!(rig.begun_in(begun), Some(2), "nothing was ever moved");
    open_by_a_backup(&mut rig, 3, 9);
    let held = rig.begin();
    rig.pass(1_000);
    assert_eq!(rig.begun_in(held), None);
}

/// Who began the move had not seen the mark of the backup, and it is below the move's own.
#[test]
fn a_mark_below_a_move_that_does_not_know_of_it_keeps_begins_away_and_makes_it_a_repair() {
    let mut rig = Rig::configured(4, 2);
    let names = vec![("another".to_owned(), 2, 0)];
    rig.apply(
        1,
        OwnedCommandBody::MoveServiceGroups {
            names,
            to: 3,
            signed: signed(),
        },
    );
    rig.pass(3_000);
    open_by_a_backup(&mut rig, 3, 1);
    rig.silent = Some(GroupId(4));
    let names = vec![(NAME.to_owned(), 2, 0)];
    rig.apply(
        1,
        OwnedCommandBody::MoveServiceGroups {
            names,
            to: 4,
            signed: signed(),
        },
    );
    let held = rig.begin();
    rig.pass(3_000);
    assert_eq!(rig.begun_in(held), None);
    rig.silent = None;
    rig.pass(10_000);
    assert_eq!((rig.waits(), rig.begun_in(held)), (Some(MoveWaits::Transactions), None));
    assert!(rig.groups[&GroupId(1)].machine.repair_of(NAME).is_some());
}

/// The table may be in a part that is still to come.
#[test]
fn nothing_begins_while_the_first_group_takes_in_a_backup() {
    let mut rig = Rig::configured(2, 2);
    let mut old = Rig::configured(1, 1);
    for _ in 0..5_000 {
        old.apply(1, begin_of_another_server());
    }
    let parts: Vec<_> = old.groups[&GroupId(1)].machine.begin_backup().collect();
    let (last, before) = parts.split_last().expect("there are parts");
    assert!(!before.is_empty());
    for part in before {
        rig.apply(1, OwnedCommandBody::Restore { part: part.clone() });
    }
    let held = rig.begin();
    rig.pass(1_000);
    assert_eq!(rig.begun_in(held), None);
    rig.apply(1, OwnedCommandBody::Restore { part: last.clone() });
    rig.pass(1_000);
    assert_eq!(rig.begun_in(held), Some(2));
}

#[test]
fn an_act_that_cannot_be_is_refused_before_it_comes_to_the_log() {
    let mut rig = Rig::new(2);
    let many: Vec<String> = (0..65).map(|n| n.to_string()).collect();
    for (names, to, code) in [
        (vec![], 2, "TG0029"),
        (vec![String::new()], 2, "TG0029"),
        (many, 2, "TG0029"),
        (vec!["x".repeat(1_025)], 2, "TG0011"),
        (vec![NAME.to_owned()], 3, "TG0024"),
    ] {
        let to = GroupId(to);
        let key = rig.operate(AdminRequest::MoveServiceGroups {
            names,
            to,
            signed: signed(),
        });
        assert!(matches!(&rig.admin[&key], Err(RefusalError::Gate(error)) if error.code().to_string() == code));
    }
    for name in ["", &"x".repeat(1_025)] {
        let key = rig.operate(cancel(name));
        assert!(matches!(rig.admin[&key], Err(RefusalError::Gate(_))));
    }
    // A build of before could not read it.
    rig.groups.get_mut(&GroupId(2)).expect("it is there").version = APPLY_VERSION - 1;
    let key = rig.move_to(2);
    let low = RefusalError::Gate(GateError::VersionTooLow {
        group: GroupId(2),
        needed: APPLY_VERSION,
        in_force: APPLY_VERSION - 1,
    });
    assert_eq!(rig.admin[&key], Err(low));
    assert!(
        rig.groups.values().all(|replica| replica.index == 0),
        "nothing came to a log"
    );
}
