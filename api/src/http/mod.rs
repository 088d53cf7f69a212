//! The HTTP API: submit whole projects, watch them live, steer them.
//!
//! Owns routes, access, limits and the form of answers. Decides nothing about projects: it
//! asks the engine, and follows what is recorded.
//!
//! Invariant: whatever is changed over HTTP is changed by a caller with a role, and is in
//! the audit with the transaction that changed it.

mod access;
mod answer;
mod archives;
mod bounds;
mod events;
mod filter;
mod fleet;
mod guard;
mod hub;
mod listen;
mod metrics;
mod openapi;
mod page;
mod problem;
mod projects;
mod rate;
mod replays;
pub(crate) mod shape;
mod steer;
mod steps;
mod submissions;
pub(crate) mod tokens;

use std::{sync::Arc, time::Duration};

use axum::{Router, middleware, routing::get};
use dandori::Engine;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{access::Known, bounds::Bounds, hub::Hub, rate::Rates};
pub(crate) use self::{
    access::is_token_name,
    filter::{filter, word},
    fleet::{kinds_json, queues_json},
};
pub use self::{
    access::{Role, fresh_token, hash},
    listen::{Connections, serve},
};

/// The largest body of a submission, in bytes.
pub const MAX_SUBMISSION: usize = 32 << 20;
/// The largest body of another request, in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// How a server lets in.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether whoever has no token is an admin, as long as there is no token: only right on
    /// the loopback interface, and not for what a proxy forwards.
    pub open: bool,
    /// The SHA-256 of a first token, which is that of an admin.
    pub first_token: Option<[u8; 32]>,
    /// The names by which this server is known, beside those of the loopback interface.
    pub hosts: Vec<String>,
    /// Whether it may be called by any address, and not only by a name.
    pub addresses: bool,
    /// How many requests a second a token may make, reading and changing apart.
    pub per_second: u32,
    /// How many streams of events there may be.
    pub streams: usize,
    /// How long the body of a request may take.
    pub body: Duration,
    /// Whether the process counts what happens, for `/metrics`: with the recorder of the
    /// crate `metrics`, of which a process has one. A program with one of its own says no,
    /// and finds the same figures there.
    pub metrics: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            open: false,
            first_token: None,
            hosts: vec![],
            addresses: false,
            per_second: 2_000,
            streams: 2_000,
            body: Duration::from_secs(30),
            metrics: true,
        }
    }
}

/// What every request shares. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Api(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bounds: Bounds,
    engine: Engine,
    options: Options,
    known: Known,
    rates: Rates,
    hub: Hub,
}

impl Api {
    fn new(engine: Engine, options: Options) -> Self {
        let rates = Rates::new(options.per_second);
        let hub = Hub::new(engine.clone(), options.streams);
        let bounds = Bounds::default();
        Self(Arc::new(Inner {
            bounds,
            engine,
            options,
            known: Known::default(),
            rates,
            hub,
        }))
    }

    fn engine(&self) -> &Engine {
        &self.0.engine
    }

    fn options(&self) -> &Options {
        &self.0.options
    }

    fn known(&self) -> &Known {
        &self.0.known
    }

    fn rates(&self) -> &Rates {
        &self.0.rates
    }

    fn hub(&self) -> &Hub {
        &self.0.hub
    }
}

/// The routes of an engine, to be served by themselves or inside another axum program.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use dandori_server::http::{Options, router};
///
/// let engine = dandori::Engine::builder().sqlite("dandori.db").start().await?;
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:7070").await?;
/// let options = Options { open: true, ..Options::default() };
/// axum::serve(listener, router(engine, options)).await?;
/// # Ok(())
/// # }
/// ```
pub fn router(engine: Engine, options: Options) -> Router {
    if options.metrics {
        metrics::begin();
    }
    let api = Api::new(engine, options);
    let (routes, document) = routes(Some(&api)).split_for_parts();
    let guard = middleware::from_fn_with_state(api.clone(), guard::around);
    routes
        .merge(openapi::routes(document))
        .merge(page::routes(&api))
        .route("/healthz", get(|| async { "ok" }))
        .fallback(answer::no_route)
        .method_not_allowed_fallback(answer::no_method)
        .with_state(api)
        .layer(CatchPanicLayer::custom(answer::panicked))
        .layer(guard)
}

/// The OpenAPI document of the routes.
pub fn document() -> utoipa::openapi::OpenApi {
    // It is that of the routes, whatever engine is behind them.
    openapi::finished(routes(None).split_for_parts().1)
}

/// The routes, each behind the role that it needs where there is an engine to ask.
fn routes(api: Option<&Api>) -> OpenApiRouter<Api> {
    let viewer = OpenApiRouter::new()
        .routes(routes!(submissions::validate))
        .routes(routes!(projects::list))
        .routes(routes!(projects::show))
        .routes(routes!(projects::output))
        .routes(routes!(projects::wait))
        .routes(routes!(projects::graph))
        .routes(routes!(projects::graph_svg))
        .routes(routes!(projects::timeline))
        .routes(routes!(steps::list))
        .routes(routes!(steps::show))
        .routes(routes!(steps::output))
        .routes(routes!(steps::attempts))
        .routes(routes!(steps::checkpoints))
        .routes(routes!(steps::logs))
        .routes(routes!(steps::why))
        .routes(routes!(projects::logs))
        .routes(routes!(replays::plan))
        .routes(routes!(replays::list))
        .routes(routes!(replays::plan_fork))
        .routes(routes!(replays::lineage))
        .routes(routes!(replays::diff))
        .routes(routes!(archives::export))
        .routes(routes!(steps::diff))
        .routes(routes!(events::of_project))
        .routes(routes!(events::of_all))
        .routes(routes!(fleet::workers))
        .routes(routes!(fleet::queues))
        .routes(routes!(fleet::kinds))
        .routes(routes!(metrics::show));
    let operator = OpenApiRouter::new()
        .routes(routes!(submissions::submit))
        .routes(routes!(steer::cancel))
        .routes(routes!(steer::pause))
        .routes(routes!(steer::resume))
        .routes(routes!(steer::retry))
        .routes(routes!(steer::retry_step))
        .routes(routes!(steer::pause_queue))
        .routes(routes!(steer::resume_queue))
        .routes(routes!(replays::apply))
        .routes(routes!(replays::fork))
        .routes(routes!(archives::import));
    let admin = OpenApiRouter::new()
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(tokens::audit));
    // Whoever probes a server has no token, and learns nothing else.
    let mut all =
        OpenApiRouter::with_openapi(openapi::head()).routes(routes!(fleet::ready));
    for (role, routes) in
        [(Role::Viewer, viewer), (Role::Operator, operator), (Role::Admin, admin)]
    {
        all = all.merge(match api {
            Some(api) => {
                let state = (api.clone(), role);
                routes
                    .route_layer(middleware::from_fn_with_state(state, access::require))
                    .route_layer(CatchPanicLayer::custom(answer::panicked))
                    .route_layer(middleware::from_fn(metrics::count))
            }
            None => routes,
        });
    }
    all
}
