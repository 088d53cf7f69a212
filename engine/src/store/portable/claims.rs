//! The verbs of claims: the right of a session to run one attempt of a step of somebody
//! else's project. What becomes of it is mail for the owner.
//!
//! Compiled once for each database, with its types: see `store/mod.rs`.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Backend, Connection,
    rows::{number, project_id},
    write::{count, raise_all},
};
use crate::{
    ProjectId, SessionId, Timestamp,
    store::{Claim, Delivery, Serves, Statements, StoreError, codec::encode_delivery},
};

impl Backend {
    pub(in crate::store) async fn claim(
        &self,
        session: SessionId,
        serves: &Serves,
        most: u32,
        grant: uuid::Uuid,
        now: Timestamp,
    ) -> Result<Vec<Claim>, StoreError> {
        let sql = self.sql();
        let queues = serde_json::to_string(&serves.queues).unwrap_or_default();
        let kinds = serde_json::to_string(&serves.kinds).unwrap_or_default();
        self.write("claim", move |tx| {
            Box::pin(async move {
                let rows = sqlx::query(sql.claim)
                    .bind(session.uuid())
                    .bind(queues)
                    .bind(kinds)
                    .bind(i64::from(most))
                    .bind(grant)
                    .bind(now.as_micros())
                    .fetch_all(tx)
                    .await?;
                let claim = |row| -> Result<Claim, StoreError> {
                    Ok(Claim {
                        project: project_id(row, 0)?,
                        no: number(row, 1)?,
                        generation: number(row, 2)?,
                        attempt: number(row, 3)?,
                        id: grant,
                    })
                };
                rows.iter().map(claim).collect()
            })
        })
        .await
    }

    pub(in crate::store) async fn deliver(
        &self,
        deliveries: Arc<Vec<(Claim, Delivery)>>,
    ) -> Result<Vec<Claim>, StoreError> {
        let sql = self.sql();
        self.write("deliver", move |tx| Box::pin(deliver(tx, sql, deliveries))).await
    }

    pub(in crate::store) async fn unclaim(
        &self,
        grant: uuid::Uuid,
    ) -> Result<(), StoreError> {
        let sql = self.sql();
        self.write("unclaim", move |tx| {
            Box::pin(async move {
                let of =
                    sqlx::query(sql.granted).bind(grant).fetch_all(&mut *tx).await?;
                let of = of
                    .iter()
                    .map(|row| project_id(row, 0))
                    .collect::<Result<Vec<_>, _>>()?;
                lock(tx, sql, &of).await?;
                let lost =
                    sqlx::query(sql.unclaim).bind(grant).fetch_all(&mut *tx).await?;
                raise_all(tx, sql, count(&lost)?).await
            })
        })
        .await
    }
}

/// Records outcomes of claims; returns those whose claim was lost. The mail of a project
/// is raised by exactly the outcomes that count.
async fn deliver(
    tx: &mut Connection,
    sql: &'static Statements,
    deliveries: Arc<Vec<(Claim, Delivery)>>,
) -> Result<Vec<Claim>, StoreError> {
    let mut of: Vec<ProjectId> =
        deliveries.iter().map(|(claim, _)| claim.project).collect();
    of.sort_unstable();
    of.dedup();
    lock(tx, sql, &of).await?;
    let mut lost = vec![];
    let mut counted: BTreeMap<ProjectId, i64> = BTreeMap::new();
    for (claim, delivery) in deliveries.iter() {
        let done = sqlx::query(sql.deliver)
            .bind(claim.project.uuid())
            .bind(i64::from(claim.no))
            .bind(claim.id)
            .bind(encode_delivery(delivery))
            .execute(&mut *tx)
            .await?;
        match done.rows_affected() {
            1 => *counted.entry(claim.project).or_default() += 1,
            _ => lost.push(*claim),
        }
    }
    raise_all(tx, sql, counted).await?;
    Ok(lost)
}

/// Locks the rows of projects in the order of their ids.
async fn lock(
    tx: &mut Connection,
    sql: &'static Statements,
    projects: &[ProjectId],
) -> Result<(), StoreError> {
    if projects.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> =
        projects.iter().map(|project| project.uuid().to_string()).collect();
    let ids = serde_json::to_string(&ids).unwrap_or_default();
    sqlx::query(sql.lock_projects).bind(ids).fetch_all(tx).await?;
    Ok(())
}
