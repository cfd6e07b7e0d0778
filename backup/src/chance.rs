//! Made-up input for parsers, the same in every run.

/// splitmix64 (Steele, Lea, Flood, 2014).
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) % end.max(1) as u64) as usize
    }

    /// What was right, with a few things done to it that editors, drives and enemies do.
    pub(crate) fn spoil(&mut self, right: &[u8]) -> Vec<u8> {
        // What parsers trip over.
        const BITS: [&[u8]; 12] =
            [b"\n", b" ", b"/", b"..", b"%", b"%2F", b"\0", b"-1", b"18446744073709551615", b"null", b"{", b"\xff"];
        let mut bytes = right.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(12)).min(bytes.len());
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 => bytes.truncate(at),
                2 => drop(bytes.drain(at..end)),
                3 => drop(bytes.splice(at..at, BITS[self.below(BITS.len())].iter().copied())),
                4 => drop(bytes.splice(at..end, BITS[self.below(BITS.len())].iter().copied())),
                _ => {
                    let copy = bytes[at..end].to_vec();
                    let to = self.below(bytes.len() + 1);
                    bytes.splice(to..to, copy);
                }
            }
        }
        bytes
    }
}
