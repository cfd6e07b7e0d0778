//! A tree at hand, to be told entry by entry as often as one likes.
//!
//! As entries it would take some 300 bytes each. Invariant: what is in it was read from a tree whose hash was right, and
//! takes about a quarter of that tree's text.

use std::io::{self, BufRead, BufReader, Write};

use zstd::stream::{read::Decoder, write::Encoder};

use crate::tree::Entry;

/// The lines of a tree, compressed.
pub(crate) struct Listing(Vec<u8>);

/// A listing that is being written.
pub(crate) struct Lister(Encoder<'static, Vec<u8>>);

impl Lister {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Encoder::new(Vec::new(), 1)?))
    }

    pub(crate) fn push(&mut self, entry: &Entry) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, entry)?;
        self.0.write_all(b"\n")
    }

    pub(crate) fn finish(self) -> io::Result<Listing> {
        Ok(Listing(self.0.finish()?))
    }
}

impl Listing {
    /// All entries, in the tree's order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> + Send + '_ {
        // Only memory that is not what it was could be read otherwise than it was written.
        let lines = Decoder::new(self.0.as_slice()).expect("a frame of ours");
        let entry = |line: io::Result<String>| serde_json::from_str(&line.expect("a frame of ours")).expect("an entry");
        BufReader::new(lines).lines().map(entry)
    }

    /// The entries that are wanted.
    pub(crate) fn filtered(&self, wanted: impl Fn(&Entry) -> bool) -> io::Result<Listing> {
        let mut lister = Lister::new()?;
        self.entries().filter(wanted).try_for_each(|entry| lister.push(&entry))?;
        lister.finish()
    }
}

#[cfg(test)]
impl Listing {
    pub(crate) fn of(entries: &[Entry]) -> Self {
        let mut lister = Lister::new().unwrap();
        entries.iter().for_each(|entry| lister.push(entry).unwrap());
        lister.finish().unwrap()
    }
}
