//! A wire that is cut, a client or an agent that is killed: the host ends in the old state or the new one, and the next
//! deploy sees which.

use std::{fs, thread, time::Duration};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    far::{Far, Wire, offsets},
    stage::{Job, Process, WITH_A_BUILD, until},
};

/// Cuts by chance: the same every time.
const CUTS: usize = 100;

/// Hosts that are deployed to side by side, and clients that only look at one.
const HOSTS: usize = 4;
const CLIENTS: usize = 8;

const NEAR: Duration = Duration::ZERO;
const FAR_AWAY: Duration = Duration::from_millis(100);

/// Nothing is cut.
const NEVER: u64 = u64::MAX;

#[test]
fn what_is_cut_short_is_no_answer() {
    let Some(far) = Far::deployed() else { return };
    let whole = far.start_with("FAR_FILTER='tee whole'", "status --json").finish().exits(0).stdout;
    let answer = fs::read(far.path("whole")).unwrap();
    let length = answer.len() as u64;
    // Around the end of each frame, and anywhere.
    let ends = (1..=length).filter(|at| answer[*at as usize - 1] == b'\n');
    let edges = ends.flat_map(|end| [end - 1, end, end + 1]);
    let cuts: Vec<u64> = edges.chain(offsets(3, length).take(CUTS)).collect();
    for cuts in cuts.chunks(CLIENTS) {
        let start = |cut: &u64| {
            let filter = format!("FAR_FILTER='dd bs=64k iflag=count_bytes count={cut} status=none'");
            (*cut, far.start_with(&filter, "status --json"))
        };
        for (cut, client) in cuts.iter().map(start).collect::<Vec<(u64, Job)>>() {
            match (cut >= length, client.finish()) {
                // The clock in the answer makes it a little longer or shorter at times.
                (true, ran) if ran.code == Some(0) => assert_eq!(ran.stdout, whole),
                (_, ran) => assert_eq!(ran.exits(3).stdout, "", "of {cut} bytes of {length}"),
            }
        }
    }
}

#[test]
fn a_first_deploy_whose_wire_is_cut_leaves_nothing_or_a_stack() {
    let Some(far) = Far::new() else { return };
    // With the program for it to be built once; what is sent there is cut, too.
    far.start_with("FAR_FILTER=true", "deploy").finish_within(WITH_A_BUILD).exits(3);
    let wire = Wire::to(far.port, NEAR, NEVER);
    far.start_behind(&wire, "deploy").finish().exits(0);
    far.ok("uninstall --data --yes");
    for cut in offsets(5, wire.carried()).take(12) {
        let ran = far.start_behind(&Wire::to(far.port, NEAR, cut), "deploy").finish();
        assert!(matches!(ran.code, Some(0 | 3)), "{ran:?}");
        far.await_jobs();
        let status = far.run("status");
        assert!(matches!((status.code, far.current()), (Some(10), None) | (Some(0), Some(_))), "{status:?}");
        far.ok("deploy");
        far.is_settled();
        far.ok("uninstall --data --yes");
    }
}

/// Deploys a change behind a wire that is cut, over and over: the host ends in the old state or the new one.
fn cut_deploys(far: &Far, latency: Duration, cuts: &[u64]) {
    for (count, cut) in cuts.iter().enumerate() {
        let old = far.current();
        let before = far.components();
        far.write("local/rules/mine.yml", &format!("groups: []\n# {latency:?} {count}\n"));
        let ran = far.start_behind(&Wire::to(far.port, latency, *cut), "deploy").finish();
        assert!(matches!(ran.code, Some(0 | 3)), "cut after {cut}: {ran:?}");
        far.await_jobs();
        let began = far.current() != old;
        assert!(began || ran.code == Some(3), "cut after {cut}: {ran:?}");
        let next = far.ok("deploy");
        assert_eq!(next.stderr.contains("nothing to do"), began, "cut after {cut}: {next:?}");
        assert_ne!(far.current(), old, "cut after {cut}");
        assert_eq!(far.replaced_since(&before), [""; 0], "cut after {cut}");
    }
    far.is_settled();
}

fn sweep(latency: Duration) {
    thread::scope(|scope| {
        for host in 0..HOSTS {
            scope.spawn(move || {
                let Some(far) = Far::deployed() else { return };
                far.write("local/rules/mine.yml", "groups: []\n");
                let wire = Wire::to(far.port, NEAR, NEVER);
                far.start_behind(&wire, "deploy").finish().exits(0);
                let cuts: Vec<u64> = offsets(7 + host as u64, wire.carried()).take(CUTS / HOSTS).collect();
                cut_deploys(&far, latency, &cuts);
            });
        }
    });
}

#[test]
fn a_deploy_may_be_cut_anywhere() {
    sweep(NEAR);
}

#[test]
fn a_deploy_may_be_cut_anywhere_on_a_slow_wire() {
    sweep(FAR_AWAY);
}

/// Deploys a change, and does something to it as soon as the client hears that a step begins; for every step.
fn at_every_step(far: &Far, mut strike: impl FnMut(Job, usize)) {
    for number in 1.. {
        far.set("time_to_first_token", &format!("\"{}ms\"", 10 + number));
        let client = far.start("deploy --json");
        let has_begun = |line: &str| {
            serde_json::from_str(line).is_ok_and(|event: Value| event["event"] == "begin" && event["number"] == number)
        };
        let begun = until("the step begins, or all is done", || {
            let said = client.stdout();
            let done = said.contains("\"outcome\":");
            (done || said.lines().any(has_begun)).then_some(said.lines().any(has_begun))
        });
        if !begun {
            assert!(number > 4, "only {} steps were struck", number - 1);
            client.finish().exits(0);
            return far.is_settled();
        }
        strike(client, number);
    }
}

#[test]
fn a_host_finishes_whenever_its_client_is_killed() {
    let Some(far) = Far::deployed() else { return };
    at_every_step(&far, |client, number| {
        client.kill();
        far.await_jobs();
        let jobs = far.ok("job list --json").json();
        assert_eq!(jobs.as_array().unwrap().last().unwrap()["state"], "done", "step {number}: {jobs}");
        far.ok("deploy").says("nothing to do");
        far.is_settled();
    });
}

#[test]
fn a_job_that_is_killed_is_told_and_gone_on_from() {
    let Some(far) = Far::deployed() else { return };
    at_every_step(&far, |client, number| {
        let holder = fs::read_to_string(far.root().join("state/apply.lock")).unwrap();
        let pid = holder.split("pid ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
        let agent = Process::with_pid(pid);
        let lives = agent.runs();
        if lives {
            agent.signal(Signal::KILL);
        }
        let ran = client.finish();
        // It may have come to its end just before.
        match ran.code {
            Some(0) => {}
            _ => drop(ran.exits(1).says("was killed").says("`cargo xtask deploy` goes on")),
        }
        let next = until("the lock is free", || Some(far.run("deploy")).filter(|ran| ran.code != Some(11)));
        next.exits(0);
        assert!(lives || number > 1, "no step was struck in time");
        far.is_settled();
    });
}
