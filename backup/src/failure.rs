//! What can go wrong with a repository, in one vocabulary for all that is done with one.

use std::io;

const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

/// Why something could not be done with a repository.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refused an operation.
    #[error("cannot {doing} `{path}` in the repository")]
    Disk {
        /// What was being done, as a verb.
        doing: &'static str,
        /// To which file, relative to the repository.
        path: String,
        /// What the system answered.
        source: io::Error,
    },
    /// There is no repository here.
    #[error("there is no repository here")]
    Absent,
    /// A repository was to be made where something else is.
    #[error("the folder holds other things and no repository")]
    Occupied,
    /// The repository is of a kind that this program does not know.
    #[error("the repository needs {0}, which this program does not know")]
    Unsupported(String),
    /// Another program is at work in it.
    #[error("another run holds the repository's lock")]
    Locked,
    /// Whoever looked on has had enough.
    #[error("the run was asked to stop")]
    Stopped,
    /// A file of the repository is not what its place promises.
    #[error("`{path}` in the repository is damaged: {what}")]
    Damaged {
        /// The file, relative to the repository.
        path: String,
        /// In what way.
        what: String,
    },
    /// An object that a snapshot names is not there.
    #[error("object {0} is missing")]
    Missing(String),
    /// No snapshot has that id, or several begin with it.
    #[error("{found} snapshots begin with `{id}`")]
    Ambiguous {
        /// What was asked for.
        id: String,
        /// How many there are.
        found: usize,
    },
}

impl StoreError {
    /// What to do next.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Absent => "run a backup: the first one makes the repository",
            Self::Occupied => "name an empty folder, or one that is not there yet",
            Self::Unsupported(_) => "use the program that wrote it, or a newer one",
            Self::Locked => "wait for the other run: the lock goes when it ends, however it ends",
            Self::Damaged { .. } | Self::Missing(_) => {
                "verify everything, then back up: what a source still has is healed"
            }
            Self::Ambiguous { .. } => "list the snapshots and name one",
            Self::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "prune, or make room on the disk"
            }
            Self::Stopped | Self::Disk { .. } => return None,
        })
    }

    pub(crate) fn damaged(path: &str, what: impl ToString) -> Self {
        Self::Damaged { path: path.to_owned(), what: what.to_string() }
    }

    /// Whether it is the data that is wrong, and not the way to it.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::Missing(_) => true,
            // A sector that the drive cannot read is as lost as one that reads wrong.
            Self::Disk { doing: "read", source, .. } => source.raw_os_error() == Some(EIO),
            _ => false,
        }
    }
}

/// Says what was being done when the disk refused.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str, path: &str) -> Result<T, StoreError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str, path: &str) -> Result<T, StoreError> {
        self.map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => StoreError::damaged(path, "it ends early"),
            io::ErrorKind::InvalidData => StoreError::damaged(path, source),
            _ => StoreError::Disk { doing, path: path.to_owned(), source },
        })
    }
}
