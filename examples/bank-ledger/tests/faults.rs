//! The ledger under everything that can go wrong, and a snapshot beside changes.

use bytes::Bytes;
use settle_base::{GroupTime, Prng};
use settle_example_bank_ledger::{Balance, Command, Ledger, Refusal};
use settle_machine::{EntryMeta, StateMachine};
use settle_sim::{Plan, check};

fn draw(prng: &mut Prng) -> Bytes {
    let [from, to] = [prng.below(20), prng.below(20)];
    let amount = prng.below(500);
    match prng.below(4) {
        0 => Command::Open {
            account: from,
            balance: amount,
        },
        _ => Command::Transfer { from, to, amount },
    }
    .encode()
}

#[test]
fn no_money_is_made_or_lost_under_all_faults() {
    check(
        Plan::new(Ledger::default)
            .commands(draw)
            .invariant(|ledger| {
                let (sum, brought_in) = (ledger.sum_of_balances(), ledger.brought_in());
                (sum == brought_in)
                    .then_some(())
                    .ok_or(format!("{sum} cents, {brought_in} came in"))
            })
            .seeds(0..5),
    );
}

fn apply(ledger: &mut Ledger, command: Command) -> Result<Vec<Balance>, Refusal> {
    let entry = EntryMeta {
        index: 1,
        term: 1,
        time: GroupTime(0),
        version: 1,
    };
    let mut effects = Vec::new();
    ledger.apply(entry, &command.encode(), &mut effects).expect("a command");
    effects.remove(0)
}

#[test]
fn what_a_client_may_not_do_changes_nothing_and_says_why() {
    let mut ledger = Ledger::default();
    apply(
        &mut ledger,
        Command::Open {
            account: 1,
            balance: 100,
        },
    )
    .expect("a new account");
    apply(&mut ledger, Command::Open { account: 2, balance: 0 }).expect("a new account");
    let hash = ledger.state_hash();
    let transfer = |from, to, amount| Command::Transfer { from, to, amount };
    let full = Command::Open {
        account: 3,
        balance: u64::MAX,
    };
    for (command, why) in [
        (Command::Open { account: 1, balance: 5 }, Refusal::AccountExists),
        (transfer(1, 2, 101), Refusal::NotEnoughMoney),
        (transfer(1, 9, 1), Refusal::NoSuchAccount),
        (transfer(9, 1, 1), Refusal::NoSuchAccount),
        (transfer(1, 1, 1), Refusal::ToItself),
        (full, Refusal::TooMuchMoney),
    ] {
        assert_eq!(apply(&mut ledger, command), Err(why), "{command:?}");
    }
    assert_eq!(ledger.state_hash(), hash);
}

#[test]
fn a_snapshot_is_the_ledger_as_it_was_whatever_happens_while_it_is_written() {
    let mut ledger = Ledger::default();
    for account in 0..5_000 {
        apply(&mut ledger, Command::Open { account, balance: 10 }).expect("a new account");
    }
    let hash = ledger.state_hash();
    let mut chunks = ledger.begin_snapshot();
    let mut written: Vec<Bytes> = chunks.by_ref().take(100).collect();
    for account in 1..5_000 {
        let transfer = Command::Transfer {
            from: account,
            to: 0,
            amount: 10,
        };
        apply(&mut ledger, transfer).expect("ten cents");
    }
    written.extend(chunks);
    let mut copy = Ledger::default();
    // Cut where no account ends.
    let image: Vec<u8> = written.into_iter().flatten().collect();
    copy.load(&mut image.chunks(7).map(Bytes::copy_from_slice))
        .expect("a snapshot");
    assert_eq!((copy.state_hash(), copy.sum_of_balances()), (hash, 50_000));
    assert_ne!(ledger.state_hash(), hash);
    assert!(
        copy.load(&mut image[..image.len() - 1].chunks(7).map(Bytes::copy_from_slice))
            .is_err()
    );
}
