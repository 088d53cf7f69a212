//! What is measured beside throughput: the latency of a small project, what an idle worker
//! costs, and two workers on one database.

use std::{
    io::{BufRead as _, Write as _},
    process::{Child, Command, Stdio},
    time::Duration,
};

use dandori::{Context, Project, StepError, handler_fn, spec::Task};
use tokio::time::Instant;

use crate::{
    Anything, Kind, Place, count,
    floor::Floor,
    median,
    shape::{Shape, StepKind},
};

/// So many small projects, one after the other.
const SMALL: usize = 300;
/// How long idleness is looked at.
const IDLE: Duration = Duration::from_secs(10);

/// From submission to result of a chain of three steps on an idle worker, beside a bare
/// durable commit.
pub(crate) async fn latency(
    store: Kind,
    kind: StepKind,
    rounds: usize,
) -> Result<(), Anything> {
    let chain = (0..3).fold(Project::named("three"), |project, at: usize| {
        let needs = at.checked_sub(1).map(|before| format!("t{before}"));
        project.task(Task::new(format!("t{at}"), kind.name()).needs(needs))
    });
    let (mut ratios, mut results, mut commits) = (vec![], vec![], vec![]);
    let mut submissions = vec![];
    for _ in 0..rounds {
        let floor = Floor::begin(store).await?;
        let commit = floor.commit().await?;
        floor.end().await?;
        let place = Place::fresh(store)?;
        let engine = place.engine(16).await?;
        let mut times = vec![];
        for _ in 0..SMALL {
            let began = Instant::now();
            let project = engine.submit(chain.clone()).await?;
            submissions.push(began.elapsed().as_secs_f64() * 1e6);
            project.ended().await?;
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
        engine.shutdown().await;
        place.remove().await?;
        let result = median(times);
        ratios.push(result / commit);
        results.push(result);
        commits.push(commit);
    }
    println!(
        "submission to result of three steps ({}) in a chain, {store:?}",
        kind.name()
    );
    println!("  µs (p50)             {:>10.0}", median(results));
    println!("  of it to submit it   {:>10.0}", median(submissions));
    println!("  floor: µs a commit   {:>10.0}", median(commits));
    println!("  ratio                {:>10.2}", median(ratios));
    Ok(())
}

/// What a worker costs that has nothing to do.
pub(crate) async fn idle(store: Kind, stored: usize) -> Result<(), Anything> {
    let place = Place::fresh(store)?;
    crate::fill(&place, stored, 256).await?;
    let began = Instant::now();
    let engine = place.engine(16).await?;
    let started = began.elapsed();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let counter = count::Statements::begin();
    let (before, files) = (count::cpu()?, written(&place));
    tokio::time::sleep(IDLE).await;
    let cpu = (count::cpu()? - before).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    let statements = counter.so_far() as f64 / IDLE.as_secs_f64();
    let changed = usize::from(written(&place) != files);
    engine.shutdown().await;
    println!("an idle worker, {store:?}, {stored} steps stored");
    println!("  start, ms            {:>10.0}", started.as_secs_f64() * 1e3);
    println!("  statements/s         {statements:>10.1}");
    println!("  CPU, %               {cpu:>10.2}");
    if store == Kind::Sqlite {
        println!("  files changed        {changed:>10}");
    }
    Ok(())
}

/// When the file and its log were written last, and what they hold.
fn written(place: &Place) -> Vec<Option<(u64, std::time::SystemTime)>> {
    let of = |suffix| {
        let meta = std::fs::metadata(format!("{}{suffix}", place.at)).ok()?;
        Some((meta.len(), meta.modified().ok()?))
    };
    vec![of(""), of("-wal")]
}

/// What a worker holds in memory while all its slots are taken and projects wait.
pub(crate) async fn backlog(store: Kind, waiting: usize) -> Result<(), Anything> {
    let place = Place::fresh(store)?;
    let noop = async |_: Context, ()| Ok::<_, StepError>(());
    let hold = async |_: Context, ()| std::future::pending::<Result<(), _>>().await;
    let builder = place.builder().handler(handler_fn("noop", noop));
    let builder = builder.handler(handler_fn("hold", hold)).grace(Duration::ZERO);
    let engine = builder.concurrency(1).start().await?;
    engine.submit(Project::named("hold").task(Task::new("hold", "hold"))).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("a worker whose slot is taken, {store:?}");
    println!("  steps that wait      memory, MB");
    println!("  {:>15}      {:>10.0}", 0, count::memory()?);
    for part in 1..=10 {
        crate::submit(
            &engine,
            Shape::Projects.documents(waiting / 10, StepKind::Noop)?,
        )
        .await?;
        println!("  {:>15}      {:>10.0}", part * waiting / 10, count::memory()?);
    }
    engine.abort().await;
    Ok(())
}

/// One worker process with all projects, and two with half of them each, on one database.
pub(crate) fn workers(
    shape: &Shape,
    steps: usize,
    rounds: usize,
) -> Result<(), Anything> {
    let mut rates = [vec![], vec![]];
    let mut ratios = vec![];
    for round in 0..rounds {
        // In turns, so that whatever drifts favours neither.
        let mut measured = [0.0; 2];
        for turn in 0..2 {
            let processes = 1 + (round + turn) % 2;
            measured[processes - 1] = together(processes, shape, steps)?;
        }
        let [one, two] = measured;
        rates[0].push(one);
        rates[1].push(two);
        ratios.push(two / one);
    }
    let [one, two] = rates;
    println!("{shape}, 2 x {} steps, PostgreSQL", steps / 2);
    println!("  one process, steps/s {:>10.0}", median(one));
    println!("  two, together        {:>10.0}", median(two));
    println!("  ratio                {:>10.2}", median(ratios));
    Ok(())
}

/// Steps a second of so many processes with equal shares of the same work, which comes in two
/// halves.
fn together(processes: usize, shape: &Shape, steps: usize) -> Result<f64, Anything> {
    let place = Place::fresh(Kind::Postgres)?;
    let mut children = vec![];
    for _ in 0..processes {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["share", "--at", &place.at, "--shape", &shape.to_string()])
            .args(["--steps", &(steps / 2).to_string()])
            .args(["--times", &(2 / processes).to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        // It has started when it says so.
        read_line(&mut child)?;
        children.push(child);
    }
    let began = std::time::Instant::now();
    for child in &mut children {
        child.stdin.as_mut().ok_or("no input")?.write_all(b"go\n")?;
    }
    for child in &mut children {
        read_line(child)?;
    }
    let took = began.elapsed();
    for mut child in children {
        drop(child.stdin.take());
        child.wait()?;
    }
    tokio::runtime::Runtime::new()?.block_on(place.remove())?;
    Ok(steps as f64 / took.as_secs_f64())
}

fn read_line(child: &mut Child) -> Result<(), Anything> {
    let out = child.stdout.as_mut().ok_or("no output")?;
    let mut byte = [0];
    while std::io::Read::read(out, &mut byte)? == 1 {
        if byte == *b"\n" {
            return Ok(());
        }
    }
    Err("a worker has ended".into())
}

/// A process among several: says that it has started, waits for its turn, and says when it
/// has finished.
pub(crate) async fn share(
    at: String,
    shape: &Shape,
    steps: usize,
    times: usize,
) -> Result<(), Anything> {
    let place = Place::at(Kind::Postgres, at)?;
    let engine = place.engine(256).await?;
    let documents = shape.documents(steps, shape.kind())?;
    let documents = std::iter::repeat_n(documents, times).flatten().collect::<Vec<_>>();
    // Both know of each other.
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("started");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    crate::run(&engine, documents).await?;
    println!("done");
    engine.shutdown().await;
    Ok(())
}
