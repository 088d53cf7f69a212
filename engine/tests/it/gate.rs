//! A gate: the row of a project is held until everybody who is meant to waits for it.

use std::time::Duration;

use dandori::ProjectId;
use sqlx::{Connection as _, PgConnection};

/// Holds the row of the project, and sees who waits for it.
pub(crate) struct Gate {
    holder: PgConnection,
    process: i32,
    /// Who looks from inside a transaction sees the same picture for ever.
    observer: PgConnection,
}

impl Gate {
    async fn connect(place: &str) -> PgConnection {
        let (url, schema) = place.rsplit_once("schema=").unwrap();
        let url = url.trim_end_matches(['?', '&']);
        let mut connection = PgConnection::connect(url).await.unwrap();
        let path = sqlx::AssertSqlSafe(format!("set search_path to {schema}"));
        sqlx::query(path).execute(&mut connection).await.unwrap();
        connection
    }

    pub(crate) async fn close(place: &str, project: ProjectId) -> Self {
        let mut connection = Self::connect(place).await;
        sqlx::raw_sql("begin").execute(&mut connection).await.unwrap();
        sqlx::query("select 1 from projects where id = $1 for update")
            .bind(uuid_of(project))
            .execute(&mut connection)
            .await
            .unwrap();
        let process = sqlx::query_scalar("select pg_backend_pid()")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        let observer = Self::connect(place).await;
        Self { holder: connection, process, observer }
    }

    /// Waits until the latest task has ended, or waits for the gate; how many have begun to
    /// wait.
    pub(crate) async fn until_waiting(
        &mut self,
        tasks: &[tokio::task::JoinHandle<()>],
    ) -> usize {
        let before = tasks.len() - 1;
        let began = tokio::time::Instant::now();
        loop {
            if tasks[before].is_finished() {
                return 0;
            }
            let waiting: i64 = sqlx::query_scalar(
                "with recursive waiting (pid) as (
                    select $1
                    union
                    select a.pid from pg_stat_activity a
                    join waiting w on w.pid = any (pg_blocking_pids(a.pid))
                )
                select count(*) - 1 from waiting",
            )
            .bind(self.process)
            .fetch_one(&mut self.observer)
            .await
            .unwrap();
            let waits = tasks.iter().filter(|task| !task.is_finished()).count();
            if usize::try_from(waiting).unwrap() >= waits {
                return 1;
            }
            assert!(
                began.elapsed() < Duration::from_secs(10),
                "neither waits nor ends"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn open(mut self) {
        sqlx::raw_sql("commit").execute(&mut self.holder).await.unwrap();
    }
}

fn uuid_of(id: ProjectId) -> uuid::Uuid {
    id.to_string().trim_start_matches("prj_").parse().unwrap()
}
