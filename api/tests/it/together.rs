//! Several terminals on one database: one executes, the others look and steer.

use crate::command::Place;

const SLOW: &str = "tasks:
  first: { kind: noop }
  wait: { kind: shell.run, needs: [first], with: { argv: [sleep, '600'] } }
";

#[test]
fn a_second_terminal_watches_shows_lists_and_cancels() {
    let place = Place::new();
    place.write("slow.yaml", &format!("name: slow\n{SLOW}"));
    place.write("other.yaml", "tasks: {a: {kind: noop}}");
    let mut running = place.start(&["run", "slow.yaml", "--allow-shell"]);
    running.until("▸ wait");
    let mut watching = place.start(&["watch", "slow"]);
    watching.until("▸ wait");
    assert!(place.run(&["show", "slow"]).exits(0).stdout.contains("running"));
    assert!(place.run(&["list"]).exits(0).stdout.contains("running"));
    let ended = place.run(&["run", "other.yaml"]).exits(5);
    assert!(ended.stderr.contains("process "), "names the first: {}", ended.stderr);
    place.run(&["submit", "other.yaml"]).exits(0);
    place.run(&["cancel", "slow"]).exits(0);
    watching.wait().exits(6);
    running.wait().exits(6);
    // `run` executes its own project only; the other one is still there.
    let row = place.run(&["list", "--json"]).exits(0).json_lines();
    assert!(row.iter().any(|row| row["state"] == "pending"));
    place.run(&["resume"]).exits(0);
    place.run(&["resume"]).exits(0);
}

#[test]
fn a_pause_from_another_terminal_ends_with_resume() {
    let place = Place::new();
    place.write("nap.yaml", "name: nap\ntasks: {a: {kind: sleep, with: {for: 1500ms}}, b: {kind: noop, needs: [a]}}");
    let mut running = place.start(&["run", "nap.yaml"]);
    running.until("a: waits");
    place.run(&["pause", "nap"]).exits(0);
    running.until("✓ a");
    assert!(!running.has_ended());
    running.signal("TERM");
    running.wait().exits(143);
    assert_eq!(
        place.run(&["show", "nap", "--json"]).exits(0).json()["state"],
        "paused"
    );
    place.run(&["resume", "nap"]).exits(0);
}

#[test]
fn waiting_for_a_project_beside_an_executor_that_does_not_take_it_executes_it_later() {
    let place = Place::new();
    place.write("nap.yaml", "tasks: {a: {kind: sleep, with: {for: 1s}}}");
    place.write("quick.yaml", "name: quick\ntasks: {a: {kind: noop}}");
    let mut running = place.start(&["run", "nap.yaml"]);
    running.until("waits 1s");
    place.run(&["submit", "quick.yaml", "--wait"]).exits(0);
    running.wait().exits(0);
}

#[test]
fn three_projects_are_executed_together() {
    let place = Place::new();
    for name in ["p", "q", "r"] {
        let text = format!(
            "name: {name}
tasks:
  each: {{ for_each: '${{{{ range(12) | list }}}}', kind: shell.run, with: {{ argv: [sleep, '0.05'] }} }}
"
        );
        place.write("doc.yaml", &text);
        place.run(&["submit", "doc.yaml"]).exits(0);
    }
    place.run(&["resume", "--allow-shell", "--concurrency", "6"]).exits(0);
    // None waited for another's end: the first step of each began before the last of any.
    let mut first = vec![];
    let mut last = vec![];
    for name in ["p", "q", "r"] {
        let json = place.run(&["show", name, "--json"]).exits(0).json();
        let times: Vec<String> = json["steps"].as_array().unwrap()[1..]
            .iter()
            .map(|step| step["started_at"].as_str().unwrap().to_owned())
            .collect();
        first.push(times.iter().min().unwrap().clone());
        last.push(times.iter().max().unwrap().clone());
    }
    assert!(first.iter().max() < last.iter().min(), "{first:?} {last:?}");
    println!(
        "FIGURE 9 | three projects on six slots: all began before any ended | yes"
    );
}

#[test]
fn a_pause_ends_from_another_terminal_too() {
    let place = Place::new();
    place.write("nap.yaml", "name: nap\ntasks: {a: {kind: sleep, with: {for: 1200ms}}, b: {kind: noop, needs: [a]}}");
    let mut running = place.start(&["run", "nap.yaml"]);
    running.until("a: waits");
    place.run(&["pause", "nap"]).exits(0);
    running.until("✓ a");
    assert!(!running.has_ended());
    place.run(&["resume", "nap"]).exits(0);
    running.wait().exits(0);
}
