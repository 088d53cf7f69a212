//! Limits of requests and connections, and what a browser must not be made to do.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use axum::body::Body;
use dandori::Engine;
use dandori_server::http::{Connections, MAX_BODY, MAX_SUBMISSION, Options, serve};

use super::Server;

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_read_within_limits() {
    let server = Server::open().await;
    let announced = |path: &str, length: usize| {
        let request = server
            .request("POST", path)
            .header("content-type", "application/json")
            .header("content-length", length);
        request.body(Body::from_stream(futures_util::stream::pending::<
            Result<Vec<u8>, std::io::Error>,
        >()))
    };
    // Refused before it is read.
    let request = announced("/api/v1/projects", MAX_SUBMISSION + 1).unwrap();
    let answer = server.answer(request).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (413, "too_large"));
    let request = announced("/api/v1/tokens", MAX_BODY + 1).unwrap();
    assert_eq!(server.answer(request).await.status, 413);
    // Without a length it is read until then.
    let chunk = || Ok::<_, std::io::Error>(vec![b' '; 64 * 1024]);
    let endless = futures_util::stream::repeat_with(chunk);
    let request = server
        .request("POST", "/api/v1/tokens")
        .header("content-type", "application/json")
        .body(Body::from_stream(endless));
    assert_eq!(server.answer(request.unwrap()).await.status, 413);
    for (header, value) in
        [("content-encoding", "gzip"), ("content-type", "text/plain")]
    {
        let request = server
            .request("POST", "/api/v1/projects")
            .header(header, value)
            .body(Body::from("{}"));
        assert_eq!(server.answer(request.unwrap()).await.status, 415, "{header}");
    }
    server.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_json_is_refused_and_never_an_error_here() {
    let server = Server::open().await;
    let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let with = |value: &str| {
        format!(
            "{{\"tasks\":{{\"a\":{{\"kind\":\"noop\",\"with\":{{\"x\":{value}}}}}}}}}"
        )
    };
    for (what, value) in [
        ("depth 129", deep(129)),
        ("depth 100,000", deep(100_000)),
        ("a large exponent", "1e131073".to_owned()),
        ("NUL", "\"\\u0000\"".to_owned()),
        ("a lone surrogate", "\"\\ud800\"".to_owned()),
        ("the same key twice", "{\"a\":1,\"a\":2}".to_owned()),
        ("a long text", format!("\"{}\"", "x".repeat(1 << 20))),
        (
            "many keys",
            format!(
                "{{{}}}",
                (0..100_000)
                    .map(|n| format!("\"k{n}\":1"))
                    .collect::<Vec<_>>()
                    .join(",")
            ),
        ),
    ] {
        let began = Instant::now();
        let answer =
            server.send("/api/v1/projects", "application/json", &with(&value)).await;
        let status = answer.status.as_u16();
        assert!([202, 400, 413, 422].contains(&status), "{what}: {answer:?}");
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
    }
    server.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_hosts_and_other_sites_are_refused() {
    let server = Server::open().await;
    let ask = async |method: &str, headers: &[(&str, &str)]| {
        let mut request =
            axum::http::Request::builder().method(method).uri("/api/v1/projects");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        server.answer(request.body(Body::empty()).unwrap()).await.status.as_u16()
    };
    for host in
        ["evil.example", "evil.example:7070", "localhost.evil.example", "8.8.8.8", ""]
    {
        assert_eq!(ask("GET", &[("host", host)]).await, 421, "{host}");
    }
    assert_eq!(ask("GET", &[]).await, 421, "no host");
    for host in
        ["localhost", "LOCALHOST:7070", "127.0.0.1:1", "[::1]:7070", "localhost."]
    {
        assert_eq!(ask("GET", &[("host", host)]).await, 200, "{host}");
    }
    let host = ("host", "localhost:7070");
    for foreign in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("origin", "http://localhost:8080"),
    ] {
        assert_eq!(ask("POST", &[host, foreign]).await, 403, "{foreign:?}");
        assert_eq!(ask("GET", &[host, foreign]).await, 200, "looking does no harm");
    }
    for own in [("sec-fetch-site", "same-origin"), ("origin", "http://localhost:7070")]
    {
        assert_eq!(ask("POST", &[host, own]).await, 415, "{own:?}");
    }
    let answer = server.get("/api/v1/projects").await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
    let policy = answer.headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.contains("script-src 'self'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    server.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_known_or_refused_and_pages_are_bounded() {
    let server = Server::open().await;
    for wrong in [
        "?offset=3",
        "?limit=many",
        "?limit=-1",
        "?cursor=x",
        "?q=x",
        "?q=state:odd",
        "?q=%00",
    ] {
        let answer = server.get(&format!("/api/v1/projects{wrong}")).await;
        assert_eq!(answer.status, 400, "{wrong}");
        answer.code();
    }
    assert_eq!(server.get("/api/v1/projects?limit=1000000000").await.status, 200);
    assert_eq!(server.get("/api/v1/projects/a%00b").await.status, 400);
    assert_eq!(server.get("/api/v1/nothing").await.code(), "no_route");
    let delete = server.request("DELETE", "/api/v1/projects").body(Body::empty());
    assert_eq!(server.answer(delete.unwrap()).await.code(), "no_method");
    server.engine.shutdown().await;
}

/// A server on a socket, with a moment instead of ten seconds for the head of a request.
async fn listening(server: &Server, limits: Connections) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = server.router.clone();
    tokio::spawn(serve(listener, router, limits, std::future::pending()));
    address
}

fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // One that was not let in may be gone already.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_bounded_in_size_and_time() {
    let server = Server::open().await;
    let limits =
        Connections { head: Duration::from_millis(300), ..Connections::default() };
    let address = listening(&server, limits).await;
    let get = |headers: &str| {
        format!(
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"
        )
    };
    let asked = |text: String| {
        let address = address.clone();
        async move {
            tokio::task::spawn_blocking(move || ask(&address, &text)).await.unwrap()
        }
    };
    assert!(asked(get("")).await.starts_with("HTTP/1.1 200"));
    // The rest of what it sent may cut off the answer.
    let refused = |said: &str| {
        said.is_empty()
            || said.starts_with("HTTP/1.1 431")
            || said.starts_with("HTTP/1.1 414")
    };
    let long = format!("X-A: {}\r\n", "a".repeat(70_000));
    let said = asked(get(&long)).await;
    assert!(refused(&said), "a long header: {said}");
    let many: String = (0..1_000).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert!(refused(&asked(get(&many)).await), "many headers");
    let far =
        format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(100_000));
    let said = asked(far).await;
    assert!(refused(&said), "{said}");
    // Two hundred that never finish their heads, or say nothing at all.
    let slow: Vec<TcpStream> = (0..200)
        .map(|n| {
            let mut stream = TcpStream::connect(&address).unwrap();
            if n % 2 == 0 {
                stream.write_all(b"GET / HTTP/1.1\r\nHost: ").unwrap();
            }
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            stream
        })
        .collect();
    assert!(
        asked(get("")).await.starts_with("HTTP/1.1 200"),
        "others are served meanwhile"
    );
    let closed = tokio::task::spawn_blocking(move || {
        slow.into_iter().all(|mut stream| {
            let mut rest = vec![];
            stream.read_to_end(&mut rest).is_ok() && !rest.starts_with(b"HTTP/1.1 200")
        })
    });
    assert!(closed.await.unwrap(), "they were closed");
    server.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_a_body_too_slowly_is_told_so_and_others_are_served() {
    let short = Duration::from_millis(300);
    let options = Options { open: true, body: short, ..Options::default() };
    let server = Server::start(Engine::builder().temporary(), options).await;
    let address = listening(&server, Connections::default()).await;
    let head = "POST /api/v1/projects HTTP/1.1\r\nHost: localhost\r\n\
                Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            stream
        })
        .collect();
    assert_eq!(server.get("/api/v1/projects").await.status, 200);
    let told = tokio::task::spawn_blocking(move || {
        slow.into_iter().all(|mut stream| {
            let mut said = [0; 12];
            stream.read_exact(&mut said).is_ok() && said == *b"HTTP/1.1 408"
        })
    });
    assert!(told.await.unwrap());
    server.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_none_of_an_answer_is_dropped() {
    let server = Server::open().await;
    let write = Duration::from_millis(500);
    let limits = Connections { write, each: 1, ..Connections::default() };
    let address = listening(&server, limits).await;
    let id = server.run("tasks: { a: { kind: large } }").await;
    let mut slow = TcpStream::connect(&address).unwrap();
    let path = format!("/api/v1/projects/{id}/steps/a/output");
    slow.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes(),
    )
    .unwrap();
    // There is room for one connection: another one finds it once this one was dropped.
    let next = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let dropped = async {
        loop {
            let address = address.clone();
            let asked = tokio::task::spawn_blocking(move || ask(&address, next));
            if asked.await.unwrap().starts_with("HTTP/1.1 200") {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), dropped).await.unwrap();
    let mut seen = vec![];
    let _ = slow.read_to_end(&mut seen);
    assert!(seen.len() < 15 << 20, "all of it arrived: it fits the buffers on the way");
    server.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_address_are_bounded() {
    let server = Server::open().await;
    let address =
        listening(&server, Connections { each: 3, ..Connections::default() }).await;
    let held: Vec<TcpStream> =
        (0..3).map(|_| TcpStream::connect(&address).unwrap()).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let get = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let ask = || {
        let address = address.clone();
        tokio::task::spawn_blocking(move || ask(&address, get))
    };
    assert_eq!(ask().await.unwrap(), "", "no place is left");
    drop(held);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(ask().await.unwrap().starts_with("HTTP/1.1 200"));
    server.engine.shutdown().await;
}
