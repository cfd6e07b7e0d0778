//! Which version a program is, by its own words. Those are kept, since to start Prometheus only to ask costs more than all the
//! rest of a look at the host.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{durable, layout::Root, process};

/// What one program said, and which file said it.
#[derive(Serialize, Deserialize)]
struct Said {
    modified: DateTime<Utc>,
    bytes: u64,
    version: String,
}

/// The versions of `programs` by the names that they are asked for, as `2.42.0`.
pub(super) fn versions<'a>(
    root: &Root,
    programs: impl Iterator<Item = (&'a String, &'a PathBuf)>,
) -> BTreeMap<String, String> {
    let mut kept: BTreeMap<PathBuf, Said> = durable::read_json(&root.versions()).ok().flatten().unwrap_or_default();
    let mut asked = false;
    let mut versions = BTreeMap::new();
    for (name, program) in programs {
        let Some((modified, bytes)) = stamp(program) else { continue };
        let known = kept.get(program).filter(|said| said.modified == modified && said.bytes == bytes);
        let Some(version) = known.map(|said| said.version.clone()).or_else(|| ask(program)) else { continue };
        asked |= known.is_none();
        kept.insert(program.clone(), Said { modified, bytes, version: version.clone() });
        versions.insert(name.clone(), version);
    }
    // A host that nothing was deployed to is left as it is, and whoever may only look has to ask each time.
    if asked && root.state().exists() {
        let _ = durable::write_volatile_json(&root.versions(), &kept);
    }
    versions
}

/// What tells that a program is another one now.
fn stamp(program: &Path) -> Option<(DateTime<Utc>, u64)> {
    let meta = fs::metadata(program).ok()?;
    Some((meta.modified().ok()?.into(), meta.len()))
}

/// What a program says of itself to `--version`: `prometheus, version 2.42.0 (…)`, `macmon 0.8.2`.
fn ask(program: &Path) -> Option<String> {
    let said = process::look_up(program.to_str()?, &["--version"])?;
    said.split_whitespace().find(|word| word.starts_with(|it: char| it.is_ascii_digit())).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_program_is_asked_once_until_it_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path().join("root"));
        fs::create_dir_all(root.state()).unwrap();
        let program = folder.path().join("prometheus");
        let write = |version: &str| {
            let count = folder.path().join("asked");
            let script = format!("#!/bin/sh\necho >> {}\necho 'prometheus, version {version} (x)'\n", count.display());
            fs::write(&program, script).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let name = "prometheus".to_owned();
        let look = || versions(&root, [(&name, &program)].into_iter()).remove("prometheus");
        let asked = || fs::read_to_string(folder.path().join("asked")).unwrap().lines().count();
        write("2.42.0");
        assert_eq!((look(), look(), asked()), (Some("2.42.0".into()), Some("2.42.0".into()), 1));
        write("3.13.0-rc.1");
        assert_eq!((look(), asked()), (Some("3.13.0-rc.1".into()), 2));
        fs::remove_file(&program).unwrap();
        assert_eq!(look(), None);
    }
}
