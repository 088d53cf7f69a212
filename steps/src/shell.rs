//! `shell.run`: one program with its arguments, never a line for a shell to take apart.
//!
//! Owns the input, the environment of the child and the meaning of its exit. How
//! processes are started, drained and killed is in `process`.

mod lifeline;
mod process;

use std::{collections::BTreeMap, env, sync::Arc, time::Duration};

use async_trait::async_trait;
use dandori::{Context, Handler, Outcome, Parameter, StepError};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::process::Command;

use crate::{
    Settings,
    contract::{
        Contract, TEXT, TEXTS, has_expression, invalid, read_input, static_text,
    },
    file::{self, Root},
};

/// What a child sees of the worker's environment: enough to find programs and folders,
/// nothing that could be a key.
const INHERITED: [&str; 4] = ["PATH", "HOME", "LANG", "TMPDIR"];

/// What it gives.
const OUTPUT: &str = r#"{"type":"object",
    "required":["exit_code","stdout","stderr","truncated"],
    "properties":{
        "exit_code":{"type":"integer"},
        "stdout":{"type":"string"},
        "stderr":{"type":"string"},
        "truncated":{"type":"boolean"}}}"#;

/// Handler of `shell.run`.
#[derive(Debug)]
pub(crate) struct Run {
    contract: Contract,
    root: Arc<Root>,
    allowed: bool,
    grace: Duration,
}

impl Run {
    pub(crate) fn new(settings: &Settings, root: Arc<Root>) -> Self {
        let argv = r#"{"type":"array","minItems":1,"items":{"type":"string"}}"#;
        let contract = Contract::new([
            Parameter::required("argv", argv),
            Parameter::optional("env", TEXTS),
            Parameter::optional("stdin", TEXT),
            Parameter::optional("cwd", TEXT),
            Parameter::optional(
                "ok_codes",
                r#"{"type":"array","items":{"type":"integer"}}"#,
            ),
        ])
        .gives(OUTPUT);
        Self {
            contract,
            root,
            allowed: settings.allow_shell,
            grace: settings.kill_grace,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    argv: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    stdin: Option<String>,
    cwd: Option<String>,
    ok_codes: Option<Vec<i32>>,
}

#[async_trait]
impl Handler for Run {
    fn kind(&self) -> &'static str {
        "shell.run"
    }

    fn parameters(&self) -> Option<&[Parameter]> {
        Some(self.contract.parameters())
    }

    /// What a program does is not known.
    fn is_idempotent(&self, _with: &Value) -> bool {
        false
    }

    fn output_schema(&self) -> Option<&str> {
        Some(self.contract.output())
    }

    fn check(&self, with: &Value) -> Result<(), String> {
        self.contract.check(with)?;
        if with.get("argv").into_iter().chain(with.get("env")).any(has_nul) {
            return Err("`argv` and `env` cannot hold a NUL character".to_owned());
        }
        static_text(with, "cwd").map_or(Ok(()), |cwd| file::check_path(cwd).map(|_| ()))
    }

    fn stops_with_lease(&self) -> bool {
        true
    }

    fn refused(&self) -> Option<String> {
        (!self.allowed).then(|| "shell.run is off; start with --allow-shell".to_owned())
    }

    async fn run(&self, ctx: Context, input: &RawValue) -> Result<Outcome, StepError> {
        if let Some(reason) = self.refused() {
            return Err(StepError::fail("refused", reason));
        }
        let input: Input = read_input(input)?;
        let mut command = command_of(&ctx, &input)?;
        let root = Arc::clone(&self.root);
        let cwd = input.cwd.clone().unwrap_or_else(|| ".".to_owned());
        // The folder stays open until the child has entered it, so that it cannot be
        // exchanged for a symbolic link in between.
        let folder = file::blocking(move || root.folder(&cwd)).await?;
        command.current_dir(folder.path());
        let finished =
            process::run(command, input.stdin, self.grace, ctx.cancellation()).await?;
        drop(folder);
        let stderr = String::from_utf8_lossy(&finished.stderr.bytes);
        let accepted = input.ok_codes.as_deref().unwrap_or(&[0]);
        if !accepted.contains(&finished.exit_code) {
            let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
            let last =
                last.map(|line| format!(": {}", printable(&ctx.mask(line.to_owned()))));
            return Err(StepError::retry(
                "exit_status",
                format!(
                    "exit status {}{}",
                    finished.exit_code,
                    last.unwrap_or_default()
                ),
            ));
        }
        Outcome::done(&json!({
            "exit_code": finished.exit_code,
            "stdout": String::from_utf8_lossy(&finished.stdout.bytes),
            "stderr": stderr,
            "truncated": finished.stdout.truncated || finished.stderr.truncated,
        }))
    }
}

fn command_of(ctx: &Context, input: &Input) -> Result<Command, StepError> {
    check_texts(&input.argv, &input.env).map_err(invalid)?;
    let (program, arguments) = input.argv.split_first().ok_or_else(|| {
        invalid("`argv` is empty: its first entry is the program to run")
    })?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear();
    command
        .envs(INHERITED.iter().filter_map(|name| Some((name, env::var_os(name)?))))
        .envs(&input.env)
        .env("DANDORI_IDEMPOTENCY_KEY", ctx.idempotency_key())
        .env("DANDORI_ATTEMPT", ctx.attempt().to_string());
    Ok(command)
}

fn has_nul(value: &Value) -> bool {
    match value {
        _ if has_expression(value) => false,
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(entries) => {
            entries.iter().any(|(k, v)| k.contains('\0') || has_nul(v))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn check_texts(argv: &[String], env: &BTreeMap<String, String>) -> Result<(), String> {
    if argv.iter().any(|text| text.contains('\0')) {
        return Err("`argv` cannot hold a NUL character".to_owned());
    }
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(format!("`env` cannot hold the variable {name:?}"));
        }
    }
    Ok(())
}

/// Cuts a line of a program to one that is safe to show in a terminal.
fn printable(line: &str) -> String {
    line.trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(1000)
        .collect()
}
