//! The verbs of replay: one body for every database.
//!
//! Compiled once for each database, with its types: see `store/mod.rs`.

use sqlx::Row as _;

use super::{
    Backend, Connection, Row, access::put_audit, submit::put_plan, write::put_event,
};
use crate::{
    ProjectId, Timestamp,
    plan::StepNo,
    run::{Output, Record, RecordKind},
    store::{INLINE_OUTPUT, Reopening, ReplayLine, Statements, StoreError, damaged},
};

impl Backend {
    pub(in crate::store) async fn replay(
        &self,
        project: ProjectId,
        guard: ([u8; 32], i64),
        reopening: Reopening,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let sql = self.sql();
        self.write("replay", move |tx| {
            Box::pin(reopen(tx, sql, project, guard, reopening, now))
        })
        .await
    }

    pub(in crate::store) async fn replays(
        &self,
        project: ProjectId,
    ) -> Result<Vec<ReplayLine>, StoreError> {
        let sql = self.sql();
        self.read(move |connection| {
            Box::pin(async move {
                let query = sqlx::query(sql.replays).bind(project.uuid());
                let rows = query.fetch_all(connection).await?;
                rows.iter().map(line).collect()
            })
        })
        .await
    }
}

async fn reopen(
    tx: &mut Connection,
    sql: &'static Statements,
    project: ProjectId,
    (plan, last_event): ([u8; 32], i64),
    reopening: Reopening,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let Reopening {
        replay,
        plan: next,
        inputs,
        who,
        author,
        reason,
        detail,
        keep_checkpoints,
    } = reopening;
    if let Some(next) = &next {
        put_plan(tx, sql, next.hash, &next.bytes, &next.kinds).await?;
    }
    let reopened = sqlx::query(sql.reopen)
        .bind(project.uuid())
        .bind(last_event)
        .bind(plan.to_vec())
        .bind(serde_json::to_string(&replay.counts).unwrap_or_default())
        .bind(next.map_or(plan, |next| next.hash).to_vec())
        .execute(&mut *tx)
        .await?;
    if reopened.rows_affected() == 0 {
        return Ok(false);
    }
    if let Some(inputs) = inputs {
        let query = sqlx::query(sql.put_inputs).bind(project.uuid());
        query.bind(inputs.to_vec()).execute(&mut *tx).await?;
    }
    let pinned = replay.pinned.iter().map(|(no, generation, _)| (*no, *generation));
    let changed: Vec<(StepNo, u32)> =
        replay.anew.iter().copied().chain(pinned).collect();
    let changed = serde_json::to_string(&changed).unwrap_or_default();
    let gone = serde_json::to_string(&replay.gone).unwrap_or_default();
    for (statement, list) in [
        (sql.keep_attempts, &changed),
        (sql.keep_gone_attempts, &gone),
        (sql.lend_on, &changed),
        (sql.lend_gone_on, &gone),
        (sql.drop_steps, &gone),
        (sql.drop_expansions, &changed),
        (sql.drop_gone_expansions, &gone),
    ] {
        sqlx::query(statement)
            .bind(project.uuid())
            .bind(list.clone())
            .execute(&mut *tx)
            .await?;
    }
    set_back(tx, sql, project, &replay.anew, now).await?;
    if keep_checkpoints {
        sqlx::query(sql.keep_checkpoints)
            .bind(project.uuid())
            .bind(changed)
            .execute(&mut *tx)
            .await?;
    }
    for (no, generation, output) in &replay.pinned {
        pin(tx, sql, project, (*no, *generation), output, now).await?;
    }
    for statement in [sql.drop_mail, sql.drop_output, sql.drop_claims] {
        sqlx::query(statement).bind(project.uuid()).execute(&mut *tx).await?;
    }
    let record = Record::project(RecordKind::ProjectReplayed, now);
    put_event(tx, sql, project, last_event + 1, &record).await?;
    if let Some(author) = &author {
        put_audit(tx, sql, author, ("project.replay", Some(project), &reason), now)
            .await?;
    }
    sqlx::query(sql.put_replay)
        .bind(project.uuid())
        .bind(last_event + 1)
        .bind(now.as_micros())
        .bind(who)
        .bind(reason)
        .bind(detail)
        .execute(tx)
        .await?;
    Ok(true)
}

pub(super) async fn set_back(
    tx: &mut Connection,
    sql: &'static Statements,
    project: ProjectId,
    anew: &[(StepNo, u32)],
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(sql.set_back)
        .bind(project.uuid())
        .bind(serde_json::to_string(anew).unwrap_or_default())
        .bind(now.as_micros())
        .execute(tx)
        .await?;
    Ok(())
}

pub(super) async fn pin(
    tx: &mut Connection,
    sql: &'static Statements,
    project: ProjectId,
    (no, generation): (StepNo, u32),
    output: &Output,
    now: Timestamp,
) -> Result<(), StoreError> {
    let bytes = output.get().as_bytes().to_vec();
    let large = bytes.len() > INLINE_OUTPUT;
    let size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
    sqlx::query(sql.pin)
        .bind(project.uuid())
        .bind(i64::from(no))
        .bind(i64::from(generation))
        .bind(now.as_micros())
        .bind((!large).then(|| bytes.clone()))
        .bind(large.then_some(size))
        .execute(&mut *tx)
        .await?;
    if large {
        sqlx::query(sql.put_blob)
            .bind(project.uuid())
            .bind(i64::from(no))
            .bind(i64::from(generation))
            .bind(bytes)
            .execute(tx)
            .await?;
    }
    Ok(())
}

fn line(row: &Row) -> Result<ReplayLine, StoreError> {
    let detail: String = row.try_get(4)?;
    Ok(ReplayLine {
        event: row.try_get(0)?,
        at: Timestamp::from_micros(row.try_get(1)?),
        who: row.try_get(2)?,
        reason: row.try_get(3)?,
        detail: serde_json::from_str(&detail).map_err(damaged)?,
    })
}
