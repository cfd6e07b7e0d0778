//! Judges of the model: why it does not load, and why it is slow.

use crate::model::{
    fit::{Row, Verdict},
    gigabytes,
};

use super::{Evidence, Finding, evidence::Model};

/// Of the rate that the memory's bandwidth allows: what a sound engine reaches, and then some room.
const SHARE_OF_LIMIT: f64 = 0.35;

/// Loads of one model from which on they are a habit.
const LOADS: f64 = 5.0;

pub(super) fn judge(evidence: &Evidence) -> Vec<Finding> {
    let model = &evidence.model;
    let mut findings: Vec<Finding> = match &model.answer {
        Some(Err(words)) => vec![failed(model, words)],
        Some(Ok(_)) => slow(evidence),
        None => Vec::new(),
    };
    findings.extend(reloads(&evidence.gateway));
    findings
}

/// The engine's words decide; where they say nothing, the files do.
fn failed(model: &Model, words: &str) -> Finding {
    let name = &model.name;
    let says = |any: &[&str]| any.iter().any(|it| words.to_ascii_lowercase().contains(it));
    let found = |id: &str| Finding::new(id, format!("{name} does not load")).seen(words);
    let Some(blobs) = &model.blobs else { return absent(model) };
    if let Some(blob) = blobs.iter().find(|it| it.bytes != Some(it.wanted_bytes) || it.is_whole == Some(false)) {
        let state = match blob.bytes {
            None => "is not there".to_owned(),
            Some(bytes) if bytes != blob.wanted_bytes => format!("has {bytes} bytes of {}", blob.wanted_bytes),
            Some(_) => "does not have the digest that it is named by".to_owned(),
        };
        return found("corrupt-blob")
            .seen(format!("{} {state}", blob.path.display()))
            .because("a disk error, or a copy that was cut off; the engine believes what is there")
            .fix(format!("cargo xtask model remove {name} --yes, then cargo xtask model pull {name}"));
    }
    if says(&["no space left"]) {
        return found("disk")
            .because("the disk of the models, or the one for temporary files, is full")
            .fix("cargo xtask model list shows what `cargo xtask model remove` could take away");
    }
    if says(&["outofmemory", "out of memory", "failed to allocate", "unable to allocate", "cudamalloc"]) {
        return found("gpu-limit")
            .because("the GPU gives a model no more memory than its limit")
            .fix(raise(model.row.as_ref()));
    }
    if says(&["more system memory", "not enough memory", "cannot allocate memory", "memory limit"]) {
        return found("memory")
            .because("weights, context and buffers together are larger than the memory that is free")
            .fix(format!(
                "cargo xtask model fit {name} shows what fits; `cargo xtask model unload` frees what is held"
            ));
    }
    found("model-fails")
        .because("the engine's log says more than its answer")
        .fix("cargo xtask logs engine, and then cargo xtask restart engine")
}

fn absent(model: &Model) -> Finding {
    let name = &model.name;
    let pull = format!("cargo xtask model pull {name}");
    match model.partial {
        0 => Finding::new("model-absent", format!("{name} is not here"))
            .seen(format!("{} has no manifest of it", model.store.display()))
            .because("it was never pulled, or has been removed")
            .fix(pull),
        count => Finding::new("partial-pull", format!("{name} is not whole"))
            .seen(format!("{count} downloads in {} have begun and not ended", model.store.join("blobs").display()))
            .because("a pull was cut off; what has come is kept for an hour after a restart of the engine")
            .fix(format!("{pull}, which goes on from there")),
    }
}

fn raise(row: Option<&Row>) -> String {
    match row.map(|row| row.verdict) {
        Some(Verdict::FitsWithContext) => smaller(row),
        _ => "cargo xtask tune, which raises it as far as the model needs and the machine allows".to_owned(),
    }
}

fn smaller(row: Option<&Row>) -> String {
    let context = row.and_then(Row::context_that_fits);
    match context {
        Some(context) => format!("context_length = {context} under [engine] in stack.toml, then cargo xtask deploy"),
        None => {
            "a smaller context_length, or kv_cache_type = \"q8_0\", under [engine]; then cargo xtask deploy".to_owned()
        }
    }
}

/// It answers; the question is how.
fn slow(evidence: &Evidence) -> Vec<Finding> {
    let (model, has_gpu) = (&evidence.model, has_gpu(evidence));
    // What runs on the processor is slow for that reason.
    spilled(model, has_gpu).or_else(|| below_limit(model)).into_iter().collect()
}

/// Without a GPU all of a model is on the processor, and nothing is wrong.
fn spilled(model: &Model, has_gpu: bool) -> Option<Finding> {
    let (name, row) = (&model.name, model.row.as_ref());
    let residency = model.residency.as_ref().filter(|it| it.gpu_bytes < it.bytes && (it.gpu_bytes > 0 || has_gpu))?;
    let found = Finding::new("on-cpu", format!("{name} is slow: part of it runs on the processor")).seen(format!(
        "{}, {} with {} tokens",
        residency.place(),
        gigabytes(residency.bytes),
        residency.context
    ));
    Some(match row.map(|row| row.verdict) {
        Some(Verdict::FitsWithContext) => Finding { id: "context-too-large".to_owned(), ..found }
            .because("with its context it is larger than what the GPU may hold; with less, it would fit")
            .fix(smaller(row)),
        Some(Verdict::FitsWithLimit) => found.because("the GPU's memory limit is below what it needs").fix(raise(row)),
        _ => found
            .because("it is larger than what the GPU may hold")
            .fix(format!("cargo xtask model fit {name} shows sizes that fit")),
    })
}

fn has_gpu(evidence: &Evidence) -> bool {
    evidence.observed.facts.as_ref().is_some_and(|machine| !machine.gpus.is_empty())
}

/// A token reads all active weights once: the bandwidth of the memory bounds the rate.
fn below_limit(model: &Model) -> Option<Finding> {
    let rate = model.answer.as_ref()?.as_ref().ok()?.tokens_per_second?;
    let limit = model.row.as_ref()?.tokens_per_second_limit?;
    (rate < SHARE_OF_LIMIT * limit).then(|| {
        Finding::new("below-bandwidth", format!("{} is slower than this machine", model.name))
            .seen(format!("{rate:.1} tokens a second, where the memory's bandwidth allows {limit:.1}"))
            .because("something else uses the GPU, a version of the engine got slower, or power is being saved")
            .fix("cargo xtask bench tells whether it is so again; `cargo xtask bench compare` since when")
    })
}

/// Each `num_ctx` of its own is a load, and so is each model that pushes out another. A request for a model that is in memory
/// takes some milliseconds to be told so.
fn reloads(metrics: &str) -> Option<Finding> {
    let histogram = |name: &str, label: &str| by_model(metrics, &format!("ollama_load_duration_seconds_{name}"), label);
    let quick = histogram("bucket", "le=\"0.5\"");
    let loads = histogram("count", "").into_iter().map(|(name, requests)| {
        let quick = quick.iter().find(|it| it.0 == name).map_or(0.0, |it| it.1);
        (name, requests, requests - quick)
    });
    let (name, requests, loads) = loads.max_by(|a, b| a.2.total_cmp(&b.2))?;
    (loads >= LOADS && 2.0 * loads >= requests).then(|| {
        Finding::new("reloaded", format!("{name} is slow: it is loaded again and again"))
            .seen(format!("{loads} of {requests} requests waited for it to load, since the gateway started"))
            .because("clients ask for different `num_ctx`, models push each other out of memory, or keep_alive is short")
            .fix("the same num_ctx in all clients (`cargo xtask agent configure`), or keep_alive = \"forever\" under [engine]")
    })
}

/// Samples of a metric that have this label, by model.
fn by_model<'a>(metrics: &'a str, name: &str, label: &str) -> Vec<(&'a str, f64)> {
    let sample = |line: &'a str| {
        let labels = line.strip_prefix(name)?.strip_prefix('{').filter(|labels| labels.contains(label))?;
        let (_, rest) = labels.split_once("model=\"")?;
        Some((rest.split('"').next()?, line.rsplit(' ').next()?.parse().ok()?))
    };
    metrics.lines().filter_map(sample).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::evidence::Blob, *};
    use crate::model::{engine::Answer, store::Residency};

    fn model(answer: Result<f64, &str>) -> Model {
        let blob = Blob { path: "/m/blobs/sha256-1".into(), wanted_bytes: 5, bytes: Some(5), is_whole: None };
        let said = |rate| Answer { text: String::new(), load: Duration::ZERO, tokens_per_second: Some(rate) };
        Model {
            name: "qwen3:32b".to_owned(),
            store: "/m".into(),
            blobs: Some(vec![blob]),
            answer: Some(answer.map(said).map_err(str::to_owned)),
            ..Model::default()
        }
    }

    fn row(verdict: Verdict, needs: &str) -> Row {
        Row {
            quantization: String::new(),
            bytes: None,
            kv_bytes: None,
            total_bytes: None,
            verdict,
            needs: Some(needs.to_owned()),
            tokens_per_second_limit: Some(40.0),
        }
    }

    #[test]
    fn a_model_that_does_not_load_is_known_by_what_the_engine_says_of_it() {
        for (words, id) in [
            ("model requires more system memory (22.9 GiB) than is available (15.5 GiB)", "memory"),
            ("error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)", "gpu-limit"),
            ("write /tmp/x: no space left on device", "disk"),
            ("llama runner process has terminated: exit status 2", "model-fails"),
        ] {
            assert_eq!(failed(&model(Err(words)), words).id, id, "{words}");
        }
    }

    #[test]
    fn a_limit_is_raised_unless_less_context_is_what_it_takes() {
        let mut sick = model(Err("out of memory"));
        assert!(failed(&sick, "out of memory").fix.starts_with("cargo xtask tune"));
        sick.row = Some(row(Verdict::FitsWithContext, "--context 8192"));
        assert!(failed(&sick, "out of memory").fix.starts_with("context_length = 8192 under [engine]"));
    }

    #[test]
    fn files_that_are_not_whole_come_before_what_the_engine_says() {
        let found = |bytes, is_whole| {
            let mut sick = model(Err("out of memory"));
            sick.blobs = Some(vec![Blob { path: "/m/b".into(), wanted_bytes: 5, bytes, is_whole }]);
            failed(&sick, "out of memory")
        };
        assert_eq!(found(Some(5), Some(true)).id, "gpu-limit");
        assert_eq!(found(None, None).evidence, "/m/b is not there");
        assert_eq!(found(Some(3), None).evidence, "/m/b has 3 bytes of 5");
        assert_eq!(found(Some(5), Some(false)).id, "corrupt-blob");
    }

    #[test]
    fn a_model_that_is_not_here_was_never_pulled_or_not_to_its_end() {
        let mut gone = model(Err("not found"));
        gone.blobs = None;
        assert_eq!(failed(&gone, "not found").id, "model-absent");
        gone.partial = 2;
        assert_eq!(failed(&gone, "not found").id, "partial-pull");
    }

    #[test]
    fn what_runs_on_the_processor_says_which_way_it_would_fit() {
        let mut spilled_model = model(Ok(1.0));
        let at = |gpu_bytes| Some(Residency { bytes: 100, gpu_bytes, context: 32_768, until: None });
        spilled_model.residency = at(60);
        let found = spilled(&spilled_model, true).unwrap();
        assert_eq!((found.id.as_str(), &found.evidence[..20]), ("on-cpu", "40 % on the processo"));
        spilled_model.row = Some(row(Verdict::FitsWithLimit, "sudo sysctl iogpu.wired_limit_mb=1"));
        assert!(spilled(&spilled_model, true).unwrap().fix.starts_with("cargo xtask tune"));
        spilled_model.row = Some(row(Verdict::FitsWithContext, "--context 8192"));
        let found = spilled(&spilled_model, true).unwrap();
        assert!(found.id == "context-too-large" && found.fix.starts_with("context_length = 8192"), "{found:?}");
        spilled_model.residency = at(0);
        assert!(spilled(&spilled_model, true).is_some(), "a GPU that is there does nothing");
        assert_eq!(spilled(&spilled_model, false), None, "there is none");
        spilled_model.residency = at(100);
        assert_eq!(spilled(&spilled_model, true), None);
    }

    #[test]
    fn a_rate_far_below_what_the_memory_allows_is_found() {
        let mut slow = model(Ok(10.0));
        assert_eq!(below_limit(&slow), None, "nobody knows what this machine could do");
        slow.row = Some(row(Verdict::Fits, ""));
        assert_eq!(below_limit(&slow).unwrap().id, "below-bandwidth");
        slow.answer = model(Ok(20.0)).answer;
        assert_eq!(below_limit(&slow), None);
    }

    #[test]
    fn loads_that_keep_up_with_requests_are_found() {
        let metrics = |quick, requests| {
            format!(
                "# TYPE ollama_load_duration_seconds histogram\n\
                 ollama_load_duration_seconds_count{{model=\"a\"}} {requests}\n\
                 ollama_load_duration_seconds_bucket{{le=\"0.25\",model=\"a\"}} 0\n\
                 ollama_load_duration_seconds_bucket{{le=\"0.5\",model=\"a\"}} {quick}\n\
                 ollama_load_duration_seconds_count{{model=\"b\"}} 90\n\
                 ollama_load_duration_seconds_bucket{{le=\"0.5\",model=\"b\"}} 90\n"
            )
        };
        assert!(reloads(&metrics(2, 8)).unwrap().evidence.starts_with("6 of 8 requests waited"));
        assert_eq!(reloads(&metrics(84, 90)), None);
        assert_eq!(reloads(&metrics(0, 2)), None, "a model has to come into memory");
        assert_eq!(reloads(""), None);
    }
}
