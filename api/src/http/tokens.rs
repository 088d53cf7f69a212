//! Tokens and the audit: for admins.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use dandori::{
    Error, ProjectId, SessionId, Timestamp,
    store::{AuditLine, TokenRow},
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    Api,
    access::{Caller, Role, fresh_token, is_token_name},
    answer::{self, Asked, MOST, SOME},
    guard::RequestId,
    problem::Problem,
    shape::{Audit, Audited, Token, Tokens},
};

fn shown(row: &TokenRow, token: Option<String>) -> Token {
    Token {
        id: row.id.to_string(),
        name: row.name.clone(),
        role: row.role.clone(),
        created_at: row.created_at.to_string(),
        revoked_at: row.revoked_at.map(|at| at.to_string()),
        token,
    }
}

/// List the tokens, revoked ones too.
#[utoipa::path(
    get, path = "/api/v1/tokens", tag = "access",
    responses((status = 200, description = "the tokens", body = Tokens)),
    security(("token" = ["admin"])),
)]
pub(super) async fn list(State(api): State<Api>) -> Result<Json<Tokens>, Problem> {
    let rows = api.engine().store().tokens().await.map_err(Error::from)?;
    let tokens = rows.iter().map(|row| shown(row, None)).collect();
    Ok(Json(Tokens { tokens }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    /// Its name, for people: at most 100 bytes.
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// What it may do.
    role: Role,
}

/// Make a token. Its secret is in this answer and nowhere else.
#[utoipa::path(
    post, path = "/api/v1/tokens", tag = "access", request_body = NewToken,
    responses(
        (status = 201, description = "the token", body = Token),
        (status = 422, description = "not a name and a role", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["admin"])),
)]
pub(super) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Extension(id): Extension<RequestId>,
    answer::Json(new): answer::Json<NewToken>,
) -> Result<(StatusCode, Json<Token>), Problem> {
    if !is_token_name(&new.name) {
        let detail =
            "a name has 1 to 100 bytes, no control characters, and is not reserved";
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        return Err(Problem::new(status, "bad_name", detail));
    }
    let (token, hash) = fresh_token();
    let row = new_row(&new.name, new.role, api.engine().now());
    let store = api.engine().store();
    let author = Some(caller.author(&id));
    store.put_token(row.clone(), hash, author).await.map_err(Error::from)?;
    api.known().clear();
    Ok((StatusCode::CREATED, Json(shown(&row, Some(token)))))
}

/// A token that is made now.
pub(crate) fn new_row(name: &str, role: Role, now: Timestamp) -> TokenRow {
    TokenRow {
        id: SessionId::fresh().into_uuid(),
        name: name.to_owned(),
        role: role.as_str().to_owned(),
        created_at: now,
        revoked_at: None,
    }
}

/// Revoke a token: within two seconds it opens nothing any more, open streams included.
#[utoipa::path(
    delete, path = "/api/v1/tokens/{id}", tag = "access",
    responses(
        (status = 204, description = "revoked"),
        (status = 404, description = "there is no such valid token", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = ["admin"])),
)]
pub(super) async fn revoke(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Extension(request): Extension<RequestId>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let unknown = || {
        let reason = "there is no such valid token";
        Problem::from(Error::NotFound { wanted: id.chars().take(64).collect(), reason })
    };
    let uuid = id.parse::<uuid::Uuid>().map_err(|_| unknown())?;
    let (store, author) = (api.engine().store(), Some(caller.author(&request)));
    let revoked = store.revoke_token(uuid, author, api.engine().now()).await;
    api.known().clear();
    match revoked.map_err(Error::from)? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(unknown()),
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// Only changes before this number.
    before: Option<i64>,
    /// Only changes to this project.
    project: Option<String>,
    /// At most so many, up to 500.
    limit: Option<u32>,
}

/// Who has changed what, newest first.
#[utoipa::path(
    get, path = "/api/v1/audit", tag = "access", params(Which),
    responses((status = 200, description = "a page of it", body = Audit)),
    security(("token" = ["admin"])),
)]
pub(super) async fn audit(
    State(api): State<Api>,
    Asked(asked): Asked<Which>,
) -> Result<Json<Audit>, Problem> {
    let project = match asked.project.as_deref().map(str::parse::<ProjectId>) {
        None => None,
        Some(Ok(id)) => Some(id),
        Some(Err(error)) => {
            return Err(Problem::bad_request("bad_query", error.to_string()));
        }
    };
    let limit = asked.limit.unwrap_or(SOME).clamp(1, MOST);
    let store = api.engine().store();
    let mut lines =
        store.audit(asked.before, project, limit + 1).await.map_err(Error::from)?;
    let more = lines.len() > limit as usize;
    lines.truncate(limit as usize);
    let next = lines.last().filter(|_| more).map(|line| line.seq);
    let line = |line: AuditLine| Audited {
        seq: line.seq,
        at: line.at.to_string(),
        who: line.author.who,
        what: line.what,
        project: line.project.map(|id| id.to_string()),
        detail: line.detail,
        request: line.author.request,
    };
    Ok(Json(Audit { changes: lines.into_iter().map(line).collect(), next }))
}
