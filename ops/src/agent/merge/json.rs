//! JSON as people write it in settings files: with comments, trailing commas, any indentation.

use jsonc_parser::{
    ParseOptions,
    cst::{CstArray, CstInputValue, CstNode, CstObject, CstRootNode},
};
use serde_json::Value;

use super::{Edit, Fits, MergeError, Step, wrap};

/// What the agents themselves accept; a text beyond that is broken.
fn options() -> ParseOptions {
    ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    }
}

fn broken(error: &impl ToString) -> MergeError {
    MergeError::Parse { format: "JSON", detail: error.to_string() }
}

pub(super) fn parse(text: &str) -> Result<Value, MergeError> {
    let root = CstRootNode::parse(text, &options()).map_err(|error| broken(&error))?;
    Ok(root.to_serde_value().unwrap_or_default())
}

pub(super) fn edit(text: &str, edit: &Edit) -> Result<String, MergeError> {
    let root = CstRootNode::parse(text, &options()).map_err(|error| broken(&error))?;
    let start = match edit.at.first() {
        Some(Step::Element(_)) => root.array_value_or_create().map(Place::Array),
        _ => root.object_value_or_create().map(Place::Object),
    };
    let mut place = start.ok_or_else(|| MergeError::Shape("the file".to_owned()))?;
    for (depth, step) in edit.at.iter().enumerate() {
        let rest = &edit.at[depth + 1..];
        let Some(node) = place.find(step) else {
            if let Some(value) = &edit.value {
                place.add(step, input(&wrap(rest, value)));
            }
            break;
        };
        if !rest.is_empty() {
            let next = node.as_object().map(Place::Object).or_else(|| node.as_array().map(Place::Array));
            place = next.ok_or(MergeError::Unsafe)?;
            continue;
        }
        match (&edit.value, &place, step) {
            (Some(value), Place::Object(object), Step::Key(key)) => {
                if let Some(property) = object.get(key) {
                    property.set_value(input(value));
                }
            }
            (Some(value), ..) => place.replace(node, input(value)),
            (None, Place::Object(object), Step::Key(key)) => {
                if let Some(property) = object.get(key) {
                    property.remove();
                }
            }
            (None, ..) => node.remove(),
        }
    }
    let mut edited = root.to_string();
    if !edited.ends_with('\n') && (text.is_empty() || text.ends_with('\n')) {
        edited.push('\n');
    }
    Ok(edited)
}

enum Place {
    Object(CstObject),
    Array(CstArray),
}

impl Place {
    fn find(&self, step: &Step) -> Option<CstNode> {
        match (self, step) {
            (Place::Object(object), Step::Key(key)) => object.get(key)?.value(),
            (Place::Array(array), Step::Element(fits)) => element(array, fits),
            _ => None,
        }
    }

    fn add(&self, step: &Step, value: CstInputValue) {
        match (self, step) {
            (Place::Object(object), Step::Key(key)) => drop(object.append(key, value)),
            (Place::Array(array), _) => drop(array.append(value)),
            (Place::Object(_), Step::Element(_)) => {}
        }
    }

    fn replace(&self, node: CstNode, value: CstInputValue) {
        match node {
            CstNode::Container(jsonc_parser::cst::CstContainerNode::Object(object)) => drop(object.replace_with(value)),
            CstNode::Leaf(jsonc_parser::cst::CstLeafNode::StringLit(text)) => drop(text.replace_with(value)),
            _ => {}
        }
    }
}

fn element(array: &CstArray, fits: &Fits) -> Option<CstNode> {
    array.elements().into_iter().find(|node| node.to_serde_value().is_some_and(|value| fits.fits(&value)))
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(value) => CstInputValue::Bool(*value),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text.clone()),
        Value::Array(list) => CstInputValue::Array(list.iter().map(input).collect()),
        Value::Object(map) => CstInputValue::Object(map.iter().map(|(key, it)| (key.clone(), input(it))).collect()),
    }
}
