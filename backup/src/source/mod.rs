//! Where data comes from. A source tells its entries one after another and hands over each one's content; what it is a
//! source of, the store never learns.
//!
//! Invariant: a source that cannot say whether it told everything fails, and then nothing of it is saved.

use std::io::{self, Read};
use std::path::PathBuf;

use crate::digest::Digest;
use crate::tree::Entry;

mod blob;
mod folder;
mod sqlite;
mod tar;

pub use blob::{BlobSource, Named};
pub use folder::{FolderSource, entry_of};
pub use sqlite::SqliteSource;
pub use tar::{Stream, TarSource, write_tar};

/// Somewhere that data comes from.
pub trait Source: Sync {
    /// What the snapshot calls it; also the folder that it is restored to.
    fn name(&self) -> &str;

    /// Tells every entry, a folder before what is in it, a file before its hard links.
    fn walk(&self, sink: &mut dyn Sink) -> Result<(), WalkError>;
}

/// What takes a source's entries.
pub trait Sink {
    /// Takes an entry. After [`Halted`] there is nothing more to tell.
    fn entry(&mut self, offer: Offer<'_>) -> Result<(), Halted>;

    /// Something that belongs to the source could not be had; the rest goes on. `path` is escaped.
    fn problem(&mut self, path: &str, reason: String);

    /// Whether content is wanted. A source whose content is costly to produce (a stream) may then tell entries only.
    fn reads_content(&self) -> bool {
        true
    }
}

/// An entry and how to get its content.
pub struct Offer<'a> {
    /// What it is; `size` and `digest` are filled in once the content was read.
    pub entry: Entry,
    /// Its content.
    pub content: Content<'a>,
    /// The digest that it must have. If that is committed, nothing is read, whatever times say.
    pub known: Option<Digest>,
    /// Escaped paths of entries without which this one is not saved.
    pub requires: Vec<String>,
}

impl<'a> Offer<'a> {
    /// An entry that nothing special is known of.
    pub fn new(entry: Entry, content: Content<'a>) -> Self {
        Self { entry, content, known: None, requires: Vec::new() }
    }
}

/// A file's content.
pub enum Content<'a> {
    /// The entry has none.
    None,
    /// A file that may be read at any time, in parallel to others. It is looked at before and after.
    File(PathBuf),
    /// What can be read only now. That it is consistent is for the source to know; an error fails the source.
    Stream(&'a mut (dyn Read + Send)),
}

/// The run is over: the sink knows why.
#[derive(Debug)]
pub struct Halted;

/// Why a source was not told to its end.
#[derive(Debug)]
pub enum WalkError {
    /// The sink has had enough.
    Halted,
    /// The source failed; a lowercase fragment.
    Failed(String),
}

impl From<Halted> for WalkError {
    fn from(_: Halted) -> Self {
        Self::Halted
    }
}

impl From<io::Error> for WalkError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
