//! The chart in docs/lifecycle.md, checked against the transition function.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    plan::Retry,
    spec::{CompileOptions, Document, Task},
};

/// The chart of a step's life, printed from the transition function by trying all pairs.
#[test]
fn the_chart_of_a_step_is_what_apply_does() {
    let mut task = Task::new("a", "noop");
    task.treatment.retry = Some(Retry { max_retries: 1, ..Retry::default() });
    let document = Document::named("chart").task(task);
    let plan = Arc::new(document.compile(&CompileOptions::default()).unwrap().plan);
    let at = Timestamp::from_micros(1);
    let call = crate::Canvas::call("noop", []);
    let (kinds, policy) = (crate::Kinds::default(), Policy::default());
    let body = crate::spec::expansion(&call, &[], &policy, &kinds, true).unwrap();
    let body = Arc::new(body);
    let events: [(&str, Event); 11] = [
        ("started", Event::Started { no: 0 }),
        ("succeeded", Event::Succeeded { no: 0, attempt: 1, output: null() }),
        (
            "failed (retryable)",
            Event::Failed {
                no: 0,
                attempt: 1,
                error: StepError::retry("timeout", "late"),
            },
        ),
        (
            "failed (permanent)",
            Event::Failed {
                no: 0,
                attempt: 1,
                error: StepError::fail("broken", "for good"),
            },
        ),
        (
            "deferred",
            Event::Deferred {
                no: 0,
                attempt: 1,
                until: at.plus(Duration::from_secs(9)),
                output: null(),
            },
        ),
        ("became a canvas", Event::Grew { no: 0, attempt: 1, body, output: None }),
        ("condition false", Event::ConditionFalse { no: 0 }),
        ("lost", Event::Lost { no: 0, charged: true, limit: 3 }),
        ("lost (third crash)", Event::Lost { no: 0, charged: true, limit: 1 }),
        ("retry asked for", Event::RetryNow { no: Some(0) }),
        ("cancel", Event::Cancel),
    ];
    let mut ready = Run::new(plan, [0; 16]);
    ready.begin(at);
    let reach = |event: &Event| {
        let mut run = ready.clone();
        run.apply(Event::Started { no: 0 }, at).unwrap();
        run.apply(event.clone(), at).unwrap();
        run
    };
    let mut running = ready.clone();
    running.apply(Event::Started { no: 0 }, at).unwrap();
    let mut cancelling = running.clone();
    cancelling.apply(Event::Cancel, at).unwrap();
    let from = [
        ("ready", ready.clone()),
        ("running", running),
        ("running, cancel requested", cancelling),
        ("waiting (retry)", reach(&events[2].1)),
        ("waiting (timer)", reach(&events[4].1)),
        ("succeeded", reach(&events[1].1)),
        ("failed", reach(&events[3].1)),
        ("became a canvas", reach(&events[5].1)),
    ];
    let mut chart = String::new();
    for (name, run) in from {
        for (label, event) in &events {
            let mut run = run.clone();
            if run.apply(event.clone(), at).is_ok() {
                let to = run.step_state(0);
                chart.push_str(&format!("{name:26} -- {label:19} -> {to}\n"));
            }
        }
        let (mut run, before) = (run.clone(), run.step_state(0));
        run.apply(Event::Tick, at.plus(Duration::from_mins(1))).expect("time passes");
        if run.step_state(0) != before {
            let to = run.step_state(0);
            chart.push_str(&format!("{name:26} -- {:19} -> {to}\n", "time"));
        }
    }
    let documented = include_str!("../../../docs/lifecycle.md");
    assert!(
        documented.contains(&chart),
        "docs/lifecycle.md must hold this chart:\n{chart}"
    );
}

fn null() -> Output {
    Arc::from(serde_json::value::RawValue::NULL.to_owned())
}
