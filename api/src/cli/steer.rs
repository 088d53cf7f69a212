//! `cancel` and `pause`: requests to whoever executes.

use dandori::Steered;

use super::{
    args::Common,
    exit::{Exit, Failure},
};

pub(super) async fn cancel(common: &Common, id: &str) -> Result<Exit, Failure> {
    let engine = common.connect().await?;
    let project = engine.find(id).await?;
    let steered = project.cancel().await?;
    report(common, &project, steered, "cancelled").await
}

pub(super) async fn pause(common: &Common, id: &str) -> Result<Exit, Failure> {
    let engine = common.connect().await?;
    let project = engine.find(id).await?;
    let steered = project.pause().await?;
    report(common, &project, steered, "paused").await
}

async fn report(
    common: &Common,
    project: &dandori::ProjectHandle,
    steered: Steered,
    what: &str,
) -> Result<Exit, Failure> {
    let row = project.row().await?;
    let applied = steered == Steered::Applied;
    if common.json {
        let json = serde_json::json!({
            "id": project.id(), "state": row.state, "applied": applied,
        });
        out!("{json}");
    } else if applied {
        anstream::eprintln!("{what}: {} is {}", project.id(), row.state);
    } else {
        anstream::eprintln!(
            "recorded: {} will be {what} by its executor",
            project.id()
        );
    }
    Ok(Exit::Succeeded)
}
