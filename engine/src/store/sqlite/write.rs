//! The writing verbs beside `commit`: submit, sessions, adoption, mail, replay.

use std::sync::Arc;

use sqlx::{Row as _, SqliteConnection};

use super::{SqliteStore, commit, read, sql};
use crate::{
    ProjectId, SessionId, Timestamp,
    plan::PLAN_FORMAT,
    run::{Record, RecordKind, Replay},
    store::{
        Adopted, MailKind, NewProject, StoreError, Submitted, codec::encode_events,
    },
};

impl SqliteStore {
    /// Records a project whole, or finds that it is recorded.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn submit(
        &self,
        project: Arc<NewProject>,
    ) -> Result<Submitted, StoreError> {
        let submitted =
            self.write("submit", move |tx| Box::pin(submit(tx, project))).await?;
        self.written();
        Ok(submitted)
    }

    /// Begins a session: every other one is dead, because the caller holds the lock.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn begin_session(
        &self,
        session: SessionId,
        command: String,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write("begin_session", move |tx| {
            Box::pin(async move {
                sqlx::query(sql::BURY_SESSIONS).execute(&mut *tx).await?;
                sqlx::query(sql::PUT_SESSION)
                    .bind(session.uuid())
                    .bind(std::process::id())
                    .bind(command)
                    .bind(now.as_micros())
                    .execute(tx)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// Says that the session stops gracefully: its end charges no step with a crash.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn drain_session(&self, session: SessionId) -> Result<(), StoreError> {
        self.session_statement("drain_session", sql::DRAIN_SESSION, session).await
    }

    /// Ends a session that owns nothing any more.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn end_session(&self, session: SessionId) -> Result<(), StoreError> {
        self.session_statement("end_session", sql::END_SESSION, session).await
    }

    async fn session_statement(
        &self,
        verb: &'static str,
        statement: &'static str,
        session: SessionId,
    ) -> Result<(), StoreError> {
        self.write(verb, move |tx| {
            Box::pin(async move {
                sqlx::query(statement).bind(session.uuid()).execute(tx).await?;
                Ok(())
            })
        })
        .await
    }

    /// Takes a project over, then reads it: two statements in one transaction, in this
    /// order, so that no fact can be older than the ownership. `None` when there is no
    /// such project.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn adopt(
        &self,
        session: SessionId,
        project: ProjectId,
    ) -> Result<Option<Adopted>, StoreError> {
        self.write("adopt", move |tx| {
            Box::pin(async move {
                let taken = sqlx::query(sql::TAKE_PROJECT)
                    .bind(project.uuid())
                    .bind(session.uuid())
                    .execute(&mut *tx)
                    .await?;
                if taken.rows_affected() == 0 {
                    return Ok(None);
                }
                let mail = read::mail(tx, Some(project)).await?;
                let project = read::project(tx, project).await?;
                Ok(project.map(|project| Adopted { project, mail }))
            })
        })
        .await
    }

    /// Takes note that an adopted project could be loaded: the next adoption does not count
    /// it among those that brought their worker down.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn loaded(
        &self,
        session: SessionId,
        project: ProjectId,
        epoch: i64,
    ) -> Result<(), StoreError> {
        self.write("loaded", move |tx| {
            Box::pin(async move {
                sqlx::query(sql::LOADED)
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

    /// Pauses a project without loading it, and gives it back.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn park(
        &self,
        session: SessionId,
        project: ProjectId,
        epoch: i64,
        reason: &'static str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write("park", move |tx| {
            Box::pin(async move {
                let last: Option<i64> = sqlx::query_scalar(sql::PARK)
                    .bind(project.uuid())
                    .bind(session.uuid())
                    .bind(epoch)
                    .bind(reason)
                    .fetch_optional(&mut *tx)
                    .await?;
                let Some(last) = last else { return Ok(()) };
                let record = Record::project(RecordKind::ProjectPaused, now);
                put_event(tx, project, last, &record).await
            })
        })
        .await
    }

    /// Gives a project back, unless a message came that its owner has not read.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn release(
        &self,
        session: SessionId,
        project: ProjectId,
        epoch: i64,
        mail: i64,
    ) -> Result<bool, StoreError> {
        self.write("release", move |tx| {
            Box::pin(async move {
                let done = sqlx::query(sql::RELEASE_PROJECT)
                    .bind(project.uuid())
                    .bind(session.uuid())
                    .bind(epoch)
                    .bind(mail)
                    .execute(tx)
                    .await?;
                Ok(done.rows_affected() == 1)
            })
        })
        .await
    }

    /// Sends a message to the owner of a project, whoever it is.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn send(
        &self,
        project: ProjectId,
        kind: MailKind,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write("send", move |tx| {
            Box::pin(async move {
                sqlx::query(sql::PUT_MAIL)
                    .bind(project.uuid())
                    .bind(kind.as_str())
                    .bind(now.as_micros())
                    .execute(&mut *tx)
                    .await?;
                sqlx::query(sql::RAISE_MAIL).bind(project.uuid()).execute(tx).await?;
                Ok(())
            })
        })
        .await?;
        self.written();
        Ok(())
    }

    /// Sets steps of an ended project back to run anew, if it is still as it was when
    /// the choice was made; `false` when it has changed.
    ///
    /// # Errors
    /// When nothing was written.
    pub async fn replay(
        &self,
        project: ProjectId,
        (plan, last_event): ([u8; 32], i64),
        replay: Replay,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.write("replay", move |tx| {
            Box::pin(async move {
                let reopened = sqlx::query(sql::REOPEN)
                    .bind(project.uuid())
                    .bind(last_event)
                    .bind(plan.to_vec())
                    .bind(serde_json::to_string(&replay.counts).unwrap_or_default())
                    .execute(&mut *tx)
                    .await?;
                if reopened.rows_affected() == 0 {
                    return Ok(false);
                }
                let anew = serde_json::to_string(&replay.anew).unwrap_or_default();
                let gone = serde_json::to_string(&replay.gone).unwrap_or_default();
                for (statement, list) in [
                    (sql::KEEP_ATTEMPTS, &anew),
                    (sql::KEEP_GONE_ATTEMPTS, &gone),
                    (sql::DROP_STEPS, &gone),
                ] {
                    sqlx::query(statement)
                        .bind(project.uuid())
                        .bind(list.clone())
                        .execute(&mut *tx)
                        .await?;
                }
                sqlx::query(sql::SET_BACK)
                    .bind(project.uuid())
                    .bind(anew)
                    .bind(now.as_micros())
                    .execute(&mut *tx)
                    .await?;
                sqlx::query(sql::DROP_MAIL)
                    .bind(project.uuid())
                    .execute(&mut *tx)
                    .await?;
                sqlx::query(sql::DROP_OUTPUT)
                    .bind(project.uuid())
                    .execute(&mut *tx)
                    .await?;
                let record = Record::project(RecordKind::ProjectReplayed, now);
                put_event(tx, project, last_event + 1, &record).await?;
                Ok(true)
            })
        })
        .await
        .inspect(|_| self.written())
    }
}

async fn submit(
    tx: &mut SqliteConnection,
    project: Arc<NewProject>,
) -> Result<Submitted, StoreError> {
    sqlx::query(sql::PUT_PLAN)
        .bind(project.plan_hash.to_vec())
        .bind(PLAN_FORMAT)
        .bind(project.plan.to_vec())
        .execute(&mut *tx)
        .await?;
    let counts = format!("{{\"blocked\":{}}}", project.steps);
    let done = sqlx::query(sql::PUT_PROJECT)
        .bind(project.id.uuid())
        .bind(project.name.clone())
        .bind(project.plan_hash.to_vec())
        .bind(project.priority)
        .bind(project.steps)
        .bind(counts)
        .bind(project.created_at.as_micros())
        .execute(&mut *tx)
        .await?;
    if done.rows_affected() == 0 {
        let row = sqlx::query(sql::FINGERPRINT)
            .bind(project.id.uuid())
            .fetch_one(&mut *tx)
            .await?;
        let fingerprint: Vec<u8> = row.try_get(0)?;
        let same = fingerprint == project.fingerprint;
        return Ok(if same { Submitted::Existing } else { Submitted::Conflict });
    }
    let labels = serde_json::to_string(&project.labels).unwrap_or_default();
    sqlx::query(sql::PUT_PROJECT_DATA)
        .bind(project.id.uuid())
        .bind(project.inputs.to_vec())
        .bind(labels)
        .bind(project.fingerprint.to_vec())
        .execute(&mut *tx)
        .await?;
    let record = Record::project(RecordKind::ProjectSubmitted, project.created_at);
    put_event(tx, project.id, 1, &record).await?;
    Ok(Submitted::New)
}

async fn put_event(
    tx: &mut SqliteConnection,
    project: ProjectId,
    number: i64,
    record: &Record,
) -> Result<(), StoreError> {
    let body = encode_events(std::slice::from_ref(record));
    sqlx::query(sql::PUT_EVENTS.text(commit::SINGLE))
        .bind(project.uuid())
        .bind(number)
        .bind(number)
        .bind(body)
        .execute(tx)
        .await?;
    Ok(())
}
