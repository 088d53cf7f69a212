//! The OpenAPI document, and a page to read it, without anything from elsewhere.

use axum::{Json, Router, routing::get};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        OpenApi as Document, RefOr,
        path::Operation,
        response::ResponseBuilder,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_swagger_ui::SwaggerUi;

use super::{Api, problem::Problem};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Dandori",
        description = "Submit whole projects, watch them live, steer them.",
        license(name = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "projects", description = "Submit projects and look at them"),
        (name = "steps", description = "Look at steps"),
        (name = "steering", description = "Cancel, pause and resume projects"),
        (name = "events", description = "Follow what happens"),
        (name = "fleet", description = "Who executes"),
        (name = "access", description = "Tokens and the audit"),
    ),
    components(schemas(Problem)),
    modifiers(&Token),
)]
struct Head;

struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut Document) {
        let token = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("a token; its scopes are the role that it needs"))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(token));
    }
}

/// What stands above the routes.
pub(super) fn head() -> Document {
    Head::openapi()
}

/// Adds to every operation what every one may answer.
fn complete(mut document: Document) -> Document {
    for path in document.paths.paths.values_mut() {
        let operations = [&mut path.get, &mut path.post, &mut path.delete];
        for operation in operations.into_iter().flatten() {
            common(operation);
        }
    }
    document
}

fn common(operation: &mut Operation) {
    for (status, what) in [
        ("400", "the request cannot be read"),
        ("401", "no token, or one that is not valid"),
        ("403", "the token may not do this, or the request comes from another site"),
        ("415", "a compressed body"),
        ("421", "the request is for another host"),
        ("429", "too many requests"),
        ("503", "the database does not answer"),
    ] {
        let content = utoipa::openapi::ContentBuilder::new()
            .schema(Some(utoipa::openapi::Ref::from_schema_name("Problem")))
            .build();
        let response = ResponseBuilder::new()
            .description(what)
            .content("application/problem+json", content)
            .build();
        let responses = &mut operation.responses.responses;
        responses.entry(status.to_owned()).or_insert(RefOr::T(response));
    }
}

/// The document as it is served.
pub(super) fn finished(document: Document) -> Document {
    complete(document)
}

pub(super) fn routes(document: Document) -> Router<Api> {
    let document = finished(document);
    let served = document.clone();
    let docs = SwaggerUi::new("/docs").url("/openapi.json", document);
    Router::new()
        .merge(docs)
        .route("/api/v1/openapi.json", get(move || async move { Json(served) }))
}
