//! Results on disk, so that a number can be looked at again.
//!
//! `bench-results/ID/result.json` is what `--json` printed, `records.jsonl` every request, `report.html` the report;
//! `bench-results/baselines/NAME.json` the blocks of a baseline. A comparison's folder has `comparison.json` and a report.
//!
//! Invariant: a file of another schema is refused with a word, never half understood. A result's folder appears when all
//! of it is there.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use stack::failure::{Class, Doing, Failure};

use super::{
    Outcome, SCHEMA,
    compare::{Baseline, Comparison, Kept, Verdict},
    record::Record,
    report,
};

/// Beside whatever it is about.
const REPORT: &str = "report.html";

const RESULT: &str = "result.json";

const COMPARISON: &str = "comparison.json";

/// Where results are kept.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

/// What a folder holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// Of one model, with its records.
    Result(Box<Outcome>),
    /// Of two things.
    Comparison(Box<Kept>),
}

/// A result or a comparison, as a list shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// Its folder's name.
    pub id: String,
    /// What it says; none if it is of another schema.
    #[serde(flatten)]
    pub summary: Option<Summary>,
}

/// What a list shows of what was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Summary {
    /// Of a result.
    Result {
        /// When.
        began: String,
        /// What was measured.
        model: String,
        /// How many runs it has.
        runs: usize,
        /// Answers.
        answered: usize,
        /// Why it ended before its time.
        #[serde(skip_serializing_if = "Option::is_none")]
        broken_off: Option<String>,
    },
    /// Of a comparison.
    Comparison {
        /// When.
        ended: String,
        /// What was there.
        a: String,
        /// What was judged.
        b: String,
        /// What each metric says of it.
        verdicts: BTreeMap<String, Verdict>,
    },
}

impl Store {
    /// Below the folder of the settings.
    pub fn below(folder: &Path) -> Self {
        Store { folder: folder.join("bench-results") }
    }

    /// Keeps a result and its report; gives the result's folder.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn keep(&self, outcome: &Outcome) -> Result<PathBuf, Failure> {
        let id = format!("{}-{}", slug(&outcome.began), slug(&outcome.model.name));
        let records: Result<Vec<String>, Failure> = outcome.records.iter().map(line).collect();
        let page = report::page(outcome);
        self.place(id, &[(RESULT, json(outcome)?), ("records.jsonl", records?.concat()), (REPORT, page)])
    }

    /// Keeps a comparison and its report; gives its folder.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn keep_comparison(&self, kept: &Kept) -> Result<PathBuf, Failure> {
        let Comparison { a, b, .. } = &kept.comparison;
        let id = format!("{}-{}-against-{}", slug(&kept.ended), slug(b), slug(a));
        self.place(id, &[(COMPARISON, json(kept)?), (REPORT, report::comparison(kept))])
    }

    /// Makes a folder of these files, under this name or one like it.
    fn place(&self, id: String, files: &[(&str, String)]) -> Result<PathBuf, Failure> {
        let taken = |id: &String| self.folder.join(id).exists();
        let id =
            std::iter::once(id.clone()).chain((2..).map(|n| format!("{id}-{n}"))).find(|id| !taken(id)).unwrap_or(id);
        let unfinished = self.folder.join(format!(".{id}"));
        fs::create_dir_all(&unfinished).doing("cannot make", &unfinished)?;
        files.iter().try_for_each(|(name, text)| write(&unfinished.join(name), text))?;
        let folder = self.folder.join(id);
        fs::rename(&unfinished, &folder).doing("cannot make", &folder)?;
        Ok(folder)
    }

    /// The results, oldest first.
    ///
    /// # Errors
    ///
    /// If they cannot be listed.
    pub fn list(&self) -> Result<Vec<Entry>, Failure> {
        let entry = |id: String| {
            let summary = open(&self.folder.join(&id)).ok().map(|found| found.summary());
            Entry { id, summary }
        };
        Ok(self.ids()?.into_iter().map(entry).collect())
    }

    fn ids(&self) -> Result<Vec<String>, Failure> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).doing("cannot list", &self.folder),
        };
        let holds = |folder: &Path| [RESULT, COMPARISON].iter().any(|name| folder.join(name).exists());
        let results = entries.flatten().filter(|entry| holds(&entry.path()));
        let mut ids: Vec<String> = results.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        ids.retain(|id| !id.starts_with('.'));
        ids.sort();
        Ok(ids)
    }

    /// What has this name, or the last one; a result with its records.
    ///
    /// # Errors
    ///
    /// If there is none, or it is of another schema.
    pub fn find(&self, id: Option<&str>) -> Result<(PathBuf, Found), Failure> {
        let ids = self.ids()?;
        let found = match id {
            Some(id) => ids.iter().find(|it| *it == id),
            None => ids.last(),
        };
        let id = found.ok_or_else(|| self.nothing(id))?;
        let folder = self.folder.join(id);
        let mut found = open(&folder)?;
        if let Found::Result(outcome) = &mut found {
            let path = folder.join("records.jsonl");
            let text = fs::read_to_string(&path).doing("cannot read", &path)?;
            let records: Result<Vec<Record>, _> = text.lines().map(serde_json::from_str).collect();
            outcome.records = records.map_err(|error| damaged(&path, &error))?;
        }
        Ok((folder, found))
    }

    /// Writes the report of a result or a comparison anew; gives its file.
    ///
    /// # Errors
    ///
    /// As [`Store::find`], or if it cannot be written.
    pub fn report(&self, id: Option<&str>) -> Result<PathBuf, Failure> {
        let (folder, found) = self.find(id)?;
        let path = folder.join(REPORT);
        let page = match found {
            Found::Result(outcome) => report::page(&outcome),
            Found::Comparison(kept) => report::comparison(&kept),
        };
        write(&path, &page)?;
        Ok(path)
    }

    /// The failure to find a result.
    pub fn nothing(&self, id: Option<&str>) -> Failure {
        let what = id.map_or("there are no results".to_owned(), |id| format!("there is no result {id}"));
        Failure::new(Class::Nothing, format!("{what} in {}", self.folder.display()))
            .hint("`cargo xtask bench` makes one, `cargo xtask bench list` shows what there is")
    }

    fn baseline_path(&self, name: &str) -> Result<PathBuf, Failure> {
        if name.is_empty() || name != slug(name) {
            return Err(Failure::new(Class::Settings, format!("{name:?} is no name for a baseline"))
                .hint("letters, digits, dots, - and _"));
        }
        Ok(self.folder.join("baselines").join(format!("{name}.json")))
    }

    /// Keeps a baseline, in the place of an older one of that name.
    ///
    /// # Errors
    ///
    /// If the name is none, or it cannot be written.
    pub fn keep_baseline(&self, name: &str, baseline: &Baseline) -> Result<PathBuf, Failure> {
        let path = self.baseline_path(name)?;
        let folder = self.folder.join("baselines");
        fs::create_dir_all(&folder).doing("cannot make", &folder)?;
        write(&path, &json(baseline)?)?;
        Ok(path)
    }

    /// A baseline.
    ///
    /// # Errors
    ///
    /// If there is none of that name, or it is of another schema.
    pub fn baseline(&self, name: &str) -> Result<Baseline, Failure> {
        let path = self.baseline_path(name)?;
        if !path.exists() {
            return Err(Failure::new(Class::Nothing, format!("there is no baseline {name}"))
                .hint(format!("`cargo xtask bench baseline set {name}` makes one")));
        }
        read(&path)
    }
}

impl Found {
    fn summary(self) -> Summary {
        match self {
            Found::Result(it) => Summary::Result {
                answered: it.answered(),
                began: it.began,
                model: it.model.name,
                runs: it.runs.len(),
                broken_off: it.broken_off,
            },
            Found::Comparison(it) => {
                let verdicts = it.comparison.findings.into_iter().map(|finding| (finding.metric, finding.verdict));
                let Comparison { a, b, .. } = it.comparison;
                Summary::Comparison { ended: it.ended, a, b, verdicts: verdicts.collect() }
            }
        }
    }
}

/// What a folder holds, without a result's records.
fn open(folder: &Path) -> Result<Found, Failure> {
    let comparison = folder.join(COMPARISON);
    if comparison.exists() {
        return read(&comparison).map(|it| Found::Comparison(Box::new(it)));
    }
    read(&folder.join(RESULT)).map(|it| Found::Result(Box::new(it)))
}

/// Something for a file's name: everything but letters, digits, dots, `-` and `_` becomes `-`.
fn slug(text: &str) -> String {
    text.chars().map(|it| if it.is_ascii_alphanumeric() || "._-".contains(it) { it } else { '-' }).collect()
}

fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| unwritable(&error))?;
    Ok(text + "\n")
}

fn line(record: &Record) -> Result<String, Failure> {
    serde_json::to_string(record).map(|line| line + "\n").map_err(|error| unwritable(&error))
}

fn unwritable(error: &serde_json::Error) -> Failure {
    Failure::new(Class::Failed, "cannot put the result into JSON").because(error)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).doing("cannot write", path)
}

/// Read before anything else of a file.
#[derive(Deserialize)]
struct Versioned {
    schema: u32,
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let text = fs::read_to_string(path).doing("cannot read", path)?;
    let found: Versioned = serde_json::from_str(&text).map_err(|error| damaged(path, &error))?;
    if found.schema != SCHEMA {
        let what = format!("{} is of schema {}; this program reads {SCHEMA}", path.display(), found.schema);
        return Err(
            Failure::new(Class::Settings, what).hint("measure again, or read it with the program that wrote it")
        );
    }
    serde_json::from_str(&text).map_err(|error| damaged(path, &error))
}

fn damaged(path: &Path, error: &serde_json::Error) -> Failure {
    Failure::new(Class::Failed, format!("{} is no result", path.display())).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        let mut outcome = Outcome { schema: SCHEMA, began: "2026-01-31T12:00:00Z".to_owned(), ..Outcome::default() };
        outcome.model.name = "a/b:c".to_owned();
        outcome.records = vec![Record { error: Some("503: busy".to_owned()), ..Record::default() }];
        outcome
    }

    #[test]
    fn a_result_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::below(folder.path());
        assert_eq!(store.list().unwrap(), []);
        assert_eq!(store.find(None).unwrap_err().class, Class::Nothing);
        let first = store.keep(&outcome()).unwrap();
        let second = store.keep(&outcome()).unwrap();
        assert!(first.ends_with("2026-01-31T12-00-00Z-a-b-c") && second.ends_with("2026-01-31T12-00-00Z-a-b-c-2"));
        let found = Found::Result(Box::new(outcome()));
        assert_eq!(store.find(Some("2026-01-31T12-00-00Z-a-b-c")).unwrap(), (first, found));
        assert_eq!(store.find(None).unwrap().0, second);
        assert_eq!(store.list().unwrap().len(), 2);
        assert!(store.report(None).unwrap().exists());
    }

    #[test]
    fn another_schema_is_refused_and_a_baseline_needs_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::below(folder.path());
        store.keep(&Outcome { schema: 2, ..outcome() }).unwrap();
        let refused = store.find(None).unwrap_err();
        assert!(refused.message.ends_with("is of schema 2; this program reads 1"), "{refused}");
        assert_eq!(store.list().unwrap()[0].summary, None);
        assert_eq!(store.baseline("../x").unwrap_err().class, Class::Settings);
        assert_eq!(store.baseline("x").unwrap_err().class, Class::Nothing);
    }
}
