//! `history` and `checkpoints`: what became of a project before, and what a step has kept.

use dandori::{
    Clock,
    store::{Checkpoint, ForkLine, ReplayLine},
};
use serde::{Deserialize, Serialize};

use super::{
    args::Common,
    exit::{Exit, Failure},
    target::Target,
    text::{ago, cut, one_line, print_table},
};

/// So much of a value is shown; all of it is in the JSON.
const SHOWN: usize = 100;

/// The replays and the forks of a project.
#[derive(Serialize)]
struct History {
    replays: Vec<ReplayLine>,
    forks: Vec<ForkLine>,
}

/// Who replayed a project and why, what it is a fork of, and its own forks.
pub(super) async fn history(common: &Common, id: &str) -> Result<Exit, Failure> {
    let target = common.target(id).await?;
    let History { replays, forks } = read(&target).await?;
    if common.json {
        out!("{}", serde_json::json!(History { replays, forks }));
        return Ok(Exit::Succeeded);
    }
    if replays.is_empty() && forks.is_empty() {
        anstream::eprintln!("never replayed, and no fork");
        return Ok(Exit::Succeeded);
    }
    let this = target.id();
    let replays = replays.into_iter().map(|it| {
        let what = match it.detail.to_string() {
            nothing if nothing == "{}" => "replayed: what failed".to_owned(),
            detail => format!("replayed: {detail}"),
        };
        (it.at, it.who, it.reason, what)
    });
    let forks = forks.into_iter().map(|it| {
        let what = match it.project.to_string() == this {
            true => format!("made as a fork of {}", it.base),
            false => format!("forked as {}", it.project),
        };
        (it.at, it.who, it.reason, what)
    });
    let mut lines: Vec<_> = replays.chain(forks).collect();
    lines.sort_by_key(|(at, ..)| *at);
    let now = Clock::system().now();
    let rows = lines.into_iter().map(|(at, who, reason, what)| {
        let [who, what, reason] =
            [who, what, reason].map(|text| cut(&one_line(&text), SHOWN));
        [ago(at, now), who, what, reason]
    });
    print_table(["WHEN", "WHO", "WHAT", "WHY"], rows);
    Ok(Exit::Succeeded)
}

async fn read(target: &Target) -> Result<History, Failure> {
    #[derive(Deserialize)]
    struct Replays {
        replays: Vec<ReplayLine>,
    }
    #[derive(Deserialize)]
    struct Lineage {
        forks: Vec<ForkLine>,
    }
    Ok(match target {
        Target::Here(project) => History {
            replays: project.replays().await?,
            forks: project.lineage().await?,
        },
        Target::There(remote) => History {
            replays: remote.get::<Replays>(&["replays"], &[]).await?.replays,
            forks: remote.get::<Lineage>(&["lineage"], &[]).await?.forks,
        },
    })
}

/// What a step has kept inside itself, in its latest generation.
pub(super) async fn checkpoints(
    common: &Common,
    id: &str,
    step: &str,
) -> Result<Exit, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        checkpoints: Vec<Checkpoint>,
    }
    let kept = match common.target(id).await? {
        Target::Here(project) => project.checkpoints(step).await?,
        Target::There(remote) => {
            let path = ["steps", step, "checkpoints"];
            remote.get::<Answer>(&path, &[]).await?.checkpoints
        }
    };
    if common.json {
        for checkpoint in &kept {
            out!("{}", serde_json::to_string(checkpoint).unwrap_or_default());
        }
        return Ok(Exit::Succeeded);
    }
    if kept.is_empty() {
        anstream::eprintln!("it has kept nothing");
        return Ok(Exit::Succeeded);
    }
    let now = Clock::system().now();
    let rows = kept.iter().map(|it| {
        let value = cut(&one_line(it.value.get()), SHOWN);
        [cut(&one_line(&it.name), 40), ago(it.at, now), value]
    });
    print_table(["NAME", "KEPT", "VALUE"], rows);
    Ok(Exit::Succeeded)
}
