//! API keys: made here, kept as hashes, recognised.
//!
//! A key is 256 random bits, so its SHA-256 can be neither guessed nor turned back, and needs neither salt nor a slow
//! hash as a password does. The file is read again when it changes, so that adding and revoking need no restart.
//!
//! Invariant: no key is ever stored or printed but once, by whoever made it; and comparing takes the same time whether
//! the first or no key fits.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time;

/// What every key begins with, so that one that leaked is known for what it is.
const PREFIX: &str = "flm-";

/// How soon a key that was added or revoked is known.
const RELOAD: Duration = Duration::from_secs(1);

/// The file of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    /// In the order in which they were made.
    pub keys: Vec<Key>,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Who it was made for.
    pub name: String,
    /// SHA-256 of the key, in hexadecimal.
    pub sha256: String,
    /// When it was made, as RFC 3339 has it.
    pub created: String,
}

/// Why a file of keys is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read, or there is no randomness.
    #[error("cannot read {path}")]
    Read {
        /// What could not be read.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// What could not be written.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is not what [`KeyFile::render`] writes.
    #[error("{path} is no file of keys")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl KeyFile {
    /// Reads `path`; no file is a file without keys.
    pub fn load(path: &Path) -> Result<Self, Error> {
        match fs::read(path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|source| Error::Format { path: path.to_owned(), source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(KeyFile::default()),
            Err(source) => Err(Error::Read { path: path.to_owned(), source }),
        }
    }

    /// The file's text.
    pub fn render(&self) -> String {
        format!("{:#}\n", serde_json::json!(self))
    }

    /// Writes it to `path`, whole or not at all, for its owner's eyes only.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::Write { path: path.to_owned(), source };
        let beside = path.with_extension("new");
        fs::create_dir_all(path.parent().unwrap_or(path)).map_err(failed)?;
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).map_err(failed)?;
        file.write_all(self.render().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&beside, path).map_err(failed)
    }

    /// Makes a key. What is returned is the key itself, which is nowhere else; none if the name is taken.
    pub fn add(&mut self, name: &str, created: String) -> Result<Option<String>, Error> {
        if self.keys.iter().any(|key| key.name == name) {
            return Ok(None);
        }
        let source = Path::new("/dev/urandom");
        let mut random = [0; 32];
        File::open(source)
            .and_then(|mut file| file.read_exact(&mut random))
            .map_err(|error| Error::Read { path: source.to_owned(), source: error })?;
        let key = format!("{PREFIX}{}", hex(&random));
        self.keys.push(Key { name: name.to_owned(), sha256: hex(&Sha256::digest(key.as_bytes())), created });
        Ok(Some(key))
    }

    /// Forgets a key; false if there is none of that name.
    pub fn revoke(&mut self, name: &str) -> bool {
        let before = self.keys.len();
        self.keys.retain(|key| key.name != name);
        self.keys.len() < before
    }
}

/// The keys of a gateway that asks for them.
pub(crate) struct Ring {
    path: PathBuf,
    keys: RwLock<Vec<(Arc<str>, Vec<u8>)>>,
}

impl Ring {
    /// Without a key until [`Ring::follow`] has read the file: nobody is let in by mistake.
    pub(crate) fn new(path: PathBuf) -> Self {
        Ring { path, keys: RwLock::default() }
    }

    /// Whose key this is.
    pub(crate) fn recognise(&self, key: &[u8]) -> Option<Arc<str>> {
        let offered = Sha256::digest(key);
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for (name, sha256) in keys.iter() {
            if is_same(sha256, &offered) {
                found = Some(Arc::clone(name));
            }
        }
        found
    }

    /// Reads the file whenever it changes. A file that is none leaves the keys as they were.
    pub(crate) async fn follow(&self) -> std::convert::Infallible {
        let mut ticks = time::interval(RELOAD);
        let mut known = None;
        loop {
            ticks.tick().await;
            let version = version(&self.path);
            if known != Some(version) {
                match KeyFile::load(&self.path) {
                    Ok(file) => self.replace(file),
                    Err(error) => log::warn!("{error}; the keys known so far stand"),
                }
                known = Some(version);
            }
        }
    }

    pub(crate) fn replace(&self, file: KeyFile) {
        let keys = file.keys.into_iter().map(|key| (key.name.into(), unhex(&key.sha256))).collect::<Vec<_>>();
        log::info!("API keys: {}", keys.len());
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }
}

/// Changes when the file does: it is replaced by rename, so its time and length are those of one writing.
fn version(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// Compares in a time that depends on the length only, which is no secret.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len()
        && std::hint::black_box(one.iter().zip(other).fold(0, |differs, (one, other)| differs | (one ^ other))) == 0
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of a hash; fewer of what is none, which no key has.
fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map_while(|pair| std::str::from_utf8(pair).ok());
    digits.map_while(|pair| u8::from_str_radix(pair, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (KeyFile, String) {
        let mut file = KeyFile::default();
        let key = file.add("laptop", "2026-11-25T00:00:00Z".to_owned()).unwrap().unwrap();
        (file, key)
    }

    #[test]
    fn a_key_is_known_by_its_hash_until_it_is_revoked() {
        let (mut file, key) = file();
        assert_eq!(key.len(), PREFIX.len() + 64);
        assert!(!file.render().contains(&key[PREFIX.len()..]));
        let ring = Ring::new(PathBuf::new());
        assert_eq!(ring.recognise(key.as_bytes()), None);
        ring.replace(file.clone());
        assert_eq!(ring.recognise(key.as_bytes()).as_deref(), Some("laptop"));
        for wrong in [&key[1..], "", &file.keys[0].sha256] {
            assert_eq!(ring.recognise(wrong.as_bytes()), None, "{wrong:?}");
        }
        assert!(file.revoke("laptop") && !file.revoke("laptop"));
        ring.replace(file);
        assert_eq!(ring.recognise(key.as_bytes()), None);
    }

    #[test]
    fn a_name_is_taken_once_and_no_two_keys_are_alike() {
        let (mut file, key) = file();
        assert_eq!(file.add("laptop", String::new()).unwrap(), None);
        assert_ne!(file.add("desktop", String::new()).unwrap().unwrap(), key);
        assert_eq!(file.keys.len(), 2);
    }

    #[test]
    fn the_file_is_read_as_it_was_written_and_none_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        assert_eq!(KeyFile::load(&path).unwrap(), KeyFile::default());
        let (file, _) = file();
        file.save(&path).unwrap();
        file.save(&path).unwrap();
        assert_eq!(KeyFile::load(&path).unwrap(), file);
        fs::write(&path, "{").unwrap();
        assert!(matches!(KeyFile::load(&path), Err(Error::Format { .. })));
    }
}
