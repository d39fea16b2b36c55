//! Something for each of a few peers: a sorted vector, because a group has three or five, and thousands of groups idle
//! in one process. Empty, it owns no memory.

use settle_base::PeerId;

#[derive(Clone, Debug)]
pub(crate) struct PeerMap<T> {
    /// Sorted by peer, each once.
    entries: Vec<(PeerId, T)>,
}

impl<T> PeerMap<T> {
    pub const fn new() -> PeerMap<T> {
        PeerMap { entries: Vec::new() }
    }

    fn find(&self, peer: PeerId) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&peer, |(peer, _)| *peer)
    }

    pub fn get(&self, peer: PeerId) -> Option<&T> {
        self.find(peer).ok().map(|at| &self.entries[at].1)
    }

    pub fn get_mut(&mut self, peer: PeerId) -> Option<&mut T> {
        self.find(peer).ok().map(|at| &mut self.entries[at].1)
    }

    pub fn contains(&self, peer: PeerId) -> bool {
        self.find(peer).is_ok()
    }

    pub fn insert(&mut self, peer: PeerId, value: T) {
        match self.find(peer) {
            Ok(at) => self.entries[at].1 = value,
            Err(at) => self.entries.insert(at, (peer, value)),
        }
    }

    /// Keeps what is there already. Returns whether `value` is in now.
    pub fn insert_new(&mut self, peer: PeerId, value: T) -> bool {
        let place = self.find(peer);
        if let Err(at) = place {
            // Grown by one at a time: a set of peers changes seldom.
            self.entries.reserve_exact(1);
            self.entries.insert(at, (peer, value));
        }
        place.is_err()
    }

    pub fn retain(&mut self, mut keep: impl FnMut(PeerId) -> bool) {
        self.entries.retain(|(peer, _)| keep(*peer));
    }

    pub fn iter(&self) -> impl Iterator<Item = (PeerId, &T)> {
        self.entries.iter().map(|(peer, value)| (*peer, value))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (PeerId, &mut T)> {
        self.entries.iter_mut().map(|(peer, value)| (*peer, value))
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|(_, value)| value)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|(_, value)| value)
    }
}

impl<T> Default for PeerMap<T> {
    fn default() -> PeerMap<T> {
        PeerMap::new()
    }
}

impl<T> FromIterator<(PeerId, T)> for PeerMap<T> {
    fn from_iter<I: IntoIterator<Item = (PeerId, T)>>(peers: I) -> PeerMap<T> {
        let mut map = PeerMap::new();
        for (peer, value) in peers {
            map.insert_new(peer, value);
        }
        map
    }
}
