//! What a user declares beside `Cargo.toml`: `stack.toml`, and under `local/` rules, dashboards, nginx snippets, Modelfiles.
//!
//! All of it goes into the release as it was written, under `source/`, so that a host can do by itself what was last
//! asked of it. Invariant: an addition is deployed like our own files are, or it is refused by name; it is never left out
//! silently.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    dashboard,
    failure::{Class, Doing, Failure},
    release::Contents,
};

/// Where each kind of addition stands, how its files end, and where in a release its component reads them.
const KINDS: [(&str, &str, &str); 4] = [
    ("local/rules/", "yml", "prometheus/local/"),
    ("local/dashboards/", "json", "grafana/dashboards/local/"),
    ("local/nginx/", "conf", "nginx/local/"),
    ("local/models/", "Modelfile", "models/local/"),
];

/// Reads what stands in `folder`, by path below it. `settings` is the text of `stack.toml`, if there is one.
///
/// # Errors
/// Names the file and what is wrong with it: unreadable, not UTF-8, of another kind, a dashboard that Grafana's file
/// provider would refuse.
pub fn read(folder: &Path, settings: Option<String>) -> Result<Contents, Failure> {
    let mut source: Contents = settings.into_iter().map(|text| ("stack.toml".to_owned(), text)).collect();
    for (kind, ending, _) in KINDS {
        for file in files_in(&folder.join(kind))? {
            let name = name_of(&file, ending)?;
            let text = fs::read_to_string(&file).doing("cannot read", &file)?;
            if ending == "json" {
                dashboard::classic(&text).map_err(|reason| refused(&file, &reason))?;
            }
            source.insert(format!("{kind}{name}"), text);
        }
    }
    Ok(source)
}

/// Reads a file beside `stack.toml` that a setting names.
///
/// # Errors
/// It is not there, or not UTF-8.
pub fn named(folder: &Path, name: &str) -> Result<String, Failure> {
    let file = folder.join(name);
    fs::read_to_string(&file).map_err(|error| {
        Failure::new(Class::Settings, format!("cannot read {}", file.display()))
            .because(&error)
            .hint("put the file there, or take its name out of stack.toml")
    })
}

/// What a release has of a source: each addition where its component reads it, and everything as it was written.
pub(crate) fn place(source: &Contents) -> Contents {
    let mut placed = Contents::new();
    for (path, text) in source {
        placed.insert(format!("source/{path}"), text.clone());
        for (kind, _, place) in KINDS {
            if let Some(name) = path.strip_prefix(kind) {
                placed.insert(format!("{place}{name}"), as_read(kind, text));
            }
        }
    }
    placed
}

/// As the component takes it.
fn as_read(kind: &str, text: &str) -> String {
    match kind {
        // What was read was checked; what an older release brought, as it was.
        "local/dashboards/" => {
            dashboard::classic(text).map_or_else(|_| text.to_owned(), |model| format!("{model:#}\n"))
        }
        _ => text.to_owned(),
    }
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.doing("cannot list", folder)?,
    };
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.doing("cannot list", folder)?;
    paths.retain(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")));
    paths.sort();
    Ok(paths)
}

fn name_of<'a>(file: &'a Path, ending: &str) -> Result<&'a str, Failure> {
    match file.file_name().and_then(|name| name.to_str()) {
        Some(name) if file.extension().is_some_and(|found| found == ending) && file.is_file() => Ok(name),
        _ => Err(refused(file, &format!("only files that end in .{ending} belong here"))),
    }
}

fn refused(file: &Path, reason: &str) -> Failure {
    Failure::new(Class::Settings, format!("cannot deploy {}", file.display()))
        .because(&io::Error::other(reason.to_owned()))
        .hint("mend the file or move it out of local/, then run the same command again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join("local").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    /// For the API: the file provider wants what is within.
    const WRAPPED: &str = r#"{"dashboard":{"title":"Mine"}}"#;

    #[test]
    fn places_each_kind_where_its_component_reads_it() {
        let folder = local(&[
            ("rules/mine.yml", "groups: []\n"),
            ("dashboards/mine.json", WRAPPED),
            ("nginx/mine.conf", "# nothing\n"),
            ("rules/.mine.yml.swp", "an editor's"),
        ]);
        let contents = place(&read(folder.path(), Some("# mine\n".into())).unwrap());
        assert_eq!(contents["source/local/dashboards/mine.json"], WRAPPED);
        assert_eq!(contents["grafana/dashboards/local/mine.json"], "{\n  \"id\": null,\n  \"title\": \"Mine\"\n}\n");
        let places: Vec<&str> = contents.keys().map(String::as_str).collect();
        assert_eq!(
            places,
            [
                "grafana/dashboards/local/mine.json",
                "nginx/local/mine.conf",
                "prometheus/local/mine.yml",
                "source/local/dashboards/mine.json",
                "source/local/nginx/mine.conf",
                "source/local/rules/mine.yml",
                "source/stack.toml",
            ]
        );
    }

    #[test]
    fn refuses_what_its_component_would_refuse() {
        for (name, text, reason) in [
            ("rules/mine.txt", "", "only files that end in .yml belong here"),
            ("dashboards/a.json", "{", "it is no JSON"),
            ("dashboards/a.json", r#"{"title":""}"#, "has no \"title\""),
        ] {
            let folder = local(&[(name, text)]);
            let failure = read(folder.path(), None).unwrap_err();
            assert_eq!(failure.class, Class::Settings);
            assert!(failure.message.ends_with(name), "{}", failure.message);
            assert!(failure.causes[0].contains(reason), "{:?}", failure.causes);
        }
    }
}
