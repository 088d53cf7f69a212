//! The `dandori` command as people and scripts meet it: real processes, real files.

mod command;
mod demo;
mod exits;
mod japanese;
mod kill;
mod together;
