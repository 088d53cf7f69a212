//! Steering: cancel, pause, resume, retry. A request is applied by the owner of the project,
//! or by the workers of a queue; who asks hears within two seconds whether it was.

use axum::{
    Extension, Json,
    extract::{FromRequestParts, State},
    http::{StatusCode, request::Parts},
};
use dandori::{Error, ProjectHandle, Steered, store::Author};
use serde_json::{Value, json};

use super::{
    Api,
    access::Caller,
    answer::{Named, NamedQueue, NamedStep},
    guard::RequestId,
    problem::Problem,
    shape,
};

type Answer = Result<(StatusCode, Json<Value>), Problem>;

/// Who asks, for the audit.
pub(super) struct By(pub(super) Author);

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let missing = |_| {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Problem::new(status, "internal", "nobody knows who asks")
        };
        let caller = Extension::<Caller>::from_request_parts(parts, state).await;
        let id = Extension::<RequestId>::from_request_parts(parts, state).await;
        let (Extension(caller), Extension(id)) =
            (caller.map_err(missing)?, id.map_err(missing)?);
        Ok(Self(caller.author(&id)))
    }
}

/// Stop a project: no step starts any more, running ones are told to stop.
#[utoipa::path(
    post, path = "/api/v1/projects/{id}/cancel", tag = "steering",
    responses(
        (status = 200, description = "applied", body = shape::Steered),
        (status = 202, description = "recorded; it is applied soon", body = shape::Steered),
        (status = 409, description = "its state does not allow it", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["operator"])),
)]
pub(super) async fn cancel(Named(handle): Named, By(author): By) -> Answer {
    let handle = handle.by(author);
    answer(&handle, handle.cancel().await).await
}

/// Start no further steps of a project; running ones finish.
#[utoipa::path(
    post, path = "/api/v1/projects/{id}/pause", tag = "steering",
    responses(
        (status = 200, description = "applied", body = shape::Steered),
        (status = 202, description = "recorded; it is applied soon", body = shape::Steered),
        (status = 409, description = "its state does not allow it", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["operator"])),
)]
pub(super) async fn pause(Named(handle): Named, By(author): By) -> Answer {
    let handle = handle.by(author);
    answer(&handle, handle.pause().await).await
}

/// Go on with a project that is paused.
#[utoipa::path(
    post, path = "/api/v1/projects/{id}/resume", tag = "steering",
    responses(
        (status = 200, description = "applied", body = shape::Steered),
        (status = 202, description = "recorded; it is applied soon", body = shape::Steered),
        (status = 409, description = "its state does not allow it", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["operator"])),
)]
pub(super) async fn resume(Named(handle): Named, By(author): By) -> Answer {
    let handle = handle.by(author);
    answer(&handle, handle.resume().await).await
}

/// Start the next attempt of every step now that waits for its retry.
#[utoipa::path(
    post, path = "/api/v1/projects/{id}/retry", tag = "steering",
    responses(
        (status = 200, description = "applied", body = shape::Steered),
        (status = 202, description = "recorded; it is applied soon", body = shape::Steered),
        (status = 409, description = "its state does not allow it", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["operator"])),
)]
pub(super) async fn retry(Named(handle): Named, By(author): By) -> Answer {
    let handle = handle.by(author);
    answer(&handle, handle.retry(None).await).await
}

/// Start the next attempt of a step now that waits for its retry.
#[utoipa::path(
    post, path = "/api/v1/projects/{id}/steps/{step}/retry", tag = "steering",
    responses(
        (status = 200, description = "applied", body = shape::Steered),
        (status = 202, description = "recorded; it is applied soon", body = shape::Steered),
        (status = 409, description = "its state does not allow it", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["operator"])),
)]
pub(super) async fn retry_step(
    Named(handle): Named,
    NamedStep(step): NamedStep,
    By(author): By,
) -> Answer {
    let handle = handle.by(author);
    answer(&handle, handle.retry(Some(&step)).await).await
}

/// Start no further steps of a queue, on any worker; running ones finish.
#[utoipa::path(
    post, path = "/api/v1/queues/{queue}/pause", tag = "steering",
    responses(
        (status = 200, description = "applied", body = shape::QueueSteered),
        (status = 202, description = "recorded; it is applied soon", body = shape::QueueSteered),
    ),
    security(("token" = ["operator"])),
)]
pub(super) async fn pause_queue(
    State(api): State<Api>,
    NamedQueue(queue): NamedQueue,
    By(author): By,
) -> Answer {
    let steered = api.engine().pause_queue(&queue, Some(author)).await?;
    Ok(of_queue(&queue, steered, true))
}

/// Let the steps of a queue start again.
#[utoipa::path(
    post, path = "/api/v1/queues/{queue}/resume", tag = "steering",
    responses(
        (status = 200, description = "applied", body = shape::QueueSteered),
        (status = 202, description = "recorded; it is applied soon", body = shape::QueueSteered),
    ),
    security(("token" = ["operator"])),
)]
pub(super) async fn resume_queue(
    State(api): State<Api>,
    NamedQueue(queue): NamedQueue,
    By(author): By,
) -> Answer {
    let steered = api.engine().resume_queue(&queue, Some(author)).await?;
    Ok(of_queue(&queue, steered, false))
}

async fn answer(handle: &ProjectHandle, steered: Result<Steered, Error>) -> Answer {
    let (status, request) = status(steered?);
    let row = handle.row().await?;
    let body = json!({ "id": row.id, "request": request, "state": row.state });
    Ok((status, Json(body)))
}

fn of_queue(queue: &str, steered: Steered, paused: bool) -> (StatusCode, Json<Value>) {
    let (status, request) = status(steered);
    (status, Json(json!({ "name": queue, "request": request, "paused": paused })))
}

fn status(steered: Steered) -> (StatusCode, &'static str) {
    match steered {
        Steered::Applied => (StatusCode::OK, "applied"),
        Steered::Recorded => (StatusCode::ACCEPTED, "recorded"),
    }
}
