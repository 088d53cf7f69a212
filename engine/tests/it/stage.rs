//! A stage for tests: every attempt of the kinds `work` and `pure` reports to the test and
//! ends as the test says, so that nothing depends on how long anything takes.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use dandori::{
    Clock, Context, Engine, EngineBuilder, Handler, Outcome, Project, ProjectHandle,
    StepError, Timestamp, to_raw,
};
use serde_json::{Value, value::RawValue};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::backend::{Backend, Database};

/// Longer than anything a test waits for: what hangs fails here.
const PATIENCE: Duration = Duration::from_secs(30);

/// An attempt that waits for its end.
pub(crate) struct Call {
    pub(crate) ctx: Context,
    pub(crate) input: Value,
    reply: oneshot::Sender<Result<Outcome, StepError>>,
}

impl Call {
    pub(crate) fn step(&self) -> &str {
        self.ctx.step()
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "reads better where it is called"
    )]
    pub(crate) fn succeed(self, output: Value) {
        self.end(Ok(Outcome::Done(to_raw(&output).unwrap())));
    }

    /// Waits until nobody wants to know how it ends.
    pub(crate) async fn dropped(mut self) {
        self.reply.closed().await;
    }

    pub(crate) fn fail(self, error: StepError) {
        self.end(Err(error));
    }

    pub(crate) fn end(self, result: Result<Outcome, StepError>) {
        // The attempt may have been dropped meanwhile; that is what some tests are about.
        let _ = self.reply.send(result);
    }
}

#[derive(Clone)]
struct Work {
    calls: mpsc::UnboundedSender<Call>,
    is_pure: bool,
}

#[async_trait]
impl Handler for Work {
    fn kind(&self) -> &'static str {
        if self.is_pure { "pure" } else { "work" }
    }

    fn is_pure(&self) -> bool {
        self.is_pure
    }

    async fn run(&self, ctx: Context, input: &RawValue) -> Result<Outcome, StepError> {
        let (reply, end) = oneshot::channel();
        let input = serde_json::from_str(input.get()).unwrap();
        let _ = self.calls.send(Call { ctx, input, reply });
        end.await.unwrap_or_else(|_| std::panic!("the test dropped the call"))
    }
}

/// A database file, a hand-turned clock, and the calls of all engines on it.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) folder: Arc<tempfile::TempDir>,
    pub(crate) database: Database,
    pub(crate) clock: Clock,
    sender: mpsc::UnboundedSender<Call>,
    calls: Arc<Mutex<mpsc::UnboundedReceiver<Call>>>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::on(Backend::Sqlite)
    }

    pub(crate) fn on(backend: Backend) -> Self {
        let (sender, calls) = mpsc::unbounded_channel();
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self {
            database: Database::within(backend, &folder),
            folder,
            clock: Clock::manual(Timestamp::from_micros(1_000_000)),
            sender,
            calls: Arc::new(Mutex::new(calls)),
        }
    }

    /// Another worker on the same database, with calls of its own.
    pub(crate) fn beside(&self) -> Self {
        let (sender, calls) = mpsc::unbounded_channel();
        Self { sender, calls: Arc::new(Mutex::new(calls)), ..self.clone() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("dandori.db")
    }

    pub(crate) fn builder(&self) -> EngineBuilder {
        let builder = self.database.builder().clock(self.clock.clone());
        let kind = |is_pure| Work { calls: self.sender.clone(), is_pure };
        builder.handler(kind(false)).handler(kind(true))
    }

    /// The one executor: whoever was it before is dead.
    pub(crate) async fn engine(&self) -> Engine {
        self.database.bury().await;
        self.builder().start().await.unwrap()
    }

    /// The next attempt that starts.
    pub(crate) async fn next(&self) -> Call {
        let next = async { self.calls.lock().await.recv().await.unwrap() };
        tokio::time::timeout(PATIENCE, next).await.expect("no attempt started")
    }

    /// The next attempts, sorted by step.
    pub(crate) async fn next_of(&self, count: usize) -> Vec<Call> {
        let mut calls = vec![];
        for _ in 0..count {
            calls.push(self.next().await);
        }
        calls.sort_by(|a, b| a.step().cmp(b.step()));
        calls
    }

    /// Whether nothing has started. Anything that was to start has been decided once a
    /// commit and a look at the database have passed, which the caller sees to.
    pub(crate) async fn is_quiet(&self) -> bool {
        self.calls.lock().await.is_empty()
    }

    /// Waits until a condition holds that others bring about.
    pub(crate) async fn until<F: Future<Output = bool>>(
        &self,
        what: &str,
        check: impl Fn() -> F,
    ) {
        let wait = async {
            while !check().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }

    /// Waits until a step is in a state.
    pub(crate) async fn until_step(
        &self,
        project: &ProjectHandle,
        step: &str,
        state: &str,
    ) {
        let what = format!("{step} is {state}");
        self.until(&what, || async {
            let view = project.view().await.unwrap();
            view.steps.iter().any(|s| s.name == step && s.state.as_str() == state)
        })
        .await;
    }
}

/// Steps as `name: state`, in document order.
pub(crate) async fn states(project: &ProjectHandle) -> Vec<String> {
    let view = project.view().await.unwrap();
    view.steps.iter().map(|step| format!("{}: {}", step.name, step.state)).collect()
}

/// A project from YAML.
pub(crate) fn yaml(text: &str) -> Project {
    Project::from_yaml(text).unwrap_or_else(|error| panic!("{error}"))
}

/// Waits for the end of a project, but not for ever.
pub(crate) async fn ended(project: &ProjectHandle) -> dandori::ProjectView {
    tokio::time::timeout(PATIENCE, project.wait())
        .await
        .expect("the project hangs")
        .unwrap()
}
