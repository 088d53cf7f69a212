//! The page in a real browser, with names that are meant to do harm.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::command::Place;

/// The page as a browser shows it after a while, or `None` where there is no browser.
fn shown(place: &Place, address: &str) -> Option<String> {
    let browser = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok())?;
    let profile = format!("--user-data-dir={}", place.path().join("profile").display());
    let mut child = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
        .args(["--no-first-run", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync", &profile])
        .args(["--virtual-time-budget=3000", "--dump-dom", address])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stdout = child.stdout.take().unwrap();
    let page = std::thread::spawn(move || std::io::read_to_string(stdout).unwrap());
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(page.join().unwrap())
}

#[test]
fn hostile_names_are_text_on_the_page() {
    let place = Place::new();
    let mut server = place.start(&["serve", "--listen", "127.0.0.1:0"]);
    let address = server.until("listening on http://");
    let address = address.split_whitespace().last().unwrap();
    let evil = |tag: &str| format!("{tag}document.title='owned'");
    let document = serde_json::json!({
        "name": format!("{}</script>\"><img src=x onerror={}>", evil("<script>"), evil("")),
        "tasks": { evil("<img src=x onerror="): {
            "kind": "fail", "title": evil("<svg onload="),
            "with": { "permanent": true,
                "message": format!("{}</script>\u{202e}gnp \u{1b}[31m", evil("<script>")) },
        } },
    });
    place.write("evil.json", &document.to_string());
    let ended =
        place.run(&["submit", "evil.json", "--server", address, "--wait"]).exits(1);
    // Nor does it steer a terminal.
    let steers = |c: char| matches!(c, '\u{1b}' | '\u{202e}');
    assert!(!ended.stderr.contains(steers), "{:?}", ended.stderr);
    let listed = place.run(&["list", "--server", address, "--json"]).exits(0).json();
    let id = listed["id"].as_str().unwrap();
    for path in ["/".to_owned(), format!("/#{id}")] {
        let Some(page) = shown(&place, &format!("{address}{path}")) else {
            println!("NOT RUN: there is no Chromium to look at the page with");
            return;
        };
        assert!(page.contains("<title>Dandori</title>"), "{path}: {page}");
        assert!(
            page.contains("&lt;script&gt;document.title='owned'"),
            "{path}: {page}"
        );
        assert_eq!(page.matches("<script").count(), 1, "{path}: {page}");
        assert!(!page.contains("<img src=\"x\"") && !page.contains("<svg"), "{page}");
    }
    // The picture is opened by itself too.
    let graph =
        shown(&place, &format!("{address}/api/v1/projects/{id}/graph.svg")).unwrap();
    assert!(graph.contains("&lt;svg onload="), "{graph}");
    assert!(!graph.contains("<svg onload") && !graph.contains("<script"), "{graph}");
}

/// What is written into a page as markup could be anything.
#[test]
fn the_page_writes_text_only() {
    let script = include_str!("../../src/http/page/page.js");
    for word in
        ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
    {
        assert!(!script.contains(word), "{word}");
    }
}
