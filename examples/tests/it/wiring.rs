//! What does not fit together does not compile, and says why in words of the canvas.

use std::{path::PathBuf, process::Command, time::SystemTime};

/// A wiring, and what the compiler must say of it.
const WRONG: &[(&str, &str, &[&str])] = &[
    (
        "an output that is not the input of the next step",
        "let flow = length.take().then(shout.take());",
        &[
            "length.take().then(shout.take())",
            "expected `Flow<usize, _>`, found `Flow<String, String>`",
        ],
    ),
    (
        "a body that takes another list than its group has",
        "let flow = chord([length.take(), length.take()], join.take());",
        &["expected `Flow<Vec<usize>, _>`, found `Flow<Vec<String>, String>`"],
    ),
    (
        "a project whose first step waits for a value",
        "let project = Project::new(\"words\", length.take());",
        &["expected `Flow<(), _>`, found `Flow<String, usize>`"],
    ),
    (
        "an argument of another type",
        "let flow = length.bind(&7);",
        &["length.bind(&7)", "expected `&String`, found `&{integer}`"],
    ),
    (
        "arguments that are not the rest of the input",
        "let flow = add.partial(&(\"1\",));",
        &["expected `i64`, found `&str`"],
    ),
    (
        "members of a vector with different values",
        "let flow = group(vec![length.take(), shout.take()]);",
        &["expected `Flow<String, usize>`, found `Flow<String, String>`"],
    ),
    (
        "a callback that takes something else than the value",
        "let flow = length.take().on_success(shout.take());",
        &["expected `Flow<usize, _>`, found `Flow<String, String>`"],
    ),
    (
        "an error handler that takes no failure",
        "let flow = length.take().on_failure(shout.take());",
        &["expected `Flow<Failure, _>`, found `Flow<String, String>`"],
    ),
    (
        "a step that becomes something else than its output",
        "let next: Next<usize> = Next::expand(shout.bind(&String::new()).unwrap());",
        &["expected `Flow<(), usize>`, found `Flow<(), String>`"],
    ),
];

const RIGHT: &str =
    "let flow = group([length.take(), length.take()]).then(sum.take());";

fn program(wiring: &str) -> String {
    format!(
        "use dandori::{{Next, Project, canvas::{{Step, chord, group}}}};
        pub fn wire() {{
            let length = Step::<String, usize>::named(\"length\");
            let shout = Step::<String, String>::named(\"shout\");
            let join = Step::<Vec<String>, String>::named(\"join\");
            let sum = Step::<Vec<usize>, usize>::named(\"sum\");
            let add = Step::<(i64, i64), i64>::named(\"add\");
            {wiring}
        }}"
    )
}

/// The library as it was built for this test, and where its dependencies are.
fn library() -> (PathBuf, PathBuf) {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap().to_owned();
    let built = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("libdandori-") && name.ends_with(".rlib")
    };
    let age = |path: &PathBuf| {
        path.metadata().and_then(|it| it.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    (files.filter(built).max_by_key(age).expect("it was built for this test"), folder)
}

/// What the compiler says of a program; nothing when it compiles.
fn compile(wiring: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wiring.rs");
    std::fs::write(&file, program(wiring)).unwrap();
    let (library, dependencies) = library();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata"])
        .args(["--allow", "unused"])
        .arg("--extern")
        .arg(format!("dandori={}", library.display()))
        .arg("-L")
        .arg(format!("dependency={}", dependencies.display()))
        .arg("--out-dir")
        .arg(folder.path())
        .arg(&file)
        .output()
        .expect("the compiler starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), said.is_empty(), "{said}");
    said
}

#[test]
fn a_wrong_wiring_does_not_compile_and_says_why() {
    assert_eq!(compile(RIGHT), "", "a right one compiles");
    for (what, wiring, wanted) in WRONG {
        let said = compile(wiring);
        for part in *wanted {
            assert!(said.contains(part), "{what}: {said}");
        }
        assert_eq!(said.matches("error[").count(), 1, "{what}: one error: {said}");
        let lines = said.lines().count();
        assert!(lines < 40, "{what}: {lines} lines: {said}");
    }
}
