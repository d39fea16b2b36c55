//! Random histories against a naive model that recomputes everything from lists.

mod rig;

use proptest::prelude::*;
use rig::{Rig, begin, load, register};
use settle_base::GroupTime;
use settle_machine::{EntryMeta, StateMachine};
use settle_tx::{
    BranchId, BranchStatus, BranchType, Command, CommandBody, Decision, Direction, Ended, EndedRecord, Expect,
    GlobalStatus, MachineConfig, OperatorAct, OwnedCommand, OwnedCommandBody, Reply, ReqId, Signed, Tid, TxEffect,
    TxError, TxMachine, decode_batch, encode_batch, lock_rows,
};

/// A command by small numbers, so that transactions, branches and rows collide often.
#[derive(Clone, Debug)]
enum Step {
    Begin,
    Register {
        tx: u64,
        kind: BranchType,
        rows: Vec<u8>,
    },
    Report {
        branch: u64,
        status: BranchStatus,
    },
    Decide {
        tx: u64,
        decision: Decision,
    },
    Done {
        branch: u64,
        status: BranchStatus,
    },
    /// What a saga's state machine answers to its single call.
    SagaDone {
        tx: u64,
        status: BranchStatus,
    },
    End {
        tx: u64,
        status: GlobalStatus,
    },
    Operate {
        tx: u64,
        act: OperatorAct<String>,
    },
    /// The request of so many steps ago once more.
    Again {
        back: usize,
    },
    Wait {
        millis: u64,
    },
}

const TXS: u64 = 8;
const BRANCHES: u64 = 16;

fn branch_status() -> impl Strategy<Value = BranchStatus> {
    proptest::sample::select(BranchStatus::ALL)
}

fn act() -> impl Strategy<Value = OperatorAct<String>> {
    prop_oneof![
        Just(OperatorAct::Commit),
        Just(OperatorAct::Rollback),
        Just(OperatorAct::StopRetry),
        Just(OperatorAct::ResumeRetry),
        Just(OperatorAct::Forget),
        (1..=BRANCHES, proptest::collection::vec(0..6u8, 0..3)).prop_map(|(branch, rows)| OperatorAct::ReleaseLock {
            branch: BranchId::new(1, branch),
            rows: lock_keys(&rows),
        }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![4 => Just(BranchType::At), 1 => proptest::sample::select(BranchType::ALL)];
    let decision = proptest::sample::select(vec![Decision::Commit, Decision::Rollback, Decision::Timeout]);
    prop_oneof![
        3 => Just(Step::Begin),
        8 => (1..=TXS, kind, proptest::collection::vec(0..6u8, 0..4))
            .prop_map(|(tx, kind, rows)| Step::Register { tx, kind, rows }),
        2 => (1..=BRANCHES, branch_status()).prop_map(|(branch, status)| Step::Report { branch, status }),
        3 => (1..=TXS, decision).prop_map(|(tx, decision)| Step::Decide { tx, decision }),
        8 => (1..=BRANCHES, branch_status()).prop_map(|(branch, status)| Step::Done { branch, status }),
        1 => (1..=TXS, branch_status()).prop_map(|(tx, status)| Step::SagaDone { tx, status }),
        1 => (1..=TXS, proptest::sample::select(GlobalStatus::ALL)).prop_map(|(tx, status)| Step::End { tx, status }),
        2 => (1..=TXS, act()).prop_map(|(tx, act)| Step::Operate { tx, act }),
        3 => (1..20usize).prop_map(|back| Step::Again { back }),
        1 => (0..100_000u64).prop_map(|millis| Step::Wait { millis }),
    ]
}

fn history(len: usize) -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..len)
}

/// What the naive model knows of a branch.
struct ModelBranch {
    tx: u64,
    kind: BranchType,
    rows: Vec<u8>,
    /// It was AT, is not done and its transaction has not committed.
    holds: bool,
}

#[derive(Default)]
struct Model {
    branches: Vec<ModelBranch>,
    /// Per transaction (from 1): which way it was first seen decided.
    decided: Vec<Option<Direction>>,
    /// Per transaction: how it ended.
    ended: Vec<Option<GlobalStatus>>,
}

impl Model {
    fn holder(&self, row: u8) -> Option<u64> {
        self.branches
            .iter()
            .find(|branch| branch.holds && branch.rows.contains(&row))
            .map(|branch| branch.tx)
    }

    fn decided(&self, tx: u64) -> Option<Direction> {
        self.decided.get(tx as usize - 1).copied().flatten()
    }

    /// What must be answered to a registration, as far as the model tells.
    fn expects_registered(&self, tx: u64, kind: BranchType, rows: &[u8]) -> bool {
        let is_begin = tx as usize <= self.decided.len() && self.decided(tx).is_none();
        let is_free = kind != BranchType::At
            || rows
                .iter()
                .all(|row| self.holder(*row).is_none_or(|holder| holder == tx));
        let goes_on = tx as usize <= self.ended.len() && self.ended[tx as usize - 1].is_none() && self.is_saga(tx);
        (is_begin || (goes_on && kind == BranchType::Saga)) && is_free
    }

    /// The transactions of this model have a name like any other.
    fn is_saga(&self, tx: u64) -> bool {
        let mut kinds = self
            .branches
            .iter()
            .filter(|branch| branch.tx == tx)
            .map(|branch| branch.kind)
            .peekable();
        kinds.peek().is_some() && kinds.all(|kind| kind == BranchType::Saga)
    }
}

fn lock_keys(rows: &[u8]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    format!("t:{}", rows.iter().map(u8::to_string).collect::<Vec<_>>().join(","))
}

fn lock_keys_have(keys: &str, row: u8) -> bool {
    lock_rows(keys).any(|named| named.is_ok_and(|named| named.pk == row.to_string()))
}

/// Which transaction a branch belongs to is known to the machine only while it is open; ask by the model.
fn body_of(step: &Step, model: &Model) -> OwnedCommandBody {
    let owner = |branch: u64| model.branches.get(branch as usize - 1).map_or(1, |branch| branch.tx);
    match step {
        Step::Begin => begin(60_000),
        Step::Register { tx, kind, rows } => register(Tid::new(1, *tx), *kind, &lock_keys(rows), ""),
        Step::Report { branch, status } => CommandBody::ReportBranch {
            tid: Tid::new(1, owner(*branch)),
            branch: BranchId::new(1, *branch),
            status: *status,
            application_data: Some("{\"x\":1}".into()),
            by: None,
        },
        Step::Decide { tx, decision } => rig::decide(Tid::new(1, *tx), *decision),
        Step::Done { branch, status } => CommandBody::BranchDone {
            tid: Tid::new(1, owner(*branch)),
            branch: BranchId::new(1, *branch),
            status: *status,
        },
        Step::SagaDone { tx, status } => CommandBody::BranchDone {
            tid: Tid::new(1, *tx),
            branch: BranchId::saga_of(Tid::new(1, *tx)),
            status: *status,
        },
        Step::End { tx, status } => CommandBody::End {
            tid: Tid::new(1, *tx),
            status: *status,
            by: None,
        },
        Step::Operate { tx, act } => rig::operate(Tid::new(1, *tx), act.clone()),
        Step::Again { .. } | Step::Wait { .. } => unreachable!("it is no new request"),
    }
}

/// Everything of the state that a client could come to see.
fn visible(machine: &TxMachine) -> String {
    let outcomes: Vec<_> = (1..=64).map(|seq| machine.outcome(Tid::new(1, seq)).status()).collect();
    format!(
        "{:?} {:?} {:?} {:?}",
        machine.globals().collect::<Vec<_>>(),
        outcomes,
        machine.stats(),
        machine.audit().collect::<Vec<_>>()
    )
}

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut rig = Rig::new(MachineConfig::new(1));
    let mut model = Model::default();
    let mut asked: Vec<(OwnedCommand, Result<Reply, TxError>)> = Vec::new();
    for step in steps {
        match step {
            Step::Wait { millis } => rig.time.0 += millis,
            Step::Again { back } => {
                let Some((command, answer)) = asked.len().checked_sub(*back).and_then(|at| asked.get(at)) else {
                    continue;
                };
                let before = visible(&rig.machine);
                rig.apply(std::slice::from_ref(command));
                let reply = TxEffect::Reply {
                    req: command.req,
                    result: answer.clone(),
                };
                prop_assert_eq!(
                    &rig.effects,
                    &[reply],
                    "a repeated request gives the first answer and nothing else"
                );
                prop_assert_eq!(visible(&rig.machine), before, "a repeated request changes nothing");
            }
            _ => {
                let body = body_of(step, &model);
                let req = ReqId {
                    origin: 7,
                    seq: asked.len() as u64,
                };
                let command = OwnedCommand {
                    req,
                    settled_below: 0,
                    body,
                };
                rig.apply(std::slice::from_ref(&command));
                let Some(TxEffect::Reply { result, .. }) = rig.effects.last().cloned() else {
                    return Err(TestCaseError::fail("a request has an answer"));
                };
                check_step(step, &result, &rig, &mut model)?;
                asked.push((command, result));
            }
        }
        rig.machine.check_invariants();
        check_locks(&rig.machine, &model)?;
    }
    Ok(())
}

fn check_step(step: &Step, result: &Result<Reply, TxError>, rig: &Rig, model: &mut Model) -> Result<(), TestCaseError> {
    match step {
        Step::Begin => {
            model.decided.push(None);
            model.ended.push(None);
            let tid = Tid::new(1, model.decided.len() as u64);
            let xid = format!("10.0.0.1:8091:{tid}").into();
            prop_assert_eq!(result, &Ok(Reply::Begun { tid, xid }), "ids are dense");
        }
        Step::Register { tx, kind, rows } => {
            prop_assert_eq!(
                result.is_ok(),
                model.expects_registered(*tx, *kind, rows),
                "{:?}",
                result
            );
            if result.is_ok() {
                let branch = BranchId::new(1, model.branches.len() as u64 + 1);
                prop_assert_eq!(result, &Ok(Reply::Branch { branch }), "ids are dense");
                let holds = *kind == BranchType::At;
                model.branches.push(ModelBranch {
                    tx: *tx,
                    kind: *kind,
                    rows: rows.clone(),
                    holds,
                });
            } else if let Err(TxError::LockConflict { holder, row, .. }) = result {
                let row: u8 = row
                    .rsplit('^')
                    .next()
                    .and_then(|pk| pk.parse().ok())
                    .expect("the key is a number");
                prop_assert_eq!(model.holder(row), Some(holder.seq()), "the conflict names the holder");
            }
        }
        Step::Operate {
            tx,
            act: OperatorAct::ReleaseLock { branch, rows },
        } if matches!(result, Ok(Reply::Operated { acted: true, .. })) => {
            prop_assert_eq!(
                model.decided(*tx),
                Some(Direction::Rollback),
                "only what is undone keeps rows"
            );
            let branch = &mut model.branches[branch.seq() as usize - 1];
            prop_assert_eq!(branch.tx, *tx);
            let freed = |row: &u8| rows.is_empty() || lock_keys_have(rows, *row);
            branch.rows.retain(|row| !freed(row));
        }
        Step::Done { branch, status } if result.is_ok() => {
            let tx = model.branches.get(*branch as usize - 1).map_or(1, |branch| branch.tx);
            prop_assert!(status.direction().is_some(), "only a fact of the second phase counts");
            prop_assert_eq!(
                status.direction(),
                model.decided(tx),
                "a fact that contradicts the decision is refused"
            );
        }
        _ => {}
    }
    for effect in &rig.effects {
        match effect {
            TxEffect::Decided { tid } => {
                let at = tid.seq() as usize - 1;
                prop_assert_eq!(model.decided[at], None, "{} is decided twice", tid);
                let direction = rig.machine.outcome(*tid).status().direction();
                prop_assert!(direction.is_some());
                model.decided[at] = direction;
                let is_commit = direction == Some(Direction::Commit);
                let global = rig.machine.global(*tid);
                for (n, branch) in model
                    .branches
                    .iter_mut()
                    .enumerate()
                    .filter(|(_, branch)| branch.tx == tid.seq())
                {
                    let id = BranchId::new(1, n as u64 + 1);
                    let is_open = global.is_some_and(|global| global.branch(id).is_some_and(|branch| branch.is_open()));
                    branch.holds &= !is_commit && is_open;
                }
            }
            TxEffect::BranchChanged { tid, branch, .. } if branch.is_saga() => {
                // The one thing that may turn round before it has ended.
                let at = tid.seq() as usize - 1;
                prop_assert!(model.is_saga(tid.seq()), "{} is no saga and turned round", tid);
                prop_assert!(model.ended[at].is_none(), "{} has ended and turned round", tid);
                let ends = rig.effects.iter().find_map(|effect| match effect {
                    TxEffect::Ended { status, .. } => Some(*status),
                    _ => None,
                });
                let status = ends.unwrap_or_else(|| rig.machine.outcome(*tid).status());
                model.decided[at] = status.direction();
            }
            TxEffect::Operated { tid, record } => {
                prop_assert_eq!(rig.machine.audit().next_back(), Some(&**record), "what acted is kept");
                let status = rig.machine.outcome(*tid).status();
                prop_assert_eq!(record.status, status);
            }
            TxEffect::BranchChanged { branch, status, .. } if status.done().is_some() => {
                model.branches[branch.seq() as usize - 1].holds = false;
            }
            TxEffect::Ended { tid, status, details } => {
                let mut bytes = Vec::new();
                details.encode(&mut bytes);
                let record = EndedRecord::decode(&bytes);
                prop_assert!(record.is_ok_and(|record| (record.tid, record.status) == (*tid, *status)));
                for end in 0..bytes.len() {
                    prop_assert!(EndedRecord::decode(&bytes[..end]).is_err());
                }
                let at = tid.seq() as usize - 1;
                prop_assert_eq!(model.ended[at], None, "{} ends twice", tid);
                prop_assert_eq!(status.direction(), model.decided[at], "it ends as it was decided");
                model.ended[at] = Some(*status);
                model
                    .branches
                    .iter_mut()
                    .filter(|branch| branch.tx == tid.seq())
                    .for_each(|branch| branch.holds = false);
            }
            _ => {}
        }
    }
    for (at, decided) in model.decided.iter().enumerate() {
        let status = rig.machine.outcome(Tid::new(1, at as u64 + 1)).status();
        prop_assert_eq!(status.direction(), *decided, "only a decision decides, and once");
        prop_assert_eq!(model.ended[at].is_some(), status.is_ended());
    }
    Ok(())
}

fn check_locks(machine: &TxMachine, model: &Model) -> Result<(), TestCaseError> {
    for row in 0..6u8 {
        let answer = machine.lockable("jdbc:mysql://db/stock", &lock_keys(&[row]), None);
        let holder = match answer {
            Ok(()) => None,
            Err(TxError::LockConflict { holder, .. }) => Some(holder.seq()),
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        prop_assert_eq!(holder, model.holder(row), "row {}", row);
    }
    Ok(())
}

/// Feeds the same steps to several machines as one log.
fn commands_of(steps: &[Step]) -> Vec<OwnedCommand> {
    let mut model = Model::default();
    let mut commands: Vec<OwnedCommand> = Vec::new();
    for step in steps {
        let command = match step {
            Step::Wait { .. } => continue,
            Step::Again { back } => match commands.len().checked_sub(*back) {
                Some(at) => commands[at].clone(),
                None => continue,
            },
            _ => {
                if let Step::Register { tx, kind, rows } = step {
                    model.branches.push(ModelBranch {
                        tx: *tx,
                        kind: *kind,
                        rows: rows.clone(),
                        holds: false,
                    });
                }
                let n = commands.len() as u64;
                let req = ReqId { origin: n % 3, seq: n };
                OwnedCommand {
                    req,
                    settled_below: n.saturating_sub(12),
                    body: body_of(step, &model),
                }
            }
        };
        commands.push(command);
    }
    commands
}

fn apply_batch(machine: &mut TxMachine, index: u64, commands: &[OwnedCommand]) -> Vec<TxEffect> {
    let mut effects = Vec::new();
    let entry = EntryMeta {
        index,
        term: 1,
        time: GroupTime(index * 7_001),
        version: 1,
    };
    machine
        .apply(entry, &encode_batch(commands), &mut effects)
        .expect("the batch is well formed");
    effects
}

fn without_index(effect: TxEffect) -> TxEffect {
    match effect {
        TxEffect::Ended { tid, status, details } => TxEffect::Ended {
            tid,
            status,
            details: Ended { index: 0, ..details },
        },
        other => other,
    }
}

/// Few outcomes are kept, so that eviction is part of the histories.
fn small() -> MachineConfig {
    MachineConfig {
        outcome_retention_ms: 30_000,
        branches_max: 3,
        sessions_max: 6,
        ..MachineConfig::new(1)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_agrees_with_the_naive_model(steps in history(120)) {
        run(&steps)?;
    }

    #[test]
    fn a_loaded_snapshot_is_the_state_and_goes_on_like_it(
        steps in history(150),
        cut in 0.0..1.0f64,
        batch in 1..6usize,
        chunk_size in 1..5_000usize,
    ) {
        let commands = commands_of(&steps);
        let batches: Vec<_> = commands.chunks(batch).collect();
        let cut = (batches.len() as f64 * cut) as usize;
        let mut original = TxMachine::new(small());
        for (n, batch) in batches[..cut].iter().enumerate() {
            apply_batch(&mut original, n as u64 + 1, batch);
        }
        let (hash, chunks) = (original.state_hash(), original.begin_snapshot());

        let mut effects = Vec::new();
        for (n, batch) in batches.iter().enumerate().skip(cut) {
            effects.push(apply_batch(&mut original, n as u64 + 1, batch));
        }

        // The chunks are read only now: applying went on and must not show in them.
        let bytes: Vec<u8> = chunks.flat_map(|chunk| chunk.to_vec()).collect();
        let mut copy = load(small(), &bytes, chunk_size).expect("it is a snapshot");
        copy.check_invariants();
        prop_assert_eq!(copy.state_hash(), hash);
        for (n, batch) in batches.iter().enumerate().skip(cut) {
            prop_assert_eq!(&apply_batch(&mut copy, n as u64 + 1, batch), &effects[n - cut]);
        }
        prop_assert_eq!(copy.state_hash(), original.state_hash());
        prop_assert_eq!(visible(&copy), visible(&original));
    }

    #[test]
    fn how_commands_are_batched_changes_no_answer(steps in history(80)) {
        let commands = commands_of(&steps);
        let (mut one, mut many) = (TxMachine::new(MachineConfig::new(1)), TxMachine::new(MachineConfig::new(1)));
        let together = apply_batch(&mut one, 1, &commands);
        let mut apart = Vec::new();
        for (n, command) in commands.iter().enumerate() {
            let entry = EntryMeta { index: n as u64 + 1, term: 1, time: GroupTime(7_001), version: 1 };
            let batch = encode_batch(std::slice::from_ref(command));
            many.apply(entry, &batch, &mut apart).expect("the batch is well formed");
        }
        // Which entry ended a transaction is told, and is no answer.
        let plain = |effects: Vec<TxEffect>| effects.into_iter().map(without_index).collect::<Vec<_>>();
        prop_assert_eq!(plain(together), plain(apart));
        prop_assert_eq!(visible(&one), visible(&many));
    }

    #[test]
    fn two_states_that_differ_by_one_command_have_other_hashes(steps in history(60), extra in step()) {
        let mut commands = commands_of(&steps);
        let mut one = TxMachine::new(MachineConfig::new(1));
        apply_batch(&mut one, 1, &commands);
        commands.extend(commands_of(&[extra]).into_iter().map(|command| Command {
            req: ReqId { origin: 99, seq: 1 },
            ..command
        }));
        let mut other = TxMachine::new(MachineConfig::new(1));
        apply_batch(&mut other, 1, &commands);
        prop_assert_eq!(one.state_hash() == other.state_hash(), commands.len() == commands_of(&steps).len());
    }

    #[test]
    fn a_batch_survives_being_written_and_read(commands in proptest::collection::vec(any_command(), 0..20)) {
        let bytes = encode_batch(&commands);
        let read = decode_batch(&bytes).expect("it was just written");
        prop_assert_eq!(encode_batch(&read), bytes.clone());
        prop_assert_eq!(read.len(), commands.len());
        for (read, written) in read.iter().zip(&commands) {
            prop_assert_eq!(format!("{read:?}"), format!("{written:?}"));
        }
        for end in 0..bytes.len() {
            prop_assert!(decode_batch(&bytes[..end]).is_err(), "a batch cut at {} is none", end);
        }
    }

    #[test]
    fn hostile_bytes_are_refused_and_never_panic(
        steps in history(60),
        noise in proptest::collection::vec(any::<u8>(), 0..200),
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let commands = commands_of(&steps);
        let mut machine = TxMachine::new(small());
        apply_batch(&mut machine, 1, &commands);
        let snapshot: Vec<u8> = machine.begin_snapshot().flat_map(|chunk| chunk.to_vec()).collect();
        let batch = encode_batch(&commands).to_vec();
        let _ = decode_batch(&noise);
        prop_assert!(load(small(), &noise, 16).is_err());
        for mut bytes in [batch, snapshot.clone()] {
            for (at, value) in &flips {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            let _ = decode_batch(&bytes);
            if let Ok(loaded) = load(small(), &bytes, 64) {
                loaded.check_invariants();
            }
        }
        for end in [0, 1, snapshot.len() / 2, snapshot.len() - 1] {
            prop_assert!(load(small(), &snapshot[..end], 100).is_err(), "a snapshot cut at {} is none", end);
        }
    }

    #[test]
    fn whatever_lock_keys_say_every_lock_has_a_branch_and_goes_with_it(
        texts in proptest::collection::vec(("[ab:;,_0-2]{0,12}", 1..4u64), 1..8),
        decision in proptest::sample::select(vec![Decision::Commit, Decision::Rollback]),
    ) {
        let mut rig = Rig::new(MachineConfig::new(1));
        let mut registered = Vec::new();
        for _ in 1..4 {
            rig.begin();
        }
        for (text, tx) in &texts {
            let tid = Tid::new(1, *tx);
            registered.extend(rig.register(tid, BranchType::At, text).map(|branch| (tid, branch)));
            rig.machine.check_invariants();
        }
        for tx in 1..4 {
            rig.decide(Tid::new(1, tx), decision).expect("it was begun");
        }
        let done = match decision {
            Decision::Commit => BranchStatus::PhaseTwoCommitted,
            _ => BranchStatus::PhaseTwoRollbacked,
        };
        for (tid, branch) in registered {
            rig.done(tid, branch, done).expect("it agrees with the decision");
            rig.machine.check_invariants();
        }
        prop_assert_eq!((rig.machine.open_count(), rig.machine.lock_count(), rig.machine.lock_bytes()), (0, 0, 0));
    }

    #[test]
    fn any_text_is_a_list_of_rows_or_an_error(text in "[a:;,_0-9\\PC]{0,40}") {
        for row in lock_rows(&text).map_while(Result::ok) {
            prop_assert!(!row.table.is_empty() && !row.table.contains([':', ';']));
            prop_assert!(!row.pk.contains([',', ';']));
        }
    }
}

fn any_command() -> impl Strategy<Value = OwnedCommand> {
    let id = 1..(1u64 << 55);
    let tid = (any::<u8>(), id.clone()).prop_map(|(group, seq)| Tid::new(group, seq));
    let branch = (any::<u8>(), id).prop_map(|(group, seq)| BranchId::new(group, seq));
    let text = || "\\PC{0,12}";
    let by = || proptest::option::of(text());
    let decision = proptest::sample::select(vec![Decision::Commit, Decision::Rollback, Decision::Timeout]);
    let body = prop_oneof![
        (text(), text(), text(), text(), any::<u32>()).prop_map(
            |(xid_prefix, application, service_group, name, timeout_ms)| CommandBody::Begin {
                xid_prefix,
                application,
                service_group,
                name,
                timeout_ms
            }
        ),
        (
            tid.clone(),
            proptest::sample::select(BranchType::ALL),
            text(),
            text(),
            text(),
            text(),
            proptest::option::of(proptest::collection::vec(text(), 0..3))
        )
            .prop_map(
                |(tid, branch_type, resource, client, lock_keys, application_data, joins)| {
                    CommandBody::RegisterBranch {
                        tid,
                        branch_type,
                        resource,
                        client,
                        lock_keys,
                        application_data,
                        joins,
                    }
                }
            ),
        (
            tid.clone(),
            branch.clone(),
            branch_status(),
            proptest::option::of(text()),
            by()
        )
            .prop_map(
                |(tid, branch, status, application_data, by)| CommandBody::ReportBranch {
                    tid,
                    branch,
                    status,
                    application_data,
                    by,
                }
            ),
        (tid.clone(), decision, by()).prop_map(|(tid, decision, by)| CommandBody::Decide {
            tid,
            decision,
            expect: Expect::Begin,
            by,
        }),
        (tid.clone(), branch, branch_status()).prop_map(|(tid, branch, status)| CommandBody::BranchDone {
            tid,
            branch,
            status
        }),
        (tid.clone(), proptest::sample::select(GlobalStatus::ALL), by())
            .prop_map(|(tid, status, by)| CommandBody::End { tid, status, by }),
        (tid, act(), text(), text(), any::<u64>()).prop_map(|(tid, act, operator, reason, at_ms)| {
            CommandBody::Operate {
                tid,
                act,
                signed: Signed {
                    operator,
                    reason,
                    at_ms,
                },
            }
        }),
    ];
    (any::<u64>(), any::<u64>(), any::<u64>(), body).prop_map(|(origin, seq, settled_below, body)| OwnedCommand {
        req: ReqId { origin, seq },
        settled_below,
        body,
    })
}
