//! The OpenAPI document, and a page to read it, without anything from elsewhere.

use axum::{Json, Router, routing::get};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        OpenApi as Document, RefOr, Required,
        path::Operation,
        path::{ParameterBuilder, ParameterIn},
        response::ResponseBuilder,
        schema::{ObjectBuilder, Type},
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
        (name = "replay", description = "Run steps again and keep the rest"),
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

/// Adds to every operation what its path names and what every one may answer.
fn complete(mut document: Document) -> Document {
    for (path, item) in &mut document.paths.paths {
        let operations = [&mut item.get, &mut item.post, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            parameters(path, operation);
            answers(path, operation);
        }
    }
    document
}

fn parameters(path: &str, operation: &mut Operation) {
    let known = [
        ("/projects/{id}", "id", "an id, the end of one, a name, or `last`"),
        ("/diff/{other}", "other", "another project, named in the same ways"),
        ("/tokens/{id}", "id", "the id of the token"),
        ("/steps/{step}", "step", "its full name; a `/` in it is written `%2F`"),
        ("/queues/{queue}", "queue", "its name; a `/` in it is written `%2F`"),
    ];
    let named = known.into_iter().filter(|(part, _, _)| path.contains(part));
    let named = named.map(|(_, name, what)| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .description(Some(what))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
            .build()
            .into()
    });
    let rest = operation.parameters.take().unwrap_or_default();
    let all: Vec<_> = named.chain(rest).collect();
    operation.parameters = (!all.is_empty()).then_some(all);
}

fn answers(path: &str, operation: &mut Operation) {
    let always = [
        ("400", "the request cannot be read"),
        ("401", "no token, or one that is not valid"),
        ("403", "the token may not do this, or the request comes from another site"),
        ("415", "a compressed body"),
        ("421", "the request is for another host"),
        ("429", "too many requests"),
        ("503", "the database does not answer"),
    ];
    let unknown = [("404", "there is none")];
    let of_body = [
        ("408", "the body is too slow"),
        ("413", "the body is too large"),
        ("415", "a body of another type, or a compressed one"),
    ];
    let unknown = unknown.into_iter().filter(|_| path.contains('{'));
    let of_body = of_body.into_iter().filter(|_| operation.request_body.is_some());
    let possible: Vec<_> = unknown.chain(of_body).chain(always).collect();
    for (status, what) in possible {
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
