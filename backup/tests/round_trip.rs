//! What was saved comes back as it was, and nothing is read or written twice.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod made;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use backup::source::{BlobSource, FolderSource, Named, Source};
use backup::{
    Digest, Entry, Estimate, Reading, Repository, RestoreError, RestoreOptions, Restored, SaveOptions, Saved,
    StoreError, VerifyOptions,
};
use made::{noise, time};

fn folder(root: &Path) -> FolderSource {
    FolderSource {
        name: "data".to_owned(),
        root: root.to_owned(),
        excludes: vec!["*.tmp".to_owned(), "cache".to_owned()],
        only: Vec::new(),
    }
}

fn save(repository: &Repository, source: &dyn Source, minutes: i64) -> Saved {
    repository.save(&[source], &SaveOptions::new(time(minutes), "host")).unwrap()
}

fn restore(repository: &Repository, id: &str, source: &str, to: &Path) -> Restored {
    let targets = BTreeMap::from([(source.to_owned(), to.to_owned())]);
    repository.restore(id, &RestoreOptions { targets, glob: None, workers: 2 }).unwrap()
}

fn verify(repository: &Repository) -> backup::Verified {
    let options = VerifyOptions { reading: Reading::All, deadline: None, workers: 2, now: time(0) };
    repository.verify(&options).unwrap()
}

/// Everything that a restore has to bring back.
fn look(root: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, Digest)> {
    let all = walkdir::WalkDir::new(root).min_depth(1).into_iter().map(Result::unwrap);
    all.map(|it| {
        let meta = fs::symlink_metadata(it.path()).unwrap();
        let content = match () {
            () if meta.is_symlink() => fs::read_link(it.path()).unwrap().into_os_string().into_encoded_bytes(),
            () if meta.is_file() => fs::read(it.path()).unwrap(),
            () => Vec::new(),
        };
        (
            it.path().strip_prefix(root).unwrap().to_owned(),
            (meta.mode(), meta.mtime(), meta.mtime_nsec(), Digest::of(&content)),
        )
    })
    .collect()
}

fn fill(root: &Path) {
    fs::create_dir_all(root.join("deep/er")).unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("größe 100%\n"), b"odd name").unwrap();
    fs::write(root.join("deep/er/noise"), noise(1, 5_000_001)).unwrap();
    fs::write(root.join("deep/text"), "all work and no play\n".repeat(300_000)).unwrap();
    for at in 0..50 {
        fs::write(root.join(format!("deep/{at}")), format!("small {at}")).unwrap();
    }
    fs::hard_link(root.join("deep/text"), root.join("other name")).unwrap();
    symlink("/etc/passwd", root.join("link")).unwrap();
    fs::set_permissions(root.join("deep/1"), fs::Permissions::from_mode(0o751)).unwrap();
    fs::set_permissions(root.join("deep/er"), fs::Permissions::from_mode(0o500)).unwrap();
    let holes = fs::File::create(root.join("holes")).unwrap();
    holes.set_len(64 << 20).unwrap();
    holes.write_all_at(b"in the middle", 20 << 20).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    for path in ["deep/2", "deep"] {
        fs::File::open(root.join(path)).unwrap().set_modified(old).unwrap();
    }
}

#[test]
fn a_folder_comes_back_as_it_was() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    fill(&from);
    let is_attributed = xattr::set(from.join("empty"), "user.note", b"kept\xff").is_ok();
    let repository = Repository::at_or_new(&place.path().join("repository")).unwrap();
    let saved = save(&repository, &folder(&from), 0);
    assert_eq!(saved.snapshot.incomplete, []);

    let restored = restore(&repository, &saved.id, "data", &to);
    assert_eq!(restored.failed, []);
    assert_eq!(look(&to), look(&from));
    assert_eq!(fs::metadata(to.join("other name")).unwrap().ino(), fs::metadata(to.join("deep/text")).unwrap().ino());
    assert!(fs::metadata(to.join("holes")).unwrap().blocks() * 512 < 1 << 20, "holes were filled");
    if is_attributed {
        assert_eq!(xattr::get(to.join("empty"), "user.note").unwrap().unwrap(), b"kept\xff");
    }

    let inode = fs::metadata(to.join("deep/er/noise")).unwrap().ino();
    let again = restore(&repository, &saved.id, "data", &to);
    assert_eq!((again.files, again.failed.len()), (0, 0), "identical files are left alone");
    assert_eq!(fs::metadata(to.join("deep/er/noise")).unwrap().ino(), inode);
    assert_eq!(verify(&repository).damage, []);
    assert!(repository.is_verified(&saved.id).unwrap());
}

#[test]
fn one_small_file_that_has_no_place_keeps_no_other_from_its_own() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    fs::create_dir_all(&from).unwrap();
    for at in 0..2100 {
        fs::write(from.join(format!("{at:04}")), format!("number {at}")).unwrap();
    }
    fs::set_permissions(from.join("0007"), fs::Permissions::from_mode(0o000)).unwrap();
    let repository = Repository::at_or_new(&place.path().join("repository")).unwrap();
    let saved = save(&repository, &folder(&from), 0);
    // Not as root it cannot be read, and is named.
    let had = 2100 - saved.snapshot.incomplete.len() as u64;
    fs::create_dir_all(to.join("1234/in the way")).unwrap();
    let restored = restore(&repository, &saved.id, "data", &to);
    let failed: Vec<&str> = restored.failed.iter().map(|it| it.path.as_str()).collect();
    assert_eq!((restored.files, failed), (had - 1, vec!["1234"]));
    fs::remove_dir_all(to.join("1234")).unwrap();
    assert_eq!(restore(&repository, &saved.id, "data", &to).files, 1);
    assert_eq!(fs::read_dir(&to).unwrap().count() as u64, had, "nothing of a restore's own stays");
    assert_eq!(fs::read(to.join("2099")).unwrap(), b"number 2099");
}

#[test]
fn what_a_killed_restore_has_left_goes_with_the_next() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    fs::create_dir_all(from.join("deep")).unwrap();
    fs::write(from.join("deep/file"), "text").unwrap();
    let repository = Repository::at_or_new(&place.path().join("repository")).unwrap();
    let saved = save(&repository, &folder(&from), 0);
    fs::create_dir_all(to.join("deep")).unwrap();
    // No process has so large a number; and what a living one makes is its own.
    let of = |pid: u32| format!(".restore-{pid}-0");
    let (dead, alive) = (of(i32::MAX.cast_unsigned()), of(std::os::unix::process::parent_id()));
    for name in [&dead, &alive] {
        fs::write(to.join(name), "half").unwrap();
        fs::write(to.join("deep").join(name), "half").unwrap();
    }
    assert_eq!(restore(&repository, &saved.id, "data", &to).failed, []);
    for folder in [to.clone(), to.join("deep")] {
        assert_eq!((folder.join(&dead).exists(), folder.join(&alive).exists()), (false, true));
    }
}

#[test]
fn a_raw_object_is_the_file_and_text_is_compressed() {
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("from");
    fill(&from);
    let repository = place.path().join("repository");
    save(&Repository::at_or_new(&repository).unwrap(), &folder(&from), 0);
    let noise = fs::read(from.join("deep/er/noise")).unwrap();
    assert_eq!(fs::read(repository.join(format!("objects/{}", Digest::of(&noise)))).unwrap(), noise);
    let text = fs::read(from.join("deep/text")).unwrap();
    let stored = fs::read(repository.join(format!("objects/{}.zst", Digest::of(&text)))).unwrap();
    assert!(stored.len() * 100 < text.len());
    assert_eq!(zstd::stream::decode_all(&stored[..]).unwrap(), text);
}

#[test]
fn what_did_not_change_is_neither_read_nor_written() {
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("from");
    fill(&from);
    // What changed within the last two seconds may change again unseen.
    std::thread::sleep(Duration::from_millis(3100));
    let repository = Repository::at_or_new(&place.path().join("repository")).unwrap();
    save(&repository, &folder(&from), 0);
    let estimate = |repository| Estimate::of(repository, &[&folder(&from)]).unwrap().sources.remove("data").unwrap();
    let (known, unknown) = (estimate(Some(&repository)), estimate(None));
    assert_eq!((known.files, known.new_files, known.new_bytes), (55, 0, 0));
    assert_eq!((unknown.new_files, unknown.new_bytes), (55, unknown.bytes));
    let second = save(&repository, &folder(&from), 1);
    assert_eq!((second.bytes_read, second.bytes_written), (0, 0));
    fs::rename(from.join("deep/text"), from.join("deep/renamed")).unwrap();
    let third = save(&repository, &folder(&from), 2);
    assert!(third.bytes_written < 20_000, "only the tree is new, not {} bytes", third.bytes_written);
}

#[test]
fn what_is_excluded_stays_out_and_what_cannot_be_saved_is_named() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    fs::create_dir_all(from.join("cache/inner")).unwrap();
    fs::write(from.join("cache/inner/x"), b"x").unwrap();
    fs::write(from.join("a.tmp"), b"x").unwrap();
    fs::write(from.join("kept"), b"x").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    let repository = Repository::at_or_new(&place.path().join("repository")).unwrap();
    let saved = save(&repository, &folder(&from), 0);
    assert_eq!(saved.snapshot.incomplete.iter().map(|it| it.path.as_str()).collect::<Vec<_>>(), ["socket"]);
    restore(&repository, &saved.id, "data", &to);
    assert_eq!(look(&to).into_keys().collect::<Vec<_>>(), [PathBuf::from("kept")]);
}

fn parse(bytes: &[u8]) -> Result<Vec<Named>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let line = |line: &str| {
        let (digest, size) = line.split_once(' ')?;
        let path = Path::new("blobs").join(format!("sha256-{digest}"));
        Some(Named { path, digest: digest.parse().ok()?, size: size.parse().ok()? })
    };
    text.lines().map(|it| line(it).ok_or_else(|| "a line is wrong".to_owned())).collect()
}

fn models(root: &Path, models: &[(&str, &[Vec<u8>])]) -> BlobSource {
    fs::create_dir_all(root.join("blobs")).unwrap();
    fs::create_dir_all(root.join("manifests/library")).unwrap();
    fs::write(root.join("blobs/sha256-partial"), b"not named").unwrap();
    for (name, blobs) in models {
        let mut manifest = String::new();
        for blob in *blobs {
            let digest = Digest::of(blob);
            fs::write(root.join(format!("blobs/sha256-{digest}")), blob).unwrap();
            manifest.push_str(&format!("{digest} {}\n", blob.len()));
        }
        fs::write(root.join("manifests/library").join(name), manifest).unwrap();
    }
    BlobSource {
        name: "models".to_owned(),
        root: root.to_owned(),
        manifests: "manifests".into(),
        parse: Box::new(parse),
    }
}

#[test]
fn a_committed_blob_is_never_read_again() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    let blobs = [noise(1, 3 << 20), noise(2, 1000)];
    let source = models(&from, &[("one", &blobs), ("two", &blobs[1..])]);
    let repository = Repository::at_or_new(&place.path().join("repository")).unwrap();
    let first = save(&repository, &source, 0);
    assert_eq!(first.snapshot.incomplete, []);
    // Its name and length are right and its bytes are not: nobody looks.
    let blob = from.join(format!("blobs/sha256-{}", Digest::of(&blobs[0])));
    fs::write(&blob, noise(9, 3 << 20)).unwrap();
    let second = save(&repository, &source, 1);
    assert_eq!(second.snapshot.incomplete, []);
    assert!(second.bytes_read < 1000, "{} bytes were read", second.bytes_read);
    restore(&repository, &second.id, "models", &to);
    let names: Vec<_> = look(&to).into_keys().filter(|it| to.join(it).is_file()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert_eq!(fs::read(to.join(blob.strip_prefix(&from).unwrap())).unwrap(), blobs[0]);
}

#[test]
fn a_manifest_is_saved_only_with_all_its_blobs() {
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("from");
    let (good, wrong, gone) = (noise(1, 2 << 20), noise(2, 2 << 20), noise(3, 100));
    let source = models(
        &from,
        &[("good", &[good]), ("wrong", std::slice::from_ref(&wrong)), ("gone", std::slice::from_ref(&gone))],
    );
    fs::write(from.join(format!("blobs/sha256-{}", Digest::of(&wrong))), noise(4, 2 << 20)).unwrap();
    fs::remove_file(from.join(format!("blobs/sha256-{}", Digest::of(&gone)))).unwrap();
    let repository = Repository::at_or_new(&place.path().join("repository")).unwrap();
    let saved = save(&repository, &source, 0);
    let named: Vec<&str> = saved.snapshot.incomplete.iter().map(|it| it.path.as_str()).collect();
    let wrong_blob = format!("blobs/sha256-{}", Digest::of(&wrong));
    assert_eq!(named, ["manifests/library/gone", wrong_blob.as_str(), "manifests/library/wrong"]);
    assert_eq!(saved.snapshot.sources["models"].files, 2, "the rest is saved");
}

#[test]
fn a_file_that_changes_while_it_is_read_is_named_and_left_out() {
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("from");
    fs::create_dir_all(&from).unwrap();
    fs::write(from.join("log"), noise(1, 24 << 20)).unwrap();
    let repository = Repository::at_or_new(&place.path().join("repository")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let saved = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = fs::File::options().append(true).open(from.join("log")).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                log.write_all(b"more").unwrap();
            }
        });
        let saved = save(&repository, &folder(&from), 0);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        saved
    });
    assert_eq!(saved.snapshot.incomplete[0].reason, "changed while it was read");
    assert_eq!(saved.snapshot.sources["data"].files, 0);
}

#[test]
fn one_run_at_a_time() {
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("from");
    fs::create_dir_all(&from).unwrap();
    let path = place.path().join("repository");
    let repository = Repository::at_or_new(&path).unwrap();
    let lock = fs::File::open(path.join("lock")).unwrap();
    lock.lock().unwrap();
    let refused = repository.save(&[&folder(&from)], &SaveOptions::new(time(0), "host"));
    assert!(matches!(refused, Err(StoreError::Locked)));
}

#[test]
fn refuses_a_repository_it_does_not_understand_and_a_folder_that_is_none() {
    let place = tempfile::tempdir().unwrap();
    Repository::at_or_new(place.path()).unwrap();
    let format = place.path().join("format.json");
    for (from, to) in [("\"version\":1", "\"version\":2"), ("\"zstd\"", "\"encrypted\"")] {
        let text = fs::read_to_string(&format).unwrap();
        fs::write(&format, text.replace(from, to)).unwrap();
        assert!(matches!(Repository::at(place.path()), Err(StoreError::Unsupported(_))));
        fs::write(&format, text).unwrap();
    }
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("thesis"), b"").unwrap();
    assert!(matches!(Repository::at_or_new(other.path()), Err(StoreError::Occupied)));
}

struct Told(Vec<Entry>);

impl Source for Told {
    fn name(&self) -> &str {
        "made"
    }

    fn walk(&self, sink: &mut dyn backup::source::Sink) -> Result<(), backup::source::WalkError> {
        for entry in &self.0 {
            let mut content = &b"x"[..];
            let content = match entry.kind {
                backup::Kind::File => backup::source::Content::Stream(&mut content),
                _ => backup::source::Content::None,
            };
            sink.entry(backup::source::Offer::new(entry.clone(), content))?;
        }
        Ok(())
    }
}

#[test]
fn restores_nothing_outside_the_target() {
    let place = tempfile::tempdir().unwrap();
    let repository = Repository::at_or_new(&place.path().join("repository")).unwrap();
    let file = |path: &str| Entry::file(Path::new(path), 1);
    let mut link = file("link");
    link.kind = backup::Kind::Symlink;
    link.target = Some("..".to_owned());
    let mut hard = file("hard");
    hard.kind = backup::Kind::Hardlink;
    hard.target = Some("link".to_owned());
    let trees = [
        vec![file("/absolute")],
        vec![file("../up")],
        vec![file("a/../../up")],
        vec![file("a//b")],
        vec![file("./a")],
        vec![file("a/")],
        vec![link.clone(), file("link/inside")],
        vec![file("link/inside"), link.clone()],
        vec![file("twice"), file("twice")],
        vec![link, hard],
    ];
    for (at, tree) in trees.into_iter().enumerate() {
        let told = format!("{tree:?}");
        let mut source = Told(tree);
        // The store saves what it is told; a hostile repository is one that was told worse.
        source.0.iter_mut().for_each(|it| it.mtime = (at as i64, 0));
        let saved = save(&repository, &source, at as i64);
        if saved.snapshot.incomplete.is_empty() {
            let targets = BTreeMap::from([("made".to_owned(), place.path().join("to"))]);
            let refused = repository.restore(&saved.id, &RestoreOptions { targets, glob: None, workers: 1 });
            assert!(matches!(refused, Err(RestoreError::Refused { .. })), "{told}: {refused:?}");
        }
    }
    // A link that stands in the target already is no way out either.
    let to = place.path().join("linked");
    fs::create_dir_all(&to).unwrap();
    symlink(place.path(), to.join("a")).unwrap();
    let saved = save(&repository, &Told(vec![file("a/b")]), 100);
    assert_eq!(restore(&repository, &saved.id, "made", &to).failed.len(), 1);
    assert!(!place.path().join("b").exists());
}
