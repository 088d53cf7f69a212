//! What every request passes first: an id, the name of this host, no foreign page behind it;
//! and what every answer carries.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use dandori::SessionId;

use super::{Api, answer::Within, problem::Problem};

/// The header with the id of a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that is taken over from a caller.
const LONGEST_ID: usize = 64;

/// What pages from here may do: nothing but what comes from here.
const POLICY: &str = "default-src 'self'; script-src 'self'; style-src 'self'; \
    img-src 'self' blob:; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; \
    form-action 'self'";
/// The documents of the API bring their own styles, inline.
const POLICY_OF_DOCS: &str = "default-src 'self'; script-src 'self'; \
    style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; \
    frame-ancestors 'none'; base-uri 'none'";

/// The id of a request: the caller's, if it is a plain one, else a fresh one.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

impl RequestId {
    fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok());
        let is_plain = |id: &&str| {
            let mut bytes = id.bytes();
            (1..=LONGEST_ID).contains(&id.len())
                && bytes.all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        match given.filter(is_plain) {
            Some(id) => Self(id.to_owned()),
            None => Self(SessionId::fresh().to_string().replace("ses_", "req_")),
        }
    }
}

/// Around everything.
pub(super) async fn around(
    State(api): State<Api>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = RequestId::of(request.headers());
    let docs = request.uri().path().starts_with("/docs");
    let is_api = request.uri().path().starts_with("/api/");
    request.extensions_mut().insert(id.clone());
    request.extensions_mut().insert(Within(api.options().body));
    let mut response = match refused(&api, &request) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    };
    if response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|it| it.as_bytes() == b"application/problem+json")
    {
        response = with_id(response, &id).await;
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id.0) {
        headers.insert(REQUEST_ID, id);
    }
    let mut put = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    put(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    put(header::X_FRAME_OPTIONS, "DENY");
    put(header::REFERRER_POLICY, "no-referrer");
    put(header::CONTENT_SECURITY_POLICY, if docs { POLICY_OF_DOCS } else { POLICY });
    if is_api {
        put(header::CACHE_CONTROL, "no-store");
    }
    response
}

/// Writes the id of the request into a problem.
async fn with_id(response: Response, id: &RequestId) -> Response {
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let problem = serde_json::from_slice::<serde_json::Value>(&body);
    let body = match problem {
        Ok(mut problem) => {
            problem["request_id"] = id.0.clone().into();
            let mut parts = parts;
            parts.headers.remove(header::CONTENT_LENGTH);
            return Response::from_parts(parts, problem.to_string().into());
        }
        Err(_) => body,
    };
    Response::from_parts(parts, body.into())
}

fn refused(api: &Api, request: &Request) -> Option<Problem> {
    let headers = request.headers();
    if !is_known_host(api, request) {
        let problem = Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "unknown_host",
            "the request is for a host with another name",
        );
        return Some(problem.help("name it with `--host`, or use an address of it"));
    }
    if headers.contains_key(header::CONTENT_ENCODING) {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        let detail = "compressed bodies are not read";
        let problem = Problem::new(status, "unsupported_encoding", detail);
        return Some(problem.help("send the body as it is"));
    }
    let changes =
        !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if changes && is_foreign(headers) {
        let detail = "the request comes from a page of another site";
        let problem = Problem::new(StatusCode::FORBIDDEN, "cross_site", detail);
        return Some(problem.help("ask from a program, or from a page of this host"));
    }
    if request.uri().query().is_some_and(has_token) {
        let detail = "a token does not belong into an address: addresses are logged";
        let problem = Problem::bad_request("token_in_url", detail);
        return Some(problem.help("send it in the header `Authorization`"));
    }
    None
}

fn has_token(query: &str) -> bool {
    query.split('&').any(|pair| {
        matches!(pair.split('=').next(), Some("token" | "access_token" | "api_key"))
    })
}

/// Whether a request is for this server: a page of another site that has its name resolve
/// to this address sends its own.
fn is_known_host(api: &Api, request: &Request) -> bool {
    let given = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(host) = given.or_else(|| request.uri().authority().map(|it| it.as_str()))
    else {
        return false;
    };
    // An address in brackets, or a name, and perhaps a port.
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let local = name == "localhost"
        || name.parse::<std::net::IpAddr>().is_ok_and(|ip| {
            // An address cannot be made to resolve to another one.
            ip.is_loopback() || api.options().addresses
        });
    local || api.options().hosts.iter().any(|known| known.eq_ignore_ascii_case(&name))
}

/// Whether a browser says that a page of another site asks.
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|it| it.to_str().ok());
    let site = text(HeaderName::from_static("sec-fetch-site"));
    if let Some(site) = site {
        return !matches!(site, "same-origin" | "none");
    }
    let Some(origin) = text(header::ORIGIN) else { return false };
    let origin = origin.split_once("://").map(|(_, host)| host);
    origin.is_none() || origin != text(header::HOST)
}
