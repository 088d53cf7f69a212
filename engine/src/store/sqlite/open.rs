//! Opening: create whole or not at all, migrate, refuse what is not ours.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable as _};
use sqlx::{
    Connection as _, SqliteConnection,
    migrate::{Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::SqliteStore;
use crate::store::{CrashPoint, StoreError, StoreErrorKind, crash::Crashes};

/// Marks a file as ours ("dndr" in ASCII).
const APPLICATION_ID: i64 = 0x646e_6472;

/// The oldest SQLite without the WAL-reset corruption.
const OLDEST_SQLITE: (u32, u32, u32) = (3, 51, 3);

/// All migrations, forward only.
fn migrator() -> Migrator {
    let migration = |version, name: &'static str, sql: &'static str| {
        let sql = sqlx::SqlSafeStr::into_sql_str(sql);
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, sql, false)
    };
    Migrator::with_migrations(vec![
        migration(
            1,
            "first run",
            include_str!("../../../../migrations/sqlite/0001_first_run.sql"),
        ),
        migration(
            2,
            "many workers",
            include_str!("../../../../migrations/sqlite/0002_many_workers.sql"),
        ),
        migration(
            3,
            "counted writes",
            include_str!("../../../../migrations/sqlite/0003_counted_writes.sql"),
        ),
        migration(
            4,
            "expansions",
            include_str!("../../../../migrations/sqlite/0004_expansions.sql"),
        ),
        migration(
            5,
            "access",
            include_str!("../../../../migrations/sqlite/0005_access.sql"),
        ),
        migration(
            6,
            "compression",
            include_str!("../../../../migrations/sqlite/0006_compression.sql"),
        ),
        migration(
            7,
            "steering",
            include_str!("../../../../migrations/sqlite/0007_steering.sql"),
        ),
        migration(
            8,
            "replays",
            include_str!("../../../../migrations/sqlite/0008_replays.sql"),
        ),
        migration(
            9,
            "checkpoints",
            include_str!("../../../../migrations/sqlite/0009_checkpoints.sql"),
        ),
        migration(
            10,
            "forks",
            include_str!("../../../../migrations/sqlite/0010_forks.sql"),
        ),
        migration(
            11,
            "lean rows",
            include_str!("../../../../migrations/sqlite/0011_lean_rows.sql"),
        ),
        migration(
            12,
            "unchecked rows",
            include_str!("../../../../migrations/sqlite/0012_unchecked_rows.sql"),
        ),
        migration(
            13,
            "held projects",
            include_str!("../../../../migrations/sqlite/0013_held_projects.sql"),
        ),
    ])
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        // The keys and checks of the schema are for the tests: they cost a fifth of a row.
        // What is written refers to rows that the same transaction holds, and no verb removes
        // a row that others refer to.
        .foreign_keys(cfg!(debug_assertions))
        .pragma(
            "ignore_check_constraints",
            if cfg!(debug_assertions) { "off" } else { "on" },
        )
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(5))
        .pragma("mmap_size", "0")
        .pragma("journal_size_limit", "67108864")
        // A text for each combination of sizes of what a commit holds.
        .statement_cache_capacity(512)
        .optimize_on_close(false, None)
}

impl SqliteStore {
    /// Opens a database file; creates it when `create` says so and there is none.
    ///
    /// A file is created whole under another name and then renamed, so that an empty or
    /// half-made file is always damage and never taken for a fresh database.
    ///
    /// # Errors
    /// When the file cannot be opened or is not ours, with the remedy.
    pub async fn open(path: &Path, create: bool) -> Result<Self, StoreError> {
        Self::open_with(path, create, Crashes::default(), None).await
    }

    /// Opens a database whose writes are reported to `crash`; `true` from it ends the
    /// store as if the process had died there.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub async fn open_for_crashes(
        path: &Path,
        crash: impl Fn(CrashPoint) -> bool + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        Self::open_with(path, true, Crashes::new(crash), None).await
    }

    /// Opens a fresh database that is removed with the last clone of the store. It is a
    /// file in the temporary folder: every connection to `:memory:` would see a database
    /// of its own.
    ///
    /// # Errors
    /// When the temporary folder cannot be written.
    pub async fn open_temporary() -> Result<Self, StoreError> {
        let name = format!("dandori-{}", crate::SessionId::fresh());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).map_err(|error| io(&folder, &error))?;
        let path = folder.join("dandori.db");
        Self::open_with(&path, true, Crashes::default(), Some(folder)).await
    }

    async fn open_with(
        path: &Path,
        create: bool,
        crashes: Crashes,
        temporary: Option<PathBuf>,
    ) -> Result<Self, StoreError> {
        match std::fs::metadata(path) {
            Ok(meta) if !meta.is_file() => {
                let message = format!("{} is not a file", path.display());
                return Err(StoreError::new(StoreErrorKind::Unavailable, message));
            }
            Ok(meta) if meta.len() == 0 => {
                let message = format!(
                    "{} is empty: it was a database or never was one",
                    path.display()
                );
                return Err(StoreError::new(StoreErrorKind::Corrupt, message));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && create => {
                build(path).await?;
            }
            Err(error) => return Err(io(path, &error)),
        }
        // Another process that opens or closes the file holds it for a moment, and SQLite
        // does not wait for that by itself.
        let patience = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(10))
            .with_max_delay(Duration::from_millis(500))
            .with_max_times(15)
            .with_jitter();
        (|| check_and_migrate(path))
            .retry(patience)
            .when(|error| error.kind() == StoreErrorKind::Busy)
            .await
            .map_err(|error| named(path, &error))?;
        Ok(Self::new(path.to_owned(), options(path), crashes, temporary))
    }
}

fn io(path: &Path, error: &std::io::Error) -> StoreError {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied
        | std::io::ErrorKind::ReadOnlyFilesystem => StoreErrorKind::ReadOnly,
        std::io::ErrorKind::StorageFull => StoreErrorKind::Full,
        _ => StoreErrorKind::Unavailable,
    };
    StoreError::new(kind, format!("{}: {error}", path.display()))
}

fn named(path: &Path, error: &StoreError) -> StoreError {
    StoreError::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Makes a migrated database under a name of its own, then gives it its real name.
async fn build(path: &Path) -> Result<(), StoreError> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".new-{}", crate::SessionId::fresh()));
    let draft = PathBuf::from(draft);
    let remove = |draft: &Path| {
        for ending in ["", "-wal", "-shm", "-journal"] {
            let mut name = draft.as_os_str().to_owned();
            name.push(ending);
            let _ = std::fs::remove_file(PathBuf::from(name));
        }
    };
    remove(&draft);
    // Asked of the file system first: its words are clearer than SQLite's.
    std::fs::File::create(&draft).map_err(|error| io(path, &error))?;
    let made = async {
        let options = options(&draft).journal_mode(SqliteJournalMode::Wal);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        sqlx::raw_sql("pragma application_id = 1684956274")
            .execute(&mut connection)
            .await?;
        migrate(&mut connection).await?;
        // The last connection to close folds the write-ahead log into the file.
        connection.close().await.map_err(StoreError::from)
    }
    .await;
    if let Err(error) = made {
        remove(&draft);
        return Err(named(path, &error));
    }
    // A hard link fails where the name exists: two creators cannot both win.
    let linked = match std::fs::hard_link(&draft, path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(_) => std::fs::rename(&draft, path),
        Ok(()) => Ok(()),
    };
    remove(&draft);
    linked.map_err(|error| io(path, &error))?;
    if let Some(folder) = path.parent()
        && let Ok(folder) = std::fs::File::open(folder)
    {
        // Without this the name itself could be lost with the power.
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Not `Migrator::run`: the compiler cannot see through its lifetimes that the future may
/// move between threads. Boxed, because it is large.
fn migrate(
    connection: &mut SqliteConnection,
) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + '_>> {
    Box::pin(async move {
        migrator()
            .run_direct(None, connection, false)
            .await
            .map_err(|error| StoreError::new(StoreErrorKind::Other, error))
    })
}

async fn check_and_migrate(path: &Path) -> Result<(), StoreError> {
    let options = options(path);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let version: String = sqlx::query_scalar("select sqlite_version()")
        .fetch_one(&mut connection)
        .await?;
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    if (part(), part(), part()) < OLDEST_SQLITE {
        let message = format!("SQLite {version} can damage the file; 3.51.3 is needed");
        return Err(StoreError::new(StoreErrorKind::Other, message));
    }
    let id: i64 =
        sqlx::query_scalar("pragma application_id").fetch_one(&mut connection).await?;
    if id != APPLICATION_ID {
        let message = "the file is a database, but not one of dandori";
        return Err(StoreError::new(StoreErrorKind::Corrupt, message));
    }
    let newest =
        migrator().iter().map(|migration| migration.version).max().unwrap_or(0);
    let applied: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("select version, checksum from _sqlx_migrations")
            .fetch_all(&mut connection)
            .await?;
    let found = applied.iter().map(|(version, _)| *version).max().unwrap_or(0);
    if found > newest {
        let message =
            format!("its schema {found} is newer than {newest}, the newest known here");
        return Err(StoreError::new(StoreErrorKind::NewerSchema, message));
    }
    let known = migrator();
    let differs = known.iter().find(|migration| {
        let own = &*migration.checksum;
        applied.iter().any(|(version, sum)| *version == migration.version && sum != own)
    });
    if let Some(migration) = differs {
        let message =
            format!("its schema {} is not the one known here", migration.version);
        return Err(StoreError::new(StoreErrorKind::NewerSchema, message));
    }
    if found < newest {
        migrate(&mut connection).await?;
    }
    connection.close().await?;
    Ok(())
}
