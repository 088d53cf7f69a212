//! The floor: the bare database, through the same driver with the same settings.
//!
//! A row has ten columns of the row of a step and an output of 100 bytes.

use std::time::Instant;

use sqlx::{
    Connection as _, PgConnection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use tokio::sync::Mutex;

use crate::{Anything, Kind, OUTPUT, Place};

/// Rows in a statement and a commit.
const BATCH: usize = 256;
/// Single commits that are measured.
const COMMITS: usize = 500;

const TABLE: &str = "create table steps (project text not null, no bigint not null,
    generation bigint not null, attempt bigint not null, failures bigint not null,
    crashes bigint not null, state text not null, at bigint not null, began_at bigint,
    started_at bigint, output BYTES, primary key (project, no))";

pub(crate) struct Floor {
    place: Place,
    database: Mutex<Database>,
}

enum Database {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Floor {
    pub(crate) async fn begin(kind: Kind) -> Result<Self, Anything> {
        let place = Place::fresh(kind)?;
        let database = match kind {
            Kind::Sqlite => {
                let options = SqliteConnectOptions::new()
                    .filename(&place.at)
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full);
                let mut connection = SqliteConnection::connect_with(&options).await?;
                let table = format!("{} without rowid", TABLE.replace("BYTES", "blob"));
                sqlx::raw_sql(sqlx::AssertSqlSafe(table))
                    .execute(&mut connection)
                    .await?;
                Database::Sqlite(connection)
            }
            Kind::Postgres => {
                let (url, schema) =
                    place.at.split_once("schema=").ok_or("no schema")?;
                let url = url.trim_end_matches(['?', '&']);
                let mut connection = PgConnection::connect(url).await?;
                let table = TABLE.replace("BYTES", "bytea");
                let table = format!(
                    "create schema {schema}; set search_path to {schema}; {table}"
                );
                sqlx::raw_sql(sqlx::AssertSqlSafe(table))
                    .execute(&mut connection)
                    .await?;
                Database::Postgres(connection)
            }
        };
        Ok(Self { place, database: Mutex::new(database) })
    }

    /// Leaves nothing behind.
    pub(crate) async fn end(self) -> Result<(), Anything> {
        drop(self.database);
        self.place.remove().await
    }

    /// Rows a second: one statement and one durable commit for each batch.
    pub(crate) async fn rows(&self, rows: usize) -> Result<f64, Anything> {
        let mut database = self.database.lock().await;
        let began = Instant::now();
        let mut no = 0;
        while no < rows {
            let batch = BATCH.min(rows - no);
            insert(&mut database, "many", no, batch).await?;
            no += batch;
        }
        Ok(rows as f64 / began.elapsed().as_secs_f64())
    }

    /// The median of a durable commit of one row, in µs: one statement by itself on
    /// PostgreSQL, `begin immediate; insert; commit` on SQLite.
    pub(crate) async fn commit(&self) -> Result<f64, Anything> {
        let mut database = self.database.lock().await;
        let mut times = vec![];
        for no in 0..COMMITS {
            let began = Instant::now();
            insert(&mut database, "single", no, 1).await?;
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
        Ok(crate::median(times))
    }
}

async fn insert(
    database: &mut Database,
    project: &str,
    from: usize,
    count: usize,
) -> Result<(), Anything> {
    let output = format!("\"{}\"", "x".repeat(OUTPUT));
    let numbers: Vec<i64> =
        (from..from + count).map(i64::try_from).collect::<Result<_, _>>()?;
    match database {
        Database::Sqlite(connection) => {
            let values =
                vec!["(?, ?, 1, 1, 0, 0, 'succeeded', ?, ?, ?, ?)"; count].join(", ");
            let text = format!(
                "insert into steps (project, no, generation, attempt, failures, crashes,
                 state, at, began_at, started_at, output) values {values}"
            );
            let mut tx = connection.begin_with("begin immediate").await?;
            let mut query = sqlx::query(sqlx::AssertSqlSafe(text));
            for no in numbers {
                query =
                    query.bind(project.to_owned()).bind(no).bind(no).bind(no).bind(no);
                query = query.bind(output.clone().into_bytes());
            }
            query.execute(&mut *tx).await?;
            tx.commit().await?;
        }
        Database::Postgres(connection) => {
            let outputs = vec![output.into_bytes(); count];
            sqlx::query(
                "insert into steps (project, no, generation, attempt, failures, crashes,
                 state, at, began_at, started_at, output)
                 select $1, n, 1, 1, 0, 0, 'succeeded', n, n, n, o
                 from unnest($2::bigint[], $3::bytea[]) as u (n, o)",
            )
            .bind(project)
            .bind(numbers)
            .bind(outputs)
            .execute(connection)
            .await?;
        }
    }
    Ok(())
}
