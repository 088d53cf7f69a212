//! A row or a table that somebody holds until all who need it are seen to wait.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinHandle;

/// A third party: one connection that holds, and one that looks.
pub(super) struct Holder {
    holder: PgConnection,
    process: i32,
    watcher: PgConnection,
    /// How it ends: what was written only to be waited for is taken back.
    end: &'static str,
}

impl Holder {
    pub(super) async fn connect(place: &str) -> Self {
        let mut holder = connect(place).await;
        let process = sqlx::query_scalar("select pg_backend_pid()")
            .fetch_one(&mut holder)
            .await
            .unwrap();
        Self { holder, process, watcher: connect(place).await, end: "commit" }
    }

    /// Begins to hold what a statement with at most one id locks.
    pub(super) async fn take(&mut self, statement: String, id: uuid::Uuid) {
        sqlx::raw_sql("begin").execute(&mut self.holder).await.unwrap();
        self.end = if statement.starts_with("insert") { "rollback" } else { "commit" };
        let bound = statement.contains("$1");
        let query = sqlx::query(sqlx::AssertSqlSafe(statement));
        let query = if bound { query.bind(id) } else { query };
        query.execute(&mut self.holder).await.unwrap();
    }

    /// Waits until each task has ended or waits for a lock, at first or second hand; how
    /// many wait.
    pub(super) async fn until_stuck(&mut self, tasks: &[JoinHandle<()>]) -> usize {
        let began = tokio::time::Instant::now();
        loop {
            let busy = tasks.iter().filter(|task| !task.is_finished()).count();
            let waiting: i64 = sqlx::query_scalar(
                "with recursive blocked as materialized (
                    select pid, pg_blocking_pids(pid) as by from pg_stat_activity
                    where wait_event_type = 'Lock'
                ), waiting (pid) as (
                    select $1
                    union
                    select b.pid from blocked b join waiting w on w.pid = any (b.by)
                )
                select count(*) - 1 from waiting",
            )
            .bind(self.process)
            .fetch_one(&mut self.watcher)
            .await
            .unwrap();
            if usize::try_from(waiting).unwrap() >= busy {
                return busy;
            }
            assert!(
                began.elapsed() < Duration::from_secs(10),
                "neither waits nor ends"
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The clock of the server.
    pub(super) async fn now(&mut self) -> i64 {
        let clock = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
        sqlx::query_scalar(clock).fetch_one(&mut self.watcher).await.unwrap()
    }

    /// Until when a session is believed to be alive.
    pub(super) async fn until(&mut self, session: uuid::Uuid) -> i64 {
        sqlx::query_scalar("select until from sessions where id = $1")
            .bind(session)
            .fetch_one(&mut self.watcher)
            .await
            .unwrap()
    }

    pub(super) async fn let_go(&mut self) {
        sqlx::raw_sql(self.end).execute(&mut self.holder).await.unwrap();
    }
}

async fn connect(place: &str) -> PgConnection {
    let (url, schema) = place.rsplit_once("schema=").unwrap();
    let url = url.trim_end_matches(['?', '&']);
    let mut connection = PgConnection::connect(url).await.unwrap();
    let path = sqlx::AssertSqlSafe(format!("set search_path to {schema}"));
    sqlx::query(path).execute(&mut connection).await.unwrap();
    connection
}
