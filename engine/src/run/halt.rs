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
        self.stopped || self.halted.contains(&no)
    }

    /// Whether a failure may end steps that have nothing to do with it: who has lent some
    /// of them to others asks for them back first.
    pub fn may_halt(&self) -> bool {
        self.may_halt
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
        let needs = &self.nodes[join as usize].needs;
        let failed = match tolerate {
            None => needs.failed,
            Some(_) => needs.failed + needs.allowed,
        };
        if cancel.is_empty() || failed == 0 {
            return;
        }
        let most = tolerate.map_or(0, |most| most.at_most_of(self.member_count(join)));
        let base = self.base(join);
        if failed <= most || self.halted.contains(&(base + cancel[0].0)) {
            return;
        }
        let ranges = cancel.clone();
        let mut steps: Vec<StepNo> =
            ranges.into_iter().flat_map(|(from, to)| base + from..base + to).collect();
        while let Some(no) = steps.pop() {
            self.halted.insert(no);
            self.halt_step(no, at, ended, decisions);
            steps.extend(self.own_children(no));
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
