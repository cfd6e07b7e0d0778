//! SHA-256 with its state in the open: the state at each segment's end lets segments be checked apart, in any order,
//! without a second hash (`FORMAT.md`, "States").
//!
//! Invariant: a chain of segments that holds from the initial state to the digest is the same computation as one hash
//! of the whole.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Plain bytes of a segment. A multiple of SHA-256's block.
pub const SEGMENT: u64 = 64 << 20;

const BLOCK: usize = 64;

/// FIPS 180-4, 5.3.3.
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// SHA-256 of plain bytes; what an object is known by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of bytes at hand.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// A number that spreads evenly: what decides in which part of a partial verify something falls.
    pub(crate) fn spread(&self) -> u64 {
        self.0.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Text that is not 64 lowercase hex digits.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a SHA-256 digest")]
pub struct NotADigest(String);

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let wrong = || NotADigest(text.chars().take(80).collect());
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = NotADigest;

    fn try_from(text: String) -> Result<Self, NotADigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// What SHA-256 carries from one whole block to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State([u32; 8]);

impl State {
    /// Before the first byte.
    pub(crate) const START: State = State(INITIAL);

    /// Reads what [`fmt::Display`] writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let Digest(bytes) = text.parse().ok()?;
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        Some(Self(words))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|word| write!(f, "{word:08x}"))
    }
}

/// SHA-256 that can begin at any block and tell where it stands.
#[derive(Clone)]
pub(crate) struct Hasher {
    state: State,
    tail: [u8; BLOCK],
    tail_len: usize,
    hashed: u64,
}

impl Hasher {
    pub(crate) fn new() -> Self {
        Self::at(State::START, 0)
    }

    /// Goes on from a state that another hasher had after `hashed` bytes.
    pub(crate) fn at(state: State, hashed: u64) -> Self {
        Self { state, tail: [0; BLOCK], tail_len: 0, hashed }
    }

    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        self.hashed += bytes.len() as u64;
        if self.tail_len > 0 {
            let taken = bytes.len().min(BLOCK - self.tail_len);
            self.tail[self.tail_len..self.tail_len + taken].copy_from_slice(&bytes[..taken]);
            self.tail_len += taken;
            bytes = &bytes[taken..];
            if self.tail_len < BLOCK {
                return;
            }
            sha2::block_api::compress256(&mut self.state.0, &[self.tail]);
            self.tail_len = 0;
        }
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        sha2::block_api::compress256(&mut self.state.0, blocks);
        self.tail[..rest.len()].copy_from_slice(rest);
        self.tail_len = rest.len();
    }

    /// Bytes so far, those before the start included.
    pub(crate) fn hashed(&self) -> u64 {
        self.hashed
    }

    /// Where it stands; `None` in the middle of a block.
    pub(crate) fn state(&self) -> Option<State> {
        (self.tail_len == 0).then_some(self.state)
    }

    /// FIPS 180-4, 5.1.1: a one bit, zeros, the length in bits.
    pub(crate) fn finish(mut self) -> Digest {
        let bits = self.hashed.wrapping_mul(8);
        let zeros = (BLOCK * 2 - 9 - self.tail_len) % BLOCK;
        let mut padding = vec![0x80];
        padding.resize(1 + zeros, 0);
        padding.extend(bits.to_be_bytes());
        self.update(&padding);
        let mut bytes = [0; 32];
        for (bytes, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(self.state.0) {
            *bytes = word.to_be_bytes();
        }
        Digest(bytes)
    }
}

/// Hashes what is read through it.
pub struct HashingReader<R> {
    from: R,
    hasher: Hasher,
}

impl<R: Read> HashingReader<R> {
    /// Nothing is read yet.
    pub fn new(from: R) -> Self {
        Self { from, hasher: Hasher::new() }
    }

    /// The digest of what was read, and its length.
    pub fn finish(self) -> (Digest, u64) {
        let size = self.hasher.hashed();
        (self.hasher.finish(), size)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.from.read(into)?;
        self.hasher.update(&into[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use sha2::Digest as _;

    use super::*;

    #[test]
    fn agrees_with_the_crate_it_is_built_on_at_every_length_and_cut() {
        let bytes: Vec<u8> = (0..300u32).map(|it| (it * 7) as u8).collect();
        for len in 0..bytes.len() {
            for cut in [0, 1, 63, 64, 65, 128, 200].into_iter().filter(|cut| *cut <= len) {
                let mut hasher = Hasher::new();
                hasher.update(&bytes[..cut]);
                hasher.update(&bytes[cut..len]);
                let expected: [u8; 32] = sha2::Sha256::digest(&bytes[..len]).into();
                assert_eq!(hasher.finish(), Digest(expected), "{len} bytes cut at {cut}");
            }
        }
    }

    #[test]
    fn goes_on_from_a_state_that_was_written_down() {
        let bytes = vec![7; 1000];
        let mut first = Hasher::new();
        first.update(&bytes[..640]);
        let state = State::parse(&first.state().unwrap().to_string()).unwrap();
        let mut second = Hasher::at(state, 640);
        second.update(&bytes[640..]);
        assert_eq!(second.finish(), Digest::of(&bytes));
    }

    #[test]
    fn refuses_what_is_no_digest() {
        for text in ["", "00", &"A".repeat(64), &"g".repeat(64), &"é".repeat(32)] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
