//! The HTTP API as programs meet it: who may ask what, within which limits, and what the
//! answers are. Everything goes through the router; what is about connections, through the
//! accept loop.

mod access;
mod follow;
mod limits;
mod projects;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use dandori::{Context, Engine, EngineBuilder, StepError, handler_fn};
use dandori_server::http::{Options, Role, fresh_token, hash, router};
use serde_json::{Value, value::RawValue};
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

use crate::cluster::Cluster;

/// A server without sockets.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) engine: Engine,
    pub(crate) router: Router,
    /// Lets steps of the kind `gate` end, one for each permit.
    pub(crate) gate: Arc<Semaphore>,
    pub(crate) token: Option<String>,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of a problem, which is one as all are.
    pub(crate) fn code(&self) -> String {
        assert_eq!(
            self.headers["content-type"], "application/problem+json",
            "{self:?}"
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(
            problem["request_id"],
            self.headers["x-request-id"].to_str().unwrap()
        );
        problem["code"].as_str().unwrap().to_owned()
    }
}

impl Server {
    pub(crate) async fn start(builder: EngineBuilder, options: Options) -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let noop = handler_fn("noop", async |_: Context, it: Value| Ok(it));
        let fails = handler_fn("fails", async |_: Context, _: Value| {
            Err::<(), _>(StepError::fail("broken", "for good"))
        });
        let late = handler_fn("late", async |_: Context, _: Value| {
            Err::<(), _>(StepError::retry("timeout", "late"))
        });
        let raw = handler_fn("raw", async |_: Context, it: Box<RawValue>| Ok(it));
        let large =
            handler_fn("large", async |_: Context, _: Value| Ok("x".repeat(15 << 20)));
        let permits = Arc::clone(&gate);
        let gated = handler_fn("gate", move |_: Context, _: Value| {
            let permits = Arc::clone(&permits);
            async move {
                permits.acquire().await.map(tokio::sync::SemaphorePermit::forget).ok();
                Ok(())
            }
        });
        let builder = builder
            .handler(noop)
            .handler(fails)
            .handler(late)
            .handler(large)
            .handler(raw)
            .handler(gated);
        let engine = builder.start().await.unwrap();
        let router = router(engine.clone(), options);
        Self { engine, router, gate, token: None }
    }

    /// On a temporary file, for whoever comes over the loopback interface.
    pub(crate) async fn open() -> Self {
        Self::start(Engine::builder().temporary(), Self::loopback()).await
    }

    fn loopback() -> Options {
        Options { open: true, ..Options::default() }
    }

    /// On PostgreSQL.
    pub(crate) async fn shared() -> Self {
        let place = Cluster::shared().fresh();
        Self::start(Engine::builder().postgres(&place), Self::loopback()).await
    }

    /// Where nobody may ask without a token; asked in the name of the first.
    pub(crate) async fn closed() -> Self {
        Self::closed_on(Engine::builder().temporary()).await
    }

    pub(crate) async fn closed_on(builder: EngineBuilder) -> Self {
        let (token, hash) = fresh_token();
        let options =
            Options { open: false, first_token: Some(hash), ..Options::default() };
        let server = Self::start(builder, options).await;
        Self { token: Some(token), ..server }
    }

    /// Asked with another token.
    pub(crate) fn with(&self, token: Option<&str>) -> Self {
        Self { token: token.map(str::to_owned), ..self.clone() }
    }

    /// A token of a role.
    pub(crate) async fn token_of(&self, role: Role) -> String {
        let (secret, hash) = fresh_token();
        let row = dandori::store::TokenRow {
            id: dandori::SessionId::fresh().into_uuid(),
            name: role.as_str().to_owned(),
            role: role.as_str().to_owned(),
            created_at: self.engine.now(),
            revoked_at: None,
        };
        self.engine.store().put_token(row, hash, None).await.unwrap();
        secret
    }

    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
    ) -> axum::http::request::Builder {
        let request =
            Request::builder().method(method).uri(path).header("host", "localhost");
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    pub(crate) async fn answer(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.answer(self.request("GET", path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str) -> Answer {
        self.answer(self.request("POST", path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn send(
        &self,
        path: &str,
        content_type: &str,
        body: &str,
    ) -> Answer {
        let request = self.request("POST", path).header("content-type", content_type);
        self.answer(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    /// Submits a document in YAML; its id.
    pub(crate) async fn submit(&self, document: &str) -> String {
        let answer = self.send("/api/v1/projects", "application/yaml", document).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(
            answer.headers["location"],
            format!("/api/v1/projects/{id}").as_str()
        );
        id
    }

    /// Submits a document and waits for its end.
    pub(crate) async fn run(&self, document: &str) -> String {
        let id = self.submit(document).await;
        let answer = self.get(&format!("/api/v1/projects/{id}/wait")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        id
    }
}

#[test]
fn the_hash_of_a_token_is_what_is_looked_for() {
    let (token, kept) = fresh_token();
    assert_eq!(hash(&token), kept);
    assert!(token.starts_with("dnd_") && token.len() == 47, "{token}");
}
