//! Fixtures of the tests of the store: sessions, projects, parts, claims.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use dandori::{
    ProjectId, SessionId, Timestamp,
    run::{Fact, ProjectState, Record, RecordKind, StepState},
    spec::{CompileOptions, Document, Task},
    store::{
        Claim, Committed, Delivery, Header, NewProject, NewSession, Offer, Part,
        Serves, Store, Submitted,
    },
};
use serde_json::value::RawValue;

use crate::backend::{Backend, fresh};

pub(crate) const NOW: Timestamp = Timestamp::from_micros(5);
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// A lease that is over as soon as anybody looks.
pub(crate) const OVER: Duration = Duration::ZERO;

/// A session as tests begin it: it serves the kind `x` in every queue.
pub(crate) fn session(id: SessionId, lease: Duration) -> NewSession {
    NewSession {
        id,
        command: "a test".to_owned(),
        host: "here".to_owned(),
        lease,
        slots: 4,
        serves: serves(),
        started_at: NOW,
    }
}

pub(crate) fn serves() -> Serves {
    Serves { queues: BTreeSet::new(), kinds: BTreeSet::from(["x".to_owned()]) }
}

pub(crate) async fn begin(store: &Store, lease: Duration) -> SessionId {
    let id = SessionId::fresh();
    store.begin_session(session(id, lease)).await.unwrap();
    id
}

pub(crate) fn project() -> NewProject {
    let document =
        Document::named("p").task(Task::new("a", "x")).task(Task::new("b", "x"));
    let plan = document.compile(&CompileOptions::default()).unwrap().plan;
    NewProject {
        id: ProjectId::fresh(),
        name: "p".to_owned(),
        plan_hash: plan.hash(),
        plan: Arc::clone(plan.bytes()),
        steps: plan.len(),
        priority: 0,
        inputs: Arc::from(b"{}".as_slice()),
        labels: BTreeMap::new(),
        fingerprint: [1; 32],
        created_at: NOW,
        owner: None,
        kinds: vec![],
        author: None,
    }
}

pub(crate) async fn submit(store: &Store) -> ProjectId {
    let project = project();
    let id = project.id;
    assert_eq!(store.submit(Arc::new(project)).await.unwrap(), Submitted::New);
    id
}

/// An open store, a live session, and a project of its own in its first epoch.
pub(crate) async fn owned(backend: Backend) -> (Store, SessionId, ProjectId, i64) {
    let store = fresh(backend).await;
    let session = begin(&store, LONG).await;
    let id = submit(&store).await;
    let epoch = adopt(&store, session, id).await;
    (store, session, id, epoch)
}

pub(crate) async fn adopt(store: &Store, session: SessionId, id: ProjectId) -> i64 {
    let adopted = store.adopt(session, id).await.unwrap().expect("it is free");
    adopted.project.row.epoch
}

pub(crate) fn raw(text: &str) -> Arc<RawValue> {
    Arc::from(RawValue::from_string(text.to_owned()).unwrap())
}

/// A part that records the success of step 0.
pub(crate) fn part(
    project: ProjectId,
    session: SessionId,
    epoch: i64,
    output: &str,
) -> Part {
    let fact = Fact {
        output: Some(raw(output)),
        state: StepState::Succeeded,
        attempt: 1,
        ..Fact::set_back(0, 1, NOW)
    };
    Part { facts: vec![fact], ..empty(project, session, epoch) }
}

/// The shapes that a commit has in a database.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// The first row of one step.
    Lone,
    /// The same with the output of the project.
    Last,
    /// The first rows of several.
    First,
    /// The same beside another project.
    Many,
    /// With later rows.
    Full,
}

impl Shape {
    pub(crate) const ALL: [Self; 5] =
        [Self::Lone, Self::Last, Self::First, Self::Many, Self::Full];
}

/// A part in one of the shapes, with an event.
pub(crate) fn shaped(shape: Shape, mut part: Part) -> Part {
    part.records = vec![Record {
        at: NOW,
        kind: RecordKind::StepSucceeded,
        no: Some(0),
        attempt: 1,
        error: None,
        until: None,
        progress: None,
    }];
    if let Shape::First | Shape::Many = shape {
        part.facts.push(Fact { no: 1, ..part.facts[0].clone() });
    }
    if let Shape::Last | Shape::First | Shape::Many = shape {
        part.output = Some(raw("2"));
    }
    if !matches!(shape, Shape::Full) {
        part.inserts = part.facts.len();
    }
    part
}

pub(crate) fn empty(project: ProjectId, session: SessionId, epoch: i64) -> Part {
    Part {
        project,
        session,
        epoch,
        from: 1,
        writes: 0,
        facts: vec![],
        inserts: 0,
        attempts: vec![],
        records: vec![],
        mail: vec![],
        consumed: vec![],
        offers: vec![],
        withdraw: vec![],
        stop: vec![],
        header: Header {
            state: ProjectState::Running,
            reason: None,
            next_no: 2,
            counts: BTreeMap::new(),
            began_at: Some(NOW),
            cancelled_at: None,
            finished_at: None,
        },
        output: None,
    }
}

pub(crate) fn finished(part: Part) -> Part {
    let header = Header {
        state: ProjectState::Succeeded,
        finished_at: Some(NOW),
        ..part.header.clone()
    };
    Part { header, ..part }
}

pub(crate) fn offer(no: u32) -> Offer {
    Offer {
        no,
        generation: 1,
        attempt: 1,
        queue: "default".to_owned(),
        kind: "x".to_owned(),
        priority: 0,
        at: NOW,
    }
}

/// Commits a part after those that are written.
pub(crate) async fn commit(store: &Store, part: Part) -> Committed {
    let row = store.row(part.project).await.unwrap();
    let part = Part { writes: row.map_or(0, |row| row.writes), ..part };
    store.commit(Arc::new(vec![part]), vec![]).await.unwrap()
}

pub(crate) async fn claim(store: &Store, session: SessionId, most: u32) -> Vec<Claim> {
    let grant = raw_id(SessionId::fresh());
    store.claim(session, &serves(), most, grant, NOW).await.unwrap()
}

pub(crate) async fn deliver(store: &Store, claim: Claim, output: &str) -> Vec<Claim> {
    let delivery = Delivery::Succeeded(raw(output));
    store.deliver(Arc::new(vec![(claim, delivery)])).await.unwrap()
}

/// Declares a session dead and frees what it owned.
pub(crate) async fn bury(store: &Store, watcher: SessionId, dead: SessionId) -> bool {
    let pulse = store.look(watcher).await.unwrap();
    let Some(late) = pulse.late.into_iter().find(|late| late.id == dead) else {
        return false;
    };
    let expired = store.expire(late.id, late.beat, false).await.unwrap();
    store.reap().await.unwrap();
    expired
}

pub(crate) fn raw_id(session: SessionId) -> uuid::Uuid {
    session.to_string().trim_start_matches("ses_").parse().unwrap()
}
