//! A folder with a live SQLite database in it.
//!
//! The database is copied under SQLite's own locks: a shared lock over the whole file keeps every writer out (they take
//! an exclusive lock on a byte of it first), and one over the whole `-shm` file does the same in WAL mode
//! (<https://www.sqlite.org/src/file/src/os_unix.c>, "Posix Advisory Locking"; <https://www.sqlite.org/walformat.html>).
//! Readers are let through. The kernel gives the locks back when we end, however that is. Invariant: what is saved is a
//! state that the database had, together with the journal that it may need.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

use super::{Content, FolderSource, Offer, Sink, Source, WalkError, entry_of};
use crate::tree::escape;

/// How long writers may keep us out.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries: a writer that writes without end leaves gaps of some 0.1 ms.
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// The database and what its transactions may have left beside it. `-shm` is made anew from them.
const FILES: [&str; 3] = ["", "-wal", "-journal"];

/// Everything below a folder, a database in it consistently.
pub struct SqliteSource {
    folder: FolderSource,
    database: PathBuf,
}

impl SqliteSource {
    /// The folder, and the name of the database in it.
    pub fn new(folder: FolderSource, database: &str) -> Self {
        let mut folder = folder;
        // A leading `/`: in the folder itself, at no other depth.
        folder.excludes.push(format!("/{database}"));
        folder.excludes.extend(["-wal", "-journal", "-shm"].map(|it| format!("/{database}{it}")));
        Self { database: folder.root.join(database), folder }
    }
}

impl Source for SqliteSource {
    fn name(&self) -> &str {
        self.folder.name()
    }

    fn walk(&self, sink: &mut dyn Sink) -> Result<(), WalkError> {
        self.folder.walk(sink)?;
        let failed = |error| WalkError::Failed(format!("cannot read the database: {error}"));
        if !self.database.try_exists().map_err(failed)? {
            return Ok(());
        }
        let database = File::open(&self.database).map_err(failed)?;
        let _shared = if sink.reads_content() { hold(&database, &self.database)? } else { None };
        for ending in FILES {
            let at = beside(&self.database, ending);
            let Ok(meta) = fs::symlink_metadata(&at) else { continue };
            let path = at.file_name().unwrap_or_default();
            let entry = entry_of(&at, escape(path.as_bytes()), &meta).map_err(|(_, error)| failed(error))?;
            // The database is read through the descriptor that has the lock: to close another one would give it up.
            let content: &mut (dyn Read + Send) = match ending {
                "" => &mut &database,
                _ => &mut File::open(&at).map_err(failed)?,
            };
            sink.entry(Offer::new(entry, Content::Stream(content)))?;
        }
        Ok(())
    }
}

fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Keeps writers out until both files are closed; the second is the `-shm` of a database in WAL mode.
fn hold(database: &File, path: &Path) -> Result<Option<File>, WalkError> {
    let failed = |error: io::Error| WalkError::Failed(format!("cannot lock the database: {error}"));
    let shared = match File::open(beside(path, "-shm")) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    let deadline = Instant::now() + PATIENCE;
    for file in [Some(database), shared.as_ref()].into_iter().flatten() {
        loop {
            match fcntl_lock(file, FlockOperation::NonBlockingLockShared) {
                Ok(()) => break,
                Err(Errno::AGAIN | Errno::ACCESS) if Instant::now() < deadline => thread::sleep(LOOK_EVERY),
                Err(Errno::AGAIN | Errno::ACCESS) => {
                    let seconds = PATIENCE.as_secs();
                    return Err(WalkError::Failed(format!("the database is written without a pause of {seconds} s")));
                }
                Err(error) => return Err(failed(error.into())),
            }
        }
    }
    Ok(shared)
}
