//! The host's secrets: a file each, 0600, in a folder that is closed to others.

use std::{collections::BTreeMap, fs, io::Read, os::unix::fs::PermissionsExt, path::Path};

use super::lock;
use crate::{
    durable,
    failure::{Class, Doing, Failure},
    layout::Root,
    secret::{self, Secret},
};

/// All secrets by name, with their values if they are to be shown.
pub(super) fn list(root: &Root, reveal: bool) -> Result<BTreeMap<String, Option<Secret>>, Failure> {
    let folder = root.secrets();
    let mut secrets = BTreeMap::new();
    if !folder.exists() {
        return Ok(secrets);
    }
    for entry in fs::read_dir(&folder).doing("cannot list", &folder)? {
        let path = entry.doing("cannot list", &folder)?.path();
        // What a write that was cut off has left has no such name.
        let Some(Ok(name)) = path.file_name().and_then(|name| name.to_str()).map(secret::name) else { continue };
        let value = match reveal {
            true => Some(Secret::new(fs::read_to_string(&path).doing("cannot read", &path)?)),
            false => None,
        };
        secrets.insert(name, value);
    }
    Ok(secrets)
}

/// Keeps a secret, in place of the one that had its name.
pub(super) fn set(root: &Root, name: &str, value: &Secret) -> Result<(), Failure> {
    let (_lock, path) = open(root, name)?;
    durable::write_private(&path, value.reveal().as_bytes()).doing("cannot write", &path)
}

/// Makes up a secret, unless there is one of that name. Containers have users of their own, who are to read it: it is the
/// folder that is closed, and the file is open to whoever has been given it.
pub(super) fn generate(root: &Root, name: &str) -> Result<(), Failure> {
    let folder = root.secrets();
    let path = folder.join(name);
    if path.exists() {
        return Ok(());
    }
    open_folder(&folder)?;
    let random = || -> std::io::Result<String> {
        let mut bytes = [0; 16];
        fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    };
    let value = random().doing("cannot read", Path::new("/dev/urandom"))?;
    durable::write(&path, value.as_bytes()).doing("cannot write", &path)
}

/// Forgets a secret.
pub(super) fn remove(root: &Root, name: &str) -> Result<(), Failure> {
    let (_lock, path) = open(root, name)?;
    if !path.exists() {
        return Err(Failure::new(Class::Nothing, format!("there is no secret {name}"))
            .hint("`cargo xtask secret list` shows those that there are"));
    }
    durable::remove(&path)
}

fn open(root: &Root, name: &str) -> Result<(fs::File, std::path::PathBuf), Failure> {
    let name =
        secret::name(name).map_err(|why| Failure::new(Class::Settings, format!("{name:?} names no secret: {why}")))?;
    let folder = root.secrets();
    open_folder(&folder)?;
    Ok((lock(root, "secret")?, folder.join(name)))
}

fn open_folder(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).doing("cannot create", folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).doing("cannot close", folder)
}
