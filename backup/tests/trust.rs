//! What nobody should have to take on trust: a power cut after every operation, an error at every operation, a flipped
//! bit in every region of every kind of file.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod made;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use backup::disk::simulated::{Fault, Files, Operation, SimulatedDisk, after, unsynced};
use backup::{
    Digest, KeepPolicy, PruneError, Reading, Repository, RestoreOptions, SaveOptions, StoreError, VerifyOptions,
};
use made::{Made, digests, noise, time};

/// One of each kind: packed, raw, compressed.
fn source(generation: u64) -> Made {
    let mut files = BTreeMap::new();
    files.insert("same".to_owned(), b"the same each time".to_vec());
    files.insert("small".to_owned(), noise(generation, 300));
    for at in 0..3 {
        files.insert(format!("raw {at}"), noise(100 * at + generation, 1 << 20));
    }
    files.insert("text".to_owned(), format!("generation {generation} ").repeat(70_000).into_bytes());
    Made(files)
}

fn save(disk: &SimulatedDisk, source: &Made, minutes: i64) -> Result<String, StoreError> {
    let repository = Repository::open(Box::new(disk.clone()))?;
    Ok(repository.save(&[source], &SaveOptions { workers: 1, ..SaveOptions::new(time(minutes), "host") })?.id)
}

/// A snapshot's contents by path, read through the store.
fn contents(disk: &SimulatedDisk, id: &str) -> Result<BTreeMap<String, Digest>, StoreError> {
    let repository = Repository::open(Box::new(disk.clone()))?;
    let index = repository.index()?;
    let snapshot = repository.snapshot(id)?;
    let mut found = BTreeMap::new();
    for entry in repository.tree(&index, snapshot.sources["made"].tree)? {
        found.insert(entry.path, repository.digest(&index, entry.digest.unwrap())?);
    }
    Ok(found)
}

fn new_disk() -> SimulatedDisk {
    let disk = SimulatedDisk::default();
    Repository::init(Box::new(disk.clone())).unwrap();
    disk
}

/// Every set of at most `most` of these.
fn subsets(of: &[usize], most: usize) -> Vec<Vec<usize>> {
    let mut sets = vec![Vec::new()];
    for at in of {
        let smaller: Vec<_> = sets.iter().filter(|set| set.len() < most).cloned().collect();
        sets.extend(smaller.into_iter().map(|mut set| {
            set.push(*at);
            set
        }));
    }
    sets
}

/// Every disk that a power cut during `log` can leave, with how many operations had been done.
fn cuts(before: &Files, log: &[Operation], mut each: impl FnMut(usize, Files)) {
    let mut seen = BTreeSet::new();
    for done in 0..=log.len() {
        let log = &log[..done];
        let loose = unsynced(log);
        let last_write = loose.iter().rev().find(|at| matches!(log[**at], Operation::Append(..))).copied();
        for dropped in subsets(&loose, 3) {
            for torn in [None, last_write] {
                let files = after(before, log, &dropped, torn);
                // Many cuts leave the same: what was asked once need not be asked again.
                let mut text = Vec::new();
                for (path, bytes) in &files {
                    text.extend(path.as_bytes());
                    text.extend((bytes.len() as u64).to_be_bytes());
                    text.extend(bytes.iter().step_by(4093).chain(bytes.iter().rev().take(64)));
                }
                if seen.insert((done, Digest::of(&text))) {
                    each(done, files);
                }
            }
        }
    }
}

fn commit_point(log: &[Operation]) -> usize {
    let flushed = log.iter().rposition(|it| *it == Operation::FlushFolder("snapshots".to_owned()));
    flushed.unwrap() + 1
}

#[test]
fn a_power_cut_at_any_moment_of_a_save_loses_no_snapshot() {
    let disk = new_disk();
    let first = save(&disk, &source(1), 1).unwrap();
    let before = disk.files();
    let disk = SimulatedDisk::with(&before);
    let second = save(&disk, &source(2), 2).unwrap();
    let log = disk.log();
    let committed = commit_point(&log);
    let (mut disks, mut early) = (0, 0);
    cuts(&before, &log, |done, files| {
        disks += 1;
        let disk = SimulatedDisk::with(&files);
        assert_eq!(contents(&disk, &first).unwrap(), digests(&source(1)), "after {done} operations");
        let ids = Repository::open(Box::new(disk.clone())).unwrap().ids().unwrap();
        assert!(done < committed || ids.contains(&second), "a snapshot was promised after {done} operations");
        if ids.contains(&second) {
            early += usize::from(done < committed);
            assert_eq!(contents(&disk, &second).unwrap(), digests(&source(2)), "after {done} operations");
        }
        // Expensive, and the same for all that differ in what came before: every seventh goes on.
        if disks % 7 == 0 {
            let third = save(&disk, &source(2), 3).unwrap();
            assert_eq!(contents(&disk, &third).unwrap(), digests(&source(2)), "saved after {done} operations");
        }
    });
    assert!(disks > 200, "only {disks} disks were looked at, after {} operations", log.len());
    assert!(early > 0, "no cut fell between the rename and its flush");
}

#[test]
fn a_save_after_a_killed_one_relies_on_nothing_that_a_power_cut_can_take() {
    let disk = new_disk();
    let first = save(&disk, &source(1), 1).unwrap();
    let before = disk.files();
    let whole = SimulatedDisk::with(&before);
    save(&whole, &source(2), 2).unwrap();
    // Killed after each operation that it asks for: what it did is there, durable or not.
    for at in (0..whole.done()).step_by(3) {
        let disk = SimulatedDisk::with(&before);
        disk.set_fault(Some(Fault { at, errno: 5, lasts: true }));
        let _ = save(&disk, &source(2), 2);
        disk.set_fault(None);
        let second = save(&disk, &source(2), 3).unwrap();
        let log = disk.log();
        let loose = unsynced(&log);
        for dropped in subsets(&loose, 2) {
            let disk = SimulatedDisk::with(&after(&before, &log, &dropped, None));
            assert_eq!(contents(&disk, &first).unwrap(), digests(&source(1)));
            assert_eq!(contents(&disk, &second).unwrap(), digests(&source(2)), "killed at {at}, lost {dropped:?}");
        }
    }
}

#[test]
fn a_power_cut_at_any_moment_of_a_prune_loses_nothing_that_stays() {
    let disk = new_disk();
    for generation in 1..=2 {
        save(&disk, &source(generation), generation as i64).unwrap();
    }
    let before = disk.files();
    let disk = SimulatedDisk::with(&before);
    let policy = KeepPolicy { last: 1, ..KeepPolicy::default() };
    let repository = Repository::open(Box::new(disk.clone())).unwrap();
    let plan = repository.prune(&policy, time(9), Duration::ZERO).unwrap();
    assert_eq!((plan.keep.len(), plan.forget.len()), (1, 1));
    cuts(&before, &disk.log(), |done, files| {
        let disk = SimulatedDisk::with(&files);
        for id in Repository::open(Box::new(disk.clone())).unwrap().ids().unwrap() {
            // One that goes may come back after the cut, and then it is whole: its objects go after it.
            let found = contents(&disk, &id);
            assert!(found.is_ok(), "{id} after {done} operations: {found:?}");
        }
        assert_eq!(contents(&disk, &plan.keep[0]).unwrap(), digests(&source(2)));
    });
}

#[test]
fn an_error_at_any_operation_fails_the_save_and_nothing_else() {
    let disk = new_disk();
    let first = save(&disk, &source(1), 1).unwrap();
    let before = disk.files();
    let whole = SimulatedDisk::with(&before);
    save(&whole, &source(2), 2).unwrap();
    let operations = whole.done();
    assert!(operations > 30, "only {operations} operations");
    for errno in [5, 28] {
        for lasts in [false, true] {
            for at in 0..operations {
                let disk = SimulatedDisk::with(&before);
                disk.set_fault(Some(Fault { at, errno, lasts }));
                let saved = save(&disk, &source(2), 2);
                disk.set_fault(None);
                if let Ok(id) = &saved {
                    // A read that fails may make a save do more than it had to, never less.
                    assert!(!lasts, "errno {errno} at {at} went unseen");
                    assert_eq!(contents(&disk, id).unwrap(), digests(&source(2)), "errno {errno} at {at}");
                }
                assert_eq!(contents(&disk, &first).unwrap(), digests(&source(1)), "errno {errno} at {at}");
                let next = save(&disk, &source(2), 3).unwrap();
                assert_eq!(contents(&disk, &next).unwrap(), digests(&source(2)), "errno {errno} at {at}");
            }
        }
    }
}

#[test]
fn an_error_at_any_operation_of_a_prune_or_a_verify_hurts_no_snapshot_that_stays() {
    // Little, since it is saved hundreds of times.
    let source = |generation| {
        let mut all = source(generation);
        all.0.retain(|path, _| ["same", "small", "raw 0"].contains(&path.as_str()));
        all
    };
    let disk = new_disk();
    let ids: Vec<String> = (1..=3).map(|it| save(&disk, &source(it), it as i64).unwrap()).collect();
    let before = disk.files();
    let policy = KeepPolicy { last: 1, ..KeepPolicy::default() };
    let prune = |disk: &SimulatedDisk| {
        let repository = Repository::open(Box::new(disk.clone()))?;
        repository.prune(&policy, time(9), Duration::ZERO).map(drop).map_err(|error| match error {
            PruneError::Store(error) | PruneError::Unreadable { source: error, .. } => error,
            other => panic!("{other:?}"),
        })
    };
    let verify = |disk: &SimulatedDisk| {
        let repository = Repository::open(Box::new(disk.clone()))?;
        let options = VerifyOptions { reading: Reading::All, deadline: None, workers: 1, now: time(50) };
        repository.verify(&options).map(drop)
    };
    type Act<'a> = &'a dyn Fn(&SimulatedDisk) -> Result<(), StoreError>;
    let acts: [Act<'_>; 2] = [&prune, &verify];
    for (which, act) in acts.iter().enumerate() {
        let whole = SimulatedDisk::with(&before);
        whole.set_fault(None);
        act(&whole).unwrap();
        let operations = whole.done();
        assert!(operations > 20, "only {operations} operations");
        // 28 is a full disk, 5 a drive that fails; a read that fails for good may be taken for damage.
        for (errno, lasts) in [(28, true), (5, false)] {
            for at in 0..operations {
                let disk = SimulatedDisk::with(&before);
                disk.set_fault(Some(Fault { at, errno, lasts }));
                let acted = act(&disk);
                disk.set_fault(None);
                assert!(errno != 28 || acted.is_err(), "act {which}: errno {errno} at {at} went unseen");
                let next = save(&disk, &source(3), 60).unwrap();
                assert_eq!(contents(&disk, &next).unwrap(), digests(&source(3)), "act {which}: errno {errno} at {at}");
                assert_eq!(
                    contents(&disk, &ids[2]).unwrap(),
                    digests(&source(3)),
                    "act {which}: errno {errno} at {at}"
                );
                prune(&disk).unwrap();
            }
        }
    }
}

fn verify(disk: &SimulatedDisk) -> backup::Verified {
    let repository = Repository::open(Box::new(disk.clone())).unwrap();
    let options = VerifyOptions { reading: Reading::All, deadline: None, workers: 1, now: time(50) };
    repository.verify(&options).unwrap()
}

#[test]
fn a_flipped_bit_anywhere_is_found_named_and_healed() {
    let disk = new_disk();
    let id = save(&disk, &source(1), 1).unwrap();
    let before = disk.files();
    assert_eq!(verify(&disk).damage, []);
    let mut flipped = 0;
    for (path, bytes) in before.iter().filter(|(path, _)| !["format.json", "lock"].contains(&path.as_str())) {
        // Both ends, where what is structure stands, and a spread of the rest.
        let far = bytes.len().saturating_sub(40);
        let places = (0..bytes.len()).filter(|at| *at < 16 || *at >= far || at % (bytes.len() / 12).max(1) == 0);
        for at in places {
            let mut files = before.clone();
            files.get_mut(path).unwrap()[at] ^= 1 << (at % 8);
            let disk = SimulatedDisk::with(&files);
            let found = verify(&disk);
            assert!(!found.damage.is_empty(), "{path}, byte {at}: not found");
            let names_it = found.damage.iter().any(|it| it.snapshots == [id.clone()]);
            // The magic at a pack's start is nobody's data.
            let is_between = found.damage.iter().all(|it| it.what.contains("nothing is lost"));
            assert!(names_it || is_between, "{path}, byte {at}: {found:?}");
            let healed = save(&disk, &source(1), 2).unwrap();
            assert_eq!(contents(&disk, &healed).unwrap(), digests(&source(1)), "{path}, byte {at}");
            if !path.starts_with("snapshots/") {
                assert_eq!(contents(&disk, &id).unwrap(), digests(&source(1)), "{path}, byte {at}: old snapshot");
                // What has become needless is put away by the first look after it was healed.
                let left = verify(&disk).damage;
                assert!(left.iter().all(|it| it.snapshots.is_empty()), "{path}, byte {at}: {left:?}");
                assert_eq!(verify(&disk).damage, [], "{path}, byte {at}: healed, and still damaged");
            }
            flipped += 1;
        }
    }
    assert!(flipped > 200, "only {flipped} bits were flipped");
}

#[test]
fn a_missing_file_of_any_kind_is_found_and_healed() {
    let disk = new_disk();
    let id = save(&disk, &source(1), 1).unwrap();
    let before = disk.files();
    for path in before.keys().filter(|path| path.starts_with("objects/") || path.starts_with("packs/")) {
        let mut files = before.clone();
        files.remove(path);
        let disk = SimulatedDisk::with(&files);
        let found = verify(&disk);
        assert!(found.damage.iter().any(|it| it.snapshots == [id.clone()]), "{path}: {found:?}");
        save(&disk, &source(1), 2).unwrap();
        assert_eq!(contents(&disk, &id).unwrap(), digests(&source(1)), "{path}");
    }
}

#[test]
fn one_unreadable_snapshot_stops_prune_and_no_restore() {
    let disk = new_disk();
    let first = save(&disk, &source(1), 1).unwrap();
    let second = save(&disk, &source(2), 2).unwrap();
    let mut files = disk.files();
    files.get_mut(&format!("snapshots/{first}.json")).unwrap()[10] ^= 1;
    let disk = SimulatedDisk::with(&files);
    let repository = Repository::open(Box::new(disk.clone())).unwrap();
    let policy = KeepPolicy { last: 1, ..KeepPolicy::default() };
    let pruned = repository.prune(&policy, time(9), Duration::ZERO);
    assert!(matches!(pruned, Err(PruneError::Unreadable { .. })), "{pruned:?}");
    assert_eq!(disk.files(), files);
    assert_eq!(contents(&disk, &second).unwrap(), digests(&source(2)));
}

#[test]
fn a_segment_of_a_huge_object_is_found_damaged() {
    let place = tempfile::tempdir().unwrap();
    let (from, at) = (place.path().join("from"), place.path().join("repository"));
    fs::create_dir_all(&from).unwrap();
    let bytes = noise(1, (150 << 20) + 5);
    fs::write(from.join("huge"), &bytes).unwrap();
    let source =
        backup::source::FolderSource { name: "made".to_owned(), root: from, excludes: Vec::new(), only: Vec::new() };
    let repository = Repository::at_or_new(&at).unwrap();
    let id = repository.save(&[&source], &SaveOptions::new(time(0), "host")).unwrap().id;
    let options = VerifyOptions { reading: Reading::All, deadline: None, workers: 2, now: time(1) };
    let whole = repository.verify(&options).unwrap();
    assert_eq!((whole.units, whole.damage.len()), (4, 0), "three segments and a pack");
    assert!(repository.is_verified(&id).unwrap());
    let parts = (1..=3).map(|part| VerifyOptions { reading: Reading::Part(part, 3), ..options.clone() });
    let read: usize = parts.map(|options| repository.verify(&options).unwrap().units).sum();
    assert_eq!(read, whole.units, "three thirds are everything");

    let object = at.join(format!("objects/{}", Digest::of(&bytes)));
    let mut flipped = bytes.clone();
    flipped[100 << 20] ^= 4;
    fs::write(&object, &flipped).unwrap();
    let found = repository.verify(&options).unwrap();
    let range = &found.damage[0].ranges[0];
    assert_eq!((range.start, range.end, found.damage[0].ranges.len()), (64 << 20, 128 << 20, 1));
    assert_eq!(found.damage[0].snapshots, std::slice::from_ref(&id));
    assert!(!object.exists(), "what is damaged is out of the way");
    assert!(!repository.is_verified(&id).unwrap(), "an old verdict does not stand against new damage");
    repository.save(&[&source], &SaveOptions::new(time(2), "host")).unwrap();
    let targets = BTreeMap::from([("made".to_owned(), place.path().join("to"))]);
    repository.restore(&id, &RestoreOptions { targets, glob: None, workers: 1 }).unwrap();
    assert!(fs::read(place.path().join("to/huge")).unwrap() == bytes, "the old snapshot is healed as well");
}
