//! `diff`: what differs between two projects.

use dandori::{AttemptDiff, Pair, ProjectDiff, StepDiff};
use owo_colors::OwoColorize as _;
use serde_json::value::RawValue;

use super::{
    args::Common,
    exit::{Exit, Failure},
    target::Target,
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

/// What differs between two attempts of a step.
pub(super) async fn attempts(
    common: &Common,
    id: &str,
    step: &str,
    of: &[String],
) -> Result<Exit, Failure> {
    let diff: AttemptDiff = match common.target(id).await? {
        Target::Here(project) => {
            let parsed = of.iter().map(|it| it.parse()).collect::<Result<Vec<_>, _>>();
            let parsed = parsed.map_err(|error: dandori::InvalidAttempt| {
                Failure::usage(error.to_string(), "`dandori show` lists the attempts")
            })?;
            let of = parsed.first().copied().zip(parsed.get(1).copied());
            project.diff_attempts(step, of).await?
        }
        Target::There(remote) => {
            let query: Vec<(&str, &str)> =
                ["a", "b"].into_iter().zip(of.iter().map(String::as_str)).collect();
            remote.get(&["steps", step, "diff"], &query).await?
        }
    };
    if common.json {
        out!("{}", serde_json::to_string(&diff).unwrap_or_default());
        return Ok(Exit::Succeeded);
    }
    let Pair { a, b } = diff.attempt;
    let of = StepDiff {
        name: format!("{} {a} → {b}", diff.step),
        change: "changed".to_owned(),
        state: diff.state,
        output: diff.output,
        error: diff.error,
        attempts: None,
        seconds: Some(diff.seconds),
    };
    print_step(&of);
    if of.state.is_none() && of.output.is_none() && of.error.is_none() {
        anstream::eprintln!("nothing but their time");
    }
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
