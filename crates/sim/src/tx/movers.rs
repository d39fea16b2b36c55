//! Who moves service groups between the transaction groups, some together and back and forth, and takes moves back; and who
//! asks about rows from outside a transaction meanwhile.

use std::collections::BTreeSet;

use settle_base::{GroupId, Prng};
use settle_tx::Signed;
use settle_tx_gate::{AdminAnswer, AdminRequest, ClientRequest, GateRequest, RefusalError, RequestKey};

use super::{
    app::{Ask, Role},
    apps::{Apps, Timer, service_group},
    transfer::Transfer,
};
use crate::workload::Io;

/// Their requests are numbered from here, apart from those of the other operators.
const FIRST_KEY: u64 = 1 << 40;

#[derive(Default)]
pub(super) struct Movers {
    asked: BTreeSet<RequestKey>,
    /// They ask all the time, and take back half of what they asked for.
    are_restless: bool,
    pub(super) refused: u64,
}

impl Movers {
    pub(super) fn new(prng: &mut Prng) -> Movers {
        Movers {
            are_restless: prng.percent(30),
            ..Movers::default()
        }
    }
}

impl Apps {
    pub(super) fn movers_look(&mut self, io: &mut Io<GateRequest>) {
        let after = io.prng.between(50_000, 400_000);
        io.wake_in(after, Timer::Movers.encode());
        if self.is_stopped || self.config.groups.len() < 2 {
            return;
        }
        for _ in 0..2 {
            self.peek(io);
        }
        let (moves, cancellations) = if self.movers.are_restless { (50, 80) } else { (12, 15) };
        let body = match io.prng.below(100) {
            what if what < moves => self.some_move(io),
            what if what < cancellations => self.some_cancellation(io),
            _ => return,
        };
        let Some(node) = io.pick_node() else { return };
        let key = RequestKey(FIRST_KEY + self.movers.asked.len() as u64);
        self.movers.asked.insert(key);
        io.send(node, GateRequest::Admin { key, body });
    }

    fn some_name(&self, io: &mut Io<GateRequest>) -> String {
        service_group(1 + io.prng.below(self.config.groups.len() as u64))
    }

    fn some_move(&self, io: &mut Io<GateRequest>) -> AdminRequest {
        let mut names = BTreeSet::from([self.some_name(io)]);
        if io.prng.percent(35) {
            names.insert(self.some_name(io));
        }
        let to = GroupId(1 + io.prng.below(self.config.groups.len() as u64));
        AdminRequest::MoveServiceGroups {
            names: names.into_iter().collect(),
            to,
            signed: signed(),
        }
    }

    fn some_cancellation(&self, io: &mut Io<GateRequest>) -> AdminRequest {
        AdminRequest::CancelMove {
            name: self.some_name(io),
            signed: signed(),
        }
    }

    pub(super) fn movers_hear(&mut self, key: RequestKey, result: &Result<AdminAnswer, RefusalError>) {
        self.movers.refused += u64::from(self.movers.asked.contains(&key) && result.is_err());
    }

    /// Somebody of a service group asks for rows that a transaction of the same one has, or had.
    fn peek(&mut self, io: &mut Io<GateRequest>) {
        let i = io.prng.below(self.apps.len() as u64) as usize;
        let of_same = self
            .apps
            .iter()
            .filter(|app| app.service_group == self.apps[i].service_group);
        let running: Vec<&Transfer> = of_same
            .flat_map(|app| app.threads.iter().filter_map(|thread| thread.transfer.as_ref()))
            .collect();
        let legs = running.iter().flat_map(|transfer| &transfer.legs);
        let rows: Vec<_> = legs
            .filter(|leg| leg.account.kind == settle_tx::BranchType::At)
            .map(|leg| (leg.account.resource(), format!("account:{}", leg.account.number)))
            .collect();
        if rows.is_empty() {
            return;
        }
        let (resource, lock_keys) = rows[io.prng.below(rows.len() as u64) as usize].clone();
        let Some(channel) = self.choose(i, Role::Rm, "", io.prng) else {
            return;
        };
        let key = self.apps[i].key();
        let xid = String::new();
        let body = ClientRequest::LockQuery {
            xid,
            resource,
            lock_keys,
        };
        self.put(i, channel, key, usize::MAX, Ask::Peek, None, body, io);
    }
}

fn signed() -> Signed<String> {
    Signed {
        operator: "bea".to_owned(),
        reason: "it is simulated".to_owned(),
        at_ms: 0,
    }
}
