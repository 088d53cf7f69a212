//! The verbs of checkpoints inside steps: one body for every database.
//!
//! Compiled once for each database, with its types: see `store/mod.rs`.

use sqlx::Row as _;

use super::{Backend, rows::raw};
use crate::{
    ProjectId, Timestamp,
    plan::StepNo,
    store::{Checkpoint, Fence, StoreError},
};

impl Backend {
    pub(in crate::store) async fn put_checkpoint(
        &self,
        project: ProjectId,
        (no, generation): (StepNo, u32),
        fence: Fence,
        checkpoint: Checkpoint,
    ) -> Result<bool, StoreError> {
        let sql = self.sql();
        self.write("put_checkpoint", move |tx| {
            Box::pin(async move {
                let (statement, right, epoch) = match fence {
                    Fence::Owner { session, epoch } => {
                        (sql.put_checkpoint, session.uuid(), epoch)
                    }
                    Fence::Claim(claim) => (sql.put_claimed_checkpoint, claim, 0),
                };
                let done = sqlx::query(statement)
                    .bind(project.uuid())
                    .bind(i64::from(no))
                    .bind(i64::from(generation))
                    .bind(checkpoint.name.clone())
                    .bind(checkpoint.at.as_micros())
                    .bind(checkpoint.value.get().as_bytes().to_vec())
                    .bind(right)
                    .bind(epoch)
                    .execute(tx)
                    .await?;
                Ok(done.rows_affected() == 1)
            })
        })
        .await
    }

    pub(in crate::store) async fn checkpoints(
        &self,
        project: ProjectId,
        (no, generation): (StepNo, u32),
    ) -> Result<Vec<Checkpoint>, StoreError> {
        let sql = self.sql();
        self.read(move |connection| {
            Box::pin(async move {
                let rows = sqlx::query(sql.checkpoints)
                    .bind(project.uuid())
                    .bind(i64::from(no))
                    .bind(i64::from(generation))
                    .fetch_all(connection)
                    .await?;
                rows.iter()
                    .map(|row| {
                        Ok(Checkpoint {
                            name: row.try_get(0)?,
                            at: Timestamp::from_micros(row.try_get(1)?),
                            value: raw(row.try_get(2)?)?,
                        })
                    })
                    .collect()
            })
        })
        .await
    }
}
