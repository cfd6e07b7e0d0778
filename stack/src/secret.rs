//! Values that nobody prints.
//!
//! They live on the host in files that only their owner can read, and travel on standard input. Invariant: `Debug` shows
//! none; whoever wants one says [`Secret::reveal`], which is easy to search for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A value that prints as `[redacted]`. Serialised it is itself: it has to get to its host somehow.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides a value.
    pub fn new(value: String) -> Self {
        Secret(value)
    }

    /// Shows it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A secret's name: lower-case letters, digits, `-` and `_`, since it becomes a file's.
///
/// # Errors
/// In the words of a usage error.
pub fn name(text: &str) -> Result<String, String> {
    let fits = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '-' || it == '_';
    match text {
        "" => Err("a secret needs a name".to_owned()),
        _ if text.len() > 64 => Err("a secret's name has at most 64 characters".to_owned()),
        _ if !text.chars().all(fits) => Err("write lower-case letters, digits, - and _ only".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_printed_by_accident() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "[redacted] Some([redacted])");
        assert_eq!(secret.reveal(), "hunter2");
    }

    #[test]
    fn a_name_stays_within_its_folder() {
        assert_eq!(name("slack-url_2"), Ok("slack-url_2".to_owned()));
        for wrong in ["", "..", "a/b", "A", "a b", &"a".repeat(65)] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
    }
}
