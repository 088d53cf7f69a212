//! [`Document`]: a project document, understood but not yet compiled.
//!
//! Both the reader of YAML and JSON and programs that build projects make this type; the
//! compiler (`compile`) turns it into a plan. Fields that are `None` take their default
//! from `defaults:`.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::Tree;
use crate::{
    Timestamp,
    canvas::Canvas,
    plan::{Amount, Retry, Rule, StartBefore},
};

/// A project document.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// The name of the project.
    pub name: Option<String>,
    /// The declared inputs, in order.
    pub inputs: Vec<Input>,
    /// Values of inputs, from `with:` at the top.
    pub with: Vec<(String, Tree)>,
    /// The most steps that may run at once.
    pub max_parallel: Option<u32>,
    /// Higher starts first, among projects.
    pub priority: i32,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Whether the first failure without allowance stops the project.
    pub fail_fast: bool,
    /// A key under which the same submission is recorded once.
    pub idempotency_key: Option<String>,
    /// What tasks inherit.
    pub defaults: Defaults,
    /// Templates, in order.
    pub templates: Vec<Template>,
    /// Tasks, in order.
    pub tasks: Vec<Task>,
    /// A canvas instead of tasks.
    pub canvas: Option<Canvas>,
    /// The incoming value of the canvas: arguments by position.
    pub args: Vec<Tree>,
    /// The incoming value of the canvas: arguments by name.
    pub kwargs: Vec<(String, Tree)>,
    /// The output of the project.
    pub outputs: Option<Tree>,
}

/// A declared input of a project, or a parameter of a template.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// The type its value must have.
    pub kind: InputType,
    /// The value when none is given; without one it must be given.
    pub default: Option<Tree>,
}

/// The type of an input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InputType {
    /// Anything.
    #[default]
    Any,
    /// A text.
    String,
    /// A number.
    Number,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// A list.
    Array,
    /// A mapping.
    Object,
}

impl InputType {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Any,
        Self::String,
        Self::Number,
        Self::Integer,
        Self::Boolean,
        Self::Array,
        Self::Object,
    ];

    /// The name in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::String => "string",
            Self::Number => "number",
            Self::Integer => "integer",
            Self::Boolean => "boolean",
            Self::Array => "array",
            Self::Object => "object",
        }
    }

    /// Whether a value has this type.
    pub fn admits(self, value: &Tree) -> bool {
        match self {
            Self::Any => true,
            Self::String => matches!(value, Tree::String(_)),
            Self::Number => matches!(value, Tree::Number(_)),
            Self::Integer => {
                matches!(value, Tree::Number(number) if number.is_i64() || number.is_u64())
            }
            Self::Boolean => matches!(value, Tree::Bool(_)),
            Self::Array => matches!(value, Tree::List(_)),
            Self::Object => matches!(value, Tree::Map(_)),
        }
    }
}

/// What tasks inherit unless they say otherwise.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// For all tasks.
    pub all: Treatment,
    /// For tasks of a kind; goes over `all`.
    pub kinds: Vec<(String, Treatment)>,
}

/// How a task is treated; what is `None` is inherited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Treatment {
    /// The retry policy, whole.
    pub retry: Option<Retry>,
    /// Time limits.
    pub timeout: Option<Timeout>,
    /// The queue.
    pub queue: Option<String>,
    /// The priority within the project.
    pub priority: Option<i32>,
}

impl Treatment {
    /// Takes what is missing from `other`.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        Self {
            retry: self.retry.or_else(|| other.retry.clone()),
            timeout: self.timeout.or(other.timeout),
            queue: self.queue.or_else(|| other.queue.clone()),
            priority: self.priority.or(other.priority),
        }
    }
}

/// Time limits of an attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeout {
    /// Told to stop after this.
    pub soft: Option<std::time::Duration>,
    /// Dropped after this.
    pub hard: Option<std::time::Duration>,
}

/// A template: tasks that are used together under one name.
#[derive(Clone, Debug, Default)]
pub struct Template {
    /// Its name.
    pub name: String,
    /// Its parameters.
    pub params: Vec<Input>,
    /// Its tasks.
    pub tasks: Vec<Task>,
    /// The output of a task that uses it.
    pub output: Option<Tree>,
}

/// A task of a document.
#[derive(Clone, Debug, Default)]
pub struct Task {
    /// Its name, unique among its siblings.
    pub name: String,
    /// What people read instead.
    pub title: Option<String>,
    /// The kind of step.
    pub kind: Option<String>,
    /// The template it uses instead of a kind.
    pub template: Option<String>,
    /// The tasks it needs.
    pub needs: Vec<String>,
    /// Its parameters.
    pub with: Option<Tree>,
    /// Its condition.
    pub condition: Option<String>,
    /// When it may start.
    pub rule: Rule,
    /// The list whose items it runs for.
    pub for_each: Option<Tree>,
    /// How many items may be in flight.
    pub window: Option<u32>,
    /// How many items may fail.
    pub tolerate: Option<Amount>,
    /// Whether its failure is allowed.
    pub allow_failure: bool,
    /// Retry, time limits, queue, priority.
    pub treatment: Treatment,
    /// When it is too late to start.
    pub start_before: Option<StartBefore>,
    /// How long it waits once its needs allow it.
    pub delay: Option<std::time::Duration>,
    /// It does not start before.
    pub not_before: Option<Timestamp>,
    /// Whether it may never be started twice.
    pub at_most_once: bool,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
}

impl Document {
    /// An empty document with a name, for programs that build projects.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..Self::default() }
    }

    /// Adds a task.
    #[must_use]
    pub fn task(mut self, task: Task) -> Self {
        self.tasks.push(task);
        self
    }
}

impl Task {
    /// A task of a kind.
    ///
    /// ```
    /// use dandori::spec::Task;
    ///
    /// let task = Task::new("greet", "shout").needs(["fetch"]).with(&serde_json::json!({
    ///     "text": "${{ tasks.fetch.output }}"
    /// }));
    /// ```
    pub fn new(name: impl Into<String>, kind: impl Into<String>) -> Self {
        Self { name: name.into(), kind: Some(kind.into()), ..Self::default() }
    }

    /// Adds tasks that must end first.
    #[must_use]
    pub fn needs<I: IntoIterator<Item = S>, S: Into<String>>(
        mut self,
        needs: I,
    ) -> Self {
        self.needs.extend(needs.into_iter().map(Into::into));
        self
    }

    /// Sets the parameters. Texts may hold `${{ }}` expressions.
    #[must_use]
    pub fn with(mut self, with: &serde_json::Value) -> Self {
        self.with = Some(Tree::from(with));
        self
    }

    /// Sets the retry policy.
    #[must_use]
    pub fn retry(mut self, retry: impl Into<Retry>) -> Self {
        self.treatment.retry = Some(retry.into());
        self
    }

    /// Runs the task once for each item of a list (or of an expression).
    #[must_use]
    pub fn for_each(mut self, items: &serde_json::Value) -> Self {
        self.for_each = Some(Tree::from(items));
        self
    }
}

impl From<&serde_json::Value> for Tree {
    fn from(value: &serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(value) => Self::Bool(*value),
            serde_json::Value::Number(number) => Self::Number(number.clone()),
            serde_json::Value::String(text) => Self::String(text.clone()),
            serde_json::Value::Array(items) => {
                Self::List(items.iter().map(Self::from).collect())
            }
            serde_json::Value::Object(entries) => Self::Map(
                entries
                    .iter()
                    .map(|(key, value)| (key.clone(), Self::from(value)))
                    .collect(),
            ),
        }
    }
}

impl serde::Serialize for Tree {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(number) => number.serialize(serializer),
            Self::String(text) => serializer.serialize_str(text),
            Self::List(items) => serializer.collect_seq(items),
            Self::Map(entries) => {
                serializer.collect_map(entries.iter().map(|(key, value)| (key, value)))
            }
        }
    }
}

impl Tree {
    /// The value as JSON text.
    pub(crate) fn to_raw(&self) -> Box<RawValue> {
        // A tree holds only what JSON can say, so this does not fail.
        serde_json::value::to_raw_value(self)
            .unwrap_or_else(|_| RawValue::NULL.to_owned())
    }
}
