//! New projects on SQLite: their rows are bound, and written in one call of the driver.

use std::sync::Arc;

use super::{
    SqliteStore,
    bulk::{self, Piece},
    submit::{answers, first_event, labels},
};
use crate::store::{NewProject, StoreError, Submitted};

impl SqliteStore {
    /// Records projects that have nothing rare, in a transaction of their own.
    pub(super) async fn put_alone(
        &self,
        projects: Vec<Arc<NewProject>>,
    ) -> Result<Vec<Submitted>, StoreError> {
        let sql = self.sql();
        self.call("submit", move |connection| {
            Box::pin(async move {
                let mut submitted = vec![];
                // More at once than fit into one statement are as many transactions.
                for projects in projects.chunks(bulk::LARGEST) {
                    let many = projects.len();
                    let text = bulk::text(&[
                        bulk::BEGIN,
                        Piece::Rows(&bulk::PUT_PROJECTS, many),
                        Piece::Rows(&bulk::PUT_PROJECT_DATA, many),
                        Piece::Rows(&bulk::PUT_FIRST_EVENTS, many),
                        bulk::COMMIT,
                    ]);
                    let query = projects.iter().fold(sqlx::query(text), |query, it| {
                        query
                            .bind(it.id.uuid())
                            .bind(it.name.clone())
                            .bind(it.plan_hash.to_vec())
                            .bind(it.priority)
                            .bind(it.steps)
                            .bind(it.created_at.as_micros())
                            .bind(it.owner.map(|owner| owner.uuid()))
                    });
                    let query = bulk::fill(query, &bulk::PUT_PROJECTS, many);
                    let query = projects.iter().fold(query, |query, it| {
                        query
                            .bind(it.id.uuid())
                            .bind(it.inputs.to_vec())
                            .bind(labels(it))
                            .bind(it.fingerprint.to_vec())
                    });
                    let query = bulk::fill(query, &bulk::PUT_PROJECT_DATA, many);
                    let query = projects.iter().fold(query, |query, it| {
                        query.bind(it.id.uuid()).bind(first_event(it))
                    });
                    let query = bulk::fill(query, &bulk::PUT_FIRST_EVENTS, many);
                    let put = query.fetch_all(&mut *connection).await?;
                    submitted.extend(answers(connection, sql, projects, &put).await?);
                }
                Ok(submitted)
            })
        })
        .await
    }
}
