//! SQLite: one writer connection, a pool of readers, WAL with `synchronous=FULL`.
//!
//! Owns the connections and the transaction wrapper. Every writing transaction begins
//! immediate: one that upgrades from reading fails at once and ignores the busy time.

#[path = "../portable/access.rs"]
mod access;
#[path = "../portable/archive.rs"]
mod archive;
mod bulk;
#[path = "../portable/checkpoints.rs"]
mod checkpoints;
#[path = "../portable/claims.rs"]
mod claims;
mod commit;
#[path = "../portable/forks.rs"]
mod forks;
mod open;
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

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use sqlx::{
    Connection as _, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};
use tokio::sync::Mutex;

use super::{
    Beat, ExecutorLock, LockHolder, Pulse, SQLITE, Statements, StoreError,
    StoreErrorKind, crash::Crashes, gather::Submissions,
};
use crate::SessionId;

// What the portable bodies are compiled with here.
use SqliteConnection as Connection;
use SqliteStore as Backend;
use sqlx::{Sqlite as Driver, sqlite::SqliteRow as Row};

/// One snapshot for several statements.
const SNAPSHOT: &str = "begin";

/// A database file. Cheap to clone.
#[derive(Clone)]
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    path: PathBuf,
    options: SqliteConnectOptions,
    /// The one writer; `None` after an error, until the next write opens a new one.
    writer: Mutex<Option<SqliteConnection>>,
    readers: SqlitePool,
    sql: &'static Statements,
    /// Sees when the file changes.
    watcher: Mutex<Option<SqliteConnection>>,
    /// How often this process has written what its own worker must notice.
    written: AtomicU64,
    submissions: Submissions,
    crashes: Crashes,
    /// A database that dies with the value: its folder is removed.
    temporary: Option<PathBuf>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqliteStore({})", self.0.path.display())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(folder) = &self.temporary {
            // Nothing to be done about a failure: the folder is in the temporary place.
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

impl SqliteStore {
    /// The holder of the lock is alone: every other session is dead.
    const ALONE: bool = true;

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    pub(super) fn sql(&self) -> &'static Statements {
        self.0.sql
    }

    /// Takes the right to execute on this file, or tells who has it.
    pub(crate) fn lock(
        &self,
        who: &str,
    ) -> Result<Result<ExecutorLock, LockHolder>, StoreError> {
        ExecutorLock::take(&self.0.path, who)
    }

    fn new(
        path: PathBuf,
        options: SqliteConnectOptions,
        crashes: Crashes,
        temporary: Option<PathBuf>,
    ) -> Self {
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(std::time::Duration::from_secs(5))
            .connect_lazy_with(options.clone().read_only(true));
        Self(Arc::new(Inner {
            path,
            options,
            writer: Mutex::new(None),
            readers,
            sql: &SQLITE,
            watcher: Mutex::new(None),
            written: AtomicU64::new(0),
            submissions: Submissions::default(),
            crashes,
            temporary,
        }))
    }

    /// Runs a writing transaction in a task of its own: a caller that goes away does not
    /// interrupt it. The first error ends the connection, and with it whatever SQLite
    /// and the driver may disagree about (an automatic rollback on a full disk).
    async fn write<T, F>(&self, verb: &'static str, body: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> super::TxFuture<'c, T>
            + Send
            + 'static,
    {
        self.call(verb, |connection| Box::pin(transaction(connection, body))).await
    }

    /// The same on a connection that holds the rows against the checks of the schema, for
    /// what comes from outside. A file has no deadlines.
    async fn write_within<T, F>(
        &self,
        verb: &'static str,
        _deadline: std::time::Duration,
        body: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> super::TxFuture<'c, T>
            + Send
            + 'static,
    {
        let options = self.0.options.clone();
        let checked =
            options.foreign_keys(true).pragma("ignore_check_constraints", "off");
        self.call_on(verb, Some(checked), |it| Box::pin(transaction(it, body))).await
    }

    /// The same for a body that begins and ends its own transaction.
    async fn call<T, F>(&self, verb: &'static str, body: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> super::TxFuture<'c, T>
            + Send
            + 'static,
    {
        self.call_on(verb, None, body).await
    }

    /// In the turn of the writer: on its connection, or on one with options of its own.
    async fn call_on<T, F>(
        &self,
        verb: &'static str,
        options: Option<SqliteConnectOptions>,
        body: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> super::TxFuture<'c, T>
            + Send
            + 'static,
    {
        let store = self.clone();
        let task = tokio::spawn(async move {
            let mut writer = store.0.writer.lock().await;
            store.0.crashes.point(verb, false)?;
            let known = if options.is_none() { writer.take() } else { None };
            let mut connection = match known {
                Some(connection) => connection,
                None => {
                    let options = options.as_ref().unwrap_or(&store.0.options);
                    SqliteConnection::connect_with(options).await?
                }
            };
            let value = body(&mut connection).await?;
            match options {
                Some(_) => connection.close().await?,
                None => *writer = Some(connection),
            }
            store.0.crashes.point(verb, true)?;
            Ok(value)
        });
        task.await.unwrap_or_else(|error| {
            Err(StoreError::new(
                StoreErrorKind::Other,
                format!("a write panicked: {error}"),
            ))
        })
    }

    /// Reads on a connection of its own, and never waits for the writer.
    async fn read<T, F>(&self, body: F) -> Result<T, StoreError>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> super::TxFuture<'c, T>,
    {
        let mut connection = self.0.readers.acquire().await?;
        body(&mut connection).await
    }

    /// Lets the worker of this process look for what was written.
    pub(super) fn written(&self) {
        self.0.written.fetch_add(1, Ordering::SeqCst);
    }

    /// Two numbers, of which one changes when somebody has submitted a project or sent a
    /// message: in another process, or in this one.
    pub(super) async fn data_version(&self) -> Result<(i64, u64), StoreError> {
        let here = self.0.written.load(Ordering::SeqCst);
        // The number counts for one connection only, and one of its own: asking the
        // writer's would wait for the commit in flight.
        let mut watcher = self.0.watcher.lock().await;
        let connection = match watcher.as_mut() {
            Some(connection) => connection,
            None => watcher.insert(
                SqliteConnection::connect_with(&self.0.options.clone().read_only(true))
                    .await?,
            ),
        };
        let version =
            sqlx::query_scalar("pragma data_version").fetch_one(connection).await;
        if version.is_err() {
            *watcher = None;
        }
        Ok((version?, here))
    }

    /// Beats. Nothing on SQLite depends on it: the lock on the file is the proof of life.
    pub(super) async fn beat(
        &self,
        session: SessionId,
        beat: Option<Beat>,
    ) -> Result<Pulse, StoreError> {
        let sql = self.sql();
        self.write("beat", move |tx| {
            Box::pin(async move { Self::beat_on(tx, sql, session, beat).await })
        })
        .await
    }
}

async fn transaction<T, F>(
    connection: &mut SqliteConnection,
    body: F,
) -> Result<T, StoreError>
where
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> super::TxFuture<'c, T>,
{
    let mut tx = connection.begin_with("begin immediate").await?;
    let value = body(&mut tx).await?;
    tx.commit().await?;
    Ok(value)
}
