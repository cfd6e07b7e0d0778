//! Scenarios travel with the settings: what the stand-in answers to what is declared, too.

use std::fs;

use serde_json::{Value, json};

use crate::stage::Stage;

/// What the stack answers to "hi".
fn answer(stage: &Stage) -> Value {
    let url = stage.part("gateway")["url"].as_str().unwrap().to_owned() + "/api/generate";
    let ask = json!({"model": "qwen2.5-coder:32b-instruct-q8_0", "prompt": "hi", "stream": false});
    let client = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
    client.post(url).json(&ask).send().unwrap().json::<Value>().unwrap()["response"].take()
}

/// Adds a line to the settings' last table, the sandbox's.
fn add(stage: &Stage, line: &str) {
    let settings = fs::read_to_string(stage.path("stack.toml")).unwrap();
    stage.write("stack.toml", &format!("{settings}{line}\n"));
}

#[test]
fn scenarios_are_deployed_and_a_change_restarts_the_engine_alone() {
    let stage = Stage::new();
    add(&stage, "scenarios = \"mine.toml\"");
    stage.write("mine.toml", "[[reply]]\ntext = 'one'\n");
    stage.ok("deploy");
    assert_eq!(answer(&stage), "one");
    let before = stage.components();
    stage.write("mine.toml", "[[reply]]\ntext = 'two'\n");
    stage.ok("deploy --yes");
    assert_eq!((answer(&stage), stage.replaced_since(&before)), (json!("two"), vec!["engine".to_owned()]));
    stage.ok("rollback");
    assert_eq!(answer(&stage), "one");
    stage.is_settled();
}

#[test]
fn scenarios_that_cannot_be_played_are_refused_before_anything_happens() {
    let stage = Stage::new();
    add(&stage, "scenarios = \"mine.toml\"");
    stage.run("deploy").exits(2).says("mine.toml").says("No such file").says("hint: ");
    stage.write("mine.toml", "[[reply]]\nstal_ms = 1\n");
    stage.run("deploy").exits(2).says("cannot deploy mine.toml").says("unknown field `stal_ms`").says("hint: ");
    assert_eq!(stage.current(), None);
}

#[test]
fn the_stand_in_has_the_memory_that_the_settings_give_it() {
    let stage = Stage::new();
    add(&stage, "memory = \"1K\"");
    stage.ok("deploy");
    answer(&stage);
    let (_, text) = stage.get("gateway", "/api/ps").unwrap();
    let ps: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(ps["models"][0]["size_vram"], 1024, "the rest of it is elsewhere: {ps}");
}
