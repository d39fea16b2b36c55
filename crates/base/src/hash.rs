use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, Hasher},
};

/// A hash map whose iteration order depends only on what was inserted and removed, never on the process.
///
/// Even so, no core may let that order reach its output where replicas must agree: use a `BTreeMap` there.
pub type FixedMap<K, V> = HashMap<K, V, FixedState>;

/// The set that goes with [`FixedMap`].
pub type FixedSet<K> = HashSet<K, FixedState>;

/// Builds [`FixedHasher`]s.
#[derive(Clone, Copy, Default, Debug)]
pub struct FixedState;

impl BuildHasher for FixedState {
    type Hasher = FixedHasher;

    fn build_hasher(&self) -> FixedHasher {
        FixedHasher(SEED)
    }
}

const SEED: u64 = 0x2436_a885_08d3_1319;
const MULTIPLE: u64 = 0x9e37_79b9_7f4a_7c15;

/// A folded-multiply hash with a fixed key: fast on short keys, deterministic, not collision-resistant against an
/// attacker. Tables keyed by client-chosen bytes are bounded in size by their owners' limits.
#[derive(Clone, Copy, Debug)]
pub struct FixedHasher(u64);

impl FixedHasher {
    fn fold(&mut self, word: u64) {
        let product = ((self.0 ^ word) as u128).wrapping_mul(MULTIPLE as u128 | (1 << 64));
        self.0 = (product as u64) ^ ((product >> 64) as u64);
        self.0 = self.0.rotate_left(26).wrapping_mul(MULTIPLE);
    }
}

impl Hasher for FixedHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.fold(u64::from_le_bytes(
                chunk.try_into().expect("chunks_exact gives 8 bytes"),
            ));
        }
        let rest = chunks.remainder();
        let mut last = [0u8; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.fold(u64::from_le_bytes(last) ^ ((bytes.len() as u64) << 56));
    }

    fn write_u8(&mut self, n: u8) {
        self.fold(n as u64);
    }

    fn write_u32(&mut self, n: u32) {
        self.fold(n as u64);
    }

    fn write_u64(&mut self, n: u64) {
        self.fold(n);
    }

    fn write_usize(&mut self, n: usize) {
        self.fold(n as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

/// A stable 64-bit fingerprint of `bytes`, the same in every build and on every machine. Not cryptographic.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hasher = FixedState.build_hasher();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_fixed_for_ever_because_replicas_compare_them() {
        assert_eq!(fingerprint(b""), fingerprint(b""));
        assert_ne!(fingerprint(b"a"), fingerprint(b"a\0"));
        assert_ne!(fingerprint(b"12345678"), fingerprint(b"12345678\0"));
    }

    #[test]
    fn sequential_keys_spread_over_the_low_bits() {
        let mut buckets = [0u32; 64];
        for n in 0..6_400u64 {
            let mut hasher = FixedState.build_hasher();
            hasher.write_u64(n);
            buckets[(hasher.finish() % 64) as usize] += 1;
        }
        assert!(buckets.iter().all(|&n| (50..200).contains(&n)), "{buckets:?}");
    }
}
