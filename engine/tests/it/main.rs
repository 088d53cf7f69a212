//! The engine from outside: through its public API, on real database files.

mod control;
mod crash;
mod failure;
mod faults;
mod graphs;
mod replay;
mod stage;
mod store;
mod time;
