//! `kinds`: what the tasks of a document may be.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    args::Common,
    document::all_kinds,
    exit::{Exit, Failure},
    server::bad_answer,
    text::{clean, cut, one_line, print_table},
};
use crate::http::kinds_json;

#[derive(Deserialize, Serialize)]
struct Kind {
    name: String,
    here: bool,
    workers: u32,
    input: Option<Value>,
    output: Option<Value>,
    pure: Option<bool>,
}

#[derive(Deserialize)]
struct Answer {
    kinds: Vec<Kind>,
}

/// The kinds of a server, or of this program, and of the workers on the database.
pub(super) async fn kinds(
    common: &Common,
    wanted: Option<&str>,
) -> Result<Exit, Failure> {
    let Answer { mut kinds } = match common.remote()? {
        Some(server) => server.get(&["kinds"], &[]).await?,
        None => {
            // There are kinds before there is a database.
            let workers = match common.file()? {
                Some(path) if !path.exists() => vec![],
                _ => common.connect().await?.workers().await?,
            };
            let answer = kinds_json(&all_kinds(), &workers);
            serde_json::from_value(answer).map_err(bad_answer)?
        }
    };
    if let Some(wanted) = wanted {
        kinds.retain(|kind| kind.name == wanted);
        if kinds.is_empty() {
            return Err(Failure::Own {
                exit: Exit::NotFound,
                code: "not_found",
                message: format!("there is no kind `{}`", one_line(wanted)),
                help: "`dandori kinds` lists them".to_owned(),
            });
        }
    }
    if common.json {
        kinds.iter().for_each(|kind| out!("{}", serde_json::json!(kind)));
        return Ok(Exit::Succeeded);
    }
    if wanted.is_some() {
        kinds.iter().for_each(show);
        return Ok(Exit::Succeeded);
    }
    let rows = kinds.iter().map(|kind| {
        [
            cut(&one_line(&kind.name), 40),
            cut(&one_line(&parameters(kind)), 70),
            if kind.pure == Some(true) { "yes".to_owned() } else { String::new() },
            kind.workers.to_string(),
        ]
    });
    print_table(["KIND", "INPUT", "PURE", "WORKERS"], rows);
    Ok(Exit::Succeeded)
}

/// The names of the parameters; those that may be left out have a question mark.
fn parameters(kind: &Kind) -> String {
    let Some(input) = &kind.input else { return String::new() };
    let required = input["required"].as_array();
    let is_required =
        |name: &String| required.is_some_and(|it| it.iter().any(|it| it == name));
    let names = input["properties"].as_object().into_iter().flat_map(|it| it.keys());
    let names = names.map(|name| match is_required(name) {
        true => name.clone(),
        false => format!("{name}?"),
    });
    names.collect::<Vec<_>>().join(" ")
}

fn show(kind: &Kind) {
    let pretty =
        |value: &Value| clean(&serde_json::to_string_pretty(value).unwrap_or_default());
    let name = one_line(&kind.name);
    match &kind.input {
        Some(input) => out!("input of {name}: {}", pretty(input)),
        None if kind.here => out!("{name} takes any input"),
        None => out!("{name} is a kind of other workers: they know what it takes"),
    }
    if let Some(output) = &kind.output {
        out!("output: {}", pretty(output));
    }
    if kind.pure == Some(true) {
        out!("pure: it does nothing but make its output");
    }
}
