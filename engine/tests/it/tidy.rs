//! Tidiness of the whole repository: lengths, arrows, documents.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// All files below a folder with an ending, without what is built.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut stack = vec![folder.to_owned()];
    while let Some(folder) = stack.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" {
                    stack.push(path);
                }
            } else if path.extension().is_some_and(|own| own == ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn every_file_is_short_and_says_what_it_is() {
    let mut faults = vec![];
    for path in files(&root(), "rs") {
        let text = read(&path);
        let lines = text.lines().count();
        if lines > 600 {
            faults.push(format!("{} has {lines} lines", path.display()));
        }
        if !text.starts_with("//!") {
            faults.push(format!("{} does not say what it is", path.display()));
        }
        for mark in ["TODO", "FIXME", "XXX"] {
            let bare = text.lines().any(|line| {
                line.contains(&format!("{mark}:"))
                    || line.contains(&format!("// {mark} "))
            });
            if bare {
                faults.push(format!("{} has a bare {mark}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn the_arrow_points_from_api_to_steps_to_engine() {
    for (package, strangers) in [
        ("engine", ["dandori-steps", "dandori-server", "reqwest", "axum"].as_slice()),
        ("steps", ["dandori-server", "axum", "sqlx"].as_slice()),
        ("api", ["sqlx"].as_slice()),
    ] {
        let manifest = read(&root().join(package).join("Cargo.toml"));
        let needs = manifest.split("[dev-dependencies]").next().unwrap();
        let needs = needs.split("[dependencies]").nth(1).unwrap();
        for stranger in strangers {
            let found = needs.lines().any(|line| line.starts_with(stranger));
            assert!(!found, "{package} needs {stranger}");
        }
    }
}

/// Routes ask the engine; only the command line asks another server.
#[test]
fn only_the_client_of_the_command_line_knows_how_to_ask_a_server() {
    for path in files(&root().join("api/src"), "rs") {
        if !path.ends_with("cli/server.rs") {
            assert!(!read(&path).contains("reqwest"), "{}", path.display());
        }
    }
}

#[test]
fn plan_and_run_know_no_clock_no_database_and_no_runtime() {
    for folder in ["plan", "run"] {
        for path in files(&root().join("engine/src").join(folder), "rs") {
            let text = read(&path);
            for stranger in
                ["tokio", "sqlx", "Clock", "SystemTime", "Instant", "crate::store"]
            {
                assert!(
                    !text.contains(stranger),
                    "{} knows {stranger}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn only_the_store_knows_sql() {
    for path in files(&root().join("engine/src"), "rs") {
        if !path.to_string_lossy().contains("/store/") {
            assert!(!read(&path).contains("sqlx::"), "{}", path.display());
        }
    }
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut broken = vec![];
    for path in files(&root(), "md") {
        for link in read(&path).split("](").skip(1) {
            let target = link.split(')').next().unwrap().split('#').next().unwrap();
            let is_file = !target.is_empty() && !target.contains("://");
            if is_file && !path.parent().unwrap().join(target).exists() {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
