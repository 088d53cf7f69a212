//! SQLite: one writer connection, a pool of readers, WAL with `synchronous=FULL`.
//!
//! Owns the connections and the transaction wrapper. Every writing transaction begins
//! immediate: one that upgrades from reading fails at once and ignores the busy time.

mod commit;
mod open;
mod read;
mod sql;
mod write;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use sqlx::{
    Connection as _, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};
use tokio::sync::Mutex;

use super::{ExecutorLock, LockHolder, StoreError, StoreErrorKind};

/// A place where a test may end the process in thought: before or after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashPoint {
    /// The verb that writes.
    pub verb: &'static str,
    /// Whether the write has happened.
    pub after: bool,
}

type CrashHook = Arc<dyn Fn(CrashPoint) -> bool + Send + Sync>;

/// A database file. Cheap to clone.
#[derive(Clone)]
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    path: PathBuf,
    options: SqliteConnectOptions,
    /// The one writer; `None` after an error, until the next write opens a new one.
    writer: Mutex<Option<SqliteConnection>>,
    readers: SqlitePool,
    /// Sees when the file changes.
    watcher: Mutex<Option<SqliteConnection>>,
    /// How often this process has written what its own worker must notice.
    written: AtomicU64,
    /// Tells tests about every write; answers whether the process "dies" there.
    crash: Option<CrashHook>,
    crashed: AtomicBool,
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

/// A future that borrows the connection of a transaction.
pub(super) type TxFuture<'c, T> =
    std::pin::Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'c>>;

impl SqliteStore {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.0.path
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
        crash: Option<CrashHook>,
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
            watcher: Mutex::new(None),
            written: AtomicU64::new(0),
            crash,
            crashed: AtomicBool::new(false),
            temporary,
        }))
    }

    /// Runs a writing transaction in a task of its own: a caller that goes away does not
    /// interrupt it. The first error ends the connection, and with it whatever SQLite
    /// and the driver may disagree about (an automatic rollback on a full disk).
    async fn write<T, F>(&self, verb: &'static str, body: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> TxFuture<'c, T> + Send + 'static,
    {
        let store = self.clone();
        let task = tokio::spawn(async move {
            let mut writer = store.0.writer.lock().await;
            store.crash_point(verb, false)?;
            let mut connection = match writer.take() {
                Some(connection) => connection,
                None => SqliteConnection::connect_with(&store.0.options).await?,
            };
            let mut tx = connection.begin_with("begin immediate").await?;
            let value = body(&mut tx).await?;
            tx.commit().await?;
            *writer = Some(connection);
            store.crash_point(verb, true)?;
            Ok(value)
        });
        task.await.unwrap_or_else(|error| {
            Err(StoreError::new(
                StoreErrorKind::Other,
                format!("a write panicked: {error}"),
            ))
        })
    }

    /// Lets the worker of this process look for what was written.
    fn written(&self) {
        self.0.written.fetch_add(1, Ordering::SeqCst);
    }

    fn crash_point(&self, verb: &'static str, after: bool) -> Result<(), StoreError> {
        let Some(crash) = &self.0.crash else { return Ok(()) };
        let dead =
            self.0.crashed.load(Ordering::SeqCst) || crash(CrashPoint { verb, after });
        if dead {
            self.0.crashed.store(true, Ordering::SeqCst);
            return Err(StoreError::new(StoreErrorKind::Unavailable, "injected crash"));
        }
        Ok(())
    }
}
