//! Operators: they end transactions, stop and resume retries, forget what is settled and release its locks, at any node,
//! and never claim what is not so.

use std::collections::BTreeMap;

use settle_base::Prng;
use settle_tx::{BranchId, BranchType, OperatorAct, Signed, Tid};
use settle_tx_gate::{AdminAnswer, AdminRequest, GateRequest, OperatorRequest, RequestKey};

use super::{
    apps::{Apps, Timer},
    bank::Stage,
    transfer::{Step, Transfer},
};
use crate::workload::Io;

#[derive(Default)]
pub(super) struct Operators {
    /// What they asked last of each transaction whose retries they stopped: to stop or to resume them.
    stopped: BTreeMap<Tid, bool>,
    asked: BTreeMap<RequestKey, (Tid, OperatorAct<String>)>,
    last_key: u64,
    pub(super) acts: u64,
    pub(super) refused: u64,
}

impl Apps {
    pub(super) fn operators_look(&mut self, io: &mut Io<GateRequest>) {
        let after = io.prng.between(300_000, 3_000_000);
        io.wake_in(after, Timer::Operators.encode());
        // Nobody goes home before all goes on.
        let stopped = self.operators.stopped.keys().copied();
        let resumed: Vec<Tid> = stopped
            .filter(|tid| self.is_stopped && self.judge.is_open(*tid))
            .collect();
        for tid in resumed {
            self.operate(tid, OperatorAct::ResumeRetry, io);
        }
        if !self.is_stopped
            && let Some((tid, act)) = self.choose_act(io.prng)
        {
            self.operate(tid, act, io);
        }
    }

    fn choose_act(&mut self, prng: &mut Prng) -> Option<(Tid, OperatorAct<String>)> {
        if prng.percent(40) {
            let threads = self.apps.iter().flat_map(|app| &app.threads);
            let running: Vec<&Transfer> = threads
                .filter_map(|t| t.transfer.as_ref())
                .filter(|t| !t.is_saga())
                .collect();
            let transfer = some(&running, prng)?;
            let act = match transfer.step {
                // Its application wants that too.
                Step::Ending { is_commit: true } => OperatorAct::Commit,
                _ => OperatorAct::Rollback,
            };
            return Some((Tid::from_xid(&transfer.xid)?, act));
        }
        let tid = *some(&self.judge.in_phase_two(), prng)?;
        let settled = self.judge.settled(tid, &self.bank);
        Some(match prng.below(4) {
            0 if settled.iter().all(|(_, is_settled)| *is_settled) => (tid, OperatorAct::Forget),
            1 => {
                let branches: Vec<BranchId> = settled.iter().filter(|(_, is)| *is).map(|(id, _)| *id).collect();
                let branch = *some(&branches, prng)?;
                self.judge.releases(branch);
                let rows = String::new();
                (tid, OperatorAct::ReleaseLock { branch, rows })
            }
            2 => (tid, OperatorAct::ResumeRetry),
            _ => (tid, OperatorAct::StopRetry),
        })
    }

    fn operate(&mut self, tid: Tid, act: OperatorAct<String>, io: &mut Io<GateRequest>) {
        let Some(node) = io.pick_node() else { return };
        match act {
            OperatorAct::StopRetry => drop(self.operators.stopped.insert(tid, true)),
            OperatorAct::ResumeRetry => drop(self.operators.stopped.insert(tid, false)),
            _ => {}
        }
        self.operators.last_key += 1;
        let key = RequestKey(self.operators.last_key);
        self.operators.asked.insert(key, (tid, act.clone()));
        let signed = Signed {
            operator: "ann".to_owned(),
            reason: "it is simulated".to_owned(),
            at_ms: 0,
        };
        let id = tid.to_string();
        let claims_settled = true;
        let request = OperatorRequest {
            id,
            act,
            signed,
            claims_settled,
        };
        io.send(
            node,
            GateRequest::Admin {
                key,
                body: AdminRequest::Operate(request),
            },
        );
    }

    pub(super) fn operated(&mut self, key: RequestKey, is_done: Option<AdminAnswer>) {
        if self.operators.asked.remove(&key).is_none() {
            return;
        }
        match is_done {
            Some(AdminAnswer::Operated { acted, .. }) => self.operators.acts += u64::from(acted),
            _ => self.operators.refused += 1,
        }
    }
}

/// Whether operators may say of a branch at this stage that it is settled.
pub(super) fn is_settled(kind: BranchType, stage: Option<Stage>) -> bool {
    kind != BranchType::Saga && matches!(stage, Some(Stage::Committed | Stage::RolledBack | Stage::Nothing))
}

fn some<'a, T>(all: &'a [T], prng: &mut Prng) -> Option<&'a T> {
    (!all.is_empty()).then(|| &all[prng.below(all.len() as u64) as usize])
}
