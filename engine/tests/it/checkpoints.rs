//! Checkpoints inside a step: the next attempt goes on from them, whoever runs it.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use dandori::{
    Context, Handler, ReplayOptions, StepError, handler_fn,
    store::{Checkpoint, Fence},
};
use serde_json::{Value, json, value::RawValue};

use crate::{
    backend::{Database, on_both},
    stage::{ended, yaml},
    workers::Worker,
};

/// Does three things one after the other and fails, as often as it is told to, before the
/// last. Counts what it does.
fn long(done: &[Arc<AtomicU32>; 3], failures: u32) -> impl Handler + use<> {
    let done = done.clone();
    let left = Arc::new(AtomicU32::new(failures));
    handler_fn("long", move |ctx: Context, _: Value| {
        let (done, left) = (done.clone(), Arc::clone(&left));
        async move {
            let [one, two, three] = &done;
            let count = |of: &AtomicU32| of.fetch_add(1, Ordering::SeqCst) + 1;
            let first: u32 = ctx.checkpoint("one", async { Ok(count(one)) }).await?;
            let second: Vec<u32> =
                ctx.checkpoint("two", async { Ok(vec![first, count(two)]) }).await?;
            if left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |it| {
                    it.checked_sub(1)
                })
                .is_ok()
            {
                return Err(StepError::retry("timeout", "late"));
            }
            ctx.checkpoint("three", async { Ok(json!([second, count(three)])) }).await
        }
    })
}

fn counts(done: &[Arc<AtomicU32>; 3]) -> [u32; 3] {
    done.each_ref().map(|it| it.load(Ordering::SeqCst))
}

on_both! {
    async fn a_retry_goes_on_from_the_last_checkpoint(backend) {
        let done: [Arc<AtomicU32>; 3] = Default::default();
        let database = Database::fresh(backend);
        let engine = database.builder().handler(long(&done, 2)).start().await.unwrap();
        let document = "tasks: {a: {kind: long, retry: {max_retries: 3, delay: 1ms}}}";
        let project = engine.submit(yaml(document)).await.unwrap();
        let view = ended(&project).await;
        assert_eq!(view.output.unwrap().get(), r#"{"a":[[1,1],1]}"#);
        assert_eq!((counts(&done), view.steps[0].attempts), ([1, 1, 1], 3));
        let kept = project.checkpoints("a").await.unwrap();
        let names: Vec<_> = kept.iter().map(|it| format!("{} {}", it.name, it.value.get())).collect();
        assert_eq!(names, ["one 1", "two [1,1]", "three [[1,1],1]"]);
        // A replay begins anew, unless it is told to go on from them.
        let keep = ReplayOptions { all: true, keep_checkpoints: true, ..ReplayOptions::default() };
        for (options, expected) in [
            (keep, [1, 1, 1]),
            (ReplayOptions { all: true, ..ReplayOptions::default() }, [2, 2, 2]),
        ] {
            let plan = project.plan_replay_of(&options).await.unwrap();
            project.replay(plan).await.unwrap();
            ended(&project).await;
            assert_eq!(counts(&done), expected);
        }
        engine.shutdown().await;
    }

    async fn a_crash_loses_no_checkpoint(backend) {
        let done: [Arc<AtomicU32>; 3] = Default::default();
        let database = Database::fresh(backend);
        // Dies after each write in turn, until one run gets to the end.
        let mut deaths = 0;
        loop {
            database.bury().await;
            let count = AtomicU32::new(0);
            let death = Arc::new(tokio::sync::Notify::new());
            let dies = Arc::clone(&death);
            let store = database.open_for_crashes(move |point| {
                let kept = point.after && point.verb == "put_checkpoint";
                let dies_here = kept && count.fetch_add(1, Ordering::SeqCst) == 0;
                if dies_here {
                    dies.notify_one();
                }
                dies_here
            });
            let builder = dandori::Engine::builder().store(store.await);
            let builder = builder.handler(long(&done, 0)).crash_limit(0);
            let engine = builder.start().await.unwrap();
            let project = match engine.find("last").await {
                Ok(project) => project,
                Err(_) => engine.submit(yaml("tasks: {a: {kind: long}}")).await.unwrap(),
            };
            let end = tokio::select! {
                ended = project.wait() => ended.ok(),
                () = death.notified() => None,
            };
            engine.abort().await;
            if let Some(view) = end {
                assert_eq!(view.output.unwrap().get(), r#"{"a":[[1,1],1]}"#);
                break;
            }
            deaths += 1;
        }
        assert_eq!((deaths, counts(&done)), (3, [1, 1, 1]));
    }

    async fn who_has_lost_the_right_keeps_nothing(backend) {
        let database = Database::fresh(backend);
        let done: [Arc<AtomicU32>; 3] = Default::default();
        let engine = database.builder().handler(long(&done, 0)).start().await.unwrap();
        let project = engine.submit(yaml("tasks: {a: {kind: long}}")).await.unwrap();
        ended(&project).await;
        engine.shutdown().await;
        let store = database.open().await;
        let session = dandori::SessionId::fresh();
        let stale = Fence::Owner { session, epoch: 1 };
        for fence in [stale, Fence::Claim(session.into_uuid())] {
            let checkpoint = Checkpoint {
                name: "late".to_owned(),
                at: crate::fixture::NOW,
                value: RawValue::from_string("1".to_owned()).unwrap(),
            };
            let put = store.put_checkpoint(project.id(), (0, 1), fence, checkpoint).await;
            assert!(!put.unwrap(), "{fence:?}");
        }
        assert_eq!(store.checkpoints(project.id(), (0, 1)).await.unwrap().len(), 3);
    }
}

/// Runs itself once more, in a process that has the secrets.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_masked_in_what_a_checkpoint_keeps() {
    if std::env::var_os("DANDORI_SECRET_TEXT").is_none() {
        let this = std::env::current_exe().unwrap();
        let run = std::process::Command::new(this)
            .args([
                "checkpoints::secrets_are_masked_in_what_a_checkpoint_keeps",
                "--exact",
            ])
            .env("DANDORI_SECRET_TEXT", "say \"x\"\nand y")
            .env("DANDORI_SECRET_PIN", "4711")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let database = Database::fresh(crate::backend::Backend::Sqlite);
    let echo = handler_fn("echo", |ctx: Context, input: Value| async move {
        ctx.checkpoint("kept", async { Ok(input) }).await
    });
    let engine = database.builder().handler(echo).start().await.unwrap();
    let document = "tasks: {a: {kind: echo, with: {text: 'so: ${{ secrets.TEXT }}', \
                    pin: '${{ secrets.PIN }}', n: 14711, other: 12}}}";
    let project = engine.submit(yaml(document)).await.unwrap();
    let view = ended(&project).await;
    let kept = project.checkpoints("a").await.unwrap();
    let expected = json!({ "text": "so: ***", "pin": "***", "n": "1***", "other": 12 });
    let value = |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).unwrap();
    assert_eq!(value(&kept[0].value), expected);
    assert_eq!(value(view.steps[0].output.as_ref().unwrap()), expected);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checkpoints_of_a_step_are_bounded_together() {
    let database = Database::fresh(crate::backend::Backend::Sqlite);
    let greedy = handler_fn("greedy", |ctx: Context, _: Value| async move {
        for n in 0..5 {
            let name = format!("c{n}");
            let _: String =
                ctx.checkpoint(&name, async { Ok("x".repeat(15 << 20)) }).await?;
        }
        Ok(())
    });
    let engine = database.builder().handler(greedy).start().await.unwrap();
    let project = engine.submit(yaml("tasks: {a: {kind: greedy}}")).await.unwrap();
    let view = ended(&project).await;
    let error = view.steps[0].error.as_ref().unwrap();
    assert_eq!(error.code, "invalid_output");
    assert!(error.message.contains("67108864"), "{error:?}");
    assert_eq!(project.checkpoints("a").await.unwrap().len(), 4);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_worker_goes_on_from_the_checkpoints_of_the_first() {
    let stage = crate::stage::Stage::on(crate::backend::Backend::Postgres);
    let done: [Arc<AtomicU32>; 3] = Default::default();
    let owner = Worker::start(&stage, |it| it.queues(["default"])).await;
    let document =
        "tasks: {a: {kind: long, queue: gpu, retry: {max_retries: 3, delay: 1ms}}}";
    let project = owner.engine.submit(yaml(document)).await.unwrap();
    let guest =
        Worker::start(&stage, |it| it.queues(["gpu"]).handler(long(&done, 2))).await;
    let view = ended(&project).await;
    assert_eq!(view.output.unwrap().get(), r#"{"a":[[1,1],1]}"#);
    assert_eq!(counts(&done), [1, 1, 1]);
    guest.shutdown().await;
    owner.shutdown().await;
}
