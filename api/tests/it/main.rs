//! The `dandori` command as people and scripts meet it: real processes, real files.

#![expect(clippy::unwrap_used, reason = "the fixtures of tests may unwrap as tests do")]
#![expect(clippy::print_stdout, reason = "figures are printed")]

#[path = "../../../engine/tests/it/cluster.rs"]
mod cluster;
mod command;
mod demo;
mod exits;
mod http;
mod japanese;
mod kill;
mod page;
mod postgres;
mod python;
mod remote;
mod replaying;
mod together;
