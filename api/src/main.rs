//! The `dandori` command.

use std::process::ExitCode;

/// Steps allocate on one thread and free on another, by the hundred thousand: the allocator of
/// the platform takes a fifth to a third more time for that (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    dandori_server::cli::main()
}
