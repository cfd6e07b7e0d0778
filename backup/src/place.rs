//! Where restored things may go, and how they get there.
//!
//! Invariant: a path is used only after every part of it was seen to be a plain name below the target, and every folder
//! on the way a real folder.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::disk::{self, FileWriter, Output};
use crate::known::Key;
use crate::listing::Listing;
use crate::tree::{Entry, Kind, unescape};

/// Zeros of this length are made a hole.
const HOLE: usize = 64 << 10;

/// Refuses a tree that would write where it must not; says which entry and why.
pub(crate) fn check(listing: &Listing, folds_case: bool) -> Result<(), (String, &'static str)> {
    let mut kinds: HashMap<Key, Kind> = HashMap::new();
    let mut folded = HashSet::new();
    for entry in listing.entries() {
        let refuse = |reason| Err((entry.path.clone(), reason));
        let Some(bytes) = unescape(&entry.path) else { return refuse("is not a path") };
        if bytes.contains(&0) || bytes.is_empty() {
            return refuse("is not a path");
        }
        let path = PathBuf::from(OsString::from_vec(bytes.clone()));
        if path.is_absolute() {
            return refuse("is absolute");
        }
        if path.components().any(|it| !matches!(it, Component::Normal(_))) {
            return refuse("leads elsewhere");
        }
        let plain: PathBuf = path.components().collect();
        if plain.as_os_str() != path.as_os_str() {
            return refuse("is not written as a path is");
        }
        if kinds.insert(Key::of(&bytes), entry.kind).is_some() {
            return refuse("is there twice");
        }
        if folds_case && !folded.insert(Key::of(String::from_utf8_lossy(&bytes).to_lowercase().as_bytes())) {
            return refuse("differs from another path by case only, and the target folds case");
        }
    }
    for entry in listing.entries() {
        let bytes = unescape(&entry.path).unwrap_or_default();
        let mut parents = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &bytes[..at]);
        if parents.any(|parent| kinds.get(&Key::of(parent)).is_some_and(|kind| *kind != Kind::Folder)) {
            return Err((entry.path, "stands below something that is not a folder"));
        }
        if entry.kind == Kind::Hardlink {
            let target = entry.target.as_deref().and_then(unescape).unwrap_or_default();
            if kinds.get(&Key::of(&target)) != Some(&Kind::File) {
                return Err((entry.path, "is another name of a file that is not in the tree"));
            }
        }
    }
    Ok(())
}

/// Whether two names that differ in case are one file there.
pub(crate) fn folds_case(folder: &Path) -> io::Result<bool> {
    let name = format!("{PREFIX}probe-{}", std::process::id());
    let probe = folder.join(&name);
    File::create(&probe)?;
    let folds = fs::symlink_metadata(folder.join(name.to_uppercase())).is_ok();
    fs::remove_file(&probe)?;
    Ok(folds)
}

/// Makes the folders down to `folder`; refuses to go through anything but folders.
pub(crate) fn folders(target: &Path, folder: &Path) -> io::Result<()> {
    let below = folder.strip_prefix(target).map_err(|_| io::Error::other("is not below the target"))?;
    let mut at = target.to_owned();
    for part in below {
        at.push(part);
        match fs::symlink_metadata(&at) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(io::Error::other("the way there leads through something that is not a folder")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::create_dir(&at) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            },
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

const PREFIX: &str = ".restore-";

/// A name that nobody has.
pub(crate) fn free_name(folder: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    folder.join(format!("{PREFIX}{}-{number}", std::process::id()))
}

/// Removes from a folder what a restore that was killed has left there.
pub(crate) fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let maker = |name: &str| Pid::from_raw(name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()?);
        let maker = entry.file_name().to_str().and_then(maker);
        if maker.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A file on its way to its name. It goes again if it does not get there.
pub(crate) struct New {
    writer: FileWriter,
    waiting: Waiting,
    hole: u64,
}

/// A file that is written and waits for its name, with nothing held open: there may be many.
pub(crate) struct Waiting {
    path: Option<PathBuf>,
}

impl New {
    pub(crate) fn create(folder: &Path) -> io::Result<Self> {
        let path = free_name(folder);
        // What a killed restore left under a process id that has come round again.
        let _ = fs::remove_file(&path);
        Ok(Self { writer: FileWriter::create(&path, 0o600)?, waiting: Waiting { path: Some(path) }, hole: 0 })
    }

    pub(crate) fn append(&mut self, bytes: &[u8], sparse: bool) -> io::Result<()> {
        if !sparse {
            return self.writer.append(bytes);
        }
        for piece in bytes.chunks(HOLE) {
            if piece.iter().all(|byte| *byte == 0) {
                self.hole += piece.len() as u64;
                continue;
            }
            self.end_hole()?;
            self.writer.append(piece)?;
        }
        Ok(())
    }

    /// Gives the file its full length: it may end in a hole.
    pub(crate) fn end_hole(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.hole) {
            0 => Ok(()),
            len => self.writer.skip(len),
        }
    }

    pub(crate) fn file(&self) -> &File {
        self.writer.file()
    }

    /// Closes it, durable: a large one, that nothing is to wait for.
    pub(crate) fn finish(mut self) -> io::Result<Waiting> {
        self.writer.flush()?;
        Ok(self.waiting)
    }

    /// Closes it, not durable before [`flush`].
    pub(crate) fn close(mut self) -> io::Result<Waiting> {
        if cfg!(target_vendor = "apple") {
            // The drive takes it now, and writes all that it took at once later.
            self.writer.flush()?;
        }
        Ok(self.waiting)
    }
}

impl Waiting {
    fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    pub(crate) fn metadata(&self) -> io::Result<Metadata> {
        fs::symlink_metadata(self.path())
    }

    pub(crate) fn rename(mut self, to: &Path) -> io::Result<()> {
        fs::rename(self.path(), to)?;
        self.path = None;
        Ok(())
    }
}

/// Makes files durable, on whatever file systems they are. One order for all that a file system has still to write is
/// cheaper than one for each of many files.
pub(crate) fn flush<'w>(files: impl Iterator<Item = &'w Waiting>) -> io::Result<()> {
    // By their folders: a file may be one that we must not open.
    let folders: BTreeSet<&Path> = files.filter_map(|it| it.path().parent()).collect();
    let mut flushed = HashSet::new();
    for folder in folders {
        let folder = File::open(folder)?;
        if flushed.insert(folder.metadata()?.dev()) {
            disk::flush_all(&folder)?;
        }
    }
    Ok(())
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether a file is as the snapshot has it, content apart.
pub(crate) fn has_meta(file: &File, entry: &Entry) -> io::Result<bool> {
    let meta: Metadata = file.metadata()?;
    Ok((meta.mode() & 0o7777, (meta.mtime(), meta.mtime_nsec() as u32)) == (entry.mode & 0o7777, entry.mtime))
}

/// Gives a file or folder its owner (as root), mode, attributes and time, in that order: each may undo the one before.
pub(crate) fn set_meta(file: &File, entry: &Entry) -> io::Result<()> {
    use xattr::FileExt;
    if rustix::process::geteuid().is_root() {
        rustix::fs::fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode((entry.mode & 0o7777) as rustix::fs::RawMode))?;
    for (name, value) in &entry.xattrs {
        if let (Some(name), Some(value)) = (unescape(name), unescape(value)) {
            file.set_xattr(OsString::from_vec(name), &value)?;
        }
    }
    Ok(rustix::fs::futimens(file, &times(entry))?)
}

/// Gives a symbolic link its time.
pub(crate) fn set_link_time(path: &Path, entry: &Entry) -> io::Result<()> {
    Ok(rustix::fs::utimensat(CWD, path, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: entry.mtime.1.min(999_999_999) as _ };
    Timestamps { last_access: time, last_modification: time }
}
