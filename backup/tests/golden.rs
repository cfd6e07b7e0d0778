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

/// The golden repository with a part of it replaced by what stands in `damaged/NAME`, and a raw object's own bytes.
fn damaged(name: &str, at: &Path) {
    copy(&golden(), at);
    copy(&golden().with_file_name("damaged").join(name), at);
    let raw = noise(2, (1 << 20) + 1);
    fs::write(at.join(format!("objects/{}", Digest::of(&raw))), raw).unwrap();
    for folder in ["damaged", "verified", "temporary", "trash"] {
        fs::create_dir_all(at.join(folder)).unwrap();
    }
}

#[test]
fn damage_that_was_once_found_is_found_and_healed() {
    // Name, the file that is named, and how many of its objects are hurt.
    for (name, path, objects) in [
        ("segment", "objects/65df", 1),
        ("frame-cut", "objects/65df", 1),
        ("states", "objects/65df", 0),
        ("pack-data", "packs/a3b7", 1),
        ("pack-index", "packs/a3b7", 0),
        ("pack-cut", "packs/a3b7", 0),
    ] {
        let place = tempfile::tempdir().unwrap();
        damaged(name, place.path());
        let repository = Repository::at(place.path()).unwrap();
        let options = VerifyOptions { reading: Reading::All, deadline: None, workers: 2, now: time(1) };
        let found = repository.verify(&options).unwrap().damage;
        let named: Vec<_> = found.iter().filter(|it| it.path.starts_with(path)).collect();
        assert!(!named.is_empty(), "{name}: {found:?}");
        assert_eq!(named.iter().filter(|it| it.object.is_some()).count(), objects, "{name}: {found:?}");
        if name == "segment" {
            let second = (64 << 20, 128 << 20);
            let found: Vec<_> = named[0].ranges.iter().map(|range| (range.start, range.end)).collect();
            assert_eq!(found, [second], "the second segment, however long it is");
        }
        let id = repository.save(&[&contents()], &SaveOptions::new(time(2), "golden")).unwrap().id;
        for id in [&repository.find(ID).unwrap(), &id] {
            let targets = BTreeMap::from([("made".to_owned(), place.path().join("to"))]);
            let restored = repository.restore(id, &RestoreOptions { targets, glob: None, workers: 2 }).unwrap();
            assert_eq!(restored.failed, [], "{name}");
        }
        repository.verify(&options).unwrap();
        assert_eq!(repository.verify(&options).unwrap().damage, [], "{name}: healed, and still damaged");
    }
}

#[test]
fn what_is_not_to_be_touched_is_not_touched() {
    for (name, words) in [
        ("format-later", "format version 2"),
        ("format-feature", "`blake9`"),
        ("format-foreign", "is damaged"),
        ("format-cut", "is damaged"),
    ] {
        let place = tempfile::tempdir().unwrap();
        damaged(name, place.path());
        let error = Repository::at_or_new(place.path()).err().map(|it| it.to_string()).unwrap_or_default();
        assert!(error.contains(words), "{name}: {error}");
    }
    let place = tempfile::tempdir().unwrap();
    damaged("snapshot", place.path());
    let repository = Repository::at(place.path()).unwrap();
    let id = repository.find(ID).unwrap();
    assert!(repository.snapshot(&id).unwrap_err().to_string().contains("does not have its hash"));
    let policy = backup::KeepPolicy { last: 1, ..backup::KeepPolicy::default() };
    assert!(repository.prune(&policy, time(3), std::time::Duration::ZERO).is_err());
    repository.forget(&[id], time(3)).unwrap();
}

/// Writes what the others read, where `BACKUP_WRITE_GOLDEN` is set: for a new format version only.
#[test]
fn write_it() {
    if std::env::var_os("BACKUP_WRITE_GOLDEN").is_none() {
        return;
    }
    fs::remove_dir_all(golden()).unwrap_or_default();
    fs::create_dir_all(golden()).unwrap();
    let repository = Repository::at_or_new(&golden()).unwrap();
    repository.save(&[&contents()], &SaveOptions::new(time(0), "golden")).unwrap();
    fs::remove_file(golden().join(format!("objects/{}", Digest::of(&contents().0["raw"])))).unwrap();
}
