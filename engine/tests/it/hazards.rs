//! What the driver and the databases do when an operation is interrupted or fails, and that
//! the store is not hurt by it.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use dandori::{ProjectId, SessionId, store::MailKind};
use sqlx::{Executor as _, PgPool, Row as _, postgres::PgPoolOptions};

use crate::{
    backend::{fresh, on_both},
    cluster::Cluster,
    fixture::*,
};

/// Polls a future so often and drops it; whether it had ended before.
async fn interrupted<T>(future: impl Future<Output = T>, polls: usize) -> bool {
    let mut future = pin!(future);
    for _ in 0..polls {
        let ended = poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending => Poll::Ready(false),
        });
        if ended.await {
            return true;
        }
        // Time for an answer to arrive, so that later polls get further.
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
    false
}

fn pool(hook: bool) -> PgPool {
    let url = Cluster::shared().fresh();
    let (url, _) = url.rsplit_once("schema=").unwrap();
    // Without a ping before it, the first poll sends the `begin`.
    let options = PgPoolOptions::new().max_connections(1).test_before_acquire(false);
    let options = match hook {
        true => options.after_release(|connection, _| {
            Box::pin(async move {
                connection.execute("begin; rollback").await?;
                Ok(true)
            })
        }),
        false => options,
    };
    options.connect_lazy(url.trim_end_matches(['?', '&'])).unwrap()
}

/// In a transaction that was begun earlier, the time stands still. Asked in one message: the
/// parts of a prepared statement have times of their own.
async fn is_inside_a_transaction(pool: &PgPool) -> bool {
    let row = sqlx::raw_sql("select now() = statement_timestamp()").fetch_one(pool);
    let outside: bool = row.await.unwrap().get(0);
    !outside
}

#[tokio::test]
async fn the_driver_returns_a_connection_inside_a_transaction_and_the_hook_cures_it() {
    let mut hurt = [0, 0];
    for (at, hook) in [false, true].into_iter().enumerate() {
        // The moment must be met, so it is tried until it is.
        for attempt in 0..500 {
            if attempt >= 40 && (hook || hurt[at] > 0) {
                break;
            }
            let pool = pool(hook);
            pool.execute("select 1").await.unwrap();
            // A connection comes back a moment after its user has gone.
            while pool.num_idle() == 0 {
                tokio::task::yield_now().await;
            }
            interrupted(pool.begin(), 1 + attempt % 3).await;
            hurt[at] += usize::from(is_inside_a_transaction(&pool).await);
            pool.close().await;
        }
    }
    assert!(hurt[0] > 0, "the driver is cured: the hook of the pools can go");
    assert_eq!(hurt[1], 0, "whoever comes next is outside");
}

#[tokio::test]
async fn the_driver_commits_nothing_after_a_swallowed_error_and_says_so_to_nobody() {
    let pool = pool(false);
    let mut tx = pool.begin().await.unwrap();
    tx.execute("create table swallowed ()").await.unwrap();
    assert!(tx.execute("select 1 / 0").await.is_err());
    assert!(tx.commit().await.is_ok(), "the driver has learnt to tell");
    let there: bool = sqlx::query_scalar("select to_regclass('swallowed') is not null")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!(!there);
}

on_both! {
    async fn a_verb_that_fails_leaves_nothing_and_hurts_no_other(backend) {
        let (store, session, id, epoch) = owned(backend).await;
        for _ in 0..8 {
            let nobody = ProjectId::fresh();
            let error = store.send(nobody, MailKind::Cancel, NOW).await.unwrap_err();
            assert!(!error.is_transient(), "{error:?}");
            assert!(store.letters(nobody).await.unwrap().mail.is_empty());
        }
        assert!(commit(&store, part(id, session, epoch, "1")).await.lost.is_empty());
        store.send(id, MailKind::Pause, NOW).await.unwrap();
        assert_eq!(store.letters(id).await.unwrap().mail.len(), 1);
    }

    async fn a_caller_that_goes_away_interrupts_nothing(backend) {
        let store = fresh(backend).await;
        let session = begin(&store, LONG).await;
        for polls in 1..=12 {
            let project = project();
            let id = project.id;
            interrupted(store.submit(Arc::new(project)), polls).await;
            // What was begun ends by itself, whole.
            let mut tries = 0;
            while store.row(id).await.unwrap().is_none() {
                tries += 1;
                assert!(tries < 1_000, "the submission was dropped with its caller");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            assert_eq!(store.events(id, 0, 9).await.unwrap().len(), 1);
            interrupted(store.adopt(session, id), polls).await;
            interrupted(store.send(id, MailKind::Pause, NOW), polls).await;
            while store.letters(id).await.unwrap().mail.is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let row = store.row(id).await.unwrap().unwrap();
            assert_eq!(row.mail, 1, "the message and its count are one");
            interrupted(store.beat(session, Some(dandori::store::Beat::default())), polls).await;
        }
        assert!(store.beat(session, Some(dandori::store::Beat::default())).await.unwrap().alive);
        assert!(store.adopt(SessionId::fresh(), ProjectId::fresh()).await.unwrap().is_none());
    }
}
