//! The contract of the transport: what a verb is told, what it prints and how it ends come through whole, whatever carries
//! them and whatever shell is logged in to.

use std::{collections::BTreeMap, env, fs, os::unix::fs::symlink, path::PathBuf};

use serde_json::{Value, json};
use stack::{
    failure::Failure,
    host::Host,
    layout::Root,
    protocol::{Event, Stream},
    ssh::{Shipment, Ssh, Supplier, System, Target},
    transport::Client,
};

use crate::{
    far::Far,
    stage::{Stage, lacks},
};

/// A program on the host whose verbs are what a transport may stumble over.
const VERBS: &str = r#"
case $1 in
    host) exec "$real" "$@" ;;
    say) shift; printf '%s\0' "$@" ;;
    exit) exit "$2" ;;
    much) yes 0123456789 | head -c 10000000 ;;
    bytes) printf '\377\376\000\n\200'; printf '\377 oops' >&2 ;;
    hear) cat; echo end ;;
esac
"#;

/// Words that some shell would take for something else.
const WORDS: [&str; 16] = [
    "", " a  b ", "it's", "\"so\"", "$HOME", "`id`", "\\n", "*", "~", "a\nb", "é😀", "!!", "; exit 3", "--", "-x", "#",
];

/// There is nothing that a host could lack.
struct Nobody;

impl Supplier for Nobody {
    fn supply(&mut self, system: &System) -> Result<Shipment, Failure> {
        panic!("{system:?} has no program")
    }

    fn building(&mut self, words: &str) {
        panic!("nothing is built: {words}")
    }
}

/// A client that holds a transport to the contract. It has its orders from [`keeps_the_contract`].
#[test]
#[ignore = "no test: child processes of others begin here, and lack nothing"]
fn holds_to_the_contract() {
    let Ok(order) = env::var("CONTRACT") else { return };
    let order: Value = serde_json::from_str(&order).unwrap();
    let text = |key: &str| order[key].as_str().unwrap().to_owned();
    let mut client = if order["over_ssh"] == true {
        let target = Target { address: "far".into(), user: None, port: None, root: text("root"), program: None };
        Client(Box::new(Ssh::connect(&target, &mut Nobody).unwrap()))
    } else {
        let (root, program) = (Root::new(PathBuf::from(text("root"))), PathBuf::from(text("program")));
        Client(Box::new(Host { root, program, program_id: "any".to_owned(), password: None }))
    };
    for as_job in [false, true] {
        contract(&mut client, as_job);
    }
    println!("\nkept");
}

fn contract(client: &mut Client, as_job: bool) {
    let mut run = |words: &[&str]| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let code = client.run(words, as_job, &mut |event| {
            match &event {
                Event::Output { stream: Stream::Out, bytes } => out.extend_from_slice(bytes.as_slice()),
                Event::Output { stream: Stream::Err, bytes } => err.extend_from_slice(bytes.as_slice()),
                _ => {}
            }
            Ok(())
        });
        (code.unwrap(), out, err)
    };
    let said = run(&[&["say"], WORDS.as_slice()].concat());
    let words: Vec<u8> = WORDS.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect();
    assert_eq!(said, (0, words, Vec::new()));
    for code in [0, 1, 2, 7, 126, 127, 128, 255] {
        assert_eq!(run(&["exit", &code.to_string()]), (code, Vec::new(), Vec::new()));
    }
    assert_eq!(run(&["bytes"]), (0, b"\xff\xfe\0\n\x80".to_vec(), b"\xff oops".to_vec()));
    // What it hears is nothing, and least of all what is meant for the host.
    assert_eq!(run(&["hear"]), (0, b"end\n".to_vec(), Vec::new()));
    let (code, much, _) = run(&["much"]);
    assert_eq!((code, much.len()), (0, 10_000_000));
    assert!(much.iter().zip(b"0123456789\n".iter().cycle()).all(|(got, sent)| got == sent));
}

fn keeps_the_contract(stage: &Stage, order: &Value) {
    let ran = stage.act(holds_to_the_contract, &BTreeMap::from([("CONTRACT", order.to_string())])).exits(0);
    assert!(ran.stdout.contains("\nkept"), "{ran:?}");
}

/// Puts the program with the awkward verbs where a host's own is.
fn with_verbs(stage: &Stage) {
    stage.script("verbs", &format!("real='{}'\n{VERBS}", stage.program().display()));
    fs::create_dir_all(stage.root().join("bin")).unwrap();
    fs::rename(stage.path("bin/verbs"), stage.root().join("bin/xtask")).unwrap();
}

#[test]
fn this_machine_keeps_the_contract() {
    let stage = Stage::new();
    with_verbs(&stage);
    keeps_the_contract(&stage, &json!({ "root": stage.root(), "program": stage.program() }));
    fs::remove_dir_all(stage.root()).unwrap();
}

#[test]
fn another_machine_keeps_the_contract_under_every_login_shell() {
    let Some(mut far) = Far::new() else { return };
    with_verbs(&far);
    let odd = far.path("it's \"a\" $HOME; \\root");
    symlink(far.root(), &odd).unwrap();
    for shell in ["dash", "bash", "zsh", "fish", "tcsh"] {
        if !lacks(shell) {
            far.log_in_with(&format!("/usr/bin/{shell}"));
            keeps_the_contract(&far, &json!({ "root": odd, "over_ssh": true }));
        }
    }
    fs::remove_dir_all(far.root()).unwrap();
}
