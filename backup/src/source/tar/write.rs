//! Any source as a tar stream, for a host that cannot look at it itself.
//!
//! Every program can read it as a tar archive; beside that each member carries its entry whole, in a record of its own, so that what
//! a header has no room for (nanoseconds, attributes, whether it changed) gets through. Invariant: a file that changed
//! while it was read is followed by a word of that, and so is never taken for whole.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::time::Duration;

use tar::{Builder, EntryType, Header};

use super::{ENTRY, PROBLEM};
use crate::source::{Content, Halted, Offer, Sink, Source, WalkError};
use crate::tree::{Entry, Kind, unescape};

/// Writes what a source holds; without `contents` only what there is.
pub fn write_tar(source: &dyn Source, contents: bool, to: &mut dyn Write) -> Result<(), WalkError> {
    let mut sink = TarSink { archive: Builder::new(to), contents, broken: None };
    let walked = source.walk(&mut sink);
    if let Some(error) = sink.broken {
        return Err(error.into());
    }
    walked?;
    Ok(sink.archive.finish()?)
}

struct TarSink<W: Write> {
    archive: Builder<W>,
    contents: bool,
    /// Why it cannot be written on.
    broken: Option<io::Error>,
}

impl<W: Write> TarSink<W> {
    fn offer(&mut self, offer: Offer<'_>) -> io::Result<()> {
        let Offer { entry, content, .. } = offer;
        match content {
            Content::File(at) if self.contents => match File::open(&at) {
                Ok(file) => self.file(&entry, &file),
                Err(error) => self.problem(&entry.path, &format!("cannot be read: {error}")),
            },
            Content::Stream(from) if self.contents => match self.member(&entry, from)? {
                true => Ok(()),
                false => self.problem(&entry.path, "changed while it was read"),
            },
            _ => self.member(&entry, &mut io::empty()).map(drop),
        }
    }

    fn file(&mut self, entry: &Entry, mut file: &File) -> io::Result<()> {
        let before = file.metadata()?;
        let was_whole = self.member(entry, &mut file)?;
        let looks = |meta: &Metadata| (meta.len(), meta.modified().ok());
        let time = Duration::new(u64::try_from(entry.mtime.0).unwrap_or_default(), entry.mtime.1);
        let as_told = (entry.size, Some(std::time::UNIX_EPOCH + time));
        match was_whole && looks(&before) == as_told && looks(&file.metadata()?) == as_told {
            true => Ok(()),
            false => self.problem(&entry.path, "changed while it was read"),
        }
    }

    /// Writes a member; whether its content was as long as its entry says.
    fn member(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<bool> {
        let has_content = self.contents && entry.kind == Kind::File;
        let mut header = Header::new_gnu();
        header.set_entry_type(match entry.kind {
            Kind::Folder => EntryType::Directory,
            Kind::File => EntryType::Regular,
            Kind::Symlink => EntryType::Symlink,
            Kind::Hardlink => EntryType::Link,
        });
        header.set_mode(entry.mode);
        header.set_uid(entry.uid.into());
        header.set_gid(entry.gid.into());
        header.set_mtime(u64::try_from(entry.mtime.0).unwrap_or_default());
        header.set_size(if has_content { entry.size } else { 0 });
        let told = serde_json::to_vec(entry)?;
        self.archive.append_pax_extensions([(ENTRY, told.as_slice())])?;
        let path = path_of(&entry.path)?;
        if let Some(target) = &entry.target {
            self.archive.append_link(&mut header, path, path_of(target)?)?;
            return Ok(true);
        }
        let mut content = Exactly { from: content, left: if has_content { entry.size } else { 0 }, is_short: false };
        self.archive.append_data(&mut header, path, &mut content)?;
        Ok(!content.is_short)
    }

    fn problem(&mut self, path: &str, reason: &str) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::new(PROBLEM));
        header.set_size(reason.len() as u64);
        self.archive.append_data(&mut header, path_of(path)?, reason.as_bytes())
    }
}

impl<W: Write> Sink for TarSink<W> {
    fn entry(&mut self, offer: Offer<'_>) -> Result<(), Halted> {
        self.offer(offer).map_err(|error| {
            self.broken.get_or_insert(error);
            Halted
        })
    }

    fn problem(&mut self, path: &str, reason: String) {
        if let Err(error) = TarSink::problem(self, path, &reason) {
            self.broken.get_or_insert(error);
        }
    }

    fn reads_content(&self) -> bool {
        self.contents
    }
}

fn path_of(escaped: &str) -> io::Result<std::path::PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let bytes = unescape(escaped).ok_or_else(|| io::Error::other(format!("`{escaped}` is not a path")))?;
    Ok(std::ffi::OsString::from_vec(bytes).into())
}

/// As many bytes as the header says: what is too long is cut, what is too short goes on in zeros.
struct Exactly<'c> {
    from: &'c mut dyn Read,
    left: u64,
    is_short: bool,
}

impl Read for Exactly<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let into = &mut into[..room];
        if into.is_empty() {
            return Ok(0);
        }
        let len = match self.from.read(into)? {
            0 => {
                self.is_short = true;
                into.fill(0);
                into.len()
            }
            len => len,
        };
        self.left -= len as u64;
        Ok(len)
    }
}
