//! What a source held: entries, a line of JSON each (`FORMAT.md`, "Trees").
//!
//! Invariant: what was parsed is complete for its kind; that its paths are safe to use is for restore to check.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A folder.
    Folder,
    /// A file with content of its own.
    File,
    /// A symbolic link.
    Symlink,
    /// Another name of a file earlier in the tree.
    Hardlink,
}

/// Something in a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative to the source, escaped ([`escape`]); unique in a tree.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner, given back only by a restore that runs as root.
    #[serde(default)]
    pub uid: u32,
    /// Group, likewise.
    #[serde(default)]
    pub gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    /// Of a file: its length.
    #[serde(default, skip_serializing_if = "is_default")]
    pub size: u64,
    /// Of a file: SHA-256 of its content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Of a file: it had holes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sparse: bool,
    /// Of a symlink: where it points. Of a hardlink: the other path. Escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Extended attributes, names and values escaped.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
    /// To be placed after all others.
    #[serde(default, skip_serializing_if = "is_default")]
    pub late: bool,
    /// Seconds and nanoseconds of its ctime, and its inode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<(i64, u32, u64)>,
}

/// A path and some attributes; no line is longer.
const LINE_LIMIT: usize = 64 << 20;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Entry {
    /// A plain file as a source makes one up, say of a stream.
    pub fn file(path: &Path, size: u64) -> Self {
        Self {
            path: escape(path.as_os_str().as_bytes()),
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            size,
            digest: None,
            sparse: false,
            target: None,
            xattrs: BTreeMap::new(),
            late: false,
            seen: None,
        }
    }

    /// The path as the system takes it; `None` if it was never escaped so.
    pub fn path(&self) -> Option<PathBuf> {
        unescape(&self.path).map(|bytes| OsString::from_vec(bytes).into())
    }
}

/// Bytes as one line of text: what is not UTF-8, control characters and `%` become `%XX`.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            if char == '%' || char.is_control() {
                char.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| text.push_str(&format!("%{byte:02X}")));
            } else {
                text.push(char);
            }
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("%{byte:02X}")));
    }
    text
}

/// Undoes [`escape`].
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first == b'%' {
            let (digits, after) = after.split_at_checked(2)?;
            if !digits.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
        }
    }
    Some(bytes)
}

/// Reads the lines of a tree as its bytes come; says in words what is wrong.
#[derive(Default)]
pub(crate) struct Lines {
    /// The beginning of a line.
    begun: Vec<u8>,
}

impl Lines {
    /// Takes bytes.
    pub(crate) fn take(&mut self, bytes: &[u8], each: &mut dyn FnMut(Entry)) -> Result<(), String> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.begun.len() + part.len() > LINE_LIMIT {
                return Err("a line of it is too long".to_owned());
            }
            self.begun.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.end(each)?;
            }
        }
        Ok(())
    }

    /// There are no more.
    pub(crate) fn end(&mut self, each: &mut dyn FnMut(Entry)) -> Result<(), String> {
        let line = std::mem::take(&mut self.begun);
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let entry: Entry = serde_json::from_slice(&line).map_err(|error| error.to_string())?;
        let complete = match entry.kind {
            Kind::Folder => true,
            Kind::File => entry.digest.is_some(),
            Kind::Symlink | Kind::Hardlink => entry.target.is_some(),
        };
        if !complete {
            return Err(format!("`{}` is incomplete", entry.path));
        }
        each(entry);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;
    use crate::listing::Listing;

    fn write(entries: &[Entry]) -> Vec<u8> {
        entries.iter().flat_map(|it| [serde_json::to_vec(it).unwrap(), b"\n".to_vec()]).flatten().collect()
    }

    /// In pieces, as they come from a disk.
    fn read(bytes: &[u8]) -> Result<Vec<Entry>, String> {
        let (mut lines, mut entries) = (Lines::default(), Vec::new());
        let mut each = |entry| entries.push(entry);
        bytes.chunks(7).try_for_each(|piece| lines.take(piece, &mut each))?;
        lines.end(&mut each)?;
        Ok(entries)
    }

    #[test]
    fn every_name_survives_as_text() {
        for name in [&b"plain/name.txt"[..], b"100%", b"new\nline", b"\xff\xfe", "größe/日本".as_bytes(), b"\xc3", b""]
        {
            let text = escape(name);
            assert!(!text.contains('\n'));
            assert_eq!(unescape(&text).unwrap(), name, "{text}");
        }
    }

    #[test]
    fn a_tree_that_somebody_made_up_is_refused_or_stays_below_its_target() {
        let mut entries = vec![Entry { kind: Kind::Folder, ..Entry::file(Path::new("a"), 0) }];
        entries.push(Entry { digest: Some(Digest::of(b"x")), ..Entry::file(Path::new("a/b %"), 1) });
        let target = Some("a/b %25".to_owned());
        entries.push(Entry { kind: Kind::Hardlink, target, ..Entry::file(Path::new("a/c"), 0) });
        entries.push(Entry { kind: Kind::Symlink, target: Some("/etc".to_owned()), ..Entry::file(Path::new("d"), 0) });
        let right = write(&entries);
        assert_eq!(read(&right).as_ref(), Ok(&entries));
        let mut let_through = 0;
        for case in 0..40_000 {
            let Ok(entries) = read(&Chance(case).spoil(&right)) else { continue };
            if crate::place::check(&Listing::of(&entries), case % 2 == 0).is_err() {
                continue;
            }
            let_through += 1;
            for entry in entries {
                let path = entry.path().unwrap();
                let is_plain = path.components().all(|it| matches!(it, std::path::Component::Normal(_)));
                assert!(is_plain && path.components().next().is_some(), "case {case}: {}", path.display());
                assert!(!path.starts_with("d") || path == Path::new("d"), "case {case}: below a link");
            }
        }
        assert!(let_through > 1000, "only {let_through} trees were let through");
    }

    #[test]
    fn refuses_text_that_was_never_escaped() {
        assert!(["%", "%1", "%+1", "a%zz"].iter().all(|text| unescape(text).is_none()));
    }
}
