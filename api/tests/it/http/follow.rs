//! Following: streams that miss nothing.

use std::time::Duration;

use axum::body::Body;
use dandori::Engine;
use dandori_server::http::{Options, Role};
use futures_util::StreamExt as _;
use tower::ServiceExt as _;

use super::Server;

/// An event of a stream: its id, its name, its data.
type Event = (String, String, String);

/// A stream that is read event by event.
struct Stream {
    body: axum::body::BodyDataStream,
    text: String,
}

impl Stream {
    async fn open(
        server: &Server,
        path: &str,
        last: Option<&str>,
    ) -> Result<Self, u16> {
        let mut request =
            server.request("GET", path).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = server.router.clone().oneshot(request).await.unwrap();
        if response.status() != 200 {
            return Err(response.status().as_u16());
        }
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Ok(Self { body: response.into_body().into_data_stream(), text: String::new() })
    }

    /// The next event; nothing when the stream ends.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let lines =
                        block.lines().filter_map(|line| line.strip_prefix(name));
                    lines.map(str::trim_start).collect::<Vec<_>>().join("\n")
                };
                let event = (field("id:"), field("event:"), field("data:"));
                self.text = rest.to_owned();
                if !event.2.is_empty() {
                    return Some(event);
                }
                continue;
            }
            let limit = Duration::from_secs(30);
            let chunk =
                tokio::time::timeout(limit, self.body.next()).await.expect("it hangs");
            self.text.push_str(std::str::from_utf8(&chunk?.ok()?).unwrap());
        }
    }

    async fn rest(mut self) -> Vec<Event> {
        let mut events = vec![];
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

fn numbers(events: &[Event]) -> Vec<i64> {
    events.iter().filter_map(|(id, ..)| id.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_holds_every_event_once_in_order_and_ends_with_done() {
    for server in [Server::open().await, Server::shared().await] {
        let id = server
            .submit("tasks: { a: { kind: gate }, b: { kind: noop, needs: [a] } }")
            .await;
        let path = format!("/api/v1/projects/{id}/events");
        let mut stream = Stream::open(&server, &path, None).await.unwrap();
        let mut seen = vec![stream.next().await.unwrap()];
        server.gate.add_permits(1);
        seen.extend(stream.rest().await);
        let last = seen.pop().unwrap();
        assert_eq!(
            (last.1.as_str(), last.2.as_str()),
            ("done", r#"{"state":"succeeded"}"#)
        );
        let all = server.engine.find(&id).await.unwrap().events(0).await.unwrap();
        let expected: Vec<i64> = all.iter().map(|event| event.seq).collect();
        assert_eq!(numbers(&seen), expected);
        // From the middle, from the end, and from an end that never was.
        let later = Stream::open(&server, &path, Some("3")).await.unwrap().rest().await;
        assert_eq!(numbers(&later), expected[3..]);
        let end =
            Stream::open(&server, &path, Some(&seen.last().unwrap().0)).await.unwrap();
        assert_eq!(end.rest().await.len(), 1, "only `done`");
        let mut anew = Stream::open(&server, &path, Some("1000")).await.unwrap();
        assert_eq!(anew.next().await.unwrap().1, "reset");
        assert_eq!(numbers(&anew.rest().await), expected);
        for wrong in ["-1", "x", "1000000000000000000000000000000", ""] {
            assert_eq!(
                Stream::open(&server, &path, Some(wrong)).await.err(),
                Some(400),
                "{wrong}"
            );
        }
        server.engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_follow_one_project_see_the_same() {
    let server = Server::open().await;
    let tasks: String =
        (0..60).map(|n| format!("  t{n}: {{ kind: gate }}\n")).collect();
    let id = server.submit(&format!("tasks:\n{tasks}")).await;
    let path = format!("/api/v1/projects/{id}/events");
    let mut readers = vec![];
    for _ in 0..20 {
        let stream = Stream::open(&server, &path, None).await.unwrap();
        readers.push(tokio::spawn(stream.rest()));
    }
    for _ in 0..60 {
        server.gate.add_permits(1);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let all = {
        server.engine.find(&id).await.unwrap().wait().await.unwrap();
        server.engine.find(&id).await.unwrap().events(0).await.unwrap()
    };
    for reader in readers {
        let seen = reader.await.unwrap();
        assert_eq!(numbers(&seen), (1..=all.last().unwrap().seq).collect::<Vec<_>>());
        assert_eq!(seen.last().unwrap().1, "done");
    }
    server.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_bounded_and_free_their_place() {
    let options = Options { open: true, streams: 2, ..Options::default() };
    let server = Server::start(Engine::builder().temporary(), options).await;
    let id = server.submit("tasks: { a: { kind: gate } }").await;
    let path = format!("/api/v1/projects/{id}/events");
    let mut first = Stream::open(&server, &path, None).await.unwrap();
    first.next().await.unwrap();
    let second = Stream::open(&server, "/api/v1/events", None).await.unwrap();
    assert_eq!(Stream::open(&server, &path, None).await.err(), Some(503));
    drop(second);
    assert!(Stream::open(&server, &path, None).await.is_ok());
    server.gate.add_permits(1);
    server.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_soon_after_its_token_was_revoked() {
    let server = Server::closed().await;
    let token = server.token_of(Role::Viewer).await;
    let id = server.submit("tasks: { a: { kind: gate } }").await;
    let caller = server.with(Some(&token));
    let path = format!("/api/v1/projects/{id}/events");
    let stream = Stream::open(&caller, &path, None).await.unwrap();
    let row = server.engine.store().tokens().await.unwrap().pop().unwrap();
    let revoke = server.request("DELETE", &format!("/api/v1/tokens/{}", row.id));
    assert_eq!(server.answer(revoke.body(Body::empty()).unwrap()).await.status, 204);
    let seen = tokio::time::timeout(Duration::from_secs(5), stream.rest()).await;
    assert!(seen.expect("it ended").iter().all(|event| event.1 != "done"));
    server.gate.add_permits(1);
    server.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_tells_what_is_new_and_what_has_changed() {
    let server = Server::open().await;
    let first = server.run("name: first\ntasks: { a: { kind: noop } }").await;
    let mut stream = Stream::open(&server, "/api/v1/events", None).await.unwrap();
    assert_eq!(stream.next().await.unwrap().1, "reset");
    let seen = stream.next().await.unwrap();
    assert!(seen.1 == "project" && seen.2.contains(&first), "{seen:?}");
    let second = server.run("name: second\ntasks: { a: { kind: noop } }").await;
    loop {
        let (_, name, data) = stream.next().await.unwrap();
        assert!(name == "project" && data.contains(&second), "{data}");
        if data.contains("\"state\":\"succeeded\"") {
            break;
        }
    }
    server.engine.shutdown().await;
}
