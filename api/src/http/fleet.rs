//! Who executes: workers, queues, kinds; and whether this server is ready.

use std::collections::{BTreeMap, BTreeSet};

use axum::{Json, extract::State};
use dandori::{Engine, Error, Kinds, Parameter, store::SessionRow};
use serde_json::{Map, Value, json};

use super::{Api, problem::Problem, shape};
use crate::cli::ShownWorker;

/// The workers.
#[utoipa::path(
    get, path = "/api/v1/workers", tag = "fleet",
    responses((status = 200, description = "the workers", body = shape::Workers)),
    security(("token" = ["viewer"])),
)]
pub(super) async fn workers(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    let workers = api.engine().workers().await?;
    let workers: Vec<ShownWorker> = workers.iter().map(ShownWorker::of).collect();
    Ok(Json(json!({ "workers": workers })))
}

fn is_live(worker: &&SessionRow) -> bool {
    worker.state == "live"
}

/// The queues: what waits in them for a worker, and who serves them.
#[utoipa::path(
    get, path = "/api/v1/queues", tag = "fleet",
    responses((status = 200, description = "the queues", body = shape::Queues)),
    security(("token" = ["viewer"])),
)]
pub(super) async fn queues(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    Ok(Json(queues_json(api.engine()).await?))
}

/// What waits in queues, and which are paused.
pub(crate) async fn queues_json(engine: &Engine) -> Result<Value, Error> {
    let workers = engine.workers().await?;
    let rows = engine.queues().await?;
    let served = workers.iter().filter(is_live).flat_map(|it| &it.serves.queues);
    let names: BTreeSet<&String> =
        served.chain(rows.iter().map(|it| &it.queue)).collect();
    let now = engine.now();
    let queues: Vec<Value> = names
        .into_iter()
        .map(|name| {
            let row = rows.iter().find(|row| row.queue == *name);
            let oldest = row.and_then(|row| row.oldest);
            let serves = |it: &&SessionRow| {
                it.serves.queues.is_empty() || it.serves.queues.contains(name)
            };
            json!({
                "name": name,
                "depth": row.map_or(0, |row| row.offered),
                "taken": row.map_or(0, |row| row.claimed),
                "age": oldest.map(|oldest| now.since(oldest).as_secs_f64()),
                "workers": workers.iter().filter(is_live).filter(serves).count(),
                "paused_at": row.and_then(|row| row.paused_at),
            })
        })
        .collect();
    Ok(json!({ "queues": queues }))
}

/// The kinds that steps may have, with the schemas of their inputs.
#[utoipa::path(
    get, path = "/api/v1/kinds", tag = "fleet",
    responses((status = 200, description = "the kinds", body = shape::Kinds)),
    security(("token" = ["viewer"])),
)]
pub(super) async fn kinds(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    let workers = api.engine().workers().await?;
    Ok(Json(kinds_json(api.engine().kinds(), &workers)))
}

/// The kinds that are here, and those that live workers have.
pub(crate) fn kinds_json(here: &Kinds, workers: &[SessionRow]) -> Value {
    let mut run_by: BTreeMap<String, usize> = BTreeMap::new();
    for kind in workers.iter().filter(is_live).flat_map(|it| &it.serves.kinds) {
        *run_by.entry(kind.clone()).or_default() += 1;
    }
    for kind in here.names() {
        run_by.entry(kind.to_owned()).or_default();
    }
    let kinds: Vec<Value> = run_by
        .into_iter()
        .map(|(name, workers)| {
            let handler = here.get(&name);
            let input = handler.and_then(|it| it.parameters().map(schema));
            let output = handler.and_then(|it| it.output_schema());
            let output: Option<Value> =
                output.and_then(|text| serde_json::from_str(text).ok());
            json!({
                "name": name, "here": handler.is_some(), "workers": workers,
                "input": input, "output": output,
                "pure": handler.map(|it| it.is_pure()),
            })
        })
        .collect();
    json!({ "kinds": kinds })
}

/// The schema of an input of named parameters.
fn schema(parameters: &[Parameter]) -> Value {
    let mut properties = Map::new();
    for parameter in parameters {
        let schema =
            serde_json::from_str(&parameter.schema).unwrap_or(Value::Bool(true));
        properties.insert(parameter.name.to_string(), schema);
    }
    let required = parameters.iter().filter(|it| it.required);
    let required: Vec<&str> = required.map(|it| &*it.name).collect();
    json!({
        "type": "object", "properties": properties, "required": required,
        "additionalProperties": false,
    })
}

/// Whether this server reaches its database.
#[utoipa::path(
    get, path = "/readyz", tag = "fleet",
    responses(
        (status = 200, description = "it does", body = shape::Ready),
        (status = 503, description = "it does not", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn ready(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    api.engine().workers().await?;
    Ok(Json(json!({ "ready": true })))
}
