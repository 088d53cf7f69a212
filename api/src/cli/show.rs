//! `show`: one project, what failed first.

use dandori::{ProjectView, StepDetails, run::StepState};
use owo_colors::OwoColorize as _;

use super::{
    args::{Common, Show},
    exit::{Exit, Failure},
    text::{cut, one_line, table, took},
};
use crate::graph::state_icon;

/// More steps than this are shown by counts and by what needs attention only.
const MANY_STEPS: usize = 200;

pub(super) async fn show(common: &Common, args: &Show) -> Result<Exit, Failure> {
    let engine = common.connect().await?;
    let project = engine.find(&args.id).await?;
    let view = project.view().await?;
    let past = if args.attempts { project.attempts().await? } else { vec![] };
    if common.json {
        let mut json = serde_json::to_value(&view).unwrap_or_default();
        if args.attempts {
            let names: std::collections::HashMap<_, _> =
                view.steps.iter().map(|step| (step.no, step.name.clone())).collect();
            let attempts: Vec<_> = past
                .iter()
                .map(|attempt| {
                    serde_json::json!({
                        "step": names.get(&attempt.no),
                        "generation": attempt.generation,
                        "attempt": attempt.attempt,
                        "state": attempt.state,
                        "started_at": attempt.started_at,
                        "finished_at": attempt.finished_at,
                        "error": attempt.error,
                        "output": attempt.output,
                    })
                })
                .collect();
            json["attempts"] = attempts.into();
        }
        anstream::println!("{json}");
        return Ok(Exit::Succeeded);
    }
    print_header(&view);
    print_failures(&view);
    let shown: Vec<&StepDetails> = if view.steps.len() > MANY_STEPS {
        anstream::println!("({} steps; the ones at work:)", view.steps.len());
        let at_work = |step: &&StepDetails| {
            matches!(step.state, StepState::Running | StepState::Waiting)
        };
        view.steps.iter().filter(at_work).take(MANY_STEPS).collect()
    } else {
        view.steps.iter().collect()
    };
    let rows: Vec<Vec<String>> = shown.iter().map(|step| row(step)).collect();
    anstream::print!("{}", table(&rows));
    for attempt in &past {
        let name = view.steps.iter().find(|step| step.no == attempt.no);
        let name = name.map_or(String::new(), |step| one_line(&step.name));
        let error = attempt.error.as_ref().map(ToString::to_string).unwrap_or_default();
        let time = took(attempt.started_at, Some(attempt.finished_at));
        anstream::println!(
            "{name} attempt {}.{}: {} after {time} {}",
            attempt.generation,
            attempt.attempt,
            attempt.state,
            cut(&one_line(&error), 120)
        );
    }
    Ok(Exit::Succeeded)
}

fn print_header(view: &ProjectView) {
    let time = took(view.started_at, view.finished_at);
    anstream::println!("{} {}", one_line(&view.name).bold(), view.id.dimmed());
    let counts: Vec<String> =
        view.counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    anstream::println!("{} {time} — {}", view.state, counts.join(", "));
    if let Some(reason) = &view.reason {
        anstream::println!("reason: {}", one_line(reason));
    }
    anstream::println!();
}

/// The first failure with its error and what it kept from running.
pub(super) fn print_failures(view: &ProjectView) {
    let mut failed: Vec<&StepDetails> = view
        .steps
        .iter()
        .filter(|step| matches!(step.state, StepState::Failed | StepState::Quarantined))
        .collect();
    failed.sort_by_key(|step| step.finished_at);
    for step in failed.iter().take(5) {
        let error = step.error.as_ref().map(ToString::to_string).unwrap_or_default();
        anstream::println!(
            "{} {} {} after {} attempts: {}",
            "✗".red(),
            one_line(&step.name).bold(),
            step.state,
            step.attempts,
            cut(&one_line(&error), 400)
        );
    }
    if failed.len() > 5 {
        anstream::println!("  and {} more failed", failed.len() - 5);
    }
    let upstream = view
        .steps
        .iter()
        .filter(|step| step.state == StepState::UpstreamFailed)
        .count();
    if upstream > 0 {
        anstream::println!("  {upstream} steps did not run because of them");
    }
    if !failed.is_empty() {
        anstream::println!();
    }
}

fn row(step: &StepDetails) -> Vec<String> {
    let attempts = match step.attempts {
        0 | 1 => String::new(),
        more => format!("attempt {more}"),
    };
    let note = match (&step.waiting, &step.progress, &step.error) {
        (Some((reason, until)), _, _) => format!("{reason} until {until}"),
        (_, Some(progress), _) => {
            format!("{:.0}% {}", progress.fraction * 100.0, one_line(&progress.message))
        }
        (_, _, Some(error)) => cut(&one_line(&error.to_string()), 80),
        _ => String::new(),
    };
    vec![
        state_icon(step.state.as_str()).to_string(),
        cut(&one_line(&step.name), 50),
        step.kind.clone(),
        step.state.to_string(),
        took(step.started_at, step.finished_at),
        attempts,
        note,
    ]
}
