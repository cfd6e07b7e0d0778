//! Blobs that are named by their digests, and manifests that name them: a model store, seen from outside.
//!
//! Manifests are read first, then exactly the blobs that they name are offered. A blob's name is a claim: it is read
//! and hashed before it is first committed, and never again. Invariant: a manifest is saved as it was parsed, and only
//! together with every blob it names.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Cursor};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Content, Offer, Sink, Source, WalkError, entry_of};
use crate::digest::Digest;
use crate::tree::{Kind, escape};

/// How often a manifest whose blob has just gone is read again.
const TRIES: usize = 3;
/// No manifest is longer.
const MANIFEST_LIMIT: u64 = 16 << 20;

/// A blob that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Below the root.
    pub path: PathBuf,
    /// What it must hold.
    pub digest: Digest,
    /// How long that is.
    pub size: u64,
}

/// What a manifest's bytes name; an error is a lowercase fragment.
type Parse = dyn Fn(&[u8]) -> Result<Vec<Named>, String> + Send + Sync;

/// A manifest's bytes, and what they name.
type Manifest = (Vec<u8>, Vec<Named>);

/// Manifests and their blobs below one folder.
pub struct BlobSource {
    /// What the snapshot calls it.
    pub name: String,
    /// The folder that holds both.
    pub root: PathBuf,
    /// The folder with manifests, below the root.
    pub manifests: PathBuf,
    /// Understands a manifest.
    pub parse: Box<Parse>,
}

impl Source for BlobSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn walk(&self, sink: &mut dyn Sink) -> Result<(), WalkError> {
        let folder = self.root.join(&self.manifests);
        fs::metadata(&folder).map_err(|error| WalkError::Failed(format!("cannot read the manifests: {error}")))?;
        let mut manifests = Vec::new();
        let mut blobs: BTreeMap<PathBuf, Named> = BTreeMap::new();
        let walk = walkdir::WalkDir::new(&folder).sort_by_file_name();
        for found in walk {
            let found = found.map_err(|error| WalkError::Failed(error.to_string()))?;
            if !found.file_type().is_file() {
                continue;
            }
            let Ok(path) = found.path().strip_prefix(&self.root).map(Path::to_owned) else { continue };
            match self.read(&path) {
                Ok(Some((bytes, named))) => {
                    manifests.push((path, bytes, named.iter().map(|it| escaped(&it.path)).collect::<Vec<_>>()));
                    blobs.extend(named.into_iter().map(|it| (it.path.clone(), it)));
                }
                Ok(None) => {}
                Err(reason) => sink.problem(&escaped(&path), reason),
            }
        }
        self.folders(manifests.iter().map(|it| &it.0).chain(blobs.keys()), sink)?;
        // The largest first: the others are read beside it, and none is left to be read alone.
        let mut blobs: Vec<Named> = blobs.into_values().collect();
        blobs.sort_by_key(|it| Reverse(it.size));
        for named in blobs {
            self.blob(named, sink)?;
        }
        for (path, bytes, requires) in manifests {
            let at = self.root.join(&path);
            let meta = fs::symlink_metadata(&at);
            let Some(mut entry) = meta.ok().and_then(|meta| entry_of(&at, escaped(&path), &meta).ok()) else {
                continue;
            };
            entry.late = true;
            // It is saved as it was parsed, not as it may be by now.
            entry.seen = None;
            entry.sparse = false;
            let content = Content::Stream(&mut Cursor::new(bytes));
            sink.entry(Offer { entry, content, known: None, requires })?;
        }
        Ok(())
    }
}

impl BlobSource {
    /// A manifest and what it names, all of it there; `None` if the manifest has gone.
    fn read(&self, path: &Path) -> Result<Option<Manifest>, String> {
        let mut reason = String::new();
        for _ in 0..TRIES {
            let at = self.root.join(path);
            if fs::metadata(&at).is_ok_and(|meta| meta.len() > MANIFEST_LIMIT) {
                return Err("is too long for a manifest".to_owned());
            }
            let bytes = match fs::read(&at) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(format!("cannot be read: {error}")),
            };
            match (self.parse)(&bytes) {
                Err(wrong) => reason = format!("is no manifest: {wrong}"),
                Ok(named) => {
                    let lacking = named.iter().find(|it| fs::metadata(self.root.join(&it.path)).is_err());
                    match lacking {
                        None => return Ok(Some((bytes, named))),
                        Some(lacking) => reason = format!("names {}, which is not there", lacking.digest),
                    }
                }
            }
        }
        Err(reason)
    }

    fn folders<'a>(&self, paths: impl Iterator<Item = &'a PathBuf>, sink: &mut dyn Sink) -> Result<(), WalkError> {
        let mut folders: Vec<&Path> =
            paths.flat_map(|path| path.ancestors().skip(1)).filter(|it| !it.as_os_str().is_empty()).collect();
        folders.sort();
        folders.dedup();
        for folder in folders {
            let at = self.root.join(folder);
            let entry = fs::symlink_metadata(&at).map(|meta| entry_of(&at, escaped(folder), &meta));
            if let Ok(Ok(mut entry)) = entry {
                entry.kind = Kind::Folder;
                entry.target = None;
                sink.entry(Offer::new(entry, Content::None))?;
            }
        }
        Ok(())
    }

    fn blob(&self, named: Named, sink: &mut dyn Sink) -> Result<(), WalkError> {
        let path = escaped(&named.path);
        let at = self.root.join(&named.path);
        let entry = fs::symlink_metadata(&at)
            .map_err(|error| error.to_string())
            .and_then(|meta| entry_of(&at, path.clone(), &meta).map_err(|(_, error)| error.to_string()));
        match entry {
            Ok(entry) if entry.kind != Kind::File => sink.problem(&path, "is not a file".to_owned()),
            Ok(entry) if entry.size != named.size => {
                sink.problem(&path, format!("has {} bytes, its manifest says {}", entry.size, named.size));
            }
            Ok(entry) => {
                let known = Some(named.digest);
                sink.entry(Offer { entry, content: Content::File(at), known, requires: Vec::new() })?;
            }
            Err(reason) => sink.problem(&path, reason),
        }
        Ok(())
    }
}

fn escaped(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}
