//! Every example runs, and does what it says.

#![expect(clippy::unwrap_used, reason = "the fixtures of tests may unwrap as tests do")]

mod canvas;
#[expect(dead_code, reason = "these tests stop no server")]
#[path = "../../../engine/tests/it/cluster.rs"]
mod cluster;
mod laws;
mod typed;
mod wiring;

use std::process::Command;

fn run(program: &str, arguments: &[&std::path::Path]) -> String {
    let output = Command::new(program).args(arguments).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    said
}

#[test]
fn the_report_is_retried_and_summed() {
    let said = run(env!("CARGO_BIN_EXE_report"), &[]);
    assert_eq!(said, "succeeded: {\"total\":34}\n");
}

#[test]
fn the_service_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = run(env!("CARGO_BIN_EXE_service"), &[&folder.path().join("orders.db")]);
    assert!(said.contains("order of Bob: cancelled"), "{said}");
    assert!(
        said.ends_with(
            "order of Ada: succeeded {\"ship\":\"shipped with receipt for Ada\"}\n"
        ),
        "{said}"
    );
}
