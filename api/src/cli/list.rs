//! `list`: projects, newest first.

use std::collections::BTreeMap;

use dandori::{
    Clock, ProjectId, Timestamp,
    run::ProjectState,
    store::{ListFilter, ProjectRow},
};

use serde::{Deserialize, Serialize};

use super::{
    args::{Common, List},
    exit::{Exit, Failure},
    server::Server,
    text::{ago, cut, one_line, print_data, table, took},
};

/// The most entries of a page of a server.
const MOST: u32 = 500;

pub(super) async fn list(common: &Common, args: &List) -> Result<Exit, Failure> {
    let mut filter =
        ListFilter { limit: args.limit.clamp(1, 10_000), ..ListFilter::default() };
    for state in &args.state {
        let Some(state) = ProjectState::parse(state) else {
            let all: Vec<&str> =
                ProjectState::ALL.iter().map(|state| state.as_str()).collect();
            let message = format!("there is no state `{state}`");
            return Err(Failure::usage(message, format!("one of {}", all.join(", "))));
        };
        filter.states.push(state);
    }
    let rows = match common.remote()? {
        Some(server) => listed_there(&server, &filter).await?,
        None => {
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
    let mut lines = vec![
        ["ID", "NAME", "STATE", "STEPS", "CREATED", "TOOK"].map(str::to_owned).to_vec(),
    ];
    for row in &rows {
        let all: u32 = row.counts.values().sum();
        let done = row.counts.get("succeeded").copied().unwrap_or(0);
        lines.push(vec![
            row.id.short(),
            cut(&one_line(&row.name), 40),
            row.state.to_string(),
            format!("{done}/{all}"),
            ago(row.created_at, now),
            took(row.started_at, row.finished_at),
        ]);
    }
    print_data(&table(&lines), false);
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

/// Reads the pages of a server until there are enough.
async fn listed_there(
    server: &Server,
    filter: &ListFilter,
) -> Result<Vec<Listed>, Failure> {
    #[derive(Deserialize)]
    struct Page {
        projects: Vec<Listed>,
        next: Option<String>,
    }
    let states: Vec<String> =
        filter.states.iter().map(|state| format!("state:{state}")).collect();
    let words = states.join(" ");
    let mut listed: Vec<Listed> = vec![];
    let mut cursor: Option<String> = None;
    loop {
        let wanted = filter.limit as usize - listed.len();
        let limit = wanted.min(MOST as usize).to_string();
        let mut query = vec![("q", words.as_str()), ("limit", &limit)];
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page: Page = server.get(&["projects"], &query).await?;
        listed.extend(page.projects);
        cursor = page.next;
        if cursor.is_none() || listed.len() >= filter.limit as usize {
            return Ok(listed);
        }
    }
}
