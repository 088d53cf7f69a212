//! `commit`: the parts of many projects in one transaction, set-based.
//!
//! Shape: for each project its guard; then one statement per table over all rows of all
//! parts. A project whose guard matches no row contributes nothing and harms nobody.

use std::{collections::HashSet, sync::Arc};

use serde_json::value::RawValue;
use sqlx::{SqliteConnection, sqlite::SqliteArguments};

use super::{
    SqliteStore,
    sql::{self, Bulk},
};
use crate::{
    ProjectId, Timestamp,
    run::{Fact, PastAttempt},
    store::{INLINE_OUTPUT, LogLine, Part, StoreError, codec::encode_events},
};

/// The position in [`sql::SIZES`] of one row.
pub(super) const SINGLE: usize = sql::SIZES.len() - 1;

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, SqliteArguments>;

impl SqliteStore {
    /// Commits parts; returns the projects that were lost to another owner.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn commit(
        &self,
        parts: Arc<Vec<Part>>,
        logs: Vec<LogLine>,
    ) -> Result<Vec<ProjectId>, StoreError> {
        self.write("commit", move |tx| Box::pin(commit(tx, parts, logs))).await
    }
}

async fn commit(
    tx: &mut SqliteConnection,
    parts: Arc<Vec<Part>>,
    logs: Vec<LogLine>,
) -> Result<Vec<ProjectId>, StoreError> {
    let mut lost = HashSet::new();
    for part in parts.iter() {
        if !guard(tx, part).await? {
            lost.insert(part.project);
        }
    }
    let held: Vec<&Part> =
        parts.iter().filter(|part| !lost.contains(&part.project)).collect();
    let events: Vec<&Part> =
        held.iter().copied().filter(|part| !part.records.is_empty()).collect();
    bulk(tx, &sql::PUT_EVENTS, &events, |query, part| {
        query
            .bind(part.project.uuid())
            .bind(part.from + 1)
            .bind(part.upto())
            .bind(encode_events(&part.records))
    })
    .await?;
    let facts: Vec<(ProjectId, &Fact)> = held
        .iter()
        .flat_map(|part| part.facts.iter().map(|fact| (part.project, fact)))
        .collect();
    bulk(tx, &sql::PUT_STEPS, &facts, |query, (project, fact)| {
        bind_fact(query, *project, fact)
    })
    .await?;
    for (project, fact) in &facts {
        if let Some(output) = fact.output.as_ref().filter(|output| is_large(output)) {
            sqlx::query(sql::PUT_BLOB)
                .bind(project.uuid())
                .bind(fact.no)
                .bind(fact.generation)
                .bind(bytes(output))
                .execute(&mut *tx)
                .await?;
        }
    }
    let attempts: Vec<(ProjectId, &PastAttempt)> = held
        .iter()
        .flat_map(|part| part.attempts.iter().map(|attempt| (part.project, attempt)))
        .collect();
    bulk(tx, &sql::PUT_ATTEMPTS, &attempts, |query, (project, attempt)| {
        query
            .bind(project.uuid())
            .bind(attempt.no)
            .bind(attempt.generation)
            .bind(attempt.attempt)
            .bind(attempt.state.as_str())
            .bind(attempt.started_at.map(Timestamp::as_micros))
            .bind(attempt.finished_at.as_micros())
            .bind(attempt.error.as_ref().map(json))
            .bind(attempt.output.as_deref().map(bytes))
    })
    .await?;
    for part in held {
        for id in &part.mail {
            sqlx::query(sql::CONSUME_MAIL)
                .bind(id)
                .bind(part.project.uuid())
                .execute(&mut *tx)
                .await?;
        }
        if let Some(output) = &part.output {
            sqlx::query(sql::PUT_OUTPUT)
                .bind(part.project.uuid())
                .bind(bytes(output))
                .execute(&mut *tx)
                .await?;
        }
    }
    write_logs(tx, logs).await?;
    Ok(lost.into_iter().collect())
}

async fn guard(tx: &mut SqliteConnection, part: &Part) -> Result<bool, StoreError> {
    let header = &part.header;
    let done = sqlx::query(sql::GUARD)
        .bind(part.project.uuid())
        .bind(part.session.uuid())
        .bind(part.epoch)
        .bind(part.from)
        .bind(part.upto())
        .bind(header.state.as_str())
        .bind(header.reason.clone())
        .bind(header.next_no)
        .bind(json(&header.counts))
        .bind(header.began_at.map(Timestamp::as_micros))
        .bind(header.cancelled_at.map(Timestamp::as_micros))
        .bind(header.finished_at.map(Timestamp::as_micros))
        .bind(i64::try_from(part.mail.len()).unwrap_or(i64::MAX))
        .execute(tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Runs a bulk statement over rows, in the largest pieces that fit.
async fn bulk<'a, T>(
    tx: &mut SqliteConnection,
    statement: &'static Bulk,
    rows: &'a [T],
    bind: impl Fn(Query<'static>, &'a T) -> Query<'static>,
) -> Result<(), StoreError> {
    let mut rows = rows;
    for size in sql::cuts(rows.len()) {
        let (now, later) = rows.split_at(sql::SIZES[size]);
        rows = later;
        let query = now.iter().fold(sqlx::query(statement.text(size)), &bind);
        query.execute(&mut *tx).await?;
    }
    Ok(())
}

fn bind_fact(query: Query<'static>, project: ProjectId, fact: &Fact) -> Query<'static> {
    let inline = fact.output.as_ref().filter(|output| !is_large(output));
    let large = fact.output.as_ref().filter(|output| is_large(output));
    query
        .bind(project.uuid())
        .bind(fact.no)
        .bind(fact.generation)
        .bind(fact.attempt)
        .bind(fact.failures)
        .bind(fact.crashes)
        .bind(fact.state.as_str())
        .bind(fact.at.as_micros())
        .bind(fact.began_at.map(Timestamp::as_micros))
        .bind(fact.started_at.map(Timestamp::as_micros))
        .bind(fact.wait.map(|wait| wait.as_str()))
        .bind(fact.until.map(Timestamp::as_micros))
        .bind(fact.expansion.map(|expansion| expansion.first))
        .bind(fact.expansion.map(|expansion| expansion.items))
        .bind(inline.map(|output| bytes(output)))
        .bind(large.map(|output| i64::try_from(output.get().len()).unwrap_or(i64::MAX)))
        .bind(fact.error.as_ref().map(json))
}

async fn write_logs(
    tx: &mut SqliteConnection,
    logs: Vec<LogLine>,
) -> Result<(), StoreError> {
    let mut numbered = Vec::with_capacity(logs.len());
    let mut last = std::collections::HashMap::new();
    for line in logs {
        let key = (line.project, line.no);
        let previous: i64 = match last.get(&key) {
            Some(seq) => *seq,
            None => {
                sqlx::query_scalar(sql::LAST_LOG)
                    .bind(line.project.uuid())
                    .bind(line.no)
                    .fetch_one(&mut *tx)
                    .await?
            }
        };
        let seq = previous + 1;
        last.insert(key, seq);
        numbered.push((seq, line));
    }
    bulk(tx, &sql::PUT_LOGS, &numbered, |query, (seq, line)| {
        query
            .bind(line.project.uuid())
            .bind(line.no)
            .bind(*seq)
            .bind(line.generation)
            .bind(line.attempt)
            .bind(line.at.as_micros())
            .bind(line.line.clone())
    })
    .await
}

fn is_large(output: &RawValue) -> bool {
    output.get().len() > INLINE_OUTPUT
}

fn bytes(output: &RawValue) -> Vec<u8> {
    output.get().as_bytes().to_vec()
}

fn json<T: serde::Serialize>(value: &T) -> String {
    // Counts and errors are plain structures: their JSON form always exists.
    serde_json::to_string(value).unwrap_or_default()
}

impl Part {
    /// The number of the latest event after this part.
    pub fn upto(&self) -> i64 {
        self.from + i64::try_from(self.records.len()).unwrap_or(i64::MAX)
    }
}
