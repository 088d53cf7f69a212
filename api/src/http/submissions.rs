//! Submissions: documents, with what goes beside them, recorded or only looked at.

use std::collections::BTreeMap;

use axum::{
    Extension, Json,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use dandori::{
    Error, Project,
    plan::Plan,
    spec::{Compiled, Diagnostic, Format, Limits, Source},
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    Api, MAX_SUBMISSION,
    access::Caller,
    answer,
    guard::RequestId,
    problem::Problem,
    projects::{beside, recorded},
    shape,
};

/// The longest idempotency key, in bytes.
const LONGEST_KEY: usize = 255;

/// Reads the project that a request submits.
async fn project(api: &Api, looks: bool, request: Request) -> Result<Project, Problem> {
    let format = match answer::content_type(request.headers()).as_deref() {
        Some("application/json") => Format::Json,
        Some("application/yaml" | "application/x-yaml" | "text/yaml") => Format::Yaml,
        _ => return Err(answer::wrong_type("application/json or application/yaml")),
    };
    let _room = api.room(request.headers(), MAX_SUBMISSION, looks)?;
    let bytes = answer::body(request, MAX_SUBMISSION).await?;
    // A large document takes its time.
    let _turn = match looks {
        true => api.turn_to_look().await?,
        false => api.turn().await?,
    };
    beside(move || read(&bytes, format)).await?
}

/// A document with what goes beside it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'b> {
    /// The document as JSON, or its text (YAML or JSON) as a string.
    #[serde(borrow)]
    document: &'b RawValue,
    /// The name of a project whose document has none.
    name: Option<String>,
    /// The values of inputs.
    #[serde(default)]
    inputs: BTreeMap<String, Box<RawValue>>,
    /// The texts that `file('…')` stands for, by name.
    #[serde(default)]
    files: BTreeMap<String, String>,
}

fn read(bytes: &[u8], format: Format) -> Result<Project, Problem> {
    if !matches!(format, Format::Json) || !is_envelope(bytes) {
        return Ok(parse(bytes.to_vec(), Some(format))?);
    }
    let envelope: Envelope<'_> = serde_json::from_slice(bytes).map_err(|error| {
        answer::invalid(&error.to_string())
            .help("beside `document` there may be `name`, `inputs` and `files`")
    })?;
    let Envelope { document, name, inputs, files } = envelope;
    document_of(document, name, (inputs, files))
}

fn parse(bytes: Vec<u8>, format: Option<Format>) -> Result<Project, Error> {
    let source = Source::from_bytes(None, bytes, format);
    let source = source.map_err(|found| Error::Invalid(vec![found]))?;
    Project::from_source_within(source, &Limits::server())
}

/// A document, as JSON or as a text, with what goes beside it.
pub(super) fn document_of(
    document: &RawValue,
    name: Option<String>,
    (inputs, files): (BTreeMap<String, Box<RawValue>>, BTreeMap<String, String>),
) -> Result<Project, Problem> {
    let text = document.get();
    let mut project = match text.starts_with('"') {
        true => {
            let text: String = serde_json::from_str(text)
                .map_err(|error| Problem::bad_request("bad_json", error.to_string()))?;
            parse(text.into_bytes(), None)?
        }
        false => parse(text.as_bytes().to_vec(), Some(Format::Json))?,
    };
    for (name, value) in &inputs {
        // By the reader of documents: it refuses what would lose digits or keys.
        project = project.input_json(name, value.get())?;
    }
    for (name, text) in files {
        project = project.file(name, text);
    }
    let of_document = &mut project.document_mut().name;
    *of_document = of_document.take().or(name);
    Ok(project)
}

/// Whether it is an object with the key `document`, which no document has.
fn is_envelope(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Keys {
        document: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Keys>(bytes).is_ok_and(|keys| keys.document.is_some())
}

/// Submit a project.
///
/// A whole project, as tasks or as a canvas. It is recorded in one transaction and started
/// by whoever executes on the database. With an `Idempotency-Key` the same document is the
/// same project, however often it is sent; another document under the same key is refused.
#[utoipa::path(
    post, path = "/api/v1/projects", tag = "projects",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "at most 255 visible ASCII characters"),
    ),
    request_body(
        description = "a project document, or an object with one under `document` and with `inputs`, `files` and `name` beside it",
        content((Object = "application/json"), (String = "application/yaml")),
    ),
    responses(
        (status = 202, description = "recorded", body = shape::Project,
            headers(("Location" = String, description = "where the project is"))),
        (status = 422, description = "not valid, or another document under the same key", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["operator"])),
)]
pub(super) async fn submit(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, Problem> {
    let key = idempotency_key(request.headers())?;
    let here = answer::path(&request).to_owned();
    let mut project = project(&api, false, request).await?;
    if let Some(key) = key {
        project = project.idempotency_key(key);
    }
    let engine = api.engine().clone();
    let turn = api.turn().await?;
    let mut compiled = beside({
        let engine = engine.clone();
        move || engine.compile(&project)
    })
    .await??;
    drop(turn);
    compiled.author = Some(caller.author(&id));
    let handle = engine.submit_compiled(compiled).await?;
    recorded(&handle, &here).await
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=LONGEST_KEY).contains(&key.len()));
    key.map(|key| Some(key.to_owned())).ok_or_else(|| {
        let detail = "the idempotency key is empty, too long, or not plain ASCII";
        Problem::bad_request("bad_idempotency_key", detail)
            .help("use at most 255 visible characters, such as a UUID")
    })
}

/// Look at a document without running it.
///
/// Its diagnostics, and when it is valid its levels, its longest path and how wide it is.
#[utoipa::path(
    post, path = "/api/v1/projects/validate", tag = "projects",
    request_body(
        description = "a project document, or an object with one under `document` and with `inputs`, `files` and `name` beside it",
        content((Object = "application/json"), (String = "application/yaml")),
    ),
    responses((status = 200, description = "what was found", body = shape::Validation)),
    security(("token" = ["viewer"])),
)]
pub(super) async fn validate(
    State(api): State<Api>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    let project = match answer::content_type(request.headers()) {
        None => return Err(answer::wrong_type("application/json or application/yaml")),
        Some(_) => project_or_findings(&api, request).await?,
    };
    let engine = api.engine().clone();
    let invalid =
        |found: Vec<Diagnostic>| json!({ "valid": false, "diagnostics": found });
    let project = match project {
        Ok(project) => project,
        Err(found) => return Ok(Json(invalid(found))),
    };
    let _turn = api.turn_to_look().await?;
    let compiled = beside(move || {
        engine.compile_with_warnings(&project).map(|(compiled, warnings)| {
            let shown = plan_json(&compiled);
            (shown, warnings)
        })
    })
    .await?;
    match compiled {
        Ok((mut shown, warnings)) => {
            shown["valid"] = true.into();
            shown["diagnostics"] = json!(warnings);
            Ok(Json(shown))
        }
        Err(Error::Invalid(found)) => Ok(Json(invalid(found))),
        Err(other) => Err(other.into()),
    }
}

async fn project_or_findings(
    api: &Api,
    request: Request,
) -> Result<Result<Project, Vec<Diagnostic>>, Problem> {
    match project(api, true, request).await {
        Ok(project) => Ok(Ok(project)),
        Err(problem) => match problem.status() {
            StatusCode::UNPROCESSABLE_ENTITY if problem.has_errors() => {
                Ok(Err(problem.into_errors()))
            }
            _ => Err(problem),
        },
    }
}

/// What a plan looks like.
fn plan_json(compiled: &Compiled) -> Value {
    let plan = &compiled.plan;
    let figures = plan.figures();
    json!({
        "tasks": compiled.tasks,
        "steps": figures.steps,
        "edges": figures.edges,
        "depth": figures.depth,
        "width": figures.width,
        "hash": plan.hash_hex(),
        "levels": levels(plan),
        "critical_path": plan
            .critical_path()
            .into_iter()
            .map(|no| plan.step(no).name.clone())
            .collect::<Vec<_>>(),
    })
}

fn levels(plan: &Plan) -> Vec<Vec<&str>> {
    let mut levels: Vec<Vec<&str>> = vec![];
    for no in 0..plan.len() {
        let level = plan.level(no) as usize;
        if levels.len() < level {
            levels.resize(level, vec![]);
        }
        levels[level - 1].push(&plan.step(no).name);
    }
    levels
}
