//! The ready-made kinds from outside: against a server on the loopback, files in a
//! temporary folder and real processes. One binary, so that it is linked once.

#![expect(clippy::unwrap_used, reason = "a test ends where an assumption fails")]

mod basic;
mod chat;
mod file;
mod http;
mod json;
mod search;
mod server;
mod shell;

use std::{sync::Arc, time::Duration};

use dandori::{Context, ErrorClass, Handler, Outcome, StepError};
use dandori_steps::{Settings, kinds};
use serde_json::{Value, value::to_raw_value};

/// Finds a kind made from settings.
fn kind(settings: &Settings, name: &str) -> Arc<dyn Handler> {
    let kinds = kinds(settings).unwrap();
    kinds.into_iter().find(|handler| handler.kind() == name).unwrap()
}

/// Runs one attempt and reads its output.
async fn run(settings: &Settings, name: &str, with: Value) -> Result<Value, StepError> {
    let with = to_raw_value(&with).unwrap();
    let kind = kind(settings, name);
    match kind.run(Context::detached(), &with).await? {
        Outcome::Done(output) => {
            let output = serde_json::from_str(output.get()).unwrap();
            // Whatever it gives is what it says it gives.
            let schema = serde_json::from_str(kind.output_schema().unwrap()).unwrap();
            jsonschema::validate(&schema, &output).unwrap();
            Ok(output)
        }
        other => panic!("not done: {other:?}"),
    }
}

/// Runs one attempt that is to fail, and returns its code and class.
async fn fails(settings: &Settings, name: &str, with: Value) -> (String, ErrorClass) {
    let error = run(settings, name, with).await.unwrap_err();
    (error.code.into_owned(), error.class)
}

#[test]
fn every_kind_says_what_it_gives() {
    for kind in kinds(&Settings::default()).unwrap() {
        let schema: Value =
            serde_json::from_str(kind.output_schema().unwrap()).unwrap();
        jsonschema::meta::validate(&schema).unwrap();
    }
}

/// Settings with time limits that suit a test.
fn quick() -> Settings {
    Settings::default().with_timeouts(
        Duration::from_secs(2),
        Duration::from_millis(300),
        Duration::from_secs(5),
    )
}
