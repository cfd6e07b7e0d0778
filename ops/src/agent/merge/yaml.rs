//! YAML as people write it: comments, flow and block style, any indentation.

use std::{collections::BTreeMap, str::FromStr};

use serde_json::{Map, Value};
use yaml_edit::{
    ScalarType, ScalarValue, Sequence, YamlFile, YamlNode, YamlValue,
    validator::{Severity, Validator},
};

use super::{Edit, Fits, MergeError, Step, wrap};

fn broken(detail: impl Into<String>) -> MergeError {
    MergeError::Parse { format: "YAML", detail: detail.into() }
}

fn read(text: &str) -> Result<YamlFile, MergeError> {
    let file = YamlFile::from_str(text).map_err(|error| broken(error.to_string()))?;
    // The parser forgives what the agents' own parsers do not.
    let violations = file.documents().flat_map(|document| Validator::new().validate(&document));
    let violations = violations.into_iter().find(|violation| violation.severity == Severity::Error);
    match (violations, file.documents().count()) {
        (Some(violation), _) => Err(broken(violation.to_string())),
        (None, 0 | 1) => Ok(file),
        (None, _) => Err(broken("it holds several documents")),
    }
}

pub(super) fn parse(text: &str) -> Result<Value, MergeError> {
    match read(text)?.document() {
        Some(document) => root(&document).map_or(Ok(Value::Null), |node| value_of(&node)),
        None => Ok(Value::Null),
    }
}

fn root(document: &yaml_edit::Document) -> Option<YamlNode> {
    let mapping = document.as_mapping().map(YamlNode::Mapping);
    mapping
        .or_else(|| document.as_sequence().map(YamlNode::Sequence))
        .or_else(|| document.as_scalar().map(YamlNode::Scalar))
}

fn value_of(node: &YamlNode) -> Result<Value, MergeError> {
    match node {
        YamlNode::Scalar(scalar) => Ok(scalar_of(&ScalarValue::from_scalar(scalar))),
        YamlNode::Mapping(mapping) => {
            let mut map = Map::new();
            for entry in mapping.entries() {
                let key = entry.key_node().and_then(|key| key.as_scalar().map(|key| key.as_string()));
                let key = key.ok_or_else(|| broken("a key is no text"))?;
                let value = entry.value_node().map_or(Ok(Value::Null), |value| value_of(&value))?;
                if map.insert(key.clone(), value).is_some() {
                    return Err(broken(format!("`{key}` stands there twice")));
                }
            }
            Ok(Value::Object(map))
        }
        YamlNode::Sequence(list) => list.values().map(|it| value_of(&it)).collect::<Result<_, _>>().map(Value::Array),
        // Not understood, and never touched; that it stays as it is can still be seen.
        YamlNode::Alias(alias) => Ok(Value::String(format!("*{}", alias.name()))),
        YamlNode::TaggedNode(tagged) => Ok(Value::String(tagged.to_string())),
    }
}

fn scalar_of(scalar: &ScalarValue) -> Value {
    let text = || Value::String(scalar.value().to_owned());
    match scalar.scalar_type() {
        ScalarType::Null => Value::Null,
        ScalarType::Boolean => scalar.to_bool().map_or_else(text, Value::Bool),
        ScalarType::Integer => scalar.to_i64().map_or_else(text, Value::from),
        ScalarType::Float => scalar.to_f64().map_or_else(text, Value::from),
        _ => text(),
    }
}

pub(super) fn edit(text: &str, edit: &Edit) -> Result<String, MergeError> {
    let file = read(text)?;
    let document = file.document().filter(|document| root(document).is_some());
    let Some(start) = document.as_ref().and_then(root) else {
        // Comments at the most: what is new goes below them.
        let new = edit.value.as_ref().map(|value| yaml_of(&wrap(&edit.at, value)).to_yaml_string(0));
        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        return Ok(format!("{text}{gap}{}\n", new.unwrap_or_default().trim_end()));
    };
    let mut place = start;
    for (depth, step) in edit.at.iter().enumerate() {
        let rest = &edit.at[depth + 1..];
        let found = match (&place, step) {
            (YamlNode::Mapping(mapping), Step::Key(key)) => mapping.get(key.as_str()).filter(|it| !is_null(it)),
            (YamlNode::Sequence(list), Step::Element(fits)) => index_of(list, fits).and_then(|index| list.get(index)),
            _ => return Err(MergeError::Unsafe),
        };
        match found {
            Some(node) if !rest.is_empty() => place = node,
            _ => {
                put(&place, step, edit.value.as_ref().map(|value| wrap(rest, value)).as_ref());
                break;
            }
        }
    }
    Ok(file.to_string())
}

fn is_null(node: &YamlNode) -> bool {
    node.as_scalar().is_some_and(|scalar| scalar.is_null())
}

fn put(place: &YamlNode, step: &Step, value: Option<&Value>) {
    match (place, step, value) {
        (YamlNode::Mapping(mapping), Step::Key(key), Some(value)) => mapping.set(key.as_str(), yaml_of(value)),
        (YamlNode::Mapping(mapping), Step::Key(key), None) => drop(mapping.remove(key.as_str())),
        (YamlNode::Sequence(list), Step::Element(fits), value) => match (index_of(list, fits), value) {
            (Some(index), Some(value)) => drop(list.set(index, yaml_of(value))),
            (Some(index), None) => drop(list.remove(index)),
            (None, Some(value)) => list.push(yaml_of(value)),
            (None, None) => {}
        },
        _ => {}
    }
}

fn index_of(list: &Sequence, fits: &Fits) -> Option<usize> {
    list.values().position(|node| value_of(&node).is_ok_and(|value| fits.fits(&value)))
}

fn yaml_of(value: &Value) -> YamlValue {
    match value {
        Value::Null => YamlValue::Scalar(ScalarValue::null()),
        Value::Bool(value) => YamlValue::from(*value),
        Value::Number(number) => YamlValue::Scalar(ScalarValue::parse(number.to_string())),
        Value::String(text) => YamlValue::from(text.as_str()),
        Value::Array(list) => YamlValue::Sequence(list.iter().map(yaml_of).collect()),
        Value::Object(map) => {
            YamlValue::Mapping(map.iter().map(|(key, it)| (key.clone(), yaml_of(it))).collect::<BTreeMap<_, _>>())
        }
    }
}
