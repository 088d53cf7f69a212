//! `commit`: the parts of many projects in one transaction, set-based.
//!
//! Shape: for each project its guard; then one statement per table over all rows of all
//! parts. A project whose guard matches no row contributes nothing and harms nobody.

use std::sync::Arc;

use serde_json::value::RawValue;
use sqlx::{SqliteConnection, sqlite::SqliteArguments};

use super::{
    SqliteStore,
    bulk::{self, Bulk},
};
use crate::{
    ProjectId, Timestamp,
    run::{Fact, PastAttempt},
    store::{
        Committed, INLINE_OUTPUT, LogLine, Part, Statements, StoreError,
        codec::encode_events,
    },
};

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, SqliteArguments>;

impl SqliteStore {
    /// Every text that only this database has, but for lists of rows.
    pub(super) const TEXTS: &'static [&'static str] =
        &[bulk::GUARD, bulk::PUT_BLOB, bulk::PUT_EXPANSION, bulk::PUT_OUTPUT];

    pub(in crate::store) async fn commit(
        &self,
        parts: Arc<Vec<Part>>,
        logs: Vec<LogLine>,
    ) -> Result<Committed, StoreError> {
        let sql = self.sql();
        self.write("commit", move |tx| Box::pin(commit(tx, sql, parts, logs))).await
    }
}

async fn commit(
    tx: &mut SqliteConnection,
    sql: &'static Statements,
    parts: Arc<Vec<Part>>,
    logs: Vec<LogLine>,
) -> Result<Committed, StoreError> {
    let mut committed = Committed::default();
    let mut held = Vec::with_capacity(parts.len());
    for part in parts.iter() {
        match guard(tx, part).await? {
            Some(mail) => {
                committed.mail.push((part.project, mail));
                held.push(part);
            }
            None => committed.lost.push(part.project),
        }
    }
    let events: Vec<&Part> =
        held.iter().copied().filter(|part| !part.records.is_empty()).collect();
    put(tx, &bulk::PUT_EVENTS, &events, |query, part| {
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
    put(tx, &bulk::PUT_STEPS, &facts, |query, (project, fact)| {
        bind_fact(query, *project, fact)
    })
    .await?;
    for (project, fact) in &facts {
        if let Some(output) = fact.output.as_ref().filter(|output| is_large(output)) {
            sqlx::query(bulk::PUT_BLOB)
                .bind(project.uuid())
                .bind(fact.no)
                .bind(fact.generation)
                .bind(bytes(output))
                .execute(&mut *tx)
                .await?;
        }
    }
    for (project, fact) in &facts {
        if let Some(body) = &fact.body {
            sqlx::query(bulk::PUT_EXPANSION)
                .bind(project.uuid())
                .bind(fact.no)
                .bind(body.bytes().to_vec())
                .execute(&mut *tx)
                .await?;
        }
    }
    let attempts: Vec<(ProjectId, &PastAttempt)> = held
        .iter()
        .flat_map(|part| part.attempts.iter().map(|attempt| (part.project, attempt)))
        .collect();
    put(tx, &bulk::PUT_ATTEMPTS, &attempts, |query, (project, attempt)| {
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
        if let Some(output) = &part.output {
            sqlx::query(bulk::PUT_OUTPUT)
                .bind(part.project.uuid())
                .bind(bytes(output))
                .execute(&mut *tx)
                .await?;
        }
        super::spill::spill(tx, sql, part, &mut committed).await?;
    }
    let logs = super::spill::number_logs(tx, sql, logs).await?;
    put(tx, &bulk::PUT_LOGS, &logs, |query, (seq, line)| {
        query
            .bind(line.project.uuid())
            .bind(line.no)
            .bind(*seq)
            .bind(line.generation)
            .bind(line.attempt)
            .bind(line.at.as_micros())
            .bind(line.line.clone())
    })
    .await?;
    Ok(committed)
}

async fn guard(
    tx: &mut SqliteConnection,
    part: &Part,
) -> Result<Option<i64>, StoreError> {
    let header = &part.header;
    let mail = sqlx::query_scalar(bulk::GUARD)
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
        .bind(part.letters())
        .bind(part.writes)
        .fetch_optional(tx)
        .await?;
    Ok(mail)
}

/// Runs a bulk statement over rows, in the largest pieces that fit.
async fn put<'a, T>(
    tx: &mut SqliteConnection,
    statement: &'static Bulk,
    rows: &'a [T],
    bind: impl Fn(Query<'static>, &'a T) -> Query<'static>,
) -> Result<(), StoreError> {
    let mut rows = rows;
    for size in bulk::cuts(rows.len()) {
        let (now, later) = rows.split_at(bulk::SIZES[size]);
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
