//! Replays: planned first, applied by the digest of the plan, kept in a history.

use axum::Json;
use dandori::{Error, ReplayOptions};
use serde_json::{Map, Value, json};

use super::{
    answer::{self, Named},
    problem::Problem,
    shape,
    steer::By,
};

/// Plan a replay: what would run, what is kept, and what needs consent.
#[utoipa::path(
    post, path = "/api/v1/projects/{id}/replay/plan", tag = "replay",
    request_body = shape::ReplayOptions,
    responses(
        (status = 200, description = "the plan", body = shape::ReplayPlan),
        (status = 409, description = "its state does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "not such options, or an edit that is not possible", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["viewer"])),
)]
pub(super) async fn plan(
    Named(handle): Named,
    answer::Json(options): answer::Json<ReplayOptions>,
) -> Result<Json<Value>, Problem> {
    Ok(Json(json!(handle.plan_replay_of(&options).await?)))
}

/// Replay a project as planned: with the same options and the digest of the plan.
#[utoipa::path(
    post, path = "/api/v1/projects/{id}/replay", tag = "replay",
    request_body = shape::ReplayRequest,
    responses(
        (status = 200, description = "it is set back and starts", body = shape::Replayed),
        (status = 409, description = "it has changed since, or its state does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "not such options, or steps need consent", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["operator"])),
)]
pub(super) async fn apply(
    Named(handle): Named,
    By(author): By,
    answer::Json(mut request): answer::Json<Map<String, Value>>,
) -> Result<Json<Value>, Problem> {
    let digest = match request.remove("digest") {
        Some(Value::String(digest)) => digest,
        _ => return Err(answer::invalid("`digest` is missing: make a plan first")),
    };
    let options: ReplayOptions = serde_json::from_value(Value::Object(request))
        .map_err(|error| answer::invalid(&error.to_string()))?;
    let handle = handle.by(author);
    let plan = handle.plan_replay_of(&options).await?;
    if plan.digest != digest {
        return Err(Error::PlanChanged(handle.id()).into());
    }
    let count =
        |action: &str| plan.steps.iter().filter(|it| it.action == action).count();
    let (run, reuse) = (count("run"), count("reuse"));
    handle.replay(plan).await?;
    let state = handle.row().await?.state;
    Ok(Json(json!({ "id": handle.id(), "state": state, "run": run, "reuse": reuse })))
}

/// Who replayed a project, and why.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}/replays", tag = "replay",
    responses((status = 200, description = "the replays, the oldest first", body = shape::Replays)),
    security(("token" = ["viewer"])),
)]
pub(super) async fn list(Named(handle): Named) -> Result<Json<Value>, Problem> {
    Ok(Json(json!({ "replays": handle.replays().await? })))
}
