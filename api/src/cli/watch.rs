//! `watch` and `logs`: following a project that anybody executes.

use dandori::{
    Engine, ProjectHandle,
    run::{ProjectState, StepState},
    store::SessionRow,
};

use super::{
    args::Common,
    execute::print_result,
    exit::{Exit, Failure},
    progress::{Progress, follow},
    signals::interrupted,
    text::{clean, clock, one_line, program},
};

/// How often lines of logs are looked for.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(200);

pub(super) async fn watch(common: &Common, id: &str) -> Result<Exit, Failure> {
    let engine = common.connect().await?;
    let project = engine.find(id).await?;
    let row = project.row().await?;
    let steps: u32 = row.counts.values().sum();
    if row.state == ProjectState::Pending && !common.json {
        say_who_executes(common, &engine, &project).await?;
    }
    let followed = async {
        if common.json {
            let mut seen = 0;
            loop {
                let events = project.next_events(seen).await?;
                let Some(last) = events.last() else { return Ok::<_, Failure>(()) };
                seen = last.seq;
                for event in &events {
                    out!("{}", serde_json::to_string(event).unwrap_or_default());
                }
            }
        }
        let mut progress = Progress::new(u64::from(steps), 0);
        let result = follow(&project, &mut progress).await;
        progress.finish();
        result
    };
    tokio::select! {
        result = followed => result?,
        // Watching stops; the project goes on.
        signal = interrupted() => return Ok(Exit::Interrupted(signal)),
    }
    let view = project.outline().await?;
    if !common.json {
        print_result(common, &view);
    }
    Ok(Exit::of(view.state))
}

async fn say_who_executes(
    common: &Common,
    engine: &Engine,
    project: &ProjectHandle,
) -> Result<(), Failure> {
    let (program, id) = (program(), project.id());
    let live = |worker: &SessionRow| worker.state == "live" && worker.lease_left >= 0;
    if !common.is_server() {
        anstream::eprintln!(
            "not begun; `{program} resume {id}` executes it where nobody does"
        );
    } else if !engine.workers().await?.iter().any(live) {
        anstream::eprintln!(
            "not begun: no worker is alive; `{program} worker` starts one"
        );
    }
    Ok(())
}

pub(super) async fn logs(
    common: &Common,
    id: &str,
    step: Option<&str>,
    follow: bool,
) -> Result<Exit, Failure> {
    let engine = common.connect().await?;
    let project = engine.find(id).await?;
    let mut shown = 0;
    loop {
        let snapshot = project.snapshot().await?;
        let run = &snapshot.run;
        let no = match step {
            Some(name) => match run.find(name) {
                Some(no) => Some(no),
                // A child of a `for_each` may still come; nothing else does.
                None if follow
                    && name.contains('[')
                    && !snapshot.stored.row.state.is_terminal() =>
                {
                    tokio::select! {
                        () = tokio::time::sleep(LOOK_AGAIN) => continue,
                        signal = interrupted() => return Ok(Exit::Interrupted(signal)),
                    }
                }
                None => {
                    return Err(Failure::Own {
                        exit: Exit::NotFound,
                        code: "not_found",
                        message: format!("the project has no step `{name}`"),
                        help: "`dandori show` lists the steps".to_owned(),
                    });
                }
            },
            None => None,
        };
        let lines = project.logs(no).await?;
        for line in lines.iter().skip(shown) {
            let name = run.name(line.no);
            if common.json {
                let json = serde_json::json!({
                    "at": line.at, "step": name, "generation": line.generation,
                    "attempt": line.attempt, "line": line.line,
                });
                out!("{json}");
            } else {
                let text = clean(&line.line);
                out!("{} {}: {text}", clock(line.at), one_line(&name));
            }
        }
        shown = lines.len();
        let ended = match no {
            Some(no) => run.step_state(no).is_terminal(),
            None => snapshot.stored.row.state.is_terminal(),
        };
        if !follow || ended {
            if shown == 0 && !common.json {
                let running = run.count(StepState::Running) > 0;
                let hint = if running { "; `-f` waits for them" } else { "" };
                anstream::eprintln!("no lines{hint}");
            }
            return Ok(Exit::Succeeded);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            signal = interrupted() => return Ok(Exit::Interrupted(signal)),
        }
    }
}
