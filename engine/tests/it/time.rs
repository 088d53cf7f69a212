//! Time: delays, retries, sleeps, limits, expiry; all of it on a hand-turned clock.

use std::time::Duration;

use dandori::{ErrorClass, Outcome, StepError, to_raw};
use serde_json::json;

use crate::{
    backend::on_both,
    stage::{Stage, ended, states, yaml},
};

const MINUTE: Duration = Duration::from_secs(60);

on_both! {
    async fn a_retry_that_waits_at_a_crash_fires_at_its_original_time(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let project = engine
            .submit(yaml("tasks: {a: {kind: work, retry: {max_retries: 1, delay: 60s}}}"))
            .await
            .unwrap();
        stage.next().await.fail(StepError::retry("timeout", "late"));
        stage.until_step(&project, "a", "waiting").await;
        let due = project.view().await.unwrap().steps[0].waiting.unwrap().1;
        engine.shutdown().await;
        stage.clock.advance(MINUTE / 2);
        let engine = stage.engine().await;
        let project = engine.project(project.id());
        assert_eq!(project.view().await.unwrap().steps[0].waiting.unwrap().1, due);
        stage.clock.advance(MINUTE / 2 - Duration::from_millis(1));
        // The engine has looked at the clock once it has answered a request.
        project.pause().await.unwrap();
        project.resume().await.unwrap();
        assert!(stage.is_quiet().await, "not a moment too early");
        stage.clock.advance(Duration::from_millis(2));
        let call = stage.next().await;
        assert_eq!(call.ctx.attempt(), 2);
        call.succeed(json!(1));
        assert_eq!(ended(&project).await.state.as_str(), "succeeded");
        engine.shutdown().await;
    }

    async fn delays_and_sleeps_go_on_counting_while_nobody_executes(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let project = engine
            .submit(yaml(
                "tasks: {a: {kind: work, delay: 10s}, b: {kind: work}, c: {kind: work, needs: [b]}}",
            ))
            .await
            .unwrap();
        let call = stage.next().await;
        assert_eq!(call.step(), "b");
        let output = to_raw(&json!("slept")).unwrap();
        call.end(Ok(Outcome::After { wait: Duration::from_secs(20), output }));
        stage.until_step(&project, "b", "waiting").await;
        engine.shutdown().await;
        stage.clock.advance(Duration::from_secs(30));
        let engine = stage.engine().await;
        let project = engine.project(project.id());
        for call in stage.next_of(2).await {
            call.succeed(json!(null));
        }
        let view = ended(&project).await;
        assert_eq!(view.steps[1].output.as_ref().unwrap().get(), r#""slept""#);
        assert_eq!(view.counts["succeeded"], 3);
        engine.shutdown().await;
    }

    async fn soft_and_hard_limits_leave_one_failure_each_and_a_usable_slot(backend) {
        let stage = Stage::on(backend);
        let engine = stage.builder().concurrency(1).start().await.unwrap();
        let project = engine
            .submit(yaml(
            "tasks:
  polite: {kind: work, timeout: {soft: 9s, hard: 10s}, allow_failure: true}
  stubborn: {kind: work, needs: [polite], timeout: {soft: 9s, hard: 10s}, allow_failure: true}
  after: {kind: work, needs: [stubborn]}",
        ))
            .await
            .unwrap();
        let polite = stage.next().await;
        stage.clock.advance(Duration::from_secs(9));
        polite.ctx.cancellation().cancelled().await;
        polite.fail(StepError::cancelled());
        let stubborn = stage.next().await;
        assert_eq!(stubborn.step(), "stubborn");
        stage.clock.advance(Duration::from_secs(10));
        // It never answers; the slot is free all the same.
        let after = stage.next().await;
        after.succeed(json!("ran"));
        let view = ended(&project).await;
        drop(stubborn);
        let errors: Vec<_> = view.steps[..2]
            .iter()
            .map(|step| (step.attempts, step.error.as_ref().unwrap()))
            .map(|(attempts, error)| (attempts, &*error.code, error.message.as_str()))
            .collect();
        assert_eq!(
            errors,
            [
                (1, "timeout", "the soft time limit of 9s has passed"),
                (1, "timeout", "the hard time limit of 10s has passed"),
            ]
        );
        assert_eq!(view.state.as_str(), "succeeded");
        engine.shutdown().await;
    }

    async fn a_missed_start_skips_the_step_as_expired(backend) {
        let stage = Stage::on(backend);
        let engine = stage.builder().concurrency(1).start().await.unwrap();
        let project = engine
            .submit(yaml(
            "tasks:
  first: {kind: work, priority: 1}
  late: {kind: work, start_before: 5s}
  then: {kind: work, needs: [late], rule: all_done}",
        ))
            .await
            .unwrap();
        let first = stage.next().await;
        stage.clock.advance(Duration::from_secs(6));
        stage.until_step(&project, "late", "skipped").await;
        first.succeed(json!(null));
        stage.next().await.succeed(json!(null));
        let view = ended(&project).await;
        assert_eq!(view.steps[1].error.as_ref().unwrap().code, "expired");
        assert_eq!(states(&project).await[2], "then: succeeded");
        engine.shutdown().await;
    }

    async fn a_service_lengthens_the_wait_and_never_shortens_it(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let project = engine
            .submit(yaml("tasks: {a: {kind: work, retry: {max_retries: 2, delay: 10s}}}"))
            .await
            .unwrap();
        for (attempt, asked, wait) in [(1, 90, 90), (2, 1, 10)] {
            let error = StepError::retry("rate_limited", "slow down");
            let call = stage.next().await;
            let before = stage.clock.now();
            call.fail(error.retry_after(Duration::from_secs(asked)));
            let waiting = || async {
                let step = project.view().await.unwrap().steps.remove(0);
                step.waiting.filter(|_| step.attempts == attempt).map(|(_, until)| until)
            };
            stage.until("it waits", || async { waiting().await.is_some() }).await;
            assert_eq!(waiting().await.unwrap().since(before).as_secs(), wait);
            stage.clock.advance(Duration::from_secs(wait + 1));
        }
        stage.next().await.succeed(json!(null));
        assert_eq!(ended(&project).await.steps[0].attempts, 3);
        engine.shutdown().await;
    }

    async fn only_the_errors_that_a_policy_names_are_retried(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let project = engine
            .submit(yaml(
                "tasks: {a: {kind: work, retry: {max_retries: 5, delay: 1ms, retry_on: [timeout]}}}",
            ))
            .await
            .unwrap();
        stage.next().await.fail(StepError::retry("timeout", "late"));
        stage.until_step(&project, "a", "waiting").await;
        stage.clock.advance(Duration::from_secs(1));
        stage.next().await.fail(StepError::retry("connect", "nobody there"));
        let view = ended(&project).await;
        assert_eq!(view.state.as_str(), "failed");
        let error = view.steps[0].error.as_ref().unwrap();
        assert_eq!((error.code.as_ref(), error.class), ("connect", ErrorClass::Retryable));
        assert_eq!(project.attempts().await.unwrap().len(), 1);
        engine.shutdown().await;
    }
}
