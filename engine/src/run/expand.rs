//! Expansion: the children of a `for_each`, appended as a range of step numbers.
//!
//! A fragment is `items` copies of a body plan. Nothing is stored per child until it
//! runs; its numbers follow from the fragment.

use std::sync::Arc;

use super::{Decisions, Expansion, Node, Output, Record, RecordKind, Run, StepState};
use crate::{
    StepError, Timestamp,
    plan::{Action, Amount, ForEach, Plan, Step, StepNo},
};

/// The children of one `for_each` step.
#[derive(Clone, Debug)]
pub(super) struct Fragment {
    pub(super) parent: StepNo,
    pub(super) first: StepNo,
    pub(super) items: u32,
    pub(super) body: Arc<Plan>,
    /// How many items may be in flight.
    window: u32,
    /// The next item that has not been let in by the window.
    next: u32,
    /// Items that were let in and have not ended.
    in_flight: u32,
    /// Child steps that have not ended.
    open: u32,
    /// Items whose result failed, cancelled included.
    failed: u32,
    cancelled: u32,
}

/// Where a step number leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A step of the plan.
    Plan,
    /// A step of a body.
    Child {
        /// The `for_each` step.
        parent: StepNo,
        /// The index of the item.
        item: u32,
        /// The number in the body.
        local: StepNo,
        /// The number of the first step of the item.
        base: StepNo,
    },
}

impl Fragment {
    fn end(&self) -> StepNo {
        self.first + self.items * self.body.len()
    }

    fn place(&self, no: StepNo) -> Place {
        let (item, local) =
            ((no - self.first) / self.body.len(), (no - self.first) % self.body.len());
        Place::Child { parent: self.parent, item, local, base: no - local }
    }
}

impl Run {
    /// The most items an expansion may have.
    pub const MAX_ITEMS: u32 = 100_000;

    /// Where a step number leads.
    pub fn place(&self, no: StepNo) -> Place {
        self.fragment_of(no).map_or(Place::Plan, |fragment| fragment.place(no))
    }

    fn fragment_of(&self, no: StepNo) -> Option<&Fragment> {
        if no < self.plan.len() {
            return None;
        }
        let at = self.fragments.partition_point(|fragment| fragment.end() <= no);
        // Numbers before its first are out of use (see `restore`).
        self.fragments.get(at).filter(|fragment| fragment.first <= no)
    }

    /// The plan that holds a step, and its number there.
    pub(super) fn local(&self, no: StepNo) -> (&Arc<Plan>, StepNo) {
        match self.fragment_of(no) {
            None => (&self.plan, no),
            Some(fragment) => {
                (&fragment.body, (no - fragment.first) % fragment.body.len())
            }
        }
    }

    /// What to add to a number of the body of `no`'s item to get a step number.
    pub(super) fn base(&self, no: StepNo) -> StepNo {
        match self.place(no) {
            Place::Plan => 0,
            Place::Child { base, .. } => base,
        }
    }

    /// The plan that holds a step, its number there, and the number of its first step.
    pub fn local_plan(&self, no: StepNo) -> (&Arc<Plan>, StepNo, StepNo) {
        let (plan, local) = self.local(no);
        (plan, local, self.base(no))
    }

    /// The steps that `no` needs, as step numbers.
    pub fn needs(&self, no: StepNo) -> impl Iterator<Item = StepNo> + '_ {
        let base = self.base(no);
        self.step(no).needs.iter().map(move |need| base + need)
    }

    /// The steps that need `no`, appended to `into`.
    pub(super) fn dependents_into(&self, no: StepNo, into: &mut Vec<StepNo>) {
        let base = self.base(no);
        let (plan, local) = self.local(no);
        into.extend(plan.dependents(local).map(|dependent| base + dependent));
    }

    /// The length of the longest path from `no` to the end of the project.
    pub(super) fn remaining(&self, no: StepNo) -> u32 {
        match self.place(no) {
            Place::Plan => self.plan.remaining(no),
            Place::Child { parent, local, .. } => {
                let (body, _) = self.local(no);
                self.remaining(parent).saturating_add(body.remaining(local))
            }
        }
    }

    /// The full name of a step, such as `reviews[3]/write`. A number that a replay has
    /// taken out of use is shown as such.
    pub fn name(&self, no: StepNo) -> String {
        match self.place(no) {
            Place::Plan => match self.plan.steps().get(no as usize) {
                Some(step) => step.name.clone(),
                None => format!("#{no}"),
            },
            Place::Child { parent, item, .. } => {
                let parent = self.name(parent);
                match self.step(no).name.as_str() {
                    "" => format!("{parent}[{item}]"),
                    name => format!("{parent}[{item}]/{name}"),
                }
            }
        }
    }

    /// Finds a step by its full name, children included.
    pub fn find(&self, name: &str) -> Option<StepNo> {
        if let Some(no) = self.plan.find(name) {
            return Some(no);
        }
        // Task names hold no brackets, so the first one ends the name of the parent.
        let (parent, rest) = name.split_once('[')?;
        let mut no = self.plan.find(parent)?;
        let mut rest = rest;
        loop {
            let (item, tail) = rest.split_once(']')?;
            let fragment = &self.fragments[*self.expanded.get(&no)?];
            let item =
                item.parse::<u32>().ok().filter(|item| *item < fragment.items)?;
            let (inner, next) =
                match tail.strip_prefix('/').unwrap_or(tail).split_once('[') {
                    Some((inner, next)) => (inner, Some(next)),
                    None => (tail.strip_prefix('/').unwrap_or(tail), None),
                };
            let local = fragment.body.find(inner)?;
            no = fragment.first + item * fragment.body.len() + local;
            match next {
                Some(next) => rest = next,
                None => return Some(no),
            }
        }
    }

    /// The results of the items of a `for_each`, in item order.
    pub fn results(&self, parent: StepNo) -> impl Iterator<Item = StepNo> + '_ {
        self.expanded.get(&parent).into_iter().flat_map(|at| {
            let fragment = &self.fragments[*at];
            let size = fragment.body.len();
            (0..fragment.items).map(move |item| fragment.first + item * size + size - 1)
        })
    }

    /// The children of a `for_each`, in number order.
    pub fn children(&self, parent: StepNo) -> std::ops::Range<StepNo> {
        self.expanded.get(&parent).map_or(0..0, |at| {
            let fragment = &self.fragments[*at];
            fragment.first..fragment.end()
        })
    }

    /// How many items of a `for_each` have ended, and of how many.
    pub fn items_done(&self, parent: StepNo) -> Option<(u32, u32)> {
        let fragment = &self.fragments[*self.expanded.get(&parent)?];
        let done = self
            .results(parent)
            .filter(|result| self.step_state(*result).is_terminal())
            .count();
        Some((u32::try_from(done).unwrap_or(u32::MAX), fragment.items))
    }

    pub(super) fn for_each(step: &Step) -> Option<&ForEach> {
        match &step.action {
            Action::ForEach(for_each) => Some(for_each),
            Action::Run { .. } | Action::Join { .. } | Action::Pass { .. } => None,
        }
    }

    /// Appends the children of `parent` and lets the first of them in.
    pub(super) fn add_fragment(
        &mut self,
        parent: StepNo,
        items: u32,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
        at: Timestamp,
    ) -> StepNo {
        let first = self.len();
        let Some(for_each) = Self::for_each(self.step(parent)) else { return first };
        let (body, window) = (Arc::clone(&for_each.body.0), for_each.window);
        // A list that is expanded anew is another generation of children, so that their
        // idempotency keys are others too.
        let generation = self.nodes[parent as usize].generation;
        for _ in 0..items {
            let node = |step: &Step| Node { generation, ..Node::new(step.needs.len()) };
            self.nodes.extend(body.steps().iter().map(node));
        }
        let open = items * body.len();
        self.counts[StepState::Blocked as usize] += open;
        self.open += open;
        let fragment = Fragment {
            parent,
            first,
            items,
            body,
            window: window.unwrap_or(u32::MAX),
            next: 0,
            in_flight: 0,
            open,
            failed: 0,
            cancelled: 0,
        };
        self.expanded.insert(parent, self.fragments.len());
        self.fragments.push(fragment);
        self.slide(parent, ended, decisions, at);
        first
    }

    /// Lets items in while the window has room.
    fn slide(
        &mut self,
        parent: StepNo,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
        at: Timestamp,
    ) {
        let index = self.expanded[&parent];
        loop {
            let fragment = &mut self.fragments[index];
            if fragment.next == fragment.items || fragment.in_flight >= fragment.window
            {
                return;
            }
            let item = fragment.next;
            fragment.next += 1;
            let result = fragment.first + (item + 1) * fragment.body.len() - 1;
            // After a replay an item may have ended before the window came to it.
            if !self.nodes[result as usize].state.is_terminal() {
                fragment.in_flight += 1;
                self.let_in(parent, item, ended, decisions, at);
            }
        }
    }

    /// Lets the steps of an item that need nothing become ready.
    fn let_in(
        &mut self,
        parent: StepNo,
        item: u32,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
        at: Timestamp,
    ) {
        let fragment = &self.fragments[self.expanded[&parent]];
        let base = fragment.first + item * fragment.body.len();
        let body = Arc::clone(&fragment.body);
        for (local, step) in (0..).zip(body.steps()) {
            if step.needs.is_empty()
                && self.step_state(base + local) == StepState::Blocked
            {
                self.decide(base + local, at, ended, decisions);
            }
        }
    }

    /// Takes note that a child ended; returns the parent when that was the last one.
    pub(super) fn child_ended(
        &mut self,
        no: StepNo,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
        at: Timestamp,
    ) -> Option<StepNo> {
        let Place::Child { parent, item, local, .. } = self.place(no) else {
            return None;
        };
        let state = self.step_state(no);
        let allowed = self.policy(no).allow_failure;
        let fragment = &mut self.fragments[self.expanded[&parent]];
        fragment.open -= 1;
        if local + 1 == fragment.body.len() {
            match state {
                StepState::Failed
                | StepState::UpstreamFailed
                | StepState::Quarantined
                    if !allowed =>
                {
                    fragment.failed += 1;
                }
                StepState::Cancelled => fragment.cancelled += 1,
                StepState::Failed
                | StepState::UpstreamFailed
                | StepState::Quarantined
                | StepState::Blocked
                | StepState::Ready
                | StepState::Running
                | StepState::Waiting
                | StepState::Succeeded
                | StepState::Skipped => {}
            }
            if item < fragment.next {
                fragment.in_flight -= 1;
            }
        }
        let done = fragment.open == 0;
        if !self.stopped {
            self.slide(parent, ended, decisions, at);
        }
        done.then_some(parent)
    }

    /// How a `for_each` whose children have all ended ends itself.
    fn verdict_on_items(&self, parent: StepNo) -> (StepState, RecordKind, u32) {
        let fragment = &self.fragments[self.expanded[&parent]];
        let tolerated = Self::for_each(self.step(parent))
            .and_then(|for_each| for_each.tolerate)
            .map_or(0, |amount: Amount| amount.at_most_of(fragment.items));
        let (state, kind) = if fragment.failed > tolerated {
            (StepState::Failed, RecordKind::StepFailed)
        } else if fragment.cancelled > 0 {
            (StepState::Cancelled, RecordKind::StepCancelled)
        } else {
            (StepState::Succeeded, RecordKind::StepSucceeded)
        };
        (state, kind, fragment.failed)
    }

    pub(super) fn expanded(
        &mut self,
        no: StepNo,
        items: u32,
        list: Output,
        at: Timestamp,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
    ) {
        self.enter(no, StepState::Running, at);
        let node = &mut self.nodes[no as usize];
        node.attempt = 1;
        node.started_at = Some(at);
        node.began_at = Some(at);
        decisions.records.push(Record::step(RecordKind::StepExpanded, no, at));
        let first = self.add_fragment(no, items, ended, decisions, at);
        let mut fact = self.fact(no);
        fact.output = Some(list);
        fact.expansion = Some(Expansion { first, items });
        decisions.facts.push(fact);
        if items == 0 {
            self.close_items(no, at, ended, decisions);
        }
    }

    /// All children of a `for_each` have ended: it ends too, without a row of its own.
    pub(super) fn close_items(
        &mut self,
        parent: StepNo,
        at: Timestamp,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
    ) {
        let (state, kind, failed) = self.verdict_on_items(parent);
        let mut record = Record::step(kind, parent, at);
        if state == StepState::Failed {
            let items = self.items_done(parent).map_or(0, |(_, items)| items);
            let message = format!("{failed} of {items} items failed");
            let error = StepError::fail("items_failed", message);
            record.error = Some(error.clone());
            self.errors.insert(parent, error);
        }
        decisions.records.push(record);
        self.end(parent, state, at, ended);
    }
}
