use std::fmt;

/// A Raft term. Starts at 0 (no leader yet); the first elected leader has term 1.
pub type Term = u64;

/// A position in one group's log. The first entry has index 1; 0 is "before the log".
pub type Index = u64;

/// A server as its operator names it in the configuration. Stable over a lost disk, unlike [`PeerId`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u32);

/// One Raft group. Group 0 is placement; transaction groups use 1..=255 (the upper 8 bits of a transaction id).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId(pub u64);

/// One replica's identity in consensus: the random incarnation of the data directory that holds it.
///
/// A node that lost its disk comes back under its [`NodeId`] with another `PeerId`, so it can never be mistaken for
/// the voter that it was. 0 is "nobody".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

impl PeerId {
    pub const NONE: PeerId = PeerId(0);

    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{:x}", self.0)
    }
}
