//! The cases of how single calls are executed, and those that look at more than a value.

use std::{collections::BTreeMap, time::Duration};

use dandori::{
    Canvas, Context, Engine, EngineBuilder, Error, FunctionHandler, Project, ProjectId,
    StepDetails, StepError, handler_fn, plan::Action,
};
use dandori_examples::calculator;
use serde_json::{Value, json};

use super::{
    cases::{Case, Ends::Failed, alone, case, value},
    judge, run,
};
use crate::cluster::Cluster;

type Patient = FunctionHandler<Value, u32, fn(Context, Value) -> Zero>;
type Zero = std::pin::Pin<Box<dyn Future<Output = Result<u32, StepError>> + Send>>;

/// A kind that takes its soft time limit for an answer.
pub(super) fn patient() -> Patient {
    let wait: fn(Context, Value) -> Zero = |ctx, _| {
        Box::pin(async move {
            ctx.cancellation().cancelled().await;
            Ok(0)
        })
    };
    handler_fn("t.patient", wait)
}

pub(super) fn execution() -> Vec<Case> {
    let chord = |header: Value, body: Value| json!({ "chord": { "header": header, "body": body } });
    let doubled = || chord(json!([["add", 1], ["add", 1]]), json!(["sum"]));
    let first = chord(json!([["add", 1, 1], ["add", 1, 1]]), json!(["sum"]));
    let note = |text: &str| alone("note", json!([text]));
    let with = |kind: &str, args: Value, options: Value| json!({ "kind": kind, "args": args, "options": options });
    let told = |mut canvas: Value| {
        canvas["on_failure"] = json!([["note"]]);
        canvas
    };
    let record = |step: &str, message: &str| {
        let mut record = json!({
            "step": step, "kind": "fail", "code": "fail", "message": message, "attempts": 1,
        });
        record["failed"] = json!([record]);
        record
    };
    let mut one_by_one = vec![
        case(
            "109",
            json!({ "group": [
                with("slow", json!([1, 80]), json!({ "priority": 1 })),
                with("id", json!([2]), json!({ "start_before": "10ms" })),
            ] }),
            value(json!([1, null])),
        ),
        case(
            "127",
            json!({ "group": [
                with("note", json!(["last"]), json!({ "priority": -1 })),
                with("note", json!(["then"]), json!({})),
                with("note", json!(["first"]), json!({ "priority": 7 })),
            ] }),
            value(json!(["last", "then", "first"])),
        )
        .in_order(["first", "then", "last"]),
    ];
    for case in &mut one_by_one {
        case.document["max_parallel"] = json!(1);
    }
    let cases = vec![
        case(
            "50",
            json!({ "chain": [
                { "chain": [first, doubled(), doubled()] },
                { "chain": [doubled(), doubled(), doubled()] },
            ] }),
            value(json!(190)),
        ),
        case(
            "52",
            json!({ "chain": [
                { "group": vec![note("before"); 3] }, note("connect"),
                { "group": vec![note("after"); 2] },
            ] }),
            value(json!(["after", "after"])),
        )
        .in_order(["before", "before", "before", "connect", "after", "after"]),
        case(
            "84",
            chord(
                json!([
                    ["add", 1, 2],
                    with(
                        "t.patient",
                        json!([0]),
                        json!({ "timeout": { "soft": "20ms" } })
                    ),
                ]),
                json!(["sum"]),
            ),
            value(json!(3)),
        ),
        case(
            "87",
            told(json!({ "chain": [
                with("add", json!([1, 2]), json!({ "delay": "20ms" })),
                { "group": [["add", 1], ["add", 3]] }, ["sum"],
            ] })),
            value(json!(10)),
        ),
        case(
            "92 a failure in the header",
            told(chord(json!([["id", 1], ["fail", 2]]), json!(["id"]))),
            Failed(&["body.id: upstream_failed"]),
        )
        .notes([record("header.2.fail", "fail(2)")]),
        case(
            "92 a failure in a chain as the body",
            told(chord(
                json!([["id", 1]]),
                json!({ "chain": [["id"], ["fail"], ["id"]] }),
            )),
            Failed(&["body.3.id: upstream_failed"]),
        )
        .notes([record("body.2.fail", "fail([1])")]),
        case("107", json!(["id", 1]), value(json!(1))),
        case("107 failed", json!(["fail", 1]), Failed(&["fail: failed fail"])),
        case(
            "112 in the end failed",
            with(
                "flaky",
                json!([1, 9]),
                json!({ "retry": { "max_retries": 2, "delay": "1ms" } }),
            ),
            Failed(&["flaky: failed flaky"]),
        ),
        case(
            "117",
            with(
                "flaky",
                json!([1, 1]),
                json!({
                    "retry": { "max_retries": 3, "delay": "1ms", "retry_on": ["timeout"] },
                }),
            ),
            Failed(&["flaky: failed flaky"]),
        ),
        case(
            "118 uncaught",
            with("slow", json!([1, 60_000]), json!({ "timeout": { "hard": "20ms" } })),
            Failed(&["slow: failed timeout"]),
        ),
    ];
    cases.into_iter().chain(one_by_one).collect()
}

fn step<'v>(steps: &'v [StepDetails], name: &str) -> &'v StepDetails {
    steps.iter().find(|step| step.name == name).unwrap()
}

/// Labels of all calls, by name.
async fn labels(engine: &Engine, canvas: Canvas) -> BTreeMap<String, String> {
    let handle = engine.submit(Project::from_canvas("labels", canvas)).await.unwrap();
    handle.wait().await.unwrap();
    let snapshot = handle.snapshot().await.unwrap();
    let run = &snapshot.run;
    let calls =
        (0..run.len()).filter(|no| matches!(run.step(*no).action, Action::Run { .. }));
    let labels = |no| serde_json::to_string(&run.policy(no).labels).unwrap();
    calls.map(|no| (run.name(no), labels(no))).collect()
}

async fn looked_at(builder: impl Fn() -> EngineBuilder) {
    // 110, while no worker is up.
    let away = builder().connect().await.unwrap();
    let text = r#"{ "canvas": { "chain": [["id", 1], ["id"]] } }"#;
    let revoked = away.submit(Project::from_json(text).unwrap()).await.unwrap();
    revoked.cancel().await.unwrap();
    let engine = builder().start().await.unwrap();
    let revoked = engine.project(revoked.id());
    let view = revoked.wait().await.unwrap();
    assert_eq!(view.state.as_str(), "cancelled", "110");
    assert!(view.steps.iter().all(|step| step.attempts == 0), "110: {:?}", view.steps);
    // 110, while it waits.
    let text =
        r#"{ "canvas": { "kind": "id", "args": [1], "options": { "delay": "1h" } } }"#;
    let queued = engine.submit(Project::from_json(text).unwrap()).await.unwrap();
    queued.cancel().await.unwrap();
    assert_eq!(
        queued.wait().await.unwrap().steps[0].state.as_str(),
        "cancelled",
        "110"
    );

    // 108: not before its time.
    let delayed = json!({ "kind": "id", "args": [1], "options": { "delay": "120ms" } });
    let (view, _) = run(&engine, &case("108", delayed, value(json!(1)))).await.unwrap();
    let began = view.steps[0].started_at.unwrap();
    let waited = began.since(view.started_at.unwrap());
    assert!(waited >= Duration::from_millis(120), "108: {waited:?}");

    // 113, 114: how often, and what is kept.
    for (failures, retries, attempts) in [(1, 3, 2), (9, 3, 4)] {
        let options = json!({
            "retry": { "max_retries": retries, "delay": "1ms" }, "priority": 7, "queue": "default",
        });
        let flaky =
            json!({ "kind": "flaky", "args": [1, failures], "options": options });
        let (view, _) =
            run(&engine, &case("114", flaky, value(json!(1)))).await.unwrap();
        assert_eq!(view.steps[0].attempts, attempts, "113, 114");
        let snapshot = engine.project(view.id).snapshot().await.unwrap();
        assert_eq!(snapshot.run.policy(0).priority, 7, "113");
    }

    // 128: labels of what is around, on every call, also of what a step became.
    let id = || Canvas::call("id", []);
    let retry = json!({ "max_retries": 1, "delay": "1ms" });
    let flaky = Canvas::call("flaky", [json!(1), json!(1)]).option("retry", &retry);
    let becomes = |canvas: Canvas| {
        let canvas = canvas.label("inner", "b");
        Canvas::call("expand", []).kwarg("canvas", &json!(canvas)).immutable()
    };
    let group = Canvas::group([
        id(),
        becomes(Canvas::chain([Canvas::call("id", [json!(2)]), id()])),
    ]);
    let chord = Canvas::chord([id(), id()], id()).on_success(id());
    let found =
        labels(&engine, Canvas::chain([flaky, group, chord]).label("a", "b")).await;
    assert_eq!(found.len(), 9, "128: {found:?}");
    for (name, labels) in found {
        let inner = name.contains('/');
        let expected = if inner { r#"{"a":"b","inner":"b"}"# } else { r#"{"a":"b"}"# };
        assert_eq!(labels, expected, "128: {name}");
    }

    // 131
    let unknown = engine.project(ProjectId::from_key("nobody")).view().await;
    assert!(matches!(unknown, Err(Error::NotFound { .. })), "131");

    // 2: the results on the way stay readable.
    let chain = json!({ "chain": [["add", 4, 4], ["mul", 8], ["mul", 10]] });
    let (view, _) = run(&engine, &case("2", chain, value(json!(640)))).await.unwrap();
    let outputs = ["1.add", "2.mul", "3.mul"]
        .map(|name| step(&view.steps, name).output.clone().unwrap().get().to_owned());
    assert_eq!(outputs, ["8", "64", "640"], "2");

    // 129: nine pairings, stored and read again.
    let call = || json!(["id", 1]);
    let shapes: [fn(Value) -> Value; 3] = [
        |it| json!({ "chain": [it] }),
        |it| json!({ "group": [it] }),
        |it| json!({ "chord": { "header": [it], "body": ["id"] } }),
    ];
    for outer in shapes {
        for inner in shapes {
            let canvas = outer(inner(call()));
            let read = Canvas::from_json(&canvas.to_string()).unwrap();
            let written = serde_json::to_string(&read).unwrap();
            assert_eq!(Canvas::from_json(&written).unwrap(), read, "129: {canvas}");
            let project = Project::from_canvas("129", read);
            let handle = engine.submit(project).await.unwrap();
            let stored = handle.snapshot().await.unwrap();
            let document = json!({ "canvas": canvas });
            let project = Project::from_json(&document.to_string()).unwrap();
            let (compiled, _) = project.compile(None).unwrap();
            assert_eq!(stored.run.plan().hash(), compiled.plan.hash(), "129: {canvas}");
            assert!(handle.wait().await.unwrap().state.is_terminal());
        }
    }
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_cases_look_at_holds_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cases.db");
    looked_at(|| calculator().sqlite(&file)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_cases_look_at_holds_on_postgres() {
    let place = Cluster::shared().fresh();
    looked_at(|| calculator().postgres(&place)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_case_that_does_not_hold_is_noticed() {
    let engine = calculator().temporary().start().await.unwrap();
    let wrong = [
        case("a value", json!(["id", 1]), value(json!(2))),
        case("a failure", json!(["fail"]), value(json!(1))),
        case("another failure", json!(["fail"]), Failed(&["fail: failed other"])),
        case("a note", json!(["id", 1]), value(json!(1))).notes(["x"]),
    ];
    for case in &wrong {
        assert!(judge(&engine, case).await.is_some(), "{}", case.number);
    }
    engine.shutdown().await;
}
