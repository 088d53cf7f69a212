//! The verbs of the door: one body for every database.
//!
//! Compiled once for each database, with its types: see `store/mod.rs`.

use std::collections::BTreeSet;

use sqlx::{Connection as _, Row as _};
use uuid::Uuid;

use super::{
    Backend, Connection, Row, SNAPSHOT,
    read::row,
    rows::{number, project_id, raw, time},
};
use crate::{
    ProjectId, SessionId, Timestamp,
    store::{
        AuditLine, Author, QueueRow, Resting, Statements, StoreError, Summary,
        TokenRow, damaged,
    },
};

impl Backend {
    pub(in crate::store) async fn summary(
        &self,
        id: ProjectId,
    ) -> Result<Option<Summary>, StoreError> {
        let sql = self.sql();
        self.read(move |connection| {
            Box::pin(async move {
                let mut tx = connection.begin_with(SNAPSHOT).await?;
                let Some(row) = row(&mut tx, sql, id).await? else { return Ok(None) };
                let data =
                    sqlx::query(sql.data).bind(id.uuid()).fetch_one(&mut *tx).await?;
                tx.commit().await?;
                let labels: String = data.try_get(1)?;
                let output: Option<Vec<u8>> = data.try_get(2)?;
                Ok(Some(Summary {
                    row,
                    labels: serde_json::from_str(&labels).map_err(damaged)?,
                    output: output.map(raw).transpose()?,
                }))
            })
        })
        .await
    }

    pub(in crate::store) async fn put_token(
        &self,
        token: TokenRow,
        hash: [u8; 32],
        author: Option<Author>,
    ) -> Result<(), StoreError> {
        let sql = self.sql();
        self.write("put_token", move |tx| {
            Box::pin(async move {
                sqlx::query(sql.put_token)
                    .bind(token.id)
                    .bind(token.name.clone())
                    .bind(token.role.clone())
                    .bind(hash.to_vec())
                    .bind(token.created_at.as_micros())
                    .execute(&mut *tx)
                    .await?;
                if let Some(author) = &author {
                    let what = ("token.create", None, token.name.as_str());
                    put_audit(tx, sql, author, what, token.created_at).await?;
                }
                Ok(())
            })
        })
        .await
    }

    pub(in crate::store) async fn revoke_token(
        &self,
        id: Uuid,
        author: Option<Author>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let sql = self.sql();
        self.write("revoke_token", move |tx| {
            Box::pin(async move {
                let done = sqlx::query(sql.revoke_token)
                    .bind(id)
                    .bind(now.as_micros())
                    .execute(&mut *tx)
                    .await?;
                let revoked = done.rows_affected() == 1;
                if let Some(author) = author.filter(|_| revoked) {
                    let id = id.to_string();
                    let what = ("token.revoke", None, id.as_str());
                    put_audit(tx, sql, &author, what, now).await?;
                }
                Ok(revoked)
            })
        })
        .await
    }

    pub(in crate::store) async fn token(
        &self,
        hash: [u8; 32],
    ) -> Result<Option<TokenRow>, StoreError> {
        let sql = self.sql();
        self.read(move |connection| {
            Box::pin(async move {
                sqlx::query(sql.token)
                    .bind(hash.to_vec())
                    .fetch_optional(connection)
                    .await?
                    .as_ref()
                    .map(token_row)
                    .transpose()
            })
        })
        .await
    }

    pub(in crate::store) async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        let sql = self.sql();
        self.read(move |connection| {
            Box::pin(async move {
                let rows = sqlx::query(sql.tokens).fetch_all(connection).await?;
                rows.iter().map(token_row).collect()
            })
        })
        .await
    }

    pub(in crate::store) async fn audit(
        &self,
        before: Option<i64>,
        project: Option<ProjectId>,
        limit: u32,
    ) -> Result<Vec<AuditLine>, StoreError> {
        let sql = self.sql();
        self.read(move |connection| {
            Box::pin(async move {
                let rows = sqlx::query(sql.audit)
                    .bind(before)
                    .bind(project.map(ProjectId::uuid))
                    .bind(i64::from(limit))
                    .fetch_all(connection)
                    .await?;
                rows.iter().map(audit_line).collect()
            })
        })
        .await
    }

    pub(in crate::store) async fn queues(&self) -> Result<Vec<QueueRow>, StoreError> {
        let sql = self.sql();
        self.read(move |connection| {
            Box::pin(async move {
                let rows = sqlx::query(sql.queues).fetch_all(connection).await?;
                rows.iter()
                    .map(|row| {
                        Ok(QueueRow {
                            queue: row.try_get(0)?,
                            offered: number(row, 1)?,
                            claimed: number(row, 2)?,
                            oldest: time(row, 3)?,
                            paused_at: time(row, 4)?,
                        })
                    })
                    .collect()
            })
        })
        .await
    }

    pub(in crate::store) async fn hold_queue(
        &self,
        queue: String,
        paused: bool,
        author: Option<Author>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let sql = self.sql();
        self.write("hold_queue", move |tx| {
            Box::pin(async move {
                let (what, done) = match paused {
                    true => {
                        let query = sqlx::query(sql.pause_queue).bind(queue.clone());
                        let query = query.bind(now.as_micros());
                        ("queue.pause", query.execute(&mut *tx).await?)
                    }
                    false => {
                        let query = sqlx::query(sql.resume_queue).bind(queue.clone());
                        let done = query.execute(&mut *tx).await?;
                        let mut left = done.rows_affected() > 0;
                        while left {
                            let query = sqlx::query(sql.wake_held);
                            left = query.execute(&mut *tx).await?.rows_affected() > 0;
                        }
                        ("queue.resume", done)
                    }
                };
                let changed = done.rows_affected() == 1;
                if let Some(author) = author.filter(|_| changed) {
                    let what = (what, None, queue.as_str());
                    put_audit(tx, sql, &author, what, now).await?;
                }
                Ok(changed)
            })
        })
        .await
    }

    pub(in crate::store) async fn rest(
        &self,
        session: SessionId,
        resting: Vec<Resting>,
    ) -> Result<Vec<ProjectId>, StoreError> {
        let sql = self.sql();
        self.write("rest", move |tx| {
            let resting = resting.clone();
            Box::pin(async move {
                let queues: BTreeSet<&String> =
                    resting.iter().flat_map(|it| &it.queues).collect();
                let queues = serde_json::to_string(&queues).unwrap_or_default();
                let rows = sqlx::query(sql.lock_queues)
                    .bind(queues)
                    .fetch_all(&mut *tx)
                    .await?;
                let paused: BTreeSet<String> =
                    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
                let still = |it: &&Resting| it.queues.is_subset(&paused);
                let asked: Vec<(String, i64)> = resting
                    .iter()
                    .filter(still)
                    .map(|it| (it.project.uuid().simple().to_string(), it.epoch))
                    .collect();
                let asked = serde_json::to_string(&asked).unwrap_or_default();
                let query = sqlx::query(sql.rest).bind(session.uuid()).bind(asked);
                let rows = query.fetch_all(tx).await?;
                rows.iter().map(|row| project_id(row, 0)).collect()
            })
        })
        .await
    }

    pub(in crate::store) async fn last_events(
        &self,
        projects: &[ProjectId],
    ) -> Result<Vec<(ProjectId, i64, bool)>, StoreError> {
        let sql = self.sql();
        let ids: Vec<String> =
            projects.iter().map(|id| id.uuid().simple().to_string()).collect();
        let ids = serde_json::to_string(&ids).unwrap_or_default();
        self.read(move |connection| {
            Box::pin(async move {
                let rows = sqlx::query(sql.last_events)
                    .bind(ids)
                    .fetch_all(connection)
                    .await?;
                let event = |row: &Row| {
                    Ok((project_id(row, 0)?, row.try_get(1)?, row.try_get(2)?))
                };
                rows.iter().map(event).collect()
            })
        })
        .await
    }
}

/// Keeps who asked for what, in the transaction that does it.
pub(super) async fn put_audit(
    tx: &mut Connection,
    sql: &'static Statements,
    author: &Author,
    (what, project, detail): (&str, Option<ProjectId>, &str),
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(sql.put_audit)
        .bind(now.as_micros())
        .bind(author.who.clone())
        .bind(what.to_owned())
        .bind(project.map(ProjectId::uuid))
        .bind(detail.to_owned())
        .bind(author.request.clone())
        .execute(tx)
        .await?;
    Ok(())
}

fn token_row(row: &Row) -> Result<TokenRow, StoreError> {
    Ok(TokenRow {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        role: row.try_get(2)?,
        created_at: Timestamp::from_micros(row.try_get(3)?),
        revoked_at: time(row, 4)?,
    })
}

fn audit_line(row: &Row) -> Result<AuditLine, StoreError> {
    let project: Option<Uuid> = row.try_get(4)?;
    Ok(AuditLine {
        seq: row.try_get(0)?,
        at: Timestamp::from_micros(row.try_get(1)?),
        author: Author { who: row.try_get(2)?, request: row.try_get(6)? },
        what: row.try_get(3)?,
        project: project.map(ProjectId::from_uuid),
        detail: row.try_get(5)?,
    })
}
