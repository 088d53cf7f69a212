//! The reading verbs: one body for every database.
//!
//! Compiled once for each database, with its types: see `store/mod.rs`.

use std::{collections::HashMap, sync::Arc};

use sqlx::{Connection as _, Row as _};

use super::{
    Backend, Connection, Row, SNAPSHOT,
    forks::lent,
    rows::{
        claim_row, fact, mail_row, number, outcome, past_attempt, project_id,
        project_row, pulse, raw, session_row,
    },
};
use crate::{
    ProjectId, SessionId, Timestamp,
    plan::{Plan, StepNo},
    run::{Output, PastAttempt, Record},
    store::{
        Letters, ListFilter, LogLine, ProjectRow, Pulse, Reference, SessionRow,
        Statements, StoreError, StoredProject, damaged, decode_events,
    },
};

/// Outputs read by one statement, and how many bytes of them.
const OUTPUTS_AT_ONCE: usize = 1_024;
const BYTES_AT_ONCE: usize = 4 * 1024 * 1024;

impl Backend {
    pub(in crate::store) async fn project(
        &self,
        id: ProjectId,
    ) -> Result<Option<StoredProject>, StoreError> {
        let sql = self.sql();
        self.read(move |connection| {
            Box::pin(async move {
                let mut tx = connection.begin_with(SNAPSHOT).await?;
                let project = project(&mut tx, sql, id).await?;
                tx.commit().await?;
                Ok(project)
            })
        })
        .await
    }

    pub(in crate::store) async fn row(
        &self,
        id: ProjectId,
    ) -> Result<Option<ProjectRow>, StoreError> {
        let sql = self.sql();
        self.read(move |connection| Box::pin(row(connection, sql, id))).await
    }

    pub(in crate::store) async fn list(
        &self,
        filter: &ListFilter,
    ) -> Result<Vec<ProjectRow>, StoreError> {
        let sql = self.sql();
        let states: Vec<&str> =
            filter.states.iter().map(|state| state.as_str()).collect();
        let states = match states.as_slice() {
            [] => String::new(),
            states => format!(",{},", states.join(",")),
        };
        let filter = filter.clone();
        self.read(move |connection| {
            Box::pin(async move {
                sqlx::query(sql.list)
                    .bind(filter.before.map(|(at, _)| at.as_micros()))
                    .bind(filter.before.map(|(_, id)| id.uuid()))
                    .bind(states)
                    .bind(filter.since.map(Timestamp::as_micros))
                    .bind(filter.name)
                    .bind(filter.kind)
                    .bind(serde_json::to_string(&filter.labels).unwrap_or_default())
                    .bind(i64::from(filter.limit))
                    .fetch_all(connection)
                    .await?
                    .iter()
                    .map(project_row)
                    .collect()
            })
        })
        .await
    }

    pub(in crate::store) async fn find(
        &self,
        reference: &Reference,
    ) -> Result<Result<ProjectId, &'static str>, StoreError> {
        let sql = self.sql();
        let reference = reference.clone();
        self.read(move |connection| Box::pin(find(connection, sql, reference))).await
    }

    pub(in crate::store) async fn check_statements(&self) -> Result<usize, StoreError> {
        let sql = self.sql();
        self.read(move |connection| Box::pin(check(connection, sql, Self::TEXTS))).await
    }

    pub(in crate::store) async fn letters(
        &self,
        project: ProjectId,
    ) -> Result<Letters, StoreError> {
        let sql = self.sql();
        self.read(move |connection| Box::pin(letters(connection, sql, project))).await
    }

    pub(in crate::store) async fn look(
        &self,
        session: SessionId,
    ) -> Result<Pulse, StoreError> {
        let sql = self.sql();
        self.read(move |connection| {
            Box::pin(async move {
                let rows = sqlx::query(sql.look)
                    .bind(session.uuid())
                    .fetch_all(connection)
                    .await?;
                pulse(&rows)
            })
        })
        .await
    }

    pub(in crate::store) async fn sessions(
        &self,
    ) -> Result<Vec<SessionRow>, StoreError> {
        let sql = self.sql();
        self.read(move |connection| {
            Box::pin(async move {
                let rows = sqlx::query(sql.sessions).fetch_all(connection).await?;
                rows.iter().map(session_row).collect()
            })
        })
        .await
    }

    pub(in crate::store) async fn plan(
        &self,
        hash: [u8; 32],
    ) -> Result<Option<Arc<[u8]>>, StoreError> {
        let sql = self.sql();
        self.read(move |connection| {
            Box::pin(async move {
                let body: Option<Vec<u8>> = sqlx::query_scalar(sql.plan)
                    .bind(hash.to_vec())
                    .fetch_optional(connection)
                    .await?;
                Ok(body.map(Arc::from))
            })
        })
        .await
    }

    pub(in crate::store) async fn outputs_within(
        &self,
        project: ProjectId,
        steps: &[StepNo],
        bytes: usize,
    ) -> Result<Option<Vec<Option<Output>>>, StoreError> {
        let sql = self.sql();
        let steps = steps.to_vec();
        self.read(move |connection| {
            Box::pin(outputs_within(connection, sql, project, steps, bytes))
        })
        .await
    }

    pub(in crate::store) async fn events(
        &self,
        project: ProjectId,
        after: i64,
        rows: u32,
    ) -> Result<Vec<(i64, Record)>, StoreError> {
        let sql = self.sql();
        self.read(move |connection| {
            Box::pin(async move {
                let rows = sqlx::query(sql.events)
                    .bind(project.uuid())
                    .bind(after)
                    .bind(i64::from(rows))
                    .fetch_all(connection)
                    .await?;
                let mut events = vec![];
                for row in rows {
                    let body: Vec<u8> = row.try_get(1)?;
                    let (first, last) = (row.try_get(0)?, row.try_get(2)?);
                    events.extend(decode_events(first, last, &body).map_err(damaged)?);
                }
                events.retain(|(number, _)| *number > after);
                Ok(events)
            })
        })
        .await
    }

    pub(in crate::store) async fn commits(
        &self,
        project: ProjectId,
    ) -> Result<Vec<i64>, StoreError> {
        let sql = self.sql();
        self.read(move |connection| {
            Box::pin(async move {
                Ok(sqlx::query_scalar(sql.commits)
                    .bind(project.uuid())
                    .fetch_all(connection)
                    .await?)
            })
        })
        .await
    }

    pub(in crate::store) async fn attempts(
        &self,
        project: ProjectId,
    ) -> Result<Vec<PastAttempt>, StoreError> {
        let sql = self.sql();
        self.read(move |connection| {
            Box::pin(async move {
                sqlx::query(sql.attempts)
                    .bind(project.uuid())
                    .fetch_all(connection)
                    .await?
                    .iter()
                    .map(past_attempt)
                    .collect()
            })
        })
        .await
    }

    pub(in crate::store) async fn logs(
        &self,
        project: ProjectId,
        no: Option<StepNo>,
    ) -> Result<Vec<LogLine>, StoreError> {
        let sql = self.sql();
        self.read(move |connection| {
            Box::pin(async move {
                sqlx::query(sql.logs)
                    .bind(project.uuid())
                    .bind(no.map(i64::from))
                    .fetch_all(connection)
                    .await?
                    .iter()
                    .map(|row| {
                        Ok(LogLine {
                            project,
                            no: number(row, 0)?,
                            generation: number(row, 1)?,
                            attempt: number(row, 2)?,
                            at: Timestamp::from_micros(row.try_get(3)?),
                            line: row.try_get(4)?,
                        })
                    })
                    .collect()
            })
        })
        .await
    }
}

/// Prepares every statement; how many there are.
pub(super) async fn check(
    connection: &mut Connection,
    sql: &'static Statements,
    more: &'static [&'static str],
) -> Result<usize, StoreError> {
    let all = sql.all().into_iter().map(|(_, text)| text).chain(more.iter().copied());
    let mut count = 0;
    for text in all {
        use sqlx::{Executor as _, SqlSafeStr as _};
        connection.prepare(text.into_sql_str()).await?;
        count += 1;
    }
    Ok(count)
}

/// A list of numbers as JSON.
fn list(steps: &[StepNo]) -> String {
    serde_json::to_string(steps).unwrap_or_default()
}

/// Cuts steps into batches that hold little at once, whatever a single output weighs.
pub(super) fn batches(sizes: Vec<(StepNo, usize)>) -> Vec<(Vec<StepNo>, usize)> {
    let mut batches: Vec<(Vec<StepNo>, usize)> = vec![];
    for (no, size) in sizes {
        match batches.last_mut() {
            Some((steps, held)) if *held + size <= BYTES_AT_ONCE => {
                steps.push(no);
                *held += size;
            }
            _ => batches.push((vec![no], size)),
        }
    }
    batches
}

/// How much the output of each step weighs.
pub(super) fn sizes(rows: &[Row]) -> Result<Vec<(StepNo, usize)>, StoreError> {
    let size = |row: &Row| {
        let size = usize::try_from(row.try_get::<i64, _>(1)?).unwrap_or(0);
        Ok((number(row, 0)?, size))
    };
    rows.iter().map(size).collect()
}

async fn outputs_within(
    connection: &mut Connection,
    sql: &'static Statements,
    project: ProjectId,
    steps: Vec<StepNo>,
    bytes: usize,
) -> Result<Option<Vec<Option<Output>>>, StoreError> {
    let mut found: HashMap<StepNo, Output> = HashMap::with_capacity(steps.len());
    let mut left = bytes;
    for chunk in steps.chunks(OUTPUTS_AT_ONCE) {
        let rows = sqlx::query(sql.output_sizes)
            .bind(project.uuid())
            .bind(list(chunk))
            .fetch_all(&mut *connection)
            .await?;
        for (steps, size) in batches(sizes(&rows)?) {
            let Some(rest) = left.checked_sub(size) else { return Ok(None) };
            left = rest;
            let rows = sqlx::query(sql.outputs)
                .bind(project.uuid())
                .bind(list(&steps))
                .fetch_all(&mut *connection)
                .await?;
            for row in &rows {
                found.insert(number(row, 0)?, Arc::from(raw(row.try_get(1)?)?));
            }
        }
    }
    let missing: Vec<StepNo> =
        steps.iter().copied().filter(|no| !found.contains_key(no)).collect();
    if !missing.is_empty()
        && !lent(connection, sql, project, &missing, &mut found, left).await?
    {
        return Ok(None);
    }
    Ok(Some(steps.iter().map(|no| found.get(no).cloned()).collect()))
}

async fn find(
    connection: &mut Connection,
    sql: &'static Statements,
    reference: Reference,
) -> Result<Result<ProjectId, &'static str>, StoreError> {
    let rows = match reference {
        Reference::Id(id) => {
            let found = row(connection, sql, id).await?.is_some();
            return Ok(found.then_some(id).ok_or("no project has this id"));
        }
        Reference::Last => sqlx::query(sql.latest).fetch_all(&mut *connection).await?,
        Reference::Text(text) => {
            let ending: String = text
                .strip_prefix(ProjectId::PREFIX)
                .unwrap_or(&text)
                .chars()
                .filter(|c| *c != '-')
                .collect::<String>()
                .to_lowercase();
            let is_ending =
                ending.len() >= 4 && ending.bytes().all(|b| b.is_ascii_hexdigit());
            let mut rows = vec![];
            if is_ending {
                let query = sqlx::query(sql.by_ending).bind(ending);
                rows = query.fetch_all(&mut *connection).await?;
            }
            if rows.is_empty() {
                let query = sqlx::query(sql.by_name).bind(text);
                rows = query.fetch_all(&mut *connection).await?;
            }
            rows
        }
    };
    match rows.as_slice() {
        [] => Ok(Err("no project has this id or name")),
        [one] => Ok(Ok(project_id(one, 0)?)),
        _ => Ok(Err("several projects match; use more of the id")),
    }
}

pub(super) async fn project(
    tx: &mut Connection,
    sql: &'static Statements,
    id: ProjectId,
) -> Result<Option<StoredProject>, StoreError> {
    let Some(row) = row(&mut *tx, sql, id).await? else { return Ok(None) };
    let data = sqlx::query(sql.data).bind(id.uuid()).fetch_one(&mut *tx).await?;
    let mut facts = sqlx::query(sql.steps)
        .bind(id.uuid())
        .fetch_all(&mut *tx)
        .await?
        .iter()
        .map(fact)
        .collect::<Result<Vec<_>, StoreError>>()?;
    if facts.iter().any(|fact| fact.expansion.is_some()) {
        let mut bodies = expansions(tx, sql, id).await?;
        for fact in facts.iter_mut().filter(|fact| fact.expansion.is_some()) {
            fact.body = bodies.remove(&fact.no);
        }
    }
    let claims = sqlx::query(sql.claims)
        .bind(id.uuid())
        .fetch_all(&mut *tx)
        .await?
        .iter()
        .map(claim_row)
        .collect::<Result<_, StoreError>>()?;
    let labels: String = data.try_get(1)?;
    let output: Option<Vec<u8>> = data.try_get(2)?;
    let inputs: Vec<u8> = data.try_get(0)?;
    Ok(Some(StoredProject {
        row,
        inputs: inputs.into(),
        labels: serde_json::from_str(&labels).map_err(damaged)?,
        output: output.map(raw).transpose()?,
        facts,
        claims,
    }))
}

/// The plans that steps of a project became or added. They are parsed beside the runtime,
/// and a panic there is damage.
async fn expansions(
    tx: &mut Connection,
    sql: &'static Statements,
    id: ProjectId,
) -> Result<HashMap<StepNo, Arc<Plan>>, StoreError> {
    let rows = sqlx::query(sql.expansions).bind(id.uuid()).fetch_all(&mut *tx).await?;
    let rows = rows
        .iter()
        .map(|row| Ok((number(row, 0)?, row.try_get::<Vec<u8>, _>(1)?)))
        .collect::<Result<Vec<_>, StoreError>>()?;
    let parse = |(no, body): (StepNo, Vec<u8>)| {
        Ok((no, Arc::new(Plan::from_bytes(&Arc::from(body))?)))
    };
    let parsed = move || rows.into_iter().map(parse).collect::<Result<_, String>>();
    tokio::task::spawn_blocking(parsed).await.map_err(damaged)?.map_err(damaged)
}

pub(super) async fn row(
    connection: &mut Connection,
    sql: &'static Statements,
    id: ProjectId,
) -> Result<Option<ProjectRow>, StoreError> {
    sqlx::query(sql.project)
        .bind(id.uuid())
        .fetch_optional(connection)
        .await?
        .as_ref()
        .map(project_row)
        .transpose()
}

pub(super) async fn letters(
    connection: &mut Connection,
    sql: &'static Statements,
    project: ProjectId,
) -> Result<Letters, StoreError> {
    let mail = sqlx::query(sql.mail)
        .bind(project.uuid())
        .fetch_all(&mut *connection)
        .await?
        .iter()
        .map(mail_row)
        .collect::<Result<_, StoreError>>()?;
    let outcomes = sqlx::query(sql.outcomes)
        .bind(project.uuid())
        .fetch_all(&mut *connection)
        .await?
        .iter()
        .map(outcome)
        .collect::<Result<_, StoreError>>()?;
    Ok(Letters { mail, outcomes })
}
