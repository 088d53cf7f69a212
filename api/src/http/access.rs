//! Who may ask: tokens and their roles, and how often.
//!
//! A token is 32 random bytes in base64url after `dnd_`; only its SHA-256 is kept. Whoever
//! comes over the loopback interface to a server without tokens is an admin.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use dandori::{
    Error,
    store::{Author, TokenRow},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use utoipa::ToSchema;

use super::{Api, guard::RequestId, problem::Problem};

/// How long a token that was found is believed to be valid.
pub(super) const BELIEVED: Duration = Duration::from_secs(2);
/// The most tokens that are remembered.
const REMEMBERED: usize = 10_000;
/// What every token begins with.
const PREFIX: &str = "dnd_";

/// What a token may do; each may do what those before it may.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look at everything but tokens and the audit.
    Viewer,
    /// Submit and steer projects.
    Operator,
    /// Make and revoke tokens, read the audit.
    Admin,
}

impl Role {
    /// All of them, the least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Finds the role with a label.
    pub fn parse(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == label)
    }
}

/// In whose name changes are made without a token, and with the first one: names that no
/// other token has.
const OPEN: &str = "loopback";
const FIRST: &str = "DANDORI_TOKEN";
/// What a proxy adds.
const FORWARDED: [&str; 3] = ["forwarded", "x-forwarded-for", "x-forwarded-host"];

/// Whether a token may have a name.
pub(crate) fn is_token_name(name: &str) -> bool {
    let plain = !name.chars().any(char::is_control);
    plain && (1..=100).contains(&name.len()) && ![OPEN, FIRST].contains(&name)
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) who: String,
    pub(crate) role: Role,
    /// The hash of the token; none on a server without tokens.
    pub(crate) token: Option<[u8; 32]>,
}

impl Caller {
    /// In whose name a change is made.
    pub(crate) fn author(&self, request: &RequestId) -> Author {
        Author { who: self.who.clone(), request: request.0.clone() }
    }
}

/// Makes a token: its text, and the hash that is kept.
pub fn fresh_token() -> (String, [u8; 32]) {
    let mut secret = [0; 32];
    // A system without randomness must not make tokens.
    getrandom::fill(&mut secret).expect("the system has random numbers");
    let text = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(secret));
    let hash = hash(&text);
    (text, hash)
}

/// The hash of a token that is kept instead of it.
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The tokens that were seen lately.
#[derive(Debug, Default)]
pub(super) struct Known {
    tokens: Mutex<HashMap<[u8; 32], Found>>,
    /// When it was looked whether there is any, and whether there was.
    any: Mutex<Option<(Instant, bool)>>,
}

/// When a token was looked for, and what was found.
type Found = (Instant, Option<TokenRow>);

impl Known {
    fn get(&self, hash: &[u8; 32]) -> Option<Option<TokenRow>> {
        let known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, token) = known.get(hash)?;
        (at.elapsed() < BELIEVED).then(|| token.clone())
    }

    fn put(&self, hash: [u8; 32], token: Option<TokenRow>) {
        let mut known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.retain(|_, (at, _)| at.elapsed() < BELIEVED);
        }
        if known.len() < REMEMBERED {
            known.insert(hash, (Instant::now(), token));
        }
    }

    fn any(&self) -> Option<bool> {
        let any = self.any.lock().unwrap_or_else(PoisonError::into_inner);
        any.filter(|(at, _)| at.elapsed() < BELIEVED).map(|(_, any)| any)
    }

    fn put_any(&self, any: bool) {
        let mut known = self.any.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((Instant::now(), any));
    }

    /// Forgets what is known: a token was made or revoked here.
    pub(super) fn clear(&self) {
        *self.any.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Api {
    /// Who asks with these headers.
    pub(super) async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let Some(given) = headers.get(header::AUTHORIZATION) else {
            if !self.options().open || self.has_tokens().await? {
                return Err(Problem::unauthorized("the request has no token"));
            }
            // Somebody else asks through a proxy: whoever that is, nobody vouches for them.
            if FORWARDED.iter().any(|name| headers.contains_key(*name)) {
                let detail = "the request was forwarded, and there is no token";
                return Err(Problem::unauthorized(detail));
            }
            let who = OPEN.to_owned();
            return Ok(Caller { who, role: Role::Admin, token: None });
        };
        let token = given.to_str().ok().and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let invalid = || Problem::unauthorized("the token is not valid");
        let token = token.filter(|token| !token.is_empty() && token.len() <= 256);
        self.holder(hash(token.ok_or_else(invalid)?)).await?.ok_or_else(invalid)
    }

    /// Whether there is a valid token: from the first one on nobody comes in without.
    async fn has_tokens(&self) -> Result<bool, Error> {
        if let Some(known) = self.known().any() {
            return Ok(known);
        }
        let tokens = self.engine().store().tokens().await?;
        let any = tokens.iter().any(|token| token.revoked_at.is_none());
        self.known().put_any(any);
        Ok(any)
    }

    /// Who holds a token.
    pub(super) async fn holder(&self, hash: [u8; 32]) -> Result<Option<Caller>, Error> {
        if let Some(first) = &self.options().first_token
            && bool::from(first.ct_eq(&hash))
        {
            let who = FIRST.to_owned();
            return Ok(Some(Caller { who, role: Role::Admin, token: Some(hash) }));
        }
        let row = match self.known().get(&hash) {
            Some(row) => row,
            None => {
                let row = self.engine().store().token(hash).await?;
                self.known().put(hash, row.clone());
                row
            }
        };
        Ok(row.and_then(|row| {
            let role = Role::parse(&row.role)?;
            Some(Caller { who: row.name, role, token: Some(hash) })
        }))
    }
}

/// Lets in whoever has at least a role.
pub(super) async fn require(
    State((api, role)): State<(Api, Role)>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<super::listen::Peer>().copied();
    let caller = match api.caller(request.headers()).await {
        Ok(caller) => caller,
        Err(problem) => {
            // Guesses are few for each source.
            let guessed = problem.status() == StatusCode::UNAUTHORIZED
                && request.headers().contains_key(header::AUTHORIZATION);
            if guessed && !api.rates().guess(peer) {
                return too_many().into_response();
            }
            return problem.into_response();
        }
    };
    if caller.role < role {
        let detail = format!(
            "the token `{}` is that of a {}, and this needs a role of {}",
            caller.who,
            caller.role.as_str(),
            role.as_str()
        );
        let problem = Problem::new(StatusCode::FORBIDDEN, "forbidden", detail);
        return problem.help("use a token of that role").into_response();
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !api.rates().ask(&caller, reads) {
        return too_many().into_response();
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

fn too_many() -> Problem {
    let detail = "too many requests in a short time";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail)
        .help("wait, then go on")
        .retry_after(1)
}
