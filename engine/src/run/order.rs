//! Orders and closures over the steps of a run, children included.

use std::collections::BTreeSet;

use super::{Place, Run};
use crate::plan::StepNo;

impl Run {
    /// All steps in use in document order, children after their task.
    pub fn in_document_order(&self) -> Vec<StepNo> {
        let mut order = Vec::with_capacity(self.nodes.len());
        let mut stack: Vec<std::ops::Range<StepNo>> = Vec::from([0..self.plan.len()]);
        while let Some(mut range) = stack.pop() {
            let Some(no) = range.next() else { continue };
            stack.push(range);
            order.push(no);
            let children = self.children(no);
            if !children.is_empty() {
                stack.push(children);
            }
        }
        order
    }

    /// The steps that `seeds` affect: what depends on them, what their `for_each`
    /// contains, and the `for_each` that contains them.
    pub fn affected(&self, seeds: &[StepNo]) -> BTreeSet<StepNo> {
        let mut affected = BTreeSet::new();
        let mut stack = seeds.to_vec();
        let mut dependents = vec![];
        while let Some(no) = stack.pop() {
            if !affected.insert(no) {
                continue;
            }
            dependents.clear();
            self.dependents_into(no, &mut dependents);
            stack.extend_from_slice(&dependents);
            if let Place::Child { parent, .. } = self.place(no) {
                stack.push(parent);
            }
        }
        affected
    }

    /// Whether a step stays expanded when its children run again: a replay sets back the
    /// children that failed, and the list they belong to is still the same.
    pub fn children_keep(&self, no: StepNo) -> bool {
        !self.children(no).is_empty()
            && self.needs(no).all(|need| self.step_state(need).is_terminal())
            && self.children(no).any(|child| {
                matches!(
                    self.step_state(child),
                    super::StepState::Failed
                        | super::StepState::Quarantined
                        | super::StepState::Cancelled
                )
            })
    }
}
