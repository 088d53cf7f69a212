//! Submitting, looking and steering.

use axum::body::Body;
use serde_json::{Value, json};

use super::Server;

async fn on_both(check: impl AsyncFn(&Server)) {
    for server in [Server::open().await, Server::shared().await] {
        check(&server).await;
        server.engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_submitted_followed_to_its_end_and_looked_at() {
    on_both(async |server| {
        let document = "
name: two
labels: { team: a }
tasks:
  group: { use: pair }
  last: { kind: fails, needs: [group], allow_failure: true }
templates:
  pair: { tasks: { a: { kind: noop, with: { x: 1 } } }, output: '${{ tasks.a.output }}' }
";
        let id = server.run(document).await;
        let path = |rest: &str| format!("/api/v1/projects/{id}{rest}");
        let project = server.get(&path("")).await.json();
        assert_eq!(project["state"], "succeeded");
        assert_eq!(project["labels"], json!({ "team": "a" }));
        assert_eq!(project["output"], json!({ "last": null }));
        assert!(project.get("steps").is_none(), "they were not asked for");
        let with_steps = server.get(&path("?include=steps")).await.json();
        assert_eq!(with_steps["steps"].as_array().unwrap().len(), 3);
        let output = server.get(&path("/output")).await;
        assert_eq!(output.text, r#"{"last":null}"#);
        assert!(output.headers["content-disposition"].to_str().unwrap().starts_with("attachment"));
        assert_eq!(output.headers["cache-control"], "no-store");
        // A slash in a name is written so.
        let step = server.get(&path("/steps/group%2Fa")).await.json();
        assert_eq!((&step["name"], &step["output"]), (&"group/a".into(), &json!({ "x": 1 })));
        assert_eq!(server.get(&path("/steps/group%2Fa/output")).await.text, r#"{"x":1}"#);
        assert_eq!(server.get(&path("/steps/last/output")).await.code(), "no_output");
        assert_eq!(server.get(&path("/steps/nobody")).await.code(), "not_found");
        let failed = server.get(&path("/steps?state=failed")).await.json();
        assert_eq!(failed["steps"][0]["error"]["code"], "broken");
        let timeline = server.get(&path("/timeline")).await.json();
        let steps: Vec<&Value> =
            timeline["attempts"].as_array().unwrap().iter().map(|it| &it["step"]).collect();
        assert_eq!(steps, ["group/a", "group", "last"]);
        let events = server.get(&path("/events")).await.json();
        assert_eq!((events["done"].clone(), &events["events"][0]["seq"]), (true.into(), &1.into()));
        let later = server.get(&path("/events?after=3")).await.json();
        assert_eq!(later["events"][0]["seq"], 4);
        let graph = server.get(&path("/graph")).await;
        assert_eq!(graph.json()["nodes"].as_array().unwrap().len(), 3);
        let known = server
            .request("GET", &path("/graph"))
            .header("if-none-match", &graph.headers["etag"])
            .body(Body::empty());
        assert_eq!(server.answer(known.unwrap()).await.status, 304);
        let svg = server.get(&path("/graph.svg")).await;
        assert_eq!(svg.headers["content-type"], "image/svg+xml");
        assert!(svg.text.starts_with("<svg"));
        // By the end of its id, its name, or as the last.
        for name in [&id[id.len() - 8..], "two", "last"] {
            let found = server.get(&format!("/api/v1/projects/{name}")).await.json();
            assert_eq!(found["id"], id.as_str(), "{name}");
        }
        assert_eq!(server.get("/api/v1/projects/none").await.status, 404);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_is_the_same_project_and_another_document_is_refused() {
    on_both(async |server| {
        let send = async |key: &str, document: &str| {
            let request = server
                .request("POST", "/api/v1/projects")
                .header("idempotency-key", key)
                .header("content-type", "application/yaml")
                .body(Body::from(document.to_owned()));
            server.answer(request.unwrap()).await
        };
        let document = "tasks: { a: { kind: noop } }";
        let first = send("order-7", document).await.json();
        let again = send("order-7", document).await;
        assert_eq!((again.status.as_u16(), &again.json()["id"]), (202, &first["id"]));
        let other = send("order-7", "tasks: { b: { kind: noop } }").await;
        assert_eq!(
            (other.status.as_u16(), other.code().as_str()),
            (422, "idempotency_conflict")
        );
        // What else is recorded of it is part of it.
        let other = send("order-7", &format!("{document}\npriority: 5")).await;
        assert_eq!(other.code(), "idempotency_conflict");
        for key in ["", &"k".repeat(256)] {
            assert_eq!(send(key, document).await.code(), "bad_idempotency_key");
        }
        let list = server.get("/api/v1/projects").await.json();
        assert_eq!(list["projects"].as_array().unwrap().len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_of_any_depth_are_shown_as_they_were_recorded() {
    let server = Server::open().await;
    let nest = |inner: &str, depth: usize| {
        format!("{}{inner}{}", "[".repeat(depth), "]".repeat(depth))
    };
    let (a, b) = (nest("1", 58), nest("'${{ tasks.a.output.v }}'", 58));
    let c = nest("'${{ tasks.b.output.v }}'", 20);
    let document = format!(
        "tasks: {{ a: {{ kind: raw, with: {{ v: {a} }} }}, \
         b: {{ kind: raw, needs: [a], with: {{ v: {b} }} }}, \
         c: {{ kind: raw, needs: [b], with: {{ v: {c} }} }} }}"
    );
    let id = server.run(&document).await;
    let deep = nest("1", 136);
    for rest in ["", "?include=steps", "/wait", "/steps", "/steps/c", "/output"] {
        let answer = server.get(&format!("/api/v1/projects/{id}{rest}")).await;
        assert_eq!(answer.status, 200, "{rest}");
        assert!(answer.text.contains(&deep), "{rest}");
    }
    server.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_read_page_by_page() {
    on_both(async |server| {
        for n in 0..7 {
            let (kind, team) = if n < 3 { ("fails", "a") } else { ("noop", "b") };
            let text = format!(
                "name: p{n}\nlabels: {{ team: {team}, n: '{n}' }}\ntasks: {{ a: {{ kind: {kind} }} }}"
            );
            server.run(&text).await;
        }
        let names = async |query: &str| -> Vec<String> {
            let answer = server.get(&format!("/api/v1/projects?{query}")).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let projects = answer.json()["projects"].as_array().unwrap().clone();
            projects.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names("").await, ["p6", "p5", "p4", "p3", "p2", "p1", "p0"]);
        assert_eq!(names("q=state:failed").await, ["p2", "p1", "p0"]);
        assert_eq!(names("q=kind:fails+label:n=1").await, ["p1"]);
        assert_eq!(names("q=label:team=b+label:n=6").await, ["p6"]);
        assert_eq!(names("q=label:team=a+label:n=6").await, [""; 0]);
        assert_eq!(names("q=name:p4").await, ["p4"]);
        assert_eq!(names("q=since:1h+state:succeeded+state:failed").await.len(), 7);
        assert_eq!(names("q=since:2100-01-01T00:00:00Z").await.len(), 0);
        let (mut seen, mut cursor, mut pages) = (vec![], String::new(), 0);
        loop {
            let page = server.get(&format!("/api/v1/projects?limit=3{cursor}")).await.json();
            pages += 1;
            for project in page["projects"].as_array().unwrap() {
                seen.push(project["name"].as_str().unwrap().to_owned());
                assert!(project.get("output").is_none());
            }
            // What is submitted meanwhile moves nothing.
            server.run("name: late\ntasks: { a: { kind: noop } }").await;
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!((pages, seen), (3, names("q=label:team=a").await.into_iter().rev().fold(
            vec!["p6".to_owned(), "p5".into(), "p4".into(), "p3".into()],
            |mut all, name| { all.insert(4, name); all },
        )));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn projects_are_steered_and_answers_say_whether_it_is_done() {
    on_both(async |server| {
        let id = server
            .submit("tasks: { a: { kind: gate }, b: { kind: noop, needs: [a] } }")
            .await;
        let path = |rest: &str| format!("/api/v1/projects/{id}/{rest}");
        let why = server.get(&path("steps/b/why")).await.json();
        assert_eq!(
            (&why["reasons"][0]["code"], &why["reasons"][0]["needs"]),
            (&"needs".into(), &json!(["a"]))
        );
        let waited = server.get(&path("wait?timeout=50ms")).await;
        assert_eq!(
            (waited.status.as_u16(), &waited.json()["output"]),
            (202, &Value::Null)
        );
        let paused = server.post(&path("pause")).await;
        assert_eq!(
            (paused.status.as_u16(), &paused.json()["request"]),
            (200, &"applied".into())
        );
        assert_eq!(server.post(&path("pause")).await.code(), "illegal_state");
        server.gate.add_permits(1);
        assert_eq!(server.post(&path("resume")).await.status, 200);
        let ended = server.get(&path("wait")).await.json();
        assert_eq!(ended["state"], "succeeded");
        let answer = server.post(&path("cancel")).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (409, "illegal_state")
        );
        let id = server.submit("tasks: { a: { kind: gate } }").await;
        let cancelled = server.post(&format!("/api/v1/projects/{id}/cancel")).await;
        assert_eq!(cancelled.status, 200);
        let audit = server.get(&format!("/api/v1/audit?project={id}")).await.json();
        let what: Vec<&Value> =
            audit["changes"].as_array().unwrap().iter().map(|it| &it["what"]).collect();
        assert_eq!(what, ["project.cancel", "project.submit"]);
        server.gate.add_permits(1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_start_and_queues_pause_when_somebody_asks() {
    on_both(async |server| {
        let late = "tasks: { a: { kind: late, retry: { max_retries: 2, delay: 1h } } }";
        let id = server.submit(late).await;
        let path = |rest: &str| format!("/api/v1/projects/{id}/{rest}");
        let waits_for = async |attempts: u32| loop {
            let step = server.get(&path("steps/a")).await.json();
            if step["state"] == "waiting" && step["attempts"] == attempts {
                break;
            }
            tokio::task::yield_now().await;
        };
        waits_for(1).await;
        assert_eq!(server.post(&path("steps/b/retry")).await.code(), "not_found");
        let asked = server.post(&path("steps/a/retry")).await;
        assert_eq!(
            (asked.status.as_u16(), &asked.json()["request"]),
            (200, &"applied".into())
        );
        waits_for(2).await;
        assert_eq!(server.post(&path("retry")).await.status, 200);
        let ended = server.get(&path("wait")).await.json();
        assert_eq!(ended["state"], "failed");
        assert_eq!(server.post(&path("retry")).await.code(), "illegal_state");
        let audit = server.get(&format!("/api/v1/audit?project={id}")).await.json();
        let told: Vec<_> = audit["changes"].as_array().unwrap().iter().collect();
        assert_eq!(told[1]["what"], "project.retry");
        assert_eq!(told[1]["detail"], "a");

        let paused = server.post("/api/v1/queues/slow%2Fones/pause").await;
        assert_eq!(paused.status, 404, "no queue can have that name");
        let paused = server.post("/api/v1/queues/slow/pause").await;
        assert_eq!(
            (paused.status.as_u16(), &paused.json()["paused"]),
            (200, &true.into())
        );
        let id = server.submit("tasks: { a: { kind: noop, queue: slow } }").await;
        let path = |rest: &str| format!("/api/v1/projects/{id}/{rest}");
        loop {
            let why = server.get(&path("steps/a/why")).await.json();
            if why["reasons"][0]["code"] == "queue" {
                break;
            }
            assert_ne!(why["state"], "succeeded");
        }
        let queues = server.get("/api/v1/queues").await.json();
        let is_slow = |queue: &&Value| queue["name"] == "slow";
        let queue = queues["queues"].as_array().unwrap().iter().find(is_slow).unwrap();
        assert!(queue["paused_at"].is_string(), "{queue}");
        let resumed = server.post("/api/v1/queues/slow/resume").await;
        assert_eq!(resumed.json()["request"], "applied");
        assert_eq!(server.get(&path("wait")).await.json()["state"], "succeeded");
        server.post("/api/v1/queues/%22odd%22/pause").await;
        let metrics = server.get("/metrics").await.text;
        let line = r#"dandori_queue_depth{queue="\"odd\""} 0"#;
        assert!(metrics.contains(line), "{metrics}");
        assert!(
            !metrics.contains("queue=\"slow\""),
            "it is neither paused nor waited for"
        );
        server.post("/api/v1/queues/%22odd%22/resume").await;
        let audit = server.get("/api/v1/audit?limit=3").await.json();
        assert_eq!(audit["changes"][2]["what"], "queue.resume");
        assert_eq!(audit["changes"][2]["detail"], "slow");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_planned_applied_by_its_digest_and_kept_in_the_history() {
    on_both(async |server| {
        let document = "
tasks:
  a: { kind: noop, with: { x: 1 } }
  b: { kind: fails, needs: [a] }
  c: { kind: noop, needs: [b], with: { x: '${{ tasks.b.output }}' } }
";
        let id = server.run(document).await;
        let path = |rest: &str| format!("/api/v1/projects/{id}/{rest}");
        let send = async |rest: &str, body: Value| {
            server.send(&path(rest), "application/json", &body.to_string()).await
        };
        let plan = send("replay/plan", json!({ "pins": { "b": [1, 2] } })).await.json();
        let actions: Vec<String> = plan["steps"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| format!("{} {}", it["action"].as_str().unwrap(), it["name"]))
            .collect();
        assert_eq!(actions, ["reuse \"a\"", "reuse \"b\"", "run \"c\""]);
        let missing = send("replay", json!({ "pins": { "b": [1, 2] } })).await;
        assert_eq!(
            (missing.status.as_u16(), missing.code().as_str()),
            (422, "invalid_body")
        );
        // The digest is that of these options, and of this state.
        let other = json!({ "digest": plan["digest"], "pins": { "b": 5 } });
        assert_eq!(send("replay", other).await.code(), "plan_changed");
        let request = json!({ "digest": plan["digest"], "pins": { "b": [1, 2] } });
        let replayed = send("replay", request.clone()).await;
        assert_eq!(
            (replayed.status.as_u16(), &replayed.json()["run"]),
            (200, &1.into())
        );
        let ended = server.get(&path("wait")).await.json();
        assert_eq!(ended["output"], json!({ "c": { "x": [1, 2] } }));
        assert_eq!(send("replay", request).await.status, 409);
        let history = server.get(&path("replays")).await.json();
        assert_eq!(history["replays"][0]["detail"], json!({ "pins": { "b": [1, 2] } }));
        let wrong = send("replay/plan", json!({ "form": ["a"] })).await;
        assert_eq!(
            (wrong.status.as_u16(), wrong.code().as_str()),
            (422, "invalid_body")
        );
        let unknown = send("replay/plan", json!({ "from": ["x"] })).await;
        assert_eq!(unknown.code(), "not_found");
        let audit = server.get(&format!("/api/v1/audit?project={id}")).await.json();
        assert_eq!(audit["changes"][0]["what"], "project.replay");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_is_planned_and_made_and_knows_where_it_comes_from() {
    on_both(async |server| {
        let old = "
name: guide
tasks:
  a: { kind: noop, with: { x: 1 } }
  b: { kind: noop, needs: [a], with: { prompt: old, a: '${{ tasks.a.output.x }}' } }
";
        let id = server.run(old).await;
        let path = |rest: &str| format!("/api/v1/projects/{id}/{rest}");
        let send = async |rest: &str, body: Value| {
            server.send(&path(rest), "application/json", &body.to_string()).await
        };
        let new = json!({ "document": old.replace("old", "new") });
        let plan = send("fork/plan", new.clone()).await.json();
        let actions: Vec<&Value> =
            plan["steps"].as_array().unwrap().iter().map(|it| &it["action"]).collect();
        assert_eq!(actions, ["reuse", "run"]);
        assert_eq!(send("fork", new.clone()).await.code(), "invalid_body");
        let mut request = new;
        request["digest"] = plan["digest"].clone();
        let made = send("fork", request).await;
        assert_eq!(made.status, 202, "{made:?}");
        let location = made.headers["location"].to_str().unwrap().to_owned();
        let ended = server.get(&format!("{location}/wait")).await.json();
        assert_eq!(ended["output"], json!({ "b": { "prompt": "new", "a": 1 } }));
        let lineage = server.get(&format!("{location}/lineage")).await.json();
        assert_eq!(lineage["forks"][0]["base"], id.as_str());
        // On the same document, from a step.
        let options = json!({ "options": { "from": ["b"] } });
        let plan = send("fork/plan", options.clone()).await.json();
        let request = json!({ "digest": plan["digest"], "options": { "from": ["b"] } });
        assert_eq!(send("fork", request).await.status, 202);
        let broken = send("fork/plan", json!({ "document": "tasks: [" })).await;
        assert_eq!(
            (broken.status.as_u16(), broken.code().as_str()),
            (422, "invalid_document")
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_and_files_come_beside_a_document() {
    let server = Server::open().await;
    let send = async |body: Value| {
        server.send("/api/v1/projects", "application/json", &body.to_string()).await
    };
    let task = json!({ "a": { "kind": "noop", "with": {
        "who": "${{ inputs.who }}", "text": "${{ file('greeting.txt') }}" } } });
    let document = json!({ "inputs": { "who": { "type": "string" } }, "tasks": task });
    let text = "name: from text\ntasks: { a: { kind: noop, with: { x: 1 } } }";
    for (body, name, output) in [
        (
            json!({ "document": document, "name": "given", "inputs": { "who": "me" },
                "files": { "greeting.txt": "Hello ${{ x }}" } }),
            "given",
            json!({ "who": "me", "text": "Hello ${{ x }}" }),
        ),
        (
            json!({ "document": text, "name": "not this" }),
            "from text",
            json!({ "x": 1 }),
        ),
    ] {
        let answer = send(body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        let ended = server.get(&format!("/api/v1/projects/{id}/wait")).await.json();
        assert_eq!((&ended["name"], &ended["output"]["a"]), (&name.into(), &output));
    }
    let unknown = send(json!({ "document": text, "owner": "me" })).await;
    assert_eq!(
        (unknown.status.as_u16(), unknown.code().as_str()),
        (422, "invalid_body")
    );
    let missing =
        send(json!({ "document": document, "inputs": { "who": "me" } })).await;
    assert_eq!(missing.json()["errors"][0]["code"], "bad_file");
    let wrong = send(json!({ "document": 5 })).await;
    assert_eq!(wrong.status, 422);
    for body in [
        json!({ "document": text, "owner": "me" }).to_string(),
        json!({ "document": "tasks: { a: { kind: noop } }", "name": "a\nb" })
            .to_string(),
        r#"{"document":{"inputs":{"x":{}},"tasks":{"a":{"kind":"noop"}}},
            "inputs":{"x":123456789012345678901234567890}}"#
            .to_owned(),
    ] {
        let sent = server.send("/api/v1/projects", "application/json", &body).await;
        assert_eq!(sent.status, 422, "{body}");
        let looked =
            server.send("/api/v1/projects/validate", "application/json", &body).await;
        let told = looked.status == 422 || looked.json()["diagnostics"][0].is_object();
        assert!(told, "{body}: {looked:?}");
    }
    server.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_routes_stand_inside_another_program() {
    let server = Server::open().await;
    let outer = axum::Router::new().nest("/flows", server.router.clone());
    let inside = Server { router: outer, ..server };
    let text = "tasks: { a: { kind: noop } }";
    let answer = inside.send("/flows/api/v1/projects", "application/yaml", text).await;
    let location = answer.headers["location"].to_str().unwrap();
    assert_eq!(inside.get(location).await.json()["id"], answer.json()["id"]);
    inside.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_looked_at_without_running_it() {
    let server = Server::open().await;
    let validate = "/api/v1/projects/validate";
    let text = "tasks: { a: { kind: noop }, b: { kind: noop, needs: [a] }, c: { kind: noop, needs: [a] } }";
    let found = server.send(validate, "application/yaml", text).await.json();
    assert_eq!(found["valid"], true);
    assert_eq!(
        (&found["steps"], &found["depth"], &found["width"]),
        (&3.into(), &2.into(), &2.into())
    );
    assert_eq!(found["levels"], json!([["a"], ["b", "c"]]));
    assert_eq!(found["critical_path"], json!(["a", "b"]));
    for (kind, text) in [
        ("application/yaml", "tasks: { a: { kind: nope } }"),
        ("application/json", r#"{"tasks":{"a":{"kind":"nope"}}}"#),
        ("application/yaml", "tasks: ["),
        ("application/json", "{"),
    ] {
        let found = server.send(validate, kind, text).await;
        assert_eq!(
            (found.status.as_u16(), &found.json()["valid"]),
            (200, &false.into()),
            "{text}"
        );
        assert!(found.json()["diagnostics"][0]["line"].as_u64().unwrap() > 0, "{text}");
    }
    assert_eq!(server.get("/api/v1/projects").await.json()["projects"], json!([]));
    server.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_executes_is_shown() {
    on_both(async |server| {
        let workers = server.get("/api/v1/workers").await.json();
        assert_eq!(workers["workers"][0]["state"], "live");
        let kinds = server.get("/api/v1/kinds").await.json();
        let names: Vec<&Value> =
            kinds["kinds"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
        assert_eq!(names, ["fails", "gate", "large", "late", "noop", "raw"]);
        assert_eq!(server.get("/api/v1/queues").await.status, 200);
        assert_eq!(server.get("/readyz").await.json(), json!({ "ready": true }));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_counted_and_never_by_project() {
    let server = Server::open().await;
    let id = server
        .run("tasks: { a: { kind: noop }, b: { kind: fails, allow_failure: true } }")
        .await;
    let metrics = server.get("/metrics").await;
    assert!(
        metrics.headers["content-type"].to_str().unwrap().starts_with("text/plain")
    );
    for line in [
        "dandori_steps_total{kind=\"noop\",state=\"succeeded\"}",
        "dandori_steps_total{kind=\"fails\",state=\"failed\"}",
        "dandori_step_seconds_bucket{kind=\"noop\",le=\"0.1\"}",
        "dandori_commits_total",
        "dandori_commit_transitions_count",
        "dandori_http_requests_total{route=\"/api/v1/projects\",method=\"POST\",status=\"202\"}",
        "dandori_workers{state=\"live\"} 1",
        "dandori_streams 0",
    ] {
        assert!(metrics.text.contains(line), "{line}: {}", metrics.text);
    }
    assert!(!metrics.text.contains(&id[4..]), "{}", metrics.text);
    server.engine.shutdown().await;
}

/// The document in the repository is that of the routes: `UPDATE_OPENAPI=1` writes it.
#[test]
fn the_openapi_document_is_that_in_the_repository() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let document =
        serde_json::to_string_pretty(&dandori_server::http::document()).unwrap();
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(file, document + "\n").unwrap();
        return;
    }
    let kept = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        kept.trim_end() == document,
        "UPDATE_OPENAPI=1 cargo test writes docs/openapi.json anew"
    );
}
