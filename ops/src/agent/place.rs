//! Where things of a user's agents are: the user's home, and what we remember beside it.
//!
//! Invariant: what we write below `state` is for its owner's eyes only, since settings hold keys.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use stack::{
    durable,
    failure::{Class, Doing, Failure},
};

/// The folders of one user.
#[derive(Debug, Clone)]
pub struct Place {
    /// Where agents look for their settings.
    pub home: PathBuf,
    /// Where we remember what was done; `~/.local/state/frontier-llm-stack/agents`, unless the system has another place.
    pub state: PathBuf,
}

impl Place {
    /// Of the user with this home folder; `state_home` is `XDG_STATE_HOME`.
    pub fn new(home: PathBuf, state_home: Option<PathBuf>) -> Place {
        let state = state_home.filter(|it| it.is_absolute()).unwrap_or_else(|| home.join(".local/state"));
        Place { home, state: state.join("frontier-llm-stack/agents") }
    }

    /// Where uv, pipx and npm put programs of a user, PATH or not.
    pub(crate) fn bin(&self) -> PathBuf {
        self.home.join(".local/bin")
    }

    pub(crate) fn record(&self, agent: &str, name: &str) -> PathBuf {
        self.state.join(agent).join(name)
    }

    pub(crate) fn read<T: DeserializeOwned>(&self, agent: &str, name: &str) -> Result<Option<T>, Failure> {
        let path = self.record(agent, name);
        let Some(text) = read_if_any(&path)? else { return Ok(None) };
        let value = serde_json::from_str(&text).map_err(|error| {
            Failure::new(Class::Failed, format!("cannot understand {}", path.display()))
                .because(&error)
                .hint(format!("it is ours: move it away, and `cargo xtask agent configure {agent}` writes it anew"))
        })?;
        Ok(Some(value))
    }

    pub(crate) fn write<T: Serialize>(&self, agent: &str, name: &str, value: &T) -> Result<(), Failure> {
        let json = serde_json::to_string_pretty(value).map_err(io::Error::from);
        let path = self.record(agent, name);
        write(&path, &json.doing("cannot write", &path)?, true)
    }

    /// Forgets all of an agent's files with this name or below it.
    pub(crate) fn forget(&self, agent: &str, name: &str) -> Result<(), Failure> {
        durable::remove(&self.record(agent, name))
    }
}

/// `None` where there is no such file.
pub(crate) fn read_if_any(path: &Path) -> Result<Option<String>, Failure> {
    let Some(bytes) = durable::read_if_any(path).doing("cannot read", path)? else { return Ok(None) };
    String::from_utf8(bytes).map(Some).map_err(|error| {
        Failure::new(Class::Settings, format!("{} is no text", path.display()))
            .because(&error)
            .hint("it was left as it is; mend it or move it away, and run the same command again")
    })
}

/// Replaces a file whole. A link stays a link, so that those who keep their settings elsewhere keep them there.
pub(crate) fn write(path: &Path, text: &str, private: bool) -> Result<(), Failure> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = real.parent().unwrap_or(&real);
    let write = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let was_private = fs::metadata(&real).is_ok_and(|meta| meta.permissions().mode() & 0o077 == 0);
        match private || was_private {
            true => durable::write_private(&real, text.as_bytes()),
            false => durable::write(&real, text.as_bytes()),
        }
    };
    write().map_err(|error| {
        Failure::new(Class::Failed, format!("cannot write {}", path.display())).because(&error).hint(
            "nothing of it was changed; give your user the right to write there. --dry-run shows what would be written",
        )
    })
}
