//! Dandori: a durable workflow engine.

pub mod clock;
pub mod expr;
mod failure;
mod handler;
mod id;
pub mod plan;
pub mod run;
pub mod spec;

pub use crate::{
    clock::{Clock, Timestamp},
    failure::{ErrorClass, StepError, StepResultExt},
    handler::{
        Context, Handler, Kinds, Outcome, Parameter, State, handler_fn, parse_input, to_raw,
    },
    id::{InvalidId, ProjectId, SessionId},
};
