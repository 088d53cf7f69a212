//! Dandori: a durable workflow engine.
//!
//! A *project* is a set of tasks with dependencies. It is compiled into a graph whose
//! nodes are persisted step states; every ready step runs concurrently, each result is
//! checkpointed, and after any crash the project goes on from the last checkpoint.

pub mod clock;
mod engine;
mod error;
pub mod expr;
mod failure;
mod handler;
mod id;
pub mod plan;
mod plans;
mod project;
pub mod run;
pub mod spec;
pub mod store;
mod view;
mod worker;

pub use crate::{
    clock::{Clock, Timestamp},
    engine::{
        DEFAULT_CONCURRENCY, DEFAULT_CRASH_LIMIT, DEFAULT_GRACE, Engine, EngineBuilder,
        Project,
    },
    error::Error,
    failure::{ErrorClass, StepError, StepResultExt},
    handler::{
        Context, Handler, Kinds, Outcome, Parameter, State, handler_fn, parse_input,
        to_raw,
    },
    id::{InvalidId, ProjectId, SessionId},
    project::{ProjectHandle, ReplayPlan, ReplayStep, Steered},
    view::{EventView, Progress, ProjectView, Snapshot, StepDetails},
};
