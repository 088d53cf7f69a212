//! What expansion writes into: the parts of a plan, and the place it works at.

use std::collections::HashMap;

use super::{Path, Treatment};
use crate::plan::{Action, Condition, Draft, Policy, Rule, Scope, Step};

/// The parts of a plan under construction: the project's, or that of a body.
pub(crate) struct Builder {
    pub(super) scopes: Vec<Scope>,
    pub(super) policies: Vec<Policy>,
    known_policies: HashMap<String, u32>,
    latest_policy: u32,
    pub(crate) drafts: Vec<Draft>,
}

impl Builder {
    pub(super) fn new(scopes: Vec<Scope>) -> Self {
        Self {
            scopes,
            policies: vec![],
            known_policies: HashMap::new(),
            latest_policy: 0,
            drafts: vec![],
        }
    }

    /// The number of a policy, which is kept once.
    pub(crate) fn policy(&mut self, policy: Policy) -> u32 {
        // Most are as the one before.
        if self.policies.get(self.latest_policy as usize) == Some(&policy) {
            return self.latest_policy;
        }
        // Distinct policies are few; their JSON is their identity.
        let key = serde_json::to_string(&policy).unwrap_or_default();
        let next = u32::try_from(self.policies.len()).unwrap_or(u32::MAX);
        let policies = &mut self.policies;
        self.latest_policy = *self.known_policies.entry(key).or_insert_with(|| {
            policies.push(policy);
            next
        });
        self.latest_policy
    }

    pub(super) fn scope(&mut self, scope: Scope) -> u32 {
        self.scopes.push(scope);
        u32::try_from(self.scopes.len() - 1).unwrap_or(u32::MAX)
    }

    /// Adds a step.
    pub(crate) fn add(
        &mut self,
        name: String,
        title: Option<String>,
        action: Action,
        guard: Guard,
        scope: u32,
        policy: u32,
    ) {
        let Guard { needs, rule, conditions } = guard;
        let step = Step {
            name,
            title,
            needs: vec![],
            action,
            rule,
            conditions,
            scope,
            policy,
        };
        self.drafts.push(Draft { step, needs });
    }
}

/// Where a group of tasks is expanded: at the top, or inside a use of a template.
pub(super) struct Place {
    /// What the names of steps start with.
    pub(super) prefix: String,
    /// The scope that expressions of the group see.
    pub(super) scope: u32,
    /// What guards tasks that need nothing inside the group.
    pub(super) guard: Guard,
    /// Whether failures are judged by an enclosing step.
    pub(super) contained: bool,
    /// Whether the task here is the body of its own `for_each`: what concerns the start
    /// of the whole belongs to the parent.
    pub(super) is_item: bool,
    /// What tasks inherit from the task that uses the template.
    pub(super) treatment: Treatment,
    /// Where the group stands in the document.
    pub(super) at: Path,
}

/// What a step needs and asks before it starts.
#[derive(Clone, Default)]
pub(crate) struct Guard {
    pub(crate) needs: Vec<String>,
    pub(crate) rule: Rule,
    pub(crate) conditions: Vec<Condition>,
}

impl Place {
    /// The tasks of the document.
    pub(super) fn top() -> Self {
        Self {
            prefix: String::new(),
            scope: 0,
            guard: Guard::default(),
            contained: false,
            is_item: false,
            treatment: Treatment::default(),
            at: Path::default().key("tasks"),
        }
    }

    /// The tasks of a template, apart from any use.
    pub(super) fn template(name: &str) -> Self {
        Self {
            at: Path::default().key("templates").key(name).key("tasks"),
            ..Self::top()
        }
    }
}
