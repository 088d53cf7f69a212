//! Archives: a project as one file, out of this database and into it.

use std::io::Cursor;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use dandori::ImportOptions;
use serde::Deserialize;

use super::{
    Api, MAX_SUBMISSION,
    answer::{self, Asked, Named},
    problem::Problem,
    projects, shape,
    steer::By,
};

/// What an archive is: JSON, a value a line.
const LINES: &str = "application/x-ndjson";

/// Export a project: an ended one, or a paused one in which nothing runs.
///
/// A file with everything that is stored of it, for any other database. A file without its
/// last line is a part of one, and is refused.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}/export", tag = "replay",
    responses(
        (status = 200, description = "the archive", body = String, content_type = "application/x-ndjson"),
        (status = 409, description = "its state does not allow it", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["viewer"])),
)]
pub(super) async fn export(Named(handle): Named) -> Result<Response, Problem> {
    let lines = handle.export_lines().await?;
    let name = format!("attachment; filename=\"{}.ndjson\"", handle.id());
    let lines = futures_util::stream::unfold(lines, async |mut lines| {
        let line = lines.recv().await?;
        Some((line, lines))
    });
    let head = [(header::CONTENT_TYPE, LINES), (header::CONTENT_DISPOSITION, &name)];
    Ok((head, Body::from_stream(lines)).into_response())
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Import {
    /// Whether the project gets another id.
    #[serde(default)]
    new_id: bool,
}

/// Import a project from an archive, whole or not at all.
///
/// It is as it was when it was exported; a replay or `resume` goes on with it. Archives of
/// more than 32 MiB go into the database by the command `dandori import`.
#[utoipa::path(
    post, path = "/api/v1/projects/import", tag = "replay",
    params(Import),
    request_body(description = "an archive", content((String = "application/x-ndjson"))),
    responses(
        (status = 201, description = "recorded", body = shape::Project,
            headers(("Location" = String, description = "where the project is"))),
        (status = 409, description = "there is a project of this id", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "no archive, a part of one, or a damaged one", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["operator"])),
)]
pub(super) async fn import(
    State(api): State<Api>,
    By(author): By,
    Asked(Import { new_id }): Asked<Import>,
    request: Request,
) -> Result<Response, Problem> {
    if answer::content_type(request.headers()).as_deref() != Some(LINES) {
        return Err(answer::wrong_type(LINES));
    }
    let here = answer::path(&request).trim_end_matches("/import").to_owned();
    let _room = api.room(request.headers(), MAX_SUBMISSION, false)?;
    let body = answer::body(request, MAX_SUBMISSION).await?;
    let _turn = api.turn().await?;
    let options = ImportOptions { fresh_id: new_id, author: Some(author) };
    let handle = api.engine().import(Cursor::new(body), options).await?;
    let mut answer = projects::recorded(&handle, &here).await?;
    *answer.status_mut() = StatusCode::CREATED;
    Ok(answer)
}
