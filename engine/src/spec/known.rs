//! What may be named in expressions, and what is said about everything else.

use super::{
    Diagnostic, Input,
    reader::{Findings, shown},
};
use crate::{
    expr::{Reference, is_filter},
    plan::{did_you_mean, nearest},
};

const NAMES: [&str; 10] = [
    "inputs", "params", "tasks", "needs", "item", "index", "project", "task", "worker",
    "secrets",
];
const FUNCTIONS: [&str; 3] = ["file", "range", "dict"];

fn unknown(message: String) -> Diagnostic {
    Diagnostic::error("unknown_name", message)
}

/// A member of something whose members are known beforehand.
pub(super) fn field(
    place: &str,
    member: Option<&str>,
    fields: &[&str],
) -> Option<Diagnostic> {
    let member = member.filter(|member| !fields.contains(member))?;
    let help = match nearest(member, fields.iter().copied()) {
        Some(near) => did_you_mean(member, &near),
        None => format!("`{place}` has {}", quoted(fields)),
    };
    Some(unknown(format!("`{place}` has no `{}`", shown(member))).help(help))
}

fn quoted(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// A use of an input or a parameter; `None` instead of the list where there are none.
pub(super) fn declared(
    what: &str,
    member: Option<&str>,
    inputs: Option<&[Input]>,
    findings: &Findings,
) -> Option<Diagnostic> {
    let Some(inputs) = inputs else {
        let message = "`params` exists only inside a template";
        let help = "write `inputs.NAME` for the inputs of the project";
        return Some(unknown(message.to_owned()).help(help));
    };
    let member = member?;
    if inputs.iter().any(|input| input.name == member) {
        return None;
    }
    let member = shown(member);
    let help = findings
        .suggest(&member, inputs.iter().map(|input| &*input.name))
        .unwrap_or_else(|| format!("declare the {what} `{member}` first"));
    Some(unknown(format!("there is no {what} `{member}`")).help(help))
}

/// A name that means nothing anywhere.
pub(super) fn unknown_name(reference: &Reference<'_>) -> Diagnostic {
    let name = reference.root;
    if reference.called {
        let help = match name {
            // The functions of GitHub Actions; here the rule says when a task runs.
            "always" => "remove it and write `rule: all_done` on the task".to_owned(),
            "success" => "remove it: a task runs when its needs succeeded, which is \
                          `rule: all_succeeded`; `rule: all_done` runs in any case"
                .to_owned(),
            "failure" => "remove it and write `rule: any_failed` on the task; `rule: \
                          all_done` runs in any case"
                .to_owned(),
            "cancelled" => "remove it and write `rule: all_done` on the task, which \
                            runs however its needs ended"
                .to_owned(),
            _ if is_filter(name) => {
                format!("`{name}` is a filter: write `value | {name}`")
            }
            _ => match nearest(name, FUNCTIONS) {
                Some(near) => did_you_mean(name, &near),
                None => format!("known functions: {}", FUNCTIONS.join(", ")),
            },
        };
        return unknown(format!("there is no function `{}`", shown(name))).help(help);
    }
    let help = match nearest(name, NAMES) {
        Some(near) => did_you_mean(name, &near),
        None => format!("known names: {}", NAMES.join(", ")),
    };
    unknown(format!("unknown name `{}`", shown(name))).help(help)
}

/// `item` or `index` where there is none.
pub(super) fn no_item(root: &str) -> Diagnostic {
    unknown(format!("`{root}` exists only in the `with:` of a `for_each`"))
        .help("add `for_each:` to the task")
}

/// A secret, or the worker, where the value would be stored.
pub(super) fn stored_secret(root: &str) -> Diagnostic {
    let message = format!("`{root}` may stand only under the `with:` of a kind");
    let help = "its value would be stored here; pass it to a step instead: name it in the step that uses it";
    Diagnostic::error("secret_stored", message).help(help)
}

/// `secrets` alone.
pub(super) fn nameless_secret() -> Diagnostic {
    unknown("`secrets` needs the name of a secret".to_owned())
        .help("write `secrets.NAME`, set DANDORI_SECRET_NAME on the worker")
}

/// `file('…')` where no file is read.
pub(super) fn misplaced_file() -> Diagnostic {
    let message = "`file` is not the whole value of a parameter";
    let help = "let `${{ file('notes.md') }}` stand alone in a value under `with:` of \
                a task, with the name in quotes";
    Diagnostic::error("bad_file", message).help(help)
}
