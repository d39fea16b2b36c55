//! What a resource manager for AT asks the coordinator, with SQL and undo logs being its own business.

use settle_seata_wire::{BranchRegister, BranchReport, BranchStatus, BranchType, Message};

use crate::{
    Error, Rm,
    coordinators::{Repeat, Request, Said},
    error::Act,
    tm::{refused, unexpected},
};

impl Rm {
    /// Registers an AT branch of a resource served here with the global locks of its rows (`table:1,2;other:3`), before
    /// its local commit. `application_data` is JSON as Java writes it, or empty.
    ///
    /// # Errors
    /// As of [`register`](Rm::register): after any error the local transaction must be rolled back. A conflict of locks is
    /// [`Error::Refused`], and may be tried again.
    pub async fn register_at(
        &self,
        xid: &str,
        resource: &str,
        lock_keys: &str,
        application_data: &str,
    ) -> Result<i64, Error> {
        let data = application_data.to_owned();
        self.register_as(xid, BranchType::At, resource, lock_keys, data).await
    }

    /// Reports how the phase one of an AT branch ended: with [`BranchStatus::PhaseOneFailed`] it is not called to roll back.
    ///
    /// # Errors
    /// When no coordinator took it in time. It can be reported again.
    pub async fn report_at(
        &self,
        xid: &str,
        branch_id: i64,
        resource: &str,
        status: BranchStatus,
    ) -> Result<(), Error> {
        let request = Request {
            act: Act::ReportBranch,
            xid,
            body: Message::BranchReport(BranchReport {
                xid: xid.to_owned(),
                branch_id,
                status,
                resource_id: resource.to_owned(),
                application_data: String::new(),
                branch_type: BranchType::At,
            }),
            repeat: Repeat::Safe,
            within: self.coordinators().options().register_timeout,
            sent: None,
        };
        let reported = self.coordinators().ask(request, |answer| {
            Said::Done(match answer {
                Message::BranchReportResponse(result) => refused(Act::ReportBranch, result),
                other => Err(unexpected(Act::ReportBranch, &other)),
            })
        });
        reported.await
    }

    /// Whether no other global transaction holds one of these locks. Takes none.
    ///
    /// # Errors
    /// When no coordinator told in time, or as [`Error::Refused`] with a conflict that will take long.
    pub async fn can_lock(&self, xid: &str, resource: &str, lock_keys: &str) -> Result<bool, Error> {
        let request = Request {
            act: Act::QueryLock,
            xid,
            body: Message::GlobalLockQuery(BranchRegister {
                xid: xid.to_owned(),
                branch_type: BranchType::At,
                resource_id: resource.to_owned(),
                lock_key: lock_keys.to_owned(),
                application_data: String::new(),
            }),
            repeat: Repeat::Safe,
            within: self.coordinators().options().register_timeout,
            sent: None,
        };
        let told = self.coordinators().ask(request, |answer| {
            Said::Done(match answer {
                Message::GlobalLockQueryResponse(response) => {
                    refused(Act::QueryLock, response.result).map(|()| response.lockable)
                }
                other => Err(unexpected(Act::QueryLock, &other)),
            })
        });
        told.await
    }
}
