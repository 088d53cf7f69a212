//! Broken documents and what the reader says about each.
//!
//! `data/broken/` holds one small mistake per document, and `expected.json` what a person
//! should be told: a stable code, the line to look at, and the remedy.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use dandori::{
    Context, Handler, Kinds, Outcome, Parameter, StepError,
    spec::{CompileOptions, Diagnostic, Limits, Source, load},
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// What `expected.json` says about a document.
#[derive(Debug, Deserialize)]
struct Expected {
    code: String,
    line: u32,
    /// A part of the help.
    help: String,
}

/// A kind with the parameters of a ready-made one, and no code behind it.
struct StandIn {
    kind: &'static str,
    parameters: Vec<Parameter>,
}

#[async_trait]
impl Handler for StandIn {
    fn kind(&self) -> &str {
        self.kind
    }

    fn parameters(&self) -> Option<&[Parameter]> {
        Some(&self.parameters)
    }

    fn check(&self, with: &serde_json::Value) -> Result<(), String> {
        match with.get("for") {
            Some(serde_json::Value::Number(number)) => {
                Err(format!("`for`: `{number}` has no unit; write `{number}s`"))
            }
            _ => Ok(()),
        }
    }

    async fn run(&self, _: Context, _: &RawValue) -> Result<Outcome, StepError> {
        Err(StepError::fail("stand_in", "only there to be looked at"))
    }
}

/// The kinds that the documents name, each as `(name, required, optional)`.
pub(crate) fn kinds() -> Kinds {
    const KINDS: &[(&str, &[&str], &[&str])] = &[
        ("noop", &[], &["output"]),
        ("fail", &[], &["message", "code", "times", "permanent"]),
        ("sleep", &["for"], &[]),
        ("shell.run", &["argv"], &["env", "stdin", "cwd", "ok_codes"]),
        ("http.request", &["url"], &["method", "headers", "query", "json", "body"]),
        ("web.search", &["query"], &["limit", "provider"]),
        ("llm.chat", &[], &["prompt", "messages", "system", "model", "schema"]),
        ("template.render", &[], &["template", "file", "values"]),
        ("file.read", &["path"], &[]),
        ("file.write", &["path"], &["text", "json", "append"]),
        ("json.transform", &["input", "filter"], &[]),
    ];
    let mut kinds = Kinds::default();
    for (kind, required, optional) in KINDS {
        let required = required.iter().map(|name| Parameter::required(name, ""));
        let optional = optional.iter().map(|name| Parameter::optional(name, ""));
        let parameters = required.chain(optional).collect();
        kinds.insert(Arc::new(StandIn { kind, parameters }));
    }
    kinds
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/broken"))
}

fn expectations() -> BTreeMap<String, Expected> {
    let text = std::fs::read_to_string(folder().join("expected.json"))
        .expect("the expectations stand beside the documents");
    serde_json::from_str(&text).expect("the expectations are JSON")
}

/// All findings about a document, warnings too.
fn findings(name: &str, kinds: &Kinds) -> Vec<Diagnostic> {
    let folder = folder();
    let bytes =
        std::fs::read(folder.join(name)).expect("every expected document exists");
    let source = match Source::from_bytes(Some(name), bytes, None) {
        Ok(source) => source,
        Err(diagnostic) => return vec![diagnostic],
    };
    let options = CompileOptions {
        kinds: Some(kinds),
        folder: Some(&folder),
        ..CompileOptions::default()
    };
    match load(&source, &Limits::default(), &options) {
        Ok(loaded) => loaded.warnings,
        Err(diagnostics) => diagnostics,
    }
}

#[test]
fn every_broken_document_is_refused_with_the_line_and_the_remedy() {
    let kinds = kinds();
    let mut failures = String::new();
    for (name, expected) in expectations() {
        let found = findings(&name, &kinds);
        let Some(first) = found.first() else {
            let _ = writeln!(failures, "\n{name}: accepted, wanted {expected:?}");
            continue;
        };
        let help = first.help.as_deref().unwrap_or_default();
        // A mistake is one finding: what only follows from it is not worth reading.
        let same = found.len() == 1
            && first.is_error()
            && first.code == expected.code
            && first.line == expected.line
            && help.contains(&expected.help);
        if !same {
            let _ = writeln!(failures, "\n{name}: wanted {expected:?}, found");
            for diagnostic in found {
                let _ = writeln!(failures, "{diagnostic}");
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn every_finding_has_a_place_and_a_remedy() {
    let kinds = kinds();
    let mut failures = String::new();
    for name in expectations().keys() {
        for finding in findings(name, &kinds) {
            let helps = finding.help.as_deref().is_some_and(|help| !help.is_empty());
            if finding.line == 0 || finding.column == 0 || !helps {
                let _ = writeln!(failures, "\n{name}:\n{finding}");
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
}
