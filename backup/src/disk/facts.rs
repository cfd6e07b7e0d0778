//! What a folder stands on, asked before anything is written there.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

/// What a folder, there or not yet, stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The folder, or the nearest one above it that is there.
    pub nearest: PathBuf,
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Whether we may write there.
    pub is_writable: bool,
    /// The file system's kind, if it is one that is reached over a network.
    pub network: Option<String>,
}

impl Facts {
    /// Looks at a folder.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let nearest = folder.ancestors().find(|it| it.is_dir()).unwrap_or(Path::new("/"));
        let room = rustix::fs::statvfs(nearest)?;
        Ok(Self {
            nearest: nearest.to_owned(),
            free_bytes: room.f_bavail.saturating_mul(room.f_frsize),
            is_writable: rustix::fs::access(nearest, Access::WRITE_OK | Access::EXEC_OK).is_ok(),
            network: network(nearest)?,
        })
    }
}

/// Whether a disk is mounted at `folder`: it is there, and on another device than the folder above it.
pub fn is_mounted(folder: &Path) -> bool {
    let above = folder.parent().and_then(|it| fs::metadata(it).ok());
    let (Some(above), Ok(own)) = (above, fs::metadata(folder)) else { return false };
    own.is_dir() && own.dev() != above.dev()
}

/// Kinds by their magic numbers (`statfs(2)`).
#[cfg(target_os = "linux")]
fn network(folder: &Path) -> io::Result<Option<String>> {
    const KINDS: [(u32, &str); 8] = [
        (0x6969, "nfs"),
        (0xff53_4d42, "cifs"),
        (0xfe53_4d42, "smb2"),
        (0x517b, "smb"),
        (0x0102_1997, "9p"),
        (0x00c3_6400, "ceph"),
        (0x5346_414f, "afs"),
        (0x7363_7d33, "coda"),
    ];
    // The field is as wide as the machine has it; all numbers fit into 32 bits.
    let kind = rustix::fs::statfs(folder)?.f_type as u32;
    Ok(KINDS.iter().find(|(number, _)| *number == kind).map(|(_, name)| (*name).to_owned()))
}

/// Kinds by name.
#[cfg(target_vendor = "apple")]
fn network(folder: &Path) -> io::Result<Option<String>> {
    let name: String = rustix::fs::statfs(folder)?
        .f_fstypename
        .iter()
        .map(|it| *it as u8 as char)
        .take_while(|it| *it != '\0')
        .collect();
    Ok(["nfs", "smbfs", "afpfs", "webdav", "ftp"].contains(&name.as_str()).then_some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_stands_on_the_one_above() {
        let place = tempfile::tempdir().unwrap();
        let facts = Facts::of(&place.path().join("not/yet")).unwrap();
        assert_eq!((facts.nearest.as_path(), facts.is_writable, facts.network), (place.path(), true, None));
        assert!(facts.free_bytes > 0);
    }

    #[test]
    fn a_folder_is_no_mounted_disk() {
        let place = tempfile::tempdir().unwrap();
        assert!(!is_mounted(place.path()) && !is_mounted(&place.path().join("gone")));
        assert!(!cfg!(target_os = "linux") || is_mounted(Path::new("/proc")));
    }
}
