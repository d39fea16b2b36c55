//! The groups of a node, filed by what they need, so that no event costs anything for a group that it does not concern.
//!
//! Whoever gets hold of a group to change it ([`Groups::get_mut`]) leaves it touched: the next flush asks it what has to
//! happen, and it is filed anew. So nobody has to remember to, and a group that nobody touched costs nothing.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::{Bound, Index},
    sync::Arc,
};

use settle_base::{GroupId, PeerId};
use settle_machine::StateMachine;
use settle_raft::{ConfState, Raft};

use crate::{group::Group, members::Book, stages::Line};

pub(crate) struct Groups<M: StateMachine> {
    all: BTreeMap<GroupId, Box<Group<M>>>,
    /// To be asked at the next flush what has to happen.
    undrained: Vec<GroupId>,
    unfiled: Vec<GroupId>,
    /// Their consensus counts ticks.
    awake: BTreeSet<GroupId>,
    /// By the leader that this node's replica follows (or is); of [`PeerId::NONE`] those that know none.
    led_by: BTreeMap<PeerId, BTreeSet<GroupId>>,
    /// Linearizable reads wait.
    reading: BTreeSet<GroupId>,
    /// A snapshot is being taken, sent or received, or is due.
    moving: BTreeSet<GroupId>,
    /// Led here, but what is committed is not applied in time.
    lagging: BTreeSet<GroupId>,
    books: Books,
    confs: Confs,
    snapshot_after_bytes: u64,
    apply_lag_max: u64,
}

/// Where a group was filed last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Filed {
    is_undrained: bool,
    is_unfiled: bool,
    is_awake: bool,
    is_reading: bool,
    is_moving: bool,
    is_lagging: bool,
    leader: PeerId,
}

impl Filed {
    pub(crate) const NOWHERE: Filed = Filed {
        is_undrained: false,
        is_unfiled: false,
        is_awake: false,
        is_reading: false,
        is_moving: false,
        is_lagging: false,
        leader: PeerId::NONE,
    };
}

impl<M: StateMachine> Groups<M> {
    pub(crate) fn new(snapshot_after_bytes: u64, apply_lag_max: u64) -> Groups<M> {
        Groups {
            all: BTreeMap::new(),
            undrained: Vec::new(),
            unfiled: Vec::new(),
            awake: BTreeSet::new(),
            led_by: BTreeMap::new(),
            reading: BTreeSet::new(),
            moving: BTreeSet::new(),
            lagging: BTreeSet::new(),
            books: Books::default(),
            confs: Confs::default(),
            snapshot_after_bytes,
            apply_lag_max,
        }
    }

    pub(crate) fn insert(&mut self, mut group: Group<M>) {
        let id = group.id;
        self.confs.share(&mut group.raft);
        let old = self.all.insert(id, Box::new(group));
        assert!(old.is_none(), "group {id} is here once");
        self.led_by.entry(PeerId::NONE).or_default().insert(id);
        self.get_mut(&id);
    }

    pub(crate) fn remove(&mut self, id: &GroupId) -> Option<Group<M>> {
        self.file();
        let group = self.all.remove(id)?;
        let filed = group.filed;
        set(&mut self.awake, *id, filed.is_awake, false);
        set(&mut self.reading, *id, filed.is_reading, false);
        set(&mut self.moving, *id, filed.is_moving, false);
        set(&mut self.lagging, *id, filed.is_lagging, false);
        if let Some(groups) = self.led_by.get_mut(&filed.leader) {
            groups.remove(id);
            if groups.is_empty() {
                self.led_by.remove(&filed.leader);
            }
        }
        self.undrained.retain(|other| other != id);
        Some(*group)
    }

    pub(crate) fn get(&self, id: &GroupId) -> Option<&Group<M>> {
        self.all.get(id).map(|group| &**group)
    }

    /// The group is asked at the next flush what has to happen, and filed anew.
    pub(crate) fn get_mut(&mut self, id: &GroupId) -> Option<&mut Group<M>> {
        let group = self.all.get_mut(id)?;
        touch(&mut self.undrained, &mut self.unfiled, *id, &mut group.filed);
        Some(group)
    }

    /// A group's proposals in flight; nothing has to happen because of them.
    pub(crate) fn line(&mut self, id: &GroupId) -> Option<&mut Line> {
        self.all.get_mut(id).map(|group| &mut group.line)
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// All of them: for what happens once, never for what happens at each event.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Group<M>> {
        self.all.values().map(|group| &**group)
    }

    pub(crate) fn after(&self, id: Option<GroupId>) -> impl Iterator<Item = &Group<M>> {
        let from = id.map_or(Bound::Unbounded, Bound::Excluded);
        self.all.range((from, Bound::Unbounded)).map(|(_, group)| &**group)
    }

    /// How many groups each leader leads; [`PeerId::NONE`] those that know none.
    pub(crate) fn leaders(&self) -> impl Iterator<Item = (PeerId, usize)> {
        self.led_by.iter().map(|(peer, groups)| (*peer, groups.len()))
    }

    /// Takes those that something may have to happen in, in order.
    pub(crate) fn take_undrained(&mut self) -> Vec<GroupId> {
        let mut ids = std::mem::take(&mut self.undrained);
        ids.sort_unstable();
        for id in &ids {
            if let Some(group) = self.all.get_mut(id) {
                group.filed.is_undrained = false;
            }
        }
        ids
    }

    /// One tick of the consensus of all that count them. Those led here in which nothing happened for
    /// `hibernate_after` ticks are asked to rest; 0 is never. `is_gone` tells of peers that cannot be reached.
    pub(crate) fn tick(&mut self, hibernate_after: u32, is_gone: impl Fn(PeerId) -> bool) {
        self.file();
        for id in &self.awake {
            let group = self.all.get_mut(id).expect("only groups that are here are filed");
            group.raft.tick();
            if hibernate_after > 0 && group.raft.is_leader() {
                group.rest_if_quiet(hibernate_after, &is_gone);
            }
            if group.raft.has_ready() {
                touch(&mut self.undrained, &mut self.unfiled, *id, &mut group.filed);
            }
        }
    }

    /// Those whose leader is `peer`; with this node's own incarnation those that it leads.
    pub(crate) fn led_by(&mut self, peer: PeerId) -> Vec<GroupId> {
        self.file();
        self.led_by.get(&peer).into_iter().flatten().copied().collect()
    }

    pub(crate) fn led_by_count(&self, peer: PeerId) -> usize {
        self.led_by.get(&peer).map_or(0, BTreeSet::len)
    }

    /// At most `count` of those whose leader is `peer`, from behind `after` on and round to it.
    pub(crate) fn led_after(&mut self, peer: PeerId, after: GroupId, count: usize) -> Vec<GroupId> {
        self.file();
        let Some(led) = self.led_by.get(&peer) else {
            return Vec::new();
        };
        let behind = led.range((Bound::Excluded(after), Bound::Unbounded));
        behind.chain(led.range(..=after)).take(count).copied().collect()
    }

    pub(crate) fn lagging(&mut self) -> Vec<GroupId> {
        self.file();
        self.lagging.iter().copied().collect()
    }

    pub(crate) fn reading(&mut self) -> Vec<GroupId> {
        self.file();
        self.reading.iter().copied().collect()
    }

    pub(crate) fn moving(&mut self) -> Vec<GroupId> {
        self.file();
        self.moving.iter().copied().collect()
    }

    pub(crate) fn awake_count(&self) -> usize {
        self.awake.len()
    }

    /// One copy of each book, whatever number of groups it is of.
    pub(crate) fn share(&mut self, book: Book) -> Arc<Book> {
        self.books.share(book)
    }

    pub(crate) fn books(&mut self) -> impl Iterator<Item = &Book> {
        self.books.in_use()
    }

    /// Queues keep room for so many.
    pub(crate) fn release_memory(&mut self, kept: usize) {
        self.undrained.shrink_to(kept);
        self.unfiled.shrink_to(kept);
    }

    fn file(&mut self) {
        for id in std::mem::take(&mut self.unfiled) {
            let Some(group) = self.all.get_mut(&id) else { continue };
            let old = group.filed;
            let new = Filed {
                is_undrained: old.is_undrained,
                is_unfiled: false,
                is_awake: !group.raft.is_resting(),
                is_reading: !group.reads.is_empty() || !group.reads_confirmed.is_empty(),
                is_moving: group.is_moving(self.snapshot_after_bytes),
                is_lagging: group.raft.is_leader() && group.raft.commit() - group.applied.index > self.apply_lag_max,
                leader: group.raft.leader(),
            };
            group.filed = new;
            if old.is_awake && !new.is_awake {
                self.confs.share(&mut group.raft);
            }
            set(&mut self.awake, id, old.is_awake, new.is_awake);
            set(&mut self.reading, id, old.is_reading, new.is_reading);
            set(&mut self.moving, id, old.is_moving, new.is_moving);
            set(&mut self.lagging, id, old.is_lagging, new.is_lagging);
            if old.leader != new.leader {
                if let Some(groups) = self.led_by.get_mut(&old.leader) {
                    groups.remove(&id);
                    if groups.is_empty() {
                        self.led_by.remove(&old.leader);
                    }
                }
                self.led_by.entry(new.leader).or_default().insert(id);
            }
        }
    }
}

fn touch(undrained: &mut Vec<GroupId>, unfiled: &mut Vec<GroupId>, id: GroupId, filed: &mut Filed) {
    if !std::mem::replace(&mut filed.is_undrained, true) {
        undrained.push(id);
    }
    if !std::mem::replace(&mut filed.is_unfiled, true) {
        unfiled.push(id);
    }
}

fn set(groups: &mut BTreeSet<GroupId>, id: GroupId, was: bool, is: bool) {
    match (was, is) {
        (false, true) => drop(groups.insert(id)),
        (true, false) => drop(groups.remove(&id)),
        _ => {}
    }
}

impl<M: StateMachine> Index<&GroupId> for Groups<M> {
    type Output = Group<M>;

    fn index(&self, id: &GroupId) -> &Group<M> {
        self.get(id).expect("the group was just asked")
    }
}

/// Thousands of groups with the same members share one book.
#[derive(Default)]
struct Books {
    known: Vec<Arc<Book>>,
}

impl Books {
    fn share(&mut self, book: Book) -> Arc<Book> {
        if let Some(known) = self.known.iter().find(|known| ***known == book) {
            return Arc::clone(known);
        }
        self.known.retain(|book| Arc::strong_count(book) > 1);
        let book = Arc::new(book);
        self.known.push(Arc::clone(&book));
        book
    }

    fn in_use(&mut self) -> impl Iterator<Item = &Book> {
        self.known.retain(|book| Arc::strong_count(book) > 1);
        self.known.iter().map(|book| &**book)
    }
}

/// And one configuration: that of groups at rest.
#[derive(Default)]
struct Confs {
    /// Those met last, oldest first.
    known: VecDeque<Arc<ConfState>>,
}

const CONFS_KNOWN: usize = 64;

impl Confs {
    fn share(&mut self, raft: &mut Raft) {
        let own = raft.conf_to_share();
        let is_same = |known: &&Arc<ConfState>| Arc::ptr_eq(known, own) || *known == own;
        if let Some(known) = self.known.iter().find(is_same) {
            return raft.share_conf(known);
        }
        if self.known.len() == CONFS_KNOWN {
            self.known.pop_front();
        }
        self.known.push_back(Arc::clone(raft.conf_to_share()));
    }
}
