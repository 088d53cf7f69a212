//! Orders and closures over the steps of a run, children included.

use std::collections::BTreeSet;

use super::Run;
use crate::plan::StepNo;

impl Run {
    /// All steps in use in document order, children after their task.
    pub fn in_document_order(&self) -> Vec<StepNo> {
        let mut order = Vec::with_capacity(self.nodes.len());
        let mut stack: Vec<std::ops::Range<StepNo>> = vec![];
        stack.push(0..self.plan.len());
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

    /// What has to run again when `seeds` do.
    pub fn set_back(&self, seeds: &[StepNo]) -> SetBack {
        let mut set_back = SetBack::default();
        let mut stack = seeds.to_vec();
        while let Some(no) = stack.pop() {
            if !set_back.steps.insert(no) {
                continue;
            }
            set_back.kept.remove(&no);
            self.dependents_into(no, &mut stack);
            // The list may be another one: none of the old children stays.
            stack.extend(self.children(no));
            let mut child = no;
            while let Some(parent) = self.influenced(child) {
                if set_back.steps.contains(&parent) || !set_back.kept.insert(parent) {
                    break;
                }
                self.dependents_into(parent, &mut stack);
                child = parent;
            }
        }
        set_back
    }

    /// The same without what depends on them: it keeps what it has.
    pub fn set_back_only(&self, seeds: &[StepNo]) -> SetBack {
        let mut set_back = SetBack::default();
        let mut stack = seeds.to_vec();
        while let Some(no) = stack.pop() {
            if set_back.steps.insert(no) {
                stack.extend(self.children(no));
            }
        }
        for no in &set_back.steps {
            let mut child = *no;
            while let Some(parent) = self.influenced(child) {
                if set_back.steps.contains(&parent) || !set_back.kept.insert(parent) {
                    break;
                }
                child = parent;
            }
        }
        set_back
    }
}

/// What a replay sets back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetBack {
    /// Steps that run again.
    pub steps: BTreeSet<StepNo>,
    /// Every step that keeps its children and ends again with them.
    pub kept: BTreeSet<StepNo>,
}

impl SetBack {
    /// Whether a step is not as it was.
    pub fn touches(&self, no: StepNo) -> bool {
        self.steps.contains(&no) || self.kept.contains(&no)
    }
}
