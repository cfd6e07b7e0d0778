//! The guide's five criteria of success, each said by checks that were made and by the agents' last tests.
//!
//! Invariant: a criterion passes only if something that was tried passed; what nobody tried is skipped, with what to do.

use crate::{
    agent::{self, ALL, Outcome, Place},
    verify::{Check, Verdict},
};

/// How the names of criteria begin, by which they are told from the checks that they rest on.
const PREFIX: &str = "criterion: ";

/// Whether a check is one of these: a host that is asked for its checks has answered for itself, not for its client.
pub fn is_criterion(check: &Check) -> bool {
    check.name.starts_with(PREFIX)
}

/// The five, in the guide's order. `api` is how asking from this machine went; `place` is of this machine's user.
pub fn criteria(checks: &[Check], api: (Verdict, String), place: &Place) -> Vec<Check> {
    let all = |ends: &[&str]| conclude(checks.iter().filter(|it| ends.iter().any(|end| it.name.ends_with(end))));
    let criterion = |name: &str, (result, detail): (Verdict, String)| Check {
        name: format!("{PREFIX}{name}"),
        result,
        detail,
        seconds: 0.0,
    };
    let dashboards = match checks.iter().find(|check| check.name == "grafana is healthy") {
        Some(grafana) if grafana.result != Verdict::Pass => (grafana.result, format!("Grafana: {}", grafana.detail)),
        _ => all(&["grafana is healthy", "metrics move when it does", "Prometheus scrapes the gateway"]),
    };
    vec![
        criterion("services up", all(&[" is healthy"])),
        criterion("the API answers from this machine", api),
        criterion("a coding agent works", agents(place)),
        criterion("dashboards show metrics", dashboards),
        criterion("a backup is made and drilled", all(&["the last backup is whole"])),
    ]
}

/// The worst of some checks; skipped ones count only where there is nothing else.
fn conclude<'a>(checks: impl Iterator<Item = &'a Check>) -> (Verdict, String) {
    let (skipped, made): (Vec<&Check>, Vec<&Check>) = checks.partition(|check| check.result == Verdict::Skip);
    match (made.iter().find(|check| check.result == Verdict::Fail), made.len()) {
        (Some(failed), _) => (Verdict::Fail, format!("{}: {}", failed.name, failed.detail)),
        (None, 0) => (Verdict::Skip, skipped.first().map(|it| it.detail.clone()).unwrap_or_default()),
        (None, 1) => (Verdict::Pass, made.first().map(|it| it.detail.clone()).unwrap_or_default()),
        (None, count) => (Verdict::Pass, format!("{count} checks passed")),
    }
}

/// The last test of an agent that works as it is configured now.
fn agents(place: &Place) -> (Verdict, String) {
    let mut found = (Verdict::Skip, "none is configured: `cargo xtask agent configure aider`".to_owned());
    for agent in ALL {
        let (Ok(Some(configured)), Ok(tested)) = (agent::configured(agent, place), agent::tested(agent, place)) else {
            continue;
        };
        let is_current = |it: &&agent::Tested| it.model == configured.model && it.endpoint == configured.endpoint;
        let last = tested.into_values().max_by_key(|it| it.at);
        match last.as_ref().filter(is_current) {
            Some(tested) if tested.outcome == Outcome::Pass => {
                return (Verdict::Pass, format!("{} {}", agent.name, tested.words()));
            }
            Some(tested) => found = (Verdict::Fail, format!("{} {}", agent.name, tested.words())),
            None if found.0 == Verdict::Skip && agent.can_be_tested() => {
                found.1 = format!("{0} is not tested: `cargo xtask agent test {0}`", agent.name);
            }
            None => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, result: Verdict) -> Check {
        Check { name: name.to_owned(), result, detail: format!("detail of {name}"), seconds: 0.0 }
    }

    #[test]
    fn a_criterion_is_as_good_as_what_it_rests_on() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path().to_owned(), None);
        let checks = [
            check("engine is healthy", Verdict::Pass),
            check("grafana is healthy", Verdict::Skip),
            check("the last backup is whole", Verdict::Fail),
        ];
        let found = criteria(&checks, (Verdict::Pass, "0.33".to_owned()), &place);
        let verdicts: Vec<Verdict> = found.iter().map(|check| check.result).collect();
        assert_eq!(verdicts, [Verdict::Pass, Verdict::Pass, Verdict::Skip, Verdict::Skip, Verdict::Fail]);
        assert!(found.iter().all(is_criterion) && !checks.iter().any(is_criterion));
    }
}
