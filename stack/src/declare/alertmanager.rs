//! Alertmanager: its configuration, and how it is started where it is a program.

use std::path::Path;

use serde_json::{Value, json};

use super::{DECLARED, Host};
use crate::{
    component::Component,
    process::Command,
    release::{Contents, Launch, Service},
    settings::{Alerts, Email, NTFY_TOKEN, SLACK_URL, SMTP_PASSWORD, WEBHOOK_TOKEN},
};

const ALERTMANAGER: &str = include_str!("../../../config/alertmanager/alertmanager.yml");

/// What a person reads of several alerts at once, where the default would be a page of labels.
const WORDS: &str = "{{ range .Alerts }}{{ .Annotations.summary }}\n{{ .Annotations.description }}\n{{ end }}";

/// Alertmanager's list of the ways to people, by kind.
const PEOPLE: [&str; 3] = ["email_configs", "slack_configs", "webhook_configs"];

/// The watchdog's, which is none of those.
const WATCHDOG: &str = "pagerduty_configs";

/// Where Alertmanager tells which files it runs.
pub(super) const CONFIG_PATH: &str = "/api/v2/status";

/// The ways in which people are told.
struct Ways<'a> {
    alerts: &'a Alerts,
    /// Where Alertmanager sees the host's secrets.
    folder: &'a Path,
    /// Whether the host keeps a secret.
    is_kept: &'a dyn Fn(&str) -> bool,
}

impl Ways<'_> {
    fn file(&self, secret: &str) -> String {
        self.folder.join(secret).display().to_string()
    }

    /// By Alertmanager's name of its list of such ways, and the ways that lack a secret with its name.
    fn each(&self) -> Vec<(&'static str, Result<Value, Missing>)> {
        let Alerts { email, slack, ntfy, webhook, watchdog: _ } = self.alerts;
        let email = email.as_ref().map(|email| ("email_configs", self.email(email)));
        let slack = slack.as_ref().map(|channel| ("slack_configs", self.slack(channel)));
        // ntfy makes words of Alertmanager's JSON by a template of its own.
        let ntfy = ntfy.as_ref().map(|url| self.webhook(&format!("{url}?template=alertmanager"), NTFY_TOKEN));
        let webhook = webhook.as_ref().map(|url| self.webhook(url, WEBHOOK_TOKEN));
        let webhooks = ntfy.into_iter().chain(webhook).map(|it| ("webhook_configs", Ok(it)));
        email.into_iter().chain(slack).chain(webhooks).collect()
    }

    fn email(&self, email: &Email) -> Result<Value, Missing> {
        let Email { to, from, smtp, user } = email;
        let is_here = ["localhost:", "127."].iter().any(|here| smtp.starts_with(here));
        let mut way =
            json!({ "to": to, "from": from, "smarthost": smtp, "require_tls": !is_here, "send_resolved": true });
        if let Some(user) = user {
            if !(self.is_kept)(SMTP_PASSWORD) {
                return Err(Missing { setting: "email", secret: SMTP_PASSWORD });
            }
            way["auth_username"] = json!(user);
            way["auth_password_file"] = json!(self.file(SMTP_PASSWORD));
        }
        Ok(way)
    }

    fn slack(&self, channel: &str) -> Result<Value, Missing> {
        if !(self.is_kept)(SLACK_URL) {
            return Err(Missing { setting: "slack", secret: SLACK_URL });
        }
        let title = "{{ .CommonLabels.alertname }}: {{ .Status }}";
        let file = self.file(SLACK_URL);
        // Alertmanager's own page, the default, is on the loopback of the host.
        let link = "{{ (index .Alerts 0).GeneratorURL }}";
        Ok(json!({ "channel": channel, "api_url_file": file, "title": title, "title_link": link, "text": WORDS,
                   "send_resolved": true }))
    }

    fn webhook(&self, url: &str, token: &str) -> Value {
        let mut way = json!({ "url": url, "send_resolved": true });
        if (self.is_kept)(token) {
            way["http_config"] = json!({ "authorization": { "credentials_file": self.file(token) } });
        }
        way
    }

    /// What a person should know: that nobody is told, or a secret that is missing.
    fn note(&self) -> Option<String> {
        let ways = self.each();
        if ways.is_empty() {
            let why = match self.alerts.watchdog {
                Some(_) => "it tells nobody but the watchdog: nothing else is set under [alerts]",
                None => "it tells nobody: nothing is set under [alerts]",
            };
            return Some(why.to_owned());
        }
        let missing = ways.into_iter().filter_map(|(_, way)| way.err()).map(|Missing { setting, secret }| {
            format!("alerts.{setting} waits for `cargo xtask secret set {secret}`, and a deploy")
        });
        let missing: Vec<String> = missing.collect();
        (!missing.is_empty()).then(|| missing.join("; "))
    }

    /// The configuration, under the name `declared` that it is to tell.
    fn config(&self, declared: &str) -> String {
        let mut people = String::new();
        let ways: Vec<_> = self.each().into_iter().filter_map(|(kind, way)| Some((kind, way.ok()?))).collect();
        for kind in PEOPLE {
            let of_kind = ways.iter().filter(|(it, _)| *it == kind);
            // JSON is YAML.
            let lines: Vec<String> = of_kind.map(|(_, way)| format!("      - {way}\n")).collect();
            if !lines.is_empty() {
                people.push_str(&format!("    {kind}:\n{}", lines.concat()));
            }
        }
        // Not as a webhook: Alertmanager counts by kind alone, and a test of the alerts would take this one's pings for people's.
        // PagerDuty's is a kind that every version has, posts JSON to any URL and wants some key.
        let watchdog = self.alerts.watchdog.as_ref().map(|url| {
            let way = json!({ "url": url, "routing_key": "watchdog", "send_resolved": false });
            format!("    {WATCHDOG}:\n      - {way}\n")
        });
        ALERTMANAGER
            .replace("  - name: people\n", &format!("  - name: people\n{people}"))
            .replace("  - name: watchdog\n", &format!("  - name: watchdog\n{}", watchdog.unwrap_or_default()))
            .replace(&format!("{DECLARED}by-hand"), &format!("{DECLARED}{declared}"))
    }
}

struct Missing {
    setting: &'static str,
    secret: &'static str,
}

/// What Alertmanager is to run, whoever starts it.
pub(super) struct Told {
    /// Everything below `alertmanager/`.
    pub(super) files: Contents,
    /// The name by which it tells its files.
    pub(super) name: String,
    /// What a person should know of it.
    pub(super) note: Option<String>,
}

/// As the settings have it; `secrets` is where Alertmanager sees those of the host.
pub(super) fn told(host: &Host<'_>, secrets: &Path) -> Told {
    let is_kept = |name: &str| host.observed.secrets.contains_key(name);
    let ways = Ways { alerts: &host.settings.alerts, folder: secrets, is_kept: &is_kept };
    let write = |name: &str| [("alertmanager/alertmanager.yml".to_owned(), ways.config(name))].into();
    let (files, name) = host.told("alertmanager/", write);
    Told { files, name, note: ways.note() }
}

/// As a process of our supervisor.
pub(super) fn process(host: &Host<'_>, program: std::path::PathBuf) -> Service {
    let args = vec![
        format!("--config.file={}", host.root.current().join("alertmanager/alertmanager.yml").display()),
        format!("--storage.path={}", host.root.data().join("alertmanager").display()),
        format!("--web.listen-address={}", host.listen(Component::Alertmanager)),
        // Alone: without this it looks for others on the network.
        "--cluster.listen-address=".to_owned(),
    ];
    let launch = Launch::Process { command: Command { program, args, env: [].into() }, own_program: false };
    let mut service = host.service(Component::Alertmanager, launch, "/-/ready");
    service.reads = vec!["alertmanager/".to_owned()];
    service.reload_path = Some("/-/reload".to_owned());
    service
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn config(text: &str, secrets: &[&str]) -> (String, Option<String>) {
        let settings = Settings::parse(&format!("[alerts]\n{text}"), Path::new("stack.toml")).unwrap();
        let is_kept = |name: &str| secrets.contains(&name);
        let ways = Ways { alerts: &settings.alerts, folder: Path::new("/secrets"), is_kept: &is_kept };
        (ways.config("0123abcd"), ways.note())
    }

    const ALL: &str = "email = \"me@example.com\"\nsmtp = \"smtp.example.com:587\"\nsmtp_user = \"me\"\nslack = \
                       \"#alerts\"\nntfy = \"https://ntfy.sh/mine\"\nwebhook = \"http://127.0.0.1:1/x\"\nwatchdog = \
                       \"https://example.com/ping\"\n";

    #[test]
    fn nothing_set_is_said() {
        let (config, note) = config("", &[]);
        assert_eq!(config, ALERTMANAGER.replace("by-hand", "0123abcd"));
        assert_eq!(note.as_deref(), Some("it tells nobody: nothing is set under [alerts]"));
    }

    #[test]
    fn a_watchdog_alone_is_said_to_be_alone() {
        let (_, note) = config("watchdog = \"https://example.com/ping\"\n", &[]);
        assert_eq!(note.as_deref(), Some("it tells nobody but the watchdog: nothing else is set under [alerts]"));
    }

    #[test]
    fn every_way_is_a_receiver_and_secrets_stay_in_their_files() {
        let (config, note) = config(ALL, &[SMTP_PASSWORD, SLACK_URL, NTFY_TOKEN, WEBHOOK_TOKEN]);
        let (_, receivers) = config.split_once("receivers:\n").unwrap();
        insta::assert_snapshot!(receivers);
        assert_eq!(note, None);
    }

    #[test]
    fn the_watchdog_is_asked_at_each_look() {
        let (_, watchdog) = ALERTMANAGER.split_once("receiver: watchdog\n").unwrap();
        let seconds = |key: &str| {
            let (_, value) = watchdog.split_once(key).unwrap();
            match value.split_whitespace().next().unwrap() {
                "1m" => 60,
                value => value.trim_end_matches('s').parse().unwrap(),
            }
        };
        // What is as long as a look, or longer, is over at the next but one.
        assert!(seconds("repeat_interval: ") < seconds("group_interval: "));
    }

    #[test]
    fn the_watchdog_is_counted_apart_from_people() {
        let (config, _) = config(ALL, &[]);
        let (_, watchdog) = config.split_once("  - name: watchdog\n").unwrap();
        let kind = watchdog.lines().next().unwrap().trim().trim_end_matches(':');
        assert!(kind.ends_with("_configs") && !PEOPLE.contains(&kind), "{kind}");
    }

    #[test]
    fn a_way_without_its_secret_is_left_out_and_named() {
        let (config, note) = config(ALL, &[]);
        assert!(!config.contains("email_configs") && !config.contains("slack_configs"), "{config}");
        assert!(config.contains("https://ntfy.sh/mine?template=alertmanager"), "an open topic needs no token");
        let note = note.unwrap();
        assert!(note.contains("secret set smtp-password`") && note.contains("secret set slack-url`"), "{note}");
    }
}
