//! `replay` and `fork`: chosen steps of an ended project once more, looked at before.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, IsTerminal as _},
    path::PathBuf,
};

use dandori::{
    ForkPlan, Limits, Preview, Project, ProjectHandle, ReplayOptions, ReplayPlan,
    spec::format_duration,
};
use serde_json::{Value, json};

use super::{
    args::{Common, Execution},
    document,
    execute::{follow_to_end, say_recorded, wait_or_execute},
    exit::{Exit, Failure},
    server::{Remote, Submission},
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
    /// How long a step waits before it is tried again, from now on.
    #[arg(long, value_name = "STEP=DURATION")]
    retry_delay: Vec<String>,
    /// After which time an attempt of a step is told to stop, from now on.
    #[arg(long, value_name = "STEP=DURATION")]
    soft_timeout: Vec<String>,
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

/// The options of `fork`: those of `replay`, and a new document.
#[derive(Debug, clap::Args)]
pub(super) struct Fork {
    #[command(flatten)]
    replay: Replay,
    /// A new version of the document: steps that are the same keep what they have.
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
    /// A value of an input of the new document: `name=value`.
    #[arg(long, value_name = "NAME=VALUE", requires = "document")]
    with: Vec<String>,
}

pub(super) async fn replay(common: &Common, args: Replay) -> Result<Exit, Failure> {
    let base = base(common, &args, "replay").await?;
    Job { base, fork: None }.carry_out(common, &args).await
}

pub(super) async fn fork(common: &Common, args: Fork) -> Result<Exit, Failure> {
    let document = match &args.document {
        Some(file) => Some(document::read(file, &args.with)?),
        None => None,
    };
    let base = base(common, &args.replay, "fork").await?;
    let fork = Some(Forking { document, with: args.with });
    Job { base, fork }.carry_out(common, &args.replay).await
}

/// The project that is replayed or forked; with handlers, which know what may be repeated.
/// Nothing is executed here.
async fn base(common: &Common, args: &Replay, name: &str) -> Result<Target, Failure> {
    if let Some(server) = common.remote()? {
        return Ok(Target::There(server.find(&args.id).await?));
    }
    let settings = args.execution.settings(common.file()?.as_deref());
    let builder = args.execution.equip(common.existing()?, &settings, name)?;
    Ok(Target::Here(builder.connect().await?.find(&args.id).await?))
}

/// A replay or a fork, wherever the project is.
struct Job {
    base: Target,
    fork: Option<Forking>,
}

/// What a fork is made on.
struct Forking {
    document: Option<Project>,
    with: Vec<String>,
}

/// What would be done, and how.
struct Planned<'a> {
    preview: Preview,
    act: Act<'a>,
}

enum Act<'a> {
    Replay(&'a ProjectHandle, Box<ReplayPlan>),
    Fork(&'a ProjectHandle, Box<ForkPlan>),
    Ask { base: &'a Remote, what: &'static str, request: Value },
}

impl Job {
    async fn carry_out(self, common: &Common, args: &Replay) -> Result<Exit, Failure> {
        let mut options = options(args)?;
        let mut planned = self.plan(&options).await?;
        let named = options.repeat.len();
        if let Some(exit) = look(common, args, &planned.preview, &mut options)? {
            return Ok(exit);
        }
        if options.repeat.len() != named {
            let again = self.plan(&options).await?;
            // Consent is to what was looked at.
            if again.preview.steps != planned.preview.steps {
                return Err(Failure::Own {
                    exit: Exit::Usage,
                    code: "plan_changed",
                    message: "the project has changed while it was looked at"
                        .to_owned(),
                    help: "look at the plan again".to_owned(),
                });
            }
            planned = again;
        }
        let [run, reuse] = ["run", "reuse"].map(|action| planned.preview.count(action));
        let made = planned.act.apply().await?;
        if args.wait {
            return match &made {
                Target::Here(project) => {
                    let command = format!("{} --wait", self.name());
                    wait_or_execute(common, &args.execution, project, &command).await
                }
                Target::There(_) => follow_to_end(common, &made).await,
            };
        }
        let id = made.id();
        if common.json {
            out!("{}", json!({ "id": id, "run": run, "reuse": reuse }));
            return Ok(Exit::Succeeded);
        }
        if self.fork.is_some() {
            out!("{id}");
        }
        if let Target::Here(project) = &made {
            say_recorded(common, project).await?;
        }
        Ok(Exit::Succeeded)
    }

    fn name(&self) -> &'static str {
        if self.fork.is_some() { "fork" } else { "replay" }
    }

    async fn plan(&self, options: &ReplayOptions) -> Result<Planned<'_>, Failure> {
        let base = match &self.base {
            Target::Here(base) => base,
            Target::There(base) => return self.plan_there(base, options).await,
        };
        let (preview, act) = match &self.fork {
            None => {
                let plan = base.plan_replay_of(options).await?;
                (plan.preview.clone(), Act::Replay(base, Box::new(plan)))
            }
            Some(fork) => {
                let plan = base.plan_fork(options, fork.document.as_ref()).await?;
                (plan.preview.clone(), Act::Fork(base, Box::new(plan)))
            }
        };
        Ok(Planned { preview, act })
    }

    async fn plan_there<'a>(
        &self,
        base: &'a Remote,
        options: &ReplayOptions,
    ) -> Result<Planned<'a>, Failure> {
        let mut request = match &self.fork {
            None => json!(options),
            Some(fork) => fork.request(options)?,
        };
        let what = self.name();
        let preview: Preview = base.send(&[what, "plan"], &request).await?;
        request["digest"] = json!(preview.digest);
        Ok(Planned { preview, act: Act::Ask { base, what, request } })
    }
}

impl Act<'_> {
    /// Gives the project that was replayed, or the fork.
    async fn apply(self) -> Result<Target, Failure> {
        Ok(match self {
            Self::Replay(base, plan) => {
                base.replay(*plan).await?;
                Target::from(base)
            }
            Self::Fork(base, plan) => Target::from(&base.fork(*plan).await?),
            Self::Ask { base, what, request } => {
                let made: Made = base.send(&[what], &request).await?;
                Target::There(base.other(made.id))
            }
        })
    }
}

/// The project that a server replayed, or the fork.
#[derive(serde::Deserialize)]
struct Made {
    id: String,
}

impl Forking {
    /// What a server is asked.
    fn request(&self, options: &ReplayOptions) -> Result<Value, Failure> {
        let mut request = match &self.document {
            None => json!({}),
            Some(project) => json!(Submission::of(project, &self.with)?),
        };
        request["options"] = json!(options);
        Ok(request)
    }
}

/// Shows the plan and asks. On a terminal consent covers what needs it; elsewhere it is named.
fn look(
    common: &Common,
    args: &Replay,
    plan: &Preview,
    options: &mut ReplayOptions,
) -> Result<Option<Exit>, Failure> {
    if common.json && args.plan {
        out!("{}", json!(plan));
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
        options.repeat.extend(plan.unconsented());
    }
    Ok(None)
}

fn show(args: &Replay, plan: &Preview) {
    let runs = plan.steps.iter().filter(|step| step.action == "run");
    let rows: Vec<Vec<String>> = runs
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
    let (run, kept) = (plan.count("run"), plan.count("reuse"));
    let time = plan
        .estimated_seconds
        .and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok())
        .map(|time| std::time::Duration::from_secs(time.as_secs()))
        .filter(|time| !time.is_zero());
    let time = time.map(|time| format!(", about {}", format_duration(time)));
    let time = time.unwrap_or_default();
    anstream::eprintln!("{run} steps run again, {kept} are kept{time}");
}

fn options(args: &Replay) -> Result<ReplayOptions, Failure> {
    let mut limits: BTreeMap<String, Limits> = BTreeMap::new();
    for (step, text) in pairs("--max-retries", &args.max_retries)? {
        let retries = text.parse().map_err(|_| {
            Failure::usage(format!("`{text}` is no number"), "--max-retries STEP=3")
        })?;
        limits.entry(step).or_default().max_retries = Some(retries);
    }
    for (step, text) in pairs("--retry-delay", &args.retry_delay)? {
        limits.entry(step).or_default().retry_delay = Some(text);
    }
    for (step, text) in pairs("--soft-timeout", &args.soft_timeout)? {
        limits.entry(step).or_default().soft_timeout = Some(text);
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
