//! Checks every expression of a document before anything runs: syntax, names, and that
//! the tasks it names are upstream.

use std::collections::HashMap;

use super::{
    Diagnostic, Document, Input, Path, Task, Tree,
    compile::bare,
    dollar::missing_dollar,
    known::{self, declared, field, unknown_name},
    reader::{At, Findings, shown},
    upstream::are_upstream,
};
use crate::expr::{self, Part, Reference};

/// Tasks that can name one another: those of the document, or those of a template.
struct Group<'a> {
    tasks: &'a [Task],
    index: HashMap<&'a str, usize>,
    inputs: &'a [Input],
    params: Option<&'a [Input]>,
    /// Uses of tasks that are not direct needs: (user, named).
    indirect: Vec<(usize, usize)>,
}

/// What may be named at a place, beside tasks.
#[derive(Clone, Copy)]
struct Allowed {
    /// Secrets and the worker: only where nothing is stored.
    secrets: bool,
    /// `file('…')`: only where it is read.
    file: bool,
    /// `item` and `index`.
    item: bool,
    /// The user; `None` may name every task (outputs).
    user: Option<usize>,
}

impl Allowed {
    /// What the outputs of a group may name.
    const OUTPUT: Self = Self { secrets: false, file: false, item: false, user: None };
}

pub(super) fn check_expressions(document: &Document, findings: &mut Findings) {
    let root = At::ROOT;
    let mut group = Group::new(&document.tasks, &document.inputs, None);
    group.check_tasks(&root.key("tasks"), findings);
    if let Some(outputs) = &document.outputs {
        group.check_value(outputs, Allowed::OUTPUT, &root.key("outputs"), findings);
    }
    let at = root.key("templates");
    for template in &document.templates {
        let here = at.key(&template.name);
        let mut group =
            Group::new(&template.tasks, &document.inputs, Some(&template.params));
        group.check_tasks(&here.key("tasks"), findings);
        if let Some(output) = &template.output {
            group.check_value(output, Allowed::OUTPUT, &here.key("output"), findings);
        }
        // A default is written once for all uses: it knows the inputs, and no task.
        let mut group = Group::new(&[], &document.inputs, None);
        let at = here.key("params");
        for param in &template.params {
            if let Some(default) = &param.default {
                let at = at.key(&param.name);
                group.check_value(
                    default,
                    Allowed::OUTPUT,
                    &at.key("default"),
                    findings,
                );
            }
        }
    }
}

/// Checks an argument of a canvas: it is given before anything has run, so it may name
/// inputs and secrets, and no step.
pub(super) fn check_argument(
    value: &Tree,
    document: &Document,
    at: &At<'_>,
    findings: &mut Findings,
) {
    let mut group = Group::new(&[], &document.inputs, None);
    let allowed = Allowed { secrets: true, ..Allowed::OUTPUT };
    group.check_value(value, allowed, at, findings);
}

impl<'a> Group<'a> {
    fn new(
        tasks: &'a [Task],
        inputs: &'a [Input],
        params: Option<&'a [Input]>,
    ) -> Self {
        let index =
            tasks.iter().enumerate().map(|(at, task)| (&*task.name, at)).collect();
        Self { tasks, index, inputs, params, indirect: vec![] }
    }

    fn check_tasks(&mut self, at: &At<'_>, findings: &mut Findings) {
        for (user, task) in self.tasks.iter().enumerate() {
            if findings.is_full() {
                findings.hide(1);
                return;
            }
            let here = at.key(&task.name);
            let item = task.for_each.is_some();
            let user = Some(user);
            if let Some(with) = &task.with {
                // Parameters of a template may end in outputs, which are stored: a secret
                // is named by the step that uses it.
                let secrets = task.template.is_none();
                let allowed = Allowed { secrets, file: true, item, user };
                let at = here.key("with");
                self.check_value(with, allowed, &at, findings);
                missing_dollar(with, item, &at, findings);
            }
            let stored = Allowed { user, ..Allowed::OUTPUT };
            if let Some(condition) = &task.condition {
                self.check_condition(condition, stored, &here.key("if"), findings);
            }
            if let Some(items) = &task.for_each {
                self.check_value(items, stored, &here.key("for_each"), findings);
            }
        }
        if !self.indirect.is_empty() {
            self.check_upstream(at, findings);
        }
    }

    fn check_upstream(&self, at: &At<'_>, findings: &mut Findings) {
        let needs: Vec<Vec<usize>> = self
            .tasks
            .iter()
            .map(|task| {
                let known = task.needs.iter();
                known.filter_map(|need| self.index.get(&**need).copied()).collect()
            })
            .collect();
        let upstream = are_upstream(&needs, &self.indirect);
        for ((user, named), found) in self.indirect.iter().zip(upstream) {
            let task = &self.tasks[*user];
            // A need that does not exist is probably this one, and reported already.
            if found || needs[*user].len() < task.needs.len() {
                continue;
            }
            if findings.is_full() {
                findings.hide(1);
                continue;
            }
            let (user, named) = (&task.name, &self.tasks[*named].name);
            let message =
                format!("task `{user}` uses `tasks.{named}`, which is not upstream");
            let help = format!("add `{named}` to the `needs` of `{user}`");
            let diagnostic = Diagnostic::error("not_upstream", message)
                .help(help)
                .task(user.clone())
                .task(named.clone());
            let here = at.key(user);
            let path = place_of_use(task, named, &here).unwrap_or_else(|| here.path());
            findings.add_path(diagnostic, path);
        }
    }

    fn check_value(
        &mut self,
        value: &Tree,
        allowed: Allowed,
        at: &At<'_>,
        findings: &mut Findings,
    ) {
        match value {
            Tree::String(text) if text.contains("${{") => {
                // Spaces around an expression do not make it a part of a text here.
                match expr::split(text.trim()) {
                    Ok(parts) => {
                        let allowed = Allowed {
                            file: allowed.file && parts.len() == 1,
                            ..allowed
                        };
                        for part in parts {
                            if let Part::Expression(expression) = part {
                                self.check_expression(
                                    expression, allowed, at, findings,
                                );
                            }
                        }
                    }
                    Err(error) => {
                        let help = "close it with `}}`, or write `$${{` for the \
                                    characters";
                        let diagnostic =
                            Diagnostic::error("bad_expression", error.to_string());
                        findings.add(diagnostic.help(help), at);
                    }
                }
            }
            Tree::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.check_value(item, allowed, &at.index(index), findings);
                }
            }
            Tree::Map(entries) => {
                for (key, item) in entries {
                    self.check_value(item, allowed, &at.key(key), findings);
                }
            }
            Tree::String(_) | Tree::Null | Tree::Bool(_) | Tree::Number(_) => {}
        }
    }

    /// An `if:` is one expression, with or without its `${{ }}`.
    fn check_condition(
        &mut self,
        condition: &str,
        allowed: Allowed,
        at: &At<'_>,
        findings: &mut Findings,
    ) {
        let expression = bare(condition);
        let is_mixed = match expr::split(condition.trim()) {
            Ok(parts) => {
                condition.contains("${{")
                    && !matches!(parts.as_slice(), [Part::Expression(_)])
            }
            Err(_) => true,
        };
        if is_mixed {
            let message = "the condition is not one expression";
            let help = "write one `${{ … }}` around the whole condition, or none";
            let diagnostic = Diagnostic::error("bad_expression", message).help(help);
            return findings.add(diagnostic, at);
        }
        self.check_expression(expression, allowed, at, findings);
    }

    fn check_expression(
        &mut self,
        expression: &str,
        allowed: Allowed,
        at: &At<'_>,
        findings: &mut Findings,
    ) {
        if let Err(fault) = expr::check(expression) {
            let message = format!("{} in `{}`", fault.message, shown(expression));
            let diagnostic = Diagnostic::error("bad_expression", message);
            return findings.add(diagnostic.help(fault.help), at);
        }
        let roots = expr::roots(expression);
        // Where a hyphen was taken for a minus, what follows it is no name of its own.
        let mut skip_to = 0;
        for reference in expr::references(expression) {
            let is_root = roots.iter().any(|root| root == reference.root);
            if reference.at < skip_to || !is_root {
                continue;
            }
            let found = if reference.root == "file" && reference.called {
                let fits = allowed.file && super::files::argument(expression).is_some();
                (!fits).then(known::misplaced_file)
            } else if let Some(found) = self.hyphenated(&reference) {
                skip_to = end_of(&reference);
                Some(found)
            } else {
                self.check_reference(&reference, allowed, findings)
            };
            if let Some(mut diagnostic) = found {
                if let Some(user) = allowed.user {
                    diagnostic = diagnostic.task(self.tasks[user].name.clone());
                }
                findings.add(diagnostic, at);
            }
        }
    }

    fn check_reference(
        &mut self,
        reference: &Reference<'_>,
        allowed: Allowed,
        findings: &Findings,
    ) -> Option<Diagnostic> {
        let member = reference.member.as_deref();
        match reference.root {
            "tasks" | "needs" => self.check_task(reference, allowed, findings),
            "inputs" => declared("input", member, Some(self.inputs), findings),
            "params" => declared("parameter", member, self.params, findings),
            "item" | "index" if allowed.item => None,
            root @ ("item" | "index") => Some(known::no_item(root)),
            root @ ("secrets" | "worker") if !allowed.secrets => {
                Some(known::stored_secret(root))
            }
            "secrets" => member.is_none().then(known::nameless_secret),
            "project" => field("project", member, &["id", "name"]),
            "task" => field("task", member, &["name", "path", "title"]),
            "worker" => field("worker", member, &["id"]),
            "range" | "dict" => None,
            _ => Some(unknown_name(reference)),
        }
    }

    /// A name with a hyphen that reads as a subtraction.
    fn hyphenated(&self, reference: &Reference<'_>) -> Option<Diagnostic> {
        let whole = reference.hyphenated?;
        let member = reference.member.as_deref()?;
        let among = |inputs: &[Input], name: &str| {
            inputs.iter().any(|input| input.name == name)
        };
        let exists = |name: &str| match reference.root {
            "tasks" | "needs" => self.index.contains_key(name),
            "inputs" => among(self.inputs, name),
            "params" => self.params.is_some_and(|params| among(params, name)),
            _ => false,
        };
        (exists(whole) && !exists(member)).then(|| {
            let root = reference.root;
            let message = format!("`{root}.{whole}` reads as a subtraction");
            let help = format!("write `{root}['{whole}']`");
            Diagnostic::error("hyphenated_name", message).help(help)
        })
    }

    /// A use of `tasks.NAME` or `needs.NAME`.
    fn check_task(
        &mut self,
        reference: &Reference<'_>,
        allowed: Allowed,
        findings: &Findings,
    ) -> Option<Diagnostic> {
        let root = reference.root;
        let Some(member) = &reference.member else {
            if root == "needs" {
                return None;
            }
            let message = "`tasks` needs the name of a task";
            let help = "write `tasks.NAME.output` or `tasks['NAME'].output`";
            return Some(Diagnostic::error("unknown_name", message).help(help));
        };
        let Some(named) = self.index.get(member.as_str()).copied() else {
            let message = format!("there is no task `{}`", shown(member));
            let help = findings
                .suggest(member, self.index.keys().copied())
                .unwrap_or_else(|| "name a task of this group".to_owned());
            return Some(Diagnostic::error("unknown_task", message).help(help));
        };
        let parts = ["output", "state", "error", "attempts"];
        let place = format!("{root}.{member}");
        if let Some(diagnostic) = field(&place, reference.field.as_deref(), &parts) {
            return Some(diagnostic);
        }
        let user = allowed.user?;
        let direct = self.tasks[user].needs.iter().any(|need| need == member);
        if user == named {
            let message = format!("task `{member}` uses its own output");
            let help = "only tasks upstream may be named";
            return Some(Diagnostic::error("not_upstream", message).help(help));
        }
        if !direct && root == "needs" {
            let message = format!("`{member}` is not among the `needs` of the task");
            let help = format!("add it there, or write `tasks.{member}`");
            return Some(Diagnostic::error("not_upstream", message).help(help));
        }
        if !direct {
            self.indirect.push((user, named));
        }
        None
    }
}

/// Where the name that follows a root ends when its hyphens belong to it.
fn end_of(reference: &Reference<'_>) -> usize {
    let name = reference.hyphenated.map_or(0, str::len);
    reference.at + reference.root.len() + 1 + name
}

/// Where a task names another one first.
fn place_of_use(task: &Task, named: &str, at: &At<'_>) -> Option<Path> {
    let in_condition = || {
        let condition = task.condition.as_ref()?;
        uses(bare(condition), named).then(|| at.key("if").path())
    };
    let in_value = |key: &str, value: Option<&Tree>| find(value?, named, &at.key(key));
    in_value("with", task.with.as_ref())
        .or_else(in_condition)
        .or_else(|| in_value("for_each", task.for_each.as_ref()))
}

fn find(value: &Tree, named: &str, at: &At<'_>) -> Option<Path> {
    match value {
        Tree::String(text) if text.contains("${{") => {
            let parts = expr::split(text).unwrap_or_default();
            let is_use =
                |part: &Part<'_>| matches!(part, Part::Expression(e) if uses(e, named));
            parts.iter().any(is_use).then(|| at.path())
        }
        Tree::List(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| find(item, named, &at.index(index))),
        Tree::Map(entries) => {
            entries.iter().find_map(|(key, item)| find(item, named, &at.key(key)))
        }
        Tree::String(_) | Tree::Null | Tree::Bool(_) | Tree::Number(_) => None,
    }
}

fn uses(expression: &str, named: &str) -> bool {
    expr::references(expression)
        .iter()
        .any(|found| found.root == "tasks" && found.member.as_deref() == Some(named))
}
