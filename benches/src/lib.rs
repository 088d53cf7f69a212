//! The hot paths of the pure core, for whoever measures them: by time (criterion) or by
//! instructions (callgrind).

use std::{hint::black_box, sync::Arc};

use dandori::{
    Project, Timestamp,
    expr::{Names, render},
    plan::Dynamic,
    run::{Event, Output, Run},
    spec::Task,
};
use serde_json::json;

/// What can be measured.
pub const ALL: [&str; 3] = ["plan", "apply", "expression"];

/// Compiles a document of tasks in layers of ten, each of which needs the whole layer before:
/// names to numbers, the graph, levels, hash.
///
/// # Panics
/// When the document is refused.
#[expect(clippy::expect_used, reason = "without a plan there is nothing to measure")]
pub fn plan(document: &Project) -> Arc<dandori::plan::Plan> {
    let (compiled, _) = document.compile(None).expect("it is valid");
    Arc::new(black_box(compiled.plan))
}

/// The document for [`plan`].
pub fn layers(tasks: usize) -> Project {
    (0..tasks).fold(Project::named("layers"), |project, at| {
        let layer = (at / 10 * 10).saturating_sub(10)..at / 10 * 10;
        let needs = layer.map(|need| format!("t{need}"));
        project.task(Task::new(format!("t{at}"), "noop").needs(needs))
    })
}

/// Runs every step of a plan to its success: begin, start, end, close.
///
/// # Panics
/// When a transition is refused.
#[expect(clippy::expect_used, reason = "a run that stops measures nothing")]
pub fn apply(plan: &Arc<dandori::plan::Plan>) {
    let output: Output = Arc::from(dandori::to_raw("x").expect("it is text"));
    let mut run = Run::new(Arc::clone(plan), [7; 16]);
    let mut now = Timestamp::EPOCH;
    let mut ready = run.begin(now).ready;
    while let Some(no) = ready.pop() {
        now = now.plus(std::time::Duration::from_micros(10));
        run.apply(Event::Started { no }, now).expect("it is ready");
        let output = Arc::clone(&output);
        let ended = Event::Succeeded { no, attempt: 1, output };
        ready.extend(black_box(run.apply(ended, now).expect("it runs")).ready);
    }
    run.apply(Event::Closed { error: None }, now).expect("all have ended");
}

/// Evaluates the input of a step once: a text with a filter, a number, a value as it is.
///
/// # Panics
/// When the expressions are refused.
#[expect(clippy::expect_used, reason = "without a value there is nothing to measure")]
pub fn expression(input: &Dynamic, names: &Names) {
    black_box(render(input, names).expect("it has a value"));
}

/// The input for [`expression`], and the names that it sees.
///
/// # Panics
/// Never: the input is JSON.
#[expect(clippy::expect_used, reason = "the input is JSON")]
pub fn input() -> (Dynamic, Names) {
    let input = json!({
        "prompt": "Write about ${{ tasks.idea.output.title | upper }} in ${{ inputs.words }} words",
        "sources": "${{ tasks.search.output }}",
        "limit": "${{ inputs.words * 2 }}",
    });
    let outputs = json!({
        "idea": { "output": { "title": "a durable engine" } },
        "search": { "output": [{ "url": "https://example.org", "rank": 1 }] },
    });
    let names = Names::default()
        .with_json("tasks", &outputs)
        .with_json("inputs", &json!({ "words": 300 }));
    (Dynamic::new(dandori::to_raw(&input).expect("it is JSON")), names)
}

/// The steps of the project that `apply` runs.
const SMALL: usize = 20;

/// Does one of [`ALL`] with so many steps, runs of a project of 20 steps, or evaluations;
/// whether there is such a one.
pub fn work(what: &str, count: usize) -> bool {
    match what {
        "plan" => drop(plan(&layers(count))),
        "apply" => {
            let plan = plan(&layers(SMALL));
            (0..count).for_each(|_| apply(&plan));
        }
        "expression" => {
            let (input, names) = input();
            (0..count).for_each(|_| expression(&input, &names));
        }
        _ => return false,
    }
    true
}
