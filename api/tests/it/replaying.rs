//! The example of replays and forks does what its recorded output says.

use std::process::Command;

#[test]
fn the_example_keeps_seventeen_of_twenty_twice() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/replay");
    let mut command = Command::new(format!("{folder}/run.sh"));
    command.env("DANDORI", env!("CARGO_BIN_EXE_dandori"));
    // Whoever looks at it may have set up another place, which must not be touched.
    for name in ["DATABASE_URL", "DANDORI_SERVER", "DANDORI_TOKEN"] {
        command.env(name, "http://127.0.0.1:9");
    }
    let ended = command.output().unwrap();
    let said = String::from_utf8(ended.stdout).unwrap();
    let failed = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}\n{failed}");
    let recorded = std::fs::read_to_string(format!("{folder}/output.txt")).unwrap();
    // Which of the three failures was first is not decided.
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&said), sorted(&recorded));
    let kept = said.matches("3 steps run again, 17 are kept").count();
    let asked = said.matches("questions to the model: 3").count();
    assert_eq!((kept, asked), (2, 2));
    println!(
        "FIGURE replay 6 | the example: run, kept; after a changed prompt | 3, 17; 3, 17"
    );
}
