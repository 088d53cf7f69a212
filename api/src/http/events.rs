//! Events of projects: pages of them, and streams (server-sent events) that go on after any
//! interruption, on any server.

use std::{convert::Infallible, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use dandori::{EventView, ProjectHandle};
use futures_util::Stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::{
    Api,
    access::{BELIEVED, Caller},
    answer::{Asked, Named},
    hub::{self, News},
    problem::Problem,
    projects::in_list,
    shape,
};

/// How often a comment keeps a silent stream alive.
const ALIVE: Duration = Duration::from_secs(15);
/// How soon a client is to come again.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct After {
    /// Only events with a higher number; for a stream the header `Last-Event-ID` goes over it.
    after: Option<String>,
}

/// The events of a project.
///
/// With `Accept: text/event-stream` a stream: each event with its number as its id and its
/// type as its name, a `reset` where the history begins anew, and `done` at the end. Without
/// it a page of at most 500.
#[utoipa::path(
    get, path = "/api/v1/projects/{id}/events", tag = "events",
    params(
        ("Last-Event-ID" = Option<String>, Header, description = "the number of the last event that was seen"),
        After,
    ),
    responses(
        (status = 200, description = "events", content(
            (shape::Events = "application/json"), (String = "text/event-stream"))),
        (status = 503, description = "too many streams", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["viewer"])),
)]
pub(super) async fn of_project(
    State(api): State<Api>,
    axum::Extension(caller): axum::Extension<Caller>,
    Named(handle): Named,
    Asked(asked): Asked<After>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let last_seen = headers.get("last-event-id").map(|id| id.to_str().unwrap_or("?"));
    let after = match last_seen.or(asked.after.as_deref()) {
        None => 0,
        Some(text) => {
            text.parse::<i64>().ok().filter(|after| *after >= 0).ok_or_else(|| {
                let detail = "the number of the last event is no number";
                Problem::bad_request("bad_event_id", detail)
                    .help("send that of an event, or 0")
            })?
        }
    };
    if !wants_stream(&headers) {
        return page(&handle, after).await.map(IntoResponse::into_response);
    }
    let place = api.hub().stream().ok_or_else(too_many)?;
    let follow = Follow { api, caller, handle, place, last: after };
    Ok(stream(follow.events()).into_response())
}

fn too_many() -> Problem {
    let detail = "this server has as many streams as it may";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", detail)
        .help("ask another server, or later")
        .retry_after(5)
}

fn wants_stream(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|it| it.to_str().ok())
        .any(|it| it.contains("text/event-stream"))
}

async fn page(handle: &ProjectHandle, after: i64) -> Result<Json<Value>, Problem> {
    let row = handle.row().await?;
    let mut events = handle.events(after).await?;
    events.truncate(500);
    let next = events.last().map_or(after.min(row.last_event), |event| event.seq);
    let done = row.state.is_terminal() && next >= row.last_event;
    Ok(Json(json!({ "events": events, "next": next, "done": done })))
}

fn stream(
    events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
) -> impl IntoResponse {
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE));
    // A proxy must not gather what is to be seen at once.
    ([("x-accel-buffering", "no")], events)
}

/// A client that follows a project.
struct Follow {
    api: Api,
    caller: Caller,
    handle: ProjectHandle,
    /// Its place among all streams.
    place: hub::Stream,
    /// The number of the latest event that it was sent.
    last: i64,
}

impl Follow {
    fn events(mut self) -> impl Stream<Item = Result<Event, Infallible>> {
        async_stream::stream! {
            let _place = &self.place;
            yield Ok(Event::default().retry(AGAIN));
            'anew: loop {
                // Whoever subscribes first misses nothing of what he reads then.
                let Ok(mut news) = self.api.hub().follow(&self.handle).await else { return };
                let Ok(row) = self.handle.row().await else { return };
                if self.last > row.last_event {
                    self.last = 0;
                    yield Ok(Event::default().event("reset").data("{}"));
                }
                while let Ok(events) = self.handle.events(self.last).await
                    && !events.is_empty()
                {
                    for event in events {
                        self.last = event.seq;
                        yield Ok(written(&event));
                    }
                }
                let Ok(row) = self.handle.row().await else { return };
                if row.state.is_terminal() && self.last >= row.last_event {
                    yield Ok(done(&row.state.to_string()));
                    return;
                }
                loop {
                    match tokio::time::timeout(BELIEVED, news.recv()).await {
                        Ok(Ok(News::Event(event))) if event.seq == self.last + 1 => {
                            self.last = event.seq;
                            yield Ok(written(&event));
                        }
                        // Seen already, while he read.
                        Ok(Ok(News::Event(event))) if event.seq <= self.last => {}
                        // Behind, or at the end: the database knows.
                        Ok(Ok(_) | Err(RecvError::Lagged(_) | RecvError::Closed)) => {
                            continue 'anew;
                        }
                        Err(_) => {}
                    }
                    // A token that was revoked opens no door any longer.
                    if let Some(token) = self.caller.token
                        && matches!(self.api.holder(token).await, Ok(None))
                    {
                        return;
                    }
                }
            }
        }
    }
}

fn written(event: &EventView) -> Event {
    let data = serde_json::to_string(event).unwrap_or_default();
    Event::default().id(event.seq.to_string()).event(event.kind).data(data)
}

fn done(state: &str) -> Event {
    Event::default().event("done").data(json!({ "state": state }).to_string())
}

/// The newest projects, as they change.
///
/// A stream: first `reset`, then the newest hundred as `project` events, the oldest first,
/// and from then on each that is new or has changed.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "events",
    responses(
        (status = 200, description = "projects", body = String, content_type = "text/event-stream"),
        (status = 503, description = "too many streams", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["viewer"])),
)]
pub(super) async fn of_all(
    State(api): State<Api>,
    axum::Extension(caller): axum::Extension<Caller>,
) -> Result<Response, Problem> {
    let place = api.hub().stream().ok_or_else(too_many)?;
    let mut newest = api.hub().newest();
    let events = async_stream::stream! {
        let _place = place;
        let mut known = std::collections::HashMap::new();
        let mut checked = tokio::time::Instant::now();
        yield Ok(Event::default().retry(AGAIN).event("reset").data("{}"));
        loop {
            let rows = newest.borrow_and_update().clone();
            for row in rows.iter().rev() {
                let seen = known.insert(row.id, row.last_event);
                if seen != Some(row.last_event) {
                    let data = in_list(row).to_string();
                    yield Ok(Event::default().event("project").data(data));
                }
            }
            if known.len() > 10 * rows.len() {
                known.retain(|id, _| rows.iter().any(|row| row.id == *id));
            }
            if let Ok(Err(_)) = tokio::time::timeout(BELIEVED, newest.changed()).await {
                return;
            }
            if checked.elapsed() >= BELIEVED {
                checked = tokio::time::Instant::now();
                if let Some(token) = caller.token
                    && matches!(api.holder(token).await, Ok(None))
                {
                    return;
                }
            }
        }
    };
    Ok(stream(events).into_response())
}
