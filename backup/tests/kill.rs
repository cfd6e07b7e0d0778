//! Killed at random moments, a process that saves, prunes, verifies and restores without end leaves nothing but whole
//! snapshots, whole files, and a repository that the next one goes on with.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod made;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use backup::source::FolderSource;
use backup::{Digest, KeepPolicy, Reading, Repository, RestoreOptions, SaveOptions, VerifyOptions};
use chrono::Utc;
use made::{Chance, noise};

const ROUNDS: u64 = 200;
/// Tells the child where it works.
const PLACE: &str = "BACKUP_KILLED_IN";

/// Content that tells by itself whether it is whole: its number, then what follows from it.
fn content(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend(noise(number, len));
    bytes
}

fn is_whole(bytes: &[u8]) -> bool {
    let number = bytes.first_chunk().map(|it| u64::from_be_bytes(*it));
    number.is_some_and(|number| content(number, bytes.len() - 8) == bytes)
}

/// Renames, so that the source itself is never torn.
fn change(from: &Path, number: u64) {
    let new = from.with_file_name("new");
    for (name, len) in [("large".to_owned(), 1_500_000), (format!("small {}", number % 40), 2000)] {
        fs::write(&new, content(number, len)).unwrap();
        fs::rename(&new, from.join(name)).unwrap();
    }
}

/// What the child does until it is killed.
fn work(place: &Path) {
    let repository = Repository::at(&place.join("repository")).unwrap();
    let first = Utc::now().timestamp_micros().cast_unsigned();
    for number in first.. {
        turn(&repository, place, number);
    }
}

/// A save, and by its number what else there is to do.
fn turn(repository: &Repository, place: &Path, number: u64) {
    let source = FolderSource::new("data", &place.join("from"));
    change(&source.root, number);
    repository.save(&[&source], &SaveOptions::new(Utc::now(), "host")).unwrap();
    if number.is_multiple_of(3) {
        let policy = KeepPolicy { last: 3, ..KeepPolicy::default() };
        repository.prune(&policy, Utc::now(), Duration::ZERO).unwrap();
    }
    if number.is_multiple_of(4) {
        let targets = BTreeMap::from([("data".to_owned(), place.join("to"))]);
        let options = RestoreOptions { targets, glob: None, workers: 2 };
        assert_eq!(repository.restore(&repository.find("latest").unwrap(), &options).unwrap().failed, []);
    }
    if number.is_multiple_of(5) {
        let options = VerifyOptions { reading: Reading::All, deadline: None, workers: 2, now: Utc::now() };
        assert_eq!(repository.verify(&options).unwrap().damage, []);
    }
}

/// A process of its own, which never outlives its handle.
struct Worker(Child);

impl Worker {
    #[expect(clippy::disallowed_methods, reason = "what is killed has to be a process of its own")]
    fn start(place: &Path) -> Self {
        let own = std::env::current_exe().unwrap();
        let mut command = Command::new(own);
        command.args(["--exact", "whatever_is_killed_leaves_whole_snapshots"]).env(PLACE, place);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Whether it was still at work.
    fn kill(mut self) -> bool {
        let was_at_work = self.0.try_wait().unwrap().is_none();
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        was_at_work
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every object of every snapshot, read; how many snapshots there are.
fn check(repository: &Repository) -> usize {
    let index = repository.index().unwrap();
    let ids = repository.ids().unwrap();
    let mut digests = std::collections::BTreeSet::new();
    for id in &ids {
        for source in repository.snapshot(id).unwrap().sources.values() {
            let entries = repository.tree(&index, source.tree).unwrap();
            digests.extend(entries.into_iter().filter_map(|it| it.digest));
        }
    }
    digests.iter().for_each(|digest| assert_eq!(repository.digest(&index, *digest).unwrap(), *digest));
    ids.len()
}

/// Restored files that have their names; what a restore was writing beside them is not one.
fn placed(folder: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(folder).into_iter().flatten().map(|it| it.unwrap().path());
    found.filter(|it| !it.file_name().unwrap().to_string_lossy().starts_with(".restore-")).collect()
}

#[test]
fn whatever_is_killed_leaves_whole_snapshots() {
    if let Some(place) = std::env::var_os(PLACE) {
        return work(Path::new(&place));
    }
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    fs::create_dir(place.join("from")).unwrap();
    change(&place.join("from"), 1);
    let repository = Repository::at_or_new(&place.join("repository")).unwrap();
    let source = FolderSource::new("data", &place.join("from"));
    repository.save(&[&source], &SaveOptions::new(Utc::now(), "host")).unwrap();
    // Everything that there is to do, once: the moments are spread over a few of these, on a slow machine as on a fast one.
    let begun = Instant::now();
    turn(&repository, place, 60);
    let spread_us = u64::try_from(begun.elapsed().as_micros()).unwrap() * 4;
    let mut chance = Chance(7);
    let (mut at_work, mut unfinished, mut restored) = (0, 0, 0);
    for round in 0..ROUNDS {
        let worker = Worker::start(place);
        thread::sleep(Duration::from_micros(2000 + chance.below(spread_us)));
        at_work += usize::from(worker.kill());
        unfinished += fs::read_dir(place.join("repository/temporary")).unwrap().count();
        assert!(check(&repository) > 0, "round {round}");
        for file in placed(&place.join("to")) {
            assert!(is_whole(&fs::read(&file).unwrap()), "round {round}: {}", file.display());
            restored += 1;
        }
        if round.is_multiple_of(10) {
            let saved = repository.save(&[&source], &SaveOptions::new(Utc::now(), "host")).unwrap();
            assert_eq!(saved.snapshot.incomplete, [], "round {round}");
            let large = fs::read(place.join("from/large")).unwrap();
            assert!(repository.digest(&repository.index().unwrap(), Digest::of(&large)).is_ok(), "round {round}");
        }
    }
    assert!(at_work as u64 > ROUNDS * 9 / 10, "only {at_work} of {ROUNDS} were killed at work");
    assert!(unfinished > 20 && restored > 100, "{unfinished} unfinished files, {restored} restored ones: too early?");
    let options = VerifyOptions { reading: Reading::All, deadline: None, workers: 2, now: Utc::now() };
    assert_eq!(repository.verify(&options).unwrap().damage, []);
}
