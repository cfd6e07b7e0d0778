//! One connection for several verbs in a row: the second one starts in half the time.
//!
//! Only where the user's own configuration says nothing about it, and in a folder that is ours alone: whoever can reach
//! the socket can log in. Invariant: no sharing is no error.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

/// How long the connection outlives the verb that opened it.
const PERSIST_S: u32 = 60;

/// Options that share the connection, or none. `destination` is what ssh is told: options, then the address.
pub(super) fn options(destination: &[String]) -> Vec<String> {
    if has_own(destination) {
        return Vec::new();
    }
    let Ok(folder) = private_folder() else { return Vec::new() };
    // %C is 40 digits and ssh adds 17: in a short folder it fits the 104 bytes that macOS gives a socket's path.
    [
        "ControlMaster=auto".to_owned(),
        format!("ControlPath={}/%C", folder.display()),
        format!("ControlPersist={PERSIST_S}"),
    ]
    .into_iter()
    .flat_map(|option| ["-o".to_owned(), option])
    .collect()
}

/// Whether the user's configuration shares connections to there already, or forbids it.
fn has_own(destination: &[String]) -> bool {
    let asked = ["-G".to_owned()].into_iter().chain(destination.iter().cloned());
    let settings = duct::cmd("ssh", asked).stderr_null().unchecked().read().unwrap_or_default();
    settings
        .lines()
        .any(|line| line.starts_with("controlpath ") || line.starts_with("controlmaster ") && !line.ends_with(" false"))
}

/// A folder in /tmp, whose path is short, that nobody else can enter.
fn private_folder() -> io::Result<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    let folder = PathBuf::from(format!("/tmp/xtask-{uid}"));
    match fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    is_private(&folder, uid)?.then_some(folder).ok_or_else(|| io::Error::from(io::ErrorKind::PermissionDenied))
}

/// Not a link, ours, and closed to others: anyone could have made it before us.
fn is_private(folder: &Path, uid: u32) -> io::Result<bool> {
    let meta = fs::symlink_metadata(folder)?;
    Ok(meta.is_dir() && meta.uid() == uid && meta.mode() & 0o077 == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_folder_that_others_can_enter_or_made_is_not_private() {
        let place = tempfile::tempdir().unwrap();
        let uid = rustix::process::getuid().as_raw();
        let mode = |mode| fs::set_permissions(place.path(), fs::Permissions::from_mode(mode)).unwrap();
        mode(0o700);
        assert!(is_private(place.path(), uid).unwrap());
        assert!(!is_private(place.path(), uid + 1).unwrap());
        let link = place.path().join("link");
        symlink(place.path(), &link).unwrap();
        assert!(!is_private(&link, uid).unwrap());
        mode(0o750);
        assert!(!is_private(place.path(), uid).unwrap());
    }
}
