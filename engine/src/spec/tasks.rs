//! The keys of a task.

use super::{
    Diagnostic, Task, Tree,
    names::check_name,
    project::unknown,
    reader::{At, Findings},
    treatment::{labels, treat},
};
use crate::{
    Timestamp,
    plan::{Amount, Rule, StartBefore},
};

const TASK_KEYS: &[&str] = &[
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
pub(super) fn tasks(value: &Tree, at: &At<'_>, findings: &mut Findings) -> Vec<Task> {
    // Nothing at all is reported by those who want at least one.
    let entries = match value {
        Tree::Null => &[],
        value => {
            let help = "write each task under its name: `fetch: { kind: … }`";
            findings.map_or(value, help, at)
        }
    };
    // A task weighs much more than a value of a wrong type.
    let is_task = |(_, value): &&(String, Tree)| matches!(value, Tree::Map(_));
    let mut tasks = Vec::with_capacity(entries.iter().filter(is_task).count());
    for (name, value) in entries {
        if findings.is_full() {
            findings.hide(1);
            break;
        }
        check_name(name, at, findings);
        tasks.push(task(name, value, &at.key(name), findings));
    }
    tasks
}

fn task(name: &str, value: &Tree, at: &At<'_>, findings: &mut Findings) -> Task {
    let mut task = Task { name: name.to_owned(), ..Task::default() };
    let help = "write the keys of the task below its name, such as `kind: noop`";
    for (key, value) in findings.map_or(value, help, at) {
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
                    // No duration begins like a date.
                    Tree::String(text) if looks_like_date(text) => {
                        time(value, &here, findings).map(StartBefore::At)
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

/// The options of a call: the keys of a task that say how it is treated.
pub(super) fn options(value: &Tree, at: &At<'_>, findings: &mut Findings) -> Task {
    const OPTIONS: &[&str] = &[
        "retry",
        "timeout",
        "start_before",
        "delay",
        "not_before",
        "queue",
        "priority",
        "at_most_once",
        "allow_failure",
        "labels",
        "title",
    ];
    let help = "write options such as `{ retry: { max_retries: 3 } }`";
    for (key, _) in findings.map_or(value, help, at) {
        if !OPTIONS.contains(&key.as_str()) {
            unknown(key, OPTIONS, at, findings);
            return Task::default();
        }
    }
    task("", value, at, findings)
}

fn needs(value: &Tree, at: &At<'_>, findings: &mut Findings) -> Vec<String> {
    if let Tree::String(name) = value {
        return vec![name.clone()];
    }
    let items = match value {
        Tree::Number(_) | Tree::Bool(_) => {
            return findings
                .text_of("the name of a task", value, at)
                .into_iter()
                .collect();
        }
        value => findings.list(value, at),
    };
    let mut needs = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        needs.extend(findings.text_of("the name of a task", item, &at.index(index)));
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

fn looks_like_date(text: &str) -> bool {
    let digits = text.trim_start().bytes().take_while(u8::is_ascii_digit).count();
    digits == 4 && text.trim_start().as_bytes().get(4) == Some(&b'-')
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
                let help = findings
                    .suggest(text, NAMES.map(|(name, _)| name))
                    .unwrap_or_else(|| format!("one of {names}, {{at_least: n}}"));
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

pub(super) fn amount(
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
