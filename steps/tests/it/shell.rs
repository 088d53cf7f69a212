//! `shell.run` with real processes.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use dandori::{Context, ErrorClass};
use dandori_steps::Settings;
use serde_json::{Value, json, value::to_raw_value};
use tokio::time::{sleep, timeout};

use crate::{fails, kind, run};

fn allowed() -> Settings {
    Settings::default().with_allow_shell(true)
}

/// Waits until a file holds a whole line, and reads its numbers.
async fn numbers(file: &Path) -> Vec<u32> {
    for _ in 0..500 {
        let text = fs::read_to_string(file).unwrap_or_default();
        if text.ends_with('\n') {
            return text
                .split_whitespace()
                .map(|number| number.parse().unwrap())
                .collect();
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("{} was not written", file.display());
}

/// Waits until a process is gone; one that nobody waited for yet is gone too.
async fn gone(pid: u32) -> bool {
    for _ in 0..300 {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state =
            state.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
        if matches!(state, None | Some('Z' | 'X')) {
            return true;
        }
        sleep(Duration::from_millis(10)).await;
    }
    false
}

#[tokio::test]
async fn a_shell_is_off_unless_the_worker_allows_it() {
    let off = Settings::default();
    let reason = kind(&off, "shell.run").refused().unwrap();
    assert_eq!(reason, "shell.run is off; start with --allow-shell");
    let failure = fails(&off, "shell.run", json!({ "argv": ["true"] })).await;
    assert_eq!(failure, ("refused".to_owned(), ErrorClass::Permanent));
    assert_eq!(kind(&allowed(), "shell.run").refused(), None);
}

#[tokio::test]
async fn a_program_has_its_arguments_input_folder_and_output() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("仕事")).unwrap();
    let settings = allowed().with_files_root(folder.path());
    let script = r#"pwd -P; cat; printf '%s\n' "$@" >&2"#;
    let with = json!({
        "argv": ["sh", "-c", script, "sh", "$(id); `id` *", "-x"],
        "stdin": "段取り\n",
        "cwd": "仕事",
    });
    let output = run(&settings, "shell.run", with).await.unwrap();
    let place = folder.path().canonicalize().unwrap().join("仕事");
    assert_eq!(
        output,
        json!({
            "exit_code": 0,
            "stdout": format!("{}\n段取り\n", place.display()),
            "stderr": "$(id); `id` *\n-x\n",
            "truncated": false,
        })
    );
    for cwd in ["..", "/", "missing"] {
        let with = json!({ "argv": ["true"], "cwd": cwd });
        assert!(matches!(
            fails(&settings, "shell.run", with).await.0.as_str(),
            "invalid_path" | "not_found"
        ));
    }
}

#[tokio::test]
async fn the_environment_holds_nothing_of_the_worker() {
    assert!(env::vars().any(|(name, _)| name.starts_with("CARGO")));
    let with = json!({ "argv": ["env"], "env": { "OWN": "1" } });
    let output = run(&allowed(), "shell.run", with).await.unwrap();
    let names = output["stdout"].as_str().unwrap().lines();
    let mut names: Vec<_> =
        names.filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.retain(|name| !["HOME", "LANG", "TMPDIR"].contains(name));
    names.sort_unstable();
    assert_eq!(names, ["DANDORI_ATTEMPT", "DANDORI_IDEMPOTENCY_KEY", "OWN", "PATH"]);
}

#[tokio::test]
async fn an_exit_status_is_a_reason_to_retry_unless_it_is_accepted() {
    let with = |ok: Value| {
        let script = "echo first >&2; echo last >&2; echo >&2; exit 3";
        json!({ "argv": ["sh", "-c", script], "ok_codes": ok })
    };
    let error = run(&allowed(), "shell.run", with(json!([0]))).await.unwrap_err();
    assert_eq!(
        (error.code.as_ref(), error.class),
        ("exit_status", ErrorClass::Retryable)
    );
    assert_eq!(error.message, "exit status 3: last");
    let output = run(&allowed(), "shell.run", with(json!([3]))).await.unwrap();
    assert_eq!(output["exit_code"], 3);
    let with = json!({ "argv": ["sh", "-c", "kill -9 $$"], "ok_codes": [137] });
    assert_eq!(run(&allowed(), "shell.run", with).await.unwrap()["exit_code"], 137);
    let failure =
        fails(&allowed(), "shell.run", json!({ "argv": ["/no/such/program"] })).await;
    assert_eq!(failure, ("spawn".to_owned(), ErrorClass::Permanent));
}

#[tokio::test]
async fn output_beyond_the_limit_is_read_and_dropped() {
    let script =
        "head -c 3000000 /dev/zero | tr '\\0' a; head -c 3000000 /dev/zero >&2";
    let with = json!({ "argv": ["sh", "-c", script], "stdin": "b".repeat(1_000_000) });
    let output =
        timeout(Duration::from_secs(20), run(&allowed(), "shell.run", with)).await;
    let output = output.unwrap().unwrap();
    assert_eq!(output["stdout"].as_str().unwrap().len(), 1024 * 1024);
    assert_eq!(output["truncated"], true);
}

#[tokio::test]
async fn bytes_that_are_not_text_are_replaced() {
    let with = json!({ "argv": ["printf", "a\\377b"] });
    assert_eq!(
        run(&allowed(), "shell.run", with).await.unwrap()["stdout"],
        "a\u{fffd}b"
    );
}

#[tokio::test]
async fn the_whole_group_dies_when_the_attempt_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let settings = allowed().with_files_root(folder.path());
    let script = "trap '' TERM; sleep 300 & echo $$ $! > pids; wait; sleep 300";
    let task = tokio::spawn(async move {
        run(&settings, "shell.run", json!({ "argv": ["sh", "-c", script] })).await
    });
    let pids = numbers(&folder.path().join("pids")).await;
    assert_eq!(pids.len(), 2);
    task.abort();
    for pid in pids {
        assert!(gone(pid).await, "{pid} is still there");
    }
}

#[tokio::test]
async fn a_child_that_is_told_to_stop_may_clean_up() {
    let folder = tempfile::tempdir().unwrap();
    let settings = allowed().with_files_root(folder.path());
    let script = "trap 'echo bye > bye; exit 0' TERM; echo $$ > pids; sleep 300 & wait";
    let ctx = Context::detached();
    let stop = ctx.cancellation().clone();
    let with = to_raw_value(&json!({ "argv": ["sh", "-c", script] })).unwrap();
    let task =
        tokio::spawn(async move { kind(&settings, "shell.run").run(ctx, &with).await });
    let pids = numbers(&folder.path().join("pids")).await;
    stop.cancel();
    let error = task.await.unwrap().unwrap_err();
    assert_eq!(error.class, ErrorClass::Cancelled);
    assert!(folder.path().join("bye").exists());
    assert!(gone(pids[0]).await);
}

#[tokio::test]
async fn a_child_that_does_not_stop_is_killed_after_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let settings = allowed()
        .with_files_root(folder.path())
        .with_kill_grace(Duration::from_millis(100));
    let script = "trap '' TERM; echo $$ > pids; while true; do sleep 1; done";
    let ctx = Context::detached();
    let stop = ctx.cancellation().clone();
    let with = to_raw_value(&json!({ "argv": ["sh", "-c", script] })).unwrap();
    let task =
        tokio::spawn(async move { kind(&settings, "shell.run").run(ctx, &with).await });
    let pids = numbers(&folder.path().join("pids")).await;
    stop.cancel();
    let ended = timeout(Duration::from_secs(3), task).await.unwrap().unwrap();
    assert_eq!(ended.unwrap_err().class, ErrorClass::Cancelled);
    assert!(gone(pids[0]).await);
}

#[tokio::test]
async fn helpers_left_behind_do_not_hold_up_the_step_and_are_ended() {
    let with = json!({ "argv": ["sh", "-c", "sleep 300 & echo $!"] });
    let output =
        timeout(Duration::from_secs(10), run(&allowed(), "shell.run", with)).await;
    let output = output.unwrap().unwrap();
    let pid = output["stdout"].as_str().unwrap().trim().parse().unwrap();
    assert!(gone(pid).await);
}

/// Runs itself as a worker in a process of its own, which is then killed outright.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_child_dies_with_a_killed_worker() {
    const FOLDER: &str = "DANDORI_TEST_WORKER_FOLDER";
    if let Some(folder) = env::var_os(FOLDER) {
        let settings = allowed().with_files_root(folder);
        let script = "echo $$ > pids; exec sleep 300";
        let with = json!({ "argv": ["sh", "-c", script] });
        let _ = run(&settings, "shell.run", with).await;
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Command::new(env::current_exe().unwrap())
        .args(["--exact", "shell::a_child_dies_with_a_killed_worker"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pids = numbers(&folder.path().join("pids")).await;
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert!(gone(pids[0]).await);
}

#[tokio::test]
async fn texts_that_no_program_can_be_given_are_refused() {
    let shell = kind(&allowed(), "shell.run");
    for with in [
        json!({ "argv": [] }),
        json!({ "argv": "ls -l" }),
        json!({ "argv": ["ls", 5] }),
        json!({ "argv": ["a\u{0}b"] }),
        json!({ "argv": ["ls"], "env": { "A": "b\u{0}c" } }),
    ] {
        assert!(shell.check(&with).is_err(), "{with}");
        assert_eq!(fails(&allowed(), "shell.run", with).await.0, "invalid_input");
    }
    let with = json!({ "argv": ["ls"], "env": { "A=B": "c" } });
    assert_eq!(fails(&allowed(), "shell.run", with).await.0, "invalid_input");
    assert!(shell.check(&json!({ "argv": ["ls"], "cwd": "../.." })).is_err());
}
