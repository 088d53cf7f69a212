//! From what a handler makes of its step, while the project runs, to the plan of that.

use super::{
    CompileOptions, Diagnostic, Document, Path, Severity, Timeout, Treatment, Tree,
    builder::Place, canvas::plan, reader::Findings,
};
use crate::{
    Canvas, Kinds, StepError,
    canvas::{Around, Whole},
    plan::{Action, MAX_STEPS, Plan, Policy},
};

/// Compiles the canvas that a step becomes. Its steps are treated as the step is, where
/// their options say nothing else.
///
/// # Errors
/// `invalid_expansion`, permanent: the canvas has a fault, or runs nothing.
pub(crate) fn expansion(
    canvas: &Canvas,
    args: &[serde_json::Value],
    policy: &Policy,
    kinds: &Kinds,
    foreign_kinds: bool,
) -> Result<Plan, StepError> {
    let args = args.iter().map(Tree::from).collect();
    let document = Document { args, ..Document::default() };
    let around = Around { labels: policy.labels.clone(), contained: true };
    compile(&Whole::Canvas(canvas), around, &document, policy, kinds, foreign_kinds)
}

/// Compiles members that a step adds to its group.
///
/// # Errors
/// As [`expansion`].
pub(crate) fn members(
    members: &[Canvas],
    policy: &Policy,
    kinds: &Kinds,
    foreign_kinds: bool,
) -> Result<Plan, StepError> {
    let document = Document::default();
    let labels = policy.labels.clone();
    let around = Around { labels, contained: policy.contained };
    compile(&Whole::Members(members), around, &document, policy, kinds, foreign_kinds)
}

fn compile(
    whole: &Whole<'_>,
    around: Around,
    document: &Document,
    policy: &Policy,
    kinds: &Kinds,
    foreign_kinds: bool,
) -> Result<Plan, StepError> {
    let invalid = |message: String| StepError::fail("invalid_expansion", message);
    let treatment = Treatment {
        retry: Some(policy.retry.clone()),
        timeout: Some(Timeout { soft: policy.soft, hard: policy.hard }),
        queue: Some(policy.queue.clone()),
        priority: Some(policy.priority),
    };
    let place = Place { treatment, ..Place::top() };
    let options = CompileOptions {
        kinds: Some(kinds),
        foreign_kinds,
        ..CompileOptions::default()
    };
    let mut findings = Findings::default();
    let plan =
        plan(whole, around, &place, document, &options, MAX_STEPS, &mut findings);
    let Some(plan) = plan else {
        let found = findings.into_found();
        let error = found.iter().find(|(it, _)| it.severity == Severity::Error);
        return Err(invalid(error.map_or_else(String::new, |(it, at)| said(it, at))));
    };
    let runs = |step: &crate::plan::Step| matches!(step.action, Action::Run { .. });
    match plan.steps().iter().any(runs) {
        true => Ok(plan),
        false => Err(invalid("the canvas holds no call".to_owned())),
    }
}

fn said(found: &Diagnostic, at: &Path) -> String {
    let help = found.help.as_deref().unwrap_or_default();
    format!("{}: {} ({help})", at, found.message)
}
