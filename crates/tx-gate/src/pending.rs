//! Commands on their way into one group's log: proposed, perhaps lost, proposed again, until this node has applied
//! them. The machine answers a repetition with the first result, so repeating is always safe.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use settle_base::Mono;
use settle_tx::{OperatorAct, OwnedCommand, OwnedCommandBody, ReqId, encode_batch};

/// One log entry takes this much at most, to keep its replication and its apply short.
const ENTRY_COMMANDS_MAX: usize = 4_096;
const ENTRY_BYTES_MAX: u64 = 1 << 20;
/// Sequences between the oldest unsettled command and the next one. The machine keeps 65,536 results per origin; below
/// that a repetition always finds its result.
pub(crate) const WINDOW: u64 = 60_000;
/// With so many under way, the leader's next ones wait for each other: one entry and one sync of the disk for all that
/// come until those are applied.
const COMPANY_FROM: usize = 8;
/// But no longer than this: what was given may have been lost.
const COMPANY_WITHIN: Duration = Duration::from_millis(10);

#[derive(Debug)]
struct Entry<P> {
    /// Taken out only while it is encoded.
    command: Option<OwnedCommand>,
    bytes: u64,
    purpose: P,
    born: Mono,
    propose_again_at: Mono,
    pause: Duration,
    is_queued: bool,
}

/// `P` is what the gate must remember of each command.
#[derive(Debug)]
pub(crate) struct Pending<P> {
    origin: u64,
    next_seq: u64,
    entries: BTreeMap<u64, Entry<P>>,
    /// To be proposed at the next flush.
    queue: Vec<u64>,
    /// Entries that are queued.
    queued: usize,
    proposed_at: Mono,
    bytes: u64,
    re_proposed: u64,
}

impl<P> Pending<P> {
    pub fn new(origin: u64) -> Pending<P> {
        Pending {
            origin,
            next_seq: 1,
            entries: BTreeMap::new(),
            queue: Vec::new(),
            queued: 0,
            proposed_at: Mono::ZERO,
            bytes: 0,
            re_proposed: 0,
        }
    }

    /// Takes a command in. `pause` is the time until it is proposed a second time.
    pub fn submit(&mut self, body: OwnedCommandBody, purpose: P, now: Mono, pause: Duration) {
        let seq = self.next_seq;
        self.next_seq += 1;
        let bytes = body_bytes(&body);
        self.bytes += bytes;
        let req = ReqId {
            origin: self.origin,
            seq,
        };
        let command = Some(OwnedCommand {
            req,
            settled_below: 0,
            body,
        });
        let propose_again_at = now + pause;
        self.entries.insert(
            seq,
            Entry {
                command,
                bytes,
                purpose,
                born: now,
                propose_again_at,
                pause,
                is_queued: true,
            },
        );
        self.queue.push(seq);
        self.queued += 1;
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether such a command waits to be applied. Reads all of them.
    pub fn has(&self, is_meant: impl Fn(&OwnedCommandBody) -> bool) -> bool {
        let commands = self.entries.values().filter_map(|entry| entry.command.as_ref());
        commands.into_iter().any(|command| is_meant(&command.body))
    }

    /// How often a command was proposed again.
    pub fn re_proposed(&self) -> u64 {
        self.re_proposed
    }

    /// There is room for commands that no client waits for: they never take the half of the window that is the
    /// clients'.
    pub fn has_room_for_driver(&self) -> bool {
        self.next_seq - self.settled_below() < WINDOW / 2
    }

    /// No more commands fit into the window in which repetitions are recognised.
    pub fn is_window_full(&self) -> bool {
        self.next_seq - self.settled_below() >= WINDOW
    }

    /// This node applied the command: it is settled. None when nobody remembers it.
    pub fn applied(&mut self, req: ReqId) -> Option<(P, OwnedCommandBody)> {
        if req.origin != self.origin {
            return None;
        }
        let entry = self.entries.remove(&req.seq)?;
        self.bytes -= entry.bytes;
        self.queued -= usize::from(entry.is_queued);
        let command = entry.command.expect("a command is at home outside of encoding");
        Some((entry.purpose, command.body))
    }

    /// Forgets every command for which `is_over(purpose, age)` says so. A copy of it that is still under way finds
    /// that its sequence is settled, or is applied with nobody to answer. Only commands at least `min_age` old are
    /// asked about.
    pub fn forget(
        &mut self,
        now: Mono,
        min_age: Duration,
        mut is_over: impl FnMut(&P, Duration) -> bool,
        mut forgotten: impl FnMut(P),
    ) {
        let over: Vec<u64> = self
            .entries
            .iter()
            .take_while(|(_, entry)| now.since(entry.born) >= min_age)
            .filter(|(_, entry)| is_over(&entry.purpose, now.since(entry.born)))
            .map(|(seq, _)| *seq)
            .collect();
        let mut was_queued = false;
        for seq in over {
            let entry = self.entries.remove(&seq).expect("it was just seen");
            self.bytes -= entry.bytes;
            self.queued -= usize::from(entry.is_queued);
            was_queued |= entry.is_queued;
            forgotten(entry.purpose);
        }
        // Nothing else empties the queue while the group has no leader.
        if was_queued {
            self.queue.retain(|seq| self.entries.contains_key(seq));
        }
    }

    /// Queues again what was proposed and not applied for its pause. `shortest` is the first pause.
    pub fn queue_overdue(&mut self, now: Mono, shortest: Duration) {
        for (seq, entry) in &mut self.entries {
            if now.since(entry.born) < shortest {
                break;
            }
            if !entry.is_queued && now >= entry.propose_again_at {
                entry.is_queued = true;
                self.queue.push(*seq);
                self.queued += 1;
                self.re_proposed += 1;
            }
        }
    }

    /// Queues everything again: another leader may never have seen it.
    pub fn queue_all(&mut self) {
        for (seq, entry) in &mut self.entries {
            if !entry.is_queued {
                entry.is_queued = true;
                self.queue.push(*seq);
                self.queued += 1;
                self.re_proposed += 1;
            }
        }
    }

    /// Whether those that are queued had better wait for more, at the leader: enough are under way, and are waited for.
    pub fn awaits_company(&self, now: Mono) -> bool {
        let under_way = self.entries.len() - self.queued;
        under_way >= COMPANY_FROM && now.since(self.proposed_at) < COMPANY_WITHIN
    }

    /// The queued commands as log entries, as few as possible, oldest first. Those that only the leader who gave them may
    /// bring into the log, as `is_leaders` says, are apart: `propose` is told which they are.
    pub fn take_batches(
        &mut self,
        now: Mono,
        longest: Duration,
        is_leaders: impl Fn(&P) -> bool,
        mut propose: impl FnMut(Bytes, bool),
    ) {
        if self.queue.is_empty() {
            return;
        }
        self.proposed_at = now;
        let mut queue = std::mem::take(&mut self.queue);
        queue.sort_unstable();
        let is_of_leader = |seq: &u64| self.entries.get(seq).is_some_and(|entry| is_leaders(&entry.purpose));
        let of_leader: Vec<u64> = queue.extract_if(.., |seq| is_of_leader(seq)).collect();
        self.batch(&queue, now, longest, |command| propose(command, false));
        self.batch(&of_leader, now, longest, |command| propose(command, true));
        queue.clear();
        self.queue = queue;
    }

    fn batch(&mut self, queue: &[u64], now: Mono, longest: Duration, mut propose: impl FnMut(Bytes)) {
        let settled_below = self.settled_below();
        let mut batch: Vec<OwnedCommand> = Vec::new();
        let mut bytes = 0;
        for seq in queue {
            let Some(entry) = self.entries.get_mut(seq) else {
                continue;
            };
            if !batch.is_empty() && (batch.len() == ENTRY_COMMANDS_MAX || bytes + entry.bytes > ENTRY_BYTES_MAX) {
                propose(encode_batch(&batch));
                self.put_back(&mut batch);
                bytes = 0;
            }
            let entry = self.entries.get_mut(seq).expect("it was just found");
            let mut command = entry.command.take().expect("a command is at home outside of encoding");
            command.settled_below = settled_below;
            bytes += entry.bytes;
            self.queued -= usize::from(std::mem::take(&mut entry.is_queued));
            entry.propose_again_at = now + entry.pause;
            entry.pause = (entry.pause * 2).min(longest);
            batch.push(command);
        }
        if !batch.is_empty() {
            propose(encode_batch(&batch));
            self.put_back(&mut batch);
        }
    }

    fn put_back(&mut self, batch: &mut Vec<OwnedCommand>) {
        for command in batch.drain(..) {
            let entry = self.entries.get_mut(&command.req.seq).expect("it was taken from there");
            entry.command = Some(command);
        }
    }

    fn settled_below(&self) -> u64 {
        self.entries.first_key_value().map_or(self.next_seq, |(seq, _)| *seq)
    }
}

/// About how many bytes the command takes in memory and in the log.
fn body_bytes(body: &OwnedCommandBody) -> u64 {
    let texts = match body {
        OwnedCommandBody::Begin {
            xid_prefix,
            application,
            service_group,
            name,
            ..
        } => xid_prefix.len() + application.len() + service_group.len() + name.len(),
        OwnedCommandBody::RegisterBranch {
            resource,
            client,
            lock_keys,
            application_data,
            joins,
            ..
        } => {
            let joins: usize = joins.iter().flatten().map(|group| group.len() + 24).sum();
            resource.len() + client.len() + lock_keys.len() + application_data.len() + joins
        }
        OwnedCommandBody::ReportBranch {
            application_data, by, ..
        } => application_data.as_ref().map_or(0, String::len) + by.as_ref().map_or(0, String::len),
        OwnedCommandBody::Decide { by, .. } | OwnedCommandBody::End { by, .. } => by.as_ref().map_or(0, String::len),
        OwnedCommandBody::Operate { act, signed, .. } => {
            let rows = match act {
                OperatorAct::ReleaseLock { rows, .. } => rows.len(),
                _ => 0,
            };
            rows + signed.operator.len() + signed.reason.len()
        }
        OwnedCommandBody::Restore { part } => part.len(),
        OwnedCommandBody::MoveServiceGroups { names, signed, .. } => {
            let names: usize = names.iter().map(|(name, ..)| name.len() + 40).sum();
            names + signed.operator.len() + signed.reason.len()
        }
        OwnedCommandBody::CancelMove { name, signed } => name.len() + signed.operator.len() + signed.reason.len(),
        OwnedCommandBody::StepOfMove { names, .. } => names.iter().map(|name| name.len() + 24).sum(),
        OwnedCommandBody::FinishMove { .. }
        | OwnedCommandBody::RaiseMove { .. }
        | OwnedCommandBody::BranchDone { .. } => 0,
    };
    64 + texts as u64
}

#[cfg(test)]
mod tests {
    use settle_tx::{Decision, Expect, Tid, decode_batch};

    use super::*;

    const PAUSE: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(4);

    fn decide(seq: u64) -> OwnedCommandBody {
        OwnedCommandBody::Decide {
            tid: Tid::new(1, seq),
            decision: Decision::Commit,
            expect: Expect::Begin,
            by: None,
        }
    }

    /// (seq, settled_below) of every command of every entry.
    fn proposed(pending: &mut Pending<u64>, now: u64) -> Vec<Vec<(u64, u64)>> {
        let mut entries = Vec::new();
        pending.take_batches(
            Mono::from_millis(now),
            LONGEST,
            |_| false,
            |bytes, _| {
                let commands = decode_batch(&bytes).expect("it was just encoded");
                entries.push(
                    commands
                        .iter()
                        .map(|command| (command.req.seq, command.settled_below))
                        .collect(),
                );
            },
        );
        entries
    }

    fn three() -> Pending<u64> {
        let mut pending = Pending::new(7);
        for n in 1..=3 {
            pending.submit(decide(n), n, Mono::ZERO, PAUSE);
        }
        pending
    }

    #[test]
    fn a_flush_proposes_all_that_was_gathered_in_one_entry_and_only_once() {
        let mut pending = three();
        assert_eq!(proposed(&mut pending, 0), [[(1, 1), (2, 1), (3, 1)]]);
        assert!(proposed(&mut pending, 0).is_empty());
    }

    #[test]
    fn what_a_leader_gives_is_proposed_apart_from_what_any_leader_may_take() {
        let mut pending = three();
        let mut entries = Vec::new();
        pending.take_batches(
            Mono::ZERO,
            LONGEST,
            |purpose| *purpose == 2,
            |bytes, is_leaders| {
                let commands = decode_batch(&bytes).expect("it was just encoded");
                let seqs: Vec<u64> = commands.iter().map(|command| command.req.seq).collect();
                entries.push((seqs, is_leaders));
            },
        );
        assert_eq!(entries, [(vec![1, 3], false), (vec![2], true)]);
    }

    #[test]
    fn what_is_not_applied_is_proposed_again_after_a_pause_that_doubles() {
        let mut pending = three();
        proposed(&mut pending, 0);
        assert_eq!(
            pending.applied(ReqId { origin: 7, seq: 1 }).map(|(purpose, _)| purpose),
            Some(1)
        );
        let mut at = |now| {
            pending.queue_overdue(Mono::from_millis(now), PAUSE);
            proposed(&mut pending, now)
        };
        assert!(at(499).is_empty());
        assert_eq!(at(500), [[(2, 2), (3, 2)]]);
        assert!(at(1_499).is_empty());
        assert_eq!(at(1_500), [[(2, 2), (3, 2)]]);
    }

    #[test]
    fn the_next_wait_for_many_that_are_under_way_but_not_for_what_may_be_lost() {
        let mut pending = Pending::new(7);
        for n in 1..=8 {
            pending.submit(decide(n), n, Mono::ZERO, PAUSE);
        }
        assert!(!pending.awaits_company(Mono::ZERO), "nothing is under way");
        proposed(&mut pending, 100);
        assert!(pending.awaits_company(Mono::from_millis(109)));
        assert!(!pending.awaits_company(Mono::from_millis(110)));
        pending.queue_all();
        assert!(!pending.awaits_company(Mono::from_millis(100)), "all are queued again");
        proposed(&mut pending, 100);
        pending.applied(ReqId { origin: 7, seq: 1 });
        assert!(!pending.awaits_company(Mono::from_millis(100)));
    }

    #[test]
    fn only_a_command_of_this_run_is_completed() {
        let mut pending = three();
        assert!(pending.applied(ReqId { origin: 8, seq: 1 }).is_none());
        assert!(pending.applied(ReqId { origin: 7, seq: 9 }).is_none());
        assert_eq!(pending.len(), 3);
    }

    #[test]
    fn a_forgotten_command_is_not_proposed_any_more_and_gives_its_bytes_back() {
        let mut pending = three();
        pending.forget(Mono::from_millis(10), Duration::ZERO, |purpose, _| *purpose != 2, drop);
        assert_eq!(pending.queue, [2]);
        assert_eq!(proposed(&mut pending, 10), [[(2, 2)]]);
        pending.applied(ReqId { origin: 7, seq: 2 });
        assert_eq!((pending.len(), pending.bytes()), (0, 0));
    }
}
