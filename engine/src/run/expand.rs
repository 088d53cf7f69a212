//! Expansion: the children of a step, appended as a range of step numbers.
//!
//! A fragment is `items` copies of a body plan. Nothing is stored per child until it
//! runs; its numbers follow from the fragment. What a handler makes of its step is in
//! `grow`.

use std::sync::Arc;

use super::{
    Decisions, Expansion, Node, Output, Record, RecordKind, Run, StepState,
    grow::Growth,
};
use crate::{
    StepError, Timestamp,
    plan::{Action, Amount, Flow, ForEach, Plan, Step, StepNo},
};

/// The children of one step.
#[derive(Clone, Debug)]
pub(super) struct Fragment {
    pub(super) parent: StepNo,
    pub(super) growth: Growth,
    pub(super) first: StepNo,
    pub(super) items: u32,
    pub(super) body: Arc<Plan>,
    /// The number in the body of the step that has the value of an item.
    pub(super) result: StepNo,
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
        /// The step that became many.
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

    pub(super) fn fragment_of(&self, no: StepNo) -> Option<&Fragment> {
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
        let planned = self.step(no).needs.iter().map(move |need| base + need);
        planned.chain(self.added_to(no))
    }

    /// The steps that need `no`, appended to `into`.
    pub(super) fn dependents_into(&self, no: StepNo, into: &mut Vec<StepNo>) {
        let base = self.base(no);
        let (plan, local) = self.local(no);
        into.extend(plan.dependents(local).map(|dependent| base + dependent));
        into.extend(self.joined_by(no));
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
                let is_item = self.growth(no) == Some(Growth::Items);
                let parent = self.name(parent);
                match self.step(no).name.as_str() {
                    name if !is_item => format!("{parent}/{name}"),
                    "" => format!("{parent}[{item}]"),
                    name => format!("{parent}[{item}]/{name}"),
                }
            }
        }
    }

    /// Finds a step by its full name, children included.
    pub fn find(&self, name: &str) -> Option<StepNo> {
        let (mut plan, mut base, mut rest) = (&self.plan, 0, name);
        'deeper: loop {
            if let Some(local) = plan.find(rest) {
                return Some(base + local);
            }
            // Names of tasks in templates hold slashes too, so every one may be the end of
            // the name of a parent.
            for (at, mark) in rest.match_indices(['/', '[']) {
                let parent = plan.find(&rest[..at]).map(|local| base + local);
                let Some(index) = parent.and_then(|no| self.expanded.get(&no)) else {
                    continue;
                };
                let fragment = &self.fragments[*index];
                let (item, tail) = match (mark, fragment.growth) {
                    ("[", Growth::Items) => rest[at + 1..].split_once(']')?,
                    ("/", Growth::Replaced | Growth::Joined { .. }) => {
                        ("0", &rest[at + 1..])
                    }
                    _ => continue,
                };
                let item =
                    item.parse::<u32>().ok().filter(|item| *item < fragment.items)?;
                base = fragment.first + item * fragment.body.len();
                (plan, rest) = (&fragment.body, tail.strip_prefix('/').unwrap_or(tail));
                continue 'deeper;
            }
            return None;
        }
    }

    /// The steps that have the values of the items of a step, in item order.
    pub fn results(&self, parent: StepNo) -> impl Iterator<Item = StepNo> + '_ {
        self.expanded.get(&parent).into_iter().flat_map(|at| {
            let fragment = &self.fragments[*at];
            let (size, result) = (fragment.body.len(), fragment.result);
            (0..fragment.items).map(move |item| fragment.first + item * size + result)
        })
    }

    /// The children of a step, in number order.
    pub fn children(&self, parent: StepNo) -> std::ops::Range<StepNo> {
        self.expanded.get(&parent).map_or(0..0, |at| {
            let fragment = &self.fragments[*at];
            fragment.first..fragment.end()
        })
    }

    /// How many items of a `for_each` have ended, and of how many.
    pub fn items_done(&self, parent: StepNo) -> Option<(u32, u32)> {
        let fragment = &self.fragments[*self.expanded.get(&parent)?];
        if fragment.growth != Growth::Items {
            return None;
        }
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

    /// Appends the children of a `for_each` and lets the first of them in.
    pub(super) fn add_items(
        &mut self,
        parent: StepNo,
        items: u32,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
        at: Timestamp,
    ) -> StepNo {
        let Some(for_each) = Self::for_each(self.step(parent)) else {
            return self.len();
        };
        let (body, window) = (Arc::clone(&for_each.body.0), for_each.window);
        let of = (parent, Growth::Items);
        let first = self.add_fragment(of, items, body, window.unwrap_or(u32::MAX));
        self.slide(parent, ended, decisions, at);
        first
    }

    /// Appends the children of `parent`; none of them is let in yet.
    pub(super) fn add_fragment(
        &mut self,
        (parent, growth): (StepNo, Growth),
        items: u32,
        body: Arc<Plan>,
        window: u32,
    ) -> StepNo {
        let first = self.len();
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
        let result = match body.value() {
            Some(Flow::Output(no)) => *no,
            _ => body.len().saturating_sub(1),
        };
        let fragment = Fragment {
            parent,
            growth,
            first,
            items,
            body,
            result,
            window,
            next: 0,
            in_flight: 0,
            open,
            failed: 0,
            cancelled: 0,
        };
        if growth != Growth::Items {
            self.grown_bytes += fragment.body.bytes().len();
        }
        self.may_halt |= fragment.body.steps().iter().any(Step::may_halt);
        self.expanded.insert(parent, self.fragments.len());
        self.fragments.push(fragment);
        first
    }

    /// Lets items in while the window has room.
    pub(super) fn slide(
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
            let result = fragment.first + item * fragment.body.len() + fragment.result;
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

    /// Takes note that a child ended; returns the parent when it ends with that.
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
        match fragment.growth {
            Growth::Items => {}
            // What else is in it are callbacks, and what they ended with changes nothing.
            Growth::Replaced => return (local == fragment.result).then_some(parent),
            Growth::Joined { .. } => return None,
        }
        if local == fragment.result {
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
    pub(super) fn verdict_on_items(
        &self,
        parent: StepNo,
    ) -> (StepState, RecordKind, u32) {
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
        let first = self.add_items(no, items, ended, decisions, at);
        let mut fact = self.fact(no);
        fact.output = Some(list);
        fact.expansion = Some(Expansion { first, items });
        decisions.facts.push(fact);
        if items == 0 {
            self.close_parent(no, at, ended, decisions);
        }
    }

    /// The children of a step have decided how it ends: it does, without a row of its own.
    pub(super) fn close_parent(
        &mut self,
        parent: StepNo,
        at: Timestamp,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
    ) {
        let (state, kind, error) = match self.results(parent).next() {
            Some(result) if self.growth(result) == Some(Growth::Replaced) => {
                self.verdict_on_value(result)
            }
            _ => {
                let (state, kind, failed) = self.verdict_on_items(parent);
                let items = self.items_done(parent).map_or(0, |(_, items)| items);
                let message = format!("{failed} of {items} items failed");
                (state, kind, Some(StepError::fail("items_failed", message)))
            }
        };
        let mut record = Record::step(kind, parent, at);
        if let Some(error) = error.filter(|_| state == StepState::Failed) {
            record.error = Some(error.clone());
            self.errors.insert(parent, error);
        }
        decisions.records.push(record);
        self.end(parent, state, at, ended);
    }
}
