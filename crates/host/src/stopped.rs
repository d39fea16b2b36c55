//! A group that cannot go on at this node, while the others do.
//!
//! Something was found that means that two histories of the group were committed, or that nobody can tell. Nothing of it
//! was taken. From then on its replica here is as if the node were down: it says nothing, serves nothing, and what is on
//! the disk stays as evidence. The process goes on; a restart tries again. `Destroy` ends it.

use settle_base::{ErrorCode, GroupId, Mono};
use settle_machine::{Event, GroupRole, Service, StateMachine};
use settle_raft::HandError;
use settle_storage::{Disk, DiskRead};

use crate::{Host, HostAction, HostError, HostNote, group::Group};

/// Why a group's replica was stopped.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StopReason {
    /// Another group's log carries the end of this one's history, and it is not what is here.
    #[error("hand committed entries to group {group}")]
    Handed { group: GroupId, source: HandError },
}

impl StopReason {
    pub fn code(&self) -> ErrorCode {
        let number = match self {
            StopReason::Handed { .. } => 32,
        };
        ErrorCode::new("HO", number)
    }
}

pub(crate) struct Stopped<M: StateMachine> {
    /// Its log may still have to be written again at another place of the node's log, and its members be known.
    pub(crate) group: Group<M>,
    reason: StopReason,
}

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    pub(crate) fn stop_group(
        &mut self,
        id: GroupId,
        reason: StopReason,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), HostError> {
        // What was taken before is as good as ever, and a log that is written again needs all of it.
        while self.groups.get(&id).is_some_and(|g| g.raft.has_ready()) {
            self.drain_ready(id, now, out)?;
        }
        self.tell_followers_of_end(id)?;
        // What the log was told of, or will be by a write under way, is what a restart begins with.
        let has_staged = |g: &Group<S::Machine>| g.received.as_ref().is_some_and(|received| received.is_staged);
        if let Some(group) = self.groups.get_mut(&id)
            && has_staged(group)
        {
            group.received = None;
        }
        self.forget_transfers(id);
        let Some(mut group) = self.groups.remove(&id) else {
            return Ok(());
        };
        self.stages.forget(&mut group.line);
        let reads = std::mem::take(&mut group.reads).into_values();
        let confirmed = std::mem::take(&mut group.reads_confirmed).into_values();
        for read in reads.chain(confirmed) {
            self.lose_read(id, read.token);
        }
        let machine = group.machine.take();
        self.discard(machine);
        self.misfits.remove(&id);
        self.quarantined.remove(&id);
        self.undecided.remove(&id);
        let role = GroupRole {
            leader: None,
            is_ready_leader: false,
            ..group.role
        };
        self.counters.groups_stopped += 1;
        out.push(HostAction::Note(HostNote::GroupStopped {
            group: id,
            reason: reason.clone(),
        }));
        self.stopped.insert(id, Stopped { group, reason });
        self.serve(Event::Role { group: id, role }, now, out);
        Ok(())
    }

    /// Followers that rest would go on resting for a leader that is gone while its node is not.
    fn tell_followers_of_end(&mut self, id: GroupId) -> Result<(), HostError> {
        let Some(group) = self.groups.get_mut(&id).filter(|g| g.raft.is_leader()) else {
            return Ok(());
        };
        group.raft.wake();
        for message in group.raft.ready().messages {
            self.post(message)?;
        }
        Ok(())
    }

    /// Groups that were stopped here, and why.
    pub fn stopped_groups(&self) -> impl Iterator<Item = (GroupId, &StopReason)> {
        self.stopped.iter().map(|(id, stopped)| (*id, &stopped.reason))
    }
}
