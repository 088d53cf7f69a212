//! Changing the state of a step: every change goes through [`Run::enter`] (a live state) or
//! [`Run::end`] (a final one), which keep the counts; and the row that records it.

use super::{
    Decisions, Fact, Output, PastAttempt, Record, RecordKind, Run, StepState, Wait,
};
use crate::{StepError, Timestamp, plan::StepNo};

impl Run {
    pub(super) fn wait(
        &mut self,
        no: StepNo,
        wait: Wait,
        output: Option<Output>,
        at: Timestamp,
        decisions: &mut Decisions,
    ) {
        self.enter(no, StepState::Waiting, at);
        self.waits.insert(no, wait);
        self.timers.insert((wait.until, no));
        let mut fact = self.fact(no);
        fact.output = output;
        let mut record = Record::step(RecordKind::StepWaiting, no, at);
        record.attempt = fact.attempt;
        record.until = Some(wait.until);
        decisions.facts.push(fact);
        decisions.records.push(record);
    }

    /// Ends a step by a fact of its own.
    pub(super) fn finish(
        &mut self,
        no: StepNo,
        state: StepState,
        error: Option<StepError>,
        at: Timestamp,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
    ) {
        let kind = match state {
            StepState::Succeeded => RecordKind::StepSucceeded,
            StepState::Failed => RecordKind::StepFailed,
            StepState::Skipped => RecordKind::StepSkipped,
            StepState::Quarantined => RecordKind::StepQuarantined,
            StepState::Cancelled
            | StepState::UpstreamFailed
            | StepState::Blocked
            | StepState::Ready
            | StepState::Running
            | StepState::Waiting => RecordKind::StepCancelled,
        };
        let node = &mut self.nodes[no as usize];
        if node.attempt == 0 && state != StepState::Skipped {
            // A join, or a step whose expressions failed: it ran here and now.
            node.attempt = 1;
            node.started_at = Some(at);
            node.began_at = Some(at);
        }
        let mut record = Record::step(kind, no, at);
        record.attempt = node.attempt;
        record.error.clone_from(&error);
        match error {
            Some(error) => self.errors.insert(no, error),
            None => self.errors.remove(&no),
        };
        self.end(no, state, at, ended);
        decisions.facts.push(self.fact(no));
        decisions.records.push(record);
    }

    /// Moves a step to a state that is not final.
    pub(super) fn enter(&mut self, no: StepNo, state: StepState, at: Timestamp) {
        let expanded = self.expanded.contains_key(&no);
        let node = &mut self.nodes[no as usize];
        if node.state == StepState::Running && !expanded {
            self.busy -= 1;
        }
        self.counts[node.state as usize] -= 1;
        self.counts[state as usize] += 1;
        node.state = state;
        node.at = at;
    }

    /// Moves a step to a final state.
    pub(super) fn end(
        &mut self,
        no: StepNo,
        state: StepState,
        at: Timestamp,
        ended: &mut Vec<StepNo>,
    ) {
        self.enter(no, state, at);
        if let Some(wait) = self.waits.remove(&no) {
            self.timers.remove(&(wait.until, no));
        }
        self.open -= 1;
        let policy = self.policy(no);
        let failed = matches!(state, StepState::Failed | StepState::Quarantined);
        if failed && !policy.allow_failure && !policy.contained {
            self.fatal += 1;
        }
        ended.push(no);
    }

    /// The row that records a step as it is now.
    pub(super) fn fact(&self, no: StepNo) -> Fact {
        let node = &self.nodes[no as usize];
        let wait = self.waits.get(&no);
        Fact {
            no,
            generation: node.generation,
            attempt: node.attempt,
            failures: node.failures,
            crashes: node.crashes,
            state: node.state,
            at: node.at,
            began_at: node.began_at,
            started_at: node.started_at,
            until: wait.map(|wait| wait.until),
            wait: wait.map(|wait| wait.reason),
            output: None,
            error: self.errors.get(&no).cloned(),
            expansion: None,
            body: None,
        }
    }

    pub(super) fn past(
        &self,
        no: StepNo,
        state: StepState,
        error: Option<StepError>,
        finished_at: Timestamp,
    ) -> PastAttempt {
        let node = &self.nodes[no as usize];
        PastAttempt {
            no,
            generation: node.generation,
            attempt: node.attempt,
            state,
            started_at: node.started_at,
            finished_at,
            error,
            output: None,
        }
    }
}

impl Record {
    pub(crate) fn project(kind: RecordKind, at: Timestamp) -> Self {
        Self {
            at,
            kind,
            no: None,
            attempt: 0,
            error: None,
            until: None,
            progress: None,
        }
    }

    pub(crate) fn step(kind: RecordKind, no: StepNo, at: Timestamp) -> Self {
        Self { no: Some(no), ..Self::project(kind, at) }
    }
}
