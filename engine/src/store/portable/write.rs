//! The writing verbs beside `commit`: one body for every database.
//!
//! Compiled once for each database, with its types: see `store/mod.rs`. Locks are taken in
//! one order everywhere: paused queues, projects by id, then claims, then sessions.

use std::collections::BTreeMap;

use sqlx::Row as _;

use super::{
    Backend, Connection,
    access::put_audit,
    read::{letters, project},
    rows::{project_id, pulse},
};
use crate::{
    ProjectId, SessionId, Timestamp,
    plan::StepNo,
    run::{Record, RecordKind},
    store::{
        Adopted, Author, Beat, MailKind, NewSession, Pulse, Statements, StoreError,
        codec::encode_events,
    },
};

impl Backend {
    pub(in crate::store) async fn begin_session(
        &self,
        session: NewSession,
    ) -> Result<(), StoreError> {
        let sql = self.sql();
        self.write("begin_session", move |tx| {
            Box::pin(begin_session(tx, sql, session, Self::ALONE))
        })
        .await
    }

    pub(in crate::store) async fn drain_session(
        &self,
        session: SessionId,
    ) -> Result<(), StoreError> {
        let sql = self.sql();
        self.write("drain_session", move |tx| {
            Box::pin(async move {
                sqlx::query(sql.drain_session).bind(session.uuid()).execute(tx).await?;
                Ok(())
            })
        })
        .await
    }

    pub(in crate::store) async fn end_session(
        &self,
        session: SessionId,
    ) -> Result<(), StoreError> {
        let sql = self.sql();
        self.write("end_session", move |tx| {
            Box::pin(async move {
                // Whoever adopts or claims for it right now holds the key of its row until
                // that is done, and is waited for; whoever comes later finds it closed. It
                // is locked before projects, because those who hold its key wait for none.
                let live = sqlx::query(sql.lock_session)
                    .bind(session.uuid())
                    .fetch_optional(&mut *tx)
                    .await?;
                if live.is_none() {
                    // Declared dead: it is the reaper's. Its row may be locked here all the
                    // same, so nothing more may be waited for.
                    return Ok(());
                }
                sqlx::query(sql.drain_session)
                    .bind(session.uuid())
                    .execute(&mut *tx)
                    .await?;
                lock_owned(tx, sql, &[session.uuid()]).await?;
                free(tx, sql, session.uuid(), false).await
            })
        })
        .await
    }

    pub(in crate::store) async fn expire(
        &self,
        session: SessionId,
        beat: i64,
        whatever_the_clock: bool,
    ) -> Result<bool, StoreError> {
        let sql = self.sql();
        self.write("expire", move |tx| {
            Box::pin(async move {
                let done = sqlx::query(sql.expire_session)
                    .bind(session.uuid())
                    .bind(beat)
                    .bind(whatever_the_clock)
                    .execute(tx)
                    .await?;
                Ok(done.rows_affected() == 1)
            })
        })
        .await
    }

    pub(in crate::store) async fn reap(&self) -> Result<u32, StoreError> {
        let sql = self.sql();
        self.write("reap", move |tx| Box::pin(reap(tx, sql))).await
    }

    pub(in crate::store) async fn adopt(
        &self,
        session: SessionId,
        id: ProjectId,
    ) -> Result<Option<Adopted>, StoreError> {
        let sql = self.sql();
        self.write("adopt", move |tx| {
            Box::pin(async move {
                let taken = sqlx::query(sql.take_project)
                    .bind(id.uuid())
                    .bind(session.uuid())
                    .execute(&mut *tx)
                    .await?;
                if taken.rows_affected() == 0 {
                    return Ok(None);
                }
                let letters = letters(tx, sql, id).await?;
                let project = project(tx, sql, id).await?;
                Ok(project.map(|project| Adopted { project, letters }))
            })
        })
        .await
    }

    pub(in crate::store) async fn loaded(
        &self,
        session: SessionId,
        project: ProjectId,
        epoch: i64,
    ) -> Result<(), StoreError> {
        let sql = self.sql();
        self.write("loaded", move |tx| {
            Box::pin(async move {
                sqlx::query(sql.loaded)
                    .bind(project.uuid())
                    .bind(session.uuid())
                    .bind(epoch)
                    .execute(tx)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    pub(in crate::store) async fn park(
        &self,
        session: SessionId,
        project: ProjectId,
        epoch: i64,
        reason: &'static str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = self.sql();
        self.write("park", move |tx| {
            Box::pin(async move {
                let last: Option<i64> = sqlx::query_scalar(sql.park)
                    .bind(project.uuid())
                    .bind(session.uuid())
                    .bind(epoch)
                    .bind(reason)
                    .fetch_optional(&mut *tx)
                    .await?;
                let Some(last) = last else { return Ok(()) };
                let record = Record::project(RecordKind::ProjectPaused, now);
                put_event(tx, sql, project, last, &record).await
            })
        })
        .await
    }

    pub(in crate::store) async fn release(
        &self,
        session: SessionId,
        project: ProjectId,
        epoch: i64,
        mail: i64,
        wake_at: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        let sql = self.sql();
        self.write("release", move |tx| {
            Box::pin(async move {
                let done = sqlx::query(sql.release)
                    .bind(project.uuid())
                    .bind(session.uuid())
                    .bind(epoch)
                    .bind(mail)
                    .bind(wake_at.map(Timestamp::as_micros))
                    .execute(tx)
                    .await?;
                Ok(done.rows_affected() == 1)
            })
        })
        .await
    }

    pub(in crate::store) async fn send(
        &self,
        project: ProjectId,
        (kind, step): (MailKind, Option<(StepNo, String)>),
        author: Option<Author>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = self.sql();
        self.write("send", move |tx| {
            Box::pin(async move {
                if let Some(author) = &author {
                    let what = format!("project.{}", kind.as_str());
                    let detail = step.as_ref().map_or("", |(_, name)| name);
                    let what = (what.as_str(), Some(project), detail);
                    put_audit(tx, sql, author, what, now).await?;
                }
                sqlx::query(sql.put_mail)
                    .bind(project.uuid())
                    .bind(kind.as_str())
                    .bind(step.map(|(no, _)| i64::from(no)))
                    .bind(now.as_micros())
                    .execute(&mut *tx)
                    .await?;
                raise_mail(tx, sql, project, 1).await
            })
        })
        .await
    }

    /// Beats, and hears what there is to do, on a connection of the caller's own.
    pub(in crate::store) async fn beat_on(
        connection: &mut Connection,
        sql: &'static Statements,
        session: SessionId,
        beat: Option<Beat>,
    ) -> Result<Pulse, StoreError> {
        if let (Some(statement), Some(beat)) = (sql.pulse, &beat) {
            let rows = sqlx::query(statement)
                .bind(session.uuid())
                .bind(i64::from(beat.busy))
                .bind(i64::from(beat.hungry))
                .bind(serde_json::to_string(&beat.paused).unwrap_or_default())
                .fetch_all(connection)
                .await?;
            return pulse(&rows);
        }
        if let Some(beat) = beat {
            sqlx::query(sql.beat)
                .bind(session.uuid())
                .bind(i64::from(beat.busy))
                .bind(i64::from(beat.hungry))
                .execute(&mut *connection)
                .await?;
        }
        let rows =
            sqlx::query(sql.look).bind(session.uuid()).fetch_all(connection).await?;
        pulse(&rows)
    }
}

async fn begin_session(
    tx: &mut Connection,
    sql: &'static Statements,
    session: NewSession,
    alone: bool,
) -> Result<(), StoreError> {
    if alone {
        sqlx::query(sql.lapse_others).bind(session.id.uuid()).execute(&mut *tx).await?;
        reap(tx, sql).await?;
    }
    let lease = i64::try_from(session.lease.as_micros()).unwrap_or(i64::MAX / 4);
    sqlx::query(sql.put_session)
        .bind(session.id.uuid())
        .bind(i64::from(std::process::id()))
        .bind(session.command)
        .bind(session.started_at.as_micros())
        .bind(session.host)
        .bind(lease)
        .bind(i64::from(session.slots))
        .bind(serde_json::to_string(&session.serves).unwrap_or_default())
        .execute(tx)
        .await?;
    Ok(())
}

/// The second move for every session that the first has ended; how many there were. A
/// reaper that dies between the moves leaves the rest to the next.
async fn reap(
    tx: &mut Connection,
    sql: &'static Statements,
) -> Result<u32, StoreError> {
    let ended = sqlx::query(sql.ended_sessions).fetch_all(&mut *tx).await?;
    let ended = ended
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect::<Result<Vec<(uuid::Uuid, String)>, StoreError>>()?;
    let ids: Vec<uuid::Uuid> = ended.iter().map(|(id, _)| *id).collect();
    lock_owned(tx, sql, &ids).await?;
    let mut count = 0;
    for (id, state) in ended {
        free(tx, sql, id, state == "dead").await?;
        count += 1;
    }
    Ok(count)
}

/// Locks the projects that sessions own, and those of which they run steps: these get mail.
/// All at once, because whoever locks several projects locks them by id.
async fn lock_owned(
    tx: &mut Connection,
    sql: &'static Statements,
    sessions: &[uuid::Uuid],
) -> Result<(), StoreError> {
    if sessions.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = sessions.iter().map(uuid::Uuid::to_string).collect();
    let ids = serde_json::to_string(&ids).unwrap_or_default();
    sqlx::query(sql.lock_owned).bind(ids).fetch_all(tx).await?;
    Ok(())
}

/// Gives back what a session owns and runs, and forgets it. The projects are locked.
async fn free(
    tx: &mut Connection,
    sql: &'static Statements,
    session: uuid::Uuid,
    charged: bool,
) -> Result<(), StoreError> {
    sqlx::query(sql.free_projects)
        .bind(session)
        .bind(charged)
        .execute(&mut *tx)
        .await?;
    let lost = sqlx::query(sql.lose_claims)
        .bind(session)
        .bind(charged)
        .fetch_all(&mut *tx)
        .await?;
    raise_all(tx, sql, count(&lost)?).await?;
    sqlx::query(sql.drop_session).bind(session).execute(tx).await?;
    Ok(())
}

/// How many rows there are of each project.
pub(super) fn count(
    rows: &[super::Row],
) -> Result<BTreeMap<ProjectId, i64>, StoreError> {
    let mut counted = BTreeMap::new();
    for row in rows {
        *counted.entry(project_id(row, 0)?).or_default() += 1;
    }
    Ok(counted)
}

pub(super) async fn raise_all(
    tx: &mut Connection,
    sql: &'static Statements,
    counted: BTreeMap<ProjectId, i64>,
) -> Result<(), StoreError> {
    for (project, by) in counted {
        raise_mail(tx, sql, project, by).await?;
    }
    Ok(())
}

pub(super) async fn raise_mail(
    tx: &mut Connection,
    sql: &'static Statements,
    project: ProjectId,
    by: i64,
) -> Result<(), StoreError> {
    sqlx::query(sql.raise_mail).bind(project.uuid()).bind(by).execute(tx).await?;
    Ok(())
}

pub(super) async fn put_event(
    tx: &mut Connection,
    sql: &'static Statements,
    project: ProjectId,
    number: i64,
    record: &Record,
) -> Result<(), StoreError> {
    sqlx::query(sql.put_event)
        .bind(project.uuid())
        .bind(number)
        .bind(number)
        .bind(encode_events(std::slice::from_ref(record)))
        .execute(tx)
        .await?;
    Ok(())
}
