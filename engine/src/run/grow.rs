//! Growing: what a handler makes of its own step while the project runs. It becomes a
//! canvas, or it adds members to the group that it is a member of.
//!
//! Both are a fragment of one item whose body the handler has made, so it is stored with
//! the step. A step that became a canvas has the value of that, and ends with it. One that
//! added members has ended, and the join of its group has so many more needs.

use std::sync::Arc;

use super::{Decisions, Expansion, Output, Record, RecordKind, Run, StepState};
use crate::{
    StepError, Timestamp,
    plan::{Action, Flow, Plan, StepNo},
};

/// Why a step has children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growth {
    /// It is a `for_each`, and these are its items.
    Items,
    /// It became these steps.
    Replaced,
    /// It added these to the needs of the join of its group.
    Joined {
        /// The step that has the list of the group.
        join: StepNo,
    },
}

/// What was added to a group.
#[derive(Clone, Debug, Default)]
pub(super) struct Joined {
    /// The steps that have added members, in the order of the document.
    adders: Vec<StepNo>,
    /// How many members they have added.
    added: u32,
}

/// Where the output of a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It is its own.
    Own,
    /// It is that of another step, which it became.
    Of(StepNo),
    /// It is the list of those of [`Run::results`].
    Items,
}

impl Run {
    /// How deep steps may become canvases whose steps become canvases.
    pub const MAX_GROWTH: usize = 100;
    /// How many bytes the canvases may have that the steps of a project become.
    pub const MAX_GROWN_BYTES: usize = 128 * 1024 * 1024;

    /// How many bytes the canvases have that steps became.
    pub fn grown_bytes(&self) -> usize {
        self.grown_bytes
    }

    /// Why there is a step, if it is the child of another.
    pub(super) fn growth(&self, no: StepNo) -> Option<Growth> {
        self.fragment_of(no).map(|fragment| fragment.growth)
    }

    /// Whether the end of a step is that of its children.
    pub(super) fn became_others(&self, no: StepNo) -> bool {
        let child = self.children(no).next();
        child.is_some_and(|it| !matches!(self.growth(it), Some(Growth::Joined { .. })))
    }

    /// Whether a handler has made the step: what it calls with is data then, and nothing in
    /// it is an expression.
    pub fn is_grown(&self, no: StepNo) -> bool {
        !matches!(self.growth(no), None | Some(Growth::Items))
    }

    /// Where the output of a step is.
    pub fn source(&self, no: StepNo) -> Source {
        if matches!(self.step(no).action, Action::ForEach(_)) {
            // One whose output was given never ran.
            let given = self.view(no).attempt == 0
                && self.step_state(no) == StepState::Succeeded;
            return if given { Source::Own } else { Source::Items };
        }
        let result = self.results(no).next();
        let became = result.filter(|it| self.growth(*it) == Some(Growth::Replaced));
        became.map_or(Source::Own, Source::Of)
    }

    /// The list of a group: its members, and then those that these have added.
    pub fn members(&self, join: StepNo) -> Vec<StepNo> {
        let base = self.base(join);
        let Action::Pass { value: Flow::List(list), .. } = &self.step(join).action
        else {
            return vec![];
        };
        list.iter().map(|no| base + no).chain(self.added_to(join)).collect()
    }

    /// What members have added to a group: in the order of these members, whoever of them
    /// was quicker.
    pub fn added_to(&self, join: StepNo) -> impl Iterator<Item = StepNo> + '_ {
        let adders = self.joins.get(&join).map(|joined| joined.adders.iter());
        adders.into_iter().flatten().flat_map(|parent| {
            let fragment = &self.fragments[self.expanded[parent]];
            ends(&fragment.body).iter().map(|local| fragment.first + local)
        })
    }

    /// How many members a group has.
    pub(super) fn member_count(&self, join: StepNo) -> u32 {
        let Action::Pass { value: Flow::List(list), .. } = &self.step(join).action
        else {
            return 0;
        };
        let written = u32::try_from(list.len()).unwrap_or(u32::MAX);
        written + self.joins.get(&join).map_or(0, |joined| joined.added)
    }

    /// The children of a step that its value comes from, without their callbacks.
    pub(super) fn own_children(&self, no: StepNo) -> Vec<StepNo> {
        let Some(index) = self.expanded.get(&no) else { return vec![] };
        let fragment = &self.fragments[*index];
        let ends = match fragment.growth {
            Growth::Items => return self.children(no).collect(),
            Growth::Replaced => std::slice::from_ref(&fragment.result),
            Growth::Joined { .. } => ends(&fragment.body),
        };
        let own = fragment.body.upstream(ends.iter().copied());
        (fragment.first..).zip(own).filter_map(|(no, own)| own.then_some(no)).collect()
    }

    /// The join of a group that a step was added to.
    pub(super) fn joined_by(&self, no: StepNo) -> Option<StepNo> {
        let fragment = self.fragment_of(no)?;
        let Growth::Joined { join } = fragment.growth else { return None };
        ends(&fragment.body).binary_search(&(no - fragment.first)).ok().map(|_| join)
    }

    /// The join of the group that a step is a member of, and the step that stands in its
    /// list: itself, or the one that became it.
    pub fn group_of(&self, no: StepNo) -> Option<(StepNo, StepNo)> {
        let mut member = no;
        loop {
            if let Some(join) = self.joined_by(member) {
                return Some((join, member));
            }
            let (plan, local, base) = self.local_plan(member);
            let lists = |join: &StepNo| plan.step(*join).action.lists(local);
            if let Some(join) = plan.dependents(local).find(lists) {
                return Some((base + join, member));
            }
            member = self.influenced(member).filter(|parent| {
                matches!(self.source(*parent), Source::Of(result) if result == member)
            })?;
        }
    }

    /// Whether a step counts a need although that has failed.
    pub(super) fn tolerates(&self, dependent: StepNo, need: StepNo) -> bool {
        let action = &self.step(dependent).action;
        match self.joined_by(need) {
            Some(join) if join == dependent => {
                matches!(action, Action::Pass { tolerate: Some(_), .. })
            }
            _ => action.tolerates(need - self.base(need)),
        }
    }

    /// The parent whose end depends on how a child ends.
    pub(super) fn influenced(&self, no: StepNo) -> Option<StepNo> {
        let fragment = self.fragment_of(no)?;
        let has_part = match fragment.growth {
            Growth::Items => true,
            Growth::Replaced => no - fragment.first == fragment.result,
            Growth::Joined { .. } => false,
        };
        has_part.then_some(fragment.parent)
    }

    /// How many steps around a step have become canvases.
    pub fn growth_depth(&self, no: StepNo) -> usize {
        std::iter::successors(self.parent(no), |parent| self.parent(*parent)).count()
    }

    /// The numbers that lead to a step, from the plan down: the order of the document.
    fn path(&self, no: StepNo) -> Vec<StepNo> {
        let mut path = vec![];
        let mut at = Some(no);
        while let Some(no) = at {
            let fragment = self.fragment_of(no);
            path.push(no - fragment.map_or(0, |fragment| fragment.first));
            at = fragment.map(|fragment| fragment.parent);
        }
        path.reverse();
        path
    }

    /// The failure that a step has suffered from: the first one upstream, and within what
    /// that became.
    pub fn root_failure(&self, no: StepNo) -> StepNo {
        let mut at = no;
        // Needs and children come to an end.
        loop {
            let next = match (self.step_state(at), self.source(at)) {
                (StepState::UpstreamFailed, _) => {
                    self.needs(at).find(|need| self.step_state(*need).is_failure())
                }
                (StepState::Failed, Source::Of(result)) => Some(result),
                _ => None,
            };
            match next {
                Some(next) => at = next,
                None => return at,
            }
        }
    }

    /// How a step ends that became a canvas with this end.
    pub(super) fn verdict_on_value(
        &self,
        result: StepNo,
    ) -> (StepState, RecordKind, Option<StepError>) {
        match self.step_state(result) {
            StepState::Skipped => (StepState::Skipped, RecordKind::StepSkipped, None),
            StepState::Cancelled => {
                (StepState::Cancelled, RecordKind::StepCancelled, None)
            }
            StepState::Failed | StepState::UpstreamFailed | StepState::Quarantined => {
                let error = self.errors.get(&self.root_failure(result)).cloned();
                let unknown = || StepError::fail("expansion", "what it became failed");
                let error = error.unwrap_or_else(unknown);
                (StepState::Failed, RecordKind::StepFailed, Some(error))
            }
            StepState::Blocked
            | StepState::Ready
            | StepState::Running
            | StepState::Waiting
            | StepState::Succeeded => {
                (StepState::Succeeded, RecordKind::StepSucceeded, None)
            }
        }
    }

    /// An attempt ended with a plan.
    pub(super) fn grew(
        &mut self,
        no: StepNo,
        body: Arc<Plan>,
        output: Option<Output>,
        at: Timestamp,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
    ) {
        match output {
            // Nothing is begun any more.
            None if self.is_halted(no) => {
                self.finish(no, StepState::Cancelled, None, at, ended, decisions);
            }
            Some(output) if self.cancelling => {
                self.succeeded(no, Some(output), at, ended, decisions);
            }
            None => {
                let mut record = Record::step(RecordKind::StepExpanded, no, at);
                record.attempt = self.nodes[no as usize].attempt;
                decisions.records.push(record);
                self.errors.remove(&no);
                let first =
                    self.become_canvas(no, Arc::clone(&body), at, ended, decisions);
                let mut fact = self.fact(no);
                fact.expansion = Some(Expansion { first, items: 1 });
                fact.body = Some(body);
                decisions.facts.push(fact);
            }
            Some(output) => {
                self.succeeded(no, Some(output), at, ended, decisions);
                if let Some(first) = self.join_members(no, Arc::clone(&body))
                    && let Some(fact) = decisions.facts.last_mut()
                {
                    fact.expansion = Some(Expansion { first, items: 1 });
                    fact.body = Some(body);
                    self.slide(no, ended, decisions, at);
                }
            }
        }
    }

    /// A running step becomes a canvas.
    pub(super) fn become_canvas(
        &mut self,
        no: StepNo,
        body: Arc<Plan>,
        at: Timestamp,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
    ) -> StepNo {
        self.busy = self.busy.saturating_sub(u32::from(self.folding.is_none()));
        self.nodes[no as usize].at = at;
        let first = self.add_fragment((no, Growth::Replaced), 1, body, 1);
        if self.halted.contains(&no) {
            let own = self.own_children(no);
            self.halted.extend(own);
        }
        self.slide(no, ended, decisions, at);
        first
    }

    /// Adds members to the group of a step that has just ended: its join has not heard of
    /// that yet. The members are let in after that.
    pub(super) fn join_members(
        &mut self,
        no: StepNo,
        body: Arc<Plan>,
    ) -> Option<StepNo> {
        let (join, _) = self.group_of(no)?;
        let more = u32::try_from(ends(&body).len()).unwrap_or(u32::MAX);
        self.nodes[join as usize].needs.total += more;
        let growth = Growth::Joined { join };
        let first = self.add_fragment((no, growth), 1, body, 1);
        let path = self.path(no);
        let known = self.joins.get(&join).map_or(&[][..], |joined| &joined.adders);
        let place = known.partition_point(|other| self.path(*other) < path);
        let joined = self.joins.entry(join).or_default();
        joined.adders.insert(place, no);
        joined.added += more;
        if self.halted.contains(&no) {
            let own = self.own_children(no);
            self.halted.extend(own);
        }
        Some(first)
    }
}

/// The steps of a body that have the values of its members, in the order of their numbers.
fn ends(body: &Plan) -> &[StepNo] {
    match body.value() {
        Some(Flow::List(list)) => list,
        _ => &[],
    }
}
