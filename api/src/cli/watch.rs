//! `watch` and `logs`: following a project that anybody executes.

use dandori::{ProjectHandle, run::ProjectState, store::SessionRow};

use super::{
    args::Common,
    execute::print_result,
    exit::{Exit, Failure},
    progress::{Progress, follow},
    server::Line,
    signals::interrupted,
    target::Target,
    text::{clean, clock, one_line, program},
};

/// How often lines of logs are looked for.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(200);
/// How often a server is asked for them.
const ASK_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

pub(super) async fn watch(common: &Common, id: &str) -> Result<Exit, Failure> {
    let target = common.target(id).await?;
    let before = target.view(false).await?;
    if let Target::Here(project) = &target
        && before.state == ProjectState::Pending
        && !common.json
    {
        say_who_executes(common, project).await?;
    }
    let steps: u32 = before.counts.values().sum();
    let followed = async {
        if common.json {
            let mut seen = 0;
            loop {
                let events = target.next_events(seen).await?;
                let Some(last) = events.last() else { return Ok::<_, Failure>(()) };
                seen = last.seq;
                for event in &events {
                    out!("{}", serde_json::to_string(event).unwrap_or_default());
                }
            }
        }
        let mut progress = Progress::new(u64::from(steps), 0);
        let result = follow(&target, &mut progress).await;
        progress.finish();
        result
    };
    tokio::select! {
        result = followed => result?,
        // Watching stops; the project goes on.
        signal = interrupted() => return Ok(Exit::Interrupted(signal)),
    }
    let view = target.view(false).await?;
    if !common.json {
        print_result(common, &view);
    }
    Ok(Exit::of(view.state))
}

async fn say_who_executes(
    common: &Common,
    project: &ProjectHandle,
) -> Result<(), Failure> {
    let (program, id) = (program(), project.id());
    let live = |worker: &SessionRow| worker.state == "live" && worker.lease_left >= 0;
    if !common.is_server() {
        anstream::eprintln!(
            "not begun; `{program} resume {id}` executes it where nobody does"
        );
    } else if !project.engine().workers().await?.iter().any(live) {
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
    let target = common.target(id).await?;
    let look_again = match &target {
        Target::Here(_) => LOOK_AGAIN,
        Target::There(_) => ASK_AGAIN,
    };
    let mut shown = 0;
    loop {
        match target.log(step).await? {
            Some(log) => {
                for line in log.lines.iter().skip(shown) {
                    print_line(common, line);
                }
                shown = log.lines.len();
                if !follow || log.ended {
                    if shown == 0 && !common.json {
                        let hint =
                            if log.running { "; `-f` waits for them" } else { "" };
                        anstream::eprintln!("no lines{hint}");
                    }
                    return Ok(Exit::Succeeded);
                }
            }
            // A child of a `for_each` may still come; nothing else does.
            None => {
                let name = step.unwrap_or_default();
                let may_come = follow && name.contains('[');
                if !may_come || target.state().await?.is_terminal() {
                    return Err(Failure::Own {
                        exit: Exit::NotFound,
                        code: "not_found",
                        message: format!("the project has no step `{name}`"),
                        help: "`dandori show` lists the steps".to_owned(),
                    });
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(look_again) => {}
            signal = interrupted() => return Ok(Exit::Interrupted(signal)),
        }
    }
}

fn print_line(common: &Common, line: &Line) {
    if common.json {
        out!("{}", serde_json::json!(line));
    } else {
        let text = clean(&line.line);
        out!("{} {}: {text}", clock(line.at), one_line(&line.step));
    }
}
