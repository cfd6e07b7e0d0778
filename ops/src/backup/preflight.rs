//! What is asked before a single byte is written, in a dry run and a real one alike.
//!
//! Invariant: nothing here writes, takes a lock, or reads what a source holds.

use std::{
    io,
    path::{Path, PathBuf},
};

use backup::{
    Estimate, PrunePlan, Repository, StoreError,
    disk::{Facts, is_mounted},
    source::Source,
};
use stack::{
    backup::Backups,
    failure::{Class, Failure},
};

use super::Backup;

/// What a Mac calls the right to read and write other programs' places, and how it is given.
pub(super) const FULL_DISK_ACCESS: &str = "macOS keeps this program out: in System Settings, Privacy & Security, Full \
Disk Access, add bin/xtask below the stack's root (a scheduled run has none of your terminal's rights)";

/// What is left free: a file system without any room is slow, and a danger to its neighbours.
const SPARE: u64 = 64 << 20;

/// What is done only when it was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// A repository on a network file system.
    pub network: bool,
    /// A new repository where there was one that is not there now.
    pub anew: bool,
}

/// What a run would find.
#[derive(Debug)]
pub struct Preflight {
    /// Whether there is a repository.
    pub exists: bool,
    /// Bytes that can still be written there.
    pub free_bytes: u64,
    /// What would be saved.
    pub estimate: Estimate,
    /// What prune would do to the snapshots that there are, if the run prunes.
    pub prune: Option<PrunePlan>,
    /// Why the run would fail.
    pub refusal: Option<Failure>,
}

impl Preflight {
    /// Length of what would have to be read.
    pub fn new_bytes(&self) -> u64 {
        self.estimate.sources.values().map(|it| it.new_bytes).sum()
    }
}

impl Backup {
    /// Looks at the destination and the sources.
    pub fn preflight(&self, allowed: Allowed) -> Result<Preflight, Failure> {
        self.destination(Path::new("/Volumes"), allowed)?;
        let repository = match Repository::at(&self.repository) {
            Ok(repository) => Some(repository),
            Err(StoreError::Absent) => None,
            Err(error) => return Err(self.failure("cannot open", &error)),
        };
        let facts = self.facts()?;
        let sources: Vec<&dyn Source> = self.sources().collect();
        let estimate =
            Estimate::of(repository.as_ref(), &sources).map_err(|error| self.failure("cannot read", &error))?;
        let prune = match &repository {
            Some(repository) if self.prunes => repository.plan_prune(&self.keep).ok(),
            _ => None,
        };
        let mut found =
            Preflight { exists: repository.is_some(), free_bytes: facts.free_bytes, estimate, prune, refusal: None };
        found.refusal = self.refusal(&facts, allowed, found.new_bytes()).err();
        Ok(found)
    }

    fn facts(&self) -> Result<Facts, Failure> {
        Facts::of(&self.repository).map_err(|error| {
            Failure::new(Class::Failed, format!("cannot look at {}", self.repository.display())).because(&error)
        })
    }

    /// Whether the disk that is meant is there. An absent one must not be replaced by a folder of that name.
    fn destination(&self, volumes: &Path, allowed: Allowed) -> Result<(), Failure> {
        let at = &self.repository;
        if let Ok(below) = at.strip_prefix(volumes)
            && let Some(disk) = below.components().next()
        {
            let disk = volumes.join(disk);
            if !is_mounted(&disk) {
                return Err(Failure::new(Class::Nothing, format!("no disk is mounted at {}", disk.display()))
                    .hint("connect the backup disk, or name another place with --repository"));
            }
        }
        let Some(stack) = &self.stack else { return Ok(()) };
        let last = Backups::read(&stack.root)?.repository;
        let has_gone = last.as_ref() == Some(at) && !at.join("format.json").exists();
        if has_gone && !allowed.anew {
            let message = format!("the repository that the last backup was written to is not at {}", at.display());
            return Err(Failure::new(Class::Nothing, message)
                .hint("mount its disk; if it is gone for good, `cargo xtask backup --new` begins another"));
        }
        Ok(())
    }

    fn refusal(&self, facts: &Facts, allowed: Allowed, new_bytes: u64) -> Result<(), Failure> {
        let at = self.repository.display();
        if let (Some(kind), false) = (&facts.network, allowed.network) {
            return Err(Failure::new(Class::Refused, format!("{at} is on a network file system ({kind})"))
                .because(&Why("locks and flushes mean too little there to promise anything"))
                .hint("name a local disk with --repository, or take the risk with --network"));
        }
        if !facts.is_writable {
            let failure = Failure::new(Class::Refused, format!("{} cannot be written", facts.nearest.display()));
            return Err(match self.system.as_str() {
                "Darwin" => failure.hint(FULL_DISK_ACCESS),
                _ => failure.hint(format!(
                    "make the folder yours once: sudo install -d -o \"$USER\" -m 700 {at}; or name another place"
                )),
            });
        }
        let needed = new_bytes.saturating_add(SPARE);
        if facts.free_bytes < needed && new_bytes > 0 {
            let message = format!("{at} has {} bytes free, and up to {needed} are needed", facts.free_bytes);
            return Err(Failure::new(Class::Failed, message)
                .hint("make room: `cargo xtask backup prune` with a tighter policy, or a larger disk"));
        }
        self.may_read()
    }

    /// On a Mac, what a person may read a scheduled program may not.
    fn may_read(&self) -> Result<(), Failure> {
        if self.system != "Darwin" {
            return Ok(());
        }
        let places = self.parts.iter().filter_map(|it| it.target.folder()).chain([&self.repository]);
        match places.map(PathBuf::as_path).find(|it| is_kept_from_us(it)) {
            None => Ok(()),
            Some(place) => {
                Err(Failure::new(Class::Refused, format!("{} cannot be read", place.display())).hint(FULL_DISK_ACCESS))
            }
        }
    }
}

/// macOS answers "not permitted" where a file's own rights would give "denied".
fn is_kept_from_us(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_err_and(|error| is_private(&error))
}

pub(super) fn is_private(error: &io::Error) -> bool {
    const EPERM: i32 = 1;
    error.raw_os_error() == Some(EPERM)
}

/// A cause in words.
#[derive(Debug, Clone, Copy)]
struct Why(&'static str);

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Why {}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn of(place: &Path) -> Backup {
        fs::create_dir_all(place.join("from")).unwrap();
        fs::write(place.join("from/file"), b"content").unwrap();
        Backup::of_folder(&place.join("disk/repository"), Some(&place.join("from"))).unwrap()
    }

    fn facts(free_bytes: u64, network: Option<&str>, is_writable: bool) -> Facts {
        Facts { nearest: "/disk".into(), free_bytes, is_writable, network: network.map(str::to_owned) }
    }

    #[test]
    fn a_disk_that_is_not_mounted_is_not_replaced_by_a_folder() {
        let place = tempfile::tempdir().unwrap();
        let backup = of(place.path());
        let failure = backup.destination(place.path(), Allowed::default()).unwrap_err();
        assert_eq!(failure.class, Class::Nothing, "{failure}");
        fs::create_dir_all(place.path().join("disk")).unwrap();
        assert!(backup.destination(place.path(), Allowed::default()).is_err(), "a folder of that name is no disk");
        assert_eq!(backup.destination(Path::new("/Volumes"), Allowed::default()), Ok(()), "elsewhere it is a folder");
        assert!(!place.path().join("disk/repository").exists());
    }

    #[test]
    fn says_what_is_in_the_way() {
        let place = tempfile::tempdir().unwrap();
        let mut backup = of(place.path());
        let class =
            |backup: &Backup, facts, allowed, bytes| backup.refusal(&facts, allowed, bytes).err().map(|it| it.class);
        let (none, network) = (Allowed::default(), Allowed { network: true, ..Allowed::default() });
        assert_eq!(class(&backup, facts(1 << 30, None, true), none, 1 << 20), None);
        assert_eq!(class(&backup, facts(1 << 30, Some("nfs"), true), none, 1), Some(Class::Refused));
        assert_eq!(class(&backup, facts(1 << 30, Some("nfs"), true), network, 1), None);
        assert_eq!(class(&backup, facts(1 << 30, None, false), none, 1), Some(Class::Refused));
        assert_eq!(class(&backup, facts(1 << 20, None, true), none, 1 << 20), Some(Class::Failed));
        assert_eq!(class(&backup, facts(0, None, true), none, 0), None, "nothing new needs no room");
        backup.system = "Darwin".to_owned();
        let failure = backup.refusal(&facts(1 << 30, None, false), none, 1).unwrap_err();
        assert!(failure.hint.unwrap().contains("Full Disk Access"));
        let private =
            StoreError::Disk { doing: "read", path: "lock".to_owned(), source: io::Error::from_raw_os_error(1) };
        assert!(backup.failure("cannot open", &private).hint.unwrap().contains("Full Disk Access"));
    }

    #[test]
    fn looking_changes_nothing() {
        let place = tempfile::tempdir().unwrap();
        let backup = of(place.path());
        let found = backup.preflight(Allowed::default()).unwrap();
        assert_eq!((found.exists, found.new_bytes(), found.refusal), (false, 7, None));
        assert!(!place.path().join("disk").exists());
    }
}
