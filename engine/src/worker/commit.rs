//! Committing: what runs decide is gathered by project, written in one transaction at a
//! time, and carried out once that is durable.

use std::{sync::Arc, time::Duration};

use super::{
    Then,
    bind::{Binder, Bound},
    owned::Owned,
    scheduler::Scheduler,
};
use crate::{
    ProjectId, StepError,
    run::{Decisions, Event, Output},
    store::{MAX_OUTPUT, StoreError, StoreErrorKind},
};

/// At most so many transitions may wait to be written; above, nothing starts.
const MOST_UNCOMMITTED: usize = 4_096;
/// At most so many bytes of outputs may wait to be written.
const MOST_UNCOMMITTED_BYTES: usize = 64 * 1024 * 1024;
/// A database that another program holds is tried again after this.
const RETRY_COMMIT: Duration = Duration::from_millis(500);
/// How often a refused commit is tried before the worker gives up.
const COMMIT_TRIES: u32 = 6;

impl Scheduler {
    /// Whether so little waits to be written that steps may start.
    pub(super) fn may_record(&self) -> bool {
        let most = match self.config.max_batch {
            // One transition a commit: nothing may begin while another is on its way.
            1 => 1,
            batch => MOST_UNCOMMITTED.min(batch.saturating_mul(8)),
        };
        self.uncommitted + self.in_flight.0 < most
            && self.uncommitted_bytes + self.in_flight.1 < MOST_UNCOMMITTED_BYTES
    }

    /// Applies an event and adds what it records to the next commit.
    pub(super) fn apply(&mut self, project: ProjectId, event: Event, urgent: bool) {
        let now = self.config.clock.now();
        let Some(owned) = self.projects.get_mut(&project) else { return };
        match owned.run.apply(event, now) {
            Ok(decisions) => self.record(project, decisions, urgent),
            // A result that comes too late: of a step that was cancelled meanwhile.
            Err(illegal) => {
                tracing::debug!(%project, %illegal, "an event came too late");
                self.arm(project);
            }
        }
    }

    /// Adds decisions to the next commit. Starts alone are not urgent: they ride with
    /// whatever comes, at the latest after a moment.
    pub(super) fn record(
        &mut self,
        project: ProjectId,
        mut decisions: Decisions,
        urgent: bool,
    ) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        let complete = decisions.complete;
        if decisions.is_empty() {
            // A timer writes nothing, but the inputs of the step may still be on their
            // way: it starts after the commit that holds them.
            let ready = std::mem::take(&mut decisions.ready);
            if !owned.pending.is_empty() {
                owned.pending.carry.ready.extend(ready);
            } else if let Some(carry) = &mut owned.in_flight {
                carry.ready.extend(ready);
            } else {
                for no in ready {
                    self.make_ready(project, no);
                }
            }
        } else {
            let bytes = |fact: &crate::run::Fact| {
                fact.output.as_ref().map_or(0, |output| output.get().len())
            };
            self.uncommitted_bytes += decisions.facts.iter().map(bytes).sum::<usize>();
            let before = owned.pending.size();
            owned.record(decisions);
            self.uncommitted += owned.pending.size() - before;
            self.dirty.insert(project);
            self.urgent |= urgent;
            if !urgent {
                self.flush_soon();
            }
        }
        self.arm(project);
        if complete {
            self.close(project);
        }
    }

    /// All steps of a project have ended: evaluates its outputs and closes it.
    pub(super) fn close(&mut self, project: ProjectId) {
        let Some(owned) = self.projects.get_mut(&project) else { return };
        if !owned.run.is_complete() || owned.closing {
            return;
        }
        let outputs = match owned.run.will_fail() {
            true => Ok(None),
            false => project_output(owned),
        };
        match outputs {
            Ok(output) => {
                owned.close(output, None);
                self.apply(project, Event::Closed { error: None }, true);
            }
            Err(Bound::Missing(steps)) => {
                // Without declared outputs nobody asked for more than can be kept.
                let declared = owned.run.plan().outputs().is_some();
                let within = if declared { usize::MAX } else { MAX_OUTPUT };
                self.fetch(project, steps, Then::Close, within);
            }
            Err(Bound::Failed(error)) => {
                owned.close(None, Some(error.to_string()));
                self.apply(project, Event::Closed { error: Some(error) }, true);
            }
            Err(Bound::Value(())) => {}
        }
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || !self.logs.is_empty()
    }

    pub(super) fn flush_starts(&mut self) {
        self.flush_at = None;
        self.commit();
    }

    /// Commits if there is anything that should not wait.
    pub(super) fn flush(&mut self) {
        if self.urgent || self.uncommitted >= self.config.max_batch {
            self.commit();
        }
    }

    /// Sends everything that was gathered on its way. One commit is in flight at a time,
    /// and the next one gathers meanwhile.
    fn commit(&mut self) {
        if self.committing || !self.is_dirty() {
            return;
        }
        let session = self.config.session;
        let mut parts = Vec::with_capacity(self.dirty.len());
        for project in std::mem::take(&mut self.dirty) {
            if let Some(owned) = self.projects.get_mut(&project) {
                parts.push(owned.take_part(session));
            }
        }
        self.in_flight = (
            std::mem::take(&mut self.uncommitted),
            std::mem::take(&mut self.uncommitted_bytes),
        );
        self.flush_at = None;
        self.urgent = false;
        self.committing = true;
        let logs = std::mem::take(&mut self.logs);
        let (store, inbox) = (self.config.store.clone(), self.inbox_sender.clone());
        let parts = Arc::new(parts);
        self.attempts.spawn(async move {
            let mut result = store.commit(Arc::clone(&parts), logs.clone()).await;
            for _ in 1..COMMIT_TRIES {
                // A refused commit wrote nothing, so the same bytes go again.
                if !result
                    .as_ref()
                    .is_err_and(|error| error.kind() == StoreErrorKind::Busy)
                {
                    break;
                }
                tokio::time::sleep(RETRY_COMMIT).await;
                result = store.commit(Arc::clone(&parts), logs.clone()).await;
            }
            let _ = inbox.send(super::Message::Committed { result });
        });
    }

    /// The commit is durable: carries out what was decided.
    pub(super) fn committed(
        &mut self,
        result: Result<Vec<ProjectId>, StoreError>,
    ) -> Result<(), StoreError> {
        self.committing = false;
        self.in_flight = (0, 0);
        for project in result? {
            tracing::warn!(%project, "the project was taken over by another process");
            self.forget(project);
        }
        let mut ready = vec![];
        let mut launch = vec![];
        let mut ended = vec![];
        for (id, owned) in &mut self.projects {
            let Some(carry) = owned.in_flight.take() else { continue };
            owned.row.last_event = carry.upto;
            ready.extend(carry.ready.into_iter().map(|no| (*id, no)));
            for no in carry.stop {
                if let Some(running) = owned.running.get(&no) {
                    running.stop.cancel();
                }
            }
            launch.extend(carry.launch.into_iter().map(|no| (*id, no)));
            if owned.run.state().is_terminal() || owned.steered {
                ended.push(*id);
            }
        }
        for (project, no) in ready {
            self.make_ready(project, no);
        }
        for (project, no) in launch {
            if let Some(input) = self.inputs.remove(&(project, no)) {
                self.launch(project, no, input);
            }
        }
        for project in ended {
            self.release_if_ended(project);
        }
        self.commits.send_modify(|count| *count += 1);
        Ok(())
    }
}

/// The output of a project: what it declares, else the outputs of its last tasks.
fn project_output(owned: &Owned) -> Result<Option<Output>, Bound<()>> {
    let plan = Arc::clone(owned.run.plan());
    if plan.outputs().is_none() && owned.outputs_too_large {
        // Nobody asked for it: each output is still there step by step.
        return Ok(None);
    }
    let binder = Binder::new(&owned.run, &owned.outputs, &owned.around);
    let bound = match plan.outputs() {
        Some(outputs) => binder.project(outputs),
        None => binder.leaves(plan.leaves()),
    };
    match bound {
        Bound::Value(input) if input.with.get().len() > MAX_OUTPUT => {
            if plan.outputs().is_none() {
                return Ok(None);
            }
            let message =
                format!("the outputs of the project exceed {MAX_OUTPUT} bytes");
            Err(Bound::Failed(StepError::fail("too_large", message)))
        }
        Bound::Value(input) => Ok(Some(input.with.into())),
        Bound::Missing(steps) => Err(Bound::Missing(steps)),
        Bound::Failed(error) => Err(Bound::Failed(error)),
    }
}
