//! [`Step`]: a node of the plan, and the scopes its expressions see.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{Amount, Call, Dynamic, Flow, Plan, Rule, StepNo};

/// A node of the plan.
#[derive(Debug, Serialize, Deserialize)]
pub struct Step {
    /// The full name, unique in the plan, such as `idea/search`.
    pub name: String,
    /// What people read instead of the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The steps it needs, in document order, without duplicates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<StepNo>,
    /// What it does.
    pub action: Action,
    /// When it may start, looking at its needs.
    #[serde(default, skip_serializing_if = "Rule::is_default")]
    pub rule: Rule,
    /// Expressions that must all be true once the rule says run.
    #[serde(default, rename = "if", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The number of the scope its expressions see.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub scope: u32,
    /// The number of its policy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub policy: u32,
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// An `if:` with the scope it was written in (that of the task which uses a template
/// differs from that of the template's steps).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// The expression, without `${{ }}`.
    pub expression: String,
    /// The number of the scope it sees.
    pub scope: u32,
}

/// What a step does.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Runs the handler of a kind.
    Run {
        /// The kind.
        kind: String,
        /// Its `with:`; `None` is an empty one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        with: Option<Dynamic>,
        /// Instead of a `with:`, the arguments of a call of a canvas.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call: Option<Box<Call>>,
    },
    /// Has a value that flows along a canvas, such as the list of a group. Costs no slot.
    Pass {
        /// The value.
        value: Flow,
        /// How many of a list may have failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tolerate: Option<Amount>,
        /// Once more have failed: the ranges of steps, from and up to, that are cancelled.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        cancel: Vec<(StepNo, StepNo)>,
    },
    /// Joins the last steps of a template and carries its output. Costs no slot.
    Join {
        /// The template's `output`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Dynamic>,
    },
    /// Runs a body once for each item of a list.
    ForEach(Box<ForEach>),
}

/// The parts of a `for_each`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ForEach {
    /// The list, or an expression that gives it.
    pub items: Dynamic,
    /// What runs for an item: one step, or a template's steps with its join last.
    pub body: Body,
    /// How many items may be in flight at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// How many items may fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerate: Option<Amount>,
}

/// The plan of one item. Stored inside the plan that holds it.
#[derive(Clone, Debug)]
pub struct Body(pub Arc<Plan>);

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.stored.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = super::Stored::deserialize(deserializer)?;
        Plan::from_stored(stored)
            .map(|plan| Self(Arc::new(plan)))
            .map_err(D::Error::custom)
    }
}

/// Which names an expression sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The tasks of the document.
    Root,
    /// What the enclosing `for_each` sees, and `item` and `index`.
    Item,
    /// The tasks of one use of a template, and its `params`.
    Template {
        /// The full name of the task that uses the template.
        task: String,
        /// Its `with:`, completed by the defaults of the parameters.
        params: Option<Dynamic>,
        /// The number of the scope in which `params` is evaluated.
        outer: u32,
    },
}

impl Step {
    /// Whether it ends other steps once too many of its needs have failed.
    pub(crate) fn may_halt(&self) -> bool {
        matches!(&self.action, Action::Pass { cancel, .. } if !cancel.is_empty())
    }

    /// The kind of the step; joins and expansions have names of their own.
    pub fn kind(&self) -> &str {
        match &self.action {
            Action::Run { kind, .. } => kind,
            Action::Join { .. } => "join",
            Action::Pass { value: Flow::List(_), .. } => "group",
            Action::Pass { value: Flow::Failure(_), .. } => "failure",
            Action::Pass { .. } => "value",
            Action::ForEach(_) => "for_each",
        }
    }

    /// The last part of the name: what `tasks.NAME` inside its scope calls it.
    pub fn task_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }
}
