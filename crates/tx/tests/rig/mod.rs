//! A machine with a log of its own: applies commands one entry at a time and keeps what came of them.
#![allow(dead_code, reason = "each test file uses a part")]

use bytes::Bytes;
use settle_base::GroupTime;
use settle_machine::{EntryMeta, StateMachine};
use settle_tx::{
    APPLY_VERSION, BranchId, BranchStatus, BranchType, CommandBody, Decision, Expect, MachineConfig, OperatorAct,
    OwnedCommand, OwnedCommandBody, Reply, ReqId, Signed, Tid, TxEffect, TxError, TxMachine, encode_batch,
};

pub struct Rig {
    pub machine: TxMachine,
    pub index: u64,
    pub time: GroupTime,
    pub seq: u64,
    /// The cluster version that the entries are applied by.
    pub version: u32,
    /// The effects of the last entry.
    pub effects: Vec<TxEffect>,
}

impl Rig {
    pub fn new(config: MachineConfig) -> Rig {
        Rig {
            machine: TxMachine::new(config),
            index: 0,
            time: GroupTime(1_000),
            seq: 0,
            version: APPLY_VERSION,
            effects: Vec::new(),
        }
    }

    /// Applies one entry with these commands.
    pub fn apply(&mut self, commands: &[OwnedCommand]) {
        self.index += 1;
        self.effects.clear();
        let entry = EntryMeta {
            index: self.index,
            term: 1,
            time: self.time,
            version: self.version,
        };
        self.machine
            .apply(entry, &encode_batch(commands), &mut self.effects)
            .expect("the batch is well formed");
    }

    /// Applies one new request and gives its answer.
    pub fn ask(&mut self, body: OwnedCommandBody) -> Result<Reply, TxError> {
        self.seq += 1;
        let req = ReqId {
            origin: 1,
            seq: self.seq,
        };
        self.apply(&[OwnedCommand {
            req,
            settled_below: self.seq,
            body,
        }]);
        match self.effects.last() {
            Some(TxEffect::Reply { req: answered, result }) if *answered == req => result.clone(),
            other => panic!("the last effect of a request is its reply, not {other:?}"),
        }
    }

    pub fn begin(&mut self) -> Tid {
        match self.ask(begin(60_000)) {
            Ok(Reply::Begun { tid, .. }) => tid,
            other => panic!("{other:?}"),
        }
    }

    pub fn register(&mut self, tid: Tid, branch_type: BranchType, lock_keys: &str) -> Result<BranchId, TxError> {
        match self.ask(register(tid, branch_type, lock_keys, ""))? {
            Reply::Branch { branch } => Ok(branch),
            other => panic!("{other:?}"),
        }
    }

    pub fn branch(&mut self, tid: Tid, branch_type: BranchType) -> BranchId {
        self.register(tid, branch_type, "")
            .expect("nothing speaks against the branch")
    }

    pub fn decide(&mut self, tid: Tid, decision: Decision) -> Result<Reply, TxError> {
        self.ask(decide(tid, decision))
    }

    pub fn done(&mut self, tid: Tid, branch: BranchId, status: BranchStatus) -> Result<Reply, TxError> {
        self.ask(CommandBody::BranchDone { tid, branch, status })
    }

    pub fn operate(&mut self, tid: Tid, act: OperatorAct<String>) -> Result<Reply, TxError> {
        self.ask(operate(tid, act))
    }

    pub fn snapshot(&self) -> Vec<u8> {
        self.machine.begin_snapshot().flat_map(|chunk| chunk.to_vec()).collect()
    }
}

pub fn begin(timeout_ms: u32) -> OwnedCommandBody {
    CommandBody::Begin {
        xid_prefix: "10.0.0.1:8091".into(),
        application: "orders".into(),
        service_group: "default_tx_group".into(),
        name: "purchase".into(),
        timeout_ms,
    }
}

pub fn register(tid: Tid, branch_type: BranchType, lock_keys: &str, application_data: &str) -> OwnedCommandBody {
    CommandBody::RegisterBranch {
        tid,
        branch_type,
        resource: "jdbc:mysql://db/stock".into(),
        client: "stock:10.0.0.2:5060".into(),
        lock_keys: lock_keys.into(),
        application_data: application_data.into(),
        joins: None,
    }
}

pub fn decide(tid: Tid, decision: Decision) -> OwnedCommandBody {
    CommandBody::Decide {
        tid,
        decision,
        expect: Expect::Begin,
        by: None,
    }
}

pub fn operate(tid: Tid, act: OperatorAct<String>) -> OwnedCommandBody {
    let signed = Signed {
        operator: "ada".into(),
        reason: "ticket 7".into(),
        at_ms: 1_700_000_000_000,
    };
    CommandBody::Operate { tid, act, signed }
}

/// Loads a snapshot cut into chunks of `size` bytes.
pub fn load(config: MachineConfig, bytes: &[u8], size: usize) -> Result<TxMachine, settle_machine::LoadError> {
    let mut machine = TxMachine::new(config);
    let mut chunks = bytes.chunks(size).map(Bytes::copy_from_slice);
    machine.load(&mut chunks).map(|()| machine)
}
