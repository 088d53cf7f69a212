//! Many workers on one PostgreSQL database: take-over, fences, offers, queues, drains,
//! outages.

use std::{collections::BTreeSet, time::Duration};

use dandori::{
    Canvas, Clock, Context, Engine, EngineBuilder, Outcome, ProjectHandle, Steered,
    StepError, handler_fn,
    store::{CrashPoint, PostgresOptions, PostgresStore, Store, StoreErrorKind},
};
use serde_json::json;

use crate::{
    backend::{Backend, Database},
    cluster::Cluster,
    stage::{Call, Stage, ended, states, yaml},
};

/// The shortest lease, so that tests need not wait long for a death to be noticed.
pub(crate) const LEASE: Duration = Duration::from_secs(1);

/// A worker and the attempts that start on it.
pub(crate) struct Worker {
    pub(crate) engine: Engine,
    pub(crate) stage: Stage,
}

impl Worker {
    pub(crate) async fn start(
        stage: &Stage,
        with: impl FnOnce(EngineBuilder) -> EngineBuilder,
    ) -> Self {
        let stage = stage.beside();
        let builder = stage.builder().clock(Clock::system()).lease(LEASE);
        let engine = with(builder).start().await.unwrap();
        Self { engine, stage }
    }

    pub(crate) async fn next(&self) -> Call {
        self.stage.next().await
    }

    pub(crate) async fn shutdown(self) {
        self.engine.shutdown().await;
    }
}

/// Who only submits and looks.
pub(crate) async fn outside(stage: &Stage) -> Engine {
    stage.builder().clock(Clock::system()).connect().await.unwrap()
}

pub(crate) async fn attempts(project: &ProjectHandle, step: &str) -> u32 {
    let view = project.view().await.unwrap();
    view.steps.iter().find(|it| it.name == step).unwrap().attempts
}

/// Declares a session dead at once, whatever it thinks of that.
async fn bury(stage: &Stage, engine: &Engine) {
    let store = stage.database.open().await;
    let own = engine.session().unwrap();
    loop {
        let pulse = store.look(dandori::SessionId::fresh()).await.unwrap();
        let mut others = pulse.others.iter().chain(&pulse.late);
        let beat = others.find(|other| other.id == own).unwrap().beat;
        if store.expire(own, beat, true).await.unwrap() {
            break;
        }
    }
    store.reap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_worker_ran_starts_again_on_another() {
    let stage = Stage::on(Backend::Postgres);
    let first = Worker::start(&stage, |it| it).await;
    let project = first.engine.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
    let call = first.next().await;
    stage.until_step(&project, "a", "running").await;
    let second = Worker::start(&stage, |it| it).await;
    first.engine.abort().await;
    drop(call);
    let again = second.next().await;
    assert_eq!(again.ctx.attempt(), 2);
    again.succeed(json!(1));
    let project = second.engine.project(project.id());
    assert_eq!(ended(&project).await.state.as_str(), "succeeded");
    let attempts = project.attempts().await.unwrap();
    assert_eq!(attempts[0].error.as_ref().unwrap().code, "worker_lost");
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_declared_dead_records_nothing_and_begins_anew() {
    let stage = Stage::on(Backend::Postgres);
    let first = Worker::start(&stage, |it| it.concurrency(1)).await;
    let before = first.engine.session();
    let project = first.engine.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
    let late = first.next().await;
    stage.until_step(&project, "a", "running").await;
    bury(&stage, &first.engine).await;
    // It may be the first that takes the project again, under its new session.
    let again = first.next().await;
    assert_eq!(again.ctx.attempt(), 2, "the first attempt was lost");
    assert_ne!(first.engine.session(), before);
    late.succeed(json!("late"));
    again.succeed(json!("in time"));
    let view = ended(&project).await;
    assert_eq!(view.output.unwrap().get(), r#"{"a":"in time"}"#);
    first.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_is_paused_on_every_worker() {
    let stage = Stage::on(Backend::Postgres);
    // So that the beats of nobody come in time by themselves.
    let long = |it: EngineBuilder| it.lease(Duration::from_secs(30));
    let owner = Worker::start(&stage, |it| long(it.queues(["default"]))).await;
    let gpu = Worker::start(&stage, |it| long(it.queues(["gpu"]).concurrency(1))).await;
    let outside = outside(&stage).await;
    let document = "tasks: {a: {kind: work, queue: gpu}, b: {kind: work, queue: gpu}, \
                    c: {kind: work, needs: [a]}}";
    let project = owner.engine.submit(yaml(document)).await.unwrap();
    let running = gpu.next().await;
    assert_eq!(outside.pause_queue("gpu", None).await.unwrap(), Steered::Applied);
    let (name, other) = match running.step() {
        "a" => ("a", "b"),
        _ => ("b", "a"),
    };
    running.succeed(json!(1));
    stage.until_step(&project, name, "succeeded").await;
    if name == "a" {
        owner.next().await.succeed(json!(2));
    }
    // Claimed or not, on whichever worker: it does not begin.
    stage.until_step(&project, other, "ready").await;
    assert!(gpu.stage.is_quiet().await);
    assert_eq!(outside.resume_queue("gpu", None).await.unwrap(), Steered::Applied);
    gpu.next().await.succeed(json!(3));
    if name == "b" {
        owner.next().await.succeed(json!(2));
    }
    assert_eq!(ended(&project).await.state.as_str(), "succeeded");
    gpu.shutdown().await;
    owner.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_of_a_queue_run_only_where_it_is_served() {
    let stage = Stage::on(Backend::Postgres);
    let owner = Worker::start(&stage, |it| it.queues(["default"])).await;
    let document = "tasks: {a: {kind: work}, g: {kind: work, needs: [a], queue: gpu}, \
                    z: {kind: work, needs: [g], with: {x: '${{ tasks.g.output }}'}}}";
    let project = owner.engine.submit(yaml(document)).await.unwrap();
    owner.next().await.succeed(json!(1));
    stage.until_step(&project, "g", "ready").await;
    let gpu = Worker::start(&stage, |it| it.queues(["gpu"])).await;
    let call = gpu.next().await;
    assert_eq!((call.step(), call.ctx.attempt()), ("g", 1));
    stage.until_step(&project, "g", "running").await;
    call.succeed(json!("from afar"));
    let last = owner.next().await;
    assert_eq!(last.input["x"], "from afar");
    last.succeed(json!(3));
    assert_eq!(ended(&project).await.state.as_str(), "succeeded");
    gpu.shutdown().await;
    owner.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_steps_run_on_workers_that_have_nothing_to_do() {
    let stage = Stage::on(Backend::Postgres);
    let owner = Worker::start(&stage, |it| it.concurrency(1)).await;
    let document = "tasks: {a: {kind: work}, b: {kind: work}, c: {kind: work}, \
                    end: {kind: work, needs: [a, b, c]}}";
    let project = owner.engine.submit(yaml(document)).await.unwrap();
    let own = owner.next().await;
    let guest = Worker::start(&stage, |it| it.concurrency(2)).await;
    let calls = guest.stage.next_of(2).await;
    let mut names: BTreeSet<String> =
        calls.iter().map(|call| call.step().to_owned()).collect();
    assert!(names.insert(own.step().to_owned()));
    assert_eq!(names.len(), 3, "each runs once");
    for (n, call) in calls.into_iter().enumerate() {
        call.succeed(json!(n));
    }
    own.succeed(json!("own"));
    let last = tokio::select! {
        call = owner.next() => call,
        call = guest.next() => call,
    };
    assert_eq!(last.step(), "end");
    last.succeed(json!(4));
    assert_eq!(ended(&project).await.state.as_str(), "succeeded");
    for step in ["a", "b", "c"] {
        assert_eq!(attempts(&project, step).await, 1);
    }
    guest.shutdown().await;
    owner.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_elsewhere_is_retried_by_the_policy_of_its_project() {
    let stage = Stage::on(Backend::Postgres);
    let owner = Worker::start(&stage, |it| it.queues(["none"])).await;
    let guest = Worker::start(&stage, |it| it.queues(["default"])).await;
    let document = "tasks: {a: {kind: work, retry: {max_retries: 1, delay: 100ms}, if: '${{ true }}'}, \
         b: {kind: work, if: '${{ false }}'}}";
    let project = owner.engine.submit(yaml(document)).await.unwrap();
    guest.next().await.fail(StepError::retry("flaky", "once"));
    let again = guest.next().await;
    assert_eq!(again.ctx.attempt(), 2);
    again.succeed(json!(1));
    ended(&project).await;
    assert_eq!(states(&project).await, ["a: succeeded", "b: skipped"]);
    guest.shutdown().await;
    owner.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_step_survives_the_owner_of_its_project() {
    let stage = Stage::on(Backend::Postgres);
    let owner = Worker::start(&stage, |it| it.queues(["none"])).await;
    let guest = Worker::start(&stage, |it| it.queues(["default"])).await;
    let document = "tasks: {a: {kind: work}, b: {kind: work, needs: [a]}}";
    let project = owner.engine.submit(yaml(document)).await.unwrap();
    let call = guest.next().await;
    owner.engine.abort().await;
    bury(&stage, &owner.engine).await;
    call.succeed(json!("kept"));
    let next = guest.next().await;
    assert_eq!(next.step(), "b", "the first was not run again");
    next.succeed(json!(2));
    let project = guest.engine.project(project.id());
    assert_eq!(ended(&project).await.state.as_str(), "succeeded");
    assert_eq!(attempts(&project, "a").await, 1);
    guest.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_step_is_lost_with_its_worker_and_charged() {
    let stage = Stage::on(Backend::Postgres);
    let owner = Worker::start(&stage, |it| it.queues(["none"])).await;
    let guest = Worker::start(&stage, |it| it).await;
    let project = owner.engine.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
    let call = guest.next().await;
    guest.engine.abort().await;
    drop(call);
    bury(&stage, &guest.engine).await;
    let heir = Worker::start(&stage, |it| it).await;
    let again = heir.next().await;
    assert_eq!(again.ctx.attempt(), 2);
    let snapshot = project.snapshot().await.unwrap();
    assert_eq!(snapshot.run.view(0).crashes, 1);
    again.succeed(json!(1));
    assert_eq!(ended(&project).await.state.as_str(), "succeeded");
    heir.shutdown().await;
    owner.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_what_runs_elsewhere_and_nothing_starts_after_it() {
    let stage = Stage::on(Backend::Postgres);
    let owner = Worker::start(&stage, |it| it.queues(["none"])).await;
    let guest = Worker::start(&stage, |it| it.concurrency(1)).await;
    let document = "tasks: {a: {kind: work}, b: {kind: work}, c: {kind: work}}";
    let project = owner.engine.submit(yaml(document)).await.unwrap();
    let call = guest.next().await;
    let outside = outside(&stage).await;
    let steered = outside.project(project.id()).cancel().await.unwrap();
    assert_eq!(steered, Steered::Applied);
    call.ctx.cancellation().cancelled().await;
    call.succeed(json!("too late"));
    let view = ended(&project).await;
    assert_eq!(view.state.as_str(), "cancelled");
    assert!(guest.stage.is_quiet().await, "nothing started after the cancel");
    let late = project.attempts().await.unwrap();
    assert_eq!(late[0].output.as_ref().unwrap().get(), r#""too late""#, "it is kept");
    guest.shutdown().await;
    owner.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_takes_offers_back_and_lets_claimed_steps_finish() {
    let stage = Stage::on(Backend::Postgres);
    let owner = Worker::start(&stage, |it| it.queues(["none"])).await;
    let guest = Worker::start(&stage, |it| it.concurrency(1)).await;
    let document = "tasks: {a: {kind: work}, b: {kind: work}}";
    let project = owner.engine.submit(yaml(document)).await.unwrap();
    let call = guest.next().await;
    let first = call.step().to_owned();
    assert_eq!(project.pause().await.unwrap(), Steered::Applied);
    call.succeed(json!(1));
    stage.until_step(&project, &first, "succeeded").await;
    assert!(guest.stage.is_quiet().await);
    assert_eq!(project.resume().await.unwrap(), Steered::Applied);
    guest.next().await.succeed(json!(2));
    assert_eq!(ended(&project).await.state.as_str(), "succeeded");
    guest.shutdown().await;
    owner.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_drains_hands_everything_over_and_charges_nobody() {
    let stage = Stage::on(Backend::Postgres);
    let first =
        Worker::start(&stage, |it| it.concurrency(1).grace(Duration::ZERO)).await;
    let document = "tasks: {a: {kind: work}, b: {kind: work, needs: [a]}}";
    let running = first.engine.submit(yaml(document)).await.unwrap();
    let call = first.next().await;
    stage.until_step(&running, "a", "running").await;
    let second = Worker::start(&stage, |it| it).await;
    first.shutdown().await;
    drop(call);
    let again = second.next().await;
    assert_eq!((again.step(), again.ctx.attempt()), ("a", 2));
    let running = second.engine.project(running.id());
    assert_eq!(running.snapshot().await.unwrap().run.view(0).crashes, 0);
    again.succeed(json!(1));
    second.next().await.succeed(json!(2));
    assert_eq!(ended(&running).await.state.as_str(), "succeeded");
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_projects_move_to_workers_that_have_nothing_to_do() {
    let stage = Stage::on(Backend::Postgres);
    let busy = Worker::start(&stage, |it| it.concurrency(1)).await;
    let outside = outside(&stage).await;
    let mut projects = vec![];
    for name in ["one", "two"] {
        let document = format!(
            "name: {name}\ntasks: {{a: {{kind: work}}, b: {{kind: work, needs: [a]}}}}"
        );
        // It matters not who submits.
        let from = if name == "one" { &outside } else { &busy.engine };
        projects.push(from.submit(yaml(&document)).await.unwrap());
    }
    let first = busy.next().await;
    let owned = async || {
        let workers = outside.workers().await.unwrap();
        workers.iter().map(|worker| worker.projects).collect::<Vec<_>>()
    };
    stage.until("both are owned", || async { owned().await == [2] }).await;
    let idle = Worker::start(&stage, |it| it.concurrency(1)).await;
    let second = idle.next().await;
    first.succeed(json!(1));
    second.succeed(json!(1));
    // Both before either ends: who is free first would take the other one too.
    let last = (busy.next().await, idle.next().await);
    last.0.succeed(json!(2));
    last.1.succeed(json!(2));
    for project in projects {
        assert_eq!(ended(&project).await.state.as_str(), "succeeded");
    }
    idle.shutdown().await;
    busy.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_on_polling_alone() {
    let stage = Stage::on(Backend::Postgres);
    let quiet = PostgresOptions {
        notify: false,
        ..PostgresOptions::new(&stage.database.place)
    };
    let start = |queue: &'static str| {
        let quiet = quiet.clone();
        Worker::start(&stage, move |it| it.postgres_with(quiet).queues([queue]))
    };
    let (owner, guest) = (start("none").await, start("default").await);
    let outside = stage.builder().postgres_with(quiet.clone()).connect().await.unwrap();
    let project = outside
        .submit(yaml("tasks: {a: {kind: work}, b: {kind: work, needs: [a]}}"))
        .await
        .unwrap();
    guest.next().await.succeed(json!(1));
    guest.next().await.succeed(json!(2));
    assert_eq!(ended(&project).await.state.as_str(), "succeeded");
    guest.shutdown().await;
    owner.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_database_fails_no_step() {
    let cluster = Cluster::private();
    let mut stage = Stage::on(Backend::Postgres);
    let database = Database::at(Backend::Postgres, cluster.fresh());
    stage.database = database;
    let long = Duration::from_secs(5);
    let owner = Worker::start(&stage, |it| it.queues(["default"]).lease(long)).await;
    let guest = Worker::start(&stage, |it| it.queues(["gpu"]).lease(long)).await;
    let document = "tasks: {a: {kind: work}, g: {kind: work, queue: gpu}, \
                    z: {kind: work, needs: [a, g]}}";
    let project = owner.engine.submit(yaml(document)).await.unwrap();
    let (own, far) = (owner.next().await, guest.next().await);
    stage.until_step(&project, "a", "running").await;
    cluster.control(&["stop", "-m", "immediate"]);
    // Both end while nothing can be recorded.
    own.succeed(json!(1));
    far.succeed(json!(2));
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.control(&["start"]);
    let last = owner.next().await;
    assert_eq!((last.step(), last.ctx.attempt()), ("z", 1));
    last.succeed(json!(3));
    let view = ended(&project).await;
    assert_eq!(view.state.as_str(), "succeeded");
    assert!(view.steps.iter().all(|step| step.attempts == 1), "{:?}", view.steps);
    guest.shutdown().await;
    owner.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_another_worker_has_runs_there() {
    let stage = Stage::on(Backend::Postgres);
    let owner = stage.database.builder().lease(LEASE).start().await.unwrap();
    let project = owner.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
    stage.until_step(&project, "a", "ready").await;
    let worker = Worker::start(&stage, |it| it).await;
    worker.next().await.succeed(json!(1));
    assert_eq!(ended(&project).await.state.as_str(), "succeeded");
    worker.shutdown().await;
    owner.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_runs_elsewhere_becomes_a_canvas_and_adds_to_its_group() {
    let stage = Stage::on(Backend::Postgres);
    let owner = stage.database.builder().lease(LEASE).start().await.unwrap();
    let canvas = "canvas: { chain: [{ group: [[adds, 1], [becomes, 2]] }, [work]] }";
    let project = owner.submit(yaml(canvas)).await.unwrap();
    let becomes = handler_fn("becomes", async |_: Context, n: u32| {
        let canvas = Canvas::chain([Canvas::call("work", [json!(n)])]);
        Ok(Outcome::expand(canvas))
    });
    let adds = handler_fn("adds", async |ctx: Context, n: u32| {
        ctx.add_to_chord(Canvas::call("work", [json!(n)]));
        // Nothing is an output too.
        Ok(())
    });
    let with = |it: EngineBuilder| it.handler(becomes).handler(adds);
    let worker = Worker::start(&stage, with).await;
    for _ in 0..2 {
        let call = worker.next().await;
        let name = call.ctx.step().to_owned();
        call.succeed(json!(name));
    }
    let last = worker.next().await;
    assert_eq!(last.ctx.step(), "2.work");
    last.succeed(json!("done"));
    let view = ended(&project).await;
    assert_eq!(view.state.as_str(), "succeeded");
    let list = view.steps.iter().find(|step| step.name == "1.join").unwrap();
    let list = list.output.as_ref().unwrap().get();
    assert_eq!(list, r#"[null,"1.2.becomes/1.work","1.1.adds/1.work"]"#);
    worker.shutdown().await;
    owner.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_ends_siblings_elsewhere_only_once_it_is_known_which_run() {
    let stage = Stage::on(Backend::Postgres);
    let owner = Worker::start(&stage, |it| it.queues(["here".to_owned()])).await;
    let worker = Worker::start(&stage, |it| it.queues(["there".to_owned()])).await;
    let canvas = "
canvas:
  group:
    - { kind: work, args: [1], options: { queue: here } }
    - { kind: work, args: [2], options: { queue: there, at_most_once: true } }
    - { kind: work, args: [3], options: { queue: nowhere } }
  siblings: cancel
";
    let project = owner.engine.submit(yaml(canvas)).await.unwrap();
    let (fails, runs) = (owner.next().await, worker.next().await);
    fails.fail(StepError::fail("broken", "for good"));
    // It runs, so it is told to stop, and what came of it is kept.
    runs.ctx.cancellation().cancelled().await;
    runs.fail(StepError::cancelled());
    ended(&project).await;
    let mut seen = states(&project).await;
    seen.sort();
    assert_eq!(
        seen,
        [
            "1.work: failed",
            "2.work: quarantined",
            "3.work: cancelled",
            "join: upstream_failed"
        ]
    );
    owner.shutdown().await;
    worker.shutdown().await;
}

/// Losses of the connection at every fourth write: before it, or after it and before its
/// answer. Nothing is recorded twice, nothing runs twice, nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_of_the_database_change_nothing() {
    let stage = Stage::on(Backend::Postgres);
    let count = std::sync::atomic::AtomicUsize::new(0);
    let options = PostgresOptions::new(&stage.database.place);
    let verbs = ["commit", "claim", "deliver", "unclaim", "release", "adopt"];
    let lost = move |point: CrashPoint| {
        // Scattered: a loss of every third write would meet the same verb for ever.
        let at = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let hit = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & 3 == 0;
        (hit && verbs.contains(&point.verb)).then_some(StoreErrorKind::Unavailable)
    };
    let store = PostgresStore::open_for_losses(&options, lost).await.unwrap();
    let store = Store::Postgres(store);
    let worker = async |queue: &'static str| {
        let store = store.clone();
        Worker::start(&stage, move |it| it.store(store).queues([queue])).await
    };
    let (owner, guest) = (worker("default").await, worker("far").await);
    let mut document = String::from("tasks:\n");
    let steps = if std::env::var_os("DANDORI_FULL").is_some() { 2_000 } else { 200 };
    for n in 0..steps {
        let queue = if n % 2 == 0 { "default" } else { "far" };
        document.push_str(&format!("  s{n}: {{kind: work, queue: {queue}}}\n"));
    }
    let outside = outside(&stage).await;
    let project = outside.submit(yaml(&document)).await.unwrap();
    let mut runs = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..steps {
        let call = tokio::select! {
            call = owner.next() => call,
            call = guest.next() => call,
        };
        *runs.entry(call.step().to_owned()).or_default() += 1;
        call.succeed(json!("done"));
    }
    let view = ended(&project).await;
    assert_eq!(view.state.as_str(), "succeeded");
    assert_eq!(runs.len(), steps, "each step ran");
    assert!(view.steps.iter().all(|step| step.output.is_some()));
    let row = project.row().await.unwrap();
    assert_eq!((row.mail, row.session), (0, None));
    let numbers = project.commits().await.unwrap();
    assert!(numbers.is_sorted(), "events are in order");
    owner.shutdown().await;
    guest.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_session_leaves_no_trace_of_itself() {
    let stage = Stage::on(Backend::Postgres);
    let worker = Worker::start(&stage, |it| it).await;
    let store: Store = stage.database.open().await;
    assert_eq!(store.sessions().await.unwrap().len(), 1);
    worker.shutdown().await;
    assert!(store.sessions().await.unwrap().is_empty());
}
