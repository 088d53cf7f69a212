//! `worker`, `serve`, `workers`, `migrate`: processes that stay, and who they are.

use std::time::{Duration, Instant};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use dandori::{Clock, Engine, Error, store::SessionRow};

use super::{
    args::{Common, Serve, Worker},
    execute::shut_down,
    exit::{Exit, Failure},
    signals::interrupted,
    text::{ago, cut, one_line, print_data, table},
};

/// How long a worker waits for a server that is not there yet, and how often it tries.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(500);

/// Executes until it is told to stop.
pub(super) async fn worker(common: &Common, args: Worker) -> Result<Exit, Failure> {
    let engine = start(common, &args, "worker").await?;
    announce(&args);
    until_stopped(&engine, std::future::pending()).await
}

/// Executes, and answers whether the process is well.
pub(super) async fn serve(common: &Common, args: Serve) -> Result<Exit, Failure> {
    let engine = match args.no_worker {
        true => common.builder()?.connect().await?,
        false => start(common, &args.worker, "serve").await?,
    };
    let cannot = |error: &std::io::Error| Failure::Own {
        exit: Exit::Unreachable,
        code: "listen",
        message: format!("{}: {error}", args.listen),
        help: "choose another address with --listen".to_owned(),
    };
    let listener = tokio::net::TcpListener::bind(args.listen)
        .await
        .map_err(|error| cannot(&error))?;
    let address = listener.local_addr().map_err(|error| cannot(&error))?;
    anstream::eprintln!("listening on http://{address}");
    if !args.no_worker {
        announce(&args.worker);
    }
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .with_state(engine.clone());
    let server = async {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the server has stopped");
        }
    };
    until_stopped(&engine, server).await
}

/// Ready is who reaches the database.
async fn ready(State(engine): State<Engine>) -> (StatusCode, Json<serde_json::Value>) {
    match engine.workers().await {
        Ok(workers) => {
            (StatusCode::OK, Json(serde_json::json!({ "workers": workers.len() })))
        }
        Err(error) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(serde_json::json!({ "error": { "code": error.code() } })),
        ),
    }
}

/// Starts, or is told to stop before it could.
async fn start(common: &Common, args: &Worker, name: &str) -> Result<Engine, Failure> {
    tokio::select! {
        started = try_to_start(common, args, name) => started,
        signal = interrupted() => Err(Failure::Own {
            exit: Exit::Interrupted(signal),
            code: "database",
            message: "the database did not answer".to_owned(),
            help: "check that it runs, and the address of --database-url".to_owned(),
        }),
    }
}

async fn try_to_start(
    common: &Common,
    args: &Worker,
    name: &str,
) -> Result<Engine, Failure> {
    let settings = args.execution.settings(common.file()?.as_deref());
    let began = Instant::now();
    let mut said = false;
    loop {
        let builder = args.execution.equip(common.builder()?, &settings, name)?;
        match builder.queues(args.queues.iter().cloned()).start().await {
            // Whoever stays may be started before its server is.
            Err(Error::Store(error))
                if error.is_transient()
                    && common.is_server()
                    && began.elapsed() < PATIENCE =>
            {
                if !std::mem::replace(&mut said, true) {
                    anstream::eprintln!(
                        "the database is away; trying for a while: {error}"
                    );
                }
                tokio::time::sleep(AGAIN).await;
            }
            started => return Ok(started?),
        }
    }
}

fn announce(args: &Worker) {
    let queues = args.queues.join(", ");
    let slots = args.execution.concurrency;
    anstream::eprintln!(
        "executing up to {slots} steps at once of: {}",
        one_line(&queues)
    );
}

/// Waits for a signal, then lets what runs finish.
async fn until_stopped(
    engine: &Engine,
    beside: impl Future<Output = ()>,
) -> Result<Exit, Failure> {
    tokio::select! {
        _ = interrupted() => {}
        error = engine.failed() => return Err(error.into()),
        () = beside => {}
    }
    anstream::eprintln!("stopping: running steps may finish; again to stop at once");
    shut_down(engine).await;
    Ok(Exit::Succeeded)
}

pub(super) async fn migrate(common: &Common) -> Result<Exit, Failure> {
    common.builder()?.connect().await?;
    if common.json {
        out!("{}", serde_json::json!({ "migrated": true }));
    } else {
        anstream::eprintln!("the tables are up to date");
    }
    Ok(Exit::Succeeded)
}

pub(super) async fn workers(common: &Common) -> Result<Exit, Failure> {
    let workers = common.connect().await?.workers().await?;
    if common.json {
        for worker in &workers {
            out!("{}", json(worker));
        }
        return Ok(Exit::Succeeded);
    }
    if workers.is_empty() {
        anstream::eprintln!("no worker executes; `dandori worker` starts one");
        return Ok(Exit::Succeeded);
    }
    let now = Clock::system().now();
    let head =
        ["SESSION", "STATE", "HOST", "PID", "BUSY", "PROJECTS", "QUEUES", "SINCE"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for worker in &workers {
        lines.push(vec![
            short(worker),
            state(worker).to_owned(),
            cut(&one_line(&worker.host), 30),
            worker.process.to_string(),
            format!("{}/{}", worker.busy, worker.slots),
            worker.projects.to_string(),
            cut(&one_line(&queues(worker).join(",")), 40),
            ago(worker.started_at, now),
        ]);
    }
    print_data(&table(&lines), false);
    Ok(Exit::Succeeded)
}

fn short(worker: &SessionRow) -> String {
    let id = worker.id.to_string();
    id[id.len() - 8..].to_owned()
}

/// A live session whose lease is over is silent: it will be declared dead.
fn state(worker: &SessionRow) -> &str {
    let leased = worker.lease > Duration::ZERO;
    match worker.state.as_str() {
        "live" if leased && worker.lease_left < 0 => "silent",
        state => state,
    }
}

fn queues(worker: &SessionRow) -> Vec<String> {
    match worker.serves.queues.is_empty() {
        true => vec!["*".to_owned()],
        false => worker.serves.queues.iter().cloned().collect(),
    }
}

fn json(worker: &SessionRow) -> serde_json::Value {
    serde_json::json!({
        "id": worker.id.to_string(),
        "state": state(worker),
        "host": worker.host,
        "process": worker.process,
        "command": worker.command,
        "started_at": worker.started_at,
        "slots": worker.slots,
        "busy": worker.busy,
        "projects": worker.projects,
        "claims": worker.claims,
        "queues": queues(worker),
        "kinds": worker.serves.kinds,
    })
}
