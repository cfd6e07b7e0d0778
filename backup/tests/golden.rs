//! Repositories of every format version that was ever written stay readable: `tests/golden/version-N`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod made;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use backup::{Digest, Reading, Repository, RestoreOptions, SaveOptions, VerifyOptions};
use made::{Made, digests, noise, time};

/// The only snapshot of version 1.
const ID: &str = "20261118T110640Z-";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/version-1")
}

/// Content of every kind. What is stored raw is a file's own bytes, and so it need not be checked in.
fn contents() -> Made {
    let mut files = BTreeMap::new();
    files.insert("packed/empty".to_owned(), Vec::new());
    files.insert("packed/text".to_owned(), b"a line that repeats\n".repeat(100));
    files.insert("packed/noise".to_owned(), noise(1, 64));
    files.insert("raw".to_owned(), noise(2, (1 << 20) + 1));
    files.insert("zstd, in segments".to_owned(), b"0123456789abcde\n".repeat((65 << 20) / 16));
    Made(files)
}

fn copy(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from).into_iter().map(Result::unwrap) {
        let to = to.join(entry.path().strip_prefix(from).unwrap());
        if entry.file_type().is_dir() {
            fs::create_dir_all(to).unwrap();
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn version_1_is_verified_restored_and_added_to() {
    let place = tempfile::tempdir().unwrap();
    let at = place.path().join("repository");
    copy(&golden(), &at);
    let raw = noise(2, (1 << 20) + 1);
    fs::write(at.join(format!("objects/{}", Digest::of(&raw))), raw).unwrap();
    // What git does not keep.
    for folder in ["damaged", "verified", "temporary", "trash"] {
        fs::create_dir_all(at.join(folder)).unwrap();
    }
    let repository = Repository::at(&at).unwrap();
    let options = VerifyOptions { reading: Reading::All, deadline: None, workers: 2, now: time(1) };
    let verified = repository.verify(&options).unwrap();
    assert_eq!(verified.damage, []);
    assert_eq!(verified.units, 4, "two segments, a raw object, a pack");
    let id = repository.find(ID).unwrap();
    let targets = BTreeMap::from([("made".to_owned(), place.path().join("to"))]);
    let restored = repository.restore(&id, &RestoreOptions { targets, glob: None, workers: 2 }).unwrap();
    assert_eq!(restored.failed, []);
    for (path, digest) in digests(&contents()) {
        assert_eq!(Digest::of(&fs::read(place.path().join("to").join(&path)).unwrap()), digest, "{path}");
    }
    let again = repository.save(&[&contents()], &SaveOptions::new(time(2), "golden")).unwrap();
    assert_eq!(again.bytes_written, 0, "all of it is there");
}

#[test]
#[ignore = "writes what the others read; only for a new format version"]
fn write_it() {
    fs::remove_dir_all(golden()).unwrap_or_default();
    fs::create_dir_all(golden()).unwrap();
    let repository = Repository::at_or_new(&golden()).unwrap();
    repository.save(&[&contents()], &SaveOptions::new(time(0), "golden")).unwrap();
    fs::remove_file(golden().join(format!("objects/{}", Digest::of(&contents().0["raw"])))).unwrap();
}
