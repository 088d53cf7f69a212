//! The `dandori` command.
fn main() {}
