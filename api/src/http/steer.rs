//! Steering: cancel, pause, resume. A request is applied by the owner of the project; who
//! asks hears within two seconds whether it was.

use axum::{Extension, Json, http::StatusCode};
use dandori::{Error, Steered};
use serde_json::{Value, json};

use super::{access::Caller, answer::Named, guard::RequestId, problem::Problem, shape};

type Answer = Result<(StatusCode, Json<Value>), Problem>;

/// Stop a project: no step starts any more, running ones are told to stop.
#[utoipa::path(
    post, path = "/api/v1/projects/{id}/cancel", tag = "steering",
    params(("id" = String, Path, description = "an id, the end of one, a name, or `last`")),
    responses(
        (status = 200, description = "applied", body = shape::Steered),
        (status = 202, description = "recorded; its owner applies it soon", body = shape::Steered),
        (status = 404, description = "there is none", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "its state does not allow it", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["operator"])),
)]
pub(super) async fn cancel(
    Named(handle): Named,
    Extension(caller): Extension<Caller>,
    Extension(id): Extension<RequestId>,
) -> Answer {
    let handle = handle.by(caller.author(&id));
    answer(&handle, handle.cancel().await).await
}

/// Start no further steps of a project; running ones finish.
#[utoipa::path(
    post, path = "/api/v1/projects/{id}/pause", tag = "steering",
    params(("id" = String, Path, description = "an id, the end of one, a name, or `last`")),
    responses(
        (status = 200, description = "applied", body = shape::Steered),
        (status = 202, description = "recorded; its owner applies it soon", body = shape::Steered),
        (status = 404, description = "there is none", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "its state does not allow it", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["operator"])),
)]
pub(super) async fn pause(
    Named(handle): Named,
    Extension(caller): Extension<Caller>,
    Extension(id): Extension<RequestId>,
) -> Answer {
    let handle = handle.by(caller.author(&id));
    answer(&handle, handle.pause().await).await
}

/// Go on with a project that is paused.
#[utoipa::path(
    post, path = "/api/v1/projects/{id}/resume", tag = "steering",
    params(("id" = String, Path, description = "an id, the end of one, a name, or `last`")),
    responses(
        (status = 200, description = "applied", body = shape::Steered),
        (status = 202, description = "recorded; its owner applies it soon", body = shape::Steered),
        (status = 404, description = "there is none", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "its state does not allow it", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["operator"])),
)]
pub(super) async fn resume(
    Named(handle): Named,
    Extension(caller): Extension<Caller>,
    Extension(id): Extension<RequestId>,
) -> Answer {
    let handle = handle.by(caller.author(&id));
    answer(&handle, handle.resume().await).await
}

async fn answer(
    handle: &dandori::ProjectHandle,
    steered: Result<Steered, Error>,
) -> Answer {
    let (status, request) = match steered? {
        Steered::Applied => (StatusCode::OK, "applied"),
        Steered::Recorded => (StatusCode::ACCEPTED, "recorded"),
    };
    let row = handle.row().await?;
    let body = json!({ "id": row.id, "request": request, "state": row.state });
    Ok((status, Json(body)))
}
