use std::{collections::BTreeMap, fmt, sync::Arc};

/// Entries of a piece, at most: what the first change of one of them copies while a clone is alive.
const PIECE_LEN: usize = 64;

/// A sorted map in pieces that its clones share, for [`begin_snapshot`](crate::StateMachine::begin_snapshot): a clone
/// copies a pointer for each piece of up to 64 entries, and a piece is copied when it changes while a clone is alive.
///
/// A large value belongs into an [`Arc`] of its own; then [`Arc::make_mut`] copies it only when it changes itself.
///
/// ```
/// use settle_machine::SharedMap;
///
/// let mut balances = SharedMap::default();
/// balances.insert(7, 100);
/// let image = balances.clone();
/// *balances.get_mut(&7).expect("it was just inserted") = 0;
/// assert_eq!(image.into_entries().collect::<Vec<_>>(), [(7, 100)]);
/// assert_eq!(balances.get(&7), Some(&0));
/// ```
#[derive(Clone)]
pub struct SharedMap<K, V> {
    /// Each under a key that none of its own is before and all of earlier pieces are. No piece is empty.
    pieces: BTreeMap<K, Piece<K, V>>,
    len: usize,
}

type Piece<K, V> = Arc<Vec<(K, V)>>;

impl<K: Ord, V> SharedMap<K, V> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        let (_, piece) = self.pieces.range(..=key).next_back()?;
        let position = position(piece, key).ok()?;
        Some(&piece[position].1)
    }

    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    pub fn first(&self) -> Option<(&K, &V)> {
        self.iter().next()
    }

    pub fn last(&self) -> Option<(&K, &V)> {
        self.iter().next_back()
    }

    /// In the order of the keys, like all iterators here.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        let entries = self.pieces.values().flat_map(|piece| piece.iter());
        entries.map(|(key, value)| (key, value))
    }

    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

/// A change copies the piece that it is in, once for each clone that is alive.
impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// The entries behind `key`, found without going through those before.
    pub fn iter_after(&self, key: K) -> impl Iterator<Item = (&K, &V)> {
        let first = self.pieces.range(..=&key).next_back().map(|(bound, _)| bound.clone());
        let pieces = self.pieces.range(first.unwrap_or_else(|| key.clone())..);
        let entries = pieces
            .flat_map(|(_, piece)| piece.iter())
            .map(|(key, value)| (key, value));
        entries.skip_while(move |(other, _)| **other <= key)
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let (_, piece) = self.pieces.range_mut(..=key).next_back()?;
        let position = position(piece, key).ok()?;
        Some(&mut Arc::make_mut(piece)[position].1)
    }

    /// The value that `key` had before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let is_newest = self.pieces.last_key_value().is_none_or(|(_, piece)| {
            let last = piece.last().expect("no piece is empty");
            piece.len() >= PIECE_LEN && last.0 < key
        });
        if is_newest {
            self.pieces.insert(key.clone(), Arc::new(vec![(key, value)]));
            self.len += 1;
            return None;
        }
        if self.pieces.range(..=&key).next_back().is_none() {
            let (_, piece) = self.pieces.pop_first().expect("there is a piece");
            self.pieces.insert(key.clone(), piece);
        }
        let (_, piece) = self.pieces.range_mut(..=&key).next_back().expect("it was just made so");
        let entries = Arc::make_mut(piece);
        match position(entries, &key) {
            Ok(position) => return Some(std::mem::replace(&mut entries[position].1, value)),
            Err(position) => entries.insert(position, (key, value)),
        }
        self.len += 1;
        if entries.len() > PIECE_LEN {
            let upper = entries.split_off(PIECE_LEN / 2);
            self.pieces.insert(upper[0].0.clone(), Arc::new(upper));
        }
        None
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (bound, piece) = self.pieces.range_mut(..=key).next_back()?;
        let position = position(piece, key).ok()?;
        let bound = (piece.len() == 1).then(|| bound.clone());
        let entries = Arc::make_mut(piece);
        let (_, value) = entries.remove(position);
        // A few that stay long must not keep the room of all that were here.
        if entries.len() <= entries.capacity() / 4 {
            entries.shrink_to(entries.len() * 2);
        }
        if let Some(bound) = bound {
            self.pieces.remove(&bound);
        }
        self.len -= 1;
        Some(value)
    }

    pub fn pop_first(&mut self) -> Option<(K, V)> {
        let key = self.first()?.0.clone();
        let value = self.remove(&key).expect("it was just seen");
        Some((key, value))
    }

    /// All entries; those of a piece are copied as they are asked for, when a clone still shares it.
    pub fn into_entries(self) -> impl Iterator<Item = (K, V)> {
        let pieces = self.pieces.into_values();
        pieces.flat_map(Arc::unwrap_or_clone)
    }
}

/// Where `key` is in `piece`, or would be.
fn position<K: Ord, V>(piece: &[(K, V)], key: &K) -> Result<usize, usize> {
    // Most is done to the newest.
    match piece.last() {
        Some((last, _)) if last < key => Err(piece.len()),
        _ => piece.binary_search_by(|(other, _)| other.cmp(key)),
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> SharedMap<K, V> {
        SharedMap {
            pieces: BTreeMap::new(),
            len: 0,
        }
    }
}

impl<K: Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use settle_base::Prng;

    use super::*;

    fn check(map: &SharedMap<u64, u64>, model: &BTreeMap<u64, u64>) {
        assert!(map.iter().eq(model.iter()));
        assert!(map.iter().rev().eq(model.iter().rev()));
        for key in [0, 1, 500, 1_999, u64::MAX] {
            assert!(map.iter_after(key).eq(model.iter().filter(|(other, _)| **other > key)));
        }
        assert_eq!(
            (map.len(), map.first(), map.last()),
            (model.len(), model.first_key_value(), model.last_key_value())
        );
        let mut last = None;
        for (bound, piece) in &map.pieces {
            assert!((1..=PIECE_LEN).contains(&piece.len()), "a piece of {}", piece.len());
            assert!(last < Some(*bound) && *bound <= piece[0].0, "a bound out of order");
            assert!(
                piece.capacity() <= PIECE_LEN.max(4 * piece.len()),
                "room for {} is kept",
                piece.capacity()
            );
            last = piece.last().map(|(key, _)| *key);
        }
    }

    #[test]
    fn it_is_a_sorted_map_and_a_clone_stays_as_it_was() {
        for seed in 0..40 {
            let mut prng = Prng::from_parts(&[seed]);
            let keys = 1 + prng.below(2_000);
            let (mut map, mut model) = (SharedMap::default(), BTreeMap::new());
            let mut clones = Vec::new();
            let mut newest = 0;
            for step in 0..2_000 {
                let key = prng.below(keys);
                match prng.below(12) {
                    0..4 => {
                        newest += 1 + prng.below(3);
                        assert_eq!(map.insert(newest, step), model.insert(newest, step));
                    }
                    4 | 5 => assert_eq!(map.insert(key, step), model.insert(key, step)),
                    6 | 7 => assert_eq!(map.remove(&key), model.remove(&key)),
                    8 => assert_eq!(map.pop_first(), model.pop_first()),
                    9 | 10 => {
                        let (ours, theirs) = (map.get_mut(&key), model.get_mut(&key));
                        assert_eq!(ours, theirs);
                        if let (Some(ours), Some(theirs)) = (ours, theirs) {
                            (*ours, *theirs) = (step, step);
                        }
                        assert_eq!(map.get(&key), model.get(&key));
                    }
                    _ if prng.below(20) == 0 => clones.push((map.clone(), model.clone())),
                    _ => {}
                }
            }
            check(&map, &model);
            for (clone, model) in clones {
                check(&clone, &model);
                assert!(clone.into_entries().eq(model));
            }
        }
    }

    #[test]
    fn a_change_copies_one_piece_and_shares_the_others() {
        let mut map = SharedMap::default();
        for key in 0..1_000 {
            map.insert(key, 0);
        }
        let image = map.clone();
        *map.get_mut(&500).expect("it is there") = 1;
        let shared = map
            .pieces
            .iter()
            .filter(|(bound, piece)| Arc::ptr_eq(piece, &image.pieces[bound]));
        assert_eq!(
            (map.pieces.len(), shared.count()),
            (16, 15),
            "pieces are full when keys rise"
        );
    }
}
