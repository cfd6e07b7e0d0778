//! Editing a file that belongs to somebody else: what is asked for is there afterwards, and everything else, comments
//! and odd formatting included, is as it was.
//!
//! An edit is a place and a value. The same edits can be taken back, even out of a file that its owner has changed since.
//! Invariant: a text that does not parse is refused, and so is an edit whose outcome does not parse to exactly the old
//! values with the new ones in their places.

mod json;
mod yaml;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// YAML.
    Yaml,
    /// JSON, with comments and trailing commas.
    Json,
}

/// One step on the way to a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Into a mapping, by key.
    Key(String),
    /// Into a list, to the first element that fits; where there is none, to a new one at the end.
    Element(Fits),
}

/// Which element of a list is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fits {
    /// The mapping in which this field has this value.
    Field(String, String),
    /// The text that begins like this.
    Prefix(String),
}

impl Fits {
    fn fits(&self, value: &Value) -> bool {
        match self {
            Fits::Field(field, wanted) => value[field.as_str()] == wanted.as_str(),
            Fits::Prefix(prefix) => value.as_str().is_some_and(|text| text.starts_with(prefix)),
        }
    }
}

/// A value and where it belongs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Edit {
    /// From the root; never empty.
    pub at: Vec<Step>,
    /// `None`: nothing is to be there.
    pub value: Option<Value>,
    /// Only where nothing is there yet.
    pub keeps: bool,
}

impl Edit {
    /// A value in nested mappings, by a path with dots.
    pub fn new(path: &str, value: impl Into<Value>) -> Edit {
        Edit { at: keys(path), value: Some(value.into()), keeps: false }
    }

    /// As [`Edit::new`], unless something is there already.
    pub fn absent(path: &str, value: impl Into<Value>) -> Edit {
        Edit { keeps: true, ..Edit::new(path, value) }
    }

    /// An element of the list at `path`; an empty path is a file that is a list.
    pub fn element(path: &str, fits: Fits, value: impl Into<Value>) -> Edit {
        let mut at = keys(path);
        at.push(Step::Element(fits));
        Edit { at, value: Some(value.into()), keeps: false }
    }
}

fn keys(path: &str) -> Vec<Step> {
    path.split('.').filter(|key| !key.is_empty()).map(|key| Step::Key(key.to_owned())).collect()
}

/// Why a file is left alone.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// It is broken.
    #[error("it is no {format}: {detail}")]
    Parse {
        /// What it should be.
        format: &'static str,
        /// Where and what.
        detail: String,
    },
    /// Something else stands where a value should go, such as text in place of a mapping.
    #[error("{0} is something else there")]
    Shape(String),
    /// The editing went wrong; the old text is still the only one.
    #[error("it is written in a way that cannot be edited safely")]
    Unsafe,
}

/// What `text` says. An empty file says null.
pub fn parse(format: Format, text: &str) -> Result<Value, MergeError> {
    match format {
        Format::Yaml => yaml::parse(text),
        Format::Json => json::parse(text),
    }
}

/// `text` with `edits` made.
pub fn merge(format: Format, text: &str, edits: &[Edit]) -> Result<String, MergeError> {
    let before = parse(format, text)?;
    let mut wanted = before;
    let mut edited = text.to_owned();
    for edit in edits {
        // One that changes nothing is not made: so a file that is as wanted keeps every byte.
        let found = get(&wanted, &edit.at);
        if found == edit.value.as_ref() || edit.keeps && found.is_some() {
            continue;
        }
        set(&mut wanted, &edit.at, edit.value.as_ref())?;
        edited = match format {
            Format::Yaml => yaml::edit(&edited, edit)?,
            Format::Json => json::edit(&edited, edit)?,
        };
    }
    match parse(format, &edited) {
        Ok(after) if after == wanted => Ok(edited),
        _ => Err(MergeError::Unsafe),
    }
}

/// `now` without `edits`, as far as they are still in it: what was in `original` is back, the rest is gone. `None`: then
/// nothing is left, not even a comment.
pub fn unmerge(format: Format, now: &str, original: &str, edits: &[Edit]) -> Result<Option<String>, MergeError> {
    let (found, before) = (parse(format, now)?, parse(format, original)?);
    let mut back = Vec::new();
    for edit in edits.iter().rev().filter(|edit| get(&found, &edit.at) == edit.value.as_ref()) {
        back.push(Edit { at: edit.at.clone(), value: get(&before, &edit.at).cloned(), keeps: false });
    }
    let mut text = merge(format, now, &back)?;
    // Folders of a value that only the value needed go with it, from the inside out.
    for edit in &back {
        for length in (1..edit.at.len()).rev() {
            let place = &edit.at[..length];
            let is_empty = get(&parse(format, &text)?, place).is_some_and(is_empty);
            if is_empty && get(&before, place).is_none() {
                text = merge(format, &text, &[Edit { at: place.to_vec(), value: None, keeps: false }])?;
            }
        }
    }
    let is_nothing = is_empty(&parse(format, &text)?) && !text.contains(['#', '/']);
    Ok((!is_nothing).then_some(text))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// The value at a place.
fn get<'a>(root: &'a Value, at: &[Step]) -> Option<&'a Value> {
    at.iter().try_fold(root, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Element(fits) => value.as_array()?.iter().find(|it| fits.fits(it)),
    })
}

/// What an edit means, said without any text.
fn set(root: &mut Value, at: &[Step], value: Option<&Value>) -> Result<(), MergeError> {
    let Some((step, rest)) = at.split_first() else {
        *root = value.cloned().unwrap_or_default();
        return Ok(());
    };
    match step {
        Step::Key(key) => {
            if root.is_null() {
                *root = Value::Object(Map::new());
            }
            let map = root.as_object_mut().ok_or_else(|| MergeError::Shape(format!("what holds `{key}`")))?;
            match value {
                None if rest.is_empty() => drop(map.remove(key)),
                _ => set(map.entry(key).or_insert(Value::Null), rest, value)?,
            }
        }
        Step::Element(fits) => {
            if root.is_null() {
                *root = Value::Array(Vec::new());
            }
            let list = root.as_array_mut().ok_or_else(|| MergeError::Shape("a list".to_owned()))?;
            let found = list.iter().position(|it| fits.fits(it));
            match (found, value) {
                (Some(index), None) if rest.is_empty() => drop(list.remove(index)),
                (Some(index), _) => set(&mut list[index], rest, value)?,
                (None, None) => {}
                (None, Some(_)) => {
                    list.push(Value::Null);
                    let last = list.len() - 1;
                    set(&mut list[last], rest, value)?;
                }
            }
        }
    }
    Ok(())
}

/// A value with its folders around it: what is to be written where even they are missing.
fn wrap(at: &[Step], value: &Value) -> Value {
    at.iter().rev().fold(value.clone(), |inner, step| match step {
        Step::Key(key) => Value::Object(Map::from_iter([(key.clone(), inner)])),
        Step::Element(_) => Value::Array(vec![inner]),
    })
}

#[cfg(test)]
mod tests;
