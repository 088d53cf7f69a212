//! What the driver and the databases do when an operation is interrupted or fails, and that
//! the store is not hurt by it.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use dandori::{
    ProjectId, SessionId,
    run::ProjectState,
    store::{
        Claim, Consumed, Delivery, ListFilter, MailKind, NewProject, Offer, Part,
        Reopening,
    },
};
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgPool, Row as _, SqliteConnection,
    postgres::PgPoolOptions,
};

use crate::{
    backend::{Backend, Database, fresh, on_both},
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

/// Waits for what must come.
async fn until(holds: impl AsyncFn() -> bool) {
    let began = tokio::time::Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(10), "dropped with its caller");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
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

    async fn an_error_halfway_takes_back_what_came_before_it(backend) {
        let (store, session, id, epoch) = owned(backend).await;
        let (other, second) = (submit(&store).await, store.is_shared());
        let other_epoch = adopt(&store, session, other).await;
        let unheard = Offer { attempt: 0, ..offer(0) };
        let mut wrong = part(id, session, epoch, "1");
        // Two first rows of one step.
        wrong.facts.push(wrong.facts[0].clone());
        wrong.inserts = 2;
        let bad = [
            // The facts are written when the offer is refused.
            Part { offers: vec![unheard], ..part(id, session, epoch, "1") },
            wrong,
        ];
        for part_of_id in bad.into_iter().cycle().take(8) {
            let parts = vec![part(other, session, other_epoch, "2"), part_of_id];
            let error = store.commit(Arc::new(parts), vec![]).await.unwrap_err();
            assert!(!error.is_transient(), "{error:?}");
            for project in [id, other] {
                let stored = store.project(project).await.unwrap().unwrap();
                assert_eq!(stored.row.state, ProjectState::Pending);
                assert!(stored.facts.is_empty() && stored.claims.is_empty());
            }
            // A plan of its own, written before the name is refused.
            let hash = [7; 32];
            let project =
                NewProject { name: "\0".to_owned(), plan_hash: hash, ..project() };
            if second {
                let error = store.submit(Arc::new(project)).await.unwrap_err();
                assert!(!error.is_transient(), "{error:?}");
                assert!(store.plan(hash).await.unwrap().is_none());
            }
        }
        assert!(commit(&store, part(id, session, epoch, "1")).await.lost.is_empty());
        submit(&store).await;
    }

    async fn a_plan_that_somebody_removed_is_sent_again(backend) {
        let database = Database::fresh(backend);
        let store = database.open().await;
        submit(&store).await;
        let text = "delete from events; delete from project_data; delete from projects;
            delete from plan_kinds; delete from plans";
        match backend {
            Backend::Sqlite => {
                let url = format!("sqlite:{}", database.place);
                let mut connection = SqliteConnection::connect(&url).await.unwrap();
                connection.execute("pragma foreign_keys = off").await.unwrap();
                connection.execute(text).await.unwrap();
            }
            _ => {
                let (url, schema) = database.place.split_once("schema=").unwrap();
                let url = url.trim_end_matches(['?', '&']);
                let pool = PgPool::connect(url).await.unwrap();
                let text = format!("set search_path to {schema}; {text}");
                pool.execute(AssertSqlSafe(text)).await.unwrap();
            }
        }
        let id = submit(&store).await;
        assert!(store.plan(project().plan_hash).await.unwrap().is_some());
        assert!(store.project(id).await.unwrap().is_some());
    }

    async fn every_verb_ends_whole_though_its_caller_is_gone(backend) {
        let store = fresh(backend).await;
        for polls in 1..=4 {
            let owner = begin(&store, LONG).await;
            let id = submit(&store).await;
            let epoch = adopt(&store, owner, id).await;
            let stored = async || store.project(id).await.unwrap().unwrap();
            let letters = async || store.letters(id).await.unwrap();

            let offers = vec![offer(0)];
            let parts = vec![Part { offers, ..part(id, owner, epoch, "1") }];
            interrupted(store.commit(Arc::new(parts), vec![]), polls).await;
            until(async || {
                let stored = stored().await;
                assert_eq!(stored.facts.len(), stored.claims.len(), "whole");
                stored.facts.len() == 1
            })
            .await;
            if store.is_shared() {
                let (guest, grant) = (begin(&store, LONG).await, SessionId::fresh());
                let (grant, serves) = (raw_id(grant), serves());
                let claiming = store.claim(guest, &serves, 1, grant, NOW);
                interrupted(claiming, polls).await;
                until(async || stored().await.claims[0].claimed_at.is_some()).await;
                let claim =
                    Claim { project: id, no: 0, generation: 1, attempt: 1, id: grant };
                let batch = vec![(claim, Delivery::Succeeded(raw("1")))];
                interrupted(store.deliver(Arc::new(batch)), polls).await;
                until(async || letters().await.outcomes.len() == 1).await;
                assert_eq!(stored().await.row.mail, 1, "the outcome and its count");
                let consumed = vec![Consumed { no: 0, generation: 1, attempt: 1 }];
                let read = Part { consumed, ..empty(id, owner, epoch) };
                let parts = vec![Part { writes: 1, ..read }];
                interrupted(store.commit(Arc::new(parts), vec![]), polls).await;
                until(async || stored().await.row.mail == 0).await;
                assert!(letters().await.outcomes.is_empty());
                interrupted(store.end_session(guest), polls).await;
                until(async || store.sessions().await.unwrap().len() == 1).await;
            }
            interrupted(store.release(owner, id, epoch, 0, None), polls).await;
            until(async || stored().await.row.session.is_none()).await;
            let epoch = adopt(&store, owner, id).await;
            interrupted(store.park(owner, id, epoch, "poison", NOW), polls).await;
            until(async || stored().await.row.state == ProjectState::Paused).await;
            let events = async || store.events(id, 0, 9).await.unwrap().len();
            assert_eq!(events().await, 2, "the pause and its event");
            let epoch = adopt(&store, owner, id).await;
            let last = Part { from: 2, ..empty(id, owner, epoch) };
            commit(&store, finished(last)).await;
            let guard = (stored().await.row.plan_hash, 2);
            let replay = Reopening::default();
            interrupted(store.replay(id, guard, replay, NOW), polls).await;
            until(async || stored().await.row.state == ProjectState::Pending).await;
            assert_eq!(events().await, 3, "the replay and its event");
            interrupted(store.drain_session(owner), polls).await;
            until(async || store.sessions().await.unwrap()[0].state == "draining").await;
            interrupted(store.end_session(owner), polls).await;
            until(async || store.sessions().await.unwrap().is_empty()).await;

            // Readers are only asked again.
            let nobody = SessionId::fresh();
            interrupted(store.look(nobody), polls).await;
            interrupted(store.project(id), polls).await;
            interrupted(store.list(&ListFilter::default()), polls).await;
            assert_eq!(store.look(nobody).await.unwrap().others.len(), 0);
        }
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
