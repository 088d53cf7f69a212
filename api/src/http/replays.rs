//! Replays and forks: planned first, applied by the digest of the plan, kept in a history.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Request, State},
    response::Response,
};
use dandori::{Error, ForkPlan, Preview, ProjectHandle, ReplayOptions};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    Api, MAX_SUBMISSION,
    answer::{self, Named, NamedOther},
    problem::Problem,
    projects, shape,
    steer::By,
    submissions::document_of,
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
) -> Result<Json<Preview>, Problem> {
    Ok(Json(handle.plan_replay_of(&options).await?.preview))
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
    if plan.preview.digest != digest {
        return Err(Error::PlanChanged(handle.id()).into());
    }
    let [run, reuse] = ["run", "reuse"].map(|action| plan.preview.count(action));
    handle.replay(plan).await?;
    let state = handle.row().await?.state;
    Ok(Json(json!({ "id": handle.id(), "state": state, "run": run, "reuse": reuse })))
}

/// What is asked of a fork: options as those of a replay, or a document as a submission has it.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Forking {
    digest: Option<String>,
    options: ReplayOptions,
    document: Option<Box<RawValue>>,
    inputs: BTreeMap<String, Box<RawValue>>,
    files: BTreeMap<String, String>,
    name: Option<String>,
}

impl Forking {
    async fn read(api: &Api, looks: bool, request: Request) -> Result<Self, Problem> {
        if answer::content_type(request.headers()).as_deref()
            != Some("application/json")
        {
            return Err(answer::wrong_type("application/json"));
        }
        let _room = api.room(request.headers(), MAX_SUBMISSION, looks)?;
        let bytes = answer::body(request, MAX_SUBMISSION).await?;
        serde_json::from_slice(&bytes).map_err(|error| match error.is_data() {
            true => answer::invalid(&error.to_string()),
            false => Problem::bad_request("bad_json", error.to_string()),
        })
    }

    async fn plan(
        &mut self,
        api: &Api,
        handle: &ProjectHandle,
    ) -> Result<ForkPlan, Problem> {
        let _turn = api.turn_to_look().await?;
        let document = match self.document.take() {
            None => None,
            Some(document) => {
                let name = self.name.take();
                let beside =
                    (std::mem::take(&mut self.inputs), std::mem::take(&mut self.files));
                Some(
                    projects::beside(move || document_of(&document, name, beside))
                        .await??,
                )
            }
        };
        Ok(handle.plan_fork(&self.options, document.as_ref()).await?)
    }
}

/// Plan a fork: what would run, what is shared, and what needs consent.
#[utoipa::path(
    post, path = "/api/v1/projects/{id}/fork/plan", tag = "replay",
    request_body = shape::ForkRequest,
    responses(
        (status = 200, description = "the plan", body = shape::ReplayPlan),
        (status = 409, description = "its state does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "not such options, or a document with faults", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["viewer"])),
)]
pub(super) async fn plan_fork(
    State(api): State<Api>,
    Named(handle): Named,
    request: Request,
) -> Result<Json<Preview>, Problem> {
    let mut forking = Forking::read(&api, true, request).await?;
    Ok(Json(forking.plan(&api, &handle).await?.preview))
}

/// Make a fork as planned: with the same options or document and the digest of the plan.
#[utoipa::path(
    post, path = "/api/v1/projects/{id}/fork", tag = "replay",
    request_body = shape::ForkRequest,
    responses(
        (status = 202, description = "recorded", body = shape::Project,
            headers(("Location" = String, description = "where the fork is"))),
        (status = 409, description = "the base has changed since, or its state does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "not such options, a document with faults, or steps need consent", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["operator"])),
)]
pub(super) async fn fork(
    State(api): State<Api>,
    Named(handle): Named,
    By(author): By,
    request: Request,
) -> Result<Response, Problem> {
    // It is asked for at `…/projects/{id}/fork`.
    let mut names = answer::path(&request).rsplitn(3, '/').skip(2);
    let projects = names.next().unwrap_or_default().to_owned();
    let mut forking = Forking::read(&api, false, request).await?;
    let Some(digest) = forking.digest.take() else {
        return Err(answer::invalid("`digest` is missing: make a plan first"));
    };
    let handle = handle.by(author);
    let plan = forking.plan(&api, &handle).await?;
    if plan.preview.digest != digest {
        return Err(Error::PlanChanged(handle.id()).into());
    }
    let fork = handle.fork(plan).await?;
    projects::recorded(&fork, &projects).await
}

/// What differs between two projects: states, inputs, outputs, errors, attempts and times.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}/diff/{other}", tag = "replay",
    responses((status = 200, description = "the differences", body = shape::ProjectDiff)),
    security(("token" = ["viewer"])),
)]
pub(super) async fn diff(
    Named(handle): Named,
    NamedOther(other): NamedOther,
) -> Result<Response, Problem> {
    answer::as_stored(&handle.diff(&other).await?)
}

/// What a project is a fork of, and its own forks.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}/lineage", tag = "replay",
    responses((status = 200, description = "the forks, the oldest first", body = shape::Lineage)),
    security(("token" = ["viewer"])),
)]
pub(super) async fn lineage(Named(handle): Named) -> Result<Json<Value>, Problem> {
    Ok(Json(json!({ "forks": handle.lineage().await? })))
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
