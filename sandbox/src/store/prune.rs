//! What no model uses goes: blobs of a model that was deleted or written over, and at the start whatever is old.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::manifest::{Manifest, children};
use super::{Store, StoreError, io_at, is_absence, read_json};

/// How old what nobody refers to must be before it is pruned: it may belong to a pull that goes on.
const PRUNE_AFTER: Duration = Duration::from_secs(60 * 60);

impl Store {
    /// As Ollama at its start: removes what is older than an hour among the blobs and is no blob, or one that no
    /// manifest refers to; nothing at all if a manifest cannot be read.
    pub(crate) fn prune(&self) -> Result<(), StoreError> {
        let Some(used) = self.used()? else {
            log::warn!("a manifest cannot be read: nothing is pruned");
            return Ok(());
        };
        let blobs = self.root.join("blobs");
        for file in children(&blobs)? {
            let path = blobs.join(&file);
            let age = fs::metadata(&path).and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
            if !used.contains(&path) && path.is_file() && age.is_some_and(|age| age >= PRUNE_AFTER) {
                log::info!("removing {file}: no model uses it");
                fs::remove_file(&path).map_err(io_at(&path))?;
            }
        }
        Ok(())
    }

    pub(super) fn remove_unused(&self, digests: impl Iterator<Item = String>) -> Result<(), StoreError> {
        let Some(used) = self.used()? else { return Ok(()) };
        for path in digests.map(|digest| self.blob_path(&digest)).filter(|path| !used.contains(path)) {
            match fs::remove_file(&path) {
                Err(error) if !is_absence(&error) => return Err(io_at(&path)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Where the blobs are that manifests refer to; `None` if a manifest cannot be read.
    fn used(&self) -> Result<Option<HashSet<PathBuf>>, StoreError> {
        let mut used = HashSet::new();
        for name in self.names()? {
            let path = self.root.join("manifests").join(name.path());
            match read_json::<Manifest>(&path) {
                Ok(manifest) => used.extend(manifest.blobs().map(|blob| self.blob_path(&blob.digest))),
                Err(StoreError::Damaged { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(used))
    }
}
