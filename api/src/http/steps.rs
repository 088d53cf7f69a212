//! Steps: looking at them, their attempts, their logs, and why they do not run.

use std::collections::BTreeMap;

use axum::{Json, extract::State, response::Response};
use dandori::{Error, ProjectHandle, Snapshot, StepDetails, run::StepState};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Api,
    answer::{self, Asked, Named, NamedStep},
    problem::Problem,
    projects::{self, no_output},
    shape,
};

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Only steps in this state.
    state: Option<String>,
}

/// The steps of a project, in document order.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}/steps", tag = "steps",
    params(Wanted),
    responses((status = 200, description = "the steps", body = shape::Steps)),
    security(("token" = ["viewer"])),
)]
pub(super) async fn list(
    Named(handle): Named,
    Asked(asked): Asked<Wanted>,
) -> Result<Response, Problem> {
    let state = match asked.state.as_deref() {
        None => None,
        Some(label) => Some(StepState::parse(label).ok_or_else(|| {
            let detail = format!("there is no state `{label}`");
            Problem::bad_request("bad_query", detail)
        })?),
    };
    let view = handle.view().await?;
    let fits = |step: &&StepDetails| state.is_none_or(|state| step.state == state);
    let steps: Vec<&StepDetails> = view.steps.iter().filter(fits).collect();
    answer::as_stored(&BTreeMap::from([("steps", steps)]))
}

/// Finds a step of a project.
async fn find(handle: &ProjectHandle, name: &str) -> Result<(Snapshot, u32), Problem> {
    let snapshot = handle.snapshot().await?;
    match snapshot.run.find(name) {
        Some(no) => Ok((snapshot, no)),
        None => {
            let reason = "the project has no such step";
            Err(Error::NotFound { wanted: name.to_owned(), reason }.into())
        }
    }
}

/// Look at a step.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}/steps/{step}", tag = "steps",
    responses((status = 200, description = "the step", body = shape::Step)),
    security(("token" = ["viewer"])),
)]
pub(super) async fn show(
    Named(handle): Named,
    NamedStep(name): NamedStep,
) -> Result<Response, Problem> {
    let (_, no) = find(&handle, &name).await?;
    answer::as_stored(&handle.step(no).await?)
}

/// The output of a step, as it is stored.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}/steps/{step}/output", tag = "steps",
    responses(
        (status = 200, description = "the output", body = serde_json::Value),
        (status = 404, description = "there is no step, or no output", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["viewer"])),
)]
pub(super) async fn output(
    Named(handle): Named,
    NamedStep(name): NamedStep,
) -> Result<Response, Problem> {
    let (_, no) = find(&handle, &name).await?;
    let step = handle.step(no).await?;
    step.output.as_deref().map(answer::raw).ok_or_else(no_output)
}

/// The attempts of a step.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}/steps/{step}/attempts", tag = "steps",
    responses((status = 200, description = "the attempts", body = shape::Attempts)),
    security(("token" = ["viewer"])),
)]
pub(super) async fn attempts(
    Named(handle): Named,
    NamedStep(name): NamedStep,
) -> Result<Json<Value>, Problem> {
    let (_, no) = find(&handle, &name).await?;
    let attempts = projects::attempts(&handle, Some(no)).await?;
    Ok(Json(json!({ "attempts": attempts })))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Attempts {
    /// An attempt, as `GENERATION.ATTEMPT`; the last but one when left out.
    a: Option<String>,
    /// Another one; the last when left out.
    b: Option<String>,
}

/// What differs between two attempts of a step: states, outputs, errors and times.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}/steps/{step}/diff", tag = "steps",
    params(Attempts),
    responses((status = 200, description = "the differences", body = shape::AttemptDiff)),
    security(("token" = ["viewer"])),
)]
pub(super) async fn diff(
    Named(handle): Named,
    NamedStep(name): NamedStep,
    Asked(of): Asked<Attempts>,
) -> Result<Response, Problem> {
    let of = match (of.a, of.b) {
        (Some(a), Some(b)) => Some((number(&a)?, number(&b)?)),
        (None, None) => None,
        _ => return Err(Problem::bad_request("bad_query", "name both, or none")),
    };
    answer::as_stored(&handle.diff_attempts(&name, of).await?)
}

fn number(text: &str) -> Result<dandori::AttemptNo, Problem> {
    text.parse().map_err(|error: dandori::InvalidAttempt| {
        Problem::bad_request("bad_query", error.to_string())
    })
}

/// The checkpoints that a step has kept inside itself, in its latest generation.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}/steps/{step}/checkpoints", tag = "steps",
    responses((status = 200, description = "the checkpoints, the oldest first", body = shape::Checkpoints)),
    security(("token" = ["viewer"])),
)]
pub(super) async fn checkpoints(
    Named(handle): Named,
    NamedStep(name): NamedStep,
) -> Result<Response, Problem> {
    let kept = handle.checkpoints(&name).await?;
    answer::as_stored(&BTreeMap::from([("checkpoints", kept)]))
}

/// The log of a step.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}/steps/{step}/logs", tag = "steps",
    responses((status = 200, description = "the lines", body = shape::Log)),
    security(("token" = ["viewer"])),
)]
pub(super) async fn logs(
    Named(handle): Named,
    NamedStep(name): NamedStep,
) -> Result<Json<Value>, Problem> {
    let (snapshot, no) = find(&handle, &name).await?;
    Ok(Json(projects::lines(&handle, &snapshot, Some(no)).await?))
}

/// Why a step does not run yet.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}/steps/{step}/why", tag = "steps",
    responses((status = 200, description = "what it waits for", body = shape::Why)),
    security(("token" = ["viewer"])),
)]
pub(super) async fn why(
    State(_): State<Api>,
    Named(handle): Named,
    NamedStep(name): NamedStep,
) -> Result<Json<Value>, Problem> {
    Ok(Json(json!(handle.why(&name).await?)))
}
