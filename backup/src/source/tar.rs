//! A tar stream: what a container's volume, or anything else that is not a folder here, is handed over as.
//!
//! A thread takes the archive apart; pieces come over a channel that holds a few of them. Invariant: the source is told
//! to its end only if the stream came to its own and whoever made it says that it did.

use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use tar::{Archive, EntryType};

use super::{Content, Halted, Offer, Sink, Source, WalkError};
use crate::tree::{Entry, Kind, escape};

mod write;

pub use write::write_tar;

const PIECE: usize = 1 << 20;
/// Pieces that wait to be taken.
const WAITING: usize = 4;

/// A member's record that holds its [`Entry`] as a tree has it.
const ENTRY: &str = "FRONTIER_LLM.entry";
/// The type of a member that is none: why what has its path could not be had.
const PROBLEM: u8 = b'P';
/// No reason is longer.
const REASON_LIMIT: u64 = 64 << 10;

/// A tar stream. It must answer with an error at its end if whoever makes it has failed.
pub type Stream = Box<dyn Read + Send>;

/// Starts the stream, with contents or without, as far as it can be had without.
type Start = dyn Fn(bool) -> io::Result<Option<Stream>> + Send + Sync;

/// What a tar stream holds.
pub struct TarSource {
    /// What the snapshot calls it.
    pub name: String,
    /// Starts the stream; it is read once a walk. What comes without contents tells entries as [`write_tar`] does.
    pub start: Box<Start>,
}

/// What comes over the channel.
enum Item {
    Entry(Box<Entry>),
    /// Something that cannot be saved: its path, and why.
    Problem(String, String),
    Bytes(Vec<u8>),
    /// The content of an entry is complete.
    End,
    /// It is not to be believed, and why.
    Torn(String),
}

impl Source for TarSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn walk(&self, sink: &mut dyn Sink) -> Result<(), WalkError> {
        let Some(stream) = (self.start)(sink.reads_content())? else { return Ok(()) };
        let (items, mut received) = sync_channel(WAITING);
        thread::scope(|scope| {
            let taker = scope.spawn(move || take_apart(stream, &items));
            let told = tell(&mut received, sink);
            // A taker that still has something to say finds nobody there, and ends.
            drop(received);
            let taken = taker.join().unwrap_or_else(|_| Err(io::Error::other("the stream's reader panicked")));
            told.map_err(WalkError::from)?;
            taken.map_err(|error| WalkError::Failed(format!("the stream broke off: {error}")))
        })
    }
}

fn tell(items: &mut Receiver<Item>, sink: &mut dyn Sink) -> Result<(), Halted> {
    while let Ok(item) = items.recv() {
        match item {
            Item::Entry(entry) if entry.kind == Kind::File => {
                let mut pieces = Pieces { items: &mut *items, piece: Vec::new(), taken: 0, is_complete: false };
                sink.entry(Offer::new(*entry, Content::Stream(&mut pieces)))?;
                // What the sink left unread is in the way of the next entry.
                let _ = io::copy(&mut pieces, &mut io::sink());
            }
            Item::Entry(entry) => sink.entry(Offer::new(*entry, Content::None))?,
            Item::Problem(path, reason) => sink.problem(&path, reason),
            Item::Bytes(_) | Item::End | Item::Torn(_) => {}
        }
    }
    Ok(())
}

/// A file's content as it comes over the channel.
struct Pieces<'i> {
    items: &'i mut Receiver<Item>,
    piece: Vec<u8>,
    taken: usize,
    is_complete: bool,
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.piece.len() && !self.is_complete {
            match self.items.recv() {
                Ok(Item::Bytes(piece)) => (self.piece, self.taken) = (piece, 0),
                Ok(Item::Torn(reason)) => {
                    self.is_complete = true;
                    return Err(io::Error::other(reason));
                }
                Ok(_) => self.is_complete = true,
                Err(_) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream broke off")),
            }
        }
        let rest = &self.piece[self.taken..];
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        self.taken += len;
        Ok(len)
    }
}

/// The walk has ended before the stream.
fn unwanted<T>(_: T) -> io::Error {
    io::Error::other("it is not wanted any more")
}

fn take_apart(stream: Stream, items: &SyncSender<Item>) -> io::Result<()> {
    let mut archive = Archive::new(stream);
    // A file whose content is there, and that its next member may still call torn.
    let mut open: Option<String> = None;
    for found in archive.entries()? {
        let mut found = found?;
        let item = read_member(&mut found)?;
        if let Some(path) = open.take() {
            if let Some(Item::Problem(torn, reason)) = &item
                && *torn == path
            {
                items.send(Item::Torn(reason.clone())).map_err(unwanted)?;
                continue;
            }
            items.send(Item::End).map_err(unwanted)?;
        }
        let Some(item) = item else { continue };
        open = match &item {
            Item::Entry(entry) if entry.kind == Kind::File => Some(entry.path.clone()),
            _ => None,
        };
        items.send(item).map_err(unwanted)?;
        while open.is_some() {
            let mut piece = Vec::new();
            (&mut found).take(PIECE as u64).read_to_end(&mut piece)?;
            let is_last = piece.len() < PIECE;
            items.send(Item::Bytes(piece)).map_err(unwanted)?;
            if is_last {
                break;
            }
        }
    }
    if open.is_some() {
        items.send(Item::End).map_err(unwanted)?;
    }
    // Behind the archive's end is padding; behind that stands whether its maker has failed.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop)
}

/// `None` for what is nothing by itself: the root, and records about records.
fn read_member(found: &mut tar::Entry<'_, Stream>) -> io::Result<Option<Item>> {
    if let Some(entry) = read_record(found)? {
        return Ok(Some(Item::Entry(Box::new(entry))));
    }
    let Some(path) = plain(&found.path()?) else { return Ok(None) };
    let target = found.link_name()?.map(|it| it.into_owned());
    let header = found.header();
    let kind = match header.entry_type() {
        EntryType::Regular | EntryType::Continuous => Kind::File,
        EntryType::GNUSparse => Kind::File,
        EntryType::Directory => Kind::Folder,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Link => Kind::Hardlink,
        EntryType::XGlobalHeader => return Ok(None),
        other => {
            let mut reason = "is a socket, a pipe or a device, which are left out".to_owned();
            if other.as_byte() == PROBLEM {
                reason.clear();
                found.take(REASON_LIMIT).read_to_string(&mut reason)?;
            }
            return Ok(Some(Item::Problem(escape(path.as_os_str().as_bytes()), reason)));
        }
    };
    let id = |id: io::Result<u64>| id.map(|id| u32::try_from(id).unwrap_or_default());
    let entry = Entry {
        kind,
        mode: header.mode()? & 0o7777,
        uid: id(header.uid())?,
        gid: id(header.gid())?,
        mtime: (header.mtime()?.cast_signed(), 0),
        sparse: header.entry_type() == EntryType::GNUSparse,
        target: match (kind, target) {
            (Kind::Symlink, Some(target)) => Some(escape(target.as_os_str().as_bytes())),
            (Kind::Hardlink, Some(target)) => plain(&target).map(|it| escape(it.as_os_str().as_bytes())),
            _ => None,
        },
        ..Entry::file(&path, if kind == Kind::File { found.size() } else { 0 })
    };
    Ok(Some(Item::Entry(Box::new(entry))))
}

/// The entry that [`write_tar`] sent along.
fn read_record(found: &mut tar::Entry<'_, Stream>) -> io::Result<Option<Entry>> {
    let Some(records) = found.pax_extensions()? else { return Ok(None) };
    for record in records {
        let record = record?;
        if record.key_bytes() == ENTRY.as_bytes() {
            // Its digest is what its content gives it.
            return Ok(Some(Entry { digest: None, ..serde_json::from_slice(record.value_bytes())? }));
        }
    }
    Ok(None)
}

/// Without a leading `./`; `None` for the root. What leads elsewhere is refused when it is restored, as all else is.
fn plain(path: &Path) -> Option<PathBuf> {
    let plain: PathBuf = path.components().filter(|it| !matches!(it, Component::CurDir)).collect();
    (!plain.as_os_str().is_empty()).then_some(plain)
}
