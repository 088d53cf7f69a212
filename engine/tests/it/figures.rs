//! Large and small projects: how long from text to disk. Times are printed, never judged.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use dandori::{
    Context, Engine, Project, StepError, handler_fn,
    spec::{Format, Source, Task},
};
use serde_json::Value;

const NODES: usize = 100_000;

async fn noop(_: Context, _: Value) -> Result<(), StepError> {
    Ok(())
}

/// Three needs each, near and far.
fn needs(at: usize) -> Vec<usize> {
    if at < 8 {
        return vec![];
    }
    vec![at - 1 - at % 3, at / 2, at - 7]
}

fn json_text() -> String {
    let mut text = String::from("{\"name\":\"large\",\"tasks\":{");
    for at in 0..NODES {
        let comma = if at == 0 { "" } else { "," };
        let list: Vec<String> =
            needs(at).iter().map(|need| format!("\"t{need}\"")).collect();
        let list = list.join(",");
        let _ =
            write!(text, "{comma}\"t{at}\":{{\"kind\":\"noop\",\"needs\":[{list}]}}");
    }
    text + "}}"
}

fn yaml_text() -> String {
    let mut text = String::from("name: large\ntasks:\n");
    for at in 0..NODES {
        let list: Vec<String> =
            needs(at).iter().map(|need| format!("t{need}")).collect();
        let _ =
            writeln!(text, "  t{at}: {{ kind: noop, needs: [{}] }}", list.join(", "));
    }
    text
}

/// From the text (or the library's types) to disk; nothing executes meanwhile.
async fn submit(engine: &Engine, project: impl FnOnce() -> Project) -> Duration {
    let began = Instant::now();
    let project = project();
    engine.submit(project).await.unwrap();
    began.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_tasks_are_submitted() {
    let folder = tempfile::tempdir().unwrap();
    let builder = Engine::builder().sqlite(folder.path().join("dandori.db"));
    let engine = builder.handler(handler_fn("noop", noop)).connect().await.unwrap();
    let rounds = if std::env::var_os("DANDORI_FULL").is_some() { 3 } else { 1 };
    for (form, text, most) in
        [(Format::Json, json_text(), "2 s"), (Format::Yaml, yaml_text(), "4 s")]
    {
        let mut times = vec![];
        for _ in 0..rounds {
            let text = text.clone();
            let read = || Project::from_source(Source::new(None, text, form)).unwrap();
            times.push(submit(&engine, read).await);
        }
        println!(
            "FIGURE 5 | 100,000 tasks and 300,000 edges from {form:?} (at most {most}) | {:.2?}",
            median(times)
        );
    }
    let mut times = vec![];
    for _ in 0..rounds {
        let tasks = (0..NODES).map(|at| {
            let needs = needs(at).into_iter().map(|need| format!("t{need}"));
            Task::new(format!("t{at}"), "noop").needs(needs)
        });
        let project = tasks.fold(Project::named("large"), Project::task);
        times.push(submit(&engine, || project).await);
    }
    println!(
        "FIGURE 5 | the same from the library (at most 2 s) | {:.2?}",
        median(times)
    );
    let row = engine.find("last").await.unwrap().row().await.unwrap();
    assert_eq!(row.counts["blocked"], 100_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_tasks_are_submitted() {
    let folder = tempfile::tempdir().unwrap();
    let builder = Engine::builder().sqlite(folder.path().join("dandori.db"));
    let engine = builder.connect().await.unwrap();
    let mut times = vec![];
    for round in 0..21 {
        let mut text = format!("name: small {round}\ntasks:\n");
        for at in 0..20 {
            let needs = if at == 0 { String::new() } else { format!("t{}", at - 1) };
            let _ = writeln!(text, "  t{at}: {{ kind: noop, needs: [{needs}] }}");
        }
        let read = || Project::from_yaml(&text).unwrap();
        times.push(submit(&engine, read).await);
    }
    println!(
        "FIGURE 5 | 20 tasks from text to disk (at most 5 ms) | {:.2?}",
        median(times)
    );
    assert_eq!(engine.open_projects().await.unwrap().len(), 21);
}
