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

/// What the hub says, through the engine, of a repository whose files would have to be merged.
const IN_PIECES: &str = "sharded gguf";

/// What the engine says when a layer is not what its manifest says.
const MISMATCH: &str = "digest mismatch";

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

/// Who hears of it, and ends it by an error of class `Interrupted`.
pub type Tell<'t> = &'t mut dyn FnMut(Event) -> Result<(), Failure>;

/// Why a try failed.
pub(super) enum Tried {
    /// It may be another time. `moved`: something came, and is kept.
    Passing { failure: Failure, moved: bool },
    /// Trying again does not change it.
    Lasting(Failure),
}

impl Tried {
    /// For whom everything that has a class of its own is lasting.
    pub(super) fn by_class(failure: Failure, moved: bool) -> Tried {
        match failure.class {
            Class::Failed => Tried::Passing { failure, moved },
            _ => Tried::Lasting(failure),
        }
    }
}

/// Tries until it is done, while that can help and there is patience left. As long as it moves there is.
pub(super) fn patiently<T>(
    tell: Tell<'_>,
    mut attempt: impl FnMut(Tell<'_>) -> Result<T, Tried>,
) -> Result<T, Failure> {
    let mut pauses = PAUSES_S.into_iter();
    loop {
        let (failure, moved) = match attempt(tell) {
            Ok(done) => return Ok(done),
            Err(Tried::Lasting(failure)) => return Err(failure),
            Err(Tried::Passing { failure, moved }) => (failure, moved),
        };
        if moved {
            pauses = PAUSES_S.into_iter();
        }
        let Some(pause_s) = pauses.next() else { return Err(failure) };
        tell(Event::Again { cause: failure.causes.last().unwrap_or(&failure.message).clone(), pause_s })?;
        thread::sleep(Duration::from_secs(pause_s));
    }
}

/// Brings `model` into the store.
pub fn pull(engine: &Engine, model: &str, tell: Tell<'_>) -> Result<(), Failure> {
    // How far each layer ever came. Only what is new counts: a layer that is thrown away for its digest comes again and
    // again, and that is no progress.
    let mut furthest: BTreeMap<String, u64> = BTreeMap::new();
    let mut is_mismatched = false;
    let pulled = patiently(tell, |tell| {
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
        tried.map_err(|failure| {
            let words = failure.causes.last().unwrap_or(&failure.message).clone();
            // All of it has come for nothing. A second time says that there is a reason.
            if words.contains(MISMATCH) && std::mem::replace(&mut is_mismatched, true) {
                let twice = Failure::new(Class::Refused, format!("{model} came twice with another digest than it should"));
                return Tried::Lasting(Failure { causes: failure.causes, ..twice }.hint(
                    "the engine has thrown it away, and nothing of it is registered; a proxy may change what it passes on, \
                     or memory or the disk is failing: look there, and pull again",
                ));
            }
            match lasting(model, &words) {
                Some(lasting) => Tried::Lasting(Failure { causes: failure.causes, ..lasting }),
                None => Tried::by_class(failure, moved),
            }
        })
    });
    pulled.map_err(|failure| match failure.class {
        Class::Failed if failure.hint.is_none() => Failure { message: format!("cannot pull {model}"), ..failure }
            .hint(format!("what came is kept; `cargo xtask model pull {model}` goes on from there")),
        _ => failure,
    })
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
        assert!(lasting("m", "write /x: no space left on device").unwrap().hint.unwrap().contains("partial"));
    }
}
