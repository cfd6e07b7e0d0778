//! Verbs that run on a host, as its own program is asked for them: what `xtask host serve` answers.

use std::fs;

use serde_json::Value;

use crate::{
    model::{slow, until_it_comes},
    stage::{Job, Stage, until},
};

/// What a connection carries, with the name that a deploy gave the program.
fn serve(stage: &Stage, request: &str) -> Job {
    stage.write("request", &format!("{request}\n"));
    let root = stage.root().display().to_string();
    stage.start_shell(&format!("exec \"$XTASK\" host serve --root='{root}' --nonce=n < request"))
}

fn frames(text: &str) -> Vec<Value> {
    text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn printed(frames: &[Value], stream: &str) -> String {
    let output = frames.iter().filter(|frame| frame["event"]["stream"] == stream);
    output.map(|frame| frame["event"]["bytes"].as_str().unwrap()).collect()
}

#[test]
fn a_verb_on_the_host_is_heard_as_it_speaks_and_by_its_exit_code() {
    let stage = Stage::deployed();
    for as_job in [false, true] {
        let ask = |args: &str| {
            let request = format!(r#"{{"request":"run","args":{args},"as_job":{as_job}}}"#);
            frames(&serve(&stage, &request).finish().exits(0).stdout)
        };
        let told = ask(r#"["status","--json"]"#);
        assert_eq!(serde_json::from_str::<Value>(&printed(&told, "out")).unwrap(), stage.status());
        assert_eq!(told.last().unwrap()["end"]["answer"]["Ok"]["ended"]["ran"], 0);
        let told = ask(r#"["job","cancel","none"]"#);
        assert!(printed(&told, "err").starts_with("error: there is no job none\n"), "{told:?}");
        assert_eq!(told.last().unwrap()["end"]["answer"]["Ok"]["ended"]["ran"], 10);
    }
    let jobs = stage.ok("job list --json").json();
    assert_eq!((&jobs[0]["verb"], &jobs[0]["state"]), (&"status --json".into(), &"done".into()));
    assert_eq!((&jobs[1]["verb"], &jobs[1]["state"]), (&"job cancel none".into(), &"failed".into()));
    let id = jobs[1]["id"].as_str().unwrap();
    stage.run(&format!("job attach {id}")).exits(10).says("there is no job none");
}

#[test]
fn a_verb_that_is_a_job_outlives_its_client_and_ends_well_when_cancelled() {
    let stage = Stage::deployed();
    let client = serve(&stage, r#"{"request":"run","args":["logs","--follow"],"as_job":true}"#);
    until("it is followed", || client.stdout().contains("\"out\"").then_some(()));
    client.kill();
    let jobs = stage.ok("job list --json").json();
    assert_eq!(jobs[0]["state"], "running");
    let id = jobs[0]["id"].as_str().unwrap().to_owned();
    stage.ok(&format!("job cancel {id}"));
    stage.run(&format!("job attach {id}")).exits(130);
    assert_eq!(stage.ok("job list --json").json()[0]["state"], "failed");
    until("its process is gone", || (stage.processes().len() == stage.components().len() + 1).then_some(()));
    stage.is_settled();
}

#[test]
fn a_pull_goes_on_when_its_client_is_gone_and_can_be_followed_again() {
    let stage = slow();
    let client = serve(&stage, r#"{"request":"run","args":["model","pull","qwen3:8b"],"as_job":true}"#);
    until_it_comes(&stage);
    client.kill();
    let jobs = stage.ok("job list --json").json();
    assert_eq!((&jobs[0]["verb"], &jobs[0]["state"]), (&"model pull qwen3:8b".into(), &"running".into()));
    stage.ok(&format!("job attach {}", jobs[0]["id"].as_str().unwrap())).says("qwen3:8b answers");
    assert!(stage.ok("model list").stdout.contains("qwen3:8b"));
}

#[test]
fn where_nothing_is_deployed_no_verb_runs() {
    let stage = Stage::new();
    fs::create_dir_all(stage.root()).unwrap();
    let told = frames(&serve(&stage, r#"{"request":"run","args":["status"],"as_job":false}"#).finish().exits(0).stdout);
    assert_eq!(told[0]["end"]["answer"]["Err"]["class"], "nothing");
}
