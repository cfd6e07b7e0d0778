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

const PIECE: usize = 1 << 20;
/// Pieces that wait to be taken.
const WAITING: usize = 4;

/// Starts the stream. It must answer with an error at its end if whoever makes it has failed.
type Start = dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync;

/// What a tar stream holds.
pub struct TarSource {
    /// What the snapshot calls it.
    pub name: String,
    /// Starts the stream; it is read once a walk.
    pub start: Box<Start>,
}

/// What comes over the channel.
enum Item {
    Entry(Box<Entry>),
    /// Something that cannot be saved: its path, and why.
    Problem(String, &'static str),
    Bytes(Vec<u8>),
    /// The content of an entry is complete.
    End,
}

impl Source for TarSource {
    fn name(&self) -> &str {
        &self.name
    }

    /// What is in it shows only when it is streamed; where no content is wanted, nothing is told.
    fn walk(&self, sink: &mut dyn Sink) -> Result<(), WalkError> {
        if !sink.reads_content() {
            return Ok(());
        }
        let stream = (self.start)()?;
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
            Item::Problem(path, reason) => sink.problem(&path, reason.to_owned()),
            Item::Bytes(_) | Item::End => {}
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

fn take_apart(stream: Box<dyn Read + Send>, items: &SyncSender<Item>) -> io::Result<()> {
    let mut archive = Archive::new(stream);
    for found in archive.entries()? {
        let mut found = found?;
        let item = match read_header(&mut found)? {
            None => continue,
            Some(item) => item,
        };
        let is_file = matches!(&item, Item::Entry(entry) if entry.kind == Kind::File);
        items.send(item).map_err(unwanted)?;
        if !is_file {
            continue;
        }
        loop {
            let mut piece = Vec::new();
            (&mut found).take(PIECE as u64).read_to_end(&mut piece)?;
            let is_last = piece.len() < PIECE;
            items.send(Item::Bytes(piece)).map_err(unwanted)?;
            if is_last {
                break;
            }
        }
        items.send(Item::End).map_err(unwanted)?;
    }
    // Behind the archive's end is padding; behind that stands whether its maker has failed.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop)
}

/// `None` for what is nothing by itself: the root, and records about records.
fn read_header(found: &mut tar::Entry<'_, Box<dyn Read + Send>>) -> io::Result<Option<Item>> {
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
        _ => {
            let path = escape(path.as_os_str().as_bytes());
            return Ok(Some(Item::Problem(path, "is a socket, a pipe or a device, which are left out")));
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

/// Without a leading `./`; `None` for the root. What leads elsewhere is refused when it is restored, as all else is.
fn plain(path: &Path) -> Option<PathBuf> {
    let plain: PathBuf = path.components().filter(|it| !matches!(it, Component::CurDir)).collect();
    (!plain.as_os_str().is_empty()).then_some(plain)
}
