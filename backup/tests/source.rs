//! Sources other than folders: what they hand over is consistent, or they say that it is not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod made;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use backup::source::{
    Content, FolderSource, Halted, Offer, Sink, Source, SqliteSource, Stream, TarSource, WalkError, entry_of, write_tar,
};
use backup::{Change, Entry, Repository, RestoreOptions, SaveOptions, Saved};
use made::time;

fn save(repository: &Repository, source: &dyn Source, minutes: i64) -> Saved {
    repository.save(&[source], &SaveOptions::new(time(minutes), "host")).unwrap()
}

fn restore(repository: &Repository, id: &str, source: &str, to: &Path) {
    let targets = BTreeMap::from([(source.to_owned(), to.to_owned())]);
    let restored = repository.restore(id, &RestoreOptions { targets, glob: None, workers: 2 }).unwrap();
    assert_eq!(restored.failed, []);
}

/// Whether a program that the test needs is lacking; an error where it is required.
fn lacks(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    if path.split(':').any(|folder| Path::new(folder).join(program).exists()) {
        return false;
    }
    let required = std::env::var("STACK_TESTS_REQUIRE").unwrap_or_default();
    assert!(!required.split([',', ' ']).any(|it| it == program), "STACK_TESTS_REQUIRE names {program}");
    eprintln!("SKIPPED: there is no {program} here");
    true
}

#[expect(clippy::disallowed_methods, reason = "what is tested has to be started from outside")]
fn command(program: &str) -> Command {
    Command::new(program)
}

fn sqlite(database: &Path, script: &str) -> String {
    let output = command("sqlite3").arg(database).arg(script).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Something that moves one unit of money from one account to the other, again and again, until it is dropped.
struct Busy(Child);

impl Busy {
    fn writing(database: &Path) -> Self {
        let moves = "PRAGMA busy_timeout=20000;\n".to_owned()
            + &"BEGIN IMMEDIATE; UPDATE account SET amount = amount - 1 WHERE id = 1; UPDATE filler SET noise = randomblob(3000); \
               UPDATE account SET amount = amount + 1 WHERE id = 2; COMMIT;\n"
                .repeat(200_000);
        let script = database.with_extension("sql");
        fs::write(&script, moves).unwrap();
        let child = command("sqlite3")
            .arg(database)
            .stdin(File::open(script).unwrap())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_database_that_is_written_meanwhile_is_saved_at_one_moment() {
    if lacks("sqlite3") {
        return;
    }
    for mode in ["delete", "wal"] {
        let place = tempfile::tempdir().unwrap();
        let from = place.path().join("from");
        fs::create_dir_all(from.join("png")).unwrap();
        fs::write(from.join("png/a"), b"beside it").unwrap();
        let database = from.join("grafana.db");
        sqlite(&database, &format!("PRAGMA journal_mode={mode}; CREATE TABLE account (id INTEGER, amount INTEGER);"));
        sqlite(&database, "INSERT INTO account VALUES (1, 1000000), (2, 0); CREATE TABLE filler (noise BLOB);");
        sqlite(&database, &"INSERT INTO filler VALUES (randomblob(3000));".repeat(100));
        let repository = Repository::at_or_new(&place.path().join("repository")).unwrap();
        let busy = Busy::writing(&database);
        let moved = || sqlite(&database, "PRAGMA busy_timeout=20000; SELECT amount FROM account WHERE id = 2;");
        while moved().ends_with("\n0") {}
        for round in 0..3 {
            let source = SqliteSource::new(FolderSource::new("grafana", &from), "grafana.db");
            let saved = save(&repository, &source, round);
            assert_eq!(saved.snapshot.incomplete, [], "{mode}");
            let to = place.path().join(format!("to{round}"));
            restore(&repository, &saved.id, "grafana", &to);
            let back = to.join("grafana.db");
            assert_eq!(
                sqlite(&back, "PRAGMA integrity_check; SELECT sum(amount) FROM account;"),
                "ok\n1000000",
                "{mode}"
            );
            assert_eq!(fs::read(to.join("png/a")).unwrap(), b"beside it");
        }
        drop(busy);
    }
}

/// A tar stream of a folder; with a command that cannot succeed, it fails at its end.
fn tar_of(folder: &Path, cut_at: Option<u64>) -> TarSource {
    let folder = folder.to_owned();
    let start = move |contents: bool| -> io::Result<Option<Stream>> {
        if !contents {
            return Ok(None);
        }
        let output = command("tar").arg("-cf").arg("-").arg("-C").arg(&folder).arg(".").output()?;
        let len = cut_at.unwrap_or(output.stdout.len() as u64);
        Ok(Some(Box::new(io::Cursor::new(output.stdout).take(len))))
    };
    TarSource { name: "volume".to_owned(), start: Box::new(start) }
}

fn tree(folder: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let all = walkdir::WalkDir::new(folder).min_depth(1).sort_by_file_name().into_iter().map(Result::unwrap);
    all.map(|it| {
        let content = it.file_type().is_file().then(|| fs::read(it.path()).unwrap());
        (it.path().strip_prefix(folder).unwrap().to_owned(), content)
    })
    .collect()
}

#[test]
fn a_tar_stream_comes_back_as_the_folder_it_was() {
    if lacks("tar") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    fs::create_dir_all(from.join("deep/er")).unwrap();
    fs::write(from.join("deep/er").join("n".repeat(200)), made::noise(1, 3_000_000)).unwrap();
    fs::write(from.join("empty"), b"").unwrap();
    fs::write(from.join("text"), "text ".repeat(10)).unwrap();
    fs::hard_link(from.join("text"), from.join("the same")).unwrap();
    std::os::unix::fs::symlink("text", from.join("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("pipe"));
    let repository = Repository::at_or_new(&place.path().join("repository")).unwrap();
    let saved = save(&repository, &tar_of(&from, None), 0);
    restore(&repository, &saved.id, "volume", &to);
    fs::remove_file(from.join("pipe")).unwrap_or_default();
    assert!(tree(&to) == tree(&from));
    let again = save(&repository, &tar_of(&from, None), 1);
    assert_eq!(again.bytes_written, 0, "what is in it already is not written again");
}

#[test]
fn a_stream_that_breaks_off_is_never_taken_for_whole() {
    if lacks("tar") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("from");
    fs::create_dir_all(&from).unwrap();
    fs::write(from.join("a"), made::noise(1, 100_000)).unwrap();
    fs::write(from.join("b"), made::noise(2, 2_000_000)).unwrap();
    let repository = Repository::at_or_new(&place.path().join("repository")).unwrap();
    for cut_at in [1, 511, 1000, 50_000, 103_000, 1_500_000] {
        let saved = save(&repository, &tar_of(&from, Some(cut_at)), cut_at as i64);
        assert!(saved.snapshot.sources.is_empty(), "cut at {cut_at}: {:?}", saved.snapshot);
        assert_eq!(saved.snapshot.incomplete.len(), 1, "cut at {cut_at}");
    }
    // The archive is whole, and its maker says that it is not.
    struct Failing(io::Cursor<Vec<u8>>);
    impl Read for Failing {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            match self.0.read(into)? {
                0 if !into.is_empty() => Err(io::Error::other("tar exited with status 2")),
                len => Ok(len),
            }
        }
    }
    let mut whole = Vec::new();
    (tar_of(&from, None).start)(true).unwrap().unwrap().read_to_end(&mut whole).unwrap();
    let start = move |_| -> io::Result<Option<Stream>> { Ok(Some(Box::new(Failing(io::Cursor::new(whole.clone()))))) };
    let saved = save(&repository, &TarSource { name: "volume".to_owned(), start: Box::new(start) }, 9);
    assert!(saved.snapshot.incomplete[0].reason.contains("status 2"), "{:?}", saved.snapshot);
    assert!(saved.snapshot.sources.is_empty());
}

#[test]
fn only_what_is_named_is_saved_with_the_folders_above_it() {
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("from");
    for path in ["a/b/wanted", "a/b/not", "a/tree/x", "a/tree/y/z", "other"] {
        fs::create_dir_all(from.join(path).parent().unwrap()).unwrap();
        fs::write(from.join(path), path).unwrap();
    }
    let only = ["a/b/wanted", "a/tree", "not/there"].map(PathBuf::from).to_vec();
    let source = FolderSource { only, ..FolderSource::new("some", &from) };
    let repository = Repository::at_or_new(&place.path().join("repository")).unwrap();
    let saved = save(&repository, &source, 0);
    assert_eq!(saved.snapshot.incomplete, []);
    restore(&repository, &saved.id, "some", &place.path().join("to"));
    let paths: Vec<String> =
        tree(&place.path().join("to")).into_iter().map(|(path, _)| path.display().to_string()).collect();
    assert_eq!(paths, ["a", "a/b", "a/b/wanted", "a/tree", "a/tree/x", "a/tree/y", "a/tree/y/z"]);
}

#[test]
fn what_differs_between_two_snapshots_is_told_by_kind() {
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("from");
    fs::create_dir_all(&from).unwrap();
    for name in ["content", "gone", "same", "touched"] {
        fs::write(from.join(name), name).unwrap();
    }
    let repository = Repository::at_or_new(&place.path().join("repository")).unwrap();
    let source = FolderSource::new("data", &from);
    let first = save(&repository, &source, 0).id;
    fs::write(from.join("content"), "another").unwrap();
    fs::write(from.join("new"), "new!").unwrap();
    fs::remove_file(from.join("gone")).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
    File::open(from.join("touched")).unwrap().set_modified(old).unwrap();
    let second = save(&repository, &source, 1).id;
    let changed = repository.diff(&first, &second).unwrap();
    let told: Vec<_> = changed.iter().map(|it| (it.path.as_str(), it.change, it.size)).collect();
    assert_eq!(
        told,
        [
            ("content", Change::Content, 7),
            ("gone", Change::Removed, 4),
            ("new", Change::Added, 4),
            ("touched", Change::Attributes, 7)
        ]
    );
    assert_eq!(repository.diff(&first, &first).unwrap(), []);
}

#[test]
fn whoever_looks_on_can_end_it_and_nothing_is_taken_back() {
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("from");
    fs::create_dir_all(&from).unwrap();
    fs::write(from.join("large"), made::noise(1, 20 << 20)).unwrap();
    let source = FolderSource::new("data", &from);
    let at = place.path().join("repository");
    let first = save(&Repository::at_or_new(&at).unwrap(), &source, 0);
    fs::write(from.join("more"), made::noise(2, 20 << 20)).unwrap();
    let stopping = Repository::at(&at).unwrap().watched(|_| std::ops::ControlFlow::Break(()));
    let stopped = stopping.save(&[&source], &SaveOptions::new(time(1), "host"));
    assert!(matches!(stopped, Err(backup::StoreError::Stopped)), "{stopped:?}");
    let targets = BTreeMap::from([("data".to_owned(), place.path().join("half"))]);
    let options = RestoreOptions { targets, glob: None, workers: 2 };
    assert!(stopping.restore(&first.id, &options).is_err());
    assert_eq!(tree(&place.path().join("half")), [], "no half of a file is left");
    let told = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let tell = told.clone();
    let watched = Repository::at(&at).unwrap().watched(move |bytes| {
        tell.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        std::ops::ControlFlow::Continue(())
    });
    let second = save(&watched, &source, 2);
    assert_eq!(told.load(std::sync::atomic::Ordering::Relaxed), second.bytes_read, "every byte is told once");
    restore(&watched, &first.id, "data", &place.path().join("to"));
}

#[test]
fn a_huge_file_is_gone_on_with_where_a_run_was_ended() {
    const MIB: u64 = 1 << 20;
    let place = tempfile::tempdir().unwrap();
    let (from, at) = (place.path().join("from"), place.path().join("repository"));
    fs::create_dir_all(&from).unwrap();
    let noisy = made::noise(1, 300 * MIB as usize + 5);
    // One of each coding; large enough to be noted once, and not much more.
    for (name, content) in [("raw", &noisy), ("text", &b"0123456789abcde\n".repeat(270 * MIB as usize / 16))] {
        fs::write(from.join("huge"), content).unwrap();
        let source = FolderSource::new("data", &from);
        let repository = Repository::at_or_new(&at).unwrap();
        let told = std::sync::atomic::AtomicU64::new(0);
        let until = move |bytes| match told.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed) + bytes {
            done if done > 262 * MIB => std::ops::ControlFlow::Break(()),
            _ => std::ops::ControlFlow::Continue(()),
        };
        let stopped = Repository::at(&at).unwrap().watched(until).save(&[&source], &SaveOptions::new(time(0), "host"));
        assert!(matches!(stopped, Err(backup::StoreError::Stopped)), "{name}: {stopped:?}");
        assert!(repository.ids().unwrap().is_empty() || name == "text", "there is no half of a snapshot");
        let saved = save(&repository, &source, 1);
        assert_eq!(saved.bytes_read, content.len() as u64 - 256 * MIB, "{name}");
        assert_eq!(fs::read_dir(at.join("temporary")).unwrap().count(), 0, "{name}: nothing is left of the part");
        let options = backup::VerifyOptions { reading: backup::Reading::All, deadline: None, workers: 2, now: time(2) };
        let verified = repository.verify(&options).unwrap();
        assert_eq!(verified.damage, [], "{name}");
        restore(&repository, &saved.id, "data", &place.path().join("to"));
        assert!(fs::read(place.path().join("to/huge")).unwrap() == *content, "{name}");
    }
}

/// What a walk tells, without content.
#[derive(Default)]
struct Entries {
    found: Vec<Entry>,
    problems: Vec<(String, String)>,
}

impl Sink for Entries {
    fn entry(&mut self, offer: Offer<'_>) -> Result<(), Halted> {
        self.found.push(offer.entry);
        Ok(())
    }

    fn problem(&mut self, path: &str, reason: String) {
        self.problems.push((path.to_owned(), reason));
    }

    fn reads_content(&self) -> bool {
        false
    }
}

/// A source that went through a tar stream of ours.
fn through_tar(source: FolderSource) -> TarSource {
    let start = move |contents: bool| -> io::Result<Option<Stream>> {
        let mut bytes = Vec::new();
        write_tar(&source, contents, &mut bytes).map_err(|error| io::Error::other(format!("{error:?}")))?;
        Ok(Some(Box::new(io::Cursor::new(bytes))))
    };
    TarSource { name: "data".to_owned(), start: Box::new(start) }
}

#[test]
fn a_tar_stream_of_ours_loses_nothing_of_an_entry() {
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("from");
    fs::create_dir_all(from.join("deep")).unwrap();
    fs::write(from.join("deep/large"), made::noise(1, 3_000_000)).unwrap();
    fs::write(from.join("text"), "text ".repeat(10)).unwrap();
    fs::hard_link(from.join("text"), from.join("the same")).unwrap();
    std::os::unix::fs::symlink("text", from.join("link")).unwrap();
    let odd: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"odd \xff\n%");
    fs::write(from.join(odd), "odd").unwrap();
    let has_xattrs = xattr::set(from.join("text"), "user.mine", b"\0value").is_ok();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("pipe"));
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    File::open(from.join("text")).unwrap().set_modified(long_ago).unwrap();
    let (mut right, mut told) = (Entries::default(), Entries::default());
    let source = FolderSource::new("data", &from);
    source.walk(&mut right).unwrap();
    through_tar(source.clone()).walk(&mut told).unwrap();
    assert_eq!((told.found, told.problems), (right.found, right.problems));

    let repository = Repository::at_or_new(&place.path().join("repository")).unwrap();
    let saved = save(&repository, &through_tar(source), 0);
    assert_eq!(saved.snapshot.incomplete.len(), 1, "{:?}", saved.snapshot.incomplete);
    let to = place.path().join("to");
    restore(&repository, &saved.id, "data", &to);
    fs::remove_file(from.join("pipe")).unwrap();
    assert!(tree(&to) == tree(&from));
    assert_eq!(fs::metadata(to.join("text")).unwrap().modified().unwrap(), long_ago);
    let value = xattr::get(to.join("text"), "user.mine").unwrap();
    assert_eq!(value.as_deref(), has_xattrs.then_some(&b"\0value"[..]));
}

/// Told with a size that the file no longer has.
struct Shrinking(PathBuf);

impl Source for Shrinking {
    fn name(&self) -> &str {
        "data"
    }

    fn walk(&self, sink: &mut dyn Sink) -> Result<(), WalkError> {
        for (name, size) in [("shrinks", 2_000_000), ("stays", 5)] {
            let at = self.0.join(name);
            let entry = entry_of(&at, name.to_owned(), &fs::metadata(&at)?).unwrap();
            sink.entry(Offer::new(Entry { size, ..entry }, Content::File(at)))?;
        }
        Ok(())
    }
}

#[test]
fn a_file_that_changed_in_a_stream_is_named_and_the_rest_is_saved() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("shrinks"), "short").unwrap();
    fs::write(place.path().join("stays"), "stays").unwrap();
    let mut bytes = Vec::new();
    write_tar(&Shrinking(place.path().to_owned()), true, &mut bytes).unwrap();
    let start = move |_| -> io::Result<Option<Stream>> { Ok(Some(Box::new(io::Cursor::new(bytes.clone())))) };
    let source = TarSource { name: "data".to_owned(), start: Box::new(start) };
    let repository = Repository::at_or_new(&place.path().join("repository")).unwrap();
    let saved = save(&repository, &source, 0);
    let lacking = &saved.snapshot.incomplete;
    assert_eq!((lacking.len(), lacking[0].path.as_str()), (1, "shrinks"));
    assert!(lacking[0].reason.contains("changed while it was read"), "{lacking:?}");
    assert_eq!(saved.snapshot.sources["data"].files, 1);
}
