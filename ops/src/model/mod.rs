//! Models: what they need before they are pulled, and everything that is done with them after.
//!
//! Invariant: nothing is pulled, removed or made the default unless the verb was asked to; a figure that is not known is
//! absent, never guessed.

pub mod catalogue;
pub mod convert;
pub mod engine;
pub mod file;
pub mod fit;
pub mod gguf;
pub mod hub;
pub mod modelfile;
pub mod pull;
pub mod store;
pub mod subject;
pub mod upgrade;

/// `18.6 GB`, `397 MB`: as the library counts, in powers of ten.
pub fn gigabytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// The one of `known` that was likely meant, if one is near.
pub fn did_you_mean<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_ascii_lowercase();
    let near = known.into_iter().map(|name| (strsim::jaro_winkler(&typed, &name.to_ascii_lowercase()), name));
    let best = near.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.85).then_some(best.1)
}
