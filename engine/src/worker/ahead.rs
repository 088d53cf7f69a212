//! Going ahead: what only computes need not wait until what it builds on is written, and
//! what has effects rests on nothing that is not.

use super::owned::{Carry, Owned};
use crate::{
    handler::Kinds,
    plan::{Action, StepNo},
    run::{Fact, StepState},
};

impl Owned {
    /// Whether nobody outside could tell if what the step does were lost, and no blame can
    /// fall on it.
    pub(super) fn is_plain(&self, no: StepNo, kinds: &Kinds) -> bool {
        match &self.run.step(no).action {
            Action::Run { kind, .. } => {
                kinds.get(kind).is_some_and(|handler| handler.is_pure())
                    && !self.run.policy(no).at_most_once
                    && self.run.view(no).crashes == 0
            }
            Action::Join { .. } | Action::Pass { .. } | Action::ForEach(_) => true,
        }
    }

    /// Takes note of what was recorded, and picks the steps that may start at once: pure ones,
    /// while all that is not written is the work of such. After a crash each waits, so that
    /// what ends its process finds everything before it written.
    pub(super) fn go_ahead(
        &mut self,
        facts: &[Fact],
        ready: &mut Vec<StepNo>,
        kinds: &Kinds,
    ) -> Vec<StepNo> {
        let matters = |fact: &Fact| is_result(fact) && !self.is_plain(fact.no, kinds);
        let matters = facts.iter().any(matters);
        self.pending.carry.matters |= matters;
        let flying = self.in_flight.as_ref().is_some_and(|carry| carry.matters);
        if self.is_careful || self.pending.carry.matters || flying {
            return vec![];
        }
        ready.extract_if(.., |no| self.is_plain(*no, kinds)).collect()
    }

    /// Whether nothing that was gathered calls for a commit: it is the work of pure steps, and
    /// nothing waits for it.
    pub(super) fn may_ride(&self) -> bool {
        let Carry { ready, launch, stop, finished, matters, .. } = &self.pending.carry;
        self.pending.is_nothing_but_steps()
            && (ready.is_empty() && launch.is_empty() && stop.is_empty())
            && finished.is_none()
            && !matters
    }

    /// Whether what became of a step is not written yet: a rule may let a step start while
    /// others that it names still run. It also holds for what has no row of its own, because
    /// each event of a run comes later than the one before.
    pub(super) fn is_unwritten(&self, no: StepNo) -> bool {
        let view = self.run.view(no);
        match view.state {
            // Whoever sees one of these rests on nothing that could be lost, but for the
            // failure of an earlier attempt.
            StepState::Blocked | StepState::Ready | StepState::Running => {
                view.failures > 0 && self.has_unwritten_failure(no)
            }
            StepState::Waiting
            | StepState::Succeeded
            | StepState::Failed
            | StepState::UpstreamFailed
            | StepState::Skipped
            | StepState::Cancelled
            | StepState::Quarantined => view.at > self.written,
        }
    }

    fn has_unwritten_failure(&self, no: StepNo) -> bool {
        self.pending.has_failure(no)
            || self.in_flight.as_ref().is_some_and(|carry| carry.failed.contains(&no))
    }

    /// Whether something of what a step sees is not written.
    pub(super) fn sees_unwritten(&self, seen: &[StepNo]) -> bool {
        seen.iter().any(|seen| self.is_unwritten(*seen))
    }

    /// Leaves a step for the commit that holds what was recorded last; whether that is still
    /// to be sent.
    pub(super) fn put_off(&mut self, no: StepNo) -> bool {
        match &mut self.in_flight {
            Some(carry) if self.pending.is_empty() => {
                carry.ready.push(no);
                false
            }
            _ => {
                self.pending.carry.ready.push(no);
                true
            }
        }
    }
}

/// Whether a fact tells more than a start: a step that grew goes on running.
fn is_result(fact: &Fact) -> bool {
    fact.state != StepState::Running || fact.expansion.is_some()
}
