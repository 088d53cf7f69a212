//! The command line asks a server instead of a database: the same verbs, the same answers.

use std::{
    io::Write as _,
    net::{TcpListener, TcpStream},
};

use serde_json::{Value, json};

use crate::command::{Ended, Place, Running};

/// Nobody may find it anywhere.
const CANARY: &str = "canary-0123456789abcdef0123456789abcdef";

/// Runs the command somewhere.
type Ask<'a> = &'a dyn Fn(&[&str]) -> Ended;

/// A server with a token, and a folder of somebody who asks it.
struct Remote {
    server: Running,
    address: String,
    here: Place,
    there: Place,
}

impl Remote {
    fn start() -> Self {
        let there = Place::new();
        let mut server = there.start_with(
            &["serve", "--listen", "127.0.0.1:0"],
            &[("DANDORI_TOKEN", CANARY), ("DANDORI_LOG", "trace")],
        );
        let line = server.until("listening on http://");
        let address = line.split_whitespace().last().unwrap().to_owned();
        Self { server, address, here: Place::new(), there }
    }

    fn run(&self, args: &[&str]) -> Ended {
        self.run_as(CANARY, args)
    }

    fn run_as(&self, token: &str, args: &[&str]) -> Ended {
        let mut command = self.here.command(args);
        command.env("DANDORI_SERVER", &self.address).env("DANDORI_TOKEN", token);
        Ended::of(command.output().unwrap())
    }
}

#[test]
fn the_verbs_are_the_same_on_a_server() {
    let remote = Remote::start();
    remote.here.write("prompt.txt", "Say ${{ it }}!");
    let document = "
inputs: { who: { type: string, default: you } }
tasks:
  a: { kind: noop, with: { output: { who: '${{ inputs.who }}', text: \"${{ file('prompt.txt') }}\" } } }
  b: { kind: fail, needs: [a], with: { times: 1 }, retry: { max_retries: 1, delay: 1h } }
";
    remote.here.write("two.yaml", document);
    let submitted = remote.run(&["submit", "two.yaml", "--input", "who=me"]).exits(0);
    let id = submitted.stdout.trim().to_owned();
    assert!(id.starts_with("prj_"), "{id}");
    let waiting = || loop {
        let why = remote.run(&["why", "two", "b", "--json"]).exits(0).json();
        if why["reasons"][0]["code"] == "retry" {
            break why;
        }
    };
    assert_eq!(waiting()["state"], "waiting");
    let said = remote.run(&["why", "two", "b"]).exits(0).stdout;
    assert!(said.starts_with("b is waiting\n  retry: it waits"), "{said}");
    let paused = remote.run(&["pause", "last", "--json"]).exits(0).json();
    assert_eq!(paused, json!({ "id": id, "state": "paused", "applied": true }));
    remote.run(&["resume", "last"]).exits(0);
    assert_eq!(remote.run(&["resume", "last"]).exits(2).stdout, "");
    let watched = remote.here.start_with(
        &["watch", &id, "--json"],
        &[("DANDORI_SERVER", remote.address.as_str()), ("DANDORI_TOKEN", CANARY)],
    );
    remote.run(&["retry", &id, "b"]).exits(0);
    let events = watched.wait().exits(0).json_lines();
    let numbers: Vec<i64> =
        events.iter().map(|it| it["seq"].as_i64().unwrap()).collect();
    let all: Vec<i64> = (1..).take(numbers.len()).collect();
    assert_eq!(numbers, all);
    assert_eq!(events.last().unwrap()["type"], "project.succeeded");
    let shown = remote.run(&["show", &id, "--json", "--attempts"]).exits(0).json();
    assert_eq!(
        shown["steps"][0]["output"],
        json!({ "who": "me", "text": "Say ${{ it }}!" })
    );
    assert_eq!(shown["attempts"].as_array().unwrap().len(), 1);
    assert_eq!(shown["attempts"][0]["step"], "b");
    let text = remote.run(&["show", &id]).exits(0).stdout;
    assert!(text.contains("succeeded"), "{text}");
    let differs = remote.run(&["diff", &id, "--step", "b"]).exits(0).stdout;
    assert!(differs.starts_with("~ b 1.1 → 1.2 failed → succeeded"), "{differs}");
    let words = ["diff", &id, "--step", "b", "--attempts", "1.2", "1.1", "--json"];
    assert_eq!(
        remote.run(&words).exits(0).json()["state"],
        json!({ "a": "succeeded", "b": "failed" })
    );
    remote.run(&["diff", &id, "--step", "a"]).exits(4);
    remote.run(&["diff", &id, "--step", "b", "--attempts", "1", "2"]).exits(2);
    remote.run(&["diff", &id, "--step", "b", "--attempts", "1.1", "9.9"]).exits(4);
    let drawn = remote.run(&["graph", &id]).exits(0).stdout;
    assert!(drawn.contains("attempt 2"), "{drawn}");
    let of_file = remote.run(&["graph", "two.yaml", "--format", "dot"]).exits(0).stdout;
    let drawn = remote.run(&["graph", &id, "--format", "dot"]).exits(0).stdout;
    assert_eq!(drawn.lines().count(), of_file.lines().count(), "{drawn}");
    let listed = remote.run(&["list", "--state", "succeeded", "--json"]).exits(0);
    assert_eq!(listed.json_lines()[0]["id"], id.as_str());
    assert_eq!(remote.run(&["logs", &id, "-f"]).exits(0).stdout, "");
    assert_eq!(remote.run(&["workers", "--json"]).exits(0).json()["state"], "live");
    remote.run(&["queues", "pause", "slow"]).exits(0);
    let queues = remote.run(&["queues", "--json"]).exits(0).json_lines();
    let paused: Vec<&Value> = queues.iter().filter(|it| it["name"] == "slow").collect();
    assert!(paused[0]["paused_at"].is_string());
    remote.run(&["queues", "resume", "slow"]).exits(0);
    remote
        .here
        .write("one.yaml", "tasks: { only: { kind: noop, with: { output: 7 } } }");
    let waited =
        remote.run(&["submit", "one.yaml", "--wait", "--json"]).exits(0).json();
    assert_eq!(
        (&waited["name"], &waited["output"]),
        (&"one".into(), &json!({ "only": 7 }))
    );
}

#[test]
fn tokens_are_made_and_revoked_through_a_server_and_the_audit_tells_what_they_did() {
    let remote = Remote::start();
    remote.here.write("one.yaml", "name: my report\ntasks: { a: { kind: noop } }");
    let made = ["token", "create", "robot", "--role", "operator", "--json"];
    let made = remote.run(&made).exits(0).json();
    let secret = made["token"].as_str().unwrap();
    let robot = |args: &[&str]| remote.run_as(secret, args);
    let id = robot(&["submit", "one.yaml"]).exits(0).stdout;
    robot(&["token", "list"]).exits(5);
    robot(&["audit"]).exits(5);
    let listed = remote.run(&["token", "list", "--json"]).exits(0);
    assert!(!listed.stdout.contains(secret), "{}", listed.stdout);
    assert_eq!(listed.json()["name"], "robot");
    remote.run(&["token", "revoke", "nobody"]).exits(4);
    remote.run(&["token", "revoke", "robot"]).exits(0);
    robot(&["list"]).exits(5);
    let words = |ended: Ended| -> Vec<String> {
        let lines = ended.exits(0).json_lines().into_iter();
        lines.map(|it| format!("{} {}", it["who"], it["what"])).collect()
    };
    let all = words(remote.run(&["audit", "--json"]));
    let mine =
        ["DANDORI_TOKEN", "token.revoke", "robot", "project.submit", "token.create"];
    let [me, revoke, robot, submit, create] = mine.map(|it| json!(it).to_string());
    let newest_first = [
        format!("{me} {revoke}"),
        format!("{robot} {submit}"),
        format!("{me} {create}"),
    ];
    assert_eq!(all, newest_first);
    let of_project = words(remote.run(&["audit", id.trim(), "--json"]));
    assert_eq!(of_project, newest_first[1..2]);
    assert_eq!(
        words(remote.run(&["audit", "--limit", "1", "--json"])),
        newest_first[..1]
    );
    // Whoever has the database reads the same there.
    let there = remote.there.run(&["audit", "--json"]);
    assert_eq!(words(there), newest_first);
}

#[test]
fn kinds_and_documents_are_those_of_the_server_that_is_asked() {
    let remote = Remote::start();
    let names = |ended: Ended| -> Vec<Value> {
        ended.exits(0).json_lines().iter().map(|it| it["name"].clone()).collect()
    };
    let there = names(remote.run(&["kinds", "--json"]));
    assert!(there.contains(&json!("http.request")), "{there:?}");
    // No database is needed for it.
    assert_eq!(names(remote.here.run(&["kinds", "--json"])), there);
    let one = remote.run(&["kinds", "template.render", "--json"]).exits(0).json();
    assert_eq!((&one["pure"], &one["workers"]), (&json!(true), &json!(1)));
    let table = remote.run(&["kinds"]).exits(0).stdout;
    assert!(table.starts_with("KIND"), "{table}");
    let schema = remote.run(&["kinds", "http.request"]).exits(0).stdout;
    assert!(schema.contains("\"url\""), "{schema}");
    remote.run(&["kinds", "nothing"]).exits(4);

    remote.here.write("say.txt", "hello");
    let good =
        "tasks: { a: { kind: noop, with: { output: \"${{ file('say.txt') }}\" } } }";
    remote.here.write("good.yaml", good);
    let here = remote.here.run(&["validate", "good.yaml", "--json"]).exits(0).json();
    let there = remote.run(&["validate", "good.yaml", "--json"]).exits(0).json();
    assert_eq!(there, here);
    remote.here.write("bad.yaml", "tasks: { a: { kind: nope } }");
    let bad = remote.run(&["validate", "bad.yaml", "--json"]).exits(3).json();
    assert_eq!(bad["diagnostics"][0]["code"], "unknown_kind");
    assert_eq!((&bad["valid"], &bad["hash"]), (&json!(false), &Value::Null));
}

#[test]
fn projects_are_found_by_label_name_kind_and_time_here_as_there() {
    let remote = Remote::start();
    let report = "
name: my \"big\" report
labels: { team: red one }
tasks: { a: { kind: noop } }
";
    remote.here.write("report.yaml", report);
    let other =
        "name: other\ntasks: { a: { kind: template.render, with: { template: x } } }";
    remote.here.write("other.yaml", other);
    for file in ["report.yaml", "other.yaml"] {
        remote.run(&["submit", file]).exits(0);
    }
    let found = |words: &[&str]| -> Vec<String> {
        let words = [&["list", "--json"], words].concat();
        let name = |it: &Value| it["name"].as_str().unwrap().to_owned();
        let names =
            |ended: Ended| ended.exits(0).json_lines().iter().map(name).collect();
        let there: Vec<String> = names(remote.run(&words));
        let here: Vec<String> = names(remote.there.run(&words));
        assert_eq!(there, here);
        there
    };
    let report = "my \"big\" report";
    assert_eq!(found(&[]), ["other", report]);
    assert_eq!(found(&["--name", report]), [report]);
    assert_eq!(found(&["--label", "team=red one"]), [report]);
    assert_eq!(found(&["--kind", "template.render"]), ["other"]);
    assert_eq!(found(&["--since", "1h", "--name", "other"]), ["other"]);
    assert!(found(&["--since", "2999-01-01T00:00:00Z"]).is_empty());
    for wrong in [["--label", "team"], ["--since", "soon"], ["--state", "done"]] {
        let words = [&["list"], &wrong[..]].concat();
        remote.run(&words).exits(2);
        remote.there.run(&words).exits(2);
    }
}

#[test]
fn a_replay_is_looked_at_and_needs_consent_for_what_may_have_an_effect_twice() {
    let remote = Remote::start();
    let run = |words: &[&str]| remote.run(words);
    let document = "
tasks:
  a: { kind: noop, with: { output: 1 } }
  b: { kind: fail, needs: [a], with: { times: 1 }, at_most_once: true }
";
    remote.here.write("once.yaml", document);
    run(&["submit", "once.yaml", "--wait"]).exits(1);
    let plan = run(&["replay", "last", "--plan", "--json"]).exits(0).json();
    assert_eq!(plan["warnings"][0]["code"], "repeats");
    let plan = run(&["replay", "last", "--plan"]).exits(0);
    assert!(plan.stdout.contains("run  b  it is failed"), "{}", plan.stdout);
    assert!(plan.stderr.contains("--repeat b"), "{}", plan.stderr);
    // Nobody is there to ask, and `--yes` is no consent to an effect.
    run(&["replay", "last"]).exits(2);
    let refused = run(&["replay", "last", "--yes", "--json"]).exits(2).json();
    assert_eq!(refused["error"]["code"], "needs_consent");
    let pinned =
        ["replay", "last", "--pin", "b={\"done\": true}", "--yes", "--wait", "--json"];
    let ended = run(&pinned).exits(0).json();
    assert_eq!(ended["output"], json!({ "b": { "done": true } }));
    let repeated =
        run(&["replay", "last", "--from", "a", "--repeat", "b", "--yes", "--json"]);
    assert_eq!(repeated.exits(0).json()["run"], 2);
    // On a file of one's own, with the same words.
    let own = Place::new();
    own.write("once.yaml", document);
    own.run(&["run", "once.yaml"]).exits(1);
    own.run(&["replay", "last", "--yes"]).exits(2);
    let words =
        ["replay", "last", "--repeat", "b", "--yes", "--wait", "--reason", "mended"];
    own.run(&words).exits(1);
    own.run(&["replay", "last", "--pin", "b=7", "--yes", "--wait"]).exits(0);
    let history = own.run(&["history", "last", "--json"]).exits(0).json();
    let reasons: Vec<&Value> =
        history["replays"].as_array().unwrap().iter().map(|it| &it["reason"]).collect();
    assert_eq!(reasons, ["mended", ""]);
    assert_eq!(history["replays"][1]["detail"], json!({ "pins": { "b": 7 } }));
    let history = run(&["history", "last"]).exits(0).stdout;
    let lines: Vec<&str> = history.lines().collect();
    assert_eq!(lines.len(), 3, "{history}");
    assert!(lines[1].contains("\"pins\":{\"b\":{\"done\":true}}"), "{history}");
}

#[test]
fn limits_are_edited_and_what_became_of_it_is_told_here_as_there() {
    let remote = Remote::start();
    let own = Place::new();
    let document = "tasks: { a: { kind: fail, with: { times: 2 } } }";
    for place in [&remote.here, &own] {
        place.write("flaky.yaml", document);
    }
    remote.run(&["submit", "flaky.yaml", "--wait"]).exits(1);
    own.run(&["run", "flaky.yaml"]).exits(1);
    let there = |words: &[&str]| remote.run(words);
    let here = |words: &[&str]| own.run(words);
    let asks: [Ask<'_>; 2] = [&there, &here];
    for run in asks {
        let wrong = ["fork", "last", "--soft-timeout", "a=never", "--yes", "--json"];
        let wrong = run(&wrong).exits(3).json();
        assert_eq!(wrong["error"]["code"], "invalid_document");
        let words = [
            "fork",
            "last",
            "--max-retries",
            "a=2",
            "--retry-delay",
            "a=1ms",
            "--soft-timeout",
            "a=10s",
            "--timeout",
            "a=20s",
            "--yes",
            "--wait",
        ];
        run(&words).exits(0);
        let history = run(&["history", "last"]).exits(0).stdout;
        assert!(history.contains("made as a fork of prj_"), "{history}");
        // A value of an input is one of the new document.
        run(&["fork", "last", "--from", "a", "--with", "x=1", "--yes"]).exits(2);
        let none = run(&["checkpoints", "last", "a", "--json"]).exits(0);
        assert_eq!(none.stdout, "");
        run(&["checkpoints", "last", "nobody"]).exits(4);
    }
}

#[test]
fn a_changed_prompt_is_forked_and_only_what_depends_on_it_runs() {
    let document = "
inputs: { who: { default: me } }
tasks:
  a: { kind: noop, with: { output: \"${{ file('prompt.txt') }}\" } }
  b: { kind: noop, needs: [a], with: { output: '${{ tasks.a.output }} ${{ inputs.who }}' } }
  c: { kind: noop, with: { output: kept } }
outputs: { b: '${{ tasks.b.output }}', c: '${{ tasks.c.output }}' }
";
    let remote = Remote::start();
    let own = Place::new();
    let there = |words: &[&str]| remote.run(words);
    let here = |words: &[&str]| own.run(words);
    for place in [&remote.here, &own] {
        place.write("prompt.txt", "old");
        place.write("guide.yaml", document);
    }
    there(&["submit", "guide.yaml", "--wait"]).exits(0);
    here(&["run", "guide.yaml"]).exits(0);
    let asks: [Ask<'_>; 2] = [&there, &here];
    for (place, run) in [&remote.here, &own].into_iter().zip(asks) {
        place.write("prompt.txt", "new");
        let plan = ["fork", "last", "--document", "guide.yaml", "--plan", "--json"];
        let plan = run(&plan).exits(0).json();
        let actions: Vec<&Value> =
            plan["steps"].as_array().unwrap().iter().map(|it| &it["action"]).collect();
        assert_eq!(actions, ["run", "run", "reuse"]);
        let fork =
            ["fork", "last", "--document", "guide.yaml", "--yes", "--wait", "--json"];
        let ended = run(&fork).exits(0).json();
        assert_eq!(ended["output"], json!({ "b": "new me", "c": "kept" }));
        let id = ended["id"].as_str().unwrap();
        let base = run(&["list", "--json"]).exits(0).json_lines()[1]["id"].clone();
        let diff = run(&["diff", base.as_str().unwrap(), id]).exits(0).stdout;
        assert!(diff.contains("~ b") && diff.contains("+ \"new me\""), "{diff}");
        assert!(!diff.contains("~ c"), "{diff}");
        // From a step of the same document, with another value.
        let words = [
            "fork", "last", "--from", "b", "--set", "who=you", "--yes", "--wait",
            "--json",
        ];
        let ended = run(&words).exits(0).json();
        assert_eq!(ended["output"]["b"], "new you");
        // A large one is within the bounds of a submission.
        for place in [&remote.here, &own] {
            let text = "x".repeat(1_500_000);
            place.write(
                "large.yaml",
                &format!("tasks: {{a: {{kind: noop, with: {{output: {text}}}}}}}"),
            );
        }
        run(&["submit", "large.yaml", "--wait"]).exits(0);
        run(&["export", "last", "-o", "large.ndjson"]).exits(0);
        run(&["import", "large.ndjson", "--new-id"]).exits(0);
        // Out of the database, and into it once more.
        let id = ended["id"].as_str().unwrap();
        run(&["export", id, "-o", "moved.ndjson"]).exits(0);
        let there = run(&["import", "moved.ndjson", "--json"]).exits(2).json();
        assert_eq!(there["error"]["code"], "exists");
        let moved = run(&["import", "moved.ndjson", "--new-id"]).exits(0).stdout;
        let shown = run(&["show", moved.trim(), "--json"]).exits(0).json();
        assert_eq!(shown["output"], ended["output"]);
        let again = run(&["export", moved.trim()]).exits(0).stdout;
        assert!(again.starts_with("{\"dandori_archive\":1,"), "{again}");
        let part: Vec<&str> = again.lines().take(5).collect();
        for place in [&remote.here, &own] {
            place.write("part.ndjson", &part.join("\n"));
        }
        let part =
            run(&["import", "part.ndjson", "--new-id", "--json"]).exits(3).json();
        assert_eq!(part["error"]["code"], "invalid_archive");
    }
}

#[test]
fn a_list_ends_where_its_pages_are_empty_and_what_is_no_list_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let entry = json!({
        "seq": 7, "at": "2026-01-01T00:00:00Z", "who": "me", "what": "queue.pause",
        "project": null, "detail": "slow", "request": "r",
    });
    let pages = [
        json!({ "changes": [entry, entry], "next": 6 }),
        json!({ "changes": [], "next": 5 }),
        json!({ "changes": 7 }),
        json!([]),
    ];
    let served = std::thread::spawn(move || {
        pages.map(|page| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 4_096];
            let read = std::io::Read::read(&mut stream, &mut head).unwrap();
            let page = page.to_string();
            let length = page.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\nConnection: close\r\n\r\n{page}"
            );
            stream.write_all(answer.as_bytes()).unwrap();
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            head.lines().next().unwrap_or_default().to_owned()
        })
    });
    let here = Place::new();
    let ask = |args: &[&str]| {
        let mut command = here.command(args);
        Ended::of(command.env("DANDORI_SERVER", &address).output().unwrap())
    };
    let changes = ask(&["audit", "--before", "9", "--json"]).exits(0).json_lines();
    assert_eq!(changes.len(), 2);
    for _ in 0..2 {
        let refused = ask(&["audit", "--json"]).exits(5).json();
        assert_eq!(refused["error"]["code"], "bad_answer");
    }
    let asked = served.join().unwrap();
    assert_eq!(asked[0], "GET /api/v1/audit?before=9&limit=50 HTTP/1.1");
    assert_eq!(asked[1], "GET /api/v1/audit?limit=48&before=6 HTTP/1.1");
}

#[test]
fn what_a_server_refuses_ends_with_the_code_that_says_why() {
    let remote = Remote::start();
    let code =
        |ended: &Ended| ended.json()["error"]["code"].as_str().unwrap().to_owned();
    let unknown = remote.run(&["show", "nobody", "--json"]).exits(4);
    assert_eq!(code(&unknown), "not_found");
    let nobody =
        remote.run_as("wrong-0123456789abcdef0123456789abcdef", &["list", "--json"]);
    assert_eq!(code(&nobody.exits(5)), "unauthorized");
    remote.here.write("bad.yaml", "tasks: { a: { kind: nope } }");
    let refused = remote.run(&["submit", "bad.yaml"]).exits(3);
    assert!(refused.stderr.contains("unknown_kind"), "{}", refused.stderr);
    remote.here.write("broken.yaml", "tasks: [");
    remote.run(&["submit", "broken.yaml"]).exits(3);
    assert_eq!(code(&remote.run(&["run", "bad.yaml", "--json"]).exits(2)), "usage");
    let mut far =
        remote.here.command(&["list", "--json", "--server", "http://127.0.0.1:9"]);
    assert_eq!(code(&Ended::of(far.output().unwrap()).exits(5)), "server_away");
    let mut wrong = remote.here.command(&["list", "--json", "--server", "nonsense"]);
    assert_eq!(code(&Ended::of(wrong.output().unwrap()).exits(2)), "usage");
}

#[test]
fn a_token_is_in_no_log_no_metric_and_no_answer() {
    let remote = Remote::start();
    remote.here.write("one.yaml", "tasks: { a: { kind: noop } }");
    remote.run(&["submit", "one.yaml", "--wait"]).exits(0);
    let ask = |path: &str, token: &str| {
        let address = remote.address.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        answer
    };
    let metrics = ask("/metrics", CANARY);
    assert!(metrics.contains("dandori_steps_total"), "{metrics}");
    let mut said = vec![metrics];
    for path in
        ["/", "/nowhere", "/api/v1/projects/nobody", "/api/v1/audit", "/api/v1/tokens"]
    {
        said.push(ask(path, CANARY));
        said.push(ask(path, &format!("{CANARY}-not")));
    }
    said.push(ask(&format!("/api/v1/projects?token={CANARY}"), CANARY));
    remote.server.signal("TERM");
    said.push(remote.server.wait().exits(0).stderr);
    for text in said {
        assert!(!text.contains("canary"), "{text}");
    }
}
