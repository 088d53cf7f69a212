//! From a [`Tree`] to a [`Document`]: the keys of the project, its inputs and templates.
//!
//! Every key is known here or refused; nothing is accepted and ignored but `$schema`,
//! which editors add for themselves.

use super::{
    Defaults, Diagnostic, Document, Input, InputType, Template, Treatment, Tree,
    names::check_name,
    reader::{At, Findings, shown},
    tasks::tasks,
    treatment::{TREATMENT_KEYS, labels, priority, treat},
};

const PROJECT_KEYS: &[&str] = &[
    "version",
    "name",
    "inputs",
    "with",
    "defaults",
    "templates",
    "tasks",
    "canvas",
    "args",
    "kwargs",
    "outputs",
    "max_parallel",
    "priority",
    "labels",
    "fail_fast",
    "idempotency_key",
];
/// Keys of later capabilities: refused with a reason until they work.
const LATER_KEYS: &[&str] =
    &["concurrency", "rate_limit", "cache", "retention", "on_success", "on_failure"];
const ONE_TASK: &str = "add `tasks:` with at least one task";

/// Whether nothing stands below a key.
fn is_empty(value: &Tree) -> bool {
    match value {
        Tree::Null => true,
        Tree::Map(entries) => entries.is_empty(),
        Tree::Bool(_) | Tree::Number(_) | Tree::String(_) | Tree::List(_) => false,
    }
}

/// Reads a document.
pub(super) fn read_document(tree: &Tree, findings: &mut Findings) -> Document {
    let mut document = Document::default();
    let at = At::ROOT;
    let mut has_tasks = false;
    let help = "write a project: a mapping with `tasks:` and, below it, tasks by name";
    for (key, value) in findings.map_or(tree, help, &at) {
        let here = at.key(key);
        match key.as_str() {
            "$schema" => drop(findings.text(value, &here)),
            "version" => {
                if *value != Tree::Number(1.into()) {
                    let message = "this version reads `version: 1` only";
                    findings.add(
                        Diagnostic::error("unsupported_version", message)
                            .help("write `version: 1`"),
                        &here,
                    );
                }
            }
            "name" => document.name = project_name(value, &here, findings),
            "inputs" => document.inputs = inputs(value, &here, findings),
            "with" => document.with = findings.map(value, &here).to_vec(),
            "defaults" => document.defaults = defaults(value, &here, findings),
            "templates" => {
                for (name, template) in findings.map(value, &here) {
                    check_name(name, &here, findings);
                    let here = here.key(name);
                    document
                        .templates
                        .push(read_template(name, template, &here, findings));
                }
            }
            "tasks" => {
                has_tasks = true;
                if is_empty(value) {
                    let message = "there is no task under `tasks:`";
                    findings.add(
                        Diagnostic::error("empty_project", message).help(ONE_TASK),
                        &at.name(key),
                    );
                }
                document.tasks = tasks(value, &here, findings);
            }
            "canvas" => {
                document.canvas = super::canvas::read(value, &here, 1, findings);
            }
            "args" => document.args = findings.list(value, &here).to_vec(),
            "kwargs" => document.kwargs = findings.map(value, &here).to_vec(),
            "outputs" => document.outputs = Some(value.clone()),
            "max_parallel" => document.max_parallel = findings.count(value, 1, &here),
            "priority" => {
                document.priority = priority(value, &here, findings).unwrap_or(0)
            }
            "labels" => document.labels = labels(value, &here, findings),
            "fail_fast" => {
                document.fail_fast = findings.boolean(value, &here).unwrap_or(false);
            }
            "idempotency_key" => {
                document.idempotency_key = findings
                    .text(value, &here)
                    .filter(|key| check_key(key, &here, findings));
            }
            other => unknown(other, PROJECT_KEYS, &at, findings),
        }
    }
    let has_canvas = tree.get("canvas").is_some();
    for key in ["tasks", "templates"] {
        if has_canvas && tree.get(key).is_some() {
            let message = format!("a project has either `canvas:` or `{key}:`");
            let help = format!("remove one of them; a canvas needs no `{key}:`");
            let found = Diagnostic::error("two_forms", message).help(help);
            findings.add(found, &at.name(key));
        }
    }
    for key in ["args", "kwargs"] {
        if !has_canvas && tree.get(key).is_some() {
            let message = format!("`{key}` is the incoming value of a `canvas:`");
            let help = "give values to `inputs:` under `with:`";
            let found = Diagnostic::error("unknown_key", message).help(help);
            findings.add(found, &at.name(key));
        }
    }
    if !has_tasks && !has_canvas && !findings.has_errors() {
        findings.add(
            Diagnostic::error("empty_project", "there is no `tasks:`").help(ONE_TASK),
            &at,
        );
    }
    document
}

fn check_key(key: &str, at: &At<'_>, findings: &mut Findings) -> bool {
    let fits = !key.is_empty() && key.len() <= 255;
    if !fits {
        let message = "an idempotency key has 1 to 255 bytes";
        findings.add(
            Diagnostic::error("bad_key", message).help("choose a shorter key"),
            at,
        );
    }
    fits
}

fn project_name(value: &Tree, at: &At<'_>, findings: &mut Findings) -> Option<String> {
    let name = findings.text(value, at)?;
    if let Some(fault) = name_fault(&name) {
        findings.add(fault, at);
        return None;
    }
    Some(name)
}

/// Why a project may not have a name.
pub(super) fn name_fault(name: &str) -> Option<Diagnostic> {
    let count = name.chars().count();
    if (1..=200).contains(&count) && !name.chars().any(char::is_control) {
        return None;
    }
    let message = "a project name has 1 to 200 characters and no control characters";
    let help = "give it a name of 1 to 200 characters on one line, or leave it out";
    Some(Diagnostic::error("bad_name", message).help(help))
}

pub(super) fn unknown(key: &str, known: &[&str], at: &At<'_>, findings: &mut Findings) {
    if LATER_KEYS.contains(&key) {
        let message = format!("`{key}` is not supported yet");
        let help = format!("remove `{key}`; this version would ignore it");
        findings
            .add(Diagnostic::error("unsupported", message).help(help), &at.name(key));
    } else {
        findings.unknown_key(key, known, at);
    }
}

fn inputs(value: &Tree, at: &At<'_>, findings: &mut Findings) -> Vec<Input> {
    let mut inputs = vec![];
    for (name, declaration) in findings.map(value, at) {
        check_name(name, at, findings);
        let here = at.key(name);
        let mut input =
            Input { name: name.clone(), kind: InputType::Any, default: None };
        let entries = match declaration {
            Tree::Null => &[],
            Tree::String(text) if InputType::ALL.iter().any(|t| t.as_str() == text) => {
                let help = format!("write `{{ type: {text} }}`");
                findings.map_or(declaration, &help, &here)
            }
            other => {
                let help = "write a declaration such as `{ type: string }`";
                findings.map_or(other, help, &here)
            }
        };
        for (key, value) in entries {
            let declared = &here;
            let here = declared.key(key);
            match key.as_str() {
                "type" => {
                    if let Some(text) = findings.text(value, &here) {
                        input.kind = input_type(&text, &here, findings);
                    }
                }
                "default" => input.default = Some(value.clone()),
                "description" => drop(findings.text(value, &here)),
                other => {
                    findings.unknown_key(
                        other,
                        &["type", "default", "description"],
                        declared,
                    );
                }
            }
        }
        if let Some(default) = input.default.as_ref().filter(|v| !input.kind.admits(v))
        {
            let what = format!("a default of type {}", input.kind.as_str());
            findings.wrong_type(&what, default, &here.key("default"));
        }
        inputs.push(input);
    }
    inputs
}

fn input_type(text: &str, at: &At<'_>, findings: &mut Findings) -> InputType {
    let names = InputType::ALL.map(InputType::as_str);
    let known = InputType::ALL.into_iter().find(|kind| kind.as_str() == text);
    known.unwrap_or_else(|| {
        // What other languages call these types.
        let help = match text {
            "text" | "str" => "write `string`".to_owned(),
            "int" => "write `integer`".to_owned(),
            "bool" => "write `boolean`".to_owned(),
            "list" => "write `array`".to_owned(),
            "map" | "mapping" | "dict" => "write `object`".to_owned(),
            "float" | "double" | "decimal" => "write `number`".to_owned(),
            _ => findings
                .suggest(text, names)
                .unwrap_or_else(|| format!("one of {}", names.join(", "))),
        };
        let message = format!("unknown type `{}`", shown(text));
        findings.add(Diagnostic::error("bad_type", message).help(help), at);
        InputType::Any
    })
}

fn defaults(value: &Tree, at: &At<'_>, findings: &mut Findings) -> Defaults {
    let mut defaults = Defaults::default();
    for (key, value) in findings.map(value, at) {
        let here = at.key(key);
        if key == "kinds" {
            for (kind, value) in findings.map(value, &here) {
                let here = here.key(kind);
                let mut treatment = Treatment::default();
                for (key, value) in findings.map(value, &here) {
                    if !treat(key, value, &mut treatment, &here, findings) {
                        unknown(key, TREATMENT_KEYS, &here, findings);
                    }
                }
                defaults.kinds.push((kind.clone(), treatment));
            }
        } else if !treat(key, value, &mut defaults.all, at, findings) {
            unknown(
                key,
                &["retry", "timeout", "queue", "priority", "kinds"],
                at,
                findings,
            );
        }
    }
    defaults
}

fn read_template(
    name: &str,
    value: &Tree,
    at: &At<'_>,
    findings: &mut Findings,
) -> Template {
    let mut has_tasks = false;
    let mut template = Template { name: name.to_owned(), ..Template::default() };
    for (key, value) in findings.map(value, at) {
        let here = at.key(key);
        match key.as_str() {
            "params" => template.params = inputs(value, &here, findings),
            "tasks" => {
                has_tasks = !is_empty(value);
                template.tasks = tasks(value, &here, findings);
            }
            "output" => template.output = Some(value.clone()),
            other => unknown(other, &["params", "tasks", "output"], at, findings),
        }
    }
    if !has_tasks {
        let message = format!("the template `{name}` has no tasks");
        let found = Diagnostic::error("empty_template", message).help(ONE_TASK);
        findings.add(found, at);
    }
    template
}
