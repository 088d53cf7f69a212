//! Requests to whoever executes, and why a step does not run.

use super::{
    args::Common,
    exit::{Exit, Failure},
    target::Request,
    text::one_line,
};

pub(super) async fn steer(
    common: &Common,
    id: &str,
    request: Request<'_>,
    what: &str,
) -> Result<Exit, Failure> {
    let target = common.target(id).await?;
    let applied = target.ask(request).await?;
    let (id, state) = (target.id(), target.state().await?);
    if common.json {
        out!("{}", serde_json::json!({ "id": id, "state": state, "applied": applied }));
    } else if applied {
        anstream::eprintln!("{what}: {id} is {state}");
    } else {
        anstream::eprintln!("recorded: {id} will be {what} by its executor");
    }
    Ok(Exit::Succeeded)
}

pub(super) async fn why(
    common: &Common,
    id: &str,
    step: &str,
) -> Result<Exit, Failure> {
    let why = common.target(id).await?.why(step).await?;
    if common.json {
        out!("{}", serde_json::json!(why));
        return Ok(Exit::Succeeded);
    }
    out!("{} is {}", one_line(&why.step), why.state);
    for reason in &why.reasons {
        out!("  {}: {}", reason.code, one_line(&reason.message));
        // One need is in the message.
        if reason.needs.len() > 1 {
            for need in &reason.needs {
                out!("    {}", one_line(need));
            }
        }
    }
    Ok(Exit::Succeeded)
}
