//! Dandori: a durable workflow engine.

pub mod clock;
mod failure;
mod handler;
mod id;
pub mod spec;

pub use crate::{
    clock::{Clock, Timestamp},
    failure::{ErrorClass, StepError, StepResultExt},
    handler::{
        Context, Handler, Kinds, Outcome, Parameter, State, handler_fn, parse_input, to_raw,
    },
    id::{InvalidId, ProjectId, SessionId},
};
