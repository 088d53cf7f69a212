//! Archives: a project leaves one database and goes on in another one.

use std::io::Cursor;

use dandori::{
    Context, Engine, Error, Handler, ImportOptions, ProjectHandle, ReplayOptions,
    StepError, handler_fn,
};
use serde_json::{Value, json};

use crate::{
    backend::{Backend, Database, figure, on_both},
    stage::{ended, yaml},
};

const DOCUMENT: &str = "
name: moved
labels: { team: a }
inputs: { who: { default: you } }
tasks:
  list: { kind: work, with: { output: [1, 2, 3] } }
  each: { kind: work, needs: [list], for_each: '${{ tasks.list.output }}', with: { output: '${{ item * 10 }}' } }
  large: { kind: work, with: { output: '${{ inputs.who * 2000 }}' } }
  kept: { kind: work, with: { keep: true } }
  broken: { kind: work, needs: [each], with: { once: true, output: mended } }
  last: { kind: work, needs: [broken, large], with: { output: '${{ tasks.each.output }}' } }
outputs: { last: '${{ tasks.last.output }}' }
";

/// Fails where it is told to, the first time; keeps a checkpoint where it is told to.
fn work() -> impl Handler {
    handler_fn("work", async |ctx: Context, input: Value| {
        ctx.log(format!("{} \u{1f980}\u{7}", ctx.step()));
        if input["once"] == true && ctx.generation() == 1 {
            return Err(StepError::fail("failed", "once"));
        }
        if input["keep"] == true {
            ctx.checkpoint("half", async { Ok(json!({ "n": 0.1 })) }).await?;
        }
        Ok(input["output"].clone())
    })
}

fn other(backend: Backend) -> Backend {
    match backend {
        Backend::Sqlite => Backend::Postgres,
        _ => Backend::Sqlite,
    }
}

async fn engine(database: &Database) -> Engine {
    database.builder().handler(work()).start().await.unwrap()
}

async fn archive(project: &ProjectHandle) -> Vec<u8> {
    let mut lines = project.export_lines().await.unwrap();
    let mut archive = vec![];
    while let Some(line) = lines.recv().await {
        archive.extend_from_slice(line.unwrap().as_bytes());
    }
    archive
}

async fn import(engine: &Engine, archive: &[u8]) -> Result<ProjectHandle, Error> {
    engine.import(Cursor::new(archive.to_vec()), ImportOptions::default()).await
}

/// Everything that can be seen of a project.
async fn seen(project: &ProjectHandle) -> Value {
    let mut kept = vec![];
    let view = project.view().await.unwrap();
    for step in &view.steps {
        kept.push(project.checkpoints(&step.name).await.unwrap());
    }
    let attempts = project.attempts().await.unwrap();
    let attempts: Vec<String> = attempts.iter().map(|it| format!("{it:?}")).collect();
    let logs = project.logs(None).await.unwrap();
    let logs: Vec<_> = logs
        .iter()
        .map(|it| (it.no, it.generation, it.attempt, it.at, &it.line))
        .collect();
    json!({
        "view": view, "kept": kept, "attempts": attempts, "logs": logs,
        "events": project.events(0).await.unwrap(), "replays": project.replays().await.unwrap(),
        "labels": project.summary().await.unwrap().labels,
    })
}

on_both! {
    async fn a_project_is_the_same_in_the_other_kind_of_database_and_is_replayed_there(backend) {
        let (here, there) = (Database::fresh(backend), Database::fresh(other(backend)));
        let first = engine(&here).await;
        let base = first.submit(yaml(DOCUMENT)).await.unwrap();
        assert_eq!(ended(&base).await.state.as_str(), "failed");
        let second = engine(&there).await;
        let moved = import(&second, &archive(&base).await).await.unwrap();
        assert_eq!(moved.id(), base.id());
        assert_eq!(seen(&moved).await, seen(&base).await);
        let found = dandori::store::ListFilter {
            labels: [("team".to_owned(), "a".to_owned())].into(),
            limit: 9,
            ..Default::default()
        };
        assert_eq!(second.list(&found).await.unwrap().len(), 1, "by its label");
        let plan = moved.plan_replay_of(&ReplayOptions::default()).await.unwrap();
        let runs: Vec<_> = plan.preview.steps.iter().filter(|it| it.action == "run").map(|it| &*it.name).collect();
        assert_eq!(runs, ["broken", "last"]);
        moved.replay(plan).await.unwrap();
        let view = ended(&moved).await;
        assert_eq!(view.output.unwrap().get(), r#"{"last":[10,20,30]}"#);
        assert_eq!(ended(&base).await.state.as_str(), "failed", "the original is as it was");
        // And back, beside the original: with what was replayed, under another id.
        let options = ImportOptions { fresh_id: true, ..ImportOptions::default() };
        let back = first.import(Cursor::new(archive(&moved).await), options).await.unwrap();
        assert_ne!(back.id(), base.id());
        let [a, b] = [&back, &moved].map(async |it| {
            seen(it).await.to_string().replace(&it.id().to_string(), "")
        });
        let (a, b) = (a.await, b.await);
        assert_eq!(a, b);
        assert_eq!(back.replays().await.unwrap().len(), 1);
        first.shutdown().await;
        second.shutdown().await;
    }

    async fn a_fork_leaves_without_its_base(backend) {
        let (here, there) = (Database::fresh(backend), Database::fresh(other(backend)));
        let (first, second) = (engine(&here).await, engine(&there).await);
        let base = first.submit(yaml(DOCUMENT)).await.unwrap();
        ended(&base).await;
        let plan = base.plan_fork(&ReplayOptions::default(), None).await.unwrap();
        let fork = base.fork(plan).await.unwrap();
        let view = ended(&fork).await;
        assert_eq!(view.state.as_str(), "succeeded");
        let moved = import(&second, &archive(&fork).await).await.unwrap();
        let (a, b) = (seen(&moved).await, seen(&fork).await);
        assert_eq!((&a["view"], &a["events"]), (&b["view"], &b["events"]));
        // What it runs there sees the values of the base.
        let from = ReplayOptions { from: vec!["last".to_owned()], ..ReplayOptions::default() };
        let plan = moved.plan_replay_of(&from).await.unwrap();
        moved.replay(plan).await.unwrap();
        let view = ended(&moved).await;
        assert_eq!(view.output.unwrap().get(), r#"{"last":[10,20,30]}"#);
        first.shutdown().await;
        second.shutdown().await;
    }

    async fn what_sleeps_with_a_value_leaves_with_it(backend) {
        let (stage, there) = (crate::stage::Stage::on(backend), crate::stage::Stage::on(other(backend)));
        let (first, second) = (stage.engine().await, there.engine().await);
        let document = "tasks: {a: {kind: work}, b: {kind: work, needs: [a], \
                        with: {a: '${{ tasks.a.output }}'}}, c: {kind: work}}";
        let base = first.submit(yaml(document)).await.unwrap();
        let [a, c] = stage.next_of(2).await.try_into().unwrap_or_else(|_| panic!());
        let output = dandori::to_raw(&json!("slept")).unwrap();
        let wait = std::time::Duration::from_secs(3_600);
        a.end(Ok(dandori::Outcome::After { wait, output }));
        stage.until_step(&base, "a", "waiting").await;
        base.pause().await.unwrap();
        c.fail(StepError::fail("failed", "once"));
        stage.until_step(&base, "c", "failed").await;
        let plan = base.plan_fork(&ReplayOptions::default(), None).await.unwrap();
        let fork = base.fork(plan).await.unwrap();
        let c = stage.next().await;
        fork.pause().await.unwrap();
        c.succeed(json!(1));
        stage.until_step(&fork, "c", "succeeded").await;
        let moved = import(&second, &archive(&fork).await).await.unwrap();
        moved.resume().await.unwrap();
        there.clock.advance(wait * 2);
        let b = there.next().await;
        assert_eq!(b.input, json!({ "a": "slept" }), "the value is that of the base");
        b.succeed(json!(2));
        assert_eq!(ended(&moved).await.state.as_str(), "succeeded");
        first.abort().await;
        second.shutdown().await;
    }

    async fn what_is_no_whole_archive_records_nothing(backend) {
        let here = Database::fresh(backend);
        let first = engine(&here).await;
        let base = first.submit(yaml(DOCUMENT)).await.unwrap();
        ended(&base).await;
        let whole = String::from_utf8(archive(&base).await).unwrap();
        let there = Database::fresh(backend);
        let second = there.builder().connect().await.unwrap();
        let lines: Vec<&str> = whole.split_inclusive('\n').collect();
        let refused = async |text: String, says: &str| {
            let error = import(&second, text.as_bytes()).await.unwrap_err();
            assert!(error.to_string().contains(says), "{says}: {error}");
            let all = dandori::store::ListFilter { limit: 9, ..Default::default() };
            assert!(second.list(&all).await.unwrap().is_empty(), "{says}");
        };
        for cut in [0, 1, 2, 3, lines.len() / 2, lines.len() - 1] {
            refused(lines[..cut].concat(), "missing").await;
        }
        refused(whole[..whole.len() - 1].to_owned(), "has no end").await;
        refused(lines[..lines.len() - 1].concat() + lines[3] + lines[lines.len() - 1], "not those").await;
        refused(whole.clone() + "{}\n", "more after the end").await;
        refused(whole.replace("\"dandori_archive\":1", "\"dandori_archive\":2"), "newer").await;
        refused("tasks: {a: {kind: noop}}\n".to_owned(), "no archive").await;
        refused(whole.replace("{\"steps\":", "{\"tokens\":"), "`tokens` is not known").await;
        refused(whole.replace("\"generation\":1", "\"generation\":\"1\""), "not such a value").await;
        // The lines are right, and do not fit together.
        let forged = |from: &str, to: &str| {
            use sha2::Digest as _;
            let body = lines[..lines.len() - 1].concat().replace(from, to);
            let hash = sha2::Sha256::digest(body.as_bytes());
            let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            let count = lines.len() - 1;
            format!("{body}{}\n", json!({ "end": { "lines": count, "sha256": hash } }))
        };
        assert!(import(&second, forged("moved", "moved").as_bytes()).await.is_ok());
        let there = Database::fresh(backend);
        let second = there.builder().connect().await.unwrap();
        for (from, to, says) in [
            ("\"state\":\"failed\",\"priority\"", "\"state\":\"running\",\"priority\"", "state"),
            ("\"counts\":{\"failed\":1", "\"counts\":{\"failed\":2", "do not fit"),
            ("\"state\":\"succeeded\"", "\"state\":\"excellent\"", ""),
            ("{\"steps\":{\"no\":0", "{\"steps\":{\"no\":70", ""),
            ("\"next_no\":9", "\"next_no\":4294967295", "out of range"),
            ("\"next_no\":9", "\"next_no\":2", "out of range"),
            ("\"items\":3", "\"items\":3000000", "do not fit"),
            ("\"first_child\":6", "\"first_child\":4000000000", "do not fit"),
            (",-1,0,1,null]]", ",-1,0,4000000000,null]]", "does not hold its numbers"),
            ("{\"events\":{\"first\":1,", "{\"events\":{\"first\":2,", "gap"),
            ("\"last_event\":", "\"last_event\":1", "are not those"),
            ("\"inputs\":\"{", "\"inputs\":\"[{", "not such a value"),
        ] {
            let text = forged(from, to);
            let ended = import(&second, text.as_bytes()).await;
            let Err(error) = ended else { panic!("{from} → {to}") };
            assert!(error.to_string().contains(says), "{says}: {error}");
            let all = dandori::store::ListFilter { limit: 9, ..Default::default() };
            assert!(second.list(&all).await.unwrap().is_empty(), "{from} → {to}");
        }
        let again = import(&first, whole.as_bytes()).await.unwrap_err();
        assert_eq!(again.code(), "exists");
        first.shutdown().await;
    }

    async fn only_what_rests_is_exported(backend) {
        let stage = crate::stage::Stage::on(backend);
        let engine = stage.engine().await;
        let project = engine.submit(yaml("tasks: {a: {kind: work}, b: {kind: work, needs: [a]}}")).await.unwrap();
        let call = stage.next().await;
        assert_eq!(project.export_lines().await.unwrap_err().code(), "illegal_state");
        project.pause().await.unwrap();
        call.succeed(json!(1));
        stage.until_step(&project, "a", "succeeded").await;
        let there = crate::stage::Stage::on(other(backend));
        let second = there.engine().await;
        let moved = import(&second, &archive(&project).await).await.unwrap();
        assert_eq!(moved.row().await.unwrap().state.as_str(), "paused");
        moved.resume().await.unwrap();
        let call = there.next().await;
        assert_eq!(call.step(), "b");
        call.succeed(json!(2));
        assert_eq!(ended(&moved).await.state.as_str(), "succeeded");
        engine.shutdown().await;
        second.shutdown().await;
    }

    async fn a_crash_leaves_an_import_undone_or_whole(backend) {
        let here = Database::fresh(backend);
        let first = engine(&here).await;
        let base = first.submit(yaml(DOCUMENT)).await.unwrap();
        ended(&base).await;
        let whole = archive(&base).await;
        for after in [false, true] {
            let there = Database::fresh(backend);
            let store = there.open_for_crashes(move |point| {
                point.verb == "import" && point.after == after
            });
            let dying = Engine::builder().store(store.await).connect().await.unwrap();
            assert!(import(&dying, &whole).await.is_err());
            there.bury().await;
            let second = engine(&there).await;
            let found = second.find("moved").await;
            assert_eq!(found.is_ok(), after);
            if let Ok(moved) = found {
                assert_eq!(seen(&moved).await, seen(&base).await);
            }
            second.shutdown().await;
        }
        first.shutdown().await;
    }

    async fn a_large_project_moves(backend) {
        let (here, there) = (Database::fresh(backend), Database::fresh(other(backend)));
        let (first, second) = (engine(&here).await, engine(&there).await);
        let mut tasks = serde_json::Map::new();
        for n in 0..10_000 {
            let task = json!({ "kind": "work", "with": { "output": "x".repeat(100) } });
            tasks.insert(format!("t{n}"), task);
        }
        let document = json!({ "tasks": tasks }).to_string();
        let document = dandori::Project::from_json(&document).unwrap();
        let base = first.submit(document).await.unwrap();
        ended(&base).await;
        let began = std::time::Instant::now();
        let whole = archive(&base).await;
        let exported = began.elapsed();
        let moved = import(&second, &whole).await.unwrap();
        let imported = began.elapsed() - exported;
        assert_eq!(moved.view().await.unwrap().counts["succeeded"], 10_000);
        let what = format!("ms to export 10,000 steps from {backend:?}, and to import them into the other");
        figure("archive", &what, format!("{:.0}, {:.0}", exported.as_secs_f64() * 1e3, imported.as_secs_f64() * 1e3));
        first.shutdown().await;
        second.shutdown().await;
    }
}
