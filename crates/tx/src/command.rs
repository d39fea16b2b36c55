//! What is written into the log: batches of commands.
//!
//! Format 2: the byte 2, the number of commands, then each command: origin, seq, settled_below, a tag byte, its fields
//! in the order of [`CommandBody`]. Numbers are LEB128, text is a length and UTF-8. Format 3 is the same, of a batch with a
//! command that moves service groups, which format 2 does not know.

use bytes::Bytes;

use crate::{
    ActKind, BranchId, BranchStatus, BranchType, DecodeError, GlobalStatus, OperatorAct, ReqId, Signed, Tid,
    encoding::{Reader, put_str, put_u64},
    service_groups::{MoveStep, get_epoch, get_group, get_name, get_names},
};

/// Commands in one batch, at most.
pub const BATCH_COMMANDS_MAX: usize = 65_536;

const FORMAT: u8 = 2;
const FORMAT_OF_MOVES: u8 = 3;

/// One request to the transaction machine. `S` is how text is held: borrowed from the log entry when it is decoded,
/// owned ([`OwnedCommand`]) when it waits to be proposed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command<S> {
    pub req: ReqId,
    /// The origin will never ask again for sequences below this one: their results may be forgotten.
    pub settled_below: u64,
    pub body: CommandBody<S>,
}

pub type OwnedCommand = Command<String>;
pub type OwnedCommandBody = CommandBody<String>;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandBody<S> {
    /// Begins a transaction whose client-visible xid is `{xid_prefix}:{tid}`.
    Begin {
        /// `host:port`; Seata's clients choose their server by it.
        xid_prefix: S,
        application: S,
        service_group: S,
        name: S,
        /// Counted in group time from the entry that begins it.
        timeout_ms: u32,
    },
    /// Takes a branch and all its row locks, or nothing.
    RegisterBranch {
        tid: Tid,
        branch_type: BranchType,
        resource: S,
        /// `application:ip:port` of the registering client, see [`crate::ClientId`].
        client: S,
        /// Seata's lockKey, `table:pk,pk;table2:pk`. Only AT branches lock; others' keys are ignored as Seata does.
        lock_keys: S,
        application_data: S,
        /// The service groups whose transactions the client's application may join although another one began them:
        /// names, or their beginning and a `*`. `None`: any, from a door that takes clients for what they say.
        joins: Option<Vec<S>>,
    },
    /// The result of a branch's first phase.
    ReportBranch {
        tid: Tid,
        branch: BranchId,
        status: BranchStatus,
        application_data: Option<S>,
        /// As in `Decide`.
        by: Option<S>,
    },
    /// The linearisation point: takes effect only if the transaction is as expected.
    Decide {
        tid: Tid,
        decision: Decision,
        expect: Expect,
        /// The application that asks, where the door knows it. `None` is obeyed: the server itself, or a door that takes
        /// clients for what they say.
        by: Option<S>,
    },
    /// A fact about a branch's second phase, told by its resource manager (or that it could not be reached). Of
    /// [`BranchId::saga_of`]: where a saga's state machine says that it stands.
    BranchDone {
        tid: Tid,
        branch: BranchId,
        status: BranchStatus,
    },
    /// Saga's `GlobalReport`.
    End {
        tid: Tid,
        status: GlobalStatus,
        /// As in `Decide`.
        by: Option<S>,
    },
    /// An operator acts, and signs for it.
    Operate {
        tid: Tid,
        act: OperatorAct<S>,
        signed: Signed<S>,
    },
    /// The next part of a backup, for a group that has never begun anything.
    Restore { part: Bytes },
    /// An operator moves service groups to another transaction group. For the first group, which keeps the table.
    MoveServiceGroups {
        /// Sorted, 1 to [`MOVE_NAMES_MAX`](crate::MOVE_NAMES_MAX), each with the group where the configuration has it and
        /// the highest epoch of which some group has a mark, or 0.
        names: Vec<(S, u8, u64)>,
        to: u8,
        signed: Signed<S>,
    },
    /// An operator takes back the move that this service group is on, if it still can be.
    CancelMove { name: S, signed: Signed<S> },
    /// A move has come to its end. For the first group.
    FinishMove { epoch: u64, has_moved: bool },
    /// A move goes on by an epoch above this one, which some group has a mark of. For the first group.
    RaiseMove { epoch: u64, above: u64 },
    /// A step of a move, for any group. See [`service_groups`](crate::MoveStep).
    StepOfMove {
        /// As in `MoveServiceGroups`.
        names: Vec<S>,
        /// Of the move.
        epoch: u64,
        step: MoveStep,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    Commit,
    Rollback,
    /// A rollback by the server because the transaction's time was up.
    Timeout,
}

/// What a decision presupposes. One value today; written in the format so that another one needs no new command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    Begin,
}

/// # Panics
/// When there are more than [`BATCH_COMMANDS_MAX`] commands.
pub fn encode_batch<S: AsRef<str>>(commands: &[Command<S>]) -> Bytes {
    assert!(
        commands.len() <= BATCH_COMMANDS_MAX,
        "a batch of {} commands",
        commands.len()
    );
    let mut out = Vec::with_capacity(16 + commands.len() * 96);
    let is_of_moves = commands.iter().any(|command| command.body.is_of_moves());
    out.push(if is_of_moves { FORMAT_OF_MOVES } else { FORMAT });
    put_u64(&mut out, commands.len() as u64);
    for command in commands {
        put_command(&mut out, command);
    }
    Bytes::from(out)
}

/// # Errors
/// When the bytes are no batch of format 2 or 3. Nothing is allocated ahead of the bytes that are there.
pub fn decode_batch(bytes: &[u8]) -> Result<Vec<Command<&str>>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let format = reader.u8()?;
    if ![FORMAT, FORMAT_OF_MOVES].contains(&format) {
        return Err(reader.error("an unknown batch format"));
    }
    let count = reader.u64()?;
    if count > BATCH_COMMANDS_MAX as u64 {
        return Err(reader.error("too many commands"));
    }
    // The shortest command has 6 bytes: a claimed count cannot make this larger than what was received.
    let mut commands = Vec::with_capacity((count as usize).min(bytes.len() / 6));
    for _ in 0..count {
        let command = get_command(&mut reader)?;
        if format == FORMAT && command.body.is_of_moves() {
            return Err(reader.error("an unknown command"));
        }
        commands.push(command);
    }
    reader.finish()?;
    Ok(commands)
}

fn put_command<S: AsRef<str>>(out: &mut Vec<u8>, command: &Command<S>) {
    put_u64(out, command.req.origin);
    put_u64(out, command.req.seq);
    put_u64(out, command.settled_below);
    match &command.body {
        CommandBody::Begin {
            xid_prefix,
            application,
            service_group,
            name,
            timeout_ms,
        } => {
            out.push(1);
            put_str(out, xid_prefix.as_ref());
            put_str(out, application.as_ref());
            put_str(out, service_group.as_ref());
            put_str(out, name.as_ref());
            put_u64(out, u64::from(*timeout_ms));
        }
        CommandBody::RegisterBranch {
            tid,
            branch_type,
            resource,
            client,
            lock_keys,
            application_data,
            joins,
        } => {
            out.push(2);
            put_tid(out, *tid);
            out.push(branch_type.as_u8());
            put_str(out, resource.as_ref());
            put_str(out, client.as_ref());
            put_str(out, lock_keys.as_ref());
            put_str(out, application_data.as_ref());
            out.push(u8::from(joins.is_some()));
            if let Some(joins) = joins {
                put_u64(out, joins.len() as u64);
                for group in joins {
                    put_str(out, group.as_ref());
                }
            }
        }
        CommandBody::ReportBranch {
            tid,
            branch,
            status,
            application_data,
            by,
        } => {
            out.push(3);
            put_tid(out, *tid);
            put_branch(out, *branch);
            out.push(status.as_u8());
            put_text(out, application_data.as_ref());
            put_text(out, by.as_ref());
        }
        CommandBody::Decide {
            tid,
            decision,
            expect,
            by,
        } => {
            out.push(4);
            put_tid(out, *tid);
            out.push(match decision {
                Decision::Commit => 1,
                Decision::Rollback => 2,
                Decision::Timeout => 3,
            });
            out.push(match expect {
                Expect::Begin => GlobalStatus::Begin.as_u8(),
            });
            put_text(out, by.as_ref());
        }
        CommandBody::BranchDone { tid, branch, status } => {
            out.push(5);
            put_tid(out, *tid);
            put_branch(out, *branch);
            out.push(status.as_u8());
        }
        CommandBody::End { tid, status, by } => {
            out.push(6);
            put_tid(out, *tid);
            out.push(status.as_u8());
            put_text(out, by.as_ref());
        }
        CommandBody::Operate { tid, act, signed } => {
            out.push(7);
            put_tid(out, *tid);
            out.push(act.kind().as_u8());
            if let OperatorAct::ReleaseLock { branch, rows } = act {
                put_branch(out, *branch);
                put_str(out, rows.as_ref());
            }
            put_signed(out, signed);
        }
        CommandBody::Restore { part } => {
            out.push(8);
            put_u64(out, part.len() as u64);
            out.extend_from_slice(part);
        }
        CommandBody::MoveServiceGroups { names, to, signed } => {
            out.push(9);
            put_u64(out, names.len() as u64);
            for (name, ..) in names {
                put_str(out, name.as_ref());
            }
            for (_, group, above) in names {
                out.push(*group);
                put_u64(out, *above);
            }
            out.push(*to);
            put_signed(out, signed);
        }
        CommandBody::CancelMove { name, signed } => {
            out.push(10);
            put_str(out, name.as_ref());
            put_signed(out, signed);
        }
        CommandBody::FinishMove { epoch, has_moved } => {
            out.push(11);
            put_u64(out, *epoch);
            out.push(u8::from(*has_moved));
        }
        CommandBody::RaiseMove { epoch, above } => {
            out.push(13);
            put_u64(out, *epoch);
            put_u64(out, *above);
        }
        CommandBody::StepOfMove { names, epoch, step } => {
            out.push(12);
            put_u64(out, names.len() as u64);
            for name in names {
                put_str(out, name.as_ref());
            }
            put_u64(out, *epoch);
            match step {
                MoveStep::Close { from, to } => out.extend([1, *from, *to]),
                MoveStep::Drain => out.push(2),
                MoveStep::Open => out.push(3),
                MoveStep::Reopen => out.push(4),
            }
        }
    }
}

fn put_signed<S: AsRef<str>>(out: &mut Vec<u8>, signed: &Signed<S>) {
    put_str(out, signed.operator.as_ref());
    put_str(out, signed.reason.as_ref());
    put_u64(out, signed.at_ms);
}

fn get_signed<'a>(reader: &mut Reader<'a>) -> Result<Signed<&'a str>, DecodeError> {
    Ok(Signed {
        operator: reader.str()?,
        reason: reader.str()?,
        at_ms: reader.u64()?,
    })
}

impl<S> CommandBody<S> {
    /// Only for groups whose cluster version is [`MOVES_SINCE`](crate::MOVES_SINCE) or later.
    pub fn is_of_moves(&self) -> bool {
        match self {
            CommandBody::MoveServiceGroups { .. }
            | CommandBody::CancelMove { .. }
            | CommandBody::FinishMove { .. }
            | CommandBody::RaiseMove { .. }
            | CommandBody::StepOfMove { .. } => true,
            CommandBody::Begin { .. }
            | CommandBody::RegisterBranch { .. }
            | CommandBody::ReportBranch { .. }
            | CommandBody::Decide { .. }
            | CommandBody::BranchDone { .. }
            | CommandBody::End { .. }
            | CommandBody::Operate { .. }
            | CommandBody::Restore { .. } => false,
        }
    }
}

fn get_command<'a>(reader: &mut Reader<'a>) -> Result<Command<&'a str>, DecodeError> {
    let req = ReqId {
        origin: reader.u64()?,
        seq: reader.u64()?,
    };
    let settled_below = reader.u64()?;
    let body = match reader.u8()? {
        1 => CommandBody::Begin {
            xid_prefix: reader.str()?,
            application: reader.str()?,
            service_group: reader.str()?,
            name: reader.str()?,
            timeout_ms: reader.u32()?,
        },
        2 => CommandBody::RegisterBranch {
            tid: get_tid(reader)?,
            branch_type: get_code(reader)?,
            resource: reader.str()?,
            client: reader.str()?,
            lock_keys: reader.str()?,
            application_data: reader.str()?,
            joins: get_joins(reader)?,
        },
        3 => CommandBody::ReportBranch {
            tid: get_tid(reader)?,
            branch: get_branch(reader)?,
            status: get_code(reader)?,
            application_data: get_text(reader)?,
            by: get_text(reader)?,
        },
        4 => CommandBody::Decide {
            tid: get_tid(reader)?,
            decision: match reader.u8()? {
                1 => Decision::Commit,
                2 => Decision::Rollback,
                3 => Decision::Timeout,
                _ => return Err(reader.error("an unknown decision")),
            },
            expect: match reader.u8()? {
                code if code == GlobalStatus::Begin.as_u8() => Expect::Begin,
                _ => return Err(reader.error("an unknown expectation")),
            },
            by: get_text(reader)?,
        },
        5 => CommandBody::BranchDone {
            tid: get_tid(reader)?,
            branch: get_branch_or_saga(reader)?,
            status: get_code(reader)?,
        },
        6 => CommandBody::End {
            tid: get_tid(reader)?,
            status: get_code(reader)?,
            by: get_text(reader)?,
        },
        7 => CommandBody::Operate {
            tid: get_tid(reader)?,
            act: match get_code(reader)? {
                ActKind::Commit => OperatorAct::Commit,
                ActKind::Rollback => OperatorAct::Rollback,
                ActKind::StopRetry => OperatorAct::StopRetry,
                ActKind::ResumeRetry => OperatorAct::ResumeRetry,
                ActKind::Forget => OperatorAct::Forget,
                ActKind::ReleaseLock => OperatorAct::ReleaseLock {
                    branch: get_branch(reader)?,
                    rows: reader.str()?,
                },
                ActKind::MoveServiceGroups | ActKind::CancelMove => {
                    return Err(reader.error("an act that is not on a transaction"));
                }
            },
            signed: get_signed(reader)?,
        },
        8 => {
            let len = usize::try_from(reader.u64()?).unwrap_or(usize::MAX);
            let part = reader.bytes(len)?;
            if len > crate::RESTORE_PART_MAX {
                return Err(reader.error("a part of a backup that is too large"));
            }
            CommandBody::Restore {
                part: Bytes::copy_from_slice(part),
            }
        }
        9 => {
            let names = get_names(reader)?;
            let of_name = |name| Ok((name, get_group(reader)?, get_epoch(reader)?));
            CommandBody::MoveServiceGroups {
                names: names
                    .into_iter()
                    .map(of_name)
                    .collect::<Result<Vec<_>, DecodeError>>()?,
                to: get_group(reader)?,
                signed: get_signed(reader)?,
            }
        }
        10 => CommandBody::CancelMove {
            name: get_name(reader)?,
            signed: get_signed(reader)?,
        },
        11 => CommandBody::FinishMove {
            epoch: get_epoch(reader)?,
            has_moved: reader.bool()?,
        },
        12 => CommandBody::StepOfMove {
            names: get_names(reader)?,
            epoch: get_epoch(reader)?,
            step: match reader.u8()? {
                1 => MoveStep::Close {
                    from: get_group(reader)?,
                    to: get_group(reader)?,
                },
                2 => MoveStep::Drain,
                3 => MoveStep::Open,
                4 => MoveStep::Reopen,
                _ => return Err(reader.error("an unknown step of a move")),
            },
        },
        13 => CommandBody::RaiseMove {
            epoch: get_epoch(reader)?,
            above: get_epoch(reader)?,
        },
        _ => return Err(reader.error("an unknown command")),
    };
    Ok(Command {
        req,
        settled_below,
        body,
    })
}

fn put_text<S: AsRef<str>>(out: &mut Vec<u8>, text: Option<&S>) {
    out.push(u8::from(text.is_some()));
    if let Some(text) = text {
        put_str(out, text.as_ref());
    }
}

fn get_text<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a str>, DecodeError> {
    Ok(if reader.bool()? { Some(reader.str()?) } else { None })
}

fn get_joins<'a>(reader: &mut Reader<'a>) -> Result<Option<Vec<&'a str>>, DecodeError> {
    if !reader.bool()? {
        return Ok(None);
    }
    // Not allocated ahead: each takes a byte at least.
    let mut joins = Vec::new();
    for _ in 0..reader.u64()? {
        joins.push(reader.str()?);
    }
    Ok(Some(joins))
}

pub(crate) fn put_tid(out: &mut Vec<u8>, tid: Tid) {
    put_u64(out, tid.as_i64() as u64);
}

pub(crate) fn put_branch(out: &mut Vec<u8>, branch: BranchId) {
    put_u64(out, branch.as_i64() as u64);
}

pub(crate) fn get_tid(reader: &mut Reader<'_>) -> Result<Tid, DecodeError> {
    let id = reader.u64()?;
    Tid::try_from_i64(id as i64).ok_or(reader.error("no transaction id"))
}

pub(crate) fn get_branch(reader: &mut Reader<'_>) -> Result<BranchId, DecodeError> {
    let id = reader.u64()?;
    BranchId::try_from_i64(id as i64).ok_or(reader.error("no branch id"))
}

pub(crate) fn get_branch_or_saga(reader: &mut Reader<'_>) -> Result<BranchId, DecodeError> {
    let id = reader.u64()?;
    BranchId::try_from_own(id as i64).ok_or(reader.error("no branch id"))
}

pub(crate) fn get_code<T: TryFrom<u8>>(reader: &mut Reader<'_>) -> Result<T, DecodeError> {
    let code = reader.u8()?;
    T::try_from(code).map_err(|_| reader.error("an unknown code"))
}
