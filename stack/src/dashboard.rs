//! The forms in which dashboards come as files.
//!
//! Grafana's file provider takes one: the classic model, with `panels`. Its pages export that; the envelope
//! `{"dashboard": …}` of its older API; a resource `{"apiVersion", "kind", "metadata", "spec"}` of the newer one; and the
//! newer schema, which has `elements` for panels and which no file provider takes reliably. A file that was exported to be
//! shared, as those of grafana.com are, leaves its data sources open: Grafana's pages ask for them, none of its APIs does
//! (<https://github.com/grafana/grafana/issues/10786>).
//!
//! Invariant: what comes out is one form, and asks for nothing that this stack does not have.

use serde_json::{Value, json};

/// The data source that our provisioning names so.
const SOURCE: &str = "prometheus";

/// The classic model that a file holds, whichever form it has.
///
/// # Errors
/// In words: why it is no dashboard, or one that cannot be taken.
pub fn classic(text: &str) -> Result<Value, String> {
    let mut file: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
    let is_resource = file.get("apiVersion").is_some() && file.get("spec").is_some();
    let is_envelope = file.get("dashboard").is_some() && file.get("panels").is_none();
    let mut model = match (is_resource, is_envelope) {
        (true, _) => file["spec"].take(),
        (_, true) => file["dashboard"].take(),
        _ => file.take(),
    };
    if model.get("elements").is_some() && model.get("panels").is_none() {
        return Err("it is of Grafana's newer schema (v2), with elements for panels: export it as Classic".to_owned());
    }
    if model["title"].as_str().is_none_or(str::is_empty) {
        return Err("it has no \"title\"".to_owned());
    }
    if is_resource && model.get("uid").is_none() {
        model["uid"] = file["metadata"]["name"].take();
    }
    // Another Grafana's number.
    model["id"] = Value::Null;
    filled(model)
}

/// With what its inputs stand for in their places.
fn filled(mut model: Value) -> Result<Value, String> {
    let inputs = model["__inputs"].take();
    if let Some(fields) = model.as_object_mut() {
        fields.retain(|name, _| name != "__inputs" && name != "__requires");
    }
    let mut text = model.to_string();
    for input in inputs.as_array().into_iter().flatten() {
        let word = |name: &str| input[name].as_str().unwrap_or_default();
        let value = match (word("type"), word("pluginId")) {
            ("constant", _) => word("value"),
            ("datasource", SOURCE) => SOURCE,
            (_, "") => return Err(format!("it asks for {}, which is nothing that is known here", word("name"))),
            (_, other) => return Err(format!("it asks for a data source of {other}, and there is only Prometheus")),
        };
        let quoted = json!(value).to_string();
        let within = &quoted[1..quoted.len() - 1];
        text = text.replace(&format!("${{{}}}", word("name")), within);
    }
    serde_json::from_str(&text).map_err(|error| format!("what its inputs stand for makes no JSON of it: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = r#"{"title": "Mine", "uid": "mine", "id": 7, "panels": []}"#;

    #[test]
    fn every_form_is_one_model() {
        let expected = json!({ "title": "Mine", "uid": "mine", "id": null, "panels": [] });
        let resource = |model: &str| {
            let kind = r#""apiVersion": "dashboard.grafana.app/v1", "kind": "Dashboard""#;
            format!(r#"{{{kind}, "metadata": {{"name": "mine"}}, "spec": {model}}}"#)
        };
        for text in [
            PLAIN,
            &format!(r#"{{"dashboard": {PLAIN}, "overwrite": true}}"#),
            &resource(PLAIN),
            &resource(r#"{"title": "Mine", "panels": []}"#),
        ] {
            assert_eq!(classic(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_a_shared_file_leaves_open_is_this_stacks() {
        let shared = json!({
            "__inputs": [
                { "name": "DS_PROMETHEUS", "type": "datasource", "pluginId": "prometheus" },
                { "name": "VAR_JOB", "type": "constant", "value": "a \"b\"" },
            ],
            "__requires": [{ "type": "grafana" }],
            "title": "Mine",
            "panels": [{ "datasource": { "uid": "${DS_PROMETHEUS}" }, "title": "$job ${VAR_JOB} ${other}" }],
        });
        let model = classic(&shared.to_string()).unwrap();
        let panels = json!([{ "datasource": { "uid": "prometheus" }, "title": "$job a \"b\" ${other}" }]);
        assert_eq!(model, json!({ "title": "Mine", "id": null, "panels": panels }));
    }

    #[test]
    fn what_cannot_be_taken_is_said() {
        for (text, reason) in [
            ("{", "no JSON"),
            ("[]", "no \"title\""),
            (r#"{"panels": []}"#, "no \"title\""),
            (r#"{"dashboard": {"title": ""}}"#, "no \"title\""),
            (r#"{"title": "x", "elements": {}, "layout": {}}"#, "newer schema"),
            (r#"{"apiVersion": "dashboard.grafana.app/v2", "spec": {"title": "x", "elements": {}}}"#, "newer schema"),
            (
                r#"{"title": "x", "__inputs": [{"name": "DS_LOKI", "type": "datasource", "pluginId": "loki"}]}"#,
                "of loki",
            ),
            (r#"{"title": "x", "__inputs": [{"name": "LIB", "type": "library"}]}"#, "asks for LIB"),
        ] {
            let said = classic(text).unwrap_err();
            assert!(said.contains(reason), "{text}: {said}");
        }
    }
}
