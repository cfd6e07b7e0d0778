//! Measures the store beside its peers, in turns, on the same data: `cp -a` and sync, tar and zstd, restic, borg and rustic, as far
//! as they are installed; and beside what bounds it: a direct write of the same bytes, reading and writing them at once, one hash.
//!
//! `cargo run --release -p backup --example performance -- FOLDER [MIB] [ROUNDS]` works below FOLDER, on the disk that is to
//! be measured, and needs about eight times MIB there. What is said of a round is the median. "cold": the files that are read are
//! out of the page cache when an operation begins (`posix_fadvise`), as a freshly started host meets them; "warm": the source is in it,
//! as after a pull.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark runs other programs, and may stop at any fault"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use backup::source::{BlobSource, FolderSource, Named};
use backup::{HashingReader, KeepPolicy, Reading, Repository, RestoreOptions, SaveOptions, VerifyOptions};
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

/// As a model store is saved: blobs by what a manifest says of them, and the small files beside them.
fn sources(source: &Path) -> (BlobSource, FolderSource) {
    let parse = |bytes: &[u8]| -> Result<Vec<Named>, String> {
        let named = |line: &str| {
            let (digest, rest) = line.split_once(' ')?;
            let (size, path) = rest.split_once(' ')?;
            Some(Named { path: path.into(), digest: digest.parse().ok()?, size: size.parse().ok()? })
        };
        String::from_utf8_lossy(bytes).lines().map(|it| named(it).ok_or_else(|| it.to_owned())).collect()
    };
    let (name, root) = ("blobs".to_owned(), source.to_owned());
    let blobs = BlobSource { name, root, manifests: "manifests".into(), parse: Box::new(parse) };
    (blobs, FolderSource { only: vec!["small".into()], ..FolderSource::new("small", source) })
}

/// Writes down what the blobs are.
fn write_manifest(source: &Path) {
    let line = |path: PathBuf| {
        let mut reader = HashingReader::new(File::open(&path).unwrap());
        io::copy(&mut reader, &mut io::sink()).unwrap();
        let (digest, size) = reader.finish();
        format!("{digest} {size} {}\n", path.file_name().unwrap().display())
    };
    fs::write(source.join("manifests/all"), blobs(source).into_iter().map(line).collect::<String>()).unwrap();
}

/// One operation of ours, in a process of its own so that its memory can be told.
fn ourselves(operation: &str, root: &Path) {
    let repository = Repository::at_or_new(&root.join("ours")).unwrap();
    match operation {
        "save" => {
            let (blobs, small) = sources(&root.join("source"));
            let saved = repository.save(&[&blobs, &small], &SaveOptions::new(Utc::now(), "here")).unwrap();
            assert_eq!(saved.snapshot.incomplete, []);
        }
        "verify" => {
            let options = VerifyOptions { reading: Reading::All, deadline: None, workers: 2, now: Utc::now() };
            assert_eq!(repository.verify(&options).unwrap().damage, []);
        }
        "restore" => {
            let targets = ["blobs", "small"].map(|it| (it.to_owned(), root.join("restored").join(it))).into();
            let id = repository.find("latest").unwrap();
            let restored = repository.restore(&id, &RestoreOptions { targets, glob: None, workers: 2 }).unwrap();
            assert_eq!(restored.failed, []);
        }
        "prune" => {
            let policy = KeepPolicy { last: 1, ..KeepPolicy::default() };
            repository.prune(&policy, Utc::now(), Duration::ZERO).unwrap();
        }
        "hash" => {
            for file in blobs(&root.join("source")) {
                io::copy(&mut HashingReader::new(File::open(file).unwrap()), &mut io::sink()).unwrap();
            }
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
    fs::create_dir_all(source.join("manifests")).unwrap();
    for (at, part) in [mib / 8, mib / 4, mib - mib / 8 - mib / 4].into_iter().enumerate() {
        noise(&source.join(format!("blob{at}")), part, at as u64 + 1);
    }
    for at in 0..1000 {
        fs::write(source.join(format!("small/{at}")), format!("a small file, number {at}\n").repeat(at % 50 + 1))
            .unwrap();
    }
    write_manifest(source);
}

/// Has the kernel forget what it holds of these files.
fn cool(folder: &Path) {
    for file in walkdir::WalkDir::new(folder).into_iter().flatten().filter(|it| it.file_type().is_file()) {
        let file = File::open(file.path()).unwrap();
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    }
}

fn blobs(source: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(source).unwrap().map(|it| it.unwrap().path());
    found.filter(|it| it.file_name().unwrap().to_string_lossy().starts_with("blob")).collect()
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Given the root and the MiB.
type Prepare = fn(&Path, u64);

/// What is done, in this order; and what is done to the source before it.
const OPERATIONS: [(&str, Prepare); 9] = [
    ("1 first, cold", |root, _| cool(root)),
    // While all contenders hold the same bytes.
    ("7 restore, cold", |root, _| cool(root)),
    ("2 nothing changed", |root, _| cool(root)),
    ("3 blobs' mtimes touched", |root, _| touch(&root.join("source"))),
    ("4 a blob renamed", |root, _| rename(&root.join("source"))),
    ("5 a quarter added", |root, mib| add(&root.join("source"), mib / 4)),
    ("6 verify all", |root, _| cool(root)),
    ("8 prune", |root, _| cool(root)),
    ("9 first, warm", |root, _| warm(&root.join("source"))),
];

fn touch(source: &Path) {
    blobs(source).iter().for_each(|it| File::open(it).unwrap().set_modified(SystemTime::now()).unwrap());
    settle();
}

/// What changed within the last two seconds is read again by the next save.
fn settle() {
    thread::sleep(Duration::from_secs(4));
}

fn rename(source: &Path) {
    fs::rename(source.join("blob0"), source.join("blob-renamed")).unwrap();
    write_manifest(source);
    settle();
}

fn add(source: &Path, mib: u64) {
    noise(&source.join("blob-new"), mib, 99);
    write_manifest(source);
}

fn warm(source: &Path) {
    for blob in blobs(source) {
        io::copy(&mut File::open(blob).unwrap(), &mut io::sink()).unwrap();
    }
}

/// A contender's line for each operation that it has, by the number that the operation begins with. `{r}` is the root.
struct Contender {
    name: &'static str,
    lines: Vec<(&'static str, String)>,
}

fn contenders(mib: u64) -> Vec<Contender> {
    let own = std::env::current_exe().unwrap();
    let own = |operation: &str| format!("'{}' {OURSELVES} {operation} {{r}}", own.display());
    let line = |text: &str| text.to_owned();
    let save = own("save");
    let ours =
        vec![("129", save.clone()), ("345", save), ("6", own("verify")), ("7", own("restore")), ("8", own("prune"))];
    let direct = format!("dd if=/dev/zero of={{r}}/direct bs=4M count={} oflag=direct conv=fsync", mib / 4);
    let both =
        "cat /dev/null; for f in {r}/source/blob*; do dd if=$f of=/dev/null bs=4M iflag=direct & done; ".to_owned();
    let mut all = vec![
        Contender { name: "ours", lines: ours },
        Contender { name: "bound: a direct write", lines: vec![("19", direct.clone())] },
        Contender {
            name: "bound: direct read and write at once",
            lines: vec![("17", format!("{both}{direct}; wait"))],
        },
        Contender { name: "bound: one hash", lines: vec![("9", own("hash"))] },
        Contender {
            name: "cp -a + sync",
            lines: vec![
                ("19", line("cp -a {r}/source {r}/cp && sync -f {r}/cp")),
                ("7", line("cp -a {r}/cp {r}/restored && sync -f {r}/restored")),
            ],
        },
    ];
    if is_installed("zstd") {
        let lines = vec![
            ("1", line("tar -cf - -C {r} source | zstd -q -1 -T0 -o {r}/tar.zst && sync -f {r}")),
            ("7", line("mkdir {r}/restored && zstd -dc {r}/tar.zst | tar -xf - -C {r}/restored && sync -f {r}")),
        ];
        all.push(Contender { name: "tar, zstd -1 -T0", lines });
    }
    for (name, verify, prune) in [
        ("restic", "check --read-data", "forget --keep-last 1 --prune"),
        ("rustic", "check --read-data", "forget --keep-last 1 --prune --instant-delete --keep-delete 0s"),
    ] {
        if !is_installed(name) {
            continue;
        }
        let tool = format!("{name} --no-cache -r {{r}}/{name}");
        let save = format!("{tool} backup {{r}}/source");
        let lines = vec![
            ("19", format!("{name} -r {{r}}/{name} init && {save} && sync -f {{r}}")),
            ("2345", save),
            ("6", format!("{tool} {verify}")),
            (
                "7",
                match name {
                    "restic" => format!("{tool} restore latest --target {{r}}/restored && sync -f {{r}}"),
                    _ => format!("{tool} restore latest {{r}}/restored && sync -f {{r}}"),
                },
            ),
            ("8", format!("{tool} {prune}")),
        ];
        all.push(Contender { name, lines });
    }
    if is_installed("borg") {
        let save = "borg create -C none {r}/borg::$(date +%s%N) {r}/source";
        let restore = "mkdir {r}/restored && cd {r}/restored && borg extract {r}/borg::$(borg list --last 1 --short {r}/borg) && sync -f {r}";
        let lines = vec![
            ("19", format!("borg init -e none {{r}}/borg && {save} && sync -f {{r}}")),
            ("2345", line(save)),
            ("6", line("borg check --verify-data {r}/borg")),
            ("7", line(restore)),
            ("8", line("borg prune --keep-last 1 {r}/borg && borg compact {r}/borg")),
        ];
        all.push(Contender { name: "borg", lines });
    }
    all
}

/// What a contender's copy takes up.
fn size_mib(folder: &Path) -> f64 {
    let files = walkdir::WalkDir::new(folder).into_iter().flatten().filter(|it| it.file_type().is_file());
    files.map(|it| it.metadata().map_or(0, |meta| meta.len())).sum::<u64>() as f64 / f64::from(1 << 20)
}

fn forget_all(root: &Path) {
    for name in ["ours", "cp", "restic", "rustic", "borg"] {
        let _ = fs::remove_dir_all(root.join(name));
    }
    for name in ["direct", "tar.zst"] {
        let _ = fs::remove_file(root.join(name));
    }
}

type Costs = BTreeMap<(&'static str, &'static str), Vec<Cost>>;

fn round(root: &Path, mib: u64, costs: &mut Costs, sizes: &mut BTreeMap<&'static str, f64>) {
    for (operation, prepare) in OPERATIONS {
        if operation.ends_with("warm") {
            forget_all(root);
        }
        if !operation.contains("cold") && !operation.ends_with("warm") {
            prepare(root, mib);
        }
        for Contender { name, lines } in contenders(mib) {
            let Some((_, line)) = lines.iter().find(|(of, _)| of.contains(&operation[..1])) else { continue };
            if operation.contains("cold") || operation.ends_with("warm") {
                prepare(root, mib);
            }
            let cost = run(&line.replace("{r}", &root.display().to_string()));
            costs.entry((operation, name)).or_default().push(cost);
            let _ = fs::remove_dir_all(root.join("restored"));
            if operation.starts_with('1') {
                let place = if name.starts_with("cp") {
                    "cp"
                } else if name.starts_with("tar") {
                    "tar.zst"
                } else {
                    name
                };
                sizes.insert(name, size_mib(&root.join(place)));
            }
        }
    }
    forget_all(root);
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
    let (mut costs, mut sizes) = (BTreeMap::new(), BTreeMap::new());
    for _ in 0..rounds {
        make(&root.join("source"), mib);
        settle();
        round(&root, mib, &mut costs, &mut sizes);
        fs::remove_dir_all(&root).unwrap();
    }
    table(mib, rounds, &costs, &sizes);
}

fn table(mib: u64, rounds: u64, costs: &Costs, sizes: &BTreeMap<&'static str, f64>) {
    println!("{mib} MiB of blobs and 1000 small files, median of {rounds} rounds\n");
    println!("| operation | program | wall s | ours / it | processor s | ours / it | peak MiB | size MiB |");
    println!("|---|---|---|---|---|---|---|---|");
    let of = |key: (&'static str, &'static str), pick: fn(&Cost) -> f64| median(costs[&key].iter().map(pick).collect());
    for (operation, name) in costs.keys().copied() {
        let (wall, processor) = (of((operation, name), |it| it.wall), of((operation, name), |it| it.processor));
        let ours = (of((operation, "ours"), |it| it.wall), of((operation, "ours"), |it| it.processor));
        let peak = of((operation, name), |it| it.peak_mib);
        let size =
            sizes.get(name).filter(|_| operation.starts_with('1')).map(|it| format!("{it:.0}")).unwrap_or_default();
        println!(
            "| {} | {name} | {wall:.2} | {:.2} | {processor:.2} | {:.2} | {peak:.0} | {size} |",
            &operation[2..],
            ours.0 / wall,
            // Processor time is told in hundredths.
            ours.1.max(0.01) / processor.max(0.01)
        );
    }
}
