//! Replay: what failed runs again with what depends on it; the rest is kept.

use dandori::{Error, StepError, store::MailKind};
use serde_json::json;

use crate::{
    backend::on_both,
    stage::{Stage, ended, states, yaml},
};

on_both! {
    async fn failed_steps_and_what_depends_on_them_run_again(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let project = engine
            .submit(yaml(
            "tasks:
  a: {kind: work}
  b: {kind: work}
  c: {kind: work, needs: [b]}
  d: {kind: work, needs: [a], rule: all_done}",
        ))
            .await
            .unwrap();
        let mut calls = stage.next_of(2).await;
        assert!(
            matches!(project.plan_replay().await, Err(Error::Illegal { .. })),
            "still running"
        );
        let key = calls[1].ctx.idempotency_key();
        calls.pop().unwrap().fail(StepError::fail("broken", "for now"));
        calls.pop().unwrap().succeed(json!(1));
        stage.next().await.succeed(json!(2));
        assert_eq!(ended(&project).await.state.as_str(), "failed");
        let plan = project.plan_replay().await.unwrap();
        let actions: Vec<_> = plan
            .preview
            .steps
            .iter()
            .map(|step| format!("{} {}", step.action, step.name))
            .collect();
        assert_eq!(actions, ["reuse a", "run b", "run c", "reuse d"]);
        let stale = plan.clone();
        project.replay(plan).await.unwrap();
        let b = stage.next().await;
        assert_eq!(b.step(), "b");
        assert_ne!(b.ctx.idempotency_key(), key, "another generation has another key");
        b.succeed(json!(3));
        stage.next().await.succeed(json!(4));
        let view = ended(&project).await;
        assert_eq!(view.state.as_str(), "succeeded");
        assert_eq!(view.steps[1].generation, 2);
        assert_eq!(view.output.unwrap().get(), r#"{"c":4,"d":2}"#);
        assert!(matches!(project.replay(stale).await, Err(Error::PlanChanged(_))));
        let attempts = project.attempts().await.unwrap();
        assert_eq!(attempts[0].error.as_ref().unwrap().code, "broken", "history is kept");
        engine.shutdown().await;
    }

    async fn a_canvas_is_replayed_from_what_failed(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let document = "
canvas:
  chain:
    - group: [[work, 1], { kind: work, args: [2], on_failure: [[work]] }, [work, 3]]
    - [work]
";
        let project = engine.submit(yaml(document)).await.unwrap();
        for call in stage.next_of(3).await {
            match call.input == json!(2) {
                true => call.fail(StepError::fail("broken", "for now")),
                false => {
                    let value = call.input.clone();
                    call.succeed(value);
                }
            }
        }
        let handler = stage.next().await;
        assert_eq!(handler.input["step"], "1.2.work");
        handler.succeed(json!("told"));
        assert_eq!(ended(&project).await.state.as_str(), "failed");
        let plan = project.plan_replay().await.unwrap();
        let run = |it: &&dandori::ReplayStep| it.action == "run";
        let names: Vec<_> = plan.preview.steps.iter().filter(run).map(|it| &*it.name).collect();
        assert_eq!(
            names,
            ["1.2.work", "1.join", "2.work"]
        );
        project.replay(plan).await.unwrap();
        let again = stage.next().await;
        assert_eq!(again.step(), "1.2.work");
        again.succeed(json!(2));
        let last = stage.next().await;
        assert_eq!((last.step(), &last.input), ("2.work", &json!([1, 2, 3])));
        last.succeed(json!("done"));
        let view = ended(&project).await;
        assert_eq!(view.output.unwrap().get(), r#""done""#);
        engine.shutdown().await;
    }

    async fn a_cancelled_project_goes_on_where_it_was(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let project = engine
            .submit(yaml(
            "tasks:
  a: {kind: work, allow_failure: true}
  b: {kind: work, needs: [a]}",
        ))
            .await
            .unwrap();
        let call = stage.next().await;
        project.cancel().await.unwrap();
        call.fail(StepError::cancelled());
        assert_eq!(ended(&project).await.state.as_str(), "cancelled");
        project.replay(project.plan_replay().await.unwrap()).await.unwrap();
        for step in ["a", "b"] {
            let call = stage.next().await;
            assert_eq!(call.step(), step);
            call.succeed(json!(1));
        }
        assert_eq!(ended(&project).await.state.as_str(), "succeeded");
        assert_eq!(states(&project).await, ["a: succeeded", "b: succeeded"]);
        engine.shutdown().await;
    }

    async fn only_the_items_that_failed_run_again(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let project = engine
            .submit(yaml(
            "tasks:
  list: {kind: work}
  each: {kind: work, needs: [list], for_each: '${{ tasks.list.output }}', with: {item: '${{ item }}'}}
  sum: {kind: work, needs: [each], with: {all: '${{ tasks.each.output }}'}}",
        ))
            .await
            .unwrap();
        let big = "x".repeat(5_000);
        stage.next().await.succeed(json!([1, 2, 3]));
        let mut calls = stage.next_of(3).await;
        calls.pop().unwrap().succeed(json!(big));
        calls.pop().unwrap().fail(StepError::fail("broken", "for now"));
        calls.pop().unwrap().succeed(json!(10));
        assert_eq!(ended(&project).await.state.as_str(), "failed");
        engine.shutdown().await;
        // Another process replays it, and this one finds it.
        let other = stage.builder().connect().await.unwrap();
        let project = other.project(project.id());
        project.replay(project.plan_replay().await.unwrap()).await.unwrap();
        let engine = stage.engine().await;
        let call = stage.next().await;
        assert_eq!((call.step(), &call.input), ("each[1]", &json!({"item": 2})));
        call.succeed(json!(20));
        let sum = stage.next().await;
        assert_eq!(sum.input, json!({"all": [10, 20, big]}));
        sum.succeed(json!("done"));
        let view = ended(&engine.project(project.id())).await;
        assert_eq!(view.state.as_str(), "succeeded");
        assert_eq!(view.counts["succeeded"], 6);
        assert_eq!(project.row().await.unwrap().counts["succeeded"], 6);
        engine.shutdown().await;
    }

    async fn a_message_that_came_too_late_does_not_hit_the_replay(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let project = engine.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
        stage.next().await.fail(StepError::fail("broken", "for now"));
        assert_eq!(ended(&project).await.state.as_str(), "failed");
        engine.shutdown().await;
        // Nobody executes, so it stays in the mailbox.
        let other = stage.builder().connect().await.unwrap();
        let project = other.project(project.id());
        for kind in [MailKind::Cancel, MailKind::Pause] {
            other.store().send(project.id(), kind, stage.clock.now()).await.unwrap();
        }
        project.replay(project.plan_replay().await.unwrap()).await.unwrap();
        let engine = stage.engine().await;
        stage.next().await.succeed(json!(1));
        let view = ended(&engine.project(project.id())).await;
        assert_eq!(view.state.as_str(), "succeeded");
        engine.shutdown().await;
    }
}
