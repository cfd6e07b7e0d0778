//! One model in one file, for machines without internet: a tar archive of its blobs and then its manifest, which `tar -xf`
//! puts into a model store as well as we do.
//!
//! Invariant: no byte gets to a name before its digest was checked, and the manifest comes last.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

use backup::{Digest, HashingReader};
use stack::failure::{Class, Doing, Failure};
use tar::{Archive, Builder, EntryType, Header};
use tempfile::NamedTempFile;

use super::{
    Watch, Watched,
    manifest::{MANIFESTS, blob, parse, path},
};

/// No manifest is longer.
const MANIFEST_LIMIT: u64 = 16 << 20;

/// A model that was written to a file or taken from one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Its manifest, below the store.
    pub manifest: PathBuf,
    /// Its blobs.
    pub blobs: usize,
    /// Their length.
    pub bytes: u64,
}

/// Writes a model to a file that must not be there yet.
pub fn export(store: &Path, model: &str, file: &Path, begin: impl FnOnce(u64) -> Watch) -> Result<Moved, Failure> {
    let manifest = path(model);
    let at = store.join(&manifest);
    let bytes = match fs::read(&at) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::new(Class::Nothing, format!("there is no model `{model}` in {}", store.display()))
                .hint("`ollama list` shows those that there are"));
        }
        bytes => bytes.doing("cannot read", &at)?,
    };
    let mut named = parse(&bytes).map_err(|why| damaged(&at, &why))?;
    named.sort_by(|a, b| a.path.cmp(&b.path));
    named.dedup();
    if file.exists() {
        return Err(Failure::new(Class::Settings, format!("{} is there already", file.display()))
            .hint("name a file that is not there yet"));
    }
    let total = named.iter().map(|it| it.size).sum();
    let watch = begin(total);
    let folder = folder_of(file);
    let new = tempfile::Builder::new().prefix(".export-").tempfile_in(folder).doing("cannot write in", folder)?;
    let mut archive = Builder::new(new);
    for blob in &named {
        let at = store.join(&blob.path);
        let content = File::open(&at).doing("cannot read", &at)?;
        let mut content = HashingReader::new(Watched { from: content, watch: watch.clone() });
        append(&mut archive, &blob.path, blob.size, &mut content).doing("cannot write", file)?;
        if content.finish() != (blob.digest, blob.size) {
            return Err(damaged(&at, "it does not have the digest that its manifest says"));
        }
    }
    append(&mut archive, &manifest, bytes.len() as u64, &mut &bytes[..]).doing("cannot write", file)?;
    let new = archive.into_inner().doing("cannot write", file)?;
    new.as_file().sync_all().doing("cannot flush", file)?;
    new.persist_noclobber(file).map_err(|error| error.error).doing("cannot write", file)?;
    flush(folder)?;
    Ok(Moved { manifest, blobs: named.len(), bytes: total })
}

fn append<W: io::Write>(archive: &mut Builder<W>, path: &Path, size: u64, content: &mut dyn Read) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    archive.append_data(&mut header, path, content)
}

/// Takes models from a file into a store. What the store has already is left alone.
pub fn import(store: &Path, file: &Path, begin: impl FnOnce(u64) -> Watch) -> Result<Vec<Moved>, Failure> {
    let opened = File::open(file).doing("cannot read", file)?;
    let watch = begin(opened.metadata().doing("cannot read", file)?.len());
    let mut archive = Archive::new(Watched { from: opened, watch: watch.clone() });
    let mut moved = Vec::new();
    let mut placed = BTreeSet::new();
    let wrong = |why: &str| damaged(file, why);
    for found in archive.entries().map_err(|error| wrong(&error.to_string()))? {
        let mut found = found.map_err(|error| wrong(&error.to_string()))?;
        let path = found.path().map_err(|error| wrong(&error.to_string()))?.into_owned();
        if found.header().entry_type() == EntryType::Directory {
            continue;
        }
        match place(&path).filter(|_| found.header().entry_type() == EntryType::Regular) {
            None => return Err(wrong(&format!("`{}` in it is no part of a model", path.display()))),
            Some(Place::Blob(digest)) => {
                put(store, &path, &mut found, digest)?;
                placed.insert(digest);
            }
            Some(Place::Manifest) => {
                let mut bytes = Vec::new();
                (&mut found).take(MANIFEST_LIMIT).read_to_end(&mut bytes).map_err(|error| wrong(&error.to_string()))?;
                moved.push(complete(store, &path, &bytes, &placed).map_err(|why| wrong(&why))?);
                put(store, &path, &mut &bytes[..], Digest::of(&bytes))?;
            }
        }
    }
    if moved.is_empty() { Err(wrong("it holds no manifest")) } else { Ok(moved) }
}

enum Place {
    Blob(Digest),
    Manifest,
}

/// What a path in an archive may be; nothing else is written.
fn place(path: &Path) -> Option<Place> {
    let parts: Option<Vec<&str>> = path
        .components()
        .map(|part| match part {
            Component::Normal(part) => part.to_str(),
            _ => None,
        })
        .collect();
    match parts?.as_slice() {
        ["blobs", name] => name.strip_prefix("sha256-")?.parse().ok().map(Place::Blob),
        [MANIFESTS, _, .., _] => Some(Place::Manifest),
        _ => None,
    }
}

/// Whether all that a manifest names is there: from this file, or from before and as long as it says.
fn complete(store: &Path, path: &Path, bytes: &[u8], placed: &BTreeSet<Digest>) -> Result<Moved, String> {
    let named = parse(bytes)?;
    let is_there = |it: &backup::source::Named| {
        placed.contains(&it.digest) || fs::metadata(store.join(blob(it.digest))).is_ok_and(|meta| meta.len() == it.size)
    };
    match named.iter().find(|it| !is_there(it)) {
        Some(lacking) => Err(format!("it lacks {}, which {} names", lacking.digest, path.display())),
        None => {
            Ok(Moved { manifest: path.to_owned(), blobs: named.len(), bytes: named.iter().map(|it| it.size).sum() })
        }
    }
}

/// Writes a file beside its name, checks it, flushes it, and gives it its name.
fn put(store: &Path, path: &Path, from: &mut dyn Read, digest: Digest) -> Result<(), Failure> {
    let at = store.join(path);
    let folder = folder_of(&at);
    fs::create_dir_all(folder).doing("cannot make", folder)?;
    let mut new: NamedTempFile =
        tempfile::Builder::new().prefix(".import-").tempfile_in(folder).doing("cannot write in", folder)?;
    let mut content = HashingReader::new(from);
    io::copy(&mut content, &mut new).doing("cannot write", &at)?;
    if content.finish().0 != digest {
        return Err(damaged(&at, "what came does not have its digest"));
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    new.as_file().set_permissions(mode).doing("cannot write", &at)?;
    new.as_file().sync_all().doing("cannot flush", &at)?;
    new.persist(&at).map_err(|error| error.error).doing("cannot write", &at)?;
    flush(folder)
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn flush(folder: &Path) -> Result<(), Failure> {
    File::open(folder).and_then(|it| it.sync_all()).doing("cannot flush", folder)
}

fn damaged(at: &Path, why: &str) -> Failure {
    Failure::new(Class::Failed, format!("{} is not whole: {why}", at.display()))
        .hint("pull the model again, or restore it from a backup")
}
