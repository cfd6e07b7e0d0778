//! Models: known before they are pulled, brought, held, made, changed and removed, on the sandbox's engine.

use std::fs;

use ops::model::{
    engine::Engine,
    pull::{Event, pull},
};
use serde_json::Value;
use stack::failure::Class;

use crate::stage::{Job, Stage, lacks, until};

const DEFAULT: &str = "qwen2.5-coder:32b-instruct-q8_0";

#[test]
fn fit_tells_every_size_for_a_machine_that_one_does_not_have() {
    let stage = Stage::new();
    let ask = "$XTASK model fit qwen3:235b --context 40960 --memory 192G --chip 'Apple M2 Ultra'";
    let fit = stage.shell(&format!("{ask} --json")).exits(0).json();
    let verdicts: Vec<&str> =
        fit["rows"].as_array().unwrap().iter().map(|it| it["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["fits", "fits_with_limit", "does_not_fit", "does_not_fit"]);
    assert_eq!((&fit["model"], &fit["context"]), (&"qwen3:235b-a22b".into(), &40_960.into()));
    assert!(fit["rows"][0]["tokens_per_second_limit"].as_f64().unwrap() > 50.0);
    let page = stage.shell(ask).exits(0).stdout;
    assert!(page.contains("fits after: sudo sysctl iogpu.wired_limit_mb="), "{page}");
    assert!(page.contains("; q5_K_M computed, as the library has no such tag"), "{page}");
}

#[test]
fn fit_resolves_a_near_name_with_a_note_and_says_what_it_does_not_know() {
    let stage = Stage::new();
    let machine = "--memory 192G --chip 'Apple M2 Ultra' --json";
    let ran = stage.shell(&format!("$XTASK model fit qwen3:235b-instruct-q5_k_m {machine}")).exits(0);
    let ran = ran.says("qwen3:235b-instruct-q5_k_m is no tag").says("qwen3:235b-a22b-instruct-2507-q4_K_M");
    assert_eq!(ran.json()["rows"][0]["quantization"], "q5_K_M");
    stage.fake("curl", "exit 6");
    let ran = stage.shell(&format!("$XTASK model fit qwen2.5-codr:32b {machine}")).exits(0);
    assert_eq!(ran.says("did you mean qwen2.5-coder:32b?").json()["rows"][0]["verdict"], "unknown");
    let layer = r#"{"mediaType":"application/vnd.ollama.image.model","size":5000000000}"#;
    stage.script("curl", &format!("printf %s '{{\"layers\":[{layer}]}}'"));
    let fit = stage.shell(&format!("$XTASK model fit somebody:9b {machine}")).exits(0).json();
    assert_eq!((&fit["rows"][0]["bytes"], &fit["rows"][0]["verdict"]), (&5_000_000_000_u64.into(), &"unknown".into()));
    stage.write("cut.gguf", "GGUF\u{3}\0\0\0");
    stage.shell(&format!("$XTASK model fit cut.gguf {machine}")).exits(1).says("cannot read cut.gguf as a model");
}

#[test]
fn fit_knows_the_host_and_a_model_of_its_store() {
    let stage = Stage::deployed();
    stage.ok("model pull somebody:3b");
    let fit = stage.ok("model fit somebody:3b --context 4096 --json").json();
    assert!(fit["host"]["memory_bytes"].as_u64().unwrap() > 1 << 28);
    assert!(fit["rows"][0]["kv_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{fit}");
    assert_eq!(fit["rows"][0]["verdict"], "fits");
}

#[test]
fn a_model_comes_answers_sits_in_memory_and_goes() {
    let stage = Stage::deployed();
    let pulled = stage.ok("model pull qwen2.5-coder:7b");
    pulled.says("pulled qwen2.5-coder:7b in").says("qwen2.5-coder:7b answers: all on the GPU");
    let listed = |name: &str| -> Option<Value> {
        let models = stage.ok("model list --json").json();
        models.as_array().unwrap().iter().find(|model| model["name"] == name).cloned()
    };
    assert!(listed("qwen2.5-coder:7b").unwrap()["resident"]["context"].as_u64().unwrap() > 0);
    assert_eq!(listed(DEFAULT).unwrap()["default"], true);
    assert!(listed(DEFAULT).unwrap()["context"].as_u64().is_some_and(|tokens| tokens >= 32_768));
    stage.ok("model unload qwen2.5-coder:7b");
    until("an unloaded model has left", || listed("qwen2.5-coder:7b").unwrap()["resident"].is_null().then_some(()));
    stage.ok("model preload qwen2.5-coder:7b").says("loaded qwen2.5-coder:7b in");
    assert!(stage.ok("model show qwen2.5-coder:7b").stdout.contains("family        qwen2"));
    let said = stage.ok("model run hello --model qwen2.5-coder:7b --limit 4 --json").json();
    assert!(said["text"].as_str().unwrap().contains("[sandbox]"));
    stage.ok("model remove qwen2.5-coder:7b").says("removed qwen2.5-coder:7b");
    assert_eq!(listed("qwen2.5-coder:7b"), None);
}

#[test]
fn wrong_names_and_the_default_are_refused_with_the_next_step() {
    let stage = Stage::deployed();
    stage.run("model pull no-such:7b").exits(10).says("the registry has no model no-such:7b");
    stage.run("model run hi --model qwen2.5-codr:32b-instruct-q8_0").exits(10).says("did you mean qwen2.5-coder:32b");
    stage.run("model show nothing").exits(10).says("cargo xtask model pull nothing");
    stage.run(&format!("model remove {DEFAULT}")).exits(7).says("is the default");
    stage.ok(&format!("model remove {DEFAULT} --yes"));
    stage.run("model preload").exits(10);
    stage.run("model pull bad:name:x").exits(2).says("is not a model name");
    stage.ok("stop");
    stage.run("model list").exits(1).says("does not answer");
}

#[test]
fn warm_models_stay_for_ever_and_tell_how_long_they_took() {
    let stage = Stage::deployed();
    stage.ok("model warm").says(&format!("loaded {DEFAULT} in"));
    let until = stage.ok("model list --json").json()[0]["resident"]["until"].as_str().unwrap().to_owned();
    assert!(until.starts_with("23"), "{until}");
}

#[test]
fn settings_have_a_model_warm_after_every_start_of_the_engine() {
    let stage = Stage::new();
    let text = fs::read_to_string(stage.path("stack.toml")).unwrap();
    stage.write("stack.toml", &format!("{text}\n[models]\nwarm = [\"{DEFAULT}\"]\n"));
    stage.ok("deploy");
    let is_warm = || {
        let list = stage.ok("model list --json").json();
        let until = list[0]["resident"]["until"].as_str().unwrap_or_default().to_owned();
        until.starts_with("23").then_some(())
    };
    until("it is warm after the first start", is_warm);
    let engine = stage.component("engine");
    engine.kill();
    stage.await_successor("engine", &engine);
    until("it is warm after a crash", is_warm);
    // As after a reboot: nothing runs, and what starts first is the supervisor.
    stage.ok("stop");
    stage.ok("start");
    until("it is warm after a start of all", is_warm);
    stage.ok("model warm").says(&format!("loaded {DEFAULT} in"));
    stage.ok(&format!("model unload {DEFAULT}"));
    until("it can be unloaded", || is_warm().is_none().then_some(()));
}

#[test]
fn modelfiles_are_applied_once_for_each_text() {
    let stage = Stage::deployed();
    let text = format!("FROM {DEFAULT}\nPARAMETER num_ctx 4096\nSYSTEM Be brief.\n");
    stage.write("local/models/brief.Modelfile", &text);
    stage.write("local/models/lost.Modelfile", "FROM not-here:7b\n");
    let apply = || stage.ok("model apply --json").json();
    let first = apply();
    assert_eq!(first["brief"]["result"], "made");
    assert_eq!(first["qwen2.5-coder-agent"]["result"], "made");
    assert_eq!((&first["lost"]["result"], &first["lost"]["base"]), (&"skipped".into(), &"not-here:7b".into()));
    assert_eq!(apply()["brief"]["result"], "unchanged");
    assert_eq!(stage.ok("model show brief --json").json()["system"], "Be brief.");
    stage.write("local/models/brief.Modelfile", &text.replace("4096", "8192"));
    assert_eq!(apply()["brief"]["result"], "made");
    stage.ok("model remove brief");
    assert_eq!(apply()["brief"]["result"], "made");
    stage.write("local/models/brief.Modelfile", "FROM x\nWRONG y\n");
    stage.run("model apply").exits(2).says("brief.Modelfile, line 2: WRONG");
}

#[test]
fn an_upgrade_keeps_comments_and_the_old_model_and_can_go_back() {
    let stage = Stage::deployed();
    let settings = || fs::read_to_string(stage.path("stack.toml")).unwrap();
    let text = format!("{}\n[models]\n# as the guide has it\ndefault = \"{DEFAULT}\" # for now\n", settings());
    stage.write("stack.toml", &text);
    stage.run("model upgrade --revert --yes").exits(10);
    stage.run("model upgrade no-such:1b --yes").exits(10);
    assert_eq!(settings(), text, "a model that cannot be had changes nothing");
    stage.ok("agent configure aider");
    let agent = || fs::read_to_string(stage.path(".aider.conf.yml")).unwrap();
    if !lacks("promtool") {
        stage.write("local/rules/wrong.yml", "groups: 1\n");
        stage.run("model upgrade qwen3-coder:30b --yes").exits(4).says("is the default again");
        assert_eq!(settings(), text, "a deploy that fails takes the switch back");
        fs::remove_file(stage.path("local/rules/wrong.yml")).unwrap();
    }
    assert!(!agent().contains("qwen3-coder:30b"));
    let upgraded = stage.ok("model upgrade qwen3-coder:30b --yes").says("is the default in").says("block 3 of 3");
    assert!(upgraded.stdout.contains("tokens/s"), "{}", upgraded.stdout);
    assert!(upgraded.stdout.contains("PASS  qwen3-coder:30b answers"), "{}", upgraded.stdout);
    assert!(agent().contains("qwen3-coder:30b"), "agents follow");
    let switched = text.replace(&format!("\"{DEFAULT}\" # for now"), "\"qwen3-coder:30b\" # for now");
    assert_eq!(settings(), format!("{switched}previous = \"{DEFAULT}\"\n"));
    stage.ok("model show qwen3-coder:30b");
    let back = stage.ok("model upgrade --revert --yes");
    assert!(!back.stderr.contains("pulling"), "what is here is not pulled again: {}", back.stderr);
    assert_eq!(settings(), format!("{text}previous = \"qwen3-coder:30b\"\n"));
    let pruned = stage.ok("model upgrade --prune --yes");
    if !lacks("prometheus") {
        pruned.says("in the last week");
    }
    assert_eq!(settings(), text);
    stage.run("model show qwen3-coder:30b").exits(10);
    stage.ok("model show qwen2.5-coder:32b-instruct-q8_0");
}

#[test]
fn an_upgrade_to_a_model_that_was_made_here_pulls_nothing() {
    let stage = Stage::deployed();
    stage.write("local/models/mine.Modelfile", &format!("FROM {DEFAULT}\nPARAMETER num_ctx 8192\n"));
    stage.ok("model apply");
    let upgraded = stage.ok("model upgrade mine --yes").says("mine is the default in");
    assert!(!upgraded.stderr.contains("pulling manifest"), "no registry has it: {}", upgraded.stderr);
}

/// The registry goes away after three pieces of each pull.
const BREAKS_OFF: &str = "error_after_pieces = 3";

/// An engine of its own, whose pulls go so.
fn engine(stage: &Stage, pulls: &str) -> (Job, Engine) {
    stage.write("scenarios.toml", &format!("[pull]\n{pulls}\n"));
    let listen = format!("127.0.0.1:{}", stage.ports()[1]);
    let job = stage.start(&format!(
        "host engine --listen {listen} --models models --keep-alive 5m --num-parallel 1 --max-loaded-models 1 \
         --context-length 4096 --max-queue 512 --time-to-first-token-ms 0 --time-per-output-token-ms 0 --load-ms 0 --scenarios scenarios.toml"
    ));
    let engine = Engine::at(format!("http://{listen}"));
    until("the engine answers", || engine.list().ok());
    (job, engine)
}

#[test]
fn a_pull_that_breaks_off_goes_on_and_tells_so() {
    let stage = Stage::new();
    let (_job, engine) = engine(&stage, BREAKS_OFF);
    let (mut again, mut layers) = (0, 0);
    pull(&engine, "qwen3:8b", &mut |event| {
        match event {
            Event::Again { cause, .. } => {
                again += 1;
                assert!(cause.contains("unexpected EOF"), "{cause}");
            }
            Event::Layer(layer) => {
                layers += 1;
                assert!(layer.done_bytes <= layer.total_bytes.unwrap());
            }
            Event::Status(_) => {}
        }
        Ok(())
    })
    .unwrap();
    assert!(again > 0 && layers > again, "{again} times again, {layers} words of layers");
    assert_eq!(engine.list().unwrap().models.len(), 1);
}

#[test]
fn an_interrupted_pull_registers_nothing_and_an_engine_that_is_gone_is_said() {
    let stage = Stage::new();
    let (job, engine) = engine(&stage, BREAKS_OFF);
    let failure = pull(&engine, "qwen3:8b", &mut |event| match event {
        Event::Again { .. } => Err(stack::failure::Failure::new(Class::Interrupted, "enough")),
        _ => Ok(()),
    })
    .unwrap_err();
    assert_eq!(failure.class, Class::Interrupted);
    assert!(engine.list().unwrap().models.is_empty());
    job.kill();
    let failure = engine.load("qwen3:8b", ops::model::engine::Stay::AsSet).unwrap_err();
    assert!(failure.message.contains("does not answer"), "{failure}");
}

#[test]
fn a_model_that_is_not_what_its_digest_says_comes_once_more_and_not_for_ever() {
    let stage = Stage::new();
    let (_job, engine) = engine(&stage, "mismatches = 3");
    let mut again = Vec::new();
    let mut attempt = || {
        pull(&engine, "qwen3:8b", &mut |event| {
            if let Event::Again { cause, .. } = event {
                again.push(cause);
            }
            Ok(())
        })
    };
    let failure = attempt().unwrap_err();
    assert_eq!(failure.class, Class::Refused);
    assert!(failure.message.contains("came twice with another digest"), "{failure}");
    assert!(failure.hint.unwrap().contains("nothing of it is registered"));
    assert!(engine.list().unwrap().models.is_empty());
    attempt().unwrap();
    let words = "digest mismatch, file must be downloaded again: want sha256:";
    assert!(again.len() == 2 && again.iter().all(|cause| cause.contains(words)), "{again:?}");
    assert_eq!(engine.list().unwrap().models.len(), 1);
}

/// A stack whose pulls take their time.
pub(crate) fn slow() -> Stage {
    let stage = Stage::new();
    stage.write("slow.toml", "[pull]\npiece_ms = 250\n");
    let text = fs::read_to_string(stage.path("stack.toml")).unwrap();
    stage.write("stack.toml", &text.replace("[sandbox]\n", "[sandbox]\nscenarios = \"slow.toml\"\n"));
    stage.ok("deploy");
    stage
}

/// Waits until a pull has begun to write.
pub(crate) fn until_it_comes(stage: &Stage) {
    let blobs = stage.root().join("data/models/blobs");
    until("a part has come", || {
        let mut names = fs::read_dir(&blobs).ok()?.flatten().map(|entry| entry.file_name().into_string().unwrap());
        names.any(|name| name.ends_with("-partial")).then_some(())
    });
}

#[test]
fn a_pull_outlives_the_engine_that_makes_it() {
    let stage = slow();
    let pulling = stage.start("model pull qwen3:8b");
    until_it_comes(&stage);
    let engine = stage.component("engine");
    engine.kill();
    pulling.finish().exits(0).says("again in 1 s").says("qwen3:8b answers");
    assert!(stage.ok("model list").stdout.contains("qwen3:8b"));
}

#[test]
fn a_model_that_is_removed_meanwhile_is_missed_where_it_is_needed() {
    let stage = slow();
    stage.set("time_per_output_token", "\"20ms\"");
    stage.ok("deploy");
    // It is not there yet: there is nothing to remove, and it comes all the same.
    let pulling = stage.start("model pull qwen3:8b");
    until_it_comes(&stage);
    stage.run("model remove qwen3:8b").exits(10).says("there is no model qwen3:8b here");
    pulling.finish().exits(0).says("qwen3:8b answers");
    // In the middle of an answer: what is in memory speaks to its end.
    let running = stage.start("model run hello --model qwen3:8b --limit 100");
    until("it speaks", || running.stdout().contains("[sandbox]").then_some(()));
    stage.ok("model remove qwen3:8b");
    running.finish().exits(0);
    for verb in ["preload qwen3:8b", "warm qwen3:8b", "run hello --model qwen3:8b", "show qwen3:8b"] {
        stage.run(&format!("model {verb}")).exits(10).says("`cargo xtask model pull qwen3:8b` would bring it");
    }
    assert!(!stage.ok("model list").stdout.contains("qwen3:8b"));
}

/// Tools that do as llama.cpp's and Python's do, but for the work.
fn tools(stage: &Stage) {
    let blobs = fs::read_dir(stage.root().join("data/models/blobs")).unwrap().map(|entry| entry.unwrap().path());
    let model = blobs.into_iter().find(|blob| fs::read(blob).unwrap().starts_with(b"GGUF")).unwrap();
    fs::copy(model, stage.path("tiny.gguf")).unwrap();
    let make = "mkdir -p $3/bin; printf '#!/bin/sh\\nexit 0\\n' >$3/bin/pip; \
                printf '#!/bin/sh\\necho convert >>ran; cp tiny.gguf \"$6\"\\n' >$3/bin/python; chmod +x $3/bin/*; exit 0";
    stage.fake("python3", make);
    stage.fake("convert_hf_to_gguf.py", "exit 1");
    fs::create_dir(stage.path("bin/gguf-py")).unwrap();
    stage.write("source/config.json", "{}");
    stage.write("source/model.safetensors", "0123456789abcdef");
    stage.write("source/tokenizer_config.json", r#"{"eos_token": "<|im_end|>"}"#);
}

#[test]
fn a_conversion_resumes_step_by_step_and_ends_with_an_answer() {
    let stage = Stage::deployed();
    tools(&stage);
    let words = "model convert source --quant Q5_K_M --name mine:q5 --system Careful.";
    stage.fake("llama-quantize", "echo no luck; exit 1");
    let plan = stage.ok(&format!("{words} --dry-run")).stdout;
    assert!(plan.contains("quantise to Q5_K_M") && plan.contains("16 B"), "{plan}");
    assert!(!stage.root().join("data/convert").exists());
    stage.run(words).exits(1).says("cannot quantise to Q5_K_M").says("no luck").says("goes on from this step");
    stage.run("model show mine:q5").exits(10);
    stage.fake("llama-quantize", "head -c 100 \"$1\" >\"$2\"; exit 0");
    stage.run(words).exits(1).says("Q5_K_M.part.gguf");
    let slow = "head -c 100 \"$1\" >\"$2\"; until [ -e go ]; do sleep 0.05; done; cp \"$1\" \"$2\"; exit 0";
    stage.fake("llama-quantize", slow);
    let converting = stage.start_shell(&format!("STACK_PROGRESS=1 exec $XTASK {words}"));
    until("it tells how far it is", || {
        let said = converting.stderr();
        let told =
            said.lines().find(|line| line.contains("quantise to Q5_K_M\"") && line.contains("\"done_bytes\":100"));
        told.map(drop)
    });
    stage.write("go", "");
    converting.finish().exits(0).says("created mine:q5").says("mine:q5 answers").says("rm -r");
    assert_eq!(fs::read_to_string(stage.path("ran")).unwrap(), "convert\n", "what was whole is not made again");
    let made = stage.ok("model show mine:q5 --json").json();
    assert_eq!(made["system"], "Careful.");
    assert!(made["parameters"].as_str().unwrap().contains("<|im_end|>"), "{made}");
    let work = stage.root().join("data/convert/mine_q5");
    assert!(work.exists(), "nobody was asked, and nobody said so");
    stage.ok("model convert source --quant Q5_K_M --name mine:q5 --prune").says("removed ");
    assert!(!work.exists());
    let made = stage.ok("model show mine:q5 --json").json();
    assert!(made["system"].as_str().unwrap().starts_with("You are a careful"), "{made}");
    for parameter in ["num_ctx", "temperature"] {
        assert!(made["parameters"].as_str().unwrap().contains(parameter), "{made}");
    }
    stage.run("model convert nowhere --quant Q5_K_M --name x").exits(2).says("neither a model's folder");
}

/// The converter's requirements, in two versions, as wheels.
const WHEELS: &str = r#"
import zipfile
for version in ("1.2", "1.3"):
    with zipfile.ZipFile(f"wheels/tiny_needed-{version}-py3-none-any.whl", "w") as wheel:
        info = f"tiny_needed-{version}.dist-info"
        wheel.writestr("tiny_needed.py", f"VERSION = '{version}'\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-needed\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
"#;

/// A converter that works where what it needs is there in the version that it names.
const CONVERTER: &str = "import shutil, sys, tiny_needed\nassert tiny_needed.VERSION == '1.2', tiny_needed.VERSION\n\
    shutil.copy('tiny.gguf', sys.argv[sys.argv.index('--outfile') + 1])\n";

#[test]
fn a_conversion_has_a_python_of_its_own_with_the_requirements_of_its_converter() {
    if lacks("python3") {
        return;
    }
    let stage = Stage::deployed();
    tools(&stage);
    for fake in ["python3", "convert_hf_to_gguf.py"] {
        fs::remove_file(stage.path("bin").join(fake)).unwrap();
    }
    stage.write("bin/convert_hf_to_gguf.py", CONVERTER);
    stage.write("bin/requirements/requirements-convert_hf_to_gguf.txt", "tiny-needed==1.2\n");
    stage.write("wheels.py", WHEELS);
    stage.shell("chmod +x bin/convert_hf_to_gguf.py; mkdir wheels").exits(0);
    stage.fake("llama-quantize", "cp \"$1\" \"$2\"; exit 0");
    let words = "PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels exec $XTASK model convert source --quant Q5_K_M --name mine:q5";
    let failed = stage.shell(words).exits(1).says("cannot make a Python environment").says("tiny-needed==1.2");
    failed.says("goes on from this step");
    stage.shell("python3 wheels.py").exits(0);
    stage.shell(words).exits(0).says("mine:q5 answers");
}
