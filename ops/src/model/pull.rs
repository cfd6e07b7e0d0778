//! Bringing a model: tried again while that can help, what came kept in between.
//!
//! Invariant: whoever returns `Ok` has had the engine's `success`, which it says after it has verified every digest.

use std::{collections::BTreeMap, thread, time::Duration};

use stack::{
    failure::{Class, Failure},
    protocol::Progress,
};
use wire::ollama::PullProgress;

use super::{catalogue::Catalogue, engine::Engine};

/// Between two tries. Six hours of download deserve more than one.
const PAUSES_S: [u64; 5] = [1, 2, 5, 15, 30];

/// What the engine says of a repository whose files it would have to merge, which it does not.
const IN_PIECES: &str = "sharded gguf";

/// The repository and the size of a model that the engine has refused because it comes in pieces.
pub fn in_pieces(model: &str, failure: &Failure) -> Option<(String, String)> {
    let is_so = failure.causes.iter().any(|cause| cause.to_ascii_lowercase().contains(IN_PIECES));
    let (repository, quantization) = model.rsplit_once(':').filter(|_| is_so)?;
    Some((repository.to_owned(), quantization.to_ascii_uppercase()))
}

/// What happens on the way.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A layer comes.
    Layer(Progress),
    /// Something else is done.
    Status(String),
    /// It failed, and is tried again.
    Again {
        /// Why.
        cause: String,
        /// After so many seconds.
        pause_s: u64,
    },
}

/// Brings `model` into the store. `tell` ends it by an error of class `Interrupted`.
pub fn pull(engine: &Engine, model: &str, tell: &mut dyn FnMut(Event) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut pauses = PAUSES_S.into_iter();
    // How far each layer ever came. Only what is new counts: a layer that is thrown away for its digest comes again and
    // again, and that is no progress.
    let mut furthest: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        let mut moved = false;
        let mut before = String::new();
        let tried = engine.pull(model, &mut |progress| match layer(progress) {
            Some(layer) => {
                let reached = furthest.entry(progress.digest.clone()).or_default();
                moved |= layer.done_bytes > *reached;
                *reached = layer.done_bytes.max(*reached);
                tell(Event::Layer(layer))
            }
            None if progress.status == before => Ok(()),
            None => {
                before.clone_from(&progress.status);
                tell(Event::Status(progress.status.clone()))
            }
        });
        let failure = match tried {
            Ok(()) => return Ok(()),
            Err(failure) if failure.class != Class::Failed => return Err(failure),
            Err(failure) => failure,
        };
        let words = failure.causes.last().unwrap_or(&failure.message).clone();
        if let Some(lasting) = lasting(model, &words) {
            return Err(Failure { causes: failure.causes, ..lasting });
        }
        if moved {
            // It goes on from there: that is no reason to lose patience.
            pauses = PAUSES_S.into_iter();
        }
        let Some(pause_s) = pauses.next() else {
            return Err(Failure { message: format!("cannot pull {model}"), ..failure }
                .hint(format!("what came is kept; `cargo xtask model pull {model}` goes on from there")));
        };
        tell(Event::Again { cause: words, pause_s })?;
        thread::sleep(Duration::from_secs(pause_s));
    }
}

fn layer(progress: &PullProgress) -> Option<Progress> {
    let total_bytes = Some(progress.total?);
    Some(Progress { what: progress.status.clone(), done_bytes: progress.completed.unwrap_or(0), total_bytes })
}

/// What trying again does not change, by the engine's words.
fn lasting(model: &str, words: &str) -> Option<Failure> {
    let words = words.to_ascii_lowercase();
    let says = |part: &str| words.contains(part);
    if says("file does not exist") || says("invalid model name") {
        let near = Catalogue::built_in().ok().and_then(|catalogue| catalogue.suggestion(model));
        let hint = near.map_or_else(
            || "https://ollama.com/library lists what there is".to_owned(),
            |near| format!("did you mean {near}?"),
        );
        return Some(Failure::new(Class::Nothing, format!("the registry has no model {model}")).hint(hint));
    }
    if says("no space left on device") || says("disk quota exceeded") {
        return Some(
            Failure::new(Class::Failed, format!("the disk of the models is full before {model} is whole")).hint(format!(
                "free some space and pull again: what came is kept as blobs/sha256-*-partial* of the model store for an \
                 hour after the engine's next start; `cargo xtask model pull {model}` goes on from there"
            )),
        );
    }
    if says(IN_PIECES) {
        return Some(
            Failure::new(Class::Failed, format!("{model} comes in pieces, which the engine does not put together"))
                .hint("name one of its sizes, as in hf.co/USER/REPO:Q5_K_M: then they are fetched and merged here"),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        assert_eq!(lasting("m", "unexpected EOF"), None);
        assert_eq!(lasting("m", "digest mismatch, file must be downloaded again"), None);
        let unknown = lasting("qwen2.5-codr:32b", "pull model manifest: file does not exist").unwrap();
        assert_eq!((unknown.class, unknown.hint.as_deref()), (Class::Nothing, Some("did you mean qwen2.5-coder:32b?")));
        assert!(lasting("m", "No space left on device (os error 28)").is_some());
        let failure =
            Failure { causes: vec!["it contains sharded GGUF".to_owned()], ..Failure::new(Class::Failed, "x") };
        assert_eq!(in_pieces("hf.co/u/r:q4_k_m", &failure), Some(("hf.co/u/r".to_owned(), "Q4_K_M".to_owned())));
        assert_eq!(
            (in_pieces("hf.co/u/r", &failure), in_pieces("a:b", &Failure::new(Class::Failed, "x"))),
            (None, None)
        );
        assert!(lasting("m", "write /x: no space left on device").unwrap().hint.unwrap().contains("partial"));
    }
}
