//! Manifests: a model's name, and the blobs that it is made of.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::PoisonError;

use serde::{Deserialize, Serialize};

use super::blob::publish;
use super::{Descriptor, Store, StoreError, damaged_at, io_at, is_absence};
use crate::name::Name;
use crate::registry::media;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    schema_version: u32,
    media_type: String,
    pub(super) config: Descriptor,
    /// Go writes none as `null`.
    pub(super) layers: Option<Vec<Descriptor>>,
}

impl Manifest {
    /// The blobs that it refers to.
    pub(super) fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.layers.iter().flatten().chain([&self.config])
    }
}

impl Store {
    /// The name in the letters that the store has it in, if it has it.
    pub(super) fn as_held(&self, name: &Name) -> Result<Name, StoreError> {
        Ok(self.names()?.into_iter().find(|held| held.is_same(name)).unwrap_or_else(|| name.clone()))
    }

    pub(super) fn put_manifest(
        &self,
        name: &Name,
        config: Descriptor,
        layers: Vec<Descriptor>,
    ) -> Result<(), StoreError> {
        let manifest =
            Manifest { schema_version: 2, media_type: media::MANIFEST.to_owned(), config, layers: Some(layers) };
        let path = self.root.join("manifests").join(name.path());
        let bytes = serde_json::to_vec(&manifest).map_err(damaged_at(&path))?;
        self.put_manifest_bytes(name, &bytes)
    }

    pub(super) fn put_manifest_bytes(&self, name: &Name, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.root.join("manifests").join(name.path());
        if fs::read(&path).is_ok_and(|held| held == bytes) {
            return Ok(());
        }
        let _writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(io_at(dir))?;
        }
        // Beside the tags it would look like one, so it waits among the blobs.
        let partial = self.root.join("blobs").join("manifest-partial");
        let mut file = File::create(&partial).map_err(io_at(&partial))?;
        file.write_all(bytes).map_err(io_at(&partial))?;
        publish(&file, &partial, &path).map_err(io_at(&path))
    }

    /// The names of all manifests, in the order of their paths.
    pub(super) fn names(&self) -> Result<Vec<Name>, StoreError> {
        let mut names = Vec::new();
        let root = self.root.join("manifests");
        for host in children(&root)? {
            for namespace in children(&root.join(&host))? {
                for model in children(&root.join(&host).join(&namespace))? {
                    for tag in children(&root.join(&host).join(&namespace).join(&model))? {
                        names.extend(Name::from_parts(&host, &namespace, &model, &tag));
                    }
                }
            }
        }
        Ok(names)
    }
}

/// Names of a directory's entries, sorted. A file in a directory's place has none.
pub(super) fn children(dir: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if is_absence(&error) => return Ok(Vec::new()),
        Err(error) => return Err(io_at(dir)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(io_at(dir))?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}
