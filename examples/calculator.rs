//! A calculator whose programs are canvases: embeds the engine, runs one document, prints
//! the project as JSON.
//!
//! `cargo run --release -p dandori-examples --example calculator -- FILE`
//!
//! Exit codes: 0 succeeded, 1 failed, 2 wrong usage, 3 the document is invalid, 5 the file
//! or the database cannot be reached, 6 cancelled.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example shows what it does"
)]

use std::process::ExitCode;

use dandori::{Error, Project, ProjectView, run::ProjectState, spec::Source};
use dandori_examples::calculator;

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(file), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: calculator FILE");
        return ExitCode::from(2);
    };
    match run(&file).await {
        Ok((view, notes)) => {
            let mut shown = serde_json::to_value(&view).unwrap_or_default();
            shown["notes"] = notes.into();
            println!("{shown:#}");
            ExitCode::from(match view.state {
                ProjectState::Succeeded => 0,
                ProjectState::Cancelled => 6,
                _ => 1,
            })
        }
        Err(Error::Invalid(found)) => {
            for diagnostic in &found {
                eprintln!("{diagnostic}");
            }
            ExitCode::from(3)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(5)
        }
    }
}

/// Runs a document, and reads what its steps have noted.
async fn run(file: &str) -> Result<(ProjectView, Vec<String>), Error> {
    let bytes = std::fs::read(file).map_err(|error| Error::NotFound {
        wanted: format!("{file} ({error})"),
        reason: "it cannot be read",
    })?;
    let source = Source::from_bytes(Some(file), bytes, None);
    let source = source.map_err(|found| Error::Invalid(vec![found]))?;
    let project = Project::from_source(source)?;
    let engine = calculator().temporary().start().await?;
    let handle = engine.submit(project).await?;
    let view = handle.wait().await?;
    let notes = handle.logs(None).await?.into_iter().map(|line| line.line).collect();
    engine.shutdown().await;
    Ok((view, notes))
}
