//! From a [`Document`] to a [`Plan`]: templates and bodies are expanded, policies merged,
//! names checked. The graph itself is checked by `plan`, expressions by `check`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path as FilePath,
};

use super::{
    Diagnostic, Document, Input, Path, Segment, Task, Template, Treatment, Tree,
    check::check_expressions,
    files::inline_files,
    inputs::resolve_inputs,
    names::check_name,
    reader::{At, Findings},
};
use crate::{
    Kinds,
    plan::{
        Action, Body, Condition, Draft, Dynamic, ForEach, MAX_STEPS, Plan, Policy,
        Problem, Rule, Scope, Settings, Step, nearest,
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
}

/// What a document is compiled against.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompileOptions<'a> {
    /// The kinds that can run; `None` accepts any.
    pub kinds: Option<&'a Kinds>,
    /// Values of inputs that go over the document's own.
    pub inputs: &'a [(String, Tree)],
    /// The folder that `file('…')` reads from; `None` refuses it.
    pub folder: Option<&'a FilePath>,
    /// The most tasks; the limit of plans when `None`.
    pub max_tasks: Option<usize>,
}

/// Compiles a document.
pub(super) fn compile(
    document: &Document,
    options: &CompileOptions<'_>,
    findings: &mut Findings,
) -> Option<Compiled> {
    let limit = options.max_tasks.unwrap_or(MAX_STEPS);
    if document.tasks.len() > limit {
        let problem = Problem::TooManySteps { count: document.tasks.len(), limit };
        findings.add(from_problem(&problem), &At::ROOT.key("tasks"));
        return None;
    }
    for (name, _) in &document.defaults.kinds {
        check_kind(
            name,
            options,
            &At::ROOT.key("defaults").key("kinds").name(name),
            findings,
        );
    }
    let inputs = resolve_inputs(document, options.inputs, findings);
    check_expressions(document, findings);
    let mut compiler = Compiler {
        document,
        options,
        findings,
        templates: document.templates.iter().map(|t| (t.name.as_str(), t)).collect(),
        using: vec![],
        steps: 0,
    };
    let mut builder = Builder::new(vec![Scope::Root]);
    compiler.group(&mut builder, &document.tasks, &Place::top());
    if compiler.findings.has_errors() {
        return None;
    }
    let settings = Settings {
        scopes: builder.scopes,
        policies: builder.policies,
        max_parallel: document.max_parallel,
        fail_fast: document.fail_fast,
        outputs: document
            .outputs
            .as_ref()
            .map(|outputs| Dynamic::new(outputs.to_raw())),
    };
    match Plan::build(builder.drafts, settings) {
        Ok(plan) => Some(Compiled {
            plan,
            name: document.name.clone().unwrap_or_else(|| "project".to_owned()),
            inputs,
            priority: document.priority,
            labels: document.labels.clone(),
            idempotency_key: document.idempotency_key.clone(),
            tasks: document.tasks.len(),
            warnings: vec![],
        }),
        Err(problems) => {
            let mut seen = HashSet::new();
            for problem in problems {
                let path = place_of(document, &problem);
                if seen.insert((problem.code(), path.to_string())) {
                    findings.add_path(from_problem(&problem), path);
                }
            }
            None
        }
    }
}

fn from_problem(problem: &Problem) -> Diagnostic {
    let mut diagnostic =
        Diagnostic::error(problem.code(), problem.to_string()).help(problem.help());
    match problem {
        Problem::Cycle { path, .. } => diagnostic.tasks.clone_from(path),
        other => diagnostic.tasks.extend(other.step().map(str::to_owned)),
    }
    diagnostic
}

/// Where in the document a problem of the graph stands. Steps of a template lead to the
/// template.
fn place_of(document: &Document, problem: &Problem) -> Path {
    let Some(step) = problem.step() else { return Path::default().key("tasks") };
    let mut tasks = &document.tasks;
    let mut path = Path::default().key("tasks");
    let mut names = step.split('/').peekable();
    while let Some(name) = names.next() {
        let Some(task) = tasks.iter().find(|task| task.name == name) else {
            return path;
        };
        if names.peek().is_none() {
            return match problem {
                Problem::DuplicateName { .. } | Problem::LookAlike { .. } => {
                    path.key_name(name)
                }
                Problem::MissingNeed { need, .. } => {
                    need_path(&path.key(name), task, need)
                }
                Problem::SelfNeed { .. } => {
                    need_path(&path.key(name), task, &task.name)
                }
                Problem::Cycle { .. } => path.key(name).key("needs"),
                _ => path.key(name),
            };
        }
        let template =
            document.templates.iter().find(|t| Some(&t.name) == task.template.as_ref());
        let Some(template) = template else { return path.key(name) };
        path = Path::default().key("templates").key(&template.name).key("tasks");
        tasks = &template.tasks;
    }
    path
}

fn need_path(task_path: &Path, task: &Task, need: &str) -> Path {
    let path = task_path.key("needs");
    match task.needs.iter().position(|name| name == need) {
        Some(index) => {
            // `needs: name` is a list of one without an index of its own.
            let mut segments = path.0;
            segments.push(Segment::Index(index));
            Path(segments)
        }
        None => path,
    }
}

/// The parts of a plan under construction: the project's, or that of a body.
struct Builder {
    scopes: Vec<Scope>,
    policies: Vec<Policy>,
    known_policies: HashMap<String, u32>,
    drafts: Vec<Draft>,
}

impl Builder {
    fn new(scopes: Vec<Scope>) -> Self {
        Self {
            scopes,
            policies: vec![],
            known_policies: HashMap::new(),
            drafts: vec![],
        }
    }

    fn policy(&mut self, policy: Policy) -> u32 {
        // Distinct policies are few; their JSON is their identity.
        let key = serde_json::to_string(&policy).unwrap_or_default();
        let next = u32::try_from(self.policies.len()).unwrap_or(u32::MAX);
        *self.known_policies.entry(key).or_insert_with(|| {
            self.policies.push(policy);
            next
        })
    }

    fn scope(&mut self, scope: Scope) -> u32 {
        self.scopes.push(scope);
        u32::try_from(self.scopes.len() - 1).unwrap_or(u32::MAX)
    }
}

/// Where a group of tasks is expanded: at the top, or inside a use of a template.
struct Place<'a> {
    /// What the names of steps start with.
    prefix: String,
    /// The scope that expressions of the group see.
    scope: u32,
    /// What guards tasks that need nothing inside the group.
    guard: Guard,
    /// Whether failures are judged by an enclosing step.
    contained: bool,
    /// What tasks inherit from the task that uses the template.
    treatment: Treatment,
    /// Where the group stands in the document.
    at: Path,
    lifetime: std::marker::PhantomData<&'a ()>,
}

#[derive(Clone, Default)]
struct Guard {
    needs: Vec<String>,
    rule: Rule,
    conditions: Vec<Condition>,
}

impl Place<'_> {
    fn top() -> Self {
        Self {
            prefix: String::new(),
            scope: 0,
            guard: Guard::default(),
            contained: false,
            treatment: Treatment::default(),
            at: Path::default().key("tasks"),
            lifetime: std::marker::PhantomData,
        }
    }
}

struct Compiler<'a> {
    document: &'a Document,
    options: &'a CompileOptions<'a>,
    findings: &'a mut Findings,
    templates: HashMap<&'a str, &'a Template>,
    /// The templates being expanded, outermost first: a template may not use itself.
    using: Vec<String>,
    /// Steps so far, in all plans: expansion must not multiply without end.
    steps: usize,
}

impl<'a> Compiler<'a> {
    fn group(&mut self, builder: &mut Builder, tasks: &'a [Task], place: &Place<'_>) {
        for task in tasks {
            if self.steps > MAX_STEPS {
                return;
            }
            self.task(builder, task, place);
        }
    }

    fn complain(
        &mut self,
        diagnostic: Diagnostic,
        task: &Task,
        key: &str,
        place: &Place<'_>,
    ) {
        let path = place.at.key(&task.name).key_name(key);
        self.findings.add_path(diagnostic.task(task.name.clone()), path);
    }

    fn task(&mut self, builder: &mut Builder, task: &'a Task, place: &Place<'_>) {
        if !self.fits(task, place) {
            return;
        }
        self.steps += 1;
        if self.steps > MAX_STEPS {
            let problem = Problem::TooManySteps { count: self.steps, limit: MAX_STEPS };
            self.complain(from_problem(&problem), task, "use", place);
            return;
        }
        let name = format!("{}{}", place.prefix, task.name);
        let guard = self.guard(task, place);
        if task.for_each.is_some() {
            return self.for_each(builder, task, name, guard, place);
        }
        if task.template.is_some() {
            self.instance(builder, task, name, guard, place);
        } else {
            let draft = self.run_step(builder, task, name, guard, place);
            builder.drafts.push(draft);
        }
    }

    /// What a task needs and asks before it starts.
    fn guard(&mut self, task: &Task, place: &Place<'_>) -> Guard {
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

    fn run_step(
        &mut self,
        builder: &mut Builder,
        task: &Task,
        name: String,
        guard: Guard,
        place: &Place<'_>,
    ) -> Draft {
        let kind = task.kind.clone().unwrap_or_default();
        let with = task.with.as_ref().map(|with| self.value(with, task, "with", place));
        let policy = builder.policy(self.merged(task, &kind, place));
        let action = Action::Run { kind, with };
        draft(name, task.title.clone(), action, guard, place.scope, policy)
    }

    /// Expands a use of a template: its steps, then the join that stands for the task.
    fn instance(
        &mut self,
        builder: &mut Builder,
        task: &'a Task,
        name: String,
        guard: Guard,
        place: &Place<'_>,
    ) {
        let Some(template) = self.template(task, place) else { return };
        self.using.push(template.name.clone());
        let params = self.params(task, template, place);
        let scope = builder.scope(Scope::Template {
            task: name.clone(),
            params,
            outer: place.scope,
        });
        let prefix = if name.is_empty() { String::new() } else { format!("{name}/") };
        let inner = Place {
            prefix,
            scope,
            guard: guard.clone(),
            contained: place.contained || task.allow_failure,
            treatment: task.treatment.clone().or(&place.treatment),
            at: Path::default().key("templates").key(&template.name).key("tasks"),
            lifetime: std::marker::PhantomData,
        };
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
            allow_failure: task.allow_failure,
            contained: place.contained,
            labels: task.labels.clone(),
            ..Policy::default()
        });
        let action = Action::Join { output };
        builder.drafts.push(draft(
            name,
            task.title.clone(),
            action,
            join,
            scope,
            policy,
        ));
    }

    fn for_each(
        &mut self,
        builder: &mut Builder,
        task: &'a Task,
        name: String,
        guard: Guard,
        place: &Place<'_>,
    ) {
        let Some(items) = &task.for_each else { return };
        if let Tree::String(text) = items
            && !text.contains("${{")
        {
            let message = "`for_each` is a list, or an expression that gives one";
            let help = "write `${{ … }}` or a list";
            let diagnostic = Diagnostic::error("wrong_type", message).help(help);
            return self.complain(diagnostic, task, "for_each", place);
        }
        let mut body = Builder::new(vec![Scope::Item]);
        let inside = Place {
            prefix: String::new(),
            scope: 0,
            guard: Guard::default(),
            contained: true,
            treatment: place.treatment.clone(),
            at: place.at.clone(),
            lifetime: std::marker::PhantomData,
        };
        if task.template.is_some() {
            self.instance(&mut body, task, String::new(), Guard::default(), &inside);
        } else {
            let step = self.run_step(
                &mut body,
                task,
                String::new(),
                Guard::default(),
                &inside,
            );
            body.drafts.push(step);
        }
        // A failed item is judged by the `for_each`: the allowance is the parent's.
        for policy in &mut body.policies {
            policy.contained = true;
            policy.start_before = None;
        }
        let settings = Settings {
            scopes: body.scopes,
            policies: body.policies,
            ..Settings::default()
        };
        if self.findings.has_errors() {
            return;
        }
        match Plan::build(body.drafts, settings) {
            Ok(plan) => {
                let action = Action::ForEach(Box::new(ForEach {
                    items: Dynamic::new(items.to_raw()),
                    body: Body(plan.into()),
                    window: task.window,
                    tolerate: task.tolerate,
                }));
                let policy = builder.policy(Policy {
                    allow_failure: task.allow_failure,
                    contained: place.contained,
                    delay: task.delay.unwrap_or_default(),
                    not_before: task.not_before,
                    start_before: task.start_before,
                    priority: self
                        .merged(task, task.kind.as_deref().unwrap_or_default(), place)
                        .priority,
                    labels: task.labels.clone(),
                    ..Policy::default()
                });
                let title = task.title.clone();
                builder.drafts.push(draft(
                    name,
                    title,
                    action,
                    guard,
                    place.scope,
                    policy,
                ));
            }
            Err(problems) => {
                for problem in problems {
                    self.complain(from_problem(&problem), task, "for_each", place);
                }
            }
        }
    }

    fn template(&mut self, task: &Task, place: &Place<'_>) -> Option<&'a Template> {
        let wanted = task.template.as_deref().unwrap_or_default();
        if self.using.iter().any(|name| name == wanted) {
            let ring = format!("{} → {wanted}", self.using.join(" → "));
            let diagnostic = Diagnostic::error(
                "template_cycle",
                format!("a template uses itself: {ring}"),
            )
            .help("remove one of these uses");
            self.complain(diagnostic, task, "use", place);
            return None;
        }
        let found = self.templates.get(wanted).copied();
        if found.is_none() {
            let diagnostic = Diagnostic::error(
                "unknown_template",
                format!("unknown template `{wanted}`"),
            );
            let diagnostic = match nearest(wanted, self.templates.keys().copied()) {
                Some(name) => diagnostic.help(format!("did you mean `{name}`?")),
                None => diagnostic.help(format!("add `{wanted}` under `templates:`")),
            };
            self.complain(diagnostic, task, "use", place);
        }
        found
    }

    /// The parameters of a use: what `with:` gives, completed by defaults.
    fn params(
        &mut self,
        task: &Task,
        template: &Template,
        place: &Place<'_>,
    ) -> Option<Dynamic> {
        let empty = vec![];
        let given = match &task.with {
            Some(Tree::Map(entries)) => entries,
            _ => &empty,
        };
        let names: Vec<&str> =
            template.params.iter().map(|p| p.name.as_str()).collect();
        let at = place.at.key(&task.name).key("with");
        for (key, value) in given {
            match template.params.iter().find(|param| param.name == *key) {
                None => {
                    let message = format!(
                        "the template `{}` has no parameter `{key}`",
                        template.name
                    );
                    let diagnostic = Diagnostic::error("unknown_parameter", message);
                    let diagnostic = match nearest(key, names.iter().copied()) {
                        Some(name) => {
                            diagnostic.help(format!("did you mean `{name}`?"))
                        }
                        None => {
                            diagnostic.help(format!("parameters: {}", names.join(", ")))
                        }
                    };
                    self.findings.add_path(diagnostic, at.key_name(key));
                }
                Some(param) => self.check_param(param, value, at.key(key)),
            }
        }
        let mut values = vec![];
        for param in &template.params {
            let value = given.iter().find(|(key, _)| *key == param.name);
            match value.map(|(_, value)| value).or(param.default.as_ref()) {
                Some(value) => values.push((param.name.clone(), value.clone())),
                None => {
                    let message = format!("the parameter `{}` is missing", param.name);
                    let help = format!("add `{}` under `with:`", param.name);
                    let diagnostic =
                        Diagnostic::error("missing_parameter", message).help(help);
                    self.complain(diagnostic, task, "use", place);
                }
            }
        }
        let values = self.value(&Tree::Map(values), task, "with", place);
        Some(values)
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

    fn value(
        &mut self,
        tree: &Tree,
        task: &Task,
        key: &str,
        place: &Place<'_>,
    ) -> Dynamic {
        match inline_files(tree, self.options.folder) {
            Ok(Some(tree)) => Dynamic::new(tree.to_raw()),
            Ok(None) => Dynamic::new(tree.to_raw()),
            Err(diagnostic) => {
                self.complain(diagnostic, task, key, place);
                Dynamic::new(tree.to_raw())
            }
        }
    }

    /// The policy of a step: the task's own words, then those of the task that uses the
    /// template, then the kind's defaults, then the project's.
    fn merged(&self, task: &Task, kind: &str, place: &Place<'_>) -> Policy {
        let defaults = &self.document.defaults;
        let mut treatment = task.treatment.clone().or(&place.treatment);
        if let Some((_, of_kind)) = defaults.kinds.iter().find(|(name, _)| name == kind)
        {
            treatment = treatment.or(of_kind);
        }
        let treatment = treatment.or(&defaults.all);
        let timeout = treatment.timeout.unwrap_or_default();
        Policy {
            retry: treatment.retry.unwrap_or_default(),
            soft: timeout.soft,
            hard: timeout.hard,
            start_before: task.start_before,
            delay: task.delay.unwrap_or_default(),
            not_before: task.not_before,
            queue: treatment.queue.unwrap_or_else(|| Policy::DEFAULT_QUEUE.to_owned()),
            priority: treatment.priority.unwrap_or(0),
            at_most_once: task.at_most_once,
            allow_failure: task.allow_failure && task.for_each.is_none(),
            contained: place.contained,
            labels: task.labels.clone(),
        }
    }

    /// Whether the keys of a task fit together.
    fn fits(&mut self, task: &Task, place: &Place<'_>) -> bool {
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
        if task.template.is_some() && task.for_each.is_none() {
            for (key, given) in [
                ("delay", task.delay.is_some()),
                ("not_before", task.not_before.is_some()),
                ("start_before", task.start_before.is_some()),
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
            Rule::AtLeast(crate::plan::Amount::Count(count))
                if count as usize > task.needs.len() =>
            {
                let message =
                    format!("`at_least: {count}` of {} needs", task.needs.len());
                let help = "ask for at most as many as there are needs";
                fault("rule", "rule_out_of_reach", &message, help);
            }
            _ => {}
        }
        let ok = faults.is_empty();
        for (key, diagnostic) in faults {
            self.complain(diagnostic, task, key, place);
        }
        if let Some(kind) = &task.kind {
            self.check_handler(kind, task, place);
        }
        ok
    }

    /// Looks at kind and parameters with the eyes of the handler.
    fn check_handler(&mut self, kind: &str, task: &Task, place: &Place<'_>) {
        let Some(kinds) = self.options.kinds else { return };
        let path = || place.at.key(&task.name);
        let Some(handler) = kinds.get(kind) else {
            let problem = Problem::UnknownKind {
                step: format!("{}{}", place.prefix, task.name),
                kind: kind.to_owned(),
                nearest: nearest(kind, kinds.names()),
            };
            return self.findings.add_path(from_problem(&problem), path().key("kind"));
        };
        if let Some(parameters) = handler.parameters() {
            let empty = vec![];
            let given = match &task.with {
                Some(Tree::Map(entries)) => entries,
                _ => &empty,
            };
            for (key, _) in given {
                if !parameters.iter().any(|parameter| parameter.name == *key) {
                    let names: Vec<&str> =
                        parameters.iter().map(|parameter| &*parameter.name).collect();
                    let message = format!("`{kind}` has no parameter `{key}`");
                    let diagnostic = Diagnostic::error("unknown_parameter", message);
                    let diagnostic = match nearest(key, names.iter().copied()) {
                        Some(name) => {
                            diagnostic.help(format!("did you mean `{name}`?"))
                        }
                        None => {
                            diagnostic.help(format!("parameters: {}", names.join(", ")))
                        }
                    };
                    self.findings
                        .add_path(diagnostic, path().key("with").key_name(key));
                }
            }
            for parameter in parameters.iter().filter(|parameter| parameter.required) {
                if !given.iter().any(|(key, _)| *key == parameter.name) {
                    let message =
                        format!("`{kind}` needs the parameter `{}`", parameter.name);
                    let help = format!("add `{}` under `with:`", parameter.name);
                    let diagnostic =
                        Diagnostic::error("missing_parameter", message).help(help);
                    self.findings.add_path(diagnostic.task(task.name.clone()), path());
                }
            }
        }
        if let Some(with) = &task.with {
            let value = serde_json::to_value(with).unwrap_or_default();
            if let Err(message) = handler.check(&value) {
                let diagnostic = Diagnostic::error("bad_parameter", message)
                    .help(format!("see the parameters of `{kind}`"))
                    .task(task.name.clone());
                self.findings.add_path(diagnostic, path().key("with"));
            }
        }
    }
}

fn draft(
    name: String,
    title: Option<String>,
    action: Action,
    guard: Guard,
    scope: u32,
    policy: u32,
) -> Draft {
    let Guard { needs, rule, conditions } = guard;
    let step =
        Step { name, title, needs: vec![], action, rule, conditions, scope, policy };
    Draft { step, needs }
}

/// An expression with or without its `${{ }}`.
pub(super) fn bare(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix("${{")
        .and_then(|rest| rest.strip_suffix("}}"))
        .map_or(text, str::trim)
}

fn check_kind(
    kind: &str,
    options: &CompileOptions<'_>,
    at: &At<'_>,
    findings: &mut Findings,
) {
    if let Some(kinds) = options.kinds
        && kinds.get(kind).is_none()
    {
        let diagnostic =
            Diagnostic::error("unknown_kind", format!("there is no kind `{kind}`"));
        let help = match nearest(kind, kinds.names()) {
            Some(name) => format!("did you mean `{name}`?"),
            None => "remove the defaults of a kind that does not exist".to_owned(),
        };
        findings.add(diagnostic.help(help), at);
    }
    check_name(kind, at, findings);
}
