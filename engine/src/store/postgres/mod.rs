//! PostgreSQL: a connection for commits, one for the heart, small pools for the rest.
//!
//! Owns connections, deadlines and hints. What went wrong on a connection ends the
//! connection: a driver that was interrupted and a server that aborted a transaction do
//! not always agree on where they stand, and a new connection costs milliseconds.
//!
//! Invariant: no connection returns to a pool after an error, and none inside a transaction.

#[path = "../portable/access.rs"]
mod access;
#[path = "../portable/archive.rs"]
mod archive;
#[path = "../portable/checkpoints.rs"]
mod checkpoints;
#[path = "../portable/claims.rs"]
mod claims;
mod commit;
#[path = "../portable/forks.rs"]
mod forks;
mod hints;
mod open;
mod own;
mod put;
#[path = "../portable/read.rs"]
mod read;
#[path = "../portable/replays.rs"]
mod replays;
#[path = "../portable/rows.rs"]
mod rows;
#[path = "../portable/spill.rs"]
mod spill;
#[path = "../portable/submit.rs"]
mod submit;
#[path = "../portable/write.rs"]
mod write;

use std::{fmt, sync::Arc, time::Duration};

use sqlx::{
    Connection as _, PgConnection, PgPool,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgRow},
};

pub(crate) use self::hints::Listener;
pub use self::open::PostgresOptions;
use self::{hints::Hints, own::Own};
use super::{
    Beat, Pulse, Statements, StoreError, StoreErrorKind, TxFuture, crash::Crashes,
    gather::Submissions,
};
use crate::{SessionId, Timestamp};

// What the portable bodies are compiled with here.
use PgConnection as Connection;
use PgRow as Row;
use PostgresStore as Backend;
use sqlx::Postgres as Driver;

/// One snapshot for several statements.
const SNAPSHOT: &str = "begin isolation level repeatable read, read only";

/// No statement takes longer: the server ends it after 15 s, and a server that does not
/// answer is not waited for. The driver sets no keepalive on its sockets.
const DEADLINE: Duration = Duration::from_secs(18);
/// Connecting takes no longer.
const CONNECT: Duration = Duration::from_secs(5);

/// A PostgreSQL database. Cheap to clone.
#[derive(Clone)]
pub struct PostgresStore(Arc<Inner>);

struct Inner {
    options: PgConnectOptions,
    /// Past a connection pooler, where there is one.
    direct: PgConnectOptions,
    schema: String,
    /// Verbs that write, but for commits.
    writers: PgPool,
    /// Readers never take a connection from those who write.
    readers: PgPool,
    committer: Own,
    submitter: Own,
    /// A busy pool must not cost a lease.
    heart: Own,
    sql: &'static Statements,
    hints: Hints,
    submissions: Submissions,
    crashes: Crashes,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresStore({})", self.describe())
    }
}

impl PostgresStore {
    /// Sessions die by their leases here, not by a lock.
    const ALONE: bool = false;

    pub(super) fn sql(&self) -> &'static Statements {
        self.0.sql
    }

    /// Where it is, without the password.
    pub fn describe(&self) -> String {
        let options = &self.0.options;
        let host = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        let database = options.get_database().unwrap_or_else(|| options.get_username());
        format!("{database} on {host}, schema {}", self.0.schema)
    }

    /// Runs a writing transaction in a task of its own: a caller that goes away cannot
    /// leave it half begun. The first error ends the connection.
    async fn write<T, F>(&self, verb: &'static str, body: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> TxFuture<'c, T> + Send + 'static,
    {
        self.write_within(verb, DEADLINE, body).await
    }

    /// The same, where what there is to write decides how long it takes.
    async fn write_within<T, F>(
        &self,
        verb: &'static str,
        deadline: Duration,
        body: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> TxFuture<'c, T> + Send + 'static,
    {
        self.call_within(verb, deadline, |it| Box::pin(transaction(it, body))).await
    }

    async fn call_within<T, F>(
        &self,
        verb: &'static str,
        deadline: Duration,
        body: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> TxFuture<'c, T> + Send + 'static,
    {
        let store = self.clone();
        owned(async move {
            store.0.crashes.point(verb, false)?;
            let connection = store.0.writers.acquire().await?;
            let value = on(connection, deadline, body).await?;
            store.0.crashes.point(verb, true)?;
            Ok(value)
        })
        .await
    }

    /// Reads, also in a task of its own.
    async fn read<T, F>(&self, body: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> TxFuture<'c, T> + Send + 'static,
    {
        let store = self.clone();
        owned(async move {
            store.0.crashes.loss("read", false)?;
            let connection = store.0.readers.acquire().await?;
            on(connection, DEADLINE, body).await
        })
        .await
    }

    /// Beats on the connection of the heart. Dropping the future drops the connection.
    pub(super) async fn beat(
        &self,
        session: SessionId,
        beat: Option<Beat>,
    ) -> Result<Pulse, StoreError> {
        self.0.crashes.loss("beat", false)?;
        let sql = self.sql();
        self.0
            .heart
            .with(move |connection| {
                Box::pin(Self::beat_on(connection, sql, session, beat))
            })
            .await
    }

    /// Tells the other processes that there is something to look at. A hint: nothing
    /// depends on its arrival.
    pub(super) fn hint(&self) {
        self.0.hints.send(self.0.writers.clone(), self.0.schema.clone());
    }

    /// Listens for hints on a connection of its own; `None` where there are none.
    pub(super) async fn hints(&self) -> Option<Result<Listener, StoreError>> {
        if !self.0.hints.enabled() {
            return None;
        }
        Some(Listener::connect(&self.0.direct, self.0.schema.clone()).await)
    }

    /// The clock of the database.
    pub(super) async fn now(&self) -> Result<Timestamp, StoreError> {
        let sql = self.sql();
        self.read(move |connection| {
            Box::pin(async move {
                let now = sqlx::query_scalar(sql.clock).fetch_one(connection).await?;
                Ok(Timestamp::from_micros(now))
            })
        })
        .await
    }
}

pub(super) async fn connect(
    options: &PgConnectOptions,
) -> Result<PgConnection, StoreError> {
    tokio::time::timeout(CONNECT, PgConnection::connect_with(options))
        .await
        .map_err(|_| late("the server does not answer"))?
        .map_err(StoreError::from)
}

/// One transaction. After an error nothing is sent any more, so that a commit cannot
/// succeed with nothing in it: the server answers a commit of an aborted transaction with
/// a rollback and no error.
async fn transaction<T, F>(
    connection: &mut PgConnection,
    body: F,
) -> Result<T, StoreError>
where
    F: for<'c> FnOnce(&'c mut PgConnection) -> TxFuture<'c, T>,
{
    let mut tx = connection.begin().await?;
    let value = body(&mut tx).await?;
    tx.commit().await?;
    Ok(value)
}

/// Uses a connection within a deadline; it returns to its pool only after a success.
async fn on<T, F>(
    mut connection: PoolConnection<sqlx::Postgres>,
    deadline: Duration,
    body: F,
) -> Result<T, StoreError>
where
    F: for<'c> FnOnce(&'c mut PgConnection) -> TxFuture<'c, T>,
{
    let result = tokio::time::timeout(deadline, body(&mut connection)).await;
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            drop(connection.detach());
            Err(error)
        }
        Err(_) => {
            drop(connection.detach());
            Err(late("the server did not answer in time"))
        }
    }
}

/// Runs an operation in a task of its own, so that dropping the caller never drops it.
async fn owned<T: Send + 'static>(
    work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        Err(StoreError::new(
            StoreErrorKind::Other,
            format!("a database operation panicked: {error}"),
        ))
    })
}

fn late(message: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, message)
}
