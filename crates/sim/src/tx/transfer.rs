//! One transfer of money as the thread of an application lives it: a global transaction with its branches.

use std::collections::BTreeMap;

use settle_base::Prng;
use settle_tx::{BranchStatus, BranchType};
use settle_tx_gate::BranchCall;

use super::bank::Account;

/// One change of one account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Leg {
    pub(super) account: Account,
    pub(super) delta: i64,
    /// 0 until it is registered.
    pub(super) branch: i64,
    /// Of TCC: its participant has a fence table.
    pub(super) has_fence: bool,
    /// Of XA: it reads, and changes nothing.
    pub(super) is_read_only: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Beginning,
    /// Are the rows free?
    Querying {
        leg: usize,
    },
    Registering {
        leg: usize,
    },
    /// The local transaction of that leg is under way.
    Working {
        leg: usize,
    },
    /// How phase one of that leg went; then on with the next, or back.
    Reporting {
        leg: usize,
        status: BranchStatus,
    },
    Ending {
        is_commit: bool,
    },
    /// Somebody wants to know how it ended.
    Asking,
    /// A saga reports its end. It asks until it is told.
    ReportingSaga {
        is_commit: bool,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Transfer {
    pub(super) number: u64,
    pub(super) xid: String,
    pub(super) legs: Vec<Leg>,
    pub(super) step: Step,
    /// Of the step.
    pub(super) tries: u32,
}

impl Transfer {
    pub(super) fn is_saga(&self) -> bool {
        self.legs[0].account.kind == BranchType::Saga
    }

    /// Whether its client gives the registration of that leg a token, and asks again when it gets no answer: Settle's own
    /// does, where the branch has application data.
    pub(super) fn has_token(&self, leg: usize) -> bool {
        self.number % 3 == 1 && matches!(self.legs[leg].account.kind, BranchType::At | BranchType::Tcc)
    }

    /// What the branch of that leg is registered with.
    pub(super) fn application_data(&self, leg: usize) -> String {
        let data = self.legs[leg].application_data();
        match (self.has_token(leg), data.strip_prefix('{')) {
            (true, Some(rest)) => format!(r#"{{"settle.once":"{}x{leg}",{rest}"#, self.number),
            _ => data,
        }
    }

    pub(super) fn goes_to(&mut self, step: Step) {
        self.step = step;
        self.tries = 0;
    }
}

impl Leg {
    /// What the branch's manager wants to be given back in phase two.
    pub(super) fn application_data(&self) -> String {
        let Leg {
            account,
            delta,
            has_fence,
            ..
        } = self;
        match account.kind {
            BranchType::Tcc => format!(
                r#"{{"actionContext":{{"number":{},"delta":{delta},"fence":{has_fence}}}}}"#,
                account.number
            ),
            BranchType::At => r#"{"autoCommit":false}"#.to_owned(),
            BranchType::Xa | BranchType::Saga | BranchType::SagaAnnotation => String::new(),
        }
    }

    /// A TCC branch of a participant that has no fence table.
    pub(super) fn is_fenceless(&self) -> bool {
        self.account.kind == BranchType::Tcc && !self.has_fence
    }

    /// What a participant reads who remembers nothing.
    pub(super) fn of_data(call: &BranchCall) -> Option<Leg> {
        let field = |name: &str| {
            let (_, rest) = call.application_data.split_once(&format!("\"{name}\":"))?;
            rest.split([',', '}']).next()?.parse::<i64>().ok()
        };
        let account = Account {
            kind: BranchType::Tcc,
            group: 0,
            number: u64::try_from(field("number")?).ok()?,
        };
        Some(Leg {
            account,
            delta: field("delta")?,
            branch: call.branch,
            has_fence: false,
            is_read_only: false,
        })
    }
}

/// What the transfers of a world are made of.
pub(super) struct Habits {
    /// Accounts of each kind and group.
    pub(super) accounts: u64,
    pub(super) has_xa: bool,
}

impl Habits {
    pub(super) fn draw(&self, number: u64, group: u64, prng: &mut Prng) -> Transfer {
        let kinds: &[BranchType] = match prng.below(if self.has_xa { 12 } else { 10 }) {
            0..5 => &[BranchType::At, BranchType::At],
            5 => &[BranchType::At, BranchType::At, BranchType::Tcc, BranchType::Tcc],
            6..8 => &[BranchType::Tcc, BranchType::Tcc],
            8..10 => &[BranchType::Saga, BranchType::Saga],
            10 => &[BranchType::Xa, BranchType::Xa],
            _ => &[BranchType::Tcc, BranchType::Xa, BranchType::At],
        };
        let amount = prng.between(1, 50) as i64;
        let mut legs: Vec<Leg> = kinds.iter().map(|kind| self.leg(*kind, group, prng)).collect();
        let last = legs.len() - 1;
        legs[0].delta = -amount;
        legs[last].delta = amount;
        // In the middle: what changes nothing in the end.
        if legs.len() == 3 && legs[1].account.kind == BranchType::Xa {
            legs[1].is_read_only = true;
        }
        // A row that is changed twice in one transaction.
        if kinds == [BranchType::At, BranchType::At] && prng.percent(15) {
            legs[last].account = legs[0].account;
        }
        Transfer {
            number,
            xid: String::new(),
            legs,
            step: Step::Beginning,
            tries: 0,
        }
    }

    fn leg(&self, kind: BranchType, group: u64, prng: &mut Prng) -> Leg {
        let number = prng.below(self.accounts);
        let group = if kind == BranchType::At { group } else { 0 };
        Leg {
            account: Account { kind, group, number },
            delta: 0,
            branch: 0,
            has_fence: prng.percent(60),
            is_read_only: false,
        }
    }
}

/// The transfers that were begun, by xid, as they were when their end was asked for or they were left alone.
#[derive(Default)]
pub(super) struct Journal {
    transfers: BTreeMap<String, (u64, Vec<Leg>)>,
}

impl Journal {
    pub(super) fn keep(&mut self, transfer: &Transfer) {
        let entry = (transfer.number, transfer.legs.clone());
        self.transfers.insert(transfer.xid.clone(), entry);
    }

    /// Each with its number and legs.
    pub(super) fn begun(&self) -> impl Iterator<Item = (&str, u64, &[Leg])> {
        let each = self.transfers.iter();
        each.map(|(xid, (number, legs))| (xid.as_str(), *number, legs.as_slice()))
    }
}
