//! The host's secrets: a file each, in a folder that is closed to others.
//!
//! Invariant: what leaves the host unasked is a secret's name, and a digest of it under a key that stays here: it tells
//! that a value has changed, and nobody can try values on it.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::lock;
use crate::{
    declare, durable,
    failure::{Class, Doing, Failure},
    layout::Root,
    secret::{self, Secret},
};

/// All secrets by name, with their values if they are to be shown.
pub(super) fn list(root: &Root, reveal: bool) -> Result<BTreeMap<String, Option<Secret>>, Failure> {
    let read = |path: &Path| Ok(Some(Secret::new(fs::read_to_string(path).doing("cannot read", path)?)));
    let value = |path: PathBuf| if reveal { read(&path) } else { Ok(None) };
    files(root)?.into_iter().map(|(name, path)| Ok((name, value(path)?))).collect()
}

/// A digest of each secret, by name.
pub(super) fn digests(root: &Root) -> Result<BTreeMap<String, String>, Failure> {
    let files = files(root)?;
    if files.is_empty() {
        return Ok(BTreeMap::new());
    }
    let key = key(root).doing("cannot make", &root.secret_key())?;
    let digest = |path: &Path| {
        let mut digest = Hmac::<Sha256>::new_from_slice(&key).expect("a key of any length will do");
        digest.update(&fs::read(path).doing("cannot read", path)?);
        Ok(hex(&digest.finalize().into_bytes()[..8]))
    };
    files.into_iter().map(|(name, path)| Ok((name, digest(&path)?))).collect()
}

/// Keeps a secret, in place of the one that had its name.
pub(super) fn set(root: &Root, name: &str, value: &Secret) -> Result<(), Failure> {
    let (_lock, path) = open(root, name)?;
    write(&path, name, value.reveal())
}

/// Makes up a secret, unless there is one of that name.
pub(super) fn generate(root: &Root, name: &str) -> Result<(), Failure> {
    let folder = root.secrets();
    let path = folder.join(name);
    if path.exists() {
        return Ok(());
    }
    open_folder(&folder)?;
    let random: [u8; 16] = random().doing("cannot read", Path::new("/dev/urandom"))?;
    write(&path, name, &hex(&random))
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

/// For its owner alone. Containers have users of their own, who are to read what they are given: of such a secret it is
/// the folder that is closed.
fn write(path: &Path, name: &str, value: &str) -> Result<(), Failure> {
    let write = if declare::docker::SECRETS.contains(&name) { durable::write } else { durable::write_private };
    write(path, value.as_bytes()).doing("cannot write", path)
}

/// The files by name. What a write that was cut off has left has no name of a secret.
fn files(root: &Root) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let folder = root.secrets();
    if !folder.exists() {
        return Ok(BTreeMap::new());
    }
    let entries = fs::read_dir(&folder).and_then(|entries| entries.map(|it| Ok(it?.path())).collect());
    let paths: Vec<PathBuf> = entries.doing("cannot list", &folder)?;
    let name = |path: &PathBuf| secret::name(path.file_name()?.to_str()?).ok();
    Ok(paths.into_iter().filter_map(|path| Some((name(&path)?, path))).collect())
}

/// The key of this host. Of two who make one at once, both get the one that was there first.
fn key(root: &Root) -> io::Result<Vec<u8>> {
    let path = root.secret_key();
    if let Some(key) = durable::read_if_any(&path)? {
        return Ok(key);
    }
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(root.state())?;
    file.write_all(&random::<32>()?)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(&path) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
        _ => fs::read(&path),
    }
}

fn random<const SIZE: usize>() -> io::Result<[u8; SIZE]> {
    let mut bytes = [0; SIZE];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn open(root: &Root, name: &str) -> Result<(fs::File, PathBuf), Failure> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path().to_owned());
        (folder, root)
    }

    fn set_to(root: &Root, value: &str) -> String {
        set(root, "x", &Secret::new(value.to_owned())).unwrap();
        digests(root).unwrap()["x"].clone()
    }

    #[test]
    fn a_digest_tells_that_a_value_changed_and_nothing_else() {
        let (_here, here) = host();
        let (_there, there) = host();
        assert_eq!(digests(&here).unwrap(), BTreeMap::new());
        assert!(!here.secret_key().exists());
        let first = set_to(&here, "one");
        assert_ne!(set_to(&here, "two"), first);
        assert_eq!(set_to(&here, "one"), first);
        // Another host's digests are others: none can be looked up.
        assert_ne!(set_to(&there, "one"), first);
        let mode = fs::metadata(here.secret_key()).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }

    #[test]
    fn who_is_given_a_secret_in_a_container_can_read_it_when_it_has_changed() {
        let (_folder, root) = host();
        let name = declare::docker::SECRETS[0];
        let mode = |name: &str| fs::metadata(root.secrets().join(name)).unwrap().permissions().mode() & 0o777;
        generate(&root, name).unwrap();
        assert_eq!((mode(name), mode("")), (0o644, 0o700));
        set(&root, name, &Secret::new("hunter2".to_owned())).unwrap();
        set(&root, "slack-url", &Secret::new("hunter2".to_owned())).unwrap();
        assert_eq!((mode(name), mode("slack-url")), (0o644, 0o600));
    }
}
