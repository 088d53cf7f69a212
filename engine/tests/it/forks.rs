//! Forks: a new project that shares the checkpoints of another one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use dandori::{Context, Project, ProjectHandle, ReplayOptions, StepError, handler_fn};
use serde_json::{Value, json};

use crate::{
    backend::{Database, figure, on_both},
    stage::{Stage, ended, yaml},
};

const THREE: &str = "tasks: {a: {kind: work}, b: {kind: work, needs: [a]}, \
                     c: {kind: work, needs: [b], with: {b: '${{ tasks.b.output }}', a: '${{ tasks.a.output }}'}}}";

fn from(step: &str) -> ReplayOptions {
    ReplayOptions { from: vec![step.to_owned()], ..ReplayOptions::default() }
}

fn actions(steps: &[dandori::ReplayStep]) -> Vec<String> {
    steps.iter().map(|it| format!("{} {}", it.action, it.name)).collect()
}

async fn outputs(project: &ProjectHandle) -> Vec<String> {
    let view = ended(project).await;
    let output = |it: &dandori::StepDetails| {
        let output = it.output.as_ref().map_or("none", |it| it.get());
        format!("{} {output}", it.name)
    };
    view.steps.iter().map(output).collect()
}

on_both! {
    async fn a_fork_shares_what_it_keeps_and_runs_the_rest(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let base = engine.submit(yaml(THREE)).await.unwrap();
        // One output is large: it stands apart from the row of its step.
        let large = "x".repeat(5_000);
        stage.next().await.succeed(json!(large));
        stage.next().await.succeed(json!(2));
        stage.next().await.succeed(json!(3));
        ended(&base).await;
        let plan = base.plan_fork(&from("c"), None).await.unwrap();
        assert_eq!(actions(&plan.preview.steps), ["reuse a", "reuse b", "run c"]);
        let fork = base.fork(plan).await.unwrap();
        let call = stage.next().await;
        assert_eq!(call.step(), "c");
        assert_eq!(call.input, json!({ "b": 2, "a": large }));
        assert_eq!(call.ctx.project(), fork.id());
        call.succeed(json!(4));
        let large = format!("\"{large}\"");
        assert_eq!(outputs(&fork).await, [format!("a {large}"), "b 2".into(), "c 4".into()]);
        assert_eq!(outputs(&base).await[2], "c 3", "the base stays as it was");
        let diff = base.diff(&fork).await.unwrap();
        let changed: Vec<_> = diff.steps.iter().map(|it| (&*it.name, &*it.change)).collect();
        assert_eq!((changed, diff.same), (vec![("c", "changed")], 2));
        let values = diff.steps[0].output.as_ref().unwrap();
        let text = |it: &Option<Box<serde_json::value::RawValue>>| it.as_ref().unwrap().get().to_owned();
        assert_eq!((text(&values.a), text(&values.b)), ("3".to_owned(), "4".to_owned()));
        // What the base does now is its own.
        let plan = base.plan_replay_of(&from("a")).await.unwrap();
        base.replay(plan).await.unwrap();
        for n in 7..10 {
            stage.next().await.succeed(json!(n));
        }
        ended(&base).await;
        assert_eq!(outputs(&fork).await, [format!("a {large}"), "b 2".into(), "c 4".into()]);
        // A fork of the fork finds what the first one has not itself.
        let plan = fork.plan_fork(&from("c"), None).await.unwrap();
        let second = fork.fork(plan).await.unwrap();
        let call = stage.next().await;
        assert_eq!(call.input["b"], 2);
        call.succeed(json!(5));
        assert_eq!(outputs(&second).await, [format!("a {large}"), "b 2".into(), "c 5".into()]);
        // And a replay of a fork runs what it only shared.
        let plan = second.plan_replay_of(&from("b")).await.unwrap();
        second.replay(plan).await.unwrap();
        stage.next().await.succeed(json!(6));
        stage.next().await.succeed(json!(8));
        assert_eq!(outputs(&second).await[1..], ["b 6", "c 8"]);
        let lineage = fork.lineage().await.unwrap();
        let line: Vec<_> = lineage.iter().map(|it| (it.project, it.base)).collect();
        assert_eq!(line, [(fork.id(), base.id()), (second.id(), fork.id())]);
        engine.shutdown().await;
    }

    async fn a_fork_keeps_the_items_that_a_replay_of_its_base_sets_back(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let document = "
tasks:
  list: { kind: work }
  each: { kind: work, needs: [list], for_each: '${{ tasks.list.output }}', with: { it: '${{ item }}' } }
  sum: { kind: work, needs: [each], with: { all: '${{ tasks.each.output }}' } }
";
        let base = engine.submit(yaml(document)).await.unwrap();
        stage.next().await.succeed(json!([1, 2]));
        for call in stage.next_of(2).await {
            match call.input["it"] == 1 {
                true => call.succeed(json!(10)),
                false => call.fail(StepError::fail("late", "no")),
            }
        }
        ended(&base).await;
        // Only the second item is to run again; the list is that of the base.
        let plan = base.plan_fork(&ReplayOptions::default(), None).await.unwrap();
        let fork = base.fork(plan).await.unwrap();
        let again = stage.next().await;
        assert_eq!(again.input["it"], 2);
        let plan = base
            .plan_replay_of(&ReplayOptions { all: true, ..ReplayOptions::default() })
            .await
            .unwrap();
        base.replay(plan).await.unwrap();
        stage.next().await.succeed(json!([7, 8]));
        let of_base = stage.next_of(2).await;
        again.succeed(json!(20));
        let sum = stage.next().await;
        assert_eq!((sum.ctx.project(), &sum.input), (fork.id(), &json!({ "all": [10, 20] })));
        sum.succeed(json!(30));
        let view = ended(&fork).await;
        assert_eq!(view.state.as_str(), "succeeded");
        for call in of_base {
            call.succeed(json!(0));
        }
        stage.next().await.succeed(json!(0));
        ended(&base).await;
        // Read once more by who was not there.
        engine.shutdown().await;
        let engine = stage.engine().await;
        let fork = engine.project(fork.id());
        let plan = fork.plan_replay_of(&from("sum")).await.unwrap();
        fork.replay(plan).await.unwrap();
        let sum = stage.next().await;
        assert_eq!(sum.input, json!({ "all": [10, 20] }));
        sum.succeed(json!(31));
        ended(&fork).await;
        engine.shutdown().await;
    }

    async fn a_fork_on_a_new_document_keeps_what_is_the_same(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let old = "
inputs: { x: { default: 1 } }
tasks:
  a: { kind: work }
  b: { kind: work, needs: [a], with: { prompt: old } }
  c: { kind: work, needs: [a] }
  d: { kind: work, needs: [b, c] }
  e: { kind: work, with: { x: '${{ inputs.x }}' } }
";
        let base = engine.submit(yaml(old)).await.unwrap();
        for _ in 0..5 {
            let call = stage.next().await;
            let name = call.step().to_owned();
            call.succeed(json!(format!("old {name}")));
        }
        ended(&base).await;
        let new = "
inputs: { x: { default: 1 } }
tasks:
  first: { kind: work }
  a: { kind: work }
  b: { kind: work, needs: [a], with: { prompt: new } }
  c: { kind: work, needs: [a] }
  d: { kind: work, needs: [b, c], with: { c: '${{ tasks.c.output }}' } }
  e: { kind: work, with: { x: '${{ inputs.x }}' } }
";
        let document = Project::from_yaml(new).unwrap();
        let options = ReplayOptions::default();
        let plan = base.plan_fork(&options, Some(&document)).await.unwrap();
        let told = ["run first", "reuse a", "run b", "reuse c", "run d", "reuse e"];
        assert_eq!(actions(&plan.preview.steps), told);
        // Another value of an input is another content.
        let other = document.clone().input("x", &json!(2));
        let plan_of_other = base.plan_fork(&options, Some(&other)).await.unwrap();
        assert_eq!(actions(&plan_of_other.preview.steps)[5], "run e");
        let refused = base.plan_fork(&from("a"), Some(&document)).await.unwrap_err();
        assert_eq!(refused.code(), "invalid_document");
        let fork = base.fork(plan).await.unwrap();
        let mut ran = vec![];
        for _ in 0..3 {
            let call = stage.next().await;
            if call.step() == "d" {
                assert_eq!(call.input["c"], "old c", "by its new number");
            }
            ran.push(call.step().to_owned());
            let name = call.step().to_owned();
            call.succeed(json!(format!("new {name}")));
        }
        ran.sort();
        assert_eq!(ran, ["b", "d", "first"]);
        let expected = ["first \"new first\"", "a \"old a\"", "b \"new b\"", "c \"old c\"",
            "d \"new d\"", "e \"old e\""];
        assert_eq!(outputs(&fork).await, expected);
        assert!(stage.is_quiet().await);
        engine.shutdown().await;
    }

    async fn finished_items_are_kept_by_a_fork_and_a_changed_base_is_refused(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let document = "tasks: {each: {for_each: [1, 2, 3], kind: work, with: {n: '${{ item }}'}}, \
                        last: {kind: work, needs: [each], with: {all: '${{ tasks.each.output }}'}}}";
        let base = engine.submit(yaml(document)).await.unwrap();
        for call in stage.next_of(3).await {
            match call.step() {
                "each[1]" => call.fail(StepError::fail("broken", "for now")),
                _ => {
                    let n = call.input["n"].clone();
                    call.succeed(n);
                }
            }
        }
        ended(&base).await;
        let plan = base.plan_fork(&ReplayOptions::default(), None).await.unwrap();
        let stale = base.plan_fork(&ReplayOptions::default(), None).await.unwrap();
        let fork = base.fork(plan).await.unwrap();
        let call = stage.next().await;
        assert_eq!((call.step(), &call.input["n"]), ("each[1]", &json!(2)));
        call.succeed(json!(20));
        let last = stage.next().await;
        assert_eq!(last.input["all"], json!([1, 20, 3]));
        last.succeed(json!("done"));
        assert_eq!(ended(&fork).await.state.as_str(), "succeeded");
        let replay = base.plan_replay().await.unwrap();
        base.replay(replay).await.unwrap();
        stage.next().await.succeed(json!(2));
        let refused = base.fork(stale).await.unwrap_err();
        assert_eq!(refused.code(), "plan_changed");
        stage.next().await.succeed(json!(0));
        ended(&base).await;
        engine.shutdown().await;
    }

    async fn a_large_project_is_forked_in_no_time_and_copies_no_output(backend) {
        let database = Database::fresh(backend);
        let output = "y".repeat(1_000);
        let fill = handler_fn("fill", move |_: Context, _: Value| {
            let output = output.clone();
            async move { Ok(output) }
        });
        let runs = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&runs);
        let last = handler_fn("last", move |_: Context, _: Value| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Ok(1) }
        });
        let builder = database.builder().handler(fill).handler(last).concurrency(64);
        let engine = builder.start().await.unwrap();
        let mut tasks = serde_json::Map::new();
        for n in 0..9_999 {
            tasks.insert(format!("t{n}"), json!({ "kind": "fill" }));
        }
        tasks.insert("last".to_owned(), json!({ "kind": "last", "needs": ["t0", "t9998"] }));
        let document = json!({ "tasks": tasks }).to_string();
        let base = engine.submit(Project::from_json(&document).unwrap()).await.unwrap();
        ended(&base).await;
        let mut times = vec![];
        for _ in 0..5 {
            let began = Instant::now();
            let plan = base.plan_fork(&from("last"), None).await.unwrap();
            let fork = base.fork(plan).await.unwrap();
            times.push(began.elapsed());
            let view = ended(&fork).await;
            assert_eq!(view.state.as_str(), "succeeded");
            let first = view.steps[0].output.as_ref().unwrap();
            assert_eq!(first.get().len(), 1_002, "read from its base");
        }
        assert_eq!(runs.load(Ordering::SeqCst), 6);
        times.sort();
        let what = format!("ms to plan and fork 10,000 steps from the last on {backend:?} (at most 200)");
        figure("replay 3", &what, format!("{:.0} ({:.0}–{:.0})", times[2].as_secs_f64() * 1e3,
            times[0].as_secs_f64() * 1e3, times[4].as_secs_f64() * 1e3));
        engine.shutdown().await;
    }

    async fn a_crash_leaves_a_replay_and_a_fork_undone_or_whole(backend) {
        let run = |_: Context, _: Value| async { Ok(1) };
        for verb in ["replay", "fork"] {
            for after in [false, true] {
                let database = Database::fresh(backend);
                let engine = database.builder().handler(handler_fn("work", run));
                let engine = engine.start().await.unwrap();
                let base = engine.submit(yaml("tasks: {a: {kind: work}, b: {kind: work, needs: [a]}}"));
                let base = base.await.unwrap();
                ended(&base).await;
                engine.shutdown().await;
                database.bury().await;
                let store = database.open_for_crashes(move |point| {
                    point.verb == verb && point.after == after
                });
                let dying = dandori::Engine::builder().store(store.await);
                let dying = dying.connect().await.unwrap();
                let handle = dying.project(base.id());
                match verb {
                    "replay" => {
                        let plan = handle.plan_replay_of(&from("b")).await.unwrap();
                        assert!(handle.replay(plan).await.is_err());
                    }
                    _ => {
                        let plan = handle.plan_fork(&from("b"), None).await.unwrap();
                        assert!(handle.fork(plan).await.is_err());
                    }
                }
                database.bury().await;
                let engine = database.builder().handler(handler_fn("work", run));
                let engine = engine.start().await.unwrap();
                let base = engine.project(base.id());
                let view = ended(&base).await;
                let filter = dandori::store::ListFilter { limit: 9, ..Default::default() };
                let all = engine.list(&filter).await.unwrap();
                let expected = match (verb, after) {
                    ("replay", true) => (2, 1),
                    ("fork", true) => (1, 2),
                    _ => (1, 1),
                };
                assert_eq!((view.steps[1].generation, all.len()), expected, "{verb} {after}");
                for row in all {
                    let project = engine.project(row.id);
                    assert_eq!(outputs(&project).await, ["a 1", "b 1"], "{verb} {after}");
                }
                engine.shutdown().await;
            }
        }
    }
}
