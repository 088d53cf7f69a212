//! `commit` on PostgreSQL: one statement, committed by itself.
//!
//! `begin`, three statements and `commit` cost 2.7 to 3.3 times a bare commit, one
//! statement 1.3 times; it is also out of reach of a `commit` that silently rolls back. Only
//! what is rare (messages, claims, logs) brings a transaction around it.

use std::sync::Arc;

use serde_json::value::RawValue;
use sqlx::{Connection as _, PgConnection, Row as _};
use uuid::Uuid;

use super::{DEADLINE, PostgresStore, late, owned, rows::project_id, spill};
use crate::{
    ProjectId, Timestamp,
    run::{Fact, PastAttempt},
    store::{
        Committed, INLINE_OUTPUT, LogLine, Part, Statements, StoreError,
        codec::encode_events,
    },
};

const PUT_LOGS: &str = "
insert into logs (project, no, seq, generation, attempt, at, line)
select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[],
    $6::bigint[], $7::text[])
on conflict do nothing";

impl PostgresStore {
    /// Every text that only this database has.
    pub(super) const TEXTS: &'static [&'static str] = &[PUT_LOGS];

    pub(in crate::store) async fn commit(
        &self,
        parts: Arc<Vec<Part>>,
        logs: Vec<LogLine>,
    ) -> Result<Committed, StoreError> {
        let store = self.clone();
        owned(async move {
            let mut committer = store.0.committer.lock().await;
            store.0.crashes.point("commit", false)?;
            // Taken out: whatever goes wrong, the connection goes with it.
            let mut connection = match committer.take() {
                Some(connection) => connection,
                None => store.connect().await?,
            };
            let sql = store.sql();
            let work = commit(&mut connection, sql, &parts, logs);
            let committed = tokio::time::timeout(DEADLINE, work)
                .await
                .map_err(|_| late("the server did not answer in time"))??;
            *committer = Some(connection);
            store.0.crashes.point("commit", true)?;
            Ok(committed)
        })
        .await
    }
}

async fn commit(
    connection: &mut PgConnection,
    sql: &'static Statements,
    parts: &[Part],
    logs: Vec<LogLine>,
) -> Result<Committed, StoreError> {
    if logs.is_empty()
        && parts.iter().all(|part| part.mail.is_empty() && !part.spills())
    {
        return write(connection, sql, parts).await;
    }
    let mut tx = connection.begin().await?;
    let mut committed = write(&mut tx, sql, parts).await?;
    for part in parts {
        if !committed.lost.contains(&part.project) {
            spill::spill(&mut tx, sql, part, &mut committed).await?;
        }
    }
    put_logs(&mut tx, sql, logs).await?;
    tx.commit().await?;
    Ok(committed)
}

async fn write(
    connection: &mut PgConnection,
    sql: &'static Statements,
    parts: &[Part],
) -> Result<Committed, StoreError> {
    let Some(session) = parts.first().map(|part| part.session.uuid()) else {
        return Ok(Committed::default());
    };
    if let [part] = parts
        && let Some(fact) = part.lone_fact()
    {
        return write_lone(connection, sql, part, fact).await;
    }
    let of = |part: &Part| part.project.uuid();
    let fresh: Vec<(Uuid, &Fact)> = parts
        .iter()
        .flat_map(|part| part.fresh_and_known().0.iter().map(|fact| (of(part), fact)))
        .collect();
    let known: Vec<(Uuid, &Fact)> = parts
        .iter()
        .flat_map(|part| part.fresh_and_known().1.iter().map(|fact| (of(part), fact)))
        .collect();
    let large: Vec<(Uuid, &Fact, &RawValue)> = fresh
        .iter()
        .chain(&known)
        .filter_map(|(project, fact)| {
            let output = fact.output.as_deref().filter(|output| is_large(output))?;
            Some((*project, *fact, output))
        })
        .collect();
    let attempts: Vec<(Uuid, &PastAttempt)> = parts
        .iter()
        .flat_map(|part| part.attempts.iter().map(|attempt| (of(part), attempt)))
        .collect();
    let outputs: Vec<(Uuid, &RawValue)> = parts
        .iter()
        .filter_map(|part| Some((of(part), part.output.as_deref()?)))
        .collect();
    let grown: Vec<(Uuid, &Fact, &[u8])> = fresh
        .iter()
        .chain(&known)
        .filter_map(|(project, fact)| {
            Some((*project, *fact, &**fact.body.as_ref()?.bytes()))
        })
        .collect();
    let plain =
        known.is_empty() && large.is_empty() && attempts.is_empty() && grown.is_empty();
    let events: Vec<&Part> =
        parts.iter().filter(|part| !part.records.is_empty()).collect();

    macro_rules! column {
        ($rows:expr, $row:pat => $value:expr) => {
            $rows.iter().map(|$row| $value).collect::<Vec<_>>()
        };
    }
    macro_rules! bind_steps {
        ($query:expr, $rows:expr) => {
            $query
                .bind(column!($rows, (project, _) => *project))
                .bind(column!($rows, (_, fact) => i64::from(fact.no)))
                .bind(column!($rows, (_, fact) => i64::from(fact.generation)))
                .bind(column!($rows, (_, fact) => i64::from(fact.attempt)))
                .bind(column!($rows, (_, fact) => i64::from(fact.failures)))
                .bind(column!($rows, (_, fact) => i64::from(fact.crashes)))
                .bind(column!($rows, (_, fact) => fact.state.as_str()))
                .bind(column!($rows, (_, fact) => fact.at.as_micros()))
                .bind(column!($rows, (_, fact) => micros(fact.began_at)))
                .bind(column!($rows, (_, fact) => micros(fact.started_at)))
                .bind(column!($rows, (_, fact) => fact.wait.map(|wait| wait.as_str())))
                .bind(column!($rows, (_, fact) => micros(fact.until)))
                .bind(column!($rows, (_, fact) => fact.expansion.map(|it| i64::from(it.first))))
                .bind(column!($rows, (_, fact) => fact.expansion.map(|it| i64::from(it.items))))
                .bind(column!($rows, (_, fact) => inline(fact)))
                .bind(column!($rows, (_, fact) => large_size(fact)))
                .bind(column!($rows, (_, fact) => fact.error.as_ref().map(json)))
        };
    }
    let [_, _, first_rows, everything] = sql.commit.unwrap_or_default();
    let query = sqlx::query(if plain { first_rows } else { everything })
        .bind(column!(parts, part => part.project.uuid()))
        .bind(column!(parts, part => part.epoch))
        .bind(column!(parts, part => part.from))
        .bind(column!(parts, part => part.upto()))
        .bind(column!(parts, part => part.header.state.as_str()))
        .bind(column!(parts, part => part.header.reason.as_deref().map(text)))
        .bind(column!(parts, part => i64::from(part.header.next_no)))
        .bind(column!(parts, part => json(&part.header.counts)))
        .bind(column!(parts, part => micros(part.header.began_at)))
        .bind(column!(parts, part => micros(part.header.cancelled_at)))
        .bind(column!(parts, part => micros(part.header.finished_at)))
        .bind(column!(parts, part => part.letters()))
        .bind(column!(parts, part => part.writes))
        .bind(session)
        .bind(column!(events, part => part.project.uuid()))
        .bind(column!(events, part => part.from + 1))
        .bind(column!(events, part => part.upto()))
        .bind(column!(events, part => encode_events(&part.records)));
    let query = bind_steps!(query, fresh)
        .bind(column!(outputs, (project, _) => *project))
        .bind(column!(outputs, (_, output) => bytes(output)));
    let query = match plain {
        true => query,
        false => bind_steps!(query, known)
            .bind(column!(attempts, (project, _) => *project))
            .bind(column!(attempts, (_, attempt) => i64::from(attempt.no)))
            .bind(column!(attempts, (_, attempt) => i64::from(attempt.generation)))
            .bind(column!(attempts, (_, attempt) => i64::from(attempt.attempt)))
            .bind(column!(attempts, (_, attempt) => attempt.state.as_str()))
            .bind(column!(attempts, (_, attempt) => micros(attempt.started_at)))
            .bind(column!(attempts, (_, attempt) => attempt.finished_at.as_micros()))
            .bind(column!(attempts, (_, attempt) => attempt.error.as_ref().map(json)))
            .bind(
                column!(attempts, (_, attempt) => attempt.output.as_deref().map(bytes)),
            )
            .bind(column!(large, (project, _, _) => *project))
            .bind(column!(large, (_, fact, _) => i64::from(fact.no)))
            .bind(column!(large, (_, fact, _) => i64::from(fact.generation)))
            .bind(column!(large, (_, _, output) => bytes(output)))
            .bind(column!(grown, (project, _, _) => *project))
            .bind(column!(grown, (_, fact, _) => i64::from(fact.no)))
            .bind(column!(grown, (_, _, body) => *body)),
    };
    let mut mail = Vec::with_capacity(parts.len());
    for row in query.fetch_all(connection).await? {
        mail.push((project_id(&row, 0)?, row.try_get(1)?));
    }
    let held: std::collections::HashSet<ProjectId> =
        mail.iter().map(|(project, _)| *project).collect();
    let lost = parts.iter().map(|part| part.project).filter(|id| !held.contains(id));
    Ok(Committed { lost: lost.collect(), mail, withdrawn: vec![] })
}

/// The commit of one project that holds the first row of one step.
async fn write_lone(
    connection: &mut PgConnection,
    sql: &'static Statements,
    part: &Part,
    fact: &Fact,
) -> Result<Committed, StoreError> {
    let [lone, last, ..] = sql.commit.unwrap_or_default();
    let header = &part.header;
    let output = part.output.as_deref().map(bytes);
    let query = sqlx::query(if output.is_some() { last } else { lone })
        .bind(part.project.uuid())
        .bind(part.epoch)
        .bind(part.from)
        .bind(part.upto())
        .bind(header.state.as_str())
        .bind(header.reason.as_deref().map(text))
        .bind(i64::from(header.next_no))
        .bind(json(&header.counts))
        .bind(micros(header.began_at))
        .bind(micros(header.cancelled_at))
        .bind(micros(header.finished_at))
        .bind(part.letters())
        .bind(part.writes)
        .bind(part.session.uuid())
        .bind(part.from + 1)
        .bind(part.upto())
        .bind(encode_events(&part.records))
        .bind(i64::from(fact.no))
        .bind(i64::from(fact.generation))
        .bind(i64::from(fact.attempt))
        .bind(i64::from(fact.failures))
        .bind(i64::from(fact.crashes))
        .bind(fact.state.as_str())
        .bind(fact.at.as_micros())
        .bind(micros(fact.began_at))
        .bind(micros(fact.started_at))
        .bind(fact.wait.map(|wait| wait.as_str()))
        .bind(micros(fact.until))
        .bind(fact.expansion.map(|it| i64::from(it.first)))
        .bind(fact.expansion.map(|it| i64::from(it.items)))
        .bind(inline(fact))
        .bind(large_size(fact))
        .bind(fact.error.as_ref().map(json));
    let query = match output {
        Some(output) => query.bind(output),
        None => query,
    };
    let held = query.fetch_optional(connection).await?;
    let mut committed = Committed::default();
    match held {
        Some(row) => committed.mail.push((part.project, row.try_get(1)?)),
        None => committed.lost.push(part.project),
    }
    Ok(committed)
}

async fn put_logs(
    tx: &mut PgConnection,
    sql: &'static Statements,
    logs: Vec<LogLine>,
) -> Result<(), StoreError> {
    if logs.is_empty() {
        return Ok(());
    }
    let logs = spill::number_logs(tx, sql, logs).await?;
    let column =
        |of: fn(&(i64, LogLine)) -> i64| logs.iter().map(of).collect::<Vec<_>>();
    sqlx::query(PUT_LOGS)
        .bind(logs.iter().map(|(_, line)| line.project.uuid()).collect::<Vec<_>>())
        .bind(column(|(_, line)| i64::from(line.no)))
        .bind(column(|(seq, _)| *seq))
        .bind(column(|(_, line)| i64::from(line.generation)))
        .bind(column(|(_, line)| i64::from(line.attempt)))
        .bind(column(|(_, line)| line.at.as_micros()))
        .bind(logs.iter().map(|(_, line)| line.line.as_str()).collect::<Vec<_>>())
        .execute(tx)
        .await?;
    Ok(())
}

fn is_large(output: &RawValue) -> bool {
    output.get().len() > INLINE_OUTPUT
}

fn bytes(output: &RawValue) -> &[u8] {
    output.get().as_bytes()
}

/// An output that stands in the row of its step.
fn inline(fact: &Fact) -> Option<&[u8]> {
    fact.output.as_deref().filter(|it| !is_large(it)).map(bytes)
}

/// The size of one that does not.
fn large_size(fact: &Fact) -> Option<i64> {
    let large = fact.output.as_deref().filter(|it| is_large(it));
    large.map(|it| i64::try_from(it.get().len()).unwrap_or(i64::MAX))
}

fn micros(time: Option<Timestamp>) -> Option<i64> {
    time.map(Timestamp::as_micros)
}

/// Text takes no NUL here.
fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn json<T: serde::Serialize>(value: &T) -> String {
    // Counts and errors are plain structures: their JSON form always exists, and writes a
    // NUL as an escape.
    serde_json::to_string(value).unwrap_or_default()
}
