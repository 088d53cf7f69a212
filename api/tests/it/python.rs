//! The example with a Python web application: called with a key, tried again, worked on once.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::command::Place;

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_python_application_is_called_and_a_python_script_submits() {
    let example =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python-service");
    let place = Place::new();
    let mut app = Command::new("python3")
        .arg(example.join("app.py"))
        .arg("0")
        .current_dir(place.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3 is needed: scripts/test installs it");
    let mut address = String::new();
    BufReader::new(app.stdout.take().unwrap()).read_line(&mut address).unwrap();
    let _server = Server(app);
    let output = Command::new("python3")
        .arg(example.join("submit.py"))
        .arg(address.trim())
        .env("DANDORI", env!("CARGO_BIN_EXE_dandori"))
        .env_remove("DATABASE_URL")
        .current_dir(place.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(said.contains("step.attempt_failed draft"), "{said}");
    let view = place.run(&["show", "last", "--json"]).exits(0).json();
    assert_eq!(view["output"]["attempts"], 2);
    let calls = view["output"]["calls"].as_object().unwrap();
    assert_eq!(calls.len(), 3, "{calls:?}");
    assert!(calls.values().all(|count| *count == 1), "worked on once each: {calls:?}");
    println!(
        "FIGURE 10 | a Python application called, retried, worked on once per key | yes"
    );
}
