//! `commit`: the parts of many projects in one transaction, set-based.
//!
//! Shape: for each project its guard; then one statement per table over all rows of all
//! parts. A project whose guard matches no row contributes nothing and harms nobody.

use std::{collections::HashSet, sync::Arc};

use serde_json::value::RawValue;
use sqlx::{Row as _, SqliteConnection};

use super::{
    SqliteStore,
    bulk::{self, Bulk, Piece, Query, fill, one},
    rows::project_id,
};
use crate::{
    ProjectId, Timestamp,
    run::{Fact, PastAttempt, StepState},
    store::{
        Committed, INLINE_OUTPUT, LogLine, Part, Statements, StoreError,
        codec::encode_events,
    },
};

impl SqliteStore {
    /// Every text that only this database has, but for lists of rows.
    pub(super) const TEXTS: &'static [&'static str] =
        &[bulk::PUT_BLOB, bulk::PUT_EXPANSION];

    pub(in crate::store) async fn commit(
        &self,
        parts: Arc<Vec<Part>>,
        logs: Vec<LogLine>,
    ) -> Result<Committed, StoreError> {
        let sql = self.sql();
        if logs.is_empty() && is_plain_one(&parts) {
            return self
                .call("commit", |connection| Box::pin(commit_one(connection, parts)))
                .await;
        }
        self.call("commit", move |it| Box::pin(commit(it, sql, parts, logs))).await
    }
}

/// A commit begins and ends its own transaction: its first and its last statements are
/// calls of the driver that there are anyway.
async fn commit(
    tx: &mut SqliteConnection,
    sql: &'static Statements,
    parts: Arc<Vec<Part>>,
    logs: Vec<LogLine>,
) -> Result<Committed, StoreError> {
    let mut committed =
        Committed { mail: guard(tx, &parts).await?, ..Default::default() };
    let mails: HashSet<ProjectId> = committed.mail.iter().map(|(id, _)| *id).collect();
    let (held, lost): (Vec<&Part>, Vec<&Part>) =
        parts.iter().partition(|part| mails.contains(&part.project));
    committed.lost = lost.iter().map(|part| part.project).collect();
    rare(tx, sql, &held, logs, &mut committed).await?;
    let events: Vec<&Part> =
        held.iter().copied().filter(|part| !part.records.is_empty()).collect();
    let plain: Vec<Row<'_>> = rows(&held, |part| part.fresh_and_known().0)
        .filter(|(_, fact)| is_plain_success(fact))
        .collect();
    // All that fits goes with the end of the transaction; texts for many events and many
    // steps at once would be more than can be kept.
    let few = if events.len() > MOST_TOGETHER { 0 } else { events.len() };
    let (first, last_events) = events.split_at(events.len() - few);
    put(tx, &bulk::PUT_EVENTS, first, |query, part| bind_events(query, part)).await?;
    let (first, last_plain) = plain.split_at(plain.len() - last(plain.len()));
    put(tx, &bulk::PUT_SUCCESSES, first, bind_success).await?;
    let mut pieces = vec![];
    if !last_events.is_empty() {
        pieces.push(Piece::Rows(&bulk::PUT_EVENTS, last_events.len()));
    }
    if !last_plain.is_empty() {
        pieces.push(Piece::Rows(&bulk::PUT_SUCCESSES, last_plain.len()));
    }
    pieces.push(bulk::COMMIT);
    let query = sqlx::query(bulk::text(&pieces));
    let query = last_events.iter().fold(query, |query, part| bind_events(query, part));
    let query = fill(query, &bulk::PUT_EVENTS, last_events.len());
    let query = last_plain.iter().fold(query, bind_success);
    let query = fill(query, &bulk::PUT_SUCCESSES, last_plain.len());
    query.execute(tx).await?;
    Ok(committed)
}

/// More events than this have a call of the driver to themselves.
const MOST_TOGETHER: usize = 8;

/// How many rows are left for the last statement.
fn last(rows: usize) -> usize {
    match rows % bulk::LARGEST {
        0 => rows.min(bulk::LARGEST),
        left => left,
    }
}

type Row<'a> = (ProjectId, &'a Fact);

fn rows<'a>(
    parts: &'a [&'a Part],
    of: fn(&Part) -> &[Fact],
) -> impl Iterator<Item = Row<'a>> {
    parts.iter().flat_map(move |part| of(part).iter().map(|fact| (part.project, fact)))
}

/// What most commits hold nothing of.
async fn rare(
    tx: &mut SqliteConnection,
    sql: &'static Statements,
    held: &[&Part],
    logs: Vec<LogLine>,
    committed: &mut Committed,
) -> Result<(), StoreError> {
    let fresh: Vec<Row<'_>> = rows(held, |part| part.fresh_and_known().0)
        .filter(|(_, fact)| !is_plain_success(fact))
        .collect();
    let known: Vec<Row<'_>> = rows(held, |part| part.fresh_and_known().1).collect();
    for (statement, rows) in
        [(&bulk::PUT_FRESH_STEPS, fresh), (&bulk::PUT_KNOWN_STEPS, known)]
    {
        put(tx, statement, &rows, |query, (project, fact)| {
            bind_fact(query, *project, fact)
        })
        .await?;
    }
    let facts: Vec<Row<'_>> = rows(held, |part| &part.facts).collect();
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
    let outputs: Vec<(ProjectId, &RawValue)> = held
        .iter()
        .filter_map(|part| Some((part.project, part.output.as_deref()?)))
        .collect();
    put(tx, &bulk::PUT_OUTPUTS, &outputs, |query, (project, output)| {
        query.bind(project.uuid()).bind(bytes(output))
    })
    .await?;
    for part in held {
        super::spill::spill(tx, sql, part, committed).await?;
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
    Ok(())
}

/// Whether there is one part, which holds nothing but rows of steps, events and an output.
fn is_plain_one(parts: &[Part]) -> bool {
    let [part] = parts else { return false };
    let (fresh, known) = part.fresh_and_known();
    let plain = fresh.iter().filter(|fact| is_plain_success(fact)).count();
    let large = |fact: &Fact| fact.output.as_deref().is_some_and(is_large);
    !part.records.is_empty()
        && part.attempts.is_empty()
        && part.mail.is_empty()
        && !part.spills()
        && plain <= bulk::LARGEST_SHARED
        && fresh.len() - plain + known.len() <= bulk::LARGEST_SHARED
        && part.facts.iter().all(|fact| fact.body.is_none() && !large(fact))
}

/// The commit of one project, in one call of the driver. It begins and ends its own
/// transaction.
async fn commit_one(
    connection: &mut SqliteConnection,
    parts: Arc<Vec<Part>>,
) -> Result<Committed, StoreError> {
    let mut committed = Committed::default();
    for part in parts.iter() {
        let ended = part.header.finished_at.is_some();
        let mut pieces = vec![bulk::BEGIN];
        pieces.push(if ended { one::GUARD_END } else { one::GUARD });
        if part.output.is_some() {
            pieces.push(one::PUT_OUTPUT);
        }
        pieces.push(one::PUT_EVENTS);
        let (fresh, known) = part.fresh_and_known();
        let (plain, others): (Vec<&Fact>, Vec<&Fact>) =
            fresh.iter().partition(|fact| is_plain_success(fact));
        let others: Vec<&Fact> = others.into_iter().chain(known).collect();
        if !plain.is_empty() {
            pieces.push(Piece::Rows(&one::PUT_SUCCESSES, plain.len()));
        }
        if !others.is_empty() {
            pieces.push(Piece::Rows(&one::PUT_STEPS, others.len()));
        }
        pieces.push(bulk::COMMIT);
        let query = bind_guard(sqlx::query(bulk::text(&pieces)), part);
        let query = match part.output.as_deref() {
            Some(output) => query.bind(bytes(output)).bind(part.project.uuid()),
            None => query,
        };
        let query = bind_events(query, part);
        let query = plain
            .iter()
            .fold(query, |query, fact| bind_success(query, &(part.project, fact)));
        let query = fill(query, &one::PUT_SUCCESSES, plain.len());
        let query = others
            .iter()
            .fold(query, |query, fact| bind_fact(query, part.project, fact));
        let query = fill(query, &one::PUT_STEPS, others.len());
        // All rows: the driver runs no further than it is asked for.
        match query.fetch_all(&mut *connection).await?.first() {
            Some(row) => committed.mail.push((part.project, row.try_get(0)?)),
            None => committed.lost.push(part.project),
        }
    }
    Ok(committed)
}

/// Begins the transaction; the unread messages of the projects that are held.
async fn guard(
    tx: &mut SqliteConnection,
    parts: &[Part],
) -> Result<Vec<(ProjectId, i64)>, StoreError> {
    let mut held = Vec::with_capacity(parts.len());
    let (ended, open): (Vec<&Part>, Vec<&Part>) =
        parts.iter().partition(|part| part.header.finished_at.is_some());
    let mut begin = true;
    for (guard, parts) in [(&bulk::GUARD, open), (&bulk::GUARD_END, ended)] {
        for parts in parts.chunks(guard.most()) {
            let rows = Piece::Rows(guard, parts.len());
            let text = match std::mem::replace(&mut begin, false) {
                true => bulk::text(&[bulk::BEGIN, rows]),
                false => bulk::text(&[rows]),
            };
            let query = parts.iter().copied().fold(sqlx::query(text), bind_guard);
            let query = fill(query, guard, parts.len());
            for row in query.fetch_all(&mut *tx).await? {
                held.push((project_id(&row, 0)?, row.try_get(1)?));
            }
        }
    }
    if begin {
        sqlx::query(bulk::text(&[bulk::BEGIN])).execute(&mut *tx).await?;
    }
    Ok(held)
}

fn bind_guard(query: Query<'static>, part: &Part) -> Query<'static> {
    let header = &part.header;
    query
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
}

fn bind_events(query: Query<'static>, part: &Part) -> Query<'static> {
    query
        .bind(part.project.uuid())
        .bind(part.from + 1)
        .bind(part.upto())
        .bind(encode_events(&part.records))
}

/// Runs a bulk statement over rows.
async fn put<'a, T>(
    tx: &mut SqliteConnection,
    statement: &'static Bulk,
    rows: &'a [T],
    bind: impl Fn(Query<'static>, &'a T) -> Query<'static>,
) -> Result<(), StoreError> {
    for rows in rows.chunks(statement.most()) {
        let text = bulk::text(&[Piece::Rows(statement, rows.len())]);
        let query = rows.iter().fold(sqlx::query(text), &bind);
        fill(query, statement, rows.len()).execute(&mut *tx).await?;
    }
    Ok(())
}

fn bind_success(query: Query<'static>, (project, fact): &Row<'_>) -> Query<'static> {
    query
        .bind(project.uuid())
        .bind(fact.no)
        .bind(fact.at.as_micros())
        .bind(fact.started_at.map(Timestamp::as_micros))
        .bind(fact.output.as_deref().map(bytes))
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

/// Whether nothing is to be said of a step but that its first attempt has succeeded.
fn is_plain_success(fact: &Fact) -> bool {
    fact.state == StepState::Succeeded
        && (fact.generation, fact.attempt) == (1, 1)
        && (fact.failures, fact.crashes) == (0, 0)
        && fact.began_at == fact.started_at
        && fact.wait.is_none()
        && fact.expansion.is_none()
        && fact.error.is_none()
        && fact.output.as_deref().is_none_or(|output| !is_large(output))
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
