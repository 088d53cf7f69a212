//! Throughput and latency, side by side with what the bare database does in the same run.
//!
//! Times depend on the machine; the ratios are what counts. Both sides write durably: SQLite
//! with WAL and `synchronous=FULL`, PostgreSQL with its own settings.

#![expect(clippy::print_stdout, reason = "figures are printed")]

#[expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "without a server there is no bench"
)]
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../engine/tests/it/cluster.rs"]
mod cluster;
mod count;
mod floor;
mod more;
mod shape;

/// As in the `dandori` command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use dandori::{
    Context, Engine, EngineBuilder, StepError, handler_fn, run::ProjectState,
    store::ListFilter,
};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

use crate::{
    floor::Floor,
    shape::{Shape, StepKind},
};

type Anything = Box<dyn std::error::Error + Send + Sync>;

/// The output of every step: 100 bytes of JSON.
const OUTPUT: usize = 98;
/// How long a worker may take to look at what waits.
const SETTLING: Duration = Duration::from_secs(5);
/// So many projects are submitted at once.
const SUBMITTERS: usize = 64;

#[derive(Debug, Parser)]
#[command(about = "Throughput and latency beside the bare database")]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Run projects of a shape, and the floor, in turn.
    Throughput(Throughput),
    /// From submission to result of a small project, on an idle worker.
    Latency {
        /// The database.
        #[arg(long, value_enum, default_value_t = Kind::Sqlite)]
        store: Kind,
        /// Whether its steps have effects.
        #[arg(long, value_enum, default_value_t = StepKind::Noop)]
        kind: StepKind,
        /// Each figure is the median of so many rounds.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// How a worker starts, and what it costs while it has nothing to do.
    Idle {
        /// The database.
        #[arg(long, value_enum, default_value_t = Kind::Sqlite)]
        store: Kind,
        /// So many finished steps are stored before.
        #[arg(long, default_value_t = 0)]
        stored: usize,
    },
    /// What a worker holds in memory while all its slots are taken and projects wait.
    Backlog {
        /// The database.
        #[arg(long, value_enum, default_value_t = Kind::Sqlite)]
        store: Kind,
        /// So many steps, of projects of 20, are submitted a tenth at a time.
        #[arg(long, default_value_t = 1_000_000)]
        waiting: usize,
    },
    /// One and two worker processes on a PostgreSQL database.
    Workers {
        /// As for `throughput`.
        #[arg(long, default_value = "fanout")]
        shape: Shape,
        /// How many steps in all.
        #[arg(long, default_value_t = 100_000)]
        steps: usize,
        /// Each figure is the median of so many rounds.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// A process among several.
    #[command(hide = true)]
    Share {
        /// An address.
        #[arg(long)]
        at: String,
        #[arg(long)]
        shape: Shape,
        #[arg(long)]
        steps: usize,
        /// How often.
        #[arg(long)]
        times: usize,
    },
    /// Do one hot path of the core, for whoever counts its instructions.
    #[command(hide = true)]
    Work {
        /// `plan`, `apply` or `expression`.
        what: String,
        /// How many steps or evaluations.
        count: usize,
    },
}

#[derive(Debug, Parser)]
struct Throughput {
    /// The database.
    #[arg(long, value_enum, default_value_t = Kind::Sqlite)]
    store: Kind,
    /// `chain`, `fanout`, `projects` (of 20 steps, 1 → 18 → 1) or `dag:FILE`.
    #[arg(long, default_value = "fanout")]
    shape: Shape,
    /// How many steps; a file says so itself.
    #[arg(long, default_value_t = 10_000)]
    steps: usize,
    /// Each figure is the median of so many rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Whether steps have effects; those of a chain do, others do not.
    #[arg(long, value_enum)]
    kind: Option<StepKind>,
    /// How many steps run at once.
    #[arg(long, default_value_t = 256)]
    concurrency: usize,
    /// So many finished steps are stored before.
    #[arg(long, default_value_t = 0)]
    stored: usize,
    /// So many steps of small projects wait meanwhile, in a queue that is paused.
    #[arg(long, default_value_t = 0)]
    waiting: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

/// A fresh database. Its folder is removed with it.
pub(crate) struct Place {
    pub(crate) kind: Kind,
    /// A path or an address.
    pub(crate) at: String,
    _folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn fresh(kind: Kind) -> Result<Self, Anything> {
        let folder = tempfile::tempdir()?;
        let at = match kind {
            Kind::Sqlite => folder.path().join("bench.db").display().to_string(),
            Kind::Postgres => cluster::Cluster::shared().fresh(),
        };
        Ok(Self { kind, at, _folder: folder })
    }

    /// One that is there.
    pub(crate) fn at(kind: Kind, at: String) -> Result<Self, Anything> {
        Ok(Self { kind, at, _folder: tempfile::tempdir()? })
    }

    /// Leaves nothing behind that a server would have to write during what follows.
    pub(crate) async fn remove(self) -> Result<(), Anything> {
        let Some((url, schema)) = self.at.split_once("schema=") else { return Ok(()) };
        let url = url.trim_end_matches(['?', '&']);
        let mut connection = PgConnection::connect(url).await?;
        let drop = format!("drop schema if exists {schema} cascade");
        sqlx::raw_sql(sqlx::AssertSqlSafe(drop)).execute(&mut connection).await?;
        Ok(())
    }

    pub(crate) fn builder(&self) -> EngineBuilder {
        match self.kind {
            Kind::Sqlite => Engine::builder().sqlite(PathBuf::from(&self.at)),
            Kind::Postgres => Engine::builder().postgres(&self.at),
        }
    }

    pub(crate) async fn engine(&self, concurrency: usize) -> Result<Engine, Anything> {
        let noop = async |_: Context, _: serde_json::Value| {
            Ok::<_, StepError>("x".repeat(OUTPUT))
        };
        let builder = self.builder();
        let builder = [StepKind::Noop, StepKind::Call].into_iter().fold(
            builder,
            |builder, kind| {
                let handler = handler_fn(kind.name(), noop);
                match kind {
                    StepKind::Noop => builder.handler(handler.pure()),
                    StepKind::Call => builder.handler(handler),
                }
            },
        );
        Ok(builder.concurrency(concurrency).start().await?)
    }
}

/// Microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Percentiles {
    p50: f64,
    p95: f64,
    p99: f64,
}

#[derive(Debug, Serialize)]
struct Figures {
    store: String,
    shape: String,
    steps: usize,
    steps_per_s: f64,
    hop_us: Percentiles,
    cpu_us_per_step: f64,
    rss_mb: f64,
    statements_per_step: f64,
    floor_rows_per_s: f64,
    floor_commit_us: f64,
    ratio: f64,
}

fn main() -> Result<(), Anything> {
    let on = tokio::runtime::Runtime::new()?;
    match Args::parse().what {
        What::Throughput(args) => on.block_on(measure(&args)),
        What::Latency { store, kind, rounds } => {
            on.block_on(more::latency(store, kind, rounds))
        }
        What::Idle { store, stored } => on.block_on(more::idle(store, stored)),
        What::Backlog { store, waiting } => on.block_on(more::backlog(store, waiting)),
        What::Workers { shape, steps, rounds } => more::workers(&shape, steps, rounds),
        What::Share { at, shape, steps, times } => {
            on.block_on(more::share(at, &shape, steps, times))
        }
        What::Work { what, count } => match dandori_benches::work(&what, count) {
            true => Ok(()),
            false => Err(format!("one of {}", dandori_benches::ALL.join(", ")).into()),
        },
    }
}

async fn measure(args: &Throughput) -> Result<(), Anything> {
    let figures = throughput(args).await?;
    if args.json {
        println!("{}", serde_json::to_string(&figures)?);
        return Ok(());
    }
    let Figures { hop_us, .. } = &figures;
    println!("{} on {}, {} steps", figures.shape, figures.store, figures.steps);
    println!("  steps/s              {:>10.0}", figures.steps_per_s);
    println!(
        "  µs a hop             {:>10.0}  (p95 {:.0}, p99 {:.0})",
        hop_us.p50, hop_us.p95, hop_us.p99
    );
    println!("  µs of CPU a step     {:>10.1}", figures.cpu_us_per_step);
    println!("  peak memory, MB      {:>10.0}", figures.rss_mb);
    println!("  statements a step    {:>10.3}", figures.statements_per_step);
    println!("  floor: rows/s        {:>10.0}", figures.floor_rows_per_s);
    println!("  floor: µs a commit   {:>10.0}", figures.floor_commit_us);
    println!("  ratio                {:>10.2}", figures.ratio);
    Ok(())
}

async fn throughput(args: &Throughput) -> Result<Figures, Anything> {
    let kind = args.kind.unwrap_or_else(|| args.shape.kind());
    let documents = args.shape.documents(args.steps, kind)?;
    let steps: usize = documents.iter().map(|it| it.document().tasks.len()).sum();
    let (mut rates, mut cpu, mut rows, mut commits) = (vec![], vec![], vec![], vec![]);
    let mut hops: Vec<f64> = vec![];
    for _ in 0..args.rounds {
        // In turn, so that a slow moment of the machine hits both.
        let floor = Floor::begin(args.store).await?;
        commits.push(floor.commit().await?);
        rows.push(floor.rows(steps.clamp(10_000, 100_000)).await?);
        floor.end().await?;
        let place = Place::fresh(args.store)?;
        fill(&place, args.stored, args.concurrency).await?;
        wait(&place, args.waiting, args.concurrency).await?;
        count::forget_peak()?;
        let engine = place.engine(args.concurrency).await?;
        if args.waiting > 0 {
            // What it takes of them it holds then.
            tokio::time::sleep(SETTLING).await;
        }
        let before = count::cpu()?;
        let took = run(&engine, documents.clone()).await?;
        cpu.push((count::cpu()? - before).as_secs_f64() * 1e6 / steps as f64);
        rates.push(steps as f64 / took.as_secs_f64());
        hops.extend(latencies(&engine, &documents).await?);
        engine.shutdown().await;
        place.remove().await?;
    }
    // Apart: counting costs time.
    let place = Place::fresh(args.store)?;
    let engine = place.engine(args.concurrency).await?;
    let counter = count::Statements::begin();
    run(&engine, documents.clone()).await?;
    let statements = counter.so_far();
    engine.shutdown().await;
    hops.sort_by(f64::total_cmp);
    let at = |part: f64| hops.get((hops.len() as f64 * part) as usize).copied();
    let hop_us = Percentiles {
        p50: at(0.5).unwrap_or_default(),
        p95: at(0.95).unwrap_or_default(),
        p99: at(0.99).unwrap_or_default(),
    };
    let (steps_per_s, floor_rows_per_s) = (median(rates), median(rows));
    let floor_commit_us = median(commits);
    Ok(Figures {
        store: format!("{:?}", args.store).to_lowercase(),
        shape: args.shape.to_string(),
        steps,
        steps_per_s,
        hop_us,
        cpu_us_per_step: median(cpu),
        rss_mb: count::peak_memory()?,
        statements_per_step: statements as f64 / steps as f64,
        floor_rows_per_s,
        floor_commit_us,
        ratio: match args.shape {
            Shape::Chain => hop_us.p50 / floor_commit_us,
            _ => steps_per_s / floor_rows_per_s,
        },
    })
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or_default()
}

/// Finished projects that were there before.
pub(crate) async fn fill(
    place: &Place,
    stored: usize,
    concurrency: usize,
) -> Result<(), Anything> {
    if stored == 0 {
        return Ok(());
    }
    let engine = place.engine(concurrency).await?;
    let mut left = stored;
    while left > 0 {
        let steps = left.min(50_000);
        run(&engine, Shape::Fanout.documents(steps, StepKind::Noop)?).await?;
        left -= steps;
    }
    engine.shutdown().await;
    Ok(())
}

/// Projects that wait in a paused queue.
async fn wait(
    place: &Place,
    waiting: usize,
    concurrency: usize,
) -> Result<(), Anything> {
    if waiting == 0 {
        return Ok(());
    }
    let engine = place.engine(concurrency).await?;
    engine.pause_queue("later", None).await?;
    let mut documents = Shape::Projects.documents(waiting, StepKind::Noop)?;
    for document in &mut documents {
        for task in &mut document.document_mut().tasks {
            task.treatment.queue = Some("later".to_owned());
        }
    }
    submit(&engine, documents).await?;
    engine.shutdown().await;
    Ok(())
}

/// Submits projects, many at once, and waits for none.
pub(crate) async fn submit(
    engine: &Engine,
    documents: Vec<dandori::Project>,
) -> Result<(), Anything> {
    let mut submissions = JoinSet::new();
    for document in documents {
        if submissions.len() >= SUBMITTERS
            && let Some(submitted) = submissions.join_next().await
        {
            submitted??;
        }
        let engine = engine.clone();
        submissions.spawn(async move { engine.submit(document).await.map(drop) });
    }
    while let Some(submitted) = submissions.join_next().await {
        submitted??;
    }
    Ok(())
}

/// From the first submission to the last recorded end.
pub(crate) async fn run(
    engine: &Engine,
    documents: Vec<dandori::Project>,
) -> Result<Duration, Anything> {
    let room = Arc::new(Semaphore::new(SUBMITTERS));
    let mut running = JoinSet::new();
    let began = Instant::now();
    for document in documents {
        let permit = Arc::clone(&room).acquire_owned().await?;
        let engine = engine.clone();
        running.spawn(async move {
            let project = engine.submit(document).await?;
            drop(permit);
            project.ended().await
        });
    }
    while let Some(ended) = running.join_next().await {
        if ended??.state != ProjectState::Succeeded {
            return Err("a project has failed".into());
        }
    }
    Ok(began.elapsed())
}

/// From the end of the last step that a step needs to its own end, in µs.
async fn latencies(
    engine: &Engine,
    documents: &[dandori::Project],
) -> Result<Vec<f64>, Anything> {
    let mut all = vec![];
    let limit = u32::try_from(documents.len().min(50))?;
    let filter = ListFilter { limit, ..ListFilter::default() };
    for row in engine.list(&filter).await? {
        let view = engine.project(row.id).outline().await?;
        // All are of one document.
        let tasks = documents.first().map_or(&[][..], |it| &it.document().tasks);
        let needs: HashMap<&str, &[String]> =
            tasks.iter().map(|it| (it.name.as_str(), it.needs.as_slice())).collect();
        let ends: HashMap<&str, _> = view
            .steps
            .iter()
            .filter_map(|step| Some((step.name.as_str(), step.finished_at?)))
            .collect();
        for step in &view.steps {
            let Some(end) = step.finished_at else { continue };
            let before = needs.get(step.name.as_str()).and_then(|needs| {
                needs.iter().filter_map(|need| ends.get(need.as_str())).max()
            });
            let before = before.copied().or(step.started_at).unwrap_or(end);
            all.push(end.since(before).as_secs_f64() * 1e6);
        }
    }
    Ok(all)
}
