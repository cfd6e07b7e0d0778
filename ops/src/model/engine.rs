//! Ollama's API, asked by a program that waits: one method a route.
//!
//! Invariant: an answer is the engine's own, or a [`Failure`] with its words as the cause.

use std::{
    io::{BufRead, BufReader, Read},
    time::{Duration, Instant},
};

use reqwest::{
    Method,
    blocking::{Body, Client, RequestBuilder, Response},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use stack::{
    component::Component,
    failure::{Class, Failure},
    observed::Observed,
};
pub use wire::ollama::CreateRequest;
use wire::ollama::{
    ErrorBody, GenerateChunk, GenerateRequest, KeepAlive, Line, ModelOptions, NameRequest, Ps, PullProgress,
    PullRequest, ShowRequest, ShowResponse, Tags,
};

use super::file::Whole;
use crate::backup::Watch;

/// What answers at once or not at all.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A large model is read from a disk first, or a long answer is thought over.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Longer lines than any that the engine sends.
const LINE_BYTES: u64 = 1 << 20;

/// The engine of a stack, seen from its host.
pub struct Engine {
    url: String,
    client: Client,
}

/// How long a model that was loaded stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// As long as the engine is set to keep it.
    AsSet,
    /// Until it is unloaded.
    Forever,
}

/// What a model said, and how fast.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// What it said.
    pub text: String,
    /// Until it was in memory.
    pub load: Duration,
    /// Tokens a second, while it spoke.
    pub tokens_per_second: Option<f64>,
}

impl Engine {
    /// The engine of what is deployed.
    pub fn of(observed: &Observed) -> Result<Engine, Failure> {
        let none =
            || Failure::new(Class::Nothing, "nothing is deployed").hint("`cargo xtask deploy` brings up a stack");
        let release = observed.current_release().ok_or_else(none)?;
        let service = release.service(Component::Engine).ok_or_else(none)?;
        Ok(Engine::at(service.url("")))
    }

    /// The engine that listens there, as in `http://127.0.0.1:11435`.
    pub fn at(url: String) -> Engine {
        let client = Client::builder().no_proxy().timeout(None).connect_timeout(TIMEOUT).build();
        Engine { url, client: client.unwrap_or_default() }
    }

    /// The models in the store.
    pub fn list(&self) -> Result<Tags, Failure> {
        read(self.call(self.request(Method::GET, "/api/tags").timeout(TIMEOUT), "")?)
    }

    /// The models in memory.
    pub fn resident(&self) -> Result<Ps, Failure> {
        read(self.call(self.request(Method::GET, "/api/ps").timeout(TIMEOUT), "")?)
    }

    /// Everything about a model of the store.
    pub fn show(&self, model: &str) -> Result<ShowResponse, Failure> {
        let body = ShowRequest { model: model.to_owned(), ..ShowRequest::default() };
        read(self.call(self.request(Method::POST, "/api/show").json(&body).timeout(TIMEOUT), model)?)
    }

    /// Takes a name, and what nobody else refers to, out of the store.
    pub fn remove(&self, model: &str) -> Result<(), Failure> {
        let body = NameRequest { model: model.to_owned(), ..NameRequest::default() };
        self.call(self.request(Method::DELETE, "/api/delete").json(&body).timeout(TIMEOUT), model).map(drop)
    }

    /// Has a model in memory, and tells how long that took.
    pub fn load(&self, model: &str, stay: Stay) -> Result<Duration, Failure> {
        self.keep(model, (stay == Stay::Forever).then_some(KeepAlive::Forever))
    }

    /// Has a model out of memory.
    pub fn unload(&self, model: &str) -> Result<(), Failure> {
        self.keep(model, Some(KeepAlive::For(Duration::ZERO))).map(drop)
    }

    fn keep(&self, model: &str, keep_alive: Option<KeepAlive>) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let body =
            GenerateRequest { model: model.to_owned(), stream: Some(false), keep_alive, ..GenerateRequest::default() };
        let _: GenerateChunk = read(self.generate_with(&body)?)?;
        Ok(begun.elapsed())
    }

    /// Has a model answer; each piece of text is told as it comes. An error of `tell` ends it.
    pub fn ask(
        &self,
        model: &str,
        prompt: &str,
        limit: Option<u32>,
        tell: &mut dyn FnMut(&str) -> Result<(), Failure>,
    ) -> Result<Answer, Failure> {
        let options = ModelOptions { num_predict: limit.map(i64::from), ..ModelOptions::default() };
        let (model, prompt) = (model.to_owned(), prompt.to_owned());
        let response = self.generate_with(&GenerateRequest { model, prompt, options, ..GenerateRequest::default() })?;
        let mut text = String::new();
        let mut last = GenerateChunk::default();
        lines(response, &mut |chunk: GenerateChunk| {
            tell(&chunk.response)?;
            text.push_str(&chunk.response);
            last = chunk;
            Ok(())
        })?;
        if !last.done {
            return Err(Failure::new(Class::Failed, "the engine broke off in the middle of an answer")
                .hint("`cargo xtask logs engine` has its last words"));
        }
        let metrics = last.metrics;
        let rate = metrics.eval_count.zip(metrics.eval_duration.filter(|it| *it > 0));
        Ok(Answer {
            text,
            load: Duration::from_nanos(metrics.load_duration.unwrap_or(0)),
            tokens_per_second: rate.map(|(tokens, nanoseconds)| tokens as f64 * 1e9 / nanoseconds as f64),
        })
    }

    fn generate_with(&self, body: &GenerateRequest) -> Result<Response, Failure> {
        self.call(self.request(Method::POST, "/api/generate").json(body).timeout(ANSWER_TIMEOUT), &body.model)
    }

    /// Brings a model into the store.
    pub fn pull(&self, model: &str, tell: &mut dyn FnMut(&PullProgress) -> Result<(), Failure>) -> Result<(), Failure> {
        let body = PullRequest { model: model.to_owned(), ..PullRequest::default() };
        self.progress("/api/pull", &body, model, tell)
    }

    /// Makes a model out of another, or out of blobs.
    pub fn create(
        &self,
        body: &CreateRequest,
        tell: &mut dyn FnMut(&PullProgress) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.progress("/api/create", body, &body.model, tell)
    }

    /// Gives the engine a model's file, unless it has it. `watch` is told of what is sent.
    pub fn upload(&self, model: &Whole, digest: &str, watch: Watch) -> Result<(), Failure> {
        let path = format!("/api/blobs/{digest}");
        let there = self.request(Method::HEAD, &path).timeout(TIMEOUT).send().map_err(|error| self.silent(&error))?;
        if there.status().is_success() {
            return Ok(());
        }
        let unreadable = |error: &dyn std::error::Error| Failure::new(Class::Failed, "cannot read it").because(error);
        let read = model.read(watch).map_err(|error| unreadable(&error))?;
        self.call(self.request(Method::POST, &path).body(Body::sized(read, model.bytes())), "").map(drop)
    }

    fn progress(
        &self,
        path: &str,
        body: &impl Serialize,
        model: &str,
        tell: &mut dyn FnMut(&PullProgress) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let response = self.call(self.request(Method::POST, path).json(body), model)?;
        let mut last = String::new();
        lines(response, &mut |progress: PullProgress| {
            tell(&progress)?;
            last = progress.status;
            Ok(())
        })?;
        match last.as_str() {
            "success" => Ok(()),
            last => Err(Failure::new(Class::Failed, format!("the engine broke off after {last:?}"))),
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    fn call(&self, request: RequestBuilder, model: &str) -> Result<Response, Failure> {
        let response = request.send().map_err(|error| self.silent(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().unwrap_or_default();
        let words = serde_json::from_str(&text).map_or(text, |body: ErrorBody| body.error);
        if status.as_u16() == 404 {
            return Err(self.no_such_model(model));
        }
        let mut failure = Failure::new(Class::Failed, format!("the engine refused with status {status}"));
        failure.causes.push(words);
        Err(failure)
    }

    fn silent(&self, error: &reqwest::Error) -> Failure {
        Failure::new(Class::Failed, format!("the engine at {} does not answer", self.url))
            .because(error)
            .hint("`cargo xtask status` shows how it is, `cargo xtask logs engine` what it said")
    }

    fn no_such_model(&self, model: &str) -> Failure {
        let here = self.list().unwrap_or_default();
        let near = super::did_you_mean(model, here.models.iter().map(|it| it.name.as_str()));
        let hint = match near {
            Some(near) => format!("did you mean {near}?"),
            None => format!("`cargo xtask model list` shows what is; `cargo xtask model pull {model}` would bring it"),
        };
        Failure::new(Class::Nothing, format!("there is no model {model} here")).hint(hint)
    }
}

fn read<T: DeserializeOwned>(response: Response) -> Result<T, Failure> {
    response
        .json()
        .map_err(|error| Failure::new(Class::Failed, "the engine's answer cannot be understood").because(&error))
}

/// Reads a stream line by line. An error may come in the place of a chunk, under status 200.
fn lines<T: DeserializeOwned>(
    response: Response,
    take: &mut dyn FnMut(T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let broke_off = |error: &dyn std::error::Error| Failure::new(Class::Failed, "the engine broke off").because(error);
    let mut reader = BufReader::new(response);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line).map_err(|error| broke_off(&error))?;
        if read == 0 {
            return Ok(());
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        // Looked at before it is a chunk: every field of a chunk is optional, so that an error would pass for one.
        let value: Value = serde_json::from_slice(&line).map_err(|error| broke_off(&error))?;
        match serde_json::from_value(value).map_err(|error| broke_off(&error))? {
            Line::Error(ErrorBody { error }) => {
                let mut failure = Failure::new(Class::Failed, "the engine gave up");
                failure.causes.push(error);
                return Err(failure);
            }
            Line::Chunk(chunk) => take(chunk)?,
        }
    }
}
