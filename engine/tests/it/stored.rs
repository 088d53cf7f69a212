//! Stored formats: a database that was written at any schema is brought up to date, shows what
//! it holds, and its project is replayed.

use std::path::{Path, PathBuf};

use dandori::{Context, ReplayOptions, StepError, handler_fn};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};

use crate::{
    backend::{Backend, Database, figure},
    stage::ended,
};

fn folder(of: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(of);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A file as a program of that schema left it: its migrations, and its rows.
async fn written(path: &Path, migrations: &[PathBuf], rows: &Path) {
    let url = format!("sqlite:{}?mode=rwc", path.display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    let table = "pragma journal_mode = wal; pragma application_id = 1684956274;
        create table _sqlx_migrations (version bigint primary key, description text not null,
            installed_on timestamp not null default current_timestamp,
            success boolean not null, checksum blob not null, execution_time bigint not null)";
    sqlx::raw_sql(table).execute(&mut connection).await.unwrap();
    for (version, file) in (1_i64..).zip(migrations) {
        let (text, name, checksum) = migration(version, file);
        sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut connection).await.unwrap();
        sqlx::query(
            "insert into _sqlx_migrations values ($1, $2, '2026', true, $3, 0)",
        )
        .bind(version)
        .bind(name)
        .bind(checksum)
        .execute(&mut connection)
        .await
        .unwrap();
    }
    let text = std::fs::read_to_string(rows).unwrap();
    sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// The text of a migration, its name, and its checksum.
fn migration(version: i64, file: &Path) -> (String, String, Vec<u8>) {
    let text = std::fs::read_to_string(file).unwrap();
    let name = file.file_stem().unwrap().to_string_lossy();
    let name = name.split_once('_').unwrap().1.replace('_', " ");
    let migration = sqlx::migrate::Migration::new(
        version,
        name.clone().into(),
        sqlx::migrate::MigrationType::Simple,
        sqlx::SqlSafeStr::into_sql_str(AssertSqlSafe(text.clone())),
        false,
    );
    (text, name, migration.checksum.to_vec())
}

/// A schema as a program of that number left it. The rows are those of the file, whose
/// literals are written as the server reads them.
async fn written_on_server(place: &str, migrations: &[PathBuf], rows: &Path) {
    let (url, schema) = place.split_once("schema=").unwrap();
    let schema = schema.split('&').next().unwrap();
    let url = url.trim_end_matches(['?', '&']);
    let mut connection = PgConnection::connect(url).await.unwrap();
    let table = format!(
        "create schema {schema}; set search_path to {schema};
        create table _sqlx_migrations (version bigint primary key, description text not null,
            installed_on timestamptz not null default now(),
            success boolean not null, checksum bytea not null, execution_time bigint not null)"
    );
    sqlx::raw_sql(AssertSqlSafe(table)).execute(&mut connection).await.unwrap();
    for (version, file) in (1_i64..).zip(migrations) {
        let (text, name, checksum) = migration(version, file);
        sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut connection).await.unwrap();
        let put = "insert into _sqlx_migrations values ($1, $2, default, true, $3, 0)";
        sqlx::query(put)
            .bind(version)
            .bind(name)
            .bind(checksum)
            .execute(&mut connection)
            .await
            .unwrap();
    }
    let text = std::fs::read_to_string(rows).unwrap();
    // An id is a UUID, other bytes are bytes.
    let mut parts = text.split("x'");
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        let (digits, rest) = part.split_once('\'').unwrap();
        let bytes =
            if digits.starts_with("01a2") && digits.len() == 32 { "" } else { "\\x" };
        text.push_str(&format!("'{bytes}{digits}'{rest}"));
    }
    let charged = "alter table projects alter charged drop default,
        alter charged type bigint using charged::int";
    let again = "alter table projects alter charged type boolean using charged <> 0,
        alter charged set default false";
    for text in [charged, &text, again] {
        let text = AssertSqlSafe(text.to_owned());
        sqlx::raw_sql(text).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_every_schema_is_brought_up_to_date_and_its_project_replayed() {
    for backend in [Backend::Sqlite, Backend::Postgres] {
        every_schema(backend).await;
    }
}

async fn every_schema(backend: Backend) {
    let migrations = folder(match backend {
        Backend::Sqlite => "../migrations/sqlite",
        _ => "../migrations/postgres",
    });
    let fixtures = folder("tests/data/stored");
    let names = |files: &[PathBuf]| -> Vec<String> {
        let name =
            |it: &PathBuf| it.file_name().unwrap().to_string_lossy().into_owned();
        files.iter().map(name).collect()
    };
    let (schemas, written_by) = (names(&migrations), names(&fixtures));
    assert!(written_by.iter().all(|it| schemas.contains(it)), "{written_by:?}");
    for count in 1..=migrations.len() {
        // Most schemas hold the rows as the one before did.
        let latest = written_by.partition_point(|it| *it <= schemas[count - 1]);
        let rows = &fixtures[latest - 1];
        let database = Database::fresh(backend);
        match backend {
            Backend::Sqlite => {
                written(database.place.as_ref(), &migrations[..count], rows).await;
            }
            _ => written_on_server(&database.place, &migrations[..count], rows).await,
        }
        let echo =
            |_: Context, input: Value| async move { Ok(input["output"].clone()) };
        let render =
            handler_fn("template.render", async |_: Context, _: Value| Ok(json!(1)));
        let fail = handler_fn("fail", async |ctx: Context, input: Value| {
            match ctx.generation() {
                1 => Err(StepError::fail("failed", "once")),
                _ => Ok(input["message"].clone()),
            }
        });
        let builder = database.builder().handler(handler_fn("noop", echo));
        let engine = builder.handler(render).handler(fail).start().await.unwrap();
        let project = engine.find("kept").await.unwrap();
        let view = project.view().await.unwrap();
        assert_eq!(view.state.as_str(), "failed", "{count}");
        let output = |name: &str| {
            let step = view.steps.iter().find(|it| it.name == name).unwrap();
            step.output.as_ref().unwrap().get().to_owned()
        };
        assert_eq!(
            (output("a"), output("each")),
            ("[1,2,3]".into(), "[10,20,30]".into())
        );
        assert!(output("large").len() > 3_000, "{count}: one that stands apart");
        assert_eq!(project.attempts().await.unwrap().len(), 1, "{count}");
        let events = project.events(0).await.unwrap();
        assert_eq!(events.last().unwrap().kind, "project.failed", "{count}");
        let plan = project.plan_replay_of(&ReplayOptions::default()).await.unwrap();
        let runs = plan.preview.steps.iter().filter(|it| it.action == "run");
        let runs: Vec<_> = runs.map(|it| &*it.name).collect();
        assert_eq!(runs, ["broken", "last"], "{count}");
        project.replay(plan).await.unwrap();
        let view = ended(&project).await;
        assert_eq!(view.output.unwrap().get(), r#"{"last":[10,20,30]}"#, "{count}");
        engine.shutdown().await;
    }
    let what = format!(
        "databases on {backend:?}, one of each schema: brought up to date, shown, replayed"
    );
    figure("replay 5", &what, migrations.len());
}
