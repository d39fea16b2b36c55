//! Seata's messages ⇄ the gate's requests. The numbers of both sides' enums are Seata's.

use settle_seata_wire as wire;
use settle_seata_wire::{ExceptionCode, Message, TxResult};
use settle_tx::CallKind;
use settle_tx_gate::{BranchCall, BranchRegistration, ClientAnswer, ClientRequest, Ident, Refusal, RmAnswer};

use crate::ANNOUNCED_VERSION;

/// What kind of answer a request wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RequestKind {
    RegisterTm,
    RegisterRm,
    UnregisterRm,
    GlobalBegin,
    GlobalCommit,
    GlobalRollback,
    GlobalStatus,
    GlobalReport,
    BranchRegister,
    BranchReport,
    GlobalLockQuery,
}

/// A message that no client sends to a coordinator, or one that says something impossible.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TranslateError {
    #[error("a message of type {type_code} is no request to a coordinator")]
    NotARequest { type_code: i16 },
    #[error("a report without a status")]
    NoStatus,
}

impl TranslateError {
    pub(crate) fn code(&self) -> settle_base::ErrorCode {
        match self {
            TranslateError::NotARequest { .. } => settle_base::ErrorCode::new("TS", 1),
            TranslateError::NoStatus => settle_base::ErrorCode::new("TS", 2),
        }
    }
}

/// A request as the gate takes it, and what its answer must look like.
pub(crate) fn request(message: Message) -> Result<(RequestKind, ClientRequest), TranslateError> {
    Ok(match message {
        Message::RegisterTmRequest(identity) => (
            RequestKind::RegisterTm,
            ClientRequest::RegisterTm { ident: ident(identity) },
        ),
        Message::RegisterRmRequest(register) => (
            RequestKind::RegisterRm,
            ClientRequest::RegisterRm {
                resources: resources(&register.resource_ids),
                ident: ident(register.identity),
            },
        ),
        Message::UnregisterRmRequest(register) => (
            RequestKind::UnregisterRm,
            ClientRequest::UnregisterRm {
                resources: resources(&register.resource_ids),
            },
        ),
        Message::GlobalBegin(begin) => (
            RequestKind::GlobalBegin,
            ClientRequest::Begin {
                timeout_ms: begin.timeout_ms,
                name: begin.transaction_name,
            },
        ),
        Message::GlobalCommit(end) => (RequestKind::GlobalCommit, ClientRequest::Commit { xid: end.xid }),
        Message::GlobalRollback(end) => (RequestKind::GlobalRollback, ClientRequest::Rollback { xid: end.xid }),
        Message::GlobalStatus(end) => (RequestKind::GlobalStatus, ClientRequest::Status { xid: end.xid }),
        Message::GlobalReport(report) => {
            let status = report.status.ok_or(TranslateError::NoStatus)?;
            let status = settle_tx::GlobalStatus::try_from(status.as_u8()).map_err(|_| TranslateError::NoStatus)?;
            (
                RequestKind::GlobalReport,
                ClientRequest::Report {
                    xid: report.xid,
                    status,
                },
            )
        }
        Message::BranchRegister(register) => (
            RequestKind::BranchRegister,
            ClientRequest::RegisterBranch(BranchRegistration {
                xid: register.xid,
                branch_type: branch_type(register.branch_type),
                resource: register.resource_id,
                lock_keys: register.lock_key,
                application_data: register.application_data,
            }),
        ),
        Message::BranchReport(report) => (
            RequestKind::BranchReport,
            ClientRequest::ReportBranch {
                xid: report.xid,
                branch: report.branch_id,
                status: branch_status(report.status).ok_or(TranslateError::NoStatus)?,
                application_data: (!report.application_data.is_empty()).then_some(report.application_data),
            },
        ),
        Message::GlobalLockQuery(query) => (
            RequestKind::GlobalLockQuery,
            ClientRequest::LockQuery {
                xid: query.xid,
                resource: query.resource_id,
                lock_keys: query.lock_key,
            },
        ),
        other => {
            return Err(TranslateError::NotARequest {
                type_code: other.type_code(),
            });
        }
    })
}

/// The transaction that a request is about, for the log.
pub(crate) fn xid(request: &ClientRequest) -> &str {
    match request {
        ClientRequest::Commit { xid }
        | ClientRequest::Rollback { xid }
        | ClientRequest::Status { xid }
        | ClientRequest::Report { xid, .. }
        | ClientRequest::ReportBranch { xid, .. }
        | ClientRequest::LockQuery { xid, .. } => xid,
        ClientRequest::RegisterBranch(registration) => &registration.xid,
        ClientRequest::RegisterTm { .. }
        | ClientRequest::RegisterRm { .. }
        | ClientRequest::UnregisterRm { .. }
        | ClientRequest::Begin { .. } => "",
    }
}

fn ident(identity: wire::Identity) -> Ident {
    Ident {
        application: identity.application_id,
        service_group: identity.transaction_service_group,
        version: identity.version,
    }
}

pub(crate) fn resources(list: &str) -> Vec<String> {
    list.split(',')
        .map(str::trim)
        .filter(|resource| !resource.is_empty())
        .map(str::to_owned)
        .collect()
}

fn branch_type(branch_type: wire::BranchType) -> settle_tx::BranchType {
    match branch_type {
        wire::BranchType::At => settle_tx::BranchType::At,
        wire::BranchType::Tcc => settle_tx::BranchType::Tcc,
        wire::BranchType::Saga => settle_tx::BranchType::Saga,
        wire::BranchType::Xa => settle_tx::BranchType::Xa,
        wire::BranchType::SagaAnnotation => settle_tx::BranchType::SagaAnnotation,
    }
}

fn wire_branch_type(branch_type: settle_tx::BranchType) -> wire::BranchType {
    match branch_type {
        settle_tx::BranchType::At => wire::BranchType::At,
        settle_tx::BranchType::Tcc => wire::BranchType::Tcc,
        settle_tx::BranchType::Saga => wire::BranchType::Saga,
        settle_tx::BranchType::Xa => wire::BranchType::Xa,
        settle_tx::BranchType::SagaAnnotation => wire::BranchType::SagaAnnotation,
    }
}

fn branch_status(status: wire::BranchStatus) -> Option<settle_tx::BranchStatus> {
    settle_tx::BranchStatus::try_from(status.as_u8()).ok()
}

fn wire_status(status: settle_tx::GlobalStatus) -> wire::GlobalStatus {
    wire::GlobalStatus::try_from(status.as_u8()).expect("both enums have Seata's numbers")
}

/// The answer to a phase-two call, as the gate takes it; `None` for any other message.
pub(crate) fn rm_answer(message: Message) -> Option<RmAnswer> {
    match message {
        Message::BranchCommitResponse(response) | Message::BranchRollbackResponse(response) => Some(RmAnswer {
            ok: response.result.is_success(),
            branch_status: branch_status(response.status),
            xid: response.xid,
            branch: response.branch_id,
        }),
        _ => None,
    }
}

pub(crate) fn branch_call(call: BranchCall) -> Message {
    let end = wire::BranchEnd {
        xid: call.xid,
        branch_id: call.branch,
        branch_type: wire_branch_type(call.branch_type),
        resource_id: call.resource,
        application_data: call.application_data,
    };
    match call.kind {
        CallKind::Commit => Message::BranchCommit(end),
        CallKind::Rollback => Message::BranchRollback(end),
    }
}

/// Which numbering of exception codes a client reads; 2.0 put one in between.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Dialect {
    Before2,
    #[default]
    From2,
}

impl Dialect {
    /// Of the version that a client announces when it registers. What is no version is taken for a new one.
    pub(crate) fn of(version: &str) -> Dialect {
        match version
            .split('.')
            .next()
            .and_then(|major| major.trim().parse::<u32>().ok())
        {
            Some(0 | 1) => Dialect::Before2,
            _ => Dialect::From2,
        }
    }

    fn code(self, exception: u8) -> ExceptionCode {
        let code = ExceptionCode::try_from(exception).unwrap_or(ExceptionCode::Unknown);
        match self {
            Dialect::Before2 => code.for_client_before_2_0(),
            Dialect::From2 => code,
        }
    }
}

impl RequestKind {
    /// The exception that says no more than that this kind of request failed.
    pub(crate) fn failure(self) -> u8 {
        match self {
            RequestKind::BranchRegister => ExceptionCode::BranchRegisterFailed,
            RequestKind::GlobalLockQuery => ExceptionCode::LockableCheckFailed,
            _ => ExceptionCode::Unknown,
        }
        .as_u8()
    }

    /// The gate's answer in the shape that this request wants.
    pub(crate) fn answer(self, answer: ClientAnswer, dialect: Dialect) -> Message {
        match answer {
            ClientAnswer::TmRegistered => Message::RegisterTmResponse(registered()),
            ClientAnswer::RmRegistered => Message::RegisterRmResponse(registered()),
            ClientAnswer::RmUnregistered => Message::UnregisterRmResponse(registered()),
            ClientAnswer::Begun { xid } => Message::GlobalBeginResponse(wire::GlobalBeginResponse {
                result: TxResult::SUCCESS,
                xid,
                extra_data: String::new(),
            }),
            ClientAnswer::Ended { status } | ClientAnswer::Status { status } => {
                self.ended(TxResult::SUCCESS, wire_status(status))
            }
            ClientAnswer::BranchRegistered { branch } => {
                Message::BranchRegisterResponse(wire::BranchRegisterResponse {
                    result: TxResult::SUCCESS,
                    branch_id: branch,
                })
            }
            ClientAnswer::BranchReported => Message::BranchReportResponse(TxResult::SUCCESS),
            ClientAnswer::Lockable { lockable } => Message::GlobalLockQueryResponse(wire::GlobalLockQueryResponse {
                result: TxResult::SUCCESS,
                lockable,
            }),
            ClientAnswer::Refused(Refusal { error, exception }) => self.refused(&error.to_string(), exception, dialect),
        }
    }

    /// A failure. `exception` is the ordinal in the TransactionExceptionCode of Seata 2.
    pub(crate) fn refused(self, message: &str, exception: u8, dialect: Dialect) -> Message {
        let exception = dialect.code(exception);
        // Java clients show this text and some match on the class name in front of it.
        let result = TxResult::failed(exception, format!("TransactionException[{message}]"));
        let unregistered = || wire::RegisterResponse {
            outcome: wire::Outcome::Failed {
                message: message.to_owned(),
            },
            identified: false,
            version: ANNOUNCED_VERSION.to_owned(),
        };
        match self {
            RequestKind::RegisterTm => Message::RegisterTmResponse(unregistered()),
            RequestKind::RegisterRm => Message::RegisterRmResponse(unregistered()),
            RequestKind::UnregisterRm => Message::UnregisterRmResponse(unregistered()),
            RequestKind::GlobalBegin => Message::GlobalBeginResponse(wire::GlobalBeginResponse {
                result,
                xid: String::new(),
                extra_data: String::new(),
            }),
            RequestKind::BranchRegister => {
                Message::BranchRegisterResponse(wire::BranchRegisterResponse { result, branch_id: 0 })
            }
            RequestKind::BranchReport => Message::BranchReportResponse(result),
            RequestKind::GlobalLockQuery => Message::GlobalLockQueryResponse(wire::GlobalLockQueryResponse {
                result,
                lockable: false,
            }),
            // Clients read only the status of these, so the gate drops them instead of refusing; if it ever refuses,
            // Unknown claims nothing.
            RequestKind::GlobalCommit
            | RequestKind::GlobalRollback
            | RequestKind::GlobalStatus
            | RequestKind::GlobalReport => self.ended(result, wire::GlobalStatus::Unknown),
        }
    }

    fn ended(self, result: TxResult, status: wire::GlobalStatus) -> Message {
        let response = wire::GlobalEndResponse { result, status };
        match self {
            RequestKind::GlobalRollback => Message::GlobalRollbackResponse(response),
            RequestKind::GlobalStatus => Message::GlobalStatusResponse(response),
            RequestKind::GlobalReport => Message::GlobalReportResponse(response),
            _ => Message::GlobalCommitResponse(response),
        }
    }
}

fn registered() -> wire::RegisterResponse {
    wire::RegisterResponse {
        outcome: wire::Outcome::Success,
        identified: true,
        version: ANNOUNCED_VERSION.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_1_8_reads_a_fail_fast_as_a_fail_fast() {
        let code = |version: &str| {
            let refused = RequestKind::BranchRegister.refused("held", 20, Dialect::of(version));
            let Message::BranchRegisterResponse(response) = refused else {
                panic!("the kind of its request")
            };
            response.result.exception_code.as_u8()
        };
        assert_eq!(code("1.8.0"), 19);
        assert_eq!(code("2.6.0"), 20);
        assert_eq!(code("nonsense"), 20);
    }

    #[test]
    fn resources_are_split_and_blanks_are_none() {
        assert_eq!(resources("a, b,,"), ["a", "b"]);
        assert!(resources("").is_empty());
    }
}
