//! `show`: one project, what failed first.

use dandori::{ProjectView, StepDetails, run::StepState};
use owo_colors::OwoColorize as _;

use super::{
    args::{Common, Show},
    exit::{Exit, Failure},
    server::PastAttempt,
    text::{cut, one_line, print_data, table, took},
};
use crate::graph::state_icon;

/// More steps than this are shown by counts and by what needs attention only.
const MANY_STEPS: usize = 200;

pub(super) async fn show(common: &Common, args: &Show) -> Result<Exit, Failure> {
    let target = common.target(&args.id).await?;
    let view = target.view(common.json).await?;
    let past = if args.attempts { target.attempts(&view).await? } else { vec![] };
    if common.json {
        out!("{}", json(&view, args.attempts.then_some(past.as_slice())));
        return Ok(Exit::Succeeded);
    }
    print_header(&view);
    print_failures(&view);
    let shown: Vec<&StepDetails> = if view.steps.len() > MANY_STEPS {
        out!("({} steps; the ones at work:)", view.steps.len());
        let at_work = |step: &&StepDetails| {
            matches!(step.state, StepState::Running | StepState::Waiting)
        };
        view.steps.iter().filter(at_work).take(MANY_STEPS).collect()
    } else {
        view.steps.iter().collect()
    };
    let rows: Vec<Vec<String>> = shown.iter().map(|step| row(step)).collect();
    print_data(&table(&rows), false);
    for attempt in &past {
        let name = one_line(&attempt.step);
        let error = attempt.error.as_ref().map(ToString::to_string).unwrap_or_default();
        let time = took(attempt.started_at, attempt.finished_at);
        out!(
            "{name} attempt {}.{}: {} after {time} {}",
            attempt.generation,
            attempt.attempt,
            attempt.state,
            cut(&one_line(&error), 120)
        );
    }
    Ok(Exit::Succeeded)
}

/// The project as JSON, with its attempts where they were asked for. Outputs are written
/// as they are: taken apart, deep ones would not come back together.
fn json(view: &ProjectView, past: Option<&[PastAttempt]>) -> String {
    let mut text = serde_json::to_string(view).unwrap_or_default();
    let Some(past) = past else { return text };
    text.pop();
    let attempts = serde_json::to_string(past).unwrap_or_default();
    text + ",\"attempts\":" + &attempts + "}"
}

fn print_header(view: &ProjectView) {
    let time = took(view.started_at, view.finished_at);
    out!("{} {}", one_line(&view.name).bold(), view.id.dimmed());
    let counts: Vec<String> =
        view.counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    out!("{} {time} — {}", view.state, counts.join(", "));
    if let Some(reason) = &view.reason {
        out!("reason: {}", one_line(reason));
    }
    out!("");
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
        out!(
            "{} {} {} after {} attempts: {}",
            "✗".red(),
            one_line(&step.name).bold(),
            step.state,
            step.attempts,
            cut(&one_line(&error), 400)
        );
    }
    if failed.len() > 5 {
        out!("  and {} more failed", failed.len() - 5);
    }
    let upstream = view
        .steps
        .iter()
        .filter(|step| step.state == StepState::UpstreamFailed)
        .count();
    if upstream > 0 {
        out!("  {upstream} steps did not run because of them");
    }
    if !failed.is_empty() {
        out!("");
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
