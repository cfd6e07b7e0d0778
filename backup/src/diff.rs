//! What differs between two snapshots, told from their trees alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::failure::StoreError;
use crate::index::Index;
use crate::repository::Repository;
use crate::tree::Entry;

/// How something differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// Its content, or where it points, is another.
    Content,
    /// Only what stands beside the content is another: mode, owner, time, attributes.
    Attributes,
}

/// Something that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The source's name.
    pub source: String,
    /// Escaped path in it.
    pub path: String,
    /// In what way.
    pub change: Change,
    /// Its length in the second; in the first if that alone has it.
    pub size: u64,
}

impl Repository {
    /// Compares two snapshots, by their full ids.
    pub fn diff(&self, first: &str, second: &str) -> Result<Vec<Changed>, StoreError> {
        let index = self.index()?;
        let (first, second) = (self.snapshot(first)?, self.snapshot(second)?);
        let names: BTreeSet<&String> = first.sources.keys().chain(second.sources.keys()).collect();
        let mut changed = Vec::new();
        for name in names {
            let (before, after) = (first.sources.get(name), second.sources.get(name));
            if before.map(|it| it.tree) == after.map(|it| it.tree) {
                continue;
            }
            let entries =
                |source: Option<&crate::SavedSource>| source.map_or(Ok(BTreeMap::new()), |it| self.by_path(&index, it));
            compare(name, entries(before)?, &entries(after)?, &mut changed);
        }
        Ok(changed)
    }

    fn by_path(&self, index: &Index, saved: &crate::SavedSource) -> Result<BTreeMap<String, Entry>, StoreError> {
        Ok(self.tree(index, saved.tree)?.into_iter().map(|it| (it.path.clone(), it)).collect())
    }
}

fn compare(name: &str, mut before: BTreeMap<String, Entry>, after: &BTreeMap<String, Entry>, into: &mut Vec<Changed>) {
    let start = into.len();
    let changed =
        |entry: &Entry, change| Changed { source: name.to_owned(), path: entry.path.clone(), change, size: entry.size };
    for entry in after.values() {
        let change = match before.remove(&entry.path) {
            None => Change::Added,
            Some(was) if content(&was) != content(entry) => Change::Content,
            Some(was) if attributes(&was) != attributes(entry) => Change::Attributes,
            Some(_) => continue,
        };
        into.push(changed(entry, change));
    }
    into.extend(before.values().map(|entry| changed(entry, Change::Removed)));
    into[start..].sort_by(|a, b| a.path.cmp(&b.path));
}

fn content(entry: &Entry) -> impl PartialEq + use<'_> {
    (entry.kind, entry.digest, &entry.target)
}

fn attributes(entry: &Entry) -> impl PartialEq + use<'_> {
    (entry.mode, entry.uid, entry.gid, entry.mtime, &entry.xattrs)
}
