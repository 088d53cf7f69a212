//! `queues`: what waits for workers, and what is paused.

use dandori::{Clock, Engine, Error, Steered, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    args::{Common, Queues},
    exit::{Exit, Failure},
    text::{ago, cut, one_line, print_table},
};
use crate::http::queues_json;

#[derive(Deserialize, Serialize)]
struct Queue {
    name: String,
    depth: u32,
    taken: u32,
    age: Option<f64>,
    workers: u32,
    paused_at: Option<Timestamp>,
}

pub(super) async fn queues(
    common: &Common,
    what: Option<Queues>,
) -> Result<Exit, Failure> {
    match what {
        None => list(common).await,
        Some(Queues::Pause { queue }) => hold(common, &queue, true).await,
        Some(Queues::Resume { queue }) => hold(common, &queue, false).await,
    }
}

async fn list(common: &Common) -> Result<Exit, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        queues: Vec<Queue>,
    }
    let queues = match common.remote()? {
        Some(server) => server.get::<Answer>(&["queues"], &[]).await?.queues,
        None => {
            let engine: Engine = common.connect().await?;
            let answer = queues_json(&engine).await?;
            serde_json::from_value::<Answer>(answer).map_or(vec![], |it| it.queues)
        }
    };
    if common.json {
        queues.iter().for_each(|queue| out!("{}", serde_json::json!(queue)));
        return Ok(Exit::Succeeded);
    }
    if queues.is_empty() {
        anstream::eprintln!("nothing waits in a queue, and nobody serves one");
        return Ok(Exit::Succeeded);
    }
    let now = Clock::system().now();
    let head = ["QUEUE", "WAITING", "OLDEST", "TAKEN", "WORKERS", "PAUSED"];
    let rows = queues.iter().map(|queue| {
        [
            cut(&one_line(&queue.name), 40),
            queue.depth.to_string(),
            queue.age.map(|age| format!("{age:.0}s")).unwrap_or_default(),
            queue.taken.to_string(),
            queue.workers.to_string(),
            queue.paused_at.map(|at| ago(at, now)).unwrap_or_default(),
        ]
    });
    print_table(head, rows);
    Ok(Exit::Succeeded)
}

async fn hold(common: &Common, queue: &str, paused: bool) -> Result<Exit, Failure> {
    let verb = if paused { "pause" } else { "resume" };
    let applied = match common.remote()? {
        Some(server) => server.post(&["queues", queue, verb]).await?.is_applied(),
        None => {
            let engine = common.connect().await?;
            let steered: Result<Steered, Error> = match paused {
                true => engine.pause_queue(queue, None).await,
                false => engine.resume_queue(queue, None).await,
            };
            steered? == Steered::Applied
        }
    };
    let what = if paused { "is paused" } else { "goes on" };
    if common.json {
        let json =
            serde_json::json!({ "name": queue, "paused": paused, "applied": applied });
        out!("{json}");
    } else if applied {
        anstream::eprintln!("the queue {} {what}", one_line(queue));
    } else {
        anstream::eprintln!(
            "recorded: the queue {} {what} as soon as its workers have heard of it",
            one_line(queue)
        );
    }
    Ok(Exit::Succeeded)
}
