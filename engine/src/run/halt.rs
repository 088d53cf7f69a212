//! Halting: what has not started is ended, and what runs is told to stop. All of a project
//! (a cancel, `fail_fast`), or the members of a group of which too many have failed.

use super::{Decisions, Record, RecordKind, Run, StepState};
use crate::{
    Timestamp,
    plan::{Action, StepNo},
};

impl Run {
    /// Whether nothing begins any more where a step is.
    pub(super) fn is_halted(&self, no: StepNo) -> bool {
        if self.stopped || self.halted.is_empty() {
            return self.stopped;
        }
        std::iter::successors(Some(no), |no| self.parent(*no))
            .any(|no| self.halted.iter().any(|range| range.contains(&no)))
    }

    /// Ends every step that has not started; running ones are told to stop.
    pub(super) fn stop(
        &mut self,
        at: Timestamp,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
    ) {
        self.stopped = true;
        for no in 0..self.len() {
            self.halt_step(no, at, ended, decisions);
        }
    }

    /// Ends the members of a group with `siblings: cancel`, once more of them have failed
    /// than may.
    pub(super) fn halt_siblings(
        &mut self,
        join: StepNo,
        at: Timestamp,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
    ) {
        let Action::Pass { cancel, tolerate, .. } = &self.step(join).action else {
            return;
        };
        let Some(first) = cancel.first() else { return };
        let base = self.base(join);
        if self.halted.iter().any(|range| range.contains(&(base + first.0))) {
            return;
        }
        let needs = &self.nodes[join as usize].needs;
        let too_many = match tolerate {
            None => needs.failed > 0,
            Some(amount) => {
                let members = u32::try_from(self.members(join).len());
                let most = amount.at_most_of(members.unwrap_or(u32::MAX));
                needs.failed + needs.allowed > most
            }
        };
        if !too_many {
            return;
        }
        let mut steps: Vec<StepNo> = vec![];
        for (from, to) in cancel.clone() {
            self.halted.push(base + from..base + to);
            steps.extend(base + from..base + to);
        }
        while let Some(no) = steps.pop() {
            self.halt_step(no, at, ended, decisions);
            steps.extend(self.children(no));
        }
    }

    fn halt_step(
        &mut self,
        no: StepNo,
        at: Timestamp,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
    ) {
        if self.folding.as_ref().is_some_and(|unfolded| unfolded.contains(&no)) {
            return;
        }
        match self.step_state(no) {
            StepState::Blocked | StepState::Ready | StepState::Waiting => {
                let cancelled = RecordKind::StepCancelled;
                decisions.records.push(Record::step(cancelled, no, at));
                self.end(no, StepState::Cancelled, at, ended);
            }
            StepState::Running if !self.expanded.contains_key(&no) => {
                decisions.stop.push(no);
            }
            StepState::Running
            | StepState::Succeeded
            | StepState::Failed
            | StepState::UpstreamFailed
            | StepState::Skipped
            | StepState::Cancelled
            | StepState::Quarantined => {}
        }
    }
}
