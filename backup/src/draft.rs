//! A tree on its way: lines in their order, some of which are decided only once every file was read.
//!
//! Invariant: what is kept of an entry that is decided are some tens of bytes, however many there are.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, BufRead, BufReader, Read, Write};

use zstd::stream::{read::Decoder, write::Encoder};

use crate::known::Key;
use crate::save::Outcome;
use crate::tree::{Entry, Kind};

/// Entries of one source.
pub(crate) struct Draft {
    /// Lines of a tree, compressed; an empty one stands for an entry that is open.
    lines: Encoder<'static, Vec<u8>>,
    len: usize,
    /// By line.
    open: BTreeMap<usize, Open>,
    /// Paths that are in the tree.
    had: HashSet<Key>,
    files: u64,
    bytes: u64,
}

/// An entry that depends on others, or whose content is being read.
struct Open {
    entry: Entry,
    requires: Vec<String>,
}

/// A tree that is decided.
pub(crate) struct Decided {
    /// How many files.
    pub(crate) files: u64,
    /// Their length.
    pub(crate) bytes: u64,
    /// Its text.
    pub(crate) text: Text,
}

impl Draft {
    pub(crate) fn new() -> io::Result<Self> {
        let lines = Encoder::new(Vec::new(), 1)?;
        let (open, had) = (BTreeMap::new(), HashSet::new());
        Ok(Self { lines, len: 0, open, had, files: 0, bytes: 0 })
    }

    /// Adds an entry. A file without a digest is one whose outcome is still to come, by the line that is answered.
    pub(crate) fn push(&mut self, entry: Entry, requires: Vec<String>) -> io::Result<usize> {
        let is_read = entry.kind != Kind::File || entry.digest.is_some();
        if is_read && requires.is_empty() && entry.kind != Kind::Hardlink {
            self.count(&entry);
            serde_json::to_writer(&mut self.lines, &entry)?;
        } else {
            self.open.insert(self.len, Open { entry, requires });
        }
        self.lines.write_all(b"\n")?;
        self.len += 1;
        Ok(self.len - 1)
    }

    fn count(&mut self, entry: &Entry) {
        self.had.insert(Key::of(entry.path.as_bytes()));
        if entry.kind == Kind::File {
            self.files += 1;
            self.bytes += entry.size;
        }
    }

    /// Leaves out files that were not had, and what requires them or links to them; says so in `problems`.
    pub(crate) fn decide(
        mut self,
        outcomes: Vec<Outcome>,
        problems: &mut Vec<(String, String)>,
    ) -> io::Result<Decided> {
        for (at, outcome) in outcomes {
            let Some(open) = self.open.get_mut(&at) else { continue };
            match outcome {
                Ok(put) => {
                    open.entry.digest = Some(put.digest);
                    open.entry.size = put.size;
                }
                Err(reason) => problems.push((open.entry.path.clone(), reason)),
            }
        }
        let mut lines = BTreeMap::new();
        let mut open = std::mem::take(&mut self.open);
        // A file is had once it was read; another name of it, or what requires it, only then.
        open.retain(|_, it| it.entry.kind != Kind::File || it.entry.digest.is_some());
        let is_plain = |it: &Open| it.entry.kind == Kind::File && it.requires.is_empty();
        let (plain, rest): (BTreeMap<_, _>, BTreeMap<_, _>) = open.into_iter().partition(|(_, it)| is_plain(it));
        for (at, Open { entry, requires }) in plain.into_iter().chain(rest) {
            let links = entry.target.as_ref().filter(|_| entry.kind == Kind::Hardlink);
            let lacks = |path: &&String| !self.had.contains(&Key::of(path.as_bytes()));
            if let Some(lacking) = requires.iter().find(lacks) {
                problems.push((entry.path, format!("is left out: it requires `{lacking}`")));
            } else if links.iter().any(lacks) || (links.is_none() && entry.kind == Kind::Hardlink) {
                problems.push((entry.path, "is left out with the file that it is another name of".to_owned()));
            } else {
                self.count(&entry);
                let mut line = serde_json::to_vec(&entry)?;
                line.push(b'\n');
                lines.insert(at, line);
            }
        }
        let lines_of = BufReader::new(Decoder::new(io::Cursor::new(self.lines.finish()?))?);
        let text = Text { lines: lines_of, decided: lines, at: 0, line: Vec::new(), told: 0 };
        Ok(Decided { files: self.files, bytes: self.bytes, text })
    }
}

/// The text of a tree, read line by line.
pub(crate) struct Text {
    lines: BufReader<Decoder<'static, BufReader<io::Cursor<Vec<u8>>>>>,
    /// What stands where a line is empty; nothing where the entry was left out.
    decided: BTreeMap<usize, Vec<u8>>,
    at: usize,
    line: Vec<u8>,
    told: usize,
}

impl Read for Text {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.told == self.line.len() {
            self.line.clear();
            self.told = 0;
            if self.lines.read_until(b'\n', &mut self.line)? == 0 {
                return Ok(0);
            }
            if self.line == b"\n" {
                self.line = self.decided.remove(&self.at).unwrap_or_default();
            }
            self.at += 1;
        }
        let rest = &self.line[self.told..];
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        self.told += len;
        Ok(len)
    }
}
