//! New projects on PostgreSQL: one statement on a connection of its own, because what a pool
//! asks before and after each use would cost as much as the statement.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection};

use super::{
    DEADLINE, PostgresStore, late, owned,
    submit::{answers, first_event, labels, put_rows},
};
use crate::store::{NewProject, Statements, StoreError, Submitted};

/// A connection that was not used for so long is asked whether it is still there.
const FRESH: Duration = Duration::from_secs(1);

impl PostgresStore {
    /// Records projects that have nothing rare, in a transaction of their own.
    pub(super) async fn put_alone(
        &self,
        projects: Vec<Arc<NewProject>>,
    ) -> Result<Vec<Submitted>, StoreError> {
        let store = self.clone();
        owned(async move {
            store.0.crashes.point("submit", false)?;
            let mut submitter = store.0.submitter.lock().await;
            let work = async {
                // Taken out: whatever goes wrong, the connection goes with it.
                let held = match submitter.take() {
                    Some((held, used)) if used.elapsed() < FRESH => Some(held),
                    Some((mut held, _)) => held.ping().await.is_ok().then_some(held),
                    None => None,
                };
                let mut connection = match held {
                    Some(connection) => connection,
                    None => store.connect().await?,
                };
                let submitted = put(&mut connection, store.sql(), &projects).await?;
                *submitter = Some((connection, Instant::now()));
                Ok::<_, StoreError>(submitted)
            };
            let submitted = tokio::time::timeout(DEADLINE, work)
                .await
                .map_err(|_| late("the server did not answer in time"))??;
            store.0.crashes.point("submit", true)?;
            Ok(submitted)
        })
        .await
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
