//! What a save would have to do, told without doing any of it.
//!
//! Invariant: takes no lock, writes nothing, and reads no file's content (a source may read what names its files).

use std::collections::{BTreeMap, HashMap};

use crate::digest::Digest;
use crate::failure::StoreError;
use crate::index::Index;
use crate::known::Known;
use crate::repository::Repository;
use crate::snapshot::Problem;
use crate::source::{Content, Halted, Offer, Sink, Source, WalkError};
use crate::tree::{Entry, Kind};

/// What a save would find.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Estimate {
    /// By source's name.
    pub sources: BTreeMap<String, EstimatedSource>,
    /// What would be missing from the snapshot, as far as that shows from outside.
    pub incomplete: Vec<Problem>,
}

/// What a save would find in a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EstimatedSource {
    /// Files.
    pub files: u64,
    /// Their length.
    pub bytes: u64,
    /// Files that would have to be read.
    pub new_files: u64,
    /// Their length; what they would take up is at most this.
    pub new_bytes: u64,
}

impl Estimate {
    /// Looks at sources, against a repository if there is one already.
    pub fn of(repository: Option<&Repository>, sources: &[&dyn Source]) -> Result<Self, StoreError> {
        let (index, mut previous) = match repository {
            None => (Index::default(), HashMap::new()),
            Some(repository) => {
                let index = repository.index()?;
                let previous = repository.previous(&index, sources)?;
                (index, previous)
            }
        };
        let mut estimate = Self::default();
        for source in sources {
            let known = previous.remove(source.name()).unwrap_or_default();
            let mut counter = Counter { index: &index, known, found: EstimatedSource::default(), problems: Vec::new() };
            let walked = source.walk(&mut counter);
            let Counter { found, mut problems, .. } = counter;
            if let Err(WalkError::Failed(reason)) = walked {
                problems = vec![(String::new(), reason)];
            } else {
                estimate.sources.insert(source.name().to_owned(), found);
            }
            let problem = |(path, reason)| Problem { source: source.name().to_owned(), path, reason };
            estimate.incomplete.extend(problems.into_iter().map(problem));
        }
        Ok(estimate)
    }
}

struct Counter<'i> {
    index: &'i Index,
    known: Known,
    found: EstimatedSource,
    problems: Vec<(String, String)>,
}

impl Counter<'_> {
    fn is_held(&self, entry: &Entry, known: Option<Digest>) -> bool {
        known.or_else(|| self.known.digest(entry)).is_some_and(|it| self.index.contains(&it))
    }
}

impl Sink for Counter<'_> {
    fn entry(&mut self, offer: Offer<'_>) -> Result<(), Halted> {
        let Offer { entry, content, known, .. } = offer;
        if entry.kind == Kind::File && !matches!(content, Content::None) {
            self.found.files += 1;
            self.found.bytes += entry.size;
            if !self.is_held(&entry, known) {
                self.found.new_files += 1;
                self.found.new_bytes += entry.size;
            }
        }
        Ok(())
    }

    fn problem(&mut self, path: &str, reason: String) {
        self.problems.push((path.to_owned(), reason));
    }

    fn reads_content(&self) -> bool {
        false
    }
}
