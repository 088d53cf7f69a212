//! Steps that become canvases or add to their group, and what is seen of a failure.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use dandori::{
    Canvas, Context, Engine, Outcome, Project, StepError, handler_fn,
    plan::Rule,
    run::{Run, StepState},
};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{
    backend::{Database, figure, fresh, on_both},
    stage::{Stage, ended, yaml},
};

fn work(n: u32) -> Canvas {
    Canvas::call("work", [json!(n)])
}

/// What a reader must not see: a step that still waits although its needs have decided
/// that it never runs.
fn undecided(run: &Run) -> Vec<String> {
    let open = |no: &u32| run.step_state(*no) == StepState::Blocked;
    let lost = |no: &u32| {
        let own = run.needs(*no).filter(|need| !run.policy(*need).allow_failure);
        let state = |need| run.step_state(need);
        match run.step(*no).rule {
            Rule::AllSucceeded => {
                own.map(state).any(|it| it.is_failure() || it == StepState::Cancelled)
            }
            _ => false,
        }
    };
    (0..run.len()).filter(open).filter(lost).map(|no| run.name(no)).collect()
}

on_both! {
    async fn what_a_step_became_is_replayed_from_what_failed_in_it(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let document = "canvas: { chain: [[work, 1], { group: [[work], [work]] }, [work]] }";
        let project = engine.submit(yaml(document)).await.unwrap();
        let first = stage.next().await;
        let canvas = Canvas::group([work(1), work(2), work(3)]);
        first.end(Ok(Outcome::expand(canvas)));
        for call in stage.next_of(3).await {
            match call.step() {
                "1.work/2.work" => call.fail(StepError::fail("broken", "for now")),
                name => {
                    let name = name.to_owned();
                    call.succeed(json!(name));
                }
            }
        }
        let view = ended(&project).await;
        assert_eq!(view.state.as_str(), "failed");
        assert_eq!(view.steps[0].error.as_ref().unwrap().code, "broken");
        let plan = project.plan_replay().await.unwrap();
        let run = |it: &&dandori::ReplayStep| it.action == "run";
        let names: Vec<_> = plan.preview.steps.iter().filter(run).map(|it| &*it.name).collect();
        assert!(names.contains(&"1.work/2.work"), "{names:?}");
        assert!(!names.contains(&"1.work/1.work"), "{names:?}");
        project.replay(plan).await.unwrap();
        let again = stage.next().await;
        assert_eq!((again.step(), again.ctx.attempt()), ("1.work/2.work", 1));
        again.succeed(json!("now"));
        let [adds, plain] = stage.next_of(2).await.try_into().ok().unwrap();
        assert_eq!(adds.input, json!(["1.work/1.work", "now", "1.work/3.work"]));
        adds.ctx.add_to_chord(work(7));
        adds.succeed(json!("adds"));
        plain.succeed(json!("plain"));
        let added = stage.next().await;
        assert_eq!(added.step(), "2.1.work/1.work");
        added.fail(StepError::fail("broken", "again"));
        assert_eq!(ended(&project).await.state.as_str(), "failed");
        let plan = project.plan_replay().await.unwrap();
        let names: Vec<_> = plan.preview.steps.iter().filter(run).map(|it| &*it.name).collect();
        assert_eq!(names, ["2.1.work/1.work", "2.join", "3.work"]);
        project.replay(plan).await.unwrap();
        stage.next().await.succeed(json!("added"));
        let last = stage.next().await;
        assert_eq!(last.input, json!(["adds", "plain", "added"]));
        last.succeed(json!("done"));
        let view = ended(&project).await;
        assert_eq!(view.output.unwrap().get(), r#""done""#);
        engine.shutdown().await;
    }

    async fn members_that_came_too_late_are_there_after_a_replay(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let document = "
canvas:
  chain: [{ group: [[work, 1], [work, 2]], siblings: cancel }, [work]]
";
        let project = engine.submit(yaml(document)).await.unwrap();
        let [first, second] = stage.next_of(2).await.try_into().ok().unwrap();
        first.fail(StepError::fail("broken", "for now"));
        second.ctx.cancellation().cancelled().await;
        second.ctx.add_to_chord(work(3));
        second.succeed(json!(2));
        let view = ended(&project).await;
        assert_eq!(view.state.as_str(), "failed");
        let added = view.steps.iter().find(|it| it.name == "1.2.work/1.work").unwrap();
        assert_eq!(added.state.as_str(), "cancelled");
        let plan = project.plan_replay().await.unwrap();
        project.replay(plan).await.unwrap();
        for call in stage.next_of(2).await {
            let value = call.input.clone();
            call.succeed(value);
        }
        let last = stage.next().await;
        assert_eq!(last.input, json!([1, 2, 3]));
        last.succeed(json!("done"));
        assert_eq!(ended(&project).await.state.as_str(), "succeeded");
        engine.shutdown().await;
    }

    async fn a_replay_leaves_alone_what_was_tolerated(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        // A member that became a canvas and failed, and a group that ended its members.
        let document = "
canvas:
  chain:
    - group:
        - [work, 1]
        - { chain: [{ group: [[work, 2], { kind: work, args: [3], options: { delay: 1h } }],
            siblings: cancel }] }
      tolerate: 2
    - [work]
    - [work]
";
        let project = engine.submit(yaml(document)).await.unwrap();
        for call in stage.next_of(2).await {
            match call.input == json!(1) {
                true => call.end(Ok(Outcome::expand(work(9)))),
                false => call.fail(StepError::fail("broken", "for good")),
            }
        }
        stage.next().await.fail(StepError::fail("broken", "for good"));
        stage.next().await.succeed(json!("counts"));
        stage.next().await.fail(StepError::fail("broken", "for now"));
        assert_eq!(ended(&project).await.state.as_str(), "failed");
        let plan = project.plan_replay().await.unwrap();
        let run = |it: &&dandori::ReplayStep| it.action == "run";
        let names: Vec<_> = plan.preview.steps.iter().filter(run).map(|it| &*it.name).collect();
        assert_eq!(names, ["3.work"]);
        engine.shutdown().await;
    }

    async fn a_step_that_runs_anew_forgets_what_it_became(backend) {
        let stage = Stage::on(backend);
        let engine = stage.engine().await;
        let document = "tasks: {a: {kind: work}, b: {kind: work, needs: [a]}}";
        let project = engine.submit(yaml(document)).await.unwrap();
        stage.next().await.fail(StepError::fail("broken", "for now"));
        ended(&project).await;
        let plan = project.plan_replay().await.unwrap();
        project.replay(plan).await.unwrap();
        stage.next().await.end(Ok(Outcome::expand(Canvas::chain([work(1), Canvas::call("work", [])]))));
        let inner = stage.next().await;
        assert_eq!(inner.step(), "a/1.work");
        assert!(inner.ctx.idempotency_key().ends_with(":2"), "the generation of its parent");
        inner.succeed(json!(1));
        stage.next().await.succeed(json!(2));
        stage.next().await.succeed(json!(3));
        let view = ended(&project).await;
        let outputs: Vec<_> = view
            .steps
            .iter()
            .map(|it| (&*it.name, it.output.as_ref().unwrap().get()))
            .collect();
        assert_eq!(outputs, [("a", "2"), ("a/1.work", "1"), ("a/2.work", "2"), ("b", "3")]);
        engine.shutdown().await;
    }

    async fn a_step_that_becomes_itself_for_ever_fails(backend) {
        let again = handler_fn("again", async |_: Context, _: Value| {
            Ok(Outcome::expand(Canvas::call("again", [])))
        });
        let builder = Engine::builder().store(fresh(backend).await).handler(again);
        let engine = builder.only_own().start().await.unwrap();
        let project = engine.submit(yaml("canvas: [again]")).await.unwrap();
        let view = ended(&project).await;
        assert_eq!(view.state.as_str(), "failed");
        assert_eq!(view.steps.len(), Run::MAX_GROWTH + 1);
        for step in &view.steps {
            assert_eq!(step.error.as_ref().unwrap().code, "invalid_expansion");
        }
        engine.shutdown().await;
    }

    async fn every_reader_sees_descendants_ended_by_the_commit_that_decides_it(backend) {
        let document = "
canvas:
  chain:
    - group:
        - chain: [[fine], [fine], [fine], { kind: broken, on_failure: [[fine]] },
            { group: [[fine], [fine]] }, [fine]]
        - { kind: fine, options: { delay: 1h } }
        - chain: [[grows], [fine], [fine]]
      siblings: cancel
    - { chord: { header: [[fine], [fine]], body: { chain: [[fine], [fine]] } } }
    - [fine]
";
        // Whoever looks after any write sees it.
        let mut points = 0;
        loop {
            let database = Database::fresh(backend);
            let death = Arc::new(Notify::new());
            let (dead, count) = (Arc::clone(&death), Mutex::new(0));
            let store = database.open_for_crashes(move |point| {
                let mut count = count.lock().unwrap();
                *count += usize::from(point.after);
                let dies = *count > points && point.after;
                if dies {
                    dead.notify_one();
                }
                dies
            });
            let fine = handler_fn("fine", async |_: Context, _: Value| Ok(1));
            let broken = handler_fn("broken", async |_: Context, _: Value| {
                Err::<(), _>(StepError::fail("broken", "for good"))
            });
            let grows = handler_fn("grows", async |_: Context, _: Value| {
                let fine = || Canvas::call("fine", []);
                Ok(Outcome::expand(Canvas::chain([fine(), fine()])))
            });
            let builder = Engine::builder().store(store.await).max_batch(1).concurrency(1);
            let builder = builder.handler(fine).handler(broken).handler(grows);
            let died = match builder.start().await {
                Err(_) => true,
                Ok(engine) => {
                    let died = match engine.submit(yaml(document)).await {
                        Err(_) => true,
                        Ok(project) => tokio::select! {
                            ended = project.wait() => ended.is_err(),
                            () = death.notified() => true,
                        },
                    };
                    engine.shutdown().await;
                    died
                }
            };
            let reader = database.builder().connect().await.unwrap();
            if let Ok(project) = reader.find("last").await {
                let snapshot = project.snapshot().await.unwrap();
                let what = format!("after write {points}");
                assert_eq!(undecided(&snapshot.run), [""; 0], "{what}");
                // Who only lists projects does not fold: the row says the same.
                let counts = snapshot.run.counts();
                let counts = counts.into_iter().map(|(state, n)| (state.to_owned(), n));
                assert_eq!(snapshot.stored.row.counts, counts.collect(), "{what}");
            }
            if !died {
                break;
            }
            points += 1;
        }
        assert!(points >= 14, "only {points} writes were seen");
        let what = format!("commits on {backend:?} after which no reader sees a step undecided");
        figure("canvas 3", &what, points);
    }

    async fn a_chord_of_ten_thousand_starts_its_body_at_once(backend) {
        let members = 10_000;
        // The last two commits: that of the last member, and that of the join.
        let committed = Arc::new(Mutex::new([Instant::now(); 2]));
        let body_at = Arc::new(Mutex::new(None));
        let database = Database::fresh(backend);
        let noticed = Arc::clone(&committed);
        let store = database.open_for_crashes(move |point| {
            if point.after && point.verb == "commit" {
                let mut last = noticed.lock().unwrap();
                *last = [last[1], Instant::now()];
            }
            false
        });
        let (seen, before) = (Arc::clone(&body_at), Arc::clone(&committed));
        let body = handler_fn("body", move |_: Context, list: Vec<u32>| {
            let since = before.lock().unwrap()[0].elapsed();
            *seen.lock().unwrap() = Some(since);
            async move { Ok(list.len()) }
        });
        let member = handler_fn("member", async |_: Context, n: u32| Ok(n));
        let builder = Engine::builder().store(store.await).concurrency(64);
        let engine = builder.handler(member).handler(body).start().await.unwrap();
        let mut times = vec![];
        for _ in 0..5 {
            let header = (0..members).map(|n| Canvas::call("member", [json!(n)]));
            let canvas = Canvas::chord(header, Canvas::call("body", []));
            let project = Project::from_canvas("wide", canvas);
            let project = engine.submit(project).await.unwrap();
            let view = ended(&project).await;
            assert_eq!(view.output.unwrap().get(), members.to_string());
            times.push(body_at.lock().unwrap().take().unwrap());
            let join = view.steps.iter().find(|it| it.kind == "group").unwrap();
            assert_eq!(join.attempts, 1, "nothing polls");
        }
        times.sort();
        let what = format!("ms from the commit of the last of {members} members to the body on {backend:?}");
        let ms = |at: usize| times[at].as_secs_f64() * 1e3;
        figure("canvas 4", &what, format!("{:.2} ({:.2}–{:.2})", ms(2), ms(0), ms(4)));
        engine.shutdown().await;
    }
}
