//! How many instructions the hot paths of the core take, as callgrind counts them: whatever
//! else the machine does, the same program takes the same number.
//!
//! The numbers stand in `instructions.txt`, so that a change shows in its review. One that
//! grows by more than a tenth fails; `UPDATE_INSTRUCTIONS=1` writes the file anew.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{collections::BTreeMap, path::PathBuf, process::Command};

/// So many steps, runs or evaluations, and as many again: what both have in common (the start of
/// the program, the text of the document) cancels out.
const FEW: u64 = 200;
const MANY: u64 = 1_200;
/// By how many parts of a hundred a number may grow.
const MAY_GROW: u64 = 10;

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("instructions.txt")
}

/// The instructions of one run; `None` without callgrind.
fn count(what: &str, times: u64) -> Option<u64> {
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env!("CARGO_BIN_EXE_dandori-benches"))
        .args(["work", what, &times.to_string()])
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success(), "{said}");
    let line = said.lines().find_map(|line| line.split_once("Collected : "));
    let (_, collected) = line.unwrap_or_else(|| panic!("nothing was counted: {said}"));
    Some(collected.trim().parse().unwrap())
}

/// The instructions of one step, run or evaluation.
fn each(what: &str) -> Option<u64> {
    Some((count(what, MANY)? - count(what, FEW)?) / (MANY - FEW))
}

/// `plan`, `apply` and so on in this profile, from lines such as `debug plan 12345`.
fn known() -> BTreeMap<(String, String), u64> {
    let text = std::fs::read_to_string(file()).unwrap();
    let entry = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let of = (words.next().unwrap(), words.next().unwrap());
        (of, words.next().unwrap().parse().unwrap())
    };
    text.lines().filter(|line| !line.starts_with('#')).map(entry).collect()
}

#[test]
fn no_hot_path_takes_a_tenth_more_instructions_than_it_is_known_to() {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let mut known = known();
    let mut faults = vec![];
    for what in dandori_benches::ALL {
        let Some(now) = each(what) else {
            return eprintln!("NOT RUN: instructions are not counted without valgrind");
        };
        eprintln!("{profile} {what}: {now} instructions each");
        let before = known.insert((profile.to_owned(), what.to_owned()), now);
        match before {
            Some(before) if now * 100 > before * (100 + MAY_GROW) => {
                faults.push(format!("{what}: {now} instructions, {before} before"));
            }
            Some(_) => {}
            None => faults.push(format!("{what}: no number is known")),
        }
    }
    if std::env::var_os("UPDATE_INSTRUCTIONS").is_some() {
        let mut text =
            "# Instructions by callgrind: to compile a step, to run a project of 20, to evaluate an input.\n".to_owned();
        for ((profile, what), count) in &known {
            text += &format!("{profile} {what} {count}\n");
        }
        return std::fs::write(file(), text).unwrap();
    }
    assert!(faults.is_empty(), "{faults:#?}\nUPDATE_INSTRUCTIONS=1 accepts them");
}
