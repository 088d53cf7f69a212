//! The store's own promises: fences, the event number, mail, outputs, and a schema that
//! says the same as the code.

use std::{collections::BTreeMap, sync::Arc};

use dandori::{
    ProjectId, SessionId, Timestamp,
    run::{Fact, ProjectState, StepState, WaitReason},
    spec::{CompileOptions, Document, Task},
    store::{Header, MailKind, NewProject, Part, Store, Submitted},
};
use serde_json::value::RawValue;
use sqlx::{Connection as _, SqliteConnection};

const NOW: Timestamp = Timestamp::from_micros(5);

async fn fixture() -> (Store, SessionId, ProjectId) {
    let store = Store::open_temporary().await.unwrap();
    let session = SessionId::fresh();
    store.begin_session(session, "a test".to_owned(), NOW).await.unwrap();
    let document =
        Document::named("p").task(Task::new("a", "x")).task(Task::new("b", "x"));
    let plan = document.compile(&CompileOptions::default()).unwrap().plan;
    let id = ProjectId::fresh();
    let project = NewProject {
        id,
        name: "p".to_owned(),
        plan_hash: plan.hash(),
        plan: Arc::clone(plan.bytes()),
        steps: plan.len(),
        priority: 0,
        inputs: Arc::from(b"{}".as_slice()),
        labels: BTreeMap::new(),
        fingerprint: [1; 32],
        created_at: NOW,
    };
    assert_eq!(store.submit(Arc::new(project.clone())).await.unwrap(), Submitted::New);
    assert_eq!(
        store.submit(Arc::new(project.clone())).await.unwrap(),
        Submitted::Existing
    );
    let other = NewProject { fingerprint: [2; 32], ..project };
    assert_eq!(store.submit(Arc::new(other)).await.unwrap(), Submitted::Conflict);
    (store, session, id)
}

fn part(project: ProjectId, session: SessionId, epoch: i64, output: &str) -> Part {
    let fact = Fact {
        output: Some(Arc::from(RawValue::from_string(output.to_owned()).unwrap())),
        state: StepState::Succeeded,
        attempt: 1,
        ..Fact::set_back(0, 1, NOW)
    };
    Part {
        project,
        session,
        epoch,
        from: 1,
        facts: vec![fact],
        attempts: vec![],
        records: vec![],
        mail: vec![],
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

#[tokio::test]
async fn only_the_owner_of_this_epoch_writes() {
    let (store, session, id) = fixture().await;
    let adopted = store.adopt(session, id).await.unwrap().unwrap();
    let epoch = adopted.project.row.epoch;
    let commit = async |part| store.commit(Arc::new(vec![part]), vec![]).await.unwrap();
    assert_eq!(
        commit(part(id, SessionId::fresh(), epoch, "1")).await,
        [id],
        "another session"
    );
    assert_eq!(commit(part(id, session, epoch - 1, "1")).await, [id], "an older epoch");
    let late = Part { from: 0, ..part(id, session, epoch, "1") };
    assert_eq!(commit(late).await, [id], "an event number that was passed");
    assert!(
        store.project(id).await.unwrap().unwrap().facts.is_empty(),
        "nothing was written"
    );
    assert!(commit(part(id, session, epoch, "1")).await.is_empty());
    assert_eq!(store.project(id).await.unwrap().unwrap().facts.len(), 1);
}

#[tokio::test]
async fn a_lost_project_harms_no_other_in_the_commit() {
    let (store, session, id) = fixture().await;
    let epoch = store.adopt(session, id).await.unwrap().unwrap().project.row.epoch;
    let lost = part(ProjectId::fresh(), session, 1, "1");
    let name = lost.project;
    let parts = Arc::new(vec![lost, part(id, session, epoch, "2")]);
    assert_eq!(store.commit(parts, vec![]).await.unwrap(), [name]);
    assert_eq!(store.outputs(id, &[0]).await.unwrap()[0].as_ref().unwrap().get(), "2");
}

#[tokio::test]
async fn a_project_with_unread_mail_is_not_given_back() {
    let (store, session, id) = fixture().await;
    let epoch = store.adopt(session, id).await.unwrap().unwrap().project.row.epoch;
    store.send(id, MailKind::Pause, NOW).await.unwrap();
    assert!(
        !store.release(session, id, epoch, 0).await.unwrap(),
        "the wake-up is not lost"
    );
    let mail = store.mail(Some(id)).await.unwrap();
    let read = Part { mail: vec![mail[0].id], ..part(id, session, epoch, "1") };
    store.commit(Arc::new(vec![read]), vec![]).await.unwrap();
    assert!(store.mail(None).await.unwrap().is_empty());
    assert!(store.release(session, id, epoch, 0).await.unwrap());
}

#[tokio::test]
async fn outputs_come_back_byte_for_byte_whatever_their_size() {
    let (store, session, id) = fixture().await;
    let epoch = store.adopt(session, id).await.unwrap().unwrap().project.row.epoch;
    for (from, output) in [
        (1, r#"{"b":9007199254740993,"a":1e3,"é":"\u0000"}"#.to_owned()),
        (1, format!("[{}]", "1.50,".repeat(5_000).trim_end_matches(','))),
    ] {
        let part = Part { from, ..part(id, session, epoch, &output) };
        store.commit(Arc::new(vec![part]), vec![]).await.unwrap();
        let read = store.outputs(id, &[0, 1]).await.unwrap();
        assert_eq!(read[0].as_ref().unwrap().get(), output);
        assert!(read[1].is_none());
    }
    assert!(store.outputs_within(id, &[0], 100).await.unwrap().is_none());
}

#[tokio::test]
async fn the_labels_in_the_schema_are_those_of_the_code() {
    let (store, ..) = fixture().await;
    let url = format!("sqlite:{}", store.path().display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    let schema: Vec<String> =
        sqlx::query_scalar("select sql from sqlite_master where sql <> ''")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    let schema = schema.join("\n");
    let check = |column: &str, labels: Vec<&str>| {
        let list = schema
            .split(&format!("{column} in"))
            .skip(1)
            .map(|rest| rest.split(')').next().unwrap().replace(['(', '\'', '\n'], " "))
            .map(|rest| {
                rest.split(',').map(|l| l.trim().to_owned()).collect::<Vec<_>>()
            })
            .find(|list| list.len() == labels.len());
        assert_eq!(list.unwrap_or_default(), labels, "{column}");
    };
    check("state", ProjectState::ALL.iter().map(|state| state.as_str()).collect());
    check("state", StepState::ALL.iter().map(|state| state.as_str()).collect());
    check("wait", WaitReason::ALL.iter().map(|reason| reason.as_str()).collect());
    check("kind", MailKind::ALL.iter().map(|kind| kind.as_str()).collect());
}
