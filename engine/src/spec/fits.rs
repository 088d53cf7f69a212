//! Whether the keys of a task fit together, and numbers are within their range.
//!
//! Programs build documents without the reader, so what both could get wrong is looked
//! at here.

use super::{
    Diagnostic, Document, Task, Treatment,
    builder::Place,
    compile::Compiler,
    names::check_name,
    reader::{At, Findings},
};
use crate::plan::{Amount, Rule};

/// Looks at what stands outside tasks, and at all names.
pub(super) fn check_settings(document: &Document, findings: &mut Findings) {
    let root = At::ROOT;
    if document.max_parallel == Some(0) {
        findings.add(zero("max_parallel"), &root.key("max_parallel"));
    }
    let at = root.key("defaults");
    check_treatment(&document.defaults.all, &at, findings);
    let kinds = at.key("kinds");
    for (kind, treatment) in &document.defaults.kinds {
        check_treatment(treatment, &kinds.key(kind), findings);
    }
    let at = root.key("tasks");
    for task in &document.tasks {
        check_name(&task.name, &at, findings);
    }
    let at = root.key("templates");
    for template in &document.templates {
        check_name(&template.name, &at, findings);
        let at = at.key(&template.name);
        let at = at.key("tasks");
        for task in &template.tasks {
            check_name(&task.name, &at, findings);
        }
    }
}

fn zero(key: &str) -> Diagnostic {
    let message = format!("`{key}` is 0: nothing would ever start");
    let help = format!("write a whole number of at least 1, or remove `{key}`");
    Diagnostic::error("out_of_range", message).help(help)
}

fn check_treatment(treatment: &Treatment, at: &At<'_>, findings: &mut Findings) {
    let Some(timeout) = &treatment.timeout else { return };
    let at = at.key("timeout");
    for (key, limit) in [("soft", timeout.soft), ("hard", timeout.hard)] {
        if limit.is_some_and(|limit| limit.is_zero()) {
            let message = format!("the {key} time limit is 0: no attempt could end");
            let help = "write a duration such as `30s`, or remove the limit";
            let found = Diagnostic::error("out_of_range", message).help(help);
            findings.add(found, &at.key(key));
        }
    }
    if let (Some(soft), Some(hard)) = (timeout.soft, timeout.hard)
        && soft > hard
    {
        let message = "the soft time limit is longer than the hard one";
        let help = "make `soft` shorter than `hard`: soft asks to stop, hard drops";
        let found = Diagnostic::error("soft_over_hard", message).help(help);
        findings.add(found, &at.key("soft"));
    }
}

fn is_beyond(amount: Amount) -> bool {
    matches!(amount, Amount::Percent(share) if share > 100)
}

impl Compiler<'_> {
    /// Whether the keys of a task fit together, and its kind takes them.
    pub(super) fn fits(&mut self, task: &Task, place: &Place) -> bool {
        let ok = self.keys_fit(task, place);
        if let Some(kind) = &task.kind {
            self.check_handler(kind, task, place);
        }
        ok
    }

    /// Whether the keys of a task fit together.
    pub(super) fn keys_fit(&mut self, task: &Task, place: &Place) -> bool {
        let mut faults: Vec<(&str, Diagnostic)> = vec![];
        let mut fault = |key, code: &str, message: &str, help: &str| {
            faults.push((key, Diagnostic::error(code, message).help(help)));
        };
        match (&task.kind, &task.template) {
            (None, None) => fault(
                "kind",
                "missing_kind",
                "the task has neither `kind` nor `use`",
                "add `kind:` with what it does, such as `http.request`",
            ),
            (Some(_), Some(_)) => fault(
                "use",
                "kind_and_use",
                "the task has both `kind` and `use`",
                "keep one of them",
            ),
            _ => {}
        }
        if task.window == Some(0) {
            faults.push(("window", zero("window")));
        }
        let mut fault = |key, code: &str, message: &str, help: &str| {
            faults.push((key, Diagnostic::error(code, message).help(help)));
        };
        if task.for_each.is_none() {
            if task.window.is_some() {
                let help = "add `for_each:` or remove `window`";
                fault(
                    "window",
                    "without_for_each",
                    "`window` goes with `for_each`",
                    help,
                );
            }
            if task.tolerate.is_some() {
                let help = "add `for_each:` or remove `tolerate`";
                fault(
                    "tolerate",
                    "without_for_each",
                    "`tolerate` goes with `for_each`",
                    help,
                );
            }
        }
        if task.template.is_some() {
            // With `for_each` there is a step of its own that can wait for its start.
            let waits = task.for_each.is_none();
            for (key, given) in [
                ("delay", waits && task.delay.is_some()),
                ("not_before", waits && task.not_before.is_some()),
                ("start_before", waits && task.start_before.is_some()),
                ("at_most_once", task.at_most_once),
            ] {
                if given {
                    let message = format!("`{key}` does not go with `use`");
                    let help = format!("put `{key}` on a task inside the template");
                    fault(key, "with_use", &message, &help);
                }
            }
        }
        let retries =
            task.treatment.retry.as_ref().is_some_and(|retry| retry.max_retries > 0);
        if task.at_most_once && retries {
            let message = "`at_most_once` and `retry` contradict each other";
            fault("at_most_once", "retry_at_most_once", message, "remove one of them");
        }
        match task.rule {
            Rule::AnySucceeded | Rule::AnyFailed | Rule::AtLeast(_)
                if task.needs.is_empty() =>
            {
                let message = "this rule looks at needs, and the task has none";
                fault(
                    "rule",
                    "rule_without_needs",
                    message,
                    "add `needs:` or remove `rule`",
                );
            }
            Rule::AtLeast(Amount::Count(0) | Amount::Percent(0)) => {
                let help = "ask for at least 1 need, or remove `rule`";
                fault("rule", "out_of_range", "`at_least` is 0", help);
            }
            Rule::AtLeast(Amount::Count(count))
                if count as usize > task.needs.len() =>
            {
                let message =
                    format!("`at_least: {count}` of {} needs", task.needs.len());
                let help = "ask for at most as many as there are needs";
                fault("rule", "rule_out_of_reach", &message, help);
            }
            Rule::AtLeast(amount) if is_beyond(amount) => {
                fault("rule", "out_of_range", "more than all", "write at most 100%");
            }
            _ => {}
        }
        if task.tolerate.is_some_and(is_beyond) {
            fault("tolerate", "out_of_range", "more than all", "write at most 100%");
        }
        let ok = faults.is_empty();
        for (key, diagnostic) in faults {
            self.complain(diagnostic, task, key, place);
        }
        let (at_tasks, treatment) = (At::base(&place.at), &task.treatment);
        check_treatment(treatment, &at_tasks.key(&task.name), self.findings);
        ok
    }
}
