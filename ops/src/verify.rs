//! Proof that a stack works, from outside: what a user would notice, asked one by one.
//!
//! Invariant: a check passes only on an answer that a broken stack could not have given; what cannot be checked is
//! skipped with its reason, never passed.

use std::{
    fmt::Write as _,
    thread,
    time::{Duration, Instant},
};

use chrono::Utc;
use reqwest::{StatusCode, blocking::Client};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stack::{
    backup::Backups,
    component::Component,
    observed::{Observed, State},
};

use crate::{
    https::{self, Trust},
    summary::{Part, Summary},
};

/// A model may have to be read from disk first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

/// Everything else answers at once or not at all.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Prometheus sees a target one scrape after its start.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(20);

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is so.
    Pass,
    /// It is not so.
    Fail,
    /// It could not be asked.
    Skip,
}

/// One check; the shape of `verify --json` is `{"checks":[…]}` of these.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Check {
    /// What was asked.
    pub name: String,
    /// How it ended.
    pub result: Verdict,
    /// The answer, or why there is none.
    pub detail: String,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// What a check found: the detail of a pass, or of a failure, or the reason to skip.
type Finding = Result<String, Miss>;

enum Miss {
    Fail(String),
    Skip(String),
}

/// Asks a question, and how long the answer took.
fn ask(name: String, question: &mut dyn FnMut() -> Finding) -> Check {
    let begun = Instant::now();
    let (result, detail) = match question() {
        Ok(detail) => (Verdict::Pass, detail),
        Err(Miss::Fail(detail)) => (Verdict::Fail, detail),
        Err(Miss::Skip(detail)) => (Verdict::Skip, detail),
    };
    Check { name, result, detail, seconds: begun.elapsed().as_secs_f64() }
}

/// Asks whatever the edge lets be reached, from where a client is: that nothing is in the way only a client can know.
pub fn from_client(summary: &Summary) -> Vec<Check> {
    let client = Client::builder().no_proxy().build().unwrap_or_default();
    let doors = summary.components.iter().filter_map(|part| Some((part.name, part.lan_url.as_deref()?)));
    let check = |(component, url): (Component, &str)| {
        let path = match component {
            Component::Grafana => "/api/health",
            Component::Prometheus => "/-/ready",
            _ => "/api/version",
        };
        ask(format!("{component} answers from here"), &mut || {
            let url_asked = format!("{url}{path}");
            let status = if url.starts_with("https:") {
                https::get(&url_asked, Trust::System).map_err(Miss::Fail)?.0
            } else {
                client.get(url_asked).timeout(TIMEOUT).send().map_err(|error| fail(&error))?.status().as_u16()
            };
            match StatusCode::from_u16(status).unwrap_or_default() {
                status if status.is_success() => Ok(url.to_owned()),
                StatusCode::FORBIDDEN => Err(Miss::Fail(format!("{url} lets nobody in from here: see edge.allow"))),
                status => Err(Miss::Fail(format!("{url} answers {status}"))),
            }
        })
    };
    doors.map(check).collect()
}

/// Asks everything, in order, and tells each check as it ends.
pub fn verify(observed: &Observed, model: &str, mut tell: impl FnMut(&Check)) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut ask = |name: String, question: &mut dyn FnMut() -> Finding| {
        let check = ask(name, question);
        tell(&check);
        checks.push(check);
    };
    let summary = Summary::of("", observed);
    for part in &summary.components {
        ask(format!("{} is healthy", part.name), &mut || healthy(part));
    }
    let stack = Stack { summary: &summary, client: Client::builder().no_proxy().build().unwrap_or_default() };
    ask("the engine tells its version".to_owned(), &mut || stack.version());
    let mut before = None;
    ask("the gateway sees the engine".to_owned(), &mut || {
        let metrics = stack.sees_engine()?;
        before = Some(answers(&metrics));
        Ok("ollama_up is 1".to_owned())
    });
    let mut has_answered = false;
    ask(format!("{model} answers"), &mut || stack.answer(model).inspect(|_| has_answered = true));
    ask("metrics move when it does".to_owned(), &mut || match before {
        None => Err(Miss::Skip("there were no metrics before".to_owned())),
        Some(_) if !has_answered => Err(Miss::Skip("it did not answer".to_owned())),
        Some(before) => stack.moved(before),
    });
    ask("Prometheus scrapes the gateway".to_owned(), &mut || stack.scraped());
    ask("the last backup is whole".to_owned(), &mut || backed_up(&observed.backups));
    checks
}

fn healthy(part: &Part) -> Finding {
    let detail = part.detail.clone().unwrap_or_default();
    match part.state {
        State::Healthy => Ok(part.url.clone().unwrap_or_default()),
        State::Absent => Err(Miss::Skip(detail)),
        State::Starting => Err(Miss::Fail(format!("it is still starting {detail}").trim_end().to_owned())),
        State::Stopped | State::Unhealthy => Err(Miss::Fail(detail)),
    }
}

fn backed_up(backups: &Backups) -> Finding {
    match (backups.fault(Utc::now()), backups.words()) {
        (Some(fault), _) => Err(Miss::Fail(fault)),
        (None, Some(words)) => Ok(words),
        (None, None) => Err(Miss::Skip("there is none yet; `cargo xtask backup` makes one".to_owned())),
    }
}

struct Stack<'a> {
    summary: &'a Summary,
    client: Client,
}

impl Stack<'_> {
    fn url(&self, component: Component, path: &str) -> Result<String, Miss> {
        let part = self.summary.components.iter().find(|part| part.name == component);
        let url = part.and_then(|part| part.url.as_deref());
        url.map(|url| format!("{url}{path}")).ok_or_else(|| Miss::Skip(format!("the {component} is absent")))
    }

    fn get(&self, component: Component, path: &str) -> Result<String, Miss> {
        let url = self.url(component, path)?;
        let answer = self.client.get(url).timeout(TIMEOUT).send().map_err(|error| fail(&error))?;
        wants_key(answer.status())?;
        answer.error_for_status().and_then(|answer| answer.text()).map_err(|error| fail(&error))
    }

    fn json(&self, component: Component, path: &str) -> Result<Value, Miss> {
        let text = self.get(component, path)?;
        serde_json::from_str(&text).map_err(|error| Miss::Fail(format!("{path} is no JSON: {error}")))
    }

    fn metrics(&self) -> Result<String, Miss> {
        self.get(Component::Gateway, "/metrics")
    }

    /// The gateway looks every two seconds, and the engine may have come up behind it.
    fn sees_engine(&self) -> Result<String, Miss> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let metrics = self.metrics()?;
            match metric(&metrics, "ollama_up") {
                Some(1.0) => return Ok(metrics),
                up if Instant::now() > deadline => {
                    let up = up.map_or("not there".to_owned(), |up| up.to_string());
                    return Err(Miss::Fail(format!("ollama_up is {up}")));
                }
                _ => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn version(&self) -> Finding {
        let answer = self.json(Component::Gateway, "/api/version")?;
        match answer["version"].as_str() {
            Some(version) if !version.is_empty() => Ok(version.to_owned()),
            _ => Err(Miss::Fail(format!("/api/version says {answer}"))),
        }
    }

    fn answer(&self, model: &str) -> Finding {
        let url = self.url(Component::Gateway, "/api/generate")?;
        let body = json!({ "model": model, "prompt": "Say hello.", "stream": false, "options": { "num_predict": 16 } });
        let answer = self.client.post(url).json(&body).timeout(ANSWER_TIMEOUT).send().map_err(|error| fail(&error))?;
        let status = answer.status();
        wants_key(status)?;
        let answer: Value = answer.json().map_err(|error| fail(&error))?;
        let tokens = answer["eval_count"].as_u64().unwrap_or_default();
        match answer["response"].as_str() {
            Some(text) if status.is_success() && answer["done"] == true && tokens > 0 && !text.is_empty() => {
                Ok(format!("{tokens} tokens: {}", text.chars().take(60).collect::<String>()))
            }
            _ => Err(Miss::Fail(format!("{status}: {}", answer["error"].as_str().unwrap_or("no text came")))),
        }
    }

    /// A request is counted when its last byte has gone, which may be a moment after that byte has come.
    fn moved(&self, before: f64) -> Finding {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let after = answers(&self.metrics()?);
            if after > before {
                return Ok(format!("ollama_requests_total went from {before} to {after}"));
            }
            if Instant::now() > deadline {
                return Err(Miss::Fail(format!("ollama_requests_total stayed at {after}")));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn scraped(&self) -> Finding {
        let path = "/api/v1/query?query=up%7Bjob%3D%22ollama%22%7D";
        let deadline = Instant::now() + SCRAPE_TIMEOUT;
        loop {
            let answer = self.json(Component::Prometheus, path)?;
            let up = answer["data"]["result"][0]["value"][1].as_str();
            if up == Some("1") {
                return Ok("up{job=\"ollama\"} is 1".to_owned());
            }
            if Instant::now() > deadline {
                return Err(Miss::Fail(format!("up{{job=\"ollama\"}} is {}", up.unwrap_or("not there"))));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A key is made once and never shown again: there is none to ask with.
fn wants_key(status: StatusCode) -> Result<(), Miss> {
    match status {
        StatusCode::UNAUTHORIZED => Err(Miss::Skip(
            "the gateway wants a key of the host's own clients too (keys_on_loopback), and this has none".to_owned(),
        )),
        _ => Ok(()),
    }
}

fn fail(error: &reqwest::Error) -> Miss {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let _ = write!(words, ": {cause}");
        source = cause.source();
    }
    Miss::Fail(words)
}

/// Generations that were answered, over all models: what [`Stack::answer`] adds one to, and no other check.
fn answers(metrics: &str) -> f64 {
    let labels = ["endpoint=\"generate\"", "outcome=\"ok\""];
    let counted =
        |line: &&str| line.starts_with("ollama_requests_total{") && labels.iter().all(|label| line.contains(label));
    metrics.lines().filter(counted).filter_map(value).sum()
}

/// The value of a metric without labels.
fn metric(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' '))).and_then(value)
}

fn value(line: &str) -> Option<f64> {
    line.rsplit(' ').next()?.parse().ok()
}

/// The checks as JUnit XML, in the shape that CI systems read.
pub fn junit(checks: &[Check]) -> String {
    let count = |verdict| checks.iter().filter(|check| check.result == verdict).count();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let (failures, skipped) = (count(Verdict::Fail), count(Verdict::Skip));
    let _ = writeln!(
        xml,
        "<testsuite name=\"verify\" tests=\"{}\" failures=\"{failures}\" skipped=\"{skipped}\">",
        checks.len()
    );
    for check in checks {
        let (name, detail) = (escape(&check.name), escape(&check.detail));
        let inside = match check.result {
            Verdict::Pass => format!("<system-out>{detail}</system-out>"),
            Verdict::Fail => format!("<failure message=\"{detail}\"/>"),
            Verdict::Skip => format!("<skipped message=\"{detail}\"/>"),
        };
        let _ = writeln!(
            xml,
            "  <testcase classname=\"verify\" name=\"{name}\" time=\"{:.3}\">{inside}</testcase>",
            check.seconds
        );
    }
    xml.push_str("</testsuite>\n");
    xml
}

/// Text for XML, without the control characters that XML cannot hold.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(' '),
            control if control.is_control() => {}
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread,
    };

    use super::*;

    /// Answers one request with this status.
    fn door(status: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        });
        url
    }

    #[test]
    fn a_door_is_open_if_it_lets_us_in() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let urls = [door("200 OK"), door("403 Forbidden"), door("502 Bad Gateway"), format!("http://{closed}")];
        let part = |url: &String| Part {
            name: Component::Gateway,
            state: State::Healthy,
            url: None,
            lan_url: Some(url.clone()),
            detail: None,
        };
        let components = urls.iter().map(part).collect();
        let summary = Summary {
            host: "studio".into(),
            runtime: None,
            release: None,
            components,
            backup: None,
            backup_words: None,
        };
        let checks = from_client(&summary);
        let results: Vec<Verdict> = checks.iter().map(|check| check.result).collect();
        assert_eq!(results, [Verdict::Pass, Verdict::Fail, Verdict::Fail, Verdict::Fail]);
        assert!(checks[1].detail.contains("edge.allow"), "{checks:?}");
    }

    #[test]
    fn sums_only_answered_requests() {
        let metrics = "\
# TYPE ollama_requests counter
ollama_requests_total{model=\"a\",endpoint=\"generate\",outcome=\"ok\",code=\"200\"} 3
ollama_requests_total{model=\"a\",endpoint=\"version\",outcome=\"ok\",code=\"200\"} 9
ollama_requests_total{model=\"b\",endpoint=\"generate\",outcome=\"ok\",code=\"200\"} 4
ollama_requests_total{model=\"b\",endpoint=\"generate\",outcome=\"error\",code=\"500\"} 9
ollama_up 1
ollama_up_since 7
";
        assert_eq!(answers(metrics), 7.0);
        assert_eq!(metric(metrics, "ollama_up"), Some(1.0));
        assert_eq!(metric(metrics, "ollama_down"), None);
    }

    #[test]
    fn writes_junit_that_survives_any_text() {
        let check = |result, detail: &str| Check { name: "a<b".into(), result, detail: detail.into(), seconds: 0.25 };
        let checks = [check(Verdict::Fail, "\"&\u{1}\n"), check(Verdict::Skip, "no"), check(Verdict::Pass, "yes")];
        insta::assert_snapshot!(junit(&checks), @r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuite name="verify" tests="3" failures="1" skipped="1">
          <testcase classname="verify" name="a&lt;b" time="0.250"><failure message="&quot;&amp; "/></testcase>
          <testcase classname="verify" name="a&lt;b" time="0.250"><skipped message="no"/></testcase>
          <testcase classname="verify" name="a&lt;b" time="0.250"><system-out>yes</system-out></testcase>
        </testsuite>
        "#);
    }
}
