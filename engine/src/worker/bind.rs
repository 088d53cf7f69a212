//! Binding: what the expressions of a step see, gathered from the run and from outputs.
//!
//! Pure but for the environment variables of secrets. What is not in memory is listed,
//! so that the caller reads it from the store and binds again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use minijinja::Value;

use super::outputs::Outputs;
use crate::{
    Kinds, ProjectId, SessionId, StepError,
    expr::{self, Names, Part, json},
    plan::{Action, Dynamic, Plan, Scope, StepNo},
    run::{Output, Place, Run, Source, StepState},
};

/// What a project's expressions see beside its steps.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) id: ProjectId,
    pub(super) name: String,
    pub(super) inputs: Value,
    pub(super) session: SessionId,
}

/// What binding comes to.
#[derive(Debug)]
pub(super) enum Bound<T> {
    /// The value.
    Value(T),
    /// These outputs must be read first.
    Missing(Vec<StepNo>),
    /// It cannot be bound, now or later.
    Failed(StepError),
}

/// The evaluated input of an attempt.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) with: Box<serde_json::value::RawValue>,
    pub(super) secrets: Vec<String>,
}

pub(super) struct Binder<'a> {
    pub(super) run: &'a Run,
    pub(super) outputs: &'a Outputs,
    pub(super) around: &'a Surroundings,
    pub(super) missing: BTreeSet<StepNo>,
    pub(super) secrets: Vec<String>,
    /// What it must not see yet: that counts as missing.
    unwritten: Option<&'a dyn Fn(StepNo) -> bool>,
}

/// A step in the plan that holds it.
#[derive(Clone, Copy)]
pub(super) struct Spot<'a> {
    pub(super) plan: &'a Plan,
    pub(super) base: StepNo,
    pub(super) no: StepNo,
}

impl<'a> Binder<'a> {
    pub(super) fn new(
        run: &'a Run,
        outputs: &'a Outputs,
        around: &'a Surroundings,
    ) -> Self {
        let (missing, secrets) = (BTreeSet::new(), vec![]);
        Self { run, outputs, around, missing, secrets, unwritten: None }
    }

    /// Sees nothing of these steps.
    pub(super) fn without(self, unwritten: &'a dyn Fn(StepNo) -> bool) -> Self {
        Self { unwritten: Some(unwritten), ..self }
    }

    /// Takes note of a step that is seen.
    pub(super) fn see(&mut self, no: StepNo) {
        if self.unwritten.is_some_and(|unwritten| unwritten(no)) {
            self.missing.insert(no);
        }
    }

    /// Whether all conditions of a step are true.
    pub(super) fn conditions(mut self, no: StepNo) -> Bound<bool> {
        let spot = self.spot(no);
        for condition in &self.run.step(no).conditions {
            let text = condition.expression.clone();
            let names = match self.names(condition.scope, spot, &[text]) {
                Ok(names) => names,
                Err(error) => return Bound::Failed(error),
            };
            if !self.missing.is_empty() {
                return Bound::Missing(self.missing.into_iter().collect());
            }
            match expr::condition(&condition.expression, &names) {
                Ok(true) => {}
                Ok(false) => return Bound::Value(false),
                Err(error) => return Bound::Failed(error),
            }
        }
        Bound::Value(true)
    }

    /// The evaluated value of the step: its `with`, its list, or its output.
    pub(super) fn input(mut self, no: StepNo, kinds: &Kinds) -> Bound<Input> {
        let null = || serde_json::value::RawValue::NULL.to_owned();
        let step = self.run.step(no);
        let dynamic = match &step.action {
            Action::Run { kind, call: Some(call), .. } => {
                return self.call(no, kind, call, kinds);
            }
            Action::Pass { value, tolerate, .. } => {
                return self.pass(no, value, *tolerate);
            }
            Action::Run { with, .. } => with.as_ref(),
            Action::Join { output } => output.as_ref(),
            Action::ForEach(for_each) => Some(&for_each.items),
        };
        let Some(dynamic) = dynamic else {
            return Bound::Value(Input { with: null(), secrets: vec![] });
        };
        let spot = self.spot(no);
        self.render(dynamic, step.scope, spot)
    }

    /// The outputs of the project.
    pub(super) fn project(mut self, dynamic: &Dynamic) -> Bound<Input> {
        let spot = Spot { plan: self.run.plan(), base: 0, no: 0 };
        self.render(dynamic, 0, spot)
    }

    /// The outputs of tasks, by name: what a project that declares none has. `None`: they
    /// have more than `most` bytes.
    pub(super) fn leaves(
        mut self,
        leaves: &[StepNo],
        most: usize,
    ) -> Option<Bound<Input>> {
        let mut entries = vec![];
        let mut bytes = 0;
        for no in leaves {
            let output = match self.assembled(*no) {
                Ok(output) => output,
                Err(error) => return Some(Bound::Failed(error)),
            };
            let name = self.run.name(*no);
            bytes += name.len() + output.get().len();
            if bytes > most {
                return None;
            }
            entries.push((name, output));
        }
        if !self.missing.is_empty() {
            return Some(Bound::Missing(self.missing.into_iter().collect()));
        }
        let object = Entries(entries);
        Some(match serde_json::value::to_raw_value(&object) {
            Ok(with) => Bound::Value(Input { with, secrets: vec![] }),
            Err(error) => Bound::Failed(StepError::fail("expression", error)),
        })
    }

    /// The output of a step as bytes; that of one that became many is put together here.
    pub(super) fn assembled(&mut self, no: StepNo) -> Result<Output, StepError> {
        self.see(no);
        let null = || Arc::from(serde_json::value::RawValue::NULL.to_owned());
        if self.run.step_state(no) != StepState::Succeeded {
            return Ok(null());
        }
        match self.run.source(no) {
            Source::Own => return Ok(self.output(no).map_or_else(null, Arc::clone)),
            Source::Of(result) => return self.assembled(result),
            Source::Items => {}
        }
        let results: Vec<StepNo> = self.run.results(no).collect();
        let list = results
            .into_iter()
            .map(|result| self.assembled(result))
            .collect::<Result<Vec<_>, _>>()?;
        crate::to_raw(&list).map(Arc::from)
    }

    pub(super) fn render(
        &mut self,
        dynamic: &Dynamic,
        scope: u32,
        spot: Spot<'_>,
    ) -> Bound<Input> {
        if !dynamic.has_expressions() {
            let with = dynamic.raw().to_owned();
            return Bound::Value(Input { with, secrets: vec![] });
        }
        let names = match self.names(scope, spot, &texts(dynamic)) {
            Ok(names) => names,
            Err(error) => return Bound::Failed(error),
        };
        if !self.missing.is_empty() {
            return Bound::Missing(
                std::mem::take(&mut self.missing).into_iter().collect(),
            );
        }
        match expr::render(dynamic, &names) {
            Ok(with) => {
                let mut secrets = std::mem::take(&mut self.secrets);
                // The longest first: one may begin with another.
                secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
                secrets.dedup();
                Bound::Value(Input { with, secrets })
            }
            Err(error) => Bound::Failed(error),
        }
    }

    pub(super) fn spot(&self, no: StepNo) -> Spot<'a> {
        let (plan, _, base) = self.run.local_plan(no);
        Spot { plan, base, no }
    }

    /// The names that `texts` see in a scope. Nesting of templates bounds the recursion.
    fn names(
        &mut self,
        scope: u32,
        spot: Spot<'_>,
        texts: &[String],
    ) -> Result<Names, StepError> {
        match spot.plan.scope(scope) {
            Scope::Root => self.common(spot, "", texts),
            Scope::Item => {
                let Place::Child { parent, item, .. } = self.run.place(spot.no) else {
                    return self.common(spot, "", texts);
                };
                let outer = self.spot(parent);
                let names = self.names(self.run.step(parent).scope, outer, texts)?;
                Ok(names
                    .with("task", self.task(spot.no))
                    .with("item", self.item(parent, item)?)
                    .with("index", Value::from(item)))
            }
            Scope::Template { task, params, outer } => {
                let prefix =
                    if task.is_empty() { String::new() } else { format!("{task}/") };
                let mut names = self.common(spot, &prefix, texts)?;
                let uses = |text: &String| {
                    expr::references(text).iter().any(|found| found.root == "params")
                };
                if let Some(params) = params.as_ref().filter(|_| texts.iter().any(uses))
                {
                    let outer_names = self.names(*outer, spot, &self::texts(params))?;
                    if self.missing.is_empty() {
                        let params = expr::render(params, &outer_names)?;
                        names = names.with("params", parse(params.get())?);
                    }
                }
                Ok(names)
            }
        }
    }

    fn common(
        &mut self,
        spot: Spot<'_>,
        prefix: &str,
        texts: &[String],
    ) -> Result<Names, StepError> {
        let mut tasks: BTreeMap<String, Value> = BTreeMap::new();
        let mut secrets: BTreeMap<String, Value> = BTreeMap::new();
        let mut all_needs = false;
        for text in texts {
            for found in expr::references(text) {
                match (found.root, found.member) {
                    ("tasks" | "needs", Some(name)) if !tasks.contains_key(&name) => {
                        let value = self.named(spot, prefix, &name)?;
                        tasks.insert(name, value);
                    }
                    ("needs", None) => all_needs = true,
                    ("secrets", Some(name)) => {
                        let value = secret(&name)?;
                        self.secrets.push(value.clone());
                        secrets.insert(name, Value::from(value));
                    }
                    _ => {}
                }
            }
        }
        if all_needs {
            for need in self.run.needs(spot.no).collect::<Vec<_>>() {
                let name = self.run.step(need).task_name().to_owned();
                let value = self.step_value(need)?;
                tasks.insert(name, value);
            }
        }
        let tasks = Value::from(tasks);
        let project: BTreeMap<&str, Value> = BTreeMap::from([
            ("id", Value::from(self.around.id.to_string())),
            ("name", Value::from(self.around.name.clone())),
        ]);
        let worker =
            BTreeMap::from([("id", Value::from(self.around.session.to_string()))]);
        Ok(Names::default()
            .with("inputs", self.around.inputs.clone())
            .with("tasks", tasks.clone())
            .with("needs", tasks)
            .with("project", Value::from(project))
            .with("worker", Value::from(worker))
            .with("secrets", Value::from(secrets))
            .with("task", self.task(spot.no)))
    }

    fn task(&self, no: StepNo) -> Value {
        let step = self.run.step(no);
        let path = self.run.name(no);
        let name = path.rsplit('/').next().unwrap_or(&path).to_owned();
        let title = step.title.clone().unwrap_or_else(|| name.clone());
        Value::from(BTreeMap::from([
            ("name", Value::from(name)),
            ("path", Value::from(path)),
            ("title", Value::from(title)),
        ]))
    }

    fn named(
        &mut self,
        spot: Spot<'_>,
        prefix: &str,
        name: &str,
    ) -> Result<Value, StepError> {
        match spot.plan.find(&format!("{prefix}{name}")) {
            Some(local) => self.step_value(spot.base + local),
            None => {
                Err(StepError::fail("expression", format!("there is no task `{name}`")))
            }
        }
    }

    /// What `tasks.NAME` is.
    fn step_value(&mut self, no: StepNo) -> Result<Value, StepError> {
        self.see(no);
        let view = self.run.view(no);
        let output = self.output_value(no)?;
        Ok(Value::from(BTreeMap::from([
            ("output", output),
            ("state", Value::from(view.state.as_str())),
            (
                "error",
                view.error.map_or(Value::from(()), |error| self.error(no, error)),
            ),
            ("attempts", Value::from(view.attempt)),
        ])))
    }

    fn error(&self, no: StepNo, error: &StepError) -> Value {
        json(&StepError { step: Some(self.run.name(no)), ..error.clone() })
    }

    fn output_value(&mut self, no: StepNo) -> Result<Value, StepError> {
        self.see(no);
        if self.run.step_state(no) != StepState::Succeeded {
            return Ok(Value::from(()));
        }
        match self.run.source(no) {
            Source::Own => {
                return match self.output(no) {
                    Some(output) => parse(output.get()),
                    None => Ok(Value::from(())),
                };
            }
            Source::Of(result) => return self.output_value(result),
            Source::Items => {}
        }
        let results: Vec<StepNo> = self.run.results(no).collect();
        results.into_iter().map(|result| self.output_value(result)).collect()
    }

    fn output(&mut self, no: StepNo) -> Option<&'a Output> {
        let output = self.outputs.get(no);
        if output.is_none() {
            self.missing.insert(no);
        }
        output
    }

    fn item(&mut self, parent: StepNo, item: u32) -> Result<Value, StepError> {
        if self.output(parent).is_none() {
            return Ok(Value::from(()));
        }
        match self
            .outputs
            .items(parent)
            .and_then(|items| items.get(item as usize).cloned())
        {
            Some(raw) => parse(raw.get()),
            None => Err(StepError::fail("expression", "the item is gone")),
        }
    }
}

/// An object whose values are JSON texts already.
struct Entries(Vec<(String, Output)>);

impl serde::Serialize for Entries {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, output)| (name, &**output)))
    }
}

fn parse(text: &str) -> Result<Value, StepError> {
    serde_json::from_str(text).map_err(|error| StepError::fail("expression", error))
}

fn secret(name: &str) -> Result<String, StepError> {
    let variable = format!("DANDORI_SECRET_{}", name.to_uppercase().replace('-', "_"));
    std::env::var(&variable).ok().filter(|value| !value.is_empty()).ok_or_else(|| {
        StepError::fail("secret_missing", format!("the worker has no {variable}"))
    })
}

/// The expressions in a value.
fn texts(dynamic: &Dynamic) -> Vec<String> {
    let mut found = vec![];
    let mut stack = vec![dynamic.value()];
    while let Some(value) = stack.pop() {
        match value {
            serde_json::Value::String(text) => {
                let parts = expr::split(&text).unwrap_or_default();
                found.extend(parts.into_iter().filter_map(|part| match part {
                    Part::Expression(expression) => Some(expression.to_owned()),
                    Part::Text(_) => None,
                }));
            }
            serde_json::Value::Array(items) => stack.extend(items),
            serde_json::Value::Object(entries) => stack.extend(entries.into_values()),
            _ => {}
        }
    }
    found
}
