//! What is left when all processes have ended, as the judge takes it.

use std::collections::BTreeMap;

use super::{
    bank::{Bank, SERVICES},
    book,
    journal::{self, Event},
    judge::{Call, CallKind, End, Side, Transfer},
};

pub struct Evidence {
    pub sides: [Side; 2],
    pub transfers: Vec<Transfer>,
    /// When the first phase-two call of a transfer arrived anywhere.
    pub called_at: BTreeMap<String, u64>,
}

/// # Errors
/// When something is missing or cannot be read.
pub fn read(bank: &Bank) -> anyhow::Result<Evidence> {
    let mut called_at = BTreeMap::new();
    let sides = [read_side(bank, 0, &mut called_at)?, read_side(bank, 1, &mut called_at)?];
    Ok(Evidence {
        sides,
        transfers: read_transfers(bank)?,
        called_at,
    })
}

fn read_side(bank: &Bank, at: usize, called_at: &mut BTreeMap<String, u64>) -> anyhow::Result<Side> {
    let contents = book::read(&bank.money(at))?;
    let mut calls = Vec::new();
    for line in journal::read(&bank.journal(at))? {
        let (xid, branch, kind) = match line.event {
            Event::Tried { xid, branch, .. } => (xid, branch, CallKind::Tried),
            Event::Confirm { xid, branch } => (xid, branch, CallKind::Confirm),
            Event::Cancel { xid, branch } => (xid, branch, CallKind::Cancel),
            _ => continue,
        };
        if kind != CallKind::Tried {
            let at_ms = called_at.entry(xid.clone()).or_insert(line.at_ms);
            *at_ms = line.at_ms.min(*at_ms);
        }
        calls.push(Call { xid, branch, kind });
    }
    Ok(Side {
        name: SERVICES[at].to_owned(),
        accounts: contents.accounts,
        postings: contents.postings,
        branches: contents.branches,
        calls,
    })
}

/// What the teller wrote down.
///
/// # Errors
/// When it cannot be read.
pub fn read_transfers(bank: &Bank) -> anyhow::Result<Vec<Transfer>> {
    let mut transfers: BTreeMap<String, Transfer> = BTreeMap::new();
    for line in journal::read(&bank.teller_journal())? {
        match line.event {
            Event::Begun { xid, from, to, amount } => {
                let transfer = Transfer {
                    xid: xid.clone(),
                    from,
                    to,
                    amount,
                    told: Vec::new(),
                };
                transfers.insert(xid, transfer);
            }
            Event::Told { xid, committed } => {
                if let Some(transfer) = transfers.get_mut(&xid) {
                    transfer
                        .told
                        .push(if committed { End::Committed } else { End::RolledBack });
                }
            }
            _ => {}
        }
    }
    Ok(transfers.into_values().collect())
}
