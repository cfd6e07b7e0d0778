//! A dashboard of the user's own, given to Grafana by the API that this Grafana has.
//!
//! Both forms of a file are taken: the plain model, and the envelope `{"dashboard": …}` of the older API. Grafana 12 and
//! later have `/apis/dashboard.grafana.app`, which is to replace `/api/dashboards/db`; neither takes what the other does.

use reqwest::{
    StatusCode,
    blocking::{Client, RequestBuilder},
};
use serde_json::{Value, json};
use stack::{
    component::Component,
    failure::{Class, Failure},
    secret::Secret,
};

/// The group of the newer API, and those of its versions that take the classic model, the best first.
const GROUP: &str = "/apis/dashboard.grafana.app";
const CLASSIC: [&str; 3] = ["v1", "v1beta1", "v0alpha1"];

/// Who logs in; the password is the host's secret.
const USER: &str = "admin";

/// A Grafana that lets us in.
pub struct Grafana<'a> {
    /// Where it answers.
    pub url: &'a str,
    /// The password of `admin`.
    pub password: &'a Secret,
}

/// A dashboard by its model, whichever form its file had.
#[derive(Debug, Clone, PartialEq)]
pub struct Dashboard(Value);

impl Dashboard {
    /// Reads either form.
    ///
    /// # Errors
    /// It is no dashboard.
    pub fn parse(text: &str) -> Result<Dashboard, Failure> {
        let no_dashboard = |why: &str| {
            let mut failure = Failure::new(Class::Settings, "this file is no dashboard")
                .hint("in Grafana: Share, Export, \"Save to file\"");
            failure.causes.push(why.to_owned());
            failure
        };
        let file: Value = serde_json::from_str(text).map_err(|error| no_dashboard(&error.to_string()))?;
        let mut model = match file.get("dashboard") {
            Some(inner) if file.get("panels").is_none() => inner.clone(),
            _ => file,
        };
        if model["title"].as_str().is_none_or(str::is_empty) {
            return Err(no_dashboard("it has no \"title\""));
        }
        // Another Grafana's number.
        model["id"] = Value::Null;
        Ok(Dashboard(model))
    }

    /// What people see it as.
    pub fn title(&self) -> &str {
        self.0["title"].as_str().unwrap_or_default()
    }

    fn uid(&self) -> Option<&str> {
        self.0["uid"].as_str().filter(|uid| !uid.is_empty())
    }
}

impl Grafana<'_> {
    /// Gives it a dashboard, in place of one with the same uid, and tells where it can be seen.
    ///
    /// # Errors
    /// Grafana does not answer, does not let us in, or refuses the dashboard.
    pub fn import(&self, dashboard: &Dashboard) -> Result<String, Failure> {
        let client = Client::builder().no_proxy().build().unwrap_or_default();
        let uid = match self.version(&client)? {
            Some(version) => self.import_as_resource(&client, &version, dashboard)?,
            None => {
                let body = json!({ "dashboard": dashboard.0, "overwrite": true });
                let told = self.send(client.post(format!("{}/api/dashboards/db", self.url)).json(&body))?.1;
                told["uid"].as_str().unwrap_or_default().to_owned()
            }
        };
        Ok(format!("{}/d/{uid}", self.url))
    }

    /// The version of the newer API that takes a classic model, if this Grafana has one.
    fn version(&self, client: &Client) -> Result<Option<String>, Failure> {
        let request = client.get(format!("{}{GROUP}", self.url)).basic_auth(USER, Some(self.password.reveal()));
        let answer = request.send().map_err(|error| super::silent(Component::Grafana, &error))?;
        if !answer.status().is_success() {
            return Ok(None);
        }
        let group: Value = answer.json().unwrap_or_default();
        let versions = group["versions"].as_array().cloned().unwrap_or_default();
        let has = |version: &&&str| versions.iter().any(|it| it["version"] == **version);
        Ok(CLASSIC.iter().find(has).map(|version| (*version).to_owned()))
    }

    fn import_as_resource(&self, client: &Client, version: &str, dashboard: &Dashboard) -> Result<String, Failure> {
        let all = format!("{}{GROUP}/{version}/namespaces/default/dashboards", self.url);
        let mut metadata = match dashboard.uid() {
            Some(uid) => json!({ "name": uid }),
            None => json!({ "generateName": "imported-" }),
        };
        let there = match dashboard.uid() {
            Some(uid) => {
                let request = client.get(format!("{all}/{uid}")).basic_auth(USER, Some(self.password.reveal()));
                let answer = request.send().map_err(|error| super::silent(Component::Grafana, &error))?;
                answer.status().is_success().then(|| answer.json::<Value>().unwrap_or_default())
            }
            None => None,
        };
        let request = match (&there, dashboard.uid()) {
            (Some(there), Some(uid)) => {
                // Whoever changes one says which one he has seen.
                metadata["resourceVersion"] = there["metadata"]["resourceVersion"].clone();
                client.put(format!("{all}/{uid}"))
            }
            _ => client.post(&all),
        };
        let body = json!({
            "apiVersion": format!("dashboard.grafana.app/{version}"),
            "kind": "Dashboard",
            "metadata": metadata,
            "spec": dashboard.0,
        });
        let told = self.send(request.json(&body))?.1;
        Ok(told["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    }

    fn send(&self, request: RequestBuilder) -> Result<(StatusCode, Value), Failure> {
        let request = request.basic_auth(USER, Some(self.password.reveal()));
        let answer = request.send().map_err(|error| super::silent(Component::Grafana, &error))?;
        let status = answer.status();
        let told: Value = answer.json().unwrap_or_default();
        match status {
            _ if status.is_success() => Ok((status, told)),
            StatusCode::UNAUTHORIZED => Err(Failure::new(Class::Refused, "Grafana does not take the password")
                .hint("if it was changed in Grafana, tell the host: `cargo xtask secret set grafana-admin-password`")),
            _ => {
                let mut failure = Failure::new(Class::Failed, format!("Grafana refuses the dashboard ({status})"));
                failure.causes.extend(told["message"].as_str().map(str::to_owned));
                Err(failure)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Read, Write},
        net::TcpListener,
        sync::mpsc::{Receiver, channel},
        thread,
    };

    use super::*;

    /// A Grafana that answers as told to what a request begins with, and tells what it was asked.
    fn grafana(answers: &[(&'static str, u16, &'static str)]) -> (String, Receiver<(String, String)>) {
        let answers = answers.to_vec();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, asked) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut reader = BufReader::new(stream);
                let (mut head, mut length, mut first) = (String::new(), 0, String::new());
                while reader.read_line(&mut head).is_ok_and(|read| read > 2) {
                    if first.is_empty() {
                        first = head.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
                    }
                    if let Some(value) = head.to_lowercase().strip_prefix("content-length: ") {
                        length = value.trim().parse().unwrap();
                    }
                    head.clear();
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let (_, status, answer) = answers.iter().find(|(start, ..)| first.starts_with(start)).unwrap();
                let _ = write!(
                    reader.get_mut(),
                    "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{answer}",
                    answer.len()
                );
                if sender.send((first, String::from_utf8(body).unwrap())).is_err() {
                    return;
                }
            }
        });
        (url, asked)
    }

    const PLAIN: &str = r#"{"title": "Mine", "uid": "mine", "id": 7, "panels": []}"#;

    fn import(url: &str) -> Result<String, Failure> {
        Grafana { url, password: &Secret::new("x".into()) }.import(&Dashboard::parse(PLAIN).unwrap())
    }

    #[test]
    fn both_forms_are_one_dashboard() {
        let envelope = format!("{{\"dashboard\": {PLAIN}, \"overwrite\": true}}");
        let plain = Dashboard::parse(PLAIN).unwrap();
        assert_eq!(plain, Dashboard::parse(&envelope).unwrap());
        assert_eq!((plain.title(), &plain.0["id"]), ("Mine", &Value::Null));
        for text in ["{", "[]", "{\"panels\": []}", "{\"dashboard\": {\"title\": \"\"}}"] {
            assert_eq!(Dashboard::parse(text).unwrap_err().class, Class::Settings, "{text}");
        }
    }

    #[test]
    fn an_older_grafana_gets_the_envelope() {
        let (url, asked) = grafana(&[("GET /apis", 404, "{}"), ("POST /api/dashboards/db", 200, r#"{"uid":"mine"}"#)]);
        assert_eq!(import(&url).unwrap(), format!("{url}/d/mine"));
        let (_, body) = asked.iter().nth(1).unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&body["overwrite"], &body["dashboard"]["title"]), (&json!(true), &json!("Mine")));
    }

    const VERSIONS: &str = r#"{"versions":[{"version":"v2beta1"},{"version":"v1beta1"},{"version":"v0alpha1"}]}"#;

    #[test]
    fn a_newer_grafana_gets_a_resource_of_a_version_that_takes_classic_models() {
        let made = r#"{"metadata":{"name":"mine"}}"#;
        let of = "/apis/dashboard.grafana.app/v1beta1/namespaces/default/dashboards";
        let (url, asked) = grafana(&[
            ("GET /apis/dashboard.grafana.app/v1beta1/namespaces/default/dashboards/mine", 404, "{}"),
            ("GET /apis/dashboard.grafana.app", 200, VERSIONS),
            ("POST /apis", 201, made),
        ]);
        assert_eq!(import(&url).unwrap(), format!("{url}/d/mine"));
        let (line, body) = asked.iter().nth(2).unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((line, &body["spec"]["title"]), (format!("POST {of}"), &json!("Mine")));
    }

    #[test]
    fn one_that_is_there_is_replaced_as_it_was_seen() {
        let seen = r#"{"metadata":{"name":"mine","resourceVersion":"41"}}"#;
        let (url, asked) = grafana(&[
            ("GET /apis/dashboard.grafana.app/v1beta1/namespaces/default/dashboards/mine", 200, seen),
            ("GET /apis/dashboard.grafana.app", 200, VERSIONS),
            ("PUT /apis", 200, seen),
        ]);
        import(&url).unwrap();
        let (_, body) = asked.iter().nth(2).unwrap();
        assert!(body.contains("\"resourceVersion\":\"41\""), "{body}");
    }

    #[test]
    fn a_password_that_was_changed_is_said_so() {
        let (url, _asked) = grafana(&[("GET", 401, "{}"), ("POST", 401, "{}")]);
        let failure = import(&url).unwrap_err();
        assert_eq!(failure.class, Class::Refused);
        assert!(failure.hint.unwrap().contains("secret set grafana-admin-password"));
    }
}
