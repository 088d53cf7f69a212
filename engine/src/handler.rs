//! Handlers: the code behind a kind, and the [`Context`] an attempt runs in.
//!
//! Owns the object-safe [`Handler`] trait and the table of kinds; the adapter from a plain
//! `async fn` is in `function`. Does not decide anything about retries or states: see `run`.

use std::{
    any::{Any, TypeId},
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use crate::{
    Canvas, ProjectId, StepError, Timestamp, call::Form, checkpoint::Keeper, map::Map,
    plan::Plan,
};

/// A parameter of a kind, in the order in which arguments by position fill them.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// The key under `with:`.
    pub name: Cow<'static, str>,
    /// Whether a document without it is refused.
    pub required: bool,
    /// A JSON Schema of the value, as text; empty for any value.
    pub schema: Cow<'static, str>,
}

impl Parameter {
    /// A parameter that must be given. `schema` is JSON Schema text, empty for any.
    pub const fn required(name: &'static str, schema: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            required: true,
            schema: Cow::Borrowed(schema),
        }
    }

    /// A parameter that may be left out. `schema` is JSON Schema text, empty for any.
    pub const fn optional(name: &'static str, schema: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            required: false,
            schema: Cow::Borrowed(schema),
        }
    }
}

/// What an attempt that did not fail asks of the engine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The step succeeded with this output.
    Done(Box<RawValue>),
    /// The step gives its slot back and succeeds with `output` after `wait`; a crash
    /// does not move the moment.
    After {
        /// How long, counted from the end of this attempt.
        wait: Duration,
        /// The output the step will have.
        output: Box<RawValue>,
    },
    /// The step becomes a canvas: it keeps its name, its callbacks and what follows, and has
    /// the value of the canvas. Celery calls this `replace`.
    ///
    /// Nothing in the canvas is an expression, whatever it looks like: it is data. Its steps
    /// are retried, limited and queued as this one, where their options say nothing else. A
    /// canvas that has a fault or holds no call fails the step as `invalid_expansion`.
    Expand {
        /// The canvas.
        canvas: Box<Canvas>,
        /// The incoming value: it goes before the arguments of the first steps.
        args: Vec<serde_json::Value>,
    },
}

impl Outcome {
    /// Makes the outcome of a step that succeeded with `output`.
    ///
    /// # Errors
    /// `invalid_output` when `output` cannot be written as JSON.
    pub fn done<T: Serialize + ?Sized>(output: &T) -> Result<Self, StepError> {
        to_raw(output).map(Self::Done)
    }

    /// The step becomes a canvas that gets nothing from it.
    pub fn expand(canvas: impl Into<Canvas>) -> Self {
        Self::Expand { canvas: Box::new(canvas.into()), args: vec![] }
    }
}

/// Writes a value as JSON.
///
/// # Errors
/// `invalid_output` when the value has no JSON form.
pub fn to_raw<T: Serialize + ?Sized>(value: &T) -> Result<Box<RawValue>, StepError> {
    serde_json::value::to_raw_value(value)
        .map_err(|error| StepError::fail("invalid_output", error))
}

/// The code behind a kind.
///
/// Most handlers are plain functions, see [`handler_fn`](crate::handler_fn); implement the trait where a
/// kind declares parameters or keeps state of its own.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// The stable name that documents select this code by, such as `http.request`.
    fn kind(&self) -> &str;

    /// The parameters in order, or `None` when any `with:` is accepted.
    fn parameters(&self) -> Option<&[Parameter]> {
        None
    }

    /// The JSON Schema of the output, for people and programs that look at the kind, or
    /// `None` when nothing is said of it. The engine does not check outputs against it.
    fn output_schema(&self) -> Option<&str> {
        None
    }

    /// How the arguments of a call of a canvas become the input: by position and by name
    /// they fill the parameters in order; where none are declared, one value is the input.
    fn form(&self) -> Form {
        match self.parameters() {
            Some(all) => Form::Named(all.iter().map(|it| it.name.clone()).collect()),
            None => Form::Value,
        }
    }

    /// Looks at the `with:` of a step before its project is accepted. Values that hold
    /// expressions are given as written.
    ///
    /// # Errors
    /// A sentence that says what is wrong, for a diagnostic. It begins with the parameter
    /// in backquotes, as `name` or `name/0/key`, which places the diagnostic, and may say
    /// after a semicolon what to write instead: `` `for`: 5 has no unit; write `5s` ``.
    fn check(&self, _with: &serde_json::Value) -> Result<(), String> {
        Ok(())
    }

    /// Whether the host must switch this kind on (such as `shell.run`): the reason why
    /// it is off here, or `None`.
    fn refused(&self) -> Option<String> {
        None
    }

    /// Whether it may be done once more with this input without a second effect; expressions
    /// in it are given as written. A replay asks before it repeats what may not.
    fn is_idempotent(&self, _with: &serde_json::Value) -> bool {
        true
    }

    /// Whether an attempt must not outlive the lease of its worker, such as one that has
    /// started a process: where the worker is cut off from the database, it is stopped after
    /// one lease instead of three, and started again.
    fn stops_with_lease(&self) -> bool {
        false
    }

    /// Whether attempts do nothing but make their output: nobody outside of the engine can
    /// tell whether one ran once, twice or not at all. Such a step need not wait until the
    /// outputs it uses are written, and is written together with them; what has effects waits
    /// for both. It may read (a clock, a file), and keeps no checkpoints of its own.
    fn is_pure(&self) -> bool {
        false
    }

    /// Runs one attempt. `input` is the evaluated `with:` of a task, a JSON object or null,
    /// or what the arguments of a call make of it by [`Handler::form`].
    ///
    /// # Errors
    /// A [`StepError`]: the retry policy of the step decides what follows.
    async fn run(&self, ctx: Context, input: &RawValue) -> Result<Outcome, StepError>;
}

impl fmt::Debug for dyn Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handler({})", self.kind())
    }
}

/// Reads the input of an attempt into a type.
///
/// # Errors
/// `invalid_input`, permanent: the same document gives the same input again.
pub fn parse_input<T: DeserializeOwned>(input: &RawValue) -> Result<T, StepError> {
    serde_json::from_str(input.get())
        .map_err(|error| StepError::fail("invalid_input", error))
}

/// The kinds an engine can run, by name.
#[derive(Clone, Default)]
pub struct Kinds(Map<String, Arc<dyn Handler>>);

impl Kinds {
    /// Adds a handler; a later one of the same kind replaces an earlier one.
    pub fn insert(&mut self, handler: Arc<dyn Handler>) {
        self.0.insert(handler.kind().to_owned(), handler);
    }

    /// Finds the handler of a kind.
    pub fn get(&self, kind: &str) -> Option<&Arc<dyn Handler>> {
        self.0.get(kind)
    }

    /// The first kind of a plan that cannot be run here, and why.
    pub fn refused(&self, plan: &Plan) -> Option<(String, String)> {
        plan.kinds().into_iter().find_map(|kind| {
            let reason = match self.get(kind) {
                Some(handler) => handler.refused()?,
                None => "this engine has no handler for it".to_owned(),
            };
            Some((kind.to_owned(), reason))
        })
    }

    /// The names of the kinds that may run here.
    pub fn allowed(&self) -> impl Iterator<Item = &str> {
        let allowed = self.0.iter().filter(|(_, handler)| handler.refused().is_none());
        allowed.map(|(kind, _)| kind.as_str())
    }

    /// The names of all kinds, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.0.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}

impl fmt::Debug for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kinds").field(&self.names()).finish()
    }
}

/// Values that the embedding application hands to its handlers, by type.
#[derive(Clone, Default)]
pub struct State(Arc<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>);

impl State {
    /// Adds a value; a later one of the same type replaces an earlier one.
    pub fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        Arc::make_mut(&mut self.0).insert(TypeId::of::<T>(), Arc::new(value));
    }

    /// Finds the value of a type.
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0
            .get(&TypeId::of::<T>())
            .and_then(|value| Arc::clone(value).downcast().ok())
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "State({} values)", self.0.len())
    }
}

/// A note from inside an attempt: progress or a line of its log.
#[derive(Clone, Debug)]
pub(crate) enum Note {
    /// How far the attempt is, 0 to 1, and what it does.
    Progress(f64, String),
    /// A line for the log of the step.
    Log(String),
}

/// What an attempt can ask of the engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Context(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) project: ProjectId,
    pub(crate) step: String,
    pub(crate) attempt: u32,
    pub(crate) generation: u32,
    /// Fires when the project wants the attempt to stop.
    pub(crate) stop: CancellationToken,
    /// What the handler hears of it: made when it is asked for, or for a time limit.
    pub(crate) soft: OnceLock<CancellationToken>,
    pub(crate) soft_deadline: Option<Timestamp>,
    pub(crate) state: State,
    pub(crate) notes: Box<dyn Fn(Note) + Send + Sync>,
    pub(crate) secrets: Vec<String>,
    /// What the attempt adds to its group.
    pub(crate) added: Mutex<Vec<Canvas>>,
    /// Keeps its checkpoints; none where a handler is only tried, or pure.
    pub(crate) keeper: Option<Keeper>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}#{}", self.project, self.step, self.attempt)
    }
}

impl Context {
    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// A context for trying a handler by itself: attempt 1 of a step `step`.
    pub fn detached() -> Self {
        Self::new(Inner {
            project: ProjectId::from_key("detached"),
            step: "step".to_owned(),
            attempt: 1,
            generation: 1,
            stop: CancellationToken::new(),
            soft: OnceLock::new(),
            soft_deadline: None,
            state: State::default(),
            notes: Box::new(|_| ()),
            secrets: vec![],
            added: Mutex::default(),
            keeper: None,
        })
    }

    #[cfg(test)]
    pub(crate) fn with_secrets(secrets: Vec<String>) -> Self {
        let Self(inner) = Self::detached();
        let mut inner = Arc::try_unwrap(inner).expect("it is fresh");
        inner.secrets = secrets;
        Self::new(inner)
    }

    pub(crate) fn keeper(&self) -> Option<&Keeper> {
        self.0.keeper.as_ref()
    }

    /// The project the step belongs to.
    pub fn project(&self) -> ProjectId {
        self.0.project
    }

    /// The name of the step in its project, such as `idea/search`.
    pub fn step(&self) -> &str {
        &self.0.step
    }

    /// How often the step was deliberately run anew, by replays: from 1.
    pub fn generation(&self) -> u32 {
        self.0.generation
    }

    /// The number of this attempt within its generation, from 1.
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// `PROJECT:STEP:GENERATION`, the same on every attempt: a receiver that honours it
    /// sees an effect once even when the attempt is repeated after a crash.
    pub fn idempotency_key(&self) -> String {
        format!("{}:{}:{}", self.0.project, self.0.step, self.0.generation)
    }

    /// Fires when the attempt should stop: cancel, soft time limit, or shutdown.
    pub fn cancellation(&self) -> &CancellationToken {
        self.0.soft.get_or_init(|| self.0.stop.child_token())
    }

    /// The attempt has ended: what its handler has left behind hears of it.
    pub(crate) fn over(&self) {
        if let Some(soft) = self.0.soft.get() {
            soft.cancel();
        }
    }

    /// When the soft time limit ends, if there is one.
    pub fn soft_deadline(&self) -> Option<Timestamp> {
        self.0.soft_deadline
    }

    /// Tells how far the attempt is, 0 to 1. At most one a second is recorded.
    pub fn progress(&self, fraction: f64, message: impl Into<String>) {
        let fraction =
            if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 };
        (self.0.notes)(Note::Progress(fraction, self.mask(message.into())));
    }

    /// Writes a line into the log of the step.
    pub fn log(&self, line: impl Into<String>) {
        (self.0.notes)(Note::Log(self.mask(line.into())));
    }

    /// Adds a member to the group that this step is a member of: its join waits for it too,
    /// and its value comes after those of all members that were there from the beginning.
    /// Celery calls this `add_to_chord`.
    ///
    /// Members are added when the attempt succeeds with an output, in the order in which
    /// they were given here; those of several steps in the order of these steps. A step that
    /// is no member of a group fails as `no_group`.
    pub fn add_to_chord(&self, member: impl Into<Canvas>) {
        self.added().push(member.into());
    }

    pub(crate) fn added(&self) -> std::sync::MutexGuard<'_, Vec<Canvas>> {
        self.0.added.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Application state of type `T`, given to the engine's builder.
    pub fn state<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0.state.get()
    }

    pub(crate) fn has_secrets(&self) -> bool {
        !self.0.secrets.is_empty()
    }

    /// Replaces every secret that this attempt resolved by `***`.
    pub fn mask(&self, text: String) -> String {
        self.0
            .secrets
            .iter()
            .fold(text, |text, secret| text.replace(secret.as_str(), "***"))
    }
}
