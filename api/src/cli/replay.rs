//! `replay`: chosen steps of an ended project once more, looked at before.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, IsTerminal as _},
    path::PathBuf,
};

use dandori::{Limits, Project, ReplayOptions, ReplayPlan, spec::format_duration};
use serde::Deserialize;
use serde_json::Value;

use super::{
    args::{Common, Execution},
    document,
    execute::{follow_to_end, say_recorded, wait_or_execute},
    exit::{Exit, Failure},
    server::{Server, Submission},
    target::Target,
    text::{one_line, print_data, table},
};

#[derive(Debug, clap::Args)]
pub(super) struct Replay {
    /// An id, the end of one, a name, or `last`.
    id: String,
    /// Only print what would run.
    #[arg(long)]
    plan: bool,
    /// Do not ask. Steps whose effect may happen twice are named by --repeat.
    #[arg(long)]
    yes: bool,
    /// This step and what depends on it; may be repeated.
    #[arg(long, value_name = "STEP")]
    from: Vec<String>,
    /// This step alone: what depends on it keeps what it has; may be repeated.
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// The steps of this kind and what depends on them; may be repeated.
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    /// The steps with this label and what depends on them; all labels must fit.
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// What failed, beside what else is chosen.
    #[arg(long)]
    failed: bool,
    /// Every step.
    #[arg(long)]
    all: bool,
    /// The input of a step from now on, as JSON; the step runs again.
    #[arg(long, value_name = "STEP=JSON")]
    input: Vec<String>,
    /// An input of the project from now on; steps that name it run again.
    #[arg(long, value_name = "NAME=JSON")]
    set: Vec<String>,
    /// The output of a step, as JSON; the step does not run.
    #[arg(long, value_name = "STEP=JSON")]
    pin: Vec<String>,
    /// How often a step is tried again from now on.
    #[arg(long, value_name = "STEP=N")]
    max_retries: Vec<String>,
    /// The hard time limit of a step from now on.
    #[arg(long, value_name = "STEP=DURATION")]
    timeout: Vec<String>,
    /// This step may run again although its effect may happen twice; may be repeated.
    #[arg(long, value_name = "STEP")]
    repeat: Vec<String>,
    /// Go on from the checkpoints inside steps, instead of from their beginning.
    #[arg(long)]
    keep_checkpoints: bool,
    /// Why, for the history.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Wait for the end; execute here when nobody else does.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    execution: Execution,
}

/// A plan, wherever it was made.
#[derive(Deserialize)]
struct Shown {
    digest: String,
    steps: Vec<Step>,
    warnings: Vec<Warning>,
    estimated_seconds: Option<f64>,
}

#[derive(Deserialize)]
struct Step {
    name: String,
    action: String,
    reason: String,
}

#[derive(Deserialize)]
struct Warning {
    step: String,
    message: String,
    needs_consent: bool,
}

/// The options of `fork`: those of `replay`, and a new document.
#[derive(Debug, clap::Args)]
pub(super) struct Fork {
    #[command(flatten)]
    replay: Replay,
    /// A new version of the document: steps that are the same keep what they have.
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
    /// A value of an input of the new document: `name=value`.
    #[arg(long, value_name = "NAME=VALUE")]
    with: Vec<String>,
}

pub(super) async fn fork(common: &Common, args: Fork) -> Result<Exit, Failure> {
    let document = match &args.document {
        Some(file) => Some(document::read(file, &args.with)?),
        None => None,
    };
    let mut options = options(&args.replay)?;
    if let Some(server) = common.remote()? {
        return fork_there(common, &server, &args, document, options).await;
    }
    let args = args.replay;
    let settings = args.execution.settings(common.file()?.as_deref());
    let builder = args.execution.equip(common.existing()?, &settings, "fork")?;
    let engine = builder.connect().await?;
    let base = engine.find(&args.id).await?;
    let mut plan = base.plan_fork(&options, document.as_ref()).await?;
    let json = serde_json::json!(plan);
    let shown: Shown = read(json.clone())?;
    if let Some(exit) = look(common, &args, &shown, &json, &mut options)? {
        return Ok(exit);
    }
    if !options.repeat.is_empty() {
        plan = base.plan_fork(&options, document.as_ref()).await?;
    }
    let fork = base.fork(plan).await?;
    if args.wait {
        return wait_or_execute(common, &args.execution, &fork, "fork --wait").await;
    }
    if common.json {
        print_counts(&fork.id().to_string(), &shown);
    } else {
        out!("{}", fork.id());
        say_recorded(common, &engine, &fork).await?;
    }
    Ok(Exit::Succeeded)
}

async fn fork_there(
    common: &Common,
    server: &Server,
    args: &Fork,
    document: Option<Project>,
    mut options: ReplayOptions,
) -> Result<Exit, Failure> {
    let base = server.find(&args.replay.id).await?;
    let mut request = match &document {
        None => serde_json::json!({}),
        Some(project) => {
            let (compiled, _) = project.compile(None)?;
            serde_json::json!(Submission {
                document: project.text().unwrap_or_default(),
                name: project.document().name.as_deref(),
                inputs: document::input_values(project, &args.with)?,
                files: &compiled.files,
            })
        }
    };
    request["options"] = serde_json::json!(options);
    let json: Value = base.send(&["fork", "plan"], &request).await?;
    let shown: Shown = read(json.clone())?;
    let asked = options.repeat.len();
    if let Some(exit) = look(common, &args.replay, &shown, &json, &mut options)? {
        return Ok(exit);
    }
    let mut digest = shown.digest.clone();
    if options.repeat.len() != asked {
        request["options"] = serde_json::json!(options);
        let json: Value = base.send(&["fork", "plan"], &request).await?;
        digest = read::<Shown>(json)?.digest;
    }
    request["digest"] = digest.into();
    let made: Value = base.send(&["fork"], &request).await?;
    let id = made["id"].as_str().unwrap_or_default().to_owned();
    if args.replay.wait {
        return follow_to_end(common, &Target::There(server.project(id))).await;
    }
    match common.json {
        true => print_counts(&id, &shown),
        false => out!("{id}"),
    }
    Ok(Exit::Succeeded)
}

pub(super) async fn replay(common: &Common, args: Replay) -> Result<Exit, Failure> {
    let mut options = options(&args)?;
    if let Some(server) = common.remote()? {
        return replay_there(common, &server, &args, options).await;
    }
    // With handlers, which know what may be repeated; nothing is executed here.
    let settings = args.execution.settings(common.file()?.as_deref());
    let builder = args.execution.equip(common.existing()?, &settings, "replay")?;
    let engine = builder.connect().await?;
    let project = engine.find(&args.id).await?;
    let mut plan: ReplayPlan = project.plan_replay_of(&options).await?;
    let json = serde_json::json!(plan);
    let shown: Shown = read(json.clone())?;
    if let Some(exit) = look(common, &args, &shown, &json, &mut options)? {
        return Ok(exit);
    }
    if !options.repeat.is_empty() {
        plan = project.plan_replay_of(&options).await?;
    }
    project.replay(plan).await?;
    if args.wait {
        return wait_or_execute(common, &args.execution, &project, "replay --wait")
            .await;
    }
    if common.json {
        print_counts(&project.id().to_string(), &shown);
    } else {
        say_recorded(common, &engine, &project).await?;
    }
    Ok(Exit::Succeeded)
}

async fn replay_there(
    common: &Common,
    server: &Server,
    args: &Replay,
    mut options: ReplayOptions,
) -> Result<Exit, Failure> {
    let remote = server.find(&args.id).await?;
    let json: Value = remote.send(&["replay", "plan"], &options).await?;
    let shown: Shown = read(json.clone())?;
    let asked = options.repeat.len();
    if let Some(exit) = look(common, args, &shown, &json, &mut options)? {
        return Ok(exit);
    }
    let mut digest = shown.digest.clone();
    if options.repeat.len() != asked {
        let json: Value = remote.send(&["replay", "plan"], &options).await?;
        digest = read::<Shown>(json)?.digest;
    }
    let mut request = serde_json::json!(options);
    request["digest"] = digest.into();
    let _: Value = remote.send(&["replay"], &request).await?;
    if args.wait {
        return follow_to_end(common, &Target::There(remote)).await;
    }
    if common.json {
        print_counts(&remote.id, &shown);
    }
    Ok(Exit::Succeeded)
}

fn read<T: serde::de::DeserializeOwned>(json: Value) -> Result<T, Failure> {
    serde_json::from_value(json).map_err(|error| Failure::Told {
        exit: Exit::Unreachable,
        code: "bad_answer".to_owned(),
        message: format!("the plan cannot be read: {error}"),
        help: "is the server of the same version?".to_owned(),
        found: vec![],
    })
}

/// Shows the plan and asks. On a terminal consent covers what needs it; elsewhere it is named.
fn look(
    common: &Common,
    args: &Replay,
    plan: &Shown,
    json: &Value,
    options: &mut ReplayOptions,
) -> Result<Option<Exit>, Failure> {
    if common.json && args.plan {
        out!("{json}");
        return Ok(Some(Exit::Succeeded));
    }
    if !common.json {
        show(args, plan);
    }
    if args.plan {
        return Ok(Some(Exit::Succeeded));
    }
    if !args.yes {
        if !confirmed()? {
            anstream::eprintln!("nothing was changed");
            return Ok(Some(Exit::Usage));
        }
        let needed = plan.warnings.iter().filter(|it| it.needs_consent);
        options.repeat.extend(needed.map(|it| it.step.clone()));
    }
    Ok(None)
}

fn show(args: &Replay, plan: &Shown) {
    let runs = |step: &&Step| step.action == "run";
    let rows: Vec<Vec<String>> = plan
        .steps
        .iter()
        .filter(runs)
        .map(|it| vec!["run".to_owned(), one_line(&it.name), it.reason.clone()])
        .collect();
    // The plan is what was asked for, or what the question is about.
    match args.plan {
        true => print_data(&table(&rows), false),
        false => anstream::eprint!("{}", table(&rows)),
    }
    for warning in &plan.warnings {
        let consent = match warning.needs_consent {
            true => format!(" (--repeat {})", one_line(&warning.step)),
            false => String::new(),
        };
        anstream::eprintln!("warning: {}{consent}", one_line(&warning.message));
    }
    let kept = plan.steps.iter().filter(|step| step.action == "reuse").count();
    let time = plan
        .estimated_seconds
        .and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok())
        .map(|time| std::time::Duration::from_secs(time.as_secs()))
        .filter(|time| !time.is_zero());
    let time = time.map(|time| format!(", about {}", format_duration(time)));
    anstream::eprintln!(
        "{} steps run again, {kept} are kept{}",
        plan.steps.iter().filter(runs).count(),
        time.unwrap_or_default()
    );
}

fn print_counts(id: &str, plan: &Shown) {
    let count =
        |action: &str| plan.steps.iter().filter(|it| it.action == action).count();
    let (run, reuse) = (count("run"), count("reuse"));
    out!("{}", serde_json::json!({ "id": id, "run": run, "reuse": reuse }));
}

fn options(args: &Replay) -> Result<ReplayOptions, Failure> {
    let mut limits: BTreeMap<String, Limits> = BTreeMap::new();
    for (step, text) in pairs("--max-retries", &args.max_retries)? {
        let retries = text.parse().map_err(|_| {
            Failure::usage(format!("`{text}` is no number"), "--max-retries STEP=3")
        })?;
        limits.entry(step).or_default().max_retries = Some(retries);
    }
    for (step, text) in pairs("--timeout", &args.timeout)? {
        limits.entry(step).or_default().timeout = Some(text);
    }
    Ok(ReplayOptions {
        failed: args.failed,
        all: args.all,
        from: args.from.clone(),
        only: args.only.clone(),
        kinds: args.kind.clone(),
        labels: pairs("--label", &args.label)?.into_iter().collect(),
        inputs: values("--input", &args.input)?,
        project_inputs: values("--set", &args.set)?,
        pins: values("--pin", &args.pin)?,
        limits,
        repeat: args.repeat.clone(),
        keep_checkpoints: args.keep_checkpoints,
        reason: args.reason.clone(),
    })
}

fn pairs(option: &str, given: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let split = |text: &String| {
        let pair = text.split_once('=');
        pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| {
            let message = format!("`{option} {text}` has no `=`");
            Failure::usage(message, format!("write {option} NAME=VALUE"))
        })
    };
    given.iter().map(split).collect()
}

/// Values as JSON; what is none is a text.
fn values(option: &str, given: &[String]) -> Result<BTreeMap<String, Value>, Failure> {
    let pairs = pairs(option, given)?.into_iter();
    Ok(pairs
        .map(|(name, text)| {
            let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
            (name, value)
        })
        .collect())
}

/// Asks on a terminal; elsewhere consent must be given by `--yes`.
fn confirmed() -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        let message = "a replay needs consent, and there is no terminal to ask on";
        return Err(Failure::usage(message, "add --yes"));
    }
    anstream::eprint!("run them? [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    Ok(read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes"))
}
