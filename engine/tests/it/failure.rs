//! Failure: panics, rules, allowances, crashes that are charged to the guilty alone.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use dandori::{Context, Engine, Error, StepError, handler_fn};
use serde_json::{Value, json};

use crate::{
    backend::on_both,
    stage::{Stage, ended, states, yaml},
};

/// An engine whose process "dies" when the switch is thrown: the next write fails, and so
/// does everything after it.
async fn mortal(stage: &Stage) -> (Engine, Arc<AtomicBool>) {
    let dead = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&dead);
    stage.database.bury().await;
    let store =
        stage.database.open_for_crashes(move |_| switch.load(Ordering::SeqCst)).await;
    (stage.builder().store(store).start().await.unwrap(), dead)
}

on_both! {
    async fn a_panic_is_a_failed_attempt_and_the_engine_goes_on(backend) {
        let stage = Stage::on(backend);
        async fn boom(_: Context, _: Value) -> Result<(), StepError> {
            panic!("out of cheese")
        }
        let engine =
            stage.builder().handler(handler_fn("boom", boom)).start().await.unwrap();
        let project = engine
            .submit(yaml("tasks: {a: {kind: boom, allow_failure: true}, b: {kind: work, needs: [a]}}"))
            .await
            .unwrap();
        stage.next().await.succeed(json!(null));
        let view = ended(&project).await;
        let error = view.steps[0].error.as_ref().unwrap();
        assert_eq!(
            (error.code.as_ref(), error.message.as_str()),
            ("panic", "out of cheese")
        );
        assert_eq!(view.state.as_str(), "succeeded");
        engine.shutdown().await;
    }

    async fn a_failure_takes_down_what_depends_on_it_and_nothing_else(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let project = engine
            .submit(yaml(
            "tasks:
  a: {kind: work}
  b: {kind: work}
  c: {kind: work, needs: [a]}
  d: {kind: work, needs: [c]}
  e: {kind: work, needs: [b]}
  clean: {kind: work, needs: [d, e], rule: all_done}",
        ))
            .await
            .unwrap();
        let mut calls = stage.next_of(2).await;
        calls.pop().unwrap().succeed(json!(null));
        calls.pop().unwrap().fail(StepError::fail("broken", "for good"));
        for _ in 0..2 {
            stage.next().await.succeed(json!(null));
        }
        let view = ended(&project).await;
        assert_eq!(view.state.as_str(), "failed");
        assert_eq!(
            states(&project).await,
            [
                "a: failed",
                "b: succeeded",
                "c: upstream_failed",
                "d: upstream_failed",
                "e: succeeded",
                "clean: succeeded",
            ]
        );
        assert_eq!(view.steps[3].error.as_ref().unwrap().failed_needs, ["c"]);
        engine.shutdown().await;
    }

    async fn fail_fast_stops_the_rest(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let project = engine
            .submit(yaml(
            "fail_fast: true
tasks: {a: {kind: work}, b: {kind: work}, c: {kind: work, needs: [b]}}",
        ))
            .await
            .unwrap();
        let mut calls = stage.next_of(2).await;
        let b = calls.pop().unwrap();
        calls.pop().unwrap().fail(StepError::fail("broken", "for good"));
        b.ctx.cancellation().cancelled().await;
        b.fail(StepError::cancelled());
        assert_eq!(ended(&project).await.state.as_str(), "failed");
        assert_eq!(states(&project).await, ["a: failed", "b: cancelled", "c: cancelled"]);
        engine.shutdown().await;
    }

    async fn an_expression_that_cannot_be_evaluated_fails_its_step(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let project = engine
            .submit(yaml(
            "tasks:
  a: {kind: work}
  b: {kind: work, needs: [a], with: {x: '${{ tasks.a.output.missing.deeper }}'}}
  c: {kind: work, needs: [a], if: tasks.a.output.count > 3}
  d: {kind: work, needs: [a], if: '${{ tasks.a.output.count == 3 }}'}",
        ))
            .await
            .unwrap();
        stage.next().await.succeed(json!({"count": 3}));
        let call = stage.next().await;
        assert_eq!(call.step(), "d");
        call.succeed(json!(null));
        let view = ended(&project).await;
        assert_eq!(
            states(&project).await[1..],
            ["b: failed", "c: skipped", "d: succeeded"]
        );
        assert_eq!(view.steps[1].error.as_ref().unwrap().code, "expression");
        assert_eq!(view.steps[2].error.as_ref().unwrap().code, "condition");
        engine.shutdown().await;
    }

    async fn three_crashes_quarantine_the_guilty_step_and_spare_its_neighbours(backend) {
        let stage = Stage::on(backend);
        let document = "tasks:
      guilty: {kind: work, priority: 1}
      innocent: {kind: work}
      after: {kind: work, needs: [innocent]}";
        let (engine, dead) = mortal(&stage).await;
        let id = engine.submit(yaml(document)).await.unwrap().id();
        let mut engine = Some((engine, dead));
        // Twice both run when the process dies; the third time the suspect runs alone.
        for crash in 0..3 {
            let (running, dead) = match engine.take() {
                Some(running) => running,
                None => mortal(&stage).await,
            };
            let project = running.project(id);
            let calls = if crash == 2 {
                // One suspect at a time.
                vec![stage.next().await]
            } else {
                stage.next_of(2).await
            };
            assert_eq!(calls[0].step(), "guilty");
            for call in &calls {
                stage.until_step(&project, call.step(), "running").await;
            }
            dead.store(true, Ordering::SeqCst);
            for call in calls {
                call.succeed(json!("never recorded"));
            }
            assert!(matches!(project.wait().await, Err(Error::Store(_))));
        }
        let engine = stage.engine().await;
        let project = engine.project(id);
        for step in ["innocent", "after"] {
            let call = stage.next().await;
            assert_eq!(call.step(), step);
            call.succeed(json!(null));
        }
        let view = ended(&project).await;
        assert_eq!(
            states(&project).await,
            ["guilty: quarantined", "innocent: succeeded", "after: succeeded"]
        );
        assert_eq!(view.state.as_str(), "failed");
        assert_eq!(view.steps[0].error.as_ref().unwrap().code, "worker_lost");
        engine.shutdown().await;
    }

    async fn the_end_of_a_process_that_was_asked_to_stop_charges_nobody(backend) {
        let stage = Stage::on(backend);
        let engine =
            stage.builder().grace(std::time::Duration::ZERO).start().await.unwrap();
        let id = engine.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap().id();
        let mut engine = Some(engine);
        for _ in 0..5 {
            let running = match engine.take() {
                Some(running) => running,
                None => {
                    stage.builder().grace(std::time::Duration::ZERO).start().await.unwrap()
                }
            };
            let call = stage.next().await;
            running.shutdown().await;
            drop(call);
        }
        let engine = stage.engine().await;
        stage.next().await.succeed(json!(null));
        let snapshot = engine.project(id).snapshot().await.unwrap();
        assert_eq!(snapshot.run.view(0).crashes, 0);
        assert_eq!(ended(&engine.project(id)).await.state.as_str(), "succeeded");
        engine.shutdown().await;
    }

    async fn a_step_that_may_run_once_is_not_started_again_after_a_crash(backend) {
        let stage = Stage::on(backend);
        let (engine, dead) = mortal(&stage).await;
        let project = engine
            .submit(yaml("tasks: {pay: {kind: work, at_most_once: true}}"))
            .await
            .unwrap();
        let call = stage.next().await;
        let row = project.view().await.unwrap();
        assert_eq!(row.steps[0].state.as_str(), "running", "recorded before the effect");
        dead.store(true, Ordering::SeqCst);
        call.succeed(json!("paid"));
        assert!(project.wait().await.is_err());
        let engine = stage.engine().await;
        let view = ended(&engine.project(project.id())).await;
        assert_eq!(view.steps[0].state.as_str(), "quarantined");
        assert_eq!(view.steps[0].error.as_ref().unwrap().code, "outcome_unknown");
        assert!(stage.is_quiet().await);
        engine.shutdown().await;
    }

    async fn items_may_fail_within_the_tolerance(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let project = engine
            .submit(yaml(
            "tasks:
  list: {kind: work}
  each: {kind: work, needs: [list], for_each: '${{ tasks.list.output }}', window: 2, tolerate: 34%, with: {item: '${{ item }}', index: '${{ index }}'}}
  sum: {kind: work, needs: [each], with: {all: '${{ tasks.each.output }}'}}",
        ))
            .await
            .unwrap();
        stage.next().await.succeed(json!(["x", "y", "z"]));
        let first = stage.next_of(2).await;
        assert!(stage.is_quiet().await, "the window holds the third item back");
        let names: Vec<_> = first.iter().map(|call| call.step().to_owned()).collect();
        assert_eq!(names, ["each[0]", "each[1]"]);
        assert_eq!(first[1].input, json!({"item": "y", "index": 1}));
        let mut first = first.into_iter();
        first.next().unwrap().succeed(json!(10));
        first.next().unwrap().fail(StepError::fail("broken", "for good"));
        stage.next().await.succeed(json!(30));
        let sum = stage.next().await;
        assert_eq!(sum.input, json!({"all": [10, null, 30]}));
        sum.succeed(json!(40));
        let view = ended(&project).await;
        assert_eq!(view.state.as_str(), "succeeded");
        assert_eq!(view.output.unwrap().get(), r#"{"sum":40}"#);
        engine.shutdown().await;
    }
}
