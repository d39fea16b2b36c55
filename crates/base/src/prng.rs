/// A seeded pseudo-random generator (xoshiro256++ by Blackman and Vigna, seeded through splitmix64).
///
/// The only source of randomness below the runtime. Not for secrets.
#[derive(Clone, Debug)]
pub struct Prng {
    state: [u64; 4],
}

impl Prng {
    pub fn new(seed: u64) -> Prng {
        let mut mix = seed;
        Prng {
            state: std::array::from_fn(|_| splitmix64(&mut mix)),
        }
    }

    /// A generator whose stream depends on all of `parts`: e.g. (seed, group, node, term, counter) for a timeout.
    pub fn from_parts(parts: &[u64]) -> Prng {
        let mut seed = 0x005e_771e;
        for part in parts {
            let mut mix = seed ^ part;
            seed = splitmix64(&mut mix);
        }
        Prng::new(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        let [s0, s1, s2, s3] = &mut self.state;
        let result = s0.wrapping_add(*s3).rotate_left(23).wrapping_add(*s0);
        let t = *s1 << 17;
        *s2 ^= *s0;
        *s3 ^= *s1;
        *s1 ^= *s2;
        *s0 ^= *s3;
        *s2 ^= t;
        *s3 = s3.rotate_left(45);
        result
    }

    /// A value in `0..bound` (Lemire's multiply-shift; the bias is below 2^-32 for bounds under 2^32).
    ///
    /// # Panics
    /// When `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "an empty range has no member");
        ((self.next_u64() as u128 * bound as u128) >> 64) as u64
    }

    /// A value in `low..high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low)
    }

    /// True in `percent` of 100 draws.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// True in `n` of a million draws.
    pub fn per_million(&mut self, n: u64) -> bool {
        self.below(1_000_000) < n
    }
}

fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_stream_and_another_seed_another() {
        let draw = |seed| {
            let mut prng = Prng::new(seed);
            (0..8).map(|_| prng.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn every_part_of_a_composed_seed_matters() {
        let first = |parts: &[u64]| Prng::from_parts(parts).next_u64();
        assert_ne!(first(&[1, 2, 3]), first(&[1, 2, 4]));
        assert_ne!(first(&[1, 2, 3]), first(&[2, 1, 3]));
    }

    #[test]
    fn below_reaches_every_value_and_none_above() {
        let mut prng = Prng::new(7);
        let mut seen = [0u32; 5];
        for _ in 0..1_000 {
            seen[prng.below(5) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| n > 100), "{seen:?}");
    }
}
