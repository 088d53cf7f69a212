//! Control: cancel, pause, resume, shutdown, fair shares, second engines, idempotency.

use std::time::Duration;

use dandori::{Error, ProjectHandle, Steered, StepError};
use serde_json::json;

use crate::{
    backend::on_both,
    stage::{Stage, ended, states, yaml},
};

#[tokio::test]
async fn another_process_steers_a_project_that_somebody_executes() {
    let stage = Stage::new();
    let engine = stage.engine().await;
    let other = stage.builder().connect().await.unwrap();
    // Submitted beside the executor, found by it.
    let project = other
        .submit(yaml(
            "name: beside\ntasks: {a: {kind: work}, b: {kind: work, needs: [a]}}",
        ))
        .await
        .unwrap();
    let call = stage.next().await;
    assert_eq!(other.find("beside").await.unwrap().id(), project.id());
    assert_eq!(project.cancel().await.unwrap(), Steered::Applied);
    call.ctx.cancellation().cancelled().await;
    call.fail(StepError::cancelled());
    assert_eq!(ended(&project).await.state.as_str(), "cancelled");
    assert!(matches!(stage.builder().start().await, Err(Error::Locked(_))));
    engine.shutdown().await;
}

#[tokio::test]
async fn whoever_waits_learns_that_the_engine_has_ended() {
    let stage = Stage::new();
    let engine = stage.builder().grace(Duration::ZERO).start().await.unwrap();
    let project = engine.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
    let call = stage.next().await;
    let waiting = tokio::spawn({
        let project = project.clone();
        async move { project.wait().await }
    });
    engine.shutdown().await;
    assert!(waiting.await.unwrap().is_err());
    drop(call);
}

#[tokio::test]
async fn a_dropped_engine_gives_its_right_to_execute_back() {
    let stage = Stage::new();
    let engine = stage.engine().await;
    let project = engine.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
    let id = project.id();
    let call = stage.next().await;
    drop((engine, project));
    call.succeed(json!("recorded while draining"));
    let engine = loop {
        match stage.builder().start().await {
            Ok(engine) => break engine,
            Err(Error::Locked(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    // The last step ended in the grace, so it is not started again.
    let view = ended(&engine.project(id)).await;
    assert_eq!(view.output.unwrap().get(), r#"{"a":"recorded while draining"}"#);
    engine.shutdown().await;
}

#[tokio::test]
async fn a_project_that_cannot_be_loaded_does_not_stop_the_others() {
    let stage = Stage::new();
    let engine = stage.engine().await;
    let unknown = dandori::ProjectId::fresh();
    assert!(engine.execute(unknown).await.is_err());
    let project = engine.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
    stage.next().await.succeed(json!(1));
    assert_eq!(ended(&project).await.state.as_str(), "succeeded");
    engine.shutdown().await;
}

#[tokio::test]
async fn another_name_of_the_file_is_the_same_database() {
    let stage = Stage::new();
    let engine = stage.engine().await;
    let link = stage.folder.path().join("link.db");
    std::os::unix::fs::symlink(stage.path(), &link).unwrap();
    let second = stage.builder().sqlite(&link).start().await;
    assert!(matches!(second, Err(Error::Locked(_))), "{second:?}");
    engine.shutdown().await;
}

#[tokio::test]
async fn a_message_to_a_project_that_does_not_run_here_is_applied_and_nothing_else() {
    let stage = Stage::new();
    // One project of a kind that this engine has not, one that it was not asked for.
    let other = stage.builder().connect().await.unwrap();
    let strange = other.submit(yaml("tasks: {a: {kind: strange}}")).await.unwrap();
    let foreign = other.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
    let engine = stage.engine().await;
    stage.next().await.succeed(json!(1));
    let _ = ended(&foreign).await;
    let before = strange.row().await.unwrap().epoch;
    assert_eq!(strange.cancel().await.unwrap(), Steered::Applied);
    let row = strange.row().await.unwrap();
    assert_eq!((row.state.as_str(), row.epoch), ("cancelled", before + 1));
    engine.shutdown().await;
    let foreign = other.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
    let engine = stage.builder().only_own().start().await.unwrap();
    let own = engine.submit(yaml("name: own\ntasks: {b: {kind: work}}")).await.unwrap();
    let call = stage.next().await;
    assert_eq!(call.step(), "b");
    assert_eq!(foreign.pause().await.unwrap(), Steered::Applied);
    assert_eq!(foreign.row().await.unwrap().state.as_str(), "paused");
    assert_eq!(foreign.cancel().await.unwrap(), Steered::Applied);
    call.succeed(json!(2));
    let _ = ended(&own).await;
    assert!(stage.is_quiet().await, "nothing of the foreign project started");
    engine.shutdown().await;
}

on_both! {
    async fn a_cancelled_project_starts_nothing_more_and_keeps_late_results_as_attempts(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let project = engine
            .submit(yaml("tasks: {a: {kind: work}, b: {kind: work, needs: [a]}}"))
            .await
            .unwrap();
        let call = stage.next().await;
        assert_eq!(project.cancel().await.unwrap(), Steered::Applied);
        call.ctx.cancellation().cancelled().await;
        call.succeed(json!("too late"));
        let view = ended(&project).await;
        assert_eq!(view.state.as_str(), "cancelled");
        assert_eq!(states(&project).await, ["a: cancelled", "b: cancelled"]);
        let attempts = project.attempts().await.unwrap();
        assert_eq!(attempts[0].output.as_ref().unwrap().get(), r#""too late""#);
        assert!(matches!(project.cancel().await, Err(Error::Illegal { .. })));
        assert!(stage.is_quiet().await);
        engine.shutdown().await;
    }

    async fn a_pause_lets_running_steps_finish_and_starts_nothing(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let project = engine
            .submit(yaml(
            "templates: {t: {tasks: {x: {kind: work}}, output: '${{ tasks.x.output }}'}}
tasks: {a: {use: t}, b: {kind: work, needs: [a]}}",
        ))
            .await
            .unwrap();
        let call = stage.next().await;
        project.pause().await.unwrap();
        call.succeed(json!(1));
        stage.until_step(&project, "a/x", "succeeded").await;
        assert_eq!(states(&project).await, ["a/x: succeeded", "a: ready", "b: blocked"]);
        assert!(stage.is_quiet().await);
        assert!(matches!(project.pause().await, Err(Error::Illegal { .. })));
        project.resume().await.unwrap();
        stage.next().await.succeed(json!(2));
        assert_eq!(ended(&project).await.output.unwrap().get(), r#"{"b":2}"#);
        engine.shutdown().await;
    }

    async fn what_sleeps_wakes_during_a_pause(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let document = "tasks: {a: {kind: work, delay: 10s}, b: {kind: work}, \
                        c: {kind: work, delay: 20s, start_before: 5s}}";
        let project = engine.submit(yaml(document)).await.unwrap();
        let call = stage.next().await;
        project.pause().await.unwrap();
        call.succeed(json!(1));
        stage
            .until("nobody has it", || async {
                let row = project.row().await.unwrap();
                row.state.as_str() == "paused" && row.session.is_none()
            })
            .await;
        stage.clock.advance(Duration::from_secs(40));
        // Its time was over while nothing was to start.
        stage.until_step(&project, "c", "skipped").await;
        assert!(stage.is_quiet().await);
        project.resume().await.unwrap();
        stage.next().await.succeed(json!(2));
        assert_eq!(ended(&project).await.counts["succeeded"], 2);
        engine.shutdown().await;
    }

    async fn a_paused_project_stays_paused_across_a_restart(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let project = engine
            .submit(yaml("tasks: {a: {kind: work}, b: {kind: work, needs: [a]}}"))
            .await
            .unwrap();
        let call = stage.next().await;
        project.pause().await.unwrap();
        call.succeed(json!(1));
        stage.until_step(&project, "a", "succeeded").await;
        engine.shutdown().await;
        let engine = stage.engine().await;
        let project = engine.project(project.id());
        assert_eq!(project.row().await.unwrap().state.as_str(), "paused");
        project.resume().await.unwrap();
        stage.next().await.succeed(json!(2));
        assert_eq!(ended(&project).await.state.as_str(), "succeeded");
        engine.shutdown().await;
    }

    async fn a_retry_starts_at_once_when_somebody_asks_for_it(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let document = "tasks: {a: {kind: work, retry: {max_retries: 3, delay: 1h}}, \
                        b: {kind: work, retry: {max_retries: 1, delay: 1h}}, \
                        c: {kind: work, needs: [a]}}";
        let project = engine.submit(yaml(document)).await.unwrap();
        let late = || StepError::retry("timeout", "late");
        for call in stage.next_of(2).await {
            call.fail(late());
        }
        stage.until_step(&project, "a", "waiting").await;
        stage.until_step(&project, "b", "waiting").await;
        let refused = project.retry(Some("c")).await.unwrap_err();
        assert_eq!(refused.code(), "illegal_state", "it waits for no retry");
        assert_eq!(project.retry(Some("x")).await.unwrap_err().code(), "not_found");
        assert_eq!(project.retry(Some("a")).await.unwrap(), Steered::Applied);
        let again = stage.next().await;
        assert_eq!((again.step(), again.ctx.attempt()), ("a", 2));
        assert!(stage.is_quiet().await, "the other one still waits");
        again.fail(late());
        stage.until_step(&project, "a", "waiting").await;
        assert_eq!(project.retry(None).await.unwrap(), Steered::Applied);
        for call in stage.next_of(2).await {
            call.succeed(json!(1));
        }
        stage.next().await.succeed(json!(2));
        assert_eq!(ended(&project).await.state.as_str(), "succeeded");
        assert_eq!(project.retry(None).await.unwrap_err().code(), "illegal_state");
        engine.shutdown().await;
    }

    async fn a_retry_that_was_asked_for_while_nobody_executed_stands(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let document = "tasks: {a: {kind: work, retry: {max_retries: 1, delay: 1h}}}";
        let project = engine.submit(yaml(document)).await.unwrap();
        stage.next().await.fail(StepError::retry("timeout", "late"));
        stage.until_step(&project, "a", "waiting").await;
        engine.shutdown().await;
        let other = stage.builder().connect().await.unwrap();
        let asked = other.project(project.id()).retry(None).await.unwrap();
        assert_eq!(asked, Steered::Applied);
        assert!(stage.is_quiet().await, "steering starts nothing");
        let engine = stage.engine().await;
        stage.next().await.succeed(json!(1));
        assert_eq!(ended(&engine.project(project.id())).await.state.as_str(), "succeeded");
        engine.shutdown().await;
    }

    async fn steps_of_a_paused_queue_wait_until_it_goes_on(backend) {
        let stage = Stage::on(backend);
        let other = stage.builder().connect().await.unwrap();
        assert_eq!(other.pause_queue("gpu", None).await.unwrap(), Steered::Applied);
        assert_eq!(other.pause_queue("", None).await.unwrap_err().code(), "not_found");
        let engine = stage.engine().await;
        let document = "tasks: {g: {kind: work, queue: gpu}, a: {kind: work}, \
                        b: {kind: work, needs: [a], queue: gpu}}";
        let project = engine.submit(yaml(document)).await.unwrap();
        let call = stage.next().await;
        assert_eq!(call.step(), "a");
        call.succeed(json!(1));
        stage.until_step(&project, "b", "ready").await;
        assert!(stage.is_quiet().await);
        let why = project.why("g").await.unwrap();
        let codes: Vec<_> = why.reasons.iter().map(|it| &*it.code).collect();
        assert_eq!((codes, why.reasons[0].queue.as_deref()), (vec!["queue"], Some("gpu")));
        let queues = other.queues().await.unwrap();
        assert!(queues.iter().any(|it| it.queue == "gpu" && it.paused_at.is_some()));
        assert_eq!(engine.resume_queue("gpu", None).await.unwrap(), Steered::Applied);
        let calls = stage.next_of(2).await;
        assert_eq!((calls[0].step(), calls[1].step()), ("b", "g"));
        // What runs is left to end.
        assert_eq!(engine.pause_queue("gpu", None).await.unwrap(), Steered::Applied);
        for call in calls {
            call.succeed(json!(2));
        }
        assert_eq!(ended(&project).await.state.as_str(), "succeeded");
        assert_eq!(engine.resume_queue("gpu", None).await.unwrap(), Steered::Applied);
        assert!(engine.queues().await.unwrap().is_empty());
        engine.shutdown().await;
    }

    async fn a_project_that_paused_queues_hold_is_in_nobodys_hands(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        for queue in ["gpu", "cpu"] {
            assert_eq!(engine.pause_queue(queue, None).await.unwrap(), Steered::Applied);
        }
        let document = "tasks: {g: {kind: work, queue: gpu}, c: {kind: work, queue: cpu}}";
        let project = engine.submit(yaml(document)).await.unwrap();
        let waiting = { let project = project.clone(); async move { ended(&project).await } };
        let waiting = tokio::spawn(waiting);
        let store = stage.database.open().await;
        let owner = async || store.row(project.id()).await.unwrap().unwrap().session;
        stage.until("it rests", async || owner().await.is_none()).await;
        let states = states(&project).await;
        assert_eq!(states, ["g: ready", "c: ready"]);
        let why = project.why("g").await.unwrap();
        assert_eq!(why.reasons[0].queue.as_deref(), Some("gpu"));
        // A message finds it, and a pause of the project outlasts that of the queues.
        assert_eq!(project.pause().await.unwrap(), Steered::Applied);
        assert_eq!(project.resume().await.unwrap(), Steered::Applied);
        stage.until("it rests again", async || owner().await.is_none()).await;
        assert_eq!(engine.resume_queue("gpu", None).await.unwrap(), Steered::Applied);
        let call = stage.next().await;
        assert_eq!(call.step(), "g");
        assert!(stage.is_quiet().await, "the other queue is paused");
        call.succeed(json!(1));
        stage.until("it rests once more", async || owner().await.is_none()).await;
        assert_eq!(engine.resume_queue("cpu", None).await.unwrap(), Steered::Applied);
        stage.next().await.succeed(json!(2));
        assert_eq!(waiting.await.unwrap().state.as_str(), "succeeded");
        engine.shutdown().await;
    }

    async fn what_a_paused_queue_does_not_hold_goes_on(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        assert_eq!(engine.pause_queue("gpu", None).await.unwrap(), Steered::Applied);
        // A failure ends the one that waits, and what follows is a join.
        let canvas = "
            name: canvas
            canvas:
              group:
                - { kind: work, options: { queue: gpu } }
                - { kind: work }
              siblings: cancel
              on_failure: [[work]]
        ";
        let canvas = engine.submit(yaml(canvas)).await.unwrap();
        stage.next().await.fail(StepError::fail("broken", "for good"));
        stage.next().await.succeed(json!(1));
        assert_eq!(ended(&canvas).await.state.as_str(), "failed");
        // So does a time, and what follows is an expansion.
        let late = "
            name: late
            tasks:
              g: { kind: work, queue: gpu, start_before: 1s }
              each: { kind: work, needs: [g], rule: all_done, for_each: [1] }
        ";
        let late = engine.submit(yaml(late)).await.unwrap();
        stage.until_step(&late, "g", "ready").await;
        stage.clock.advance(Duration::from_secs(2));
        stage.next().await.succeed(json!(1));
        assert_eq!(ended(&late).await.state.as_str(), "succeeded");
        engine.shutdown().await;
    }

    async fn a_project_that_nobody_executes_can_be_cancelled(backend) {
        let stage = Stage::on(backend);
        let other = stage.builder().connect().await.unwrap();
        let project = other.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
        assert_eq!(project.cancel().await.unwrap(), Steered::Applied);
        assert_eq!(project.row().await.unwrap().state.as_str(), "cancelled");
        let paused = other.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
        assert_eq!(paused.pause().await.unwrap(), Steered::Applied);
        assert_eq!(paused.row().await.unwrap().state.as_str(), "paused");
        assert!(stage.is_quiet().await, "steering starts nothing");
    }

    async fn three_projects_on_six_slots_all_progress(backend) {
        let stage = Stage::on(backend);
        let engine = stage.builder().concurrency(6).start().await.unwrap();
        let mut projects: Vec<ProjectHandle> = vec![];
        for name in ["p", "q", "r"] {
            let mut project = dandori::Project::named(name);
            for task in 0..10 {
                project =
                    project.task(dandori::spec::Task::new(format!("{name}{task}"), "work"));
            }
            projects.push(engine.submit(project).await.unwrap());
        }
        // The first may have taken all slots; as they come free, each gets its share.
        let mut running = stage.next_of(6).await;
        let mut started: Vec<String> =
            running.iter().map(|c| c.step().to_owned()).collect();
        for _ in 0..12 {
            let call = running.remove(0);
            let (step, of) = (call.step().to_owned(), call.ctx.project());
            call.succeed(json!(null));
            stage.until_step(&engine.project(of), &step, "succeeded").await;
            let call = stage.next().await;
            started.push(call.step().to_owned());
            running.push(call);
        }
        for name in ["p", "q", "r"] {
            let share = started.iter().filter(|step| step.starts_with(name)).count();
            assert!(share >= 4, "{name} got {share} of {started:?}");
        }
        for project in &projects {
            assert!(!project.row().await.unwrap().state.is_terminal());
        }
        drop(running);
        let rest = stage.clone();
        tokio::spawn(async move {
            loop {
                rest.next().await.succeed(json!(null));
            }
        });
        for project in &projects {
            let _ = ended(project).await;
        }
        engine.shutdown().await;
    }

    async fn urgent_steps_and_long_paths_start_first(backend) {
        let stage = Stage::on(backend);
        let engine = stage.builder().concurrency(1).start().await.unwrap();
        let project = engine
            .submit(yaml(
            "tasks:
  gate: {kind: work}
  short: {kind: work, needs: [gate]}
  long: {kind: work, needs: [gate]}
  longer: {kind: work, needs: [long]}
  urgent: {kind: work, needs: [gate], priority: 5}",
        ))
            .await
            .unwrap();
        let mut order = vec![];
        for _ in 0..5 {
            let call = stage.next().await;
            order.push(call.step().to_owned());
            call.succeed(json!(null));
        }
        assert_eq!(order, ["gate", "urgent", "long", "short", "longer"]);
        let _ = ended(&project).await;
        engine.shutdown().await;
    }

    async fn a_key_records_the_same_submission_once_and_refuses_another(backend) {
        let stage = Stage::on(backend);
        let engine = stage.builder().connect().await.unwrap();
        let one = || yaml("name: one\ntasks: {a: {kind: work}}").idempotency_key("order-7");
        let first = engine.submit(one()).await.unwrap();
        let again = engine.submit(one()).await.unwrap();
        assert_eq!(first.id(), again.id());
        let other = yaml("name: two\ntasks: {a: {kind: work}}").idempotency_key("order-7");
        assert!(
            matches!(engine.submit(other).await, Err(Error::Conflict(id)) if id == first.id())
        );
        stage.clock.advance(Duration::from_secs(1));
        let later = engine.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
        assert_eq!(
            engine.find("last").await.unwrap().id(),
            later.id(),
            "by time, not by id"
        );
    }

    async fn outputs_that_nobody_declared_are_kept_once_where_they_are_large(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let submit = |text| engine.submit(yaml(text));
        let small = submit("tasks: {a: {kind: work}, b: {kind: work}}").await.unwrap();
        for call in stage.next_of(2).await {
            call.succeed(json!("x"));
        }
        let view = ended(&small).await;
        assert_eq!(view.output.unwrap().get(), r#"{"a":"x","b":"x"}"#);
        // Each is below the limit, both are over it.
        let large = json!("x".repeat(600 * 1024));
        let text = "tasks: {a: {kind: work}, b: {kind: work}}";
        let undeclared = submit(text).await.unwrap();
        for call in stage.next_of(2).await {
            call.succeed(large.clone());
        }
        let view = ended(&undeclared).await;
        assert_eq!((view.state.as_str(), view.output.is_none()), ("succeeded", true));
        assert!(view.steps.iter().all(|step| step.output.is_some()));
        let declared = "outputs: {a: '${{ tasks.a.output }}', b: '${{ tasks.b.output }}'}
tasks: {a: {kind: work}, b: {kind: work}}";
        let declared = submit(declared).await.unwrap();
        for call in stage.next_of(2).await {
            call.succeed(large.clone());
        }
        let output = ended(&declared).await.output.unwrap();
        assert!(output.get().len() > 2 * 600 * 1024);
        engine.shutdown().await;
    }

    async fn progress_and_logs_of_an_attempt_are_kept(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let project = engine.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
        let call = stage.next().await;
        call.ctx.log("one line");
        call.ctx.progress(f64::NAN, "no idea");
        let shows = |(fraction, message): (f64, &str)| {
            let progress = dandori::Progress { fraction, message: message.to_owned() };
            let project = project.clone();
            async move { project.view().await.unwrap().steps[0].progress == Some(progress) }
        };
        stage.until("progress shows", || shows((0.0, "no idea"))).await;
        stage.clock.advance(Duration::from_secs(2));
        call.ctx.progress(0.5, "half way");
        stage.until("later progress shows", || shows((0.5, "half way"))).await;
        call.succeed(json!(1));
        let _ = ended(&project).await;
        let logs = project.logs(None).await.unwrap();
        assert_eq!(
            logs.iter().map(|line| line.line.as_str()).collect::<Vec<_>>(),
            ["one line"]
        );
        let events = project.events(0).await.unwrap();
        let numbers: Vec<i64> = events.iter().map(|event| event.seq).collect();
        assert_eq!(numbers, (1..=i64::try_from(events.len()).unwrap()).collect::<Vec<_>>());
        engine.shutdown().await;
    }
}

/// The rest costs no memory while it waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_holds_so_many_projects_and_takes_the_others_as_these_end() {
    const MOST: usize = 4_096;
    let stage = Stage::new();
    let engine = stage.builder().concurrency(1).start().await.unwrap();
    let one = || {
        let task = dandori::spec::Task::new("a", "work");
        dandori::Project::named("one").task(task)
    };
    let mut projects: Vec<ProjectHandle> = vec![engine.submit(one()).await.unwrap()];
    let first = stage.next().await;
    for _ in 0..(MOST + 300) / 100 {
        let some = (0..100).map(|_| engine.submit(one()));
        for project in futures_util::future::join_all(some).await {
            projects.push(project.unwrap());
        }
    }
    let pulse = engine.store().look(engine.session().unwrap()).await.unwrap();
    let held = pulse.own.len();
    assert!((MOST..MOST + 200).contains(&held), "{held} of {}", projects.len());
    // One of those that wait hears of a message all the same, behind more urgent ones.
    let mut low = one();
    low.document_mut().priority = -1;
    let last = engine.submit(low).await.unwrap();
    let elsewhere = stage.builder().connect().await.unwrap();
    let steered = elsewhere.project(last.id()).cancel().await.unwrap();
    assert_eq!(steered, Steered::Applied);
    first.succeed(json!(null));
    let rest = stage.clone();
    tokio::spawn(async move {
        loop {
            rest.next().await.succeed(json!(null));
        }
    });
    for project in &projects {
        assert_eq!(ended(project).await.state, dandori::run::ProjectState::Succeeded);
    }
}
