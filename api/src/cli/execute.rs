//! Commands that execute: `run`, `resume`, `submit`.

use std::time::Duration;

use dandori::{Engine, Error, ProjectHandle, ProjectView, run::ProjectState};

use super::{
    args::{Common, Execution, Resume, Run, Submit},
    document,
    exit::{Exit, Failure},
    progress::{Progress, follow},
    server::{Server, Submission},
    show,
    signals::interrupted,
    steer::steer,
    target::{Request, Target},
    text::{program, took},
};

/// How long dropping what runs may take.
const LAST_MOMENT: Duration = Duration::from_millis(500);
/// How often it is tried whether the other executor has ended.
const TRY_AGAIN: Duration = Duration::from_millis(500);

pub(super) async fn run(common: &Common, args: Run) -> Result<Exit, Failure> {
    let project = document::read(&args.file, &args.input)?;
    let kinds = document::all_kinds();
    // Before the database is touched: a broken document leaves no trace.
    project.compile(Some(&kinds))?;
    let builder = common.builder()?.only_own();
    let settings = args.execution.settings(common.file()?.as_deref());
    let engine = args.execution.equip(builder, &settings, "run")?.start().await?;
    let handle = match engine.submit(project).await {
        Ok(handle) => handle,
        Err(error) => {
            engine.shutdown().await;
            return Err(error.into());
        }
    };
    let progress = begin(&handle).await?;
    if !common.json {
        progress.say(&format!("project {}", handle.id()));
    }
    finish(common, &args.execution, &engine, &[handle], progress, args.timeout).await
}

pub(super) async fn resume(common: &Common, args: Resume) -> Result<Exit, Failure> {
    if common.server.is_some() {
        let Some(id) = &args.id else {
            let help = "a server executes what is recorded; `resume ID` ends a pause";
            return Err(Failure::usage("a server is told which project", help));
        };
        return steer(common, id, Request::Resume, "going on").await;
    }
    let settings = args.execution.settings(common.file()?.as_deref());
    let builder = || {
        let builder = common.existing()?;
        let builder = if args.id.is_some() { builder.only_own() } else { builder };
        args.execution.equip(builder, &settings, "resume")
    };
    // Looked at before anything is executed: what is not allowed here starts nowhere.
    let reader = builder()?.connect().await?;
    let found = match &args.id {
        Some(id) => vec![reader.find(id).await?],
        None => reader.open_projects().await?,
    };
    for project in &found {
        if !project.row().await?.state.is_terminal() {
            reader.check_project(project.id()).await?;
        }
    }
    let engine = match builder()?.start().await {
        Ok(engine) => engine,
        // Whoever executes goes on with it once the pause ends; if it is not theirs to
        // execute, it is done here as soon as they have ended.
        Err(Error::Locked(_)) if args.id.is_some() && is_paused(&found).await? => {
            found[0].resume().await?;
            return wait_or_execute(common, &args.execution, &found[0], "resume").await;
        }
        Err(error) => return Err(error.into()),
    };
    let projects: Vec<ProjectHandle> =
        found.iter().map(|project| engine.project(project.id())).collect();
    if projects.is_empty() {
        anstream::eprintln!("nothing to resume: every project has ended");
        engine.shutdown().await;
        return Ok(Exit::Succeeded);
    }
    for project in &projects {
        let row = project.row().await?;
        if !row.state.is_terminal() {
            engine.execute(project.id()).await?;
        }
        // A pause that nobody has applied yet is applied first, and ends here as well.
        if project.settled_state().await? == ProjectState::Paused {
            project.resume().await?;
        }
    }
    let progress = begin(&projects[0]).await?;
    for project in &projects {
        let row = project.row().await?;
        progress.say(&format!("resuming {} ({})", project.id(), row.name));
    }
    finish(common, &args.execution, &engine, &projects, progress, None).await
}

async fn is_paused(projects: &[ProjectHandle]) -> Result<bool, Failure> {
    let row = projects[0].row().await?;
    Ok(row.state == ProjectState::Paused)
}

pub(super) async fn submit(common: &Common, args: Submit) -> Result<Exit, Failure> {
    if let Some(server) = common.remote()? {
        return submit_to(common, &server, &args).await;
    }
    let project = document::read(&args.file, &args.input)?;
    let kinds = document::all_kinds();
    let (compiled, _) = project.compile(Some(&kinds))?;
    if !args.wait {
        let engine = common.builder()?.connect().await?;
        let handle = engine.submit_compiled(compiled).await?;
        let row = handle.row().await?;
        if common.json {
            let view = serde_json::json!({
                "id": handle.id(), "name": row.name, "state": row.state,
            });
            out!("{view}");
        } else {
            out!("{}", handle.id());
            say_recorded(common, &handle).await?;
        }
        return Ok(Exit::Succeeded);
    }
    let settings = args.execution.settings(common.file()?.as_deref());
    let builder =
        args.execution.equip(common.builder()?, &settings, "submit --wait")?;
    let engine = builder.connect().await?;
    // Before it is recorded: what is not allowed here would be executed nowhere.
    engine.check_allowed(&compiled.plan)?;
    let handle = engine.submit_compiled(compiled).await?;
    if !common.json {
        anstream::eprintln!("project {}", handle.id());
    }
    wait_or_execute(common, &args.execution, &handle, "submit --wait").await
}

/// Submits to a server, which has kinds of its own: only the document itself is checked
/// here, and the files that it names are sent along.
async fn submit_to(
    common: &Common,
    server: &Server,
    args: &Submit,
) -> Result<Exit, Failure> {
    let project = document::read(&args.file, &args.input)?;
    let submission = Submission::of(&project, &args.input)?;
    let view: ProjectView = server.send(&["projects"], &submission).await?;
    let target = Target::There(server.project(view.id.to_string()));
    if !args.wait {
        if common.json {
            let view = serde_json::json!({
                "id": view.id, "name": view.name, "state": view.state,
            });
            out!("{view}");
        } else {
            out!("{}", view.id);
        }
        return Ok(Exit::Succeeded);
    }
    if !common.json {
        anstream::eprintln!("project {}", view.id);
    }
    follow_to_end(common, &target).await
}

/// Follows a project that a server executes, and prints its result.
pub(super) async fn follow_to_end(
    common: &Common,
    target: &Target,
) -> Result<Exit, Failure> {
    let steps: u32 = target.view(false).await?.counts.values().sum();
    let mut progress = Progress::new(u64::from(steps), 0);
    let followed = tokio::select! {
        result = follow(target, &mut progress) => result.map(|()| None),
        signal = interrupted() => Ok(Some(Exit::Interrupted(signal))),
    };
    progress.finish();
    if let Some(exit) = followed? {
        // The server goes on.
        return Ok(exit);
    }
    let view = target.view(common.json).await?;
    print_result(common, &view);
    Ok(Exit::of(view.state))
}

/// Who executes what was recorded, or how.
pub(super) async fn say_recorded(
    common: &Common,
    project: &ProjectHandle,
) -> Result<(), Failure> {
    let workers = project.engine().workers().await?;
    let live = workers.iter().filter(|worker| worker.state == "live").count();
    let (program, url) = (program(), common.database_words());
    if common.is_server() && live > 0 {
        let s = if live == 1 { "" } else { "s" };
        anstream::eprintln!("recorded; {live} worker{s} on this database execute it");
    } else if common.is_server() {
        anstream::eprintln!("recorded; this executes it:\n  {program} worker {url}");
    } else {
        let id = project.id();
        anstream::eprintln!(
            "recorded; this executes it:\n  {program} resume {id} {url}"
        );
    }
    Ok(())
}

/// Waits for a project; executes it here when nobody else executes on the database.
pub(super) async fn wait_or_execute(
    common: &Common,
    execution: &Execution,
    project: &ProjectHandle,
    command: &str,
) -> Result<Exit, Failure> {
    let settings = execution.settings(common.file()?.as_deref());
    let mut progress = begin(project).await?;
    let target = Target::from(project);
    loop {
        let builder = common.existing()?.only_own();
        match execution.equip(builder, &settings, command)?.start().await {
            Ok(engine) => {
                let handle = engine.project(project.id());
                if !handle.row().await?.state.is_terminal() {
                    engine.execute(handle.id()).await?;
                }
                return finish(common, execution, &engine, &[handle], progress, None)
                    .await;
            }
            // Somebody executes; perhaps this project, perhaps only another.
            Err(Error::Locked(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = tokio::select! {
            result = follow(&target, &mut progress) => { result?; true }
            () = tokio::time::sleep(TRY_AGAIN) => false,
            signal = interrupted() => {
                progress.finish();
                return Ok(Exit::Interrupted(signal));
            }
        };
        if ended {
            progress.finish();
            let view = result(common, project).await?;
            print_result(common, &view);
            return Ok(Exit::of(view.state));
        }
    }
}

pub(super) async fn begin(project: &ProjectHandle) -> Result<Progress, Failure> {
    let row = project.row().await?;
    let steps: u32 = row.counts.values().sum();
    let progress = Progress::new(u64::from(steps), row.last_event.min(1));
    Ok(progress)
}

/// How following projects ended.
pub(super) enum Driven {
    /// They all ended.
    Ended,
    /// A signal or a time limit came first; the engine has shut down.
    Stopped(Exit),
}

/// Follows projects to their end, or to a signal or time limit.
pub(super) async fn drive(
    engine: &Engine,
    projects: &[ProjectHandle],
    mut progress: Progress,
    timeout: Option<Duration>,
) -> Result<Driven, Failure> {
    let followed = async {
        for project in projects {
            if projects.len() > 1 {
                progress.seen = 0;
            }
            follow(&project.into(), &mut progress).await?;
        }
        Ok::<_, Failure>(())
    };
    let time_up = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    // Only reads are dropped here: what is recorded is recorded by the engine's tasks.
    let stopped = tokio::select! {
        result = followed => { result?; None }
        signal = interrupted() => Some(Exit::Interrupted(signal)),
        () = time_up => Some(Exit::TimedOut),
    };
    progress.finish();
    if let Some(exit) = stopped {
        if matches!(exit, Exit::Interrupted(_)) {
            anstream::eprintln!(
                "stopping: running steps may finish; again to stop at once"
            );
        }
        shut_down(engine).await;
        return Ok(Driven::Stopped(exit));
    }
    Ok(Driven::Ended)
}

/// Lets what runs finish; a second signal drops it, and child processes with it.
pub(super) async fn shut_down(engine: &Engine) {
    tokio::select! {
        () = engine.shutdown() => {}
        _ = interrupted() => {
            let _ = tokio::time::timeout(LAST_MOMENT, engine.abort()).await;
        }
    }
}

/// Follows projects and prints their results, or how to go on.
async fn finish(
    common: &Common,
    execution: &Execution,
    engine: &Engine,
    projects: &[ProjectHandle],
    progress: Progress,
    timeout: Option<Duration>,
) -> Result<Exit, Failure> {
    match drive(engine, projects, progress, timeout).await? {
        Driven::Ended => {}
        Driven::Stopped(exit) => {
            let resume = |project: &ProjectHandle| {
                let (url, words) = (common.database_words(), execution.words());
                let (program, id) = (program(), project.id());
                format!("{program} resume {id} {url}{words}")
            };
            return stopped(projects, exit, resume).await;
        }
    }
    engine.shutdown().await;
    let mut exit = Exit::Succeeded;
    for project in projects {
        let view = result(common, project).await?;
        print_result(common, &view);
        let own = Exit::of(view.state);
        if exit == Exit::Succeeded || own == Exit::Failed {
            exit = own;
        }
    }
    Ok(exit)
}

/// Interrupted or out of time: everything recorded is kept, and this is how to go on.
pub(super) async fn stopped(
    projects: &[ProjectHandle],
    exit: Exit,
    resume: impl Fn(&ProjectHandle) -> String,
) -> Result<Exit, Failure> {
    for project in projects {
        let row = project.row().await?;
        if row.state.is_terminal() {
            continue;
        }
        let done = row.counts.get("succeeded").copied().unwrap_or(0);
        let all: u32 = row.counts.values().sum();
        anstream::eprintln!("{done} of {all} steps are recorded; go on with:");
        anstream::eprintln!("  {}", resume(project));
    }
    if exit == Exit::TimedOut {
        return Err(Failure::Own {
            exit,
            code: "timed_out",
            message: "the time of --timeout is up".to_owned(),
            help: "everything recorded is kept; the line above goes on".to_owned(),
        });
    }
    Ok(exit)
}

/// A project to be printed: outputs of steps are read only where they are shown.
pub(super) async fn result(
    common: &Common,
    project: &ProjectHandle,
) -> Result<ProjectView, Failure> {
    Ok(if common.json { project.view().await? } else { project.outline().await? })
}

/// The result of a project: its JSON, or its output and a line on stderr.
pub(super) fn print_result(common: &Common, view: &ProjectView) {
    if common.json {
        out!("{}", serde_json::to_string(view).unwrap_or_default());
        return;
    }
    if view.state != ProjectState::Succeeded {
        show::print_failures(view);
    }
    if let Some(output) = &view.output {
        let pretty = serde_json::from_str::<serde_json::Value>(output.get())
            .and_then(|value| serde_json::to_string_pretty(&value));
        out!("{}", pretty.unwrap_or_else(|_| output.get().to_owned()));
    }
    let counts: Vec<String> =
        view.counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let time = took(view.started_at, view.finished_at);
    let name = super::text::one_line(&view.name);
    anstream::eprintln!("{name}: {} in {time} ({})", view.state, counts.join(", "));
}
