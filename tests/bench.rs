//! `bench` against a deployed sandbox, whose pace is known: what is printed, what is kept, and how it ends.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::stage::{Stage, until};

const MODEL: &str = "qwen2.5-coder:32b-instruct-q8_0";

/// Few and short: these tests are about what is said of a run.
const SHORT: &str = "--requests 3 --output-tokens 8 --warmup 0";

/// A stack whose first token takes so long, and each further one 2 ms.
fn stack(first_token: &str) -> Stage {
    let stage = Stage::new();
    stage.set("time_to_first_token", &format!("\"{first_token}\""));
    stage.set("time_per_output_token", "\"2ms\"");
    stage.ok("deploy");
    stage
}

fn url(stage: &Stage) -> String {
    stage.part("gateway")["url"].as_str().unwrap().to_owned()
}

/// The folders of results, the newest last.
fn results(stage: &Stage) -> Vec<String> {
    let entries = fs::read_dir(stage.path("bench-results")).into_iter().flatten();
    let mut names: Vec<String> = entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_measured_is_near_the_truth_and_kept() {
    let stage = stack("40ms");
    let line = "bench qwen2.5-coder --requests 4 --output-tokens 16 --concurrency 1,3 --slo ttft=10s --json";
    let ran = stage.ok(line).says("report.html there has the plots");
    let said = ran.json();
    assert_eq!((&said["schema"], &said["model"]["name"]), (&json!(1), &json!(MODEL)));
    assert_eq!(said["pinned"]["num_ctx"], said["model"]["context_length"]);
    assert_eq!((&said["pinned"]["think"], &said["pinned"]["keep_alive"]), (&Value::Null, &Value::Null));
    for (run, concurrency) in said["runs"].as_array().unwrap().iter().zip([1, 3]) {
        assert_eq!(
            (&run["requests"], &run["errors"], &run["concurrency"]),
            (&json!(4), &json!(0), &json!(concurrency))
        );
        // Never sooner than the truth; how much later is the machine's.
        assert!(run["ttft_ms"]["p50"].as_f64().unwrap() >= 40.0, "{run}");
        assert_eq!((&run["decode_tokens_per_second"], &run["output_tokens"]), (&json!(500.0), &json!(16.0)));
        assert!(run["goodput_per_second"].as_f64().unwrap() > 0.0 && run["ttft_ms"]["p99"].is_null(), "{run}");
    }
    assert!(said["warnings"][0].as_str().unwrap().contains("stand-in"), "{said}");
    assert_eq!(stage.ok("bench show --json").json(), said);
    assert!(stage.ok("bench list").stdout.contains("2 runs     8 answers"));
    let report = stage.ok("bench report").stdout;
    assert!(fs::read_to_string(report.trim()).unwrap().contains("<svg"));
    // A file that another version wrote is refused, and no hindrance to the list.
    let file = stage.path("bench-results").join(&results(&stage)[0]).join("result.json");
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("\"schema\": 1", "\"schema\": 9")).unwrap();
    stage.run("bench show").exits(2).says("is of schema 9; this program reads 1");
    assert!(stage.ok("bench list").stdout.contains("of another schema"));
}

#[test]
fn several_models_stand_side_by_side_and_only_by_their_speed() {
    let stage = stack("1ms");
    stage.ok("model pull llama3.2:3b");
    let table = stage.ok(&format!("bench qwen2.5-coder llama3.2 {SHORT}")).stdout;
    let (_, side_by_side) = table.split_once("speed only, not how good the answers are").unwrap();
    assert!(side_by_side.contains(MODEL) && side_by_side.contains("llama3.2:3b"), "{table}");
    assert_eq!(results(&stage).len(), 2);
}

#[test]
fn what_cannot_be_measured_is_said_with_what_would_help() {
    let stage = stack("1ms");
    stage.run("bench no-such-model").exits(10).says("is not installed").says("cargo xtask model pull no-such-model");
    stage.run("bench --endpoint 127.0.0.1:1").exits(3).says("no answer from http://127.0.0.1:1");
    stage.run("bench --endpoint https://studio.local").exits(2).says("TLS is not measured");
    stage.run("bench show").exits(10).says("there are no results");
    stage.run("bench --baseline last-week").exits(10).says("bench baseline set last-week");
    assert_eq!(results(&stage), [""; 0]);
}

#[test]
fn a_key_is_taken_from_a_file_or_from_standard_input() {
    let stage = Stage::new();
    let settings = fs::read_to_string(stage.path("stack.toml")).unwrap();
    stage.write("stack.toml", &format!("{settings}\n[gateway]\nkeys = true\nkeys_on_loopback = true\n"));
    stage.ok("deploy");
    let key = stage.ok("key add bench").stdout;
    stage.write("key", &key);
    until("the key opens", || (stage.run(&format!("bench {SHORT} --key key")).code == Some(0)).then_some(()));
    stage.run(&format!("bench {SHORT}")).exits(7).says("name a file that holds a key with --key");
    stage.shell(&format!("\"$XTASK\" bench {SHORT} --key - < key")).exits(0);
    let found = stage.shell(&format!("grep -rl '{}' bench-results root/logs", key.trim()));
    assert_eq!((found.code, found.stdout.as_str()), (Some(1), ""), "it is written down nowhere");
}

#[test]
fn without_a_whole_answer_there_is_no_success() {
    let stage = Stage::new();
    let settings = fs::read_to_string(stage.path("stack.toml")).unwrap();
    stage.write("stack.toml", &format!("{settings}scenarios = \"busy.toml\"\n"));
    stage.write("busy.toml", "[[reply]]\ncontains = \"Go on.\"\nstatus = 503\nerror = \"busy\"\n");
    stage.ok("deploy");
    let ran = stage.run(&format!("bench {SHORT} --input-tokens 20 --json")).exits(1).says("gave no whole answer");
    let run = &ran.json()["runs"][0];
    assert_eq!((&run["requests"], &run["errors"], &run["ttft_ms"]["p50"]), (&json!(3), &json!(3), &Value::Null));
    assert!(run["error_counts"].to_string().contains("busy"), "{run}");
    assert_eq!(results(&stage).len(), 1, "it is kept all the same");
}

#[test]
fn an_engine_that_goes_away_in_the_middle_leaves_what_came_until_then() {
    let stage = stack("1ms");
    let bench = stage.start("bench --concurrency 1,2,3 --duration 3s --output-tokens 8 --json");
    until("the second run is on", || bench.stderr().contains("mixed × 2").then_some(()));
    stage.ok("stop engine");
    let ran = bench.finish().exits(1).says("the engine stopped answering").says("what came until then is kept");
    let said = ran.json();
    let runs = said["runs"].as_array().unwrap();
    assert_eq!((&said["broken_off"], runs.len()), (&json!("the engine stopped answering"), 3));
    assert!(runs[0]["errors"] == 0 && runs[0]["requests"].as_u64().unwrap() > 0, "{}", runs[0]);
    assert!(runs[2]["errors"].as_u64().unwrap() > 0 && runs[2]["ttft_ms"]["n"] == 0, "{}", runs[2]);
    assert!(stage.ok("bench list").stdout.contains("not complete: the engine stopped answering"));
}

#[test]
fn an_interrupt_keeps_what_came_until_then() {
    let stage = stack("1ms");
    let bench = stage.start("bench --duration 60s --output-tokens 8 --json");
    until("it measures", || bench.stderr().contains("requests").then_some(()));
    bench.process().signal(Signal::INT);
    let said = bench.finish().exits(130).json();
    assert_eq!(said["broken_off"], "interrupted");
    assert!(stage.ok("bench list").stdout.contains("not complete: interrupted"));
}

#[test]
fn of_two_endpoints_the_slower_one_is_worse_and_the_same_one_is_not() {
    let (near, far) = (stack("20ms"), stack("150ms"));
    let load = "--blocks 4 --requests 4 --output-tokens 8 --warmup 0";
    let line = format!("bench compare endpoint {} {} {load} --json", url(&near), url(&far));
    let said = near.run(&line).exits(1).says("report.html there has the plots").json();
    let finding = &said["findings"][0];
    assert_eq!((&finding["metric"], &finding["verdict"]), (&json!("TTFT p50"), &json!("worse")), "{said}");
    let folder = near.path("bench-results").join(results(&near).pop().unwrap());
    let kept: Value = serde_json::from_str(&fs::read_to_string(folder.join("comparison.json")).unwrap()).unwrap();
    assert_eq!((&kept["comparison"], kept["of_b"].as_array().unwrap().len()), (&said, 4));
    let page = fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("worse") && !page.contains("<script"), "{page}");
    assert!(near.ok("bench list").stdout.contains("TTFT p50 worse"));
    assert_eq!(near.ok("bench show --json").json(), said);
    fs::remove_file(folder.join("report.html")).unwrap();
    assert_eq!(near.ok("bench report").stdout.trim(), folder.join("report.html").display().to_string());
    // Whatever the machine's own noise is, half as fast again is none.
    let line = format!("bench compare endpoint {0} {0} {load} --tolerance 100 --json", url(&near));
    assert_ne!(near.ok(&line).json()["findings"][0]["verdict"], "worse");
}

#[test]
fn a_baseline_is_compared_with_by_the_same_load_only() {
    let stage = stack("20ms");
    let load = "--requests 4 --output-tokens 8 --warmup 0";
    stage.ok(&format!("bench baseline set before --blocks 4 {load}")).says("kept 4 blocks");
    let same = stage.ok(&format!("bench --baseline before {load} --tolerance 100"));
    assert!(same.stdout.contains("stored blocks are weaker than blocks in turns"), "{}", same.stdout);
    let other = stage.run("bench --baseline before --requests 5 --output-tokens 8 --warmup 0").exits(2);
    other.says("was made with another load: 4 × explanation (8 tokens), 1 at a time, and now 5 × explanation");
    stage.set("time_to_first_token", "\"200ms\"");
    stage.ok("deploy");
    assert!(stage.run(&format!("bench --baseline before {load}")).exits(1).stdout.contains("worse"));
}
