//! Ready-made step kinds for dandori.
//!
//! ```
//! use dandori_steps::{Settings, kinds};
//!
//! let settings = Settings::default().with_files_root(".");
//! let handlers = kinds(&settings)?;
//! assert!(handlers.iter().any(|handler| handler.kind() == "http.request"));
//! # Ok::<(), dandori_steps::SetupError>(())
//! ```
//!
//! | kind | `with` | output |
//! | --- | --- | --- |
//! | `noop` | `output?` | `output` or null |
//! | `fail` | `message? code? times? permanent?` | `{attempts}` once it succeeds |
//! | `sleep` | `for` | null; waits without a slot from 1 s on |
//! | `shell.run` | `argv env? stdin? cwd? ok_codes?` | `{exit_code, stdout, stderr, truncated}` |
//! | `http.request` | `method? url headers? query? json?\|body? ok?` | `{status, headers, body, json}` |
//! | `web.search` | `query limit? provider?` | `{results: [{title, url, snippet}], provider}` |
//! | `llm.chat` | `prompt\|messages system? model? temperature? max_tokens? schema?` | `{text, data, model, usage, finish_reason}` |
//! | `template.render` | `template\|file values?` | `{text}` |
//! | `file.read` | `path` | `{text, bytes}` |
//! | `file.write` | `path text\|json append?` | `{path, bytes, sha256}` |
//! | `json.transform` | `input filter` | the value; several results: a list |
//!
//! Addresses, models and keys are [`Settings`] of the worker, never stored inputs.
//! Retries belong to the engine: every kind makes one attempt and says through the class
//! and the code of its error whether another may help.

mod basic;
mod chat;
mod contract;
mod file;
mod http;
mod json;
mod search;
mod settings;
mod shell;
mod template;

use std::sync::Arc;

use dandori::Handler;

pub use crate::{
    search::Provider,
    settings::{Network, Secret, Settings, SetupError},
};

/// The kinds that need no settings: `noop`, `fail` and `sleep`.
pub fn basic_kinds() -> Vec<Arc<dyn Handler>> {
    vec![
        Arc::new(basic::Noop::new()),
        Arc::new(basic::Fail::new()),
        Arc::new(basic::Sleep::new()),
    ]
}

/// All ready-made kinds. `shell.run` is among them and refuses to run unless
/// [`Settings::allow_shell`] is set, so that its reason can be shown.
///
/// # Errors
/// A [`SetupError`] when an address or a provider is unknown, the folder for files does
/// not exist, or no HTTP client can be made.
pub fn kinds(settings: &Settings) -> Result<Vec<Arc<dyn Handler>>, SetupError> {
    let root = Arc::new(file::Root::open(&settings.files_root, &settings.protected)?);
    let web = http::Webs::new(settings)?;
    let mut kinds = basic_kinds();
    kinds.extend([
        Arc::new(shell::Run::new(settings, Arc::clone(&root))) as Arc<dyn Handler>,
        Arc::new(http::Request::new(web.open.clone())),
        Arc::new(search::Search::new(settings, web.trusted.clone())?),
        Arc::new(chat::Chat::new(settings, web.trusted)?),
        Arc::new(template::Render::new(Arc::clone(&root))),
        Arc::new(file::Read::new(Arc::clone(&root))),
        Arc::new(file::Write::new(root)),
        Arc::new(json::Transform::new(settings.transform_timeout)),
    ]);
    Ok(kinds)
}
