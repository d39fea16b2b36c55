//! Operations on the groups of a node while they run: create one, destroy one for ever, hold a log, stop a machine
//! before an entry until it is given what it lacks, bring a log to where another group's log says that it ended.
//!
//! A service asks for them by [`settle_machine::Action`]s; nothing here knows what a range is. This is how a **split** and
//! a **merge** of ranges are built from them; `settle_machine::ranges::Surgeon` does it, `examples/range-map` is the whole
//! of it with the smallest machine, and `cargo xtask sim --scenario range` puts it under every fault. The rules are TiKV's unless said otherwise.
//!
//! # Split
//! 1. A command in the parent's log says where and under which id. Applying it, each replica's machine gives up a part of
//!    its keys, raises its version, and hands the part out as an effect. From here on a command of the old version is
//!    refused *at apply*: that it was right when it was proposed says nothing.
//! 2. The service answers the effect, before anything else can happen, with `Hold` on the parent's log from that entry on,
//!    and with `Create`: the parent's members as the machine was told them ([`Members::encoded`]), the log beginning
//!    behind entry 5 of term 5, the part as its state. The state is durable as a file before the log says that the group
//!    is there; the file gets its name after that, and the group speaks only then. A crash before it replays the parent's
//!    log and does all of it again; a group that is there is left as it is, and one that was destroyed stays so.
//! 3. The hold ends when the child has committed an entry of its own: that rests on a quorum which holds its beginning.
//!    Ended when this replica's own file is durable, it would be too early: a follower that lacks the entry is sent a
//!    snapshot from behind it, and the child's beginning would be on one disk alone.
//! 4. A replica that got past the split by a snapshot finds the child named in the machine's state and creates it empty.
//!    It knows no configuration, so it cannot campaign, and its leader sends it a snapshot. Messages for a group that is
//!    not here are dropped and create nothing; consensus sends again.
//! 5. Damage of the log may take a group with all that it promised, and nothing in the log tells it from one that never
//!    was. But its file has its name, from before it spoke, and not from before the log had the group. So a group with a
//!    file, that the log may have lost, is created *recovering*, with the beginning that it is given, until it has healed
//!    ([`settle_wal::Wal::may_have_held`]); and one that is on its way when the power fails is as new as ever.
//!
//! # Merge of a source into its neighbour
//! 1. *Prepare*, in the source's log, names the target at an epoch (version and members). From its apply on the source
//!    serves nothing, refuses every command, and [`settle_machine::StateMachine::takes_members`] says no: so its state, and
//!    who holds it, stand still. Its log is held from the first entry that not every replica was known to have. There
//!    are no leases, so a read that the source's leader confirms later sees the silence.
//! 2. *Commit*, in the target's log, takes effect only at that very epoch. It carries the end of the source's log. Before
//!    applying it the machine [`needs`](settle_machine::StateMachine::needs) the source: the host stops there, tells
//!    `ApplyPaused`, and goes on with `Resume` once the service has seen the local source applied up to its prepare. What
//!    is given is therefore the same on every replica. A source that lags is brought there by `HandEntries`, if need be
//!    without any leader of its own. Who came to the target later, or came back to it, has no replica of the source that
//!    anybody brings there, since the source takes no members: with `TakeState` it goes on from the target's state of
//!    behind the commit instead. That is the same state, and the commit is not applied to it again.
//! 3. *Rollback*, in the source's log, is proposed once the target has been seen at a later epoch without the source: then
//!    the commit can never take effect. Since the target's log alone decides, no quorum has to agree on it (TiKV's has).
//! 4. *Finish*, in the target's log, follows when each of its present members reports a durable snapshot behind the
//!    commit; a report is a replica's, not its node's, which may have lost its directory since. Until then a restart would
//!    need the source again; from then on nobody does, and `Destroy` ends it on each node. The tombstone is in the log, and
//!    stays.
//!
//! # Machines that pause
//! Between an entry that a machine may pause before and the end of that wait on all members, a machine refuses, at apply,
//! every entry that rests on a hold: no split from commit to finish. For `TakeState` passes over what is between, on a
//! replica whose log has counted for it: that replica neither applies it nor holds anything for it. Were a split there,
//! the child's beginning could be on the disk of the one that gave its state, alone, although a quorum's logs had it; and
//! a giver that waited for the child instead could wait for the very replicas that wait for it. A prepare is refused there
//! as well.
//!
//! Everything but the first step of each is found in the machines' state at every tick anew, never remembered: so there
//! is nothing that a crash could forget.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use settle_base::{GroupId, Index, Mono, PeerId, Term};
use settle_machine::{
    Action, Birth, CreateOutcome, Event, GroupLog, HandedEntries, LogEntry, LogMarks, Members, NewGroup, Service,
    StateMachine,
};
use settle_raft::{ConfState, Entry, HandError, HardState, Raft, Restored, Role, SnapshotMeta};
use settle_storage::{Disk, DiskError, DiskRead, FileName, Op, Token};
use settle_wal::Record;

use crate::{
    Host, HostAction, HostError, HostNote,
    group::Group,
    identity::is_full,
    join::{birth_records, raft_config},
    members::{self, Book, decode_conf, encode_conf},
    order::Then,
    raft_codec::{kind_from_u8, kind_to_u8},
    snapshot_file::{Cut, Writer, Written, birth_file, unborn_file},
    stopped::StopReason,
};

/// Chunks of a new group's state on their way to the disk, at most.
const WINDOW: usize = 8;

/// What is being done to one group that is here.
#[derive(Debug, Default)]
pub(crate) struct Surgery {
    /// The log is kept from here on, by holder.
    holds: BTreeMap<u64, Index>,
    /// The machine stands before the entry here, which needs something. Consensus keeps it and what follows.
    paused: Option<Index>,
    /// What that entry needed, until it is handed out again.
    given: Option<Bytes>,
}

/// What is being done on this node beyond one group.
pub(crate) struct Theatre<M> {
    creating: BTreeMap<GroupId, Creating<M>>,
    /// Destroyed here, or about to be: none of them ever comes back.
    tombstones: BTreeSet<GroupId>,
    /// Of them those that the log does not say so of durably yet.
    destroying: BTreeSet<GroupId>,
    orders: VecDeque<Order>,
    told: VecDeque<Told>,
}

enum Order {
    Create(Box<NewGroup>),
    Destroy(GroupId),
    Hand(HandedEntries),
    Resume { group: GroupId, index: Index, given: Bytes },
    TakeState { group: GroupId, index: Index },
}

enum Told {
    Created { group: GroupId, outcome: CreateOutcome },
    Destroyed { group: GroupId },
    Paused { group: GroupId, index: Index, needs: Bytes },
}

/// A group on its way to the disk: first its state as a file, then the log's records, then the file's name, and only then
/// it is there.
struct Creating<M> {
    meta: SnapshotMeta,
    book: Book,
    machine: M,
    chunks: Vec<Bytes>,
    campaigns: bool,
    step: Step,
    /// It was perhaps here before, and damage took it.
    in_doubt: bool,
}

enum Step {
    /// For a full disk.
    Waiting,
    Writing(Writing),
    /// The file is whole and durable under another name, the log is being told.
    Staged,
    /// The log has it. `None` while a full disk is waited for.
    Naming(Option<Token>),
}

struct Writing {
    chunks: Cut,
    writer: Writer,
    is_finished: bool,
}

impl<M> Default for Theatre<M> {
    fn default() -> Theatre<M> {
        Theatre {
            creating: BTreeMap::new(),
            tombstones: BTreeSet::new(),
            destroying: BTreeSet::new(),
            orders: VecDeque::new(),
            told: VecDeque::new(),
        }
    }
}

impl<M> Theatre<M> {
    /// Found in the log at the start.
    pub(crate) fn found_destroyed(&mut self, group: GroupId) {
        self.tombstones.insert(group);
    }
}

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    /// Takes an action on groups. A hold counts at once; the rest happens in this flush.
    pub(crate) fn operate(&mut self, action: Action<S::Response>) {
        let order = match action {
            Action::Hold { group, holder, index } => return self.hold(group, holder, index),
            Action::Release { group, holder } => {
                if let Some(surgery) = self.groups.get_mut(&group).and_then(|g| g.surgery.as_mut()) {
                    surgery.holds.remove(&holder);
                }
                return;
            }
            Action::Create(new) => Order::Create(new),
            Action::Destroy { group } => Order::Destroy(group),
            Action::HandEntries(handed) => Order::Hand(handed),
            Action::Resume { group, index, given } => Order::Resume { group, index, given },
            Action::TakeState { group, index } => Order::TakeState { group, index },
            Action::Propose { .. }
            | Action::Read { .. }
            | Action::Peer { .. }
            | Action::Respond(_)
            | Action::TakeSnapshot { .. } => unreachable!("these are no operations on groups"),
        };
        self.theatre.orders.push_back(order);
    }

    /// Does what was ordered and tells what came of it; true when there was anything.
    pub(crate) fn settle_surgery(
        &mut self,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<bool, HostError> {
        let any = !self.theatre.orders.is_empty() || !self.theatre.told.is_empty();
        // One pass each: what follows waits for the next round.
        for order in std::mem::take(&mut self.theatre.orders) {
            match order {
                Order::Create(new) => self.create_group(*new),
                Order::Destroy(group) => self.destroy_group(group, now)?,
                Order::Hand(handed) => self.hand_over_entries(handed, now, out)?,
                Order::Resume { group, index, given } => self.resume(group, index, given),
                Order::TakeState { group, index } => self.take_state(group, index, out),
            }
        }
        for told in std::mem::take(&mut self.theatre.told) {
            let event = match told {
                Told::Created { group, outcome } => Event::Created { group, outcome },
                Told::Destroyed { group } => Event::Destroyed { group },
                Told::Paused { group, index, needs } => Event::ApplyPaused { group, index, needs },
            };
            self.serve(event, now, out);
        }
        Ok(any)
    }

    /// A full disk may have space again.
    pub(crate) fn tick_surgery(&mut self) {
        let waits = |c: &Creating<S::Machine>| matches!(c.step, Step::Waiting | Step::Naming(None));
        let creating = self.theatre.creating.iter();
        let waiting: Vec<_> = creating.filter(|(_, c)| waits(c)).map(|(id, _)| *id).collect();
        for id in waiting {
            match self.theatre.creating[&id].step {
                Step::Waiting => self.begin_writing(id),
                _ => self.name_file(id),
            }
        }
    }

    // Creation.

    fn create_group(&mut self, new: NewGroup) {
        let group = new.group;
        match self.prepare_creation(new) {
            Err(outcome) => self.theatre.told.push_back(Told::Created { group, outcome }),
            Ok(creating) => {
                self.theatre.creating.insert(group, creating);
                self.begin_writing(group);
            }
        }
    }

    fn prepare_creation(&self, new: NewGroup) -> Result<Creating<S::Machine>, CreateOutcome> {
        let NewGroup { group, birth } = new;
        let theatre = &self.theatre;
        if theatre.tombstones.contains(&group) && !settle_base::mutant!("destroyed_group_returns") {
            return Err(CreateOutcome::Tombstoned);
        }
        let is_here = self.groups.get(&group).is_some() || self.stopped.contains_key(&group);
        if is_here || theatre.creating.contains_key(&group) {
            return Err(CreateOutcome::Exists);
        }
        let known = self.groups.len() + self.stopped.len() + theatre.creating.len() + theatre.tombstones.len();
        let cluster = self.identity.cluster.filter(|_| self.wal.is_some());
        // What a group is born with is a machine's.
        let cluster = cluster.filter(|_| known < self.config.limits.groups_max && !self.identity.witness);
        let cluster = cluster.ok_or(CreateOutcome::Refused)?;
        let mut machine = (self.make_machine)(group, cluster);
        let (mut meta, mut book) = (SnapshotMeta::default(), Book::default());
        let (mut chunks, mut campaigns) = (Vec::new(), false);
        if let Some(birth) = birth {
            (meta, book) = born_as(&birth, self.identity.incarnation).ok_or(CreateOutcome::Refused)?;
            let loaded = machine.load(&mut birth.chunks.iter().cloned());
            loaded.map_err(|_| CreateOutcome::Refused)?;
            (chunks, campaigns) = (birth.chunks, birth.campaigns);
        }
        Ok(Creating {
            meta,
            book,
            machine,
            chunks,
            campaigns,
            step: Step::Waiting,
            in_doubt: self.wal.as_ref().is_some_and(|wal| wal.may_have_held(group)),
        })
    }

    fn begin_writing(&mut self, id: GroupId) {
        let Some(creating) = self.theatre.creating.get_mut(&id) else {
            return;
        };
        let (target, name) = (unborn_file(id), birth_file(id, creating.meta.index));
        // It will be this one's name again.
        self.obsolete.retain(|(_, file)| *file != name);
        let temporary = format!("snap-{:x}-creating.tmp", id.0);
        let (disk, tokens, obsolete) = (&mut self.disk, &mut self.tokens, &mut self.obsolete);
        let writer = Writer::create(disk, tokens, obsolete, id, &creating.meta, &temporary, target);
        let chunks = Box::new(creating.chunks.clone().into_iter());
        creating.step = Step::Writing(Writing {
            chunks: Cut::new(chunks, self.config.snapshot_chunk_bytes),
            writer,
            is_finished: false,
        });
        self.pump_creation(id);
    }

    fn pump_creation(&mut self, id: GroupId) {
        let creating = self.theatre.creating.get_mut(&id);
        let Some(Step::Writing(writing)) = creating.map(|c| &mut c.step) else {
            return;
        };
        while !writing.is_finished && writing.writer.in_flight() < WINDOW {
            match writing.chunks.next() {
                Some(data) => writing.writer.write(&mut self.disk, &mut self.tokens, &data),
                None => {
                    writing.writer.finish(&mut self.disk, &mut self.tokens);
                    writing.is_finished = true;
                }
            }
        }
    }

    /// A completion of the disk; false when it is none of a creation.
    pub(crate) fn creation_written(
        &mut self,
        token: Token,
        result: &Result<(), DiskError>,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<bool, HostError> {
        let (disk, tokens) = (&mut self.disk, &mut self.tokens);
        let mut creating = self.theatre.creating.iter_mut();
        let found = creating.find_map(|(&id, creating)| match &mut creating.step {
            Step::Writing(writing) => match writing.writer.complete(disk, tokens, token, result) {
                Ok(Written::NotMine) => None,
                outcome => Some((id, outcome)),
            },
            Step::Naming(naming) if *naming == Some(token) => Some((id, result.clone().map(|()| Written::Done))),
            _ => None,
        });
        let Some((id, outcome)) = found else { return Ok(false) };
        let creating = self.theatre.creating.get_mut(&id).expect("it was just found");
        let is_named = matches!(creating.step, Step::Naming(_));
        match outcome {
            Ok(Written::Done) if is_named => self.begin(id, now, out)?,
            Ok(Written::Done) => self.stage_creation(id, now)?,
            Ok(_) => self.pump_creation(id),
            Err(error) => {
                let waits = if is_named { Step::Naming(None) } else { Step::Waiting };
                if let Step::Writing(writing) = std::mem::replace(&mut creating.step, waits) {
                    writing.writer.discard(&mut self.disk, &mut self.tokens);
                }
                if !is_full(&error) {
                    return Err(HostError::Disk { source: error });
                }
            }
        }
        Ok(true)
    }

    /// The state is durable as a file, so the log may say that the group begins with it.
    fn stage_creation(&mut self, id: GroupId, now: Mono) -> Result<(), HostError> {
        let creating = self.theatre.creating.get_mut(&id).expect("its creation goes on");
        creating.step = Step::Staged;
        let file = birth_file(id, creating.meta.index);
        let records = birth_records(id, &creating.meta, Some(file));
        self.stage(id, records, Then::Created, now)
    }

    /// The log says durably that the group is here: so its file may say that, too. A start finds the name given, or gives it.
    pub(crate) fn name_file(&mut self, id: GroupId) {
        let Some(creating) = self.theatre.creating.get_mut(&id) else {
            // Destroyed while it was on its way; its file goes with it.
            return;
        };
        let (from, to) = (unborn_file(id), birth_file(id, creating.meta.index));
        let token = self.tokens.next();
        creating.step = Step::Naming(Some(token));
        self.disk.submit(token, Op::Rename { from, to });
    }

    /// Log and file say durably that the group is here, and no damage can take both: now it may speak.
    fn begin(&mut self, id: GroupId, now: Mono, out: &mut Vec<HostAction<S::Response>>) -> Result<(), HostError> {
        let creating = self.theatre.creating.remove(&id).expect("its creation goes on");
        let Creating {
            meta,
            book,
            machine,
            campaigns,
            in_doubt,
            ..
        } = creating;
        let hard_state = HardState {
            term: meta.term,
            commit: meta.index,
            ..HardState::default()
        };
        let restored = Restored {
            hard_state,
            snapshot: meta.clone(),
            recovering: in_doubt.then(|| self.prng.next_u64()),
            ..Restored::default()
        };
        let raft = Raft::restore(raft_config(&self.config, &self.identity, id), restored)
            .map_err(|source| HostError::Start { group: id, source })?;
        self.checker.restored(id, hard_state, meta.index);
        // An empty group's says that it was here, and nothing else.
        let file = (meta.index > 0).then(|| birth_file(id, meta.index));
        let book = self.groups.share(book);
        self.groups
            .insert(Group::new(raft, id, Some(machine), book, &meta, file));
        if in_doubt {
            out.push(HostAction::Note(HostNote::Recovering { group: id }));
        } else if campaigns && let Some(group) = self.groups.get_mut(&id) {
            group.raft.campaign();
        }
        self.counters.groups_created += 1;
        let (group, conf) = (id, meta.conf);
        out.push(HostAction::Note(HostNote::GroupCreated { group, conf }));
        let outcome = CreateOutcome::Created;
        self.theatre.told.push_back(Told::Created { group, outcome });
        self.update_role(id, now, out);
        Ok(())
    }

    // Destruction.

    fn destroy_group(&mut self, id: GroupId, now: Mono) -> Result<(), HostError> {
        if self.theatre.destroying.contains(&id) || self.wal.is_none() {
            return Ok(());
        }
        let is_here = self.groups.get(&id).is_some() || self.stopped.contains_key(&id);
        if !self.theatre.tombstones.insert(id) && !is_here {
            self.theatre.told.push_back(Told::Destroyed { group: id });
            return Ok(());
        }
        self.theatre.destroying.insert(id);
        let mut file = None;
        if let Some(creating) = self.theatre.creating.remove(&id) {
            match creating.step {
                Step::Writing(writing) => writing.writer.discard(&mut self.disk, &mut self.tokens),
                Step::Waiting => {}
                Step::Staged | Step::Naming(None) => file = Some(unborn_file(id)),
                Step::Naming(Some(_)) => file = Some(birth_file(id, creating.meta.index)),
            }
        }
        self.forget_transfers(id);
        if let Some(mut group) = self.groups.remove(&id) {
            self.stages.forget(&mut group.line);
            file = group.snapshot_file;
            let reads = group.reads.into_values().chain(group.reads_confirmed.into_values());
            for read in reads {
                self.lose_read(id, read.token);
            }
        }
        if let Some(stopped) = self.stopped.remove(&id) {
            file = stopped.group.snapshot_file;
        }
        self.misfits.remove(&id);
        self.stage(id, vec![Record::Destroy { group: id }], Then::Ended { file }, now)
    }

    /// The log says durably that the group is gone, twice: the second batch proves the first. Damage of a last batch is
    /// taken for a torn tail, and would bring a group back that nobody asks to be destroyed any more.
    pub(crate) fn destroyed(&mut self, id: GroupId, file: Option<FileName>, out: &mut Vec<HostAction<S::Response>>) {
        self.theatre.destroying.remove(&id);
        self.checker.forget(id);
        let wal = self.wal.as_mut().expect("a group exists only with a log");
        self.obsolete.extend(file.map(|file| (wal.durable(), file)));
        wal.purge(&mut self.disk);
        self.counters.groups_destroyed += 1;
        out.push(HostAction::Note(HostNote::GroupDestroyed { group: id }));
        self.theatre.told.push_back(Told::Destroyed { group: id });
    }

    /// Whether the group was destroyed on this node.
    pub fn is_tombstoned(&self, group: GroupId) -> bool {
        self.theatre.tombstones.contains(&group)
    }

    /// Groups whose machine waits here before an entry.
    pub fn waiting_groups(&self) -> impl Iterator<Item = GroupId> {
        self.groups.values().filter(|g| g.is_paused()).map(|g| g.id)
    }

    /// Who the members of a group are, as its machine was told.
    pub fn members(&self, group: GroupId) -> Option<Members> {
        self.groups.get(&group).map(|g| members_of(g.raft.conf(), &g.book))
    }

    /// Files of a snapshot on its way, with nobody left to want it.
    pub(crate) fn forget_file(&mut self, file: FileName) {
        self.disk.submit(self.tokens.next(), Op::Remove { file });
    }

    // Logs.

    fn hold(&mut self, id: GroupId, holder: u64, index: Index) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.surgery.get_or_insert_default().holds.insert(holder, index);
        if group.is_taking_from(index) {
            self.abandon_taking(id);
        }
    }

    fn hand_over_entries(
        &mut self,
        handed: HandedEntries,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), HostError> {
        let HandedEntries {
            group: id,
            prev_index,
            prev_term,
            entries,
        } = handed;
        let Some(group) = self.groups.get_mut(&id) else {
            return Ok(());
        };
        let entries: Option<Vec<Entry>> = entries.into_iter().map(entry).collect();
        let (after, found, term) = (prev_index, prev_index, prev_term);
        let result = match entries {
            Some(entries) => group.raft.hand_entries(prev_index, prev_term, entries),
            None => Err(HandError::Entries { after, found, term }),
        };
        match result {
            Ok(_) => self.counters.handed_entries += 1,
            Err(HandError::Gap { .. } | HandError::Empty { .. }) => {}
            Err(source) => self.stop_group(id, StopReason::Handed { group: id, source }, now, out)?,
        }
        Ok(())
    }

    // Pauses.

    /// The machine cannot apply the entry at `index` yet.
    pub(crate) fn pause(&mut self, id: GroupId, index: Index, needs: Bytes) {
        let group = self.groups.get_mut(&id).expect("its entries were just taken");
        assert_eq!(
            index,
            group.applied.index + 1,
            "a machine stands behind what it has applied"
        );
        group.surgery.get_or_insert_default().paused = Some(index);
        group.raft.hold_apply(true);
        self.counters.applies_paused += 1;
        self.theatre.told.push_back(Told::Paused {
            group: id,
            index,
            needs,
        });
    }

    fn resume(&mut self, id: GroupId, index: Index, given: Bytes) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        // The log says already that this replica goes on behind the entry: applied now, it would go back to that.
        if group.received.as_ref().is_some_and(|received| received.is_staged) {
            return;
        }
        let Some(surgery) = group.surgery.as_mut().filter(|s| s.paused == Some(index)) else {
            return;
        };
        (surgery.paused, surgery.given) = (None, Some(given));
        group.raft.hold_apply(false);
    }

    fn take_state(&mut self, id: GroupId, index: Index, out: &mut Vec<HostAction<S::Response>>) {
        let Some(group) = self.groups.get(&id).filter(|g| g.paused_before() == Some(index)) else {
            return;
        };
        if group.raft.is_leader() {
            return self.hand_over(id, Duration::ZERO, out);
        }
        self.ask_for_state(id, out);
    }
}

impl<M: StateMachine> Group<M> {
    pub(crate) fn is_paused(&self) -> bool {
        self.paused_before().is_some()
    }

    /// The entry that the machine cannot apply yet.
    pub(crate) fn paused_before(&self) -> Option<Index> {
        self.surgery.as_ref()?.paused
    }

    /// What the next entry to be applied needed.
    pub(crate) fn take_given(&mut self) -> Option<Bytes> {
        self.surgery.as_mut()?.given.take()
    }

    /// A snapshot stands for all that waited.
    pub(crate) fn end_pause(&mut self) {
        if let Some(surgery) = &mut self.surgery {
            (surgery.paused, surgery.given) = (None, None);
        }
        self.raft.hold_apply(false);
    }

    /// Whether somebody needs the log from at most the applied entry on.
    pub(crate) fn is_held(&self) -> bool {
        let at = self.applied.index;
        self.surgery
            .as_ref()
            .is_some_and(|s| s.holds.values().any(|index| *index <= at))
            && !settle_base::mutant!("split_loses_log_hold")
    }

    /// Tells the machine who the members are now.
    pub(crate) fn tell_members(&mut self) {
        let members = members_of(self.raft.conf(), &self.book);
        if let Some(machine) = &mut self.machine {
            machine.members_changed(&members);
        }
    }
}

impl<M: StateMachine> GroupLog for Group<M> {
    fn marks(&self) -> LogMarks {
        LogMarks {
            first: self.raft.first_index(),
            last: self.raft.last_index(),
            committed: self.raft.commit(),
            applied: self.applied.index,
            snapshot: self.snapshot_index,
            on_all: on_all(&self.raft),
        }
    }

    fn entries(&self, after: Index, to: Index) -> Option<(Term, Vec<LogEntry>)> {
        let prev_term = self.raft.term_at(after)?;
        let entries: Vec<LogEntry> = self.raft.entries(after + 1..=to).map(log_entry).collect();
        (entries.len() as u64 == to.checked_sub(after)?).then_some((prev_term, entries))
    }
}

fn on_all(raft: &Raft) -> Option<Index> {
    if raft.role() != Role::Leader {
        return None;
    }
    let status = raft.status();
    let is_well = status.progress.iter().all(|p| p.recent_active && !p.recovering);
    let least = status
        .progress
        .iter()
        .map(|p| p.matched)
        .min()
        .unwrap_or(status.last_index);
    is_well.then_some(least.min(status.durable_index))
}

pub(crate) fn members_of(conf: &ConfState, book: &Book) -> Members {
    if conf.voters.is_empty() {
        return Members::default();
    }
    let union = |a: &[PeerId], b: &[PeerId]| {
        a.iter()
            .chain(b)
            .copied()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    };
    Members {
        voters: union(&conf.voters, &conf.outgoing),
        learners: union(&conf.learners, &conf.learners_next),
        is_joint: conf.is_joint(),
        encoded: encode_conf(conf, &book.to_be_born_with().encode()),
    }
}

/// What a birth says, when it makes sense on the node of `us`.
fn born_as(birth: &Birth, us: PeerId) -> Option<(SnapshotMeta, Book)> {
    let (conf, context) = decode_conf(birth.members.clone()).ok()?;
    let book = Book::decode(context.clone()).ok()?;
    let is_sound = conf.is_valid() && members::is_in(&conf, us) && birth.index > 0 && birth.term > 0;
    let meta = SnapshotMeta {
        index: birth.index,
        term: birth.term,
        conf,
        time: birth.time,
        context,
    };
    is_sound.then_some((meta, book))
}

fn log_entry(entry: &Entry) -> LogEntry {
    LogEntry {
        index: entry.index,
        term: entry.term,
        kind: kind_to_u8(entry.kind),
        time: entry.time,
        data: entry.data.clone(),
    }
}

fn entry(entry: LogEntry) -> Option<Entry> {
    Some(Entry {
        term: entry.term,
        index: entry.index,
        kind: kind_from_u8(entry.kind)?,
        time: entry.time,
        data: entry.data,
    })
}
