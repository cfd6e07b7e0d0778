//! Settings of an agent: written into the user's own files, and taken out again.
//!
//! What the files were before the first time is kept. Invariant: every file is read, understood and merged before the first
//! one is written; what we need to take it all back is written before them too.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stack::failure::{Class, Failure};

use super::{
    ALL, Agent, File, Secret, Target,
    merge::{self, Edit, Format, MergeError},
    place::{self, Place},
};

const RECORD: &str = "configured.json";
const ORIGINALS: &str = "original";

/// What the user named; the rest follows the stack's settings, and does so again after each deploy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// A model other than the default.
    pub model: Option<String>,
    /// An endpoint other than the stack's.
    pub endpoint: Option<String>,
}

/// That an agent is configured, and what for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Configured {
    /// The folder of the settings that it follows.
    pub stack: PathBuf,
    /// What was named.
    pub asked: Asked,
    /// What came out.
    pub endpoint: String,
    /// As the engine calls it.
    pub model: String,
    /// Tokens.
    pub context: u32,
    /// For a gateway that wants one.
    pub key: Option<Secret>,
    files: Vec<Written>,
}

impl Configured {
    /// What the agent works with.
    pub fn target(&self) -> Target {
        Target {
            endpoint: self.endpoint.clone(),
            model: self.model.clone(),
            context: self.context,
            key: self.key.clone(),
        }
    }
}

/// What was put into a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Written {
    path: String,
    format: Format,
    edits: Vec<Edit>,
}

/// A file before and after; `None` where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Below the home folder.
    pub path: String,
    /// As it is.
    pub before: Option<String>,
    /// As it is to be.
    pub after: Option<String>,
}

/// What an agent was configured with, if it was.
pub fn configured(agent: &Agent, place: &Place) -> Result<Option<Configured>, Failure> {
    place.read(agent.name, RECORD)
}

/// What configuring would change; files that are as they should be are left out.
pub fn plan_configure(agent: &Agent, place: &Place, target: &Target) -> Result<Vec<Change>, Failure> {
    let record = configured(agent, place)?;
    let mut changes = Vec::new();
    let files = files(agent, target)?;
    for file in &files {
        let path = place.home.join(file.path);
        let before = place::read_if_any(&path)?;
        let merged = merged(agent, place, file, before.as_deref().unwrap_or_default(), record.as_ref());
        let after = Some(merged.map_err(|error| unreadable(&path, error))?);
        if after != before {
            changes.push(Change { path: file.path.to_owned(), before, after });
        }
    }
    Ok(changes)
}

fn files(agent: &Agent, target: &Target) -> Result<Vec<File>, Failure> {
    match agent.settings {
        Ok(files) => Ok(files(target)),
        Err(reason) => Err(Failure::new(Class::Refused, format!("{} cannot work with this stack", agent.title))
            .because(&std::io::Error::other(reason))
            .hint("`cargo xtask agent list` shows those that can")),
    }
}

/// A file with the new edits, and without earlier ones that are not among them.
fn merged(
    agent: &Agent,
    place: &Place,
    file: &File,
    before: &str,
    record: Option<&Configured>,
) -> Result<String, MergeError> {
    let mut text = before.to_owned();
    let earlier = record.and_then(|record| record.files.iter().find(|written| written.path == file.path));
    if let Some(earlier) = earlier {
        let is_stale = |edit: &&Edit| file.edits.iter().all(|new| new.at != edit.at);
        let stale: Vec<Edit> = earlier.edits.iter().filter(is_stale).cloned().collect();
        let original = original(agent, place, file.path).unwrap_or_default();
        text = merge::unmerge(file.format, &text, &original, &stale)?.unwrap_or_default();
    }
    merge::merge(file.format, &text, &file.edits)
}

/// A file as it was before we first touched it.
fn original(agent: &Agent, place: &Place, path: &str) -> Option<String> {
    place::read_if_any(&place.record(agent.name, ORIGINALS).join(path)).ok().flatten()
}

/// Writes an agent's settings. What it did is returned.
pub fn configure(
    agent: &Agent,
    place: &Place,
    stack: &Path,
    asked: &Asked,
    target: &Target,
) -> Result<Vec<Change>, Failure> {
    let changes = plan_configure(agent, place, target)?;
    let files = files(agent, target)?;
    if configured(agent, place)?.is_none() {
        for file in &files {
            if let Some(text) = place::read_if_any(&place.home.join(file.path))? {
                place::write(&place.record(agent.name, ORIGINALS).join(file.path), &text, true)?;
            }
        }
    }
    let record = Configured {
        stack: stack.to_owned(),
        asked: asked.clone(),
        endpoint: target.endpoint.clone(),
        model: target.model.clone(),
        context: target.context,
        key: target.key.clone(),
        files: files
            .into_iter()
            .map(|file| Written { path: file.path.to_owned(), format: file.format, edits: file.edits })
            .collect(),
    };
    place.write(agent.name, RECORD, &record)?;
    write(place, &changes, target.key.is_some())?;
    Ok(changes)
}

fn write(place: &Place, changes: &[Change], private: bool) -> Result<(), Failure> {
    for change in changes {
        let path = place.home.join(&change.path);
        match &change.after {
            Some(text) => place::write(&path, text, private)?,
            None => stack::durable::remove(&path)?,
        }
    }
    Ok(())
}

/// What taking the settings back would change. A file that nobody touched since is again what it was, byte for byte; out
/// of one that its owner changed only our values go.
pub fn plan_unconfigure(agent: &Agent, place: &Place) -> Result<Vec<Change>, Failure> {
    let Some(record) = configured(agent, place)? else {
        return Err(Failure::new(Class::Nothing, format!("{} is not configured", agent.name)));
    };
    let mut changes = Vec::new();
    for written in &record.files {
        let path = place.home.join(&written.path);
        let Some(before) = place::read_if_any(&path)? else { continue };
        let original = original(agent, place, &written.path);
        let old = original.as_deref().unwrap_or_default();
        let is_untouched = merge::merge(written.format, old, &written.edits).is_ok_and(|ours| ours == before);
        let after = match is_untouched {
            true => original,
            false => {
                let left = merge::unmerge(written.format, &before, old, &written.edits);
                let left = left.map_err(|error| unreadable(&path, error))?;
                left.or(original.map(|_| String::new()))
            }
        };
        if after.as_ref() != Some(&before) {
            changes.push(Change { path: written.path.clone(), before: Some(before), after });
        }
    }
    Ok(changes)
}

/// Takes the settings back, and forgets about them.
pub fn unconfigure(agent: &Agent, place: &Place) -> Result<Vec<Change>, Failure> {
    let changes = plan_unconfigure(agent, place)?;
    write(place, &changes, false)?;
    place.forget(agent.name, RECORD)?;
    place.forget(agent.name, ORIGINALS)?;
    Ok(changes)
}

/// Brings the agents that follow the stack of this folder up to date with it; `target` is what they are to work with by
/// now. Tells who changed.
pub fn refresh(
    place: &Place,
    stack: &Path,
    target: impl Fn(&Configured) -> Target,
) -> Result<Vec<&'static str>, Failure> {
    let mut changed = Vec::new();
    for agent in ALL {
        let Some(record) = configured(agent, place)?.filter(|record| record.stack == stack) else { continue };
        if !configure(agent, place, stack, &record.asked, &target(&record))?.is_empty() {
            changed.push(agent.name);
        }
    }
    Ok(changed)
}

fn unreadable(path: &Path, error: MergeError) -> Failure {
    let failure = Failure::new(Class::Settings, format!("{} is left as it is", path.display())).because(&error);
    failure.hint("mend it or move it away, and run the same command again")
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::agent::find;

    struct Home(tempfile::TempDir);

    impl Home {
        fn place(&self) -> Place {
            Place::new(self.0.path().to_owned(), None)
        }

        fn read(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.0.path().join(name)).ok()
        }

        fn configure(&self, agent: &str, target: &Target) -> Result<Vec<Change>, Failure> {
            configure(find(agent).unwrap(), &self.place(), Path::new("/stack"), &Asked::default(), target)
        }
    }

    fn home(files: &[(&str, &str)]) -> Home {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
            fs::write(folder.path().join(name), text).unwrap();
        }
        Home(folder)
    }

    fn target(model: &str, key: Option<&str>) -> Target {
        let key = key.map(|key| Secret::new(key.to_owned()));
        Target { endpoint: "http://127.0.0.1:11434".into(), model: model.into(), context: 32_768, key }
    }

    #[test]
    fn every_agents_files_are_as_they_were_read() {
        let mut page = String::new();
        for agent in ALL.into_iter().filter(|agent| agent.settings.is_ok()) {
            let home = home(&[]);
            for change in home.configure(agent.name, &target("qwen2.5-coder:32b-instruct-q8_0", Some("sk-1"))).unwrap()
            {
                page += &format!("~/{}\n{}\n", change.path, change.after.unwrap());
            }
        }
        insta::assert_snapshot!(page);
    }

    #[test]
    fn a_switch_of_models_leaves_nothing_of_the_first_and_unconfigure_nothing_at_all() {
        for agent in ALL.into_iter().filter(|agent| agent.settings.is_ok()) {
            let old = if agent.name == "aider" { "# mine\ndark-mode: true # night\n" } else { "" };
            let name = if agent.name == "aider" { ".aider.conf.yml" } else { ".other" };
            let home = home(&[(name, old)]);
            home.configure(agent.name, &target("first:7b", None)).unwrap();
            let changes = home.configure(agent.name, &target("second:32b", None)).unwrap();
            assert!(!changes.is_empty());
            for change in &changes {
                let text = home.read(&change.path).unwrap();
                assert!(text.contains("second:32b") && !text.contains("first:7b"), "{text}");
            }
            assert_eq!(home.configure(agent.name, &target("second:32b", None)), Ok(Vec::new()));
            unconfigure(agent, &home.place()).unwrap();
            assert_eq!(home.read(name).as_deref(), Some(old));
            assert!(
                changes.iter().all(|change| change.path == name || home.read(&change.path).is_none()),
                "{changes:?}"
            );
            assert_eq!(plan_unconfigure(agent, &home.place()).unwrap_err().class, Class::Nothing);
        }
    }

    #[test]
    fn what_its_owner_wrote_since_survives() {
        let home = home(&[(".aider.conf.yml", "model: gpt-4 # best\n")]);
        home.configure("aider", &target("x:32b", None)).unwrap();
        let text = home.read(".aider.conf.yml").unwrap() + "dark-mode: true # new\n";
        fs::write(home.0.path().join(".aider.conf.yml"), text).unwrap();
        home.configure("aider", &target("y:32b", None)).unwrap();
        unconfigure(find("aider").unwrap(), &home.place()).unwrap();
        assert_eq!(home.read(".aider.conf.yml").as_deref(), Some("model: gpt-4 # best\ndark-mode: true # new\n"));
    }

    #[test]
    fn a_file_that_does_not_parse_stops_everything_before_anything_is_written() {
        let broken = "- name: [x\n";
        let home = home(&[(".aider.model.settings.yml", broken), (".qwen/settings.json", "{")]);
        for agent in ["aider", "qwen"] {
            let failure = home.configure(agent, &target("x:32b", None)).unwrap_err();
            assert_eq!(failure.class, Class::Settings);
            assert!(failure.message.ends_with("is left as it is"), "{failure:?}");
        }
        assert_eq!(home.read(".aider.model.settings.yml").as_deref(), Some(broken));
        assert_eq!(home.read(".aider.conf.yml"), None);
        assert!(configured(find("aider").unwrap(), &home.place()).unwrap().is_none());
    }

    #[test]
    fn a_key_is_for_its_owners_eyes_only() {
        let home = home(&[]);
        home.configure("aider", &target("x:32b", Some("sk-secret"))).unwrap();
        for name in [".aider.conf.yml", ".local/state/frontier-llm-stack/agents/aider/configured.json"] {
            let mode = fs::metadata(home.0.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert!(home.read(".aider.conf.yml").unwrap().contains("OLLAMA_API_KEY=sk-secret"));
    }

    #[test]
    fn a_link_stays_a_link() {
        let home = home(&[("dotfiles/aider.yml", "a: 1 # x\n")]);
        let link = home.0.path().join(".aider.conf.yml");
        std::os::unix::fs::symlink(home.0.path().join("dotfiles/aider.yml"), &link).unwrap();
        home.configure("aider", &target("x:32b", None)).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(home.read("dotfiles/aider.yml").unwrap().contains("ollama_chat/x:32b"));
    }

    #[test]
    fn only_agents_of_the_same_stack_follow_it() {
        let home = home(&[]);
        home.configure("aider", &target("x:32b", None)).unwrap();
        let now = |_: &Configured| target("z:32b", None);
        assert_eq!(refresh(&home.place(), Path::new("/other"), now), Ok(Vec::new()));
        assert_eq!(refresh(&home.place(), Path::new("/stack"), now), Ok(vec!["aider"]));
        assert_eq!(refresh(&home.place(), Path::new("/stack"), now), Ok(Vec::new()));
    }

    #[test]
    fn cursor_is_refused_with_its_reason() {
        let failure = home(&[]).configure("cursor", &target("x", None)).unwrap_err();
        assert_eq!(failure.class, Class::Refused);
        assert!(failure.causes[0].contains("public HTTPS URL"));
    }
}
