//! Opening: the address, session settings, the schema and its migrations.

use std::{borrow::Cow, pin::Pin, str::FromStr as _, time::Duration};

use sqlx::{
    Connection as _, Executor as _, PgConnection,
    migrate::{Migration, MigrationType, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::{Hints, Inner, Own, PostgresStore};
use crate::store::{
    CrashPoint, POSTGRES, Statements, StoreError, StoreErrorKind, crash::Crashes,
};

/// Tables live in a schema of their own: an application has tables named `projects` too.
const SCHEMA: &str = "dandori";

/// The oldest version that is tested.
const OLDEST: i32 = 150_000;

/// How a PostgreSQL database is opened.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// `postgres://…`. The parameter `schema` chooses the schema, `dandori` by default.
    pub url: String,
    /// An address past a connection pooler in transaction mode, for migrations and hints.
    pub direct_url: Option<String>,
    /// Whether the schema is created and migrated.
    pub create: bool,
    /// Whether processes send each other hints; without, they only poll.
    pub notify: bool,
}

impl PostgresOptions {
    /// Options with everything on.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), direct_url: None, create: true, notify: true }
    }
}

/// All migrations, forward only, with the numbers and names of SQLite's.
fn migrator() -> Migrator {
    let migration = |version, name: &'static str, sql: &'static str| {
        let sql = sqlx::SqlSafeStr::into_sql_str(sql);
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, sql, false)
    };
    Migrator::with_migrations(vec![
        migration(
            1,
            "first run",
            include_str!("../../../../migrations/postgres/0001_first_run.sql"),
        ),
        migration(
            2,
            "many workers",
            include_str!("../../../../migrations/postgres/0002_many_workers.sql"),
        ),
        migration(
            3,
            "counted writes",
            include_str!("../../../../migrations/postgres/0003_counted_writes.sql"),
        ),
        migration(
            4,
            "expansions",
            include_str!("../../../../migrations/postgres/0004_expansions.sql"),
        ),
        migration(
            5,
            "access",
            include_str!("../../../../migrations/postgres/0005_access.sql"),
        ),
        migration(
            6,
            "compression",
            include_str!("../../../../migrations/postgres/0006_compression.sql"),
        ),
        migration(
            7,
            "steering",
            include_str!("../../../../migrations/postgres/0007_steering.sql"),
        ),
        migration(
            8,
            "replays",
            include_str!("../../../../migrations/postgres/0008_replays.sql"),
        ),
        migration(
            9,
            "checkpoints",
            include_str!("../../../../migrations/postgres/0009_checkpoints.sql"),
        ),
        migration(
            10,
            "forks",
            include_str!("../../../../migrations/postgres/0010_forks.sql"),
        ),
        migration(
            11,
            "lean rows",
            include_str!("../../../../migrations/postgres/0011_lean_rows.sql"),
        ),
        migration(
            12,
            "unchecked rows",
            include_str!("../../../../migrations/postgres/0012_unchecked_rows.sql"),
        ),
        migration(
            13,
            "held projects",
            include_str!("../../../../migrations/postgres/0013_held_projects.sql"),
        ),
    ])
}

impl PostgresStore {
    /// Opens a database.
    ///
    /// # Errors
    /// When it cannot be reached, is too old, or its schema is not ours.
    pub async fn open(options: &PostgresOptions) -> Result<Self, StoreError> {
        Self::open_with(options, &POSTGRES, Crashes::default()).await
    }

    /// Opens a database whose writes are reported to `crash`; `true` from it ends the
    /// store as if the process had died there.
    ///
    /// # Errors
    /// As [`PostgresStore::open`].
    pub async fn open_for_crashes(
        options: &PostgresOptions,
        crash: impl Fn(CrashPoint) -> bool + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        Self::open_with(options, &POSTGRES, Crashes::new(crash)).await
    }

    /// Opens a database that answers with the errors that `lost` names: before a write, or
    /// after it instead of its answer. The verbs `read` and `beat` are asked too.
    ///
    /// # Errors
    /// As [`PostgresStore::open`].
    pub async fn open_for_losses(
        options: &PostgresOptions,
        lost: impl Fn(CrashPoint) -> Option<StoreErrorKind> + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        Self::open_with(options, &POSTGRES, Crashes::losses(lost)).await
    }

    pub(in crate::store) async fn open_with(
        options: &PostgresOptions,
        sql: &'static Statements,
        crashes: Crashes,
    ) -> Result<Self, StoreError> {
        let (connect, schema) = parse(&options.url)?;
        let direct = match &options.direct_url {
            Some(url) => parse(url)?.0,
            None => connect.clone(),
        };
        prepare(&direct, &schema, options.create).await?;
        let pool = |most| {
            PgPoolOptions::new()
                .max_connections(most)
                .acquire_timeout(Duration::from_secs(2))
                .idle_timeout(Duration::from_secs(60))
                // Whatever happened on it: a connection never returns inside a transaction.
                // The driver does not notice when its own `begin` was interrupted, and a
                // bare `rollback` would leave a warning in the log of the server each time.
                .after_release(|connection, _| {
                    Box::pin(async move {
                        connection.execute("begin; rollback").await?;
                        Ok(true)
                    })
                })
                .connect_lazy_with(connect.clone())
        };
        Ok(Self(std::sync::Arc::new(Inner {
            writers: pool(4),
            readers: pool(4),
            committer: Own::for_lists(&connect),
            submitter: Own::for_lists(&connect),
            heart: Own::for_beats(&connect),
            hints: Hints::new(options.notify),
            direct,
            options: connect,
            schema,
            sql,
            submissions: super::Submissions::default(),
            crashes,
        })))
    }
}

/// The address without what is ours, and the schema.
fn parse(url: &str) -> Result<(PgConnectOptions, String), StoreError> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let mut schema = SCHEMA.to_owned();
    let mut kept = vec![];
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("schema", name)) => name.clone_into(&mut schema),
            _ => kept.push(parameter),
        }
    }
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if schema.is_empty()
        || schema.len() > 63
        || !schema.chars().all(fits)
        || schema.starts_with(|c: char| c.is_ascii_digit())
    {
        let message = "the schema must be made of a-z, 0-9 and _";
        return Err(StoreError::new(StoreErrorKind::Denied, message));
    }
    let mut text = base.to_owned();
    if !kept.is_empty() {
        text.push('?');
        text.push_str(&kept.join("&"));
    }
    // The text may hold a password: it is not repeated in an error.
    let options = PgConnectOptions::from_str(&text).map_err(|_| {
        let message = "the address is not postgres://USER:PASSWORD@HOST:PORT/DATABASE";
        StoreError::new(StoreErrorKind::Denied, message)
    })?;
    let options = options.application_name("dandori").options([
        ("search_path", schema.as_str()),
        // What a client leaves behind must not hold locks, and no statement of ours is long.
        ("idle_in_transaction_session_timeout", "10s"),
        ("statement_timeout", "15s"),
        ("lock_timeout", "5s"),
        // A client that is gone, or cut off, is noticed within seconds.
        ("tcp_keepalives_idle", "5"),
        ("tcp_keepalives_interval", "2"),
        ("tcp_keepalives_count", "3"),
        ("tcp_user_timeout", "10000"),
        ("client_connection_check_interval", "2000"),
    ]);
    Ok((options, schema))
}

/// Checks the server, and creates and migrates the schema where wanted.
async fn prepare(
    options: &PgConnectOptions,
    schema: &str,
    create: bool,
) -> Result<(), StoreError> {
    let mut connection = super::connect(options).await?;
    let version: String = sqlx::query_scalar("show server_version_num")
        .fetch_one(&mut connection)
        .await?;
    if version.parse::<i32>().unwrap_or(0) < OLDEST {
        let message = format!("PostgreSQL {version} is too old; 15 is needed");
        return Err(StoreError::new(StoreErrorKind::Other, message));
    }
    let newest =
        migrator().iter().map(|migration| migration.version).max().unwrap_or(0);
    let mut found = applied(&mut connection, schema).await?;
    if found.is_empty() && !create {
        let message = format!(
            "there are no tables of dandori in schema {schema}; `dandori migrate` creates them"
        );
        return Err(StoreError::new(StoreErrorKind::Unavailable, message));
    }
    check(&found, newest)?;
    if found.len() < migrator().iter().count() {
        if create {
            make(&mut connection, schema).await?;
            found = applied(&mut connection, schema).await?;
            check(&found, newest)?;
        } else {
            let message = format!(
                "schema {schema} is of an older version; run `dandori migrate`"
            );
            return Err(StoreError::new(StoreErrorKind::NewerSchema, message));
        }
    }
    warn_about_durability(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// The migrations that the schema has seen; none when it is not there.
async fn applied(
    connection: &mut PgConnection,
    schema: &str,
) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
    let exists: bool = sqlx::query_scalar(
        "select exists (select 1 from pg_tables
            where schemaname = $1 and tablename = '_sqlx_migrations')",
    )
    .bind(schema)
    .fetch_one(&mut *connection)
    .await?;
    if !exists {
        return Ok(vec![]);
    }
    Ok(sqlx::query_as("select version, checksum from _sqlx_migrations where success")
        .fetch_all(connection)
        .await?)
}

fn check(found: &[(i64, Vec<u8>)], newest: i64) -> Result<(), StoreError> {
    let last = found.iter().map(|(version, _)| *version).max().unwrap_or(0);
    if last > newest {
        let message =
            format!("its schema {last} is newer than {newest}, the newest known here");
        return Err(StoreError::new(StoreErrorKind::NewerSchema, message));
    }
    let differs = |migration: &&Migration| {
        let own = &*migration.checksum;
        found.iter().any(|(version, sum)| *version == migration.version && sum != own)
    };
    if let Some(migration) = migrator().iter().find(differs) {
        let message =
            format!("its schema {} is not the one known here", migration.version);
        return Err(StoreError::new(StoreErrorKind::NewerSchema, message));
    }
    Ok(())
}

/// Creates and migrates under a lock of the server: many workers may begin at once.
async fn make(connection: &mut PgConnection, schema: &str) -> Result<(), StoreError> {
    let there: bool = sqlx::query_scalar(
        "select exists (select 1 from pg_namespace where nspname = $1)",
    )
    .bind(schema)
    .fetch_one(&mut *connection)
    .await?;
    if !there {
        // The name is made of letters, digits and underscores.
        let statement = format!("create schema if not exists {schema}");
        let made = connection.execute(sqlx::AssertSqlSafe(statement)).await;
        if let Err(error) = made {
            // Two creators at once: one of them sees the catalogue refuse the other's row.
            let code = error.as_database_error().and_then(|error| error.code());
            if !matches!(code.as_deref(), Some("23505" | "42P06")) {
                return Err(error.into());
            }
        }
    }
    // A migration may take longer than a statement of the engine.
    connection.execute("set statement_timeout = 0; set lock_timeout = 0").await?;
    migrate(connection).await
}

/// Not `Migrator::run`: the compiler cannot see through its lifetimes that the future may
/// move between threads. Boxed, because it is large.
fn migrate(
    connection: &mut PgConnection,
) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + '_>> {
    Box::pin(async move {
        migrator()
            .run_direct(None, connection, false)
            .await
            .map_err(|error| StoreError::new(StoreErrorKind::Other, error))
    })
}

/// Says which settings of the server let it lose what it has acknowledged.
async fn warn_about_durability(
    connection: &mut PgConnection,
) -> Result<(), StoreError> {
    let settings: Vec<(String, String)> = sqlx::query_as(
        "select name, setting from pg_settings
         where name in ('fsync', 'full_page_writes', 'synchronous_commit')
            and setting = 'off'",
    )
    .fetch_all(connection)
    .await?;
    for (name, _) in settings {
        tracing::warn!(
            "{name} is off on the server: a crash there may lose what was acknowledged"
        );
    }
    Ok(())
}
