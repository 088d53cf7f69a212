//! The command line: arguments in, the engine's public API, text or JSON out.
//!
//! stdout is data, stderr is progress and diagnostics.

/// Prints a line of data on stdout.
macro_rules! out {
    ($($part:tt)*) => { $crate::cli::text::print_data(&format!($($part)*), true) };
}

mod archive;
mod args;
mod audit;
mod demo;
mod diff;
mod document;
mod execute;
mod exit;
mod graphs;
mod history;
mod kinds;
mod list;
mod progress;
mod queues;
mod replay;
mod server;
mod show;
mod signals;
mod steer;
mod target;
mod text;
mod token;
mod watch;
mod worker;

pub(crate) use self::{graphs::of_run as graph_of_run, worker::Shown as ShownWorker};

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use self::{
    args::{Args, Command},
    exit::{Exit, Failure},
    target::Request,
};

/// Runs the command line.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are no mistakes; everything else is exit code 2.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    start_logging();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            anstream::eprintln!("error: no runtime: {error}");
            return ExitCode::from(5);
        }
    };
    let json = args.json;
    let result = runtime.block_on(run(args));
    // What still runs (a handler that blocks its thread) must not hold the exit.
    runtime.shutdown_background();
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.report(json);
            failure.exit().into()
        }
    }
}

async fn run(args: Args) -> Result<Exit, Failure> {
    let common = args.common();
    if let Some(command) = args.command.on_a_database() {
        common.without_server(command)?;
    }
    match args.command {
        Command::Demo(demo) => demo::demo(&common, demo).await,
        Command::Run(run) => execute::run(&common, run).await,
        Command::Resume(resume) => execute::resume(&common, resume).await,
        Command::Worker(args) => worker::worker(&common, args).await,
        Command::Serve(args) => worker::serve(&common, args).await,
        Command::Workers => worker::workers(&common).await,
        Command::Kinds { kind } => kinds::kinds(&common, kind.as_deref()).await,
        Command::Audit(audit) => audit::audit(&common, &audit).await,
        Command::Token(token) => token::token(&common, token).await,
        Command::Migrate => worker::migrate(&common).await,
        Command::Submit(submit) => execute::submit(&common, submit).await,
        Command::List(list) => list::list(&common, &list).await,
        Command::Show(show) => show::show(&common, &show).await,
        Command::Watch { id } => watch::watch(&common, &id).await,
        Command::Logs { id, step, follow } => {
            watch::logs(&common, &id, step.as_deref(), follow).await
        }
        Command::Cancel { id } => {
            steer::steer(&common, &id, Request::Cancel, "cancelled").await
        }
        Command::Pause { id } => {
            steer::steer(&common, &id, Request::Pause, "paused").await
        }
        Command::Retry { id, step } => {
            let request = Request::Retry(step.as_deref());
            steer::steer(&common, &id, request, "tried again").await
        }
        Command::Why { id, step } => steer::why(&common, &id, &step).await,
        Command::Queues { what } => queues::queues(&common, what).await,
        Command::Replay(replay) => replay::replay(&common, *replay).await,
        Command::Diff { a, b: Some(b), .. } => diff::diff(&common, &a, &b).await,
        Command::Diff { a, b: None, step, attempts } => {
            diff::attempts(&common, &a, &step.unwrap_or_default(), &attempts).await
        }
        Command::Export { id, output } => {
            archive::export(&common, &id, output.as_deref()).await
        }
        Command::Import { file, new_id } => {
            archive::import(&common, &file, new_id).await
        }
        Command::History { id } => history::history(&common, &id).await,
        Command::Checkpoints { id, step } => {
            history::checkpoints(&common, &id, &step).await
        }
        Command::Fork(fork) => replay::fork(&common, *fork).await,
        Command::Validate(validate) => document::validate(&common, &validate).await,
        Command::Graph(graph) => graphs::graph(&common, &graph).await,
        Command::Schema => document::schema(),
        Command::Completions { shell } => {
            let mut command = Args::command();
            let mut script = vec![];
            clap_complete::generate(shell, &mut command, "dandori", &mut script);
            text::print_data(&String::from_utf8_lossy(&script), false);
            Ok(Exit::Succeeded)
        }
    }
}

/// Logs go to stderr, and only what was asked for: progress has its own lines.
fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("DANDORI_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}
