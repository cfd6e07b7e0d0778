//! Many small objects in one file (`FORMAT.md`, "Packs").
//!
//! Invariant: an index is believed only after its hash was checked, and its lengths only within the file.

use std::fmt::Write as _;

use crate::digest::Digest;
use crate::disk::{Input, read_exactly};
use crate::failure::{Doing, StoreError};

/// Content below this is packed.
pub(crate) const PACKED_BELOW: u64 = 1 << 20;

/// A pack of this length is closed.
pub(crate) const FULL: usize = 8 << 20;

/// A line of an index, about: where objects are tiny their index is longer than they are.
const LINE: usize = 100;

const MAGIC: &[u8; 8] = b"LLMPACK1";
const FOOTER: usize = 8 + 32 + 8;
/// An index is a line of some 100 bytes an object, and an empty object is stored in one byte at least.
const INDEX_LIMIT: u64 = 1 << 30;

/// What small files gain is what they are packed for.
const LEVEL: i32 = 3;

/// Where an object stands in a pack; a pack is far from 4 GiB long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u32,
    pub(crate) stored: u32,
    pub(crate) plain: u32,
    pub(crate) is_zstd: bool,
}

/// A pack that is being filled.
#[derive(Default)]
pub(crate) struct Builder {
    bytes: Vec<u8>,
    index: Vec<(Digest, Place)>,
    /// To make one takes longer than to compress a small file.
    compressor: Option<zstd::bulk::Compressor<'static>>,
}

impl Builder {
    pub(crate) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() + self.index.len() * LINE >= FULL
    }

    pub(crate) fn put(&mut self, digest: Digest, plain: &[u8]) {
        if self.bytes.is_empty() {
            self.bytes.extend(MAGIC);
        }
        if self.compressor.is_none() {
            self.compressor = zstd::bulk::Compressor::new(LEVEL).ok();
        }
        let packed = self.compressor.as_mut().and_then(|it| it.compress(plain).ok());
        let packed = packed.filter(|packed| packed.len() < plain.len());
        let stored = packed.as_deref().unwrap_or(plain);
        let place = Place {
            offset: self.bytes.len() as u32,
            stored: stored.len() as u32,
            plain: plain.len() as u32,
            is_zstd: packed.is_some(),
        };
        self.bytes.extend(stored);
        self.index.push((digest, place));
    }

    /// The file's bytes, and what is where in it.
    pub(crate) fn finish(self) -> (Vec<u8>, Vec<(Digest, Place)>) {
        let mut index = String::with_capacity(self.index.len() * LINE);
        for (digest, Place { offset, stored, plain, is_zstd }) in &self.index {
            let coding = if *is_zstd { "zstd" } else { "raw" };
            // Writing to a string does not fail.
            let _ = writeln!(index, "{digest} {offset} {stored} {plain} {coding}");
        }
        let mut bytes = self.bytes;
        bytes.reserve_exact(index.len() + FOOTER);
        bytes.extend(index.as_bytes());
        bytes.extend((index.len() as u64).to_le_bytes());
        bytes.extend(Digest::of(index.as_bytes()).as_bytes());
        bytes.extend(MAGIC);
        (bytes, self.index)
    }
}

/// Reads what is where in a pack.
pub(crate) fn read_index(path: &str, file: &mut dyn Input) -> Result<Vec<(Digest, Place)>, StoreError> {
    let size = file.size_bytes();
    let wrong = |what: &str| StoreError::damaged(path, what);
    let footer_at = size.checked_sub(FOOTER as u64).ok_or_else(|| wrong("it is too short"))?;
    let footer = read_exactly(file, footer_at, FOOTER).doing("read", path)?;
    let (len, rest) = footer.split_first_chunk::<8>().ok_or_else(|| wrong("it is too short"))?;
    let len = u64::from_le_bytes(*len);
    if &rest[32..] != MAGIC || len > footer_at || len > INDEX_LIMIT {
        return Err(wrong("its end is not a pack's"));
    }
    let index = read_exactly(file, footer_at - len, len as usize).doing("read", path)?;
    if Digest::of(&index).as_bytes() != &rest[..32] {
        return Err(wrong("its index does not have its hash"));
    }
    let text = std::str::from_utf8(&index).map_err(|_| wrong("its index is no text"))?;
    text.lines().map(|line| parse(line, footer_at - len).ok_or_else(|| wrong("its index says nothing"))).collect()
}

fn parse(line: &str, end: u64) -> Option<(Digest, Place)> {
    let mut words = line.split(' ');
    let digest = words.next()?.parse().ok()?;
    let mut number = || words.next()?.parse::<u32>().ok();
    let (offset, stored, plain) = (number()?, number()?, number()?);
    let is_zstd = match words.next()? {
        "zstd" => true,
        "raw" => false,
        _ => return None,
    };
    let fits = u64::from(offset) + u64::from(stored) <= end
        && u64::from(plain) <= PACKED_BELOW
        && (is_zstd || plain == stored);
    fits.then_some((digest, Place { offset, stored, plain, is_zstd }))
}

/// Reads an object from a pack and checks it.
pub(crate) fn read(path: &str, file: &mut dyn Input, digest: Digest, place: Place) -> Result<Vec<u8>, StoreError> {
    let stored = read_exactly(file, place.offset.into(), place.stored as usize).doing("read", path)?;
    let wrong = || StoreError::damaged(path, format!("object {digest} does not have its hash"));
    let plain = if place.is_zstd {
        zstd::bulk::decompress(&stored, place.plain as usize).map_err(|_| wrong())?
    } else {
        stored
    };
    if Digest::of(&plain) == digest { Ok(plain) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::chance::Chance;
    use crate::disk::Disk;
    use crate::disk::simulated::SimulatedDisk;

    fn open(bytes: Vec<u8>) -> Box<dyn Input> {
        SimulatedDisk::with(&BTreeMap::from([("pack".to_owned(), bytes)])).open("pack").unwrap()
    }

    fn some() -> Builder {
        let mut pack = Builder::default();
        for text in ["", "noise: 0123456789abcdef", &"text ".repeat(1000)] {
            pack.put(Digest::of(text.as_bytes()), text.as_bytes());
        }
        pack
    }

    /// A pack whose index is what somebody wants it to be, and has its hash.
    fn with_index(mut bytes: Vec<u8>, index: &[u8]) -> Vec<u8> {
        bytes.extend(index);
        bytes.extend((index.len() as u64).to_le_bytes());
        bytes.extend(Digest::of(index).as_bytes());
        bytes.extend(MAGIC);
        bytes
    }

    #[test]
    fn an_index_that_somebody_made_up_leads_nowhere_outside_the_pack() {
        let (whole, entries) = some().finish();
        let data = some().bytes;
        let index = &whole[data.len()..whole.len() - FOOTER];
        let mut taken = 0;
        for case in 0..20_000 {
            let mut chance = Chance(case);
            let bytes = match case % 4 {
                0 => chance.spoil(&whole),
                _ => with_index(data.clone(), &chance.spoil(index)),
            };
            let len = bytes.len() as u64;
            let mut file = open(bytes);
            for (digest, place) in read_index("pack", &mut *file).unwrap_or_default() {
                assert!(u64::from(place.offset + place.stored) <= len, "case {case}: {place:?}");
                assert!(u64::from(place.plain) <= PACKED_BELOW, "case {case}: {place:?}");
                let is_right = entries.contains(&(digest, place));
                // What does not have its hash is an error, never something else.
                assert!(read("pack", &mut *file, digest, place).is_ok() || !is_right || case % 4 == 0, "case {case}");
                taken += 1;
            }
        }
        assert!(taken > 1000, "only {taken} lines were believed: is anything but the hash tested?");
    }
}
