//! `demo`: a real project document, run against services that fail and stall.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use dandori::{
    Engine, ProjectHandle, ProjectView,
    run::{ProjectState, StepState},
    store::ListFilter,
};
use dandori_steps::Settings;

use super::{
    args::Common,
    execute::{Driven, begin, drive, print_result, stopped},
    exit::{Exit, Failure},
    text::{one_line, program, quote, took},
};
use crate::demo;

/// How many lines of a guide are shown at the end.
const SHOWN_LINES: usize = 18;

#[derive(Debug, ClapArgs)]
pub(super) struct Demo {
    /// Where guides and database go; run again after a kill, it continues there.
    #[arg(long, value_name = "DIR", default_value = "./dandori-demo")]
    out: PathBuf,
    /// A SearXNG service instead of the demo's own.
    #[arg(
        long,
        value_name = "URL",
        env = "DANDORI_SEARCH_URL",
        hide_env_values = true
    )]
    search_url: Option<String>,
    /// An OpenAI-compatible service instead of the demo's own.
    #[arg(long, value_name = "URL", env = "DANDORI_LLM_URL", hide_env_values = true)]
    llm_url: Option<String>,
    /// How many crashes of its worker quarantine a step.
    #[arg(long, value_name = "N", default_value_t = dandori::DEFAULT_CRASH_LIMIT)]
    crash_limit: u32,
    /// Which trouble the demo's own services make.
    #[arg(long, hide = true, default_value_t = demo::SEED)]
    seed: u64,
    /// A file to which the demo's own services write every request they get.
    #[arg(long, hide = true, value_name = "FILE")]
    witness: Option<PathBuf>,
}

pub(super) async fn demo(common: &Common, args: Demo) -> Result<Exit, Failure> {
    let folder = &args.out;
    std::fs::create_dir_all(folder)
        .map_err(|error| cannot(&folder.display(), &error))?;
    let database = folder.join("dandori.db");
    let settings = services(&args).await?;
    let engine = Engine::builder()
        .sqlite(&database)
        .handlers(
            dandori_steps::kinds(&settings)
                .map_err(|error| cannot(&"settings", &error))?,
        )
        .crash_limit(args.crash_limit.max(1))
        .command("dandori demo")
        .only_own()
        .start()
        .await?;
    let common =
        Common { url: format!("sqlite:{}", database.display()), ..common.clone() };
    let project = match unfinished(&engine).await? {
        Some(project) => {
            let row = project.row().await?;
            let all: u32 = row.counts.values().sum();
            let done = row.counts.get("succeeded").copied().unwrap_or(0);
            anstream::eprintln!(
                "continuing {}: {done} of {all} steps are recorded and stay so",
                project.id()
            );
            engine.execute(project.id()).await?;
            project
        }
        None => submit(&engine, &args).await?,
    };
    let mut progress = begin(&project).await?;
    if project.row().await?.state == ProjectState::Paused {
        project.resume().await?;
    }
    progress.seen = project.row().await?.last_event;
    let progress =
        progress.with_words(if is_own(&args) { demo::words() } else { vec![] });
    let mut again =
        format!("{} demo --out {}", program(), quote(&folder.display().to_string()));
    for (option, url) in [("search-url", &args.search_url), ("llm-url", &args.llm_url)]
    {
        if let Some(url) = url {
            again.push_str(&format!(" --{option} {}", quote(url)));
        }
    }
    if args.crash_limit != dandori::DEFAULT_CRASH_LIMIT {
        again.push_str(&format!(" --crash-limit {}", args.crash_limit));
    }
    match drive(&engine, std::slice::from_ref(&project), progress, None).await? {
        Driven::Stopped(exit) => stopped(&[project], exit, |_| again.clone()).await,
        Driven::Ended => {
            engine.shutdown().await;
            let view = project.view().await?;
            if common.json {
                print_result(&common, &view);
            } else {
                summary(&common, folder, &view);
            }
            Ok(Exit::of(view.state))
        }
    }
}

fn is_own(args: &Demo) -> bool {
    args.search_url.is_none() && args.llm_url.is_none()
}

fn cannot(what: &dyn std::fmt::Display, error: &dyn std::fmt::Display) -> Failure {
    Failure::Own {
        exit: Exit::Unreachable,
        code: "demo",
        message: format!("{what}: {error}"),
        help: "name a folder that can be written with --out".to_owned(),
    }
}

/// The settings of the kinds: real services where they are named, else the demo's own.
async fn services(args: &Demo) -> Result<Settings, Failure> {
    let mut settings = Settings::from_env()
        .with_files_root(&args.out)
        .with_protected_database(args.out.join("dandori.db"));
    if args.search_url.is_some() && args.llm_url.is_some() {
        let provider =
            settings.search_provider.clone().unwrap_or_else(|| "searxng".to_owned());
        settings = settings.with_search(provider, args.search_url.clone());
        let model = settings.llm_model.clone();
        let url = args.llm_url.clone().unwrap_or_default();
        return Ok(settings.with_llm(url, model));
    }
    let address = demo::services(args.seed, args.witness.as_deref())
        .await
        .map_err(|error| cannot(&"the services of the demo", &error))?;
    let (provider, search) = match &args.search_url {
        Some(url) => (settings.search_provider.clone(), url.clone()),
        None => (None, format!("http://{address}/search")),
    };
    let provider = provider.unwrap_or_else(|| "searxng".to_owned());
    let (model, llm) = match &args.llm_url {
        Some(url) => (settings.llm_model.clone(), url.clone()),
        None => (Some("demo-writer".to_owned()), format!("http://{address}/v1")),
    };
    Ok(settings.with_search(provider, Some(search)).with_llm(llm, model))
}

/// The project that an earlier demo in this folder left unfinished.
async fn unfinished(engine: &Engine) -> Result<Option<ProjectHandle>, Failure> {
    let states =
        vec![ProjectState::Pending, ProjectState::Running, ProjectState::Paused];
    let filter = ListFilter { states, limit: 1, ..ListFilter::default() };
    let rows = engine.list(&filter).await?;
    Ok(rows.first().map(|row| engine.project(row.id)))
}

async fn submit(engine: &Engine, args: &Demo) -> Result<ProjectHandle, Failure> {
    let mut project = demo::project()?;
    if is_own(args) {
        demo::shorten(project.document_mut());
    }
    let handle = engine.submit(project).await?;
    anstream::eprintln!("project {}", handle.id());
    if is_own(args) {
        anstream::eprintln!(
            "The document is examples/hands-on/project.yaml; search and model are"
        );
        anstream::eprintln!(
            "services of this process that fail and stall now and then."
        );
        anstream::eprintln!(
            "Kill it at any moment and run it again: it goes on where it was."
        );
    }
    Ok(handle)
}

fn summary(common: &Common, folder: &Path, view: &ProjectView) {
    let time = took(view.started_at, view.finished_at);
    let counts: Vec<String> =
        view.counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    out!("{}: {} in {time} ({})", one_line(&view.name), view.state, counts.join(", "));
    for step in view.steps.iter().filter(|step| step.state == StepState::Failed) {
        let error = step.error.as_ref().map(ToString::to_string).unwrap_or_default();
        out!(
            "  {} failed after {} attempts, which its task allows: {}",
            one_line(&step.name),
            step.attempts,
            one_line(&error)
        );
    }
    let guides: Vec<String> = view
        .steps
        .iter()
        .filter(|step| step.kind == "file.write")
        .filter_map(|step| output(step, "/path")?.as_str().map(str::to_owned))
        .collect();
    let tokens = |place: &str| -> u64 {
        view.steps.iter().filter_map(|step| output(step, place)?.as_u64()).sum()
    };
    out!("{} guides in {}", guides.len(), folder.display());
    out!(
        "{} tokens read and {} written by the model",
        tokens("/usage/input_tokens"),
        tokens("/usage/output_tokens")
    );
    if let Some(guide) = guides.first() {
        let path = folder.join(guide);
        out!("\n{}:", path.display());
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        for line in text.lines().take(SHOWN_LINES) {
            out!("  {line}");
        }
    }
    let (dandori, url) = (program(), quote(&common.url));
    out!("\nNext:");
    out!("  {dandori} show last --attempts --database-url {url}");
    out!("  {dandori} graph last --format svg --database-url {url} > graph.svg");
    out!("  {dandori} validate examples/hands-on/project.yaml");
}

fn output(step: &dandori::StepDetails, place: &str) -> Option<serde_json::Value> {
    let value: serde_json::Value =
        serde_json::from_str(step.output.as_ref()?.get()).ok()?;
    value.pointer(place).cloned()
}
