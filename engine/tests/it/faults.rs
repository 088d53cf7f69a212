//! Files that are not what they should be: one clear error, and never a fresh database in
//! their place.

use std::{fs, path::Path};

use dandori::{
    Engine, Error,
    store::{Store, StoreError, StoreErrorKind},
};
use serde_json::json;
use sqlx::{Connection as _, SqliteConnection};

use crate::stage::{Stage, ended, yaml};

async fn database(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("dandori.db");
    let engine = Engine::builder().sqlite(&path).connect().await.unwrap();
    engine.submit(yaml("name: kept\ntasks: {a: {kind: work}}")).await.unwrap();
    path
}

async fn refused(path: &Path) -> StoreError {
    match Engine::builder().sqlite(path).connect().await {
        Err(Error::Store(error)) => error,
        other => panic!("{other:?}"),
    }
}

async fn execute(path: &Path, sql: &'static str) {
    let url = format!("sqlite:{}", path.display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("empty.db", b"".as_slice()),
        (
            "text.db",
            b"not a database at all, but long enough to be read as a header of one",
        ),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        let error = refused(&path).await;
        assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

#[tokio::test]
async fn a_database_of_another_program_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.db");
    let url = format!("sqlite:{}?mode=rwc", path.display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("create table notes (t text)")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let error = refused(&path).await;
    assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error}");
    execute(&path, "insert into notes values ('still here')").await;
}

#[tokio::test]
async fn a_newer_schema_is_refused_with_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(folder.path()).await;
    execute(
        &path,
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (999, 'from the future', true, x'00', 0)",
    )
    .await;
    let error = refused(&path).await;
    assert_eq!(error.kind(), StoreErrorKind::NewerSchema);
    assert!(error.to_string().contains("999"), "{error}");
    assert!(error.help().contains("newer dandori"));
}

#[tokio::test]
async fn a_damaged_file_is_an_error_and_never_a_panic_or_a_fresh_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = database(folder.path()).await;
    let whole = fs::read(&path).unwrap();
    let mut seen = 0;
    for seed in 0..60_u64 {
        let path = folder.path().join(format!("damaged-{seed}.db"));
        let mut bytes = whole.clone();
        let place =
            usize::try_from(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40).unwrap();
        if seed % 3 == 0 {
            bytes.truncate(place % bytes.len());
        } else {
            for offset in 0..256 {
                let at = (place + offset) % bytes.len();
                bytes[at] ^= 0x5a;
            }
        }
        fs::write(&path, &bytes).unwrap();
        let read = async {
            let engine = Engine::builder().sqlite(&path).connect().await?;
            engine.find("kept").await?.view().await
        };
        match read.await {
            Ok(view) => assert_eq!(view.name, "kept"),
            Err(error) => {
                seen += 1;
                assert!(!error.to_string().is_empty() && !error.help().is_empty());
            }
        }
        assert_eq!(fs::read(&path).unwrap().is_empty(), bytes.is_empty());
    }
    assert!(seen > 10, "the damage was hardly noticed: {seen} of 60");
}

#[tokio::test]
async fn a_missing_file_is_created_only_by_who_may_create_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.db");
    let error = Engine::builder().existing_sqlite(&path).connect().await.unwrap_err();
    assert!(
        matches!(error, Error::Store(error) if error.kind() == StoreErrorKind::Unavailable)
    );
    assert!(!path.exists());
    let nowhere = folder.path().join("no/such/folder/x.db");
    assert_eq!(refused(&nowhere).await.kind(), StoreErrorKind::Unavailable);
}

#[tokio::test]
async fn two_processes_may_create_the_same_file_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("race.db");
    let open = |path: std::path::PathBuf| async move { Store::open(&path, true).await };
    let (one, other) = tokio::join!(
        tokio::spawn(open(path.clone())),
        tokio::spawn(open(path.clone()))
    );
    one.unwrap().unwrap();
    other.unwrap().unwrap();
}

#[tokio::test]
async fn a_damaged_plan_stops_its_own_project_only() {
    let stage = Stage::new();
    let other = stage.builder().connect().await.unwrap();
    let bad = other.submit(yaml("name: bad\ntasks: {x: {kind: work}}")).await.unwrap();
    execute(&stage.path(), "update plans set body = x'7b7d'").await;
    let engine = stage.engine().await;
    let good = engine.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
    stage.next().await.succeed(json!(1));
    assert_eq!(ended(&good).await.state.as_str(), "succeeded");
    assert_eq!(bad.row().await.unwrap().state.as_str(), "pending");
    assert!(engine.execute(bad.id()).await.is_err());
    engine.shutdown().await;
}

/// A database as the first version left it, in the middle of a project.
#[tokio::test]
async fn a_database_of_the_first_version_is_brought_up_to_date_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.db");
    {
        let old = folder.path().join("made.db");
        let engine = Engine::builder().sqlite(&old).connect().await.unwrap();
        engine.submit(yaml("tasks: {a: {kind: work}}")).await.unwrap();
    }
    let schema = include_str!("../../../migrations/sqlite/0001_first_run.sql");
    let made = folder.path().join("made.db").display().to_string();
    let first = sqlx::migrate::Migration::new(
        1,
        "first run".into(),
        sqlx::migrate::MigrationType::Simple,
        sqlx::SqlSafeStr::into_sql_str(schema),
        false,
    );
    let url = format!("sqlite:{}?mode=rwc", path.display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    for text in [
        "pragma journal_mode = wal; pragma application_id = 1684956274".to_owned(),
        schema.to_owned(),
        "create table _sqlx_migrations (version bigint primary key, description text not null,
            installed_on timestamp not null default current_timestamp,
            success boolean not null, checksum blob not null, execution_time bigint not null)"
            .to_owned(),
        format!("attach '{made}' as made"),
        "insert into plans select * from made.plans;
         insert into projects (id, name, state, plan, priority, session, epoch, adoptions,
            loads, charged, last_event, mail, next_no, counts, created_at)
         select id, name, state, plan, priority, x'00112233445566778899aabbccddeeff', 1, 0, 0,
            0, last_event, mail, next_no, counts, created_at from made.projects;
         insert into project_data select * from made.project_data;
         insert into events select * from made.events;
         insert into sessions (id, state, process, command, started_at)
         values (x'00112233445566778899aabbccddeeff', 'live', 1, 'old', 1)"
            .to_owned(),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut connection).await.unwrap();
    }
    sqlx::query(
        "insert into _sqlx_migrations values (1, 'first run', '2026', true, $1, 0)",
    )
    .bind(first.checksum.to_vec())
    .execute(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
    let stage = Stage::new();
    let engine = stage.builder().sqlite(&path).start().await.unwrap();
    stage.next().await.succeed(json!(1));
    let project = engine.find("last").await.unwrap();
    assert_eq!(ended(&project).await.state.as_str(), "succeeded");
    engine.shutdown().await;
}
