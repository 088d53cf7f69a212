//! Checks every expression of a document before anything runs: syntax, names, and that
//! the tasks it names are upstream.

use std::collections::HashMap;

use super::{
    Diagnostic, Document, Input, Task, Tree,
    compile::bare,
    reader::{At, Findings},
};
use crate::{
    expr::{self, Part},
    plan::nearest,
};

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
    /// `item` and `index`.
    item: bool,
    /// The user; `None` may name every task (outputs).
    user: Option<usize>,
}

pub(super) fn check_expressions(document: &Document, findings: &mut Findings) {
    let root = At::ROOT;
    let mut group = Group::new(&document.tasks, &document.inputs, None);
    group.check_tasks(&root.key("tasks"), findings);
    if let Some(outputs) = &document.outputs {
        let allowed = Allowed { secrets: false, item: false, user: None };
        group.check_value(outputs, allowed, &root.key("outputs"), findings);
    }
    let at = root.key("templates");
    for template in &document.templates {
        let here = at.key(&template.name);
        let mut group =
            Group::new(&template.tasks, &document.inputs, Some(&template.params));
        group.check_tasks(&here.key("tasks"), findings);
        if let Some(output) = &template.output {
            let allowed = Allowed { secrets: false, item: false, user: None };
            group.check_value(output, allowed, &here.key("output"), findings);
        }
    }
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
            let here = at.key(&task.name);
            let item = task.for_each.is_some();
            let user = Some(user);
            if let Some(with) = &task.with {
                let allowed = Allowed { secrets: true, item, user };
                self.check_value(with, allowed, &here.key("with"), findings);
            }
            let stored = Allowed { secrets: false, item: false, user };
            if let Some(condition) = &task.condition {
                let at = here.key("if");
                self.check_expression(bare(condition), stored, &at, findings);
            }
            if let Some(items) = &task.for_each {
                self.check_value(items, stored, &here.key("for_each"), findings);
            }
        }
        let needs: Vec<Vec<usize>> = match self.indirect.as_slice() {
            [] => return,
            _ => self
                .tasks
                .iter()
                .map(|task| {
                    task.needs
                        .iter()
                        .filter_map(|n| self.index.get(&**n).copied())
                        .collect()
                })
                .collect(),
        };
        let upstream = are_upstream(&needs, &self.indirect);
        for ((user, named), found) in self.indirect.iter().zip(upstream) {
            if !found {
                let (user, named) = (&self.tasks[*user].name, &self.tasks[*named].name);
                let message = format!(
                    "task `{user}` uses `tasks.{named}`, which is not upstream"
                );
                let help = format!("add `{named}` to the `needs` of `{user}`");
                let diagnostic = Diagnostic::error("not_upstream", message)
                    .help(help)
                    .task(user.clone())
                    .task(named.clone());
                findings.add(diagnostic, &at.key(user));
            }
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
            Tree::String(text) if text.contains("${{") => match expr::split(text) {
                Ok(parts) => {
                    for part in parts {
                        if let Part::Expression(expression) = part
                            && !expression.starts_with("file(")
                        {
                            self.check_expression(expression, allowed, at, findings);
                        }
                    }
                }
                Err(error) => {
                    let help = "close it with `}}`, or write `$${{` for the characters";
                    let diagnostic =
                        Diagnostic::error("bad_expression", error.to_string());
                    findings.add(diagnostic.help(help), at);
                }
            },
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

    fn check_expression(
        &mut self,
        expression: &str,
        allowed: Allowed,
        at: &At<'_>,
        findings: &mut Findings,
    ) {
        if let Err(message) = expr::check(expression) {
            let message = format!("{message} in `{expression}`");
            let help = "see docs/expressions.md for the language";
            findings.add(Diagnostic::error("bad_expression", message).help(help), at);
            return;
        }
        let roots = expr::roots(expression);
        for reference in expr::references(expression) {
            if !roots.iter().any(|root| root == reference.root) {
                continue;
            }
            let member = reference.member.as_deref();
            let diagnostic = match reference.root {
                "tasks" | "needs" => self.check_task(&reference, allowed),
                "inputs" => declared("input", member, Some(self.inputs)),
                "params" => declared("parameter", member, self.params),
                "item" | "index" if allowed.item => None,
                "item" | "index" => Some(
                    Diagnostic::error(
                        "unknown_name",
                        format!(
                            "`{}` exists only in the `with:` of a `for_each`",
                            reference.root
                        ),
                    )
                    .help("add `for_each:` to the task"),
                ),
                "secrets" | "worker" if !allowed.secrets => Some(
                    Diagnostic::error(
                        "secret_stored",
                        format!(
                            "`{}` may stand only under `with:` of a task",
                            reference.root
                        ),
                    )
                    .help("its value would be stored here; pass it to a step instead"),
                ),
                "secrets" if member.is_none() => Some(
                    Diagnostic::error(
                        "unknown_name",
                        "`secrets` needs the name of a secret",
                    )
                    .help(
                        "write `secrets.NAME`, set DANDORI_SECRET_NAME on the worker",
                    ),
                ),
                "project" | "task" | "worker" | "secrets" | "range" | "dict" => None,
                other => Some(unknown_name(other)),
            };
            if let Some(mut diagnostic) = diagnostic {
                if let Some(user) = allowed.user {
                    diagnostic = diagnostic.task(self.tasks[user].name.clone());
                }
                findings.add(diagnostic, at);
            }
        }
    }

    /// A use of `tasks.NAME` or `needs.NAME`.
    fn check_task(
        &mut self,
        reference: &expr::Reference<'_>,
        allowed: Allowed,
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
        let named = self.index.get(member.as_str()).copied();
        if let Some(hyphenated) = reference.hyphenated
            && named.is_none()
            && self.index.contains_key(hyphenated)
        {
            let message = format!("`{root}.{hyphenated}` reads as a subtraction");
            let help = format!("write `{root}['{hyphenated}']`");
            return Some(Diagnostic::error("hyphenated_name", message).help(help));
        }
        let Some(named) = named else {
            let message = format!("there is no task `{member}`");
            let diagnostic = Diagnostic::error("unknown_task", message);
            return Some(match nearest(member, self.index.keys().copied()) {
                Some(name) => diagnostic.help(format!("did you mean `{name}`?")),
                None => diagnostic.help("name a task of this group"),
            });
        };
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

fn declared(
    what: &str,
    member: Option<&str>,
    inputs: Option<&[Input]>,
) -> Option<Diagnostic> {
    let Some(inputs) = inputs else {
        let message = "`params` exists only inside a template";
        let help = "write `inputs.NAME` for the inputs of the project";
        return Some(Diagnostic::error("unknown_name", message).help(help));
    };
    let member = member?;
    if inputs.iter().any(|input| input.name == member) {
        return None;
    }
    let diagnostic =
        Diagnostic::error("unknown_name", format!("there is no {what} `{member}`"));
    Some(match nearest(member, inputs.iter().map(|input| &*input.name)) {
        Some(name) => diagnostic.help(format!("did you mean `{name}`?")),
        None => diagnostic.help(format!("declare the {what} `{member}` first")),
    })
}

fn unknown_name(name: &str) -> Diagnostic {
    const NAMES: [&str; 10] = [
        "inputs", "params", "tasks", "needs", "item", "index", "project", "task",
        "worker", "secrets",
    ];
    let diagnostic =
        Diagnostic::error("unknown_name", format!("unknown name `{name}`"));
    match nearest(name, NAMES) {
        Some(name) => diagnostic.help(format!("did you mean `{name}`?")),
        None => diagnostic.help(format!("known names: {}", NAMES.join(", "))),
    }
}

/// For each (user, named): whether `named` can be reached from `user` along needs.
///
/// 64 named tasks at a time travel as one mask through the graph in topological order,
/// so a large document with many uses stays linear in practice.
fn are_upstream(needs: &[Vec<usize>], queries: &[(usize, usize)]) -> Vec<bool> {
    let mut open: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut dependents = vec![vec![]; needs.len()];
    for (task, needs) in needs.iter().enumerate() {
        for need in needs {
            dependents[*need].push(task);
        }
    }
    let mut order: Vec<usize> =
        (0..needs.len()).filter(|task| open[*task] == 0).collect();
    let mut at = 0;
    while let Some(task) = order.get(at).copied() {
        at += 1;
        for dependent in &dependents[task] {
            open[*dependent] -= 1;
            if open[*dependent] == 0 {
                order.push(*dependent);
            }
        }
    }
    let mut targets: Vec<usize> = queries.iter().map(|(_, named)| *named).collect();
    targets.sort_unstable();
    targets.dedup();
    let mut answers = vec![false; queries.len()];
    for chunk in targets.chunks(64) {
        let mut masks = vec![0_u64; needs.len()];
        let mut bits = HashMap::new();
        for (bit, target) in chunk.iter().enumerate() {
            bits.insert(*target, 1_u64 << bit);
        }
        for task in &order {
            for need in &needs[*task] {
                masks[*task] |= masks[*need] | bits.get(need).copied().unwrap_or(0);
            }
        }
        for ((user, named), answer) in queries.iter().zip(&mut answers) {
            if let Some(bit) = bits.get(named) {
                *answer = masks[*user] & bit != 0;
            }
        }
    }
    answers
}
