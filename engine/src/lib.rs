//! Dandori: a durable workflow engine.
//!
//! A *project* is a set of tasks with dependencies. It is compiled into a graph whose
//! nodes are persisted step states; every ready step runs concurrently, each result is
//! checkpointed, and after any crash the project goes on from the last checkpoint.
//!
//! ```
//! use dandori::{Context, Engine, Project, StepError, handler_fn, spec::Task};
//! use serde_json::{Value, json};
//!
//! async fn double(_ctx: Context, with: Value) -> Result<i64, StepError> {
//!     let n = with["n"].as_i64();
//!     Ok(2 * n.ok_or(StepError::fail("no_number", "`n` is missing"))?)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), dandori::Error> {
//! let double = handler_fn("double", double);
//! let engine = Engine::builder().temporary().handler(double).start().await?;
//! let project = Project::named("numbers")
//!     .task(Task::new("once", "double").with(&json!({ "n": 21 })))
//!     .task(
//!         Task::new("twice", "double")
//!             .needs(["once"])
//!             .with(&json!({ "n": "${{ tasks.once.output }}" })),
//!     );
//! let done = engine.submit(project).await?.wait().await?;
//! assert_eq!(done.output.unwrap().get(), r#"{"twice":84}"#);
//! # engine.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Vocabulary
//!
//! - **Task**: what an author writes. **Step**: a node of the compiled plan; a task
//!   with a kind becomes one step, one with a template or `for_each` several.
//! - **Plan**: the immutable compiled graph. **Project**: a submitted execution of it.
//! - **Kind**: the stable name that selects code. **Handler**: the code.
//! - **Attempt**: one try of a step, numbered from 1. **Generation**: how often a step
//!   was deliberately run anew by a replay, from 1; attempts count within it.
//! - **Fact**: a stored row about a step. What follows from plan and facts has no row.
//! - **Session**: one executing process, a fresh random id at each start.
//! - **Mailbox**: the durable inbox of a project for cancel, pause and resume.
//! - **Lease**: how long a session is believed to be alive on a shared database. **Claim**:
//!   the right to run one attempt of a step of a project that another session owns.
//!
//! # Contents
//!
//! - [`Engine`] and [`Project`] submit; [`ProjectHandle`] waits, watches and steers.
//! - [`Handler`], [`handler_fn`] and [`Context`] are the code behind kinds;
//!   [`StepError`] says how an attempt failed and whether another may help.
//! - [`canvas`]: chain, group, chord, map and chunks, lowered to the same plan.
//! - [`spec`]: the project document, from text to a plan, with diagnostics.
//! - [`expr`]: the expressions in documents.
//! - [`plan`]: the compiled graph, rules and retry policies. Pure.
//! - [`run`]: the state machine of one project. Pure.
//! - [`store`]: the only module that knows SQL.
//! - [`clock`]: time as a parameter; tests turn a clock by hand.
//! - [`ProjectView`], [`StepDetails`] and [`EventView`]: what is recorded, as JSON.
//!
//! # Guarantees
//!
//! - What is acknowledged is committed: SQLite in WAL mode with `synchronous=FULL`, or
//!   PostgreSQL with whatever its settings promise.
//! - Who lost a project or a claim records nothing: every write is fenced.
//! - A result is recorded at most once, and no step starts before its inputs are.
//! - A step is executed at least once, each time with the same key, or `at_most_once`.
//!
//! # Absences
//!
//! - No kinds but the caller's: ready-made ones are in the package `dandori-steps`.
//! - No replayed code: the graph is durable, so handlers need no determinism.
//! - No second executor on a file: one process executes, others read and steer. On
//!   PostgreSQL any number do.
//! - No broker: hints between workers are only hints.
//! - No exactly-once effects without a receiver that honours the key.

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

mod archive;
mod call;
pub mod canvas;
mod changes;
mod checkpoint;
pub mod clock;
mod diff;
mod engine;
mod error;
pub mod expr;
mod failure;
mod function;
mod handler;
mod id;
mod map;
pub mod metrics;
pub mod plan;
mod plans;
mod project;
mod queues;
mod replay;
pub mod run;
pub mod spec;
pub mod store;
mod submission;
mod submit;
mod view;
mod why;
mod worker;

pub use crate::{
    archive::{ARCHIVE_FORMAT, ImportOptions},
    call::Form,
    canvas::Canvas,
    changes::Changes,
    clock::{Clock, Timestamp},
    diff::{AttemptDiff, AttemptNo, InvalidAttempt, Pair, ProjectDiff, StepDiff},
    engine::{
        DEFAULT_CONCURRENCY, DEFAULT_CRASH_LIMIT, DEFAULT_GRACE, DEFAULT_LEASE, Engine,
        EngineBuilder, SHORTEST_LEASE,
    },
    error::Error,
    failure::{ErrorClass, StepError, StepResultExt},
    function::{FunctionHandler, Next, Reply, handler_fn},
    handler::{
        Context, Handler, Kinds, Outcome, Parameter, State, parse_input, to_raw,
    },
    id::{InvalidId, ProjectId, SessionId},
    project::{ProjectHandle, Steered},
    replay::{
        ForkPlan, Limits, Preview, ReplayOptions, ReplayPlan, ReplayStep, ReplayWarning,
    },
    submission::Project,
    view::{EventView, Progress, ProjectView, Snapshot, StepDetails},
    why::{Reason, Why},
};
