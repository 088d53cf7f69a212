//! The commands on PostgreSQL: the same as on a file, and the workers that only it has.

use std::{
    io::{Read as _, Write as _},
    time::Instant,
};

use crate::{
    cluster::Cluster,
    command::{PATIENCE, Place},
};

const TWO: &str = "
tasks:
  a: { kind: noop, with: { output: 1 } }
  b: { kind: noop, needs: [a], with: { output: '${{ tasks.a.output }}' } }
";

/// A folder, and the option that names a fresh schema.
fn place() -> (Place, String) {
    let place = Place::new();
    place.write("two.yaml", TWO);
    (place, Cluster::shared().fresh())
}

#[test]
fn a_project_runs_on_a_server_as_on_a_file() {
    let (place, url) = place();
    let run = |args: &[&str]| place.run(&[args, &["--database-url", &url]].concat());
    let done = run(&["run", "two.yaml", "--json"]).exits(0).json();
    assert_eq!(
        (&done["state"], &done["output"]["b"]),
        (&"succeeded".into(), &1.into())
    );
    let listed = run(&["list", "--json"]).exits(0).json_lines();
    assert_eq!(listed[0]["id"], done["id"]);
    run(&["show", "last"]).exits(0);
    run(&["graph", "last"]).exits(0);
    assert!(run(&["workers"]).exits(0).stderr.contains("no worker executes"));
}

#[test]
fn without_tables_nothing_is_created_until_it_is_asked_for() {
    let (place, url) = place();
    let run = |args: &[&str]| place.run(&[args, &["--database-url", &url]].concat());
    let refused = run(&["list"]).exits(5);
    assert!(refused.stderr.contains("dandori migrate"), "{}", refused.stderr);
    run(&["migrate"]).exits(0);
    run(&["migrate"]).exits(0);
    run(&["list"]).exits(0);
}

#[test]
fn a_worker_executes_what_is_submitted_and_ends_gracefully() {
    let (place, url) = place();
    let run = |args: &[&str]| place.run(&[args, &["--database-url", &url]].concat());
    let mut worker =
        place.start(&["worker", "--database-url", &url, "--queues", "default,more"]);
    worker.until("executing");
    let workers = run(&["workers", "--json"]).exits(0).json_lines();
    assert_eq!(workers.len(), 1);
    assert_eq!(workers[0]["queues"], serde_json::json!(["default", "more"]));
    let submitted = run(&["submit", "two.yaml"]).exits(0);
    assert!(submitted.stderr.contains("1 worker"), "{}", submitted.stderr);
    run(&["watch", "last"]).exits(0);
    worker.signal("TERM");
    worker.wait().exits(0);
    assert!(run(&["workers", "--json"]).exits(0).stdout.is_empty());
}

#[test]
fn a_worker_waits_for_a_server_that_comes_up_and_not_for_one_that_refuses_it() {
    let cluster = Cluster::private();
    let place = Place::new();
    place.write("two.yaml", TWO);
    let url = cluster.fresh();
    cluster.control(&["stop", "-m", "immediate"]);
    let mut worker = place.start(&["worker", "--database-url", &url]);
    worker.until("the database is away");
    cluster.control(&["start"]);
    worker.until("executing");
    let nobody = url.replace("dandori@", "nobody@");
    let refused = place.run(&["worker", "--database-url", &nobody]).exits(5);
    assert!(refused.stderr.contains("user, password"), "{}", refused.stderr);
    worker.signal("TERM");
    worker.wait().exits(0);
}

#[test]
fn who_serves_says_whether_it_is_well() {
    let (place, url) = place();
    let mut server = place.start(&[
        "serve",
        "--no-worker",
        "--listen",
        "127.0.0.1:0",
        "--database-url",
        &url,
    ]);
    let line = server.until("listening on http://");
    let address = line.rsplit("http://").next().unwrap().to_owned();
    for (path, code) in [("/healthz", "200"), ("/readyz", "200"), ("/other", "404")] {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{path}: {answer}");
    }
    server.signal("TERM");
    server.wait().exits(0);
}

#[test]
fn no_password_is_repeated_wherever_a_command_line_is_printed() {
    let (place, url) = place();
    let url = url.replace("dandori@", "dandori:hunter2@");
    let said = place.run(&["submit", "two.yaml", "--database-url", &url]).exits(0);
    assert!(said.stderr.contains("$DATABASE_URL"), "{}", said.stderr);
    let wrong = "postgres://dandori:hunter2@127.0.0.1:1/none";
    let refused = place.run(&["list", "--database-url", wrong]).exits(5);
    for text in [said.stderr, said.stdout, refused.stderr, refused.stdout] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    let began = Instant::now();
    place.run(&["list", "--database-url", "postgres://127.0.0.1:x/"]).exits(5);
    assert!(began.elapsed() < PATIENCE);
}
