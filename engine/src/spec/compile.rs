//! From a [`Document`] to a [`Plan`]: the order of the passes, and what becomes of a task.
//!
//! Templates are expanded by `template`, bodies by `for_each`; `fits` and `handlers` look
//! at single tasks, `check` at expressions, `graph` at needs. All findings are collected,
//! so that a fault of one pass does not hide those of another.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path as FilePath,
};

use sha2::{Digest as _, Sha256};

use super::{
    Diagnostic, Document, Path, Task, Template, Tree,
    builder::{Builder, Guard, Place},
    check::check_expressions,
    files::inline_files,
    fits::check_settings,
    graph::{check_group, from_problem, too_many_tasks},
    inputs::resolve_inputs,
    project::name_fault,
    reader::{At, Findings},
};
use crate::{
    Kinds,
    plan::{
        Action, Condition, Dynamic, Flow, MAX_STEPS, Plan, Policy, Problem, Scope,
        Settings,
    },
};

/// A compiled document: what is submitted.
#[derive(Debug)]
pub struct Compiled {
    /// The plan.
    pub plan: Plan,
    /// The name of the project.
    pub name: String,
    /// The values of its inputs, a JSON object.
    pub inputs: serde_json::Map<String, serde_json::Value>,
    /// Its priority among projects.
    pub priority: i32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The key under which the same submission is recorded once.
    pub idempotency_key: Option<String>,
    /// How many tasks the document has.
    pub tasks: usize,
    /// Warnings.
    pub warnings: Vec<(Diagnostic, Path)>,
    /// Who submits it, for the audit.
    pub author: Option<crate::store::Author>,
    /// The texts that `file('…')` stood for, by name.
    pub files: BTreeMap<String, String>,
}

impl Compiled {
    /// What two submissions under one key must have in common.
    pub(crate) fn fingerprint(&self, inputs: &[u8]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.plan.hash());
        hash.update(inputs);
        hash.update(self.name.as_bytes());
        // Only where they are given: older keyed projects were told apart without them.
        if !self.labels.is_empty() || self.priority != 0 {
            let beside = (&self.labels, self.priority);
            hash.update(serde_json::to_vec(&beside).unwrap_or_default());
        }
        hash.finalize().into()
    }
}

/// What a document is compiled against.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompileOptions<'a> {
    /// The kinds that can run; `None` accepts any.
    pub kinds: Option<&'a Kinds>,
    /// Whether other workers may have kinds that are not known here: these are warned
    /// about then.
    pub foreign_kinds: bool,
    /// Values of inputs that go over the document's own.
    pub inputs: &'a [(String, Tree)],
    /// The folder that `file('…')` reads from; `None` refuses it.
    pub folder: Option<&'a FilePath>,
    /// Texts by name that `file('…')` stands for, before any in the folder.
    pub files: Option<&'a BTreeMap<String, String>>,
    /// The most tasks, those of templates counted for every use; the limit of plans when
    /// `None`.
    pub max_tasks: Option<usize>,
}

impl Compiled {
    /// A plan with what its document says beside it.
    pub(super) fn of(
        document: &Document,
        plan: Plan,
        inputs: serde_json::Map<String, serde_json::Value>,
        tasks: usize,
    ) -> Self {
        Self {
            plan,
            name: document.name.clone().unwrap_or_else(|| "project".to_owned()),
            inputs,
            priority: document.priority,
            labels: document.labels.clone(),
            idempotency_key: document.idempotency_key.clone(),
            tasks,
            warnings: vec![],
            author: None,
            files: BTreeMap::new(),
        }
    }
}

/// Builds the plan of a document from its steps.
pub(super) fn build(
    builder: Builder,
    document: &Document,
    value: Option<Flow>,
) -> Result<Plan, Vec<Problem>> {
    let outputs = document.outputs.as_ref();
    let settings = Settings {
        scopes: builder.scopes,
        policies: builder.policies,
        max_parallel: document.max_parallel,
        fail_fast: document.fail_fast,
        outputs: outputs.map(|outputs| Dynamic::new(outputs.to_raw())),
        value,
    };
    Plan::build(builder.drafts, settings)
}

/// Compiles a document.
pub(super) fn compile(
    document: &Document,
    options: &CompileOptions<'_>,
    findings: &mut Findings,
) -> Option<Compiled> {
    // One that was given beside the text of the document, or by a program.
    if let Some(fault) = document.name.as_deref().and_then(name_fault) {
        findings.add(fault, &At::ROOT.key("name"));
    }
    let limit = options.max_tasks.unwrap_or(MAX_STEPS);
    if let Some(canvas) = &document.canvas {
        return super::canvas::compile(canvas, document, options, limit, findings);
    }
    if document.tasks.len() > limit {
        let found = too_many_tasks(document.tasks.len(), limit);
        findings.add(found, &At::ROOT.key("tasks"));
        return None;
    }
    let inputs = resolve_inputs(document, options.inputs, findings);
    check_settings(document, findings);
    let at = At::ROOT.key("templates");
    for template in &document.templates {
        let here = at.key(&template.name);
        check_group(&template.tasks, &here.key("tasks"), findings);
    }
    check_expressions(document, findings);
    let mut compiler = Compiler::new(document, options, findings);
    compiler.check_kinds_of_defaults();
    if !compiler.check_size(limit) {
        return None;
    }
    let mut builder = Builder::new(vec![Scope::Root]);
    compiler.group(&mut builder, &document.tasks, &Place::top());
    compiler.unused_templates();
    let at = At::ROOT.key("tasks");
    if findings.has_errors() {
        if findings.is_full() {
            return None;
        }
        check_group(&document.tasks, &at, findings);
        return None;
    }
    match build(builder, document, None) {
        Ok(plan) => Some(Compiled::of(document, plan, inputs, document.tasks.len())),
        Err(problems) => {
            // The build looks at steps; people want to hear of their tasks.
            check_group(&document.tasks, &at, findings);
            if !findings.has_errors() {
                for problem in problems {
                    findings.add(from_problem(&problem), &at);
                }
            }
            None
        }
    }
}

pub(super) struct Compiler<'a> {
    pub(super) document: &'a Document,
    pub(super) options: &'a CompileOptions<'a>,
    pub(super) findings: &'a mut Findings,
    pub(super) templates: HashMap<&'a str, &'a Template>,
    /// The templates being expanded, outermost first: a template may not use itself.
    pub(super) using: Vec<&'a str>,
    /// The templates that were expanded at least once.
    pub(super) expanded: HashSet<&'a str>,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(
        document: &'a Document,
        options: &'a CompileOptions<'a>,
        findings: &'a mut Findings,
    ) -> Self {
        Self {
            document,
            options,
            findings,
            templates: document
                .templates
                .iter()
                .map(|t| (t.name.as_str(), t))
                .collect(),
            using: vec![],
            expanded: HashSet::new(),
        }
    }

    pub(super) fn group(
        &mut self,
        builder: &mut Builder,
        tasks: &'a [Task],
        place: &Place,
    ) {
        for task in tasks {
            if self.findings.is_full() {
                return self.findings.hide(1);
            }
            self.task(builder, task, place);
        }
    }

    pub(super) fn complain(
        &mut self,
        diagnostic: Diagnostic,
        task: &Task,
        key: &str,
        place: &Place,
    ) {
        let path = place.at.key(&task.name).key_name(key);
        self.findings.add_path(diagnostic.task(task.name.clone()), path);
    }

    fn task(&mut self, builder: &mut Builder, task: &'a Task, place: &Place) {
        if !self.fits(task, place) {
            return;
        }
        let name = format!("{}{}", place.prefix, task.name);
        let guard = Self::guard(task, place);
        if task.for_each.is_some() {
            self.for_each(builder, task, name, guard, place);
        } else if task.template.is_some() {
            self.instance(builder, task, name, guard, place);
        } else {
            self.run_step(builder, task, name, guard, place);
        }
    }

    /// What a task needs and asks before it starts.
    fn guard(task: &Task, place: &Place) -> Guard {
        let own = task.condition.as_ref().map(|text| Condition {
            expression: bare(text).to_owned(),
            scope: place.scope,
        });
        if task.needs.is_empty() {
            let mut guard = place.guard.clone();
            guard.conditions.extend(own);
            return guard;
        }
        Guard {
            needs: task.needs.iter().map(|n| format!("{}{n}", place.prefix)).collect(),
            rule: task.rule,
            conditions: own.into_iter().collect(),
        }
    }

    /// Adds the step of a task that has a kind.
    pub(super) fn run_step(
        &mut self,
        builder: &mut Builder,
        task: &Task,
        name: String,
        guard: Guard,
        place: &Place,
    ) {
        let kind = task.kind.clone().unwrap_or_default();
        let with = task.with.as_ref().map(|with| self.value(with, task, place));
        let policy = builder.policy(self.merged(task, &kind, place));
        let action = Action::Run { kind, with, call: None };
        builder.add(name, task.title.clone(), action, guard, place.scope, policy);
    }

    /// The `with:` of a task, with the files it names.
    fn value(&mut self, with: &Tree, task: &Task, place: &Place) -> Dynamic {
        let (at_tasks, options) = (At::base(&place.at), self.options);
        let at_task = at_tasks.key(&task.name);
        match inline_files(with, options, &at_task.key("with"), self.findings) {
            Some(read) => Dynamic::new(read.to_raw()),
            None => Dynamic::new(with.to_raw()),
        }
    }

    /// The policy of a step: the task's own words, then those of the task that uses the
    /// template, then the kind's defaults, then the project's.
    pub(super) fn merged(&self, task: &Task, kind: &str, place: &Place) -> Policy {
        let defaults = &self.document.defaults;
        let mut treatment = task.treatment.clone().or(&place.treatment);
        if let Some((_, of_kind)) = defaults.kinds.iter().find(|(name, _)| name == kind)
        {
            treatment = treatment.or(of_kind);
        }
        let treatment = treatment.or(&defaults.all);
        let timeout = treatment.timeout.unwrap_or_default();
        // Retries are inherited by tasks that may be started again, not by the others.
        let retry = if task.at_most_once {
            task.treatment.retry.clone()
        } else {
            treatment.retry
        };
        let starts = !place.is_item;
        Policy {
            retry: retry.unwrap_or_default(),
            soft: timeout.soft,
            hard: timeout.hard,
            start_before: task.start_before.filter(|_| starts),
            delay: task.delay.filter(|_| starts).unwrap_or_default(),
            not_before: task.not_before.filter(|_| starts),
            queue: treatment.queue.unwrap_or_else(|| Policy::DEFAULT_QUEUE.to_owned()),
            priority: treatment.priority.unwrap_or(0),
            at_most_once: task.at_most_once,
            allow_failure: task.allow_failure && task.for_each.is_none(),
            contained: place.contained,
            labels: task.labels.clone(),
        }
    }
}

/// An expression with or without its `${{ }}`.
pub(super) fn bare(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix("${{")
        .and_then(|rest| rest.strip_suffix("}}"))
        .map_or(text, str::trim)
}
