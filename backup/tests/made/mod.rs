//! Sources and bytes that tests make up. Each test uses a part of it.

#![allow(dead_code, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use backup::source::{Content, Offer, Sink, Source, WalkError};
use backup::{Digest, Entry};
use chrono::{DateTime, TimeDelta, Utc};

/// So many minutes after a fixed moment.
pub(crate) fn time(minutes: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000, 0).unwrap() + TimeDelta::minutes(minutes)
}

/// Bytes that do not compress.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(len).collect()
}

/// Contents by path, as a source.
#[derive(Clone)]
pub(crate) struct Made(pub(crate) BTreeMap<String, Vec<u8>>);

impl Source for Made {
    fn name(&self) -> &str {
        "made"
    }

    fn walk(&self, sink: &mut dyn Sink) -> Result<(), WalkError> {
        for (path, bytes) in &self.0 {
            let entry = Entry::file(Path::new(path), bytes.len() as u64);
            sink.entry(Offer::new(entry, Content::Stream(&mut io::Cursor::new(bytes))))?;
        }
        Ok(())
    }
}

/// What its files hash to.
pub(crate) fn digests(made: &Made) -> BTreeMap<String, Digest> {
    made.0.iter().map(|(path, bytes)| (path.clone(), Digest::of(bytes))).collect()
}

/// A few thousand cases that are the same every time, by splitmix64 (Steele, Lea, Flood, 2014).
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % end
    }
}
