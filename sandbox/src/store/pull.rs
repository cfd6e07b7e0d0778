//! A model comes from the registry, piece by piece.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use wire::ollama::PullProgress;

use super::blob::{hex, publish};
use super::{Descriptor, Store, StoreError, io_at};
use crate::name::Name;
use crate::registry::{self, Image, Layer};
use crate::scenario::Pull;

/// Pieces that a new blob arrives in: enough for a progress bar to move.
const PIECES: usize = 4;

impl Store {
    /// Brings a model as if it had always been there: nothing that befalls pulls befalls it.
    pub(crate) fn seed(&self, name: &Name) -> Result<(), StoreError> {
        self.pull_at(name, &Pull::default(), |_| true)
    }

    /// Brings a model from the registry, telling `progress` as it goes; a `progress` that answers `false` ends it.
    /// What is there already is kept as it is.
    pub(crate) fn pull(&self, name: &Name, progress: impl FnMut(PullProgress) -> bool) -> Result<(), StoreError> {
        self.pull_at(name, &self.pace, progress)
    }

    fn pull_at(
        &self,
        name: &Name,
        pace: &Pull,
        mut progress: impl FnMut(PullProgress) -> bool,
    ) -> Result<(), StoreError> {
        let mut tell = |line: PullProgress| if progress(line) { Ok(()) } else { Err(StoreError::Cancelled) };
        tell(status("pulling manifest"))?;
        let Image { layers, config } = registry::image(name).ok_or(StoreError::UnknownModel)?;
        let mut descriptors = Vec::new();
        let mut pace = pace.clone();
        for layer in layers.iter().chain([&config]) {
            let descriptor = describe(layer);
            self.put_blob(&descriptor, &layer.bytes, &mut pace, &mut tell)?;
            descriptors.push(descriptor);
        }
        // Nothing is left to verify: a blob's name was made from its bytes. The line is part of the protocol.
        tell(status("verifying sha256 digest"))?;
        let one_less = |left: u32| left.checked_sub(1);
        if pace.mismatches > 0
            && self.mismatches.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
            && let Some(model) = descriptors.first()
        {
            let path = self.blob_path(&model.digest);
            fs::remove_file(&path).map_err(io_at(&path))?;
            return Err(StoreError::Corrupt { want: model.digest.clone(), got: format!("sha256:{}", hex(b"")) });
        }
        tell(status("writing manifest"))?;
        if let Some(config) = descriptors.pop() {
            self.put_manifest(name, config, descriptors)?;
        }
        tell(status("success"))
    }

    /// Writes a blob that comes piece by piece. Pieces that an earlier pull brought are not brought again, and those
    /// that come now are taken off `pace`.
    fn put_blob(
        &self,
        descriptor: &Descriptor,
        bytes: &[u8],
        pace: &mut Pull,
        tell: &mut impl FnMut(PullProgress) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let path = self.blob_path(&descriptor.digest);
        let here = |completed: usize| PullProgress {
            status: format!("pulling {}", &descriptor.digest["sha256:".len()..][..12]),
            digest: descriptor.digest.clone(),
            total: Some(descriptor.size),
            completed: (completed > 0).then_some(completed as u64),
        };
        if fs::metadata(&path).is_ok_and(|meta| meta.len() == descriptor.size) {
            return tell(here(bytes.len()));
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let partial = path.with_file_name(format!("{}-partial", descriptor.digest.replace(':', "-")));
        let held = fs::read(&partial).unwrap_or_default();
        let mut written = if bytes.starts_with(&held) && held.len() < bytes.len() { held.len() } else { 0 };
        tell(here(written))?;
        let mut file = open_at(&partial, written).map_err(io_at(&partial))?;
        for piece in bytes[written..].chunks(bytes.len().div_ceil(PIECES).max(1)) {
            match &mut pace.error_after_pieces {
                Some(0) => return Err(StoreError::RegistryGone),
                Some(left) => *left -= 1,
                None => {}
            }
            std::thread::sleep(Duration::from_millis(pace.piece_ms));
            file.write_all(piece).map_err(io_at(&partial))?;
            written += piece.len();
            // The last piece is told once the blob is safe.
            if written < bytes.len() {
                tell(here(written))?;
            }
        }
        publish(&file, &partial, &path).map_err(io_at(&path))?;
        tell(here(bytes.len()))
    }
}

fn status(status: &str) -> PullProgress {
    PullProgress { status: status.to_owned(), ..PullProgress::default() }
}

fn describe(layer: &Layer) -> Descriptor {
    Descriptor {
        media_type: layer.media_type.to_owned(),
        digest: format!("sha256:{}", hex(&layer.bytes)),
        size: layer.bytes.len() as u64,
    }
}

/// A file whose first `len` bytes stay, to be written after them.
fn open_at(path: &Path, len: usize) -> io::Result<File> {
    let mut file = File::options().create(true).write(true).truncate(false).open(path)?;
    file.set_len(len as u64)?;
    file.seek(SeekFrom::End(0))?;
    Ok(file)
}
