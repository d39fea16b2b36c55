//! Thieves: processes that are let in like all others, and ask to end, report on and know of what another application has
//! begun. Xids follow each other, so they need not be told.

use settle_tx::{BranchStatus, GlobalStatus};
use settle_tx_gate::{ClientAnswer, ClientRequest, GateRequest};

use super::{
    app::{Ask, Role},
    apps::Apps,
    transfer::Transfer,
};
use crate::workload::Io;

impl Apps {
    pub(super) fn thieves_look(&mut self, io: &mut Io<GateRequest>) {
        if self.is_stopped || self.granted.is_none() {
            return;
        }
        let running: Vec<(&str, &Transfer)> = self
            .apps
            .iter()
            .flat_map(|app| app.threads.iter().map(|thread| (&*app.application, thread)))
            .filter_map(|(application, thread)| Some((application, thread.transfer.as_ref()?)))
            .filter(|(_, transfer)| !transfer.xid.is_empty())
            .collect();
        if running.is_empty() {
            return;
        }
        let (victim, transfer) = running[io.prng.below(running.len() as u64) as usize];
        let strangers: Vec<usize> = (0..self.apps.len())
            .filter(|i| self.apps[*i].application != victim)
            .collect();
        if strangers.is_empty() {
            return;
        }
        let thief = strangers[io.prng.below(strangers.len() as u64) as usize];
        let xid = transfer.xid.clone();
        let branch = transfer.legs.iter().map(|leg| leg.branch).find(|branch| *branch != 0);
        let (role, body) = match (io.prng.below(6), branch) {
            (0, _) => (Role::Tm, ClientRequest::Commit { xid }),
            (1, _) => (Role::Tm, ClientRequest::Rollback { xid }),
            (2, _) => (
                Role::Tm,
                ClientRequest::Report {
                    xid,
                    status: GlobalStatus::Rollbacked,
                },
            ),
            (3.., Some(branch)) => (
                Role::Rm,
                ClientRequest::ReportBranch {
                    xid,
                    branch,
                    status: BranchStatus::PhaseOneFailed,
                    application_data: None,
                },
            ),
            _ => (Role::Tm, ClientRequest::Status { xid }),
        };
        let xid = transfer.xid.clone();
        let Some(channel) = self.choose(thief, role, &xid, io.prng) else {
            return;
        };
        let key = self.apps[thief].key();
        self.put(thief, channel, key, usize::MAX, Ask::Theft, None, body, io);
    }

    pub(super) fn thief_hears(&mut self, answer: &ClientAnswer) {
        let is_refused = match answer {
            ClientAnswer::Refused(refusal) => refusal.error.code().to_string() == "TX0021",
            ClientAnswer::Ended { status } | ClientAnswer::Status { status } => {
                // An end that was told is that of what has ended.
                matches!(status, GlobalStatus::TimeoutRollbacked | GlobalStatus::UnKnown)
            }
            _ => false,
        };
        self.counts.thefts_refused += u64::from(is_refused);
    }
}
