//! Stored formats: a database that was written at any schema is brought up to date, shows what
//! it holds, and its project is replayed.

use std::path::{Path, PathBuf};

use dandori::{Context, Engine, ReplayOptions, StepError, handler_fn};
use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection};

use crate::{backend::figure, stage::ended};

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
        let text = std::fs::read_to_string(file).unwrap();
        let name = file.file_stem().unwrap().to_string_lossy();
        let name = name.split_once('_').unwrap().1.replace('_', " ");
        let migration = sqlx::migrate::Migration::new(
            version,
            name.clone().into(),
            sqlx::migrate::MigrationType::Simple,
            sqlx::SqlSafeStr::into_sql_str(sqlx::AssertSqlSafe(text.clone())),
            false,
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(text))
            .execute(&mut connection)
            .await
            .unwrap();
        sqlx::query(
            "insert into _sqlx_migrations values ($1, $2, '2026', true, $3, 0)",
        )
        .bind(version)
        .bind(name)
        .bind(migration.checksum.to_vec())
        .execute(&mut connection)
        .await
        .unwrap();
    }
    let text = std::fs::read_to_string(rows).unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_every_schema_is_brought_up_to_date_and_its_project_replayed() {
    let migrations = folder("../migrations/sqlite");
    let fixtures = folder("tests/data/stored");
    let names = |files: &[PathBuf]| -> Vec<String> {
        let name =
            |it: &PathBuf| it.file_name().unwrap().to_string_lossy().into_owned();
        files.iter().map(name).collect()
    };
    assert_eq!(names(&fixtures), names(&migrations), "a fixture for every migration");
    for (count, rows) in (1..).zip(&fixtures) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("old.db");
        written(&path, &migrations[..count], rows).await;
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
        let builder = Engine::builder().sqlite(&path).handler(handler_fn("noop", echo));
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
    let what = "databases, one of each schema: brought up to date, shown, replayed";
    figure("replay 5", what, fixtures.len());
}
