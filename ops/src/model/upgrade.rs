//! Another default model: the settings file is changed where it says so, and nowhere else.
//!
//! Invariant: comments, order and everything that is not named here stay as they were, and the way back is written down
//! in the file itself (`models.previous`).

use stack::failure::{Class, Failure};
use toml_edit::{DocumentMut, Item, Table, value};

/// The text of a `stack.toml` that has `model` as its default and remembers `previous`.
pub fn switch(text: &str, model: &str, previous: &str) -> Result<String, Failure> {
    let mut document = parse(text)?;
    let models = models(&mut document)?;
    set(models, "default", model);
    set(models, "previous", previous);
    Ok(document.to_string())
}

/// The text without what it remembers.
pub fn forget(text: &str) -> Result<String, Failure> {
    let mut document = parse(text)?;
    models(&mut document)?.remove("previous");
    Ok(document.to_string())
}

fn parse(text: &str) -> Result<DocumentMut, Failure> {
    text.parse().map_err(|error: toml_edit::TomlError| {
        Failure::new(Class::Settings, "the settings file is no TOML").because(&error)
    })
}

fn models(document: &mut DocumentMut) -> Result<&mut Table, Failure> {
    let not_a_table = || Failure::new(Class::Settings, "`models` is no table in the settings file");
    document.entry("models").or_insert(Item::Table(Table::new())).as_table_mut().ok_or_else(not_a_table)
}

/// What stands above the key and behind the old value stays where it is.
fn set(table: &mut Table, key: &str, text: &str) {
    let Some(old) = table.get_mut(key).and_then(Item::as_value_mut) else {
        table.insert(key, value(text));
        return;
    };
    let decor = old.decor().clone();
    *old = text.into();
    *old.decor_mut() = decor;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_default_changes() {
        let text = "# mine\n[host]\naddress = \"x\" # here\n\n[models]\n# why\ndefault = \"a:b\" # since May\n";
        let switched = switch(text, "c:d", "a:b").unwrap();
        assert_eq!(switched, text.replace("\"a:b\" # since May", "\"c:d\" # since May\nprevious = \"a:b\""));
        assert_eq!(forget(&switched).unwrap(), text.replace("a:b", "c:d"));
    }

    #[test]
    fn a_file_without_models_gets_the_table() {
        assert_eq!(switch("", "c", "a").unwrap(), "[models]\ndefault = \"c\"\nprevious = \"a\"\n");
        assert_eq!(switch("models = 1", "c", "a").unwrap_err().class, Class::Settings);
        assert!(switch("[", "c", "a").is_err());
    }
}
