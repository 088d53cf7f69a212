//! The reading verbs. Readers use their own connections and never wait for the writer.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
};

use serde_json::value::RawValue;
use sqlx::{Connection as _, Row as _, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use super::{SqliteStore, sql};
use crate::{
    ProjectId, StepError, Timestamp,
    plan::StepNo,
    run::{
        Expansion, Fact, Output, PastAttempt, ProjectState, Record, StepState,
        WaitReason,
    },
    store::{
        ListFilter, LogLine, Mail, MailKind, ProjectRow, Reference, StoreError,
        StoreErrorKind, StoredProject, decode_events,
    },
};

/// Outputs read by one statement, and how many bytes of them.
const OUTPUTS_AT_ONCE: usize = 1_024;
const BYTES_AT_ONCE: usize = 4 * 1024 * 1024;

impl SqliteStore {
    async fn reader(
        &self,
    ) -> Result<sqlx::pool::PoolConnection<sqlx::Sqlite>, StoreError> {
        Ok(self.0.readers.acquire().await?)
    }

    /// Reads a project whole, in one snapshot.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn project(
        &self,
        id: ProjectId,
    ) -> Result<Option<StoredProject>, StoreError> {
        let mut connection = self.reader().await?;
        let mut tx = sqlx::Connection::begin(&mut *connection).await?;
        let project = project(&mut tx, id).await?;
        tx.commit().await?;
        Ok(project)
    }

    /// Reads the row of a project.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn row(&self, id: ProjectId) -> Result<Option<ProjectRow>, StoreError> {
        row(&mut *self.reader().await?, id).await
    }

    /// Lists projects, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn list(
        &self,
        filter: &ListFilter,
    ) -> Result<Vec<ProjectRow>, StoreError> {
        let states: Vec<&str> =
            filter.states.iter().map(|state| state.as_str()).collect();
        let states = match states.as_slice() {
            [] => String::new(),
            states => format!(",{},", states.join(",")),
        };
        sqlx::query(sql::LIST)
            .bind(filter.before.map(ProjectId::uuid))
            .bind(states)
            .bind(filter.limit)
            .fetch_all(&mut *self.reader().await?)
            .await?
            .iter()
            .map(project_row)
            .collect()
    }

    /// The projects that are not ended or have unread messages, most urgent first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn open_projects(&self) -> Result<Vec<ProjectId>, StoreError> {
        let rows = sqlx::query(sql::OPEN_PROJECTS)
            .fetch_all(&mut *self.reader().await?)
            .await?;
        rows.iter().map(|row| Ok(ProjectId::from_uuid(row.try_get(0)?))).collect()
    }

    /// Finds the project a command means: `Err` holds why not.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn find(
        &self,
        reference: &Reference,
    ) -> Result<Result<ProjectId, &'static str>, StoreError> {
        let mut connection = self.reader().await?;
        let rows = match reference {
            Reference::Id(id) => {
                let found = row(&mut connection, *id).await?.is_some();
                return Ok(found.then_some(*id).ok_or("no project has this id"));
            }
            Reference::Last => {
                sqlx::query(sql::LATEST).fetch_all(&mut *connection).await?
            }
            Reference::Text(text) => {
                let ending: String = text
                    .strip_prefix(ProjectId::PREFIX)
                    .unwrap_or(text)
                    .chars()
                    .filter(|c| *c != '-')
                    .collect::<String>()
                    .to_lowercase();
                let is_ending =
                    ending.len() >= 4 && ending.bytes().all(|b| b.is_ascii_hexdigit());
                let mut rows = vec![];
                if is_ending {
                    let query = sqlx::query(sql::BY_ENDING).bind(ending);
                    rows = query.fetch_all(&mut *connection).await?;
                }
                if rows.is_empty() {
                    let query = sqlx::query(sql::BY_NAME).bind(text.clone());
                    rows = query.fetch_all(&mut *connection).await?;
                }
                rows
            }
        };
        match rows.as_slice() {
            [] => Ok(Err("no project has this id or name")),
            [one] => Ok(Ok(ProjectId::from_uuid(one.try_get(0)?))),
            _ => Ok(Err("several projects match; use more of the id")),
        }
    }

    /// Reads unread messages, of one project or of all, in order.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn mail(
        &self,
        project: Option<ProjectId>,
    ) -> Result<Vec<Mail>, StoreError> {
        mail(&mut *self.reader().await?, project).await
    }

    /// Reads a plan, as stored; `None` when there is none with this hash.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn plan(&self, hash: [u8; 32]) -> Result<Option<Arc<[u8]>>, StoreError> {
        let body: Option<Vec<u8>> = sqlx::query_scalar(sql::PLAN)
            .bind(hash.to_vec())
            .fetch_optional(&mut *self.reader().await?)
            .await?;
        Ok(body.map(Arc::from))
    }

    /// Reads the outputs of steps; `None` for those without one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn outputs(
        &self,
        project: ProjectId,
        steps: &[StepNo],
    ) -> Result<Vec<Option<Output>>, StoreError> {
        let outputs = self.outputs_within(project, steps, usize::MAX).await?;
        Ok(outputs.unwrap_or_default())
    }

    /// Reads the outputs of steps, or `None` when together they exceed `bytes`: a caller
    /// that could not use more does not hold more.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn outputs_within(
        &self,
        project: ProjectId,
        steps: &[StepNo],
        bytes: usize,
    ) -> Result<Option<Vec<Option<Output>>>, StoreError> {
        let mut connection = self.reader().await?;
        let mut found: HashMap<StepNo, Output> = HashMap::with_capacity(steps.len());
        let mut left = bytes;
        for chunk in steps.chunks(OUTPUTS_AT_ONCE) {
            let sizes: Vec<(StepNo, i64)> = sqlx::query_as(sql::OUTPUT_SIZES)
                .bind(project.uuid())
                .bind(list(chunk))
                .fetch_all(&mut *connection)
                .await?;
            for batch in batches(sizes) {
                let (steps, size) = batch;
                let Some(rest) = left.checked_sub(size) else { return Ok(None) };
                left = rest;
                let rows = sqlx::query(sql::OUTPUTS)
                    .bind(project.uuid())
                    .bind(list(&steps))
                    .fetch_all(&mut *connection)
                    .await?;
                for row in rows {
                    found.insert(row.try_get(0)?, Arc::from(raw(row.try_get(1)?)?));
                }
            }
        }
        Ok(Some(steps.iter().map(|no| found.get(no).cloned()).collect()))
    }

    /// Reads the events after a number, in order, from at most `rows` packed rows.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn events(
        &self,
        project: ProjectId,
        after: i64,
        rows: u32,
    ) -> Result<Vec<(i64, Record)>, StoreError> {
        let rows = sqlx::query(sql::EVENTS)
            .bind(project.uuid())
            .bind(after)
            .bind(rows)
            .fetch_all(&mut *self.reader().await?)
            .await?;
        let mut events = vec![];
        for row in rows {
            let body: Vec<u8> = row.try_get(1)?;
            events.extend(decode_events(row.try_get(0)?, &body).map_err(damaged)?);
        }
        events.retain(|(number, _)| *number > after);
        Ok(events)
    }

    /// Reads the numbers of the first events of all commits of a project.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn commits(&self, project: ProjectId) -> Result<Vec<i64>, StoreError> {
        Ok(sqlx::query_scalar(sql::COMMITS)
            .bind(project.uuid())
            .fetch_all(&mut *self.reader().await?)
            .await?)
    }

    /// Reads the attempts that another one followed.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn attempts(
        &self,
        project: ProjectId,
    ) -> Result<Vec<PastAttempt>, StoreError> {
        sqlx::query(sql::ATTEMPTS)
            .bind(project.uuid())
            .fetch_all(&mut *self.reader().await?)
            .await?
            .iter()
            .map(|row| {
                let state: String = row.try_get(3)?;
                let output: Option<Vec<u8>> = row.try_get(7)?;
                Ok(PastAttempt {
                    no: row.try_get(0)?,
                    generation: row.try_get(1)?,
                    attempt: row.try_get(2)?,
                    state: StepState::parse(&state).ok_or_else(|| damaged(&state))?,
                    started_at: time(row.try_get(4)?),
                    finished_at: Timestamp::from_micros(row.try_get(5)?),
                    error: error(row.try_get(6)?)?,
                    output: output.map(raw).transpose()?.map(Arc::from),
                })
            })
            .collect()
    }

    /// Reads the log of a step, or of all steps of a project.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn logs(
        &self,
        project: ProjectId,
        no: Option<StepNo>,
    ) -> Result<Vec<LogLine>, StoreError> {
        sqlx::query(sql::LOGS)
            .bind(project.uuid())
            .bind(no)
            .fetch_all(&mut *self.reader().await?)
            .await?
            .iter()
            .map(|row| {
                Ok(LogLine {
                    project,
                    no: row.try_get(0)?,
                    generation: row.try_get(1)?,
                    attempt: row.try_get(2)?,
                    at: Timestamp::from_micros(row.try_get(3)?),
                    line: row.try_get(4)?,
                })
            })
            .collect()
    }

    /// Two numbers, of which one changes when somebody has submitted a project or sent a
    /// message: in another process, or in this one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn data_version(&self) -> Result<(i64, u64), StoreError> {
        let here = self.0.written.load(Ordering::SeqCst);
        // The number counts for one connection only, and one of its own: asking the
        // writer's would wait for the commit in flight.
        let mut watcher = self.0.watcher.lock().await;
        let connection = match watcher.as_mut() {
            Some(connection) => connection,
            None => watcher.insert(
                SqliteConnection::connect_with(&self.0.options.clone().read_only(true))
                    .await?,
            ),
        };
        let version =
            sqlx::query_scalar("pragma data_version").fetch_one(connection).await;
        if version.is_err() {
            *watcher = None;
        }
        Ok((version?, here))
    }
}

/// A list of numbers as JSON.
fn list(steps: &[StepNo]) -> String {
    serde_json::to_string(steps).unwrap_or_default()
}

/// Cuts steps into batches that hold little at once, whatever a single output weighs.
fn batches(sizes: Vec<(StepNo, i64)>) -> Vec<(Vec<StepNo>, usize)> {
    let mut batches: Vec<(Vec<StepNo>, usize)> = vec![];
    for (no, size) in sizes {
        let size = usize::try_from(size).unwrap_or(0);
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

pub(super) async fn project(
    tx: &mut SqliteConnection,
    id: ProjectId,
) -> Result<Option<StoredProject>, StoreError> {
    let Some(row) = row(&mut *tx, id).await? else { return Ok(None) };
    let data = sqlx::query(sql::DATA).bind(id.uuid()).fetch_one(&mut *tx).await?;
    let facts = sqlx::query(sql::STEPS)
        .bind(id.uuid())
        .fetch_all(&mut *tx)
        .await?
        .iter()
        .map(fact)
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
    }))
}

async fn row(
    connection: &mut SqliteConnection,
    id: ProjectId,
) -> Result<Option<ProjectRow>, StoreError> {
    sqlx::query(sql::PROJECT_COLUMNS)
        .bind(id.uuid())
        .fetch_optional(connection)
        .await?
        .as_ref()
        .map(project_row)
        .transpose()
}

pub(super) async fn mail(
    connection: &mut SqliteConnection,
    project: Option<ProjectId>,
) -> Result<Vec<Mail>, StoreError> {
    sqlx::query(sql::MAIL)
        .bind(project.map(ProjectId::uuid))
        .fetch_all(connection)
        .await?
        .iter()
        .map(|row| {
            let kind: String = row.try_get(2)?;
            Ok(Mail {
                id: row.try_get(0)?,
                project: ProjectId::from_uuid(row.try_get(1)?),
                kind: MailKind::ALL
                    .into_iter()
                    .find(|known| known.as_str() == kind)
                    .ok_or_else(|| damaged(&kind))?,
            })
        })
        .collect()
}

fn project_row(row: &SqliteRow) -> Result<ProjectRow, StoreError> {
    let state: String = row.try_get(2)?;
    let plan: Vec<u8> = row.try_get(4)?;
    let counts: String = row.try_get(12)?;
    let counts: BTreeMap<String, u32> =
        serde_json::from_str(&counts).map_err(damaged)?;
    Ok(ProjectRow {
        id: ProjectId::from_uuid(row.try_get(0)?),
        name: row.try_get(1)?,
        state: ProjectState::parse(&state).ok_or_else(|| damaged(&state))?,
        reason: row.try_get(3)?,
        plan_hash: plan.try_into().map_err(|_| damaged("the hash of a plan"))?,
        priority: row.try_get(5)?,
        session: row.try_get::<Option<Uuid>, _>(6)?,
        epoch: row.try_get(7)?,
        loads: row.try_get(8)?,
        last_event: row.try_get(9)?,
        mail: row.try_get(10)?,
        next_no: row.try_get(11)?,
        counts,
        created_at: Timestamp::from_micros(row.try_get(13)?),
        began_at: time(row.try_get(14)?),
        cancelled_at: time(row.try_get(15)?),
        finished_at: time(row.try_get(16)?),
        charged: row.try_get(17)?,
    })
}

fn fact(row: &SqliteRow) -> Result<Fact, StoreError> {
    let state: String = row.try_get(5)?;
    let wait: Option<String> = row.try_get(9)?;
    let first: Option<u32> = row.try_get(11)?;
    let items: Option<u32> = row.try_get(12)?;
    Ok(Fact {
        no: row.try_get(0)?,
        generation: row.try_get(1)?,
        attempt: row.try_get(2)?,
        failures: row.try_get(3)?,
        crashes: row.try_get(4)?,
        state: StepState::parse(&state).ok_or_else(|| damaged(&state))?,
        at: Timestamp::from_micros(row.try_get(6)?),
        began_at: time(row.try_get(7)?),
        started_at: time(row.try_get(8)?),
        wait: wait.as_deref().and_then(WaitReason::parse),
        until: time(row.try_get(10)?),
        expansion: first.zip(items).map(|(first, items)| Expansion { first, items }),
        output: None,
        error: error(row.try_get(13)?)?,
    })
}

fn time(micros: Option<i64>) -> Option<Timestamp> {
    micros.map(Timestamp::from_micros)
}

fn error(text: Option<String>) -> Result<Option<StepError>, StoreError> {
    text.map(|text| serde_json::from_str(&text).map_err(damaged)).transpose()
}

fn raw(body: Vec<u8>) -> Result<Box<RawValue>, StoreError> {
    let text = String::from_utf8(body).map_err(damaged)?;
    RawValue::from_string(text).map_err(damaged)
}

fn damaged(what: impl std::fmt::Display) -> StoreError {
    StoreError::new(
        StoreErrorKind::Corrupt,
        format!("a stored value is damaged: {what}"),
    )
}
