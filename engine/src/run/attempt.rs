//! One attempt of a step: its start, its end, and whether another one follows.

use super::{
    Decisions, Illegal, Output, Record, RecordKind, Run, StepState, Wait, WaitReason,
};
use crate::{
    ErrorClass, StepError, Timestamp,
    plan::{StepNo, seed},
};

impl Run {
    pub(super) fn started(
        &mut self,
        no: StepNo,
        since: Timestamp,
        at: Timestamp,
        decisions: &mut Decisions,
    ) -> Result<(), Illegal> {
        self.expect_ready(no, "started")?;
        self.enter(no, StepState::Running, at);
        self.busy += 1;
        let node = &mut self.nodes[no as usize];
        node.attempt += 1;
        node.started_at = Some(since);
        node.began_at = node.began_at.or(Some(since));
        let attempt = node.attempt;
        decisions.facts.push(self.fact(no));
        let mut record = Record::step(RecordKind::StepStarted, no, at);
        record.attempt = attempt;
        decisions.records.push(record);
        Ok(())
    }

    pub(super) fn succeeded(
        &mut self,
        no: StepNo,
        output: Option<Output>,
        at: Timestamp,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
    ) {
        if self.cancelling {
            // Too late to change anything, too dear to throw away.
            let mut past = self.past(no, StepState::Succeeded, None, at);
            past.output = output;
            decisions.attempts.push(past);
            return self.finish(no, StepState::Cancelled, None, at, ended, decisions);
        }
        self.finish(no, StepState::Succeeded, None, at, ended, decisions);
        if let Some(fact) = decisions.facts.last_mut() {
            fact.output = output;
        }
    }

    pub(super) fn failed(
        &mut self,
        no: StepNo,
        error: StepError,
        at: Timestamp,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
    ) {
        let policy = self.policy(no);
        // Interrupted, whoever did it: whether the effect happened is not known.
        let uncertain = policy.at_most_once
            && error.code != StepError::NOT_STARTED
            && (matches!(error.class, ErrorClass::Cancelled | ErrorClass::Lost)
                || error.code == "timeout");
        if uncertain {
            let error = StepError {
                code: "outcome_unknown".into(),
                class: ErrorClass::Lost,
                message: format!(
                    "interrupted, and may not be repeated: {}",
                    error.message
                ),
                ..error
            };
            return self.finish(
                no,
                StepState::Quarantined,
                Some(error),
                at,
                ended,
                decisions,
            );
        }
        if self.cancelling
            || (error.class == ErrorClass::Cancelled && self.is_halted(no))
        {
            return self.finish(
                no,
                StepState::Cancelled,
                Some(error),
                at,
                ended,
                decisions,
            );
        }
        let running = self.step_state(no) == StepState::Running;
        if let Some(until) = self.next_attempt(no, &error, at).filter(|_| running) {
            let past = self.past(no, StepState::Failed, Some(error.clone()), at);
            let mut record = Record::step(RecordKind::StepAttemptFailed, no, at);
            record.attempt = past.attempt;
            record.error = Some(error.clone());
            decisions.records.push(record);
            decisions.attempts.push(past);
            self.nodes[no as usize].failures += 1;
            self.errors.insert(no, error);
            let wait = Wait { reason: WaitReason::Retry, until, completes: false };
            return self.wait(no, wait, None, at, decisions);
        }
        self.nodes[no as usize].failures += 1;
        self.finish(no, StepState::Failed, Some(error), at, ended, decisions);
    }

    /// When the next attempt may start, if the policy allows one.
    fn next_attempt(
        &self,
        no: StepNo,
        error: &StepError,
        at: Timestamp,
    ) -> Option<Timestamp> {
        let policy = self.policy(no);
        let node = &self.nodes[no as usize];
        if self.is_halted(no)
            || policy.at_most_once
            || node.failures >= policy.retry.max_retries
            || !policy.retry.covers(error)
        {
            return None;
        }
        let seed = seed(&[&self.seed, &no.to_le_bytes(), &node.attempt.to_le_bytes()]);
        let until = at.plus(policy.retry.wait(node.failures + 1, error, seed));
        let in_time = policy
            .retry
            .max_elapsed
            .is_none_or(|most| until.since(node.began_at.unwrap_or(at)) <= most);
        in_time.then_some(until)
    }

    /// Ends the wait for a retry. The wait is stored with its new end, so that a crash does
    /// not bring back the old one.
    pub(super) fn retry_now(
        &mut self,
        no: Option<StepNo>,
        now: Timestamp,
        at: Timestamp,
        decisions: &mut Decisions,
    ) -> Result<(), Illegal> {
        let retries = |wait: &Wait| wait.reason == WaitReason::Retry;
        let waiting: Vec<StepNo> = match no {
            Some(no) => vec![no],
            None => {
                let mut all: Vec<StepNo> = self
                    .waits
                    .iter()
                    .filter(|(_, it)| retries(it))
                    .map(|it| *it.0)
                    .collect();
                all.sort_unstable();
                all
            }
        };
        let fits = |no: &StepNo| self.waits.get(no).is_some_and(&retries);
        if waiting.is_empty() || !waiting.iter().all(fits) {
            return Err(self.illegal(no.filter(|no| *no < self.len()), "retry"));
        }
        for no in waiting {
            if let Some(wait) = self.waits.get(&no).copied() {
                self.timers.remove(&(wait.until, no));
                self.wait(no, Wait { until: now, ..wait }, None, at, decisions);
            }
        }
        Ok(())
    }

    pub(super) fn lost(
        &mut self,
        no: StepNo,
        charged: bool,
        limit: u32,
        at: Timestamp,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
    ) {
        let error = StepError::lost();
        self.nodes[no as usize].crashes += u32::from(charged);
        let crashes = self.nodes[no as usize].crashes;
        if self.policy(no).at_most_once {
            return self.failed(no, error, at, ended, decisions);
        }
        // Nothing starts after a stop, so a step that would start again has ended.
        if self.is_halted(no) {
            return self.finish(
                no,
                StepState::Cancelled,
                Some(error),
                at,
                ended,
                decisions,
            );
        }
        if charged && limit > 0 && crashes >= limit {
            let message = format!("{crashes} workers died while it ran");
            let error = StepError { message, ..error };
            return self.finish(
                no,
                StepState::Quarantined,
                Some(error),
                at,
                ended,
                decisions,
            );
        }
        let past = self.past(no, StepState::Failed, Some(error.clone()), at);
        let mut record = Record::step(RecordKind::StepLost, no, at);
        record.attempt = past.attempt;
        record.error = Some(error);
        decisions.attempts.push(past);
        decisions.records.push(record);
        self.enter(no, StepState::Ready, at);
        decisions.facts.push(self.fact(no));
        decisions.ready.push(no);
    }
}
