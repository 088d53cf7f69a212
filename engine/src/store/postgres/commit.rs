//! `commit` on PostgreSQL: one statement, committed by itself.
//!
//! `begin`, three statements and `commit` cost 2.7 to 3.3 times a bare commit, one
//! statement 1.3 times; it is also out of reach of a `commit` that silently rolls back. Only
//! what is rare (messages, claims, logs) brings a transaction around it.

use std::{collections::HashSet, sync::Arc};

use serde_json::value::RawValue;
use sqlx::{
    Connection as _, PgConnection, Postgres, Row as _, postgres::PgArguments,
    query::Query,
};
use uuid::Uuid;

use super::{DEADLINE, PostgresStore, owned, rows::project_id, spill};
use crate::{
    ProjectId, Timestamp,
    run::{Fact, PastAttempt},
    store::{
        Committed, INLINE_OUTPUT, LogLine, Part, Statements, StoreError,
        codec::encode_events, statements::Commit,
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
            store.0.crashes.point("commit", false)?;
            let sql = store.sql();
            let committed = store
                .0
                .committer
                .within(DEADLINE, move |connection| {
                    Box::pin(async move { commit(connection, sql, &parts, logs).await })
                })
                .await?;
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

type Bound = Query<'static, Postgres, PgArguments>;

/// The values of a column.
macro_rules! column {
    ($rows:expr, $row:pat => $value:expr) => {
        $rows.iter().map(|$row| $value).collect::<Vec<_>>()
    };
}

async fn write(
    connection: &mut PgConnection,
    sql: &'static Statements,
    parts: &[Part],
) -> Result<Committed, StoreError> {
    let Some(session) = parts.first().map(|part| part.session.uuid()) else {
        return Ok(Committed::default());
    };
    let texts = sql.commit.unwrap_or(Commit::POSTGRES);
    if let [part] = parts
        && part.has_only_firsts()
    {
        return write_one(connection, texts, part).await;
    }
    let fresh = facts_of(parts, |part| part.fresh_and_known().0);
    let known = facts_of(parts, |part| part.fresh_and_known().1);
    let simple = known.is_empty()
        && parts.iter().all(|part| part.attempts.is_empty() && part.is_small());
    let query = sqlx::query(if simple { texts.many } else { texts.full })
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
        .bind(column!(parts, part => events(part)))
        .bind(column!(parts, part => part.output.as_deref().map(bytes)));
    let query = bind_facts_of(query, &fresh);
    let query = match simple {
        true => query,
        false => bind_rest(bind_facts_of(query, &known), parts, &fresh, &known),
    };
    let mut mail = Vec::with_capacity(parts.len());
    for row in query.fetch_all(connection).await? {
        mail.push((project_id(&row, 0)?, row.try_get(1)?));
    }
    let held: HashSet<ProjectId> = mail.iter().map(|(project, _)| *project).collect();
    let lost = parts.iter().map(|part| part.project).filter(|id| !held.contains(id));
    Ok(Committed { lost: lost.collect(), mail, withdrawn: vec![] })
}

/// Facts with the projects that they belong to.
fn facts_of(parts: &[Part], of: fn(&Part) -> &[Fact]) -> Vec<(Uuid, &Fact)> {
    let rows = parts
        .iter()
        .flat_map(|part| of(part).iter().map(|fact| (part.project.uuid(), fact)));
    rows.collect()
}

fn bind_facts_of(query: Bound, rows: &[(Uuid, &Fact)]) -> Bound {
    let query = query.bind(column!(rows, (project, _) => *project));
    bind_facts(query, &column!(rows, (_, fact) => *fact))
}

/// The columns of rows of steps, but for their project.
fn bind_facts(query: Bound, facts: &[&Fact]) -> Bound {
    query
        .bind(column!(facts, fact => i64::from(fact.no)))
        .bind(column!(facts, fact => i64::from(fact.generation)))
        .bind(column!(facts, fact => i64::from(fact.attempt)))
        .bind(column!(facts, fact => i64::from(fact.failures)))
        .bind(column!(facts, fact => i64::from(fact.crashes)))
        .bind(column!(facts, fact => fact.state.as_str()))
        .bind(column!(facts, fact => fact.at.as_micros()))
        .bind(column!(facts, fact => micros(fact.began_at)))
        .bind(column!(facts, fact => micros(fact.started_at)))
        .bind(column!(facts, fact => fact.wait.map(|wait| wait.as_str())))
        .bind(column!(facts, fact => micros(fact.until)))
        .bind(column!(facts, fact => fact.expansion.map(|it| i64::from(it.first))))
        .bind(column!(facts, fact => fact.expansion.map(|it| i64::from(it.items))))
        .bind(column!(facts, fact => inline(fact)))
        .bind(column!(facts, fact => large_size(fact)))
        .bind(column!(facts, fact => fact.error.as_ref().map(json)))
}

/// The same for one row, as scalars.
fn bind_fact(query: Bound, fact: &Fact) -> Bound {
    query
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
        .bind(fact.error.as_ref().map(json))
}

/// Kept attempts, large outputs and bodies of expansions.
fn bind_rest(
    query: Bound,
    parts: &[Part],
    fresh: &[(Uuid, &Fact)],
    known: &[(Uuid, &Fact)],
) -> Bound {
    let attempts: Vec<(Uuid, &PastAttempt)> = parts
        .iter()
        .flat_map(|part| {
            part.attempts.iter().map(|attempt| (part.project.uuid(), attempt))
        })
        .collect();
    let facts = || fresh.iter().chain(known);
    let large: Vec<(Uuid, &Fact, &[u8])> = facts()
        .filter_map(|(project, fact)| {
            let output = fact.output.as_deref().filter(|output| is_large(output))?;
            Some((*project, *fact, bytes(output)))
        })
        .collect();
    let grown: Vec<(Uuid, &Fact, &[u8])> = facts()
        .filter_map(|(project, fact)| {
            Some((*project, *fact, &**fact.body.as_ref()?.bytes()))
        })
        .collect();
    query
        .bind(column!(attempts, (project, _) => *project))
        .bind(column!(attempts, (_, attempt) => i64::from(attempt.no)))
        .bind(column!(attempts, (_, attempt) => i64::from(attempt.generation)))
        .bind(column!(attempts, (_, attempt) => i64::from(attempt.attempt)))
        .bind(column!(attempts, (_, attempt) => attempt.state.as_str()))
        .bind(column!(attempts, (_, attempt) => micros(attempt.started_at)))
        .bind(column!(attempts, (_, attempt) => attempt.finished_at.as_micros()))
        .bind(column!(attempts, (_, attempt) => attempt.error.as_ref().map(json)))
        .bind(column!(attempts, (_, attempt) => attempt.output.as_deref().map(bytes)))
        .bind(column!(large, (project, _, _) => *project))
        .bind(column!(large, (_, fact, _) => i64::from(fact.no)))
        .bind(column!(large, (_, fact, _) => i64::from(fact.generation)))
        .bind(column!(large, (_, _, output) => *output))
        .bind(column!(grown, (project, _, _) => *project))
        .bind(column!(grown, (_, fact, _) => i64::from(fact.no)))
        .bind(column!(grown, (_, _, body) => *body))
}

/// The commit of one project that holds first rows of steps and nothing rare.
async fn write_one(
    connection: &mut PgConnection,
    texts: Commit,
    part: &Part,
) -> Result<Committed, StoreError> {
    let header = &part.header;
    let output = part.output.as_deref().map(bytes);
    let lone = match &*part.facts {
        [fact] => Some(fact),
        _ => None,
    };
    let text = match (lone, output) {
        (Some(_), None) => texts.lone,
        (Some(_), Some(_)) => texts.last,
        (None, _) => texts.one,
    };
    let query = sqlx::query(text)
        .bind(part.project.uuid())
        .bind(part.epoch)
        .bind(part.from)
        .bind(part.upto())
        .bind(header.state.as_str())
        .bind(header.reason.as_deref().map(self::text))
        .bind(i64::from(header.next_no))
        .bind(json(&header.counts))
        .bind(micros(header.began_at))
        .bind(micros(header.cancelled_at))
        .bind(micros(header.finished_at))
        .bind(part.letters())
        .bind(part.writes)
        .bind(part.session.uuid())
        .bind(events(part));
    let query = match (lone, output) {
        (Some(fact), None) => bind_fact(query, fact),
        (Some(fact), Some(output)) => bind_fact(query, fact).bind(output),
        (None, output) => {
            bind_facts(query, &part.facts.iter().collect::<Vec<_>>()).bind(output)
        }
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

/// The packed row of the events of a part.
fn events(part: &Part) -> Option<Vec<u8>> {
    (!part.records.is_empty()).then(|| encode_events(&part.records))
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
