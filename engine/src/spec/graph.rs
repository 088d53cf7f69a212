//! Problems of the graph as findings of the document: which need of which task.

use std::collections::HashMap;

use super::{
    Diagnostic, Task,
    reader::{At, Findings},
};
use crate::plan::{Problem, survey};

/// More tasks than a document may have.
pub(super) fn too_many_tasks(count: usize, limit: usize) -> Diagnostic {
    from_problem(&Problem::TooManySteps { count, limit })
}

/// A problem of a plan, without a place.
pub(super) fn from_problem(problem: &Problem) -> Diagnostic {
    let mut diagnostic =
        Diagnostic::error(problem.code(), problem.to_string()).help(problem.help());
    match problem {
        Problem::Cycle { path, .. } => diagnostic.tasks.clone_from(path),
        other => diagnostic.tasks.extend(other.step().map(str::to_owned)),
    }
    diagnostic
}

/// Looks at the needs among tasks that stand together.
///
/// Expansion keeps needs inside their group, so that a group without problems stays so
/// in the plan, and one that has some reports them once, in its own words.
pub(super) fn check_group(tasks: &[Task], at: &At<'_>, findings: &mut Findings) {
    let names: Vec<&str> = tasks.iter().map(|task| &*task.name).collect();
    let needs: Vec<&[String]> = tasks.iter().map(|task| &*task.needs).collect();
    let problems = survey(&names, &needs);
    if problems.is_empty() {
        return;
    }
    let index: HashMap<&str, &Task> = names.iter().copied().zip(tasks).collect();
    for problem in &problems {
        if findings.is_full() {
            findings.hide(1);
            continue;
        }
        let diagnostic = from_problem(problem);
        let task = problem.step().and_then(|step| index.get(step));
        let Some(task) = task else {
            findings.add(diagnostic, at);
            continue;
        };
        let here = at.key(&task.name);
        let needs = here.key("needs");
        let need = match problem {
            Problem::DuplicateName { .. } | Problem::LookAlike { .. } => {
                findings.add(diagnostic, &at.name(&task.name));
                continue;
            }
            Problem::MissingNeed { need, .. } => Some(need),
            Problem::SelfNeed { step } => Some(step),
            _ => None,
        };
        // `needs: name` is a list of one without an index of its own.
        match task.needs.iter().position(|name| Some(name) == need) {
            Some(index) => findings.add(diagnostic, &needs.index(index)),
            None => findings.add(diagnostic, &needs),
        }
    }
}
