//! `${{ file('prompt.md') }}`: a text from a file beside the document, read once when
//! the document is loaded, so that it is part of the plan and of its hash.

use std::{
    io::ErrorKind,
    path::{Component, Path},
};

use super::{
    CompileOptions, Diagnostic, Tree,
    reader::{At, Findings},
};
use crate::expr::{self, Part};

/// The largest file that may be read into a document, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Replaces every `${{ file('…') }}`; `None` when there is none.
pub(super) fn inline_files(
    tree: &Tree,
    options: &CompileOptions<'_>,
    at: &At<'_>,
    findings: &mut Findings,
) -> Option<Tree> {
    match tree {
        Tree::String(text) => {
            let name = named(text)?;
            match content(name, options) {
                Ok(content) => {
                    // It is data: expressions in it are not evaluated.
                    let text = Tree::String(content.replace("${{", "$${{"));
                    findings.files.insert(name.to_owned(), content);
                    Some(text)
                }
                Err(diagnostic) => {
                    findings.add(diagnostic, at);
                    None
                }
            }
        }
        Tree::List(items) => {
            let mut changed = None;
            for (index, item) in items.iter().enumerate() {
                let at = at.index(index);
                if let Some(value) = inline_files(item, options, &at, findings) {
                    changed.get_or_insert_with(|| items.clone())[index] = value;
                }
            }
            changed.map(Tree::List)
        }
        Tree::Map(entries) => {
            let mut changed = None;
            for (index, (key, item)) in entries.iter().enumerate() {
                let at = at.key(key);
                if let Some(value) = inline_files(item, options, &at, findings) {
                    changed.get_or_insert_with(|| entries.clone())[index].1 = value;
                }
            }
            changed.map(Tree::Map)
        }
        Tree::Null | Tree::Bool(_) | Tree::Number(_) => None,
    }
}

/// The name of the file that a whole text stands for.
fn named(text: &str) -> Option<&str> {
    if !text.contains("file") || !text.trim_start().starts_with("${{") {
        return None;
    }
    match expr::split(text.trim()).ok()?.as_slice() {
        [Part::Expression(expression)] => argument(expression),
        _ => None,
    }
}

/// The name in an expression that is only `file('name')`.
pub(super) fn argument(expression: &str) -> Option<&str> {
    let call = expression.strip_prefix("file")?.trim();
    let call = call.strip_prefix('(')?.strip_suffix(')')?.trim();
    ['\'', '"'].into_iter().find_map(|quote| {
        let name = call.strip_prefix(quote)?.strip_suffix(quote)?;
        (!name.contains([quote, '\\'])).then_some(name)
    })
}

fn content(name: &str, options: &CompileOptions<'_>) -> Result<String, Diagnostic> {
    if let Some(text) = options.files.and_then(|files| files.get(name)) {
        return Ok(text.clone());
    }
    let Some(folder) = options.folder else {
        let message =
            format!("the file `{name}` was not given along, and is not looked for");
        let help = "put the text into the document, or give the file along";
        return Err(Diagnostic::error("bad_file", message).help(help));
    };
    read(name, folder)
}

fn read(name: &str, folder: &Path) -> Result<String, Diagnostic> {
    let wrong = |message: String| {
        let help =
            "name a UTF-8 text file of at most 1 MiB in the folder of the document";
        Diagnostic::error("bad_file", message).help(help)
    };
    let relative = Path::new(name);
    if relative.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(wrong(format!("`{name}` leads out of the folder of the document")));
    }
    let root = folder.canonicalize().map_err(|e| wrong(format!("the folder: {e}")))?;
    let path = root.join(relative).canonicalize().map_err(|error| {
        wrong(match error.kind() {
            ErrorKind::NotFound => format!("there is no file `{name}`"),
            _ => format!("`{name}`: {error}"),
        })
    })?;
    if !path.starts_with(&root) {
        return Err(wrong(format!("`{name}` leads out of the folder of the document")));
    }
    let found = path.metadata().map_err(|e| wrong(format!("`{name}`: {e}")))?;
    if !found.is_file() {
        return Err(wrong(format!("`{name}` is not a file")));
    }
    if found.len() > MAX_FILE {
        return Err(wrong(format!("`{name}` has {} bytes", found.len())));
    }
    std::fs::read_to_string(&path).map_err(|e| wrong(format!("`{name}`: {e}")))
}
