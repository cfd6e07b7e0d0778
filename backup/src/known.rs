//! What a source held when it was last saved: of each file as much as tells whether anything was done to it since.
//!
//! A source of a million files is known in some 60 to 120 MB: a path and how the file looked there are known by half of
//! their SHA-256, and by nothing else.

use std::collections::HashMap;

use crate::digest::{Digest, Hasher};
use crate::tree::{Entry, Kind};

/// Something in half the room of a digest: that two meet by accident takes some 2^64 of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 16]);

impl Key {
    /// Of a path.
    pub(crate) fn of(path: &[u8]) -> Self {
        Self::half(Digest::of(path))
    }

    /// Of a file's path and how it looks: another when anything was done to it. `None`: it does not show.
    fn of_looks(entry: &Entry) -> Option<Self> {
        let (ctime, nanos, inode) = entry.seen.filter(|_| entry.kind == Kind::File)?;
        let mut hasher = Hasher::new();
        hasher.update(&entry.size.to_le_bytes());
        hasher.update(&entry.mtime.0.to_le_bytes());
        hasher.update(&entry.mtime.1.to_le_bytes());
        hasher.update(&ctime.to_le_bytes());
        hasher.update(&nanos.to_le_bytes());
        hasher.update(&inode.to_le_bytes());
        hasher.update(entry.path.as_bytes());
        Some(Self::half(hasher.finish()))
    }

    fn half(digest: Digest) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&digest.as_bytes()[..16]);
        Self(key)
    }
}

/// The files of a source: how each looked, and what it held.
#[derive(Default)]
pub(crate) struct Known(HashMap<Key, Digest>);

impl Known {
    pub(crate) fn insert(&mut self, entry: &Entry) {
        if let (Some(looks), Some(digest)) = (Key::of_looks(entry), entry.digest) {
            self.0.insert(looks, digest);
        }
    }

    /// What a file holds, if nothing was done to it since.
    pub(crate) fn digest(&self, now: &Entry) -> Option<Digest> {
        self.0.get(&Key::of_looks(now)?).copied()
    }
}
