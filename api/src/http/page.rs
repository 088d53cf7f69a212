//! A page to look at projects with, until there is a dashboard.

use axum::{
    Router,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};

use super::Api;

pub(super) fn routes(_: &Api) -> Router<Api> {
    let file = |content_type: &'static str, text: &'static str| {
        get(move || async move { served(content_type, text) })
    };
    Router::new()
        .route("/", file("text/html; charset=utf-8", include_str!("page/index.html")))
        .route("/page.css", file("text/css", include_str!("page/page.css")))
        .route("/page.js", file("text/javascript", include_str!("page/page.js")))
}

fn served(content_type: &'static str, text: &'static str) -> Response {
    let head =
        [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache")];
    (head, text).into_response()
}
