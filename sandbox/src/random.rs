//! Numbers that look random and are the same on every machine, for text and tensors.
//!
//! Invariant: the sequence depends on the seed's bytes alone. Digests of models rest on it: changing it changes them
//! all.

use sha2::{Digest, Sha256};

/// SplitMix64 (Steele, Lea, Flood 2014), seeded from a SHA-256.
pub(crate) struct Random(u64);

impl Random {
    /// A sequence of its own for each list of parts.
    pub(crate) fn seeded(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            // With its length before it, a part cannot run into the next.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let mut seed = [0; 8];
        seed.copy_from_slice(&hash.finalize()[..8]);
        Self(u64::from_le_bytes(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be zero. Slightly uneven, which nobody here can notice.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
