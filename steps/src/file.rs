//! `file.read` and `file.write`: texts beneath the folder that the worker allows.
//!
//! Owns the two handlers. Every path goes through [`Root`], in `root`.

mod root;

use std::sync::Arc;

use async_trait::async_trait;
use dandori::{Context, Handler, Outcome, Parameter, StepError};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use sha2::{Digest, Sha256};

pub(crate) use self::root::{Root, check_path};
use crate::contract::{
    Contract, NAME, TEXT, TRUTH, exactly_one, invalid, present, read_input, static_text,
};

/// The largest file that is read: an output cannot be larger.
pub(crate) const MAX_READ: usize = 16 * 1024 * 1024;

/// Runs file work where it does not hold up the runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StepError> + Send + 'static,
) -> Result<T, StepError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StepError::retry("panic", error))?
}

/// What a write gives: `bytes` are those that this one wrote.
const OUTPUT_OF_WRITE: &str = r#"{"type":"object","required":["path","bytes","sha256"],
    "properties":{
        "path":{"type":"string"},
        "bytes":{"type":"integer","minimum":0},
        "sha256":{"type":"string","pattern":"^[0-9a-f]{64}$"}}}"#;

/// What a read gives.
const OUTPUT_OF_READ: &str = r#"{"type":"object","required":["text","bytes"],
    "properties":{"text":{"type":"string"},"bytes":{"type":"integer","minimum":0}}}"#;

/// Reads a text file beneath the root.
pub(crate) fn read_text(root: &Root, path: &str) -> Result<String, StepError> {
    String::from_utf8(root.read(path, MAX_READ)?)
        .map_err(|_| StepError::fail("not_text", format!("`{path}` is not UTF-8 text")))
}

/// Handler of `file.read`.
#[derive(Debug)]
pub(crate) struct Read {
    contract: Contract,
    root: Arc<Root>,
}

impl Read {
    pub(crate) fn new(root: Arc<Root>) -> Self {
        let contract = Contract::new([Parameter::required("path", NAME)]);
        Self { contract: contract.gives(OUTPUT_OF_READ), root }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadInput {
    path: String,
}

#[async_trait]
impl Handler for Read {
    fn kind(&self) -> &'static str {
        "file.read"
    }

    fn is_pure(&self) -> bool {
        true
    }

    fn parameters(&self) -> Option<&[Parameter]> {
        Some(self.contract.parameters())
    }

    fn output_schema(&self) -> Option<&str> {
        Some(self.contract.output())
    }

    fn check(&self, with: &Value) -> Result<(), String> {
        self.contract.check(with)?;
        static_text(with, "path").map_or(Ok(()), |path| check_path(path).map(|_| ()))
    }

    async fn run(&self, _ctx: Context, input: &RawValue) -> Result<Outcome, StepError> {
        let input: ReadInput = read_input(input)?;
        let root = Arc::clone(&self.root);
        blocking(move || {
            let text = read_text(&root, &input.path)?;
            Outcome::done(&json!({ "bytes": text.len(), "text": text }))
        })
        .await
    }
}

/// Handler of `file.write`.
#[derive(Debug)]
pub(crate) struct Write {
    contract: Contract,
    root: Arc<Root>,
}

impl Write {
    pub(crate) fn new(root: Arc<Root>) -> Self {
        let contract = Contract::new([
            Parameter::required("path", NAME),
            Parameter::optional("text", TEXT),
            Parameter::optional("json", ""),
            Parameter::optional("append", TRUTH),
        ])
        .gives(OUTPUT_OF_WRITE);
        Self { contract, root }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteInput {
    path: String,
    text: Option<String>,
    #[serde(default, deserialize_with = "present")]
    json: Option<Box<RawValue>>,
    #[serde(default)]
    append: bool,
}

#[async_trait]
impl Handler for Write {
    fn kind(&self) -> &'static str {
        "file.write"
    }

    fn parameters(&self) -> Option<&[Parameter]> {
        Some(self.contract.parameters())
    }

    fn output_schema(&self) -> Option<&str> {
        Some(self.contract.output())
    }

    fn check(&self, with: &Value) -> Result<(), String> {
        self.contract.check(with)?;
        exactly_one(with, "text", "json")?;
        static_text(with, "path").map_or(Ok(()), |path| check_path(path).map(|_| ()))
    }

    /// Replacing a file is safe to repeat. Appending is not: an attempt that is repeated
    /// after a crash appends again. `bytes` and `sha256` are of what this step wrote.
    async fn run(&self, _ctx: Context, input: &RawValue) -> Result<Outcome, StepError> {
        let input: WriteInput = read_input(input)?;
        let content = match (input.text, input.json) {
            (Some(text), None) => text,
            (None, Some(json)) => String::from(Box::<str>::from(json)),
            _ => return Err(invalid("give `text` or `json`")),
        };
        let root = Arc::clone(&self.root);
        blocking(move || {
            if input.append {
                root.append(&input.path, content.as_bytes())?;
            } else {
                root.replace(&input.path, content.as_bytes())?;
            }
            let digest = Sha256::digest(content.as_bytes());
            Outcome::done(&json!({
                "path": input.path,
                "bytes": content.len(),
                "sha256": format!("{digest:x}"),
            }))
        })
        .await
    }
}
