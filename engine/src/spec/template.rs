//! Expansion of templates: the steps of a use, and the join that stands for the task.

use std::collections::{HashMap, HashSet};

use super::{
    Diagnostic, Input, Path, Task, Template, Tree,
    builder::{Builder, Guard, Place},
    compile::Compiler,
    files::inline_files,
    graph::too_many_tasks,
    reader::At,
};
use crate::plan::{Action, Dynamic, MAX_STEPS, Policy, Rule, Scope};

/// How deep templates may use one another. Bodies of `for_each` nest in the stored plan,
/// which is read back with a bound of its own on nesting.
const MAX_NESTING: usize = 16;

/// What a use of a template comes to.
#[derive(Clone, Copy, Default)]
struct Size {
    steps: usize,
    /// How many levels of templates it has, itself included.
    height: usize,
}

impl<'a> Compiler<'a> {
    /// Expands a use of a template: its steps, then the join that stands for the task.
    pub(super) fn instance(
        &mut self,
        builder: &mut Builder,
        task: &'a Task,
        name: String,
        guard: Guard,
        place: &Place,
    ) {
        let Some(template) = self.template(task, place) else { return };
        let params = self.params(task, template, place);
        let scope = builder.scope(Scope::Template {
            task: name.clone(),
            params: Some(params),
            outer: place.scope,
        });
        let prefix = if name.is_empty() { String::new() } else { format!("{name}/") };
        // Whether items may fail is a matter of the `for_each`, not of each item.
        let allow_failure = task.allow_failure && !place.is_item;
        let inner = Place {
            prefix,
            scope,
            guard,
            contained: place.contained || allow_failure,
            treatment: task.treatment.clone().or(&place.treatment),
            ..Place::template(&template.name)
        };
        self.using.push(&template.name);
        self.expanded.insert(&template.name);
        self.group(builder, &template.tasks, &inner);
        self.using.pop();
        let needed: HashSet<&str> = template
            .tasks
            .iter()
            .flat_map(|task| &task.needs)
            .map(String::as_str)
            .collect();
        let last = template
            .tasks
            .iter()
            .filter(|task| !needed.contains(task.name.as_str()))
            .map(|task| format!("{}{}", inner.prefix, task.name))
            .collect();
        let output =
            template.output.as_ref().map(|output| Dynamic::new(output.to_raw()));
        let join = Guard { needs: last, rule: Rule::Joined, conditions: vec![] };
        let policy = builder.policy(Policy {
            allow_failure,
            contained: place.contained,
            labels: task.labels.clone(),
            ..Policy::default()
        });
        let action = Action::Join { output };
        builder.add(name, task.title.clone(), action, join, scope, policy);
    }

    /// Looks at the templates that nothing uses as if something did: their faults would
    /// otherwise wait for the first use.
    pub(super) fn unused_templates(&mut self) {
        let document = self.document;
        for template in &document.templates {
            if self.expanded.contains(template.name.as_str()) {
                continue;
            }
            self.using.push(&template.name);
            let mut builder = Builder::new(vec![Scope::Root]);
            let place = Place::template(&template.name);
            self.group(&mut builder, &template.tasks, &place);
            self.using.pop();
        }
    }

    /// Counts the steps before any is made: a few templates that use one another make
    /// millions. False, with a finding, where they are too many, or nest too deeply.
    pub(super) fn check_size(&mut self, limit: usize) -> bool {
        let mut sizes = HashMap::new();
        let document = self.document;
        for template in &document.templates {
            if self.size_of(template, &mut sizes, 0).height > MAX_NESTING {
                let message =
                    format!("templates use one another over {MAX_NESTING} levels deep");
                let found = Diagnostic::error("too_deep", message)
                    .help("put the tasks of some of them into one template");
                let at = Path::default().key("templates").key_name(&template.name);
                self.findings.add_path(found, at);
                return false;
            }
        }
        let groups = document.templates.iter().map(|template| {
            (Place::template(&template.name), template.tasks.as_slice())
        });
        let top = (Place::top(), document.tasks.as_slice());
        for (place, tasks) in std::iter::once(top).chain(groups) {
            let mut steps = 0_usize;
            for task in tasks {
                let used = task.template.as_deref().and_then(|name| sizes.get(name));
                steps += 1 + used.map_or(0, |size| size.steps);
                if steps > limit {
                    let found = too_many_tasks(steps, limit);
                    self.complain(found, task, "use", &place);
                    return false;
                }
            }
        }
        true
    }

    /// How large a use of a template is. A template inside itself counts as nothing:
    /// that is reported elsewhere.
    fn size_of(
        &self,
        template: &'a Template,
        sizes: &mut HashMap<&'a str, Size>,
        depth: usize,
    ) -> Size {
        if depth > MAX_NESTING {
            return Size { steps: 0, height: 1 };
        }
        if let Some(size) = sizes.get(template.name.as_str()) {
            return *size;
        }
        sizes.insert(&template.name, Size::default());
        let mut size = Size { steps: 0, height: 1 };
        for task in &template.tasks {
            let used = task.template.as_deref();
            let used = used.and_then(|name| self.templates.get(name));
            let inner = used
                .map_or(Size::default(), |used| self.size_of(used, sizes, depth + 1));
            // Bounded, so that the sum of a whole document cannot overflow.
            size.steps = (size.steps + 1 + inner.steps).min(10 * MAX_STEPS);
            size.height = size.height.max(1 + inner.height);
        }
        sizes.insert(&template.name, size);
        size
    }

    fn template(&mut self, task: &Task, place: &Place) -> Option<&'a Template> {
        let wanted = task.template.as_deref().unwrap_or_default();
        if self.using.contains(&wanted) {
            let ring = format!("{} → {wanted}", self.using.join(" → "));
            let message = format!("a template uses itself: {ring}");
            let diagnostic = Diagnostic::error("template_cycle", message)
                .help("remove one of these uses");
            self.complain(diagnostic, task, "use", place);
            return None;
        }
        let found = self.templates.get(wanted).copied();
        if found.is_none() {
            let help = self
                .findings
                .suggest(wanted, self.templates.keys().copied())
                .unwrap_or_else(|| format!("add `{wanted}` under `templates:`"));
            let message = format!("unknown template `{wanted}`");
            let diagnostic = Diagnostic::error("unknown_template", message).help(help);
            self.complain(diagnostic, task, "use", place);
        }
        found
    }

    /// The parameters of a use: what `with:` gives, completed by defaults.
    fn params(&mut self, task: &Task, template: &Template, place: &Place) -> Dynamic {
        let given = match &task.with {
            Some(Tree::Map(entries)) => entries.as_slice(),
            _ => &[],
        };
        let at_task = place.at.key(&task.name);
        let at_with = at_task.key("with");
        for (key, value) in given {
            match template.params.iter().find(|param| param.name == *key) {
                None => {
                    let names = template.params.iter().map(|p| p.name.as_str());
                    let help =
                        self.findings.suggest(key, names.clone()).unwrap_or_else(
                            || match names.collect::<Vec<_>>().join(", ") {
                                none if none.is_empty() => {
                                    "the template has no `params:`".to_owned()
                                }
                                names => format!("parameters: {names}"),
                            },
                        );
                    let message = format!(
                        "the template `{}` has no parameter `{key}`",
                        template.name
                    );
                    let found =
                        Diagnostic::error("unknown_parameter", message).help(help);
                    self.findings.add_path(found, at_with.key_name(key));
                }
                Some(param) => self.check_param(param, value, at_with.key(key)),
            }
        }
        let mut values = vec![];
        let at = At::base(&at_with);
        for param in &template.params {
            let value = given.iter().find(|(key, _)| *key == param.name);
            match value.map(|(_, value)| value).or(param.default.as_ref()) {
                Some(value) => {
                    let at = at.key(&param.name);
                    let read = inline_files(value, self.options, &at, self.findings);
                    let value = read.unwrap_or_else(|| value.clone());
                    values.push((param.name.clone(), value));
                }
                None => {
                    let message = format!("the parameter `{}` is missing", param.name);
                    let help = format!("add `{}` under `with:`", param.name);
                    let diagnostic =
                        Diagnostic::error("missing_parameter", message).help(help);
                    self.complain(diagnostic, task, "use", place);
                }
            }
        }
        Dynamic::new(Tree::Map(values).to_raw())
    }

    fn check_param(&mut self, param: &Input, value: &Tree, path: Path) {
        let dynamic = matches!(value, Tree::String(text) if text.contains("${{"));
        if !dynamic && !param.kind.admits(value) {
            let message =
                format!("expected {}, found {}", param.kind.as_str(), value.describe());
            let help =
                format!("`{}` is declared as {}", param.name, param.kind.as_str());
            self.findings
                .add_path(Diagnostic::error("wrong_type", message).help(help), path);
        }
    }
}
