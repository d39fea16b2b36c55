//! Who votes: configurations, their quorums, and the changes between them (joint consensus, Raft thesis §4.3).
//!
//! A change takes effect when it is *applied*, as in etcd, not when it is appended as in the paper: so a log truncation
//! never has to undo one. It is safe because at most one change is unapplied at a time, a leader proposes the leave of
//! a joint configuration only after it applied the enter, and nobody campaigns while a change that it knows to be
//! committed is unapplied.

use bytes::{BufMut, Bytes, BytesMut};
use settle_base::{Index, PeerId};

/// The most peers that one configuration may name, and the most changes of one [`ConfChange`].
pub const MAX_PEERS: usize = 64;

/// A membership. Each list is sorted and free of duplicates.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfState {
    pub voters: Vec<PeerId>,
    /// The voters of the configuration being left; empty outside of a joint change.
    pub outgoing: Vec<PeerId>,
    pub learners: Vec<PeerId>,
    /// Outgoing voters that become learners when the joint configuration is left.
    pub learners_next: Vec<PeerId>,
    /// Those voters, of either half, that keep the log but no machine. They are fewer than a majority of the voters.
    pub witnesses: Vec<PeerId>,
    /// The leader proposes the leave by itself. Always set where a joint configuration is entered.
    pub auto_leave: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfChangeKind {
    /// Makes the peer a voter; a learner is promoted.
    AddVoter(PeerId),
    /// Makes the peer a learner; a voter is demoted.
    AddLearner(PeerId),
    Remove(PeerId),
    /// Adds a voter without a machine; see `witness.rs`. A peer is made one when it is added, and stays one.
    AddWitness(PeerId),
    /// Only as the first change: all others together are the whole new configuration, whatever was in force. An operator
    /// forces it after the loss of a majority, see [`crate::Raft::reset_conf`].
    Reset,
}

impl ConfChangeKind {
    /// [`PeerId::NONE`] for a reset, which names nobody.
    pub fn peer(self) -> PeerId {
        match self {
            ConfChangeKind::AddVoter(peer)
            | ConfChangeKind::AddLearner(peer)
            | ConfChangeKind::Remove(peer)
            | ConfChangeKind::AddWitness(peer) => peer,
            ConfChangeKind::Reset => PeerId::NONE,
        }
    }
}

/// One membership change. It always goes through a joint configuration, which the leader then leaves by itself;
/// no `changes` at all is that leave. (A reset alone does without.)
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfChange {
    pub changes: Vec<ConfChangeKind>,
    /// Opaque to consensus: the host keeps node ids and addresses in it.
    pub context: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfChangeError {
    #[error("enter a joint configuration while one is in force")]
    AlreadyJoint,
    #[error("leave a joint configuration while none is in force")]
    NotJoint,
    #[error("the change would leave no voter")]
    NoVoters,
    #[error("the change names peer 0, which is nobody")]
    Nobody,
    #[error("the change would exceed {MAX_PEERS} peers")]
    TooMany,
    #[error("the change would make a witness of peer {peer}, which is in the group already, or the reverse")]
    KeepsItsKind { peer: PeerId },
    #[error("the change would leave {witnesses} witnesses among {voters} voters; they must be fewer than a majority")]
    TooManyWitnesses { witnesses: usize, voters: usize },
    #[error("only the first change can be a reset, and only voters, learners and witnesses can follow it")]
    BadReset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfDecodeError {
    #[error("membership change ends early")]
    Truncated,
    #[error("membership change has unknown format version {0}")]
    Version(u8),
    #[error("membership change has unknown kind {0}")]
    Kind(u8),
    #[error("membership change has {0} changes, the limit is {MAX_PEERS}")]
    TooMany(usize),
}

const CONF_CHANGE_VERSION: u8 = 1;

impl ConfChange {
    /// Version, count (u16), then kind (u8) and peer (u64) of each change, big endian; the rest is the context.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(3 + 9 * self.changes.len() + self.context.len());
        out.put_u8(CONF_CHANGE_VERSION);
        out.put_u16(self.changes.len() as u16);
        for change in &self.changes {
            out.put_u8(match change {
                ConfChangeKind::AddVoter(_) => 1,
                ConfChangeKind::AddLearner(_) => 2,
                ConfChangeKind::Remove(_) => 3,
                ConfChangeKind::AddWitness(_) => 4,
                ConfChangeKind::Reset => 5,
            });
            out.put_u64(change.peer().0);
        }
        out.extend_from_slice(&self.context);
        out.freeze()
    }

    /// The inverse of [`ConfChange::encode`]; the context shares `data`'s memory.
    pub fn decode(data: &Bytes) -> Result<ConfChange, ConfDecodeError> {
        let [version, count_high, count_low] = *data.first_chunk().ok_or(ConfDecodeError::Truncated)?;
        if version != CONF_CHANGE_VERSION {
            return Err(ConfDecodeError::Version(version));
        }
        let count = usize::from(u16::from_be_bytes([count_high, count_low]));
        if count > MAX_PEERS {
            return Err(ConfDecodeError::TooMany(count));
        }
        let end = 3 + 9 * count;
        let body = data.get(3..end).ok_or(ConfDecodeError::Truncated)?;
        let changes = body
            .chunks_exact(9)
            .map(|chunk| {
                let peer = PeerId(u64::from_be_bytes(
                    chunk[1..9].try_into().expect("a chunk has nine bytes"),
                ));
                match chunk[0] {
                    1 => Ok(ConfChangeKind::AddVoter(peer)),
                    2 => Ok(ConfChangeKind::AddLearner(peer)),
                    3 => Ok(ConfChangeKind::Remove(peer)),
                    4 => Ok(ConfChangeKind::AddWitness(peer)),
                    5 if peer.is_none() => Ok(ConfChangeKind::Reset),
                    other => Err(ConfDecodeError::Kind(other)),
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(ConfChange {
            changes,
            context: data.slice(end..),
        })
    }

    /// The change that puts `conf` in force whatever was there before. `conf` must not be joint.
    pub(crate) fn reset_to(conf: &ConfState, context: Bytes) -> ConfChange {
        assert!(
            !conf.is_joint(),
            "a joint configuration is entered by a change of its own"
        );
        let of_voter = |&peer: &PeerId| match conf.is_witness(peer) {
            true => ConfChangeKind::AddWitness(peer),
            false => ConfChangeKind::AddVoter(peer),
        };
        let voters = conf.voters.iter().map(of_voter);
        let learners = conf.learners.iter().map(|&peer| ConfChangeKind::AddLearner(peer));
        let changes = [ConfChangeKind::Reset]
            .into_iter()
            .chain(voters)
            .chain(learners)
            .collect();
        ConfChange { changes, context }
    }

    pub(crate) fn is_reset(&self) -> bool {
        self.changes.first() == Some(&ConfChangeKind::Reset)
    }

    /// True for the change that ends a joint configuration.
    pub fn is_leave(&self) -> bool {
        self.changes.is_empty()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum VoteResult {
    Pending,
    Lost,
    Won,
}

impl ConfState {
    /// A configuration of voters alone.
    pub fn of_voters(voters: impl IntoIterator<Item = PeerId>) -> ConfState {
        let mut conf = ConfState {
            voters: voters.into_iter().collect(),
            ..ConfState::default()
        };
        conf.voters.sort_unstable();
        conf.voters.dedup();
        conf
    }

    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// A voter of either half of the configuration.
    pub fn is_voter(&self, peer: PeerId) -> bool {
        contains(&self.voters, peer) || contains(&self.outgoing, peer)
    }

    /// A voter, of either half, that has no machine.
    pub fn is_witness(&self, peer: PeerId) -> bool {
        contains(&self.witnesses, peer)
    }

    pub fn contains(&self, peer: PeerId) -> bool {
        self.is_voter(peer) || contains(&self.learners, peer)
    }

    /// Every peer once, sorted.
    pub fn peers(&self) -> Vec<PeerId> {
        let mut all = [&self.voters[..], &self.outgoing, &self.learners].concat();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether the lists keep their promises. A snapshot from a peer is checked with this.
    pub fn is_valid(&self) -> bool {
        let sorted = |list: &[PeerId]| list.windows(2).all(|pair| pair[0] < pair[1]);
        let lists = [
            &self.voters,
            &self.outgoing,
            &self.learners,
            &self.learners_next,
            &self.witnesses,
        ];
        !self.voters.is_empty()
            && self.peers().len() <= MAX_PEERS
            && lists.iter().all(|list| sorted(list) && !contains(list, PeerId::NONE))
            && self.learners.iter().all(|&learner| !self.is_voter(learner))
            && self.witnesses.iter().all(|&witness| self.is_voter(witness))
            && self.check_witnesses().is_ok()
            && self
                .learners_next
                .iter()
                .all(|&next| contains(&self.outgoing, next) && !contains(&self.voters, next))
    }

    /// The configuration after `change` is applied.
    pub fn changed(&self, change: &ConfChange) -> Result<ConfState, ConfChangeError> {
        let next = if change.is_leave() {
            self.leave_joint()?
        } else if change.is_reset() {
            ConfState::reset(&change.changes[1..])?
        } else {
            self.enter_joint(&change.changes)?
        };
        assert!(
            next.is_valid(),
            "a change keeps the configuration valid: {self:?} + {change:?} = {next:?}"
        );
        Ok(next)
    }

    fn enter_joint(&self, changes: &[ConfChangeKind]) -> Result<ConfState, ConfChangeError> {
        if self.is_joint() {
            return Err(ConfChangeError::AlreadyJoint);
        }
        let mut next = ConfState {
            outgoing: self.voters.clone(),
            auto_leave: true,
            ..self.clone()
        };
        for &change in changes {
            let peer = change.peer();
            if change == ConfChangeKind::Reset {
                return Err(ConfChangeError::BadReset);
            }
            if peer.is_none() {
                return Err(ConfChangeError::Nobody);
            }
            let becomes_witness = matches!(change, ConfChangeKind::AddWitness(_));
            let is_removed = matches!(change, ConfChangeKind::Remove(_));
            if !is_removed && next.contains(peer) && next.is_witness(peer) != becomes_witness {
                return Err(ConfChangeError::KeepsItsKind { peer });
            }
            remove(&mut next.voters, peer);
            remove(&mut next.learners, peer);
            remove(&mut next.learners_next, peer);
            match change {
                ConfChangeKind::AddVoter(_) => insert(&mut next.voters, peer),
                // A voter of the outgoing half still votes until the leave; only then it may be a learner.
                ConfChangeKind::AddLearner(_) if contains(&next.outgoing, peer) => {
                    insert(&mut next.learners_next, peer);
                }
                ConfChangeKind::AddLearner(_) => insert(&mut next.learners, peer),
                ConfChangeKind::AddWitness(_) => {
                    insert(&mut next.voters, peer);
                    insert(&mut next.witnesses, peer);
                }
                ConfChangeKind::Remove(_) | ConfChangeKind::Reset => {}
            }
        }
        next.forget_witnesses();
        if next.voters.is_empty() {
            return Err(ConfChangeError::NoVoters);
        }
        if next.peers().len() > MAX_PEERS {
            return Err(ConfChangeError::TooMany);
        }
        next.check_witnesses()?;
        Ok(next)
    }

    fn reset(peers: &[ConfChangeKind]) -> Result<ConfState, ConfChangeError> {
        let mut next = ConfState::default();
        for &change in peers {
            let peer = change.peer();
            if matches!(change, ConfChangeKind::Reset | ConfChangeKind::Remove(_)) || next.contains(peer) {
                return Err(ConfChangeError::BadReset);
            }
            if peer.is_none() {
                return Err(ConfChangeError::Nobody);
            }
            match change {
                ConfChangeKind::AddLearner(_) => insert(&mut next.learners, peer),
                ConfChangeKind::AddWitness(_) => {
                    insert(&mut next.voters, peer);
                    insert(&mut next.witnesses, peer);
                }
                _ => insert(&mut next.voters, peer),
            }
        }
        if next.voters.is_empty() {
            return Err(ConfChangeError::NoVoters);
        }
        next.check_witnesses()?;
        Ok(next)
    }

    /// A quorum without a machine would acknowledge what nobody can apply: each majority has a full voter in it.
    fn check_witnesses(&self) -> Result<(), ConfChangeError> {
        for half in [&self.voters, &self.outgoing] {
            let (voters, witnesses) = (half.len(), half.iter().filter(|&&peer| self.is_witness(peer)).count());
            if witnesses > 0 && witnesses > (voters - 1) / 2 {
                return Err(ConfChangeError::TooManyWitnesses { witnesses, voters });
            }
        }
        Ok(())
    }

    fn forget_witnesses(&mut self) {
        let (voters, outgoing) = (&self.voters, &self.outgoing);
        self.witnesses
            .retain(|&peer| contains(voters, peer) || contains(outgoing, peer));
    }

    fn leave_joint(&self) -> Result<ConfState, ConfChangeError> {
        if !self.is_joint() {
            return Err(ConfChangeError::NotJoint);
        }
        let mut next = self.clone();
        next.outgoing.clear();
        next.auto_leave = false;
        for peer in std::mem::take(&mut next.learners_next) {
            insert(&mut next.learners, peer);
        }
        next.forget_witnesses();
        Ok(next)
    }

    /// The highest value that a quorum (of both halves, when joint) has reached.
    pub(crate) fn quorum_value(&self, value_of: impl Fn(PeerId) -> Index) -> Index {
        let new = majority_value(&self.voters, &value_of);
        if self.is_joint() {
            new.min(majority_value(&self.outgoing, &value_of))
        } else {
            new
        }
    }

    pub(crate) fn vote_result(&self, vote_of: impl Fn(PeerId) -> Option<bool>) -> VoteResult {
        let new = majority_vote(&self.voters, &vote_of);
        let old = if self.is_joint() {
            majority_vote(&self.outgoing, &vote_of)
        } else {
            VoteResult::Won
        };
        match (new, old) {
            (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
            (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
            _ => VoteResult::Pending,
        }
    }

    /// As [`ConfState::vote_result`], where each voter (of both halves) is needed.
    pub(crate) fn unanimous_result(&self, vote_of: impl Fn(PeerId) -> Option<bool>) -> VoteResult {
        let voters = || self.voters.iter().chain(&self.outgoing);
        if voters().any(|&peer| vote_of(peer) == Some(false)) {
            VoteResult::Lost
        } else if voters().all(|&peer| vote_of(peer) == Some(true)) {
            VoteResult::Won
        } else {
            VoteResult::Pending
        }
    }
}

fn majority_value(voters: &[PeerId], value_of: impl Fn(PeerId) -> Index) -> Index {
    // A configuration of up to seven voters is the rule; it is counted without an allocation.
    let mut few = [0; 7];
    let mut many;
    let values: &mut [Index] = if voters.len() <= few.len() {
        &mut few[..voters.len()]
    } else {
        many = vec![0; voters.len()];
        &mut many
    };
    for (value, &peer) in values.iter_mut().zip(voters) {
        *value = value_of(peer);
    }
    values.sort_unstable();
    values[(voters.len() - 1) / 2]
}

fn majority_vote(voters: &[PeerId], vote_of: impl Fn(PeerId) -> Option<bool>) -> VoteResult {
    let quorum = voters.len() / 2 + 1;
    let granted = voters.iter().filter(|&&peer| vote_of(peer) == Some(true)).count();
    let open = voters.iter().filter(|&&peer| vote_of(peer).is_none()).count();
    if granted >= quorum {
        VoteResult::Won
    } else if granted + open >= quorum {
        VoteResult::Pending
    } else {
        VoteResult::Lost
    }
}

fn contains(list: &[PeerId], peer: PeerId) -> bool {
    list.binary_search(&peer).is_ok()
}

fn insert(list: &mut Vec<PeerId>, peer: PeerId) {
    if let Err(at) = list.binary_search(&peer) {
        list.insert(at, peer);
    }
}

fn remove(list: &mut Vec<PeerId>, peer: PeerId) {
    if let Ok(at) = list.binary_search(&peer) {
        list.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(ids: &[u64]) -> Vec<PeerId> {
        ids.iter().copied().map(PeerId).collect()
    }

    fn of(ids: &[u64]) -> ConfState {
        ConfState::of_voters(peers(ids))
    }

    #[test]
    fn a_joint_quorum_needs_both_halves() {
        let change = ConfChange {
            changes: vec![
                ConfChangeKind::AddVoter(PeerId(4)),
                ConfChangeKind::AddVoter(PeerId(5)),
                ConfChangeKind::Remove(PeerId(2)),
                ConfChangeKind::AddLearner(PeerId(3)),
            ],
            context: Bytes::new(),
        };
        let joint = of(&[1, 2, 3]).changed(&change).unwrap();
        assert_eq!(
            (&joint.voters, &joint.outgoing),
            (&peers(&[1, 4, 5]), &peers(&[1, 2, 3]))
        );
        assert_eq!((&joint.learners, &joint.learners_next), (&peers(&[]), &peers(&[3])));
        let only_new = |peer: PeerId| Some([1, 4, 5].contains(&peer.0)).filter(|&yes| yes);
        assert_eq!(joint.vote_result(only_new), VoteResult::Pending);
        assert_eq!(
            joint.quorum_value(|peer| if [1, 4, 5].contains(&peer.0) { 9 } else { 3 }),
            3
        );
        let both = |peer: PeerId| Some(peer.0 != 2 && peer.0 != 5);
        assert_eq!(joint.vote_result(both), VoteResult::Won);
        let after = joint.changed(&ConfChange::default()).unwrap();
        assert_eq!(
            (after.voters, after.learners, after.outgoing),
            (peers(&[1, 4, 5]), peers(&[3]), vec![])
        );
    }

    #[test]
    fn changes_that_would_break_the_group_are_refused() {
        let remove = |id| ConfChange {
            changes: vec![ConfChangeKind::Remove(PeerId(id))],
            context: Bytes::new(),
        };
        assert_eq!(of(&[1]).changed(&remove(1)), Err(ConfChangeError::NoVoters));
        assert_eq!(of(&[1]).changed(&remove(0)), Err(ConfChangeError::Nobody));
        assert_eq!(of(&[1]).changed(&ConfChange::default()), Err(ConfChangeError::NotJoint));
        let joint = of(&[1, 2]).changed(&remove(2)).unwrap();
        assert_eq!(joint.changed(&remove(1)), Err(ConfChangeError::AlreadyJoint));
    }

    #[test]
    fn an_encoded_change_decodes_to_itself_and_every_cut_is_an_error() {
        let change = ConfChange {
            changes: vec![
                ConfChangeKind::AddVoter(PeerId(u64::MAX)),
                ConfChangeKind::Remove(PeerId(2)),
            ],
            context: Bytes::from_static(b"addresses"),
        };
        let bytes = change.encode();
        assert_eq!(ConfChange::decode(&bytes), Ok(change));
        for cut in 0..21 {
            assert_eq!(
                ConfChange::decode(&bytes.slice(..cut)),
                Err(ConfDecodeError::Truncated),
                "cut at {cut}"
            );
        }
        assert_eq!(
            ConfChange::decode(&Bytes::from_static(b"\x02\0\0")),
            Err(ConfDecodeError::Version(2))
        );
        assert_eq!(
            ConfChange::decode(&Bytes::from_static(b"\x01\xff\xff")),
            Err(ConfDecodeError::TooMany(65_535))
        );
    }

    #[test]
    fn the_majority_value_is_the_one_that_half_plus_one_reached() {
        for n in 1..=9u64 {
            let conf = ConfState::of_voters((1..=n).map(PeerId));
            let reached = conf.quorum_value(|peer| peer.0);
            let count = (1..=n).filter(|&value| value >= reached).count() as u64;
            assert_eq!(count, n / 2 + 1, "{n} voters");
        }
    }
}
