//! `replay`: the failed steps of an ended project once more, looked at before.

use std::io::{BufRead as _, IsTerminal as _};

use super::{
    args::{Common, Replay},
    execute::{say_recorded, wait_or_execute},
    exit::{Exit, Failure},
    text::{one_line, print_data, table},
};

pub(super) async fn replay(common: &Common, args: Replay) -> Result<Exit, Failure> {
    let engine = common.connect().await?;
    let project = engine.find(&args.id).await?;
    let plan = project.plan_replay().await?;
    let runs = plan.steps.iter().filter(|step| step.action == "run").count();
    let kept = plan.steps.iter().filter(|step| step.action == "reuse").count();
    if common.json && args.plan {
        let json = serde_json::json!({
            "digest": plan.digest, "steps": plan.steps, "warnings": [],
        });
        out!("{json}");
        return Ok(Exit::Succeeded);
    }
    if !common.json {
        let rows: Vec<Vec<String>> = plan
            .steps
            .iter()
            .filter(|step| step.action == "run")
            .map(|step| {
                vec!["run".to_owned(), one_line(&step.name), step.reason.clone()]
            })
            .collect();
        // The plan is what was asked for, or what the question is about.
        match args.plan {
            true => print_data(&table(&rows), false),
            false => anstream::eprint!("{}", table(&rows)),
        }
        anstream::eprintln!("{runs} steps run again, {kept} are kept");
    }
    if args.plan {
        return Ok(Exit::Succeeded);
    }
    if !args.yes && !confirmed()? {
        anstream::eprintln!("nothing was changed");
        return Ok(Exit::Usage);
    }
    project.replay(plan).await?;
    if args.wait {
        return wait_or_execute(common, &args.execution, &project, "replay --wait")
            .await;
    }
    if common.json {
        let json =
            serde_json::json!({ "id": project.id(), "run": runs, "reuse": kept });
        out!("{json}");
    } else {
        say_recorded(common, &engine, &project).await?;
    }
    Ok(Exit::Succeeded)
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
