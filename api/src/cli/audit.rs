//! `audit`: who has changed what over HTTP.

use clap::Args;
use dandori::{Clock, Error, ProjectId, Timestamp, store::AuditLine};
use serde::{Deserialize, Serialize};

use super::{
    args::Common,
    exit::{Exit, Failure},
    text::{ago, cut, one_line, print_table},
};

#[derive(Debug, Args)]
pub(super) struct Audit {
    /// Only changes to this project: an id, the end of one, a name, or `last`.
    id: Option<String>,
    /// Only changes before this number.
    #[arg(long, value_name = "NUMBER")]
    before: Option<i64>,
    /// At most so many, up to 10,000.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

#[derive(Deserialize, Serialize)]
struct Change {
    seq: i64,
    at: Timestamp,
    who: String,
    what: String,
    project: Option<ProjectId>,
    detail: String,
    request: String,
}

impl From<AuditLine> for Change {
    fn from(line: AuditLine) -> Self {
        Self {
            seq: line.seq,
            at: line.at,
            who: line.author.who,
            what: line.what,
            project: line.project,
            detail: line.detail,
            request: line.author.request,
        }
    }
}

pub(super) async fn audit(common: &Common, args: &Audit) -> Result<Exit, Failure> {
    let project = match &args.id {
        Some(id) => Some(common.target(id).await?.id()),
        None => None,
    };
    let limit = args.limit;
    let changes = match common.remote()? {
        Some(server) => {
            let before = args.before.map(|before| before.to_string());
            let before = before.as_deref().map(|before| ("before", before));
            let project = project.as_deref().map(|project| ("project", project));
            let query: Vec<_> = before.into_iter().chain(project).collect();
            server.pages("audit", ("changes", "before"), &query, limit).await?
        }
        None => {
            let engine = common.connect().await?;
            let project = project.and_then(|id| id.parse().ok());
            let lines = engine.store().audit(args.before, project, limit).await;
            lines.map_err(Error::from)?.into_iter().map(Change::from).collect()
        }
    };
    if common.json {
        changes.iter().for_each(|change| out!("{}", serde_json::json!(change)));
        return Ok(Exit::Succeeded);
    }
    if changes.is_empty() {
        anstream::eprintln!("nothing was changed over HTTP");
        return Ok(Exit::Succeeded);
    }
    let now = Clock::system().now();
    let head = ["NUMBER", "WHEN", "WHO", "WHAT", "PROJECT", "DETAIL"];
    let rows = changes.iter().map(|it| {
        [
            it.seq.to_string(),
            ago(it.at, now),
            cut(&one_line(&it.who), 40),
            cut(&one_line(&it.what), 40),
            it.project.map(|id| id.short()).unwrap_or_default(),
            cut(&one_line(&it.detail), 60),
        ]
    });
    print_table(head, rows);
    Ok(Exit::Succeeded)
}
