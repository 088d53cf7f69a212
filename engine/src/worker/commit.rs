//! Committing: what runs decide is gathered by project, written in one transaction at a
//! time, and carried out once that is durable.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Then,
    bind::{Binder, Bound},
    owned::Owned,
    scheduler::Scheduler,
    settle::{Settled, settle},
};
use crate::{
    ProjectId, StepError,
    plan::StepNo,
    run::{Decisions, Event, Output},
    store::{MAX_OUTPUT, StoreError},
};

/// At most so many transitions may wait to be written; above, nothing starts.
const MOST_UNCOMMITTED: usize = 4_096;
/// At most so many bytes of outputs may wait to be written.
const MOST_UNCOMMITTED_BYTES: usize = 64 * 1024 * 1024;
/// So many bytes of outputs are written whatever else is going on.
const FULL_BYTES: usize = 1024 * 1024;
/// Outputs of the last tasks that come to more are no output of the project, unless it is
/// declared: each is there step by step, and nobody asked for a second copy.
const MOST_UNASKED: usize = 1024 * 1024;
/// After the database could not be asked.
const AGAIN: Duration = Duration::from_millis(300);

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
        let Some(owned) = self.projects.get_mut(&project) else { return };
        if owned.must_hold(&event) {
            owned.held_events.push(event);
            return self.withdraw_all(project);
        }
        self.apply_now(project, event, urgent);
    }

    pub(super) fn apply_now(&mut self, project: ProjectId, event: Event, urgent: bool) {
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
        let mut ahead = vec![];
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
                let body = fact.body.as_ref().map_or(0, |body| body.bytes().len());
                fact.output.as_ref().map_or(body, |output| body + output.get().len())
            };
            self.uncommitted_bytes += decisions.facts.iter().map(bytes).sum::<usize>();
            let before = owned.pending.size();
            crate::metrics::ended(&owned.run, &decisions.facts);
            ahead = owned.record(decisions, &self.config.kinds);
            // What goes ahead will call for a commit, and nobody asks for this one before.
            let urgent = urgent && (ahead.is_empty() || !owned.may_ride());
            self.uncommitted += owned.pending.size() - before;
            self.dirty.insert(project);
            self.urgent |= urgent;
            if !urgent {
                self.flush_soon();
            }
        }
        for no in ahead {
            self.make_ready(project, no);
        }
        self.arm(project);
        self.reconcile_offers(project);
        self.place(project);
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
                let plan = owned.run.plan();
                let declared = plan.outputs().is_some() || plan.value().is_some();
                let within = if declared { usize::MAX } else { MOST_UNASKED };
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

    /// Commits if there is anything that should not wait, or has waited long enough.
    pub(super) fn flush(&mut self) {
        let due = self.flush_at.is_some_and(|at| at <= Instant::now());
        if due && !self.committing {
            self.flush_at = None;
        }
        let full = self.uncommitted >= self.config.max_batch
            || self.uncommitted_bytes >= FULL_BYTES;
        if due || self.urgent || full {
            self.commit();
        }
    }

    /// Sends everything that was gathered on its way. One commit is in flight at a time,
    /// and the next one gathers meanwhile.
    fn commit(&mut self) {
        if self.committing || !self.is_dirty() {
            return;
        }
        let session = self.session;
        let mut parts = Vec::with_capacity(self.dirty.len());
        // One transition a commit: each is written by itself.
        let all = self.draining || self.config.max_batch == 1;
        for project in std::mem::take(&mut self.dirty) {
            let Some(owned) = self.projects.get_mut(&project) else { continue };
            if !all && owned.has_only_brief_starts() {
                self.dirty.insert(project);
                continue;
            }
            parts.push(owned.take_part(session, all));
            if !owned.pending.is_empty() {
                self.dirty.insert(project);
            }
        }
        // What is counted is what there is: a project may have been dropped since.
        let kept = self.dirty.iter().filter_map(|project| self.projects.get(project));
        let kept = kept.map(|owned| owned.pending.size()).sum::<usize>();
        let taken = std::mem::replace(&mut self.uncommitted, kept).saturating_sub(kept);
        let bytes = std::mem::take(&mut self.uncommitted_bytes);
        if parts.is_empty() && self.logs.is_empty() {
            // Results, or their lateness, will call again.
            self.flush_at = None;
            self.urgent = false;
            return;
        }
        self.in_flight = (taken, bytes);
        self.flush_at = None;
        self.urgent = false;
        let logs = std::mem::take(&mut self.logs);
        self.committing = true;
        let (store, inbox) = (self.config.store.clone(), self.inbox_sender.clone());
        self.tasks.spawn(async move {
            let result = settle(&store, parts, logs).await;
            let _ = inbox.send(super::Message::Committed { result });
        });
    }

    /// The commit is durable: carries out what was decided.
    pub(super) fn committed(
        &mut self,
        result: Result<Settled, StoreError>,
    ) -> Result<(), StoreError> {
        self.committing = false;
        let (transitions, _) = std::mem::take(&mut self.in_flight);
        let settled = result?;
        crate::metrics::committed(transitions);
        for (project, epoch) in settled.lost {
            if self.owns(project, epoch) {
                tracing::warn!(%project, "the project was taken over by another process");
                self.drop_project(project);
            }
        }
        for (project, epoch, error) in settled.refused {
            if self.owns(project, epoch) {
                tracing::error!(%project, %error, "the database refuses what was recorded");
                self.refused(project, epoch);
            }
        }
        for (project, mail) in settled.committed.mail {
            if let Some(owned) = self.projects.get_mut(&project) {
                owned.row.mail = mail;
            }
        }
        let mut withdrawn: HashMap<ProjectId, Vec<StepNo>> = HashMap::new();
        for (project, no) in settled.committed.withdrawn {
            withdrawn.entry(project).or_default().push(no);
        }
        let mut ready = vec![];
        let mut launch = vec![];
        let mut touched = vec![];
        for (id, epoch) in settled.written {
            let Some(owned) = self.projects.get_mut(&id) else { continue };
            let Some(carry) = owned.in_flight.take_if(|_| owned.row.epoch == epoch)
            else {
                continue;
            };
            owned.outputs.arrived();
            owned.written = carry.until;
            owned.row.last_event = carry.upto;
            owned.row.writes += 1;
            owned.freed = carry.finished.is_some()
                || (owned.freed || owned.run.state().is_terminal());
            owned.consumptions +=
                u64::from(!(carry.mail.is_empty() && carry.consumed.is_empty()));
            ready.extend(carry.ready.into_iter().map(|no| (id, no)));
            for no in carry.stop {
                if let Some(running) = owned.running.get(&no) {
                    running.stop();
                }
            }
            launch.extend(carry.launch.into_iter().map(|no| (id, no)));
            touched.push((id, carry.withdraw));
        }
        // What has gathered meanwhile is sent before anything else is done: the database must
        // not wait for what follows from this commit.
        self.flush();
        for (project, no) in ready {
            self.make_ready(project, no);
        }
        for (project, no) in launch {
            if let Some(input) = self.inputs.remove(&(project, no)) {
                self.launch(project, no, input);
            }
        }
        for (project, asked) in touched {
            let withdrawn = withdrawn.remove(&project).unwrap_or_default();
            self.withdrawn(project, &asked, &withdrawn);
            self.read_unread(project);
            self.release_if_ended(project);
        }
        self.commits.send_modify(|count| *count += 1);
        Ok(())
    }

    fn owns(&self, project: ProjectId, epoch: i64) -> bool {
        self.projects.get(&project).is_some_and(|owned| owned.row.epoch == epoch)
    }

    /// What was recorded cannot be stored. The memory of the project is ahead of the
    /// database, so it is dropped whole and the project paused: what ran is in doubt, and
    /// the same would be refused again.
    fn refused(&mut self, project: ProjectId, epoch: i64) {
        self.drop_project(project);
        self.park(project);
        let (store, session) = (self.config.store.clone(), self.session);
        let now = self.config.clock.now();
        self.tasks.spawn(async move {
            let park = || store.park(session, project, epoch, "store_refused", now);
            while let Err(error) = park().await {
                tracing::error!(%project, %error, "the project could not be paused");
                if !store.may_pass(&error) {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
    }
}

/// The output of a project: what it declares, else the outputs of its last tasks.
fn project_output(owned: &Owned) -> Result<Option<Output>, Bound<()>> {
    let plan = Arc::clone(owned.run.plan());
    let declared = plan.outputs().is_some() || plan.value().is_some();
    if !declared && owned.outputs_too_large {
        // Nobody asked for it: each output is still there step by step.
        return Ok(None);
    }
    let binder = Binder::new(&owned.run, &owned.outputs, &owned.around);
    let bound = match (plan.outputs(), plan.value()) {
        (Some(outputs), _) => binder.project(outputs),
        (None, Some(value)) => binder.value(value),
        (None, None) => match binder.leaves(plan.leaves(), MOST_UNASKED) {
            Some(bound) => bound,
            None => return Ok(None),
        },
    };
    match bound {
        Bound::Value(input) if input.with.get().len() > MAX_OUTPUT => {
            if !declared {
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
