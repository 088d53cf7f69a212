//! The engine from outside, in one binary so that it links once: through its public API, on
//! real database files.

#![expect(clippy::unwrap_used, reason = "the fixtures of tests may unwrap as tests do")]

mod archives;
mod backend;
mod bombs;
mod checkpoints;
mod cluster;
mod compile;
mod control;
mod crash;
mod documents;
mod failure;
mod faults;
mod figures;
mod fixture;
mod forks;
mod gate;
mod graphs;
mod growth;
mod hazards;
mod interleave;
mod mishaps;
#[cfg(feature = "broken")]
mod negative;
mod pure;
mod replay;
mod replays;
mod schema;
mod stage;
mod store;
mod stored;
mod tidy;
mod time;
mod volleys;
mod workers;
