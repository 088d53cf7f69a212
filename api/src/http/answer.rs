//! What answers have in common: bodies that are read within limits, JSON, pages of lists.

use std::{any::Any, collections::HashMap, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, OriginalUri, Path, Query, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use dandori::{ProjectHandle, ProjectId, Timestamp};
use serde::de::DeserializeOwned;

use super::{Api, MAX_BODY, problem::Problem};

/// How long the body of a request may take, where nothing else is said.
const BODY: Duration = Duration::from_secs(30);

/// How long the body of a request may take: on the request itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Within(pub(crate) Duration);

/// The most entries of a page, and how many there are when nobody says.
pub(crate) const MOST: u32 = 500;
pub(crate) const SOME: u32 = 50;

/// The path that was asked for. Where the routes stand inside of others, what they see of it
/// is its end.
pub(super) fn path(request: &Request) -> &str {
    let whole = request.extensions().get::<OriginalUri>();
    let path = whole.map_or(request.uri().path(), |whole| whole.path());
    path.trim_end_matches('/')
}

/// Reads a body within a limit of bytes and of time.
pub(crate) async fn body(request: Request, most: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("the body has more than {most} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
            .help("send less at once")
    };
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|it| it.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > most) {
        return Err(too_large());
    }
    let within = request.extensions().get::<Within>().map_or(BODY, |within| within.0);
    let read = axum::body::to_bytes(request.into_body(), most);
    match tokio::time::timeout(within, read).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => {
            let limited = std::error::Error::source(&error).is_some_and(
                <dyn std::error::Error>::is::<http_body_util::LengthLimitError>,
            );
            Err(match limited {
                true => too_large(),
                false => Problem::bad_request("bad_body", "the body ends too early"),
            })
        }
        Err(_) => {
            let detail = format!("the body took more than {} s", within.as_secs_f64());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", detail))
        }
    }
}

/// The type of a body, without parameters.
pub(crate) fn content_type(headers: &HeaderMap) -> Option<String> {
    let given = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(given.split(';').next().unwrap_or(given).trim().to_ascii_lowercase())
}

pub(crate) fn wrong_type(wanted: &str) -> Problem {
    let detail = format!("the body is to be {wanted}");
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_type", detail)
        .help("say so in the header `Content-Type`")
}

/// A JSON body of a known shape: an unknown key is refused.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        if content_type(request.headers()).as_deref() != Some("application/json") {
            return Err(wrong_type("application/json"));
        }
        let body = body(request, MAX_BODY).await?;
        serde_json::from_slice(&body).map(Self).map_err(|error| {
            let message = error.to_string();
            match error.is_data() {
                true => invalid(&message),
                false => Problem::bad_request("bad_json", message),
            }
        })
    }
}

/// A body that is JSON, and not what it should be.
pub(crate) fn invalid(message: &str) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_body", message)
}

/// The query of a request: an unknown name is refused.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejected) => {
                Err(Problem::bad_request("bad_query", rejected.body_text()))
            }
        }
    }
}

/// What a path names, by the names of its parts.
async fn named<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    part: &str,
) -> Result<String, Problem> {
    let names = Path::<HashMap<String, String>>::from_request_parts(parts, state).await;
    let Path(mut names) = names
        .map_err(|rejected| Problem::bad_request("bad_path", rejected.body_text()))?;
    let name = names.remove(part).unwrap_or_default();
    // No database takes it in a text, and no name holds it.
    match name.contains('\0') {
        true => Err(Problem::bad_request("bad_path", "the path holds a NUL")),
        false => Ok(name),
    }
}

/// The project that a path names: by its id, the end of one, its name, or `last`.
pub(crate) struct Named(pub(crate) ProjectHandle);

impl FromRequestParts<Api> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let id = named(parts, api, "id").await?;
        Ok(Self(api.engine().find(&id).await?))
    }
}

/// The second project that a path names.
pub(crate) struct NamedOther(pub(crate) ProjectHandle);

impl FromRequestParts<Api> for NamedOther {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let id = named(parts, api, "other").await?;
        Ok(Self(api.engine().find(&id).await?))
    }
}

/// The step that a path names.
pub(crate) struct NamedStep(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for NamedStep {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self(named(parts, state, "step").await?))
    }
}

/// The queue that a path names.
pub(crate) struct NamedQueue(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for NamedQueue {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self(named(parts, state, "queue").await?))
    }
}

/// The place in a list after which the next page begins: nothing to be read by people.
pub(crate) fn cursor(at: Timestamp, id: ProjectId) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{}:{id}", at.as_micros()))
}

/// Reads a cursor back.
pub(crate) fn after(cursor: &str) -> Result<(Timestamp, ProjectId), Problem> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let read = text.and_then(|text| {
        let (at, id) = text.split_once(':')?;
        Some((Timestamp::from_micros(at.parse().ok()?), id.parse().ok()?))
    });
    read.ok_or_else(|| {
        let detail = "the cursor is none that was given out";
        Problem::bad_request("bad_cursor", detail).help("take it from `next`")
    })
}

/// JSON of something that holds values as they are stored: taken apart, deep ones would not
/// come back together.
pub(crate) fn as_stored<T: serde::Serialize>(value: &T) -> Result<Response, Problem> {
    let text = serde_json::to_string(value).map_err(|error| {
        tracing::error!(%error, "an answer could not be written");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "it cannot be shown",
        )
    })?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

/// Bytes as they are stored, for programs; a browser saves them.
pub(crate) fn raw(json: &serde_json::value::RawValue) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"output.json\""),
        (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'"),
    ];
    (headers, Body::from(json.get().to_owned())).into_response()
}

pub(crate) async fn no_route() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_route", "there is nothing at this path")
        .help("`/docs` shows what there is")
}

pub(crate) async fn no_method() -> Problem {
    let detail = "the path does not know this method";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "no_method", detail)
        .help("`/docs` shows what there is")
}

pub(crate) fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    tracing::error!("a request panicked");
    let detail = "something went wrong here";
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    Problem::new(status, "internal", detail).into_response()
}
