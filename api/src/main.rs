//! The `dandori` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    dandori_server::cli::main()
}
