//! [`Engine`]: what an application embeds. Everything the command line does goes through
//! here.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use crate::{
    Clock, Error, Handler, Kinds, ProjectHandle, ProjectId, SessionId, State,
    Timestamp,
    plan::Plan,
    plans::Plans,
    run::ProjectState,
    store::{
        ListFilter, PostgresOptions, ProjectRow, Reference, Serves, SessionRow, Store,
        StoreError, StoreErrorKind,
    },
    worker,
};

/// How many steps run at once unless told otherwise.
pub const DEFAULT_CONCURRENCY: usize = 16;

/// How many crashes quarantine a step unless told otherwise.
pub const DEFAULT_CRASH_LIMIT: u32 = 3;

/// How long running steps may take to end after a request to shut down, unless told
/// otherwise: container runtimes kill after ten seconds.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(8);

/// How long a worker is believed to be alive after a beat, unless told otherwise.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(10);

/// The shortest lease: beats come four times in it, and each is a query.
pub const SHORTEST_LEASE: Duration = Duration::from_secs(1);

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
    pub(crate) names: crate::project::Names,
    kinds: Kinds,
    /// Whether what cannot run here may run on another worker.
    pub(crate) spreads: bool,
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
    lease: Duration,
    queues: BTreeSet<String>,
    command: String,
    all: bool,
    steer_only: bool,
    max_batch: usize,
}

#[derive(Debug)]
enum Place {
    Temporary,
    File { path: PathBuf, create: bool },
    Server(PostgresOptions),
    Store(Store),
    Unknown,
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

    /// Uses a PostgreSQL database; its schema is created and migrated on first use.
    #[must_use]
    pub fn postgres(self, url: impl Into<String>) -> Self {
        self.postgres_with(PostgresOptions::new(url))
    }

    /// Uses a PostgreSQL database with options.
    #[must_use]
    pub fn postgres_with(mut self, options: PostgresOptions) -> Self {
        self.place = Place::Server(options);
        self
    }

    /// Uses the database of a URL: `sqlite:PATH` or `postgres://…`. Anything else is
    /// refused when the engine is started.
    #[must_use]
    pub fn database(mut self, url: &str) -> Self {
        let path =
            url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:"));
        match path.filter(|path| !path.is_empty() && *path != ":memory:") {
            Some(path) => self.sqlite(path.split('?').next().unwrap_or(path)),
            None if is_postgres(url) => self.postgres(url),
            None => {
                self.place = Place::Unknown;
                self
            }
        }
    }

    /// Runs only steps of these queues; of all when none are named. On a shared database
    /// the steps of other queues run on the workers that serve them.
    #[must_use]
    pub fn queues(
        mut self,
        queues: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.queues = queues.into_iter().map(Into::into).collect();
        self
    }

    /// How long this worker is believed to be alive after a beat, on a shared database: its
    /// work is taken over so long after it has died. At least [`SHORTEST_LEASE`].
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(SHORTEST_LEASE);
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
        let clock = clock_of(&store, self.clock).await?;
        let kinds = self.kinds;
        let plans = Plans::default();
        let spreads = store.is_shared();
        Ok(Engine(Arc::new(Inner {
            store,
            clock,
            worker: None,
            plans,
            names: Default::default(),
            kinds,
            spreads,
        })))
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
        let clock = clock_of(&store, self.clock).await?;
        let session = SessionId::fresh();
        let kinds = self.kinds.allowed().map(str::to_owned).collect();
        let plans = Plans::default();
        let config = worker::Config {
            store: store.clone(),
            plans: plans.clone(),
            kinds: self.kinds.clone(),
            state: self.state,
            clock: clock.clone(),
            command: self.command,
            serves: Serves { queues: self.queues, kinds },
            lease: self.lease,
            concurrency: self.concurrency,
            crash_limit: self.crash_limit,
            grace: self.grace,
            all: self.all,
            steer_only: self.steer_only,
            max_batch: self.max_batch,
        };
        store.begin_session(config.session(session)).await?;
        let spreads = store.is_shared() && self.all;
        let worker = worker::spawn(config, session, lock)?;
        Ok(Engine(Arc::new(Inner {
            store,
            clock,
            worker: Some(worker),
            plans,
            names: Default::default(),
            kinds: self.kinds,
            spreads,
        })))
    }
}

async fn open(place: Place) -> Result<Store, Error> {
    Ok(match place {
        Place::Temporary => Store::open_temporary().await?,
        Place::File { path, create } => Store::open(&path, create).await?,
        Place::Server(options) => Store::postgres(&options).await?,
        Place::Store(store) => store,
        Place::Unknown => {
            let message =
                "the URL of the database is neither sqlite:PATH nor postgres://…";
            return Err(StoreError::new(StoreErrorKind::Denied, message).into());
        }
    })
}

/// Whether a URL names a PostgreSQL database.
fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

/// On a shared database its clock counts, so that hosts need not agree on the time.
async fn clock_of(store: &Store, clock: Clock) -> Result<Clock, Error> {
    match store.now().await? {
        Some(now) if clock.is_system() => Ok(Clock::of_database(now)),
        _ => Ok(clock),
    }
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
            lease: DEFAULT_LEASE,
            queues: BTreeSet::new(),
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

    /// The time by the clock of the engine: on a shared database that of its server.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Executes a project here, if this engine executes at all.
    ///
    /// # Errors
    /// [`Error::Refused`] when this engine may not run one of its kinds; else when the
    /// project cannot be loaded.
    pub async fn execute(&self, id: ProjectId) -> Result<(), Error> {
        if let Some(worker) = &self.0.worker {
            if !self.0.spreads {
                self.check_project(id).await?;
            }
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
        let open =
            ProjectState::ALL.iter().copied().filter(|state| !state.is_terminal());
        let filter = ListFilter {
            states: open.collect(),
            limit: u32::MAX,
            ..ListFilter::default()
        };
        let rows = self.0.store.list(&filter).await?;
        Ok(rows.into_iter().map(|row| self.project(row.id)).collect())
    }

    /// The workers on the database: on a file at most one.
    ///
    /// # Errors
    /// The database's.
    pub async fn workers(&self) -> Result<Vec<SessionRow>, Error> {
        Ok(self.0.store.sessions().await?)
    }

    /// Whether the worker of this engine still works.
    pub(crate) fn check_worker(&self) -> Result<(), Error> {
        match &self.0.worker {
            Some(worker) if worker.inbox.is_closed() => Err(worker.gone().into()),
            _ => Ok(()),
        }
    }

    /// The session of the worker of this engine; one that was declared dead has another.
    pub fn session(&self) -> Option<SessionId> {
        self.0.worker.as_ref().map(|worker| *worker.session.borrow())
    }

    /// Waits until the worker of this engine has stopped by itself, and tells why. An engine
    /// that does not execute waits for ever.
    pub async fn failed(&self) -> Error {
        let Some(worker) = &self.0.worker else { return std::future::pending().await };
        let mut fatal = worker.fatal.clone();
        let failed = fatal.wait_for(Option::is_some).await;
        match failed.ok().and_then(|error| error.clone()) {
            Some(error) => error.into(),
            None => std::future::pending().await,
        }
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
