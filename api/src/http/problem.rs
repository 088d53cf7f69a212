//! [`Problem`]: an error as `application/problem+json` (RFC 9457), with a stable code, the
//! remedy, the id of the request, and a JSON pointer for each finding about a document.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use dandori::{Error, spec::Diagnostic, store::StoreErrorKind};
use serde::Serialize;
use utoipa::ToSchema;

/// An error.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// Names the kind of error; `code` is its last part.
    #[serde(rename = "type")]
    kind: String,
    /// The stable code, explained in `docs/errors.md`.
    code: String,
    /// What the code means, in words.
    title: String,
    /// The status of the answer.
    status: u16,
    /// What went wrong here.
    detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
    /// The id of the request, also in the header `x-request-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// What is wrong with the document, place by place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    errors: Vec<Diagnostic>,
    #[serde(skip)]
    retry_after: Option<u32>,
    #[serde(skip)]
    challenge: bool,
}

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        code: &str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind: format!("urn:dandori:problem:{code}"),
            code: code.to_owned(),
            title: code.replace('_', " "),
            status: status.as_u16(),
            detail: detail.into(),
            help: None,
            request_id: None,
            errors: vec![],
            retry_after: None,
            challenge: false,
        }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Whether it is about places in a document.
    pub(crate) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// What is wrong with a document, place by place.
    pub(crate) fn into_errors(self) -> Vec<Diagnostic> {
        self.errors
    }

    /// What went wrong, and what to do about it.
    pub(crate) fn into_words(self) -> (String, String) {
        (self.detail, self.help.unwrap_or_default())
    }

    /// No token, or one that is not valid.
    pub(crate) fn unauthorized(detail: &str) -> Self {
        let help =
            "send `Authorization: Bearer TOKEN`; `dandori token create` makes one";
        let problem = Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail);
        Self { challenge: true, ..problem.help(help) }
    }

    pub(crate) fn bad_request(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Invalid(_)
            | Error::Conflict(_)
            | Error::Refused { .. }
            | Error::NeedsConsent(_)
            | Error::Archive { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Error::NotFound { .. } => StatusCode::NOT_FOUND,
            Error::Illegal { .. }
            | Error::PlanChanged(_)
            | Error::Exists(_)
            | Error::Locked(_) => StatusCode::CONFLICT,
            Error::Store(store) if store.kind() == StoreErrorKind::Refused => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut problem = match &error {
            // What the database says may name hosts and files.
            Error::Store(store) => {
                tracing::warn!(%error, "the database did not answer a request");
                let detail = match store.kind() {
                    StoreErrorKind::Refused => "the database refuses a value in it",
                    _ => "the database does not answer",
                };
                Self::new(status, error.code(), detail)
            }
            Error::Invalid(found) if found.iter().all(|it| it.code == "too_large") => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", error.to_string())
            }
            other => Self::new(status, other.code(), other.to_string()),
        };
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return problem.help("try again").retry_after(1);
        }
        problem = problem.help(error.help());
        if let Error::Invalid(found) = error {
            problem.errors = found;
        }
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, retry, challenge) =
            (self.status(), self.retry_after, self.challenge);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        let problem = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, problem);
        if let Some(seconds) = retry {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if challenge {
            let bearer = HeaderValue::from_static("Bearer realm=\"dandori\"");
            headers.insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}
