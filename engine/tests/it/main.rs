//! The engine from outside, in one binary so that it links once: through its public API, on
//! real database files.

mod bombs;
mod compile;
mod control;
mod crash;
mod documents;
mod failure;
mod faults;
mod graphs;
mod replay;
mod schema;
mod stage;
mod store;
mod time;
