//! `list`: projects, newest first.

use std::collections::BTreeMap;

use clap::Args;
use dandori::{
    Clock, ProjectId, Timestamp,
    run::ProjectState,
    store::{ListFilter, ProjectRow},
};
use serde::{Deserialize, Serialize};

use super::{
    args::Common,
    exit::{Exit, Failure},
    text::{ago, cut, one_line, print_table, took},
};
use crate::http::{filter, word};

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only projects in this state; may be repeated.
    #[arg(long)]
    state: Vec<String>,
    /// Only with this label, as NAME=VALUE; may be repeated, and all must be there.
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Only what was submitted so long ago or later, such as `24h`, or since a time.
    #[arg(long, value_name = "DURATION|TIME")]
    since: Option<String>,
    /// Only with a step of this kind.
    #[arg(long)]
    kind: Option<String>,
    /// Only with this name.
    #[arg(long)]
    name: Option<String>,
    /// At most so many, up to 10,000.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

impl List {
    /// The filter, as a server reads it.
    fn words(&self) -> Result<String, Failure> {
        for state in &self.state {
            if ProjectState::parse(state).is_none() {
                let all: Vec<&str> =
                    ProjectState::ALL.iter().map(|it| it.as_str()).collect();
                let message = format!("there is no state `{state}`");
                let help = format!("one of {}", all.join(", "));
                return Err(Failure::usage(message, help));
            }
        }
        let state = self.state.iter().map(|it| ("state", it));
        let label = self.label.iter().map(|it| ("label", it));
        let since = self.since.iter().map(|it| ("since", it));
        let kind = self.kind.iter().map(|it| ("kind", it));
        let name = self.name.iter().map(|it| ("name", it));
        let all = state.chain(label).chain(since).chain(kind).chain(name);
        let words: Vec<String> = all.map(|(key, value)| word(key, value)).collect();
        Ok(words.join(" "))
    }
}

pub(super) async fn list(common: &Common, args: &List) -> Result<Exit, Failure> {
    let limit = args.limit;
    let words = args.words()?;
    let rows = match common.remote()? {
        Some(server) => {
            let query = [("q", words.as_str())];
            server.pages("projects", ("projects", "cursor"), &query, limit).await?
        }
        None => {
            let now = Clock::system().now();
            let filter = filter(&words, now).map_err(|problem| {
                let (message, help) = problem.into_words();
                Failure::usage(message, help)
            })?;
            let filter = ListFilter { limit, ..filter };
            let rows = common.connect().await?.list(&filter).await?;
            rows.into_iter().map(Listed::from).collect()
        }
    };
    if common.json {
        rows.iter().for_each(|row| out!("{}", serde_json::json!(row)));
        return Ok(Exit::Succeeded);
    }
    if rows.is_empty() {
        anstream::eprintln!("no projects; `dandori run FILE` starts one");
        return Ok(Exit::Succeeded);
    }
    let now = Clock::system().now();
    let rows = rows.iter().map(|row| {
        let all: u32 = row.counts.values().sum();
        let done = row.counts.get("succeeded").copied().unwrap_or(0);
        [
            row.id.short(),
            cut(&one_line(&row.name), 40),
            row.state.to_string(),
            format!("{done}/{all}"),
            ago(row.created_at, now),
            took(row.started_at, row.finished_at),
        ]
    });
    print_table(["ID", "NAME", "STATE", "STEPS", "CREATED", "TOOK"], rows);
    Ok(Exit::Succeeded)
}

/// A project in a list.
#[derive(Deserialize, Serialize)]
struct Listed {
    id: ProjectId,
    name: String,
    state: ProjectState,
    reason: Option<String>,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    counts: BTreeMap<String, u32>,
}

impl From<ProjectRow> for Listed {
    fn from(row: ProjectRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            state: row.state,
            reason: row.reason,
            created_at: row.created_at,
            started_at: row.began_at,
            finished_at: row.finished_at,
            counts: row.counts,
        }
    }
}
