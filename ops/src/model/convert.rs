//! From weights as they were published to a file that the engine takes, with llama.cpp's own tools.
//!
//! Commands are data; each writes beside its output, which is renamed when it is whole. Invariant: a step whose output is
//! there is done, so a plan made again goes on where the last ended.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use stack::{
    failure::{Class, Doing, Failure},
    process::{self, Command},
};

use wire::ollama::CreateRequest;

use super::{
    catalogue::bits,
    hub,
    modelfile::{self, Modelfile},
};

/// What every model that is made here is told, if its source does not say otherwise.
const MODELFILE: &str = include_str!("../../../config/convert.Modelfile");

/// What is built where no llama.cpp is found.
const LLAMA_CPP: &str = "https://github.com/ggml-org/llama.cpp";

/// Its release: the converter and what it needs change from one to the next.
const LLAMA_CPP_TAG: &str = "b10488";

/// The hub's client, pinned: it resumes a download by itself.
const HUB_CLIENT: &str = "huggingface_hub==0.36.0";

/// What is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What it is made of.
    pub source: Source,
    /// As llama.cpp spells it: `Q5_K_M`.
    pub quantization: String,
    /// Where everything in between is kept; absolute.
    pub work: PathBuf,
}

/// What a model is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `USER/REPO`: weights as published.
    Repository(String),
    /// Weights in a folder of the host.
    Folder(PathBuf),
}

/// What the host has of what is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tools {
    /// `llama-quantize`.
    pub quantize: Option<PathBuf>,
    /// `convert_hf_to_gguf.py`, in a tree of llama.cpp's source.
    pub converter: Option<PathBuf>,
    /// Homebrew.
    pub brew: Option<PathBuf>,
    /// The host is a Mac: what is built has to know its GPU.
    pub is_mac: bool,
}

/// A step, which is done when its output is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// In words.
    pub what: String,
    /// What it writes, in bytes, where that is known.
    pub bytes: Option<u64>,
    /// In this order.
    pub commands: Vec<Command>,
    /// What the commands write, and where that goes when it is whole.
    pub output: Output,
}

/// What a step leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A file; the commands write it under [`part`].
    File(PathBuf),
    /// A mark in the work folder: the commands resume by themselves.
    Mark(PathBuf),
}

impl Output {
    fn path(&self) -> &Path {
        match self {
            Output::File(path) | Output::Mark(path) => path,
        }
    }
}

impl Step {
    /// Whether there is nothing left to do.
    pub fn is_done(&self) -> bool {
        self.output.path().exists()
    }

    /// How much of [`Step::bytes`] is there.
    pub fn done_bytes(&self) -> u64 {
        match &self.output {
            Output::File(file) => part(file).metadata().map_or(0, |meta| meta.len()),
            // The mark has the name of what it is about.
            Output::Mark(mark) => below(&mark.with_extension("")),
        }
    }
}

/// Everything up to the file that the engine is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// The file.
    pub result: PathBuf,
    /// The folder with the source's own configuration.
    pub folder: PathBuf,
}

impl Plan {
    /// Whether anybody knows what the steps write.
    pub fn is_sized(&self) -> bool {
        self.steps.iter().any(|step| step.bytes.is_some())
    }

    /// What is still to be written, with the copy that the engine keeps.
    pub fn missing_bytes(&self) -> u64 {
        let missing = self.steps.iter().filter(|step| !step.is_done()).filter_map(|step| step.bytes);
        missing.sum::<u64>() + self.steps.last().and_then(|step| step.bytes).unwrap_or(0)
    }
}

/// Bytes of all files below a folder.
fn below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.filter_map(|entry| match entry.file_type().ok()?.is_dir() {
        true => Some(below(&entry.path())),
        false => Some(entry.metadata().ok()?.len()),
    });
    bytes.sum()
}

/// Where a file is written before it is whole. The ending stays, for tools that look at it.
pub fn part(file: &Path) -> PathBuf {
    file.with_extension("part.gguf")
}

impl Tools {
    /// What is found on PATH and where tools are put.
    pub fn find(system: &str) -> Tools {
        Tools {
            quantize: process::find("llama-quantize"),
            // Behind a link it would not find its own parts, and PyPI's are of another release.
            converter: process::find("convert_hf_to_gguf.py")
                .and_then(|path| fs::canonicalize(path).ok())
                .filter(|path| path.with_file_name("gguf-py").is_dir()),
            brew: process::find("brew"),
            is_mac: system == "Darwin",
        }
    }
}

/// Reads what was typed as a source.
///
/// # Errors
/// It is neither a folder nor a repository's name.
pub fn source(typed: &str) -> Result<Source, Failure> {
    let folder = Path::new(typed);
    if folder.join("config.json").exists() {
        return Ok(Source::Folder(std::path::absolute(folder).doing("cannot find", folder)?));
    }
    let name = typed.trim_start_matches("https://").trim_start_matches("huggingface.co/");
    if hub::is_repository(name) {
        return Ok(Source::Repository(name.to_owned()));
    }
    Err(Failure::new(Class::Settings, format!("{typed:?} is neither a model's folder nor a repository of the hub"))
        .hint(
            "write USER/REPO, or a folder with a config.json; ready GGUF files are pulled: `cargo xtask model pull \
         hf.co/USER/REPO:QUANT`",
        ))
}

/// What a model is called that nobody has named: `qwen3-8b:q5_k_m`.
pub fn name(source: &Source, quantization: &str) -> String {
    let last = match source {
        Source::Repository(name) => name.rsplit('/').next().map(str::to_owned),
        Source::Folder(folder) => folder.file_name().map(|name| name.to_string_lossy().into_owned()),
    };
    format!("{}:{quantization}", last.unwrap_or_default()).to_ascii_lowercase()
}

/// Bytes of the source's weights: of a folder's files, or as the hub lists them.
pub fn source_bytes(wanted: &Wanted) -> Option<u64> {
    let is_weights = |name: &str| name.ends_with(".safetensors");
    let bytes = match &wanted.source {
        Source::Folder(folder) => {
            let files = fs::read_dir(folder).ok()?.flatten();
            let weights = files.filter(|file| file.file_name().to_str().is_some_and(is_weights));
            weights.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
        }
        Source::Repository(name) => {
            let files = hub::list(name).ok()?;
            files.iter().filter(|file| is_weights(&file.path)).map(|file| file.bytes).sum()
        }
    };
    Some(bytes).filter(|bytes| *bytes > 0)
}

/// Plans everything up to the file that the engine is given.
///
/// # Errors
/// The quantisation is not known.
pub fn plan(wanted: &Wanted, tools: &Tools, bytes: Option<u64>) -> Result<Plan, Failure> {
    let Some(per_weight) = bits(&wanted.quantization) else {
        return Err(Failure::new(Class::Settings, format!("{} is no quantisation known here", wanted.quantization))
            .hint("Q4_K_M, Q5_K_M, Q6_K and Q8_0 are the usual ones"));
    };
    let result = wanted.work.join(format!("{}.gguf", wanted.quantization));
    let mut steps: Vec<Step> = install(wanted, tools).into_iter().collect();
    let folder = match &wanted.source {
        Source::Folder(folder) => folder.clone(),
        Source::Repository(_) => wanted.work.join("source"),
    };
    steps.push(environment(wanted, tools));
    steps.extend(fetch(wanted, &folder, bytes));
    let full = wanted.work.join("bf16.gguf");
    let converter = converter(wanted, tools);
    let args = [&text(&converter), &text(&folder), "--outtype", "bf16", "--outfile", &text(&part(&full))];
    steps.push(Step {
        what: "convert to GGUF".to_owned(),
        bytes,
        commands: vec![command(wanted.work.join("venv/bin/python"), &args)],
        output: Output::File(full.clone()),
    });
    let quantize = tools.quantize.clone().unwrap_or_else(|| match &tools.brew {
        Some(brew) => brew.with_file_name("llama-quantize"),
        None => wanted.work.join("llama.cpp/build/bin/llama-quantize"),
    });
    let args = [&text(&full), &text(&part(&result)), wanted.quantization.as_str()];
    steps.push(Step {
        what: format!("quantise to {}", wanted.quantization),
        bytes: bytes.map(|bytes| (bytes as f64 * per_weight / 16.0) as u64),
        commands: vec![command(quantize, &args)],
        output: Output::File(result.clone()),
    });
    Ok(Plan { steps, result, folder })
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn command(program: PathBuf, args: &[&str]) -> Command {
    Command { program, args: args.iter().map(|arg| (*arg).to_owned()).collect(), env: [].into() }
}

fn named(name: &str, args: &[&str]) -> Command {
    command(process::find(name).unwrap_or_else(|| PathBuf::from(name)), args)
}

fn converter(wanted: &Wanted, tools: &Tools) -> PathBuf {
    tools.converter.clone().unwrap_or_else(|| wanted.work.join("llama.cpp/convert_hf_to_gguf.py"))
}

/// The programs from Homebrew, else built with CMake; the converter, which Homebrew does not keep whole, from the source.
fn install(wanted: &Wanted, tools: &Tools) -> Option<Step> {
    let lacks_programs = tools.quantize.is_none();
    let brew = tools.brew.as_ref().filter(|_| lacks_programs);
    let is_built = lacks_programs && brew.is_none();
    let lacks_source = is_built || tools.converter.is_none();
    let (tree, build) = (text(&wanted.work.join("llama.cpp")), text(&wanted.work.join("llama.cpp/build")));
    let mut commands = Vec::new();
    if let Some(brew) = brew {
        commands.push(command(brew.clone(), &["install", "llama.cpp"]));
        let server = text(&brew.with_file_name("llama-server"));
        commands.extend(tools.is_mac.then(|| sees_metal("\"$1\" --list-devices 2>&1 | grep -E 'MTL|Metal'", &server)));
    }
    if lacks_source {
        // A clone that was cut is no repository to go on from.
        commands.push(named("rm", &["-rf", &tree]));
        commands.push(named("git", &["clone", "--depth", "1", "--branch", LLAMA_CPP_TAG, LLAMA_CPP, &tree]));
    }
    if is_built {
        let flags = ["-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_CURL=OFF"];
        commands.push(named("cmake", &["-S", &tree, "-B", &build, flags[0], flags[1]]));
        let cache = format!("{build}/CMakeCache.txt");
        commands.extend(tools.is_mac.then(|| sees_metal("grep '^GGML_METAL:BOOL=ON' \"$1\"", &cache)));
        let how = ["--config", "Release", "-j", "--target", "llama-quantize"];
        commands.push(named("cmake", &[["--build", &build].as_slice(), &how].concat()));
    }
    let what = match (brew, is_built) {
        (Some(_), _) => "install llama.cpp with Homebrew",
        (None, true) => "build llama.cpp",
        (None, false) => "fetch llama.cpp's converter",
    };
    let output = Output::Mark(wanted.work.join("llama.cpp.done"));
    (!commands.is_empty()).then(|| Step { what: what.to_owned(), bytes: None, commands, output })
}

/// Ends the step where the GPU was left out.
fn sees_metal(check: &str, subject: &str) -> Command {
    let script = format!("{check} || {{ echo 'this llama.cpp does not know Metal'; exit 1; }}");
    named("sh", &["-c", &script, "sh", subject])
}

fn environment(wanted: &Wanted, tools: &Tools) -> Step {
    let venv = wanted.work.join("venv");
    let pip = venv.join("bin/pip");
    let mut commands = vec![named("python3", &["-m", "venv", &text(&venv)])];
    if !matches!(wanted.source, Source::Folder(_)) {
        commands.push(command(pip.clone(), &["install", HUB_CLIENT]));
    }
    let listed = converter(wanted, tools).with_file_name("requirements/requirements-convert_hf_to_gguf.txt");
    commands.push(command(pip, &["install", "-r", &text(&listed)]));
    let output = Output::Mark(wanted.work.join("venv.done"));
    Step { what: "make a Python environment".to_owned(), bytes: None, commands, output }
}

fn fetch(wanted: &Wanted, folder: &Path, bytes: Option<u64>) -> Option<Step> {
    let Source::Repository(repository) = &wanted.source else { return None };
    Some(Step {
        what: format!("fetch {repository}"),
        bytes,
        commands: vec![command(
            wanted.work.join("venv/bin/hf"),
            &["download", repository, "--local-dir", &text(folder), "--exclude", "*.gguf", "original/*"],
        )],
        output: Output::Mark(wanted.work.join("source.done")),
    })
}

/// Runs a step whose output is missing. What the tools print goes to `log`. `watch` ends it by an error.
///
/// # Errors
/// Names the step, the log's last line, and that the same command resumes.
pub fn run(step: &Step, log: &Path, watch: &mut dyn FnMut() -> Result<(), Failure>) -> Result<(), Failure> {
    for command in &step.commands {
        let mut objection = None;
        let ran = process::run_watched(command, "", log, &mut || {
            objection = watch().err();
            objection.is_none()
        });
        if let Some(failure) = objection {
            return Err(failure.hint("what is whole is kept: the same command goes on from there"));
        }
        if !ran.doing("cannot run", &command.program)? {
            let mut failure = Failure::new(Class::Failed, format!("cannot {}", step.what))
                .hint(format!("{} has all that was said; the same command goes on from this step", log.display()));
            failure.causes.extend(process::last_words(log));
            return Err(failure);
        }
    }
    match &step.output {
        Output::File(file) => {
            let part = part(file);
            super::gguf::read(&part)?;
            fs::rename(&part, file).doing("cannot write", file)
        }
        Output::Mark(mark) => fs::write(mark, "").doing("cannot write", mark),
    }
}

/// What the engine is asked to make of the file: `config/convert.Modelfile`, and before that what the source's own
/// configuration says of sampling, of its context, and of where an answer ends. The chat template travels in the GGUF,
/// where the engine finds it.
pub fn request(name: &str, folder: &Path) -> Result<CreateRequest, Failure> {
    let given = Modelfile { name: name.to_owned(), text: format!("FROM {name}\n{MODELFILE}") };
    let mut request = CreateRequest { from: String::new(), ..modelfile::parse(&given)? };
    let mut parameters = request.parameters.unwrap_or_default();
    let read = |name: &str| -> Value {
        fs::read(folder.join(name)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    };
    let most = read("config.json")["max_position_embeddings"].as_u64();
    if let (Some(most), Some(context)) = (most, parameters.get_mut("num_ctx")) {
        *context = context.as_u64().unwrap_or(most).min(most).into();
    }
    let (tokenizer, generation) = (read("tokenizer_config.json"), read("generation_config.json"));
    let token = |value: &Value| value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned);
    let ids = match &generation["eos_token_id"] {
        Value::Array(ids) => ids.clone(),
        Value::Null => Vec::new(),
        id => vec![id.clone()],
    };
    let named = ids.iter().filter_map(|id| token(&tokenizer["added_tokens_decoder"][id.to_string()]));
    let mut stops: Vec<String> = token(&tokenizer["eos_token"]).into_iter().chain(named).collect();
    stops.sort();
    stops.dedup();
    if !stops.is_empty() {
        parameters.insert("stop".to_owned(), stops.into());
    }
    for (theirs, ours) in [
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("top_k", "top_k"),
        ("repetition_penalty", "repeat_penalty"),
    ] {
        if generation[theirs].is_number() {
            parameters.insert(ours.to_owned(), generation[theirs].clone());
        }
    }
    request.parameters = Some(parameters);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wanted(source: Source, work: &Path) -> Wanted {
        Wanted { source, quantization: "Q5_K_M".to_owned(), work: work.to_owned() }
    }

    #[test]
    fn a_plan_tells_the_bytes_of_each_stage_and_forgets_what_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = wanted(Source::Repository("Qwen/Qwen3-235B-A22B".to_owned()), folder.path());
        let plan = |wanted: &Wanted| super::plan(wanted, &Tools::default(), Some(470_000_000_000)).unwrap();
        let whole = plan(&wanted);
        let named: Vec<(&str, Option<u64>)> = whole
            .steps
            .iter()
            .map(|step| (step.what.as_str(), step.bytes.map(|bytes| bytes / 1_000_000_000)))
            .collect();
        assert_eq!(
            named,
            [
                ("build llama.cpp", None),
                ("make a Python environment", None),
                ("fetch Qwen/Qwen3-235B-A22B", Some(470)),
                ("convert to GGUF", Some(470)),
                ("quantise to Q5_K_M", Some(167)),
            ]
        );
        assert_eq!(whole.missing_bytes() / 1_000_000_000, 1274);
        fs::write(folder.path().join("source.done"), "").unwrap();
        fs::write(folder.path().join("bf16.gguf"), "").unwrap();
        assert_eq!(plan(&wanted).missing_bytes() / 1_000_000_000, 334);
    }

    #[test]
    fn llama_cpp_is_pinned_and_on_a_mac_has_metal() {
        let wanted = wanted(Source::Repository("Qwen/Qwen3-8B".to_owned()), Path::new("/w"));
        let commands = |tools: &Tools| {
            let step = install(&wanted, tools).unwrap();
            step.commands.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        let built = commands(&Tools { is_mac: true, ..Tools::default() });
        assert!(built.contains(LLAMA_CPP_TAG) && built.contains("GGML_METAL"), "{built}");
        let brew = Some("/opt/homebrew/bin/brew".into());
        let brewed = commands(&Tools { is_mac: true, brew, ..Tools::default() });
        assert!(brewed.contains("/opt/homebrew/bin/llama-server") && brewed.contains(LLAMA_CPP_TAG), "{brewed}");
        assert!(!commands(&Tools::default()).contains("METAL"));
        assert_eq!(name(&wanted.source, "Q5_K_M"), "qwen3-8b:q5_k_m");
    }

    #[test]
    fn sources_are_told_apart() {
        assert_eq!(source("Qwen/Qwen3-8B").unwrap(), Source::Repository("Qwen/Qwen3-8B".to_owned()));
        assert_eq!(source("https://huggingface.co/a/b").unwrap(), Source::Repository("a/b".to_owned()));
        assert!(source("hf.co/a/b").unwrap_err().hint.unwrap().contains("model pull hf.co/USER/REPO"));
        for wrong in ["", "a", "a/b/c", "-x/y", "../b", "a/b;c"] {
            assert_eq!(source(wrong).unwrap_err().class, Class::Settings, "{wrong}");
        }
        let quantization = "Q9_Z".to_owned();
        let wanted = Wanted { quantization, ..wanted(Source::Repository("a/b".to_owned()), Path::new("/w")) };
        assert_eq!(plan(&wanted, &Tools::default(), None).unwrap_err().class, Class::Settings);
    }

    #[test]
    fn stop_tokens_are_the_sources_own() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, value: Value| fs::write(folder.path().join(name), value.to_string()).unwrap();
        let parameters = || Value::from(request("m", folder.path()).unwrap().parameters.unwrap());
        assert_eq!(parameters(), json!({"num_ctx": 32768, "temperature": 0.2}));
        write("config.json", json!({"max_position_embeddings": 2048}));
        write(
            "tokenizer_config.json",
            json!({"eos_token": {"content": "<|im_end|>"},
            "added_tokens_decoder": {"7": {"content": "<|endoftext|>"}, "8": {"content": "<|im_end|>"}}}),
        );
        write(
            "generation_config.json",
            json!({"eos_token_id": [8, 7], "temperature": 0.7, "top_k": 20, "do_sample": true}),
        );
        let stop = ["<|endoftext|>", "<|im_end|>"];
        assert_eq!(parameters(), json!({"stop": stop, "temperature": 0.7, "top_k": 20, "num_ctx": 2048}));
        assert!(request("m", folder.path()).unwrap().system.starts_with("You are"));
    }
}
