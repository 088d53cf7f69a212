//! The plan: the immutable compiled graph of a project. Pure.
//!
//! Owns the shape (petgraph), its validation, levels, remaining paths and its hash.
//! Knows nothing of time, storage or execution.
//! Invariant: a [`Plan`] that exists is acyclic and all its references resolve.

mod build;
mod dynamic;
mod edit;
mod flow;
mod nearest;
mod policy;
mod problem;
mod retry;
mod rule;
mod step;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, OnceLock},
};

use petgraph::{Direction, graph::DiGraph};
use serde::{Deserialize, Serialize};

pub use self::{
    build::Draft,
    dynamic::Dynamic,
    edit::Edit,
    flow::{Call, Flow},
    nearest::nearest,
    policy::{Policy, StartBefore},
    problem::Problem,
    retry::{Backoff, Retry},
    rule::{Amount, Needs, Rule, Verdict},
    step::{Action, Body, Condition, ForEach, Scope, Step},
};
pub(crate) use self::{
    build::{Settings, survey},
    nearest::did_you_mean,
    retry::seed,
};

/// The number of a step in its plan, dense from 0 in document order.
pub type StepNo = u32;

/// The format that this version writes; plans of a newer one are not loaded.
pub const PLAN_FORMAT: u32 = 1;

/// The most steps a plan may have.
pub const MAX_STEPS: usize = 1_000_000;

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
/// The most edges a plan may have.
pub const MAX_EDGES: usize = 4_000_000;

/// The immutable compiled graph of a project.
#[derive(Debug)]
pub struct Plan {
    stored: Stored,
    /// Edges run from a need to its dependents. Weights live in `stored.steps`, which
    /// node indices number.
    graph: DiGraph<(), (), StepNo>,
    /// Needs before dependents.
    order: Vec<StepNo>,
    /// The level of each step: 1 without needs, else one more than its highest need.
    level: Vec<u32>,
    /// How many steps the longest path from each step to an end has, itself included.
    remaining: Vec<u32>,
    /// Made when a step is first looked for by its name.
    index: OnceLock<HashMap<String, StepNo>>,
    hash: [u8; 32],
    bytes: Arc<[u8]>,
}

/// The part of a plan that is written to the store; the rest is computed from it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) format: u32,
    pub(crate) steps: Vec<Step>,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) policies: Vec<Policy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_parallel: Option<u32>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) fail_fast: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) outputs: Option<Dynamic>,
    /// The value of a canvas, which is the output of its project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<Flow>,
    /// The tasks whose outputs are the project's when it declares none.
    #[serde(default)]
    pub(crate) leaves: Vec<StepNo>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Figures of a plan, for `validate` and lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Steps, without the children of `for_each`.
    pub steps: usize,
    /// Distinct edges.
    pub edges: usize,
    /// Steps on the longest chain.
    pub depth: u32,
    /// The most steps on one level.
    pub width: usize,
}

impl Plan {
    /// The number of steps, without the children of `for_each`.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "MAX_STEPS is far below u32::MAX"
    )]
    pub fn len(&self) -> StepNo {
        self.stored.steps.len() as StepNo
    }

    /// Whether the plan has no steps.
    pub fn is_empty(&self) -> bool {
        self.stored.steps.is_empty()
    }

    /// The step of a number below [`Plan::len`].
    pub fn step(&self, no: StepNo) -> &Step {
        &self.stored.steps[no as usize]
    }

    /// All steps in document order.
    pub fn steps(&self) -> &[Step] {
        &self.stored.steps
    }

    /// Finds a step by its full name.
    pub fn find(&self, name: &str) -> Option<StepNo> {
        let index = self.index.get_or_init(|| {
            (0..).zip(self.steps()).map(|(no, step)| (step.name.clone(), no)).collect()
        });
        index.get(name).copied()
    }

    /// The policy of a step.
    pub fn policy(&self, no: StepNo) -> &Policy {
        &self.stored.policies[self.step(no).policy as usize]
    }

    /// The scope in which a step's expressions are evaluated.
    pub fn scope(&self, scope: u32) -> &Scope {
        &self.stored.scopes[scope as usize]
    }

    /// The scopes that the expressions of a step see, and those around them.
    pub fn scopes_of(&self, no: StepNo) -> impl Iterator<Item = &Scope> {
        let step = self.step(no);
        let mut open: Vec<u32> = step.conditions.iter().map(|it| it.scope).collect();
        open.push(step.scope);
        std::iter::from_fn(move || {
            let scope = self.scope(open.pop()?);
            match scope {
                Scope::Template { outer, .. } => open.push(*outer),
                Scope::Root | Scope::Item => {}
            }
            Some(scope)
        })
    }

    /// The steps that need `no`.
    pub fn dependents(&self, no: StepNo) -> impl Iterator<Item = StepNo> + '_ {
        self.graph
            .neighbors_directed(no.into(), Direction::Outgoing)
            .map(|node| u32::try_from(node.index()).unwrap_or(u32::MAX))
    }

    /// The steps in an order in which every step follows its needs.
    pub fn order(&self) -> &[StepNo] {
        &self.order
    }

    /// The level of a step: 1 without needs, else one more than its highest need.
    pub fn level(&self, no: StepNo) -> u32 {
        self.level[no as usize]
    }

    /// How many steps the longest path from `no` to an end has, itself included.
    pub fn remaining(&self, no: StepNo) -> u32 {
        self.remaining[no as usize]
    }

    /// The steps of one longest chain, first to last.
    pub fn critical_path(&self) -> Vec<StepNo> {
        let longest = |steps: &mut dyn Iterator<Item = StepNo>| {
            steps.max_by_key(|no| (self.remaining(*no), std::cmp::Reverse(*no)))
        };
        let mut path = vec![];
        let mut next = longest(&mut (0..self.len()));
        while let Some(no) = next {
            path.push(no);
            next = longest(&mut self.dependents(no));
        }
        path
    }

    /// The most steps of the project that may run at once, if it says so.
    pub fn max_parallel(&self) -> Option<u32> {
        self.stored.max_parallel
    }

    /// Whether the first failure without allowance stops the project.
    pub fn fail_fast(&self) -> bool {
        self.stored.fail_fast
    }

    /// The declared outputs of the project.
    pub fn outputs(&self) -> Option<&Dynamic> {
        self.stored.outputs.as_ref()
    }

    /// The value of a canvas, where the project is one.
    pub fn value(&self) -> Option<&Flow> {
        self.stored.value.as_ref()
    }

    /// The tasks that nobody needs: their outputs are the project's by default.
    pub fn leaves(&self) -> &[StepNo] {
        &self.stored.leaves
    }

    /// SHA-256 of the stored form.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The hash in hexadecimal.
    pub fn hash_hex(&self) -> String {
        hex(&self.hash)
    }

    /// The stored form.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// How many steps the longest body of a `for_each` has, at any depth; at least one.
    pub(crate) fn longest_body(&self) -> StepNo {
        let mut longest = 1;
        let mut plans = vec![self];
        while let Some(plan) = plans.pop() {
            for step in plan.steps() {
                if let Action::ForEach(for_each) = &step.action {
                    longest = longest.max(for_each.body.0.len());
                    plans.push(&for_each.body.0);
                }
            }
        }
        longest
    }

    /// The kinds of its steps, bodies of `for_each` included.
    pub fn kinds(&self) -> BTreeSet<&str> {
        let mut kinds = BTreeSet::new();
        let mut plans = vec![self];
        while let Some(plan) = plans.pop() {
            for step in plan.steps() {
                match &step.action {
                    Action::Run { kind, .. } => drop(kinds.insert(kind.as_str())),
                    Action::ForEach(for_each) => plans.push(&for_each.body.0),
                    Action::Join { .. } | Action::Pass { .. } => {}
                }
            }
        }
        kinds
    }

    /// Steps, edges, depth and width.
    pub fn figures(&self) -> Figures {
        let mut per_level = vec![0_usize; self.order.len() + 1];
        for level in &self.level {
            per_level[*level as usize] += 1;
        }
        Figures {
            steps: self.stored.steps.len(),
            edges: self.graph.edge_count(),
            depth: self.level.iter().copied().max().unwrap_or(0),
            width: per_level.into_iter().max().unwrap_or(0),
        }
    }

    /// The steps that can be reached from `seeds` along dependents, seeds included.
    pub fn downstream(&self, seeds: impl IntoIterator<Item = StepNo>) -> Vec<bool> {
        self.closure(seeds, Direction::Outgoing)
    }

    /// The steps that can be reached from `seeds` along needs, seeds included.
    pub fn upstream(&self, seeds: impl IntoIterator<Item = StepNo>) -> Vec<bool> {
        self.closure(seeds, Direction::Incoming)
    }

    fn closure(
        &self,
        seeds: impl IntoIterator<Item = StepNo>,
        direction: Direction,
    ) -> Vec<bool> {
        let mut reached = vec![false; self.stored.steps.len()];
        let mut stack: Vec<StepNo> = seeds.into_iter().collect();
        while let Some(no) = stack.pop() {
            if !std::mem::replace(&mut reached[no as usize], true) {
                let next = self.graph.neighbors_directed(no.into(), direction);
                let open = next.filter(|next| !reached[next.index()]);
                stack.extend(
                    open.map(|next| u32::try_from(next.index()).unwrap_or(u32::MAX)),
                );
            }
        }
        reached
    }
}
