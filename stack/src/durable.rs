//! Files that are either the old ones or the new ones, whatever happens in between.
//!
//! Invariant: every name this module makes visible refers to content that was flushed before.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::failure::{Class, Doing, Failure};

/// Writes `content` beside `path`, flushes it, and renames it into place.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    write_with(path, content, 0o644)
}

/// Like [`write()`], for its owner's eyes only, and so from the first byte on.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    write_with(path, content, 0o600)
}

fn write_with(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let folder = parent(path)?;
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
    file.write_all(content)?;
    // Temporary files are made 0600.
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    flush_folder(folder)
}

/// Like [`write`], but only readers must never see half of it: it need not survive a power cut.
pub(crate) fn write_volatile(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(parent(path)?)?;
    file.write_all(content)?;
    file.persist(path)?;
    Ok(())
}

/// Copies a program into place under its own, never truncated, inode: what runs goes on running.
pub(crate) fn copy_program(from: &Path, to: &Path) -> io::Result<()> {
    let folder = parent(to)?;
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
    io::copy(&mut File::open(from)?, file.as_file_mut())?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o755))?;
    file.as_file().sync_all()?;
    file.persist(to)?;
    flush_folder(folder)
}

/// Replaces `to` by another name of `from`'s content.
pub(crate) fn link(from: &Path, to: &Path) -> io::Result<()> {
    let folder = parent(to)?;
    let temporary = tempfile::Builder::new().prefix(".new-").tempdir_in(folder)?;
    let name = temporary.path().join("link");
    fs::hard_link(from, &name)?;
    fs::rename(&name, to)?;
    // rename(2) does nothing where both names are one file already; the folder takes the leftover with it.
    flush_folder(folder)
}

/// Points the symbolic link `path` at `target` in one step.
pub(crate) fn point(path: &Path, target: &Path) -> io::Result<()> {
    let folder = parent(path)?;
    let temporary = tempfile::Builder::new().prefix(".new-").tempdir_in(folder)?;
    let name = temporary.path().join("link");
    symlink(target, &name)?;
    fs::rename(&name, path)?;
    flush_folder(folder)
}

/// Removes a file, a link, or a folder with all that is in it. That nothing is there is as good.
pub fn remove(path: &Path) -> Result<(), Failure> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.doing("cannot remove", path),
    }
}

/// Makes the names in a folder as durable as what they name.
pub(crate) fn flush_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// `None` where there is no such file.
pub fn read_if_any(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads one of our own JSON files; `None` where there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Failure> {
    let Some(bytes) = read_if_any(path).doing("cannot read", path)? else { return Ok(None) };
    let value = serde_json::from_slice(&bytes).map_err(|error| {
        Failure::new(Class::Failed, format!("cannot understand {}", path.display()))
            .because(&error)
            .hint("it is ours, and rewritten by every deploy: move the file away and deploy again")
    })?;
    Ok(Some(value))
}

/// Writes one of our own JSON files, for people to read too.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let json = serde_json::to_vec_pretty(value).map_err(io::Error::from);
    json.and_then(|json| write(path, &json)).doing("cannot write", path)
}

/// Like [`write_json`] and [`write_volatile`].
pub(crate) fn write_volatile_json(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let json = serde_json::to_vec_pretty(value).map_err(io::Error::from);
    json.and_then(|json| write_volatile(path, &json)).doing("cannot write", path)
}

fn parent(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no folder"))
}
