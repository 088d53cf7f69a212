//! Volleys: attempts of a kind that ends at once share a task, and none keeps another.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use dandori::{Context, Engine, Project, StepError, handler_fn, spec::Task};
use serde_json::Value;
use tokio::sync::watch;

use crate::{
    backend::{Backend, on_both},
    stage::{Stage, ended},
};

/// More than are needed before a kind is trusted to end at once.
const LEARNED: usize = 64;
const STEPS: usize = 40;

fn fan_out(steps: usize) -> Project {
    (0..steps).fold(Project::named("fan-out"), |project, at| {
        project.task(Task::new(format!("t{at}"), "quick"))
    })
}

/// Lets the engine learn that the kind is quick.
async fn learn(engine: &Engine) {
    let project = engine.submit(fan_out(LEARNED)).await.unwrap();
    assert_eq!(ended(&project).await.state.as_str(), "succeeded");
}

/// Runs a fan-out of which one attempt blocks its thread until `others` steps have ended and
/// it runs in the eyes of the engine, and one may speak first.
async fn one_blocks(backend: Backend, blocker: usize, others: usize, speaker: usize) {
    let stage = Stage::on(backend);
    let begun = Arc::new(AtomicUsize::new(0));
    let over = Arc::new((Mutex::new(false), Condvar::new()));
    let (first, told) = (Arc::clone(&begun), Arc::clone(&over));
    let quick = handler_fn("quick", move |ctx: Context, _: Value| {
        let number = first.fetch_add(1, Ordering::SeqCst).wrapping_sub(LEARNED);
        let told = Arc::clone(&told);
        async move {
            if number == speaker {
                ctx.log("here");
            }
            if number != blocker {
                return Ok(());
            }
            let (over, changed) = &*told;
            let limit = Duration::from_secs(20);
            let over = over.lock().unwrap();
            let (over, _) =
                changed.wait_timeout_while(over, limit, |over| !*over).unwrap();
            match *over {
                true => Ok(()),
                false => {
                    Err(StepError::fail("kept_waiting", "the others have not ended"))
                }
            }
        }
    });
    let builder = stage.builder().concurrency(STEPS);
    let engine = builder.handler(quick).start().await.unwrap();
    learn(&engine).await;
    let project = engine.submit(fan_out(STEPS)).await.unwrap();
    let seen = async {
        loop {
            let view = project.outline().await.unwrap();
            let are = |state| {
                view.steps.iter().filter(|it| it.state.as_str() == state).count()
            };
            // Its start is recorded too, although those of its kind are not, else.
            let recorded = are("succeeded") >= others && are("running") > 0;
            if recorded || view.state.is_terminal() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        *over.0.lock().unwrap() = true;
        over.1.notify_all();
    };
    seen.await;
    let view = ended(&project).await;
    let errors: Vec<_> =
        view.steps.iter().filter_map(|step| step.error.as_ref()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    engine.shutdown().await;
}

on_both! {
    async fn results_of_those_before_one_that_blocks_are_recorded(backend) {
        one_blocks(backend, STEPS - 1, STEPS - 1, usize::MAX / 2).await;
    }

    async fn one_that_speaks_before_one_that_blocks_does_not_stop_the_engine(backend) {
        one_blocks(backend, 2, STEPS - 1, 1).await;
    }

    async fn an_attempt_that_blocks_keeps_those_behind_it_for_a_moment_only(backend) {
        let stage = Stage::on(backend);
        let begun = Arc::new(AtomicUsize::new(0));
        let over = Arc::new((Mutex::new(0), Condvar::new()));
        let (first, told) = (Arc::clone(&begun), Arc::clone(&over));
        let quick = handler_fn("quick", move |_: Context, _: Value| {
            let number = first.fetch_add(1, Ordering::SeqCst);
            let told = Arc::clone(&told);
            async move {
                let (ended, changed) = &*told;
                if number == LEARNED {
                    // Blocks its thread until all others have ended.
                    let limit = Duration::from_secs(30);
                    let all = |ended: &mut usize| *ended < LEARNED + STEPS - 1;
                    let ended = ended.lock().unwrap();
                    let (ended, _) = changed.wait_timeout_while(ended, limit, all).unwrap();
                    let message = format!("only {} others have ended", *ended - LEARNED);
                    return match *ended < LEARNED + STEPS - 1 {
                        true => Err(StepError::fail("kept_waiting", message)),
                        false => Ok(()),
                    };
                }
                *ended.lock().unwrap() += 1;
                changed.notify_all();
                Ok(())
            }
        });
        let builder = stage.builder().concurrency(STEPS);
        let engine = builder.handler(quick).start().await.unwrap();
        learn(&engine).await;
        let project = engine.submit(fan_out(STEPS)).await.unwrap();
        let view = ended(&project).await;
        let errors: Vec<_> =
            view.steps.iter().filter_map(|step| step.error.as_ref()).collect();
        assert!(errors.is_empty(), "{errors:?}");
        engine.shutdown().await;
    }

    async fn many_that_are_slow_but_not_blocked_do_not_run_one_after_the_other(backend) {
        let stage = Stage::on(backend);
        let begun = Arc::new(AtomicUsize::new(0));
        let at_work = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        let (first, seen) = (Arc::clone(&begun), Arc::clone(&at_work));
        let quick = handler_fn("quick", move |_: Context, _: Value| {
            let number = first.fetch_add(1, Ordering::SeqCst);
            let seen = Arc::clone(&seen);
            async move {
                let (now, most) = &*seen;
                if number >= LEARNED {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    // Computes for a while, and is no attempt that blocks.
                    let until = Instant::now() + Duration::from_millis(10);
                    while Instant::now() < until && most.load(Ordering::SeqCst) < 2 {}
                    now.fetch_sub(1, Ordering::SeqCst);
                }
                Ok::<_, StepError>(())
            }
        });
        let engine = stage.builder().concurrency(STEPS).handler(quick).start();
        let engine = engine.await.unwrap();
        learn(&engine).await;
        let project = engine.submit(fan_out(STEPS)).await.unwrap();
        assert_eq!(ended(&project).await.state.as_str(), "succeeded");
        let most = at_work.1.load(Ordering::SeqCst);
        assert!(most > 1, "at most {most} at a time");
        engine.shutdown().await;
    }

    async fn an_attempt_that_waits_goes_on_by_itself_and_hears_of_a_cancel(backend) {
        let stage = Stage::on(backend);
        let begun = Arc::new(AtomicUsize::new(0));
        let (waits, mut waiting) = watch::channel(0);
        let first = Arc::clone(&begun);
        let quick = handler_fn("quick", move |ctx: Context, _: Value| {
            let number = first.fetch_add(1, Ordering::SeqCst);
            let waits = waits.clone();
            async move {
                if number < LEARNED {
                    return Ok::<_, StepError>(());
                }
                waits.send_modify(|count| *count += 1);
                ctx.cancellation().cancelled().await;
                Err(StepError::cancelled())
            }
        });
        let builder = stage.builder().concurrency(STEPS);
        let engine = builder.handler(quick).start().await.unwrap();
        learn(&engine).await;
        let project = engine.submit(fan_out(STEPS)).await.unwrap();
        let limit = Duration::from_secs(30);
        let all = waiting.wait_for(|count| *count == STEPS);
        tokio::time::timeout(limit, all).await.expect("all wait at once").unwrap();
        project.cancel().await.unwrap();
        let view = ended(&project).await;
        assert_eq!(view.state.as_str(), "cancelled");
        engine.shutdown().await;
    }
}
