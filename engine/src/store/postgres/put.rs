//! New projects on PostgreSQL: one statement on a connection of its own, because what a pool
//! asks before and after each use would cost as much as the statement.

use std::sync::Arc;

use sqlx::PgConnection;

use super::{
    DEADLINE, PostgresStore,
    submit::{answers, first_event, labels, put_rows},
};
use crate::store::{NewProject, Statements, StoreError, Submitted};

impl PostgresStore {
    /// Records projects that have nothing rare, in a transaction of their own.
    pub(super) async fn put_alone(
        &self,
        projects: Vec<Arc<NewProject>>,
    ) -> Result<Vec<Submitted>, StoreError> {
        // Who writes submissions runs in a task of its own already.
        self.0.crashes.point("submit", false)?;
        let sql = self.sql();
        let work = self.0.submitter.within(DEADLINE, move |connection| {
            Box::pin(async move { put(connection, sql, &projects).await })
        });
        let submitted = work.await?;
        self.0.crashes.point("submit", true)?;
        Ok(submitted)
    }
}

async fn put(
    connection: &mut PgConnection,
    sql: &'static Statements,
    projects: &[Arc<NewProject>],
) -> Result<Vec<Submitted>, StoreError> {
    let ([project], Some(text)) = (projects, sql.put_project) else {
        return put_rows(connection, sql, projects).await;
    };
    let put = sqlx::query(text)
        .bind(project.id.uuid())
        .bind(&project.name)
        .bind(&project.plan_hash[..])
        .bind(i64::from(project.priority))
        .bind(i64::from(project.steps))
        .bind(project.created_at.as_micros())
        .bind(project.owner.map(|owner| owner.uuid()))
        .bind(&project.inputs[..])
        .bind(labels(project))
        .bind(&project.fingerprint[..])
        .bind(first_event(project))
        .fetch_all(&mut *connection)
        .await?;
    answers(connection, sql, projects, &put).await
}
