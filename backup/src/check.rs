//! What verify reads in one go, and reading it (`FORMAT.md`, "Terms").
//!
//! Invariant: the links of all segments of an object are, together, its hash.

use std::collections::BTreeSet;
use std::io::{self, Read};

use crate::digest::{Digest, Hasher, State};
use crate::disk::{Input, read_all};
use crate::failure::{Doing, StoreError};
use crate::index::{Index, Location};
use crate::pump::PIECE;
use crate::repository::{Repository, Sequential, fill};
use crate::states::{self, End};

/// A segment of an object: where it is, and what links it to its neighbours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) plain: u64,
    /// `None`: to the end of the object.
    pub(crate) plain_end: Option<u64>,
    stored: u64,
    start: State,
    end: Option<State>,
}

/// What is read in one go.
#[derive(Debug, Clone)]
pub(crate) struct Unit {
    pub(crate) path: String,
    /// `None` for a pack.
    pub(crate) object: Option<Digest>,
    pub(crate) segment: Option<Segment>,
    /// Bytes to read.
    pub(crate) stored: u64,
}

impl Unit {
    /// A number that spreads units evenly and is the same in each run.
    pub(crate) fn spread(&self) -> u64 {
        let at = self.segment.map_or(0, |it| it.plain);
        Digest::of(format!("{} {at}", self.path).as_bytes()).spread()
    }
}

/// All units of a repository.
pub(crate) fn units(repository: &Repository, index: &Index) -> Result<Vec<Unit>, StoreError> {
    let mut units = Vec::new();
    let mut packs = BTreeSet::new();
    for (digest, location) in index.iter() {
        let path = index.path(digest, location);
        match location {
            Location::Packed { .. } => {
                packs.insert(path);
            }
            Location::Raw { size } | Location::Zstd { size } => {
                let whole = Unit { path, object: Some(*digest), segment: None, stored: *size };
                units.extend(split(repository, whole, *digest)?);
            }
        }
    }
    for path in packs {
        let stored = repository.disk.open(&path).doing("read", &path)?.size_bytes();
        units.push(Unit { path, object: None, segment: None, stored });
    }
    // Side by side on the disk is side by side in time.
    units.sort_by(|a, b| (&a.path, a.segment.map(|it| it.plain)).cmp(&(&b.path, b.segment.map(|it| it.plain))));
    Ok(units)
}

/// The segments of an object whose states are known; else the object.
fn split(repository: &Repository, whole: Unit, digest: Digest) -> Result<Vec<Unit>, StoreError> {
    let path = format!("objects/{digest}.states");
    let text = match read_all(&*repository.disk, &path, 1 << 28) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![whole]),
        bytes => String::from_utf8(bytes.doing("read", &path)?).unwrap_or_default(),
    };
    let Some(ends) = states::read(&text) else { return Ok(vec![whole]) };
    let mut units = Vec::new();
    let mut last = End { plain: 0, stored: 0, state: State::START };
    for end in ends.iter().copied().map(Some).chain([None]) {
        let stored_end = end.map_or(whole.stored, |it| it.stored);
        let segment = Segment {
            plain: last.plain,
            plain_end: end.map(|it| it.plain),
            stored: last.stored,
            start: last.state,
            end: end.map(|it| it.state),
        };
        let stored = stored_end.saturating_sub(last.stored);
        units.push(Unit { segment: Some(segment), stored, ..whole.clone() });
        last = end.unwrap_or(last);
    }
    Ok(units)
}

/// Reads a unit; an error that [`StoreError::is_damage`] if it is not as it was.
pub(crate) fn read_unit(repository: &Repository, unit: &Unit) -> Result<(), StoreError> {
    let object = unit.object.map(|it| it.to_string());
    let name = object.as_deref().unwrap_or_else(|| unit.path.trim_start_matches("packs/"));
    let digest: Digest = name.parse().map_err(|error| StoreError::damaged(&unit.path, error))?;
    let mut file = repository.open_object(&digest, &unit.path)?;
    let start = unit.segment.map_or(0, |it| it.stored);
    let mut hasher = unit.segment.map_or_else(Hasher::new, |it| Hasher::at(it.start, it.plain));
    let end = unit.segment.and_then(|it| it.plain_end);
    let hashed = if unit.path.ends_with(".zst") {
        let rest = Sequential::from(file, start);
        let decoder = zstd::stream::read::Decoder::new(rest).and_then(|mut it| it.window_log_max(23).map(|()| it));
        decoder.and_then(|mut decoder| hash(&mut decoder, &mut hasher, end))
    } else {
        hash_raw(&mut *file, start, &mut hasher, end)
    };
    hashed.map_err(|error| match error.raw_os_error() {
        Some(_) => StoreError::Disk { doing: "read", path: unit.path.clone(), source: error },
        None => StoreError::damaged(&unit.path, error),
    })?;
    let holds = match unit.segment.and_then(|it| it.end) {
        Some(state) => hasher.state() == Some(state),
        None => hasher.finish() == digest,
    };
    if holds { Ok(()) } else { Err(StoreError::damaged(&unit.path, "it does not have its hash")) }
}

fn hash(from: &mut dyn Read, hasher: &mut Hasher, end: Option<u64>) -> io::Result<()> {
    let mut buffer = crate::disk::Buffer::new(1 << 20);
    loop {
        fill(&mut buffer, from)?;
        let left = end.map_or(u64::MAX, |end| end.saturating_sub(hasher.hashed()));
        let len = buffer.bytes().len().min(usize::try_from(left).unwrap_or(usize::MAX));
        hasher.update(&buffer.bytes()[..len]);
        if len == 0 || len as u64 == left {
            return Ok(());
        }
    }
}

fn hash_raw(file: &mut dyn Input, mut at: u64, hasher: &mut Hasher, end: Option<u64>) -> io::Result<()> {
    let mut buffer = crate::disk::Buffer::new(PIECE);
    loop {
        let len = file.read_at(at, buffer.room())?;
        let left = end.map_or(u64::MAX, |end| end.saturating_sub(hasher.hashed()));
        let taken = len.min(usize::try_from(left).unwrap_or(usize::MAX));
        buffer.set_len(taken);
        hasher.update(buffer.bytes());
        at += taken as u64;
        if taken == 0 || taken as u64 == left {
            return Ok(());
        }
    }
}
