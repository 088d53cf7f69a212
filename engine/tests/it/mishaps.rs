//! Mishaps among many workers on one PostgreSQL database: what comes late, is lost on its
//! way, or is refused; and what must not wait for what.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use dandori::{
    ProjectHandle, SessionId, Steered,
    plan::StepNo,
    run::{Fact, StepState},
    store::{
        Beat, Claim, CrashPoint, Delivery, NewProject, NewSession, Part,
        PostgresOptions, PostgresStore, Serves, Store, StoreErrorKind,
    },
};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use crate::{
    backend::{Backend, fresh},
    fixture::{self, LONG, NOW, adopt, begin, commit, empty, owned},
    stage::{Stage, ended, states, yaml},
    workers::{LEASE, Worker, attempts, outside},
};

/// A store on the database of a stage that answers as `lost` says.
async fn lossy(
    stage: &Stage,
    lost: impl Fn(CrashPoint) -> Option<StoreErrorKind> + Send + Sync + 'static,
) -> Store {
    let options = PostgresOptions::new(&stage.database.place);
    Store::Postgres(PostgresStore::open_for_losses(&options, lost).await.unwrap())
}

fn work() -> Serves {
    Serves { kinds: ["work".to_owned()].into(), ..Serves::default() }
}

/// A worker that is played by the test: it serves the kind `work` in every queue.
async fn played(store: &Store) -> SessionId {
    let id = SessionId::fresh();
    let session = NewSession { serves: work(), ..fixture::session(id, LONG) };
    store.begin_session(session).await.unwrap();
    id
}

/// Claims one step, as soon as there is one.
async fn claim(stage: &Stage, store: &Store, session: SessionId) -> Claim {
    let claims = std::sync::Mutex::new(vec![]);
    stage
        .until("a step is offered", || async {
            let grant = fixture::raw_id(SessionId::fresh());
            let got = store.claim(session, &work(), 1, grant, NOW).await.unwrap();
            claims.lock().unwrap().extend(got);
            !claims.lock().unwrap().is_empty()
        })
        .await;
    claims.into_inner().unwrap()[0]
}

async fn deliver(store: &Store, claim: Claim, delivery: Delivery) {
    let lost = store.deliver(Arc::new(vec![(claim, delivery)])).await.unwrap();
    assert!(lost.is_empty());
}

/// Steps that are offered and not taken.
async fn open(store: &Store, project: &ProjectHandle) -> Vec<StepNo> {
    let stored = store.project(project.id()).await.unwrap().unwrap();
    let open = stored.claims.iter().filter(|claim| claim.claimed_at.is_none());
    open.map(|claim| claim.no).collect()
}

async fn crashes(project: &ProjectHandle, no: StepNo) -> u32 {
    project.snapshot().await.unwrap().run.view(no).crashes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_is_applied_though_an_outcome_comes_while_offers_are_taken_back() {
    let stage = Stage::on(Backend::Postgres);
    let store = stage.database.open().await;
    let away = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicUsize::new(0));
    let slow = {
        let (away, reads) = (Arc::clone(&away), Arc::clone(&reads));
        lossy(&stage, move |point| {
            reads.fetch_add(usize::from(point.verb == "read"), Ordering::SeqCst);
            let held = point.verb == "commit" && away.load(Ordering::SeqCst);
            held.then_some(StoreErrorKind::Unavailable)
        })
        .await
    };
    let owner = Worker::start(&stage, |it| it.store(slow).queues(["none"])).await;
    let guest = played(&store).await;
    let document = "tasks: {a: {kind: work, for_each: '${{ range(30) }}'}}";
    let project = owner.engine.submit(yaml(document)).await.unwrap();
    let claim = claim(&stage, &store, guest).await;
    away.store(true, Ordering::SeqCst);
    let outside = outside(&stage).await.project(project.id());
    assert_eq!(outside.cancel().await.unwrap(), Steered::Recorded);
    // The offers are on their way home when the window has room for another one.
    deliver(&store, claim, Delivery::Succeeded(fixture::raw("1"))).await;
    let before = reads.load(Ordering::SeqCst);
    let noticed = || async { reads.load(Ordering::SeqCst) > before + 4 };
    stage.until("the outcome is read", noticed).await;
    away.store(false, Ordering::SeqCst);
    assert_eq!(ended(&outside).await.state.as_str(), "cancelled");
    owner.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_found_false_after_a_cancel_ends_its_step() {
    let stage = Stage::on(Backend::Postgres);
    let store = stage.database.open().await;
    let owner = Worker::start(&stage, |it| it.queues(["none"])).await;
    let guest = played(&store).await;
    let document = "tasks: {a: {kind: work, if: '${{ false }}'}, b: {kind: work}}";
    let project = owner.engine.submit(yaml(document)).await.unwrap();
    let (first, second) =
        (claim(&stage, &store, guest).await, claim(&stage, &store, guest).await);
    assert_eq!(project.cancel().await.unwrap(), Steered::Applied);
    deliver(&store, first, Delivery::ConditionFalse).await;
    deliver(&store, second, Delivery::Succeeded(fixture::raw("1"))).await;
    assert_eq!(ended(&project).await.state.as_str(), "cancelled");
    assert_eq!(states(&project).await, ["a: cancelled", "b: cancelled"]);
    owner.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_server_is_waited_for() {
    let stage = Stage::on(Backend::Postgres);
    let (count, armed) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
    let armed_now = Arc::clone(&armed);
    let kinds = [StoreErrorKind::Full, StoreErrorKind::Other, StoreErrorKind::ReadOnly];
    let store = lossy(&stage, move |point| {
        let verbs =
            ["adopt", "loaded", "release", "deliver", "commit", "claim", "read"];
        if point.after
            || !armed_now.load(Ordering::SeqCst)
            || !verbs.contains(&point.verb)
        {
            return None;
        }
        let at = count.fetch_add(1, Ordering::SeqCst);
        (at % 3 == 0).then(|| kinds[at / 3 % 3])
    })
    .await;
    let start = async |queue: &'static str| {
        let store = store.clone();
        Worker::start(&stage, move |it| it.store(store).queues([queue])).await
    };
    let (owner, guest) = (start("none").await, start("default").await);
    armed.store(true, Ordering::SeqCst);
    let outside = outside(&stage).await;
    let document = "tasks: {a: {kind: work}, b: {kind: work, needs: [a]}}";
    for _ in 0..3 {
        let project = outside.submit(yaml(document)).await.unwrap();
        for _ in 0..2 {
            guest.next().await.succeed(json!(1));
        }
        assert_eq!(ended(&project).await.state.as_str(), "succeeded");
        assert_eq!(attempts(&project, "b").await, 1);
    }
    guest.shutdown().await;
    owner.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beat_waits_for_no_adoption() {
    let stage = Stage::on(Backend::Postgres);
    let store = stage.database.open().await;
    let (session, id) = (begin(&store, LONG).await, fixture::submit(&store).await);
    let (url, schema) = stage.database.place.rsplit_once("schema=").unwrap();
    let mut holder =
        PgConnection::connect(url.trim_end_matches(['?', '&'])).await.unwrap();
    let mut tx = holder.begin().await.unwrap();
    // The adoption has the project and reads its messages.
    let lock = format!("lock table {schema}.mailbox in access exclusive mode");
    sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut *tx).await.unwrap();
    let adopting = tokio::spawn({
        let store = store.clone();
        async move { store.adopt(session, id).await }
    });
    let waits = "select count(*) from pg_locks l join pg_class c on c.oid = l.relation
        join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = $1 and c.relname = 'mailbox' and not l.granted";
    loop {
        let query = sqlx::query_scalar::<_, i64>(waits).bind(schema);
        if query.fetch_one(&mut *tx).await.unwrap() > 0 {
            break;
        }
    }
    let beat = store.beat(session, Some(Beat::default()));
    let beat = tokio::time::timeout(Duration::from_secs(3), beat).await;
    assert!(beat.expect("the beat waits").unwrap().alive);
    tx.rollback().await.unwrap();
    assert!(adopting.await.unwrap().unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_not_lost_because_the_rest_cannot_be_read_back() {
    let stage = Stage::on(Backend::Postgres);
    let lost = AtomicBool::new(false);
    let reads = AtomicUsize::new(0);
    // Some answer to a commit is lost, and then every second reading for a while.
    let store = lossy(&stage, move |point| {
        let away = Some(StoreErrorKind::Unavailable);
        match point.verb {
            "commit" if point.after && !lost.swap(true, Ordering::SeqCst) => away,
            "commit" if point.after => {
                lost.store(false, Ordering::SeqCst);
                None
            }
            "read" if lost.load(Ordering::SeqCst) => {
                away.filter(|_| reads.fetch_add(1, Ordering::SeqCst) % 2 == 1)
            }
            _ => None,
        }
    })
    .await;
    let worker = Worker::start(&stage, move |it| it.store(store).concurrency(40)).await;
    let outside = outside(&stage).await;
    let mut projects = vec![];
    for _ in 0..10 {
        let document = "tasks: {a: {kind: work}, b: {kind: work, needs: [a]}}";
        projects.push(outside.submit(yaml(document)).await.unwrap());
    }
    for _ in 0..20 {
        worker.next().await.succeed(json!(1));
    }
    for project in projects {
        assert_eq!(ended(&project).await.state.as_str(), "succeeded");
        assert_eq!(project.row().await.unwrap().epoch, 1, "it never changed hands");
        assert_eq!(attempts(&project, "b").await, 1);
    }
    worker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_cut_off_for_three_leases_charges_nobody_on_its_return() {
    let stage = Stage::on(Backend::Postgres);
    let away = Arc::new(AtomicBool::new(false));
    let store = {
        let away = Arc::clone(&away);
        lossy(&stage, move |_| {
            away.load(Ordering::SeqCst).then_some(StoreErrorKind::Unavailable)
        })
        .await
    };
    let worker = Worker::start(&stage, move |it| it.store(store)).await;
    let outside = outside(&stage).await;
    let project = outside.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
    let call = worker.next().await;
    stage.until_step(&project, "a", "running").await;
    away.store(true, Ordering::SeqCst);
    // Everything is dropped.
    call.dropped().await;
    away.store(false, Ordering::SeqCst);
    let again = worker.next().await;
    assert_eq!(again.ctx.attempt(), 2);
    assert_eq!(crashes(&project, 0).await, 0);
    assert_eq!(outside.workers().await.unwrap().len(), 1);
    again.succeed(json!(1));
    assert_eq!(ended(&project).await.state.as_str(), "succeeded");
    worker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_nobody_knows_of_is_given_back() {
    let stage = Stage::on(Backend::Postgres);
    let store = stage.database.open().await;
    let owner = Worker::start(&stage, |it| it.queues(["none"])).await;
    let forgetful = Worker::start(&stage, |it| it.queues(["other"])).await;
    let player = played(&store).await;
    let project = owner.engine.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
    stage
        .until("it is offered", || async { open(&store, &project).await == [0] })
        .await;
    // As if it had arrived after it was given back.
    claim(&stage, &store, forgetful.engine.session().unwrap()).await;
    let again = claim(&stage, &store, player).await;
    assert_eq!(again.attempt, 2);
    assert_eq!(crashes(&project, 0).await, 0);
    deliver(&store, again, Delivery::Succeeded(fixture::raw("1"))).await;
    assert_eq!(ended(&project).await.state.as_str(), "succeeded");
    forgetful.shutdown().await;
    owner.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_come_home_when_nobody_is_hungry_any_more() {
    let stage = Stage::on(Backend::Postgres);
    let store = stage.database.open().await;
    let owner = Worker::start(&stage, |it| it.concurrency(1)).await;
    let document = "tasks: {a: {kind: work}, b: {kind: work}, c: {kind: work}}";
    let project = owner.engine.submit(yaml(document)).await.unwrap();
    let call = owner.next().await;
    let player = played(&store).await;
    let say = async |hungry| {
        let beat = Beat { hungry, ..Beat::default() };
        assert!(store.beat(player, Some(beat)).await.unwrap().alive);
    };
    say(2).await;
    stage
        .until("both are offered", || async { open(&store, &project).await.len() == 2 })
        .await;
    say(0).await;
    stage
        .until("both come home", || async { open(&store, &project).await.is_empty() })
        .await;
    call.succeed(json!(1));
    for _ in 0..2 {
        owner.next().await.succeed(json!(1));
    }
    assert_eq!(ended(&project).await.state.as_str(), "succeeded");
    owner.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn projects_that_wait_for_other_workers_keep_no_room() {
    let stage = Stage::on(Backend::Postgres);
    let worker = Worker::start(&stage, |it| it.queues(["default"])).await;
    let outside = outside(&stage).await;
    for _ in 0..270 {
        let document = "tasks: {a: {kind: work, queue: far}}";
        outside.submit(yaml(document)).await.unwrap();
    }
    let project = outside.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
    worker.next().await.succeed(json!(1));
    assert_eq!(ended(&project).await.state.as_str(), "succeeded");
    worker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn projects_that_cannot_be_loaded_hide_no_others() {
    let stage = Stage::on(Backend::Postgres);
    let store = stage.database.open().await;
    for _ in 0..70 {
        let garbage = NewProject {
            plan: Arc::from(b"of a later version".as_slice()),
            plan_hash: [9; 32],
            ..fixture::project()
        };
        store.submit(Arc::new(garbage)).await.unwrap();
    }
    let outside = outside(&stage).await;
    let project = outside.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
    let worker = Worker::start(&stage, |it| it).await;
    worker.next().await.succeed(json!(1));
    assert_eq!(ended(&project).await.state.as_str(), "succeeded");
    worker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_project_is_cancelled_though_every_worker_is_busy_with_others() {
    let stage = Stage::on(Backend::Postgres);
    let worker = Worker::start(&stage, |it| it.concurrency(1)).await;
    let outside = outside(&stage).await;
    for _ in 0..70 {
        let urgent = "priority: 9\ntasks: {a: {kind: work}}";
        outside.submit(yaml(urgent)).await.unwrap();
    }
    let call = worker.next().await;
    let last = outside.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
    let here = worker.engine.project(last.id());
    assert_eq!(here.cancel().await.unwrap(), Steered::Applied);
    assert_eq!(ended(&last).await.state.as_str(), "cancelled");
    call.succeed(json!(1));
    worker.engine.abort().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn suspects_are_offered_one_at_a_time() {
    let (store, session, id, epoch) = owned(Backend::Postgres).await;
    let suspect = |no| Fact {
        state: StepState::Ready,
        attempt: 2,
        crashes: 2,
        ..Fact::set_back(no, 1, NOW)
    };
    let facts = vec![suspect(0), suspect(1)];
    commit(&store, Part { facts, ..empty(id, session, epoch) }).await;
    begin(&store, LONG).await;
    store.end_session(session).await.unwrap();
    let owner = dandori::Engine::builder().store(store.clone()).lease(LEASE);
    let owner = owner.start().await.unwrap();
    let project = owner.project(id);
    let stage = Stage::on(Backend::Postgres);
    let one = || async { open(&store, &project).await.len() == 1 };
    stage.until("one is offered", one).await;
    // Another round of everything, and still one.
    let before = store.look(SessionId::fresh()).await.unwrap().others;
    let beat = |others: &[dandori::store::Other]| {
        others.iter().map(|other| other.beat).max().unwrap()
    };
    let beaten = || async {
        let now = store.look(SessionId::fresh()).await.unwrap().others;
        beat(&now) > beat(&before) + 2
    };
    stage.until("it has beaten", beaten).await;
    assert_eq!(open(&store, &project).await.len(), 1);
    owner.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unread_message_wakes_a_project_that_was_paused_as_poison() {
    let store = fresh(Backend::Postgres).await;
    let session = begin(&store, LONG).await;
    let id = fixture::submit(&store).await;
    let epoch = adopt(&store, session, id).await;
    store.send(id, dandori::store::MailKind::Cancel, NOW).await.unwrap();
    store.park(session, id, epoch, "poison", NOW).await.unwrap();
    let adoptable = store.look(session).await.unwrap().adoptable;
    assert_eq!(adoptable.iter().map(|it| it.project).collect::<Vec<_>>(), [id]);
}
