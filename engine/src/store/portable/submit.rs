//! Submissions: what waits is recorded together.
//!
//! Compiled once for each database, with its types: see `store/mod.rs`.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use serde::Serialize;
use sqlx::Row as _;
use tokio::sync::oneshot;

use super::{Backend, Connection, access::put_audit, rows::project_id};
use crate::{
    ProjectId,
    plan::{PLAN_FORMAT, hex},
    run::{Record, RecordKind},
    store::{
        NewProject, Statements, StoreError, StoreErrorKind, Submitted,
        codec::encode_events, gather::Waiting,
    },
};

/// Who writes what waits. Whatever ends it, nobody waits for it for ever.
struct Leader {
    store: Backend,
    leads: bool,
}

impl Leader {
    async fn lead(mut self) {
        loop {
            let batch = self.store.0.submissions.next();
            self.leads = !batch.is_empty();
            if !self.leads {
                return;
            }
            self.store.submit_together(batch).await;
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if self.leads {
            self.store.0.submissions.abandon();
        }
    }
}

impl Backend {
    pub(in crate::store) async fn submit(
        &self,
        project: Arc<NewProject>,
    ) -> Result<Submitted, StoreError> {
        let (told, answer) = oneshot::channel();
        if self.0.submissions.join((project, told)) {
            let leader = Leader { store: self.clone(), leads: true };
            tokio::spawn(leader.lead());
        }
        answer.await.unwrap_or_else(|_| {
            Err(StoreError::new(StoreErrorKind::Other, "a submission was dropped"))
        })
    }

    /// Records projects together and answers. What the database refuses is found by trying
    /// one at a time, so that it is refused to whom it belongs.
    async fn submit_together(&self, batch: Vec<Waiting>) {
        let (projects, told): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let mut results = vec![];
        match self.submit_all(projects.clone()).await {
            Ok(submitted) => results.extend(submitted.into_iter().map(Ok)),
            Err(error) if one_by_one(&error, projects.len()) => {
                // One of them, or a plan that is not there any more; or two processes that
                // waited for each other.
                self.0.submissions.forget();
                for project in projects {
                    let one = self.submit_all(vec![project]).await;
                    results
                        .push(one.map(|all| all.first().copied().unwrap_or_default()));
                }
            }
            Err(error) => results.resize(told.len(), Err(error)),
        }
        for (told, result) in told.into_iter().zip(results) {
            // Whoever has gone away finds it recorded.
            let _ = told.send(result);
        }
    }

    async fn submit_all(
        &self,
        projects: Vec<Arc<NewProject>>,
    ) -> Result<Vec<Submitted>, StoreError> {
        let sql = self.sql();
        let fresh: HashSet<[u8; 32]> = projects
            .iter()
            .map(|project| project.plan_hash)
            .filter(|hash| !self.0.submissions.knows(hash))
            .collect();
        let rare = |project: &Arc<NewProject>| {
            project.author.is_some() || !project.labels.is_empty()
        };
        let alone = fresh.is_empty() && !projects.iter().any(rare);
        let hashes = fresh.clone();
        let submitted = if alone {
            self.put_alone(projects).await?
        } else {
            self.write("submit", move |tx| {
                Box::pin(async move { put_all(tx, sql, &projects, &fresh).await })
            })
            .await?
        };
        self.0.submissions.stored(hashes.into_iter());
        Ok(submitted)
    }
}

fn one_by_one(error: &StoreError, projects: usize) -> bool {
    match error.kind() {
        StoreErrorKind::Refused => true,
        StoreErrorKind::Busy => projects > 1,
        _ => false,
    }
}

/// Records projects with all that is rare: plans that are new here, labels, the audit.
pub(super) async fn put_all(
    tx: &mut Connection,
    sql: &'static Statements,
    projects: &[Arc<NewProject>],
    plans: &HashSet<[u8; 32]>,
) -> Result<Vec<Submitted>, StoreError> {
    // In the order of their hashes: two processes may have the same ones.
    let plans: BTreeMap<_, _> = projects
        .iter()
        .map(|project| (project.plan_hash, project))
        .filter(|(hash, _)| plans.contains(hash))
        .collect();
    for (hash, project) in plans {
        put_plan(tx, sql, hash, &project.plan, &project.kinds).await?;
    }
    let submitted = put_rows(tx, sql, projects).await?;
    for (project, submitted) in projects.iter().zip(&submitted) {
        if matches!(submitted, Submitted::Existing | Submitted::Conflict) {
            continue;
        }
        put_labels(tx, sql, project.id, &project.labels).await?;
        if let Some(author) = &project.author {
            let what = ("project.submit", Some(project.id), project.name.as_str());
            put_audit(tx, sql, author, what, project.created_at).await?;
        }
    }
    Ok(submitted)
}

/// Writes the rows of projects, and finds out about those that are there already.
pub(super) async fn put_rows(
    connection: &mut Connection,
    sql: &'static Statements,
    projects: &[Arc<NewProject>],
) -> Result<Vec<Submitted>, StoreError> {
    let rows: Vec<Row<'_>> = projects.iter().map(|project| Row::of(project)).collect();
    let rows = serde_json::to_string(&rows).unwrap_or_default();
    let put =
        sqlx::query(sql.put_projects).bind(rows).fetch_all(&mut *connection).await?;
    answers(connection, sql, projects, &put).await
}

/// What became of projects: those that were put are told with whether they are owned.
pub(super) async fn answers(
    connection: &mut Connection,
    sql: &'static Statements,
    projects: &[Arc<NewProject>],
    put: &[super::Row],
) -> Result<Vec<Submitted>, StoreError> {
    let mut new = HashMap::new();
    for row in put {
        let owned: bool = row.try_get(1)?;
        new.insert(project_id(row, 0)?, owned);
    }
    let mut submitted = Vec::with_capacity(projects.len());
    for project in projects {
        submitted.push(match new.get(&project.id) {
            Some(true) => Submitted::Born,
            Some(false) => Submitted::New,
            None => compare(connection, sql, project).await?,
        });
    }
    Ok(submitted)
}

/// Whether what is recorded under the id of a project is the same.
async fn compare(
    connection: &mut Connection,
    sql: &'static Statements,
    project: &NewProject,
) -> Result<Submitted, StoreError> {
    let row = sqlx::query(sql.fingerprint)
        .bind(project.id.uuid())
        .fetch_one(connection)
        .await?;
    let fingerprint: Vec<u8> = row.try_get(0)?;
    let same = fingerprint == project.fingerprint;
    Ok(if same { Submitted::Existing } else { Submitted::Conflict })
}

/// A project in the list that a statement takes.
#[derive(Serialize)]
struct Row<'a> {
    id: String,
    name: &'a str,
    plan: String,
    priority: i32,
    steps: u32,
    created_at: i64,
    owner: Option<String>,
    inputs: Cow<'a, str>,
    labels: String,
    fingerprint: String,
    event: String,
}

impl<'a> Row<'a> {
    fn of(project: &'a NewProject) -> Self {
        Self {
            id: hex(project.id.uuid().as_bytes()),
            name: &project.name,
            plan: hex(&project.plan_hash),
            priority: project.priority,
            steps: project.steps,
            created_at: project.created_at.as_micros(),
            owner: project.owner.map(|owner| hex(owner.uuid().as_bytes())),
            // A JSON object, so it is text.
            inputs: String::from_utf8_lossy(&project.inputs),
            labels: labels(project),
            fingerprint: hex(&project.fingerprint),
            event: String::from_utf8_lossy(&first_event(project)).into_owned(),
        }
    }
}

/// The first event of a project.
pub(super) fn first_event(project: &NewProject) -> Vec<u8> {
    let record = Record::project(RecordKind::ProjectSubmitted, project.created_at);
    encode_events(std::slice::from_ref(&record))
}

/// Labels as they are kept with a project.
pub(super) fn labels(project: &NewProject) -> String {
    serde_json::to_string(&project.labels).unwrap_or_default()
}

/// Keeps a plan, unless it is there.
pub(super) async fn put_plan(
    tx: &mut Connection,
    sql: &'static Statements,
    hash: [u8; 32],
    plan: &[u8],
    kinds: &[String],
) -> Result<(), StoreError> {
    let put = sqlx::query(sql.put_plan)
        .bind(hash.to_vec())
        .bind(i64::from(PLAN_FORMAT))
        .bind(plan.to_vec())
        .execute(&mut *tx)
        .await?;
    if put.rows_affected() > 0 {
        sqlx::query(sql.put_plan_kinds)
            .bind(hash.to_vec())
            .bind(serde_json::to_string(kinds).unwrap_or_default())
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

/// By which projects are found.
pub(super) async fn put_labels(
    tx: &mut Connection,
    sql: &'static Statements,
    project: ProjectId,
    labels: &BTreeMap<String, String>,
) -> Result<(), StoreError> {
    if !labels.is_empty() {
        let labels: Vec<_> = labels.iter().collect();
        sqlx::query(sql.put_labels)
            .bind(project.uuid())
            .bind(serde_json::to_string(&labels).unwrap_or_default())
            .execute(tx)
            .await?;
    }
    Ok(())
}
