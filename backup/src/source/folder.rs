//! A folder of this machine, with what is not wanted left out.
//!
//! Invariant: symbolic links are recorded, never followed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use walkdir::WalkDir;

use super::{Content, Offer, Sink, Source, WalkError};
use crate::glob;
use crate::tree::{Entry, Kind, escape};

/// A file that was changed this recently may change again within the same tick of its clock.
const TICK: Duration = Duration::from_secs(2);

/// Everything below a folder.
#[derive(Debug, Clone)]
pub struct FolderSource {
    /// What the snapshot calls it.
    pub name: String,
    /// Where it is.
    pub root: PathBuf,
    /// Globs over relative paths: `*` within a part, `**` over parts. What matches is left out with all below it; a glob without `/`
    /// matches at any depth.
    pub excludes: Vec<String>,
    /// Only these below the root, as far as they are there; empty: everything.
    pub only: Vec<PathBuf>,
}

impl Source for FolderSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn walk(&self, sink: &mut dyn Sink) -> Result<(), WalkError> {
        // A root that is not there is a fault, not an empty folder.
        fs::metadata(&self.root).map_err(|error| WalkError::Failed(format!("cannot read the folder: {error}")))?;
        let root = self.root.canonicalize()?;
        let mut links: HashMap<(u64, u64), String> = HashMap::new();
        if self.only.is_empty() {
            return self.below(&root, WalkDir::new(&root).min_depth(1), &mut links, sink);
        }
        let mut told = BTreeSet::new();
        for only in &self.only {
            if fs::symlink_metadata(root.join(only)).is_err() {
                continue;
            }
            let mut above: Vec<&Path> = only.ancestors().skip(1).filter(|it| !it.as_os_str().is_empty()).collect();
            above.reverse();
            for folder in above.into_iter().filter(|it| told.insert(it.to_path_buf())) {
                self.below(&root, WalkDir::new(root.join(folder)).max_depth(0), &mut links, sink)?;
            }
            self.below(&root, WalkDir::new(root.join(only)), &mut links, sink)?;
        }
        Ok(())
    }
}

impl FolderSource {
    /// Everything below a folder.
    pub fn new(name: &str, root: &Path) -> Self {
        Self { name: name.to_owned(), root: root.to_owned(), excludes: Vec::new(), only: Vec::new() }
    }

    fn below(
        &self,
        root: &Path,
        walk: WalkDir,
        links: &mut HashMap<(u64, u64), String>,
        sink: &mut dyn Sink,
    ) -> Result<(), WalkError> {
        let mut walk = walk.sort_by_file_name().into_iter();
        while let Some(next) = walk.next() {
            let found = match next {
                Ok(found) => found,
                Err(error) => {
                    let path = error.path().and_then(|it| it.strip_prefix(root).ok()).unwrap_or(Path::new(""));
                    if error.io_error().is_none_or(|it| it.kind() != io::ErrorKind::NotFound) || path == Path::new("") {
                        sink.problem(&escape(path.as_os_str().as_bytes()), format!("cannot be listed: {error}"));
                    }
                    continue;
                }
            };
            let Ok(relative) = found.path().strip_prefix(root) else { continue };
            let path = escape(relative.as_os_str().as_bytes());
            if self.excludes.iter().any(|glob| glob::matches(glob, &path)) {
                if found.file_type().is_dir() {
                    walk.skip_current_dir();
                }
                continue;
            }
            let offer = match fs::symlink_metadata(found.path()) {
                Ok(meta) => offer(found.path(), path, &meta, links),
                // What goes while we look was not part of the source when we were done.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => Err((path, error.to_string())),
            };
            match offer {
                Ok(offer) => sink.entry(offer)?,
                Err((path, reason)) => sink.problem(&path, reason),
            }
        }
        Ok(())
    }
}

fn offer(
    at: &Path,
    path: String,
    meta: &Metadata,
    links: &mut HashMap<(u64, u64), String>,
) -> Result<Offer<'static>, (String, String)> {
    let mut entry = entry_of(at, path, meta).map_err(|(path, error)| (path, error.to_string()))?;
    if entry.kind != Kind::File {
        return Ok(Offer::new(entry, Content::None));
    }
    if meta.nlink() > 1 {
        if let Some(first) = links.get(&(meta.dev(), meta.ino())) {
            entry.kind = Kind::Hardlink;
            entry.target = Some(first.clone());
            entry.size = 0;
            return Ok(Offer::new(entry, Content::None));
        }
        links.insert((meta.dev(), meta.ino()), entry.path.clone());
    }
    Ok(Offer::new(entry, Content::File(at.to_owned())))
}

/// What `stat` says of a file, a folder or a symbolic link; of anything else, that it cannot be saved.
pub fn entry_of(at: &Path, path: String, meta: &Metadata) -> Result<Entry, (String, io::Error)> {
    let kind = meta.file_type();
    if kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device() {
        return Err((path, io::Error::other("is a socket, a pipe or a device, which are left out")));
    }
    let target = if kind.is_symlink() {
        match fs::read_link(at) {
            Ok(target) => Some(escape(target.as_os_str().as_bytes())),
            Err(error) => return Err((path, error)),
        }
    } else {
        None
    };
    let xattrs = match xattrs(at) {
        Ok(xattrs) => xattrs,
        Err(error) => return Err((path, error)),
    };
    let size = if kind.is_file() { meta.len() } else { 0 };
    Ok(Entry {
        kind: match () {
            () if kind.is_symlink() => Kind::Symlink,
            () if kind.is_dir() => Kind::Folder,
            () => Kind::File,
        },
        path,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: (meta.mtime(), meta.mtime_nsec() as u32),
        size,
        digest: None,
        sparse: kind.is_file() && meta.blocks() * 512 < size,
        target,
        xattrs,
        late: false,
        seen: kind.is_file().then(|| seen(meta)).flatten(),
    })
}

fn seen(meta: &Metadata) -> Option<(i64, u32, u64)> {
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(meta.ctime()).ok()?);
    let is_settled = SystemTime::now().duration_since(changed).is_ok_and(|ago| ago > TICK);
    is_settled.then(|| (meta.ctime(), meta.ctime_nsec() as u32, meta.ino()))
}

fn xattrs(at: &Path) -> io::Result<BTreeMap<String, String>> {
    let names = match xattr::list(at) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    // SELinux's labels are the system's, not the file's.
    let own = names.filter(|name| name != OsStr::new("security.selinux"));
    let mut found = BTreeMap::new();
    for name in own {
        if let Some(value) = xattr::get(at, &name)? {
            found.insert(escape(name.as_bytes()), escape(&value));
        }
    }
    Ok(found)
}
