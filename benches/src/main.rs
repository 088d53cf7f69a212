//! Throughput and latency, side by side with what the bare database does in the same run.
//!
//! `scripts/bench` runs it. Times depend on the machine; the ratios are what counts. Both
//! sides write with WAL and `synchronous=FULL`.

#![expect(clippy::print_stdout, reason = "figures are printed")]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use dandori::{Context, Engine, Project, StepError, handler_fn, spec::Task};
use sqlx::{
    Connection as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

/// Each figure is the median of so many.
const ROUNDS: usize = 5;
/// Steps of a wide project.
const WIDE: usize = 50_000;
/// Steps of a chain.
const LONG: usize = 2_000;
/// Rows in a transaction of the floor: what the engine gathers under load.
const BATCH: usize = 256;

type Anything = Box<dyn std::error::Error>;

async fn noop(_: Context, _: serde_json::Value) -> Result<(), StepError> {
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Anything> {
    let mut hops = vec![];
    let mut commits = vec![];
    let mut steps = vec![];
    let mut rows = vec![];
    for _ in 0..ROUNDS {
        // In turn, so that a slow moment of the machine hits both.
        hops.push(project(chain).await? / u32::try_from(LONG)?);
        commits.push(floor(LONG, 1).await? / u32::try_from(LONG)?);
        steps.push(project(wide).await? / u32::try_from(WIDE)?);
        rows.push(floor(WIDE, BATCH).await? / u32::try_from(WIDE)?);
    }
    let (hop, commit) = (median(hops), median(commits));
    let (step, row) = (median(steps), median(rows));
    println!(
        "a hop of a chain        {hop:>9.1?}   a bare commit of one row  {commit:>9.1?}"
    );
    println!("  hop / commit          {:>9.2}", ratio(hop, commit));
    println!(
        "a step of a wide project{step:>9.1?}   a row of {BATCH} in a commit  {row:>9.1?}"
    );
    println!("  step / row            {:>9.2}", ratio(step, row));
    println!("steps a second          {:>9.0}", 1.0 / step.as_secs_f64());
    Ok(())
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn chain() -> Project {
    (0..LONG).fold(Project::named("chain"), |project, at| {
        let needs = (at > 0).then(|| format!("t{}", at.saturating_sub(1)));
        project.task(Task::new(format!("t{at}"), "noop").needs(needs))
    })
}

fn wide() -> Project {
    (0..WIDE).fold(Project::named("wide"), |project, at| {
        project.task(Task::new(format!("t{at}"), "noop"))
    })
}

/// From the first step that may start to the recorded end.
async fn project(make: fn() -> Project) -> Result<Duration, Anything> {
    let folder = tempfile::tempdir()?;
    let engine = Engine::builder()
        .sqlite(folder.path().join("dandori.db"))
        .handler(handler_fn("noop", noop))
        .start()
        .await?;
    let handle = engine.submit(make()).await?;
    handle.wait().await?;
    let row = handle.row().await?;
    engine.shutdown().await;
    let times = row.began_at.zip(row.finished_at);
    let (began, ended) = times.ok_or("the project has no times")?;
    Ok(ended.since(began))
}

/// The least that recording so many results costs: one narrow row each.
async fn floor(rows: usize, batch: usize) -> Result<Duration, Anything> {
    let folder = tempfile::tempdir()?;
    let mut connection = open(&folder.path().join("floor.db")).await?;
    sqlx::raw_sql(
        "create table steps (no integer primary key, state text, at integer) strict",
    )
    .execute(&mut connection)
    .await?;
    // One statement a batch: a statement a row would measure the driver.
    let values = vec!["(?, 'succeeded', ?)"; batch].join(", ");
    let insert = format!("insert into steps values {values}");
    let began = Instant::now();
    let mut no = 0_i64;
    while no < i64::try_from(rows)? {
        let mut tx = connection.begin_with("begin immediate").await?;
        let mut query = sqlx::query(sqlx::AssertSqlSafe(insert.clone()));
        for _ in 0..batch {
            query = query.bind(no).bind(no);
            no += 1;
        }
        query.execute(&mut *tx).await?;
        tx.commit().await?;
    }
    Ok(began.elapsed())
}

async fn open(path: &Path) -> Result<SqliteConnection, Anything> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    Ok(SqliteConnection::connect_with(&options).await?)
}
