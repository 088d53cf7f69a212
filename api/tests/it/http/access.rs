//! Who may ask what.

use std::collections::BTreeMap;

use axum::body::Body;
use dandori_server::http::{Role, document};
use serde_json::Value;

use super::Server;

/// Every route with the role that it needs. A route that is missing here fails.
const TABLE: &[(&str, &str, &str)] = &[
    ("get", "/api/v1/audit", "admin"),
    ("get", "/api/v1/events", "viewer"),
    ("get", "/api/v1/kinds", "viewer"),
    ("get", "/api/v1/projects", "viewer"),
    ("post", "/api/v1/projects", "operator"),
    ("post", "/api/v1/projects/import", "operator"),
    ("post", "/api/v1/projects/validate", "viewer"),
    ("get", "/api/v1/projects/{id}", "viewer"),
    ("post", "/api/v1/projects/{id}/cancel", "operator"),
    ("get", "/api/v1/projects/{id}/diff/{other}", "viewer"),
    ("get", "/api/v1/projects/{id}/events", "viewer"),
    ("get", "/api/v1/projects/{id}/export", "viewer"),
    ("post", "/api/v1/projects/{id}/fork", "operator"),
    ("post", "/api/v1/projects/{id}/fork/plan", "viewer"),
    ("get", "/api/v1/projects/{id}/graph", "viewer"),
    ("get", "/api/v1/projects/{id}/graph.svg", "viewer"),
    ("get", "/api/v1/projects/{id}/lineage", "viewer"),
    ("get", "/api/v1/projects/{id}/logs", "viewer"),
    ("get", "/api/v1/projects/{id}/output", "viewer"),
    ("post", "/api/v1/projects/{id}/pause", "operator"),
    ("post", "/api/v1/projects/{id}/replay", "operator"),
    ("post", "/api/v1/projects/{id}/replay/plan", "viewer"),
    ("get", "/api/v1/projects/{id}/replays", "viewer"),
    ("post", "/api/v1/projects/{id}/resume", "operator"),
    ("post", "/api/v1/projects/{id}/retry", "operator"),
    ("get", "/api/v1/projects/{id}/steps", "viewer"),
    ("get", "/api/v1/projects/{id}/steps/{step}", "viewer"),
    ("get", "/api/v1/projects/{id}/steps/{step}/attempts", "viewer"),
    ("get", "/api/v1/projects/{id}/steps/{step}/checkpoints", "viewer"),
    ("get", "/api/v1/projects/{id}/steps/{step}/diff", "viewer"),
    ("get", "/api/v1/projects/{id}/steps/{step}/logs", "viewer"),
    ("get", "/api/v1/projects/{id}/steps/{step}/output", "viewer"),
    ("post", "/api/v1/projects/{id}/steps/{step}/retry", "operator"),
    ("get", "/api/v1/projects/{id}/steps/{step}/why", "viewer"),
    ("get", "/api/v1/projects/{id}/timeline", "viewer"),
    ("get", "/api/v1/projects/{id}/wait", "viewer"),
    ("get", "/api/v1/queues", "viewer"),
    ("post", "/api/v1/queues/{queue}/pause", "operator"),
    ("post", "/api/v1/queues/{queue}/resume", "operator"),
    ("get", "/api/v1/tokens", "admin"),
    ("post", "/api/v1/tokens", "admin"),
    ("delete", "/api/v1/tokens/{id}", "admin"),
    ("get", "/api/v1/workers", "viewer"),
    ("get", "/metrics", "viewer"),
    ("get", "/readyz", "anybody"),
];

/// The routes of the document that is served, with the roles it names.
fn routes() -> BTreeMap<(String, String), String> {
    let document = serde_json::to_value(document()).unwrap();
    let mut routes = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let role = operation["security"][0]["token"][0].as_str();
            // One without a role lets in anybody.
            let role = role.unwrap_or("anybody").to_owned();
            routes.insert((path.clone(), method.clone()), role);
        }
    }
    routes
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_lets_in_whom_the_table_names() {
    let table: BTreeMap<_, _> = TABLE
        .iter()
        .map(|(method, path, role)| {
            (((*path).to_owned(), (*method).to_owned()), (*role).to_owned())
        })
        .collect();
    assert_eq!(routes(), table, "the table and the routes");
    let server = Server::closed().await;
    let id = server.run("tasks: { a: { kind: noop } }").await;
    let mut callers = vec![(None, server.with(None))];
    for role in Role::ALL {
        let token = server.token_of(role).await;
        callers.push((Some(role), server.with(Some(&token))));
    }
    for ((path, method), needed) in table {
        let open = needed == "anybody";
        let needed = Role::parse(&needed).unwrap_or(Role::Viewer);
        let path = path.replace("{step}", "a").replace("{id}", &id);
        let path = path.replace("{other}", &id);
        let path = path.replace("{queue}", "q");
        for (role, caller) in &callers {
            let request = caller.request(&method.to_uppercase(), &path);
            let response = tower::ServiceExt::oneshot(
                caller.router.clone(),
                request.body(Body::empty()).unwrap(),
            );
            // A stream has begun when its head is there.
            let status = response.await.unwrap().status().as_u16();
            let expected = match role {
                None if open => status == 200,
                None => status == 401,
                Some(role) if *role < needed => status == 403,
                Some(_) => status != 401 && status != 403 && status < 500,
            };
            assert!(expected, "{method} {path} as {role:?}: {status}");
        }
    }
    server.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_valid_token_is_told_how_to_get_one() {
    let server = Server::closed().await;
    let answer = server.with(None).get("/api/v1/projects").await;
    assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"dandori\"");
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "unauthorized"));
    assert_eq!(server.with(None).get("/healthz").await.status, 200);
    for wrong in ["", "x", "dnd_", &"x".repeat(300)] {
        let answer = server.with(Some(wrong)).get("/api/v1/projects").await;
        assert_eq!(answer.status, 401, "{wrong}");
    }
    // A token is no part of an address, where it would be logged.
    let answer = server.get("/api/v1/projects?token=x").await;
    assert_eq!(answer.code(), "token_in_url");
    server.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_server_is_closed_by_its_first_token_and_never_open_to_a_proxy() {
    let server = Server::open().await;
    let forwarded = server
        .request("GET", "/api/v1/projects")
        .header("x-forwarded-for", "203.0.113.7")
        .body(Body::empty());
    assert_eq!(server.answer(forwarded.unwrap()).await.status, 401);
    assert_eq!(server.get("/api/v1/projects").await.status, 200);
    for reserved in ["loopback", "DANDORI_TOKEN"] {
        let body = format!(r#"{{"name":"{reserved}","role":"viewer"}}"#);
        let made = server.send("/api/v1/tokens", "application/json", &body).await;
        assert_eq!(made.code(), "bad_name");
    }
    let body = r#"{"name":"first","role":"admin"}"#;
    let made = server.send("/api/v1/tokens", "application/json", body).await.json();
    assert_eq!(server.get("/api/v1/projects").await.status, 401);
    let holder = server.with(made["token"].as_str());
    assert_eq!(holder.get("/api/v1/projects").await.status, 200);
    server.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_are_few() {
    let server = Server::closed().await;
    let mut answers: BTreeMap<u16, u32> = BTreeMap::new();
    for guess in 0..200 {
        let token = format!("dnd_{guess}");
        let answer = server.with(Some(&token)).get("/api/v1/projects").await;
        *answers.entry(answer.status.as_u16()).or_default() += 1;
    }
    assert!(answers[&401] < 40 && answers[&429] > 150, "{answers:?}");
    // Who has a token is not held up by that.
    assert_eq!(server.get("/api/v1/projects").await.status, 200);
    server.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_made_used_and_revoked_and_all_of_it_is_in_the_audit() {
    let place = crate::cluster::Cluster::shared().fresh();
    a_life_of_a_token(dandori::Engine::builder().postgres(&place)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.db");
    let secrets = a_life_of_a_token(dandori::Engine::builder().sqlite(&file)).await;
    // What is kept of a token opens nothing.
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(secrets.iter().all(|secret| !text.contains(secret)));
    }
}

/// The secrets that were used.
async fn a_life_of_a_token(builder: dandori::EngineBuilder) -> [String; 2] {
    let server = Server::closed_on(builder).await;
    let first = server.token.clone().unwrap();
    let made = server
        .send(
            "/api/v1/tokens",
            "application/json",
            r#"{"name":"ci","role":"operator"}"#,
        )
        .await;
    assert_eq!(made.status, 201);
    let (secret, id) = (made.json()["token"].clone(), made.json()["id"].clone());
    let secret = secret.as_str().unwrap().to_owned();
    let caller = server.with(Some(&secret));
    let project = caller.run("tasks: { a: { kind: noop } }").await;
    assert_eq!(caller.get("/api/v1/tokens").await.code(), "forbidden");
    let listed = server.get("/api/v1/tokens").await;
    assert!(!listed.text.contains(&secret), "{}", listed.text);
    let path = format!("/api/v1/tokens/{}", id.as_str().unwrap());
    let revoke = || server.request("DELETE", &path).body(Body::empty()).unwrap();
    assert_eq!(server.answer(revoke()).await.status, 204);
    assert_eq!(caller.get("/api/v1/projects").await.status, 401);
    assert_eq!(server.answer(revoke()).await.status, 404);
    let audit = server.get("/api/v1/audit").await.json();
    let changes: Vec<(&str, &str)> = audit["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["who"].as_str().unwrap(), it["what"].as_str().unwrap()))
        .collect();
    assert_eq!(
        changes,
        [
            ("DANDORI_TOKEN", "token.revoke"),
            ("ci", "project.submit"),
            ("DANDORI_TOKEN", "token.create"),
        ]
    );
    let of_project =
        server.get(&format!("/api/v1/audit?project={project}")).await.json();
    assert_eq!(of_project["changes"].as_array().unwrap().len(), 1);
    assert!(of_project["changes"][0]["request"].as_str().unwrap().starts_with("req_"));
    server.engine.shutdown().await;
    [secret, first]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_with_what_nobody_asked_for_is_refused() {
    let server = Server::open().await;
    for body in [
        r#"{"name":"a","role":"viewer","tenant":"b"}"#,
        r#"{"name":"a","role":"owner"}"#,
        r#"{"name":"","role":"viewer"}"#,
        r#"{"name":"a\u0000","role":"viewer"}"#,
        r#"{"role":"viewer"}"#,
        "[]",
    ] {
        let answer = server.send("/api/v1/tokens", "application/json", body).await;
        assert_eq!(answer.status, 422, "{body}");
        answer.code();
    }
    for (key, value) in [("state", "succeeded"), ("tenant", "a"), ("owner", "b")] {
        let document = format!(
            "{{\"tasks\":{{\"a\":{{\"kind\":\"noop\"}}}},\"{key}\":\"{value}\"}}"
        );
        let answer =
            server.send("/api/v1/projects", "application/json", &document).await;
        let problem: Value = answer.json();
        assert_eq!(
            (answer.status.as_u16(), &problem["code"]),
            (422, &"invalid_document".into())
        );
        assert_eq!(problem["errors"][0]["pointer"], format!("/{key}"));
    }
    server.engine.shutdown().await;
}
