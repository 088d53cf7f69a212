//! Metrics, as Prometheus reads them.

use std::{
    fmt::Write as _,
    sync::OnceLock,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};
use dandori::{
    Timestamp,
    store::{QueueRow, SessionRow},
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::{Api, problem::Problem};

/// Bounds of the histograms of times, in seconds.
const SECONDS: &[f64] =
    &[0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3_600.0];
/// Bounds of the histogram of changes in a commit.
const CHANGES: &[f64] = &[1.0, 2.0, 8.0, 32.0, 128.0, 512.0, 4_096.0];

/// How often samples are gathered that nobody asked for: else they would be kept for ever.
const GATHER: Duration = Duration::from_secs(5);

/// What counts, for all servers of this process; nothing where another recorder was first.
static COUNTED: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Begins to count.
pub(super) fn begin() {
    COUNTED.get_or_init(|| {
        let suffix =
            |name: &str| metrics_exporter_prometheus::Matcher::Suffix(name.to_owned());
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(suffix("_seconds"), SECONDS)
            .and_then(|it| it.set_buckets_for_metric(suffix("_transitions"), CHANGES))
            .ok()?
            .install_recorder()
            .ok()?;
        let gathered = handle.clone();
        let gather = move || {
            loop {
                std::thread::sleep(GATHER);
                gathered.run_upkeep();
            }
        };
        std::thread::Builder::new().name("metrics".to_owned()).spawn(gather).ok()?;
        dandori::metrics::observe();
        metrics::describe_counter!("dandori_http_requests_total", "Requests");
        metrics::describe_histogram!(
            "dandori_http_seconds",
            metrics::Unit::Seconds,
            "How long answers took"
        );
        metrics::describe_gauge!("dandori_streams", "Open streams of events");
        metrics::describe_gauge!("dandori_workers", "Workers by state");
        metrics::describe_gauge!("dandori_slots", "Slots of live workers");
        metrics::describe_gauge!("dandori_slots_busy", "Of these in use");
        Some(handle)
    });
}

/// Counts a request by its route, never by what is in its path.
pub(super) async fn count(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or_else(|| "none".to_owned(), |it| it.as_str().to_owned());
    let method = request.method().to_string();
    let began = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    metrics::counter!(
        "dandori_http_requests_total",
        "route" => route.clone(), "method" => method, "status" => status
    )
    .increment(1);
    metrics::histogram!("dandori_http_seconds", "route" => route)
        .record(began.elapsed().as_secs_f64());
    response
}

/// Metrics of this server and of the queues, in the text format of Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "fleet",
    responses((status = 200, description = "metrics", body = String, content_type = "text/plain")),
    security(("token" = ["viewer"])),
)]
pub(super) async fn show(State(api): State<Api>) -> Result<Response, Problem> {
    let engine = api.engine();
    let queues = engine.queues().await?;
    let workers = engine.workers().await?;
    for state in ["live", "draining", "drained", "dead"] {
        let of = workers.iter().filter(|worker| worker.state == state).count();
        let of = u32::try_from(of).unwrap_or(u32::MAX);
        metrics::gauge!("dandori_workers", "state" => state).set(of);
    }
    let live = || workers.iter().filter(|worker: &&SessionRow| worker.state == "live");
    metrics::gauge!("dandori_slots").set(live().map(|it| it.slots).sum::<u32>());
    metrics::gauge!("dandori_slots_busy").set(live().map(|it| it.busy).sum::<u32>());
    let streams = u32::try_from(api.hub().streams()).unwrap_or(u32::MAX);
    metrics::gauge!("dandori_streams").set(streams);
    let text = COUNTED.get().and_then(Option::as_ref).map(PrometheusHandle::render);
    let mut text = text.unwrap_or_default();
    write_queues(&mut text, &queues, engine.now());
    let head = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((head, text).into_response())
}

/// The queues of this moment: people name them, so no series of them is kept.
fn write_queues(text: &mut String, queues: &[QueueRow], now: Timestamp) {
    let label = |queue: &QueueRow| {
        let escaped = queue.queue.replace('\\', "\\\\").replace('"', "\\\"");
        escaped.replace('\n', "\\n")
    };
    text.push_str("# HELP dandori_queue_depth Steps that wait in a queue\n");
    text.push_str("# TYPE dandori_queue_depth gauge\n");
    for queue in queues {
        let (label, depth) = (label(queue), queue.offered);
        let _ = writeln!(text, "dandori_queue_depth{{queue=\"{label}\"}} {depth}");
    }
    text.push_str("# HELP dandori_queue_age_seconds Age of the oldest of them\n");
    text.push_str("# TYPE dandori_queue_age_seconds gauge\n");
    for queue in queues {
        let age = queue.oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64());
        let label = label(queue);
        let _ = writeln!(text, "dandori_queue_age_seconds{{queue=\"{label}\"}} {age}");
    }
}
