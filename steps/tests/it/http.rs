//! `http.request` against a server on the loopback.

use std::{io::Write, process, time::Duration};

use dandori::{Context, ErrorClass};
use dandori_steps::{Network, Settings};
use serde_json::{Value, json, value::to_raw_value};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    fails, kind, quick, run,
    server::{Server, answer, hang, json as json_answer},
};

#[tokio::test]
async fn a_request_carries_its_key_and_its_attempt() {
    let server = Server::start(|_| json_answer(&json!({ "a": [1, 2.50] }))).await;
    let with = json!({
        "method": "post",
        "url": server.url("/x?a=1"),
        "headers": { "X-Own": "資料" },
        "query": { "q": "段取り & more", "n": 5, "none": null },
        "json": { "k": 1 },
    });
    let output = run(&quick(), "http.request", with).await.unwrap();
    assert_eq!(output["status"], 200);
    assert_eq!(output["json"], json!({ "a": [1, 2.50] }));
    assert_eq!(output["headers"]["content-type"], "application/json");
    let seen = server.seen().remove(0);
    assert_eq!(seen.method, "POST");
    assert_eq!(seen.target, "/x?a=1&q=%E6%AE%B5%E5%8F%96%E3%82%8A+%26+more&n=5");
    assert_eq!(seen.headers["idempotency-key"], Context::detached().idempotency_key());
    assert_eq!(seen.headers["x-dandori-attempt"], "1");
    assert_eq!(seen.headers["content-type"], "application/json");
    assert_eq!(seen.headers["x-own"], "資料");
    assert_eq!(seen.body, r#"{"k":1}"#);
}

#[tokio::test]
async fn a_status_is_success_a_reason_to_retry_or_final() {
    let server = Server::start(|seen| {
        let status = seen.target.trim_start_matches('/').parse().unwrap();
        answer(status, &[("retry-after", "7")], "why\nnot")
    })
    .await;
    let request = |status: u16| run_status(server.url(&format!("/{status}")));
    for (status, code, class, wait) in [
        (400, "http_4xx", ErrorClass::Permanent, None),
        (404, "http_4xx", ErrorClass::Permanent, None),
        (408, "timeout", ErrorClass::Retryable, None),
        (429, "rate_limited", ErrorClass::Retryable, Some(7_000)),
        (500, "http_5xx", ErrorClass::Retryable, None),
        (503, "http_5xx", ErrorClass::Retryable, Some(7_000)),
    ] {
        let error = request(status).await.unwrap_err();
        assert_eq!((error.code.as_ref(), error.class), (code, class), "{status}");
        assert_eq!(error.retry_after_ms, wait, "{status}");
        assert!(error.message.contains("why not"), "{error}");
    }
    let with = json!({ "url": server.url("/404"), "ok": ["2xx", 404] });
    assert_eq!(run(&quick(), "http.request", with).await.unwrap()["body"], "why\nnot");
    let with = json!({ "url": server.url("/200"), "ok": [404] });
    assert_eq!(fails(&quick(), "http.request", with).await.0, "http_status");
}

async fn run_status(url: String) -> Result<Value, dandori::StepError> {
    run(&quick(), "http.request", json!({ "url": url })).await
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_also_after_unpacking() {
    let mut gzip = process::Command::new("gzip")
        .arg("-c")
        .stdin(process::Stdio::piped())
        .stdout(process::Stdio::piped())
        .spawn()
        .unwrap();
    gzip.stdin.take().unwrap().write_all(&vec![b'a'; 60_000]).unwrap();
    let packed = gzip.wait_with_output().unwrap().stdout;
    assert!(packed.len() < 1_000);
    let server = Server::start(move |seen| match seen.target.as_str() {
        "/packed" => answer(200, &[("content-encoding", "gzip")], &packed),
        _ => answer(200, &[], vec![b'a'; 60_000]),
    })
    .await;
    let small = quick().with_max_body(50_000);
    for path in ["/plain", "/packed"] {
        let with = json!({ "url": server.url(path) });
        let failure = fails(&small, "http.request", with.clone()).await;
        assert_eq!(failure, ("too_large".to_owned(), ErrorClass::Permanent), "{path}");
        let output = run(&quick(), "http.request", with).await.unwrap();
        assert_eq!(output["body"].as_str().unwrap().len(), 60_000);
    }
}

#[tokio::test]
async fn silence_refusal_and_total_time_end_a_request() {
    let server = Server::start(|_| hang()).await;
    let with = || json!({ "url": server.url("/?key=canary") });
    let error = run(&quick(), "http.request", with()).await.unwrap_err();
    assert_eq!((error.code.as_ref(), error.class), ("timeout", ErrorClass::Retryable));
    assert!(
        error.message.contains("300ms") && !error.message.contains("canary"),
        "{error}"
    );

    let short = Duration::from_millis(200);
    let settings = quick().with_timeouts(short, Duration::from_secs(9), short);
    let error = run(&settings, "http.request", with()).await.unwrap_err();
    assert!(error.message.contains("no complete answer"), "{error}");

    // Nobody listens on the discard port.
    let with = json!({ "url": "http://127.0.0.1:9/?key=canary" });
    let error = run(&quick(), "http.request", with).await.unwrap_err();
    assert_eq!((error.code.as_ref(), error.class), ("connect", ErrorClass::Retryable));
    assert!(!error.message.contains("canary"), "{error}");

    let ctx = Context::detached();
    ctx.cancellation().cancel();
    let with = to_raw_value(&json!({ "url": server.url("/") })).unwrap();
    let error = kind(&quick(), "http.request").run(ctx, &with).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Cancelled);
}

#[tokio::test]
async fn a_name_that_nobody_has_and_a_server_without_tls_have_their_codes() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = stream.read(&mut [0; 1024]).await;
    });
    assert_eq!(fails(&quick(), "http.request", json!({ "url": url })).await.0, "tls");
    // Too long a name is refused by the system itself, without asking anybody.
    let with = json!({ "url": format!("http://{}.invalid/", "a".repeat(64)) });
    assert_eq!(fails(&quick(), "http.request", with).await.0, "dns");
}

#[tokio::test]
async fn redirects_are_followed_without_credentials_to_another_origin() {
    let other = Server::start(|_| answer(200, &[], "there")).await;
    let target = other.url("/end");
    let server = Server::start(move |seen| match seen.target.as_str() {
        "/same" => answer(302, &[("location", "/again")], ""),
        "/loop" => answer(302, &[("location", "/loop")], ""),
        "/bad" => answer(302, &[("location", "file:///etc/passwd")], ""),
        _ => answer(307, &[("location", &target)], ""),
    })
    .await;
    let with = |path| {
        let headers =
            json!({ "authorization": "Bearer k", "x-api-key": "k", "accept": "a/b" });
        json!({ "method": "PUT", "url": server.url(path), "headers": headers, "body": "b" })
    };
    let output = run(&quick(), "http.request", with("/same")).await.unwrap();
    assert_eq!(output["body"], "there");
    let (first, last) = (server.seen(), other.seen());
    assert!(first.iter().all(|seen| seen.headers["authorization"] == "Bearer k"));
    assert_eq!(last[0].headers.get("authorization"), None);
    assert_eq!(last[0].headers.get("x-api-key"), None);
    assert_eq!(last[0].headers["accept"], "a/b");
    assert_eq!((last[0].method.as_str(), last[0].body.as_str()), ("PUT", "b"));

    for path in ["/loop", "/bad"] {
        let failure = fails(&quick(), "http.request", with(path)).await;
        assert_eq!(failure, ("redirect".to_owned(), ErrorClass::Permanent), "{path}");
    }
    // The first request and five redirects.
    assert_eq!(server.seen().iter().filter(|seen| seen.target == "/loop").count(), 6);
    let with = json!({ "url": server.url("/loop"), "ok": [302] });
    assert_eq!(run(&quick(), "http.request", with).await.unwrap()["status"], 302);
}

#[tokio::test]
async fn a_public_worker_reaches_nothing_inside() {
    let server = Server::start(|_| answer(200, &[], "inside")).await;
    let public = quick().with_network(Network::Public);
    let by_name = server.url("/").replace("127.0.0.1", "localhost");
    for url in [server.url("/"), by_name, "http://[::1]/".to_owned()] {
        let failure = fails(&public, "http.request", json!({ "url": url })).await;
        assert_eq!(
            failure,
            ("blocked_address".to_owned(), ErrorClass::Permanent),
            "{url}"
        );
        assert!(kind(&public, "http.request").check(&json!({ "url": url })).is_err());
        assert!(kind(&quick(), "http.request").check(&json!({ "url": url })).is_ok());
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn requests_that_pose_as_others_are_refused_before_and_at_the_run() {
    let request = kind(&quick(), "http.request");
    for with in [
        json!({ "url": "file:///etc/passwd" }),
        json!({ "url": "http://user:pass@example.com/" }),
        json!({ "url": "http://127.0.0.1:9/", "headers": { "Host": "a" } }),
        json!({ "url": "http://127.0.0.1:9/", "headers": { "Content-Length": "5" } }),
        json!({ "url": "http://127.0.0.1:9/", "headers": { "Transfer-Encoding": "x" } }),
        json!({ "url": "http://127.0.0.1:9/", "headers": { "a": "b\r\nc: d" } }),
        json!({ "url": "http://127.0.0.1:9/", "method": "GET /\r\n" }),
        json!({ "url": "http://127.0.0.1:9/", "method": "CONNECT" }),
        json!({ "url": "http://127.0.0.1:9/", "json": 1, "body": "b" }),
        json!({ "url": "http://127.0.0.1:9/", "headers": { "a": 5 } }),
    ] {
        assert!(request.check(&with).is_err(), "{with}");
        let failure = fails(&Settings::default(), "http.request", with.clone()).await;
        assert_eq!(
            failure,
            ("invalid_input".to_owned(), ErrorClass::Permanent),
            "{with}"
        );
    }
    assert!(request.check(&json!({ "url": "u", "ok": ["9xx"] })).is_err());
    assert!(request.check(&json!({ "url": "${{ inputs.url }}" })).is_ok());
}
