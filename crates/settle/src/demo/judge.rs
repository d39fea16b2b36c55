//! The judge: a pure function from what two account services and the teller left behind to what of the promises is
//! broken. It sees no log and no status of a Settle server.

use std::collections::BTreeMap;

use serde::Serialize;

/// What a transfer is to end as, or has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Committed,
    RolledBack,
}

/// What the teller asked for, and what it was told.
#[derive(Clone, Debug)]
pub struct Transfer {
    pub xid: String,
    /// Service (0 or 1) and account that the money leaves.
    pub from: (usize, i64),
    pub to: (usize, i64),
    /// Above 0.
    pub amount: i64,
    /// Every answer to a commit, a rollback or a question that told an outcome.
    pub told: Vec<End>,
}

/// What one account service left: its file and its journal.
#[derive(Clone, Default, Debug)]
pub struct Side {
    pub name: String,
    pub accounts: Vec<Account>,
    pub postings: Vec<Posting>,
    pub branches: Vec<Branch>,
    pub calls: Vec<Call>,
}

#[derive(Clone, Debug)]
pub struct Account {
    pub id: i64,
    pub opening: i64,
    pub balance: i64,
    /// Promised to transfers that are not decided.
    pub reserved: i64,
}

/// Money that moved.
#[derive(Clone, Debug)]
pub struct Posting {
    pub xid: String,
    pub account: i64,
    pub amount: i64,
}

/// A row of the fence.
#[derive(Clone, Debug)]
pub struct Branch {
    pub xid: String,
    pub branch: i64,
    /// `None`: tried, and neither confirmed nor cancelled.
    pub end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CallKind {
    /// Phase one, answered with success.
    Tried,
    Confirm,
    Cancel,
}

/// A line of the journal: a call as it arrived.
#[derive(Clone, Debug)]
pub struct Call {
    pub xid: String,
    pub branch: i64,
    pub kind: CallKind,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Promise {
    Sum,
    Whole,
    Outcome,
    Calls,
    Decided,
}

/// A broken promise.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub promise: Promise,
    pub what: String,
}

#[derive(Clone, Default, Debug, Serialize)]
pub struct Verdict {
    /// Money in both files at the start and at the end.
    pub opening: i64,
    pub closing: i64,
    pub transfers: usize,
    pub whole: usize,
    pub absent: usize,
    /// Phase-two calls that arrived, and those of them that came again.
    pub calls: usize,
    pub repeated_calls: usize,
    /// Calls to cancel what was never tried.
    pub empty_cancels: usize,
    pub findings: Vec<Finding>,
}

impl Verdict {
    pub fn is_good(&self) -> bool {
        self.findings.is_empty()
    }

    pub fn of(&self, promise: Promise) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.promise == promise)
    }

    fn find(&mut self, promise: Promise, what: String) {
        self.findings.push(Finding { promise, what });
    }
}

/// Everything about one transfer, gathered from all sides.
#[derive(Default)]
struct Gathered<'a> {
    transfer: Option<&'a Transfer>,
    postings: Vec<(usize, &'a Posting)>,
    branches: Vec<(usize, &'a Branch)>,
    calls: Vec<(usize, &'a Call)>,
}

pub fn judge(sides: &[Side; 2], transfers: &[Transfer]) -> Verdict {
    let mut verdict = Verdict {
        transfers: transfers.len(),
        ..Verdict::default()
    };
    judge_sums(sides, &mut verdict);
    for (xid, gathered) in gather(sides, transfers) {
        judge_transfer(xid, &gathered, sides, &mut verdict);
    }
    verdict
}

fn gather<'a>(sides: &'a [Side; 2], transfers: &'a [Transfer]) -> BTreeMap<&'a str, Gathered<'a>> {
    let mut all: BTreeMap<&str, Gathered<'_>> = BTreeMap::new();
    for transfer in transfers {
        all.entry(&transfer.xid).or_default().transfer = Some(transfer);
    }
    for (at, side) in sides.iter().enumerate() {
        for posting in &side.postings {
            all.entry(&posting.xid).or_default().postings.push((at, posting));
        }
        for branch in &side.branches {
            all.entry(&branch.xid).or_default().branches.push((at, branch));
        }
        for call in &side.calls {
            all.entry(&call.xid).or_default().calls.push((at, call));
        }
    }
    all
}

fn judge_sums(sides: &[Side; 2], verdict: &mut Verdict) {
    for side in sides {
        let mut posted: BTreeMap<i64, i64> = BTreeMap::new();
        for posting in &side.postings {
            *posted.entry(posting.account).or_default() += posting.amount;
        }
        for account in &side.accounts {
            verdict.opening += account.opening;
            verdict.closing += account.balance;
            let posted = posted.remove(&account.id).unwrap_or_default();
            if account.balance != account.opening + posted {
                let what = format!(
                    "account {} of {} has {}, but began with {} and had {posted:+} posted",
                    account.id, side.name, account.balance, account.opening
                );
                verdict.find(Promise::Sum, what);
            }
            if account.reserved != 0 {
                let what = format!(
                    "{} of account {} of {} are still reserved",
                    account.reserved, account.id, side.name
                );
                verdict.find(Promise::Decided, what);
            }
        }
        for (account, amount) in posted {
            let what = format!(
                "{amount:+} is posted to account {account} of {}, which is not there",
                side.name
            );
            verdict.find(Promise::Sum, what);
        }
    }
    if verdict.opening != verdict.closing {
        let what = format!("the money was {} and is {}", verdict.opening, verdict.closing);
        verdict.find(Promise::Sum, what);
    }
}

fn judge_transfer(xid: &str, gathered: &Gathered<'_>, sides: &[Side; 2], verdict: &mut Verdict) {
    judge_calls(xid, gathered, sides, verdict);
    for (side, branch) in &gathered.branches {
        if branch.end.is_none() {
            let name = &sides[*side].name;
            let what = format!("{xid}: branch {} at {name} was tried and never ended", branch.branch);
            verdict.find(Promise::Decided, what);
        }
    }
    let Some(transfer) = gathered.transfer else {
        if let Some((side, posting)) = gathered.postings.first() {
            let what = format!(
                "{xid}: {:+} at {}, but nobody asked for this transfer",
                posting.amount, sides[*side].name
            );
            verdict.find(Promise::Whole, what);
        }
        return;
    };
    if transfer.told.is_empty() {
        verdict.find(
            Promise::Decided,
            format!("{xid}: the teller was never told how it ended"),
        );
    }
    let end = if gathered.postings.is_empty() {
        verdict.absent += 1;
        End::RolledBack
    } else if is_whole(transfer, &gathered.postings) {
        verdict.whole += 1;
        End::Committed
    } else {
        let found = gathered.postings.iter().map(|(side, posting)| {
            format!(
                "{:+} to account {} of {}",
                posting.amount, posting.account, sides[*side].name
            )
        });
        let what = format!(
            "{xid}: {} from account {} of {} to account {} of {} left only: {}",
            transfer.amount,
            transfer.from.1,
            sides[transfer.from.0].name,
            transfer.to.1,
            sides[transfer.to.0].name,
            found.collect::<Vec<_>>().join(", ")
        );
        return verdict.find(Promise::Whole, what);
    };
    judge_outcome(transfer, end, gathered, sides, verdict);
}

/// One posting on each side, of the right money to the right account.
fn is_whole(transfer: &Transfer, postings: &[(usize, &Posting)]) -> bool {
    let is_there = |(side, account): (usize, i64), amount: i64| {
        postings
            .iter()
            .any(|(at, posting)| *at == side && posting.account == account && posting.amount == amount)
    };
    postings.len() == 2 && is_there(transfer.from, -transfer.amount) && is_there(transfer.to, transfer.amount)
}

/// The second phase calls one way only, and confirms only what was tried.
fn judge_calls(xid: &str, gathered: &Gathered<'_>, sides: &[Side; 2], verdict: &mut Verdict) {
    let mut seen: BTreeMap<(usize, i64, CallKind), usize> = BTreeMap::new();
    for (side, call) in &gathered.calls {
        *seen.entry((*side, call.branch, call.kind)).or_default() += 1;
    }
    let mut first: BTreeMap<CallKind, (usize, i64)> = BTreeMap::new();
    for (&(side, branch, kind), &times) in &seen {
        let was_tried = seen.contains_key(&(side, branch, CallKind::Tried));
        match kind {
            CallKind::Tried => continue,
            CallKind::Confirm if !was_tried => {
                let name = &sides[side].name;
                let what = format!("{xid}: branch {branch} at {name} was confirmed, but its try had not succeeded");
                verdict.find(Promise::Calls, what);
            }
            CallKind::Cancel if !was_tried => verdict.empty_cancels += 1,
            CallKind::Confirm | CallKind::Cancel => {}
        }
        verdict.calls += times;
        verdict.repeated_calls += times - 1;
        first.entry(kind).or_insert((side, branch));
    }
    if let (Some(confirm), Some(cancel)) = (first.get(&CallKind::Confirm), first.get(&CallKind::Cancel)) {
        let what = format!(
            "{xid}: branch {} at {} was called to confirm and branch {} at {} to cancel",
            confirm.1, sides[confirm.0].name, cancel.1, sides[cancel.0].name
        );
        verdict.find(Promise::Calls, what);
    }
}

/// Whoever knows of the transfer says the same of its end as the money does.
fn judge_outcome(transfer: &Transfer, end: End, gathered: &Gathered<'_>, sides: &[Side; 2], verdict: &mut Verdict) {
    let xid = &transfer.xid;
    let money = match end {
        End::Committed => "the money moved",
        End::RolledBack => "no money moved",
    };
    if let Some(told) = transfer.told.iter().find(|told| **told != end) {
        let told = match told {
            End::Committed => "committed",
            End::RolledBack => "rolled back",
        };
        return verdict.find(
            Promise::Outcome,
            format!("{xid}: the teller was told {told}, but {money}"),
        );
    }
    for (at, side) in sides.iter().enumerate() {
        if let Some(says) = contradiction(end, at, gathered) {
            return verdict.find(Promise::Outcome, format!("{xid}: {} {says}, but {money}", side.name));
        }
    }
}

/// What the fence or the journal of a side says that does not go with `end`.
fn contradiction(end: End, at: usize, gathered: &Gathered<'_>) -> Option<&'static str> {
    let branches = || gathered.branches.iter().filter(|(side, _)| *side == at);
    let fence_says = |end| branches().any(|(_, branch)| branch.end == Some(end));
    let was_called = |kind| {
        gathered
            .calls
            .iter()
            .any(|(side, call)| *side == at && call.kind == kind)
    };
    match end {
        End::Committed if fence_says(End::RolledBack) => Some("has it rolled back in its fence"),
        End::Committed if !fence_says(End::Committed) => Some("does not have it committed in its fence"),
        End::Committed if was_called(CallKind::Cancel) => Some("was called to cancel"),
        End::Committed if !was_called(CallKind::Confirm) => Some("was never called to confirm"),
        End::RolledBack if fence_says(End::Committed) => Some("has it committed in its fence"),
        End::RolledBack if was_called(CallKind::Confirm) => Some("was called to confirm"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITTED: &str = "h:1:1";
    const ROLLED_BACK: &str = "h:1:2";

    fn side(name: &str, branch: i64, amount: i64) -> Side {
        let call = |xid: &str, branch, kind| Call {
            xid: xid.to_owned(),
            branch,
            kind,
        };
        let ended = |xid: &str, branch, end| Branch {
            xid: xid.to_owned(),
            branch,
            end: Some(end),
        };
        Side {
            name: name.to_owned(),
            accounts: vec![Account {
                id: 7,
                opening: 100,
                balance: 100 + amount,
                reserved: 0,
            }],
            postings: vec![Posting {
                xid: COMMITTED.to_owned(),
                account: 7,
                amount,
            }],
            branches: vec![
                ended(COMMITTED, branch, End::Committed),
                ended(ROLLED_BACK, branch + 1, End::RolledBack),
            ],
            calls: vec![
                call(COMMITTED, branch, CallKind::Tried),
                call(COMMITTED, branch, CallKind::Confirm),
                call(ROLLED_BACK, branch + 1, CallKind::Cancel),
            ],
        }
    }

    /// One transfer of 30 that committed and one that was rolled back, as they should look.
    fn good() -> ([Side; 2], Vec<Transfer>) {
        let transfer = |xid: &str, told| Transfer {
            xid: xid.to_owned(),
            from: (0, 7),
            to: (1, 7),
            amount: 30,
            told: vec![told],
        };
        (
            [side("north", 10, -30), side("south", 20, 30)],
            vec![
                transfer(COMMITTED, End::Committed),
                transfer(ROLLED_BACK, End::RolledBack),
            ],
        )
    }

    /// The promises found broken when `harm` is done to what was good.
    fn broken(harm: impl FnOnce(&mut [Side; 2], &mut Vec<Transfer>)) -> Vec<Promise> {
        let (mut sides, mut transfers) = good();
        harm(&mut sides, &mut transfers);
        let verdict = judge(&sides, &transfers);
        let mut promises: Vec<Promise> = verdict.findings.iter().map(|finding| finding.promise).collect();
        promises.sort();
        promises.dedup();
        promises
    }

    /// No trace of the committed transfer's second phase at a side.
    fn undo(side: &mut Side) {
        side.accounts[0].balance = 100;
        side.postings.clear();
        side.branches.retain(|branch| branch.xid != COMMITTED);
        side.calls.retain(|call| call.kind != CallKind::Confirm);
    }

    #[test]
    fn what_is_good_is_counted_and_nothing_is_found() {
        let (mut sides, transfers) = good();
        sides[1].calls.push(sides[1].calls[1].clone());
        let verdict = judge(&sides, &transfers);
        assert!(verdict.is_good(), "{:?}", verdict.findings);
        assert_eq!((verdict.opening, verdict.closing), (200, 200));
        assert_eq!((verdict.transfers, verdict.whole, verdict.absent), (2, 1, 1));
        assert_eq!(
            (verdict.calls, verdict.repeated_calls, verdict.empty_cancels),
            (5, 1, 2)
        );
    }

    #[test]
    fn money_that_is_gone_or_moved_without_a_posting_is_found() {
        assert_eq!(broken(|sides, _| sides[0].accounts[0].balance -= 1), [Promise::Sum]);
        let between_accounts = broken(|sides, _| {
            sides[0].accounts[0].balance -= 1;
            sides[1].accounts[0].balance += 1;
        });
        assert_eq!(between_accounts, [Promise::Sum]);
        assert_eq!(
            broken(|sides, _| sides[0].postings[0].account = 8),
            [Promise::Sum, Promise::Whole]
        );
    }

    #[test]
    fn a_lost_transfer_is_found_though_no_file_has_a_trace_of_it() {
        assert_eq!(broken(|sides, _| sides.iter_mut().for_each(undo)), [Promise::Outcome]);
    }

    #[test]
    fn half_a_transfer_is_found_and_so_is_one_that_came_twice_or_to_the_wrong_account() {
        let half = broken(|sides, _| undo(&mut sides[1]));
        assert_eq!(half, [Promise::Sum, Promise::Whole]);
        let twice = broken(|sides, _| {
            for side in sides {
                side.postings.push(side.postings[0].clone());
                side.accounts[0].balance += side.postings[0].amount;
            }
        });
        assert_eq!(twice, [Promise::Whole]);
        let elsewhere = broken(|sides, _| {
            sides[1].accounts[0].id = 8;
            sides[1].postings[0].account = 8;
        });
        assert_eq!(elsewhere, [Promise::Whole]);
        assert_eq!(broken(|_, transfers| drop(transfers.remove(0))), [Promise::Whole]);
    }

    #[test]
    fn a_contradicting_call_is_found_whether_it_did_harm_or_not() {
        let mut cancel = good().0[0].calls[1].clone();
        cancel.kind = CallKind::Cancel;
        for at in [0, 1] {
            let cancel = cancel.clone();
            let found = broken(|sides, _| sides[at].calls.push(cancel));
            assert_eq!(found, [Promise::Outcome, Promise::Calls]);
        }
        let never_tried = broken(|sides, _| drop(sides[0].calls.remove(0)));
        assert_eq!(never_tried, [Promise::Calls]);
    }

    #[test]
    fn what_nobody_decided_is_found() {
        assert_eq!(broken(|sides, _| sides[0].branches[1].end = None), [Promise::Decided]);
        assert_eq!(broken(|sides, _| sides[0].accounts[0].reserved = 5), [Promise::Decided]);
        assert_eq!(broken(|_, transfers| transfers[1].told.clear()), [Promise::Decided]);
    }

    #[test]
    fn an_outcome_that_one_of_the_sides_has_otherwise_is_found() {
        assert_eq!(
            broken(|_, transfers| transfers[1].told.push(End::Committed)),
            [Promise::Outcome]
        );
        assert_eq!(
            broken(|_, transfers| transfers[0].told[0] = End::RolledBack),
            [Promise::Outcome]
        );
        let fence = broken(|sides, _| sides[1].branches[0].end = Some(End::RolledBack));
        assert_eq!(fence, [Promise::Outcome]);
        assert_eq!(broken(|sides, _| drop(sides[1].branches.remove(0))), [Promise::Outcome]);
        assert_eq!(broken(|sides, _| drop(sides[1].calls.remove(1))), [Promise::Outcome]);
        let confirmed = broken(|sides, _| sides[1].branches[1].end = Some(End::Committed));
        assert_eq!(confirmed, [Promise::Outcome]);
    }
}
