//! [`Engine`]: what an application embeds. Everything the command line does goes through
//! here.

use std::{path::PathBuf, sync::Arc, time::Duration};

use sha2::{Digest as _, Sha256};

use crate::{
    Clock, Error, Handler, Kinds, ProjectHandle, ProjectId, SessionId, State,
    plan::Plan,
    plans::Plans,
    spec::{
        self, CompileOptions, Compiled, Diagnostic, Document, Limits, Path, Source,
        Tree,
    },
    store::{ListFilter, NewProject, ProjectRow, Reference, Store, Submitted},
    worker,
};

/// How many steps run at once unless told otherwise.
pub const DEFAULT_CONCURRENCY: usize = 16;

/// How many crashes quarantine a step unless told otherwise.
pub const DEFAULT_CRASH_LIMIT: u32 = 3;

/// How long running steps may take to end after a request to shut down, unless told
/// otherwise: container runtimes kill after ten seconds.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(8);

/// A durable workflow engine on one database. Cheap to clone.
///
/// ```
/// use dandori::{Context, Engine, Project, StepError, handler_fn, spec::Task};
///
/// async fn greet(_ctx: Context, name: Name) -> Result<String, StepError> {
///     Ok(format!("hello {}", name.name))
/// }
///
/// #[derive(serde::Deserialize)]
/// struct Name {
///     name: String,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), dandori::Error> {
/// let engine =
///     Engine::builder().temporary().handler(handler_fn("greet", greet)).start().await?;
/// let project = Project::named("greeting").task(
///     Task::new("hello", "greet").with(&serde_json::json!({ "name": "world" })),
/// );
/// let done = engine.submit(project).await?.wait().await?;
/// assert_eq!(done.output.unwrap().get(), r#"{"hello":"hello world"}"#);
/// # engine.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) worker: Option<worker::Handle>,
    pub(crate) plans: Plans,
    kinds: Kinds,
}

impl Drop for Inner {
    /// An engine that is dropped without [`Engine::shutdown`] drains beside what follows;
    /// its right to execute ends with its last step.
    fn drop(&mut self) {
        if let Some(worker) = &self.worker {
            worker.let_go();
        }
    }
}

/// Builds an [`Engine`].
#[derive(Debug)]
pub struct EngineBuilder {
    place: Place,
    kinds: Kinds,
    state: State,
    clock: Clock,
    concurrency: usize,
    crash_limit: u32,
    grace: Duration,
    command: String,
    all: bool,
    steer_only: bool,
    max_batch: usize,
}

#[derive(Debug)]
enum Place {
    Temporary,
    File { path: PathBuf, create: bool },
    Store(Store),
}

/// A project to be submitted: a document and the values of its inputs.
#[derive(Clone, Debug, Default)]
pub struct Project {
    document: Document,
    inputs: Vec<(String, Tree)>,
    folder: Option<PathBuf>,
    source: Option<Source>,
}

impl Project {
    /// A project without tasks yet.
    pub fn named(name: impl Into<String>) -> Self {
        Self::from_document(Document::named(name))
    }

    /// A project from a document.
    pub fn from_document(document: Document) -> Self {
        Self { document, ..Self::default() }
    }

    /// A project from the text of a document.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all findings.
    pub fn from_source(source: Source) -> Result<Self, Error> {
        Self::from_source_within(source, &Limits::default())
    }

    /// A project from the text of a document, within limits.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all findings.
    pub fn from_source_within(source: Source, limits: &Limits) -> Result<Self, Error> {
        let tree = source.read(limits).map_err(Error::Invalid)?;
        let document = Document::from_tree(&tree)
            .map_err(|found| Error::Invalid(source.place_all(found)))?;
        Ok(Self { source: Some(source), ..Self::from_document(document) })
    }

    /// A project from YAML.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all findings.
    pub fn from_yaml(text: &str) -> Result<Self, Error> {
        Self::from_source(Source::new(None, text, spec::Format::Yaml))
    }

    /// A project from JSON.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all findings.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        Self::from_source(Source::new(None, text, spec::Format::Json))
    }

    /// Adds a task.
    #[must_use]
    pub fn task(mut self, task: spec::Task) -> Self {
        self.document.tasks.push(task);
        self
    }

    /// Sets the value of an input; goes over the document's own.
    #[must_use]
    pub fn input(mut self, name: impl Into<String>, value: &serde_json::Value) -> Self {
        self.inputs.push((name.into(), Tree::from(value)));
        self
    }

    /// Records the same submission only once.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.document.idempotency_key = Some(key.into());
        self
    }

    /// The folder that `file('…')` reads from.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// The document.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// The document, to be changed.
    pub fn document_mut(&mut self) -> &mut Document {
        &mut self.document
    }

    /// Compiles the project; findings are placed in the text where there is one.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all findings.
    pub fn compile(
        &self,
        kinds: Option<&Kinds>,
    ) -> Result<(Compiled, Vec<Diagnostic>), Error> {
        let options = CompileOptions {
            kinds,
            inputs: &self.inputs,
            folder: self.folder.as_deref(),
            max_tasks: None,
        };
        let place = |found: Vec<(Diagnostic, Path)>| match &self.source {
            Some(source) => source.place_all(found),
            None => found.into_iter().map(|(diagnostic, _)| diagnostic).collect(),
        };
        match self.document.compile(&options) {
            Ok(mut compiled) => {
                let warnings = place(std::mem::take(&mut compiled.warnings));
                Ok((compiled, warnings))
            }
            Err(found) => Err(Error::Invalid(place(found))),
        }
    }
}

impl EngineBuilder {
    /// Uses a SQLite file, created on first use.
    #[must_use]
    pub fn sqlite(mut self, path: impl Into<PathBuf>) -> Self {
        self.place = Place::File { path: path.into(), create: true };
        self
    }

    /// Uses a SQLite file that must exist.
    #[must_use]
    pub fn existing_sqlite(mut self, path: impl Into<PathBuf>) -> Self {
        self.place = Place::File { path: path.into(), create: false };
        self
    }

    /// Uses a fresh database that is removed with the engine: for tests and examples.
    #[must_use]
    pub fn temporary(mut self) -> Self {
        self.place = Place::Temporary;
        self
    }

    /// Uses an open store.
    #[must_use]
    pub fn store(mut self, store: Store) -> Self {
        self.place = Place::Store(store);
        self
    }

    /// Adds the code behind a kind.
    #[must_use]
    pub fn handler(mut self, handler: impl Handler) -> Self {
        self.kinds.insert(Arc::new(handler));
        self
    }

    /// Adds the code behind several kinds.
    #[must_use]
    pub fn handlers(
        mut self,
        handlers: impl IntoIterator<Item = Arc<dyn Handler>>,
    ) -> Self {
        for handler in handlers {
            self.kinds.insert(handler);
        }
        self
    }

    /// Adds a value that handlers get by its type from their context.
    #[must_use]
    pub fn state<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.state.insert(value);
        self
    }

    /// Uses another clock: tests turn one by hand.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// How many steps may run at once.
    #[must_use]
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// How many crashes of its worker quarantine a step; 0 is no limit.
    #[must_use]
    pub fn crash_limit(mut self, limit: u32) -> Self {
        self.crash_limit = limit;
        self
    }

    /// How long running steps may take to end after [`Engine::shutdown`].
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// What a second executor is told about this one.
    #[must_use]
    pub fn command(mut self, command: impl Into<String>) -> Self {
        self.command = command.into();
        self
    }

    /// Executes only what is submitted or adopted through this engine, not every open
    /// project of the database.
    #[must_use]
    pub fn only_own(mut self) -> Self {
        self.all = false;
        self
    }

    /// Applies messages and starts nothing.
    pub(crate) fn steer_only(mut self) -> Self {
        self.steer_only = true;
        self
    }

    /// How many transitions one commit may hold. Tests use 1, to make crashes repeatable.
    #[must_use]
    pub fn max_batch(mut self, transitions: usize) -> Self {
        self.max_batch = transitions.max(1);
        self
    }

    /// Opens the database without executing anything.
    ///
    /// # Errors
    /// When the database cannot be opened.
    pub async fn connect(self) -> Result<Engine, Error> {
        let store = open(self.place).await?;
        let (clock, kinds) = (self.clock, self.kinds);
        let plans = Plans::default();
        Ok(Engine(Arc::new(Inner { store, clock, worker: None, plans, kinds })))
    }

    /// Opens the database and executes.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process executes on it; else when the database
    /// cannot be opened.
    pub async fn start(self) -> Result<Engine, Error> {
        let store = open(self.place).await?;
        let who = format!("process {} ({})", std::process::id(), self.command);
        let lock = store.lock(&who)?.map_err(Error::Locked)?;
        let session = SessionId::fresh();
        store.begin_session(session, self.command, self.clock.now()).await?;
        let plans = Plans::default();
        let config = worker::Config {
            store: store.clone(),
            plans: plans.clone(),
            kinds: self.kinds.clone(),
            state: self.state,
            clock: self.clock.clone(),
            session,
            concurrency: self.concurrency,
            crash_limit: self.crash_limit,
            grace: self.grace,
            all: self.all,
            steer_only: self.steer_only,
            max_batch: self.max_batch,
        };
        let worker = worker::spawn(config, lock);
        Ok(Engine(Arc::new(Inner {
            store,
            clock: self.clock,
            worker: Some(worker),
            plans,
            kinds: self.kinds,
        })))
    }
}

async fn open(place: Place) -> Result<Store, Error> {
    Ok(match place {
        Place::Temporary => Store::open_temporary().await?,
        Place::File { path, create } => Store::open(&path, create).await?,
        Place::Store(store) => store,
    })
}

impl Engine {
    /// Starts to build an engine: a temporary database, no handlers.
    pub fn builder() -> EngineBuilder {
        EngineBuilder {
            place: Place::Temporary,
            kinds: Kinds::default(),
            state: State::default(),
            clock: Clock::system(),
            concurrency: DEFAULT_CONCURRENCY,
            crash_limit: DEFAULT_CRASH_LIMIT,
            grace: DEFAULT_GRACE,
            command: "an embedding program".to_owned(),
            all: true,
            steer_only: false,
            max_batch: 512,
        }
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    /// The kinds this engine has handlers for.
    pub fn kinds(&self) -> &Kinds {
        &self.0.kinds
    }

    /// The store beneath.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Records a project. When this returns it is on disk; an executing engine starts it.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Conflict`], or the database's.
    pub async fn submit(&self, project: Project) -> Result<ProjectHandle, Error> {
        let executes = self.0.worker.is_some();
        let (compiled, _) = project.compile(executes.then_some(&self.0.kinds))?;
        self.submit_compiled(compiled).await
    }

    /// Records a compiled project.
    ///
    /// # Errors
    /// [`Error::Conflict`], [`Error::Refused`], or the database's.
    pub async fn submit_compiled(
        &self,
        compiled: Compiled,
    ) -> Result<ProjectHandle, Error> {
        if self.0.worker.is_some() {
            self.check_allowed(&compiled.plan)?;
        }
        // Held until it is adopted, so that it need not be read and parsed again.
        let plan = Arc::new(compiled.plan);
        self.0.plans.insert(&plan);
        let id = match &compiled.idempotency_key {
            Some(key) => ProjectId::from_key(key),
            None => ProjectId::fresh(),
        };
        let inputs = serde_json::to_vec(&compiled.inputs).unwrap_or_default();
        let mut fingerprint = Sha256::new();
        fingerprint.update(plan.hash());
        fingerprint.update(&inputs);
        fingerprint.update(compiled.name.as_bytes());
        let project = NewProject {
            id,
            name: compiled.name,
            plan_hash: plan.hash(),
            plan: Arc::clone(plan.bytes()),
            steps: plan.len(),
            priority: compiled.priority,
            inputs: inputs.into(),
            labels: compiled.labels,
            fingerprint: fingerprint.finalize().into(),
            created_at: self.0.clock.now(),
        };
        if self.0.store.submit(Arc::new(project)).await? == Submitted::Conflict {
            return Err(Error::Conflict(id));
        }
        self.execute(id).await?;
        Ok(self.project(id))
    }

    /// Executes a project here, if this engine executes at all.
    ///
    /// # Errors
    /// [`Error::Refused`] when this engine may not run one of its kinds; else when the
    /// project cannot be loaded.
    pub async fn execute(&self, id: ProjectId) -> Result<(), Error> {
        if let Some(worker) = &self.0.worker {
            self.check_project(id).await?;
            worker.adopt(id).await?;
        }
        Ok(())
    }

    /// Refuses a recorded project whose kinds this engine has not or may not run.
    ///
    /// # Errors
    /// [`Error::Refused`], or the database's.
    pub async fn check_project(&self, id: ProjectId) -> Result<(), Error> {
        let row = self.project(id).row().await?;
        let plan = self.0.plans.get(&self.0.store, row.plan_hash).await?;
        self.check_allowed(&plan)
    }

    /// Refuses kinds that this host has not switched on, before anything starts.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn check_allowed(&self, plan: &Plan) -> Result<(), Error> {
        match self.0.kinds.refused(plan) {
            Some((kind, reason)) => Err(Error::Refused { kind, reason }),
            None => Ok(()),
        }
    }

    /// A handle to a project that is known to exist.
    pub fn project(&self, id: ProjectId) -> ProjectHandle {
        ProjectHandle::new(self.clone(), id)
    }

    /// Finds a project by its id, the ending of its id, its name, or `last`.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the database's.
    pub async fn find(&self, text: &str) -> Result<ProjectHandle, Error> {
        match self.0.store.find(&Reference::parse(text)).await? {
            Ok(id) => Ok(self.project(id)),
            Err(reason) => Err(Error::NotFound { wanted: text.to_owned(), reason }),
        }
    }

    /// Lists projects, newest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn list(&self, filter: &ListFilter) -> Result<Vec<ProjectRow>, Error> {
        Ok(self.0.store.list(filter).await?)
    }

    /// The projects that are not ended.
    ///
    /// # Errors
    /// The database's.
    pub async fn open_projects(&self) -> Result<Vec<ProjectHandle>, Error> {
        let ids = self.0.store.open_projects().await?;
        Ok(ids.into_iter().map(|id| self.project(id)).collect())
    }

    /// Drops running steps and stops at once; what they started (a child process) is ended
    /// with them. What is recorded stays.
    pub async fn abort(&self) {
        if let Some(worker) = &self.0.worker {
            worker.abort().await;
        }
    }

    /// Lets running steps end within the grace, then stops. What did not end is started
    /// again by the next engine on the database, and charged to nobody.
    pub async fn shutdown(&self) {
        if let Some(worker) = &self.0.worker {
            worker.shutdown().await;
        }
    }
}
