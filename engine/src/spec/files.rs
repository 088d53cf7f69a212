//! `${{ file('prompt.md') }}`: a text from a file beside the document, read once when
//! the document is loaded, so that it is part of the plan and of its hash.

use std::path::{Component, Path};

use super::{Diagnostic, Tree};

/// The largest file that may be read into a document, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Replaces every `${{ file('…') }}`; `None` when there is none.
pub(super) fn inline_files(
    tree: &Tree,
    folder: Option<&Path>,
) -> Result<Option<Tree>, Diagnostic> {
    match tree {
        Tree::String(text) => inline(text, folder),
        Tree::List(items) => {
            let mut changed = None;
            for (index, item) in items.iter().enumerate() {
                if let Some(value) = inline_files(item, folder)? {
                    changed.get_or_insert_with(|| items.clone())[index] = value;
                }
            }
            Ok(changed.map(Tree::List))
        }
        Tree::Map(entries) => {
            let mut changed = None;
            for (index, (_, item)) in entries.iter().enumerate() {
                if let Some(value) = inline_files(item, folder)? {
                    changed.get_or_insert_with(|| entries.clone())[index].1 = value;
                }
            }
            Ok(changed.map(Tree::Map))
        }
        Tree::Null | Tree::Bool(_) | Tree::Number(_) => Ok(None),
    }
}

fn inline(text: &str, folder: Option<&Path>) -> Result<Option<Tree>, Diagnostic> {
    let expression = super::compile::bare(text);
    let Some(call) = expression.strip_prefix("file(").and_then(|c| c.strip_suffix(')'))
    else {
        return Ok(None);
    };
    if !text.trim_start().starts_with("${{") {
        return Ok(None);
    }
    let call = call.trim();
    let quoted =
        |quote: char| call.strip_prefix(quote).and_then(|c| c.strip_suffix(quote));
    let Some(name) = quoted('\'').or_else(|| quoted('"')) else {
        let help = "write `${{ file('prompt.md') }}` with a plain name";
        return Err(
            Diagnostic::error("bad_file", "`file` takes one quoted name").help(help)
        );
    };
    let Some(folder) = folder else {
        let message = "`file` works only where the document is loaded from a folder";
        let help = "put the text into the document";
        return Err(Diagnostic::error("bad_file", message).help(help));
    };
    read(name, folder).map(|content| {
        // The content is data: expressions in it are not evaluated.
        Some(Tree::String(content.replace("${{", "$${{")))
    })
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
    let path = root
        .join(relative)
        .canonicalize()
        .map_err(|e| wrong(format!("`{name}`: {e}")))?;
    if !path.starts_with(&root) {
        return Err(wrong(format!("`{name}` leads out of the folder of the document")));
    }
    let size = path.metadata().map_err(|e| wrong(format!("`{name}`: {e}")))?.len();
    if size > MAX_FILE {
        return Err(wrong(format!("`{name}` has {size} bytes")));
    }
    std::fs::read_to_string(&path).map_err(|e| wrong(format!("`{name}`: {e}")))
}
