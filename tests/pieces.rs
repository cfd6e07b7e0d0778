//! A model that the hub has in pieces: fetched, checked, put together, given to the engine, asked.

use std::{collections::BTreeMap, fs, path::PathBuf};

use rustix::process::Signal;
use wire::gguf::{Data, File, Tensor, Value};

use crate::{
    hub::{Fault, Hub},
    stage::{Job, Ran, Stage, lacks, until},
};

const NAME: &str = "hf.co/me/Tiny-GGUF:Q4_K_M";
const PIECES: [&str; 2] =
    ["me/Tiny-GGUF/Q4_K_M/Tiny-Q4_K_M-00001-of-00002.gguf", "me/Tiny-GGUF/Q4_K_M/Tiny-Q4_K_M-00002-of-00002.gguf"];

fn tensor(name: &str, rows: u64, seed: u16) -> Tensor {
    let numbers = (0..256 * rows as u16).map(|at| at.wrapping_mul(seed) & 0x3bff).collect();
    Tensor { name: name.to_owned(), shape: vec![256, rows], data: Data::F16(numbers) }
}

/// A file with these of the tensors, which says that it is `number` of `count`.
fn file(number: u16, count: u16, tensors: Vec<Tensor>) -> Vec<u8> {
    let figure = |name: &str, value| (format!("llama.{name}"), Value::U32(value));
    let own = vec![
        ("general.architecture".to_owned(), Value::Text("llama".to_owned())),
        figure("block_count", 1),
        figure("context_length", 2048),
        figure("embedding_length", 256),
        figure("attention.head_count", 4),
        ("tokenizer.ggml.tokens".to_owned(), Value::Texts(["a", "b"].map(str::to_owned).into())),
    ];
    let mut metadata = if number == 0 { own } else { Vec::new() };
    metadata.extend([
        ("split.no".to_owned(), Value::U16(number)),
        ("split.count".to_owned(), Value::U16(count)),
        ("split.tensors.count".to_owned(), Value::U32(3)),
    ]);
    File { metadata, tensors }.to_bytes()
}

/// The pieces, and what they are together.
fn model() -> ([Vec<u8>; 2], Vec<u8>) {
    let [a, b, c] = [("token_embd.weight", 2), ("output.weight", 64), ("output_norm.weight", 1)]
        .map(|(name, rows)| move || tensor(name, rows, 7));
    ([file(0, 2, vec![a(), b()]), file(1, 2, vec![c()])], file(0, 0, vec![a(), b(), c()]))
}

struct Scene {
    stage: Stage,
    hub: Hub,
}

impl Scene {
    fn new() -> Option<Self> {
        if lacks("curl") {
            return None;
        }
        let (stage, hub) = (Stage::deployed(), Hub::new());
        PIECES.iter().zip(model().0).for_each(|(path, bytes)| hub.put(path, &bytes));
        hub.put("me/Tiny-GGUF/Tiny-Q8_0.gguf", b"GGUF");
        hub.put("me/Tiny-GGUF/README.md", b"# Tiny");
        hub.put("me/Tiny/model.safetensors", b"weights");
        Some(Scene { stage, hub })
    }

    fn start(&self, words: &str) -> Job {
        self.stage.start_shell(&format!("HF_ENDPOINT={} exec $XTASK model {words}", self.hub.url))
    }

    fn run(&self, words: &str) -> Ran {
        self.start(words).finish()
    }

    fn is_registered(&self) -> bool {
        self.stage.ok("model list").stdout.contains("hf.co/me/Tiny-GGUF")
    }

    fn work(&self) -> PathBuf {
        self.stage.root().join("data/pull/hf.co_me_Tiny-GGUF_Q4_K_M")
    }

    /// How often each piece was fetched, from which byte.
    fn fetched(&self) -> BTreeMap<usize, Vec<usize>> {
        let mut fetched = BTreeMap::<usize, Vec<usize>>::new();
        for line in self.hub.asked() {
            let number = PIECES.iter().position(|piece| line.contains(piece.rsplit('/').next().unwrap()));
            let from = line.rsplit(' ').next().unwrap().parse().unwrap();
            fetched.entry(number.unwrap_or(9)).or_default().push(from);
        }
        fetched.remove(&9);
        fetched
    }
}

#[test]
fn pieces_become_the_model_that_they_were_and_answer() {
    let Some(scene) = Scene::new() else { return };
    let fit = scene.run(&format!("fit {NAME} --json")).exits(0).json();
    let bytes: usize = model().0.iter().map(Vec::len).sum();
    assert_eq!(fit["rows"][0]["bytes"], bytes, "{fit}");
    scene.hub.asked();
    // The list is refused once, a piece too, and then the line is cut.
    scene.hub.fail("/tree/", Fault::Status("500 Internal Server Error"));
    scene.hub.fail("/tree/", Fault::Status("429 Too Many Requests"));
    scene.hub.fail("00001-of-00002", Fault::Status("429 Too Many Requests"));
    scene.hub.fail("/storage/", Fault::Cut(1000));
    let pulled = scene.run(&format!("pull {NAME}")).exits(0);
    let pulled = pulled.says("2 pieces").says("429").says("again in 1 s").says(&format!("created {NAME}"));
    pulled.says(&format!("{NAME} answers"));
    assert_eq!(scene.fetched()[&0], [0, 0, 1000], "what had come was not fetched again");
    assert!(!scene.work().exists(), "nothing of it is left");
    let blobs = fs::read_dir(scene.stage.root().join("data/models/blobs")).unwrap();
    let whole = model().1;
    assert!(blobs.into_iter().any(|blob| fs::read(blob.unwrap().path()).unwrap() == whole), "byte for byte");
    assert_eq!(scene.stage.ok(&format!("model show {NAME} --json")).json()["details"]["family"], "llama");
}

#[test]
fn who_is_logged_in_at_the_hub_has_what_it_shows_to_some_only() {
    const TOKEN: &str = "hf_fortysecret";
    let Some(scene) = Scene::new() else { return };
    scene.hub.lock(TOKEN);
    scene.run(&format!("pull {NAME}")).exits(10).says("or shows it to some only");
    fs::write(scene.stage.path("token"), format!("{TOKEN}\n")).unwrap();
    let login = |name: &str, value: &str| {
        let command = format!("{name}={value} HF_ENDPOINT={} exec $XTASK model", scene.hub.url);
        scene.stage.start_shell(&format!("{command} pull {NAME}")).finish()
    };
    login("HF_TOKEN", "hf_wrong").exits(10);
    let pulled = login("HF_TOKEN_PATH", &scene.stage.path("token").display().to_string()).exits(0);
    assert!(!format!("{}{}", pulled.stdout, pulled.stderr).contains(TOKEN));
    assert!(scene.is_registered());
}

#[test]
fn a_piece_that_is_not_what_the_hub_lists_is_thrown_away() {
    let Some(scene) = Scene::new() else { return };
    scene.hub.fail("/storage/", Fault::Spoilt);
    let pull = format!("pull {NAME}");
    scene.hub.fail("00002-of-00002", Fault::Status("404 Not Found"));
    // Spoilt once it comes again; that the second is missing is another matter.
    let ran = scene.run(&pull).exits(10).says("00001-of-00002.gguf is not what the hub lists");
    ran.says(&format!("rm -r '{}'", scene.work().display()));
    assert!(!scene.is_registered());
    assert_eq!(scene.fetched()[&0], [0, 0]);
    scene.hub.fail("/storage/", Fault::Spoilt);
    scene.hub.fail("/storage/", Fault::Spoilt);
    scene.run(&pull).exits(1).says("00002-of-00002.gguf came twice with another digest").says("goes on from there");
    assert!(!scene.is_registered() && !scene.fetched().contains_key(&0), "what was right is kept");
    scene.run(&pull).exits(0);
    assert!(scene.is_registered());
}

#[test]
fn an_interrupted_pull_of_pieces_goes_on_where_it_was() {
    let Some(scene) = Scene::new() else { return };
    scene.hub.fail("/storage/", Fault::Stall(5000));
    let pull = scene.start(&format!("pull {NAME}"));
    let part = scene.work().join("Tiny-Q4_K_M-00001-of-00002.gguf.part");
    until("a part has come", || part.metadata().is_ok_and(|meta| meta.len() == 5000).then_some(()));
    pull.process().signal(Signal::INT);
    pull.finish().exits(130).says("goes on from there");
    assert!(!scene.is_registered());
    scene.run(&format!("pull {NAME}")).exits(0);
    assert_eq!(scene.fetched()[&0], [0, 5000]);
}

#[test]
fn what_the_hub_does_not_have_is_said_with_what_it_has() {
    let Some(scene) = Scene::new() else { return };
    let pull = |name: &str| scene.run(&format!("pull hf.co/{name}"));
    pull("me/Tiny-GGUF:Q4_K_S").exits(10).says("me/Tiny-GGUF has no Q4_K_S").says("it has Q4_K_M, Q8_0: did you mean");
    pull("me/Tiny:Q4_K_M").exits(10).says("me/Tiny has no GGUF files").says("model convert me/Tiny --quant");
    // Shown to some only, or not there: the engine may have a key for it. This one has none.
    pull("me/None:Q4_K_M").exits(10).says("or shows it to some only").says("the registry has no model");
    scene.hub.put("me/Cut-GGUF/Cut-Q4_K_M-00001-of-00003.gguf", b"GGUF");
    pull("me/Cut-GGUF:Q4_K_M").exits(1).says("me/Cut-GGUF has not all pieces of Q4_K_M");
    let [first, second] = model().0;
    scene.hub.put("me/Mix-GGUF/Mix-Q4_K_M-00001-of-00002.gguf", &second);
    scene.hub.put("me/Mix-GGUF/Mix-Q4_K_M-00002-of-00002.gguf", &first);
    pull("me/Mix-GGUF:Q4_K_M").exits(1).says("no model together").says("a piece that is not the next");
    scene.run("convert hf.co/me/Tiny-GGUF --quant Q4_K_M").exits(2).says("ready GGUF files are pulled");
    assert!(!scene.stage.ok("model list").stdout.contains("hf.co"));
}

#[test]
fn what_has_no_room_is_refused_before_its_first_byte() {
    let Some(scene) = Scene::new() else { return };
    for number in [1, 2] {
        scene.hub.put(&format!("me/Huge-GGUF/Huge-Q4_K_M-0000{number}-of-00002.gguf"), b"GGUF");
    }
    scene.run("pull hf.co/me/Huge-GGUF:Q4_K_M").exits(7).says("more free are needed to fetch hf.co/me/Huge-GGUF");
    assert!(!scene.hub.asked().iter().any(|line| line.contains("/resolve/")));
}

#[test]
fn a_disk_that_fills_up_meanwhile_is_said_and_what_came_is_kept() {
    let Some(scene) = Scene::new() else { return };
    let part = scene.work().join("Tiny-Q4_K_M-00001-of-00002.gguf.part");
    let full = format!(
        "case \"$*\" in *.part*) head -c 700 /dev/zero > '{}'; echo 'curl: (23) Failure writing output to destination' >&2; \
         exit 23;; esac\nexec /usr/bin/curl \"$@\"",
        part.display()
    );
    scene.stage.script("curl", &full);
    scene
        .run(&format!("pull {NAME}"))
        .exits(7)
        .says("cannot write ")
        .says("free some space")
        .says("goes on from there");
    assert!(part.exists() && !scene.is_registered());
}
