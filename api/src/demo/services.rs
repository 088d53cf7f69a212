//! A search service and an OpenAI-compatible model on loopback, for the demo.
//!
//! They end with the process. Every request may be witnessed: a line in an append-only file,
//! on disk before the answer, so that a test can compare what was asked with what is recorded.

use std::{
    fs::File,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use dandori::Clock;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{
    faults::{Fate, Fault, Service, fate},
    words,
};

struct Demo {
    seed: u64,
    witness: Option<Mutex<File>>,
}

/// Starts the services; returns their address.
pub(super) async fn start(
    seed: u64,
    witness: Option<&Path>,
) -> std::io::Result<SocketAddr> {
    let witness = witness
        .map(|path| File::options().create(true).append(true).open(path))
        .transpose()?
        .map(Mutex::new);
    let demo = Arc::new(Demo { seed, witness });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/search", get(search))
        .route("/v1/chat/completions", post(chat))
        .with_state(demo);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the services of the demo stopped");
        }
    });
    Ok(address)
}

#[derive(Deserialize)]
struct Asked {
    q: String,
}

async fn search(
    State(demo): State<Arc<Demo>>,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Response {
    match demo.meet(Service::Search, &headers).await {
        Some(refusal) => refusal,
        None => Json(words::results(&asked.q)).into_response(),
    }
}

async fn chat(
    State(demo): State<Arc<Demo>>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let prompt =
        body.pointer("/messages/0/content").and_then(Value::as_str).unwrap_or_default();
    match demo.meet(Service::Model, &headers).await {
        Some(refusal) => refusal,
        None => Json(words::completion(prompt)).into_response(),
    }
}

impl Demo {
    /// Lets the time of a request pass; returns what went wrong.
    async fn meet(&self, service: Service, headers: &HeaderMap) -> Option<Response> {
        let text = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        let (key, attempt) = (text("idempotency-key"), text("x-dandori-attempt"));
        self.witness(&key, &attempt);
        // The key is PROJECT:TASK/STEP:GENERATION.
        let task = key.split(':').nth(1).and_then(|step| step.split('/').next());
        let Fate { latency, fault } = fate(
            self.seed,
            service,
            task.unwrap_or_default(),
            attempt.parse().unwrap_or(1),
        );
        tokio::time::sleep(latency).await;
        match fault? {
            Fault::Unavailable => {
                Some(refuse(StatusCode::SERVICE_UNAVAILABLE, "having a rest"))
            }
            Fault::RateLimited => {
                let mut response =
                    refuse(StatusCode::TOO_MANY_REQUESTS, "one at a time, please");
                let seconds = header::HeaderValue::from_static("1");
                response.headers_mut().insert(header::RETRY_AFTER, seconds);
                Some(response)
            }
            Fault::Stall => std::future::pending().await,
        }
    }

    fn witness(&self, key: &str, attempt: &str) {
        let Some(file) = &self.witness else { return };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Clock::system().now().as_micros();
        let written =
            writeln!(file, "{at} {key} {attempt}").and_then(|()| file.sync_data());
        if let Err(error) = written {
            tracing::error!(%error, "the witness cannot write");
        }
    }
}

fn refuse(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": { "message": message } }))).into_response()
}
