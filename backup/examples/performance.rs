//! Measures the store beside its peers, in turns, on the same data: `cp -a` and sync, restic, borg, as far as they are
//! installed.
//!
//! `cargo run --release -p backup --example performance -- FOLDER [MIB] [ROUNDS]` works below FOLDER, on the disk that is to
//! be measured, and needs about five times MIB there. What is said of a round is the median; every source file is out of the
//! page cache when a first backup begins (`posix_fadvise`), which is how a freshly pulled model is met.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark runs other programs, and may stop at any fault"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use backup::source::FolderSource;
use backup::{Reading, Repository, RestoreOptions, SaveOptions, VerifyOptions};
use chrono::Utc;
use rustix::fs::{Advice, fadvise};

const OURSELVES: &str = "--ourselves";

/// Wall and processor seconds, and the most memory that was resident.
#[derive(Clone, Copy, Default)]
struct Cost {
    wall: f64,
    processor: f64,
    peak_mib: f64,
}

/// A shell line, under `/usr/bin/time`'s eyes if it is there.
fn run(line: &str) -> Cost {
    let report = std::env::temp_dir().join(format!("performance-{}", std::process::id()));
    let begun = Instant::now();
    let status = Command::new("/usr/bin/time")
        .args(["-f", "%U %S %M", "-o"])
        .arg(&report)
        .args(["sh", "-c", line])
        .env("RESTIC_PASSWORD", "x")
        .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let wall = begun.elapsed().as_secs_f64();
    assert!(status.success(), "failed: {line}");
    let text = fs::read_to_string(&report).unwrap();
    fs::remove_file(&report).unwrap();
    let words: Vec<f64> = text.lines().last().unwrap().split(' ').map(|it| it.parse().unwrap()).collect();
    Cost { wall, processor: words[0] + words[1], peak_mib: words[2] / 1024.0 }
}

/// One operation of ours, in a process of its own so that its memory can be told.
fn ourselves(operation: &str, root: &Path) {
    let repository = Repository::at_or_new(&root.join("ours")).unwrap();
    match operation {
        "save" => {
            let source = FolderSource {
                name: "data".to_owned(),
                root: root.join("source"),
                excludes: Vec::new(),
                only: Vec::new(),
            };
            let saved = repository.save(&[&source], &SaveOptions::new(Utc::now(), "here")).unwrap();
            assert_eq!(saved.snapshot.incomplete, []);
        }
        "verify" => {
            let options = VerifyOptions { reading: Reading::All, deadline: None, workers: 2, now: Utc::now() };
            assert_eq!(repository.verify(&options).unwrap().damage, []);
        }
        "restore" => {
            let targets = BTreeMap::from([("data".to_owned(), root.join("restored"))]);
            let id = repository.find("latest").unwrap();
            let restored = repository.restore(&id, &RestoreOptions { targets, glob: None, workers: 2 }).unwrap();
            assert_eq!(restored.failed, []);
        }
        other => panic!("no operation {other}"),
    }
}

fn noise(file: &Path, mib: u64, seed: u64) {
    use std::io::Write;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = std::io::BufWriter::new(File::create(file).unwrap());
    for _ in 0..mib * (1 << 17) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.write_all(&state.to_le_bytes()).unwrap();
    }
    out.into_inner().unwrap().sync_all().unwrap();
}

/// Blobs of an eighth, a quarter and the rest; and many small files.
fn make(source: &Path, mib: u64) {
    fs::create_dir_all(source.join("small")).unwrap();
    for (at, part) in [mib / 8, mib / 4, mib - mib / 8 - mib / 4].into_iter().enumerate() {
        noise(&source.join(format!("blob{at}")), part, at as u64 + 1);
    }
    for at in 0..1000 {
        fs::write(source.join(format!("small/{at}")), format!("a small file, number {at}\n").repeat(at % 50 + 1))
            .unwrap();
    }
}

/// Has the kernel forget what it holds of these files.
fn cool(folder: &Path) {
    for file in walkdir::WalkDir::new(folder).into_iter().flatten().filter(|it| it.file_type().is_file()) {
        let file = File::open(file.path()).unwrap();
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    }
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// What each program is asked, by operation. `{r}` is the root.
fn contenders() -> Vec<(&'static str, Vec<(&'static str, String)>)> {
    let own = std::env::current_exe().unwrap();
    let own = |operation: &str| format!("'{}' {OURSELVES} {operation} {{r}}", own.display());
    let line = |text: &str| text.to_owned();
    let mut all = vec![
        (
            "ours",
            vec![
                ("first", own("save")),
                ("again", own("save")),
                ("verify", own("verify")),
                ("restore", own("restore")),
            ],
        ),
        (
            "cp",
            vec![
                ("first", line("cp -a {r}/source {r}/cp && sync -f {r}/cp")),
                ("restore", line("cp -a {r}/cp {r}/restored && sync -f {r}/restored")),
            ],
        ),
    ];
    if is_installed("restic") {
        let save = "restic --no-cache -r {r}/restic backup {r}/source";
        all.push((
            "restic",
            vec![
                ("first", format!("restic -r {{r}}/restic init && {save} && sync -f {{r}}")),
                ("again", line(save)),
                ("verify", line("restic --no-cache -r {r}/restic check --read-data")),
                (
                    "restore",
                    line("restic --no-cache -r {r}/restic restore latest --target {r}/restored && sync -f {r}"),
                ),
            ],
        ));
    }
    if is_installed("borg") {
        let save = "borg create -C none {r}/borg::$(date +%s%N) {r}/source";
        all.push(("borg", vec![
            ("first", format!("borg init -e none {{r}}/borg && {save} && sync -f {{r}}")),
            ("again", line(save)),
            ("verify", line("borg check --verify-data {r}/borg")),
            ("restore", line("mkdir {r}/restored && cd {r}/restored && borg extract {r}/borg::$(borg list --last 1 --short {r}/borg) && sync -f {r}")),
        ]));
    }
    all
}

fn round(root: &Path, costs: &mut BTreeMap<(&str, &str), Vec<Cost>>) {
    for operation in ["first", "again", "verify", "restore"] {
        for (name, lines) in contenders() {
            let Some((asked, line)) = lines.into_iter().find(|(it, _)| *it == operation) else { continue };
            cool(root);
            let cost = run(&line.replace("{r}", &root.display().to_string()));
            costs.entry((asked, name)).or_default().push(cost);
            let _ = fs::remove_dir_all(root.join("restored"));
        }
    }
    for name in ["ours", "cp", "restic", "borg"] {
        let _ = fs::remove_dir_all(root.join(name));
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, operation, root] = &words[..]
        && first == OURSELVES
    {
        return ourselves(operation, Path::new(root));
    }
    let root = PathBuf::from(words.first().expect("a folder to work in")).join("performance");
    let number = |at: usize, other| words.get(at).map_or(other, |it| it.parse().unwrap());
    let (mib, rounds) = (number(1, 1024), number(2, 3));
    make(&root.join("source"), mib);
    // What changed within the last two seconds is read again by the next save.
    std::thread::sleep(std::time::Duration::from_secs(4));
    let mut costs = BTreeMap::new();
    for _ in 0..rounds {
        round(&root, &mut costs);
    }
    fs::remove_dir_all(&root).unwrap();
    println!("{mib} MiB, median of {rounds} rounds, cold\n");
    println!(
        "| operation | program | wall s | ours / it | processor s | ours / it | peak MiB |\n|---|---|---|---|---|---|---|"
    );
    let of = |key: (&str, &str), pick: fn(&Cost) -> f64| median(costs[&key].iter().map(pick).collect());
    for (operation, name) in costs.keys() {
        let (wall, processor) = (of((operation, name), |it| it.wall), of((operation, name), |it| it.processor));
        let (our_wall, our_processor) =
            (of((operation, "ours"), |it| it.wall), of((operation, "ours"), |it| it.processor));
        let peak = of((operation, name), |it| it.peak_mib);
        println!(
            "| {operation} | {name} | {wall:.2} | {:.2} | {processor:.2} | {:.2} | {peak:.0} |",
            our_wall / wall,
            our_processor / processor
        );
    }
}
