//! What carries requests to a host. The transport is the only difference between this machine and another one.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    component::Component,
    failure::{Class, Failure},
    host::{Follow, Host},
    observed::{Observed, Question},
    plan::Plan,
    process::Command,
    protocol::{Action, Ended, Job, LogQuery, Outcome, Reply, Request},
    release::Contents,
    secret::Secret,
};

/// Carries one exchange.
pub trait Transport {
    /// Sends the request, hands on every event, and returns the reply.
    ///
    /// # Errors
    /// The host's own, and [`Class::Unreachable`] when there was no whole answer.
    fn call(&mut self, request: Request, follow: &mut Follow<'_>) -> Result<Reply, Failure>;
}

/// This machine, in process.
impl Transport for Host {
    fn call(&mut self, request: Request, follow: &mut Follow<'_>) -> Result<Reply, Failure> {
        self.answer(request, follow)
    }
}

/// A host as its client sees it: one method a request.
pub struct Client(pub Box<dyn Transport>);

impl Client {
    /// What is the host, and what has it?
    ///
    /// # Errors
    /// The host cannot be reached, or its files cannot be read.
    pub fn observe(&mut self, question: Question) -> Result<Observed, Failure> {
        match self.0.call(Request::Observe(question), &mut |_| Ok(()))? {
            Reply::Observed(observed) => Ok(*observed),
            reply => Err(mismatch(&reply)),
        }
    }

    /// Gives the host what sudo asks for there.
    ///
    /// # Errors
    /// The host cannot be reached. Whether it is right shows when it is needed.
    pub fn authorize(&mut self, password: Secret) -> Result<(), Failure> {
        self.done(Request::Authorize { password }, &mut |_| Ok(()))
    }

    /// Carries out a plan.
    ///
    /// # Errors
    /// It did not begin. Once begun, how it ended is an [`Outcome`].
    pub fn apply(&mut self, plan: Plan, contents: Contents, follow: &mut Follow<'_>) -> Result<Outcome, Failure> {
        match self.0.call(Request::Apply { plan: Box::new(plan), contents }, follow)? {
            Reply::Ended(Ended::Applied(outcome)) => Ok(outcome),
            reply => Err(mismatch(&reply)),
        }
    }

    /// Runs our own program there with these words, as a job if it takes long or changes something. Answers its exit code.
    ///
    /// # Errors
    /// Nothing is deployed there, or `follow` objected.
    pub fn run(&mut self, args: Vec<String>, as_job: bool, follow: &mut Follow<'_>) -> Result<u8, Failure> {
        match self.0.call(Request::Run { args, as_job }, follow)? {
            Reply::Ended(Ended::Ran(code)) => Ok(code),
            reply => Err(mismatch(&reply)),
        }
    }

    /// Has root run commands that belong to no release.
    ///
    /// # Errors
    /// There is no way to root, the host is being changed, or a command failed.
    pub fn as_root(&mut self, what: &str, commands: Vec<Command>, follow: &mut Follow<'_>) -> Result<(), Failure> {
        self.done(Request::AsRoot { what: what.to_owned(), commands }, follow)
    }

    /// Starts, stops or restarts components; none means all.
    ///
    /// # Errors
    /// A component is not part of the stack, or did not get there.
    pub fn control(
        &mut self,
        action: Action,
        components: BTreeSet<Component>,
        follow: &mut Follow<'_>,
    ) -> Result<(), Failure> {
        self.done(Request::Control { action, components }, follow)
    }

    /// Sends what components printed as events.
    ///
    /// # Errors
    /// There are no such logs, or `follow` had enough.
    pub fn logs(&mut self, query: LogQuery, follow: &mut Follow<'_>) -> Result<(), Failure> {
        self.done(Request::Logs(query), follow)
    }

    /// The secrets that the host keeps, with values if `reveal`.
    ///
    /// # Errors
    /// The host cannot be reached, or its files cannot be read.
    pub fn secrets(&mut self, reveal: bool) -> Result<BTreeMap<String, Option<Secret>>, Failure> {
        match self.0.call(Request::Secrets { reveal }, &mut |_| Ok(()))? {
            Reply::Secrets(secrets) => Ok(secrets),
            reply => Err(mismatch(&reply)),
        }
    }

    /// Keeps a secret on the host, in place of the one that had its name.
    ///
    /// # Errors
    /// The name is none, the host is being changed, or it cannot be written to.
    pub fn set_secret(&mut self, name: String, value: Secret) -> Result<(), Failure> {
        self.done(Request::SetSecret { name, value }, &mut |_| Ok(()))
    }

    /// Forgets a secret.
    ///
    /// # Errors
    /// There is none of that name, or the host is being changed.
    pub fn remove_secret(&mut self, name: String) -> Result<(), Failure> {
        self.done(Request::RemoveSecret { name }, &mut |_| Ok(()))
    }

    /// The jobs that the host remembers, the newest last.
    ///
    /// # Errors
    /// The host cannot be reached, or its files cannot be read.
    pub fn jobs(&mut self) -> Result<Vec<Job>, Failure> {
        match self.0.call(Request::Jobs, &mut |_| Ok(()))? {
            Reply::Jobs(jobs) => Ok(jobs),
            reply => Err(mismatch(&reply)),
        }
    }

    /// Tells what a job did and does, until it ends.
    ///
    /// # Errors
    /// There is no such job, it was killed, or it did not begin.
    pub fn attach(&mut self, job: String, follow: &mut Follow<'_>) -> Result<Ended, Failure> {
        match self.0.call(Request::Attach { job }, follow)? {
            Reply::Ended(ended) => Ok(ended),
            reply => Err(mismatch(&reply)),
        }
    }

    /// Asks a job to stop and to put back what it changed.
    ///
    /// # Errors
    /// There is no such job, or it has ended.
    pub fn cancel(&mut self, job: String) -> Result<(), Failure> {
        self.done(Request::Cancel { job }, &mut |_| Ok(()))
    }

    /// Stops everything and removes what a deploy brought, and with `data` models and samples too.
    ///
    /// # Errors
    /// Something does not stop or cannot be removed.
    pub fn uninstall(&mut self, data: bool, follow: &mut Follow<'_>) -> Result<(), Failure> {
        self.done(Request::Uninstall { data }, follow)
    }

    fn done(&mut self, request: Request, follow: &mut Follow<'_>) -> Result<(), Failure> {
        match self.0.call(request, follow)? {
            Reply::Done => Ok(()),
            reply => Err(mismatch(&reply)),
        }
    }
}

fn mismatch(reply: &Reply) -> Failure {
    Failure::new(Class::Unreachable, "the host's answer does not fit the question")
        .because(&std::io::Error::other(format!("{reply:?}")))
}
