//! `list`: projects, newest first.

use dandori::{
    Clock, Engine,
    run::ProjectState,
    store::{ListFilter, ProjectRow},
};

use super::{
    args::{Common, List},
    exit::{Exit, Failure},
    text::{ago, cut, one_line, print_data, table, took},
};

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
    let engine: Engine = common.connect().await?;
    let rows = engine.list(&filter).await?;
    if common.json {
        for row in &rows {
            out!("{}", json(row));
        }
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
            took(row.began_at, row.finished_at),
        ]);
    }
    print_data(&table(&lines), false);
    Ok(Exit::Succeeded)
}

fn json(row: &ProjectRow) -> serde_json::Value {
    serde_json::json!({
        "id": row.id,
        "name": row.name,
        "state": row.state,
        "reason": row.reason,
        "created_at": row.created_at,
        "started_at": row.began_at,
        "finished_at": row.finished_at,
        "counts": row.counts,
    })
}
