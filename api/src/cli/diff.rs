//! `diff`: what differs between two projects.

use dandori::{Pair, ProjectDiff, StepDiff};
use owo_colors::OwoColorize as _;
use serde_json::value::RawValue;

use super::{
    args::Common,
    exit::{Exit, Failure},
    text::{cut, one_line},
};

/// So much of a value is shown; all of it is in the JSON.
const SHOWN: usize = 100;

pub(super) async fn diff(common: &Common, a: &str, b: &str) -> Result<Exit, Failure> {
    let diff: ProjectDiff = match common.remote()? {
        Some(server) => {
            let first = server.find(a).await?;
            first.get(&["diff", b], &[]).await?
        }
        None => {
            let engine = common.connect().await?;
            engine.find(a).await?.diff(&engine.find(b).await?).await?
        }
    };
    if common.json {
        out!("{}", serde_json::to_string(&diff).unwrap_or_default());
        return Ok(Exit::Succeeded);
    }
    if let Some(Pair { a, b }) = &diff.state {
        out!("state: {a} → {b}");
    }
    for (name, Pair { a, b }) in &diff.inputs {
        out!("input {}", one_line(name));
        print_values(a.as_deref(), b.as_deref());
    }
    for step in &diff.steps {
        print_step(step);
    }
    if let Some(Pair { a, b }) = &diff.output {
        out!("output");
        print_values(a.as_deref(), b.as_deref());
    }
    anstream::eprintln!(
        "{} steps differ, {} are the same",
        diff.steps.len(),
        diff.same
    );
    Ok(Exit::Succeeded)
}

fn print_step(step: &StepDiff) {
    let sign = match step.change.as_str() {
        "added" => "+",
        "removed" => "-",
        _ => "~",
    };
    let mut notes = vec![];
    if let Some(Pair { a, b }) = &step.state {
        notes.push(format!("{a} → {b}"));
    }
    if let Some(Pair { a, b }) = step.attempts {
        notes.push(format!("{a} → {b} attempts"));
    }
    if let Some(Pair { a: Some(a), b: Some(b) }) = step.seconds {
        notes.push(format!("{a:.1}s → {b:.1}s"));
    }
    out!("{sign} {} {}", one_line(&step.name).bold(), notes.join(", "));
    if let Some(Pair { a, b }) = &step.error {
        for (sign, error) in [("-", a), ("+", b)] {
            if let Some(error) = error {
                out!("    {sign} {}", cut(&one_line(&error.to_string()), SHOWN));
            }
        }
    }
    if let Some(Pair { a, b }) = &step.output {
        print_values(a.as_deref(), b.as_deref());
    }
}

fn print_values(a: Option<&RawValue>, b: Option<&RawValue>) {
    for (sign, value) in [("-", a), ("+", b)] {
        if let Some(value) = value {
            out!("    {sign} {}", cut(&one_line(value.get()), SHOWN));
        }
    }
}
