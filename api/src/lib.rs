//! The server library of dandori and the `dandori` command.
//!
//! Owns what people and programs ask: the command line, HTTP, graphs, the demo. Decides nothing about
//! projects: everything goes through the public API of the engine.

pub mod cli;
mod demo;
pub mod graph;
pub mod http;
