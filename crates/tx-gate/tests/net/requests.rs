//! What clients ask, in short.

use settle_tx::BranchType;
use settle_tx_gate::{BranchRegistration, ClientRequest};

pub fn begin(timeout_ms: i32) -> ClientRequest {
    ClientRequest::Begin {
        timeout_ms,
        name: "transfer".to_owned(),
    }
}

pub fn commit(xid: &str) -> ClientRequest {
    ClientRequest::Commit { xid: xid.to_owned() }
}

pub fn rollback(xid: &str) -> ClientRequest {
    ClientRequest::Rollback { xid: xid.to_owned() }
}

pub fn status(xid: &str) -> ClientRequest {
    ClientRequest::Status { xid: xid.to_owned() }
}

pub fn at(xid: &str, resource: &str, lock_keys: &str) -> ClientRequest {
    registration(xid, BranchType::At, resource, lock_keys)
}

pub fn tcc(xid: &str, resource: &str) -> ClientRequest {
    registration(xid, BranchType::Tcc, resource, "")
}

pub fn registration(xid: &str, branch_type: BranchType, resource: &str, lock_keys: &str) -> ClientRequest {
    ClientRequest::RegisterBranch(BranchRegistration {
        xid: xid.to_owned(),
        branch_type,
        resource: resource.to_owned(),
        lock_keys: lock_keys.to_owned(),
        application_data: "{}".to_owned(),
    })
}
