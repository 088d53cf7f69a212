//! Expansion of `for_each`: a plan of one item, and the step that runs it for all.

use super::{
    Diagnostic, Task, Tree,
    builder::{Builder, Guard, Place},
    compile::Compiler,
    graph::from_problem,
};
use crate::{
    expr::{self, Part},
    plan::{Action, Body, Dynamic, ForEach, Plan, Policy, Scope, Settings},
};

impl<'a> Compiler<'a> {
    pub(super) fn for_each(
        &mut self,
        builder: &mut Builder,
        task: &'a Task,
        name: String,
        guard: Guard,
        place: &Place,
    ) {
        let Some(items) = &task.for_each else { return };
        if !may_be_list(items) {
            let found = match items {
                Tree::String(_) => "a text",
                other => other.describe(),
            };
            let message = format!("expected a list of items, found {found}");
            let help = "write a list, or one expression that gives a list: `${{ … }}`";
            let diagnostic = Diagnostic::error("wrong_type", message).help(help);
            self.complain(diagnostic, task, "for_each", place);
        }
        let mut body = Builder::new(vec![Scope::Item]);
        let inside = Place {
            prefix: String::new(),
            scope: 0,
            guard: Guard::default(),
            // A failed item is judged by the `for_each`: the allowance is the parent's.
            contained: true,
            is_item: true,
            treatment: place.treatment.clone(),
            at: place.at.clone(),
        };
        if task.template.is_some() {
            self.instance(&mut body, task, String::new(), Guard::default(), &inside);
        } else {
            let own = Guard::default();
            self.run_step(&mut body, task, String::new(), own, &inside);
        }
        if self.findings.has_errors() {
            return;
        }
        let settings = Settings {
            scopes: body.scopes,
            policies: body.policies,
            ..Settings::default()
        };
        match Plan::build(body.drafts, settings) {
            Ok(plan) => {
                let action = Action::ForEach(Box::new(ForEach {
                    items: Dynamic::new(items.to_raw()),
                    body: Body(plan.into()),
                    window: task.window,
                    tolerate: task.tolerate,
                }));
                let kind = task.kind.as_deref().unwrap_or_default();
                let policy = builder.policy(Policy {
                    allow_failure: task.allow_failure,
                    contained: place.contained,
                    delay: task.delay.unwrap_or_default(),
                    not_before: task.not_before,
                    start_before: task.start_before,
                    priority: self.merged(task, kind, place).priority,
                    labels: task.labels.clone(),
                    ..Policy::default()
                });
                let title = task.title.clone();
                builder.add(name, title, action, guard, place.scope, policy);
            }
            Err(problems) => {
                for problem in problems {
                    self.complain(from_problem(&problem), task, "for_each", place);
                }
            }
        }
    }
}

/// Whether a value is a list, or one expression, which may give one.
fn may_be_list(items: &Tree) -> bool {
    match items {
        Tree::List(_) => true,
        // An expression that does not end is reported as such.
        Tree::String(text) => expr::split(text.trim())
            .map_or(true, |parts| matches!(parts.as_slice(), [Part::Expression(_)])),
        Tree::Null | Tree::Bool(_) | Tree::Number(_) | Tree::Map(_) => false,
    }
}
