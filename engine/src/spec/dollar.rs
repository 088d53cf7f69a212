//! A warning about `{{ item }}` without its `$`, which is a text like any other.

use super::{
    Diagnostic, Tree,
    reader::{At, Findings, shown},
};

/// The longest expression that is recognised, in bytes.
const LONGEST: usize = 200;

/// Looks for names of expressions in braces without a `$`.
///
/// Braces are common in texts that other programs read. Only what is certainly a name of
/// ours is reported, and not where the task gives a value of that name to its kind, as
/// for a template that the kind fills in.
pub(super) fn missing_dollar(
    with: &Tree,
    item: bool,
    at: &At<'_>,
    findings: &mut Findings,
) {
    look(with, with, item, at, findings);
}

fn look(value: &Tree, with: &Tree, item: bool, at: &At<'_>, findings: &mut Findings) {
    match value {
        Tree::String(text) if text.contains("{{") => {
            let names = names(text, item);
            let Some((root, whole)) = names.iter().find(|(root, _)| !gives(with, root))
            else {
                return;
            };
            let whole = shown(whole);
            let message = format!("`{{{{ {whole} }}}}` is a text, not an expression");
            let help = format!("write `${{{{ {whole} }}}}` for the value of `{root}`");
            let found = Diagnostic::warning("missing_dollar", message).help(help);
            findings.add(found, at);
        }
        Tree::List(items) => {
            for (index, value) in items.iter().enumerate() {
                look(value, with, item, &at.index(index), findings);
            }
        }
        Tree::Map(entries) => {
            for (key, value) in entries {
                look(value, with, item, &at.key(key), findings);
            }
        }
        Tree::String(_) | Tree::Null | Tree::Bool(_) | Tree::Number(_) => {}
    }
}

/// The names in braces without a `$`, each as its root and the whole expression.
fn names(text: &str, item: bool) -> Vec<(&str, &str)> {
    let mut found = vec![];
    for (at, _) in text.match_indices("{{") {
        if text[..at].ends_with(['$', '{']) {
            continue;
        }
        let inner = &text[at + 2..];
        // Bounded, so that a text of nothing but braces is not searched once for each.
        let mut ends = inner.as_bytes().windows(2).take(LONGEST);
        let Some(end) = ends.position(|pair| pair == b"}}") else { continue };
        let whole = inner[..end].trim();
        let end = whole
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(whole.len());
        let (root, rest) = whole.split_at(end);
        let fits = match root {
            "item" | "index" => {
                item && (rest.is_empty() || rest.starts_with(['.', '[', ' ', '|']))
            }
            "inputs" | "params" | "tasks" | "needs" | "secrets" | "project"
            | "task" => rest.starts_with(['.', '[']),
            _ => false,
        };
        if fits {
            found.push((root, whole));
        }
    }
    found
}

/// Whether a mapping somewhere under `with:` has a key of that name.
fn gives(with: &Tree, name: &str) -> bool {
    match with {
        Tree::Map(entries) => {
            entries.iter().any(|(key, value)| key == name || gives(value, name))
        }
        Tree::List(items) => items.iter().any(|value| gives(value, name)),
        Tree::Null | Tree::Bool(_) | Tree::Number(_) | Tree::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_expressions_without_their_dollar_are_found() {
        for (text, expected) in [
            ("Review {{ item }}", Some("item")),
            ("{{item.name | upper}}", Some("item.name | upper")),
            ("see {{ tasks.a.output }}", Some("tasks.a.output")),
            ("${{ item }}", None),
            ("$${{ item }}", None),
            ("{{ user.item }}", None),
            ("{{ items }}", None),
            ("{{{ item }}}", None),
            ("{{ tasks }}", None),
            ("{{ item", None),
        ] {
            let found = names(text, true);
            assert_eq!(found.first().map(|(_, whole)| *whole), expected, "{text}");
        }
        assert!(names("{{ item }}", false).is_empty());
    }
}
