//! A huge object that is not complete yet, and what a later run needs to go on with it (`FORMAT.md`, "Parts").
//!
//! Invariant: what is written down about a part is about bytes that were flushed before; a part that does not fit what is
//! written down is begun anew.

use std::io;

use crate::digest::{Digest, SEGMENT};
use crate::disk::{Disk, Output, read_all};
use crate::failure::{Doing, StoreError};
use crate::states::{self, End};

/// Plain bytes after which a run that is killed has lost nothing: a second's work or less, for a flush.
pub(crate) const CHECKPOINT: u64 = 4 * SEGMENT;

/// What all parts' names begin with.
pub(crate) const PREFIX: &str = "partial-";

/// Where a part stands.
pub(crate) struct Partial {
    /// The part itself.
    pub(crate) path: String,
    /// The ends of its segments.
    states: String,
}

impl Partial {
    /// The part of a file that is told apart by `identity`: its path, and all that changes with its content.
    pub(crate) fn of(identity: &str, is_compressed: bool) -> Self {
        let coding = if is_compressed { ".zst" } else { "" };
        let path = format!("temporary/{PREFIX}{}{coding}", Digest::of(identity.as_bytes()));
        Self { states: format!("{path}.states"), path }
    }

    /// Goes on with the part, or begins it. The ends are those of the segments that are there.
    pub(crate) fn open(&self, disk: &dyn Disk) -> Result<(Box<dyn Output>, Vec<End>), StoreError> {
        let text = read_all(disk, &self.states, 1 << 28).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let ends = text.and_then(|text| states::read(&text)).unwrap_or_default();
        if let Some(last) = ends.last()
            && let Ok(output) = disk.reopen(&self.path, last.stored)
        {
            return Ok((output, ends));
        }
        self.remove(disk)?;
        Ok((disk.create(&self.path).doing("create", &self.path)?, Vec::new()))
    }

    /// Writes down how far the part is, once that is flushed.
    pub(crate) fn note(&self, disk: &dyn Disk, output: &mut dyn Output, ends: &[End]) -> io::Result<()> {
        output.flush()?;
        let new = format!("{}.new", self.states);
        match disk.remove(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = disk.create(&new)?;
        file.append(states::write(ends).as_bytes())?;
        disk.flush(&mut [file])?;
        disk.rename(&new, &self.states)
    }

    /// Forgets how far it is: it is complete, or of no use.
    pub(crate) fn forget(&self, disk: &dyn Disk) -> Result<(), StoreError> {
        remove_if_any(disk, &self.states)
    }

    /// Forgets it altogether.
    pub(crate) fn remove(&self, disk: &dyn Disk) -> Result<(), StoreError> {
        // In this order: what is written down without a part is begun anew, too.
        self.forget(disk)?;
        remove_if_any(disk, &self.path)
    }
}

fn remove_if_any(disk: &dyn Disk, path: &str) -> Result<(), StoreError> {
    match disk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.doing("remove", path),
    }
}
