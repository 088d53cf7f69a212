//! `worker`, `serve`, `workers`, `migrate`: processes that stay, and who they are.

use std::time::{Duration, Instant};

use dandori::{Clock, Engine, Error, Timestamp, store::SessionRow};
use serde::{Deserialize, Serialize};

use super::{
    args::{Common, Serve, Worker},
    execute::shut_down,
    exit::{Exit, Failure},
    signals::interrupted,
    text::{ago, cut, one_line, print_table},
};
use crate::http::{self, Connections, Options, router};

/// The fewest characters of a token that is chosen by a person: 128 bits in hexadecimal.
const SHORTEST_TOKEN: usize = 32;
/// How long a worker waits for a server that is not there yet, and how often it tries.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(500);

/// Executes until it is told to stop.
pub(super) async fn worker(common: &Common, args: Worker) -> Result<Exit, Failure> {
    let engine = start(common, &args, "worker").await?;
    announce(&args);
    until_stopped(&engine).await
}

/// Serves the API, and executes.
pub(super) async fn serve(common: &Common, args: Serve) -> Result<Exit, Failure> {
    raise_the_limit_of_files();
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
    // Before anything is executed: who may ask is decided by what is there already.
    let looker = or_told_to_stop(patiently(common, async || {
        Ok(common.builder()?.connect().await?)
    }));
    let looker = looker.await?;
    let options = options(common, &looker, &args, address).await?;
    let engine = match args.no_worker {
        true => looker,
        false => start(common, &args.worker, "serve").await?,
    };
    anstream::eprintln!("listening on http://{address}");
    if !args.no_worker {
        announce(&args.worker);
    }
    let router = router(engine.clone(), options);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let served =
        http::serve(listener, router, Connections::default().within_files(), async {
            let _ = stopped.await;
        });
    let served = tokio::spawn(served);
    let exit = until_stopped(&engine).await;
    drop(stop);
    let _ = served.await;
    exit
}

/// A connection is a file, and so is what a step opens: as many as this process may have.
fn raise_the_limit_of_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files was not raised");
    }
}

/// Who may ask. Away from the loopback interface nobody may without a token.
async fn options(
    common: &Common,
    engine: &Engine,
    args: &Serve,
    address: std::net::SocketAddr,
) -> Result<Options, Failure> {
    let first_token = common.token.as_deref();
    let tokens = engine.store().tokens().await.map_err(Error::from)?;
    let has_token =
        first_token.is_some() || tokens.iter().any(|token| token.revoked_at.is_none());
    let local = address.ip().is_loopback();
    if !local && !has_token {
        return Err(Failure::Own {
            exit: Exit::Unreachable,
            code: "no_token",
            message: format!(
                "{address} is not the loopback interface, and there is no token"
            ),
            help: "make one with `dandori token create NAME --role admin`, or set \
                DANDORI_TOKEN; or listen on 127.0.0.1"
                .to_owned(),
        });
    }
    if first_token.is_some_and(|token| token.len() < SHORTEST_TOKEN) {
        return Err(Failure::Own {
            exit: Exit::Usage,
            code: "weak_token",
            message: format!(
                "DANDORI_TOKEN has fewer than {SHORTEST_TOKEN} characters"
            ),
            help: "use random characters, such as those of `openssl rand -hex 32`"
                .to_owned(),
        });
    }
    Ok(Options {
        open: local && !has_token,
        first_token: first_token.map(http::hash),
        hosts: args.host.clone(),
        addresses: !local,
        ..Options::default()
    })
}

/// Starts, or is told to stop before it could.
async fn start(common: &Common, args: &Worker, name: &str) -> Result<Engine, Failure> {
    let settings = args.execution.settings(common.file()?.as_deref());
    let start = async || {
        let builder = args.execution.equip(common.builder()?, &settings, name)?;
        Ok(builder.queues(args.queues.iter().cloned()).start().await?)
    };
    or_told_to_stop(patiently(common, start)).await
}

async fn or_told_to_stop<T>(
    asked: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        answer = asked => answer,
        signal = interrupted() => Err(Failure::Own {
            exit: Exit::Interrupted(signal),
            code: "database",
            message: "the database did not answer".to_owned(),
            help: "check that it runs, and the address of --database-url".to_owned(),
        }),
    }
}

/// Whoever stays may be started before its server is.
async fn patiently<T>(
    common: &Common,
    ask: impl AsyncFn() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let began = Instant::now();
    let mut said = false;
    loop {
        match ask().await {
            Err(Failure::Engine(Error::Store(error)))
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
            answer => return answer,
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
async fn until_stopped(engine: &Engine) -> Result<Exit, Failure> {
    tokio::select! {
        _ = interrupted() => {}
        error = engine.failed() => return Err(error.into()),
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
    #[derive(Deserialize)]
    struct Answer {
        workers: Vec<Shown>,
    }
    let workers: Vec<Shown> = match common.remote()? {
        Some(server) => server.get::<Answer>(&["workers"], &[]).await?.workers,
        None => {
            common.connect().await?.workers().await?.iter().map(Shown::of).collect()
        }
    };
    if common.json {
        workers.iter().for_each(|worker| out!("{}", serde_json::json!(worker)));
        return Ok(Exit::Succeeded);
    }
    if workers.is_empty() {
        anstream::eprintln!("no worker executes; `dandori worker` starts one");
        return Ok(Exit::Succeeded);
    }
    let now = Clock::system().now();
    let head =
        ["SESSION", "STATE", "HOST", "PID", "BUSY", "PROJECTS", "QUEUES", "SINCE"];
    let rows = workers.iter().map(|worker| {
        let id = worker.id.chars().rev().take(8).collect::<Vec<_>>();
        [
            id.into_iter().rev().collect(),
            worker.state.clone(),
            cut(&one_line(&worker.host), 30),
            worker.process.to_string(),
            format!("{}/{}", worker.busy, worker.slots),
            worker.projects.to_string(),
            cut(&one_line(&worker.queues.join(",")), 40),
            ago(worker.started_at, now),
        ]
    });
    print_table(head, rows);
    Ok(Exit::Succeeded)
}

/// A worker as JSON.
#[derive(Deserialize, Serialize)]
pub(crate) struct Shown {
    id: String,
    state: String,
    host: String,
    process: i64,
    command: String,
    started_at: Timestamp,
    slots: u32,
    busy: u32,
    projects: u32,
    claims: u32,
    queues: Vec<String>,
    kinds: Vec<String>,
}

impl Shown {
    pub(crate) fn of(worker: &SessionRow) -> Self {
        Self {
            id: worker.id.to_string(),
            state: state(worker).to_owned(),
            host: worker.host.clone(),
            process: worker.process,
            command: worker.command.clone(),
            started_at: worker.started_at,
            slots: worker.slots,
            busy: worker.busy,
            projects: worker.projects,
            claims: worker.claims,
            queues: queues(worker),
            kinds: worker.serves.kinds.iter().cloned().collect(),
        }
    }
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
