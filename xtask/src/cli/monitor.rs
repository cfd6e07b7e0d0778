//! `monitor` and below, and `perf`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueHint};
use stack::{component::Component, settings::value};

#[derive(Debug, Subcommand)]
pub(crate) enum Monitor {
    /// Show what is scraped, what fires, what is silenced, and who is told
    Status {
        /// {"targets":[{"job","url","up","error"?}],"rules","broken_rules":[…],"firing":[{"name","severity","since","summary",
        /// "description"}],"silences":[{"what","until","why"}],"note"?}
        #[arg(long)]
        json: bool,
    },
    /// Open Grafana or Prometheus in a browser, and print the address
    Open {
        /// grafana or prometheus [default: grafana, where there is one]
        #[arg(value_parser = watcher)]
        what: Option<Component>,
    },
    /// Give Grafana a dashboard from a JSON file, as it exports them or as its API takes them
    Import {
        /// The dashboard
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Show the alerts that fire, or send one to see that it arrives
    Alerts {
        /// Send a real one the whole way, from a metric to everybody whom `[alerts]` names
        #[arg(long)]
        test: bool,
        /// [{"name","severity","since","summary","description"}]; with --test {"checks":[…]} as verify has them
        #[arg(long)]
        json: bool,
    },
    /// Ask Prometheus
    Query {
        /// In PromQL, as `rate(ollama_request_duration_seconds_count[5m])`
        expression: String,
        /// Over so long until now, as a line: 30m, 24h
        #[arg(long, value_name = "TIME", value_parser = value::period)]
        range: Option<Duration>,
        /// `[{"series","points":[[SECONDS,VALUE]],"count"?}]`
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Perf {
    /// {"components":{NAME:{"memory_bytes","cpu_percent"}},"queries":[{"what","query","rows":[…]}]}
    #[arg(long)]
    pub(crate) json: bool,
}

fn watcher(name: &str) -> Result<Component, String> {
    match name {
        "grafana" => Ok(Component::Grafana),
        "prometheus" => Ok(Component::Prometheus),
        _ => Err("there are grafana, prometheus".to_owned()),
    }
}
