//! How tasks are treated: retry, time limits, queue, priority, labels.
//!
//! Tasks and `defaults:` have these keys in common.

use std::collections::BTreeMap;

use super::{
    Diagnostic, Timeout, Treatment, Tree,
    names::check_name,
    reader::{At, Findings},
};
use crate::{ErrorClass, plan::Retry};

pub(super) const TREATMENT_KEYS: &[&str] = &["retry", "timeout", "queue", "priority"];
const RETRY_KEYS: &[&str] = &[
    "max_retries",
    "delay",
    "multiplier",
    "max_delay",
    "jitter",
    "max_elapsed",
    "retry_on",
];

pub(super) fn priority(
    value: &Tree,
    at: &At<'_>,
    findings: &mut Findings,
) -> Option<i32> {
    findings.integer(value, -1_000..=1_000, at).and_then(|n| i32::try_from(n).ok())
}

pub(super) fn labels(
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

/// Reads a key that tasks and defaults have in common; false when it is none.
pub(super) fn treat(
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
    let help = match value {
        Tree::Number(number) => format!("write `{{ max_retries: {number} }}`"),
        _ => "write a policy such as `{ max_retries: 3, delay: 10s }`".to_owned(),
    };
    for (key, value) in findings.map_or(value, &help, at) {
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
    Some(timeout)
}
