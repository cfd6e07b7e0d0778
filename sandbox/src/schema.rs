//! Answers in a form that was asked for: JSON, or JSON after a schema.
//!
//! A real engine forces its model's words through a grammar made from the schema; here the simplest value that the
//! schema allows is built at once. Of JSON Schema it knows what agents send: types, properties, items, enumerations,
//! constants, bounds, alternatives and references within the schema.
//!
//! Invariant: for a schema made of these the answer is valid; whatever the schema, it ends.

use serde_json::{Map, Value, json};

/// References and nested types are followed this deep; a schema that refers to itself ends here.
const DEEPEST: usize = 24;

/// Whether `format` is one that Ollama takes: absent, `"json"` or an object.
pub(crate) fn is_format(format: &Value) -> bool {
    match format {
        Value::Null | Value::Object(_) => true,
        Value::String(name) => name.is_empty() || name == "json",
        _ => false,
    }
}

/// An answer in `format`, `None` if any text will do. `mark` makes it this prompt's own.
pub(crate) fn answer(format: Option<&Value>, mark: &str) -> Option<String> {
    match format? {
        Value::String(name) if name == "json" => Some(json!({"sandbox": mark}).to_string()),
        schema @ Value::Object(_) => Some(instance(schema, schema, mark, 0).to_string()),
        _ => None,
    }
}

/// The simplest value that `schema` allows.
fn instance(schema: &Value, root: &Value, mark: &str, depth: usize) -> Value {
    if depth > DEEPEST {
        return Value::Null;
    }
    let deeper = |schema: &Value| instance(schema, root, mark, depth + 1);
    if let Some(found) = schema.get("$ref").and_then(Value::as_str).and_then(|place| resolve(place, root)) {
        return deeper(found);
    }
    if let Some(value) = schema.get("const") {
        return value.clone();
    }
    if let Some(first) = schema.get("enum").and_then(|values| values.get(0)) {
        return first.clone();
    }
    for of in ["anyOf", "oneOf", "allOf"] {
        if let Some(first) = schema.get(of).and_then(|schemas| schemas.get(0)) {
            return deeper(first);
        }
    }
    let kind = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str),
        Some(kind) => kind.as_str(),
        None if schema.get("properties").is_some() => Some("object"),
        None if schema.get("items").is_some() => Some("array"),
        None => None,
    };
    match kind {
        Some("object") => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let members = properties.into_iter().flatten().map(|(name, schema)| (name.clone(), deeper(schema)));
            Value::Object(members.collect::<Map<_, _>>())
        }
        Some("array") => {
            let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(1).min(64) as usize;
            let item = schema.get("items").map_or(Value::Null, deeper);
            Value::Array(vec![item; least])
        }
        Some("string") => {
            let least = schema.get("minLength").and_then(Value::as_u64).unwrap_or(0).min(4096) as usize;
            let most = schema.get("maxLength").and_then(Value::as_u64).unwrap_or(u64::MAX) as usize;
            let mut text = mark.to_owned();
            while text.chars().count() < least {
                text.push('.');
            }
            Value::String(text.chars().take(most).collect())
        }
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or_else(|| json!(0)),
        Some("boolean") => Value::Bool(false),
        _ => Value::Null,
    }
}

/// What `#/a/b` means in `root`.
fn resolve<'a>(place: &str, root: &'a Value) -> Option<&'a Value> {
    root.pointer(place.strip_prefix('#')?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_a_schema() {
        let schema = json!({
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 4},
                "age": {"type": "integer", "minimum": 18},
                "colour": {"enum": ["red", "blue"]},
                "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "minItems": 2},
                "maybe": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
            },
            "$defs": {"tag": {"const": "x"}},
        });
        let answer: Value = serde_json::from_str(&answer(Some(&schema), "synthetic").unwrap()).unwrap();
        let expected = json!({"name": "synt", "age": 18, "colour": "red", "tags": ["x", "x"], "maybe": false});
        assert_eq!(answer, expected);
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let schema = json!({"type": "object", "properties": {"next": {"$ref": "#"}}});
        assert!(answer(Some(&schema), "m").unwrap().len() < 1000);
    }
}
