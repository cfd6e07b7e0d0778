//! The only commit point: a small file that names a tree per source (`FORMAT.md`, "Snapshots").
//!
//! Invariant: what was read had its hash; a snapshot is believed whole or not at all.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::failure::StoreError;

/// What was saved in one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When the run began.
    pub time: DateTime<Utc>,
    /// Whose data it is.
    pub host: String,
    /// What a person called it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// By name.
    pub sources: BTreeMap<String, SavedSource>,
    /// What it lacks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incomplete: Vec<Problem>,
}

/// A source in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSource {
    /// The object that lists its entries.
    pub tree: Digest,
    /// How many files.
    pub files: u64,
    /// Their plain length, each counted.
    pub bytes: u64,
}

/// Something that could not be saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The source's name.
    pub source: String,
    /// Escaped path in it; empty if it is the source as a whole.
    pub path: String,
    /// A lowercase fragment.
    pub reason: String,
}

impl Snapshot {
    /// The id that its content gives it, and the file's bytes.
    pub(crate) fn write(&self) -> serde_json::Result<(String, Vec<u8>)> {
        let mut bytes = serde_json::to_vec(self)?;
        bytes.push(b'\n');
        let hash = Digest::of(&bytes).to_string();
        bytes.extend(format!("sha256 {hash}\n").as_bytes());
        Ok((format!("{}-{}", self.time.format("%Y%m%dT%H%M%S%.3fZ"), &hash[..8]), bytes))
    }

    pub(crate) fn read(path: &str, bytes: &[u8]) -> Result<Self, StoreError> {
        let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
        let (line, rest) = bytes.split_at(end);
        if rest != format!("sha256 {}\n", Digest::of(line)).as_bytes() {
            return Err(StoreError::damaged(path, "it does not have its hash"));
        }
        serde_json::from_slice(line).map_err(|error| StoreError::damaged(path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    #[test]
    fn what_was_spoiled_is_not_believed_and_nothing_makes_it_panic() {
        let snapshot = Snapshot {
            time: DateTime::from_timestamp(1_795_000_000, 123_000_000).unwrap(),
            host: "host".to_owned(),
            tag: Some("tag".to_owned()),
            sources: BTreeMap::from([("data".to_owned(), SavedSource { tree: Digest::of(b"x"), files: 1, bytes: 2 })]),
            incomplete: vec![Problem { source: "data".to_owned(), path: "a".to_owned(), reason: "is gone".to_owned() }],
        };
        let (id, right) = snapshot.write().unwrap();
        assert!(id.starts_with("20261118T110640.123Z-"), "{id}");
        assert_eq!(Snapshot::read("", &right).unwrap(), snapshot);
        let line = &right[..right.iter().position(|byte| *byte == b'\n').unwrap()];
        for case in 0..20_000 {
            let mut chance = Chance(case);
            let spoiled = chance.spoil(&right);
            assert!(spoiled == right || Snapshot::read("", &spoiled).is_err(), "case {case}");
            let mut line = chance.spoil(line);
            line.push(b'\n');
            line.extend(format!("sha256 {}\n", Digest::of(&line)).as_bytes());
            let _ = Snapshot::read("", &line);
        }
    }
}
