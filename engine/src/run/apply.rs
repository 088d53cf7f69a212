//! [`Run::apply`]: one event, its transition, and what follows from it.
//!
//! Attempts are in `attempt`, expansions in `expand` and `grow`, stops in `halt`, the change
//! itself in `change`. Consequences are worked off from a list, not by
//! recursion: a chain of a million steps fails in one pass.

use std::time::Duration;

use super::{
    Decisions, Event, Illegal, ProjectState, Record, RecordKind, Run, StepState, Wait,
    WaitReason,
};
use crate::{
    StepError, Timestamp,
    plan::{Action, StartBefore, StepNo, Verdict},
};

impl Run {
    /// Applies an event. `now` is raised to lie after the previous event.
    ///
    /// # Errors
    /// [`Illegal`] when the event does not fit the state; nothing has changed then.
    pub fn apply(
        &mut self,
        event: Event,
        now: Timestamp,
    ) -> Result<Decisions, Illegal> {
        let mut decisions = Decisions::default();
        let mut ended = vec![];
        let at = now.max(Timestamp::from_micros(self.now.as_micros() + 1));
        match event {
            Event::Started { no } => self.started(no, at, at, &mut decisions)?,
            Event::Claimed { no, since } => {
                self.started(no, since.min(at), at, &mut decisions)?;
            }
            Event::Succeeded { no, attempt, output } => {
                self.expect(no, attempt, "succeeded")?;
                self.succeeded(no, Some(output), at, &mut ended, &mut decisions);
            }
            Event::Failed { no, attempt, error } => {
                self.expect(no, attempt, "failed")?;
                self.failed(no, error, at, &mut ended, &mut decisions);
            }
            Event::Deferred { no, attempt, until, output } => {
                self.expect(no, attempt, "deferred")?;
                // Nothing is waited for after a stop.
                if self.is_halted(no) {
                    self.finish(
                        no,
                        StepState::Cancelled,
                        None,
                        at,
                        &mut ended,
                        &mut decisions,
                    );
                } else {
                    let wait =
                        Wait { reason: WaitReason::Timer, until, completes: true };
                    self.wait(no, wait, Some(output), at, &mut decisions);
                }
            }
            Event::ConditionFalse { no } => {
                self.expect_ready(no, "condition_false")?;
                let error = StepError::fail("condition", "its `if` is false");
                let skipped = StepState::Skipped;
                self.finish(no, skipped, Some(error), at, &mut ended, &mut decisions);
            }
            Event::Expanded { no, items, list } => {
                self.expect_ready(no, "expanded")?;
                self.expanded(no, items, list, at, &mut ended, &mut decisions);
            }
            Event::Grew { no, attempt, body, output } => {
                self.expect(no, attempt, "grew")?;
                self.grew(no, body, output, at, &mut ended, &mut decisions);
            }
            Event::Lost { no, charged, limit } => {
                self.expect_running(no, "lost")?;
                self.lost(no, charged, limit, at, &mut ended, &mut decisions);
            }
            Event::Tick => self.tick(now, at, &mut ended, &mut decisions),
            Event::RetryNow { no } => self.retry_now(no, now, at, &mut decisions)?,
            Event::Cancel => {
                self.expect_open("cancel")?;
                self.cancelling = true;
                decisions
                    .records
                    .push(Record::project(RecordKind::ProjectCancelRequested, at));
                self.stop(at, &mut ended, &mut decisions);
            }
            Event::Pause => {
                self.expect_open("pause")?;
                if self.state == ProjectState::Paused {
                    return Err(self.illegal(None, "pause"));
                }
                self.state = ProjectState::Paused;
                decisions.records.push(Record::project(RecordKind::ProjectPaused, at));
            }
            Event::Resume => {
                if self.state != ProjectState::Paused {
                    return Err(self.illegal(None, "resume"));
                }
                self.state = ProjectState::Running;
                decisions.records.push(Record::project(RecordKind::ProjectResumed, at));
            }
            Event::Closed { error } => {
                if !self.is_complete() {
                    return Err(self.illegal(None, "closed"));
                }
                self.close(error, at, &mut decisions);
            }
        }
        self.settle(at, &mut ended, &mut decisions);
        if !decisions.is_empty() {
            self.now = at;
        }
        Ok(decisions)
    }

    /// Begins the project: its first steps become ready.
    pub fn begin(&mut self, now: Timestamp) -> Decisions {
        let mut decisions = Decisions::default();
        let mut ended = vec![];
        self.now = now;
        self.state = ProjectState::Running;
        decisions.records.push(Record::project(RecordKind::ProjectStarted, now));
        for no in 0..self.plan.len() {
            if self.plan.step(no).needs.is_empty() {
                self.decide(no, now, &mut ended, &mut decisions);
            }
        }
        self.settle(now, &mut ended, &mut decisions);
        decisions
    }

    /// Works off what follows from ended steps, then looks at the project as a whole.
    pub(super) fn settle(
        &mut self,
        at: Timestamp,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
    ) {
        let mut dependents = vec![];
        loop {
            while let Some(no) = ended.pop() {
                dependents.clear();
                self.dependents_into(no, &mut dependents);
                for dependent in dependents.drain(..) {
                    self.count_need(dependent, no);
                    self.halt_siblings(dependent, at, ended, decisions);
                    if self.step_state(dependent) == StepState::Blocked {
                        self.decide(dependent, at, ended, decisions);
                    }
                }
                if let Some(parent) = self.child_ended(no, ended, decisions, at) {
                    self.close_parent(parent, at, ended, decisions);
                }
            }
            let failing = self.plan.fail_fast() && self.fatal > 0;
            if !failing || self.stopped {
                break;
            }
            self.stop(at, ended, decisions);
        }
        decisions.complete = self.is_complete() && self.folding.is_none();
    }

    /// Counts an ended need of a step.
    fn count_need(&mut self, dependent: StepNo, need: StepNo) {
        let state = self.step_state(need);
        // What never ran because of its needs has nothing of its own to allow, except
        // the join of a template: there the failure lies inside.
        let own = state != StepState::UpstreamFailed
            || matches!(self.step(need).action, Action::Join { .. });
        let allowed =
            (own && self.policy(need).allow_failure) || self.tolerates(dependent, need);
        // Where too many siblings failed, the join says so itself.
        let ended_by_sibling = state == StepState::Cancelled
            && self.halted.contains(&need)
            && self.tolerates(dependent, need);
        let needs = &mut self.nodes[dependent as usize].needs;
        match state {
            StepState::Succeeded => needs.succeeded += 1,
            StepState::Failed | StepState::UpstreamFailed | StepState::Quarantined => {
                if allowed {
                    needs.allowed += 1;
                } else {
                    needs.failed += 1;
                }
            }
            StepState::Skipped => needs.skipped += 1,
            StepState::Cancelled if ended_by_sibling => needs.allowed += 1,
            StepState::Cancelled => needs.cancelled += 1,
            StepState::Blocked
            | StepState::Ready
            | StepState::Running
            | StepState::Waiting => {}
        }
    }

    /// Asks the rule of a blocked step for its verdict and follows it.
    pub(super) fn decide(
        &mut self,
        no: StepNo,
        at: Timestamp,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
    ) {
        // A step without needs runs whatever its rule: a template's first steps carry
        // the rule of the task, which may need nothing.
        let needs = self.nodes[no as usize].needs;
        let verdict = match needs.total {
            0 => Verdict::Run,
            _ => self.step(no).rule.verdict(&needs),
        };
        let unfolded = self.folding.as_ref().is_some_and(|it| it.contains(&no));
        let (state, kind) = match verdict {
            Verdict::Wait => return,
            // Its own row, which is still to come, says what became of it: a replay may
            // have given it an output whatever its needs say.
            _ if unfolded
                && (!matches!(verdict, Verdict::Run) || self.is_halted(no)) =>
            {
                return;
            }
            Verdict::Run if self.is_halted(no) => {
                (StepState::Cancelled, RecordKind::StepCancelled)
            }
            Verdict::Run => return self.allow(no, at, decisions),
            Verdict::Skip => (StepState::Skipped, RecordKind::StepSkipped),
            Verdict::UpstreamFailed => {
                (StepState::UpstreamFailed, RecordKind::StepUpstreamFailed)
            }
            Verdict::Cancel => (StepState::Cancelled, RecordKind::StepCancelled),
        };
        decisions.records.push(Record::step(kind, no, at));
        self.end(no, state, at, ended);
    }

    /// The needs of a step allow it: it becomes ready, now or after its delay.
    pub(super) fn allow(
        &mut self,
        no: StepNo,
        at: Timestamp,
        decisions: &mut Decisions,
    ) {
        let policy = self.policy(no);
        let due = at.plus(policy.delay).max(policy.not_before.unwrap_or(at));
        let expires = match policy.start_before {
            Some(StartBefore::Within(time)) => Some(due.plus(time)),
            Some(StartBefore::At(time)) => Some(time),
            None => None,
        };
        self.nodes[no as usize].ready_at = due;
        if let Some(expires) = expires {
            self.timers.insert((expires, no));
        }
        if due > at {
            let wait = Wait { reason: WaitReason::Timer, until: due, completes: false };
            self.waits.insert(no, wait);
            self.timers.insert((due, no));
            self.enter(no, StepState::Waiting, at);
            let mut record = Record::step(RecordKind::StepWaiting, no, at);
            record.until = Some(due);
            decisions.records.push(record);
        } else {
            self.enter(no, StepState::Ready, at);
            decisions.ready.push(no);
        }
    }

    fn tick(
        &mut self,
        now: Timestamp,
        at: Timestamp,
        ended: &mut Vec<StepNo>,
        decisions: &mut Decisions,
    ) {
        while let Some((due, no)) =
            self.timers.first().copied().filter(|(due, _)| *due <= now)
        {
            self.timers.pop_first();
            match (self.step_state(no), self.waits.get(&no).copied()) {
                (StepState::Waiting, Some(wait)) if wait.until == due => {
                    if wait.completes {
                        self.succeeded(no, None, at, ended, decisions);
                    } else {
                        // Nothing is written: the stored wait says the same, so the time of
                        // the change is the one that was set, not the one it was noticed.
                        self.waits.remove(&no);
                        self.enter(no, StepState::Ready, due);
                        decisions.ready.push(no);
                    }
                }
                // The timer of `start_before`: it counts only until the first start.
                (StepState::Ready | StepState::Waiting, _)
                    if self.nodes[no as usize].attempt == 0 =>
                {
                    let error = StepError::fail("expired", "`start_before` has passed");
                    let skipped = StepState::Skipped;
                    self.finish(no, skipped, Some(error), at, ended, decisions);
                }
                _ => {}
            }
        }
    }

    fn close(
        &mut self,
        error: Option<StepError>,
        at: Timestamp,
        decisions: &mut Decisions,
    ) {
        let (state, kind) = if self.cancelling {
            (ProjectState::Cancelled, RecordKind::ProjectCancelled)
        } else if self.fatal > 0 || error.is_some() {
            (ProjectState::Failed, RecordKind::ProjectFailed)
        } else {
            (ProjectState::Succeeded, RecordKind::ProjectSucceeded)
        };
        self.state = state;
        let mut record = Record::project(kind, at);
        record.error = error;
        decisions.records.push(record);
        decisions.finished = Some(self.state);
    }

    fn expect(
        &self,
        no: StepNo,
        attempt: u32,
        event: &'static str,
    ) -> Result<(), Illegal> {
        if no >= self.len() {
            return Err(self.illegal(None, event));
        }
        let node = &self.nodes[no as usize];
        // What the engine itself evaluates (joins, expressions) never starts.
        let here = node.state == StepState::Ready
            && (event == "failed"
                || matches!(
                    self.step(no).action,
                    Action::Join { .. } | Action::Pass { .. }
                ));
        let running = node.state == StepState::Running
            && node.attempt == attempt
            && !self.expanded.contains_key(&no);
        if here || running { Ok(()) } else { Err(self.illegal(Some(no), event)) }
    }

    pub(super) fn expect_ready(
        &self,
        no: StepNo,
        event: &'static str,
    ) -> Result<(), Illegal> {
        if no < self.len() && self.step_state(no) == StepState::Ready {
            return Ok(());
        }
        Err(self.illegal((no < self.len()).then_some(no), event))
    }

    fn expect_running(&self, no: StepNo, event: &'static str) -> Result<(), Illegal> {
        let attempt = self.nodes.get(no as usize).map_or(0, |node| node.attempt);
        match self.expect(no, attempt, event) {
            Ok(()) if self.step_state(no) == StepState::Running => Ok(()),
            _ => Err(self.illegal((no < self.len()).then_some(no), event)),
        }
    }

    fn expect_open(&self, event: &'static str) -> Result<(), Illegal> {
        if self.state.is_terminal() || self.cancelling || self.open == 0 {
            return Err(self.illegal(None, event));
        }
        Ok(())
    }

    pub(super) fn illegal(&self, no: Option<StepNo>, event: &'static str) -> Illegal {
        let state = match no {
            Some(no) => self.step_state(no).as_str(),
            None => self.state.as_str(),
        };
        Illegal { no, state, event }
    }

    /// How long a step may be late before `start_before` ends it, for tests and `why`.
    pub fn expires_at(&self, no: StepNo) -> Option<Timestamp> {
        match self.policy(no).start_before? {
            StartBefore::Within(time) => {
                Some(self.nodes[no as usize].ready_at.plus(time))
            }
            StartBefore::At(time) => Some(time),
        }
    }

    /// How long the attempt that runs now may take: soft and hard limit.
    pub fn limits(&self, no: StepNo) -> (Option<Duration>, Option<Duration>) {
        let policy = self.policy(no);
        (policy.soft, policy.hard)
    }
}
