//! What is wrong with a file, all of it, shown where it stands.
//!
//! Invariant: every fault has a place in the text and says what to write instead.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet, normalize_untrusted_str};

use super::value::Wrong;

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where, in bytes of the text.
    pub span: Range<usize>,
    /// What is wrong, as a lowercase fragment.
    pub message: String,
    /// What to write instead.
    pub help: String,
    /// The other place, when two places disagree.
    pub other: Option<Range<usize>>,
}

impl Fault {
    pub(super) fn new(span: Range<usize>, wrong: Wrong) -> Self {
        Fault { span, message: wrong.message, help: wrong.help, other: None }
    }
}

/// A file with faults: at least one, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} in {}", count(.faults), .file.display())]
pub struct Invalid {
    /// The file's name, as the user knows it.
    pub file: PathBuf,
    /// What it holds.
    pub text: String,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
}

impl Invalid {
    pub(super) fn new(file: &Path, text: impl Into<String>, mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| fault.span.start);
        Invalid { file: file.to_owned(), text: text.into(), faults }
    }

    /// Every fault with file, line, column and caret, and what to write instead.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let shown: Vec<_> = self.faults.iter().map(|fault| self.render_one(fault, &renderer)).collect();
        shown.join("\n\n")
    }

    fn render_one(&self, fault: &Fault, renderer: &Renderer) -> String {
        let here = AnnotationKind::Primary.span(fault.span.clone());
        let there = fault.other.clone().map(|span| AnnotationKind::Context.span(span));
        let place = Snippet::source(&self.text).path(self.file.to_string_lossy()).annotation(here).annotations(there);
        // Titles are normalized by the renderer, messages are not.
        let help = Level::HELP.message(normalize_untrusted_str(&fault.help));
        renderer.render(&[Level::ERROR.primary_title(&fault.message).element(place).element(help)])
    }
}

fn count(faults: &[Fault]) -> String {
    match faults.len() {
        1 => "1 fault".to_owned(),
        n => format!("{n} faults"),
    }
}

/// Why a file gave nothing to work with.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is missing, or may not be read, or is not text.
    #[error("cannot read {}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It was read, and is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

impl LoadError {
    pub(super) fn read(file: &Path) -> Result<String, LoadError> {
        std::fs::read_to_string(file).map_err(|source| LoadError::Unreadable { file: file.to_owned(), source })
    }
}
