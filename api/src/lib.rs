//! The server library of dandori and the `dandori` command.
//!
//! Owns what people look at: the command line, graphs, the demo. Decides nothing about
//! projects: everything goes through the public API of the engine.

pub mod cli;
mod demo;
pub mod graph;
