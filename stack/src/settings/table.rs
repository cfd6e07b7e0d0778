//! Walks the tables of a TOML document and writes down every fault on the way.
//!
//! serde stops at the first fault and forgets where it stood. Invariant: the known keys are those that were asked for,
//! so a key cannot be read and unknown, or listed and unread.

use std::ops::{Range, RangeInclusive};

use toml::de::{DeArray, DeTable, DeValue};

use super::{
    EXAMPLE,
    fault::Fault,
    value::{self, Wrong},
};

/// What a walk has found so far.
#[derive(Default)]
pub(super) struct Found {
    pub(super) faults: Vec<Fault>,
    /// Table and key of everything that was asked for.
    pub(super) known: Vec<(&'static str, &'static str)>,
}

/// One table of the document, which may be absent: then every key keeps its default.
pub(super) struct Table<'t, 'text> {
    name: &'static str,
    entries: Option<&'t DeTable<'text>>,
    found: &'t mut Found,
}

impl<'t, 'text> Table<'t, 'text> {
    pub(super) fn open(name: &'static str, document: &'t DeTable<'text>, found: &'t mut Found) -> Self {
        let value = document.get(name);
        let entries = value.and_then(|value| value.get_ref().as_table());
        if let (Some(value), None) = (value, entries) {
            let message = format!("`{name}` takes a table, not {}", with_article(value.get_ref()));
            let help = format!("write `[{name}]` on a line of its own, and its keys below");
            found.faults.push(Fault::new(value.span(), Wrong::new(message, help)));
        }
        Table { name, entries, found }
    }

    /// A string that `parse` understands. Absent or wrong, the field keeps what it has.
    pub(super) fn text<T, F: From<T>>(
        &mut self,
        key: &'static str,
        field: &mut F,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) {
        self.read(key, "a string", field, |value| value.as_str().map(parse));
    }

    /// A whole number within bounds.
    pub(super) fn whole<T, F>(&mut self, key: &'static str, field: &mut F, bounds: RangeInclusive<T>)
    where
        T: std::str::FromStr + PartialOrd + std::fmt::Display,
        F: From<T>,
    {
        self.read(key, "a whole number", field, |value| {
            let number = value.as_integer()?;
            let decimal = i64::from_str_radix(number.as_str(), number.radix());
            Some(value::whole(&decimal.map_or_else(|_| number.to_string(), |decimal| decimal.to_string()), &bounds))
        });
    }

    /// `true`, `false`, or `"auto"` for `None`.
    pub(super) fn switch(&mut self, key: &'static str, field: &mut Option<bool>) {
        self.read(key, "true, false or \"auto\"", field, |value| match value {
            DeValue::Boolean(on) => Some(Ok(Some(*on))),
            value => (value.as_str() == Some("auto")).then_some(Ok(None)),
        });
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str, field: &mut bool) {
        self.read(key, "true or false", field, |value| match value {
            DeValue::Boolean(on) => Some(Ok(*on)),
            _ => None,
        });
    }

    /// A list with at least one string. Every item that `parse` refuses is a fault of its own.
    pub(super) fn list<T>(&mut self, key: &'static str, field: &mut Vec<T>, parse: fn(&str) -> Result<T, Wrong>) {
        let mut items: Option<&DeArray<'_>> = None;
        self.read(key, "a list of at least one string", &mut items, |value| {
            value.as_array().filter(|items| !items.is_empty()).map(Ok)
        });
        let Some(items) = items else { return };
        field.clear();
        for item in items {
            match item.get_ref().as_str().map_or_else(|| Err(self.mismatch(key, "strings", item.get_ref())), parse) {
                Ok(item) => field.push(item),
                Err(wrong) => self.fault(item.span(), wrong),
            }
        }
    }

    /// Where a key's value stands, if it is written and right so far.
    pub(super) fn written(&self, key: &str) -> Option<Range<usize>> {
        let span = self.entries?.get(key)?.span();
        (!self.faulty(&span)).then_some(span)
    }

    /// Whether a key's value is refused, so that comparing it with others would say nothing.
    pub(super) fn refused(&self, key: &str) -> bool {
        self.entries.and_then(|entries| entries.get(key)).is_some_and(|value| self.faulty(&value.span()))
    }

    /// Two values that disagree: the fault stands at the later one.
    pub(super) fn disagree(&mut self, places: [Range<usize>; 2], wrong: Wrong) {
        let [first, second] = places;
        let (first, second) = if first.start < second.start { (first, second) } else { (second, first) };
        self.found.faults.push(Fault { other: Some(first), ..Fault::new(second, wrong) });
    }

    pub(super) fn fault(&mut self, span: Range<usize>, wrong: Wrong) {
        self.found.faults.push(Fault::new(span, wrong));
    }

    /// `parse` gives `None` for a value of another type than `wanted`.
    fn read<T, F: From<T>>(
        &mut self,
        key: &'static str,
        wanted: &str,
        field: &mut F,
        parse: impl FnOnce(&'t DeValue<'text>) -> Option<Result<T, Wrong>>,
    ) {
        self.found.known.push((self.name, key));
        let Some(value) = self.entries.and_then(|entries| entries.get(key)) else { return };
        match parse(value.get_ref()).unwrap_or_else(|| Err(self.mismatch(key, wanted, value.get_ref()))) {
            Ok(parsed) => *field = parsed.into(),
            Err(wrong) => self.fault(value.span(), wrong),
        }
    }

    fn mismatch(&self, key: &str, wanted: &str, value: &DeValue<'_>) -> Wrong {
        Wrong::new(
            format!("`{key}` takes {wanted}, not {}", with_article(value)),
            format!("write {wanted}, such as `{}`", example_line(self.name, key)),
        )
    }

    fn faulty(&self, span: &Range<usize>) -> bool {
        self.found.faults.iter().any(|fault| fault.span == *span)
    }
}

impl Found {
    /// Every table and key that nobody asked for. To be called last, when everything known has been asked for.
    pub(super) fn refuse_unknown(&mut self, document: &DeTable<'_>) {
        let mut unknown = Vec::new();
        for (table, value) in document {
            if !self.known.iter().any(|(known, _)| known == table.get_ref()) {
                unknown.push(Fault::new(table.span(), self.unknown_in_document(table.get_ref(), value.get_ref())));
                continue;
            }
            for (key, _) in value.get_ref().as_table().into_iter().flatten() {
                if !self.known.iter().any(|known| *known == (table.get_ref(), key.get_ref())) {
                    unknown.push(Fault::new(key.span(), self.unknown_in_table(table.get_ref(), key.get_ref())));
                }
            }
        }
        self.faults.append(&mut unknown);
    }

    fn unknown_in_document(&self, name: &str, value: &DeValue<'_>) -> Wrong {
        if !value.is_table() {
            let help = self.home(name).unwrap_or_else(|| format!("write it under {}", self.tables()));
            return Wrong::new(format!("unknown key `{name}` outside of a table"), help);
        }
        let help = nearest(name, self.known.iter().map(|(table, _)| *table))
            .map_or_else(|| format!("write one of {}", self.tables()), |table| format!("did you mean `[{table}]`?"));
        Wrong::new(format!("unknown table `[{name}]`"), help)
    }

    fn unknown_in_table(&self, table: &str, name: &str) -> Wrong {
        let keys: Vec<_> = self.known.iter().filter(|(known, _)| *known == table).map(|(_, key)| *key).collect();
        let help = nearest(name, keys.iter().copied())
            .map(|key| format!("did you mean `{key}`?"))
            .or_else(|| self.home(name))
            .unwrap_or_else(|| format!("write one of {}", keys.join(", ")));
        Wrong::new(format!("unknown key `{name}` in `[{table}]`"), help)
    }

    /// The table that does have this key.
    fn home(&self, name: &str) -> Option<String> {
        let (table, _) = self.known.iter().find(|(_, key)| *key == name)?;
        Some(format!("write it under `[{table}]`"))
    }

    fn tables(&self) -> String {
        let mut tables: Vec<_> = self.known.iter().map(|(table, _)| format!("`[{table}]`")).collect();
        tables.dedup();
        tables.join(", ")
    }
}

/// The line of the annotated reference that sets this key: what a right one looks like.
fn example_line(table: &str, key: &str) -> &'static str {
    let below = EXAMPLE.split_once(&format!("\n[{table}]\n")).map_or("", |(_, below)| below);
    below
        .lines()
        .take_while(|line| !line.starts_with('['))
        .map(|line| line.trim_start_matches("# "))
        .find(|line| line.split_once(" = ").is_some_and(|(name, _)| name == key))
        .unwrap_or_default()
}

fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    // Below this, suggestions stop looking like slips of the same hand; clap draws its line nearby.
    const ALIKE: f64 = 0.8;
    known
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(likeness, _)| *likeness > ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

fn with_article(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Array(items) if items.is_empty() => "an empty list".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Integer(_) => "an integer".to_owned(),
        value => format!("a {}", value.type_str()),
    }
}
