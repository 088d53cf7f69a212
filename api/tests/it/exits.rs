//! Exit codes and streams: stdout is data, stderr is everything else.

use std::io::Write as _;

use crate::command::Place;

const TWO: &str = "name: two
tasks:
  a: { kind: noop, with: { output: 1 } }
  b: { kind: noop, needs: [a], with: { output: '${{ tasks.a.output + 1 }}' } }
";

#[test]
fn a_project_that_succeeds_prints_its_output_and_exits_with_0() {
    let place = Place::new();
    place.write("two.yaml", TWO);
    let ended = place.run(&["run", "two.yaml"]).exits(0);
    assert_eq!(ended.stdout, "{\n  \"b\": 2\n}\n");
    assert!(ended.stderr.contains("creating dandori.db"), "{}", ended.stderr);
    assert!(ended.stderr.contains("two: succeeded in"), "{}", ended.stderr);
    let json = place.run(&["run", "two.yaml", "--json"]).exits(0).json();
    assert_eq!(json["state"], "succeeded");
    assert_eq!(json["counts"]["succeeded"], 2);
    assert_eq!(json["steps"][1]["output"], 2);
    assert_eq!(json["steps"][1]["attempts"], 1);
    let keys: Vec<&str> =
        json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "id",
            "name",
            "state",
            "reason",
            "output",
            "created_at",
            "started_at",
            "finished_at",
            "counts",
            "steps"
        ]
    );
    let keys: Vec<&str> =
        json["steps"][0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "name",
            "kind",
            "state",
            "generation",
            "attempts",
            "output",
            "error",
            "waiting",
            "progress",
            "queue",
            "started_at",
            "finished_at"
        ]
    );
}

#[test]
fn a_project_that_fails_shows_the_failure_first_and_exits_with_1() {
    let place = Place::new();
    place.write("bad.yaml", "tasks: {a: {kind: fail, with: {message: no luck}}, b: {kind: noop, needs: [a]}}");
    let ended = place.run(&["run", "bad.yaml"]).exits(1);
    assert!(
        ended
            .stdout
            .lines()
            .next()
            .unwrap()
            .contains("a failed after 1 attempts: failed: no luck"),
        "{}",
        ended.stdout
    );
    assert!(ended.stdout.contains("1 steps did not run because of them"));
    let shown = place.run(&["show", "last", "--json", "--attempts"]).exits(0).json();
    assert_eq!(shown["steps"][1]["error"]["failed_needs"][0], "a");
    assert_eq!(shown["steps"][0]["error"]["step"], "a");
}

#[test]
fn wrong_usage_exits_with_2() {
    let place = Place::new();
    place.run(&["fly"]).exits(2);
    place.run(&["run"]).exits(2);
    place.write("two.yaml", TWO);
    place.run(&["run", "two.yaml"]).exits(0);
    // Consent is missing, and there is no terminal to ask on.
    place.write("bad.yaml", "tasks: {a: {kind: fail}}");
    place.run(&["run", "bad.yaml"]).exits(1);
    let ended = place.run(&["replay", "last"]).exits(2);
    assert!(ended.stderr.contains("--yes"), "{}", ended.stderr);
    place.run(&["cancel", "last"]).exits(2);
    let ended = place.run(&["run", "two.yaml", "--input", "x"]).exits(2);
    assert!(ended.stderr.contains("name=value"), "{}", ended.stderr);
}

#[test]
fn a_broken_document_exits_with_3_and_leaves_no_trace() {
    let place = Place::new();
    place.write("broken.yaml", "tasks:\n  a: {kind: noob}\n");
    let ended = place.run(&["run", "broken.yaml"]).exits(3);
    assert!(ended.stderr.contains("broken.yaml:2:"), "{}", ended.stderr);
    assert!(ended.stderr.contains("did you mean `noop`?"), "{}", ended.stderr);
    assert!(ended.stdout.is_empty());
    assert!(!place.path().join("dandori.db").exists());
    let json = place.run(&["validate", "broken.yaml", "--json"]).exits(3).json();
    assert_eq!(json["valid"], false);
    assert_eq!(json["diagnostics"][0]["line"], 2);
    let error = place.run(&["run", "broken.yaml", "--json"]).exits(3).json();
    assert_eq!(error["error"]["code"], "invalid_document");
}

#[test]
fn what_is_not_there_exits_with_4() {
    let place = Place::new();
    place.write("two.yaml", TWO);
    place.run(&["run", "nowhere.yaml"]).exits(4);
    place.run(&["run", "two.yaml"]).exits(0);
    let ended = place.run(&["show", "nobody", "--json"]).exits(4).json();
    assert_eq!(ended["error"]["code"], "not_found");
    place.run(&["logs", "last", "nobody"]).exits(4);
}

#[test]
fn what_is_not_allowed_or_not_reached_exits_with_5() {
    let place = Place::new();
    place
        .write("sh.yaml", "tasks: {a: {kind: shell.run, with: {argv: [touch, done]}}}");
    let ended = place.run(&["run", "sh.yaml"]).exits(5);
    assert!(ended.stderr.contains("--allow-shell"), "{}", ended.stderr);
    place.run(&["submit", "sh.yaml"]).exits(0);
    place.run(&["resume"]).exits(5);
    assert!(!place.path().join("done").exists(), "refused before anything starts");
    place.run(&["resume", "--allow-shell"]).exits(0);
    assert!(place.path().join("done").exists());
    place.run(&["list", "--database-url", "sqlite:none.db"]).exits(5);
    assert!(!place.path().join("none.db").exists());
    let ended = place.run(&["list", "--database-url", "mysql://u:secret@h/d"]).exits(5);
    assert!(!ended.stderr.contains("secret"), "{}", ended.stderr);
}

/// Runs a script with a file system of its own at `small`; `None` where that is not to be
/// had, and says so.
fn with_mount(place: &Place, script: &str) -> Option<(String, String)> {
    std::fs::create_dir(place.path().join("small")).unwrap();
    let made = std::process::Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", script])
        .env("DANDORI", env!("CARGO_BIN_EXE_dandori"))
        .env_remove("DATABASE_URL")
        .current_dir(place.path())
        .output();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = made.map(|output| (text(&output.stdout), text(&output.stderr)));
    match said {
        Ok((said, errors)) if said.contains("code") => Some((said, errors)),
        other => {
            // Past the capture of the test runner: what was left out must be seen.
            let left_out = "NOT RUN: this needs `unshare` and the right to mount";
            let _ = writeln!(std::io::stderr(), "{left_out}: {other:?}");
            None
        }
    }
}

/// The one error that was shown.
fn the_error(errors: &str) -> &str {
    let shown: Vec<&str> =
        errors.lines().filter(|line| line.starts_with("error")).collect();
    assert_eq!(shown.len(), 1, "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    shown[0]
}

#[test]
fn a_read_only_folder_is_one_clear_error() {
    let place = Place::new();
    place.write("two.yaml", TWO);
    let script = "mount -t tmpfs tmpfs small && cd small && $DANDORI run ../two.yaml &&
        mount -o remount,ro . && touch x 2>/dev/null; ls;
        $DANDORI run ../two.yaml --database-url sqlite:fresh.db; echo code $?
        $DANDORI run ../two.yaml; echo code $?; ls";
    let Some((said, errors)) = with_mount(&place, script) else { return };
    assert_eq!(said.matches("code 5").count(), 2, "{said}\n{errors}");
    let shown: Vec<&str> =
        errors.lines().filter(|line| line.starts_with("error")).collect();
    assert_eq!(shown.len(), 2, "{errors}");
    assert!(
        shown[0].contains("fresh.db") && shown[1].contains("dandori.db"),
        "{errors}"
    );
    assert!(errors.contains("make the file and its folder writable"), "{errors}");
    assert!(!said.contains("fresh.db"), "{said}");
}

#[test]
fn a_full_disk_is_one_clear_error_and_loses_nothing() {
    let place = Place::new();
    place.write(
        "full.yaml",
        "max_parallel: 1
tasks:
  each:
    for_each: '${{ range(200) | list }}'
    kind: noop
    with: { output: '${{ \"x\" * 30000 }}' }
",
    );
    let script =
        "mount -t tmpfs -o size=2m tmpfs small && cp full.yaml small && cd small &&
        $DANDORI run full.yaml; echo code $?; $DANDORI list --json; echo code $?";
    let Some((said, errors)) = with_mount(&place, script) else { return };
    assert!(said.contains("code 5"), "{said}\n{errors}");
    the_error(&errors);
    assert!(errors.contains("free disk space"), "{errors}");
    assert!(
        said.contains("\"state\":\"running\"") && said.contains("code 0"),
        "{said}"
    );
}

#[test]
fn a_file_that_cannot_be_used_is_one_clear_error_and_is_left_as_it_was() {
    let place = Place::new();
    place.write("two.yaml", TWO);
    place.run(&["run", "two.yaml"]).exits(0);
    let database = place.path().join("dandori.db");
    let whole = std::fs::read(&database).unwrap();
    // The schema of a later version, written as that version would.
    let newer = "import sqlite3; db = sqlite3.connect('dandori.db')
db.execute('insert into _sqlx_migrations values (999, ?, 0, 1, ?, 0)', ['later', b'x'])
db.commit(); db.close()";
    let made = std::process::Command::new("python3")
        .args(["-c", newer])
        .current_dir(place.path())
        .status();
    assert!(made.expect("python3 is needed: scripts/test installs it").success());
    let ended = place.run(&["run", "two.yaml"]).exits(5);
    assert!(the_error(&ended.stderr).contains("999"), "{}", ended.stderr);
    for (what, bytes) in [
        ("empty", vec![]),
        ("no database", b"this is not a database, whatever its name may say".to_vec()),
        ("cut off", whole[..whole.len() / 2].to_vec()),
    ] {
        std::fs::write(&database, &bytes).unwrap();
        let ended = place.run(&["run", "two.yaml"]);
        assert_eq!(ended.code, Some(5), "{what}: {}", ended.stderr);
        the_error(&ended.stderr);
        assert_eq!(std::fs::read(&database).unwrap(), bytes, "{what} was changed");
    }
}

#[test]
fn a_cancelled_project_exits_with_6() {
    let place = Place::new();
    place.write("long.yaml", "tasks: {a: {kind: sleep, with: {for: 10m}}}");
    let mut running = place.start(&["run", "long.yaml"]);
    running.until("waits 10m");
    place.run(&["cancel", "last"]).exits(0);
    let ended = running.wait().exits(6);
    assert!(ended.stderr.contains("cancelled"), "{}", ended.stderr);
}

#[test]
fn out_of_time_exits_with_124_and_goes_on_later() {
    let place = Place::new();
    place.write("nap.yaml", "name: nap\ntasks: {a: {kind: sleep, with: {for: 2s}}}");
    let ended = place.run(&["run", "nap.yaml", "--timeout", "300ms"]).exits(124);
    let resume = ended.stderr.lines().find(|line| line.contains(" resume ")).unwrap();
    let words: Vec<&str> = resume.split_whitespace().skip(1).collect();
    place.run(&words).exits(0);
    assert_eq!(
        place.run(&["show", "nap", "--json"]).exits(0).json()["state"],
        "succeeded"
    );
}

#[test]
fn a_signal_leaves_the_line_that_goes_on() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let place = Place::new();
        place.write(
            "long.yaml",
            "tasks: {a: {kind: noop}, b: {kind: sleep, needs: [a], with: {for: 1h}}}",
        );
        let options = ["run", "long.yaml", "--concurrency", "3", "--crash-limit", "7"];
        let mut running = place.start(&options);
        running.until("waits 1h");
        running.signal(signal);
        let ended = running.wait().exits(code);
        let line =
            ended.stderr.lines().find(|line| line.contains(" resume prj_")).unwrap();
        assert!(line.contains("--database-url sqlite:dandori.db"), "{line}");
        assert!(ended.stderr.contains("1 of 2 steps are recorded"), "{}", ended.stderr);
    }
}

#[test]
fn a_replay_is_looked_at_and_then_done() {
    let place = Place::new();
    place.write(
        "flaky.yaml",
        "tasks: {good: {kind: noop}, bad: {kind: file.read, with: {path: missing.txt}}, then: {kind: noop, needs: [bad]}}",
    );
    place.run(&["run", "flaky.yaml"]).exits(1);
    let plan = place.run(&["replay", "last", "--plan", "--json"]).exits(0).json();
    let actions: Vec<&str> = plan["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["action"].as_str().unwrap())
        .collect();
    assert_eq!(actions, ["reuse", "run", "run"]);
    place.write("missing.txt", "here now");
    let ended = place.run(&["replay", "last", "--yes", "--wait"]).exits(0);
    assert!(ended.stderr.contains("2 steps run again, 1 are kept"), "{}", ended.stderr);
}

#[test]
fn lists_streams_and_help_are_what_they_say() {
    let place = Place::new();
    place.write("two.yaml", TWO);
    place.run(&["run", "two.yaml"]).exits(0);
    let rows = place.run(&["list", "--json"]).exits(0).json_lines();
    assert_eq!(rows[0]["name"], "two");
    let events = place.run(&["watch", "last", "--json"]).exits(0).json_lines();
    let numbers: Vec<i64> =
        events.iter().map(|event| event["seq"].as_i64().unwrap()).collect();
    assert_eq!(numbers, (1..=i64::try_from(events.len()).unwrap()).collect::<Vec<_>>());
    assert_eq!(events[0]["type"], "project.submitted");
    assert_eq!(events.last().unwrap()["type"], "project.succeeded");
    let id = rows[0]["id"].as_str().unwrap();
    for name in [id, &id[id.len() - 6..], "two", "last"] {
        assert_eq!(place.run(&["show", name, "--json"]).exits(0).json()["id"], id);
    }
    let schema = place.run(&["schema"]).exits(0).json();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.run(&["completions", shell]).exits(0).stdout.contains("dandori"));
    }
    let help = place.run(&["--help"]).exits(0).stdout;
    assert!(help.contains("Exit codes: 0 succeeded"), "{help}");
    for format in ["svg", "dot", "mermaid", "text"] {
        let graph =
            place.run(&["graph", "two.yaml", "--format", format]).exits(0).stdout;
        assert!(graph.contains('b'), "{graph}");
    }
}

#[test]
fn secrets_are_stored_nowhere() {
    let place = Place::new();
    place.write(
        "secret.yaml",
        "tasks:
  both: { kind: noop, with: { output: '${{ secrets.SHORT }} ${{ secrets.LONG }}' } }
  code: { kind: fail, with: { code: '${{ secrets.LONG }}' }, allow_failure: true }
",
    );
    let run = |args: &[&str]| {
        place
            .command(args)
            .env("DANDORI_SECRET_SHORT", "abcd")
            .env("DANDORI_SECRET_LONG", "abcdefCANARY")
            .output()
            .unwrap()
    };
    let output = run(&["run", "secret.yaml", "--json"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("*** ***"), "{said}");
    assert!(!said.contains("CANARY"), "{said}");
    for file in ["dandori.db", "dandori.db-wal"] {
        let bytes = std::fs::read(place.path().join(file)).unwrap_or_default();
        assert!(!bytes.windows(6).any(|part| part == b"CANARY"), "{file}");
    }
}

#[test]
fn steps_do_not_reach_the_database() {
    let place = Place::new();
    let text = |name: &str| {
        format!(
            "tasks: {{ a: {{ kind: file.write, with: {{ path: {name}, text: hello }} }} }}"
        )
    };
    place.write("harmless.yaml", "tasks: {a: {kind: noop}}");
    place.run(&["run", "harmless.yaml"]).exits(0);
    std::fs::hard_link(place.path().join("dandori.db"), place.path().join("other"))
        .unwrap();
    for name in ["dandori.db", "dandori.db.lock", "other"] {
        place.write("write.yaml", &text(name));
        let ended = place.run(&["run", "write.yaml"]).exits(1);
        assert!(
            ended.stdout.contains("a file of the engine itself"),
            "{}",
            ended.stdout
        );
    }
    assert_eq!(place.run(&["list", "--json"]).exits(0).json_lines().len(), 4);
}

#[test]
fn deep_outputs_are_shown_as_they_are() {
    let place = Place::new();
    let mut text =
        String::from("name: deep\ntasks:\n  t0: {kind: noop, with: {output: 1}}\n");
    for at in 1..100 {
        let before = at - 1;
        text.push_str(&format!(
            "  t{at}: {{kind: noop, needs: [t{before}], with: {{output: ['${{{{ tasks.t{before}.output }}}}']}}}}\n"
        ));
    }
    place.write("deep.yaml", &text);
    place.run(&["run", "deep.yaml"]).exits(0);
    let shown = place.run(&["show", "deep", "--json", "--attempts"]).exits(0).stdout;
    assert!(shown.contains(&("[".repeat(99) + "1")), "{shown}");
    assert!(shown.trim_end().ends_with("\"attempts\":[]}"), "{shown}");
}

#[test]
fn a_reader_that_stops_and_a_full_output_are_no_panics() {
    let place = Place::new();
    place.write("two.yaml", TWO);
    place.run(&["run", "two.yaml"]).exits(0);
    let script = format!(
        "{0} completions bash | true; {0} list --json > /dev/full; echo code $?",
        env!("CARGO_BIN_EXE_dandori")
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .current_dir(place.path())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("panicked"), "{errors}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "code 5\n", "{errors}");
}

#[test]
fn help_shows_no_password() {
    let place = Place::new();
    let output = place
        .command(&["--help"])
        .env("DATABASE_URL", "postgres://user:hunter2@host/db")
        .output()
        .unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("hunter2"));
}
