//! From a [`Tree`] to a [`Document`]: the keys of the project document.
//!
//! Every key is known here or refused; nothing is accepted and ignored.

use std::collections::BTreeMap;

use super::{
    Defaults, Diagnostic, Document, Input, InputType, Task, Template, Timeout,
    Treatment, Tree,
    names::check_name,
    reader::{At, Findings},
};
use crate::{
    ErrorClass, Timestamp,
    plan::{Amount, Retry, Rule, StartBefore},
};

pub(super) const PROJECT_KEYS: &[&str] = &[
    "version",
    "name",
    "inputs",
    "with",
    "defaults",
    "templates",
    "tasks",
    "outputs",
    "max_parallel",
    "priority",
    "labels",
    "fail_fast",
    "idempotency_key",
];
pub(super) const TASK_KEYS: &[&str] = &[
    "kind",
    "use",
    "needs",
    "with",
    "if",
    "rule",
    "for_each",
    "window",
    "tolerate",
    "allow_failure",
    "retry",
    "timeout",
    "start_before",
    "delay",
    "not_before",
    "queue",
    "priority",
    "at_most_once",
    "labels",
    "title",
];
/// Keys of later capabilities: refused with a reason until they work.
const LATER_KEYS: &[&str] = &[
    "canvas",
    "concurrency",
    "rate_limit",
    "cache",
    "retention",
    "on_success",
    "on_failure",
];
const TREATMENT_KEYS: &[&str] = &["retry", "timeout", "queue", "priority"];
const RETRY_KEYS: &[&str] = &[
    "max_retries",
    "delay",
    "multiplier",
    "max_delay",
    "jitter",
    "max_elapsed",
    "retry_on",
];

/// Reads a document.
pub(super) fn read_document(tree: &Tree, findings: &mut Findings) -> Document {
    let mut document = Document::default();
    let at = At::ROOT;
    let mut has_tasks = false;
    for (key, value) in findings.map(tree, &at) {
        let here = at.key(key);
        match key.as_str() {
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
                document.tasks = tasks(value, &here, findings);
            }
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
    if !has_tasks && !findings.has_errors() {
        let help = "add `tasks:` with at least one task";
        findings.add(
            Diagnostic::error("empty_project", "there is no `tasks:`").help(help),
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
    let count = name.chars().count();
    if count == 0 || count > 200 || name.chars().any(char::is_control) {
        let message =
            "a project name has 1 to 200 characters and no control characters";
        findings
            .add(Diagnostic::error("bad_name", message).help("shorten the name"), at);
        return None;
    }
    Some(name)
}

fn unknown(key: &str, known: &[&str], at: &At<'_>, findings: &mut Findings) {
    if LATER_KEYS.contains(&key) {
        let message = format!("`{key}` is not supported yet");
        let help = format!("remove `{key}`; this version would ignore it");
        findings
            .add(Diagnostic::error("unsupported", message).help(help), &at.name(key));
    } else {
        findings.unknown_key(key, known, at);
    }
}

fn priority(value: &Tree, at: &At<'_>, findings: &mut Findings) -> Option<i32> {
    findings.integer(value, -1_000..=1_000, at).and_then(|n| i32::try_from(n).ok())
}

fn labels(
    value: &Tree,
    at: &At<'_>,
    findings: &mut Findings,
) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (key, value) in findings.map(value, at) {
        let here = at.key(key);
        if let Some(text) = findings.text(value, &here) {
            labels.insert(key.clone(), text);
        }
    }
    labels
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
            other => findings.map(other, &here),
        };
        for (key, value) in entries {
            let here = here.key(key);
            match key.as_str() {
                "type" => {
                    if let Some(text) = findings.text(value, &here) {
                        let kind = InputType::ALL
                            .into_iter()
                            .find(|kind| kind.as_str() == text);
                        let names = InputType::ALL.map(InputType::as_str);
                        match kind {
                            Some(kind) => input.kind = kind,
                            None => findings.add(
                                Diagnostic::error(
                                    "bad_type",
                                    format!("unknown type `{text}`"),
                                )
                                .help(format!("one of {}", names.join(", "))),
                                &here,
                            ),
                        }
                    }
                }
                "default" => input.default = Some(value.clone()),
                "description" => drop(findings.text(value, &here)),
                other => {
                    findings.unknown_key(
                        other,
                        &["type", "default", "description"],
                        &here,
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

/// Reads a key that tasks and defaults have in common; false when it is none.
fn treat(
    key: &str,
    value: &Tree,
    treatment: &mut Treatment,
    at: &At<'_>,
    findings: &mut Findings,
) -> bool {
    let here = at.key(key);
    match key {
        "retry" => treatment.retry = retry(value, &here, findings),
        "timeout" => treatment.timeout = timeout(value, &here, findings),
        "queue" => {
            treatment.queue = findings.text(value, &here);
            if let Some(queue) = &treatment.queue {
                check_name(queue, &here, findings);
            }
        }
        "priority" => treatment.priority = priority(value, &here, findings),
        _ => return false,
    }
    true
}

fn retry(value: &Tree, at: &At<'_>, findings: &mut Findings) -> Option<Retry> {
    let mut retry = Retry::default();
    for (key, value) in findings.map(value, at) {
        let here = at.key(key);
        match key.as_str() {
            "max_retries" => {
                retry.max_retries = findings.count(value, 0, &here)?;
            }
            "delay" => retry.delay = findings.duration(value, &here)?,
            "multiplier" => {
                retry.multiplier = findings.decimal(value, 1.0..=1000.0, &here)?
            }
            "max_delay" => retry.max_delay = findings.duration(value, &here)?,
            "jitter" => retry.jitter = findings.decimal(value, 0.0..=1.0, &here)?,
            "max_elapsed" => retry.max_elapsed = Some(findings.duration(value, &here)?),
            "retry_on" => {
                retry.retry_on = vec![];
                for (index, item) in findings.list(value, &here).iter().enumerate() {
                    let here = here.index(index);
                    if let Some(code) = findings.text(item, &here) {
                        check_code(&code, &here, findings);
                        retry.retry_on.push(code);
                    }
                }
            }
            other => findings.unknown_key(other, RETRY_KEYS, at),
        }
    }
    Some(retry)
}

/// Codes are the handlers' own business; only what cannot be one is refused.
fn check_code(code: &str, at: &At<'_>, findings: &mut Findings) {
    let is_code = !code.is_empty()
        && code
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !is_code {
        let classes = ErrorClass::ALL.map(ErrorClass::as_str).join(", ");
        findings.add(
            Diagnostic::error(
                "bad_code",
                format!("`{code}` is no error code or class"),
            )
            .help(format!("write a code such as `timeout`, or a class: {classes}")),
            at,
        );
    }
}

fn timeout(value: &Tree, at: &At<'_>, findings: &mut Findings) -> Option<Timeout> {
    let mut timeout = Timeout::default();
    let Tree::Map(entries) = value else {
        timeout.hard = Some(findings.duration(value, at)?);
        return Some(timeout);
    };
    for (key, value) in entries {
        let here = at.key(key);
        match key.as_str() {
            "soft" => timeout.soft = Some(findings.duration(value, &here)?),
            "hard" => timeout.hard = Some(findings.duration(value, &here)?),
            other => findings.unknown_key(other, &["soft", "hard"], at),
        }
    }
    if let (Some(soft), Some(hard)) = (timeout.soft, timeout.hard)
        && soft > hard
    {
        let message = "the soft time limit is longer than the hard one";
        let help = "make `soft` shorter than `hard`: soft asks to stop, hard drops";
        findings.add(
            Diagnostic::error("soft_over_hard", message).help(help),
            &at.key("soft"),
        );
    }
    Some(timeout)
}

fn read_template(
    name: &str,
    value: &Tree,
    at: &At<'_>,
    findings: &mut Findings,
) -> Template {
    let mut template = Template { name: name.to_owned(), ..Template::default() };
    for (key, value) in findings.map(value, at) {
        let here = at.key(key);
        match key.as_str() {
            "params" => template.params = inputs(value, &here, findings),
            "tasks" => template.tasks = tasks(value, &here, findings),
            "output" => template.output = Some(value.clone()),
            other => unknown(other, &["params", "tasks", "output"], at, findings),
        }
    }
    if template.tasks.is_empty() {
        let message = format!("the template `{name}` has no tasks");
        let help = "add `tasks:` with at least one task";
        findings.add(Diagnostic::error("empty_template", message).help(help), at);
    }
    template
}

fn tasks(value: &Tree, at: &At<'_>, findings: &mut Findings) -> Vec<Task> {
    let entries = findings.map(value, at);
    let mut tasks = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        check_name(name, at, findings);
        tasks.push(task(name, value, &at.key(name), findings));
    }
    tasks
}

fn task(name: &str, value: &Tree, at: &At<'_>, findings: &mut Findings) -> Task {
    let mut task = Task { name: name.to_owned(), ..Task::default() };
    for (key, value) in findings.map(value, at) {
        let here = at.key(key);
        match key.as_str() {
            "kind" => task.kind = findings.text(value, &here),
            "use" => task.template = findings.text(value, &here),
            "title" => task.title = findings.text(value, &here),
            "needs" => task.needs = needs(value, &here, findings),
            "with" => {
                findings.map(value, &here);
                task.with = Some(value.clone());
            }
            "if" => task.condition = condition(value, &here, findings),
            "rule" => task.rule = rule(value, &here, findings).unwrap_or_default(),
            "for_each" => task.for_each = Some(value.clone()),
            "window" => task.window = findings.count(value, 1, &here),
            "tolerate" => task.tolerate = amount(value, 0, &here, findings),
            "allow_failure" => {
                task.allow_failure = findings.boolean(value, &here).unwrap_or(false);
            }
            "start_before" => {
                task.start_before = match value {
                    Tree::String(text) if Timestamp::parse(text).is_some() => {
                        Timestamp::parse(text).map(StartBefore::At)
                    }
                    other => findings.duration(other, &here).map(StartBefore::Within),
                };
            }
            "delay" => task.delay = findings.duration(value, &here),
            "not_before" => task.not_before = time(value, &here, findings),
            "at_most_once" => {
                task.at_most_once = findings.boolean(value, &here).unwrap_or(false);
            }
            "labels" => task.labels = labels(value, &here, findings),
            other => {
                if !treat(other, value, &mut task.treatment, at, findings) {
                    unknown(other, TASK_KEYS, at, findings);
                }
            }
        }
    }
    task
}

fn needs(value: &Tree, at: &At<'_>, findings: &mut Findings) -> Vec<String> {
    if let Tree::String(name) = value {
        return vec![name.clone()];
    }
    let items = findings.list(value, at);
    let mut needs = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        match item {
            Tree::String(name) => needs.push(name.clone()),
            other => findings.wrong_type("the name of a task", other, &at.index(index)),
        }
    }
    needs
}

fn condition(value: &Tree, at: &At<'_>, findings: &mut Findings) -> Option<String> {
    match value {
        Tree::String(text) => Some(text.clone()),
        Tree::Bool(value) => Some(value.to_string()),
        other => {
            findings.wrong_type("an expression or true or false", other, at);
            None
        }
    }
}

fn time(value: &Tree, at: &At<'_>, findings: &mut Findings) -> Option<Timestamp> {
    let text = findings.text(value, at)?;
    let time = Timestamp::parse(&text);
    if time.is_none() {
        let message = format!("`{text}` is not a point in time");
        let help = "write RFC 3339 with a zone, such as `2026-12-01T08:00:00Z`";
        findings.add(Diagnostic::error("bad_time", message).help(help), at);
    }
    time
}

fn rule(value: &Tree, at: &At<'_>, findings: &mut Findings) -> Option<Rule> {
    const NAMES: [(&str, Rule); 5] = [
        ("all_succeeded", Rule::AllSucceeded),
        ("none_failed", Rule::NoneFailed),
        ("all_done", Rule::AllDone),
        ("any_succeeded", Rule::AnySucceeded),
        ("any_failed", Rule::AnyFailed),
    ];
    match value {
        Tree::String(text) => {
            let found =
                NAMES.iter().find(|(name, _)| name == text).map(|(_, rule)| *rule);
            if found.is_none() {
                let message = format!("unknown rule `{text}`");
                let names = NAMES.map(|(name, _)| name).join(", ");
                let help = match crate::plan::nearest(text, NAMES.map(|(name, _)| name))
                {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => format!("one of {names}, {{at_least: n}}"),
                };
                findings.add(Diagnostic::error("unknown_rule", message).help(help), at);
            }
            found
        }
        Tree::Map(entries) => match entries.as_slice() {
            [(key, value)] if key == "at_least" => {
                amount(value, 1, &at.key(key), findings).map(Rule::AtLeast)
            }
            _ => {
                let message = "a rule as a mapping has the one key `at_least`";
                let help = "write `{at_least: 2}` or `{at_least: 50%}`";
                findings.add(Diagnostic::error("unknown_rule", message).help(help), at);
                None
            }
        },
        other => {
            findings.wrong_type("the name of a rule", other, at);
            None
        }
    }
}

fn amount(
    value: &Tree,
    least: u32,
    at: &At<'_>,
    findings: &mut Findings,
) -> Option<Amount> {
    if let Tree::String(text) = value {
        let share =
            text.strip_suffix('%').and_then(|share| share.trim().parse::<u8>().ok());
        if let Some(share) =
            share.filter(|share| u32::from(*share) >= least && *share <= 100)
        {
            return Some(Amount::Percent(share));
        }
        let message = format!("`{text}` is neither a number nor a share such as `20%`");
        let help = "write a whole number, or 0% to 100%";
        findings.add(Diagnostic::error("bad_amount", message).help(help), at);
        return None;
    }
    findings.count(value, least, at).map(Amount::Count)
}
