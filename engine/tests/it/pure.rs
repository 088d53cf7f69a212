//! Pure steps go ahead of the commit of what they build on; what has effects never does.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use dandori::{Context, Engine, ProjectHandle, StepError, handler_fn};
use serde_json::{Value, json, value::RawValue};
use tokio::sync::Notify;

use crate::{
    backend::{Database, on_both},
    stage::{Call, Stage, ended, yaml},
};

/// Commits of an engine wait while it is closed. A test that fails leaves it open.
#[derive(Clone, Default)]
struct Door(Arc<Hinges>);

#[derive(Default)]
struct Hinges {
    /// How many may still pass, while it is closed.
    closed: Mutex<Option<usize>>,
    changed: Condvar,
    waiting: AtomicUsize,
    /// Whether the process has died behind it.
    is_dead: AtomicBool,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.open();
    }
}

impl Door {
    fn close(&self) {
        self.set(Some(0));
    }

    fn open(&self) {
        self.set(None);
    }

    /// Lets one commit pass, and waits until the next one stands there.
    async fn let_one_pass(&self, stage: &Stage) {
        self.set(Some(1));
        let stands = async || {
            let nobody = *self.0.closed.lock().unwrap() == Some(0);
            nobody && self.0.waiting.load(Ordering::SeqCst) > 0
        };
        stage.until("the next commit waits", stands).await;
    }

    fn set(&self, closed: Option<usize>) {
        *self.0.closed.lock().unwrap() = closed;
        self.0.changed.notify_all();
    }

    /// Whether the process has died before it could pass.
    fn pass(&self) -> bool {
        let Hinges { closed, changed, waiting, is_dead } = &*self.0;
        tokio::task::block_in_place(|| {
            waiting.fetch_add(1, Ordering::SeqCst);
            let closed = closed.lock().unwrap();
            let mut closed =
                changed.wait_while(closed, |closed| *closed == Some(0)).unwrap();
            // Before anybody can see that one has passed.
            waiting.fetch_sub(1, Ordering::SeqCst);
            *closed = closed.map(|left| left - 1);
        });
        is_dead.load(Ordering::SeqCst)
    }

    async fn until_somebody_waits(&self, stage: &Stage) {
        let waits = async || self.0.waiting.load(Ordering::SeqCst) > 0;
        stage.until("a commit waits", waits).await;
    }

    /// The executor; whoever was it before is dead.
    async fn engine(&self, stage: &Stage) -> Engine {
        stage.database.bury().await;
        let door = self.clone();
        let store = stage.database.open_for_crashes(move |point| {
            point.verb == "commit" && !point.after && door.pass()
        });
        stage.builder().store(store.await).start().await.unwrap()
    }

    /// Nothing that waits is written any more, and nothing else by this engine.
    async fn die(&self, engine: Engine) {
        self.0.is_dead.store(true, Ordering::SeqCst);
        self.open();
        engine.abort().await;
    }
}

fn value(raw: Option<&RawValue>) -> Value {
    raw.map_or(Value::Null, |raw| serde_json::from_str(raw.get()).unwrap())
}

/// The next attempt, which must be of this step.
async fn next(stage: &Stage, step: &str) -> Call {
    let call = stage.next().await;
    assert_eq!(call.step(), step);
    call
}

/// The next attempts end well, and are of these steps.
async fn succeed(stage: &Stage, steps: &[&str]) {
    for step in steps {
        next(stage, step).await.succeed(json!(step));
    }
}

async fn submit(engine: &Engine, text: &str) -> ProjectHandle {
    engine.submit(yaml(text)).await.unwrap()
}

/// Pure steps of another project, which take several turns once the first has ended: what
/// was decided before that has begun by then.
struct Turns(Call);

impl Turns {
    async fn ready(stage: &Stage, engine: &Engine) -> Self {
        let text = "
            name: turns
            tasks:
              gate: { kind: pure }
              one: { kind: pure, needs: [gate] }
              two: { kind: pure, needs: [one] }
              three: { kind: pure, needs: [two] }
        ";
        let project = submit(engine, text).await;
        let gate = next(stage, "gate").await;
        stage.until_step(&project, "gate", "running").await;
        Self(gate)
    }

    /// Nothing else begins meanwhile.
    async fn pass(self, stage: &Stage) {
        self.0.succeed(json!("open"));
        succeed(stage, &["one", "two", "three"]).await;
        assert!(stage.is_quiet().await);
    }
}

/// A pure step, pure steps behind it with a join and an expansion, and among them one that
/// has effects.
const DOCUMENT: &str = "
name: pure
templates:
  pair:
    params: { of: {} }
    tasks:
      left: { kind: pure, with: { of: '${{ params.of }}' } }
      right: { kind: pure, needs: [left], with: { of: '${{ params.of }}' } }
    output: ['${{ tasks.left.output }}', '${{ tasks.right.output }}']
tasks:
  first: { kind: pure }
  pair: { use: pair, needs: [first], with: { of: '${{ tasks.first.output }}' } }
  effect: { kind: work, needs: [pair], with: { of: '${{ tasks.pair.output }}' } }
  each: { kind: pure, needs: [pair], for_each: [1, 2], window: 1 }
  last: { kind: pure, needs: [each], with: { of: '${{ tasks.each.output }}' } }
";

/// What has effects, and a pure step behind it.
const BEHIND: &str = "
name: behind
tasks:
  first: { kind: work }
  pure: { kind: pure, needs: [first] }
  join: { kind: pure, needs: [pure] }
";

/// One need is enough, and the other is looked at all the same.
const EARLY: &str = "
name: early
tasks:
  a: { kind: work }
  b: { kind: work }
  x: { kind: work, needs: [a, b], rule: any_succeeded, with: { b: '${{ tasks.b.output }}' } }
";

/// Effects on the outside: the number of an execution, and what was passed to it.
type Outside = Arc<Mutex<Vec<(String, Value)>>>;

/// Steps with effects whose outputs are never the same twice, and pure ones between them.
const NEVER_THE_SAME: &str = "
name: never the same
tasks:
  a: { kind: effect }
  b: { kind: plain, needs: [a], with: { of: '${{ tasks.a.output }}' } }
  c: { kind: effect, needs: [b], with: { of: '${{ tasks.b.output }}' } }
  d: { kind: plain, needs: [c], for_each: [1, 2], with: { of: ['${{ item }}', '${{ tasks.c.output }}'] } }
  e: { kind: effect, needs: [d], with: { of: '${{ tasks.d.output }}' } }
  f: { kind: plain, needs: [e], with: { of: '${{ tasks.e.output }}' } }
";

/// What each step of this document must have been given, by the outputs of others.
fn given(output: &BTreeMap<&str, Value>, step: &str) -> Value {
    match step {
        "a" => Value::Null,
        "c" => output["b"].clone(),
        "e" => output["d"].clone(),
        other => panic!("{other} has no effects"),
    }
}

/// Runs the document until its process "dies" at the given write; whether it did.
async fn dies_at(
    database: &Database,
    outside: &Outside,
    death: usize,
    life: usize,
) -> bool {
    database.bury().await;
    let (count, dead) = (AtomicUsize::new(0), Arc::new(Notify::new()));
    let tell = Arc::clone(&dead);
    let store = database.open_for_crashes(move |_| {
        let dies = count.fetch_add(1, Ordering::SeqCst) == death;
        if dies {
            tell.notify_one();
        }
        dies
    });
    let seen = Arc::clone(outside);
    let effect = move |ctx: Context, input: Value| {
        let mut seen = seen.lock().unwrap();
        seen.push((ctx.step().to_owned(), input["of"].clone()));
        let number = seen.len();
        async move { Ok::<_, StepError>(json!(number)) }
    };
    let made = AtomicUsize::new(0);
    let plain = move |_: Context, input: Value| {
        // Never the same either.
        let number = made.fetch_add(1, Ordering::SeqCst) + 1_000 * (life + 1);
        async move { Ok::<_, StepError>(json!([input["of"], number])) }
    };
    let builder = Engine::builder().store(store.await).crash_limit(0);
    let builder = builder.handler(handler_fn("effect", effect));
    let Ok(engine) = builder.handler(handler_fn("plain", plain).pure()).start().await
    else {
        return true;
    };
    let project = match engine.find("last").await {
        Ok(project) => Ok(project),
        Err(_) => engine.submit(yaml(NEVER_THE_SAME)).await,
    };
    let died = match project {
        Ok(project) => tokio::select! {
            ended = project.wait() => ended.is_err(),
            () = dead.notified() => true,
        },
        Err(_) => true,
    };
    engine.shutdown().await;
    died
}

on_both! {
    async fn pure_steps_run_while_what_they_build_on_is_being_written(backend) {
        let (stage, door) = (Stage::on(backend), Door::default());
        let engine = door.engine(&stage).await;
        let project = submit(&engine, DOCUMENT).await;
        let first = next(&stage, "first").await;
        stage.until_step(&project, "first", "running").await;
        door.close();
        first.succeed(json!("found"));
        succeed(&stage, &["pair/left", "pair/right", "each[0]", "each[1]", "last"]).await;
        assert!(stage.is_quiet().await, "what has effects has not started");
        let view = project.view().await.unwrap();
        let first = view.steps.iter().find(|step| step.name == "first").unwrap();
        assert_eq!(first.state.as_str(), "running", "nobody sees what is not written");
        door.open();
        let effect = next(&stage, "effect").await;
        assert_eq!(effect.input, json!({ "of": ["pair/left", "pair/right"] }));
        effect.succeed(json!("done"));
        let view = ended(&project).await;
        assert_eq!(view.state.as_str(), "succeeded");
        let output = value(view.output.as_deref());
        assert_eq!(output, json!({ "effect": "done", "last": "last" }));
        assert!(stage.is_quiet().await, "each ran once");
        engine.shutdown().await;
    }

    async fn nothing_goes_ahead_of_the_result_of_what_has_effects(backend) {
        let (stage, door) = (Stage::on(backend), Door::default());
        let engine = door.engine(&stage).await;
        let turns = Turns::ready(&stage, &engine).await;
        let project = submit(&engine, BEHIND).await;
        let first = next(&stage, "first").await;
        stage.until_step(&project, "first", "running").await;
        door.close();
        first.succeed(json!("paid for"));
        turns.pass(&stage).await;
        door.open();
        succeed(&stage, &["pure", "join"]).await;
        assert_eq!(ended(&project).await.state.as_str(), "succeeded");
        engine.shutdown().await;
    }

    async fn nor_of_what_it_has_grown_to(backend) {
        let (stage, door) = (Stage::on(backend), Door::default());
        let engine = door.engine(&stage).await;
        let turns = Turns::ready(&stage, &engine).await;
        let grows = "{ name: grows, tasks: { first: { kind: work } } }";
        let project = submit(&engine, grows).await;
        let first = next(&stage, "first").await;
        stage.until_step(&project, "first", "running").await;
        door.close();
        let canvas = Box::new(dandori::Canvas::call("pure", []));
        first.end(Ok(dandori::Outcome::Expand { canvas, args: vec![] }));
        turns.pass(&stage).await;
        door.open();
        stage.next().await.succeed(json!("grown"));
        assert_eq!(ended(&project).await.state.as_str(), "succeeded");
        engine.shutdown().await;
    }

    async fn in_a_project_whose_process_died_nothing_goes_ahead(backend) {
        let (stage, door) = (Stage::on(backend), Door::default());
        let engine = stage.engine().await;
        let project = submit(&engine, DOCUMENT).await;
        let _interrupted = next(&stage, "first").await;
        stage.until_step(&project, "first", "running").await;
        engine.abort().await;
        let engine = door.engine(&stage).await;
        let project = engine.project(project.id());
        let first = next(&stage, "first").await;
        let turns = Turns::ready(&stage, &engine).await;
        door.close();
        first.succeed(json!("found"));
        turns.pass(&stage).await;
        door.open();
        succeed(&stage, &["pair/left", "pair/right"]).await;
        for call in stage.next_of(2).await {
            call.succeed(json!(1));
        }
        succeed(&stage, &["each[1]", "last"]).await;
        assert_eq!(ended(&project).await.state.as_str(), "succeeded");
        engine.shutdown().await;
    }

    async fn nor_in_one_whose_process_died_before_it_wrote_anything(backend) {
        let stage = Stage::on(backend);
        let door = Door::default();
        let engine = door.engine(&stage).await;
        door.close();
        let project = submit(&engine, DOCUMENT).await;
        succeed(&stage, &["first"]).await;
        // It goes ahead, and the process dies of it.
        let _deadly = next(&stage, "pair/left").await;
        door.die(engine).await;
        let door = Door::default();
        let engine = door.engine(&stage).await;
        let first = next(&stage, "first").await;
        let turns = Turns::ready(&stage, &engine).await;
        door.close();
        first.succeed(json!("found"));
        turns.pass(&stage).await;
        let store = stage.database.open().await;
        let stored = store.project(project.id()).await.unwrap().unwrap();
        let charged = stored.facts.iter().filter(|fact| fact.crashes > 0).count();
        assert_eq!(charged, 0, "nobody knows yet who it was");
        door.open();
        engine.abort().await;
    }

    async fn what_has_effects_does_not_see_a_result_that_is_not_written(backend) {
        let (stage, door) = (Stage::on(backend), Door::default());
        let engine = door.engine(&stage).await;
        let turns = Turns::ready(&stage, &engine).await;
        let more_turns = Turns::ready(&stage, &engine).await;
        let project = submit(&engine, EARLY).await;
        let mut calls = stage.next_of(2).await;
        stage.until_step(&project, "b", "running").await;
        let (b, a) = (calls.pop().unwrap(), calls.pop().unwrap());
        door.close();
        a.succeed(json!(1));
        door.until_somebody_waits(&stage).await;
        // It comes with the next commit: when the first one is written, `x` may start.
        b.succeed(json!(2));
        turns.pass(&stage).await;
        door.let_one_pass(&stage).await;
        more_turns.pass(&stage).await;
        door.open();
        let x = next(&stage, "x").await;
        assert_eq!(x.input, json!({ "b": 2 }));
        x.succeed(json!(3));
        assert_eq!(ended(&project).await.state.as_str(), "succeeded");
        engine.shutdown().await;
    }

    async fn what_has_effects_does_not_see_a_failure_that_is_not_written(backend) {
        let (stage, door) = (Stage::on(backend), Door::default());
        let engine = door.engine(&stage).await;
        let turns = Turns::ready(&stage, &engine).await;
        let more_turns = Turns::ready(&stage, &engine).await;
        let early = EARLY.replace("b: { kind: work }", "b: { kind: work, retry: { max_retries: 5, delay: 0s } }");
        let project = submit(&engine, &early.replace("b.output", "b.error")).await;
        let mut calls = stage.next_of(2).await;
        stage.until_step(&project, "b", "running").await;
        let (b, a) = (calls.pop().unwrap(), calls.pop().unwrap());
        door.close();
        a.succeed(json!(1));
        door.until_somebody_waits(&stage).await;
        b.fail(StepError::retry("busy", "once more"));
        turns.pass(&stage).await;
        // Its retry is due already.
        stage.clock.advance(std::time::Duration::from_secs(1));
        door.let_one_pass(&stage).await;
        more_turns.pass(&stage).await;
        door.open();
        let calls = stage.next_of(2).await;
        let steps: Vec<_> = calls.iter().map(|call| call.step().to_owned()).collect();
        assert_eq!(steps, ["b", "x"]);
        assert_eq!(calls[1].input["b"]["code"], json!("busy"));
        for call in calls {
            call.succeed(json!(2));
        }
        assert_eq!(ended(&project).await.state.as_str(), "succeeded");
        engine.shutdown().await;
    }

    async fn what_has_effects_has_seen_only_what_is_recorded_wherever_a_crash_is(backend) {
        let mut point = 0;
        loop {
            let database = Database::fresh(backend);
            let outside = Outside::default();
            if !dies_at(&database, &outside, point, 0).await {
                break;
            }
            // It may die once more, a little later, before it comes to its end.
            let mut again = point % 5 + 4;
            let mut life = 1;
            while dies_at(&database, &outside, again, life).await {
                life += 1;
                again += 4;
            }
            let engine = database.builder().connect().await.unwrap();
            let view = engine.find("last").await.unwrap().view().await.unwrap();
            assert_eq!(view.state.as_str(), "succeeded", "crash point {point}");
            let output: BTreeMap<&str, Value> = view
                .steps
                .iter()
                .map(|step| (&*step.name, value(step.output.as_deref())))
                .collect();
            for (step, input) in &*outside.lock().unwrap() {
                let given = given(&output, step);
                assert_eq!(input, &given, "crash point {point}: {step} saw what is gone");
            }
            assert_eq!(output["f"][0], output["e"], "crash point {point}");
            point += 1;
        }
        assert!(point > 10, "only {point} writes were seen");
    }
}

#[tokio::test]
async fn a_chain_of_pure_steps_is_a_few_commits() {
    let stage = Stage::new();
    let commits = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&commits);
    let store = stage.database.open_for_crashes(move |point| {
        if point.verb == "commit" && !point.after {
            count.fetch_add(1, Ordering::SeqCst);
        }
        false
    });
    let pure = async |_: Context, input: Value| Ok::<_, StepError>(input["of"].clone());
    let builder =
        stage.builder().store(store.await).handler(handler_fn("pure", pure).pure());
    let engine = builder.start().await.unwrap();
    let chain = (1..1_000_usize).fold(String::new(), |text, at| {
        let before = at - 1;
        text + &format!(
            "  t{at}: {{ kind: pure, needs: [t{before}], with: {{ of: '${{{{ tasks.t{before}.output }}}}' }} }}\n"
        )
    });
    let text = format!(
        "name: chain\ntasks:\n  t0: {{ kind: pure, with: {{ of: 7 }} }}\n{chain}"
    );
    let project = engine.submit(yaml(&text)).await.unwrap();
    let view = ended(&project).await;
    assert_eq!(value(view.output.as_deref()), json!({ "t999": 7 }));
    let commits = commits.load(Ordering::SeqCst);
    assert!(commits <= 200, "{commits} commits for 1,000 steps");
    engine.shutdown().await;
}
