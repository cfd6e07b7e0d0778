//! A dashboard of the user's own, given to Grafana by the API that this Grafana has.
//!
//! Grafana 12 and later have `/apis/dashboard.grafana.app`, which is to replace `/api/dashboards/db`; neither takes what the
//! other does. Invariant: what replaces a dashboard stays in its folder, and none is replaced that a file brings.

use reqwest::{
    StatusCode,
    blocking::{Client, RequestBuilder},
};
use serde_json::{Value, json};
use stack::{
    component::Component,
    dashboard,
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
    /// Reads any form that has the classic model in it.
    ///
    /// # Errors
    /// It is no dashboard, or one that cannot be taken.
    pub fn parse(text: &str) -> Result<Dashboard, Failure> {
        let model = dashboard::classic(text).and_then(|model| {
            // It becomes a part of an address.
            let is_uid = |uid: &str| uid.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
            match model["uid"].as_str().is_none_or(is_uid) {
                true => Ok(Dashboard(model)),
                false => Err("its \"uid\" has other characters than letters, digits, - and _".to_owned()),
            }
        });
        model.map_err(|reason| {
            let failure = Failure::new(Class::Settings, "this file is no dashboard that can be imported");
            Failure { causes: vec![reason], ..failure }
                .hint("in Grafana: Export, as code, Classic; before Grafana 12: Share, Export, \"Save to file\"")
        })
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
            None => self.import_as_model(&client, dashboard)?,
        };
        Ok(format!("{}/d/{uid}", self.url))
    }

    /// The version of the newer API that takes a classic model, if this Grafana has one.
    fn version(&self, client: &Client) -> Result<Option<String>, Failure> {
        let Some(group) = self.look(client, &format!("{}{GROUP}", self.url))? else { return Ok(None) };
        let versions = group["versions"].as_array().cloned().unwrap_or_default();
        let has = |version: &&&str| versions.iter().any(|it| it["version"] == **version);
        Ok(CLASSIC.iter().find(has).map(|version| (*version).to_owned()))
    }

    fn import_as_model(&self, client: &Client, dashboard: &Dashboard) -> Result<String, Failure> {
        let mut body = json!({ "dashboard": dashboard.0, "overwrite": true });
        if let Some(uid) = dashboard.uid()
            && let Some(there) = self.look(client, &format!("{}/api/dashboards/uid/{uid}", self.url))?
        {
            let meta = &there["meta"];
            refuse_a_files(dashboard, meta["provisioned"] == true)?;
            body["folderUid"] = meta["folderUid"].clone();
        }
        let told = self.send(client.post(format!("{}/api/dashboards/db", self.url)).json(&body))?;
        Ok(told["uid"].as_str().unwrap_or_default().to_owned())
    }

    fn import_as_resource(&self, client: &Client, version: &str, dashboard: &Dashboard) -> Result<String, Failure> {
        let all = format!("{}{GROUP}/{version}/namespaces/default/dashboards", self.url);
        let one = dashboard.uid().map(|uid| format!("{all}/{uid}"));
        let there = match &one {
            Some(one) => self.look(client, one)?,
            None => None,
        };
        // As Grafana's own pages import: models of older releases have fields that the schema does not.
        let lenient = "?fieldValidation=Ignore";
        let (request, metadata) = match (&one, &there) {
            (Some(one), Some(there)) => {
                let there = &there["metadata"];
                let annotations = &there["annotations"];
                refuse_a_files(dashboard, annotations.get("grafana.app/managedBy").is_some())?;
                // Whoever changes one says which one he has seen. Its folder is one of the annotations.
                let seen = &there["resourceVersion"];
                let metadata = json!({ "name": dashboard.uid(), "resourceVersion": seen, "annotations": annotations });
                (client.put(format!("{one}{lenient}")), metadata)
            }
            _ => {
                // Seen by whom the folder is seen, as one that was made in Grafana's pages.
                let mut metadata = json!({ "annotations": { "grafana.app/grant-permissions": "default" } });
                match dashboard.uid() {
                    Some(uid) => metadata["name"] = uid.into(),
                    None => metadata["generateName"] = "imported-".into(),
                }
                (client.post(format!("{all}{lenient}")), metadata)
            }
        };
        let body = json!({
            "apiVersion": format!("dashboard.grafana.app/{version}"),
            "kind": "Dashboard",
            "metadata": metadata,
            "spec": dashboard.0,
        });
        let told = self.send(request.json(&body))?;
        Ok(told["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    }

    /// What there is at `url`.
    fn look(&self, client: &Client, url: &str) -> Result<Option<Value>, Failure> {
        let request = client.get(url).basic_auth(USER, Some(self.password.reveal()));
        let answer = request.send().map_err(|error| super::silent(Component::Grafana, &error))?;
        Ok(answer.status().is_success().then(|| answer.json().unwrap_or_default()))
    }

    fn send(&self, request: RequestBuilder) -> Result<Value, Failure> {
        let request = request.basic_auth(USER, Some(self.password.reveal()));
        let answer = request.send().map_err(|error| super::silent(Component::Grafana, &error))?;
        let status = answer.status();
        let told: Value = answer.json().unwrap_or_default();
        match status {
            _ if status.is_success() => Ok(told),
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

/// Grafana would read the file again, and what was imported would be gone.
fn refuse_a_files(dashboard: &Dashboard, is_a_files: bool) -> Result<(), Failure> {
    if !is_a_files {
        return Ok(());
    }
    let uid = dashboard.uid().unwrap_or_default();
    Err(Failure::new(Class::Refused, format!("Grafana has a dashboard with the uid {uid} from a file"))
        .hint("give yours another \"uid\" and title, or put it into local/dashboards and deploy"))
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
    fn what_is_no_dashboard_is_said_to_be_none() {
        assert_eq!(Dashboard::parse(PLAIN).unwrap().title(), "Mine");
        for (text, reason) in
            [("{\"panels\": []}", "no \"title\""), (r#"{"title":"x","uid":"../y"}"#, "other characters")]
        {
            let failure = Dashboard::parse(text).unwrap_err();
            assert_eq!(failure.class, Class::Settings);
            assert!(failure.causes[0].contains(reason), "{:?}", failure.causes);
        }
    }

    #[test]
    fn an_older_grafana_gets_the_envelope() {
        for (there, folder) in [((404, "{}"), Value::Null), ((200, r#"{"meta":{"folderUid":"f"}}"#), json!("f"))] {
            let (url, asked) = grafana(&[
                ("GET /apis", 404, "{}"),
                ("GET /api/dashboards/uid/mine", there.0, there.1),
                ("POST /api/dashboards/db", 200, r#"{"uid":"mine"}"#),
            ]);
            assert_eq!(import(&url).unwrap(), format!("{url}/d/mine"));
            let (_, body) = asked.iter().nth(2).unwrap();
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!((&body["overwrite"], &body["dashboard"]["title"]), (&json!(true), &json!("Mine")));
            assert_eq!(body["folderUid"], folder);
        }
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
        let asked = format!("POST {of}?fieldValidation=Ignore");
        assert_eq!((line, &body["spec"]["title"]), (asked, &json!("Mine")));
        let metadata = json!({ "name": "mine", "annotations": { "grafana.app/grant-permissions": "default" } });
        assert_eq!(body["metadata"], metadata);
    }

    #[test]
    fn one_that_is_there_is_replaced_as_it_was_seen_and_stays_in_its_folder() {
        let seen = r#"{"metadata":{"name":"mine","resourceVersion":"41","annotations":{"grafana.app/folder":"f"}}}"#;
        let (url, asked) = grafana(&[
            ("GET /apis/dashboard.grafana.app/v1beta1/namespaces/default/dashboards/mine", 200, seen),
            ("GET /apis/dashboard.grafana.app", 200, VERSIONS),
            ("PUT /apis", 200, seen),
        ]);
        import(&url).unwrap();
        let (_, body) = asked.iter().nth(2).unwrap();
        let (body, seen): (Value, Value) = (serde_json::from_str(&body).unwrap(), serde_json::from_str(seen).unwrap());
        assert_eq!(body["metadata"], seen["metadata"]);
    }

    #[test]
    fn one_that_a_file_brings_is_not_replaced() {
        let managed = r#"{"metadata":{"annotations":{"grafana.app/managedBy":"classic-file-provisioning"}}}"#;
        for answers in [
            [("GET /apis/dashboard.grafana.app/", 200, managed), ("GET /apis", 200, VERSIONS)],
            [("GET /apis", 404, "{}"), ("GET /api/dashboards/uid/mine", 200, r#"{"meta":{"provisioned":true}}"#)],
        ] {
            let (url, _asked) = grafana(&answers);
            let failure = import(&url).unwrap_err();
            assert_eq!(failure.class, Class::Refused);
            assert!(failure.hint.unwrap().contains("local/dashboards"));
        }
    }

    #[test]
    fn a_password_that_was_changed_is_said_so() {
        let (url, _asked) = grafana(&[("GET", 401, "{}"), ("POST", 401, "{}")]);
        let failure = import(&url).unwrap_err();
        assert_eq!(failure.class, Class::Refused);
        assert!(failure.hint.unwrap().contains("secret set grafana-admin-password"));
    }
}
