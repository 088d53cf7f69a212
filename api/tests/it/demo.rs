//! The demo: it ends the same each time, quickly, and a kill costs nothing.

use std::{collections::BTreeMap, path::Path, time::Instant};

use crate::command::{Ended, Place};

/// The guides that were written, by name.
pub(crate) fn guides(folder: &Path) -> BTreeMap<String, String> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).unwrap())
        })
        .collect()
}

fn demo(place: &Place, more: &[&str]) -> Ended {
    place.run(&[&["demo"], more].concat())
}

#[test]
fn the_demo_shows_trouble_and_ends_well() {
    let place = Place::new();
    let began = Instant::now();
    let ended = demo(&place, &[]).exits(0);
    println!("FIGURE 1 | the demo (under 30 s) | {:.1?}", began.elapsed());
    for line in [
        "hands-on guides: succeeded in",
        "20 guides in ./dandori-demo",
        "load/search failed after 4 attempts, which its task allows",
        "dandori-demo/idea.md:",
        "# Narrow the idea to one user story",
        "Next:",
        "show last --attempts --database-url sqlite:",
    ] {
        assert!(ended.stdout.contains(line), "no {line:?} in {}", ended.stdout);
    }
    assert!(
        ended.stderr.contains("retry after 60s, shortened to 2s"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("the soft time limit of 9m, shortened to 3s"));
    let guides = guides(&place.path().join("dandori-demo"));
    assert_eq!(guides.len(), 20);
    assert!(guides["load.md"].contains("the search did not answer"));
    assert!(guides["deploy.md"].contains("- [Deploy with Docker Compose"));
}

#[test]
fn a_request_to_stop_ends_the_demo_soon_and_restarts_nothing_that_ended() {
    let place = Place::new();
    let witness = place.path().join("witness");
    let args = ["demo", "--witness", witness.to_str().unwrap()];
    let mut running = place.start(&args);
    running.until("✓ model");
    let began = Instant::now();
    running.signal("TERM");
    let ended = running.wait().exits(143);
    let took = began.elapsed();
    println!("FIGURE 8 | the demo ends after SIGTERM (within 30 s) | {took:.1?}");
    assert!(took.as_secs() < 30);
    assert!(ended.stderr.contains("demo --out ./dandori-demo"), "{}", ended.stderr);
    let url = "sqlite:dandori-demo/dandori.db";
    let done = |json: serde_json::Value| -> Vec<String> {
        let steps = json["steps"].as_array().unwrap().iter();
        let succeeded = steps.filter(|step| step["state"] == "succeeded");
        succeeded.map(|step| step["name"].as_str().unwrap().to_owned()).collect()
    };
    let show = || {
        place.run(&["show", "last", "--json", "--database-url", url]).exits(0).json()
    };
    let recorded = done(show());
    let asked = std::fs::read_to_string(&witness).unwrap().lines().count();
    place.run(&args).exits(0);
    let text = std::fs::read_to_string(&witness).unwrap();
    for line in text.lines().skip(asked) {
        let step = line.split(':').nth(1).unwrap();
        assert!(
            !recorded.iter().any(|done| done == step),
            "{step} was recorded and ran again"
        );
    }
    assert_eq!(guides(&place.path().join("dandori-demo")).len(), 20);
}
