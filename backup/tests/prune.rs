//! Prune against an oracle, on repositories that chance made up.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod made;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use backup::disk::simulated::SimulatedDisk;
use backup::{Digest, KeepPolicy, PruneError, Reading, Repository, SaveOptions, VerifyOptions};
use made::{Chance, Made, noise, time};

/// A source of a few files out of a few dozen contents: snapshots share some, and some packs die by halves.
fn source(chance: &mut Chance) -> Made {
    let files = (0..1 + chance.below(6)).map(|at| {
        let content = match chance.below(8) {
            // Standalone ones are dear here; a few do.
            0 => noise(100 + chance.below(3), 1 << 20),
            _ => noise(chance.below(30), 200),
        };
        (format!("file {at}"), content)
    });
    Made(files.collect())
}

fn open(disk: &SimulatedDisk) -> Repository {
    Repository::open(Box::new(disk.clone())).unwrap()
}

/// Every object that a snapshot names.
fn named(repository: &Repository, id: &str) -> BTreeSet<Digest> {
    let index = repository.index().unwrap();
    let snapshot = repository.snapshot(id).unwrap();
    let mut named = BTreeSet::new();
    for source in snapshot.sources.values() {
        named.insert(source.tree);
        let entries = repository.tree(&index, source.tree).unwrap();
        named.extend(entries.into_iter().filter_map(|it| it.digest));
    }
    // Each of them can be read.
    named.iter().for_each(|digest| assert_eq!(repository.digest(&index, *digest).unwrap(), *digest));
    named
}

/// Which objects a file holds.
fn held(disk: &SimulatedDisk, path: &str) -> BTreeSet<Digest> {
    let name = path.split('/').nth(1).unwrap();
    match path.starts_with("objects/") {
        true => BTreeSet::from([name.split('.').next().unwrap().parse().unwrap()]),
        false => {
            // The index is text near the pack's end: a digest begins each of its lines.
            let bytes = &disk.files()[path];
            let len = u64::from_le_bytes(bytes[bytes.len() - 48..bytes.len() - 40].try_into().unwrap()) as usize;
            let index = String::from_utf8(bytes[bytes.len() - 48 - len..bytes.len() - 48].to_vec()).unwrap();
            index.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
        }
    }
}

#[test]
fn what_stays_is_whole_and_what_goes_is_needed_by_nobody() {
    let (mut gone_files, mut half_dead) = (0, 0);
    for case in 0..60 {
        let mut chance = Chance(case);
        let disk = SimulatedDisk::default();
        Repository::init(Box::new(disk.clone())).unwrap();
        let mut times = BTreeMap::new();
        let mut minutes = 0;
        for _ in 0..2 + chance.below(6) {
            minutes += 1 + chance.below(40_000) as i64;
            let options = SaveOptions { workers: 1, ..SaveOptions::new(time(minutes), "host") };
            times.insert(open(&disk).save(&[&source(&mut chance)], &options).unwrap().id, time(minutes));
        }
        let verified = (chance.below(2) == 0).then(|| {
            let options = VerifyOptions { reading: Reading::All, deadline: None, workers: 1, now: time(minutes) };
            assert_eq!(open(&disk).verify(&options).unwrap().damage, []);
            times.keys().next_back().unwrap().clone()
        });
        let [last, daily, weekly] = std::array::from_fn(|_| chance.below(3) as u32);
        let policy = KeepPolicy { last, daily, weekly, ..KeepPolicy::default() };
        let before: BTreeMap<&String, BTreeSet<Digest>> =
            times.keys().map(|id| (id, named(&open(&disk), id))).collect();
        let files = disk.files();
        let pruned = open(&disk).prune(&policy, time(minutes + 1), Duration::ZERO);
        if policy.is_empty() {
            assert!(matches!(pruned, Err(PruneError::Empty)), "case {case}");
            assert_eq!(disk.files(), files, "case {case}");
            continue;
        }
        let plan = pruned.unwrap();
        // The policy, newest first, as the oracle of `keep.rs` has it; and what was verified last.
        let newest_first: Vec<_> = times.iter().rev().collect();
        let local: Vec<_> =
            newest_first.iter().map(|(_, time)| time.with_timezone(&chrono::Local).naive_local()).collect();
        let kept = newest_first.iter().zip(policy.keep(&local)).filter(|(_, keep)| *keep).map(|((id, _), _)| *id);
        let kept: BTreeSet<&String> = kept.chain(&verified).collect();
        assert_eq!(plan.keep.iter().collect::<BTreeSet<_>>(), kept, "case {case}");
        assert_eq!(open(&disk).ids().unwrap(), plan.keep, "case {case}");
        let needed: BTreeSet<Digest> = kept.iter().flat_map(|id| before[*id].clone()).collect();
        for id in &kept {
            assert_eq!(named(&open(&disk), id), before[*id], "case {case}");
        }
        // Exactly the files that hold something needed are left.
        let after = disk.files();
        let disk_before = SimulatedDisk::with(&files);
        for path in files.keys().filter(|it| it.starts_with("objects/") || it.starts_with("packs/")) {
            let held = held(&disk_before, path);
            let is_needed = held.iter().any(|it| needed.contains(it));
            assert!(
                after.contains_key(path) == is_needed || shadowed(&disk_before, path, &held),
                "case {case}: {path}"
            );
            half_dead += usize::from(is_needed && held.iter().any(|it| !needed.contains(it)));
            gone_files += usize::from(!is_needed);
        }
        assert!(after.keys().all(|it| !it.starts_with("trash/")), "case {case}: without grace nothing waits");
    }
    assert!(gone_files > 50 && half_dead > 20, "{gone_files} files went, {half_dead} packs were half dead");
}

/// Whether everything in a file stands elsewhere as well, so that it may go although it is needed.
fn shadowed(disk: &SimulatedDisk, path: &str, held_here: &BTreeSet<Digest>) -> bool {
    let files = disk.files();
    let others = files.keys().filter(|it| *it != path && (it.starts_with("objects/") || it.starts_with("packs/")));
    let elsewhere: BTreeSet<Digest> = others.flat_map(|it| held(disk, it)).collect();
    held_here.is_subset(&elsewhere)
}

#[test]
fn a_snapshot_that_cannot_be_read_can_be_forgotten_and_then_prune_goes_on() {
    let disk = SimulatedDisk::default();
    Repository::init(Box::new(disk.clone())).unwrap();
    let mut ids = Vec::new();
    for minutes in 0..3 {
        let made = Made(BTreeMap::from([("file".to_owned(), noise(minutes, 100))]));
        ids.push(open(&disk).save(&[&made], &SaveOptions::new(time(minutes as i64), "host")).unwrap().id);
    }
    let mut files = disk.files();
    files.get_mut(&format!("snapshots/{}.json", ids[0])).unwrap()[20] ^= 1;
    let disk = SimulatedDisk::with(&files);
    let policy = KeepPolicy { last: 1, ..KeepPolicy::default() };
    let refused = open(&disk).prune(&policy, time(9), Duration::ZERO);
    assert!(matches!(refused, Err(PruneError::Unreadable { .. })), "{refused:?}");
    assert_eq!(disk.files(), files);
    open(&disk).forget(&ids[..1], time(9)).unwrap();
    assert!(disk.files().keys().any(|it| it.starts_with("trash/")), "it can still be looked at");
    assert_eq!(open(&disk).prune(&policy, time(9), Duration::ZERO).unwrap().keep, ids[2..]);

    let options = VerifyOptions { reading: Reading::All, deadline: None, workers: 1, now: time(9) };
    open(&disk).verify(&options).unwrap();
    let refused = open(&disk).forget(&ids[2..], time(9));
    assert!(matches!(refused, Err(PruneError::Verified { .. })), "{refused:?}");
}
