//! Crashes at every write: whatever the moment, the end is that of an undisturbed run, and
//! nothing that was recorded runs again.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use dandori::{
    Canvas, Context, Engine, EngineBuilder, Outcome, ProjectHandle, StepError,
    handler_fn, store::CrashPoint,
};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{
    backend::{Backend, Database, figure, fresh, on_both},
    stage::{ended, yaml},
};

/// Retries, an allowed failure, rules, a condition, a template, an expansion, a sleep, pure
/// steps and fan-ins.
const DOCUMENT: &str = "
name: every kind of step
templates:
  pair:
    params: { value: {} }
    tasks:
      double: { kind: pure, with: { value: '${{ params.value * 2 }}' } }
      flaky: { kind: flaky, needs: [double], with: { value: '${{ tasks.double.output + 1 }}' }, retry: { max_retries: 5, delay: 1ms } }
    output: '${{ tasks.flaky.output }}'
tasks:
  grown: { kind: becomes, with: { value: 1 } }
  start: { kind: calc, with: { value: 1 } }
  broken: { kind: broken, needs: [start], allow_failure: true }
  fallback: { kind: calc, needs: [broken], rule: any_failed, with: { value: '${{ tasks.broken.error.code }}' } }
  never: { kind: calc, needs: [start], if: tasks.start.output > 100, with: { value: 0 } }
  after_never: { kind: pure, needs: [never], rule: none_failed, with: { value: 5 } }
  pair: { use: pair, needs: [start], with: { value: '${{ tasks.start.output }}' } }
  each: { kind: pure, needs: [pair], for_each: [1, 2, 3], window: 2, with: { value: '${{ item * tasks.pair.output }}' } }
  nap: { kind: nap, needs: [start] }
  sum: { kind: calc, needs: [fallback, after_never, each, nap], with: { value: ['${{ tasks.each.output }}', '${{ tasks.fallback.output }}', '${{ tasks.nap.output }}'] } }
  lost: { kind: calc, needs: [after_never], if: 'tasks.after_never.output.nothing', with: { value: 0 }, allow_failure: true }
";

/// Chains, a group that tolerates a failure, a chord, callbacks, an error handler, a skip, a
/// step that becomes a canvas, one that adds to its group, siblings that are cancelled.
const CANVAS: &str = "
name: every kind of expression
canvas:
  chain:
    - [calc, 1]
    - group:
        - { kind: flaky, options: { retry: { max_retries: 5, delay: 1ms } } }
        - { kind: broken, on_failure: [[calc]] }
        - { chain: [[pure], { kind: nap }, [pure]], on_success: [[pure]] }
        - { kind: calc, options: { start_before: '2020-01-01T00:00:00Z' } }
        - { chain: [[pure], { kind: adds }] }
        - group: [{ kind: broken }, { kind: calc, options: { delay: 1h } }]
          siblings: cancel
      tolerate: 2
    - { kind: becomes, on_success: [[calc]] }
    - { chord: { header: [[calc], { map: { kind: calc, items: [1, 2] } }], body: [calc] } }
  on_success: [[calc]]
";

#[derive(serde::Deserialize)]
struct Input {
    value: Value,
}

/// Every execution of a handler: the step with its key.
type Witness = Arc<Mutex<Vec<String>>>;

fn kinds(builder: EngineBuilder, witness: &Witness) -> EngineBuilder {
    let see = |ctx: &Context, witness: &Witness| {
        witness.lock().unwrap().push(ctx.step().to_owned());
    };
    let calc = {
        let witness = Arc::clone(witness);
        move |ctx: Context, input: Input| {
            see(&ctx, &witness);
            async move { Ok(input.value) }
        }
    };
    let flaky = {
        let witness = Arc::clone(witness);
        move |ctx: Context, input: Input| {
            see(&ctx, &witness);
            async move {
                match ctx.attempt() {
                    1 => Err(StepError::retry("timeout", "late")),
                    _ => Ok(input.value),
                }
            }
        }
    };
    let broken = {
        let witness = Arc::clone(witness);
        move |ctx: Context, _: Value| {
            see(&ctx, &witness);
            async move { Err::<Value, _>(StepError::fail("broken", "for good")) }
        }
    };
    let becomes = {
        let witness = Arc::clone(witness);
        move |ctx: Context, input: Input| {
            see(&ctx, &witness);
            async move {
                let call = || Canvas::call("calc", []);
                let adds = Canvas::call("adds", []);
                let retry = json!({ "max_retries": 5, "delay": "1ms" });
                let flaky = Canvas::call("flaky", []).option("retry", &retry);
                let group = Canvas::group([call(), flaky, adds]);
                let canvas = Canvas::chain([call(), group]).on_success(call());
                Ok(Outcome::Expand {
                    canvas: Box::new(canvas),
                    args: vec![input.value],
                })
            }
        }
    };
    let adds = {
        let witness = Arc::clone(witness);
        move |ctx: Context, input: Input| {
            see(&ctx, &witness);
            async move {
                ctx.add_to_chord(Canvas::chain([
                    Canvas::call("calc", [json!(7)]),
                    Canvas::call("calc", []),
                ]));
                Ok(input.value)
            }
        }
    };
    builder
        .handler(handler_fn("becomes", becomes))
        .handler(handler_fn("adds", adds))
        .handler(handler_fn("pure", calc.clone()).pure())
        .handler(handler_fn("calc", calc))
        .handler(handler_fn("flaky", flaky))
        .handler(handler_fn("broken", broken))
        .handler(Nap)
        .crash_limit(0)
}

struct Nap;

#[async_trait::async_trait]
impl dandori::Handler for Nap {
    fn kind(&self) -> &'static str {
        "nap"
    }

    async fn run(
        &self,
        _: Context,
        _: &serde_json::value::RawValue,
    ) -> Result<Outcome, StepError> {
        let output = dandori::to_raw(&json!("rested"))?;
        Ok(Outcome::After { wait: std::time::Duration::from_millis(2), output })
    }
}

/// Everything about an ended project that a crash must not change.
async fn end_state(project: &ProjectHandle) -> Vec<String> {
    let view = ended(project).await;
    let mut lines = vec![format!("{} {:?} {:?}", view.state, view.output, view.counts)];
    // How often a step was tried is part of the record of its failure, and a crash counts.
    let tries = |line: &mut String| {
        for n in 2..9 {
            *line =
                line.replace(&format!("\\\"attempts\\\":{n}"), "\\\"attempts\\\":1");
            *line = line.replace(&format!("\"attempts\":{n}"), "\"attempts\":1");
        }
    };
    for step in &view.steps {
        let error = step.error.as_ref().map(|error| error.code.to_string());
        lines.push(format!("{} {} {:?} {error:?}", step.name, step.state, step.output));
    }
    lines.iter_mut().for_each(tries);
    lines
}

async fn undisturbed(backend: Backend, document: &str) -> Vec<String> {
    let store = fresh(backend).await;
    let engine = kinds(Engine::builder().store(store), &Witness::default())
        .start()
        .await
        .unwrap();
    let project = engine.submit(yaml(document)).await.unwrap();
    let state = end_state(&project).await;
    engine.shutdown().await;
    assert!(state[0].starts_with("succeeded"), "{state:?}");
    state
}

/// Runs until the process "dies" at a write that `dies` names; returns whether it did.
async fn run_until(
    database: &Database,
    witness: &Witness,
    concurrency: usize,
    batch: usize,
    document: &str,
    dies: impl Fn(usize, CrashPoint) -> bool + Send + Sync + 'static,
) -> bool {
    let count = AtomicUsize::new(0);
    let death = Arc::new(Notify::new());
    let dead = Arc::clone(&death);
    database.bury().await;
    let store = database.open_for_crashes(move |point| {
        let dies = dies(count.fetch_add(1, Ordering::SeqCst), point);
        if dies {
            dead.notify_one();
        }
        dies
    });
    let store = store.await;
    let builder = kinds(Engine::builder().store(store), witness);
    let started = builder.concurrency(concurrency).max_batch(batch).start().await;
    let Ok(engine) = started else { return true };
    let project = match engine.open_projects().await.unwrap().pop() {
        Some(project) => Ok(project),
        None => engine.submit(yaml(document)).await,
    };
    let died = match project {
        Ok(project) => tokio::select! {
            ended = project.wait() => ended.is_err(),
            () = death.notified() => true,
        },
        Err(_) => true,
    };
    // What is left of the "dead" process must not write any more, and does not wait.
    engine.shutdown().await;
    died
}

/// The steps whose success is recorded.
async fn recorded(database: &Database) -> BTreeSet<String> {
    let engine = database.builder().connect().await.unwrap();
    let Ok(project) = engine.find("last").await else { return BTreeSet::new() };
    let view = project.view().await.unwrap();
    let done = |step: &&dandori::StepDetails| step.state.as_str() == "succeeded";
    view.steps.iter().filter(done).map(|step| step.name.clone()).collect()
}

/// Goes on after a crash and compares.
async fn goes_on(
    database: &Database,
    witness: &Witness,
    document: &str,
    calm: &[String],
    what: &str,
) {
    let done = recorded(database).await;
    let before = witness.lock().unwrap().len();
    database.bury().await;
    let builder = kinds(database.builder(), witness);
    let engine = builder.concurrency(3).start().await.unwrap();
    let project = match engine.find("last").await {
        Ok(project) => project,
        // Nothing was acknowledged, so nothing may be left.
        Err(_) => engine.submit(yaml(document)).await.unwrap(),
    };
    assert_eq!(end_state(&project).await, calm, "{what}");
    for step in &witness.lock().unwrap()[before..] {
        assert!(!done.contains(step), "{what}: {step} was recorded and ran again");
    }
    engine.shutdown().await;
}

on_both! {
    async fn a_crash_before_or_after_any_write_changes_nothing(backend) {
        for (name, document) in [("tasks", DOCUMENT), ("a canvas", CANVAS)] {
            let calm = undisturbed(backend, document).await;
            let mut points = 0;
            loop {
                let database = Database::fresh(backend);
                let witness = Witness::default();
                let point = points;
                // One transition a commit and one step at a time: the same writes each time.
                let dies = move |at, _| at == point;
                if !run_until(&database, &witness, 1, 1, document, dies).await {
                    break;
                }
                let what = format!("crash point {point} of {name}");
                goes_on(&database, &witness, document, &calm, &what).await;
                points += 1;
            }
            let what = format!("crash points of {name} on {backend:?}, resumed to the same end");
            figure("3", &what, points);
            assert!(points > 40, "only {points} writes were seen");
        }
    }

    async fn crashes_at_random_writes_in_a_row_change_nothing(backend) {
        let calm =
            [undisturbed(backend, DOCUMENT).await, undisturbed(backend, CANVAS).await];
        let rounds = if std::env::var_os("DANDORI_FULL").is_some() { 100 } else { 25 };
        for seed in 0..rounds {
            let database = Database::fresh(backend);
            let witness = Witness::default();
            let which = usize::try_from(seed % 2).unwrap();
            let document = [DOCUMENT, CANVAS][which];
            let mut state: u64 = seed * 2 + 1;
            for _ in 0..6 {
                // A linear congruential generator is random enough for where to cut.
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695);
                let after = usize::try_from(state >> 59).unwrap();
                let dies = move |at, _| at == after;
                if !run_until(&database, &witness, 4, 512, document, dies).await {
                    break;
                }
            }
            let (calm, what) = (&calm[which], format!("seed {seed}"));
            goes_on(&database, &witness, document, calm, &what).await;
        }
    }
}
