//! Projects: listing and looking at them.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use dandori::{
    ProjectHandle, StepDetails, Timestamp, spec::parse_duration, store::ProjectRow,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    Api,
    access::Caller,
    answer::{self, Asked, MOST, Named, SOME},
    filter::filter,
    problem::Problem,
    shape,
};
use crate::{
    cli::graph_of_run,
    graph::{Format as Drawing, render},
};

/// The longest wait, and how long one is when nobody says.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const WAIT: Duration = Duration::from_secs(30);

/// Does what takes its time beside the runtime.
pub(super) async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Problem::new(status, "internal", "something went wrong here")
    })
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct List {
    /// A filter: `state:failed label:team=a since:24h kind:http.request name:"my report"`.
    q: Option<String>,
    /// At most so many, up to 500.
    limit: Option<u32>,
    /// The cursor of the page before.
    cursor: Option<String>,
}

/// List projects, newest first.
#[utoipa::path(
    get, path = "/api/v1/projects", tag = "projects",
    params(List),
    responses((status = 200, description = "a page of them", body = shape::Projects)),
    security(("token" = ["viewer"])),
)]
pub(super) async fn list(
    State(api): State<Api>,
    Asked(asked): Asked<List>,
) -> Result<Json<Value>, Problem> {
    let mut filter =
        filter(asked.q.as_deref().unwrap_or_default(), api.engine().now())?;
    let limit = asked.limit.unwrap_or(SOME).clamp(1, MOST);
    filter.limit = limit + 1;
    filter.before = asked.cursor.as_deref().map(answer::after).transpose()?;
    let mut rows = api.engine().list(&filter).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = rows.last().filter(|_| more);
    let next = next.map(|row| answer::cursor(row.created_at, row.id));
    let projects: Vec<Value> = rows.iter().map(in_list).collect();
    Ok(Json(json!({ "projects": projects, "next": next })))
}

/// A project in a list: without its output, which may be large.
pub(super) fn in_list(row: &ProjectRow) -> Value {
    let mut value = of_row(row, None);
    if let Some(entries) = value.as_object_mut() {
        entries.remove("output");
    }
    value
}

/// The answer that a project is recorded, and where it is: under the path of projects.
pub(super) async fn recorded(
    handle: &ProjectHandle,
    projects: &str,
) -> Result<Response, Problem> {
    let row = handle.row().await?;
    let location = [(header::LOCATION, format!("{projects}/{}", row.id))];
    Ok((StatusCode::ACCEPTED, location, Json(of_row(&row, None))).into_response())
}

/// A project as JSON, from its row alone.
pub(super) fn of_row(row: &ProjectRow, output: Option<&Value>) -> Value {
    json!({
        "id": row.id,
        "name": row.name,
        "state": row.state,
        "reason": row.reason,
        "output": output,
        "created_at": row.created_at,
        "started_at": row.began_at,
        "finished_at": row.finished_at,
        "counts": row.counts,
    })
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Include {
    /// `steps`: its steps too.
    include: Option<String>,
}

/// Look at a project.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}", tag = "projects",
    params(Include),
    responses((status = 200, description = "the project", body = shape::Project)),
    security(("token" = ["viewer"])),
)]
pub(super) async fn show(
    Named(handle): Named,
    Asked(asked): Asked<Include>,
) -> Result<Response, Problem> {
    let steps = match asked.include.as_deref() {
        None => false,
        Some("steps") => true,
        Some(_) => {
            let detail = "`include` is `steps`";
            return Err(Problem::bad_request("bad_query", detail));
        }
    };
    shown(&handle, steps).await
}

/// A project with its labels, and its steps where they are wanted.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    head: Map<String, Value>,
    output: Option<Box<RawValue>>,
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<Vec<StepDetails>>,
}

async fn shown(handle: &ProjectHandle, steps: bool) -> Result<Response, Problem> {
    let stored = handle.summary().await?;
    let steps = match steps {
        true => Some(handle.view().await?.steps),
        false => None,
    };
    let head = match in_list(&stored.row) {
        Value::Object(head) => head,
        _ => Map::new(),
    };
    let (output, labels) = (stored.output, stored.labels);
    answer::as_stored(&Shown { head, output, labels, steps })
}

/// The output of a project, as it is stored.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}/output", tag = "projects",
    responses(
        (status = 200, description = "the output", body = serde_json::Value),
        (status = 404, description = "there is no project, or no output", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["viewer"])),
)]
pub(super) async fn output(Named(handle): Named) -> Result<Response, Problem> {
    let stored = handle.summary().await?;
    match stored.output {
        Some(output) => Ok(answer::raw(&output)),
        None => Err(no_output()),
    }
}

pub(super) fn no_output() -> Problem {
    let detail = "there is no output: it has not succeeded";
    Problem::new(StatusCode::NOT_FOUND, "no_output", detail)
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wait {
    /// How long, up to `60s`.
    timeout: Option<String>,
}

/// Wait for the end of a project.
///
/// Answers 200 once it has ended, or 202 with how it stands after the time.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}/wait", tag = "projects",
    params(Wait),
    responses(
        (status = 200, description = "it has ended", body = shape::Project),
        (status = 202, description = "it has not", body = shape::Project),
    ),
    security(("token" = ["viewer"])),
)]
pub(super) async fn wait(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Named(handle): Named,
    Asked(asked): Asked<Wait>,
) -> Result<(StatusCode, Response), Problem> {
    let timeout = match asked.timeout.as_deref().map(parse_duration) {
        None => WAIT,
        Some(Ok(timeout)) => timeout.min(LONGEST_WAIT),
        Some(Err(error)) => {
            return Err(Problem::bad_request("bad_query", format!("timeout: {error}")));
        }
    };
    let ended = api.hub().ended(&handle, timeout).await?;
    // A token that was revoked meanwhile opens nothing any more.
    if let Some(token) = caller.token
        && api.holder(token).await?.is_none()
    {
        return Err(Problem::unauthorized("the token is not valid any more"));
    }
    let status = if ended { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, shown(&handle, false).await?))
}

/// The graph of a project.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}/graph", tag = "projects",
    responses(
        (status = 200, description = "the graph", body = shape::Graph,
            headers(("ETag" = String, description = "the hash of the plan and the latest event"))),
        (status = 304, description = "as it was"),
    ),
    security(("token" = ["viewer"])),
)]
pub(super) async fn graph(
    Named(handle): Named,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    drawn(&handle, &headers, "application/json", |snapshot| {
        let graph = graph_of_run(&snapshot.stored.row.name, &snapshot.run);
        let nodes = graph.nodes.into_iter().map(|it| shape::Node {
            name: it.name,
            title: it.label,
            kind: it.kind,
            state: it.state.unwrap_or_default(),
            note: it.note,
        });
        json!(shape::Graph {
            name: graph.title,
            hash: snapshot.run.plan().hash_hex(),
            nodes: nodes.collect(),
            edges: graph.edges.into_iter().map(|(need, no)| [need, no]).collect(),
        })
        .to_string()
    })
    .await
}

/// The graph of a project, drawn.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}/graph.svg", tag = "projects",
    responses(
        (status = 200, description = "a picture", body = String, content_type = "image/svg+xml",
            headers(("ETag" = String, description = "the hash of the plan and the latest event"))),
        (status = 304, description = "as it was"),
    ),
    security(("token" = ["viewer"])),
)]
pub(super) async fn graph_svg(
    Named(handle): Named,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    drawn(&handle, &headers, "image/svg+xml", |snapshot| {
        let name = &snapshot.stored.row.name;
        render(&graph_of_run(name, &snapshot.run), Drawing::Svg)
    })
    .await
}

async fn drawn(
    handle: &ProjectHandle,
    headers: &HeaderMap,
    content_type: &'static str,
    draw: impl FnOnce(&dandori::Snapshot) -> String + Send + 'static,
) -> Result<Response, Problem> {
    let row = handle.row().await?;
    let hash: String =
        row.plan_hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{hash}-{}\"", row.last_event);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|it| it.to_str().ok());
    let is_known =
        |known: &str| known.split(',').any(|it| it.trim() == tag || it.trim() == "*");
    if known.is_some_and(is_known) {
        let tag = [(header::ETAG, tag)];
        return Ok((StatusCode::NOT_MODIFIED, tag).into_response());
    }
    let snapshot = handle.snapshot().await?;
    let text = beside(move || draw(&snapshot)).await?;
    let head = [
        (header::CONTENT_TYPE, content_type.to_owned()),
        (header::ETAG, tag),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        // A picture that is opened by itself runs nothing.
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; sandbox".to_owned(),
        ),
    ];
    Ok((head, Body::from(text)).into_response())
}

/// All attempts of a project, in the order of their starts.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}/timeline", tag = "projects",
    responses((status = 200, description = "the attempts", body = shape::Attempts)),
    security(("token" = ["viewer"])),
)]
pub(super) async fn timeline(Named(handle): Named) -> Result<Json<Value>, Problem> {
    Ok(Json(json!({ "attempts": attempts(&handle, None).await? })))
}

/// The attempts of a project or of one step, those that run included.
pub(super) async fn attempts(
    handle: &ProjectHandle,
    only: Option<u32>,
) -> Result<Vec<Value>, Problem> {
    let snapshot = handle.snapshot().await?;
    let run = &snapshot.run;
    let wanted = |no: u32| no < run.len() && only.is_none_or(|only| only == no);
    let mut attempts: Vec<(Option<Timestamp>, Value)> = handle
        .attempts()
        .await?
        .into_iter()
        .filter(|past| wanted(past.no))
        .map(|past| {
            let value = json!({
                "step": run.name(past.no), "generation": past.generation,
                "attempt": past.attempt, "state": past.state,
                "started_at": past.started_at, "finished_at": past.finished_at,
                "error": past.error,
            });
            (past.started_at, value)
        })
        .collect();
    for no in run.steps_in_use().filter(|no| wanted(*no)) {
        let view = run.view(no);
        if view.attempt == 0 || view.started_at.is_none() {
            continue;
        }
        // One that waits for the next attempt is among the past ones already.
        if view.wait.is_some() {
            continue;
        }
        let value = json!({
            "step": run.name(no), "generation": view.generation,
            "attempt": view.attempt, "state": view.state,
            "started_at": view.started_at,
            "finished_at": view.state.is_terminal().then_some(view.at),
            "error": view.error.filter(|_| view.state.is_terminal()),
        });
        attempts.push((view.started_at, value));
    }
    attempts.sort_by_key(|(started, _)| *started);
    Ok(attempts.into_iter().map(|(_, value)| value).collect())
}

/// The log of a project.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}/logs", tag = "projects",
    responses((status = 200, description = "the lines", body = shape::Log)),
    security(("token" = ["viewer"])),
)]
pub(super) async fn logs(Named(handle): Named) -> Result<Json<Value>, Problem> {
    let snapshot = handle.snapshot().await?;
    Ok(Json(lines(&handle, &snapshot, None).await?))
}

pub(super) async fn lines(
    handle: &ProjectHandle,
    snapshot: &dandori::Snapshot,
    only: Option<u32>,
) -> Result<Value, Problem> {
    let run = &snapshot.run;
    let lines: Vec<Value> = handle
        .logs(only)
        .await?
        .into_iter()
        .filter(|line| line.no < run.len())
        .map(|line| {
            json!({
                "step": run.name(line.no), "generation": line.generation,
                "attempt": line.attempt, "at": line.at, "line": line.line,
            })
        })
        .collect();
    Ok(json!({ "lines": lines }))
}
